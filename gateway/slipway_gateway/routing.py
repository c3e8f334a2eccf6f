"""From objects to names: which LLMDeployment a model name means, for a caller who sees some namespaces. Pure.

`namespace/name` always means that object, and `namespace/name:adapter` one of its LoRA adapters. Any other
name (a served name, an adapter's) belongs to its oldest claim (creationTimestamp, then UID) among the
namespaces the caller sees, so a later object never takes over somebody's traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from slipway_api import claims
from slipway_gateway.objects import Deployment, Endpoint, Key, Slice


@dataclass(frozen=True, slots=True)
class Sight:
    """The namespaces a caller sees."""

    namespaces: frozenset[str] | None
    """None: all of them."""

    def sees(self, namespace: str) -> bool:
        """Return whether objects of `namespace` exist for this caller."""
        return self.namespaces is None or namespace in self.namespaces


EVERYTHING = Sight(None)


@dataclass(frozen=True, slots=True)
class Routes:
    """All deployments, and for each served name those that claim it, oldest first."""

    deployments: Mapping[Key, Deployment] = field(default_factory=dict)
    claims: Mapping[str, tuple[Deployment, ...]] = field(default_factory=dict)
    by_age: tuple[Deployment, ...] = ()

    def resolve(self, model: str, sight: Sight) -> Deployment | None:
        """Return the deployment that `model` means to this caller."""
        namespace, slash, name = model.partition("/")
        if slash and sight.sees(namespace):
            exact = self.deployments.get(Key(namespace, name))
            if exact is not None:
                return exact
            base, _, adapter = name.partition(":")
            owner = self.deployments.get(Key(namespace, base))
            if owner is not None and adapter in owner.adapters:
                return owner
        return self._oldest(model, sight)

    def _oldest(self, name: str, sight: Sight) -> Deployment | None:
        claims = self.claims.get(name, ())
        return next((d for d in claims if sight.sees(d.key.namespace)), None)

    def names(self, sight: Sight) -> Iterator[tuple[str, Deployment]]:
        """Yield every name worth asking for: those that an object holds, or else its `namespace/name`."""
        for deployment in self.by_age:
            if not sight.sees(deployment.key.namespace):
                continue
            held = [n for n in deployment.served_names if self.resolve(n, sight) is deployment]
            for name in held or [str(deployment.key)]:
                yield name, deployment
            for name in deployment.adapters:
                mine = self.resolve(name, sight) is deployment
                yield name if mine else f"{deployment.key}:{name}", deployment

    def taken(self) -> Iterator[tuple[Deployment, str, Deployment]]:
        """Yield each claim that an older one precedes: the deployment, the name, and who holds it.

        Seen by somebody who sees every namespace; a tenant that does not see the holder's gets the name.
        """
        for name, (holder, *later) in self.claims.items():
            yield from ((deployment, name, holder) for deployment in later)


def build(deployments: Iterable[Deployment]) -> Routes:
    """Return the routes of these deployments."""
    by_age = tuple(sorted(deployments, key=lambda d: d.age_order))
    return Routes({d.key: d for d in by_age}, claims.by_name(by_age), by_age)


def upstream_model(deployment: Deployment, asked: str) -> str:
    """Return the name under which the engine of `deployment` serves what was asked for."""
    if asked in deployment.names:
        return asked
    adapter = asked.removeprefix(f"{deployment.key}:")
    return adapter if adapter in deployment.adapters else deployment.served_names[0]


def endpoints_of(slices: Iterable[Slice]) -> tuple[Endpoint, ...]:
    """Return the ready pods of one Service, each once, whatever slices and address families it stands in."""
    pods: dict[str, Endpoint] = {}
    for piece in sorted(slices, key=lambda s: s.key):
        for endpoint in piece.endpoints:
            known = pods.get(endpoint.uid)
            if known is None or ("[" in known.origin and "[" not in endpoint.origin):
                pods[endpoint.uid] = endpoint
    return tuple(sorted(pods.values()))
