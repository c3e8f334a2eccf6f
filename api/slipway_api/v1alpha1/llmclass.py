"""`LLMClass`: a platform team's offer. Defaults, ceilings, and what is allowed; it never writes into an
object.

Where an object has a class, what is not allowed here is refused. A list that is absent allows everything; a
switch that is absent allows nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from slipway_api.quantity import Quantity
from slipway_api.rules import Rule
from slipway_api.v1alpha1.accelerator import AcceleratorSpec, SloSpec
from slipway_api.v1alpha1.base import SET, ResourceName, Spec, named
from slipway_api.v1alpha1.deployment import LLMDeploymentSpec
from slipway_api.v1alpha1.engine import EngineSpec, ParallelismSpec, QuantizationSpec, Runtime
from slipway_api.v1alpha1.model import CacheSpec
from slipway_api.v1alpha1.pod import PodTemplateSpec
from slipway_api.v1alpha1.rollout import RolloutSpec, RoutingSpec, UpgradePolicy

PodField: TypeAlias = Literal[
    "labels", "annotations", "nodeSelector", "tolerations", "affinity", "topologySpreadConstraints",
    "priorityClassName", "runtimeClassName", "schedulerName", "serviceAccountName", "imagePullSecrets",
    "volumes",
]  # fmt: skip
Day: TypeAlias = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]

NamespacePattern = Annotated[
    str,
    Field(min_length=1, max_length=64),
    Rule(
        cel="self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?|[a-z0-9][-a-z0-9]*[*]|[*])$')",
        holds=lambda v: (
            re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?|[a-z0-9][-a-z0-9]*[*]|[*]", v) is not None
        ),
        message="must be a namespace, or the beginning of some and '*', for example team-*",
    ),
]
SourcePrefix = Annotated[
    str,
    Field(min_length=1, max_length=512),
    Rule(
        cel="self.matches('^(hf|https|s3|gs|oci|pvc|file)://')",
        holds=lambda v: re.match(r"(hf|https|s3|gs|oci|pvc|file)://", v) is not None,
        message="must be a model source, or the beginning of some up to a '/', for example hf://HuggingFaceTB/",
    ),
]
ImagePrefix = Annotated[str, Field(min_length=1, max_length=512)]
Url = Annotated[
    str,
    Field(max_length=512),
    Rule(
        cel="self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$')",
        holds=lambda v: (
            re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", v) is not None
        ),
        message="must be a URL without user and password, for example http://proxy.example:3128",
    ),
]


class ClassDefaults(Spec):
    """What an object's absent fields mean. Field by field: what the object says wins."""

    accelerator: AcceleratorSpec | None = None
    """What models run on."""
    engine: EngineSpec | None = None
    """Engine settings."""
    quantization: QuantizationSpec | None = None
    """How weights and keys and values are held."""
    parallelism: ParallelismSpec | None = None
    """How a replica is spread."""
    slo: SloSpec | None = None
    """How fast it has to be."""
    rollout: RolloutSpec | None = None
    """How changes are rolled out."""
    routing: RoutingSpec | None = None
    """How the gateway chooses a replica."""
    cache: CacheSpec | None = None
    """Where the models' files are kept."""
    pod_template: PodTemplateSpec | None = None
    """Overlay on the pods; these are the class's own and need no permission."""


