"""Opens this machine's cluster: the provider that `up` chose, or would choose."""

from collections.abc import Iterable
from pathlib import Path

from e2e.cluster import choice, versions
from e2e.cluster.choice import Choice
from e2e.cluster.existing import ExistingCluster
from e2e.cluster.kind import KindCluster
from e2e.cluster.local.cluster import LocalCluster
from e2e.cluster.paths import Paths, default_paths
from e2e.cluster.progress import Progress
from e2e.cluster.provider import Provider
from e2e.cluster.versions import Versions


def make(chosen: Choice, paths: Paths, wanted: Versions, progress: Progress) -> Provider:
    """The provider of this name."""
    match chosen.provider:
        case "existing":
            return ExistingCluster(paths, choice.context(), progress, chosen.why)
        case "kind":
            return KindCluster(paths, wanted, progress, chosen.why)
        case _:
            return LocalCluster(paths, wanted, progress, chosen.why)


def current(paths: Paths, wanted: Versions, *, pull: bool = False) -> Choice:
    """What is up, or else what there would be; images are pulled only to make it be."""
    noted = choice.remembered(paths.choice)
    if noted:
        return noted
    if paths.node.exists() and not choice.is_told():
        return Choice("local", "A local node is on this machine.")
    if pull:
        return choice.choose(wanted)
    return choice.choose(wanted, image=choice.image_is_there, privileged=lambda _: True)


def open_cluster(progress: Progress | None = None) -> Provider:
    """The cluster that is up, or else the one that `up` would make."""
    paths, wanted = default_paths(), versions.load()
    return make(current(paths, wanted), paths, wanted, progress or Progress())


def up(progress: Progress | None = None) -> Provider:
    """Makes a cluster be there and returns it; one that is there stays as it is."""
    said = progress or Progress()
    paths, wanted = default_paths(), versions.load()
    chosen = current(paths, wanted, pull=True)
    said.tell(f"Provider {chosen.provider}: {chosen.why}")
    provider = make(chosen, paths, wanted, said)
    choice.remember(chosen, paths.choice)
    provider.up()
    return provider


def down(progress: Progress | None = None, *, purge: bool = False) -> None:
    """Takes the cluster away."""
    open_cluster(progress).down(purge=purge)
    if not choice.is_told():
        choice.forget(default_paths().choice)


def load(images: Iterable[str | Path], progress: Progress | None = None) -> None:
    """Makes images (OCI archives, OCI layouts, names in local storage) available to the cluster."""
    open_cluster(progress).load([str(image) for image in images])
