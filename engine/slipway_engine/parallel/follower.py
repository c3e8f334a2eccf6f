"""What a rank does beside computing: it joins the leader, beats, listens for the end, and takes steps in."""

from __future__ import annotations

import logging
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from slipway_engine.core import last_words
from slipway_engine.core.device import set_threads
from slipway_engine.core.machine import Machine
from slipway_engine.core.messages import Start, decode
from slipway_engine.errors import EngineError, GroupBroken
from slipway_engine.parallel import wire
from slipway_engine.parallel.build import Blueprint, device_of, memory_of
from slipway_engine.parallel.pulse import BEAT_SECONDS, SILENT_SECONDS
from slipway_engine.parallel.report import Report
from slipway_engine.parallel.shard import Degrees
from slipway_engine.parallel.stage import Stage
from slipway_engine.parallel.steps import BadStep, StepReader
from slipway_engine.parallel.terms import introduction
from slipway_engine.parallel.traffic import disconnect
from slipway_engine.process.framing import FrameBuffer, frame

log = logging.getLogger(__name__)

T = TypeVar("T", bound=wire.Record)

_RETRY_SECONDS = 0.5
_CONNECT_SECONDS = 5.0


class Follower:
    """One rank that another one leads."""

    def __init__(self, rank: int, degrees: Degrees, model: Path, local: int, report: Report) -> None:
        self._rank = rank
        self._degrees = degrees
        self._model = model
        self._local = local
        self._report = report
        self._state = "joining"
        self._stage: Stage | None = None
        self._told = -1
        self._busy = False
        self._leaving = False

    def join(self, host: str, port: int, seconds: float, secret: str) -> None:
        """Find the leader, however late it starts, and be taken. Raises GroupBroken."""
        hello = introduction(self._model, self._degrees, self._rank, (0, 0), secret)
        deadline = time.monotonic() + seconds
        self._host = host
        self._frames = FrameBuffer()
        self._inbox: list[bytes] = []
        self._steps = _connect(host, port, deadline, seconds)
        self._steps.sendall(wire.write(hello))
        welcome = self._expect(wire.Welcome)
        start = decode(welcome.start)
        assert isinstance(start, Start)
        self._config = replace(start.config, model=self._model)
        memory = memory_of(device_of(self._config, self._rank), Machine(), self._local)
        hello = replace(hello, beats=True, limit=memory.limit, available=memory.available)
        self._beats = _connect(host, port, deadline, seconds)
        self._beats.sendall(wire.write(hello))
        self._state = "loading"
        threading.Thread(target=self._keep, name="rank-pulse", daemon=True).start()

    def load(self) -> None:
        """Wait for the leader's plan, and read the shard. Raises EngineError."""
        blueprint = Blueprint.of(self._config, self._degrees, self._rank)
        set_threads(blueprint.threads(self._config, self._local), Machine())
        plan = self._expect(wire.Plan)
        self._reader = StepReader(len(blueprint.layout.groups.windows), plan.seats, plan.num_blocks)
        links = blueprint.connect(self._host, plan.port)
        self._stage = blueprint.load(links, plan.max_model_len, plan.num_blocks, self._config.block_size)
        self._steps.sendall(wire.write(wire.Loaded(0)))
        self._state = "ready"

    def run(self) -> None:
        """Compute steps until the leader lets the rank leave."""
        assert self._stage is not None
        while True:
            payload = self._next()
            if payload[:1] != wire.STEP:
                if isinstance(wire.read(payload), wire.Leave):
                    self._leaving = True
                    self._stage.links.settle()
                    disconnect()
                    return
                raise GroupBroken("ProtocolError", "The leader sent something else than a step.")
            self._busy = True
            try:
                logits = self._stage.compute(self._reader.read(payload[1:]))
                if logits is not None:
                    self._stage.links.send_logits(logits)
            except BadStep as error:
                raise GroupBroken(
                    "ProtocolError", f"The leader sent a step that is none: {error}."
                ) from error
            except RuntimeError as error:
                # torch.distributed raises it where a peer is lost. Who is to blame the pulse will learn.
                time.sleep(SILENT_SECONDS + 2)
                raise GroupBroken("CollectiveFailed", f"A peer was lost within a step: {error}") from error
            self._busy = False

    def confess(self, error: EngineError) -> None:
        """Tell the leader why this rank ends."""
        if hasattr(self, "_steps"):
            try:
                self._steps.sendall(wire.write(wire.Failed(error.reason, str(error))))
            except OSError:
                log.debug("The leader is not there to hear it.")

    def _expect(self, kind: type[T]) -> T:
        record = wire.read(self._next())
        if isinstance(record, wire.Refused):
            raise GroupBroken(record.reason, record.message)
        if not isinstance(record, kind):
            raise GroupBroken(
                "ProtocolError", f"The leader sent {type(record).__name__} in place of {kind.__name__}."
            )
        return record

    def _next(self) -> bytes:
        while not self._inbox:
            try:
                data = self._steps.recv(1 << 20)
            except OSError as error:
                raise _leader_gone(str(error)) from error
            if not data:
                raise _leader_gone("its connection was closed")
            self._inbox += self._frames.feed(data)
        return self._inbox.pop(0)

    def _keep(self) -> None:
        """Beat and listen until the process ends."""
        self._beats.settimeout(BEAT_SECONDS)
        frames = FrameBuffer(1 << 20)
        heard: float | None = None  # the leader beats once everybody has joined
        told = 0.0
        while not self._leaving:
            try:
                data = self._beats.recv(1 << 16)
                if not data:
                    return self._lost("its connection was closed")
                heard = time.monotonic()
                for payload in frames.feed(data):
                    if payload[:1] != b"B" and isinstance(end := wire.read(payload), wire.Refused):
                        return last_words.end(GroupBroken(end.reason, end.message))
            except TimeoutError:
                pass
            except (OSError, ValueError, wire.WireError) as error:
                return self._lost(str(error))
            now = time.monotonic()
            if heard is not None and now - heard > SILENT_SECONDS:
                return self._lost(f"it has sent no heartbeat for {now - heard:.0f} s")
            if now - told >= BEAT_SECONDS:
                told = now
                self._beat()
        return None

    def _beat(self) -> None:
        stage = self._stage
        steps, calls = (0, 0) if stage is None else (stage.steps, stage.links.traffic.total)
        counts = None if stage is None else stage.counts()
        self._report.tell(self._state, counts)
        data = frame(b"B" + wire.Beat(self._rank, steps, calls, self._busy).packed())
        if counts is not None and counts.steps != self._told:
            self._told = counts.steps
            data += wire.write(wire.Told(counts.packed()))
        try:
            self._beats.sendall(data)
        except OSError:
            log.debug("The leader takes no heartbeat.")

    def _lost(self, how: str) -> None:
        if not self._leaving:
            time.sleep(BEAT_SECONDS)  # a leader that leaves in peace says so on the other connection
        if not self._leaving:
            last_words.end(_leader_gone(how))


def _leader_gone(how: str) -> GroupBroken:
    return GroupBroken(
        "LeaderLost", f"The group's leader is gone: {how}. The rank ends, to be started again."
    )


def _connect(host: str, port: int, deadline: float, seconds: float) -> socket.socket:
    """Return a connection to the leader, which may start later, and whose name may not be known yet."""
    while True:
        try:
            sock = socket.create_connection((host, port), _CONNECT_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                raise GroupBroken(
                    "LeaderMissing",
                    f"The group's leader did not answer at {host}:{port} within {seconds:g} s ({error}); "
                    "look at its pod.",
                ) from error
            time.sleep(_RETRY_SECONDS)
            continue
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
