"""The provider `local`: brings the node up step by step, and takes it down.

Each step makes sure of one thing and leaves alone what is right already, so
`up` is also the repair of an `up` that was cut short.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from e2e.cluster import archives, build, keys, oci, packages, shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.files import write_private
from e2e.cluster.local import (
    cgroups,
    components,
    config,
    content,
    mounts,
    namespaces,
    network,
    pki,
    processes,
)
from e2e.cluster.local.components import Component
from e2e.cluster.local.network import Network
from e2e.cluster.local.state import State
from e2e.cluster.paths import PACKAGE, Paths
from e2e.cluster.progress import Progress, Step
from e2e.cluster.provider import ComponentStatus, Status
from e2e.cluster.versions import Versions

CONTEXT = "slipway-local"
READY_SECONDS = 90.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.1
CLIENTS = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
CAP_SYS_RESOURCE = 24


def may_raise_oom_score(status: str) -> bool:
    """Whether the text of `/proc/self/status` shows the capability that takes."""
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


def remove_if_empty(folder: Path) -> None:
    """Removes a folder that was made for the cluster, unless somebody else uses it by now."""
    try:
        folder.rmdir()
    except OSError:
        return


def addresses(chosen: Network) -> dict[str, str]:
    """The addresses a user may want to know."""
    return {
        "host": str(chosen.host),
        "node": str(chosen.node),
        "services": str(chosen.services),
        "pods": str(chosen.pods),
        "dns": str(chosen.dns),
    }


@dataclass
class Node:
    """The parts of a cluster that is being worked on."""

    settings: config.Settings
    programs: list[Component]
    namespaces: namespaces.Namespaces
    store: content.Store


class LocalCluster:
    """One node on this machine."""

    name = "local"

    def __init__(self, paths: Paths, versions: Versions, progress: Progress, why: str) -> None:
        self.paths = paths
        self.versions = versions
        self.progress = progress
        self.why = why

    # What it is made of

    @property
    def programs(self) -> Path:
        """The folder of the built programs."""
        return build.folder(self.paths, self.versions)

    @property
    def store(self) -> content.Store:
        """The node's containerd."""
        return content.Store(self.paths.containerd_socket, self.paths.containerd)

    def image(self, program: str) -> oci.Image:
        """The image that holds one of our programs and nothing else."""
        return oci.Image(
            name=f"localhost/slipway-cluster/{program}:{self.programs.name}",
            files={program: self.programs / program},
            entrypoint=[f"/{program}"],
            architecture=oci.architecture(build.machine()),
        )

    def settings(self, chosen: Network) -> config.Settings:
        """What the node's files depend on."""
        cni = packages.cni_folder()
        if cni is None:
            raise ClusterError(f"The CNI plugins are gone; run `apt-get install {packages.CNI_PACKAGE}`.")
        return config.Settings(
            name=self.paths.name,
            network=chosen,
            node=self.paths.node,
            run=self.paths.run,
            containerd_root=self.paths.containerd,
            cni_programs=cni,
            pause_image=self.image("pause").name,
            may_raise_oom_score=may_raise_oom_score(Path("/proc/self/status").read_text(encoding="utf-8")),
        )

    def components(self, settings: config.Settings) -> list[Component]:
        """The node's programs."""
        containerd = packages.which("containerd")
        if containerd is None:
            raise ClusterError("containerd is gone; run `apt-get install containerd`.")
        return components.components(settings, self.programs, Path(containerd))

    def key(self, chosen: Network) -> str:
        """What a cluster is made of; one of another key is made anew."""
        settings = self.settings(chosen)
        arguments = {one.name: "\0".join(one.argv) for one in self.components(settings)}
        return keys.key_of({**config.files(settings), **arguments})

    # Up

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One change at a time; waits for another one to end."""
        self.paths.cluster.mkdir(parents=True, exist_ok=True)
        with self.paths.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with self.progress.step("Wait for another run of this tool"):
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def up(self) -> None:
        """Makes the node be there and Ready."""
        packages.check_machine()
        with self.locked():
            packages.ensure(self.progress)
            build.ensure(self.paths, self.versions, self.progress)
            state = self._state()
            node = self._open(state)
            self._write_files(node.settings)
            self._start_containerd(node)
            self._start_api(node)
            # The others give up where the API server does not know their roles yet, so it comes first.
            for component in node.programs:
                self._ensure_running(node, component)
            self._apply_dns(node.settings)
            self._wait_ready(node)

    def _state(self) -> State:
        """The state of the cluster that is there, or of the new one that replaces it."""
        state = State.read(self.paths.node)
        if state and state.key == self.key(state.network):
            return state
        if state or self.paths.node.exists() or namespaces.holders(self.paths.name):
            self.progress.tell("The cluster that is there was made from something else; it is made anew.")
            self._down()
        chosen = network.choose(network.taken())
        state = State(self.key(chosen), chosen, namespaces.missing_folders())
        state.write(self.paths.node)
        return state

    def _open(self, state: State) -> Node:
        groups = cgroups.create(self.paths.name)
        holders = namespaces.holders(self.paths.name)
        if holders:
            opened = namespaces.Namespaces(holders[0], tuple(groups))
        else:
            with self.progress.step("Open the node's namespaces"):
                shutil.rmtree(self.paths.run, ignore_errors=True)
                opened = namespaces.open_new(
                    self.paths.name, self.programs / "pause", self.paths.run, self.paths.node, groups
                )
        if not network.connected(self.paths.name, state.network):
            with self.progress.step(f"Connect the node at {state.network.node}"):
                network.connect(self.paths.name, state.network, opened.pid)
        settings = self.settings(state.network)
        return Node(settings, self.components(settings), opened, self.store)

    def _write_files(self, settings: config.Settings) -> None:
        pki.ensure(settings.pki, self.programs / "certs", settings.network, config.NODE_NAME)
        url = components.server(settings)
        files = dict(config.files(settings))
        for client in CLIENTS:
            files[f"{client}.kubeconfig"] = pki.kubeconfig(settings.pki, client, url, CONTEXT)
        for name, text in files.items():
            write_private(settings.config / name, text)
        write_private(self.paths.kubeconfig, pki.kubeconfig(settings.pki, "admin", url, CONTEXT))
        self.paths.audit_log.parent.mkdir(exist_ok=True)

    def _start_containerd(self, node: Node) -> None:
        """Starts containerd with the images the node itself needs and none of an earlier node's containers."""
        containerd = components.named("containerd", node.programs)
        if self._find(node.namespaces, containerd):
            self._wait_containerd(node, containerd)
            return
        with self.progress.step("Start containerd"):
            self._ensure_running(node, containerd)
            self._wait_containerd(node, containerd)
            fresh = not (node.settings.node / "etcd").exists()
            left = node.store.containers() if fresh else []
            if left:
                node.store.forget(left)
                self._stop(node, containerd)
                shutil.rmtree(self.paths.containerd / content.SANDBOXES, ignore_errors=True)
                self._ensure_running(node, containerd)
                self._wait_containerd(node, containerd)
        for program in ("pause", "coredns"):
            self._bring_own(node.store, program)

    def _wait_containerd(self, node: Node, containerd: Component) -> None:
        self._wait(node, containerd, node.store.answers, 30)

    def _bring_own(self, store: content.Store, program: str) -> None:
        image = self.image(program)
        archive = self.paths.archives / f"{program}-{self.programs.name}.tar"
        if not archive.is_file():
            archive.parent.mkdir(parents=True, exist_ok=True)
            oci.write(image, archive)
        with archives.open_archive(archive) as source:
            if store.digests().get(image.name) != source.digest:
                with self.progress.step(f"Load {image.name}") as step:
                    store.bring(source, step)

    def _find(self, opened: namespaces.Namespaces, component: Component) -> processes.Process | None:
        """The component's process, also while it is still the shell that is about to become it."""
        argv = component.argv
        return next((one for one in opened.programs() if one.argv[-len(argv) :] == argv), None)

    def _log(self, component: Component) -> Path:
        return self.paths.logs / f"{component.name}.log"

    def _ensure_running(self, node: Node, component: Component) -> None:
        if not self._find(node.namespaces, component):
            node.namespaces.start(component.argv, self._log(component))

    def _stop(self, node: Node, component: Component) -> None:
        process = self._find(node.namespaces, component)
        if process is None:
            return
        processes.send(process, processes.TERMINATE)
        if not processes.wait_gone(process, STOP_SECONDS):
            processes.send(process, processes.KILL)
            processes.wait_gone(process, STOP_SECONDS)

    def _wait(self, node: Node, component: Component, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until a component runs and serves; says why at once where it has ended instead."""
        deadline = time.monotonic() + seconds
        while (ended := not self._find(node.namespaces, component)) or not ready():
            if ended or time.monotonic() > deadline:
                log = self._log(component)
                words = shell.tail(log.read_text(errors="replace")) if log.is_file() else ""
                what = "ended" if ended else f"does not serve after {seconds:.0f} s"
                raise ClusterError(f"{component.name} {what}; its log is {log}:\n{words}")
            time.sleep(POLL_SECONDS)

    def _kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 30) -> tuple[int, str]:
        command = [str(self.programs / "kubectl"), f"--kubeconfig={self.paths.kubeconfig}", *arguments]
        done = shell.attempt(command, stdin=stdin, timeout=seconds, env=namespaces.clean_environment())
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    def _api_ready(self) -> bool:
        return self._kubectl("get", "--raw=/readyz", "--request-timeout=5s")[0] == 0

    def _start_api(self, node: Node) -> None:
        etcd, apiserver = (components.named(name, node.programs) for name in ("etcd", "kube-apiserver"))
        if self._find(node.namespaces, etcd) and self._find(node.namespaces, apiserver) and self._api_ready():
            return
        with self.progress.step("Start the API server"):
            self._ensure_running(node, etcd)
            self._ensure_running(node, apiserver)
            self._wait(node, apiserver, self._api_ready, READY_SECONDS)

    def _apply_dns(self, settings: config.Settings) -> None:
        text = (PACKAGE / "manifests" / "coredns.yaml").read_text(encoding="utf-8")
        filled = Template(text).substitute(image=self.image("coredns").name, address=settings.network.dns)
        arguments = (
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=slipway-cluster",
            "-f",
            "-",
        )
        status, words = self._kubectl(*arguments, stdin=filled)
        if status != 0:
            raise ClusterError(f"CoreDNS cannot be applied:\n{shell.tail(words)}")

    def _wait_ready(self, node: Node) -> None:
        if (
            self._answer("node", config.NODE_NAME, '{.status.conditions[?(@.type=="Ready")].status}')
            != "True"
        ):
            with self.progress.step(f"Wait for the node {config.NODE_NAME}"):
                self._wait_for(node, f"node/{config.NODE_NAME}", "kubelet")
        with self.progress.step("Wait for the cluster's DNS"):
            self._wait_for(node, "deployment/coredns", "kube-controller-manager")
        for component in node.programs:
            self._wait(node, component, lambda: True, 0)

    def _answer(self, kind: str, name: str, path: str) -> str:
        status, words = self._kubectl("get", kind, name, f"--output=jsonpath={path}")
        return words if status == 0 else ""

    def _wait_for(self, node: Node, thing: str, component: str) -> None:
        condition = "Ready" if thing.startswith("node/") else "Available"
        arguments = ("wait", f"--for=condition={condition}", thing, "--namespace=kube-system", "--timeout=5s")
        self._wait(
            node,
            components.named(component, node.programs),
            lambda: self._kubectl(*arguments)[0] == 0,
            READY_SECONDS,
        )

    # Down

    def down(self, *, purge: bool = False) -> None:
        """Takes the node away; its images stay for the next one unless they are purged."""
        packages.check_machine()
        with self.locked():
            with self.progress.step("Take the node down"):
                self._down()
            if purge:
                with self.progress.step(f"Delete {self.paths.containerd}"):
                    mounts.delete(self.paths.containerd)

    def _down(self) -> None:
        name = self.paths.name
        state = State.read(self.paths.node)
        namespaces.close(name)
        self._end_strays()
        network.disconnect(name)
        mounts.delete(self.paths.node)
        mounts.delete(self.paths.run)
        left = cgroups.remove(name)
        if left:
            raise ClusterError(
                f"The control group {left[0]} is not empty; run `python3 -m e2e.cluster down` again."
            )
        for folder in reversed(state.made if state else []):
            remove_if_empty(Path(folder))
        remove_if_empty(self.paths.run.parent)

    def _end_strays(self) -> None:
        """Ends what is left in the node's control groups, which nothing should be."""
        for pid in cgroups.members(self.paths.name):
            process = processes.look(pid)
            if process:
                processes.send(process, processes.KILL)
                processes.wait_gone(process, STOP_SECONDS)

    # The rest

    def _opened(self) -> namespaces.Namespaces:
        holders = namespaces.holders(self.paths.name)
        if not holders:
            raise ClusterError("The local cluster is not up; run `python3 -m e2e.cluster up`.")
        return namespaces.Namespaces(holders[0], tuple(cgroups.create(self.paths.name)))

    def _node(self) -> Node:
        state = State.read(self.paths.node)
        opened = self._opened()
        if state is None:
            raise ClusterError(
                "The local cluster lost its state; run `python3 -m e2e.cluster up`, which repairs it."
            )
        settings = self.settings(state.network)
        return Node(settings, self.components(settings), opened, self.store)

    def restart(self, component: str) -> None:
        """Ends a component, waits for its end, and starts it again."""
        packages.check_machine()
        with self.locked():
            node = self._node()
            chosen = components.named(component, node.programs)
            with self.progress.step(f"Restart {chosen.name}"):
                self._stop(node, chosen)
                self._ensure_running(node, chosen)
                if chosen.name in {"etcd", "kube-apiserver"}:
                    self._wait(node, chosen, self._api_ready, READY_SECONDS)
                elif chosen.name == "containerd":
                    self._wait_containerd(node, chosen)

    def load(self, images: list[str]) -> None:
        """Brings images into the node's containerd, each unless it is there."""
        packages.check_machine()
        self._opened()
        for image in images:
            with self.progress.step(f"Load {image}") as step:
                self._load(image, step)

    def _load(self, image: str, step: Step) -> None:
        known = self.paths.containerd / content.BLOBS
        with archives.source(image, self.paths.cluster / "scratch", known) as source:
            if not self.store.bring(source, step):
                step.note = "is there already"

    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        if not self.paths.kubeconfig.is_file():
            raise ClusterError("There is no cluster to have a kubeconfig; run `python3 -m e2e.cluster up`.")
        return self.paths.kubeconfig

    def kubectl(self) -> Path:
        """The kubectl that was built with the cluster."""
        program = self.programs / "kubectl"
        if not program.exists():
            raise ClusterError("kubectl is not built yet; run `python3 -m e2e.cluster up`.")
        return program

    def status(self) -> Status:
        """What runs."""
        holders = namespaces.holders(self.paths.name)
        state = State.read(self.paths.node)
        if not holders or state is None:
            return Status(self.name, False, self.why)
        running = {
            one.argv[0]: one.pid for one in namespaces.Namespaces(holders[0], ()).programs() if one.argv
        }
        listed = self.components(self.settings(state.network))
        found = tuple(ComponentStatus(one.name, running.get(one.argv[0])) for one in listed)
        return Status(
            provider=self.name,
            running=all(one.pid for one in found),
            why=self.why,
            kubernetes=self.versions.kubernetes,
            node=config.NODE_NAME,
            kubeconfig=str(self.paths.kubeconfig),
            kubectl=str(self.programs / "kubectl"),
            audit_log=str(self.paths.audit_log),
            logs=str(self.paths.logs),
            addresses=addresses(state.network),
            components=found,
        )
