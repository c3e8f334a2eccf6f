"""How one pod's engine is laid out: degrees of parallelism, packing, and the devices that it requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway_api.catalogue import Accelerator
from slipway_api.conditions import Reason
from slipway_api.needs import Packing
from slipway_api.v1alpha1 import LLMDeploymentSpec, ParallelismSpec, QuantizationSpec
from slipway_operator.plan.classes import Refused


@dataclass(frozen=True)
class Layout:
    """What of an object decides how its engine uses devices; `devices` is what one pod requests, by
    resource."""

    tensor: int = 1
    pipeline: int = 1
    weights: Packing = "auto"
    kv_cache: Packing = "auto"
    mig: str | None = None
    capacity: str | None = None
    devices: Mapping[str, str] = field(default_factory=dict)


def layout_of(spec: LLMDeploymentSpec, accelerator: Accelerator) -> Layout:
    """Return the layout that an object asks for. Raises Refused where the accelerator has no room for it."""
    parallelism, packing = spec.parallelism or ParallelismSpec(), spec.quantization or QuantizationSpec()
    tensor = parallelism.tensor if isinstance(parallelism.tensor, int) else 1
    pipeline = parallelism.pipeline or 1
    mig = spec.accelerator.mig.profile if spec.accelerator and spec.accelerator.mig else None
    _refuse_what_has_no_room(accelerator, tensor * pipeline, mig)
    devices = {}
    if accelerator.resource is not None:
        name = accelerator.resource if mig is None else accelerator.mig_resource(mig)
        devices = {name: str(tensor * pipeline)}
    return Layout(
        tensor=tensor,
        pipeline=pipeline,
        weights=packing.weights or "auto",
        kv_cache=packing.kv_cache or "auto",
        mig=mig,
        capacity=spec.accelerator.capacity if spec.accelerator else None,
        devices=devices,
    )


def _refuse_what_has_no_room(accelerator: Accelerator, count: int, mig: str | None) -> None:
    if mig is not None and mig not in accelerator.mig:
        known = ", ".join(accelerator.mig) or "none"
        raise Refused(
            Reason.INVALID_SPEC,
            f"accelerator.mig.profile {mig} is not one of {accelerator.name}, which has {known}; "
            "write one of these",
        )
    if count > 1 and accelerator.resource is None:
        raise Refused(
            Reason.INVALID_SPEC,
            f"parallelism asks for {count} accelerators, and a replica on a CPU is one pod; remove it, "
            "or write an accelerator.type",
        )
    if count > accelerator.per_node:
        raise Refused(
            Reason.UNSUPPORTED_FIELD,
            f"parallelism asks for {count} accelerators, and a node has at most {accelerator.per_node} "
            f"{accelerator.name}; replicas over several nodes are not supported by this version yet",
        )
