"""Prometheus as an image, without a registry: Debian's own package, with the C library it was linked to."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from e2e.cluster import apt, build, oci
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import cache_root
from e2e.cluster.progress import Progress

PACKAGE = "prometheus"
PROGRAM = "usr/bin/prometheus"


def ensure(progress: Progress) -> tuple[str, Path]:
    """Return the image's name and its archive, made once for each version of the package."""
    version = _candidate()
    folder = cache_root() / "prometheus"
    archive = folder / f"prometheus-{version}.tar"
    name = f"localhost/slipway/prometheus:{re.sub(r'[^A-Za-z0-9_.-]', '-', version)}"
    if archive.exists():
        return name, archive
    folder.mkdir(parents=True, exist_ok=True)
    with (
        progress.step(f"Make an image of Debian's prometheus {version}"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        _run("apt-get", "download", f"{PACKAGE}={version}", cwd=scratch)
        package = next(Path(scratch).glob("*.deb"))
        _run("dpkg-deb", "-x", str(package), scratch)
        files = {PROGRAM: Path(scratch, PROGRAM)}
        for library in re.findall(r"(/\S+) \(0x", _run("ldd", str(files[PROGRAM]))):
            files[library.lstrip("/")] = Path(library).resolve()
        image = oci.Image(name, files, (f"/{PROGRAM}",), oci.architecture(build.machine()))
        oci.write(image, archive)
    return name, archive


def _candidate() -> str:
    def found() -> str | None:
        match = re.search(r"Candidate: (\d\S*)", _run("apt-cache", "policy", PACKAGE))
        return match[1] if match else None

    version = found()
    if version is None:
        apt.update(Progress())
        version = found()
    if version is None:
        raise ClusterError("apt-cache knows no prometheus; this needs Debian's or Ubuntu's package lists.")
    return version


def _run(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=apt.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout
