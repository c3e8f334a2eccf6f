"""The cluster's certificates: made once for each cluster, by the Go program `certs`."""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.local.network import Network


@dataclass(frozen=True)
class Certificate:
    """Who holds a certificate, and the names it serves where it is a server too."""

    file: str
    name: str
    groups: Sequence[str] = ()
    dns: Sequence[str] = ()
    ips: Sequence[str] = field(default=())


LOOPBACK = IPv4Address("127.0.0.1")
# Programs that talk to the API server with a kubeconfig: file, user, groups.
CLIENTS = (
    Certificate("admin", "slipway-admin", ("system:masters",)),
    Certificate("kube-controller-manager", "system:kube-controller-manager"),
    Certificate("kube-scheduler", "system:kube-scheduler"),
    Certificate("kube-proxy", "system:kube-proxy"),
)


def wanted(network: Network, node: str) -> list[Certificate]:
    """All certificates of a cluster."""
    api = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    api_ips = [str(address) for address in (network.node, network.api, LOOPBACK)]
    return [
        *CLIENTS,
        Certificate(
            "kubelet", f"system:node:{node}", ("system:nodes",), (node,), (str(network.node), "127.0.0.1")
        ),
        Certificate("kube-apiserver", "kube-apiserver", (), (*api, "localhost"), api_ips),
        Certificate("apiserver-kubelet", "kube-apiserver-kubelet-client", ("system:masters",)),
        Certificate("front-proxy", "front-proxy-client"),
        Certificate("etcd", "etcd", (), ("localhost",), ("127.0.0.1",)),
    ]


def ensure(folder: Path, certs: Path, network: Network, node: str) -> None:
    """Makes the certificates where they are not there; they appear all at once."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    listing = json.dumps([asdict(certificate) for certificate in wanted(network, node)])
    shell.run([certs, "-folder", partial], stdin=listing)
    partial.rename(folder)


def kubeconfig(folder: Path, client: str, server: str, context: str) -> str:
    """A kubeconfig that holds its certificates itself; JSON, which every YAML reader reads."""

    def content(name: str) -> str:
        return base64.b64encode((folder / name).read_bytes()).decode()

    identity = {
        "client-certificate-data": content(f"{client}.crt"),
        "client-key-data": content(f"{client}.key"),
    }
    place = {"server": server, "certificate-authority-data": content("ca.crt")}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": place}],
            "users": [{"name": client, "user": identity}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": client}}],
            "current-context": context,
        },
        indent=2,
    )
