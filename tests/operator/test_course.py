"""Whole rollouts through the real reconciler: revisions, pods, failures, faults at every single write."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_operator.caches import Caches
from slipway_operator.errors import Conflict, Retryable
from slipway_operator.freshness import Freshness
from slipway_operator.intake import Intake
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, PARENT, POD, Key, key_of
from slipway_operator.metrics import Metrics
from slipway_operator.moments import steady_clock, text_of
from slipway_operator.plan.history import KEPT
from slipway_operator.plan.revision import LABEL_REVISION, NOT_SHAPING, shaping
from slipway_operator.progress import ask
from slipway_operator.reconcile import Reconciler
from slipway_operator.relist import Relister
from slipway_operator.store import Store
from slipway_operator.workqueue import WorkQueue

KEY = Key("team", "chat")
ACCELERATOR = "nvidia.com/gpu"


class Kubernetes:
    """What the controllers, the scheduler and the kubelets do to the objects of a `Server`, a tick at a time.

    `works` says of a pod's arguments whether that engine ever serves; `slots` is how many pods find a node.
    """

    def __init__(self, server, recorded, slots=100, works=lambda args: "broken" not in args):
        self.server, self.recorded, self.slots, self.works = server, recorded, slots, works
        self.now, self.made = recorded.moment, 0
        self.least, self.watched = 99, False
        self.operator = self.restart()

    def restart(self, here=None):
        """Start another operator, which knows nothing but what a relist tells it."""
        store, queue, cache_queue = Store(), WorkQueue(), WorkQueue()
        intake = Intake(store, queue, cache_queue, Freshness(60), Metrics())
        caches = Caches(store, self.server, intake.remember, ask, cache_queue.add, queue.add)
        self.relister = Relister(self.server, intake, [None], 300)
        self.operator = Reconciler(
            store, self.server, here or self.recorded.here, intake.remember, caches, clock=lambda: self.now
        )
        return self.operator

    async def reconcile(self):
        await self.relister.fill()
        return await self.operator.reconcile(KEY)

    async def settle(self, ticks=80):
        """Run until nothing has been written or moved for longer than anything is waited for here."""
        quiet = 0
        for _ in range(ticks):
            written = len(self.server.writes)
            await self.reconcile()
            moved = self.tick()
            quiet = 0 if moved or len(self.server.writes) > written else quiet + 1
            if quiet > 5:
                return
        raise AssertionError("no fixed point")

    def put(self, generation, **spec):
        parent = self.recorded.parent(generation=generation, **spec)
        live = self.server.objects.get((PARENT, KEY))
        if live is not None:
            parent = {**live, "spec": parent["spec"]}
            parent["metadata"] = {**live["metadata"], "generation": generation}
        self.server.put(PARENT, parent)

    def pods(self, revision=None):
        found = self.server.listing(POD)
        return [p for p in found if revision in (None, p["metadata"]["labels"][LABEL_REVISION])]

    @property
    def ready(self):
        return sum(_ready(pod) for pod in self.pods())

    def tick(self, seconds=15):
        self.now += seconds
        before = [(p["metadata"]["name"], p["metadata"]["resourceVersion"]) for p in self.pods()]
        for deployment in self.server.listing(DEPLOYMENT):
            self._sync(deployment)
        owners = {d["metadata"]["uid"] for d in self.server.listing(DEPLOYMENT)}
        for pod in self.pods():
            self._live(pod, orphan=pod["metadata"]["annotations"]["of"] not in owners)
        if self.watched:
            self.least = min(self.least, self.ready)
        return before != [(p["metadata"]["name"], p["metadata"]["resourceVersion"]) for p in self.pods()]

    def _sync(self, deployment):
        uid = deployment["metadata"]["uid"]
        mine = [p for p in self.pods() if p["metadata"]["annotations"]["of"] == uid and not _leaving(p)]
        wanted = deployment["spec"]["replicas"]
        for pod in sorted(mine, key=_ready)[: max(0, len(mine) - wanted)]:
            pod["metadata"]["deletionTimestamp"] = text_of(self.now)
            self.server.put(POD, pod)
        for _ in range(wanted - len(mine)):
            self._make(deployment)
        mine = [p for p in self.pods() if p["metadata"]["annotations"]["of"] == uid and not _leaving(p)]
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(mine),
            "updatedReplicas": len(mine),
            "readyReplicas": sum(_ready(p) for p in mine),
        }
        if deployment.get("status") != status:
            self.server.put(DEPLOYMENT, {**deployment, "status": status})

    def _make(self, deployment):
        self.made += 1
        template = copy.deepcopy(deployment["spec"]["template"])
        owner = {"kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": True}
        name = f"{deployment['metadata']['name']}-{self.made}"
        meta = {**template["metadata"], "name": name, "namespace": "team", "ownerReferences": [owner]}
        meta |= {"uid": f"uid-of-{name}", "annotations": {"of": deployment["metadata"]["uid"]}}
        pod = {"metadata": meta, "spec": template["spec"], "status": {"phase": "Pending", "conditions": []}}
        self._tell(pod, PodScheduled="Unknown", Ready="False")
        self.server.put(POD, pod)

    def _live(self, pod, *, orphan):
        name = pod["metadata"]["name"]
        if _leaving(pod) or orphan:
            del self.server.objects[POD, Key("team", name)]
            return
        before = copy.deepcopy(pod)
        scheduled = _condition(pod, "PodScheduled")
        if scheduled["status"] != "True":
            used = sum(_condition(p, "PodScheduled")["status"] == "True" for p in self.pods())
            if used < self.slots:
                pod["spec"]["nodeName"] = "n"
                self._tell(pod, PodScheduled="True", Initialized="True")
            else:
                self._tell(pod, PodScheduled="False")
                told = _condition(pod, "PodScheduled")
                told |= {"reason": "Unschedulable", "message": f"0/1 nodes: 1 Insufficient {ACCELERATOR}"}
        elif not _ready(pod) and self.works(pod["spec"]["containers"][0]["args"]):
            self._tell(pod, Ready="True")
        if pod != before:
            self.server.put(POD, pod)

    def _tell(self, pod, **conditions):
        for kind, status in conditions.items():
            known = _condition(pod, kind)
            if known.get("status") != status:
                told = {"type": kind, "status": status, "lastTransitionTime": text_of(self.now)}
                others = [c for c in pod["status"]["conditions"] if c["type"] != kind]
                pod["status"]["conditions"] = [*others, told]

    def condition(self, kind="Ready"):
        found = self.server.objects[PARENT, KEY]["status"]["conditions"]
        return next(c for c in found if c["type"] == kind)

    def replicas(self):
        return {d["metadata"]["name"]: d["spec"]["replicas"] for d in self.server.listing(DEPLOYMENT)}

    def revisions(self):
        found = sorted(self.server.listing(CONTROLLER_REVISION), key=lambda r: r["revision"])
        return [r["metadata"]["labels"][LABEL_REVISION] for r in found]


def _condition(pod, kind):
    return next((c for c in pod["status"]["conditions"] if c["type"] == kind), {})


def _ready(pod):
    return _condition(pod, "Ready").get("status") == "True" and not _leaving(pod)


def _leaving(pod):
    return "deletionTimestamp" in pod["metadata"]


@pytest.fixture
async def serving(server, recorded):
    world = Kubernetes(server, recorded)
    world.put(1, replicas=2)
    await world.settle()
    assert world.condition()["reason"] == Reason.READY
    world.watched = True
    return world


BROKEN = {"model": {"servedNames": ["broken"], "source": "file:///models/tiny.gguf"}}


async def test_a_change_replaces_the_pods_and_keeps_the_revision_they_had(serving):
    (old,) = serving.revisions()
    serving.put(2, replicas=2, engine={"maxNumSeqs": 9})
    await serving.settle()
    assert serving.condition()["reason"] == Reason.READY
    first, second = serving.revisions()
    assert first == old
    assert serving.replicas() == {f"chat-{second}": 2}
    assert serving.least == 2
    status = serving.server.objects[PARENT, KEY]["status"]
    assert (status["revision"], status["lastGoodRevision"]) == (second, second)
    assert status["revisions"] == [{"name": second, "replicas": 2, "readyReplicas": 2}]


async def test_that_a_revision_went_well_is_stored_when_another_follows_it(serving):
    server, (old,) = serving.server, serving.revisions()

    def stored(revision):
        found = server.objects[CONTROLLER_REVISION, Key("team", f"chat-{revision}")]["metadata"][
            "annotations"
        ]
        return json.loads(found.get("slipway.dev/outcome", "{}"))

    written = f"controllerrevisions team/chat-{old}"
    assert server.writes.count(written) == 1
    assert stored(old) == {}  # the status tells
    told = server.objects[PARENT, KEY]
    del told["status"]["lastGoodRevision"]  # as after a restored backup
    server.put(PARENT, told)
    await serving.settle()
    assert server.objects[PARENT, KEY]["status"]["lastGoodRevision"] == old
    serving.put(2, replicas=2, engine={"maxNumSeqs": 9})
    await serving.reconcile()
    assert stored(old)["result"] == "Good"
    await serving.settle()
    assert server.writes.count(written) == 2
    _, new = serving.revisions()
    assert server.writes.count(f"controllerrevisions team/chat-{new}") == 1


async def test_a_change_that_shapes_no_pod_makes_no_revision(serving):
    made = serving.made
    serving.put(2, replicas=3, rollout={"maxSurge": 2, "progressDeadlineSeconds": 70, "paused": True})
    await serving.settle()
    assert len(serving.revisions()) == 1
    assert serving.made == made + 1


async def test_a_spec_that_flips_back_gets_its_old_revision_again(serving):
    (old,) = serving.revisions()
    serving.put(2, replicas=2, engine={"maxNumSeqs": 9})
    for _ in range(2):
        await serving.reconcile()
        serving.tick()
    serving.put(3, replicas=2)
    await serving.settle()
    assert serving.revisions()[-1] == old
    assert serving.replicas() == {f"chat-{old}": 2}
    assert serving.least == 2


async def test_five_revisions_are_kept(serving):
    for number in range(2, 9):
        serving.put(number, replicas=2, engine={"maxNumSeqs": number})
        await serving.settle()
    kept = serving.revisions()
    assert len(kept) == KEPT
    assert serving.replicas() == {f"chat-{kept[-1]}": 2}


async def test_a_new_operator_that_renders_other_pods_restarts_none_and_says_so(serving, recorded):
    pods, (revision,) = {p["metadata"]["uid"] for p in serving.pods()}, serving.revisions()
    newer = replace(recorded.here, engine_image="registry.example.com/slipway/engine:2")
    serving.restart(newer)
    await serving.settle()
    assert {p["metadata"]["uid"] for p in serving.pods()} == pods
    assert serving.condition()["status"] == "True"
    told = serving.condition("UpToDate")
    assert (told["status"], told["reason"]) == ("False", Reason.UPGRADE_AVAILABLE)
    assert "engine.image: registry.example.com/slipway/engine:1 -> " in told["message"]
    effective = serving.server.objects[PARENT, KEY]["status"]["plan"]["effective"]
    assert {v["field"]: v["value"] for v in effective}["engine.image"] == recorded.image
    # nor does scaling; a change of the object brings the new pods
    serving.put(2, replicas=3)
    await serving.settle()
    assert serving.revisions() == [revision]
    serving.put(3, replicas=3, rollout={"restartToken": "now"})
    await serving.settle()
    images = {p["spec"]["containers"][0]["image"] for p in serving.pods()}
    assert images == {"registry.example.com/slipway/engine:2"}
    assert serving.condition("UpToDate")["status"] == "True"


async def test_an_object_can_ask_for_upgrades_by_themselves(serving, recorded):
    serving.put(2, replicas=2, rollout={"upgradePolicy": "Automatic"})
    await serving.settle()
    serving.restart(replace(recorded.here, engine_image="e:2"))
    await serving.settle()
    assert {p["spec"]["containers"][0]["image"] for p in serving.pods()} == {"e:2"}
    assert serving.least == 2


async def test_a_revision_that_never_serves_is_given_up_for_the_last_good_one(serving):
    (good,) = serving.revisions()
    serving.put(2, replicas=2, rollout={"progressDeadlineSeconds": 60}, **BROKEN)
    await serving.settle()
    told = serving.condition()
    assert (told["status"], told["reason"]) == ("False", Reason.ROLLOUT_FAILED)
    assert f"revision {good} runs again" in told["message"]
    assert "correct the object, or change rollout.restartToken" in told["message"]
    assert serving.condition("Stalled")["status"] == "True"
    assert serving.condition("Available")["status"] == "True"
    assert serving.replicas() == {f"chat-{good}": 2}
    assert serving.least == 2
    made = serving.made
    serving.restart()  # another operator remembers
    serving.put(3, replicas=3, rollout={"progressDeadlineSeconds": 60}, **BROKEN)
    await serving.settle()
    assert serving.replicas() == {f"chat-{good}": 3}
    assert serving.made == made + 1
    serving.put(4, replicas=2)  # what was asked for at first
    await serving.settle()
    assert serving.condition()["reason"] == Reason.READY
    serving.works = lambda args: True
    serving.put(5, replicas=2, rollout={"restartToken": "again"}, **BROKEN)
    await serving.settle()
    assert serving.condition()["reason"] == Reason.READY


async def test_a_first_revision_that_never_serves_stays_and_says_why(server, recorded):
    world = Kubernetes(server, recorded)
    world.put(1, replicas=1, rollout={"progressDeadlineSeconds": 60}, **BROKEN)
    await world.settle()
    assert world.condition("Stalled")["reason"] == Reason.PROGRESS_DEADLINE_EXCEEDED
    assert len(world.pods()) == 1


async def test_on_full_accelerators_one_is_replaced_after_the_other(server, recorded):
    world = Kubernetes(server, recorded, slots=2)
    gpu = {"accelerator": {"type": "nvidia-l4-24gb"}, "replicas": 2}
    world.put(1, **gpu)
    await world.settle()
    world.watched = True
    world.put(2, **gpu, engine={"maxNumSeqs": 9})
    told = []
    for _ in range(40):
        await world.reconcile()
        world.tick()
        told.append(world.condition()["message"])
    assert world.least == 1
    assert world.condition()["reason"] == Reason.READY
    assert any("replaced in place one at a time" in text for text in told)
    assert any(f"of {ACCELERATOR}, its own pods hold 2" in text for text in told)


async def test_a_third_spec_on_full_accelerators_comes_through(server, recorded):
    """The mark that there is no room then has to stay on a Deployment that is not the newest."""
    world = Kubernetes(server, recorded, slots=2)
    gpu = {"accelerator": {"type": "nvidia-l4-24gb"}, "replicas": 2}
    world.put(1, **gpu)
    await world.settle()
    world.watched = True
    world.put(2, **gpu, engine={"maxNumSeqs": 9}, rollout={"canary": {"replicas": 1}})
    await world.settle()
    assert sorted(world.replicas().values()) == [1, 1]
    world.put(3, **gpu, engine={"maxNumSeqs": 10})
    await world.settle()
    assert world.condition()["reason"] == Reason.READY
    assert world.replicas() == {f"chat-{world.revisions()[-1]}": 2}
    assert world.least == 1


async def test_where_nothing_may_be_missing_the_holders_are_named(server, recorded):
    world = Kubernetes(server, recorded, slots=1)
    gpu = {"accelerator": {"type": "nvidia-l4-24gb"}}
    world.put(1, **gpu)
    await world.settle()
    world.put(2, **gpu, engine={"maxNumSeqs": 9}, rollout={"maxUnavailable": 0})
    await world.settle()
    told = world.condition()
    assert told["reason"] == Reason.UNSCHEDULABLE
    assert "its own pods hold 1" in told["message"]
    assert "rollout.maxUnavailable: 0 forbids to replace pods in place, 1 allows it" in told["message"]
    assert world.ready == 1


async def test_paused_and_canary_say_what_they_wait_for(serving):
    serving.put(2, replicas=2, engine={"maxNumSeqs": 9}, rollout={"canary": {"replicas": 1}})
    await serving.settle()
    told = serving.condition()
    assert (told["status"], told["reason"]) == ("True", Reason.CANARY)
    assert "spec.rollout.canary is removed" in told["message"]
    assert sorted(serving.replicas().values()) == [1, 1]
    serving.put(3, replicas=2, engine={"maxNumSeqs": 9}, rollout={"paused": True})
    await serving.settle()
    assert (serving.condition()["status"], serving.condition()["reason"]) == ("True", Reason.PAUSED)
    canary = {"canary": {"replicas": 1, "holdSeconds": 300}}
    serving.put(4, replicas=2, engine={"maxNumSeqs": 10}, rollout=canary)
    await serving.reconcile()
    since = serving.now
    while serving.condition()["reason"] != Reason.READY:
        await serving.reconcile()
        serving.tick()
        assert serving.now - since < 900
    assert serving.now - since >= 300
    assert list(serving.replicas().values()) == [2]


async def test_a_deployment_of_an_operator_without_revisions_is_taken_over(server, recorded):
    """As an operator made it that had one Deployment of the object's own name, and let Kubernetes roll it."""
    world = Kubernetes(server, recorded)
    world.put(1, replicas=2)
    parent = server.objects[PARENT, KEY]
    (rendered,) = recorded.plan(parent).of_kind(DEPLOYMENT)
    legacy = copy.deepcopy(rendered)
    legacy["metadata"] |= {"name": "chat", "labels": names.labels_of("chat"), "generation": 1}
    legacy["spec"]["selector"] = {"matchLabels": names.selector_of("chat")}
    template = legacy["spec"]["template"]
    template["metadata"]["labels"][LABEL_REVISION] = "0123456789"
    template["spec"]["containers"][0]["args"].append("--as-it-was-then")
    template["spec"]["dnsPolicy"] = "ClusterFirst"  # a default of the server
    server.put(DEPLOYMENT, legacy)
    parent["status"] = {"observedGeneration": 1}
    for _ in range(4):
        world.tick()
    assert world.ready == 2
    world.watched, pods = True, {p["metadata"]["uid"] for p in world.pods()}
    await world.settle()
    assert {p["metadata"]["uid"] for p in world.pods()} == pods
    assert world.revisions() == ["0123456789"]
    assert world.condition()["reason"] == Reason.READY
    assert world.condition("UpToDate")["reason"] == Reason.UPGRADE_AVAILABLE
    world.put(2, replicas=2, engine={"maxNumSeqs": 9})
    await world.settle()
    assert world.condition()["reason"] == Reason.READY
    assert "chat" not in world.replicas()
    assert world.least == 2


