"""The local copy: newer wins, own writes count at once, a list heals what a watch lost."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from slipway_api import names
from slipway_operator.freshness import Freshness
from slipway_operator.intake import Intake
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, LLM_CLASS, PARENT, POD, Key
from slipway_operator.metrics import Metrics
from slipway_operator.store import BURIED, Store, slim
from slipway_operator.workqueue import WorkQueue


def thing(name="x", version=1, *, uid="u", parent="chat", **more):
    labels = {names.LABEL_DEPLOYMENT: parent} if parent else {}
    meta = {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"metadata": meta, **more}


def test_an_older_version_never_replaces_a_newer_one():
    store = Store()
    assert store.put(DEPLOYMENT, thing(version=5, spec=5))
    assert not store.put(DEPLOYMENT, thing(version=4, spec=4))
    assert not store.put(DEPLOYMENT, thing(version=5, spec=5))
    assert store.get(DEPLOYMENT, Key("n", "x"))["spec"] == 5
    assert store.put(DEPLOYMENT, thing(version=10, spec=10))  # as numbers, not as text


def test_a_deletion_of_a_predecessor_leaves_the_successor():
    store = Store()
    store.put(DEPLOYMENT, thing(version=9, uid="new"))
    assert not store.drop(DEPLOYMENT, thing(version=8, uid="old"))
    assert store.get(DEPLOYMENT, Key("n", "x")) is not None
    assert store.drop(DEPLOYMENT, thing(version=10, uid="new"))
    assert store.get(DEPLOYMENT, Key("n", "x")) is None


def test_a_late_answer_or_list_does_not_bring_back_what_was_deleted():
    store = Store()
    store.drop(DEPLOYMENT, thing(version=9, uid="gone"))
    assert not store.put(DEPLOYMENT, thing(version=8, uid="gone"))
    assert store.heal(DEPLOYMENT, [thing(version=8, uid="gone")], as_of=8).missed == []
    assert store.get(DEPLOYMENT, Key("n", "x")) is None
    for number in range(BURIED):
        store.drop(DEPLOYMENT, thing(uid=str(number)))
    assert store.put(DEPLOYMENT, thing(version=8, uid="gone"))  # memory is bounded
    assert store.put(DEPLOYMENT, thing(version=10, uid="new"))


def test_owned_objects_are_found_by_their_parent_in_order():
    store = Store()
    for name in ("b", "a"):
        store.put(POD, thing(name))
    store.put(POD, thing("c", parent="other"))
    assert [pod["metadata"]["name"] for pod in store.owned(POD, Key("n", "chat"))] == ["a", "b"]
    store.put(POD, thing("a", version=2, parent="other"))
    assert [pod["metadata"]["name"] for pod in store.owned(POD, Key("n", "chat"))] == ["b"]
    assert store.owned(POD, Key("n", "nobody")) == []


def test_a_list_brings_what_is_new_and_takes_what_is_gone():
    store = Store()
    for name, version in (("kept", 3), ("gone", 4), ("late", 12)):
        store.put(POD, thing(name, version, parent=name))
    healed = store.heal(POD, [thing("kept", 3, parent="kept"), thing("new", 9, parent="new")], as_of=10)
    assert {str(key) for key in healed.parents} == {"n/gone", "n/new"}
    assert [obj["metadata"]["name"] for obj in healed.missed] == ["new"]
    assert set(store.keys(POD)) == {Key("n", "kept"), Key("n", "new"), Key("n", "late")}


def test_slimming_keeps_what_is_read(recorded):
    pod = recorded.load("pod-secret")
    limits = {"nvidia.com/gpu": "2", "memory": "2Gi"}
    pod["spec"]["containers"] = [{"name": "engine", "args": ["x"], "resources": {"limits": limits}}]
    slimmed = slim(POD, pod)["spec"]
    assert slimmed.pop("containers") == [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]
    assert slimmed == {
        k: pod["spec"][k] for k in ("imagePullSecrets", "nodeName", "terminationGracePeriodSeconds")
    }
    revision = recorded.load("live-controllerrevision")
    assert json.loads(slim(CONTROLLER_REVISION, revision)["data"]) == revision["data"]
    live = recorded.load("live-deployment")
    managers = {entry["manager"] for entry in live["metadata"]["managedFields"]}
    assert managers == {names.FIELD_MANAGER, "kube-controller-manager"}
    kept = slim(DEPLOYMENT, live)["metadata"]["managedFields"]
    assert {entry["manager"] for entry in kept} == {names.FIELD_MANAGER}
    assert live["metadata"]["managedFields"] != kept  # the original stays whole


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9), st.booleans()), max_size=30))
def test_whatever_order_events_come_in_the_newest_stays(events):
    store, newest = Store(), {}
    for name, version, by_list in events:
        if by_list:
            store.heal(
                PARENT,
                [thing(n, v) for n, v in {**newest, name: max(version, newest.get(name, 0))}.items()],
                99,
            )
        else:
            store.put(PARENT, thing(name, version))
        newest[name] = max(version, newest.get(name, 0))
    assert {
        key.name: int(store.get(PARENT, key)["metadata"]["resourceVersion"]) for key in store.keys(PARENT)
    } == newest


# -- whether the watches deliver ----------------------------------------------------------------------------

KEY = Key("n", "x")


def test_a_delivered_version_is_owed_no_more():
    fresh = Freshness(grace=60)
    fresh.expect(POD, thing(version=5), now=0)
    fresh.deliver(POD, thing(version=5), now=1)
    assert not fresh.suspects(POD, now=1000)
    assert fresh.age(POD, now=11) == 10
    assert fresh.age(DEPLOYMENT, now=11) is None


def test_a_watch_that_owes_for_too_long_is_dead_once_a_list_was_answered():
    fresh = Freshness(grace=60)
    fresh.expect(POD, thing(version=5), now=0)
    assert not fresh.suspects(POD, now=60)
    assert fresh.suspects(POD, now=61)
    assert fresh.dead() == []
    fresh.listed(POD, {KEY}, now=61)
    assert "the watch of pods has not delivered n/x" in fresh.dead()[0]
    fresh.deliver(POD, thing(version=5), now=70)
    assert fresh.dead() == []


def test_a_silent_api_server_is_not_the_watchs_fault():
    fresh = Freshness(grace=60)
    fresh.expect(POD, thing(version=5), now=0)
    fresh.unanswered(POD, now=300)
    fresh.listed(POD, {KEY}, now=310)
    assert fresh.dead() == []
    fresh.listed(POD, {KEY}, now=361)
    assert fresh.dead()


def test_an_object_that_is_gone_is_owed_no_more():
    fresh = Freshness(grace=60)
    fresh.expect(POD, thing(version=5), now=0)
    fresh.listed(POD, set(), now=100)
    assert fresh.dead() == []
    fresh.expect(POD, thing(version=5), now=0)
    fresh.deliver(POD, thing(version=3), now=90, deleted=True)
    fresh.listed(POD, {KEY}, now=1000)
    assert fresh.dead() == []


def test_a_watch_that_lags_is_alive_and_a_busy_writer_does_not_hide_a_dead_one():
    lagging, dead = Freshness(grace=60), Freshness(grace=60)
    for minute in range(10):
        for fresh in (lagging, dead):
            fresh.expect(POD, thing(version=10 * minute + 10), now=50 * minute)
        lagging.deliver(POD, thing(version=10 * minute + 5), now=50 * minute + 1)
    for fresh in (lagging, dead):
        fresh.listed(POD, {KEY}, now=500)
    assert lagging.dead() == []
    assert dead.dead()


async def test_a_class_queues_whom_it_can_concern(recorded):
    store, queue = Store(), WorkQueue()
    intake = Intake(store, queue, WorkQueue(), Freshness(60), Metrics())
    for name, class_name in (("named", "standard"), ("other", "fast"), ("none", None)):
        store.put(PARENT, recorded.parent(name, **({"className": class_name} if class_name else {})))

    async def queued():
        keys = set()
        while len(queue):
            keys.add(key := await queue.get())
            queue.done(key)
        return {key.name for key in keys}

    meta = {"name": "standard", "uid": "u", "labels": {names.LABEL_DEPLOYMENT: "other"}}
    for version, event in ((1, None), (2, "MODIFIED"), (3, "DELETED")):
        intake.take(LLM_CLASS, event, {"metadata": {**meta, "resourceVersion": str(version)}, "spec": {}})
        assert await queued() == {"named", "none"}
    intake.heal(
        LLM_CLASS, [{"metadata": {"name": "fast", "uid": "v", "resourceVersion": "9"}, "spec": {}}], 9
    )
    assert await queued() == {"other", "none"}
