"""What each rank holds of a model: which layers, heads, columns, words and experts. Arithmetic, no tensors.

Ranks are numbered stage by stage: those of one stage, which talk in every layer, are neighbours, in one
pod. Query heads, key heads, an MLP's inner width, experts and the vocabulary are cut in as many parts as a
stage has ranks (Shoeybi et al. 2019, Megatron-LM); the layers in as many runs as there are stages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from slipway_api.degrees import cuts_evenly, listed, stages_of
from slipway_engine.errors import InvalidArgument, ModelUnsupported
from slipway_engine.models.config import DecoderConfig

MOST_RANKS = 64


@dataclass(frozen=True, slots=True)
class Degrees:
    """How many ranks share each layer, how many stages the layers form, whether experts stay whole."""

    tensor: int = 1
    pipeline: int = 1
    expert: bool = False

    @property
    def ranks(self) -> int:
        """Return the number of processes."""
        return self.tensor * self.pipeline


@dataclass(frozen=True, slots=True)
class Part:
    """The half-open range [start, stop) of something that was cut."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Return how much it is."""
        return self.stop - self.start

    def scaled(self, unit: int) -> Part:
        """Return the range of elements where this one counts units of that many."""
        return Part(self.start * unit, self.stop * unit)


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's share. `heads` and `kv_heads` number those of a layer; `experts` is None without any.

    Where key heads are repeated, several ranks have the same `kv_heads`.
    """

    rank: int
    degrees: Degrees
    layers: Part
    heads: Part
    kv_heads: Part
    inner: Part
    words: Part
    experts: Part | None

    @property
    def stage(self) -> int:
        """Return the rank's stage."""
        return self.rank // self.degrees.tensor

    @property
    def place(self) -> int:
        """Return the rank's place among those that share its layers."""
        return self.rank % self.degrees.tensor

    @property
    def first(self) -> bool:
        """Say whether this stage embeds."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Say whether this stage answers."""
        return self.stage == self.degrees.pipeline - 1

    @property
    def peers(self) -> range:
        """Return the ranks that share these layers, this one among them."""
        return range(self.stage * self.degrees.tensor, (self.stage + 1) * self.degrees.tensor)

    def config(self, whole: DecoderConfig) -> DecoderConfig:
        """Return the decoder that this rank computes: a smaller one of the same kind."""
        windows = whole.windows[self.layers.start : self.layers.stop]
        return replace(
            whole,
            vocab_size=self.words.size,
            num_layers=self.layers.size,
            num_heads=self.heads.size,
            num_kv_heads=self.kv_heads.size,
            intermediate_size=self.inner.size,
            windows=windows,
        )


def cut(total: int, parts: int, index: int) -> Part:
    """Return one of `parts` runs of `total` things, as even as they can be."""
    least, more = divmod(total, parts)
    start = index * least + min(index, more)
    return Part(start, start + least + (index < more))


def shard_of(config: DecoderConfig, degrees: Degrees, rank: int) -> Shard:
    """Return the share of one rank; `check` has found the degrees to be possible."""
    stage, place = divmod(rank, degrees.tensor)
    sizes = stages_of(config.num_layers, degrees.pipeline)
    first = sum(sizes[:stage])
    copies = max(1, degrees.tensor // config.num_kv_heads)
    whole = degrees.expert and config.experts is not None
    return Shard(
        rank=rank,
        degrees=degrees,
        layers=Part(first, first + sizes[stage]),
        heads=cut(config.num_heads, degrees.tensor, place),
        kv_heads=cut(config.num_kv_heads, degrees.tensor // copies, place // copies),
        inner=Part(0, config.intermediate_size)
        if whole
        else cut(config.intermediate_size, degrees.tensor, place),
        words=cut(config.vocab_size, degrees.tensor, place),
        experts=None
        if config.experts is None
        else cut(config.experts.count, degrees.tensor, place)
        if whole
        else Part(0, config.experts.count),
    )


def tensor_degrees(config: DecoderConfig, unit: int = 1, *, expert: bool = False) -> tuple[int, ...]:
    """Return the tensor degrees that the model allows; 1 is always one.

    `unit` is how many weights of a row are packed in one block: columns are cut between blocks only.
    """
    return tuple(
        degree for degree in range(1, MOST_RANKS + 1) if degree == 1 or _allows(config, degree, unit, expert)
    )


def check(config: DecoderConfig, degrees: Degrees, unit: int = 1) -> None:
    """Refuse degrees that the model's shape does not allow, with those that it does."""
    legal = tensor_degrees(config, unit, expert=degrees.expert)
    if degrees.tensor not in legal:
        blocks = f" in blocks of {unit}" if unit > 1 else ""
        experts = f", {config.experts.count} experts" if config.experts is not None else ""
        raise InvalidArgument(
            f"tensor_parallel_size {degrees.tensor} is not possible: {config.num_heads} heads, "
            f"{config.num_kv_heads} key heads, an inner width of {config.intermediate_size}{blocks}{experts} "
            f"allow {listed(legal)}."
        )
    if degrees.pipeline > config.num_layers:
        raise InvalidArgument(
            f"pipeline_parallel_size {degrees.pipeline} is more than the model's {config.num_layers} layers; "
            f"write at most {config.num_layers}."
        )
    if degrees.ranks > MOST_RANKS:
        raise InvalidArgument(
            f"{degrees.tensor} x {degrees.pipeline} are {degrees.ranks} ranks; a group has at most "
            f"{MOST_RANKS}."
        )
    if degrees.expert and config.experts is None:
        raise InvalidArgument(
            f"enable_expert_parallel is set, but {config.architecture} has no experts; leave it out."
        )
    if degrees.tensor > 1 and config.qk_norm_wide:
        raise ModelUnsupported(
            f"{config.architecture} norms all heads of a token together, which tensor parallelism would cut; "
            "write tensor_parallel_size 1, and pipeline_parallel_size for more ranks."
        )


def _allows(config: DecoderConfig, degree: int, unit: int, expert: bool) -> bool:
    whole = expert and config.experts is not None
    inner = degree if whole else config.intermediate_size
    if not cuts_evenly(degree, config.num_heads, config.num_kv_heads, inner):
        return False
    if config.qk_norm_wide or config.vocab_size < degree:
        return False
    if whole and config.experts is not None and config.experts.count % degree:
        return False
    columns = [config.query_size // degree] + ([] if whole else [config.intermediate_size // degree])
    return all(width % unit == 0 for width in columns)
