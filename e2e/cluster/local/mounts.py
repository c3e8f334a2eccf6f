"""Deletes folders of the node, after unmounting what a crash may have left in them.

The node's mounts are in a mount namespace of its own and end with it, so
there should be none; but a delete that walked into one could destroy what is
not the node's.
"""

import re
import shutil
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError


def unescape(text: str) -> str:
    r"""A path as it is, from a path as `mountinfo` writes it (`\040` is a space)."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def below(folder: Path, mountinfo: str) -> list[Path]:
    """Mount points at or below a folder, the last one first."""
    points = [Path(unescape(line.split(" ")[4])) for line in mountinfo.splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(folder)]


def current() -> str:
    """The mounts this process sees."""
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


def delete(folder: Path) -> None:
    """Unmounts what is below the folder and deletes it."""
    for point in below(folder, current()):
        if shell.attempt(["umount", point]).returncode != 0:
            shell.run(["umount", "--lazy", point])
    left = below(folder, current())
    if left:
        raise ClusterError(f"{left[0]} is still mounted; run `umount {left[0]}` and then this again.")
    if folder.exists():
        shutil.rmtree(folder)
