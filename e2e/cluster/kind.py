"""The provider `kind`: Kubernetes in Docker, where a Docker engine can run it."""

import json
import os
import shutil
from pathlib import Path

from e2e.cluster import archives, content, gotool, shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.existing import kubectl_on_path
from e2e.cluster.local.config import audit_policy
from e2e.cluster.paths import Paths
from e2e.cluster.progress import Progress, Step
from e2e.cluster.provider import ComponentStatus, Status
from e2e.cluster.versions import Versions

CLUSTER = "slipway"
NODE = f"{CLUSTER}-control-plane"
AUDIT = "/var/log/kubernetes/audit"
POLICY = "/etc/kubernetes/slipway-audit"
STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
SERVICES = ("containerd", "kubelet")
ALIASES = {
    "apiserver": "kube-apiserver",
    "controller-manager": "kube-controller-manager",
    "scheduler": "kube-scheduler",
}


def configuration(folder: Path, image: str) -> str:
    """Kind's configuration: one node, whose API server writes the same audit log as the local provider's."""
    mounts = [
        {"hostPath": str(folder / "audit"), "containerPath": AUDIT},
        {"hostPath": str(folder / "policy"), "containerPath": POLICY, "readOnly": True},
    ]
    volumes = [
        {"name": "audit-log", "hostPath": AUDIT, "mountPath": AUDIT, "pathType": "DirectoryOrCreate"},
        {
            "name": "audit-policy",
            "hostPath": POLICY,
            "mountPath": POLICY,
            "readOnly": True,
            "pathType": "Directory",
        },
    ]
    arguments = {"audit-log-path": f"{AUDIT}/audit.log", "audit-policy-file": f"{POLICY}/policy.json"}
    patch = {"kind": "ClusterConfiguration", "apiServer": {"extraArgs": arguments, "extraVolumes": volumes}}
    node = {
        "role": "control-plane",
        "image": image,
        "extraMounts": mounts,
        "kubeadmConfigPatches": [json.dumps(patch)],
    }
    return json.dumps(
        {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "name": CLUSTER, "nodes": [node]}
    )


class KindCluster:
    """One node in a container."""

    name = "kind"

    def __init__(self, paths: Paths, versions: Versions, progress: Progress, why: str) -> None:
        self.paths = paths
        self.versions = versions
        self.progress = progress
        self.why = why

    @property
    def folder(self) -> Path:
        """Files of the cluster on the host."""
        return self.paths.cluster / "kind"

    @property
    def store(self) -> content.Store:
        """The node's containerd; its files are inside the container."""
        return content.Store(("docker", "exec", NODE, *content.CLIENT), Path("/nonexistent"))

    @property
    def program(self) -> Path:
        """The kind that this checkout's version file names."""
        return self.paths.programs / f"kind-{self.versions.kind}" / "kind"

    def _kind(self) -> Path:
        if self.program.is_file():
            return self.program
        go = gotool.find(self.paths, self.versions, self.progress)
        self.program.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "GOBIN": str(self.program.parent),
            "CGO_ENABLED": "0",
            "GOFLAGS": "-trimpath",
        }
        with self.progress.step(f"Build kind {self.versions.kind}"):
            shell.run([go, "install", f"sigs.k8s.io/kind@{self.versions.kind}"], env=environment)
        return self.program

    def _exists(self) -> bool:
        listed = shell.attempt(
            ["docker", "ps", "--all", "--format={{.Names}}", f"--filter=name=^{NODE}$"], timeout=20
        )
        return NODE in listed.stdout.split()

    def _running(self) -> bool:
        listed = shell.attempt(["docker", "ps", "--format={{.Names}}", f"--filter=name=^{NODE}$"], timeout=20)
        return NODE in listed.stdout.split()

    def _answers(self) -> bool:
        if not self._running() or not self._file.is_file():
            return False
        ask: list[str | Path] = [
            kubectl_on_path(),
            f"--kubeconfig={self._file}",
            "get",
            "--raw=/readyz",
            "--request-timeout=5s",
        ]
        return shell.attempt(ask, timeout=20).returncode == 0

    def up(self) -> None:
        """Makes the cluster, or makes anew one that does not answer."""
        kubectl_on_path()
        kind = self._kind()
        if self._answers():
            return
        if self._exists():
            self.down()
        for name in ("audit", "policy"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "policy" / "policy.json").write_text(audit_policy(), encoding="utf-8")
        with self.progress.step(f"Create the kind cluster {CLUSTER}"):
            shell.run(
                [kind, "create", "cluster", f"--kubeconfig={self._file}", "--wait=180s", "--config=-"],
                stdin=configuration(self.folder, self.versions.kind_node_image),
            )

    def down(self, *, purge: bool = False) -> None:
        """Deletes the cluster; with purge, Docker's copy of the node image too."""
        if self._exists():
            with self.progress.step(f"Delete the kind cluster {CLUSTER}"):
                shell.run(
                    [self._kind(), "delete", "cluster", f"--name={CLUSTER}", f"--kubeconfig={self._file}"]
                )
        shutil.rmtree(self.folder, ignore_errors=True)
        if purge:
            shell.attempt(["docker", "image", "rm", self.versions.kind_node_image], timeout=60)

    def status(self) -> Status:
        """What runs."""
        running = self._answers()
        pids = shell.attempt(
            ["docker", "inspect", "--format={{.State.Pid}}", NODE], timeout=20
        ).stdout.strip()
        pid = int(pids) if running and pids.isdigit() else None
        return Status(
            provider=self.name,
            running=running,
            why=self.why,
            kubernetes=self.versions.kind_node_image.partition("@")[0].rpartition(":")[2],
            node=NODE,
            kubeconfig=str(self._file) if running else "",
            kubectl=str(kubectl_on_path()),
            audit_log=str(self.folder / "audit" / "audit.log"),
            components=(ComponentStatus(NODE, pid),),
        )

    @property
    def _file(self) -> Path:
        return self.folder / "kubeconfig"

    def kubeconfig(self) -> Path:
        """The kubeconfig that kind wrote."""
        if not self._file.is_file():
            raise ClusterError("There is no cluster to have a kubeconfig; run `python3 -m e2e.cluster up`.")
        return self._file

    def kubectl(self) -> Path:
        """The user's own kubectl."""
        return kubectl_on_path()

    def load(self, images: list[str]) -> None:
        """Hands images to kind, which skips those that the node has."""
        for image in images:
            with self.progress.step(f"Load {image}") as step:
                self._load(image, step)

    def _load(self, image: str, step: Step) -> None:
        kind, scratch = self._kind(), self.paths.cluster / "scratch"
        if not Path(image).exists() and archives.in_docker(image):
            shell.run([kind, "load", "docker-image", image, f"--name={CLUSTER}"])
            return
        with archives.source(image, scratch) as source:
            if self.store.has(source):
                step.note = "is there already"
                return
            with archives.as_archive(source, scratch) as archive:
                shell.run([kind, "load", "image-archive", archive, f"--name={CLUSTER}"])

    def restart(self, component: str) -> None:
        """Ends a component in the node; the kubelet or systemd there starts it again."""
        name = ALIASES.get(component, component)
        if name in SERVICES:
            shell.run(["docker", "exec", NODE, "systemctl", "restart", name])
        elif name in STATIC_PODS:
            shell.run(["docker", "exec", NODE, "pkill", "-TERM", "-x", name])
        else:
            known = ", ".join((*SERVICES, *STATIC_PODS))
            raise ClusterError(f"The kind node has no component {component!r}; name one of {known}.")
