"""Say why a deployment does not serve, and which command to run next.

The operator's own sentence comes first; then what the pods, their events and the last lines of their logs
say. Exit status 0 where there is nothing to explain, 3 where something blocks.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass, field
from typing import Final

from rich.text import Text

from slipway_api.conditions import Condition
from slipway_operator.explain.findings import Finding, worst
from slipway_operator.explain.pods import explain_pod
from slipway_operator.kinds import key_of
from slipway_operator.plugin import screen
from slipway_operator.plugin.errors import PluginError
from slipway_operator.plugin.facts import Facts, describe_event, gather, place
from slipway_operator.plugin.kubectl import Kubectl

NAME = "why"
SUMMARY = "say why a deployment does not serve, and what to run next"
BLOCKED: Final = 3
RUNBOOK: Final = "docs/operations/conditions.md"
LAST_LINES: Final = 8
MOST_EVENTS: Final = 3


@dataclass
class Answer:
    """What blocks, in one sentence, with the evidence and the next command."""

    deployment: str
    blocked: bool
    reason: str
    sentence: str
    command: str = ""
    runbook: str = ""
    evidence: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("name", help="the LLMDeployment")


def run(options: Namespace, cluster: Kubectl) -> int:
    """Print the answer; 3 where something blocks."""
    facts = gather(cluster, options.name)
    answer = explain(facts)
    finding = worst(found for pod in facts.pods if (found := explain_pod(pod)))
    if answer.blocked and finding is not None and not finding.on_the_way:
        answer.log = _log(cluster, facts, finding)
    if options.output == "text":
        _print(answer)
    else:
        screen.machine(asdict(answer), options.output)
    return BLOCKED if answer.blocked else 0


def explain(facts: Facts) -> Answer:
    """Return why the deployment does not serve."""
    where = place(facts.parent)
    if not facts.seen:
        return _unseen(facts, where)
    ready = facts.condition(Condition.READY)
    reason, message = str(ready.get("reason", "")), str(ready.get("message", ""))
    if ready.get("status") == "True":
        return Answer(where, False, reason, message or "It serves.")
    sentence, _, command = message.partition("; run `")
    finding = worst(found for pod in facts.pods if (found := explain_pod(pod)))
    return Answer(
        where,
        True,
        reason,
        sentence,
        command.rstrip(".`") or (finding.command if finding else ""),
        f"{RUNBOOK}#{reason.lower()}",
        [describe_event(event) for event in facts.events[-MOST_EVENTS:]],
    )


def _unseen(facts: Facts, where: str) -> Answer:
    """Return that the operator lags or is not there: then every condition is old news."""
    generation = facts.parent["metadata"].get("generation")
    seen = facts.status.get("observedGeneration") or "none"
    return Answer(
        where,
        True,
        "NotObserved",
        f"The operator has seen generation {seen} of this object, which is now at {generation}: it is busy, "
        "does not watch this namespace, or does not run",
        "kubectl get pods -A -l app.kubernetes.io/name=slipway-operator",
    )


def _log(cluster: Kubectl, facts: Facts, finding: Finding) -> list[str]:
    """Return the last lines of the container that failed, where there are any."""
    for pod in facts.pods:
        if explain_pod(pod) == finding:
            try:
                lines = cluster.log(key_of(pod).name, LAST_LINES)
            except PluginError:
                return []  # no container of the pod has started: its events have said why
            return lines
    return []


def _print(answer: Answer) -> None:
    out = screen.console()
    out.print(screen.line(not answer.blocked, f"{answer.deployment} [{answer.reason}]"))
    out.print(Text(answer.sentence))
    for line in answer.evidence:
        out.print(Text(f"  {line}", style="dim"))
    if answer.log:
        out.print(Text("  last lines of its log:", style="dim"))
        for line in answer.log:
            out.print(Text(f"  | {line}", style="dim"))
    if answer.command:
        out.print(Text.assemble("next: ", (answer.command, "bold")))
    if answer.runbook:
        out.print(Text(f"more: {answer.runbook}", style="dim"))
