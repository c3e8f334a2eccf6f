"""Opens the node's namespaces and starts programs inside them.

One process (the holder, our own `pause`) is the first of the node's process
namespace; everything on the node descends from it or is adopted by it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.local import processes
from e2e.cluster.local.processes import Process

OPEN_SECONDS = 10.0
CLOSE_SECONDS = 60.0
HOLDER = "pause"

# Runs as the first process of the new namespaces. /run becomes the node's own, but for our folder in it;
# the folders in which Kubernetes' programs insist on writing become the node's own too; and settings of the
# whole kernel that the kubelet would change are covered by files that already hold what it wants.
SETUP = """
set -eu
run=$1 node=$2 pause=$3 name=$4; shift 4
mount --bind "$run" "$node/stage"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$run"
mount --move "$node/stage" "$run"
for folder in "$@"; do mount --bind "$node/host$folder" "$folder"; done
cd "$node/kernel"
find . -type f | while read -r file; do
  [ ! -e "/proc/sys/$file" ] || mount --bind "$file" "/proc/sys/$file"
done
cd /
mount --make-rshared /
exec "$pause" "$name"
"""
JOIN = 'groups=$1; shift; for group in $groups; do echo 0 > "$group/cgroup.procs"; done; exec "$@"'
DETACH = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 &'

# Host folders that programs write to under fixed names. On the host they are but places to mount on.
MARK = ".made-by-slipway"
FIXED_FOLDERS = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers")
KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True)
class Namespaces:
    """The open namespaces of a node."""

    holder: Process
    groups: tuple[Path, ...]

    @property
    def pid(self) -> int:
        """The holder's number."""
        return self.holder.pid

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs a command on the node's network."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *(str(part) for part in command)]

    def programs(self) -> list[Process]:
        """What runs in the node itself; pods have process namespaces of their own."""
        found = [one for one in processes.everything() if one.pid_namespace == self.holder.pid_namespace]
        return [one for one in found if one.pid != self.pid]

    def start(self, argv: Sequence[str], log: Path) -> None:
        """Starts a program on the node that outlives this tool."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--"]
        detached = [*enter, "sh", "-c", DETACH, "sh", str(log), *argv]
        shell.run(_joined(self.groups, detached), env=clean_environment())


def clean_environment() -> dict[str, str]:
    """The node's programs must not inherit proxies, kubeconfigs or languages of whoever started it."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def _joined(groups: Sequence[Path], command: Sequence[str]) -> list[str]:
    return ["sh", "-ec", JOIN, "sh", " ".join(str(group) for group in groups), *command]


def holders(name: str) -> list[Process]:
    """The holders of this name; more than one only where a crash left one behind."""
    return [one for one in processes.everything() if one.program == HOLDER and one.argv[1:] == (name,)]


def _openers(name: str) -> list[Process]:
    """The programs that are about to become a holder, or wait for its end."""
    known = {"unshare", "setsid", "sh"}
    return [one for one in processes.everything() if one.program in known and name in one.argv]


def make_folders(folders: Sequence[Path]) -> None:
    """Makes the folders that are not there, each with a mark that says whose it is."""
    for folder in folders:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            (folder / MARK).touch()


def remove_folders(folders: Sequence[Path]) -> None:
    """Removes the marked folders, unless somebody else has put something there."""
    for folder in folders:
        if (folder / MARK).exists():
            (folder / MARK).unlink()
            remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    """Removes a folder if nothing is in it."""
    try:
        folder.rmdir()
    except OSError:
        return


def prepare(run: Path, node: Path) -> None:
    """Makes the folders and files that the set-up script mounts."""
    make_folders([Path(folder) for folder in FIXED_FOLDERS])
    for folder in FIXED_FOLDERS:
        (node / "host" / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for setting, value in KERNEL.items():
        file = node / "kernel" / setting
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n", encoding="utf-8")
    for place in (run, node / "stage", node / "logs"):
        place.mkdir(parents=True, exist_ok=True)


def leave(run: Path) -> None:
    """Removes what clusters share on the host, where no other cluster is on the machine."""
    remove_if_empty(run.parent)
    if not run.parent.exists():
        remove_folders([Path(folder) for folder in FIXED_FOLDERS])


def open_new(name: str, pause: Path, run: Path, node: Path, groups: Sequence[Path]) -> Namespaces:
    """Opens the namespaces and waits until they are set up."""
    prepare(run, node)
    log = node / "logs" / "namespaces.log"
    flags = [
        "--mount",
        "--propagation=private",
        "--net",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
    ]
    setup = ["sh", "-c", SETUP, "sh", str(run), str(node), str(pause), name, *FIXED_FOLDERS]
    opener = _joined(groups, ["unshare", *flags, "--", *setup])
    shell.run(["sh", "-c", DETACH, "sh", log, *opener], env=clean_environment(), cwd=Path("/"))
    deadline = time.monotonic() + OPEN_SECONDS
    while not (found := holders(name)):
        if not _openers(name) or time.monotonic() > deadline:
            words = shell.tail(log.read_text(errors="replace"))
            raise ClusterError(
                f"The node's namespaces cannot be opened; root with CAP_SYS_ADMIN is needed:\n{words}"
            )
        time.sleep(processes.POLL_SECONDS)
    return Namespaces(found[0], tuple(groups))


def _close_once(name: str) -> bool:
    found = [*holders(name), *_openers(name)]
    for process in found:
        processes.send(process, processes.KILL)
    for process in found:
        if not processes.wait_gone(process, CLOSE_SECONDS):
            raise ClusterError(
                f"Process {process.pid} of the node does not end (it waits in the kernel); "
                "run `python3 -m e2e.cluster down` again in a minute."
            )
    return bool(found)


def close(name: str) -> None:
    """Ends the holders; the kernel ends everything in their namespaces before they are gone.

    It looks until there is none, since one may be opening while another is ended.
    """
    while _close_once(name):
        pass
