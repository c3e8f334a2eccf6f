"""Heartbeats of a group, on sockets and a thread of their own: who is silent, who is gone, who hangs.

A rank whose process is stopped or cut off falls silent; one that died closes its socket; one whose thread
hangs goes on beating, but neither its steps nor its calls of collectives grow. The last is told from those
that merely wait for it by who has come least far. Nothing here trusts the time-outs of collectives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway_engine.parallel.shard import Degrees
from slipway_engine.parallel.wire import Beat

BEAT_SECONDS = 1.0
SILENT_SECONDS = 12.0
"""A beat a second is expected; a machine that swaps or is overloaded may miss some."""

HUNG_SECONDS = 20.0
"""How long a step may go on without any rank getting any further."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a group ends: a stable reason, and a sentence."""

    reason: str
    message: str


@dataclass(slots=True)
class Watch:
    """What rank 0 knows of the others. All times are seconds of one monotonic clock."""

    degrees: Degrees
    names: Mapping[int, str]
    heard: dict[int, float] = field(default_factory=dict)
    beats: dict[int, Beat] = field(default_factory=dict)
    moved: float = 0.0

    def take(self, beat: Beat, now: float) -> None:
        """Note a heartbeat, rank 0's own among them."""
        before = self.beats.get(beat.rank)
        if before is None or _progress(before) != _progress(beat):
            self.moved = now
        self.heard[beat.rank] = now
        self.beats[beat.rank] = beat

    def judge(self, now: float) -> Verdict | None:
        """Return why the group must end, if it must."""
        silent = [rank for rank, at in self.heard.items() if now - at > SILENT_SECONDS]
        if silent:
            rank = min(silent)
            return Verdict(
                "RankSilent",
                f"Rank {rank} ({self.names[rank]}) has sent no heartbeat for {now - self.heard[rank]:.0f} s; "
                "its process is stopped, or the network to it is cut. The group ends, to be started again.",
            )
        own = self.beats.get(0)
        if own is None or not own.busy or now - self.moved <= HUNG_SECONDS:
            return None
        late = self.beats[self.last_in_line()]
        return Verdict(
            "RankHung",
            f"Rank {late.rank} ({self.names[late.rank]}) hangs: it has stood at step {late.steps} for "
            f"{now - self.moved:.0f} s, and the others wait for it. The group ends, to be started again.",
        )

    def last_in_line(self) -> int:
        """Return whom the others wait for: of the fewest steps, of the first stage, of the fewest calls."""

        def come(beat: Beat) -> tuple[int, int, int]:
            return beat.steps, beat.rank // self.degrees.tensor, beat.calls

        return min(self.beats.values(), key=come).rank


def gone(rank: int, name: str, how: str) -> Verdict:
    """Return what is said of a rank whose process or connection ended."""
    return Verdict("RankLost", f"Rank {rank} ({name}) is gone: {how}. The group ends, to be started again.")


def _progress(beat: Beat) -> tuple[int, int, bool]:
    return beat.steps, beat.calls, beat.busy
