"""The built images, in one OCI layout whose layers they share.

Layers are not compressed and are written once, whichever images hold them, so
that a change of code adds a few hundred kilobytes. Each image is also shown as
a folder of its own, a layout with one image whose blobs are those of the
shared one: what a loader takes.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import oci
from e2e.cluster.errors import ClusterError

KEEP = 3  # of each image, the newest
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True)
class Store:
    """The folder of the built images."""

    folder: Path

    @property
    def layout(self) -> Path:
        """The shared layout."""
        return self.folder / "layout"

    @property
    def shown(self) -> Path:
        """One folder for each image."""
        return self.folder / "built"

    def destination(self, name: str, tag: str) -> str:
        """Where buildah writes an image."""
        if ":" in str(self.layout):
            raise ClusterError(
                f"The path {self.layout} has a colon, which buildah cannot write; move SLIPWAY_CACHE."
            )
        return f"oci:{self.layout}:{name}-{tag}"

    def blob(self, digest: str) -> Path:
        """A blob's file."""
        return self.layout / "blobs" / digest.replace(":", "/")

    def find(self, name: str, tag: str) -> dict[str, Any] | None:
        """The descriptor of an image that is there with every blob; None otherwise."""
        described = next((d for d in self._manifests() if _reference(d) == f"{name}-{tag}"), None)
        return described if described and self._whole(described) else None

    def show(self, name: str, tag: str, ref: str, described: dict[str, Any]) -> Path:
        """The folder that holds this one image under its full name."""
        folder = self.shown / f"{name}-{tag}" / oci.digest_of(ref.encode())[-8:]
        folder.mkdir(parents=True, exist_ok=True)
        blobs = folder / "blobs"
        if not blobs.is_symlink():
            blobs.symlink_to(self.layout.resolve() / "blobs")
        named = {**described, "annotations": dict.fromkeys(oci.REFERENCE_NAMES, ref)}
        index = oci.dump({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [named]})
        for file, content in (("oci-layout", LAYOUT_FILE), ("index.json", index)):
            _replace(folder / file, content)
        folder.parent.touch()
        return folder

    def prune(self) -> int:
        """Forgets all but the newest images of each name; returns the bytes that this frees."""
        kept = self._newest()
        described = [d for d in self._manifests() if _reference(d) in kept and self._whole(d)]
        for folder in self.shown.glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        wanted = {digest for d in described for digest, _ in self._blobs(d)}
        index = oci.dump({"schemaVersion": 2, "manifests": described})
        _replace(self.layout / "index.json", index)
        freed = 0
        for file in (self.layout / "blobs" / "sha256").glob("*"):
            if f"sha256:{file.name}" not in wanted:
                freed += file.stat().st_size
                file.unlink()
        return freed

    def _newest(self) -> set[str]:
        by_name: dict[str, list[Path]] = {}
        for folder in self.shown.glob("*-*"):
            by_name.setdefault(folder.name.rpartition("-")[0], []).append(folder)
        return {
            folder.name
            for folders in by_name.values()
            for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[:KEEP]
        }

    def _manifests(self) -> list[dict[str, Any]]:
        try:
            found = json.loads((self.layout / "index.json").read_bytes())["manifests"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []
        return [item for item in found if isinstance(item, dict)]

    def _whole(self, described: dict[str, Any]) -> bool:
        """Whether every blob of an image is there in its full length."""
        try:
            return all(self.blob(digest).stat().st_size == size for digest, size in self._blobs(described))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def _blobs(self, described: dict[str, Any]) -> list[tuple[str, int]]:
        manifest = json.loads(self.blob(described["digest"]).read_bytes())
        return [
            (part["digest"], part["size"]) for part in (described, manifest["config"], *manifest["layers"])
        ]


def _reference(described: dict[str, Any]) -> str | None:
    annotations = described.get("annotations") or {}
    found = annotations.get("org.opencontainers.image.ref.name")
    return found if isinstance(found, str) else None


def _replace(file: Path, content: bytes) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    partial.rename(file)
