"""Which nodes a pod may take: those that have the accelerator, of the capacity asked for.

Clouds and provisioners label nodes that may be taken back each in their own way; a node is one if any of the
labels says so. Sources: the documentation of Karpenter, EKS managed node groups, GKE Spot VMs and AKS spot
pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from slipway_operator.kinds import Object
from slipway_operator.plan.effective import Effective

SPOT_LABELS: Final = (
    ("karpenter.sh/capacity-type", "spot"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("cloud.google.com/gke-spot", "true"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
)
SPOT_TAINTS: Final = (
    ("cloud.google.com/gke-spot", "true"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
)
"""Taints that two of them put on such nodes."""
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def affinity_of(given: Object, values: Effective) -> Object:
    """Return the user's affinity, with what the accelerator and the capacity need in every one of its
    terms."""
    common, either = _accelerator(values), _either(values.layout.capacity)
    if values.layout.capacity == "on-demand":
        common += [_expression(key, "NotIn", [value]) for key, value in SPOT_LABELS]
    node = dict(given.get("nodeAffinity") or {})
    if common or either:
        # Terms are alternatives, so each of them has to ask for everything.
        terms = (node.get(_REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
        node[_REQUIRED] = {
            "nodeSelectorTerms": [_with(term, [*common, *one]) for term in terms for one in either or [[]]]
        }
    if values.layout.capacity == "prefer-spot":
        preferred = [{"weight": 100, "preference": _with({}, one)} for one in _either("spot")]
        node[_PREFERRED] = [*(node.get(_PREFERRED) or ()), *preferred]
    return {**given, "nodeAffinity": node} if node else given


def tolerations_of(given: Sequence[Object], values: Effective) -> list[Object]:
    """Return the user's tolerations, and those for the taints of spot nodes where such nodes are wanted."""
    if values.layout.capacity not in ("spot", "prefer-spot"):
        return list(given)
    own = [
        {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        for key, value in SPOT_TAINTS
    ]
    return [*given, *(one for one in own if one not in given)]


def _accelerator(values: Effective) -> list[Object]:
    products = values.accelerator.node_products
    return [_expression(values.accelerator.product_label, "In", list(products))] if products else []


def _either(capacity: str | None) -> list[list[Object]]:
    return [[_expression(key, "In", [value])] for key, value in SPOT_LABELS] if capacity == "spot" else []


def _with(term: Object, expressions: Sequence[Object]) -> Object:
    return {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), *expressions]}


def _expression(key: str, operator: str, values: list[str]) -> Object:
    return {"key": key, "operator": operator, "values": values}
