"""The conditions of an LLMDeployment and every reason they can carry: stable words that people alert on."""

from __future__ import annotations

from enum import StrEnum


class Condition(StrEnum):
    """Condition types, in the order in which the status lists them."""

    ACCEPTED = "Accepted"
    MODEL_READY = "ModelReady"
    AVAILABLE = "Available"
    AUTOSCALING_ACTIVE = "AutoscalingActive"
    UP_TO_DATE = "UpToDate"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    READY = "Ready"


class Reason(StrEnum):
    """Why a condition has its value. The comment beside each says which state it names."""

    # all is well
    ACCEPTED = "Accepted"  # the object can be planned
    READY = "Ready"  # all replicas wanted serve
    MODEL_LOADED = "ModelLoaded"  # at least one replica has the model in memory
    MINIMUM_REPLICAS_AVAILABLE = "MinimumReplicasAvailable"  # as many serve as a rollout must leave
    SUSPENDED = "Suspended"  # parked on purpose
    SCALED_TO_ZERO = "ScaledToZero"  # zero replicas asked for
    UP_TO_DATE = "UpToDate"  # nothing left to change
    PAUSED = "Paused"  # a rollout is held where it is on purpose
    CANARY = "Canary"  # a rollout is as far as its canary may go
    # the number of replicas
    VALID_METRIC_FOUND = "ValidMetricFound"  # the load decides on it
    TOO_MANY_REPLICAS = "TooManyReplicas"  # the load asks for more than maxReplicas
    SCALING_DISABLED = "ScalingDisabled"  # parked, so nothing is decided
    FAILED_GET_PODS_METRIC = "FailedGetPodsMetric"  # the pods' metrics cannot be read
    FAILED_GET_EXTERNAL_METRIC = "FailedGetExternalMetric"  # a Prometheus query has no usable result
    CONFLICTING_SCALER = "ConflictingScaler"  # another autoscaler writes spec.replicas too
    # on the way
    PROGRESSING = "Progressing"  # a change is being rolled out
    FETCHING = "Fetching"  # the model is being downloaded
    LOADING = "Loading"  # the engine reads the weights
    STARTING = "Starting"  # containers are being created
    SCHEDULING = "Scheduling"  # pods wait for a node
    TERMINATING = "Terminating"  # old pods finish their streams
    MINIMUM_REPLICAS_UNAVAILABLE = "MinimumReplicasUnavailable"  # fewer replicas serve than asked for
    # the object
    NAME_TAKEN = "NameTaken"  # an older object holds a name that it claims; it works by its own
    INVALID_SPEC = "InvalidSpec"  # a combination of fields that the schema could not refuse
    UNSUPPORTED_FIELD = "UnsupportedField"  # a field of the API that this version does not act on
    ROLLOUT_FAILED = "RolloutFailed"  # the newest revision never became ready; the last good one runs
    UPGRADE_AVAILABLE = "UpgradeAvailable"  # the operator, or the class, would make other pods now
    UNKNOWN_ACCELERATOR = "UnknownAccelerator"  # accelerator.type is not in the catalogue
    CLASS_NOT_FOUND = "ClassNotFound"  # spec.className names no LLMClass
    CLASS_INVALID = "ClassInvalid"  # the LLMClass cannot be read
    CLASS_REQUIRED = "ClassRequired"  # a class is required of every object, and none is in force
    CLASS_DENIED = "ClassDenied"  # the class does not allow what the object asks for
    # the model, as the engine reports it
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_ACCESS_DENIED = "ModelAccessDenied"
    MODEL_UNSUPPORTED = "ModelUnsupported"
    MODEL_CORRUPT = "ModelCorrupt"
    MODEL_GATED = "ModelGated"  # its terms were not accepted with this token
    MODEL_CHANGED = "ModelChanged"  # the source holds other files than when its version was resolved
    MODEL_UNSIGNED = "ModelUnsigned"  # the class requires a signature, and there is none
    SIGNATURE_INVALID = "SignatureInvalid"  # there is one, and it does not hold
    DOWNLOAD_FAILED = "DownloadFailed"
    DOWNLOAD_STALLED = "DownloadStalled"  # bytes stopped coming
    VOLUME_FULL = "VolumeFull"  # the volume of the model's files has no room left
    VOLUME_NOT_SHAREABLE = "VolumeNotShareable"  # one node's volume for replicas that may run on several
    IMAGE_VOLUMES_MISSING = "ImageVolumesMissing"  # the cluster mounts no images as volumes
    INSPECTING = "Inspecting"  # the model's headers are being read
    DOES_NOT_FIT = "DoesNotFit"
    INVALID_ARGUMENT = "InvalidArgument"
    # the cluster
    UNSCHEDULABLE = "Unschedulable"
    NODE_LOST = "NodeLost"  # the node of a pod no longer answers
    EVICTED = "Evicted"  # a node gave up a pod to save itself
    IMAGE_PULL_FAILED = "ImagePullFailed"
    PULL_SECRET_MISSING = "PullSecretMissing"  # noqa: S105 - a reason, not a secret
    CONFIG_MISSING = "ConfigMissing"  # a Secret, ConfigMap or claim that the pod names is absent
    QUOTA_EXCEEDED = "QuotaExceeded"
    LIMIT_RANGE_VIOLATED = "LimitRangeViolated"
    POD_SECURITY_DENIED = "PodSecurityDenied"
    ADMISSION_DENIED = "AdmissionDenied"
    OUT_OF_MEMORY = "OutOfMemory"
    ENGINE_CRASHED = "EngineCrashed"
    ENGINE_UNHEALTHY = "EngineUnhealthy"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    CHILD_CONFLICT = "ChildConflict"  # an object of the child's name belongs to somebody else
    APPLY_FAILED = "ApplyFailed"  # the API server refused a child for another reason