class Ceilings(Spec):
    """The most an object may ask for; one that asks for more is refused."""

    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Replicas, autoscaling included."""
    accelerators_per_replica: Annotated[int, Field(ge=0, le=4096)] | None = None
    """Accelerators of one replica."""
    max_model_len: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    """`engine.maxModelLen`."""
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] | None = None
    """`engine.maxNumSeqs`."""
    cpu: Quantity | None = None
    """CPU request and limit of one pod."""
    memory: Quantity | None = None
    """Memory request and limit of one pod."""
    cache_size: Quantity | None = None
    """Size of a model cache."""
    adapters: Annotated[int, Field(ge=0, le=64)] | None = None
    """Adapters of one object."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """`rollout.drainSeconds`."""


class Permissions(Spec):
    """What objects of the class may do beyond the ordinary; absent is no."""

    extra_args: bool | None = None
    """`engine.extraArgs`."""
    env: bool | None = None
    """`podTemplate.env`."""
    pod_template: Annotated[list[PodField], Field(max_length=12)] | None = Field(
        default=None, json_schema_extra=SET
    )
    """Fields of `podTemplate`; `resources` are always allowed, within the ceilings."""
    custom_runtime: bool | None = None
    """`engine.runtime: custom`."""
    remote_code: bool | None = None
    """`model.trustRemoteCode`."""
    prometheus_queries: bool | None = None
    """Autoscaling metrics of type `Prometheus`."""
    rdma: bool | None = None
    """Engine pods that request RDMA devices run as root with the one capability `IPC_LOCK`, outside Pod
    Security `restricted`. Without it such requests are refused."""


class UpgradeWindow(Spec):
    """When pods may be replaced without a change of their object."""

    days: Annotated[list[Day], Field(min_length=1, max_length=7)] | None = Field(
        default=None, json_schema_extra=SET
    )
    """Days on which it begins. Absent: every day."""
    start: Annotated[
        str,
        Field(max_length=5),
        Rule(
            cel="self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",
            holds=lambda v: re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", v) is not None,
            message="must be a time of day, for example 22:00",
        ),
    ]
    """When it begins."""
    duration_minutes: Annotated[int, Field(ge=10, le=1440)]
    """How long it lasts."""
    time_zone: Annotated[str, Field(max_length=64)] | None = None
    """IANA time zone. Absent: UTC."""


class UpgradeSpec(Spec):
    """How a new operator, and an edit of the class, reach running objects."""

    policy: UpgradePolicy | None = None
    """`OnChange` waits for each object's next change, `Automatic` rolls them. Absent: `OnChange`."""
    window: UpgradeWindow | None = None
    """When `Automatic` may roll. Absent: always."""
    max_concurrent: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Objects of the class that roll at the same time. Absent: 1."""


class ClassScaling(Spec):
    """How the class's objects are scaled."""

    cap_by_free_accelerators: bool | None = None
    """Asks for no more replicas than nodes have room for: where pods find no node, one waits for one, and the
    others are taken back until it has one. Cluster autoscalers act on pods that wait, one at a time then.
    Absent: false."""


class CaBundle(Spec):
    """A ConfigMap in each namespace that holds certificates, as trust distributors write it."""

    config_map_name: Annotated[str, Field(min_length=1, max_length=253), named("ConfigMap")]
    """Name of the ConfigMap."""
    key: ResourceName | None = None
    """Key with the PEM certificates. Absent: `ca.crt`."""


class NetworkSpec(Spec):
    """How fetches reach the world."""

    hf_endpoint: Url | None = None
    """Hub in place of Hugging Face's own."""
    s3_endpoint: Url | None = None
    """S3-compatible store in place of Amazon's."""
    s3_region: (
        Annotated[
            str,
            Field(max_length=64),
            Rule(
                cel="self.matches('^[a-z0-9-]+$')",
                holds=lambda v: re.fullmatch(r"[a-z0-9-]+", v) is not None,
                message="must be a region's name, for example eu-central-1",
            ),
        ]
        | None
    ) = None
    """Region that requests are signed for. Absent: `us-east-1`, or the one that Amazon tells."""
    gs_endpoint: Url | None = None
    """Address in place of Google Cloud Storage's."""
    http_proxy: Url | None = None
    """Proxy for http."""
    https_proxy: Url | None = None
    """Proxy for https."""
    no_proxy: Annotated[str, Field(max_length=1024)] | None = None
    """Hosts reached directly."""
    ca_bundle: CaBundle | None = None
    """Certificates to trust besides the system's."""


class SignatureSpec(Spec):
    """OpenSSF Model Signing: a model without a valid signature is refused."""

    public_keys: Annotated[
        list[
            Annotated[
                str,
                Field(max_length=2048),
                Rule(
                    cel="self.startsWith('-----BEGIN PUBLIC KEY-----')",
                    holds=lambda v: v.startswith("-----BEGIN PUBLIC KEY-----"),
                    message="must be a public key in PEM, beginning with -----BEGIN PUBLIC KEY-----",
                ),
            ]
        ],
        Field(min_length=1, max_length=8),
    ]
    """Keys, in PEM, one of which must have signed."""


class LLMClassSpec(Spec):
    """What the class offers."""

    default: bool | None = None
    """Objects that name no class get this one. Of several defaults the oldest counts."""
    require_class: bool | None = None
    """Objects anywhere in the cluster for which no class is in force are refused."""
    defaults: ClassDefaults | None = None
    """What absent fields mean."""
    ceilings: Ceilings | None = None
    """The most that may be asked for."""
    allowed_namespaces: Annotated[list[NamespacePattern], Field(max_length=128)] | None = Field(
        default=None, json_schema_extra=SET
    )
    """Namespaces that may use the class. Absent: all."""
    allowed_sources: Annotated[list[SourcePrefix], Field(max_length=64)] | None = Field(
        default=None, json_schema_extra=SET
    )
    """Where models, adapters and drafts may come from: a source as a whole, or a beginning that ends in '/'.
    Absent: anywhere."""
    allowed_images: Annotated[list[ImagePrefix], Field(max_length=64)] | None = Field(
        default=None, json_schema_extra=SET
    )
    """Engine images: an image as a whole, a beginning that ends in '/', or a digest `sha256:...`. Absent:
    any."""
    allowed_accelerators: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=63)]], Field(max_length=64)] | None
    ) = Field(default=None, json_schema_extra=SET)
    """Accelerator types. Absent: any."""
    allowed_runtimes: Annotated[list[Runtime], Field(max_length=4)] | None = Field(
        default=None, json_schema_extra=SET
    )
    """Runtimes. Absent: any but `custom`, which needs `allow.customRuntime` always."""
    allow: Permissions | None = None
    """What is denied unless opened."""
    upgrade: UpgradeSpec | None = None
    """How upgrades reach running objects."""
    autoscaling: ClassScaling | None = None
    """How its objects are scaled."""
    network: NetworkSpec | None = None
    """How fetches reach the world."""
    signatures: SignatureSpec | None = None
    """Which models have to be signed, and by whom. Absent: none."""


class ClassMeta(BaseModel):
    """The part of a class's metadata that Slipway reads."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=253)]


class LLMClass(BaseModel):
    """A platform team's offer to those who deploy models: defaults, ceilings and what is allowed."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid", alias_generator=to_camel, frozen=True)

    api_version: Literal["slipway.dev/v1alpha1"] = "slipway.dev/v1alpha1"
    kind: Literal["LLMClass"] = "LLMClass"
    metadata: ClassMeta
    spec: LLMClassSpec


def with_defaults(spec: LLMDeploymentSpec, defaults: ClassDefaults) -> LLMDeploymentSpec:
    """Return `spec` with its absent fields taken from a class. Raises pydantic's ValidationError where the
    two together break a rule that each alone keeps."""
    changes = {
        name: _merge(getattr(spec, name), getattr(defaults, name))
        for name in ClassDefaults.model_fields
        if name != "cache"
    }
    changes["model"] = spec.model.model_copy(update={"cache": _merge(spec.model.cache, defaults.cache)})
    merged = spec.model_copy(update=changes)
    return LLMDeploymentSpec.model_validate(merged.model_dump(by_alias=True, exclude_none=True))


def _merge(given: Any, default: Any) -> Any:
    """Return `given` with its absent fields taken from `default`, at any depth.

    Lists, maps and the specs that say so are not merged: the object's replaces the class's.
    """
    if given is None or default is None:
        return default if given is None else given
    if not isinstance(given, Spec) or given.whole:
        return given
    fields = type(given).model_fields
    return given.model_copy(
        update={name: _merge(getattr(given, name), getattr(default, name)) for name in fields}
    )
