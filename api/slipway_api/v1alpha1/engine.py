"""`spec.engine`, `spec.quantization` and `spec.parallelism`: what computes the answers, and how."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from slipway_api.rules import Rule
from slipway_api.v1alpha1.base import Degree, Revision, Spec
from slipway_api.v1alpha1.model import Source

Runtime: TypeAlias = Literal["slipway", "vllm", "sglang", "custom"]
Argument = Annotated[str, Field(max_length=1024)]
Path = Annotated[
    str,
    Field(max_length=256),
    Rule(
        cel="self.matches('^/[A-Za-z0-9._~/-]*$')",
        holds=lambda v: re.fullmatch(r"/[A-Za-z0-9._~/-]*", v) is not None,
        message="must be the path of a URL, for example /health",
    ),
]


class SpeculativeSpec(Spec):
    """Guessing tokens ahead and checking them in one step."""

    whole: ClassVar[bool] = True

    method: Literal["ngram", "draft"]
    """`ngram` repeats what the text said before; `draft` asks a smaller model."""
    tokens: Annotated[int, Field(ge=1, le=16)] | None = None
    """Most tokens guessed at a time. Absent: 4."""
    draft_source: Source | None = None
    """The smaller model, for `draft`."""
    draft_revision: Revision | None = None
    """Its branch, tag or commit."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.method == 'draft') == has(self.draftSource)",
            holds=lambda spec: (spec.method == "draft") == (spec.draft_source is not None),
            message="engine.speculative.draftSource belongs to method draft, which needs it",
        ),
    )


class CustomRuntime(Spec):
    """An engine of one's own. Command and arguments may refer to `$(SLIPWAY_MODEL)` (the path of the files),
    `$(SLIPWAY_PORT)` and `$(SLIPWAY_SERVED_NAME)`, which Kubernetes fills in."""

    whole: ClassVar[bool] = True

    command: Annotated[list[Argument], Field(min_length=1, max_length=32)] | None = None
    """Command of the container. Absent: the image's own."""
    args: Annotated[list[Argument], Field(max_length=128)] | None = None
    """Arguments of the container."""
    port: Annotated[int, Field(ge=1024, le=65_535)] | None = None
    """Port of the OpenAI-compatible API. Absent: 8000."""
    health_path: Path | None = None
    """Answers 200 while the engine lives. Absent: `/health`."""
    ready_path: Path | None = None
    """Answers 200 while it should get traffic. Absent: the health path."""
    metrics_path: Path | None = None
    """Prometheus metrics. Absent: `/metrics`."""
    metrics: Annotated[dict[str, Annotated[str, Field(max_length=128)]], Field(max_length=32)] | None = None
    """Names of metrics: Slipway's (`num_requests_running`, `num_requests_waiting`, `kv_cache_usage_perc`,
    ...) to the engine's."""


class EngineSpec(Spec):
    """How the engine runs. Everything absent is decided from the class, the model and the machine."""

    runtime: Runtime | None = None
    """Which engine. Absent: `slipway`."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Engine image. Absent: the one the operator was installed with."""
    max_model_len: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    """Longest prompt plus output of one request, in tokens. Absent: what the model and the memory allow."""
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Most requests that run at the same time in one replica. Absent: 64."""
    max_batch_tokens: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """Most tokens computed in one step; long prompts are cut into chunks of this size. Absent: 512."""
    memory_percent: Annotated[int, Field(ge=10, le=100)] | None = None
    """Share of the container's (or the accelerator's) memory that the engine plans with. Absent: 90."""
    prefix_caching: bool | None = None
    """Reuse the KV cache of equal prompt prefixes. Absent: true."""
    speculative: SpeculativeSpec | None = None
    """Speculative decoding. Absent: none."""
    extra_args: Annotated[list[Argument], Field(max_length=64)] | None = None
    """Further arguments, as they are, after Slipway's own. A class has to allow them."""
    custom: CustomRuntime | None = None
    """The engine of `runtime: custom`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(has(self.runtime) && self.runtime == 'custom') == has(self.custom)",
            holds=lambda spec: (spec.runtime == "custom") == (spec.custom is not None),
            message="engine.custom belongs to engine.runtime custom, which needs it; write both or neither",
        ),
    )


class QuantizationSpec(Spec):
    """How weights and keys and values are held in memory."""

    weights: Literal["auto", "none", "fp8", "int8", "int4"] | None = None
    """`auto`: as the checkpoint declares; `none`: unpacked to floats; else packed when loaded. Absent:
    `auto`."""
    kv_cache: Literal["auto", "none", "fp8", "int8", "int4"] | None = None
    """The same for keys and values; `none` is the type that the engine computes in. Absent: `auto`."""


class ParallelismSpec(Spec):
    """How one replica is spread over accelerators."""

    tensor: Degree | None = None
    """Accelerators that share each layer; divides the heads. `auto`: the least that fits. Absent: 1."""
    pipeline: Annotated[int, Field(ge=1, le=64)] | None = None
    """Groups of layers, each with `tensor` accelerators. Absent: 1."""
    expert: bool | None = None
    """Spread the experts of a mixture instead of cutting each. Absent: false."""
