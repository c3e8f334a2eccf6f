"""What happens to the operator, and between it and the API server: whatever it is, the end is the same.

The operator is this checkout's, as a process of this machine behind a proxy that fails on purpose, with the
rights of the chart's account. The chart's own operator stands aside meanwhile. Kubelets are played.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from datetime import datetime
from pathlib import Path

import pytest

from e2e.api_proxy import Cut, Expired, Lost, Proxy, Refused, Silence
from e2e.conftest import SYSTEM, wait_until
from e2e.fake_nodes import connect
from e2e.local_operator import LocalOperator
from e2e.space import CHILDREN, Space

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT = f"system:serviceaccount:{SYSTEM}:slipway-operator"


@pytest.fixture(scope="module")
def alone(kube, operator):
    """Let the chart's operator stand aside: it gives its Lease back and does not come again."""
    found = kube.get("deployment", "slipway-operator", operator)
    if found is None:
        pytest.skip("an operator that was started by hand cannot be told to stand aside")
    kube("-n", SYSTEM, "scale", "deployment/slipway-operator", "--replicas=0")
    pods = ("get", "pods", "-l", "app.kubernetes.io/name=slipway-operator", "-o", "name")
    wait_until("the chart's operator to go", lambda: not kube("-n", SYSTEM, *pods), 60)
    yield
    kube("-n", SYSTEM, "scale", "deployment/slipway-operator", f"--replicas={found['spec']['replicas']}")
    kube("-n", SYSTEM, "rollout", "status", "deployment/slipway-operator", "--timeout=120s")


@pytest.fixture(scope="module")
def nodes(kube, cluster):
    """A node that is played; its name is also the value of the label that leads pods there."""
    prefix = f"faults-{uuid.uuid4().hex[:6]}"
    words = ["-m", "e2e.fake_nodes", "--prefix", prefix, "--ready-after", "0.1"]
    kubelet = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=cluster.env, stdout=subprocess.PIPE, start_new_session=True
    )
    assert kubelet.stdout.readline().strip() == b"ready"
    yield prefix
    kubelet.kill()
    kubelet.communicate()
    kube("delete", "nodes", "-l", f"slipway.dev/fake={prefix}", "--wait=false")


@pytest.fixture(scope="module")
def spaces(kube, alone, nodes):
    """A function that makes a namespace; all are deleted at the end, with what is in them."""
    made = []

    def make():
        name = f"faults-{uuid.uuid4().hex[:8]}"
        kube("create", "namespace", name)
        made.append(name)
        return name

    yield make
    for name in made:
        kube("delete", "namespace", name, "--wait=false")
        kube("-n", name, "delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")


@pytest.fixture
def proxy(cluster, alone):
    with Proxy(cluster.kubeconfig, ACCOUNT) as proxy:
        yield proxy


@pytest.fixture
def local(proxy, tmp_path):
    """The operator behind the proxy, which is not started yet."""
    operator = LocalOperator(proxy.write_kubeconfig(tmp_path / "config"), tmp_path, SYSTEM)
    yield operator
    operator.end()
    print(operator.log[-4000:])


def quiet(proxy, seconds=1.0):
    """Wait until nothing has been written for a while."""

    def probe():
        before = len(proxy.writes)
        time.sleep(seconds)
        return len(proxy.writes) == before

    wait_until("the operator to be quiet", probe, 60, every=0)


def ends_as(space, expected, name="chat"):
    """Wait until an object and its children are as expected; say what differs where they never are."""

    def probe():
        if space.operator is not None:
            space.operator.revive()
        seen[:] = space.state(name)
        return seen == expected

    seen = []
    try:
        wait_until("the same state", probe, 120, every=0.5)
    except AssertionError:
        lines = [json.dumps(json.loads(each), indent=1).splitlines() for each in (*expected, "0", *seen)]
        middle = len(expected)
        before, after = (list(itertools.chain(*part)) for part in (lines[:middle], lines[middle + 1 :]))
        pytest.fail("\n".join(difflib.unified_diff(before, after, "expected", "seen", lineterm="")))


