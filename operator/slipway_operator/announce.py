"""Kubernetes events: one where a status says something that a person has to act on, no second for the same.

The conditions say what is; an event is for who watches a namespace. So an object that comes into being and
serves makes none. What comes back within `SILENCE_SECONDS` of its last event is not told again: a pod that
crashes in a loop is one event an hour, not one a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

from slipway_api.conditions import Condition, Reason
from slipway_operator.errors import Denied, NotPermitted, Retryable, Terminal
from slipway_operator.kinds import Key, Object, key_of
from slipway_operator.pace import PASSING

SILENCE_SECONDS: Final = 3600.0

logger = logging.getLogger(__name__)


class EventApi(Protocol):
    """The part of the API client that events need."""

    def create_event(self, about: Object, reason: str, message: str, *, warning: bool) -> Awaitable[None]:
        """Write a Kubernetes event about an object."""


class Announcer:
    """When each object's reasons were last announced."""

    def __init__(self, api: EventApi) -> None:
        self._api = api
        self._told: dict[Key, dict[str, float]] = {}

    async def announce(self, parent: Object, status: Mapping[str, Any], now: float) -> None:
        """Write an event where `status`, which was just written, has news beside that of `parent`."""
        key, found = key_of(parent), news(parent.get("status") or {}, status)
        if found is None:
            return
        reason, message = found
        told = self._told.setdefault(key, {})
        if now - told.get(reason, -SILENCE_SECONDS) < SILENCE_SECONDS:
            return
        try:
            await self._api.create_event(parent, reason, message, warning=True)
        except (Retryable, Terminal, Denied, NotPermitted) as error:
            logger.info("an event was not written: %s", error, extra={"object": key})
            return
        told[reason] = now

    def forget(self, key: Key) -> None:
        """An object is gone."""
        self._told.pop(key, None)


def news(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the reason and the sentence of what keeps an object from being ready, where that is news.

    A name that an older object holds is told too: it keeps users from asking for it, if not the object from
    being ready.
    """
    accepted = _of(after, Condition.ACCEPTED)
    if accepted.get("reason") == Reason.NAME_TAKEN != _of(before, Condition.ACCEPTED).get("reason"):
        return str(Reason.NAME_TAKEN), str(accepted.get("message"))
    old, new = _of(before, Condition.READY), _of(after, Condition.READY)
    reason = new.get("reason")
    waits = reason in PASSING or reason == Reason.INSPECTING
    if new.get("status") != "False" or waits or (old.get("status"), old.get("reason")) == ("False", reason):
        return None
    return str(reason), str(new.get("message"))


def _of(status: Mapping[str, Any], kind: Condition) -> Mapping[str, Any]:
    conditions = status.get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), {})
