"""Builds the node's programs from Go modules, once for each state of their sources.

The folder of a build is named by the hash of everything that goes into it, so
a build that is there is the right one, and an interrupted one is never used.
"""

import os
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
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


def count_packages(go: Path, env: Mapping[str, str]) -> int:
    """How many packages a build from nothing compiles; downloads the modules first where needed."""
    listed = shell.run([go, "list", "-mod=readonly", "-deps", "./..."], cwd=GO_MODULE, env=env)
    return len(listed.splitlines())


def _lower_priority() -> None:
    os.nice(NICENESS)


def _compile(command: Sequence[str], env: Mapping[str, str], total: int, step: Step) -> None:
    """Runs `go build -v`, which names each package on standard error as it is compiled."""
    words: deque[str] = deque(maxlen=shell.TAIL_LINES)
    compiled = 0
    with subprocess.Popen(
        command,
        cwd=GO_MODULE,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=_lower_priority,
    ) as process:
        try:
            for line in process.stderr or ():
                words.append(line.rstrip())
                compiled += not line.startswith(("#", "go:", "\t"))
                step.say(f"{compiled} of at most {total} packages")
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise ClusterError("The Go build failed:\n" + "\n".join(words))
    step.note = f"{compiled} packages compiled"


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
    with progress.step("Download Go modules") as step:
        total = count_packages(go, env)
        step.note = f"{total} packages in all"
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}{keys.PARTIAL}", dir=paths.programs))
    try:
        with progress.step(f"Build Kubernetes {versions.kubernetes}, etcd {versions.etcd}, CoreDNS") as step:
            output = ["-o", f"{partial}/", "./..."]
            _compile([str(go), "build", "-v", *flags(versions), *output], env, total, step)
        _link_names(partial)
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
