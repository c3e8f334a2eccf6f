"""A real Argo CD keeps models as git has them: healthy when they are, never out of sync by our doing."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from e2e import argocd

ROOT = Path(__file__).resolve().parent.parent
CUSTOMIZATIONS = yaml.safe_load((ROOT / "examples/gitops/argocd/argocd-cm.yaml").read_text())["data"]
EXAMPLE = yaml.safe_load((ROOT / "examples/smollm2.yaml").read_text())


class Repository:
    """A git repository of models on this machine."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "models").mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *words):
        identity = ["-c", "user.name=e2e", "-c", "user.email=e2e@example.com"]
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def write(self, name, spec):
        """Commit a model, or its removal where `spec` is None."""
        file = self.folder / "models" / f"{name}.yaml"
        if spec is None:
            file.unlink()
            (self.folder / "models" / ".keep").touch()  # git keeps no empty directory
        else:
            whole = {
                field: value for field, value in {**EXAMPLE["spec"], **spec}.items() if value is not None
            }
            model = {**EXAMPLE, "metadata": {"name": name}, "spec": whole}
            file.write_text(yaml.safe_dump(model))
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"{name}: {json.dumps(spec)}")


class Watched:
    """An Application, and every sync status that it was seen with."""

    def __init__(self, kube, name):
        self.kube, self.name = kube, name
        self.seen = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def get(self):
        return self.kube.get("applications.argoproj.io", self.name, argocd.NAMESPACE)

    def _look(self):
        while not self._stop.wait(0.5):
            status = (self.get() or {}).get("status") or {}
            self.seen.append((status.get("sync") or {}).get("status"))

    def stop(self):
        self._stop.set()
        self._thread.join(30)

    def state(self):
        """The commit, sync and health of the Application, and the health that was told of each model."""
        status = (self.get() or {}).get("status") or {}
        sync = status.get("sync", {})
        health = {one["name"]: one.get("health", {}) for one in status.get("resources") or ()}
        return sync.get("revision"), sync.get("status"), status.get("health", {}).get("status"), health


def established(kube):
    """Wait until the API server serves Argo CD's kinds."""
    end = time.monotonic() + 60
    while True:
        try:
            return kube("get", "applications,applicationsets,appprojects", "-A")
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.fixture(scope="module")
def argo(cluster, kube, tmp_path_factory):
    """Argo CD, with our health check and nothing else of ours."""
    running = argocd.ArgoCD(cluster.kubeconfig, tmp_path_factory.mktemp("argocd"))
    for crd in running.crds:
        kube("apply", "--server-side", "-f", str(crd))
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": argocd.NAMESPACE}})
    try:
        established(kube)
        kube.apply(*running.objects(CUSTOMIZATIONS))
        running.start()
        yield running
    finally:
        try:
            kube("-n", argocd.NAMESPACE, "delete", "applications.argoproj.io", "--all", "--timeout=60s")
        finally:
            running.stop()
        kube("delete", "namespace", argocd.NAMESPACE, "--wait=false")
        for crd in running.crds:
            kube("delete", "--wait=false", "-f", str(crd))


def application(name, repository, namespace):
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": name,
            "namespace": argocd.NAMESPACE,
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],
        },
        "spec": {
            "project": "default",
            "source": {"repoURL": f"file://{repository.folder}", "path": "models", "targetRevision": "main"},
            "destination": {"server": "https://kubernetes.default.svc", "namespace": namespace},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True, "allowEmpty": True},
                "syncOptions": ["ServerSideApply=true"],
            },
        },
    }


@pytest.mark.timeout(1200)  # the first run builds Argo CD
def test_argo_cd_sees_what_git_says_through_a_models_life(
    argo, kube, operator, namespace, wait_for, tmp_path
):
    repository = Repository(tmp_path / "repository")
    repository.write("chat", {"replicas": 1})
    kube.apply(application("models", repository, namespace))
    watched = Watched(kube, "models")

    def reaches(sync, health, model=None, says=""):
        def look():
            commit = repository.git("rev-parse", "HEAD").strip()
            *found, models = watched.state()
            told = models.get("chat", {})
            ok = found == [commit, sync, health] and (not says or says in told.get("message", ""))
            return ok and (model is None or told.get("status") == model)

        try:
            wait_for(f"{sync} and {health} {says}", look, 240)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{watched.state()}\n{argo.logs()}") from error

    def spec_of(name):
        return kube.get("llmdep", name, namespace)["spec"]

    def patch(spec):
        kube("-n", namespace, "patch", "llmdep", "chat", "--type=merge", "-p", json.dumps({"spec": spec}))

    try:
        reaches("Synced", "Healthy", "Healthy", "1 of 1 replicas serve")
        # A rollout, and a new operator: what git says is what there is, all along.
        repository.write("chat", {"replicas": 1, "engine": {"maxModelLen": 1024}})
        reaches("Synced", "Progressing")
        reaches("Synced", "Healthy", "Healthy")
        before = len(watched.seen)
        kube("-n", operator, "rollout", "restart", "deployment/slipway-operator")
        kube("-n", operator, "rollout", "status", "deployment/slipway-operator", "--timeout=120s")
        time.sleep(10)
        assert set(watched.seen[before:]) == {"Synced"}
        # Scaled by hand, as an HPA would, where git does not name the replicas.
        repository.write("chat", {"replicas": None, "engine": {"maxModelLen": 1024}})
        reaches("Synced", "Healthy", "Healthy", "1 of 1 replicas serve")
        before = len(watched.seen)
        kube("-n", namespace, "scale", "llmdep/chat", "--replicas=0")
        reaches("Synced", "Healthy", "Healthy", "No pods run")
        kube("-n", namespace, "scale", "llmdep/chat", "--replicas=1")
        reaches("Synced", "Healthy", "Healthy", "1 of 1 replicas serve")
        assert set(watched.seen[before:]) == {"Synced"}
        # Parked by git.
        repository.write("chat", {"suspend": True, "engine": {"maxModelLen": 1024}})
        reaches("Synced", "Suspended", "Suspended")
        # By hand: taken back.
        patch({"suspend": False})
        wait_for("the edit by hand to be taken back", lambda: spec_of("chat").get("suspend"), 60)
        # What cannot be planned.
        repository.write("chat", {"accelerator": {"type": "abacus"}})
        reaches("Synced", "Degraded", "Degraded", "abacus")
        # Gone from git.
        repository.write("chat", None)
        wait_for("the model to be pruned", lambda: not kube.get("llmdep", "chat", namespace), 120)
    finally:
        watched.stop()
