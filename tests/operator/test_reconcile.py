"""Reconciles from end to end: they converge, from any interruption, and then write nothing more."""

from __future__ import annotations

import asyncio
import copy

import pytest

from slipway_api.conditions import Reason
from slipway_api.inspection import encode
from slipway_operator.caches import Caches
from slipway_operator.errors import Conflict, Denied, Invalid, NotPermitted, Retryable, Terminal
from slipway_operator.freshness import Freshness
from slipway_operator.intake import Intake, matters
from slipway_operator.kinds import (
    CLAIM,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    JOB,
    LLM_CLASS,
    PARENT,
    PDB,
    POD,
    SERVICE,
    WATCHED,
    WATCHED_WITHOUT_CLASSES,
    Key,
)
from slipway_operator.metrics import Metrics
from slipway_operator.moments import seconds_of
from slipway_operator.pace import SETTLE_SECONDS
from slipway_operator.plan.cache import Progress
from slipway_operator.problems import Result
from slipway_operator.reconcile import Reconciler
from slipway_operator.relist import Relister
from slipway_operator.store import Store
from slipway_operator.worker import work
from slipway_operator.workqueue import WorkQueue

KEY = Key("team", "chat")


class Moment:
    """A clock that stands still until it is moved."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


class Operator:
    """The operator without its watches: it knows what a relist told it and what it wrote itself."""

    def __init__(self, server, image):
        self.server, self.store, self.queue = server, Store(), WorkQueue()
        self.freshness, self.metrics = Freshness(60), Metrics()
        self.cache_queue = WorkQueue()
        self.intake = Intake(self.store, self.queue, self.cache_queue, self.freshness, self.metrics)
        self.relister = Relister(server, self.intake, [None], 300)
        clock = self.clock = Moment(seconds_of("2026-01-01T00:00:00Z"))
        self.caches = Caches(
            self.store, server, self.intake.remember, self.ask, self.cache_queue.add, self.queue.add, clock
        )
        self.reconciler = Reconciler(
            self.store, server, image, self.intake.remember, self.caches, clock=clock
        )
        self.progress = None

    async def ask(self, pod):
        """Stands in for the HTTP answer of a pod that downloads; `test_progress` asks a real one."""
        return self.progress

    async def reconcile_cache(self, key):
        await self.relister.fill()
        return await self.caches.reconcile(key)

    async def reconcile(self, key=KEY):
        await self.relister.fill()
        return (await self.reconciler.reconcile(key)).problems


def only(server, kind):
    """Return the key of the only object of a kind."""
    (key,) = [key for one, key in server.objects if one is kind]
    return key


@pytest.fixture
def operator(server, recorded):
    return Operator(server, recorded.here)


@pytest.fixture
def parent(server, recorded):
    server.put(PARENT, recorded.parent())
    return server.objects[PARENT, KEY]


def reason(server):
    condition = next(c for c in server.objects[PARENT, KEY]["status"]["conditions"] if c["type"] == "Ready")
    return condition["reason"]


async def test_children_and_status_come_into_being_and_then_nothing_is_written(server, operator, parent):
    assert await operator.reconcile() == []
    assert {kind for kind, _ in server.objects} == set(WATCHED) - {POD, LLM_CLASS, JOB, CLAIM}
    name = only(server, DEPLOYMENT).name
    assert server.writes == [
        f"controllerrevisions team/{name}",
        "networkpolicies team/chat",
        "services team/chat",
        "poddisruptionbudgets team/chat",
        f"deployments team/{name}",
        "llmdeployments/status team/chat",
    ]
    server.writes.clear()
    await operator.reconcile()
    assert server.writes == []


async def test_own_writes_count_before_any_watch_tells_of_them(server, operator, parent):
    await operator.reconcile()
    server.writes.clear()
    await operator.reconciler.reconcile(KEY)  # without a relist
    assert server.writes == []


async def test_a_new_operator_of_the_same_version_writes_nothing(server, operator, parent, recorded):
    await operator.reconcile()
    server.writes.clear()
    await Operator(server, recorded.here).reconcile()
    assert server.writes == []


@pytest.mark.parametrize("happens", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("change", [{}, {"replicas": 3}], ids=["creating", "changing"])
async def test_a_kill_at_any_write_ends_in_the_same_state(server, recorded, killed, number, happens, change):
    server.put(PARENT, recorded.parent())
    if change:
        await Operator(server, recorded.here).reconcile()
        server.put(
            PARENT,
            {**recorded.parent(generation=2, **change), "status": server.objects[PARENT, KEY]["status"]},
        )
    server.writes.clear()
    undisturbed = copy.deepcopy(server)
    await Operator(undisturbed, recorded.here).reconcile()

    server.kill_at = (number, happens)
    if number <= len(undisturbed.writes):
        with pytest.raises(killed):
            await Operator(server, recorded.here).reconcile()
    server.kill_at = None
    await Operator(server, recorded.here).reconcile()
    assert bare(server) == bare(undisturbed)
    server.writes.clear()
    await Operator(server, recorded.here).reconcile()
    assert server.writes == []


def bare(server):
    """Return all objects without what differs by nature: versions and UIDs."""
    objects = copy.deepcopy(server.objects)
    for obj in objects.values():
        obj["metadata"].pop("resourceVersion", None)
        obj["metadata"].pop("uid", None)
    return objects


@pytest.mark.parametrize("kind", [DEPLOYMENT, SERVICE, PDB], ids=lambda kind: kind.kind)
async def test_an_edited_and_a_deleted_child_come_back(server, operator, parent, kind):
    await operator.reconcile()
    key = only(server, kind)
    wanted = copy.deepcopy(server.objects[kind, key]["spec"])
    edited = copy.deepcopy(server.objects[kind, key])
    edited["spec"]["selector"] = {"evil": "twin"}
    server.put(kind, edited)
    await operator.reconcile()
    assert server.objects[kind, key]["spec"] == wanted
    del server.objects[kind, key]
    await operator.reconcile()
    assert server.objects[kind, key]["spec"] == wanted


async def test_a_deleted_or_edited_revision_comes_back_as_it_was(server, operator, parent):
    await operator.reconcile()
    key = only(server, CONTROLLER_REVISION)
    was = copy.deepcopy(server.objects[CONTROLLER_REVISION, key])
    deployment = copy.deepcopy(server.objects[DEPLOYMENT, key])
    del server.objects[CONTROLLER_REVISION, key]
    await operator.reconcile()
    edited = copy.deepcopy(server.objects[CONTROLLER_REVISION, key])
    assert edited["data"]["template"] == was["data"]["template"]
    edited["metadata"]["annotations"] = {"slipway.dev/spec": "{", "slipway.dev/outcome": "nonsense"}
    server.put(CONTROLLER_REVISION, edited)
    await operator.reconcile()
    assert (
        server.objects[CONTROLLER_REVISION, key]["metadata"]["annotations"] == was["metadata"]["annotations"]
    )
    assert server.objects[DEPLOYMENT, key]["spec"] == deployment["spec"]


async def test_a_revision_that_cannot_be_stored_makes_no_pods(server, operator, parent):
    server.refuse["controllerrevisions"] = Denied("exceeded quota: q")
    assert [p.kind for p in await operator.reconcile()] == [CONTROLLER_REVISION]
    assert not server.listing(DEPLOYMENT)
    assert server.listing(SERVICE)


async def test_a_strangers_object_is_left_alone_and_told_about(server, operator, parent):
    stranger = {"metadata": {"name": "chat", "namespace": "team"}, "spec": {"mine": True}}
    server.put(SERVICE, stranger)
    problems = await operator.reconcile()
    assert [p.reason for p in problems] == [Reason.CHILD_CONFLICT]
    assert "controlled by nobody; delete it or give the LLMDeployment another name" in problems[0].message
    assert server.objects[SERVICE, KEY]["spec"] == {"mine": True}
    assert reason(server) == Reason.CHILD_CONFLICT
    del server.objects[SERVICE, KEY]
    assert await operator.reconcile() == []
    assert reason(server) != Reason.CHILD_CONFLICT


@pytest.mark.parametrize("owner", [{"uid": "uid-of-chat", "gone": True}, {"uid": "uid-of-its-predecessor"}])
async def test_a_child_on_its_way_out_is_waited_for(server, operator, parent, owner):
    meta = {"name": "chat", "namespace": "team"}
    if owner.get("gone"):
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    reference = {"kind": "LLMDeployment", "name": "chat", "uid": owner["uid"], "controller": True}
    server.put(SERVICE, {"metadata": {**meta, "ownerReferences": [reference]}, "spec": {}})
    problems = await operator.reconcile()
    assert [p.reason for p in problems] == [Reason.TERMINATING]
    assert server.objects[SERVICE, KEY]["spec"] == {}


async def test_a_refused_child_is_told_and_the_others_are_made(server, operator, parent):
    server.refuse["deployments"] = Denied('deployments.apps "chat" is forbidden: exceeded quota: q')
    problems = await operator.reconcile()
    assert [(p.kind, p.reason) for p in problems] == [(DEPLOYMENT, Reason.ADMISSION_DENIED)]
    assert (SERVICE, KEY) in server.objects
    assert reason(server) == Reason.QUOTA_EXCEEDED
    server.refuse.clear()
    assert await operator.reconcile() == []
    assert server.listing(DEPLOYMENT)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Terminal("bad request"), Reason.APPLY_FAILED),
        (NotPermitted("cannot patch resource"), Reason.APPLY_FAILED),
        (Invalid("must be less than or equal to memory limit"), Reason.INVALID_SPEC),
    ],
)
async def test_a_child_that_can_not_be_written_at_all_is_told(server, operator, parent, error, told):
    server.refuse["services"] = error
    assert [p.reason for p in await operator.reconcile()] == [told]
    assert reason(server) == told


async def test_an_unreadable_object_gets_a_sentence_and_keeps_its_children(server, operator, recorded):
    server.put(PARENT, recorded.parent())
    await operator.reconcile()
    server.put(PARENT, recorded.parent(generation=2, replicas="many"))
    assert await operator.reconcile() == []
    assert reason(server) == Reason.INVALID_SPEC
    assert {kind for kind, _ in server.objects} == set(WATCHED) - {POD, LLM_CLASS, JOB, CLAIM}
    server.put(PARENT, recorded.parent(generation=3, replicas=2))
    await operator.reconcile()
    assert reason(server) == Reason.PROGRESSING
    assert server.objects[DEPLOYMENT, only(server, DEPLOYMENT)]["spec"]["replicas"] == 2


async def test_an_object_that_is_going_or_gone_is_left_to_the_garbage_collector(server, operator, recorded):
    going = recorded.parent()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    server.put(PARENT, going)
    assert await operator.reconcile() == ()
    assert await operator.reconcile(Key("team", "nobody")) == ()
    assert server.writes == []


async def test_an_object_deleted_during_its_reconcile_is_no_error(server, operator, parent):
    await operator.relister.fill()
    del server.objects[PARENT, KEY]
    assert not (await operator.reconciler.reconcile(KEY)).problems


async def test_the_events_of_a_failed_pull_are_read_only_where_a_pull_secret_is_named(
    server, operator, recorded
):
    parent = recorded.parent(podTemplate={"imagePullSecrets": ["nosuch"]})
    server.put(PARENT, parent)
    server.put(POD, recorded.pod(parent, "pod-secret"))
    server.events = [recorded.load("event-pull-secret")]
    await operator.reconcile()
    assert reason(server) == Reason.PULL_SECRET_MISSING
    pod = recorded.pod(parent, "pod-secret")
    del pod["spec"]["imagePullSecrets"]
    server.put(POD, pod)
    await operator.reconcile()
    assert reason(server) == Reason.IMAGE_PULL_FAILED


async def test_a_starting_pod_is_told_of_once_its_stage_lasts(server, operator, parent, recorded):
    await operator.reconcile()
    server.writes.clear()
    pod = recorded.pod(parent)
    pod["status"] = {"phase": "Pending", "conditions": []}
    server.put(POD, pod)
    await operator.relister.fill()
    result = await operator.reconciler.reconcile(KEY)
    assert (server.writes, result.again) == ([], SETTLE_SECONDS)
    assert reason(server) == Reason.PROGRESSING
    operator.clock.now += SETTLE_SECONDS
    await operator.reconcile()
    assert (server.writes, reason(server)) == (["llmdeployments/status team/chat"], Reason.SCHEDULING)


async def test_an_event_tells_what_to_act_on_once_and_nothing_else(server, operator, parent, recorded):
    await operator.reconcile()
    pod = recorded.pod(parent, "pod-sched")
    for seconds in (0, 60, 3700):
        operator.clock.now += seconds
        server.put(POD, pod)
        await operator.reconcile()
        assert reason(server) == Reason.UNSCHEDULABLE
        server.put(POD, recorded.ready(parent, name=pod["metadata"]["name"]))
        await operator.reconcile()
        assert reason(server) != Reason.UNSCHEDULABLE
    assert [about for about, _ in server.announced] == [Reason.UNSCHEDULABLE, Reason.UNSCHEDULABLE]
    assert "0 of 1 replicas serve" in server.announced[0][1]


async def test_an_event_that_cannot_be_written_stops_nothing(server, operator, parent, monkeypatch, recorded):
    async def refuse(about, reason, message, *, warning):
        raise NotPermitted("no right to create events")

    monkeypatch.setattr(server, "create_event", refuse)
    server.put(POD, recorded.pod(parent, "pod-sched"))
    assert await operator.reconcile() == []
    assert reason(server) == Reason.UNSCHEDULABLE


# -- what queues --------------------------------------------------------------------------------------------


async def test_own_status_writes_queue_nothing(server, operator, parent):
    await operator.relister.fill()
    before = operator.store.get(PARENT, KEY)
    await operator.reconciler.reconcile(KEY)
    written = server.objects[PARENT, KEY]
    assert not matters(PARENT, before, written)
    foreign = copy.deepcopy(written)
    foreign["status"]["ready"] = "9/9"
    foreign["metadata"]["managedFields"].append({"manager": "kubectl-edit", "subresource": "status"})
    assert matters(PARENT, written, foreign)
    assert matters(PARENT, written, {**written, "metadata": {**written["metadata"], "generation": 2}})
    assert matters(PARENT, None, written)


async def queued(operator):
    """Return whether something is queued, and take it away."""
    found = len(operator.queue) > 0
    while len(operator.queue):
        operator.queue.done(await operator.queue.get())
    return found


async def test_a_new_leader_starts_with_what_was_written_meanwhile(server, operator, recorded):
    for name in ("a", "b", "c"):
        server.put(PARENT, recorded.parent(name))
        await operator.reconcile(Key("team", name))
    server.put(PARENT, {**recorded.parent("b", generation=2), "status": {"observedGeneration": 1}})
    successor = Operator(server, recorded.here)
    await successor.relister.fill()
    assert len(successor.queue) == 3
    assert await successor.queue.get() == Key("team", "b")


async def test_a_change_of_what_nobody_reads_queues_nothing(server, operator, parent):
    await operator.reconcile()
    assert await queued(operator)

    async def take(kind, **change):
        obj = server.put(kind, {**server.objects[kind, only(server, kind)], **change})
        operator.intake.take(kind, "MODIFIED", obj)
        return await queued(operator)

    available = {"type": "Available", "status": "False"}
    assert await take(DEPLOYMENT, status={"observedGeneration": 1, "replicas": 1})
    assert not await take(
        DEPLOYMENT, status={"observedGeneration": 1, "replicas": 1, "conditions": [available]}
    )
    refused = {"type": "ReplicaFailure", "status": "True"}
    assert await take(DEPLOYMENT, status={"observedGeneration": 1, "replicas": 1, "conditions": [refused]})
    assert not await take(PDB, status={"currentHealthy": 1})
    assert await take(PDB, spec={})
    status = server.objects[PARENT, KEY]["status"]
    assert not await take(PARENT, status={**status, "ready": "9/9"})
    metadata = server.objects[PARENT, KEY]["metadata"]
    other = {"manager": "kubectl-edit", "subresource": "status"}
    fields = [*metadata["managedFields"], other]
    assert await take(
        PARENT, status={**status, "ready": "8/8"}, metadata={**metadata, "managedFields": fields}
    )


async def test_events_of_children_queue_the_parent_they_had_and_the_one_they_have(server, operator, parent):
    await operator.reconcile()
    service = copy.deepcopy(server.objects[SERVICE, KEY])
    operator.queue.close()
    queue = operator.intake._queue = WorkQueue()
    operator.intake.take(SERVICE, "MODIFIED", service)  # known already
    assert len(queue) == 0
    del service["metadata"]["labels"]["slipway.dev/deployment"]
    service["metadata"]["resourceVersion"] = "999"
    operator.intake.take(SERVICE, "MODIFIED", service)
    assert await queue.get() == KEY
    queue.done(KEY)
    operator.intake.take(DEPLOYMENT, "DELETED", server.listing(DEPLOYMENT)[0])
    assert await queue.get() == KEY


async def test_a_relist_finds_what_the_watch_lost(server, operator, parent):
    await operator.reconcile()
    del server.objects[DEPLOYMENT, only(server, DEPLOYMENT)]
    server.put(PARENT, server.objects[PARENT, KEY])
    operator.queue.close()
    operator.intake._queue = WorkQueue()
    for kind in WATCHED:
        assert await operator.relister.relist(kind)
    assert len(operator.intake._queue) == 1
    assert operator.relister.filled


async def test_classes_are_listed_in_the_cluster_and_everything_else_where_it_is_served(operator):
    asked = []

    class Lists:
        async def list(self, kind, namespace, *, labels=None):
            asked.append((kind, namespace))
            return [], 1

    relister = Relister(Lists(), operator.intake, ["a", "b"], 300)
    await relister.fill()
    assert asked[0] == (LLM_CLASS, None)
    assert asked[-2:] == [(PARENT, "a"), (PARENT, "b")]
    assert len(asked) == 2 * len(WATCHED) - 1
    asked.clear()
    without = Relister(Lists(), operator.intake, ["a"], 300, WATCHED_WITHOUT_CLASSES)
    await without.fill()
    assert without.filled
    assert {kind for kind, _ in asked} == set(WATCHED) - {LLM_CLASS}


async def test_soon_after_the_start_everything_is_listed_again(operator, monkeypatch):
    """What is deleted between the first lists and those of the watches is told by no watch."""
    monkeypatch.setattr("slipway_operator.relist.TICK_SECONDS", 0.001)
    moment, asked = Moment(100.0), []

    class Lists:
        async def list(self, kind, namespace, *, labels=None):
            asked.append(moment.now)
            return [], 1

    relister = Relister(Lists(), operator.intake, [None], 300, clock=moment)
    await relister.fill()
    keeping = asyncio.create_task(relister.keep())
    for seconds in (1, 4, 4, 30, 30, 100, 200):
        await asyncio.sleep(0.02)
        moment.now += seconds
    await asyncio.sleep(0.02)
    keeping.cancel()
    assert sorted(set(asked)) == [100.0, 105.0, 139.0, 469.0]
    assert len(asked) == 4 * len(WATCHED)


# -- workers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (Retryable("later", after=5), "Retryable"),
        (Conflict("changed"), "Conflict"),
        (KeyError("defect"), "KeyError"),
        (Terminal("never"), "Terminal"),
    ],
)
async def test_a_failing_object_comes_back_later_and_stops_nobody(error, counted):
    queue, metrics, done = WorkQueue(base_delay=60), Metrics(), asyncio.Event()

    async def reconcile(key):
        if key.name == "bad":
            raise error
        done.set()
        return Result()

    worker = asyncio.create_task(work(queue, reconcile, metrics))
    queue.add(Key("n", "bad"))
    queue.add(Key("n", "good"))
    await asyncio.wait_for(done.wait(), 5)
    assert queue.delayed == 1
    assert f'slipway_operator_errors_total{{reason="{counted}"}} 1.0' in metrics.render().decode()
    queue.close()
    await worker
    assert 'slipway_operator_reconcile_seconds_count{outcome="done"} 1.0' in metrics.render().decode()


async def test_an_inspect_job_and_its_pods_are_found_by_their_label(server, recorded, operator):
    server.put(PARENT, recorded.parent(model={"source": "hf://org/name"}))
    await operator.reconcile()
    job = server.objects[JOB, only(server, JOB)]
    said = encode(recorded.inspection)
    server.put(POD, recorded.job_pod(job, code=0, message=said, phase="Succeeded"))
    await operator.reconcile()
    assert only(server, DEPLOYMENT)
    status = server.objects[PARENT, KEY]["status"]
    assert status["model"]["commit"] == "c" * 40
    assert status["model"]["license"] == "apache-2.0"
    server.writes.clear()
    await operator.reconcile()
    assert server.writes == []


SHARED = {"source": "hf://org/name", "cache": {"mode": "Shared", "retainSeconds": 60}}


async def shared(server, recorded, operator):
    """Bring an object with a shared model as far as its cache; return the cache's key."""
    server.put(PARENT, recorded.parent(model=SHARED))
    await operator.reconcile()
    job = server.objects[JOB, only(server, JOB)]
    server.put(POD, recorded.job_pod(job, code=0, message=encode(recorded.inspection), phase="Succeeded"))
    del server.objects[JOB, only(server, JOB)]
    await operator.reconcile()
    (key,) = operator.caches.views or {await operator.cache_queue.get()}
    operator.cache_queue.done(key)
    return key


