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


def open_cluster(progress: Progress | None = None) -> Provider:
    """The cluster that is up, or else the one that `up` would make."""
    paths = default_paths()
    wanted = versions.load()
    chosen = choice.remembered(paths.choice) or choice.choose(wanted)
    return make(chosen, paths, wanted, progress or Progress())


def load(images: Iterable[str | Path], progress: Progress | None = None) -> None:
    """Makes images (OCI archives, OCI layouts, names in local storage) available to the cluster."""
    open_cluster(progress).load([str(image) for image in images])
