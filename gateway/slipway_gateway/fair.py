"""Who is next when requests wait: the tenant that was served least, and its oldest request. Pure.

Each tenant has a virtual counter of the tokens it was served, those of answers counted double for they cost
more. The tenant with the smallest counter is next, so a flood waits behind itself. Whoever comes back after
a pause starts where the others are: idling saves nothing up (Sheng et al., "Fairness in Serving Large
Language Models", 2024). What an answer will cost is not known when a request is let go, so an estimate is
charged and settled when the request ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

ANSWER_WEIGHT: Final = 2.0
"""Of a token of an answer, against one of a prompt."""

MAX_TENANTS: Final = 4096
"""Counters that are kept; those of tenants that wait for nothing go first."""

T = TypeVar("T")


def work(prompt_tokens: float, answer_tokens: float) -> float:
    """Return what a request costs, in tokens of prompts."""
    return prompt_tokens + ANSWER_WEIGHT * answer_tokens


class FairQueue(Generic[T]):
    """What waits, by tenant, and what each tenant was served."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._served: dict[str, float] = {}
        self._level = 0.0
        """The counter of the tenant that was let go last."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for items in self._waiting.values():
            yield from items

    def push(self, tenant: str, item: T) -> None:
        """Let `item` wait behind its tenant's others."""
        if tenant not in self._waiting:
            least = min((self.served(other) for other in self._waiting), default=self._level)
            self._served[tenant] = max(self.served(tenant), least)
            self._waiting[tenant] = deque()
            self._forget()
        self._waiting[tenant].append(item)
        self._count += 1

    def pop(self, may: Callable[[str], bool] = lambda _: True) -> T | None:
        """Return the next item among the tenants that `may` be served now."""
        candidates = [tenant for tenant in self._waiting if may(tenant)]
        if not candidates:
            return None
        tenant = min(candidates, key=self.served)
        self._level = self.served(tenant)
        return self._take(tenant, self._waiting[tenant].popleft())

    def remove(self, tenant: str, item: T) -> None:
        """Take out an item that waits no more."""
        self._waiting[tenant].remove(item)
        self._take(tenant, item)

    def longest(self) -> tuple[str, int]:
        """Return the tenant that waits with most, and with how many."""
        tenant = max(self._waiting, key=lambda t: len(self._waiting[t]))
        return tenant, len(self._waiting[tenant])

    def waiting(self, tenant: str) -> int:
        """Return with how many a tenant waits."""
        return len(self._waiting.get(tenant, ()))

    def newest(self, tenant: str) -> T:
        """Return a tenant's item that would be next last."""
        return self._waiting[tenant][-1]

    def charge(self, tenant: str, amount: float) -> None:
        """Count work done for a tenant, in tokens of prompts; negative where an estimate was too high."""
        self._served[tenant] = max(0.0, self.served(tenant) + amount)
        self._forget()

    def served(self, tenant: str) -> float:
        """Return a tenant's counter."""
        return self._served.get(tenant, self._level)

    def _take(self, tenant: str, item: T) -> T:
        self._count -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
        return item

    def _forget(self) -> None:
        if len(self._served) > MAX_TENANTS:
            self._served = {t: v for t, v in self._served.items() if t in self._waiting}
