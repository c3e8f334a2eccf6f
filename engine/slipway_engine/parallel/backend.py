"""The backend of several ranks, seen from rank 0: the scheduler above it knows of no others."""

from __future__ import annotations

import atexit
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from slipway_engine.config import EngineConfig
from slipway_engine.core import runner, sampler
from slipway_engine.core.backend import Memory, Progress, Ticket
from slipway_engine.core.machine import Machine
from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduled
from slipway_engine.kv.plan import MemoryPlan, Needs
from slipway_engine.loading.checkpoint import Checkpoint
from slipway_engine.parallel import wire
from slipway_engine.parallel.build import Blueprint, memory_of
from slipway_engine.parallel.leader import Leader
from slipway_engine.parallel.shard import Degrees
from slipway_engine.parallel.stage import Stage
from slipway_engine.parallel.steps import StepReader, StepWriter
from slipway_engine.parallel.traffic import disconnect

_TELL_SECONDS = 1.0


class ParallelBackend:
    """One model over a group of ranks, of which this process is the first."""

    def __init__(self, config: EngineConfig, degrees: Degrees, checkpoint: Checkpoint) -> None:
        self._config = config
        self._degrees = degrees
        self._blueprint = Blueprint.of(config, degrees, 0, checkpoint)
        self._local = degrees.ranks // config.group_size
        self._leader = Leader(config, degrees, self._local)
        self._stage: Stage | None = None
        self._told = 0.0

    @property
    def device(self) -> str:
        """The device's kind: cpu or cuda."""
        return self._blueprint.device.type

    @property
    def dtype(self) -> str:
        """The type that it computes in, as torch names it."""
        return str(self._blueprint.dtype).removeprefix("torch.")

    def memory(self, machine: Machine) -> Memory:
        """Gather the group; return the memory of the rank that has least. Ranks of a pod share its CPU's."""
        own = memory_of(self._blueprint.device, machine, self._local)
        self._leader.gather(own.limit, own.available)
        atexit.register(self.close)
        members = self._leader.members.values()
        limit = min([own.limit, *(member.limit for member in members)])
        return Memory(own.baseline, limit, min([own.available, *(member.available for member in members)]))

    def needs(self, baseline: int) -> Needs:
        """Return the needs of no rank in particular: of each thing, those of the rank that needs most."""
        ranks = range(0, self._degrees.ranks, self._degrees.tensor)
        checkpoint = self._blueprint.checkpoint
        every = [
            Blueprint.of(self._config, self._degrees, rank, checkpoint).needs(baseline) for rank in ranks
        ]
        return replace(
            every[0],
            weights=max(needs.weights for needs in every),
            load_peak=max(needs.load_peak for needs in every),
            kv_bytes_per_token=max(needs.kv_bytes_per_token for needs in every),
        )

    def load(self, memory: MemoryPlan, block_size: int, progress: Progress) -> ParallelRunner:
        """Have every rank read its shard."""
        seats = 2 * self._config.max_num_seqs
        listener = socket.create_server((self._leader.host, 0))
        port = listener.getsockname()[1]
        self._store = TCPStore(
            self._leader.host, port, self._degrees.ranks, is_master=True, wait_for_workers=False,
            timeout=timedelta(seconds=60), master_listen_fd=listener.detach(),
        )  # fmt: skip
        self._leader.tell(wire.Plan(memory.max_model_len, memory.num_blocks, seats, port))
        links = self._blueprint.connect(self._leader.host, port)
        stage = self._blueprint.load(links, memory.max_model_len, memory.num_blocks, block_size)
        self._leader.wait_loaded()
        self._stage = stage
        progress(1, 1)
        writer = StepWriter(len(memory.kv_windows), seats)
        vocab_size = self._blueprint.checkpoint.config.vocab_size
        reader = StepReader(len(memory.kv_windows), seats, memory.num_blocks)
        depth = self._config.pipeline_microbatches or self._degrees.pipeline
        return ParallelRunner(self._leader, stage, writer, reader, vocab_size, depth)

    def sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[sampler.Sampled]:
        """Choose the next token of each row."""
        return sampler.sample(logits, requests)

    def ranks(self, *, at_once: bool) -> tuple[tuple[int, ...], ...]:
        """Return what each rank has done, rows of `parallel.counts`, at once or once a second.

        Those of other ranks are as of their last heartbeat.
        """
        now = time.monotonic()
        if self._stage is None or (not at_once and now - self._told < _TELL_SECONDS):
            return ()
        self._told = now
        return tuple(one.numbers() for one in (self._stage.counts(), *self._leader.counts.values()))

    def close(self) -> None:
        """Let the other ranks leave."""
        atexit.unregister(self.close)
        self._leader.close()
        disconnect()


@dataclass(frozen=True, slots=True)
class Sent:
    """A step that is on its way through the stages: its rows, and rank 0's part of the logits."""

    rows: Sequence[Scheduled]
    own: torch.Tensor | None


class ParallelRunner:
    """Steps over all ranks. Several may be on their way; they are collected in the order of submission."""

    def __init__(
        self,
        leader: Leader,
        stage: Stage,
        writer: StepWriter,
        reader: StepReader,
        vocab_size: int,
        depth: int = 1,
    ) -> None:
        self.depth = depth
        self.stage = stage
        self._leader = leader
        self._writer = writer
        self._reader = reader
        self._vocab_size = vocab_size
        self._copies: Mapping[int, int] = {}
        self._flying = 0
        leader.progress = lambda: (stage.steps, stage.links.traffic.total)

    def run(self, plan: Sequence[Scheduled]) -> tuple[list[Scheduled], torch.Tensor]:
        """Compute a step on all ranks. Returns those that want logits, and their rows."""
        return self.collect(self.submit(plan))

    def submit(self, plan: Sequence[Scheduled]) -> Sent:
        """Send a step on its way, through rank 0's own layers at once. Raises GroupBroken."""
        rows = sorted(plan, key=runner.layout)
        data = self._writer.write(rows, self._copies)
        self._copies = {}
        self._leader.busy = True
        self._flying += 1
        self._leader.tell_step(data)
        try:
            return Sent(rows, self.stage.compute(self._reader.read(data)))
        except RuntimeError as error:
            raise self._leader.explain(error) from error

    def collect(self, ticket: Ticket) -> tuple[list[Scheduled], torch.Tensor]:
        """Wait for a step's logits. Raises GroupBroken."""
        assert isinstance(ticket, Sent)
        wanting = [row for row in ticket.rows if row.rows]
        count = sum([row.rows for row in wanting])
        try:
            if count:
                logits = self.stage.links.collect_logits(count, self._vocab_size, ticket.own)
            else:
                logits = torch.empty((0, self._vocab_size), device=self.stage.device)
        except RuntimeError as error:
            raise self._leader.explain(error) from error
        self._flying -= 1
        self._leader.busy = self._flying > 0
        return wanting, logits

    def copy_blocks(self, copies: Mapping[int, int]) -> None:
        """Copy whole blocks {target: source} on all ranks, with the next step."""
        self._copies = copies
