"""Objects as a real API server and kubelet (v1.34) produced them, and small edits of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway_api import names
from slipway_api.inspection import Inspection, decode
from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.diff import LIST_KEYS
from slipway_operator.errors import Conflict, Invalid, Missing
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, Key, Kind, Object, key_of
from slipway_operator.moments import seconds_of
from slipway_operator.plan import Installation, Plan, Refusal, World, make_plan
from slipway_operator.plan.classes import classed
from slipway_operator.plan.effective import resolve
from slipway_operator.plan.inspect import asked, facts_revision, wanted
from slipway_operator.plan.render import owner_reference
from slipway_operator.plan.revision import LABEL_REVISION

RECORDED = Path(__file__).parent / "recorded"
IMAGE = "registry.example.com/slipway/engine:1"
NOW = "2026-01-02T03:04:05Z"


class Recorded:
    """Recorded and derived objects."""

    image = IMAGE
    here = Installation(IMAGE)
    now = NOW
    moment = seconds_of(NOW) or 0.0

    def load(self, name: str) -> Object:
        obj: Object = json.loads((RECORDED / f"{name}.json").read_text())
        return obj

    def parent(self, name: str = "chat", *, generation: int = 1, **spec: Any) -> Object:
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": f"uid-of-{name}",
                "generation": generation,
                "resourceVersion": "100",
            },
            "spec": {"model": {"source": "file:///models/tiny.gguf"}, **spec},
        }

    def world(self, parent: Object, **more: Any) -> World:
        """Return a world in which the model was inspected already, where that is needed before pods."""
        facts = self.facts(parent)
        revisions = [*more.pop("revisions", ()), *([facts] if facts is not None else ())]
        return World(parent, revisions=revisions, **more)

    @property
    def inspection(self) -> Inspection:
        """What an inspect Job found out about SmolLM2-135M-Instruct."""
        return decode((RECORDED / "inspection.json").read_bytes())

    def facts(self, parent: Object) -> Object | None:
        """Return the ControllerRevision that keeps what is known of the model; None where nobody asks."""
        try:
            spec = LLMDeploymentSpec.model_validate(parent.get("spec"))
            found = classed(spec, "team", {})
            values = resolve(key_of(parent).name, found, self.here)
        except ValueError:
            return None
        if not wanted(values):
            return None
        digest, owner = asked(found.spec, values), owner_reference(parent)
        return facts_revision(parent, digest, self.inspection, owner)

    def job_pod(
        self,
        job: Object,
        *,
        container: str = "inspect",
        code: int | None = None,
        message: str = "",
        phase: str | None = None,
    ) -> Object:
        """Return a pod of a Job whose container ended with `code`, or still runs."""
        running = {"running": {}} if code is None else {"terminated": {"exitCode": code, "message": message}}
        name = job["metadata"]["name"]
        return {
            "metadata": {
                "name": f"{name}-x",
                "namespace": "team",
                "uid": f"uid-of-{name}-x",
                "labels": {**job["spec"]["template"]["metadata"]["labels"], "job-name": name},
                "ownerReferences": [{"kind": "Job", "name": name, "uid": "j", "controller": True}],
            },
            "spec": {},
            "status": {
                "phase": phase or ("Running" if code is None else "Failed"),
                "podIP": "10.1.2.3",
                "containerStatuses": [{"name": container, "state": running}],
            },
        }

    def planned(self, parent: Object, **known: Any) -> Plan | Refusal:
        return make_plan(self.world(parent, **known), self.here, self.moment)

    def plan(self, parent: Object) -> Plan:
        plan = make_plan(self.world(parent), self.here, self.moment)
        assert isinstance(plan, Plan), plan
        return plan

    def pod(self, parent: Object, recorded: str = "pod-loading", *, name: str = "chat-1-a") -> Object:
        """Return a recorded pod as a pod of `parent`'s newest revision."""
        pod = copy.deepcopy(self.load(recorded))
        revision = self.plan(parent).revision
        pod["metadata"]["name"], pod["metadata"]["namespace"] = name, "team"
        pod["metadata"]["uid"] = f"uid-of-{name}"
        pod["metadata"]["labels"] = {**names.labels_of(parent["metadata"]["name"]), LABEL_REVISION: revision}
        return pod

    def ready(self, parent: Object, *, name: str = "chat-1-a") -> Object:
        pod = self.pod(parent, name=name)
        for condition in pod["status"]["conditions"]:
            condition["status"] = "True"
        pod["status"]["containerStatuses"][0]["ready"] = True
        return pod

    def leaving(self, pod: Object) -> Object:
        gone = copy.deepcopy(pod)
        gone["metadata"]["deletionTimestamp"] = NOW
        return gone

    def ended(
        self, parent: Object, terminated: Object, *, container: str = "engine", waiting: bool = True
    ) -> Object:
        """Return a pod whose container ended as `terminated` says and waits for its next start (or runs)."""
        pod = self.pod(parent)
        now = {
            "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}
        }
        status = {
            "name": container,
            "ready": False,
            "restartCount": 2,
            "state": now if waiting else {"running": {"startedAt": "2099-01-01T00:00:00Z"}},
            "lastState": {"terminated": {"startedAt": NOW, "finishedAt": NOW, **terminated}},
        }
        if container == "engine":
            pod["status"]["containerStatuses"] = [status]
        else:
            pod["status"]["initContainerStatuses"] = [status]
            pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "PodInitializing"}}
        return pod

    def deployment(self, parent: Object, recorded: str | None = None, **status: Any) -> Object:
        """Return the Deployment of `parent`, with the status of a recorded one, or a settled one."""
        plan = self.plan(parent)
        deployment = copy.deepcopy(plan.of_kind(DEPLOYMENT)[0])
        deployment["metadata"] |= {"generation": 1, "uid": "uid-of-deployment", "resourceVersion": "7"}
        settled = {"observedGeneration": 1, "replicas": plan.replicas, "updatedReplicas": plan.replicas}
        deployment["status"] = self.load(recorded)["status"] if recorded else settled
        deployment["status"] |= {"observedGeneration": 1, **status}
        return deployment

    def revision(self, parent: Object, number: int = 1) -> Object:
        """Return the ControllerRevision of `parent`'s newest revision."""
        stored = copy.deepcopy(self.plan(parent).of_kind(CONTROLLER_REVISION)[0])
        stored["revision"] = number
        return stored


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    return Recorded()


