"""The provider `local`: brings the node up step by step, and takes it down.

Each step makes sure of one thing and leaves alone what is right already, so
`up` is also the repair of an `up` that was cut short.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from e2e.cluster import archives, build, content, oci, packages
from e2e.cluster.errors import ClusterError
from e2e.cluster.files import write_private
from e2e.cluster.local import (
    cgroups,
    components,
    config,
    mounts,
    namespaces,
    network,
    pki,
    processes,
)
from e2e.cluster.local.kube import Kube
from e2e.cluster.local.node import STOP_SECONDS, Node
from e2e.cluster.local.recipe import Recipe
from e2e.cluster.local.state import State
from e2e.cluster.paths import PACKAGE, Paths
from e2e.cluster.progress import Progress, Step
from e2e.cluster.provider import ComponentStatus, Status
from e2e.cluster.versions import Versions

CONTEXT = "slipway-local"
READY_SECONDS = 120.0
CLIENTS = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
OWN_IMAGES = ("pause", "coredns")


class LocalCluster:
    """One node on this machine."""

    name = "local"

    def __init__(self, paths: Paths, versions: Versions, progress: Progress, why: str) -> None:
        self.paths = paths
        self.versions = versions
        self.progress = progress
        self.why = why
        self.recipe = Recipe(paths, versions)
        self.store = content.Store(
            (*content.CLIENT, f"--address={paths.containerd_socket}"), paths.containerd
        )

    @property
    def kube(self) -> Kube:
        """The cluster's API."""
        return Kube(self.recipe.programs / "kubectl", self.paths.kubeconfig)

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

    # Up

    def up(self) -> None:
        """Makes the node be there and Ready."""
        packages.check_machine()
        with self.locked():
            packages.ensure(self.progress)
            build.ensure(self.paths, self.versions, self.progress)
            node = self._open(self._state())
            self._write_files(node.settings)
            self._start_containerd(node)
            self._start_api(node)
            # The others give up where the API server does not know their roles yet, so it comes first.
            for component in node.components:
                node.ensure_running(component)
            self._apply_dns(node.settings)
            self._wait_ready(node)
            self._prune()

    def _prune(self) -> None:
        """Deletes what old builds left in the cache, once the new one is known to work."""
        for gone in build.prune(self.paths, self.versions):
            self.store.remove([self.recipe.image(program, gone).name for program in OWN_IMAGES])
            for program in OWN_IMAGES:
                self._archive(program, gone).unlink(missing_ok=True)

    def _archive(self, program: str, build_key: str) -> Path:
        return self.paths.archives / f"{program}-{build_key}.tar"

    def _state(self) -> State:
        """The state of the cluster that is there, or of the new one that replaces it."""
        state = State.read(self.paths.node)
        if state and state.key == self.recipe.key(state.network):
            return state
        if self.paths.node.exists() or namespaces.holders(self.paths.name):
            with self.progress.step(
                "Take down the cluster that is there, as it was made from something else"
            ):
                self._down()
        chosen = network.choose(network.taken())
        state = State(self.recipe.key(chosen), chosen)
        state.write(self.paths.node)
        return state

    def _open(self, state: State) -> Node:
        groups = cgroups.create(self.paths.name)
        holders = namespaces.holders(self.paths.name)
        if holders:
            opened = namespaces.Namespaces(holders[0], tuple(groups))
        else:
            opened = self._open_namespaces(groups)
        if not network.connected(self.paths.name, state.network):
            with self.progress.step(f"Connect the node at {state.network.node}"):
                network.connect(self.paths.name, state.network, opened.pid)
        settings = self.recipe.settings(state.network)
        return Node(settings, self.recipe.components(settings), opened)

    def _open_namespaces(self, groups: list[Path]) -> namespaces.Namespaces:
        paths = self.paths
        with self.progress.step("Open the node's namespaces"):
            namespaces.close(paths.name)
            mounts.delete(paths.run)
            return namespaces.open_new(
                paths.name, self.recipe.programs / "pause", paths.run, paths.node, groups
            )

    def _write_files(self, settings: config.Settings) -> None:
        pki.ensure(settings.pki, self.recipe.programs / "certs", settings.network, config.NODE_NAME)
        url = components.server(settings)
        files = dict(config.files(settings))
        for client in CLIENTS:
            files[f"{client}.kubeconfig"] = pki.kubeconfig(settings.pki, client, url, CONTEXT)
        for name, text in files.items():
            write_private(settings.config / name, text)
        write_private(self.paths.kubeconfig, pki.kubeconfig(settings.pki, "admin", url, CONTEXT))
        self.paths.audit_log.parent.mkdir(exist_ok=True)

    def _start_containerd(self, node: Node) -> None:
        containerd = node.component("containerd")
        if not node.find(containerd):
            with self.progress.step("Start containerd"):
                node.ensure_running(containerd)
                node.wait(containerd, self.store.answers, READY_SECONDS)
                self._forget_containers(node)
        node.wait(containerd, self.store.answers, READY_SECONDS)
        for program in OWN_IMAGES:
            self._bring_own(program)

    def _forget_containers(self, node: Node) -> None:
        """A new cluster starts with the images of an earlier one, but none of its containers."""
        new = not (node.settings.node / "etcd").exists()
        left = self.store.containers() if new else []
        if not left:
            return
        containerd = node.component("containerd")
        self.store.forget(left)
        node.stop(containerd)
        shutil.rmtree(self.paths.containerd / content.SANDBOXES, ignore_errors=True)
        node.ensure_running(containerd)
        node.wait(containerd, self.store.answers, READY_SECONDS)

    def _bring_own(self, program: str) -> None:
        image = self.recipe.image(program)
        archive = self._archive(program, self.recipe.programs.name)
        if not archive.is_file():
            archive.parent.mkdir(parents=True, exist_ok=True)
            oci.write(image, archive)
        with archives.open_archive(archive) as source:
            if not self.store.has(source):
                with self.progress.step(f"Load {image.name}") as step:
                    self.store.bring(source, step)

    def _start_api(self, node: Node) -> None:
        etcd, apiserver = node.component("etcd"), node.component("kube-apiserver")
        if node.find(etcd) and node.find(apiserver) and self.kube.ready():
            return
        with self.progress.step("Start the API server"):
            node.ensure_running(etcd)
            node.ensure_running(apiserver)
            node.wait(apiserver, self.kube.ready, READY_SECONDS)

    def _apply_dns(self, settings: config.Settings) -> None:
        text = (PACKAGE / "manifests" / "coredns.yaml").read_text(encoding="utf-8")
        image = self.recipe.image("coredns").name
        self.kube.apply(Template(text).substitute(image=image, address=settings.network.dns))

    def _wait_ready(self, node: Node) -> None:
        with self.progress.step("Wait for the node and its DNS"):
            for thing, condition, component in (
                (f"node/{config.NODE_NAME}", "Ready", "kubelet"),
                ("deployment/coredns", "Available", "kube-controller-manager"),
            ):
                self._wait_for(node, thing, condition, component)
            for program in node.components:
                node.wait(program, lambda: True, READY_SECONDS)

    def _wait_for(self, node: Node, thing: str, condition: str, component: str) -> None:
        node.wait(node.component(component), lambda: self.kube.is_so(thing, condition), READY_SECONDS)

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
        root = self.paths.root
        self.progress.tell(f"Nothing runs any more. What was built stays in {root} for the next time.")

    def _down(self) -> None:
        """Asks for no order in what is there: each part may be missing after a crash."""
        name = self.paths.name
        namespaces.close(name)
        self._end_strays()
        network.disconnect(name)
        left = cgroups.remove(name)
        if left:
            raise ClusterError(
                f"The control group {left[0]} is not empty; run `python3 -m e2e.cluster down` again."
            )
        mounts.delete(self.paths.run)
        namespaces.leave(self.paths.run)
        mounts.delete(self.paths.node)

    def _end_strays(self) -> None:
        """Ends what is left in the node's control groups, which nothing should be."""
        for pid in cgroups.members(self.paths.name):
            process = processes.look(pid)
            if process:
                processes.send(process, processes.KILL)
                processes.wait_gone(process, STOP_SECONDS)

    # The rest

    def _node(self) -> Node:
        """The node that is up."""
        holders = namespaces.holders(self.paths.name)
        state = State.read(self.paths.node)
        if not holders or state is None:
            raise ClusterError("The local cluster is not up; run `python3 -m e2e.cluster up`.")
        settings = self.recipe.settings(state.network)
        opened = namespaces.Namespaces(holders[0], tuple(cgroups.create(self.paths.name)))
        return Node(settings, self.recipe.components(settings), opened)

    def restart(self, component: str) -> None:
        """Ends a component, waits for its end, and starts it again."""
        packages.check_machine()
        with self.locked():
            node = self._node()
            chosen = node.component(component)
            with self.progress.step(f"Restart {chosen.name}"):
                node.stop(chosen)
                node.ensure_running(chosen)
                if chosen.name in {"etcd", "kube-apiserver"}:
                    node.wait(chosen, self.kube.ready, READY_SECONDS)
                elif chosen.name == "containerd":
                    node.wait(chosen, self.store.answers, READY_SECONDS)

    def load(self, images: list[str]) -> None:
        """Brings images into the node's containerd, each unless it is there."""
        packages.check_machine()
        node = self._node()
        node.wait(node.component("containerd"), self.store.answers, READY_SECONDS)
        for image in images:
            with self.progress.step(f"Load {image}") as step:
                self._load(image, step)

    def _load(self, image: str, step: Step) -> None:
        known = self.paths.containerd / content.BLOBS
        with archives.source(image, self.paths.cluster / "scratch", known) as source:
            step.title = f"Load {source.name}"  # a file's path tells less
            if not self.store.bring(source, step):
                step.note = "is there already"

    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        if not self.paths.kubeconfig.is_file():
            raise ClusterError("There is no cluster to have a kubeconfig; run `python3 -m e2e.cluster up`.")
        return self.paths.kubeconfig

    def kubectl(self) -> Path:
        """The kubectl that was built with the cluster."""
        if not self.kube.kubectl.exists():
            raise ClusterError("kubectl is not built yet; run `python3 -m e2e.cluster up`.")
        return self.kube.kubectl

    def status(self) -> Status:
        """What runs."""
        holders = namespaces.holders(self.paths.name)
        state = State.read(self.paths.node)
        if not holders or state is None:
            return Status(self.name, False, self.why)
        settings = self.recipe.settings(state.network)
        node = Node(settings, self.recipe.components(settings), namespaces.Namespaces(holders[0], ()))
        running = ((one.name, node.find(one)) for one in node.components)
        found = tuple(ComponentStatus(name, one.pid if one else None) for name, one in running)
        return Status(
            provider=self.name,
            running=all(one.pid for one in found),
            why=self.why,
            kubernetes=self.versions.kubernetes,
            node=config.NODE_NAME,
            kubeconfig=str(self.paths.kubeconfig),
            kubectl=str(self.kube.kubectl),
            audit_log=str(self.paths.audit_log),
            logs=str(self.paths.logs),
            addresses=state.network.addresses(),
            components=found,
        )
