"""The little that must be remembered of a cluster: what it is made of and its ranges.

What runs is not remembered but looked at.
"""

import json
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from e2e.cluster.local.network import Network

FILE = "state.json"


@dataclass(frozen=True)
class State:
    """Written before anything else of a cluster is made."""

    key: str
    network: Network

    def dump(self) -> str:
        """As JSON."""
        ranges = {"link": self.network.link, "services": self.network.services, "pods": self.network.pods}
        named = {name: str(value) for name, value in ranges.items()}
        return json.dumps({"key": self.key, "network": named}, indent=2)

    def write(self, folder: Path) -> None:
        """Writes it whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{FILE}.partial"
        partial.write_text(self.dump(), encoding="utf-8")
        partial.rename(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "State | None":
        """The state of the cluster in this folder; none where there is none, or none that can be read."""
        try:
            value = json.loads((folder / FILE).read_text(encoding="utf-8"))
            ranges = value["network"]
            network = Network(*(IPv4Network(ranges[name]) for name in ("link", "services", "pods")))
            return cls(str(value["key"]), network)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
