"""From a configuration and a rank to that rank's stage: its sizes before loading, then the loaded thing."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core.backend import Memory
from slipway_engine.core.device import choose_device, choose_dtype, choose_kv_dtype
from slipway_engine.core.machine import Machine
from slipway_engine.core.torch_backend import TorchBackend
from slipway_engine.core.torch_models import OwnModel
from slipway_engine.errors import ModelUnsupported
from slipway_engine.kv.layout import KvLayout, layout_of
from slipway_engine.kv.plan import Needs
from slipway_engine.loading.checkpoint import Checkpoint, open_checkpoint
from slipway_engine.models import linear
from slipway_engine.models.attention import PagedAttention
from slipway_engine.models.quantised import Quantised
from slipway_engine.parallel import shard as shards
from slipway_engine.parallel import traffic, weights
from slipway_engine.parallel.shard import Degrees, Shard
from slipway_engine.parallel.stage import Stage, layers_in_block, places_of
from slipway_engine.parallel.view import ShardView, block_unit

_COLLECTIVE_SECONDS = 300.0
"""How long a collective may last. It is the pulse that finds out what is wrong, long before."""

_SIOCGIFADDR = 0x8915


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All that decides one rank's stage."""

    checkpoint: Checkpoint
    shard: Shard
    device: torch.device
    dtype: torch.dtype
    kv_dtype: torch.dtype
    mode: str

    @classmethod
    def of(
        cls, config: EngineConfig, degrees: Degrees, rank: int, checkpoint: Checkpoint | None = None
    ) -> Blueprint:
        """Open the model and cut it. Raises EngineError where it cannot be cut like that."""
        checkpoint = checkpoint or open_checkpoint(config.model)
        if checkpoint.pooling is not None:
            raise ModelUnsupported(
                f"{checkpoint.path} makes embeddings, which runs on one rank; leave the parallel sizes out."
            )
        mode = config.quantization if config.quantization in ("int8", "int4") else "none"
        shards.check(checkpoint.config, degrees, block_unit(checkpoint, mode))
        device = device_of(config, rank)
        dtype = choose_dtype(config.dtype, checkpoint.config.dtype, device, Machine())
        kv_dtype = choose_kv_dtype(config.kv_cache_dtype, dtype)
        shard = shards.shard_of(checkpoint.config, degrees, rank)
        return cls(checkpoint, shard, device, dtype, kv_dtype, mode)

    @property
    def layout(self) -> KvLayout:
        """Where keys and values lie: one layout for all stages, as they share block tables."""
        whole = self.checkpoint.config
        view = replace(self._view.config, num_layers=whole.num_layers, windows=whole.windows)
        return layout_of(view.attention_layers, whole.max_position)

    def threads(self, config: EngineConfig, local: int) -> EngineConfig:
        """Return the configuration with this rank's threads: an even share of the pod's."""
        if config.num_threads is not None:
            return config
        return replace(config, num_threads=max(1, Machine().threads() // local))

    def needs(self, baseline: int) -> Needs:
        """Return what this rank's stage needs of its device."""
        view = self._view
        backend = self._backend(view)
        needs = backend.needs(baseline)
        whole, mine = self.checkpoint.config, self.shard.experts
        spared = 0
        if whole.experts is not None and mine is not None:
            expert = 3 * whole.hidden_size * self.shard.inner.size * self.dtype.itemsize
            spared = (whole.experts.count - mine.size) * expert * self.shard.layers.size
        layout = self.layout
        places = layers_in_block(places_of(layout, self.shard.layers))
        return replace(
            needs,
            weights=needs.weights - spared,
            vocab_size=whole.vocab_size,
            kv_bytes_per_token=backend.row_bytes(view.config.attention_layers[0])
            * places
            * len(layout.groups.windows),
            kv_windows=layout.groups.windows,
        )

    def connect(self, host: str, port: int) -> traffic.Links:
        """Join the collectives."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_towards(host))
        return traffic.connect(self.shard, self.device, host, port, _COLLECTIVE_SECONDS)

    @torch.no_grad()
    def load(self, links: traffic.Links, positions: int, blocks: int, block_size: int) -> Stage:
        """Read the shard and allocate its cache."""
        rounding = Quantised(self.mode) if self.mode != "none" else None
        product = linear.best_for(self.device, self.dtype)
        decoder, loads = weights.load(
            self.checkpoint, self.shard, links, product, self.device, self.dtype, positions, _quiet, rounding
        )
        places = places_of(self.layout, self.shard.layers)
        backend, config = self._backend(self._view), decoder.inner.config
        layers = config.attention_layers[: layers_in_block(places)]
        caches = [backend.cache(layer, blocks + 1, block_size) for layer in layers]
        attention = PagedAttention(config, caches, places)
        return Stage(decoder, attention, links, block_size, self.device, self.dtype, loads)

    @property
    def _view(self) -> ShardView:
        return ShardView(self.checkpoint, self.shard)

    def _backend(self, view: ShardView) -> TorchBackend:
        model = OwnModel(view, self.device, self.dtype, self.mode)
        return TorchBackend(model, self.device, self.dtype, self.kv_dtype)


def memory_of(device: torch.device, machine: Machine, local: int) -> Memory:
    """Return a rank's memory: its GPU's, or an even share of what its pod's `local` ranks have on a CPU."""
    if device.type == "cuda":
        available, limit = torch.cuda.mem_get_info(device)
        return Memory(limit - available, limit, available)
    return Memory(machine.resident(), machine.memory_limit() // local, machine.memory_available() // local)


def device_of(config: EngineConfig, rank: int) -> torch.device:
    """Return a rank's device: on GPUs one of its pod's for itself."""
    device = choose_device(config.device)
    if device.type == "cuda":
        return torch.device("cuda", rank % max(1, torch.cuda.device_count()))
    return device


def interface_towards(host: str) -> str:
    """Return the name of the network interface that leads to a host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        own = probe.getsockname()[0]
    return next((name for name, address in _addresses() if address == own), "lo")


def _addresses() -> Iterator[tuple[str, str]]:
    """Yield each interface with its IPv4 address (Linux)."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name[:15].encode()))
            except OSError:
                continue  # it has no address
            yield name, socket.inet_ntoa(found[20:24])


def _quiet(done: int, total: int) -> None:
    """Rank 0 alone tells how loading goes on."""
