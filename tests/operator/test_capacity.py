"""Who holds what a pod waits for: named in the same namespace, counted in others, and never guessed."""

from __future__ import annotations

from slipway_api import names
from slipway_operator.explain.capacity import holders_of
from slipway_operator.kinds import Key

GPU = "nvidia.com/gpu"
KEY = Key("team", "chat")


def pod(name, namespace="team", count=1, node="n", phase="Running"):
    container = {"resources": {"limits": {GPU: str(count), "memory": "1Gi"}}}
    return {
        "metadata": {"name": "p", "namespace": namespace, "labels": names.labels_of(name)},
        "spec": {"containers": [container], **({"nodeName": node} if node else {})},
        "status": {"phase": phase},
    }


def test_each_is_told_as_far_as_it_may_be():
    pods = [pod("chat"), pod("code", count=2), pod("secret-project", "other", 4), pod("chat", "other")]
    told = holders_of({GPU}, KEY, pods, everywhere=True)
    assert told == f"of {GPU}, its own pods hold 1, code holds 2, other namespaces hold 5"
    assert holders_of({"amd.com/gpu"}, KEY, pods, everywhere=True) == ""


def test_who_waits_or_has_ended_holds_nothing():
    pods = [pod("code", node=""), pod("code", phase="Succeeded"), pod("code", phase="Failed")]
    assert holders_of({GPU}, KEY, pods, everywhere=True) == ""


def test_many_are_summed_up():
    pods = [pod(f"m{number}", count=9 - number) for number in range(6)]
    assert holders_of({GPU}, KEY, pods, everywhere=True) == (
        f"of {GPU}, m0 holds 9, m1 holds 8, m2 holds 7, others of this namespace hold 15"
    )


def test_what_an_operator_of_single_namespaces_does_not_see_it_says():
    unseen = "what is held beyond the namespaces of this operator is not known to it"
    assert holders_of({GPU}, KEY, [], everywhere=False) == f"of {GPU}, {unseen}"
    assert holders_of({GPU}, KEY, [pod("chat")], everywhere=False) == (
        f"of {GPU}, its own pods hold 1, {unseen}"
    )
