"""Which pod of a group this is, by the environment that a LeaderWorkerSet gives to each of its pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipway_engine.errors import InvalidArgument

ADDRESS, SIZE, INDEX = "LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"
_MOST_PODS = 64


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's place among `size` pods; the first is the leader's, at `leader`."""

    leader: str = ""
    size: int = 1
    index: int = 0


def group_pod(environment: Mapping[str, str]) -> Pod:
    """Return this pod's place; alone where nothing says otherwise. Raises InvalidArgument."""
    if SIZE not in environment:
        return Pod()
    size, index = _number(environment, SIZE, 1, _MOST_PODS), _number(environment, INDEX, 0, _MOST_PODS - 1)
    leader = environment.get(ADDRESS, "")
    if index >= size or (size > 1 and not leader):
        raise InvalidArgument(
            f"{INDEX} is {index}, {SIZE} is {size} and {ADDRESS} is {leader!r}; a LeaderWorkerSet sets "
            "all three."
        )
    return Pod(leader, size, index)


def _number(environment: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = environment.get(name, "")
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise InvalidArgument(f"{name} is {text!r}; it must be a number from {low} to {high}.")
    return int(text)
