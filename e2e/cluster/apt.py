"""Installs Debian packages, one run of apt at a time.

The cluster and the images are prepared side by side and both may lack packages; apt itself
refuses a second run instead of waiting for the first.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import cache_root
from e2e.cluster.progress import Progress

LOCK_SECONDS = 300  # that apt waits for a run which is not ours, such as the machine's nightly one


def environment() -> dict[str, str]:
    """Nothing may ask a question."""
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def install_command(packages: Iterable[str]) -> list[str]:
    """How the packages are installed, without a question."""
    wait = f"--option=DPkg::Lock::Timeout={LOCK_SECONDS}"
    return ["apt-get", "install", "--yes", "--no-install-recommends", wait, *packages]


@contextmanager
def alone() -> Iterator[None]:
    """Waits until no other of our runs uses apt."""
    folder = cache_root()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(packages: Iterable[str], progress: Progress) -> None:
    """Installs the packages; refreshes the lists of packages where they are missing or old."""
    names = list(packages)
    if not shutil.which("apt-get"):
        raise ClusterError(
            f"Debian's {', '.join(names)} must be installed, and apt-get is not here to do it; "
            "install what your distribution calls them and run again."
        )
    if os.geteuid() != 0:
        raise ClusterError(f"Packages are missing; run `sudo apt-get install {' '.join(names)}` first.")
    with progress.step(f"Install {', '.join(names)}"), alone():
        if shell.attempt(install_command(names), env=environment()).returncode != 0:
            shell.run(["apt-get", "update"], env=environment())
            shell.run(install_command(names), env=environment())


def update(progress: Progress) -> None:
    """Gets the lists of packages, of which a bare machine may have none."""
    with progress.step("Get the lists of packages"), alone():
        shell.run(["apt-get", "update"], env=environment())
