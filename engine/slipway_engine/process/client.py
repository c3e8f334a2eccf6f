"""The HTTP process's end of the core: starts it, sends requests, hands each output to who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from slipway_engine.config import EngineConfig
from slipway_engine.core.messages import (
    Abort,
    CoreStats,
    Failed,
    Message,
    NewRequest,
    Profile,
    Profiled,
    Ready,
    RequestOutput,
    Shutdown,
    Start,
    StepOutput,
    decode,
    encode,
)
from slipway_engine.process.framing import FrameBuffer, frame
from slipway_engine.process.watchdog import LEAST_ALLOWED_SECONDS, StepWatch

log = logging.getLogger(__name__)

_EXIT_SECONDS = 5.0
_TRACE_SECONDS = 60.0

Sink = Callable[[RequestOutput], None]


class CoreState(Enum):
    """Where the core stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the core works; if not, a stable reason and a sentence."""

    ok: bool
    reason: str = "Healthy"
    message: str = "The engine core answers."


@dataclass(frozen=True, slots=True)
class CoreCommand:
    """How to start a core process. `core` is `module:class`; None takes the engine's own."""

    core: str | None = None
    log_format: str = "auto"
    environment: Mapping[str, str] | None = None

    def argv(self, fd: int) -> list[str]:
        """Return the command line for a core that talks over this file descriptor."""
        # -u: the last words of a core that dies must reach the log.
        argv = [sys.executable, "-u", "-m", "slipway_engine.process.worker"]
        argv += ["--fd", str(fd), "--parent", str(os.getpid()), "--log-format", self.log_format]
        return argv + (["--core", self.core] if self.core else [])


