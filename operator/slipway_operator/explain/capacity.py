"""Who holds the accelerators that a pod waits for, as far as the operator knows: its own pods.

Objects of the same namespace are named; of other namespaces only the number is told, since a tenant's status
is no place to read about another tenant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from slipway_operator.explain.pods import condition_of, is_leaving
from slipway_operator.kinds import Key, Object, parent_key

MOST_NAMED = 3


def wanted_resources(pods: Iterable[Object]) -> frozenset[str]:
    """Return the accelerators for which pods wait that no node takes."""
    stuck = (pod for pod in pods if condition_of(pod, "PodScheduled").get("reason") == "Unschedulable")
    return frozenset(name for pod in stuck if not is_leaving(pod) for name in _accelerators(pod))


def holders_of(resources: Collection[str], key: Key, pods: Iterable[Object], *, everywhere: bool) -> str:
    """Return who holds some of `resources`, in words; empty where nobody does.

    `everywhere` is whether `pods` are those of all namespaces: what is not seen is said, not guessed.
    """
    held: Counter[Key] = Counter()
    for pod in pods:
        owner = parent_key(pod)
        if owner is not None and (pod.get("spec") or {}).get("nodeName") and _lives(pod):
            held[owner] += sum(count for name, count in _accelerators(pod).items() if name in resources)
    own = held.pop(key, 0)
    near = [
        (other.name, count)
        for other, count in held.most_common()
        if other.namespace == key.namespace and count
    ]
    far = sum(count for other, count in held.items() if other.namespace != key.namespace)
    words = [f"its own pods hold {own}"] if own else []
    words += [f"{name} holds {count}" for name, count in near[:MOST_NAMED]]
    rest = sum(count for _, count in near[MOST_NAMED:])
    words += [f"others of this namespace hold {rest}"] if rest else []
    words += [f"other namespaces hold {far}"] if far else []
    words += [] if everywhere else ["what is held beyond the namespaces of this operator is not known to it"]
    return f"of {', '.join(sorted(resources))}, {', '.join(words)}" if words else ""


def _lives(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _accelerators(pod: Object) -> Counter[str]:
    found: Counter[str] = Counter()
    for container in (pod.get("spec") or {}).get("containers") or ():
        for name, count in ((container.get("resources") or {}).get("limits") or {}).items():
            if "/" in name and str(count).isdigit():
                found[name] += int(count)
    return found
