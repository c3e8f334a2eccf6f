"""Programs the machine must have, and the Debian packages that bring them."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from e2e.cluster import apt
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


def ensure(progress: Progress) -> None:
    """Installs what is missing, or says in one sentence what to install."""
    packages = missing()
    if not packages:
        return
    apt.install(packages, progress)
    left = missing()
    if left:
        command = " ".join(apt.install_command(packages))
        raise ClusterError(f"{', '.join(left)} did not install; run `{command}` to see why.")


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