async def test_a_deployment_of_then_and_a_spec_of_now_roll_at_once(server, recorded):
    world = Kubernetes(server, recorded)
    world.put(2, replicas=1)
    (rendered,) = recorded.plan(server.objects[PARENT, KEY]).of_kind(DEPLOYMENT)
    legacy = copy.deepcopy(rendered)
    legacy["metadata"] |= {"name": "chat", "generation": 1}
    legacy["spec"]["template"]["metadata"]["labels"][LABEL_REVISION] = "0123456789"
    server.put(DEPLOYMENT, legacy)
    server.objects[PARENT, KEY]["status"] = {"observedGeneration": 1}  # the second generation was not seen
    for _ in range(4):
        world.tick()
    world.watched = True
    await world.settle()
    assert "chat" not in world.replicas()
    assert world.least == 1


# -- faults -------------------------------------------------------------------------------------------------


async def rolled(server, recorded, killed, slots, disturb=None):
    """Roll out a change with a disturbance at one write; return everything as it is at the end."""
    world = Kubernetes(server, recorded, slots=slots)
    world.put(1, replicas=2)
    await world.settle()
    world.watched = True
    server.writes.clear()
    world.put(2, replicas=2, engine={"maxNumSeqs": 9})
    if disturb is not None:
        disturb(server)
    for _ in range(40):
        try:
            await world.reconcile()
        except Retryable:
            continue  # the worker comes back
        except killed:
            server.kill_at = None
            world.restart()
            continue
        if not world.tick() and world.condition()["reason"] == Reason.READY:
            break
    writes = len(server.writes)
    await world.reconcile()
    assert len(server.writes) == writes
    assert world.least >= (1 if slots == 2 else 2)
    assert world.condition()["reason"] == Reason.READY
    return bare(server), server.writes


