"""What a rank says to the others while it computes: collectives over torch.distributed, each of them counted.

NCCL carries them between GPUs, gloo between CPUs. Counts serve two ends: they show what parallelism costs,
and, told with every heartbeat, how far each rank has come when one of them hangs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from slipway_engine.parallel.counts import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, KINDS, LOGITS, SEND
from slipway_engine.parallel.shard import Degrees, Shard, cut

_LOGITS_TAG, _HIDDEN_TAG = 1, 2
_UNSENT = 16
"""Tensors that may be on their way at once."""


@dataclass(slots=True)
class Traffic:
    """Calls and bytes of what this rank handed to each kind of collective."""

    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def count(self, kind: str, tensor: torch.Tensor) -> None:
        """Note that a tensor is handed over."""
        self.calls[kind] += 1
        self.sent[kind] += tensor.numel() * tensor.element_size()

    @property
    def total(self) -> int:
        """Return the calls that all ranks of a stage make alike, which tell how far each has come.

        Logits are no such calls: rank 0 gets them and sends none.
        """
        return sum(self.calls.values()) - self.calls[LOGITS]


class Links:
    """A rank's ways to its peers of the same stage, to the stages beside it, and to rank 0."""

    def __init__(self, shard: Shard, device: torch.device, group: dist.ProcessGroup | None) -> None:
        self.shard = shard
        self.traffic = Traffic()
        self._device = device
        self._group = group
        self._unsent: deque[tuple[dist.Work, torch.Tensor]] = deque()

    def all_reduce(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum `rows` over the ranks of the stage, in place."""
        if self._group is not None:
            self.traffic.count(ALL_REDUCE, rows)
            dist.all_reduce(rows, group=self._group)
        return rows

    def exchange(self, rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        """Send `sent[i]` rows to the i-th rank of the stage; return the rows that come from each in turn."""
        self.traffic.count(ALL_TO_ALL, rows)
        out = rows.new_empty((sum(received), *rows.shape[1:]))
        dist.all_to_all_single(out, rows.contiguous(), received, sent, group=self._group)
        return out

    def gather_rows(self, rows: torch.Tensor, total: int) -> torch.Tensor:
        """Return the rows of all ranks of the stage, of which each has its cut of `total`."""
        ranks = self.shard.degrees.tensor
        most = cut(total, ranks, 0).size
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = rows
        self.traffic.count(ALL_GATHER, padded)
        every = rows.new_empty((ranks * most, *rows.shape[1:]))
        dist.all_gather_into_tensor(every, padded, group=self._group)
        if total == ranks * most:
            return every
        parts = [every[rank * most :][: cut(total, ranks, rank).size] for rank in range(ranks)]
        return torch.cat(parts)

    def send_on(self, hidden: torch.Tensor) -> None:
        """Send hidden states to the next stage, to the rank of the same place."""
        self._send(SEND, hidden, self.shard.rank + self.shard.degrees.tensor, _HIDDEN_TAG)

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return what the stage before sent."""
        hidden = torch.empty(shape, dtype=dtype, device=self._device)
        dist.recv(hidden, self.shard.rank - self.shard.degrees.tensor, tag=_HIDDEN_TAG)
        return hidden

    def send_logits(self, logits: torch.Tensor) -> None:
        """Send this rank's columns of the logits to rank 0."""
        self._send(LOGITS, logits, 0, _LOGITS_TAG)

    def collect_logits(self, rows: int, vocab_size: int, own: torch.Tensor | None) -> torch.Tensor:
        """Return whole rows of logits, on rank 0. `own` is its part, where it is of the last stage."""
        degrees = self.shard.degrees
        whole = torch.empty((rows, vocab_size), device=self._device)
        first = degrees.tensor * (degrees.pipeline - 1)
        for place in range(degrees.tensor):
            words = cut(vocab_size, degrees.tensor, place)
            if first + place == self.shard.rank and own is not None:
                part = own
            else:
                part = torch.empty((rows, words.size), device=self._device)
                dist.recv(part, first + place, tag=_LOGITS_TAG)
            whole[:, words.start : words.stop] = part
        return whole

    def settle(self, left: int = 0) -> None:
        """Wait until no more than so many tensors are on their way."""
        while len(self._unsent) > left:
            work, _ = self._unsent.popleft()
            work.wait()

    def _send(self, kind: str, tensor: torch.Tensor, rank: int, tag: int) -> None:
        self.traffic.count(kind, tensor)
        tensor = tensor.contiguous()
        work = dist.isend(tensor, rank, tag=tag)
        assert work is not None
        self._unsent.append((work, tensor))
        self.settle(_UNSENT)


def connect(shard: Shard, device: torch.device, host: str, port: int, seconds: float) -> Links:
    """Join the group whose store rank 0 keeps at an address. Every rank must call it."""
    timeout = timedelta(seconds=seconds)
    store = TCPStore(host, port, shard.degrees.ranks, is_master=False, timeout=timeout)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=shard.rank, world_size=shard.degrees.ranks, timeout=timeout
    )
    return Links(shard, device, _stage_group(shard.degrees, shard.stage, timeout))


def disconnect() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _stage_group(degrees: Degrees, stage: int, timeout: timedelta) -> dist.ProcessGroup | None:
    """Return the group of a stage's ranks, None where each is alone; all groups are made by all ranks."""
    if degrees.tensor == 1:
        return None
    own: dist.ProcessGroup | None = None
    for start in range(0, degrees.ranks, degrees.tensor):
        group = dist.new_group(list(range(start, start + degrees.tensor)), timeout=timeout)
        if start == stage * degrees.tensor:
            assert isinstance(group, dist.ProcessGroup)
            own = group
    return own
