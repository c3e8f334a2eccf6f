"""Rank 0's side of a group: starts the ranks of its pod, waits for all, tells them each step, and ends it.

One thread of its own beats and listens, so that a rank that is gone, silent or stuck is seen while the core
waits inside a collective. The group then ends as a whole: the verdict reaches the HTTP side first, and the
process ends with it.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from selectors import EVENT_READ, DefaultSelector

from slipway_engine.config import EngineConfig
from slipway_engine.core import last_words
from slipway_engine.core.messages import Start, encode
from slipway_engine.errors import GroupBroken
from slipway_engine.parallel import wire
from slipway_engine.parallel.counts import Counts
from slipway_engine.parallel.doors import Doors, Member
from slipway_engine.parallel.pulse import BEAT_SECONDS, Verdict, Watch, gone
from slipway_engine.parallel.shard import Degrees
from slipway_engine.parallel.terms import SECRET, degrees_words, introduction
from slipway_engine.process.framing import FrameBuffer, frame

log = logging.getLogger(__name__)

_SEND_SECONDS = 20.0
_BURY_SECONDS = 5.0
_VERDICT_SECONDS = 25.0


@dataclass(slots=True)
class Leader:
    """A group as its rank 0 holds it. `progress` tells (steps, calls) of rank 0 itself."""

    config: EngineConfig
    degrees: Degrees
    local: int
    progress: Callable[[], tuple[int, int]] = lambda: (0, 0)
    members: dict[int, Member] = field(default_factory=dict)
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    verdict: Verdict | None = None
    busy: bool = False
    host: str = "127.0.0.1"
    counts: dict[int, Counts] = field(default_factory=dict)
    _answers: queue.Queue[tuple[int, wire.Record]] = field(default_factory=queue.Queue)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _closing: bool = False

    def gather(self, limit: int, available: int) -> None:
        """Start the ranks of this pod and wait for all of the group. Raises GroupBroken."""
        alone = self.local == self.degrees.ranks
        listener = _listen("127.0.0.1" if alone else "", 0 if alone else self.config.group_port)
        secret = os.environ.get(SECRET) or (secrets.token_hex(16) if alone else "")
        hello = introduction(self.config.model, self.degrees, 0, (limit, available), secret)
        welcome = wire.Welcome(
            encode(Start(self.config)), self.degrees.tensor, self.degrees.pipeline, self.degrees.expert
        )
        try:
            self._start(listener.getsockname()[1], secret)
            seconds = self.config.rendezvous_seconds
            self.members = Doors(listener, hello, welcome).gather(seconds, self._check_children)
        except GroupBroken:
            self._kill()
            raise
        finally:
            listener.close()
        self.host = next(iter(self.members.values())).steps.getsockname()[0]
        for member in self.members.values():
            member.steps.settimeout(_SEND_SECONDS)
        self._thread = threading.Thread(target=self._keep, name="group-pulse", daemon=True)
        self._thread.start()

    def tell(self, record: wire.Record) -> None:
        """Send a record to all."""
        self._send(wire.write(record))

    def tell_step(self, step: bytes) -> None:
        """Send a step to all."""
        self._send(frame(wire.STEP + step))

    def wait_loaded(self) -> None:
        """Return once every rank holds its weights. Raises GroupBroken."""
        waiting = set(self.members)
        while waiting:
            self.check()
            try:
                rank, record = self._answers.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(record, wire.Loaded):
                waiting.discard(rank)

    def check(self) -> None:
        """Raise GroupBroken where the group has ended."""
        if self.verdict is not None:
            raise GroupBroken(self.verdict.reason, self.verdict.message)

    def explain(self, error: Exception) -> GroupBroken:
        """Return why a collective failed: the verdict, for which the pulse may need a moment."""
        if self._ended.wait(_VERDICT_SECONDS) and self.verdict is not None:
            return GroupBroken(self.verdict.reason, self.verdict.message)
        return GroupBroken("CollectiveFailed", f"The ranks of the group lost each other: {error}")

    def close(self) -> None:
        """Let the others leave, and wait for those that this process started."""
        self._closing = True
        for member in self.members.values():
            try:
                member.steps.sendall(wire.write(wire.Leave()))
            except OSError:
                log.debug("Rank %d has left before.", member.rank)
        if self._thread is not None:
            self._thread.join()
        until = time.monotonic() + _BURY_SECONDS
        for child in self.children.values():
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for member in self.members.values():
            member.steps.close()
            if member.beats is not None:
                member.beats.close()

    def _start(self, port: int, secret: str) -> None:
        """Start the other ranks of this pod, which are the first ones."""
        for rank in range(1, self.local):
            argv = [sys.executable, "-u", "-m", "slipway_engine.parallel.rank"]
            argv += ["--leader", f"127.0.0.1:{port}", "--rank", str(rank), "--parent", str(os.getpid())]
            argv += ["--model", str(self.config.model), "--ranks", str(self.degrees.ranks)]
            argv += ["--degrees", degrees_words(self.degrees), "--local", str(self.local)]
            argv += ["--seconds", str(self.config.rendezvous_seconds)]
            environment = {**os.environ, SECRET: secret}
            self.children[rank] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=environment)

    def _check_children(self) -> None:
        for rank, child in self.children.items():
            if (status := child.poll()) is not None:
                said = gone(rank, f"process {child.pid} of this pod", _how(status) + " before it could join")
                raise GroupBroken(said.reason, said.message)

    def _send(self, data: bytes) -> None:
        self.check()
        for member in self.members.values():
            try:
                member.steps.sendall(data)
            except OSError as error:
                raise self.explain(error) from error

    def _keep(self) -> None:
        """Beat, listen and judge until the group ends."""
        names = {rank: self._name(rank) for rank in range(self.degrees.ranks)}
        now = time.monotonic()
        watch = Watch(self.degrees, names, dict.fromkeys(self.members, now), moved=now)
        frames: dict[socket.socket, tuple[int, FrameBuffer]] = {}
        with DefaultSelector() as selector:
            for member in self.members.values():
                for sock in (member.steps, member.beats):
                    assert sock is not None
                    frames[sock] = member.rank, FrameBuffer(1 << 20)
                    selector.register(sock, EVENT_READ)
            beaten = 0.0
            verdict: Verdict | None = None
            while verdict is None and not self._closing:
                for key, _ in selector.select(BEAT_SECONDS / 4):
                    assert isinstance(key.fileobj, socket.socket)
                    verdict = verdict or self._hear(key.fileobj, *frames[key.fileobj], watch)
                now = time.monotonic()
                if now - beaten >= BEAT_SECONDS:
                    beaten = now
                    self._beat(watch, now)
                verdict = verdict or watch.judge(now)
        if verdict is not None and not self._closing:
            self._end(verdict)

    def _hear(self, sock: socket.socket, rank: int, frames: FrameBuffer, watch: Watch) -> Verdict | None:
        try:
            data = sock.recv(1 << 16, socket.MSG_DONTWAIT)
            payloads = frames.feed(data)
            for payload in payloads:
                if payload[:1] == b"B":
                    watch.take(wire.Beat.unpacked(payload[1:]), time.monotonic())
                    continue
                record = wire.read(payload)
                if isinstance(record, wire.Told):
                    self.counts[rank] = Counts.unpacked(record.counts)
                    continue
                if isinstance(record, wire.Failed):
                    return Verdict(record.reason, f"Rank {rank} ({self._name(rank)}): {record.message}")
                self._answers.put((rank, record))
        except BlockingIOError:
            return None
        except (OSError, ValueError, wire.WireError) as error:
            return gone(rank, self._name(rank), str(error))
        return None if data else gone(rank, self._name(rank), self._ending_of(rank))

    def _beat(self, watch: Watch, now: float) -> None:
        steps, calls = self.progress()
        own = wire.Beat(0, steps, calls, self.busy)
        watch.take(own, now)
        watch.heard.pop(0)  # it hears itself only as long as this thread runs
        for member in self.members.values():
            assert member.beats is not None
            try:
                member.beats.send(frame(b"B" + own.packed()), socket.MSG_DONTWAIT)
            except OSError:
                log.debug("Rank %d takes no heartbeat.", member.rank)

    def _end(self, verdict: Verdict) -> None:
        """Tell everybody why; kill what this process started, so that no collective waits any longer."""
        self.verdict = verdict
        log.error(verdict.message, extra={"reason": verdict.reason})
        last = wire.write(wire.Refused(verdict.reason, verdict.message))
        for member in self.members.values():
            assert member.beats is not None
            try:
                member.beats.send(last, socket.MSG_DONTWAIT)
            except OSError:
                log.debug("Rank %d is not there to hear it.", member.rank)
        self._kill()
        self._ended.set()
        last_words.end(GroupBroken(verdict.reason, verdict.message))

    def _kill(self) -> None:
        for child in self.children.values():
            child.kill()
        for child in self.children.values():
            child.wait()

    def _name(self, rank: int) -> str:
        if rank == 0:
            return "the leader"
        if rank in self.children:
            return f"process {self.children[rank].pid} of the leader's pod"
        return f"at {self.members[rank].place}"

    def _ending_of(self, rank: int) -> str:
        if rank not in self.children:
            return "its connection was closed"
        try:
            return _how(self.children[rank].wait(1.0))
        except subprocess.TimeoutExpired:
            return "its connection was closed"


def _how(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"it ended with exit status {status}"


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise GroupBroken(
            "PortTaken", f"The group's port {port} cannot be had: {error}; choose another --group-port."
        ) from error
    listener.listen(128)
    return listener
