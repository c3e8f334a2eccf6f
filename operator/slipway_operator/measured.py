"""What engines measured of their memory, asked of one serving pod a revision, beside the reconciles.

The figures stand in the engine's metrics. Asking may take seconds where a pod does not answer, so it happens
in a task of its own, a few times and then no more; an answer wakes the object up. Once it stands in the
status nobody asks again.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from pydantic import ValidationError

from slipway_api import names
from slipway_api.v1alpha1 import MemoryStatus
from slipway_operator.kinds import Key, Object
from slipway_operator.progress import answer_of
from slipway_operator.workqueue import WorkQueue

MAX_METRICS: Final = 1 << 19
MAX_BYTES: Final = 1 << 50
ATTEMPTS: Final = 3
RETRY_SECONDS: Final = 30.0
_PARTS: Final = ("limit", "usable", "process", "weights", "workspace", "kvCache")
_SAMPLE: Final = re.compile(
    r"^slipway:(memory_bytes|max_model_len|cache_config_info)\{([^}\n]{0,1024})\} ([0-9.e+]{1,24})$",
    re.MULTILINE,
)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')

Ask = Callable[[Object], Awaitable[MemoryStatus | None]]


async def ask(pod: Object) -> MemoryStatus | None:
    """Return what the engine of a pod measured; None where it does not say."""
    answer = await answer_of(pod, names.ENGINE_PORT, "/metrics", MAX_METRICS)
    return None if answer is None else read(answer.decode("utf-8", "replace"))


def read(text: str) -> MemoryStatus | None:
    """Return the memory ledger in an engine's metrics, where it is whole."""
    found: dict[str, int] = {}
    for name, labelled, number in _SAMPLE.findall(text):
        labels = dict(_LABEL.findall(labelled))
        if name == "memory_bytes" and labels.get("part") in _PARTS:
            found[labels["part"]] = _whole(number)
        elif name == "max_model_len":
            found["maxModelLen"] = _whole(number)
        elif name == "cache_config_info":
            found["maxTokens"] = _whole(labels.get("block_size", "")) * _whole(
                labels.get("num_gpu_blocks", "")
            )
    if not {*_PARTS} <= found.keys() or any(not 0 <= value <= MAX_BYTES for value in found.values()):
        return None
    try:
        return MemoryStatus.model_validate(found)
    except ValidationError:
        return None


def _whole(text: str) -> int:
    """Return a number of the text format as an integer, -1 where it is none."""
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return -1


class Measurements:
    """What is known, by object, of its present revision; and who is still to be asked."""

    def __init__(self, enqueue: Callable[[Key], None], ask: Ask = ask) -> None:
        self._enqueue, self._ask = enqueue, ask
        self._queue: WorkQueue[Key] = WorkQueue()
        self._wanted: dict[Key, tuple[str, Object]] = {}
        self._attempts: dict[Key, tuple[str, int]] = {}
        self._known: dict[Key, tuple[str, MemoryStatus]] = {}

    def of(self, key: Key, revision: str, pod: Object | None) -> MemoryStatus | None:
        """Return what a revision's engine measured; where that is unknown, `pod` is asked soon."""
        known = self._known.get(key)
        if known is not None and known[0] == revision:
            return known[1]
        tried = self._attempts.get(key, (revision, 0))
        if pod is not None and (tried[0] != revision or tried[1] < ATTEMPTS):
            first = key not in self._wanted
            self._wanted[key] = (revision, pod)
            if first:
                self._queue.add(key)
        return None

    def forget(self, key: Key) -> None:
        """An object is gone."""
        for known in (self._wanted, self._attempts, self._known):
            known.pop(key, None)

    def close(self) -> None:
        """Ask nobody more."""
        self._queue.close()

    async def run(self) -> None:
        """Ask until closed."""
        while (key := await self._queue.get()) is not None:
            try:
                await self._measure(key)
            finally:
                self._queue.done(key)

    async def _measure(self, key: Key) -> None:
        if key not in self._wanted:
            return
        revision, pod = self._wanted[key]
        told = await self._ask(pod)
        before = self._attempts.get(key, (revision, 0))
        count = 1 + (before[1] if before[0] == revision else 0)
        self._attempts[key] = (revision, count)
        if told is None and count < ATTEMPTS:
            self._queue.add_after(key, RETRY_SECONDS)
            return
        self._wanted.pop(key, None)
        if told is not None:
            self._known[key] = (revision, told)
            self._enqueue(key)
