"""Where the tool keeps its caches and the state of its one cluster."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
GO_MODULE = PACKAGE / "go"
REPOSITORY = PACKAGE.parent.parent


def cache_root() -> Path:
    """`$SLIPWAY_CACHE`, or its default in the user's cache folder."""
    given = os.environ.get("SLIPWAY_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "slipway"


def name_of(root: Path) -> str:
    """The name that marks everything a cache's cluster owns on the machine.

    The hash keeps the clusters of two caches apart; seven digits leave room in
    an interface's 15 characters.
    """
    return f"slw{hashlib.sha256(str(root).encode()).hexdigest()[:7]}"


@dataclass(frozen=True)
class Paths:
    """All the places of one cache. `node` dies with the cluster, the rest is kept for the next one."""

    root: Path

    @property
    def name(self) -> str:
        """Marks this cache's cgroup, interface and processes."""
        return name_of(self.root)

    @property
    def cluster(self) -> Path:
        """Everything of the cluster tool."""
        return self.root / "cluster"

    @property
    def programs(self) -> Path:
        """Built programs, one folder for each key."""
        return self.cluster / "programs"

    @property
    def archives(self) -> Path:
        """Images this tool makes, one file for each key."""
        return self.cluster / "archives"

    @property
    def containerd(self) -> Path:
        """Containerd's root: image content and snapshots outlive the cluster."""
        return self.cluster / "containerd"

    @property
    def node(self) -> Path:
        """State of the running cluster."""
        return self.cluster / "node"

    @property
    def logs(self) -> Path:
        """One log file for each component."""
        return self.node / "logs"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, one JSON event a line."""
        return self.node / "audit" / "audit.log"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.node / "kubeconfig"

    @property
    def run(self) -> Path:
        """Sockets and what a reboot may forget; short, as a socket's path has 108 bytes."""
        return Path("/run/slipway") / self.name

    @property
    def containerd_socket(self) -> Path:
        """Containerd's own socket, apart from one the machine may run."""
        return self.run / "containerd.sock"

    @property
    def choice(self) -> Path:
        """Which provider `up` chose."""
        return self.cluster / "provider.json"

    @property
    def lock(self) -> Path:
        """Held while the cluster is being changed."""
        return self.cluster / "lock"


def default_paths() -> Paths:
    """The places under the cache this environment names."""
    return Paths(cache_root())