def bare(server):
    """Return all that the operator wrote, without versions, UIDs and times."""
    text = {}
    for (kind, key), obj in server.objects.items():
        if kind is POD:
            continue
        obj = copy.deepcopy(obj)
        for field in ("uid", "resourceVersion", "generation"):
            obj["metadata"].pop(field, None)
        for condition in (obj.get("status") or {}).get("conditions") or ():
            condition.pop("lastTransitionTime", None)
        obj["metadata"].get("annotations", {}).pop("slipway.dev/outcome", None)
        text[f"{kind.kind} {key}"] = json.dumps(obj, sort_keys=True)
    return text


@pytest.mark.parametrize(
    ("slots", "how", "happens"),
    [
        (9, "killed", False),
        (9, "killed", True),
        (9, "unavailable", True),
        (9, "conflict", False),
        (2, "killed", True),
        (2, "unavailable", False),
    ],
)
async def test_a_fault_at_any_write_of_a_rollout_ends_in_the_same_state(
    server, recorded, killed, slots, how, happens
):
    """Two slots for two pods leave no room for a surge. `happens`: the write took effect before the fault."""
    fresh = copy.deepcopy(server)
    wanted, writes = await rolled(copy.deepcopy(fresh), recorded, killed, slots)
    assert len(writes) > 8
    for number in range(1, len(writes) + 1):

        def disturb(server, number=number):
            if how == "killed":
                server.kill_at = (number, happens)
            else:
                error = Retryable("503", after=1) if how == "unavailable" else Conflict("409")
                server.fail_at = (number, happens, error)

        found, _ = await rolled(copy.deepcopy(fresh), recorded, killed, slots, disturb)
        assert found == wanted, f"{how} at write {number}: {writes[number - 1]}"


