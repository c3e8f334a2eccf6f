"""When a status is written: decisions at once, passing stages once they last."""

from __future__ import annotations

import copy

import pytest

from slipway_api.conditions import Reason
from slipway_operator.kinds import Key
from slipway_operator.pace import PASSING, SETTLE_SECONDS, Pace, urgent

KEY = Key("team", "chat")


def status(reason=Reason.PROGRESSING, value="False", message="0 of 1 pods", **more):
    ready = {"type": "Ready", "status": value, "reason": reason, "message": message, "observedGeneration": 1}
    return {"observedGeneration": 1, "ready": "0/1", "replicas": 0, "conditions": [ready], **more}


@pytest.mark.parametrize("reason", sorted(PASSING))
def test_a_passing_stage_and_its_counts_wait(reason):
    later = status(reason, message="pods wait for a node", replicas=1, updatedReplicas=1)
    later["revisions"] = [{"name": "r1", "replicas": 1, "readyReplicas": 0}]
    assert not urgent(status(), later)


@pytest.mark.parametrize(
    "later",
    [
        status(value="True", reason=Reason.READY),
        status(Reason.MODEL_NOT_FOUND),
        status(observedGeneration=2),
        status(revision="r2"),
        status(lastGoodRevision="r1"),
        status(plan={"measured": {"weights": 1}}),
        status(revisions=[{"name": "r1"}, {"name": "r2"}]),
    ],
    ids=["value", "reason", "generation", "revision", "good", "measured", "rollout"],
)
def test_what_counts_is_written_at_once(later):
    assert urgent(status(), later)
    assert Pace().wait(KEY, status(), later, 10.0) == 0.0


def test_another_sentence_about_a_failure_is_written_at_once():
    assert urgent(status(Reason.MODEL_NOT_FOUND, message="a"), status(Reason.MODEL_NOT_FOUND, message="b"))


def test_the_first_status_is_written_at_once():
    assert Pace().wait(KEY, {}, status(), 10.0) == 0.0


def test_a_stage_that_lasts_is_written_and_the_next_one_waits_anew():
    pace, later = Pace(), status(Reason.SCHEDULING)
    assert pace.wait(KEY, status(), later, 10.0) == SETTLE_SECONDS
    assert pace.wait(KEY, status(), status(Reason.STARTING), 11.5) == SETTLE_SECONDS - 1.5  # since the first
    assert pace.wait(KEY, status(), later, 10.0 + SETTLE_SECONDS) == 0.0
    assert pace.wait(KEY, later, status(Reason.STARTING), 20.0) == SETTLE_SECONDS


def test_what_came_back_by_itself_is_not_written_late():
    pace = Pace()
    assert pace.wait(KEY, status(), status(Reason.STARTING), 10.0)
    assert pace.wait(KEY, status(), copy.deepcopy(status()), 11.0) == 0.0
    assert pace.wait(KEY, status(), status(Reason.STARTING), 20.0) == SETTLE_SECONDS
