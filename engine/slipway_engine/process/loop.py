"""The core loop: take in what has arrived, do one step, send what it brought; wait only when idle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from slipway_engine.core.messages import (
    Abort,
    CoreStats,
    Message,
    NewRequest,
    Profile,
    Ready,
    RequestOutput,
    Shutdown,
    StepOutput,
)
from slipway_engine.errors import RequestError
from slipway_engine.process.channel import Channel
from slipway_engine.process.profiler import StepProfiler


class Core(Protocol):
    """What the loop needs of an engine core."""

    ready: Ready

    def add_request(self, request: NewRequest) -> None:
        """Take the request into the waiting queue. Raises RequestError."""

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop these requests and free what they hold; unknown ids are ignored."""

    def stop_choices(self, choices: Sequence[tuple[str, int]]) -> None:
        """Stop single choices of requests, without an output; unknown ones are ignored."""

    def has_work(self) -> bool:
        """Return whether a step would do anything."""

    def step(self) -> StepOutput:
        """Advance every scheduled request."""

    def stats(self) -> CoreStats:
        """Return gauges and counters as they are now."""

    def check_idle(self) -> None:
        """Raise where an idle core still holds something."""


def run(core: Core, channel: Channel) -> None:
    """Serve until told to shut down. Raises PeerGone when the other end goes away."""
    channel.send(core.ready)
    reported: CoreStats | None = None
    profiler = StepProfiler()
    while True:
        if not core.has_work():
            core.check_idle()
            # An abort changes the gauges without a step; the other end must see them fall to zero.
            if (stats := core.stats()) != reported:
                reported = stats
                channel.send(StepOutput((), stats))
        messages = channel.poll() if core.has_work() else channel.wait()
        if Shutdown() in messages:
            return
        for message in messages:
            if isinstance(message, Profile) and (profiled := profiler.take(message)) is not None:
                channel.send(profiled)
        if refused := _take_in(core, messages):
            channel.send(StepOutput(tuple(refused), core.stats()))
        if any(isinstance(message, Abort) for message in messages):
            reported = None  # an abort is answered by a report, even where it changed nothing
        if core.has_work():
            output = core.step()
            reported = output.stats
            channel.send(output)
            if (profiled := profiler.stepped()) is not None:
                channel.send(profiled)


def _take_in(core: Core, messages: Sequence[Message]) -> list[RequestOutput]:
    """Hand the messages to the core; return an output for each request that it refused."""
    refused = []
    for message in messages:
        match message:
            case NewRequest():
                try:
                    core.add_request(message)
                except RequestError as error:
                    refused.append(_refusal(message.request_id, error))
            case Abort(request_ids, choices):
                core.abort(request_ids)
                core.stop_choices(choices)
            case Profile():
                pass  # the loop's own
            case _:
                raise TypeError(f"{type(message).__name__} is no message for a running core.")
    return refused


def _refusal(request_id: str, error: RequestError) -> RequestOutput:
    return RequestOutput(
        request_id,
        finish_reason="error",
        error=str(error),
        error_param=error.param,
        error_code=error.code,
        error_status=error.status,
        retry_after=error.retry_after,
    )
