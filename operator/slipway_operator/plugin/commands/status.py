"""Show one deployment as a tree: the object, its conditions, revisions, pods, and the events that matter.

Exit status 0 where it is Ready, 3 where it is not, so that scripts can ask.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any, Final

from rich.text import Text
from rich.tree import Tree

from slipway_api.conditions import Condition
from slipway_operator.explain.pods import explain_pod, is_leaving, is_ready
from slipway_operator.kinds import Object, key_of
from slipway_operator.plugin import screen
from slipway_operator.plugin.facts import Facts, describe_event, gather, place, revision_of, when
from slipway_operator.plugin.kubectl import Kubectl

NAME = "status"
SUMMARY = "show a deployment as a tree: conditions, revisions, pods, events"
MOST_EVENTS: Final = 5
NOT_READY: Final = 3

_ABNORMAL: Final = frozenset({Condition.RECONCILING, Condition.STALLED})


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("name", help="the LLMDeployment")


def run(options: Namespace, cluster: Kubectl) -> int:
    """Print the tree; 3 where the deployment is not Ready."""
    facts = gather(cluster, options.name)
    if options.output == "text":
        screen.console().print(draw(facts))
    else:
        screen.machine(summary(facts), options.output)
    return 0 if facts.condition(Condition.READY).get("status") == "True" and facts.seen else NOT_READY


def summary(facts: Facts) -> dict[str, Any]:
    """Return the tree as plain values."""
    return {
        "name": place(facts.parent),
        "ready": facts.condition(Condition.READY).get("status"),
        "upToDate": facts.seen,
        "url": facts.status.get("url"),
        "conditions": list(facts.status.get("conditions") or ()),
        "revisions": {revision: [_pod(pod) for pod in pods] for revision, pods in facts.revisions().items()},
        "events": [
            {"time": when(event), "event": describe_event(event)} for event in facts.events[-MOST_EVENTS:]
        ],
    }


def draw(facts: Facts) -> Tree:
    """Return the tree for a person."""
    ready = facts.condition(Condition.READY)
    state = {"True": True, "False": False}.get(str(ready.get("status")))
    title = screen.line(state, place(facts.parent), f"[{ready.get('reason', 'not looked at yet')}]")
    root = Tree(title, guide_style="dim")
    if ready.get("message"):
        root.add(Text(str(ready["message"])))
    if not facts.seen:
        root.add(screen.line(None, "the operator has not looked at the latest change yet"))
    if facts.status.get("url"):
        root.add(Text(f"url {facts.status['url']}"))
    _draw_conditions(root, facts)
    for revision, pods in facts.revisions().items():
        _draw_revision(root, facts, revision, pods)
    _draw_events(root, facts)
    return root


def _draw_conditions(root: Tree, facts: Facts) -> None:
    branch = root.add(Text("conditions", style="bold"))
    for condition in facts.status.get("conditions") or ():
        if condition["type"] == Condition.READY:
            continue
        abnormal = condition["type"] in _ABNORMAL
        good = condition["status"] == ("False" if abnormal else "True")
        known = condition["status"] != "Unknown"
        sign = (
            good
            if known and not (abnormal and condition["type"] == Condition.RECONCILING and not good)
            else None
        )
        branch.add(
            screen.line(sign, f"{condition['type']}={condition['status']}", f"({condition['reason']})")
        )


def _draw_revision(root: Tree, facts: Facts, revision: str, pods: list[Object]) -> None:
    workload = next((w for w in facts.workloads if revision_of(w) == revision), None)
    wanted = (workload or {}).get("spec", {}).get("replicas", 0)
    ready = sum(is_ready(pod) for pod in pods)
    name = f"revision {revision}"
    branch = root.add(screen.line(ready >= wanted, name, f"{ready} of {wanted} ready"))
    for pod in pods:
        branch.add(_draw_pod(pod))


def _draw_pod(pod: Object) -> Text:
    node = (pod.get("spec") or {}).get("nodeName") or "no node"
    finding = explain_pod(pod)
    if finding is None:
        return screen.line(True, key_of(pod).name, f"on {node}")
    going = finding.on_the_way or is_leaving(pod)
    return screen.line(None if going else False, key_of(pod).name, f"on {node}:", finding.message)


def _draw_events(root: Tree, facts: Facts) -> None:
    if facts.events:
        branch = root.add(Text("warnings", style="bold"))
        for event in facts.events[-MOST_EVENTS:]:
            branch.add(Text(f"{when(event)} {describe_event(event)}"))


def _pod(pod: Object) -> dict[str, Any]:
    finding = explain_pod(pod)
    return {
        "name": key_of(pod).name,
        "node": (pod.get("spec") or {}).get("nodeName"),
        "ready": is_ready(pod),
        "reason": str(finding.reason) if finding else None,
        "message": finding.message if finding else None,
    }
