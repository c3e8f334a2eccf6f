"""The control groups of the node: one folder of its own in every hierarchy.

Pods go below it (the kubelet's cgroup root), the node's own programs into
its child `node`, so that they leave with the cluster and not with the login
session that started them. Version 1, version 2 and both at once are the same
here: a list of hierarchies.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError

EMPTY_SECONDS = 15.0
POLL_SECONDS = 0.05
CONTROLLERS = ("cpu", "cpuset", "hugetlb", "io", "memory", "pids")


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy."""

    mount: Path
    unified: bool


def parse(mountinfo: str) -> list[Hierarchy]:
    """The cgroup hierarchies in the text of a `mountinfo`."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind = right.split(" ", 1)[0]
        if kind in {"cgroup", "cgroup2"}:
            found.append(Hierarchy(Path(left.split(" ")[4]), kind == "cgroup2"))
    return found


def hierarchies() -> list[Hierarchy]:
    """The cgroup hierarchies of this machine."""
    return parse(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))


def _delegate(folder: Path) -> None:
    """Version 2: lets children of a folder use the controllers it has itself."""
    have = (folder / "cgroup.controllers").read_text().split()
    wanted = [f"+{name}" for name in CONTROLLERS if name in have]
    if wanted:
        (folder / "cgroup.subtree_control").write_text(" ".join(wanted))


def _inherit_cpuset(folder: Path) -> None:
    """Version 1: a new cpuset is empty and takes no process until it is filled."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        target = folder / name
        if target.exists() and not target.read_text().strip():
            target.write_text((folder.parent / name).read_text())


def create(name: str) -> list[Path]:
    """Makes the node's groups and returns those that its programs join."""
    found = hierarchies()
    if not found:
        raise ClusterError(
            "No cgroup file system is mounted under /sys/fs/cgroup; mount it, or use the provider kind."
        )
    joined = []
    for hierarchy in found:
        group = hierarchy.mount / name
        try:
            (group / "node").mkdir(parents=True, exist_ok=True)
            if hierarchy.unified:
                _delegate(hierarchy.mount)
                _delegate(group)
            else:
                _inherit_cpuset(group)
                _inherit_cpuset(group / "node")
        except OSError as error:
            raise ClusterError(
                f"The control group {group} cannot be set up ({error.strerror}); "
                "run on the machine itself, or in a container that may write /sys/fs/cgroup."
            ) from error
        joined.append(group / "node")
    return joined


def members(name: str) -> set[int]:
    """The processes in the node's groups, pods included."""
    pids: set[int] = set()
    for hierarchy in hierarchies():
        for listing in (hierarchy.mount / name).rglob("cgroup.procs"):
            try:
                pids.update(int(line) for line in listing.read_text().split())
            except OSError:  # the group went while it was being read
                continue
    return pids - {0}


def _remove_once(name: str) -> list[Path]:
    left = []
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy.mount / name, topdown=False):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError:
                left.append(Path(folder))
    return left


def remove(name: str) -> list[Path]:
    """Removes the node's groups, deepest first; returns those that do not empty.

    The kernel counts an ended process as a member until its parent has heard of its end.
    """
    deadline = time.monotonic() + EMPTY_SECONDS
    while left := _remove_once(name):
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    return left
