"""A base image without a registry: the machine's own Debian or Ubuntu, out of its package mirror."""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import apt, packages, shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.keys import key_of
from e2e.cluster.progress import Progress

PACKAGES = ("python3", "python3-venv", "ca-certificates")
# What a container never reads; licences (usr/share/doc/*/copyright) stay.
UNUSED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
)
RECIPE = 1  # raise it when what is done to the base below changes
MINIMUM_PYTHON = {"debian": 12.0, "ubuntu": 24.04}


@dataclass(frozen=True)
class Release:
    """A distribution's release, and where its packages come from."""

    codename: str
    mirror: str
    components: tuple[str, ...]

    @property
    def key(self) -> str:
        """Names the base made of it; the mirror is not part of it, as mirrors hold the same."""
        parts = {
            "codename": self.codename,
            "packages": " ".join(PACKAGES),
            "machine": platform.machine(),
            "recipe": str(RECIPE),
        }
        return key_of(parts)


def os_release(text: str) -> dict[str, str]:
    """The fields of an os-release file."""
    return dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))


def release(progress: Progress) -> Release:
    """This machine's release, by its own configuration of apt."""
    try:
        fields = os_release(Path("/etc/os-release").read_text(encoding="utf-8"))
    except FileNotFoundError:
        fields = {}
    kind, version = fields.get("ID", ""), fields.get("VERSION_ID", "0")
    if (
        kind not in MINIMUM_PYTHON
        or float(version or 0) < MINIMUM_PYTHON[kind]
        or not shutil.which("apt-get")
    ):
        raise ClusterError(
            "A base image can be made of Debian 12 or Ubuntu 24.04 and later, and this is "
            f"{fields.get('PRETTY_NAME', 'neither')}; "
            "start a Docker engine, or name a base image with --base."
        )
    codename = fields["VERSION_CODENAME"]
    listed = sources()
    if not listed.strip():  # apt tells of no source whose list it has not got yet
        apt.update(progress)
        listed = sources()
    return chosen(codename, kind, listed)


def sources() -> str:
    """The sources of packages that apt knows: codename, component and address a line."""
    wanted = "$(CODENAME) $(COMPONENT) $(REPO_URI)"
    return shell.run(["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"])


def chosen(codename: str, kind: str, listed: str) -> Release:
    """The release as apt's list of sources (codename, component, address a line) has it."""
    rows = [line.split() for line in listed.splitlines()]
    found = [row for row in rows if len(row) == 3 and row[0] == codename and row[1] == "main"]
    if not found:
        raise ClusterError(
            f"apt has no source for {codename} main, of which the base image is made; "
            "add one to /etc/apt/sources.list.d."
        )
    wanted = ("main", "universe") if kind == "ubuntu" else ("main",)
    return Release(codename, found[0][2].rstrip("/"), wanted)


def make_root(of: Release, target: Path, progress: Progress) -> None:
    """Fills a folder with the release's smallest system and Python."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command += [f"--components={','.join(of.components)}", of.codename, str(partial), of.mirror]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    environment["PATH"] = f"{environment.get('PATH', '/usr/bin:/bin')}:{packages.SYSTEM_FOLDERS}"
    counts = {"Retrieving": 0, "Unpacking": 0, "Configuring": 0}
    lines: list[str] = []
    with (
        progress.step(f"Make a base image of {of.codename}") as step,
        subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            word = line.removeprefix("I: ").partition(" ")[0]
            if word in counts:
                counts[word] += 1
                step.say(f"{word.lower()} package {counts[word]}")
        if process.wait() != 0:
            raise ClusterError(f"`{' '.join(command)}` failed:\n{shell.tail(''.join(lines))}")
    trim(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def trim(root: Path) -> None:
    """Removes what a container never reads, keeping the folders."""
    for name in UNUSED:
        for path in (root / name).glob("*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (root / "usr/share/doc").glob("*/*"):
        if path.name != "copyright":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
