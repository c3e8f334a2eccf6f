"""What `status` and `why` say of a deployment, from recorded objects."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from slipway_operator.kinds import Object
from slipway_operator.plugin.commands import status, why
from slipway_operator.plugin.facts import Facts


def facts(recorded: Any, parent: Object, pods: list[Object], events: list[Object] | None = None) -> Facts:
    return Facts(parent, [], pods, events or [])


def with_ready(parent: Object, value: str, reason: str, message: str) -> Object:
    condition = {"type": "Ready", "status": value, "reason": reason, "message": message}
    parent["status"] = {"observedGeneration": parent["metadata"]["generation"], "conditions": [condition]}
    return parent


def drawn(found: Facts) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(status.draw(found))
    return capture.get()


def test_the_tree_shows_pods_under_their_revision_with_what_holds_them(recorded: Any) -> None:
    parent = with_ready(recorded.parent(), "False", "Unschedulable", "1 of 1 pods wait.")
    pod = recorded.pod(parent, "pod-sched")
    text = drawn(facts(recorded, parent, [pod]))
    assert "✘ team/chat [Unschedulable]" in text
    assert f"revision {recorded.plan(parent).revision}" in text
    assert "no node takes the pod" in text


def test_why_takes_the_operators_sentence_and_its_command(recorded: Any) -> None:
    message = "1 of 1 pods fail: no node fits; run `kubectl -n team describe pod chat-1-a`."
    parent = with_ready(recorded.parent(), "False", "Unschedulable", message)
    event = {"involvedObject": {"kind": "Pod", "name": "chat-1-a"}, "reason": "FailedScheduling", "count": 3,
             "message": "0/1 nodes"}  # fmt: skip
    answer = why.explain(facts(recorded, parent, [recorded.pod(parent, "pod-sched")], [event]))
    assert answer.blocked
    assert answer.sentence == "1 of 1 pods fail: no node fits"
    assert answer.command == "kubectl -n team describe pod chat-1-a"
    assert answer.evidence == ["Pod/chat-1-a: FailedScheduling: 0/1 nodes (3 times)"]
    assert answer.runbook.endswith("conditions.md#unschedulable")


def test_an_operator_that_has_not_looked_is_the_first_suspect(recorded: Any) -> None:
    parent = with_ready(recorded.parent(generation=4), "True", "Ready", "")
    parent["status"]["observedGeneration"] = 3
    answer = why.explain(facts(recorded, parent, []))
    assert answer.blocked
    assert answer.reason == "NotObserved"
    assert "generation 3" in answer.sentence


def test_nothing_blocks_where_it_serves(recorded: Any) -> None:
    parent = with_ready(recorded.parent(), "True", "Ready", "2 of 2 replicas serve.")
    answer = why.explain(facts(recorded, parent, [recorded.ready(parent)]))
    assert not answer.blocked
    assert answer.sentence == "2 of 2 replicas serve."
