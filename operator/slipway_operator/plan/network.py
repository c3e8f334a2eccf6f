"""Who may reach an engine's pods: the gateway, Prometheus, the operator, and the pods of the same deployment.

The kubelet's probes need no rule: network plugins always admit the pod's own node. Policies add up: who wants
to let further clients in writes a NetworkPolicy of their own beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway_api import names
from slipway_operator.kinds import Object


def network_policy(name: str, port: int, peers: Sequence[Mapping[str, Any]]) -> Object:
    """Return the spec of the policy of the deployment `name`.

    `peers` are NetworkPolicyPeers that the operator was installed with. The group's own pods reach each
    other on every port, everybody else the engine's HTTP port alone.
    """
    own = {"podSelector": {"matchLabels": names.selector_of(name)}}
    admitted: list[Object] = [{"from": [own]}]
    if peers:
        ports = [{"protocol": "TCP", "port": port}]
        admitted.append({"from": [dict(peer) for peer in peers], "ports": ports})
    return {
        "podSelector": {"matchLabels": names.selector_of(name)},
        "policyTypes": ["Ingress"],
        "ingress": admitted,
    }
