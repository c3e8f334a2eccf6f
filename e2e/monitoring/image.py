"""Prometheus as an image, without a registry: Debian's own package, with the C library it was linked to."""

from __future__ import annotations

import re
from pathlib import Path

from e2e import prometheus
from e2e.cluster import build, oci, shell
from e2e.cluster.progress import Progress

PROGRAM = "usr/bin/prometheus"


def ensure(progress: Progress) -> tuple[str, Path]:
    """Return the image's name and its archive, made once for each version of the package."""
    package = prometheus.packaged()
    archive = package.with_name(f"prometheus-{package.name}.tar")
    name = f"localhost/slipway/prometheus:{package.name}"
    if archive.exists():
        return name, archive
    with progress.step(f"Make an image of Debian's prometheus {package.name}"):
        files = {PROGRAM: package / PROGRAM}
        for library in re.findall(r"(/\S+) \(0x", shell.run(["ldd", files[PROGRAM]])):
            files[library.lstrip("/")] = Path(library).resolve()
        image = oci.Image(name, files, (f"/{PROGRAM}",), oci.architecture(build.machine()))
        oci.write(image, archive)
    return name, archive