async def test_a_shared_model_is_fetched_once_and_then_mounted(server, recorded, operator):
    key = await shared(server, recorded, operator)
    assert not any(kind is DEPLOYMENT for kind, _ in server.objects)
    await operator.reconcile_cache(key)
    assert only(server, CLAIM) == key
    job = server.objects[JOB, only(server, JOB)]
    server.put(POD, recorded.job_pod(job, container="fetch"))
    operator.progress = Progress(10, 100, 5)
    await operator.reconcile_cache(key)
    await operator.reconcile()
    status = server.objects[PARENT, KEY]["status"]
    assert (status["model"]["fetched"], status["model"]["bytesPerSecond"]) == (10, 5)
    assert status["model"]["updatedAt"] == "2026-01-01T00:00:00Z"
    assert reason(server) == Reason.FETCHING
    server.put(JOB, {**job, "status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    await operator.reconcile_cache(key)
    await operator.reconcile()
    assert only(server, DEPLOYMENT)
    server.writes.clear()
    await operator.reconcile()
    await operator.reconcile_cache(key)
    assert server.writes == []


async def test_a_number_that_hardly_moved_is_no_news(server, recorded, operator):
    key = await shared(server, recorded, operator)
    await operator.reconcile_cache(key)
    job = server.objects[JOB, only(server, JOB)]
    server.put(POD, recorded.job_pod(job, container="fetch"))
    shown = []
    for fetched, seconds in ((10, 0), (11, 15), (12, 15), (50, 1)):
        operator.clock.now += seconds
        operator.progress = Progress(fetched, 100, 5)
        await operator.reconcile_cache(key)
        shown.append(operator.caches.views[key].progress.fetched)
    assert shown == [10, 10, 12, 50]


async def test_a_cache_goes_when_nobody_refers_to_it_and_not_before(server, recorded, operator):
    key = await shared(server, recorded, operator)
    await operator.reconcile_cache(key)
    server.objects.pop((POD, next(k for kind, k in server.objects if kind is POD)))
    gone = server.objects.pop((PARENT, KEY))
    await operator.reconcile()
    await operator.reconcile_cache(key)
    operator.clock.now += 61
    # Another operator that has just started has asked nobody yet: it must not delete what it does not know.
    server.put(PARENT, {**gone, "metadata": {**gone["metadata"], "name": "later", "uid": "l"}})
    fresh = Operator(server, recorded.here)
    fresh.clock.now = operator.clock.now
    await fresh.reconcile_cache(key)
    assert only(server, CLAIM) == key
    del server.objects[PARENT, Key("team", "later")]
    await operator.reconcile_cache(key)
    assert not any(kind is CLAIM for kind, _ in server.objects)


async def test_a_claim_of_somebody_else_is_left_alone(server, recorded, operator):
    key = await shared(server, recorded, operator)
    server.put(CLAIM, {"metadata": {"name": key.name, "namespace": "team"}, "spec": {}})
    result = await operator.reconcile_cache(key)
    assert "is not a model cache" in result.problems[0].message
    await operator.reconcile()
    assert reason(server) == Reason.APPLY_FAILED


async def test_an_older_object_of_the_same_name_is_told_and_its_end_too(server, operator, parent, recorded):
    younger = copy.deepcopy(recorded.parent("late"))
    younger["spec"]["model"]["servedNames"] = ["late", "chat"]
    younger["metadata"] |= {"uid": "late", "creationTimestamp": "2999-01-01T00:00:00Z"}
    server.put(PARENT, younger)
    late = Key("team", "late")

    async def accepted(key):
        await operator.reconcile(key)
        found = server.objects[PARENT, key]["status"]["conditions"]
        return next((c["status"], c["reason"], c["message"]) for c in found if c["type"] == "Accepted")

    status, why, message = await accepted(late)
    assert (status, why) == ("True", Reason.NAME_TAKEN)
    assert "'chat' (by chat)" in message
    assert server.announced == [("NameTaken", message)]
    assert (await accepted(KEY))[1] == Reason.ACCEPTED
    server.writes.clear()
    await operator.reconcile(late)
    assert server.writes == []
    while len(operator.queue):
        operator.queue.done(await operator.queue.get())
    operator.intake.take(PARENT, "DELETED", server.objects.pop((PARENT, KEY)))
    queued = set()
    while len(operator.queue):
        queued.add(key := await operator.queue.get())
        operator.queue.done(key)
    assert late in queued
    assert (await accepted(late))[1] == Reason.ACCEPTED
