"""A rollout in sentences: how far it is, why it is held, why it went back, what an upgrade would bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from slipway_api.conditions import Reason
from slipway_operator.explain.findings import Finding, clean
from slipway_operator.kinds import Key
from slipway_operator.plan import Plan, Refusal
from slipway_operator.plan.rollout import Phase

HELD: Final[Mapping[Phase, Reason]] = {Phase.PAUSED: Reason.PAUSED, Phase.CANARY: Reason.CANARY}
MOST_SHOWN: Final = 4


def reverted(plan: Plan, key: Key) -> Finding:
    """Return that the newest revision never became ready, and what to do about it."""
    failed = plan.history.desired
    why = f"{failed.outcome.reason}: {clean(failed.outcome.message)}"
    message = (
        f"revision {failed.name} never became ready ({why}), "
        f"so revision {plan.course.target} runs again; correct the object, or change rollout.restartToken "
        f"to try the same once more"
    )
    return Finding(Reason.ROLLOUT_FAILED, message, f"kubectl -n {key.namespace} edit llmdep {key.name}")


def rolling(plan: Plan | Refusal, key: Key, updated: int, staying: int, wanted: int) -> Finding:
    """Return how far a rollout is."""
    message = f"{updated} of {wanted} pods run the newest spec"
    if staying > wanted:
        message += f", {staying - wanted} more are to go"
    if isinstance(plan, Plan) and plan.course.phase is Phase.PAUSED:
        return Finding(Reason.PAUSED, f"{message}, and spec.rollout.paused holds it there", on_the_way=True)
    if isinstance(plan, Plan) and plan.course.step.in_place:
        message += ", replaced in place one at a time, since no node has room for another"
    command = f"kubectl -n {key.namespace} get pods -l slipway.dev/deployment={key.name}"
    return Finding(Reason.PROGRESSING, message, command, on_the_way=True)


def upgrade(plan: Plan) -> str:
    """Return what the operator would make otherwise now; empty where it would make the same."""
    if not plan.history.outdated:
        return ""
    stale = list(plan.history.stale)
    what = "; ".join(stale[:MOST_SHOWN]) or "the pod template is another one"
    if len(stale) > MOST_SHOWN:
        what += f"; and {len(stale) - MOST_SHOWN} more"
    until = (
        f"until the upgrade may begin: {plan.upgrade.why}; another rollout.restartToken replaces them at once"
        if plan.upgrade.why
        else "until the object changes; rollout.upgradePolicy: Automatic, or another rollout.restartToken, "
        "replaces them"
    )
    age = "The pods are older than this operator, or than the class"
    return f"{age}: {clean(what)}. They stay as they are {until}."
