"""The node's network: a cable from the host into the node's namespace, and nothing else.

The host gets one interface, one address and two routes (services and pods),
which all go with the interface. Its firewall and its sysctls stay as they are,
and the node has no way past the host: it can leak nothing and reach nothing.
"""

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError

INSIDE = "eth0"


@dataclass(frozen=True)
class Network:
    """The ranges of one cluster."""

    link: IPv4Network
    services: IPv4Network
    pods: IPv4Network

    @property
    def host(self) -> IPv4Address:
        """The host's end of the cable."""
        return self.link[1]

    @property
    def node(self) -> IPv4Address:
        """The node's end, where the API server listens."""
        return self.link[2]

    @property
    def api(self) -> IPv4Address:
        """The address of the service `kubernetes`."""
        return self.services[1]

    @property
    def dns(self) -> IPv4Address:
        """The address of the cluster's DNS."""
        return self.services[10]

    def addresses(self) -> dict[str, str]:
        """What a user may want to know."""
        named = {"host": self.host, "node": self.node, "dns": self.dns}
        return {
            name: str(value)
            for name, value in (named | {"services": self.services, "pods": self.pods}).items()
        }

    def ranges(self) -> tuple[IPv4Network, ...]:
        """Everything that must be free on the host."""
        return (self.link, self.services, self.pods)


# The first of each are the ranges that everybody knows; then those around them, then another private block.
LINKS = [*(f"10.45.{n}.0/30" for n in range(64)), *(f"172.28.{n}.0/30" for n in range(64))]
SERVICES = [*(f"10.{n}.0.0/16" for n in range(96, 128)), *(f"172.{n}.0.0/16" for n in (30, 31))]
PODS = [*(f"10.{n}.0.0/24" for n in range(244, 200, -1)), *(f"172.29.{n}.0/24" for n in range(64))]


def _first(names: Iterable[str], used: Sequence[IPv4Network]) -> IPv4Network:
    for network in map(IPv4Network, names):
        if not any(network.overlaps(other) for other in used):
            return network
    raise ClusterError(
        "The machine has routes over every range the cluster could use (in 10.0.0.0/8 and 172.28.0.0/14); "
        "name a cluster that runs with SLIPWAY_E2E_CONTEXT instead."
    )


def choose(taken: Sequence[IPv4Network]) -> Network:
    """The first ranges that meet none of those the host has routes for."""
    return Network(link=_first(LINKS, taken), services=_first(SERVICES, taken), pods=_first(PODS, taken))


def routes_of(listing: str) -> list[IPv4Network]:
    """The destinations in the output of `ip -j route`.

    The default route meets everything, and so says nothing.
    """
    rows: list[dict[str, Any]] = json.loads(listing or "[]")
    named = [str(row["dst"]) for row in rows if row.get("dst", "default") != "default"]
    return [ipaddress.IPv4Network(name, strict=False) for name in named]


def taken() -> list[IPv4Network]:
    """The ranges the host has routes for."""
    return routes_of(shell.run(["ip", "-4", "-j", "route", "show", "table", "main"]))


def exists(interface: str) -> bool:
    """Whether the host has this interface."""
    return shell.attempt(["ip", "link", "show", "dev", interface]).returncode == 0


def connect(interface: str, network: Network, holder: int) -> None:
    """Lays the cable; an old one of that name is taken out first, as it may be half laid."""
    disconnect(interface)
    shell.run(["ip", "link", "add", interface, "type", "veth", "peer", "name", INSIDE, "netns", str(holder)])
    inside = ["nsenter", f"--net=/proc/{holder}/ns/net", "ip"]
    length = network.link.prefixlen
    node = str(network.node)
    for command in (
        [*inside, "link", "set", "lo", "up"],
        [*inside, "address", "add", f"{node}/{length}", "dev", INSIDE],
        [*inside, "link", "set", INSIDE, "up"],
        # The node's own programs need some route to a service's address before it is translated.
        [*inside, "route", "add", str(network.services), "dev", INSIDE, "src", node],
        ["ip", "address", "add", f"{network.host}/{length}", "dev", interface],
        ["ip", "link", "set", interface, "up"],
        ["ip", "route", "add", str(network.services), "via", node, "dev", interface],
        ["ip", "route", "add", str(network.pods), "via", node, "dev", interface],
    ):
        shell.run(command)


def connected(interface: str, network: Network) -> bool:
    """Whether the cable is laid to its last route, which is added last."""
    done = shell.attempt(["ip", "-4", "-j", "route", "show", "dev", interface])
    return done.returncode == 0 and network.pods in routes_of(done.stdout)


def disconnect(interface: str) -> None:
    """Takes the cable out, with its address and routes, if it is there."""
    if exists(interface):
        shell.attempt(["ip", "link", "delete", "dev", interface])
