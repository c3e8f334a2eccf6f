"""Writes a container image as an OCI archive, and reads what an archive holds.

The archive of the same content has the same bytes on every machine (no clock,
no owner, sorted names), so that an image's digest can be a cache key.
Layers are not compressed: they go to a containerd next door, and two cores
would spend longer on gzip than on everything else.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from e2e.cluster.errors import ClusterError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REFERENCE_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Image:
    """What an image is made of: programs by their path in it, and how it starts."""

    name: str
    files: Mapping[str, Path]
    entrypoint: Sequence[str]
    architecture: str
    user: str = "65532:65532"


def architecture(machine: str) -> str:
    """The OCI name of a processor that `uname -m` names."""
    try:
        return ARCHITECTURES[machine]
    except KeyError:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ClusterError(f"No image can be made for the processor {machine}; use one of {known}.") from None


def dump(value: object) -> bytes:
    """JSON with one spelling for each value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest_of(blob: bytes) -> str:
    """A blob's OCI digest."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _add(archive: tarfile.TarFile, name: str, content: bytes | None, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if content is None:
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        return
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def layer(files: Mapping[str, bytes]) -> bytes:
    """A tar of executables with the folders they lie in."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        parents = {parent for name in files for parent in PurePosixPath(name).parents}
        for parent in sorted(str(path) for path in parents if str(path) not in {".", "/"}):
            _add(archive, parent, None, 0o755)
        for name in sorted(files):
            _add(archive, name, files[name], 0o755)
    return buffer.getvalue()


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(blob), "size": len(blob)}


def _config(image: Image, layer_blob: bytes) -> bytes:
    return dump(
        {
            "architecture": image.architecture,
            "os": "linux",
            "config": {"Entrypoint": list(image.entrypoint), "User": image.user, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer_blob)]},
            "history": [{"created_by": "slipway cluster tool"}],
        }
    )


def write(image: Image, target: Path) -> str:
    """Writes the image to an archive and returns its manifest's digest."""
    layer_blob = layer({name: path.read_bytes() for name, path in image.files.items()})
    config = _config(image, layer_blob)
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(LAYER, layer_blob)],
        }
    )
    described = {**_descriptor(MANIFEST, manifest), "annotations": dict.fromkeys(REFERENCE_NAMES, image.name)}
    index = dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]})
    partial = target.with_name(f"{target.name}.partial")
    with tarfile.open(partial, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, "oci-layout", dump({"imageLayoutVersion": "1.0.0"}), 0o644)
        _add(archive, "index.json", index, 0o644)
        for blob in (manifest, config, layer_blob):
            _add(archive, f"blobs/sha256/{digest_of(blob).removeprefix('sha256:')}", blob, 0o644)
    partial.rename(target)
    return digest_of(manifest)


@dataclass(frozen=True)
class Entry:
    """An image that an archive or a layout holds."""

    name: str | None
    digest: str


def entries(index: bytes, where: str) -> list[Entry]:
    """The images an `index.json` names."""
    try:
        manifests = json.loads(index)["manifests"]
        return [Entry(_reference(item.get("annotations") or {}), item["digest"]) for item in manifests]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"{where} has an index.json that is no OCI index ({error!r}); write it anew."
        ) from error


def _reference(annotations: Mapping[str, str]) -> str | None:
    return next((annotations[name] for name in REFERENCE_NAMES if name in annotations), None)
