"""What every way to a cluster can do."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class ComponentStatus:
    """A program of the cluster; no number where it does not run."""

    name: str
    pid: int | None


@dataclass(frozen=True)
class Status:
    """What there is."""

    provider: str
    running: bool
    why: str
    kubernetes: str = ""
    node: str = ""
    kubeconfig: str = ""
    kubectl: str = ""
    audit_log: str | None = None
    logs: str | None = None
    addresses: dict[str, str] = field(default_factory=dict)
    components: tuple[ComponentStatus, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Provider(Protocol):
    """A cluster for tests and the demo."""

    name: str

    def up(self) -> None:
        """Makes the cluster be there; a second time changes nothing."""

    def down(self, *, purge: bool = False) -> None:
        """Takes away all that `up` made; with purge, its caches too."""

    def status(self) -> Status:
        """What there is, changing nothing."""

    def kubeconfig(self) -> Path:
        """A kubeconfig whose current context is the cluster."""

    def kubectl(self) -> Path:
        """A kubectl that fits the cluster."""

    def load(self, images: list[str]) -> None:
        """Makes images available to the cluster's nodes."""

    def restart(self, component: str) -> None:
        """Ends a program of the cluster and starts it again."""
