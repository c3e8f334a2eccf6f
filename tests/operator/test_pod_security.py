"""Pod Security `restricted` for whatever is made, and the one door out of it, which only a class opens."""

from __future__ import annotations

import itertools

import pytest

from slipway_api.conditions import Reason
from slipway_operator.kinds import DEPLOYMENT, JOB
from slipway_operator.plan import Plan, Refusal
from slipway_operator.plan.resources import is_rdma

RDMA = {"requests": {"rdma/hca_a": "1"}, "limits": {"rdma/hca_a": "1"}}
CUSTOM = {"image": "mine:1", "custom": {"args": ["x"]}}
# What Pod Security `restricted` forbids; `None` and `False` are the defaults.
NEVER = ("hostIPC", "hostPID", "hostNetwork", "shareProcessNamespace", "hostUsers", "ephemeralContainers")
VOLUMES = {
    "configMap",
    "csi",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
}


def classes_of(**spec):
    return {"fast": {"metadata": {"name": "fast"}, "spec": {"default": True, **spec}}}


def pods_of(plan):
    """Return every pod that a plan would make: engines, and Jobs of caches and inspections."""
    assert isinstance(plan, Plan), plan
    jobs = [body for kind, body in plan.children if kind in (DEPLOYMENT, JOB)]
    jobs += [plan.prepared.wish.job] if plan.prepared.wish else []
    return [job["spec"]["template"]["spec"] for job in jobs]


def assert_restricted(pod, *, but=frozenset()):
    assert not any(pod.get(field) for field in NEVER), pod
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= VOLUMES
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert "privileged" not in context
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert not any("hostPort" in port for port in container.get("ports", []))
        if container["name"] in but:
            continue
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["runAsNonRoot"] is True
        assert context.get("runAsUser", 1) != 0


RUNTIMES = {
    "slipway": {},
    "vllm": {"runtime": "vllm", "image": "v:1"},
    "sglang": {"runtime": "sglang", "image": "s:1"},
    "custom": {"runtime": "custom", **CUSTOM},
}
SOURCES = [
    "hf://o/n",
    "s3://bucket/m",
    "gs://bucket/m",
    "oci://h/m:1",
    "https://h/m.gguf",
    "pvc://c/m",
    "file:///m",
]


@pytest.mark.parametrize(
    ("runtime", "source", "mode"), [*itertools.product(RUNTIMES, SOURCES, ["Shared", "PerReplica"])]
)
def test_every_pod_is_restricted(recorded, runtime, source, mode):
    model = {"source": source, "cache": {"mode": mode}}
    if source.startswith(("hf", "s3", "gs", "oci")):
        model["credentials"] = {"secretName": "keys"}
    parent = recorded.parent(model=model, engine=RUNTIMES[runtime])
    for known in (None, recorded.inspection):
        for pod in pods_of(recorded.planned(parent, known=known)):
            assert_restricted(pod)


def containers_with(pods, *marks):
    every = [each for pod in pods for each in [*pod["containers"], *pod.get("initContainers", [])]]
    return [each for each in every if any(mark in str(each) for mark in marks)]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("mode", ["Shared", "PerReplica"])
@pytest.mark.parametrize("credentials", [{"secretName": "keys"}, {"serviceAccountName": "reader"}])
def test_a_credential_is_shown_to_the_operators_own_image_alone(recorded, runtime, mode, credentials):
    engine = {"image": "evil:1", **RUNTIMES[runtime]}
    model = {"source": "s3://bucket/m", "cache": {"mode": mode}, "credentials": credentials}
    for known in (None, recorded.inspection):
        found = recorded.planned(recorded.parent(model=model, engine=engine), known=known)
        if isinstance(found, Refusal):
            assert "serviceAccountName" in found.message, "engine pods never have one"
            continue
        holding = containers_with(pods_of(found), "secretKeyRef", "slipway-identity")
        assert {container["image"] for container in holding} <= {recorded.image}
        assert holding or known is not None


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_only_a_class_opens_locked_memory_and_for_the_engine_alone(recorded, runtime):
    model = {"source": "https://h/m.gguf"}
    parent = recorded.parent(model=model, engine=RUNTIMES[runtime], podTemplate={"resources": RDMA})
    allow = {"allow": {"rdma": True, "customRuntime": True}}
    (pod,) = [
        p for p in pods_of(recorded.planned(parent, classes=classes_of(**allow))) if "initContainers" in p
    ]
    assert_restricted(pod, but={"engine"})
    (engine,) = pod["containers"]
    assert engine["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert engine["securityContext"]["runAsUser"] == 0, "the kernel takes it from others"
    for pod in pods_of(recorded.planned(parent)):
        assert_restricted(pod)  # devices without a class are devices, and nothing more


def test_a_class_that_opens_it_gives_it_to_nobody_who_has_no_device(recorded):
    for pod in pods_of(recorded.planned(recorded.parent(), classes=classes_of(allow={"rdma": True}))):
        assert_restricted(pod)


@pytest.mark.parametrize("kind", ["requests", "limits"])
def test_a_class_that_does_not_open_it_refuses_the_device(recorded, kind):
    parent = recorded.parent(podTemplate={"resources": {kind: {"rdma/hca_a": "1"}}})
    found = recorded.planned(parent, classes=classes_of())
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CLASS_DENIED
    assert "podTemplate.resources rdma/hca_a (allow.rdma)" in found.message


def test_the_class_s_own_devices_are_no_way_around_its_own_word(recorded):
    offer = {"defaults": {"podTemplate": {"resources": RDMA}}}
    for pod in pods_of(recorded.planned(recorded.parent(), classes=classes_of(**offer))):
        assert_restricted(pod)


def test_network_devices_are_no_accelerators_of_a_ceiling(recorded):
    offer = {"allow": {"rdma": True}, "ceilings": {"acceleratorsPerReplica": 0}}
    parent = recorded.parent(podTemplate={"resources": RDMA})
    assert isinstance(recorded.planned(parent, classes=classes_of(**offer)), Plan)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("rdma/ib", True), ("nvidia.com/rdma_shared", True), ("vpc.amazonaws.com/efa", True),
     ("nvidia.com/gpu", False), ("memory", False), ("cpu", False)],
)  # fmt: skip
def test_what_counts_as_a_device_that_writes_to_memory(name, is_one):
    assert is_rdma(name) is is_one


def test_the_memory_that_workers_share_grows_with_the_plan(recorded):
    def shared(count):
        parent = recorded.parent(
            engine=RUNTIMES["vllm"],
            parallelism={"tensor": count},
            accelerator={"type": "nvidia-h100-80gb"},
        )
        (pod,) = pods_of(recorded.planned(parent))
        (volume,) = [v for v in pod["volumes"] if v["name"] == "slipway-shm"]
        return volume["emptyDir"]["sizeLimit"]

    assert [shared(count) for count in (1, 2, 8)] == ["2Gi", "3Gi", "9Gi"]
