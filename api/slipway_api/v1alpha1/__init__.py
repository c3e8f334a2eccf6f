"""Version v1alpha1: `LLMDeployment`, the object a user writes, and `LLMClass`, what a platform team offers.

Read from a file or the API server into these models; the CRDs under `crds/` are generated from them. Field
docstrings are the API reference. Absent optional fields are resolved by the operator from the class and from
what is built in; it shows each value it chose, and where it came from, in `status.plan.effective`.
"""

from slipway_api.v1alpha1.accelerator import AcceleratorSpec, MigSpec, SloSpec
from slipway_api.v1alpha1.autoscaling import (
    AutoscalingSpec,
    ScalingBehavior,
    ScalingMetric,
    ScalingPolicy,
    ScalingRules,
    ScalingSchedule,
)
from slipway_api.v1alpha1.base import Spec, Status
from slipway_api.v1alpha1.deployment import NAME_RULE, LLMDeployment, LLMDeploymentSpec, ObjectMeta
from slipway_api.v1alpha1.engine import (
    CustomRuntime,
    EngineSpec,
    ParallelismSpec,
    QuantizationSpec,
    Runtime,
    SpeculativeSpec,
)
from slipway_api.v1alpha1.llmclass import (
    CaBundle,
    Ceilings,
    ClassDefaults,
    LLMClass,
    LLMClassSpec,
    NetworkSpec,
    Permissions,
    SignatureSpec,
    UpgradeSpec,
    UpgradeWindow,
    with_defaults,
)
from slipway_api.v1alpha1.model import Adapter, CacheSpec, Credentials, ModelSpec
from slipway_api.v1alpha1.pod import (
    EnvVar,
    EnvVarSource,
    KeyReference,
    PodTemplateSpec,
    ResourceRequirements,
    Toleration,
)
from slipway_api.v1alpha1.rollout import CanarySpec, RolloutSpec, RoutingSpec, UpgradePolicy
from slipway_api.v1alpha1.status import (
    AutoscalingStatus,
    DecisionStatus,
    EffectiveValue,
    ExpectedStatus,
    LearnedStatus,
    LLMDeploymentStatus,
    MemoryStatus,
    ModelStatus,
    PlanStatus,
    RangeStatus,
    RevisionStatus,
    SignalStatus,
    StatusCondition,
)
from slipway_api.v1alpha1.volumes import Volume, VolumeMount

__all__ = [
    "NAME_RULE",
    "AcceleratorSpec",
    "Adapter",
    "AutoscalingSpec",
    "AutoscalingStatus",
    "CaBundle",
    "CacheSpec",
    "CanarySpec",
    "Ceilings",
    "ClassDefaults",
    "Credentials",
    "CustomRuntime",
    "DecisionStatus",
    "EffectiveValue",
    "EngineSpec",
    "EnvVar",
    "EnvVarSource",
    "ExpectedStatus",
    "KeyReference",
    "LLMClass",
    "LLMClassSpec",
    "LLMDeployment",
    "LLMDeploymentSpec",
    "LLMDeploymentStatus",
    "LearnedStatus",
    "MemoryStatus",
    "MigSpec",
    "ModelSpec",
    "ModelStatus",
    "NetworkSpec",
    "ObjectMeta",
    "ParallelismSpec",
    "Permissions",
    "PlanStatus",
    "PodTemplateSpec",
    "QuantizationSpec",
    "RangeStatus",
    "ResourceRequirements",
    "RevisionStatus",
    "RolloutSpec",
    "RoutingSpec",
    "Runtime",
    "ScalingBehavior",
    "ScalingMetric",
    "ScalingPolicy",
    "ScalingRules",
    "ScalingSchedule",
    "SignalStatus",
    "SignatureSpec",
    "SloSpec",
    "Spec",
    "SpeculativeSpec",
    "Status",
    "StatusCondition",
    "Toleration",
    "UpgradePolicy",
    "UpgradeSpec",
    "UpgradeWindow",
    "Volume",
    "VolumeMount",
    "with_defaults",
]