class Killed(BaseException):
    """The operator was killed: nothing catches this."""


class Server:
    """An API server in memory with server-side apply as far as the operator relies on it.

    The real one is used in `e2e/`; this one can be made to fail at every single write.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[Kind, Key], Object] = {}
        self.writes: list[str] = []
        self.refuse: dict[str, Exception] = {}
        """By plural (or plural/subresource): what a write to it answers."""
        self.kill_at: tuple[int, bool] | None = None
        """Number of the write at which to kill, and whether the write still happens."""
        self.fail_at: tuple[int, bool, Exception] | None = None
        """Number of the write that is answered with an error, whether it still happens, and the error."""
        self.events: list[Object] = []
        self.announced: list[tuple[str, str]] = []
        self._version = 100

    def put(self, kind: Kind, obj: Object) -> Object:
        self._version += 1
        stored = copy.deepcopy(obj)
        stored["metadata"]["resourceVersion"] = str(self._version)
        stored["metadata"].setdefault("uid", f"uid-{self._version}")
        self.objects[kind, key_of(stored)] = stored
        return copy.deepcopy(stored)

    def listing(self, kind: Kind) -> list[Object]:
        return [copy.deepcopy(obj) for (k, _), obj in self.objects.items() if k == kind]

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None
    ) -> tuple[list[Object], int]:
        return self.listing(kind), self._version

    async def get(self, kind: Kind, key: Key) -> Object | None:
        return copy.deepcopy(self.objects.get((kind, key)))

    async def pod_events(self, namespace: str, pod_uid: str, reason: str) -> list[Object]:
        return self.events

    async def create_event(self, about: Object, reason: str, message: str, *, warning: bool) -> None:
        self.announced.append((reason, message))

    async def apply(
        self,
        kind: Kind,
        key: Key,
        body: Object,
        *,
        subresource: str | None = None,
        force: bool = True,
        dry_run: bool = False,
    ) -> Object:
        what = f"{kind.plural}/{subresource}" if subresource else kind.plural
        if what in self.refuse:
            raise self.refuse[what]
        live = self.objects.get((kind, key))
        if subresource and live is None:
            raise Missing(f"{what} {key} not found")
        if kind is CONTROLLER_REVISION and live is not None and live["data"] != body["data"]:
            raise Invalid("data: field is immutable")
        version = body["metadata"].get("resourceVersion")
        if version is not None and live is not None and live["metadata"]["resourceVersion"] != version:
            raise Conflict(f"{what} {key}: the object has been modified")
        if dry_run:
            return _applied(live or {"metadata": {}}, body, subresource)
        self._disturb(before=True)
        self.writes.append(f"{what} {key}")
        applied = self.put(kind, _applied(live or {"metadata": {}}, body, subresource))
        self._disturb(before=False)
        return applied

    async def delete(self, kind: Kind, obj: Object) -> None:
        live = self.objects.get((kind, key_of(obj)))
        if live is None:
            raise Missing(f"{kind.plural} {key_of(obj)} not found")
        if any(live["metadata"][field] != obj["metadata"][field] for field in ("uid", "resourceVersion")):
            raise Conflict(f"the precondition does not hold for {key_of(obj)}")
        self._disturb(before=True)
        self.writes.append(f"delete {kind.plural} {key_of(obj)}")
        del self.objects[kind, key_of(obj)]
        self._disturb(before=False)

    def _disturb(self, *, before: bool) -> None:
        coming = len(self.writes) + (1 if before else 0)
        if self.kill_at is not None:
            number, happens = self.kill_at
            if coming == number and before is not happens:
                raise Killed
        if self.fail_at is not None:
            number, happens, error = self.fail_at
            if coming == number and before is not happens:
                if before:
                    self.writes.append("failed")
                self.fail_at = None
                raise error


def _applied(live: Object, body: Object, subresource: str | None) -> Object:
    """Return `live` with `body` applied: our fields replace ours of before, those of others stay."""
    result = copy.deepcopy(live)
    if subresource:
        result[subresource] = copy.deepcopy(body[subresource])
        fields = {f"f:{subresource}": fields_of(body[subresource])}
    else:
        generation = live["metadata"].get("generation", 0)
        result |= copy.deepcopy({k: v for k, v in body.items() if k != "metadata"})
        result["metadata"] = {**live["metadata"], **copy.deepcopy(body["metadata"])}
        result["metadata"]["generation"] = generation + (live.get("spec") != body.get("spec"))
        rest = ("name", "namespace", "uid", "resourceVersion")
        fields = {"f:metadata": fields_of({k: v for k, v in body["metadata"].items() if k not in rest})}
        parts = [part for part in ("spec", "data", "revision") if part in body]
        fields |= {f"f:{part}": fields_of(body[part]) for part in parts}
    entry = {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}
    if subresource:
        entry["subresource"] = subresource
    others = [
        e
        for e in live["metadata"].get("managedFields", [])
        if e["manager"] != names.FIELD_MANAGER or e.get("subresource") != subresource
    ]
    result["metadata"]["managedFields"] = [*others, entry]
    return result


def fields_of(value: Any, field: str = "") -> Object:
    """Return the fieldsV1 of a value: keyed lists by key, every other list as one value."""
    if isinstance(value, dict):
        return {f"f:{name}": fields_of(sub, name) for name, sub in value.items()}
    keys = LIST_KEYS.get(field)
    if isinstance(value, list) and keys:
        return {f"k:{json.dumps({key: item[key] for key in keys})}": fields_of(item) for item in value}
    return {}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(scope="session")
def killed() -> type[Killed]:
    return Killed


@pytest.fixture
def kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    """Return a function that points every Kubernetes client of this process at a loopback port."""

    def point(port: int) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        path = str(tmp_path / "kubeconfig")
        monkeypatch.setenv("KUBECONFIG", path)
        monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", path)

    return point
