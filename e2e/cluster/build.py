"""Builds the node's programs from Go modules, once for each state of their sources.

The folder of a build is named by the hash of everything that goes into it, so
a build that is there is the right one, and an interrupted one is never used.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from e2e.cluster import gotool, keys, shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import GO_MODULE, Paths
from e2e.cluster.progress import Progress, Step
from e2e.cluster.versions import Versions

# The names under which the one Kubernetes binary is started.
KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "kubectl",
)
KEEP = 2  # builds, so that going back to another branch costs nothing
KEY = re.compile(f"[0-9a-f]{{{keys.LENGTH}}}")
NICENESS = 5  # a build may not starve what else runs on the machine


def flags(versions: Versions) -> list[str]:
    """How the programs are compiled: reproducible, and knowing their version."""
    package = "k8s.io/component-base/version"
    major, minor, _ = versions.kubernetes.removeprefix("v").split(".", 2)
    named = {"gitVersion": versions.kubernetes, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    link = " ".join(["-s", "-w", *(f"-X {package}.{name}={value}" for name, value in named.items())])
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags={link}"]


def machine() -> str:
    """The kind of processor, as built programs depend on it."""
    return os.uname().machine


def key(versions: Versions) -> str:
    """What the build is made of: sources, go.sum, flags and the processor."""
    sources: dict[str, str | bytes] = dict(keys.files_of(GO_MODULE, (".go", "go.mod", "go.sum")))
    return keys.key_of({**sources, "flags": "\0".join(flags(versions)), "machine": machine()})


def folder(paths: Paths, versions: Versions) -> Path:
    """Where this checkout's programs are, or will be."""
    return paths.programs / key(versions)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The machine's own Go settings, but static programs and no workspace around ours."""
    return {**given, "CGO_ENABLED": "0", "GOWORK": "off"}


def _go(command: Sequence[str | Path], env: Mapping[str, str], hear: Callable[[str], None]) -> str:
    """Runs the go tool at low priority; `hear` gets each line it writes while it works."""
    words: deque[str] = deque(maxlen=shell.TAIL_LINES)
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            ["nice", "-n", str(NICENESS), *(str(part) for part in command)],
            cwd=GO_MODULE,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            for line in process.stderr or ():
                words.append(line.rstrip())
                hear(line)
        except BaseException:
            process.terminate()
            raise
        process.wait()
        output.seek(0)
        answer = output.read()
    if process.returncode != 0:
        raise ClusterError("Go cannot build the node's programs:\n" + "\n".join(words))
    return answer


def count_packages(go: Path, env: Mapping[str, str], step: Step) -> int:
    """How many packages a build from nothing compiles; downloads the modules where they are not there."""
    downloaded = 0

    def hear(line: str) -> None:
        nonlocal downloaded
        if line.startswith("go: downloading "):
            downloaded += 1
            step.say(f"{downloaded}, now {line.split()[2]}")

    listed = _go([go, "list", "-mod=readonly", "-deps", "./..."], env, hear)
    step.note = f"{downloaded} downloaded"
    return len(listed.splitlines())


def compile_all(go: Path, env: Mapping[str, str], arguments: Sequence[str], total: int, step: Step) -> None:
    """Builds everything; `go build -v` names each package as it is compiled, and none that it has already."""
    compiled = 0

    def hear(line: str) -> None:
        nonlocal compiled
        compiled += not line.startswith(("#", "go:", "\t"))
        step.say(f"{compiled} of {total} packages")

    _go([go, "build", "-v", *arguments], env, hear)
    step.note = f"{compiled} of {total} packages compiled"


def prune(paths: Paths, versions: Versions) -> list[str]:
    """Deletes all but the newest builds and returns the keys that are gone; this checkout's stays."""
    own = key(versions)
    builds = [one for one in paths.programs.iterdir() if KEY.fullmatch(one.name) and one.name != own]
    builds.sort(key=lambda one: one.stat().st_mtime, reverse=True)
    old = builds[KEEP - 1 :]
    for one in old:
        shutil.rmtree(one)
    return [one.name for one in old]


def _link_names(target: Path) -> None:
    for name in KUBERNETES:
        (target / name).symlink_to("kube")


def ensure(paths: Paths, versions: Versions, progress: Progress) -> Path:
    """The folder of this checkout's programs, built where it is not there yet."""
    target = folder(paths, versions)
    if target.is_dir():
        return target
    go = gotool.find(paths, versions, progress)
    env = environment(os.environ)
    paths.programs.mkdir(parents=True, exist_ok=True)
    with progress.step("Get Go modules") as step:
        total = count_packages(go, env, step)
    partial = target.with_name(f"{target.name}{keys.PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with progress.step(f"Build Kubernetes {versions.kubernetes}, etcd {versions.etcd}, CoreDNS") as step:
        compile_all(go, env, [*flags(versions), "-o", f"{partial}/", "./..."], total, step)
    _link_names(partial)
    partial.rename(target)
    return target
