"""What the autoscaler reads off an object's children: what is there, a rollout, how long a start takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from slipway_operator.autoscale.load import PodLoad
from slipway_operator.explain.pods import condition_of, is_leaving, is_ready
from slipway_operator.kinds import Object, key_of
from slipway_operator.moments import seconds_of

COST: Final = "controller.kubernetes.io/pod-deletion-cost"
FIRST_TO_GO: Final = "-100"
LONGEST_START: Final = 900.0
"""A start that took longer waited for a node, and says nothing about the next one."""


def live(deployments: Iterable[Object]) -> list[int]:
    """Return the replicas that each Deployment asks for, of those that ask for some."""
    counts = (int((one.get("spec") or {}).get("replicas") or 0) for one in deployments)
    return [count for count in counts if count]


def first_count(deployments: Sequence[Object], told: int | None, low: int) -> int:
    """Return how many replicas an operator finds wanted that has decided nothing yet.

    What runs is what was wanted; during a rollout, when more may run, what the status says of it. At zero it
    stays at zero only where that was decided: what has no replica yet gets one.
    """
    counts = live(deployments)
    if len(counts) == 1:
        return counts[0]
    if counts:
        return told if told else max(counts)
    return 0 if told == 0 and low == 0 and deployments else max(1, low)


def rolling(parent: Object, deployments: Sequence[Object]) -> bool:
    """Return whether pods of one revision are being replaced by another's, or are about to be."""
    generation = parent["metadata"].get("generation")
    seen = (parent.get("status") or {}).get("observedGeneration")
    return len(live(deployments)) > 1 or seen != generation


def start_seconds(pod: Object) -> float | None:
    """Return how long a pod took from its creation until it served; None where it does not serve."""
    created = seconds_of(pod["metadata"].get("creationTimestamp"))
    served = seconds_of(condition_of(pod, "Ready").get("lastTransitionTime"))
    if not is_ready(pod) or created is None or served is None or not 0 <= served - created <= LONGEST_START:
        return None
    return max(1.0, served - created)


def to_go(
    pods: Sequence[Object], loads: Mapping[str, PodLoad], count: int
) -> tuple[list[Object], list[Object]]:
    """Return the pods to mark as the first to go, and those whose mark is to be taken off.

    The least loaded of those that serve go. Pods that do not serve yet go before them by Kubernetes' own
    rules, so only what is left to be taken is marked.
    """
    staying = [pod for pod in pods if not is_leaving(pod)]
    serving = [pod for pod in staying if is_ready(pod)]
    count -= len(staying) - len(serving)
    serving.sort(key=lambda pod: (_requests(pod, loads), key_of(pod).name))
    chosen = serving[: max(0, count)]
    names = {key_of(pod).name for pod in chosen}
    mark = [pod for pod in chosen if _cost(pod) != FIRST_TO_GO]
    clear = [pod for pod in staying if _cost(pod) == FIRST_TO_GO and key_of(pod).name not in names]
    return mark, clear


def _requests(pod: Object, loads: Mapping[str, PodLoad]) -> float:
    load = loads.get(key_of(pod).name)
    return load.requests if load is not None else float("inf")


def _cost(pod: Object) -> str | None:
    cost = (pod["metadata"].get("annotations") or {}).get(COST)
    return None if cost is None else str(cost)
