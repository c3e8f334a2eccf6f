"""`status` of an `LLMDeployment`: what the operator observed, planned and decided. Sizes are bytes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slipway_api.v1alpha1.base import Status, map_of

Word = Annotated[str, Field(max_length=64)]
Short = Annotated[str, Field(max_length=128)]
Sentence = Annotated[str, Field(max_length=1024)]
Bytes = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class StatusCondition(Status):
    """A condition, as in apimachinery's metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    """Type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=1024)]
    """One CamelCase word that programs may read."""
    message: Annotated[str, Field(max_length=32_768)]
    """One sentence for people: what blocks, and what to do next."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: int | None = None
    """The generation this condition was computed from."""


class EffectiveValue(Status):
    """A value in force and where it came from."""

    field: Short
    """Path of the field below `spec`."""
    value: Sentence
    """The value in force."""
    source: Word = Field(alias="from")
    """`spec`, `class`, `operator` (how it was installed), `model` (its own facts) or `built-in`."""


class MemoryStatus(Status):
    """The memory of one accelerator (or of a CPU's container), divided."""

    limit: Bytes | None = None
    """All there is."""
    usable: Bytes | None = None
    """What the engine plans with."""
    process: Bytes | None = None
    """What the process needs before any model."""
    weights: Bytes | None = None
    """The weights."""
    workspace: Bytes | None = None
    """The most that a step needs besides."""
    kv_cache: Bytes | None = None
    """Keys and values."""
    max_tokens: int | None = None
    """Tokens of all requests together that the cache holds."""
    max_sequences: int | None = None
    """Requests of full length that run at once."""
    max_model_len: int | None = None
    """Longest prompt plus output of one request, in tokens."""


class RangeStatus(Status):
    """A range; the lower end is what the hardware's peaks allow, the upper one what is usual."""

    low: int
    """Lower end."""
    high: int
    """Upper end."""


class ExpectedStatus(Status):
    """What the roofline of the accelerator allows, for one request on an idle replica."""

    prompt_tokens: int | None = None
    """Length of the prompt that the time to the first token is for."""
    ttft_ms: RangeStatus | None = None
    """Time to the first token, milliseconds."""
    tpot_ms: RangeStatus | None = None
    """Time between two tokens, milliseconds."""
    slo: Sentence | None = None
    """How that compares with `spec.slo`."""


class PlanStatus(Status):
    """What the planner decided before anything ran."""

    effective: Annotated[list[EffectiveValue], Field(max_length=96)] | None = Field(
        default=None, json_schema_extra=map_of("field")
    )
    """The values in force and where each came from."""
    accelerators_per_replica: int | None = None
    """Accelerators of one replica; 0 on a CPU."""
    pods_per_replica: int | None = None
    """Pods of one replica."""
    memory: MemoryStatus | None = None
    """The memory of one accelerator as it is expected to be divided."""
    measured: MemoryStatus | None = None
    """The same as the engine reported it."""
    expected: ExpectedStatus | None = None
    """Times that the hardware allows."""
    estimated: bool | None = None
    """The figures are estimates: the model's headers could not be read, or the engine is not Slipway's."""
    message: Sentence | None = None
    """Why there are no figures, or what to know about them."""
    alternatives: Annotated[list[Sentence], Field(max_length=3)] | None = None
    """The nearest configurations that fit, where this one does not."""


class ModelStatus(Status):
    """The files that are served."""

    commit: Short | None = None
    """What the revision was resolved to; every replica uses it."""
    digest: Short | None = None
    """Digest over the files."""
    license: Short | None = None
    """The source's own word for its licence."""
    size: Bytes | None = None
    """Bytes of the files."""
    architecture: Short | None = None
    """The model's architecture."""
    parameters: Bytes | None = None
    """Number of parameters."""
    claim: Annotated[str, Field(max_length=253)] | None = None
    """The claim that holds the files."""
    fetched: Bytes | None = None
    """Bytes fetched so far."""
    bytes_per_second: Bytes | None = None
    """How fast."""
    updated_at: Time | None = None
    """When the two above were read."""


class RevisionStatus(Status):
    """A revision that has pods."""

    name: Short
    """Name of the revision."""
    replicas: int
    """Replicas of it that exist."""
    ready_replicas: int | None = None
    """Replicas of it that serve."""


class SignalStatus(Status):
    """A signal of the autoscaler."""

    name: Short
    """Which."""
    value: Word
    """Its value."""
    time: Time
    """When it was read."""


class DecisionStatus(Status):
    """A decision of the autoscaler."""

    time: Time
    """When."""
    replicas: int
    """Replicas decided on."""
    reason: Sentence
    """Why."""


class LearnedStatus(Status):
    """What one replica proved to bear. Kept so that another operator need not learn it again."""

    replica: Word
    """Requests in flight that a replica bears."""
    bounded_by: Word
    """What bounds them."""
    base_seconds: Word | None = None
    """Seconds an output token takes a replica that runs nothing else."""
    each_seconds: Word | None = None
    """Seconds that every further running request adds to it."""
    mean: Word | None = None
    """Running requests, the mean of the samples that the two above were fitted to."""
    variance: Word | None = None
    """Their variance."""
    full: Word | None = None
    """Running requests beside which others waited."""
    full_at: Time | None = None
    """When that was seen last."""
    per_cache: Word | None = None
    """Requests that would fill the KV cache."""
    stay_seconds: Word | None = None
    """Seconds that a request runs."""
    start_seconds: Word | None = None
    """Seconds from a pod's creation until it serves."""


class AutoscalingStatus(Status):
    """What the autoscaler saw and decided."""

    desired: int | None = None
    """Replicas wanted."""
    current: int | None = None
    """Replicas there are."""
    signals: Annotated[list[SignalStatus], Field(max_length=8)] | None = Field(
        default=None, json_schema_extra=map_of("name")
    )
    """What the last of these decisions was made from; live values are in the metrics."""
    last_decisions: Annotated[list[DecisionStatus], Field(max_length=5)] | None = None
    """The last five, newest first."""
    learned: LearnedStatus | None = None
    """What one replica proved to bear."""


class LLMDeploymentStatus(Status):
    """What the operator observed."""

    observed_generation: int | None = None
    """The generation of the spec that this status describes."""
    replicas: int | None = None
    """Replicas that exist."""
    ready_replicas: int | None = None
    """Replicas that serve."""
    updated_replicas: int | None = None
    """Replicas of the newest revision."""
    ready: Annotated[str, Field(max_length=32)] | None = None
    """Ready replicas of those wanted, for people: `1/2`."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for the scale subresource."""
    url: Annotated[str, Field(max_length=512)] | None = None
    """Base URL of the OpenAI-compatible API inside the cluster."""
    class_name: Annotated[str, Field(max_length=253)] | None = None
    """The class in force."""
    accelerator: Short | None = None
    """What a replica runs on, for people: `cpu`, `2 x nvidia-l4-24gb`."""
    revision: Short | None = None
    """The revision that new pods get."""
    last_good_revision: Short | None = None
    """The newest revision whose pods all served; a failed rollout goes back to it."""
    revisions: Annotated[list[RevisionStatus], Field(max_length=8)] | None = Field(
        default=None, json_schema_extra=map_of("name")
    )
    """The revisions that have pods."""
    model: ModelStatus | None = None
    """The files that are served."""
    plan: PlanStatus | None = None
    """What was planned, and from what."""
    autoscaling: AutoscalingStatus | None = None
    """What the autoscaler saw and decided."""
    conditions: Annotated[list[StatusCondition], Field(max_length=16)] | None = Field(
        default=None, json_schema_extra=map_of("type")
    )
    """Accepted, ModelReady, Available, AutoscalingActive, UpToDate, Reconciling, Stalled and Ready."""
