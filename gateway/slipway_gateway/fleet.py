"""What is remembered of each deployment's pods: how busy they are, how they did, what retries are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slipway_gateway.balance import Balancer
from slipway_gateway.metrics import Metrics
from slipway_gateway.objects import Endpoint, Key
from slipway_gateway.retry import RetryBudget
from slipway_gateway.world import World


@dataclass(slots=True)
class Pods:
    """What is remembered of one deployment's pods."""

    balancer: Balancer = field(default_factory=Balancer)
    budget: RetryBudget = field(default_factory=RetryBudget)


class Fleet:
    """The pods of all deployments that were asked for."""

    def __init__(self, world: World, metrics: Metrics) -> None:
        self._world = world
        self._metrics = metrics
        self._pods: dict[Key, Pods] = {}
        self._generation = world.generation

    def of(self, key: Key) -> Pods:
        """Return what is remembered of a deployment's pods."""
        if self._generation != self._world.generation:
            self._generation = self._world.generation
            self._forget_gone()
        return self._pods.setdefault(key, Pods())

    def load(self, key: Key, endpoints: Sequence[Endpoint]) -> int:
        """Return the number of requests on their way to these pods."""
        pods = self._pods.get(key)
        return 0 if pods is None else pods.balancer.load(endpoints)

    def balancers(self) -> list[tuple[Key, Balancer]]:
        """Return the balancers of all deployments that were asked for."""
        return [(key, pods.balancer) for key, pods in self._pods.items()]

    def _forget_gone(self) -> None:
        for key, pods in list(self._pods.items()):
            if self._world.deployments.get(key) is None and not pods.balancer.outstanding():
                del self._pods[key]
                self._metrics.forget(key)
