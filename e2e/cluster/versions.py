"""Reads `versions.toml`, the one place where versions stand."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError

FILE = Path(__file__).with_name("versions.toml")


@dataclass(frozen=True)
class Versions:
    """What the cluster is made of."""

    kubernetes: str
    etcd: str
    coredns: str
    go_minimum: str
    go_package: str
    go_package_version: str
    go_package_hashes: tuple[str, ...]
    kind: str
    kind_node_image: str


def parse(text: str) -> Versions:
    """The versions in the text of a `versions.toml`."""
    try:
        table = tomllib.loads(text)
        return Versions(
            kubernetes=table["kubernetes"]["version"],
            etcd=table["etcd"]["version"],
            coredns=table["coredns"]["version"],
            go_minimum=table["go"]["minimum"],
            go_package=table["go"]["package"],
            go_package_version=table["go"]["package_version"],
            go_package_hashes=tuple(table["go"]["package_hashes"]),
            kind=table["kind"]["version"],
            kind_node_image=table["kind"]["node_image"],
        )
    except tomllib.TOMLDecodeError as error:
        raise ClusterError(f"{FILE} is not TOML ({error}); restore it with `git checkout {FILE}`.") from error
    except KeyError as error:
        raise ClusterError(f"{FILE} lacks {error}; restore it with `git checkout {FILE}`.") from error


def load() -> Versions:
    """The versions this checkout uses."""
    return parse(FILE.read_text(encoding="utf-8"))
