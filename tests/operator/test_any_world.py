"""Random objects, classes, edits, faults and clusters, through the real reconciler: it always comes to rest.

On the way no serving pod is taken beyond what may be missing, and at rest nothing is written any more.
"""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.operator.conftest import Killed, Server
from tests.operator.planner.test_any_object import SPECS, parts
from tests.operator.test_course import KEY, Kubernetes

from slipway_api.v1alpha1 import LLMClass, LLMDeployment
from slipway_operator.errors import Conflict, Retryable
from slipway_operator.kinds import DEPLOYMENT, LLM_CLASS, PARENT

CLASSES = parts(
    default=st.booleans(),
    requireClass=st.booleans(),
    ceilings=parts(replicas=st.integers(0, 4), memory=st.sampled_from(["1Gi", "64Gi"])),
    allowedSources=st.sampled_from([["file://"], ["hf://org/"]]),
    allowedRuntimes=st.sampled_from([["slipway"], ["vllm", "custom"]]),
    allow=parts(podTemplate=st.booleans(), image=st.booleans()),
    defaults=parts(engine=parts(maxNumSeqs=st.integers(1, 9), memoryPercent=st.integers(20, 90))),
    upgrade=parts(maxConcurrent=st.integers(1, 2)),
)
HOW = st.sampled_from(["kill", "conflict", "unavailable"])
FAULTS = st.none() | st.tuples(HOW, st.integers(1, 8), st.booleans())
CLASS = {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMClass"}
# Most edits are such that pods follow; else hardly any story would come as far as a rollout.
SERVED = st.fixed_dictionaries(
    {"model": st.just({"source": "file:///models/tiny.gguf"})},
    optional={
        "replicas": st.integers(0, 4),
        "suspend": st.sampled_from([False, False, False, True]),
        "engine": parts(maxNumSeqs=st.integers(1, 3)),
        "rollout": parts(maxSurge=st.integers(0, 2), maxUnavailable=st.integers(0, 2), paused=st.booleans()),
    },
)
WISHES = st.sampled_from([SERVED] * 7 + [SPECS]).flatmap(lambda each: each)
OFFERS = st.sampled_from([st.none()] * 3 + [CLASSES]).flatmap(lambda each: each)
EDITS = st.tuples(WISHES, st.sampled_from([False, False, True]), OFFERS, FAULTS, st.integers(0, 8))


def valid(model, obj):
    try:
        model.model_validate(obj)
    except ValidationError:
        return False
    return True


class Watched(Kubernetes):
    """A cluster that notes how many pods serve before and after the operator's wishes are carried out."""

    def allowed(self):
        """Return how many pods have to go on serving, as far as it is the operator's doing."""
        spec = self.server.objects[PARENT, KEY]["spec"]
        wanted = 0 if spec.get("suspend") else spec.get("replicas", 1)
        missing = (spec.get("rollout") or {}).get("maxUnavailable")
        return wanted - (1 if missing is None else missing)

    def _sync(self, deployment):
        before = self.ready
        super()._sync(deployment)
        least = min(self.allowed(), self.capped)
        assert self.ready >= min(before, least), "a serving pod was taken too many"

    @property
    def capped(self):
        """Return the most replicas that the class in force lets an object have."""
        ceilings = (each["spec"].get("ceilings") or {} for each in self.server.listing(LLM_CLASS))
        return min((each.get("replicas", 99) for each in ceilings), default=99)


async def play(recorded, slots, edits):
    server = Server()
    world = Watched(server, recorded, slots=slots)
    for number, (spec, named, offer, fault, ticks) in enumerate(edits, 1):
        spec = {**spec, **({"className": "standard"} if named else {})}
        llm_class = {**CLASS, "metadata": {"name": "standard"}, "spec": offer}
        if offer is not None and valid(LLMClass, llm_class):
            llm_class["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
            server.put(LLM_CLASS, llm_class)
        if not valid(LLMDeployment, recorded.parent(**spec)):
            continue
        world.put(number, **spec)
        disturb(server, fault)
        for _ in range(ticks):
            await attempt(world)
            world.tick()
    if (PARENT, KEY) not in server.objects:
        return
    server.kill_at = server.fail_at = None
    await world.settle(ticks=400)
    written = list(server.writes)
    world.restart()
    await world.reconcile()
    assert server.writes == written, "at rest a new operator writes nothing either"
    status = server.objects[PARENT, KEY]["status"]
    assert status["observedGeneration"] == server.objects[PARENT, KEY]["metadata"]["generation"]
    assert len(world.condition()["message"]) > 10
    assert sum(bool(d["spec"]["replicas"]) for d in server.listing(DEPLOYMENT)) <= 2


def disturb(server, fault):
    if fault is None:
        return
    how, after, happens = fault
    number = len(server.writes) + after
    if how == "kill":
        server.kill_at = (number, happens)
    else:
        error = Conflict("409") if how == "conflict" else Retryable("503", after=1)
        server.fail_at = (number, happens, error)


async def attempt(world):
    try:
        await world.reconcile()
    except Retryable:
        return  # the worker comes back
    except Killed:
        world.server.kill_at = None
        world.restart()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(slots=st.integers(0, 6), edits=st.lists(EDITS, min_size=2, max_size=6))
def test_any_object_comes_to_rest_in_any_world_and_takes_no_serving_pod_too_many(recorded, slots, edits):
    asyncio.run(play(recorded, slots, edits))
