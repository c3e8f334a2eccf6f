"""The engine container's requests and limits: the object's, and defaults for what it does not mention.

A ceiling of the class cuts defaults, and is itself the limit where there would be none: a pod without a
memory limit could take any amount.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from slipway_api.quantity import parse_quantity
from slipway_api.v1alpha1 import Ceilings, LLMDeploymentSpec, ResourceRequirements

# Small enough that a first try schedules anywhere. The memory limit is what the engine plans with.
CPU_REQUESTS: Final = {"cpu": "500m", "memory": "2Gi"}
CPU_LIMITS: Final = {"memory": "2Gi"}
# Beside an accelerator the host only reads weights and feeds the device; no limit that could kill a load.
ACCELERATOR_REQUESTS: Final = {"cpu": "1", "memory": "8Gi"}

_FABRICS: Final = ("/efa",)

Note = Callable[[str, object, str], None]
Origin = Callable[[str], str]


@dataclass(frozen=True)
class Resources:
    """Requests and limits of the engine container."""

    requests: Mapping[str, str]
    limits: Mapping[str, str]


def resources_of(
    spec: LLMDeploymentSpec, devices: Mapping[str, str], most: Ceilings, note: Note, origin: Origin
) -> Resources:
    """Return requests and limits, `devices` among them, none on a CPU.

    `note` takes each and where it came from, `origin` says who set a field.
    """
    given = (spec.pod_template and spec.pod_template.resources) or ResourceRequirements()
    requests, limits = dict(given.requests or {}), dict(given.limits or {})
    mentioned = {*requests, *limits}
    for field, values in (("requests", requests), ("limits", limits)):
        for name, value in sorted(values.items()):
            note(f"podTemplate.resources.{field}.{name}", value, origin(f"podTemplate.resources.{field}"))
    ceilings = {
        name: value for name, value in (("cpu", most.cpu), ("memory", most.memory)) if value is not None
    }
    for field, values, defaults in (
        ("requests", requests, ACCELERATOR_REQUESTS if devices else CPU_REQUESTS),
        ("limits", limits, devices or CPU_LIMITS),
    ):
        # A resource the user mentions anywhere is the user's alone: a default beside it could contradict it.
        for name, value in defaults.items():
            if name not in mentioned:
                values[name] = _least(value, ceilings.get(name))
                note(f"podTemplate.resources.{field}.{name}", values[name], "built-in")
    for name, ceiling in ceilings.items():
        if name not in limits:
            limits[name] = ceiling
            note(f"podTemplate.resources.limits.{name}", ceiling, "ceilings of the class")
    return Resources(requests, limits)


def is_rdma(name: str) -> bool:
    """Return whether a resource is a network device that reads and writes memory by itself.

    Device plugins name them freely: `rdma/hca`, `nvidia.com/rdma_shared`, `vpc.amazonaws.com/efa`.
    """
    return "/" in name and ("rdma" in name or name.endswith(_FABRICS))


def _least(value: str, ceiling: str | None) -> str:
    return ceiling if ceiling is not None and parse_quantity(ceiling) < parse_quantity(value) else value
