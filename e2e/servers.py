"""Other people's servers for the tests: built from their Go modules once, loaded as images of one program."""

from __future__ import annotations

import fcntl
import os
import shutil
import tomllib
from pathlib import Path

from e2e.cluster import gotool, oci, shell, versions
from e2e.cluster.build import machine
from e2e.cluster.paths import default_paths
from e2e.cluster.progress import Progress


def archive_of(name: str) -> Path:
    """Return an OCI archive of a server that `versions.toml` lists under `servers`; it is made once."""
    package, version = wanted(name)
    folder = default_paths().root / "servers" / f"{name}-{version}-{machine()}"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "image.tar"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.is_file():
            program = _build(name, f"{package}@{version}", folder)
            oci.write(_image(name, version, program), archive)
            program.unlink()
    return archive


def image_of(name: str) -> str:
    """Return the image's name."""
    return f"localhost/slipway-e2e/{name}:{wanted(name)[1]}"


def wanted(name: str) -> tuple[str, str]:
    """Return the package and the version of a server."""
    table = tomllib.loads(versions.FILE.read_text(encoding="utf-8"))["servers"][name]
    return table["package"], table["version"]


def _build(name: str, package: str, folder: Path) -> Path:
    progress = Progress()
    go = gotool.find(default_paths(), versions.load(), progress)
    binaries = folder / "bin"
    environment = {**os.environ, "GOBIN": str(binaries), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
    with progress.step(f"Build {package}"):
        shell.run(["nice", "-n", "5", go, "install", "-ldflags=-s -w", package], env=environment)
    program = folder / name
    next(iter(binaries.iterdir())).rename(program)
    shutil.rmtree(binaries)
    return program


def _image(name: str, version: str, program: Path) -> oci.Image:
    return oci.Image(
        name=image_of(name),
        files={name: program},
        entrypoint=[f"/{name}"],
        architecture=oci.architecture(machine()),
    )
