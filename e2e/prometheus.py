"""Prometheus and promtool for tests: the machine's own, or Debian's package unpacked into the cache."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from e2e.cluster import apt
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import cache_root
from e2e.cluster.progress import Progress

PACKAGE = "prometheus"


def program(name: str) -> Path:
    """Return `prometheus` or `promtool`. Raises ClusterError where there is none and none can be had."""
    own = shutil.which(name)
    if own:
        return Path(own)
    if not shutil.which("apt-get"):
        raise ClusterError(f"There is no {name} here, and no apt-get to bring it; put it on PATH.")
    return packaged() / "usr" / "bin" / name


def packaged() -> Path:
    """Return Debian's package, unpacked into a folder of the cache that bears its version."""
    folder = cache_root() / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        version = _candidate()
        unpacked = folder / re.sub(r"[^A-Za-z0-9_.-]", "-", version)
        if not unpacked.exists():
            _unpack(version, unpacked)
    return unpacked


def _unpack(version: str, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        _run("apt-get", "download", f"{PACKAGE}={version}", folder=scratch)
        package = next(Path(scratch).glob("*.deb"))
        _run("dpkg-deb", "-x", str(package), f"{scratch}/content")
        Path(scratch, "content").rename(place)


def _candidate() -> str:
    for again in (False, True):
        if again:
            apt.update(Progress())
        found = re.search(r"Candidate: (\d\S*)", _run("apt-cache", "policy", PACKAGE))
        if found:
            return found[1]
    raise ClusterError(f"apt-cache knows no {PACKAGE}; put prometheus and promtool on PATH.")


def _run(*command: str, folder: str | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, env=apt.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout
