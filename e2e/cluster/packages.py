"""Programs the machine must have, and the Debian packages that bring them."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import Progress

# Program: package. containernetworking-plugins brings no program on PATH and is looked for by its folder.
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
CNI_PACKAGE = "containernetworking-plugins"
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
CNI_PROGRAMS = ("ptp", "host-local", "portmap", "loopback")
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def which(program: str) -> str | None:
    """The program's path, also in the folders that a user's PATH may lack."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SYSTEM_FOLDERS}")


def cni_folder() -> Path | None:
    """Where the CNI plugins are."""
    for folder in map(Path, CNI_FOLDERS):
        if all(os.access(folder / program, os.X_OK) for program in CNI_PROGRAMS):
            return folder
    return None


def missing(find: Callable[[str], object] = which, cni: Callable[[], object] = cni_folder) -> list[str]:
    """The packages whose programs are not there."""
    packages = {package for program, package in PROGRAMS.items() if not find(program)}
    if not cni():
        packages.add(CNI_PACKAGE)
    return sorted(packages)


def install_command(packages: Iterable[str]) -> list[str]:
    """How the packages are installed, without a question."""
    return ["apt-get", "install", "--yes", "--no-install-recommends", *packages]


def ensure(progress: Progress) -> None:
    """Installs what is missing, or says in one sentence what to install."""
    packages = missing()
    if not packages:
        return
    command = install_command(packages)
    if not shutil.which("apt-get"):
        raise ClusterError(
            f"The local cluster needs what Debian's packages {', '.join(packages)} bring, and apt-get "
            "is not here to install them; install what your distribution calls them and run again."
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with progress.step(f"Install {', '.join(packages)}"):
        done = shell.attempt(command, env=environment)
        if done.returncode != 0:  # the lists of packages may be missing or old
            shell.run(["apt-get", "update"], env=environment)
            shell.run(command, env=environment)
    left = missing()
    if left:
        raise ClusterError(f"{', '.join(left)} did not install; run `{' '.join(command)}` to see why.")


def check_machine() -> None:
    """The local node needs Linux and root."""
    if sys.platform != "linux":
        raise ClusterError(
            f"The local cluster runs on Linux, and this is {sys.platform}; "
            "start Docker so that kind can be used, or name a cluster that runs with SLIPWAY_E2E_CONTEXT."
        )
    if os.geteuid() != 0:
        raise ClusterError(
            "The local cluster needs root (namespaces, mounts, control groups); run it with `sudo -E`, "
            "or start Docker so that kind can be used, or name a cluster that runs with SLIPWAY_E2E_CONTEXT."
        )
