"""A request that is answered by beam search: beams fork and end as the search says, sharing their blocks."""

from __future__ import annotations

from slipway_engine.core.beam import BeamSearch, Candidates
from slipway_engine.core.group import Births, Group
from slipway_engine.core.messages import NewRequest, RequestOutput
from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduler


class Beams(Group):
    """The beams of one request.

    The search advances when every beam has its candidates. A beam that has its own earlier than the others
    is parked: it computes nothing, and gives its blocks to whoever needs them.
    """

    def __init__(self, asked: NewRequest, leader: Request, scheduler: Scheduler, births: Births) -> None:
        super().__init__(asked, leader, scheduler, births)
        self.unborn.clear()
        self._search = BeamSearch(leader)
        self._found: dict[Request, Candidates] = {}
        self._first_token: float | None = None

    def stop(self, index: int) -> None:
        """Nothing was sent yet, so no single choice can be known to be enough."""

    def take(self, beam: Request, found: Candidates, now: float) -> list[RequestOutput]:
        """Note a beam's candidates; with the last beam's the search advances."""
        self._first_token = self._first_token or now
        self._found[beam] = found
        self.scheduler.park(beam)
        return self._advance() if len(self._found) == len(self.live) else []

    def _advance(self) -> list[RequestOutput]:
        beams, start = self.live, self.leader.prompt_length
        steps = self._search.step(
            [self._found[beam] for beam in beams], [beam.tokens[start:] for beam in beams]
        )
        self._found.clear()
        if not steps:
            outputs = self._best()
            self.release()
            return outputs
        kept = {step.parent for step in steps}
        for place, beam in enumerate(beams):
            if place in kept:
                self.scheduler.resume(beam)
            else:
                self.scheduler.remove(beam)
        self.live = []
        for step in steps:
            self.live.append(self._child(beams[step.parent], first=step.parent in kept))
            kept.discard(step.parent)
        for beam, step in zip(self.live, steps, strict=True):
            beam.append(step.token)
        return []

    def _child(self, parent: Request, *, first: bool) -> Request:
        """Return the parent itself, or a fork of it where the parent already goes on with another token."""
        if first:
            return parent
        child = self.births.twin(parent, parent.index)
        self.scheduler.fork(parent, child)
        return child

    def _best(self) -> list[RequestOutput]:
        figures = self.timed(self._first_token)
        stops = self.leader.stop_ids
        named = self.asked.sampling.stop_token_ids
        return [
            RequestOutput(
                self.asked.request_id,
                found.tokens,
                finish_reason="stop" if found.tokens[-1] in stops else "length",
                stop_reason=found.tokens[-1] if found.tokens[-1] in named else None,
                index=index,
                **(figures if index == 0 else {}),  # type: ignore[arg-type]
            )
            for index, found in enumerate(self._search.ended[: self.asked.sampling.n])
        ]
