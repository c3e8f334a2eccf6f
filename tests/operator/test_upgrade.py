"""When an upgrade may replace pods: by policy, within the class's window, so many of a class at once."""

from __future__ import annotations

import pytest

from slipway_api.v1alpha1 import LLMClassSpec, LLMDeploymentSpec
from slipway_operator.kinds import PARENT, Key
from slipway_operator.moments import opens_in, seconds_of, text_of
from slipway_operator.observe import observe
from slipway_operator.plan import World
from slipway_operator.plan.upgrade import SETTLE_SECONDS, permission
from slipway_operator.store import Store

SATURDAY_NOON = seconds_of("2026-11-21T12:00:00Z")
MODEL = {"model": {"source": "file:///m"}}


@pytest.mark.parametrize(
    ("window", "opens"),
    [
        (("11:30", 60, None, None), 0),
        (("12:00", 10, None, None), 0),
        (("12:30", 60, None, None), 1800),
        (("11:00", 60, None, None), 23 * 3600),
        (("23:00", 840, ["Fri"], None), 0),  # it began yesterday
        (("12:00", 60, ["Mon"], None), 2 * 86_400),
        (("13:00", 60, None, "Europe/Berlin"), 0),
        (("04:00", 60, ["Sat"], "America/Los_Angeles"), 0),
    ],
)
def test_windows_open_on_their_days_in_their_zone(window, opens):
    start, minutes, days, zone = window
    assert opens_in(SATURDAY_NOON, start, minutes, days, zone) == opens


def outdated(recorded, since, name="chat", **status):
    parent = recorded.parent(name)
    told = {"type": "UpToDate", "status": "False", "lastTransitionTime": text_of(since)}
    parent["status"] = {"className": "std", "conditions": [told], **status}
    return parent


def allowed(recorded, upgrade, *, own=None, ahead=0, since=SATURDAY_NOON - SETTLE_SECONDS):
    spec = LLMDeploymentSpec.model_validate({**MODEL, **({"rollout": {"upgradePolicy": own}} if own else {})})
    offer = LLMClassSpec.model_validate({"upgrade": upgrade}) if upgrade is not None else None
    return permission(spec, offer, World(outdated(recorded, since), ahead=ahead), SATURDAY_NOON)


def test_nothing_is_replaced_unless_somebody_asked_for_it(recorded):
    assert not allowed(recorded, None).granted
    assert not allowed(recorded, {}).granted
    assert not allowed(recorded, {"policy": "Automatic"}, own="OnChange").granted
    assert allowed(recorded, None, own="Automatic").granted
    assert allowed(recorded, {"policy": "Automatic"}).granted


def test_a_class_has_a_window_and_takes_turns(recorded):
    late = {"policy": "Automatic", "window": {"start": "13:00", "durationMinutes": 60}}
    waits = allowed(recorded, late)
    assert (waits.granted, waits.again) == (False, 3600)
    assert "opens at 13:00" in waits.why
    lost = {"policy": "Automatic", "window": {"start": "13:00", "durationMinutes": 60, "timeZone": "Mars/X"}}
    assert "time zone Mars/X is unknown" in allowed(recorded, lost).why
    assert allowed(recorded, {"policy": "Automatic", "maxConcurrent": 3}, ahead=2).granted
    turn = allowed(recorded, {"policy": "Automatic"}, ahead=1)
    assert "upgrade.maxConcurrent" in turn.why
    assert turn.again
    early = allowed(recorded, {"policy": "Automatic"}, since=SATURDAY_NOON - 20)
    assert (early.granted, early.again) == (False, SETTLE_SECONDS - 20)


def test_the_order_of_a_class_is_read_off_its_statuses(recorded):
    store = Store()
    two = [{"name": "x", "replicas": 1}, {"name": "y", "replicas": 1}]
    for parent in (
        outdated(recorded, 0, "chat"),
        outdated(recorded, 0, "before"),
        outdated(recorded, 0, "later"),
        outdated(recorded, 0, "rolling", revisions=two),
        outdated(recorded, 0, "another", className="other"),
    ):
        store.put(PARENT, parent)
    assert observe(store, Key("team", "chat"), {}).ahead == 2
    assert observe(store, Key("team", "before"), {}).ahead == 1
