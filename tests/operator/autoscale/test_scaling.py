"""The autoscaler and the reconcile together: who writes what, what a restart keeps, what a sample may do."""

from __future__ import annotations

import asyncio
import copy
import socket
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry, generate_latest

from slipway_operator.autoscale.capacity import learn
from slipway_operator.autoscale.load import PodLoad
from slipway_operator.autoscale.replicas import COST
from slipway_operator.autoscale.terms import DOWN
from slipway_operator.caches import Caches
from slipway_operator.errors import Retryable
from slipway_operator.freshness import Freshness
from slipway_operator.intake import Intake
from slipway_operator.kinds import DEPLOYMENT, LLM_CLASS, PARENT, POD, Key, key_of
from slipway_operator.metrics import Metrics
from slipway_operator.moments import seconds_of, text_of
from slipway_operator.reconcile import Reconciler
from slipway_operator.relist import Relister
from slipway_operator.scaling.counters import Counters
from slipway_operator.scaling.loop import NO_GATEWAY, Autoscaler
from slipway_operator.signals.connection import Connection
from slipway_operator.signals.holds import GatewayHolds
from slipway_operator.signals.prometheus import Prometheus
from slipway_operator.signals.source import Asked, Seen
from slipway_operator.store import Store
from slipway_operator.worker import work
from slipway_operator.workqueue import WorkQueue

KEY = Key("team", "chat")
START = seconds_of("2026-01-01T00:00:00Z") or 0.0
AT_ONCE = {"type": "Percent", "value": 100, "periodSeconds": 1}
FAST = {"scaleDown": {"stabilizationWindowSeconds": 30, "policies": [AT_ONCE]}}
DAY = {"name": "day", "start": "0 9 * * *", "durationSeconds": 60, "minReplicas": 1}


@dataclass
class Engines:
    """A source whose pods report what the test says: requests running, by pod name; None is silence."""

    running: dict[str, float | None] = field(default_factory=dict)
    waiting: float = 0.0
    problems: tuple[str, ...] = ()
    values: dict[str, float | None] = field(default_factory=dict)
    fresh_for: float = 30.0
    asked: list[Asked] = field(default_factory=list)
    history: tuple[PodLoad, ...] = ()
    age: dict[str, float] = field(default_factory=dict)
    """How old a pod's newest sample is, in seconds."""
    past_asked: int = 0

    async def look(self, asked: Asked, now: float) -> Seen:
        self.asked.append(asked)
        loads = []
        for pod in asked.pods:
            running = self.running.get(key_of(pod).name, 0.0)
            if running is not None:
                name = key_of(pod).name
                loads.append(PodLoad(name, now - self.age.get(name, 0.0), running, self.waiting))
        return Seen(tuple(loads), values=self.values, problems=self.problems)

    async def past(self, asked: Asked, now: float) -> tuple[PodLoad, ...]:
        self.past_asked += 1
        return self.history

    def forget(self, key: Key) -> None:
        pass

    async def close(self) -> None:
        pass


class Gateways:
    def __init__(self) -> None:
        self.requests: float | None = 0.0

    def held(self, key: Key) -> float | None:
        return self.requests


