"""How the operator was installed, as far as it shapes plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway_api.catalogue import CATALOGUE, Catalogue


@dataclass(frozen=True)
class Installation:
    """What the chart says for all objects.

    Attributes:
        engine_image: the engine's image of objects that name none, and of every Job that inspects or fetches.
        environment: variables of the containers that fetch models: a hub's mirror, proxies, authorities.
        peers: NetworkPolicyPeers admitted to every engine's HTTP port; None makes no NetworkPolicies.
        catalogue: the accelerators that there are, the cluster's own among them.
        classes: whether LLMClasses are read.
        everywhere: whether the operator serves, and sees, all namespaces.
    """

    engine_image: str
    environment: Mapping[str, str] = field(default_factory=dict)
    peers: tuple[Mapping[str, Any], ...] | None = ()
    catalogue: Catalogue = field(default_factory=lambda: CATALOGUE)
    classes: bool = True
    everywhere: bool = True
