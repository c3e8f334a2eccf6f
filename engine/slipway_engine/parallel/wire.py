"""The records of the control channel: MessagePack of a name and plain values, checked when they are read.

Steps themselves are no records (`parallel.steps`): they come behind the byte STEP. Nothing is ever pickled.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, fields
from typing import Any, Final, TypeAlias, get_type_hints

from slipway_engine.process.framing import frame

PROTOCOL: Final = 1
STEP: Final = b"S"
BEAT: Final = struct.Struct("<IQQB")
"""A heartbeat: rank, steps done, calls of collectives, whether a step is going on."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A rank introduces itself, once on the channel for steps and once on that for heartbeats.

    `version` names the engine's and torch's releases, `checksum` the model's files. `limit` and `available`
    are bytes of the rank's device, told with the second. `secret` is the group's, where it has one.
    """

    protocol: int
    version: str
    rank: int
    ranks: int
    degrees: str
    checksum: str
    limit: int
    available: int
    beats: bool
    secret: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The rank is taken; `start` is the leader's configuration (`core.messages.Start`, encoded)."""

    start: bytes
    tensor: int
    pipeline: int
    expert: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The rank is not taken, or the group ends, for a reason."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided for all ranks; `port` is that of the store where they find each other."""

    max_model_len: int
    num_blocks: int
    seats: int
    port: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rank has its weights, which took so many bytes."""

    weights: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The rank cannot go on."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Told:
    """What the rank has done so far (`parallel.counts`, packed)."""

    counts: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """The group ends in peace."""


@dataclass(frozen=True, slots=True)
class Beat:
    """How far a rank has come; `busy` while it computes or waits for others within a step."""

    rank: int
    steps: int
    calls: int
    busy: bool

    def packed(self) -> bytes:
        """Return the record's bytes, always as many."""
        return BEAT.pack(self.rank, self.steps, self.calls, self.busy)

    @classmethod
    def unpacked(cls, data: bytes) -> Beat:
        """Return the record in `data`."""
        rank, steps, calls, busy = BEAT.unpack(data)
        return cls(rank, steps, calls, bool(busy))


Record: TypeAlias = Hello | Welcome | Refused | Plan | Loaded | Failed | Told | Leave
_RECORDS: Final = {one.__name__: one for one in (Hello, Welcome, Refused, Plan, Loaded, Failed, Told, Leave)}
_TYPES: Final = {one: list(get_type_hints(one).values()) for one in _RECORDS.values()}


class WireError(Exception):
    """These bytes are none of our records."""


def write(record: Record) -> bytes:
    """Return the record's frame."""
    import msgpack

    packed: bytes = msgpack.packb((type(record).__name__, astuple(record)), use_bin_type=True)
    return frame(packed)


def read(payload: bytes) -> Record:
    """Return the record in a frame's payload. Raises WireError."""
    import msgpack

    try:
        name, values = msgpack.unpackb(payload, raw=False, use_list=False)
        kind: type[Any] = _RECORDS[name]
        if len(values) != len(fields(kind)) or any(
            type(value) is not wanted for value, wanted in zip(values, _TYPES[kind], strict=True)
        ):
            raise ValueError(f"{name} has other fields")
        record: Record = kind(*values)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise WireError(f"{len(payload)} bytes are no record of a group: {error}") from error
    return record
