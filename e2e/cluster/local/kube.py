"""Asks and tells the API server, through the kubectl that was built with it."""

from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.local.namespaces import clean_environment

MANAGER = "slipway-cluster"
ASK_SECONDS = 30.0


@dataclass(frozen=True)
class Kube:
    """A cluster's API, as its administrator."""

    kubectl: Path
    kubeconfig: Path

    def _call(self, *arguments: str, stdin: str | None = None) -> tuple[bool, str]:
        command: list[str | Path] = [self.kubectl, f"--kubeconfig={self.kubeconfig}", *arguments]
        done = shell.attempt(command, stdin=stdin, timeout=ASK_SECONDS, env=clean_environment())
        return done.returncode == 0, done.stdout if done.returncode == 0 else done.stderr

    def ready(self) -> bool:
        """Whether the API server serves and has made its own objects."""
        return self._call("get", "--raw=/readyz", "--request-timeout=5s")[0]

    def apply(self, manifest: str) -> None:
        """Applies objects, as this tool's own manager."""
        flags = ("--server-side", "--force-conflicts", f"--field-manager={MANAGER}", "--filename=-")
        applied, words = self._call("apply", *flags, stdin=manifest)
        if not applied:
            raise ClusterError(f"The API server refused the cluster's own objects:\n{shell.tail(words)}")

    def is_so(self, thing: str, condition: str, namespace: str = "kube-system", wait: int = 1) -> bool:
        """Whether an object has a condition, or gets it within some seconds."""
        flags = (f"--for=condition={condition}", f"--namespace={namespace}", f"--timeout={wait}s")
        return self._call("wait", thing, *flags)[0]