async def test_a_rollout_costs_few_writes(serving):
    serving.server.writes.clear()
    serving.put(2, replicas=2, engine={"maxNumSeqs": 9})
    await serving.settle()
    written = [w.split()[0] for w in serving.server.writes if "status" not in w]
    assert written.count("controllerrevisions") == 2  # stored, and found good
    assert len(written) <= 9, serving.server.writes


def test_a_clock_that_jumps_moves_no_deadline():
    wall, monotonic = iter([1000.0, 9999999.0]), iter([50.0, 51.0, 60.0])
    clock = steady_clock(lambda: next(wall), lambda: next(monotonic))
    assert (clock(), clock()) == (1001.0, 1010.0)


def test_every_field_of_the_spec_is_known_to_shape_pods_or_not(recorded):
    """A new field shapes pods until somebody says otherwise here, and every exception exists."""
    from slipway_api.v1alpha1 import LLMDeploymentSpec, RolloutSpec

    top = {info.alias for info in LLMDeploymentSpec.model_fields.values()}
    rollout = {f"rollout.{info.alias}" for info in RolloutSpec.model_fields.values()}
    assert top | rollout >= NOT_SHAPING
    assert top - NOT_SHAPING == {
        "className", "model", "engine", "quantization", "parallelism", "accelerator", "rollout",
        "podTemplate",
    }  # fmt: skip
    assert rollout - NOT_SHAPING == {"rollout.drainSeconds", "rollout.restartToken"}
    assert shaping({"engine": {}, "replicas": 3, "rollout": {"paused": True}, "model": {"source": "x"}}) == {
        "model": {"source": "x"}
    }
    assert key_of(recorded.parent()) == KEY