class Cluster:
    """An operator with its autoscaler over the server in memory, and a controller that makes pods."""

    def __init__(self, server: Any, recorded: Any, gateways: Gateways | None = None) -> None:
        self.server, self.recorded, self.gateways = server, recorded, gateways
        self.engines, self.now = Engines(), START
        self.room: int | None = None
        """Pods that nodes have room for; None: all."""
        self.events: list[tuple[str, str]] = []
        self.restart()

    def restart(self) -> None:
        """Begin with a new operator that remembers nothing."""
        self.store, self.queue, cache_queue = Store(), WorkQueue[Key](), WorkQueue[Key]()
        self.metrics = Metrics()
        intake = Intake(self.store, self.queue, cache_queue, Freshness(60), self.metrics)
        self.relister = Relister(self.server, intake, [None], 300)
        caches = Caches(
            self.store, self.server, intake.remember, None, cache_queue.add, self.queue.add, self.clock
        )
        self.autoscaler = Autoscaler(
            self.store,
            self,
            self.engines,
            self.queue.add,
            Counters(self.metrics.registry),
            self.gateways,
            self.clock,
        )
        self.reconciler = Reconciler(
            self.store,
            self.server,
            self.recorded.here,
            intake.remember,
            caches,
            self.clock,
            scaling=self.autoscaler,
        )

    def clock(self) -> float:
        return self.now

    async def apply(self, kind, key, body, **more):
        return await self.server.apply(kind, key, body, **more)

    async def create_event(self, about, reason, message, *, warning):
        self.events.append((reason, message))

    def create(self, *, generation: int = 1, **spec: Any) -> None:
        old = self.server.objects.get((PARENT, KEY), {})
        obj = self.recorded.parent(generation=generation, **spec)
        self.server.put(PARENT, {**obj, "status": old.get("status", {})})

    async def reconcile(self) -> None:
        await self.relister.fill()
        await self.reconciler.reconcile(KEY)

    async def settle(self, *, ready: bool = True) -> None:
        """Reconcile, and let Kubernetes make the pods that are asked for."""
        await self.reconcile()
        for kind, key in [k for k in self.server.objects if k[0] is POD]:
            del self.server.objects[kind, key]
        for deployment in self.server.listing(DEPLOYMENT):
            count = deployment["spec"]["replicas"]
            deployment["status"] = {"observedGeneration": 9, "replicas": count, "updatedReplicas": count}
            self.server.put(DEPLOYMENT, deployment)
            for number in range(count):
                self.server.put(POD, self.pod(deployment, number, ready=ready))
        await self.reconcile()

    def pod(self, deployment, number, *, ready):
        pod = copy.deepcopy(self.recorded.load("pod-loading"))
        name = f"p{number}"
        pod["metadata"] |= {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{deployment['metadata']['name']}-{name}",
            "labels": deployment["spec"]["template"]["metadata"]["labels"],
            "creationTimestamp": text_of(START),
        }
        pod["status"]["podIP"] = f"10.0.0.{number + 1}"
        homeless = self.room is not None and number >= self.room
        for condition in pod["status"]["conditions"]:
            good = ready and not homeless
            condition |= {"status": "True" if good else "False", "lastTransitionTime": text_of(START + 10)}
            if condition["type"] == "PodScheduled" and homeless:
                condition["reason"] = "Unschedulable"
        return pod

    async def look(self, seconds: float = 10.0) -> None:
        """Let time pass, a look every ten seconds, each followed by what it queues."""
        for _ in range(max(1, int(seconds // 10))):
            self.now += 10
            await self.autoscaler._decide(KEY)
            if len(self.queue):
                self.queue.done(await self.queue.get())
                await self.settle()

    @property
    def replicas(self) -> int:
        return sum(one["spec"]["replicas"] for one in self.server.listing(DEPLOYMENT))

    @property
    def status(self) -> dict[str, Any]:
        return self.server.objects[PARENT, KEY]["status"]

    def active(self) -> dict[str, Any]:
        return next(c for c in self.status["conditions"] if c["type"] == "AutoscalingActive")


@pytest.fixture
def cluster(server, recorded):
    return Cluster(server, recorded)


async def test_load_brings_replicas_and_their_absence_takes_them_away(cluster):
    cluster.create(replicas=7, autoscaling={"maxReplicas": 4, "behavior": FAST}, engine={"maxNumSeqs": 4})
    await cluster.settle()
    assert cluster.replicas == 1  # spec.replicas is ignored
    cluster.engines.running = {"p0": 4.0, "p1": 4.0}
    cluster.engines.waiting = 2.0
    await cluster.look(60)
    assert cluster.replicas == 4
    assert cluster.status["autoscaling"]["desired"] == 4
    cluster.engines.running, cluster.engines.waiting = {}, 0.0
    await cluster.look(300)
    assert cluster.replicas == 1
    decisions = cluster.status["autoscaling"]["lastDecisions"]
    assert len(decisions) <= 5
    assert decisions[0]["replicas"] == 1
    assert "requests in flight" in " ".join(d["reason"] for d in decisions)
    assert cluster.server.objects[PARENT, KEY]["spec"]["replicas"] == 7  # Argo CD sees nothing change
    assert [reason for reason, _ in cluster.events].count("ScaledDown") >= 1


async def test_a_moving_sample_writes_nothing(cluster):
    cluster.create(autoscaling={"maxReplicas": 4})
    await cluster.settle()
    await cluster.look(60)
    cluster.server.writes.clear()
    for running in (1.0, 3.0, 2.0, 5.0, 0.0, 4.0):
        cluster.engines.running = {"p0": running}
        await cluster.look()
    assert cluster.server.writes == []


async def test_a_restart_in_a_burst_keeps_what_is_there(cluster):
    cluster.create(autoscaling={"maxReplicas": 4}, engine={"maxNumSeqs": 4})
    await cluster.settle()
    cluster.engines.running, cluster.engines.waiting = {"p0": 4.0}, 9.0
    await cluster.look(60)
    before = cluster.replicas
    assert before > 1
    told = cluster.status["autoscaling"]["lastDecisions"]
    cluster.restart()
    cluster.engines.running = dict.fromkeys(("p0", "p1", "p2", "p3"), 0.0)
    cluster.engines.waiting = 0.0
    await cluster.reconcile()
    await cluster.look(250)
    assert cluster.replicas == before
    assert cluster.status["autoscaling"]["lastDecisions"] == told


async def test_what_was_learned_survives_a_restart(cluster):
    cluster.create(autoscaling={"maxReplicas": 1}, slo={"tpotMs": 100})
    await cluster.settle()
    state = cluster.autoscaler._states[KEY]
    learned = state.memory.learned
    for step in range(100):
        running = 4 + step % 16
        load = PodLoad("p0", START, running, 0, tpot=0.02 + 0.005 * running)
        learned = learn(learned, [load], START)
    state.memory = replace(state.memory, learned=learned)
    await cluster.look(10)
    cluster.restart()
    await cluster.reconcile()
    again = cluster.autoscaler._states[KEY].memory.learned.line()
    assert again == pytest.approx((0.02, 0.005), rel=1e-3)
    assert float(cluster.status["autoscaling"]["learned"]["replica"]) == pytest.approx(14, rel=0.01)


async def test_what_no_status_tells_is_learned_from_the_past_once(cluster):
    cluster.create(autoscaling={"maxReplicas": 8}, slo={"tpotMs": 100})
    await cluster.settle()
    cluster.engines.history = tuple(
        PodLoad("p", START - 4000 + 15 * i, 4 + i % 16, 0, tpot=0.02 + 0.005 * (4 + i % 16))
        for i in range(60)
    )
    await cluster.look()
    await cluster.reconcile()
    told = cluster.status["autoscaling"]["learned"]
    assert float(told["replica"]) == pytest.approx((0.09 - 0.02) / 0.005, rel=0.01)
    await cluster.look()
    assert cluster.engines.past_asked == 1
    cluster.restart()
    await cluster.reconcile()
    await cluster.look()
    assert cluster.engines.past_asked == 1  # the status tells


async def test_the_values_in_force_stand_in_the_status_with_where_they_come_from(cluster):
    cluster.create(
        autoscaling={"maxReplicas": 8, "spareReplicas": 1},
        slo={"ttftMs": 2000},
        routing={"maxHoldSeconds": 30},
    )
    await cluster.settle()
    told = {one["field"]: (one["value"], one["from"]) for one in cluster.status["plan"]["effective"]}
    assert told["autoscaling.maxReplicas"] == ("8", "spec")
    assert told["autoscaling.minReplicas"] == ("1", "built-in")
    assert told["autoscaling.spareReplicas"] == ("1", "spec")
    assert told["autoscaling.metrics"] == ("InFlight learned, TimeToFirstToken 2000", "built-in")
    window = told["autoscaling.behavior.scaleDown.stabilizationWindowSeconds"]
    assert window == (f"{DOWN.window:.0f}", "built-in")
    assert told["routing.maxHoldSeconds"] == ("30", "spec")
    assert "routing.maxHeldRequests" not in told


async def test_an_slo_for_the_first_token_is_asked_for_and_a_metric_of_ones_own_replaces_it(cluster):
    cluster.create(autoscaling={"maxReplicas": 8}, slo={"ttftMs": 2000})
    await cluster.settle()
    await cluster.look()
    assert cluster.engines.asked[-1].first
    cluster.create(
        generation=2, autoscaling={"maxReplicas": 8, "metrics": [{"type": "InFlight"}]}, slo={"ttftMs": 2000}
    )
    await cluster.settle()
    await cluster.look()
    assert not cluster.engines.asked[-1].first


async def test_silence_takes_nothing_away_and_is_told(cluster):
    cluster.create(autoscaling={"maxReplicas": 4, "minReplicas": 1, "behavior": FAST})
    await cluster.settle()
    cluster.autoscaler._states[KEY].desired = 3
    await cluster.settle()
    assert cluster.replicas == 3
    cluster.engines.running = {"p0": None, "p1": None, "p2": None}
    cluster.engines.problems = ("pod p0 did not answer /metrics on port 8000",)
    await cluster.look(600)
    assert cluster.replicas == 3
    condition = cluster.active()
    assert (condition["status"], condition["reason"]) == ("False", "FailedGetPodsMetric")
    assert "p0 did not answer" in condition["message"]
    cluster.engines.running, cluster.engines.problems = {"p0": 1.0, "p1": None, "p2": 0.0}, ()
    await cluster.look(600)
    assert cluster.replicas == 3  # one is silent still
    assert cluster.active()["reason"] == "ValidMetricFound"


async def busy(cluster) -> None:
    """Three replicas with more than 80 % of the requests that they bear, so that there are four."""
    cluster.create(autoscaling={"maxReplicas": 6, "behavior": FAST}, engine={"maxNumSeqs": 4})
    await cluster.settle()
    cluster.autoscaler._states[KEY].desired = 3
    await cluster.settle()
    cluster.engines.running = dict.fromkeys(("p0", "p1", "p2"), 3.5)
    await cluster.look(300)
    assert cluster.replicas == 4  # 10.5 / (80 % of 4)


async def test_a_prometheus_that_is_down_for_ten_minutes_moves_nothing_and_is_told(cluster):
    await busy(cluster)
    events = len(cluster.events)
    with socket.socket() as free:  # bound and not listening: every connection is refused
        free.bind(("127.0.0.1", 0))
        down = Prometheus(Connection(f"http://127.0.0.1:{free.getsockname()[1]}"))
        cluster.autoscaler._source = down
        await cluster.look(600)
        await down.close()
    assert cluster.replicas == 4
    condition = cluster.active()
    assert (condition["status"], condition["reason"]) == ("False", "FailedGetExternalMetric")
    assert "Prometheus: it does not answer" in condition["message"]
    assert "nothing is changed" in condition["message"]
    assert [reason for reason, _ in cluster.events[events:]] == ["FailedGetExternalMetric"]  # once
    cluster.autoscaler._source = cluster.engines
    await cluster.look(600)
    assert cluster.replicas == 4
    assert cluster.active()["reason"] == "ValidMetricFound"
    assert len(cluster.events) == events + 1


async def test_an_operator_that_begins_in_an_outage_keeps_what_is_there(cluster):
    await busy(cluster)
    cluster.engines.running = dict.fromkeys(("p0", "p1", "p2", "p3"), None)
    cluster.engines.problems = ("Prometheus: it does not answer",)
    cluster.restart()
    await cluster.reconcile()
    await cluster.look(600)
    assert cluster.replicas == 4
    assert cluster.active()["status"] == "False"


async def test_samples_that_are_all_stale_move_nothing_and_are_told(cluster):
    await busy(cluster)
    events = len(cluster.events)
    cluster.engines.running = dict.fromkeys(("p0", "p1", "p2", "p3"), 0.0)
    cluster.engines.age = dict.fromkeys(("p0", "p1", "p2", "p3"), 45.0)
    await cluster.look(600)
    assert cluster.replicas == 4
    condition = cluster.active()
    assert (condition["status"], condition["reason"]) == ("False", "FailedGetPodsMetric")
    assert "No pod reports; nothing is changed." in condition["message"]
    assert len(cluster.events) == events + 1


async def test_one_pod_whose_samples_are_stale_takes_nothing_away_and_is_told(cluster):
    await busy(cluster)
    cluster.engines.running = dict.fromkeys(("p0", "p1", "p2", "p3"), 0.0)
    cluster.engines.age = {"p2": 45.0}
    await cluster.look(600)
    assert cluster.replicas == 4
    condition = cluster.active()
    assert condition["status"] == "True"
    assert "1 of 4 ready pods do not report; no replica is taken away" in condition["message"]
    cluster.engines.age = {}
    await cluster.look(600)
    assert cluster.replicas == 1
    assert "do not report" not in cluster.active()["message"]


async def test_an_operator_whose_clock_jumps_takes_nothing_away(cluster):
    await busy(cluster)
    for jump in (86_400.0, -172_800.0):
        cluster.now += jump
        await cluster.look(100)
        assert cluster.replicas == 4


async def test_the_fallback_holds_where_nobody_reports(cluster):
    cluster.create(autoscaling={"maxReplicas": 4, "fallbackReplicas": 2})
    await cluster.settle()
    cluster.engines.running = {"p0": None, "p1": None}
    await cluster.look(300)
    assert cluster.replicas == 2


async def test_the_least_loaded_pod_is_marked_before_one_goes(cluster):
    cluster.create(autoscaling={"maxReplicas": 4, "behavior": FAST})
    await cluster.settle()
    cluster.autoscaler._states[KEY].desired = 2
    await cluster.settle()
    cluster.engines.running = {"p0": 1.0, "p1": 0.0}
    marks = []
    original = cluster.server.apply

    async def apply(kind, key, body, **more):
        if kind is POD:
            marks.append((key.name, body["metadata"]["annotations"]))
        return await original(kind, key, body, **more)

    cluster.server.apply = apply
    await cluster.look(120)
    assert cluster.replicas == 1
    assert marks == [("p1", {COST: "-100"})]


async def test_a_mark_that_cannot_be_written_stops_nothing(cluster):
    cluster.create(autoscaling={"maxReplicas": 4, "behavior": FAST})
    await cluster.settle()
    cluster.autoscaler._states[KEY].desired = 2
    await cluster.settle()
    cluster.server.refuse = {"pods": Retryable("the API server is away")}
    await cluster.look(120)
    assert cluster.replicas == 1


async def test_zero_without_a_gateway_is_one_and_says_so(cluster):
    cluster.create(autoscaling={"minReplicas": 0, "maxReplicas": 2, "idleSeconds": 60})
    await cluster.settle()
    await cluster.look(900)
    assert cluster.replicas == 1
    assert NO_GATEWAY in cluster.active()["message"]


async def test_to_zero_and_back_by_a_held_request(server, recorded):
    cluster = Cluster(server, recorded, Gateways())
    cluster.create(autoscaling={"minReplicas": 0, "maxReplicas": 2, "idleSeconds": 60})
    await cluster.settle()
    await cluster.look(120)
    assert cluster.replicas == 0
    ready = next(c for c in cluster.status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")
    cluster.restart()
    await cluster.reconcile()
    cluster.gateways.requests = None  # the gateways are being replaced
    cluster.autoscaler._holds = cluster.gateways
    await cluster.look(60)
    assert cluster.replicas == 0
    cluster.gateways.requests = 3.0
    cluster.autoscaler.wake([KEY])
    for task in tuple(cluster.autoscaler._urgent):
        await task
    await cluster.reconcile()
    assert cluster.replicas == 1
    assert "3 requests are held" in cluster.status["autoscaling"]["lastDecisions"][0]["reason"]


async def until(condition):
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to pass")


class Slices:
    """The EndpointSlices of one gateway on this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def list(self, kind, namespace, *, labels=None):
        ports, endpoints = [{"name": "admin", "port": self.port}], [{"addresses": ["127.0.0.1"]}]
        return [{"ports": ports, "endpoints": endpoints}], 1


async def test_a_first_held_request_is_written_within_two_seconds(server, recorded, tmp_path):
    held, polls = asyncio.Event(), []

    async def poll(request):
        polls.append(request)
        if len(polls) > 1:
            await held.wait()
        entries = [{"namespace": "team", "name": "chat", "requests": 1}] if held.is_set() else []
        return web.json_response({"sequence": len(polls), "held": entries})

    application = web.Application()
    application.router.add_get("/internal/v1/holds", poll)
    token = tmp_path / "token"
    token.write_text("token")
    async with TestServer(application) as gateway:
        woken: list[Any] = []
        holds = GatewayHolds(Slices(gateway.port), Key("system", "gateway"), token, lambda k: woken[0](k))
        cluster = Cluster(server, recorded, holds)
        woken.append(cluster.autoscaler.wake)
        cluster.create(autoscaling={"minReplicas": 0, "maxReplicas": 2})
        await cluster.settle()
        cluster.autoscaler._states[KEY].desired = 0
        await cluster.settle()
        assert cluster.replicas == 0
        worker = asyncio.create_task(work(cluster.queue, cluster.reconciler.reconcile, cluster.metrics))
        asking = asyncio.create_task(holds.run())
        try:
            await until(lambda: len(polls) > 1)
            began = time.monotonic()
            held.set()
            await until(lambda: cluster.replicas == 1)
            assert time.monotonic() - began < 2
        finally:
            cluster.queue.close()
            asking.cancel()
            await asyncio.gather(worker, asking, return_exceptions=True)


async def test_a_parked_object_decides_nothing_and_comes_back(cluster):
    spec = {"autoscaling": {"maxReplicas": 4}}
    cluster.create(**spec)
    await cluster.settle()
    cluster.autoscaler._states[KEY].desired = 3
    await cluster.settle()
    cluster.create(generation=2, suspend=True, **spec)
    await cluster.settle()
    assert cluster.replicas == 0
    await cluster.look(60)
    assert cluster.replicas == 0
    assert cluster.active()["reason"] == "ScalingDisabled"
    cluster.create(generation=3, **spec)
    await cluster.settle()
    assert cluster.replicas == 3


async def test_bounds_that_were_edited_hold_at_once(cluster):
    cluster.create(autoscaling={"maxReplicas": 4})
    await cluster.settle()
    cluster.create(generation=2, autoscaling={"minReplicas": 2, "maxReplicas": 4})
    await cluster.settle()
    assert cluster.replicas == 2


async def test_replicas_edited_by_hand_are_put_back(cluster):
    cluster.create(autoscaling={"maxReplicas": 4})
    await cluster.settle()
    (deployment,) = cluster.server.listing(DEPLOYMENT)
    deployment["spec"]["replicas"] = 4
    cluster.server.put(DEPLOYMENT, deployment)
    await cluster.settle()
    assert cluster.replicas == 1


def scaled_by(manager: str) -> list[dict[str, Any]]:
    fields = {"f:spec": {"f:replicas": {}}}
    return [{"manager": manager, "operation": "Update", "subresource": "scale", "fieldsV1": fields}]


async def test_another_autoscaler_is_told_of_and_has_no_effect(cluster):
    cluster.create(autoscaling={"maxReplicas": 4})
    await cluster.settle()
    obj = cluster.server.objects[PARENT, KEY]
    obj["metadata"]["managedFields"] = scaled_by("kube-controller-manager")
    obj["spec"]["replicas"] = 4
    cluster.server.put(PARENT, obj)
    await cluster.settle()
    await cluster.look(60)
    assert cluster.replicas == 1
    condition = cluster.active()
    assert (condition["status"], condition["reason"]) == ("True", "ConflictingScaler")
    assert "kube-controller-manager" in condition["message"]


async def test_without_autoscaling_the_scale_subresource_decides(cluster):
    cluster.create(replicas=1)
    await cluster.settle()
    obj = cluster.server.objects[PARENT, KEY]
    obj["metadata"]["managedFields"] = scaled_by("kube-controller-manager")
    obj["metadata"]["generation"] = 2
    obj["spec"]["replicas"] = 3
    cluster.server.put(PARENT, obj)
    await cluster.settle()
    assert cluster.replicas == 3
    assert "autoscaling" not in cluster.status
    assert not [c for c in cluster.status["conditions"] if c["type"] == "AutoscalingActive"]


async def test_autoscaling_begins_with_what_runs(cluster):
    cluster.create(replicas=3)
    await cluster.settle()
    cluster.create(generation=2, autoscaling={"maxReplicas": 4})
    await cluster.settle()
    assert cluster.replicas == 3


async def test_an_object_of_unforeseen_shape_stops_no_other(cluster):
    cluster.create(autoscaling={"maxReplicas": 4})
    await cluster.settle()
    for pod in cluster.store.owned(POD, KEY):
        pod["status"]["conditions"] = 7
    await cluster.autoscaler._decide(KEY)
    assert cluster.replicas == 1


async def test_a_pod_that_ended_is_no_replica(cluster):
    cluster.create(autoscaling={"maxReplicas": 4})
    await cluster.settle()
    for pod in cluster.store.owned(POD, KEY):
        pod["status"]["phase"] = "Failed"
    await cluster.look()
    assert cluster.engines.asked[-1].pods == []


async def test_it_counts_itself_and_forgets_what_is_gone(cluster):
    cluster.create(autoscaling={"maxReplicas": 4})
    await cluster.settle()
    await cluster.look()
    name = 'slipway_autoscaler_desired_replicas{name="chat",namespace="team"} 1.0'
    assert name in generate_latest(cluster.metrics.registry).decode()
    del cluster.server.objects[PARENT, KEY]
    await cluster.reconcile()
    assert name not in generate_latest(cluster.metrics.registry).decode()


def test_its_counters_fit_beside_others():
    registry = CollectorRegistry()
    Counters(registry).forget(KEY)


QUERY = {"maxReplicas": 4, "metrics": [{"type": "Prometheus", "target": 5, "query": "sum(x)"}]}


async def test_a_query_needs_a_class_that_opens_it(cluster):
    cluster.create(autoscaling=QUERY)
    await cluster.reconcile()
    ready = next(c for c in cluster.status["conditions"] if c["type"] == "Ready")
    assert ready["reason"] == "ClassDenied"
    assert "allow.prometheusQueries" in ready["message"]
    meta = {"name": "open", "uid": "uid-of-open"}
    cluster.server.put(LLM_CLASS, {"metadata": meta, "spec": {"allow": {"prometheusQueries": True}}})
    cluster.create(generation=2, className="open", autoscaling=QUERY)
    cluster.engines.values = {"metrics[0]": 11.0}
    await cluster.settle()
    await cluster.look()
    assert cluster.engines.asked[-1].queries == {"metrics[0]": "sum(x)"}
    assert cluster.replicas == 3
    assert "11.0 by query metrics[0] / 5" in cluster.status["autoscaling"]["lastDecisions"][0]["reason"]


@pytest.mark.parametrize("capped", [True, False])
async def test_a_class_may_cap_by_what_nodes_have_room_for(cluster, capped):
    meta = {"name": "reserved", "uid": "uid-of-reserved"}
    scaling = {"autoscaling": {"capByFreeAccelerators": True}} if capped else {}
    cluster.server.put(LLM_CLASS, {"metadata": meta, "spec": scaling})
    cluster.create(className="reserved", autoscaling={"maxReplicas": 8}, engine={"maxNumSeqs": 4})
    cluster.room = 3
    await cluster.settle()
    cluster.engines.running = {f"p{number}": 4.0 for number in range(8)}
    cluster.engines.waiting = 9.0
    await cluster.look(120)
    assert cluster.replicas == (4 if capped else 8)
    told = cluster.active()
    assert told["reason"] == "TooManyReplicas"
    assert ("capByFreeAccelerators" in told["message"]) == capped
    fields = {one["field"]: one["from"] for one in cluster.status["plan"]["effective"]}
    assert fields.get("autoscaling.capByFreeAccelerators") == ("class/reserved" if capped else None)
    changes = len(cluster.events)
    await cluster.look(120)
    assert len(cluster.events) == changes  # and it rests there
    cluster.room = 6
    await cluster.settle()
    await cluster.look(120)
    assert cluster.replicas == (7 if capped else 8)


async def test_a_query_without_a_result_is_told(cluster):
    meta = {"name": "open", "uid": "uid-of-open"}
    cluster.server.put(LLM_CLASS, {"metadata": meta, "spec": {"allow": {"prometheusQueries": True}}})
    cluster.create(className="open", autoscaling=QUERY)
    await cluster.settle()
    cluster.engines.values = {"metrics[0]": None}
    cluster.engines.problems = ("Prometheus: metrics[0]: 0 results; write a query with one",)
    await cluster.look(60)
    condition = cluster.active()
    assert (condition["status"], condition["reason"]) == ("False", "FailedGetExternalMetric")
    assert "0 results" in condition["message"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"schedules": [{**DAY, "start": "0 99 * * *"}]}, "99"),
        ({"schedules": [{**DAY, "timeZone": "Mars/Base"}]}, "Mars"),
        ({"schedules": [{**DAY, "minReplicas": 9}]}, "above"),
        ({"metrics": [{"type": "QueueDepth", "target": "0"}]}, "not above 0"),
        ({"minReplicas": 5}, "above maxReplicas"),
    ],
)
async def test_what_means_nothing_is_refused_by_name(cluster, spec, said):
    cluster.create(autoscaling={"maxReplicas": 4, **spec})
    await cluster.reconcile()
    ready = next(c for c in cluster.status["conditions"] if c["type"] == "Ready")
    assert ready["reason"] == "InvalidSpec"
    assert said in ready["message"]
