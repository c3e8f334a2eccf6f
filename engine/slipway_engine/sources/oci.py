"""A model in an OCI registry: an artifact whose layers are files, or an image whose layers hold them.

Layers that are files have a name in an annotation (`org.opencontainers.image.title`, as ORAS writes it;
`org.cncf.model.filepath` of the CNCF ModelPack specification) or a type that says GGUF (Docker's and
Ollama's). All other layers are archives. Everything is named by its SHA-256, so a tag that was resolved once
stays what it was, and each file is checked.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from typing import Any, Final

from slipway_engine.errors import InvalidArgument, ModelCorrupt, ModelUnsupported
from slipway_engine.sources.download import Downloader
from slipway_engine.sources.listing import Archive, Listing, choose, is_wanted
from slipway_engine.sources.registry import Registry

MAX_LAYERS: Final = 4096
_SOURCE = re.compile(
    r"oci://(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?)/(?P<repository>[a-z0-9][a-z0-9._/-]*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*)|@(?P<digest>sha256:[a-f0-9]{64}))"
)
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_NAMES: Final = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_GGUF_TYPES: Final = ("application/vnd.docker.ai.gguf.v3", "application/vnd.ollama.image.model")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def list_files(source: str, credentials: str | None, version: str | None, downloader: Downloader) -> Listing:
    """Return what the model needs of an artifact; `version` is the digest (hex) that a tag was resolved to.

    Raises EngineError.
    """
    found = _SOURCE.fullmatch(source)
    if found is None or ".." in source:
        raise InvalidArgument(
            f"{source!r} is no artifact; write oci://HOST/REPOSITORY:TAG or ...@sha256:DIGEST."
        )
    registry = Registry(found["host"], found["repository"], credentials, downloader)
    reference = f"sha256:{version}" if version else found["digest"] or found["tag"]
    digest, manifest = registry.manifest(reference)
    if isinstance(manifest.get("manifests"), list):
        manifest = registry.manifest(_of_this_machine(manifest["manifests"], registry.where))[1]
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not layers or len(layers) > MAX_LAYERS:
        raise ModelUnsupported(
            f"{registry.where} holds no layers that are files; push the model's files to it."
        )
    files, archives = {}, []
    for layer in layers:
        told, size, kind, name = _read(layer, registry.where)
        if name is not None:
            files[name] = registry.blob(told, name, size)
        elif kind.endswith(("tar", "tar+gzip", "tar.gzip")):
            archives.append(Archive(registry.blob(told, f"{told[7:19]}.tar", size), kind.endswith("gzip")))
        elif "zstd" in kind:
            raise ModelUnsupported(f"{registry.where} has a layer in zstd; push it as files, or in gzip.")
    chosen = choose(registry.where, list(files)) if not archives else [n for n in files if is_wanted(n)]
    annotations = manifest.get("annotations")
    named = annotations.get("org.opencontainers.image.licenses") if isinstance(annotations, dict) else None
    return Listing(
        digest.removeprefix("sha256:"),
        tuple(files[name] for name in chosen),
        named if isinstance(named, str) else None,
        tuple(archives),
    )


def _read(layer: Any, where: str) -> tuple[str, int, str, str | None]:
    """Return a layer's digest, size, media type and, where it is a file, its name."""
    if not isinstance(layer, dict):
        raise ModelCorrupt(f"{where} has a manifest that cannot be read.")
    digest, size, kind = layer.get("digest"), layer.get("size"), str(layer.get("mediaType") or "")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(size, int) or size < 0:
        raise ModelCorrupt(f"{where} has a layer without a SHA-256 and a size; push it again.")
    annotations = layer.get("annotations")
    return digest, size, kind, _name(kind, annotations if isinstance(annotations, dict) else {})


def _name(kind: str, annotations: Mapping[str, Any]) -> str | None:
    """Return a layer's name where it is a file as it stands."""
    if annotations.get("io.deis.oras.content.unpack") == "true":
        return None
    if kind.startswith("application/vnd.cncf.model.") and not kind.endswith(".raw"):
        return None
    if kind in _GGUF_TYPES:
        return "model.gguf"
    return next((str(annotations[key]) for key in _NAMES if key in annotations), None)


def _of_this_machine(manifests: list[Any], where: str) -> str:
    """Return the digest of the manifest for this machine's architecture, else of the first there is."""
    here = _ARCHITECTURES.get(platform.machine(), platform.machine())
    known = [m for m in manifests if isinstance(m, dict) and _DIGEST.fullmatch(str(m.get("digest")))]
    fitting = [m for m in known if (m.get("platform") or {}).get("architecture") == here]
    if not known:
        raise ModelUnsupported(f"{where} is an index without manifests; push the model again.")
    return str((fitting or known)[0]["digest"])
