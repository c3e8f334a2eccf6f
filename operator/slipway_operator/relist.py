"""The relist: complete lists that fill the store at the start and heal it every few minutes.

Watches lose things: a DELETED event that falls into a gap is never told again. A list says what is true.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from slipway_operator.errors import Missing, NotPermitted, Retryable, Terminal
from slipway_operator.intake import Intake
from slipway_operator.kinds import (
    LLM_CLASS,
    OWNED,
    OWNED_SELECTOR,
    PARENT,
    WATCHED,
    Kind,
    Object,
)

TICK_SECONDS: Final = 5.0
# What is deleted between the first lists and those with which the watches begin is told by nobody.
EARLY_SECONDS: Final = (5.0, 30.0)

logger = logging.getLogger(__name__)


class ListApi(Protocol):
    """The part of the API client that listing needs."""

    def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None
    ) -> Awaitable[tuple[list[Object], int]]:
        """Return all objects of a kind and the resource version at which the list is true."""


class Relister:
    """Lists every watched kind, once to fill the store, then again and again."""

    def __init__(
        self,
        api: ListApi,
        intake: Intake,
        scopes: Sequence[str | None],
        interval: float,
        kinds: Sequence[Kind] = WATCHED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._intake, self._scopes, self._interval = api, intake, scopes, interval
        self._clock = clock
        self._kinds = kinds
        self._listed: dict[Kind, float] = {}

    @property
    def filled(self) -> bool:
        """Return whether every kind was listed at least once."""
        return len(self._listed) == len(self._kinds)

    async def fill(self) -> None:
        """List every kind, with patience: the API server may not be up, the CRD not be installed yet."""
        others = [kind for kind in self._kinds if kind is not PARENT]
        for kind in (*others, PARENT):  # parents last: children are known when they are planned
            answered = await self.relist(kind)
            while not answered:
                await asyncio.sleep(TICK_SECONDS)
                answered = await self.relist(kind)

    async def keep(self) -> None:
        """List every kind when it is time, or when its watch owes something for too long."""
        began, early = self._clock(), list(EARLY_SECONDS)
        while True:
            await asyncio.sleep(TICK_SECONDS)
            soon = bool(early) and self._clock() - began >= early[0]
            if soon:
                early.pop(0)
            for kind in self._kinds:
                due = self._clock() - self._listed.get(kind, 0.0) >= self._interval
                if soon or due or self._intake.suspects(kind):
                    await self.relist(kind)

    async def relist(self, kind: Kind) -> bool:
        """List one kind everywhere; return whether the API server answered."""
        labels = OWNED_SELECTOR if kind in OWNED else None
        items: list[Object] = []
        versions: list[int] = []
        try:
            for scope in self._scopes if kind is not LLM_CLASS else (None,):
                page, version = await self._api.list(kind, scope, labels=labels)
                items += page
                versions.append(version)
        except Missing as error:
            logger.error("%s; install the CRD: kubectl apply -f crds/", error)
            return False
        except (Retryable, Terminal, NotPermitted) as error:
            logger.error("%s could not be listed: %s", kind.plural, error)
            self._intake.unanswered(kind)
            return False
        self._intake.heal(kind, items, min(versions))
        self._listed[kind] = self._clock()
        return True