def created_and_rolled(space, proxy, at=None):
    """Create an object and roll it out anew, with a kill after write `at` of each; return the kills."""
    kills = []

    def arm():
        count = itertools.count(1)

        def rule(request):
            if not request.writes or request.namespace != space.name or next(count) != at:
                return None
            kills.append(request)
            return Lost(space.operator.kill)

        proxy.rule = rule

    arm()
    space.operator.revive()
    space.apply()
    space.told("Ready")
    arm()
    space.patch(engine={"maxNumSeqs": 9})
    space.told("Ready")
    proxy.rule = lambda request: None
    return kills


@pytest.fixture(scope="module")
def undisturbed(kube, cluster, spaces, nodes, tmp_path_factory):
    """How an object ends that is created and then rolled out anew, where nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Proxy(cluster.kubeconfig, ACCOUNT) as proxy:
        operator = LocalOperator(proxy.write_kubeconfig(folder / "config"), folder, SYSTEM)
        try:
            space = Space(kube, spaces(), nodes, operator)
            created_and_rolled(space, proxy)
            quiet(proxy, seconds=4)
            assert operator.starts == 1
            return space.state()
        finally:
            operator.end()
            print(operator.log[-4000:])


@pytest.mark.timeout(900)  # a dozen starts of the operator, each slow on a busy machine
def test_a_kill_after_any_write_ends_in_the_same_state(kube, spaces, nodes, proxy, local, undisturbed):
    """The write takes effect, nobody hears of it, and the operator starts again from nothing."""
    killed_at = []
    for number in itertools.count(1):
        space = Space(kube, spaces(), nodes, local)
        kills = created_and_rolled(space, proxy, at=number)
        print(f"killed at write {number}: {[request.resource for request in kills]}")
        ends_as(space, undisturbed)
        if not kills:
            break
        killed_at += [request.resource for request in kills]
    print(f"killed after {len(killed_at)} writes: {killed_at}")
    written = {"controllerrevisions", "deployments", "services", "poddisruptionbudgets", "networkpolicies"}
    assert {*killed_at} >= written | {"llmdeployments/status"}
    assert local.starts > len(killed_at)


def storm(seed):
    """A rule: refusals, lost answers, cut and expired watches, and one request that is never answered."""
    draw, silent = random.Random(seed), {"services"}

    def rule(request):
        if request.watches:
            return Expired() if draw.random() < 0.1 else Cut(after=draw.uniform(0.3, 4.0))
        if request.resource in silent and request.writes:
            silent.clear()
            return Silence()
        if request.resource == "leases":
            return Refused(500) if draw.random() < 0.05 else None
        faults = [Refused(429, retry_after=1), Refused(500), Refused(503), Refused(504), Cut()]
        faults += [Lost()] if request.writes else []
        return draw.choice(faults) if draw.random() < 0.15 else None

    return rule


@pytest.mark.timeout(900)
def test_through_a_storm_of_faults_every_object_gets_where_it_would_have(
    kube, spaces, nodes, proxy, undisturbed, tmp_path
):
    config = proxy.write_kubeconfig(tmp_path / "config")
    stormy = LocalOperator(config, tmp_path, SYSTEM, "--relist-seconds", "10", identity="stormy")
    space = Space(kube, spaces(), nodes, stormy)
    names = [f"model{number}" for number in range(4)]
    proxy.rule = storm(seed=7)
    try:
        for name in names:
            space.apply(name)
        for name in names:
            space.told("Ready", name, timeout=250)
        for name in names:
            space.patch(name, engine={"maxNumSeqs": 9})
        space("delete", "llmdep", names[0], "--wait=false")  # in the middle of its rollout
        for name in names[1:]:
            space.told("Ready", name, timeout=250)
        print(f"{proxy.faults} faults, {stormy.starts} starts")
        assert proxy.faults > 50
        proxy.rule = lambda request: None
        for name in names[1:]:
            ends_as(space, undisturbed, name)
        left = ("get", f"{CHILDREN},pods", "-l", f"slipway.dev/deployment={names[0]}", "-o", "name")
        wait_until("the deleted object's children to go", lambda: not space(*left), 60)
    finally:
        stormy.end()
        print(stormy.log[-4000:])


def test_two_operators_started_at_once_and_one_that_oversleeps(kube, spaces, nodes, cluster, tmp_path):
    """One of them works. Stopped for longer than its Lease, it wakes with work to do and writes nothing."""
    with Proxy(cluster.kubeconfig, ACCOUNT) as one, Proxy(cluster.kubeconfig, ACCOUNT) as other:
        ends = []
        for name, proxy in (("one", one), ("other", other)):
            config = proxy.write_kubeconfig(tmp_path / f"{name}.config")
            ends.append((LocalOperator(config, tmp_path, SYSTEM, identity=name), proxy))
        try:
            for operator, _ in ends:
                operator.start()
            space = Space(kube, spaces(), nodes)
            space.apply("first")
            space.told("Ready", "first")
            assert all(operator.alive for operator, _ in ends)
            wrote = [bool(proxy.writes) for _, proxy in ends]
            assert sorted(wrote) == [False, True], "one works and one stands by"
            (leader, its), (follower, _) = sorted(ends, key=lambda end: not end[1].writes)
            held = holder(kube)
            leader.signal(signal.SIGSTOP)
            before = len(its.writes)
            for number in range(5):
                space.apply(f"later{number}")
            wait_until("the other to lead", lambda: holder(kube) not in ("", held), 60, every=0.2)
            for number in range(5):
                space.told("Ready", f"later{number}")
            space.patch("first", engine={"maxNumSeqs": 9})
            leader.signal(signal.SIGCONT)
            wait_until("the one that overslept to leave", lambda: not leader.alive, 60, every=0.2)
            space.told("Ready", "first")
            assert its.writes[before:] == []
            assert follower.alive
        finally:
            for operator, _ in ends:
                operator.end()
                print(operator.log[-2000:])


def holder(kube):
    return kube.get("lease", "slipway-operator", SYSTEM)["spec"].get("holderIdentity", "")


def test_an_object_edited_a_hundred_times_in_ten_seconds_ends_at_the_last_edit(
    kube, spaces, nodes, proxy, local, cluster
):
    space = Space(kube, spaces(), nodes, local)
    local.start()
    space.apply()
    space.told("Ready")
    least = 2

    async def edit():
        nonlocal least
        path = f"/apis/slipway.dev/v1alpha1/namespaces/{space.name}/llmdeployments/chat"
        kind = {"Content-Type": "application/merge-patch+json"}
        async with connect(kubeconfig=cluster.kubeconfig) as session:
            for number in range(100):
                due = asyncio.get_running_loop().time() + 0.1
                body = json.dumps({"spec": {"engine": {"maxNumSeqs": number + 1}}})
                async with session.patch(path, data=body, headers=kind) as answer:
                    least = min(least, (await answer.json())["status"]["readyReplicas"])
                await asyncio.sleep(due - asyncio.get_running_loop().time())

    started = time.monotonic()
    asyncio.run(edit())
    assert time.monotonic() - started < 15
    space.told("Ready", timeout=120)
    assert least >= 1, "at most one replica may be missing by our own doing"
    for pod in space("get", "pods", "-l", "slipway.dev/deployment=chat", json=True)["items"]:
        arguments = pod["spec"]["containers"][0]["args"]
        assert arguments[arguments.index("--max-num-seqs") + 1] == "100"
    assert len(space("get", "controllerrevisions", json=True)["items"]) <= 5


@pytest.fixture(scope="module")
def shifted_clock(tmp_path_factory):
    """A library that makes a program's wall clock wrong."""
    compiler = next((found for name in ("cc", "gcc", "clang", "g++") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("there is no C compiler to make a wrong clock with")
    library = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    flags = ["-x", "c", "-shared", "-fPIC", "-O1", "-o", str(library)]
    subprocess.run([compiler, *flags, str(ROOT / "e2e" / "shifted_clock.c"), "-ldl"], check=True)
    return library


@pytest.mark.parametrize("hours", [3, -3])
def test_a_clock_that_jumps_passes_no_deadline_and_loses_no_lease(
    kube, spaces, nodes, proxy, tmp_path, shifted_clock, hours
):
    """In the middle of a rollout the machine's clock is set; then the operator is killed and starts so."""
    shift = tmp_path / "shift"
    shift.write_text("0")
    environment = {"LD_PRELOAD": str(shifted_clock), "SHIFT_FILE": str(shift)}
    config = proxy.write_kubeconfig(tmp_path / "config")
    jumping = LocalOperator(config, tmp_path, SYSTEM, identity=f"at{hours}", environment=environment)
    space = Space(kube, spaces(), nodes)
    jumping.start()
    try:
        space.apply(rollout={"progressDeadlineSeconds": 60})
        space.told("Ready")
        space.patch(model={"servedNames": ["never-ready"]})
        wait_until("two revisions", lambda: len(space.status().get("revisions", ())) == 2, 90)
        shift.write_text(str(3600 * hours))
        time.sleep(3)
        space.patch(replicas=3)
        wait_until("the new number", lambda: space.status().get("ready") == "2/3", 90)
        assert jumping.alive
        jumping.kill()
        wait_until("its end", lambda: not jumping.alive, 30)
        jumping.start()
        wait_until("its return", lambda: jumping.log.count('"leading"') == 2, 90)
        space.patch(replicas=2)
        wait_until("the old number", lambda: space.status().get("ready") == "2/2", 90)
        logged = [json.loads(line)["time"] for line in jumping.log.splitlines() if '"leading"' in line]
        assert abs(_seconds(logged[-1]) - time.time() - 3600 * hours) < 60, "it did see another time"
        conditions = space.status()["conditions"]
        assert not [c for c in conditions if c["type"] == "Stalled" and c["status"] == "True"]
        assert all(abs(_seconds(c["lastTransitionTime"]) - time.time()) < 120 for c in conditions)
        space.patch(model={"servedNames": ["chat"]})
        space.told("Ready")
    finally:
        jumping.end()
        print(jumping.log[-3000:])


def _seconds(text):
    return datetime.fromisoformat(text).timestamp()


def test_an_operator_of_one_namespace_sees_classes_and_nothing_else_beyond_it(
    kube, spaces, nodes, cluster, helm, tmp_path
):
    """With the account, the Roles and the ClusterRole that the chart makes for `watchNamespaces`."""
    release = f"scoped-{uuid.uuid4().hex[:6]}"
    llm_class = {"apiVersion": "slipway.dev/v1alpha1", "kind": "LLMClass", "metadata": {"name": release}}
    elsewhere = Space(kube, spaces(), nodes)
    elsewhere.apply(suspend=True)
    here = Space(kube, spaces(), nodes)
    chosen = ["--namespace", here.name, "--set", f"watchNamespaces={{{here.name}}}"]
    shown = [
        word for name in ("rbac", "serviceaccount") for word in ("--show-only", f"templates/{name}.yaml")
    ]
    rights = helm("template", release, str(ROOT / "charts" / "slipway"), *chosen, *shown)
    account = f"system:serviceaccount:{here.name}:{release}-operator"
    try:
        kube("apply", "-f", "-", stdin=rights)
        with Proxy(cluster.kubeconfig, account) as proxy:
            config = proxy.write_kubeconfig(tmp_path / "config")
            scoped = LocalOperator(config, tmp_path, here.name, "--namespace", here.name, identity="scoped")
            blind = LocalOperator(
                config, tmp_path, here.name, "--namespace", here.name, "--no-classes", identity="blind"
            )
            try:
                scoped.start()
                kube.apply({**llm_class, "spec": {"allowedSources": ["hf://org/"]}})
                here.apply(className=release, suspend=True)
                assert "allowed are hf://org/" in here.told("ClassDenied")
                kube.apply({**llm_class, "spec": {"allow": {"podTemplate": ["nodeSelector", "tolerations"]}}})
                here.told("Suspended")
                scoped.signal(signal.SIGTERM)
                wait_until("it to leave in order", lambda: not scoped.alive, 60)
                blind.start()
                here.patch(replicas=1)
                assert "without the right to read classes" in here.told("ClassNotFound")
            finally:
                for operator in (scoped, blind):
                    operator.end()
                    print(operator.log[-2000:])
            assert "forbidden" not in scoped.log + blind.log
            assert {request.namespace for request in proxy.writes} == {here.name}
        assert elsewhere.status() == {}
    finally:
        kube("delete", "-f", "-", "--ignore-not-found", stdin=rights)
        kube("delete", "llmclasses.slipway.dev", release, "--ignore-not-found")