class CoreClient:
    """One core process, seen from the event loop.

    `submit` takes a sink that is called, on the event loop, with each output of the request until each of its
    choices has a `finish_reason`, or one is "abort" or "error". When the core dies every outstanding sink
    gets an output with `finish_reason` "error".
    """

    def __init__(self, *, least_step_seconds: float = LEAST_ALLOWED_SECONDS) -> None:
        self.state = CoreState.LOADING
        self.stats = CoreStats()
        self.failure: Failed | None = None
        self._ready: Ready | None = None
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
        self._sinks: dict[str, _Outstanding] = {}
        self._watch = StepWatch(least_step_seconds)
        self._transport: asyncio.WriteTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._profile: asyncio.Future[Profiled] | None = None

    async def start(self, config: EngineConfig, command: CoreCommand | None = None) -> None:
        """Start the core process and tell it what to load; returns before it has."""
        command = command or CoreCommand()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *command.argv(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, **(command.environment or {})},
            )
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(lambda: _Link(self), sock=ours)
        self._send(Start(config))

    async def wait_ready(self) -> Ready:
        """Return what the core says of itself once the model is loaded. Raises CoreFailed."""
        await self._settled.wait()
        if self._ready is None or self.state is not CoreState.READY:
            raise CoreFailed(self.failure or Failed("Internal", "The engine core was closed while loading."))
        return self._ready

    async def wait_ended(self) -> None:
        """Return once the core process has gone, for whatever reason."""
        await self._ended.wait()

    @property
    def outstanding(self) -> int:
        """Requests submitted and neither finished nor aborted."""
        return len(self._sinks)

    @property
    def pid(self) -> int | None:
        """The core's process id, once it was started."""
        return self._process.pid if self._process else None

    def submit(self, request: NewRequest, sink: Sink) -> None:
        """Send a request. Raises CoreFailed where there is no core to run it."""
        if self.state is not CoreState.READY:
            raise CoreFailed(self.failure or Failed("NotReady", "The engine core is not ready."))
        self._sinks[request.request_id] = _Outstanding(sink, set(range(request.sampling.n)))
        self._watch.work_began(time.monotonic())
        self._send(request)

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop those of the requests that still run; their sinks are not called again."""
        running = tuple(name for name in request_ids if self._sinks.pop(name, None) is not None)
        if running and self.state is CoreState.READY:
            self._watch.work_began(time.monotonic())  # its answer is the gauges without these requests
            self._send(Abort(running))

    def stop_choice(self, request_id: str, index: int) -> None:
        """Stop one choice of a request, which is then over without another output; the others go on."""
        outstanding = self._sinks.get(request_id)
        if outstanding is None or index not in outstanding.open:
            return
        if outstanding.open == {index}:
            self.abort((request_id,))
            return
        outstanding.open.discard(index)
        if self.state is CoreState.READY:
            self._send(Abort((), ((request_id, index),)))

    async def profile(self, path: str, steps: int, seconds: float) -> Profiled:
        """Trace the next steps into a file, for so many seconds at most. Raises CoreFailed."""
        if self.state is not CoreState.READY:
            raise CoreFailed(self.failure or Failed("NotReady", "The engine core is not ready."))
        if self._profile is not None:
            return Profiled(path, 0, "Another trace is being taken; wait for its end.")
        self._profile = asyncio.get_running_loop().create_future()
        self._send(Profile(path, steps))
        try:
            done, _ = await asyncio.wait((self._profile,), timeout=seconds)
            if not done:
                self._send(Profile(path, 0))
            return await asyncio.wait_for(self._profile, _TRACE_SECONDS)
        except TimeoutError:
            return Profiled(path, 0, f"The engine core did not write the trace within {_TRACE_SECONDS:g} s.")
        finally:
            self._profile = None

    def health(self) -> Health:
        """Return whether the core lives and its steps end in time."""
        if self.failure is not None:
            return Health(False, self.failure.reason, self.failure.message)
        if self.state is CoreState.LOADING:
            return Health(True, "Loading", "The model is being loaded.")
        if (late := self._watch.overdue(time.monotonic())) is not None:
            return Health(
                False,
                "StepOverdue",
                f"The engine core's step has lasted {late:.1f} s; {self._watch.allowed:.1f} s are allowed.",
            )
        return Health(True)

    async def close(self) -> None:
        """End the core process: ask, wait a little, then kill."""
        loading = self.state is CoreState.LOADING
        if self.state in (CoreState.LOADING, CoreState.READY):
            self._send(Shutdown())
            self.state = CoreState.CLOSED
            self._settled.set()
        if self._process is None or self._transport is None:
            return
        # A core that still loads reads no messages.
        await _end(self._process, patience=0 if loading else _EXIT_SECONDS)
        self._transport.close()
        await self._ended.wait()

    def _send(self, message: Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(encode(message)))

    def _received(self, message: Message) -> None:
        match message:
            case StepOutput():
                self._stepped(message)
            case Ready():
                self._ready = message
                self.state = CoreState.READY
                self._settled.set()
            case Profiled():
                if self._profile is not None and not self._profile.done():
                    self._profile.set_result(message)
            case Failed():
                self._fail(message)
            case _:
                raise TypeError(f"{type(message).__name__} does not come from a core.")

    def _stepped(self, output: StepOutput) -> None:
        before, self.stats = self.stats.ranks, output.stats
        if before and not self.stats.ranks:
            self.stats = self.stats._replace(ranks=before)
        for each in output.outputs:
            outstanding = self._sinks.get(each.request_id)
            if outstanding is None or (each.index not in outstanding.open and each.error is None):
                continue
            if outstanding.ends_with(each):
                del self._sinks[each.request_id]
            outstanding.sink(each)
        self._watch.step_ended(time.monotonic(), more_work=bool(self._sinks))

    def _fail(self, failure: Failed) -> None:
        if self.failure is None and self.state is not CoreState.CLOSED:
            self.failure = failure
            self.state = CoreState.FAILED
        self._settled.set()
        if self._profile is not None and not self._profile.done():
            self._profile.set_result(Profiled("", 0, failure.message))
        sinks, self._sinks = self._sinks, {}
        for request_id, outstanding in sinks.items():
            outstanding.sink(RequestOutput(request_id, finish_reason="error", error=failure.message))

    def _lost(self) -> None:
        """The socket is closed: learn how the process ended and say so to everybody."""
        self._reaper = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        assert self._process is not None
        status = await _end(self._process, patience=_EXIT_SECONDS)
        if self.state is not CoreState.CLOSED and self.failure is None:
            log.error("The engine core has ended.", extra={"exit_status": status})
        self._fail(Failed("Internal", f"The engine core ended unexpectedly ({_how_it_ended(status)})."))
        self._ended.set()


@dataclass(frozen=True, slots=True)
class _Outstanding:
    """A request that runs: who hears of it, and which of its choices are not over."""

    sink: Sink
    open: set[int]

    def ends_with(self, output: RequestOutput) -> bool:
        """Take note of an output; say whether it is the request's last."""
        if output.finish_reason is not None:
            self.open.discard(output.index)
        return not self.open or output.finish_reason in ("abort", "error")


class CoreFailed(Exception):
    """The core cannot serve; `failure` says why."""

    def __init__(self, failure: Failed) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _Link(asyncio.Protocol):
    """Cuts the stream from the core into messages for its client."""

    def __init__(self, client: CoreClient) -> None:
        self._client = client
        self._frames = FrameBuffer()

    def data_received(self, data: bytes) -> None:
        for payload in self._frames.feed(data):
            self._client._received(decode(payload))

    def connection_lost(self, error: Exception | None) -> None:
        self._client._lost()


async def _end(process: asyncio.subprocess.Process, *, patience: float) -> int:
    """Give the process some time to end by itself, then kill it; return its exit status."""
    try:
        return await asyncio.wait_for(process.wait(), patience)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()


def _how_it_ended(status: int) -> str:
    if status == -9:
        return "killed by signal 9, often for want of memory: raise the memory limit or lower --max-num-seqs"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
