"""Helm for the chart: the machine's own where it will do, else built from its Go module into the cache."""

import argparse
import fcntl
import os
import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import gotool, shell, versions
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import Paths, default_paths
from e2e.cluster.progress import Progress

MODULE = "helm.sh/helm/v3/cmd/helm"
OLDEST = (3, 14)  # server-side `--wait` and schema behaviour that the chart's users have


def wanted() -> str:
    """The version to build, from the file where all versions stand."""
    try:
        return str(tomllib.loads(versions.FILE.read_text(encoding="utf-8"))["helm"]["version"])
    except KeyError as error:
        raise ClusterError(f"{versions.FILE} lacks [helm] version; restore it with git.") from error


def version_of(text: str) -> tuple[int, int]:
    """`v3.19.5+g1234567` as (3, 19); (0, 0) where it is no version."""
    found = re.match(r"v(\d+)\.(\d+)\.", text.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def installed() -> Path | None:
    """The machine's own Helm 3, if it is new enough."""
    program = shutil.which("helm")
    if not program:
        return None
    done = shell.attempt([program, "version", "--short"], timeout=20)
    version = version_of(done.stdout) if done.returncode == 0 else (0, 0)
    return Path(program) if version[0] == 3 and version >= OLDEST else None


def ensure_helm(progress: Progress | None = None, paths: Paths | None = None) -> Path:
    """A Helm that works, built where there is none."""
    own = installed()
    if own:
        return own
    version = wanted()
    folder = (paths or default_paths()).root / "helm" / f"{version}-kubernetes-{versions.load().kubernetes}"
    program = folder / "helm"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(program, os.X_OK):
            make(version, program, progress or Progress(), paths or default_paths())
    return program


def make(version: str, program: Path, progress: Progress, paths: Paths) -> None:
    """Builds Helm from its module."""
    known = versions.load()
    go = gotool.find(paths, known, progress)
    partial = program.parent / "partial"
    environment = {**os.environ, "GOBIN": str(partial), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
    command: list[str | Path] = [
        go,
        "install",
        f"-ldflags={linker_flags(version, known.kubernetes)}",
        f"{MODULE}@{version}",
    ]
    with progress.step(f"Build Helm {version}"):
        shell.run(command, env=environment)
    (partial / "helm").rename(program)
    shutil.rmtree(partial)


def linker_flags(version: str, kubernetes: str) -> str:
    """What Helm's own build sets: its version, and the Kubernetes that it checks charts for by itself."""
    major, minor, *_ = kubernetes.removeprefix("v").split(".")
    package = MODULE.removesuffix("/cmd/helm")
    values = {f"{package}/internal/version.version": version}
    for place in ("pkg/chartutil", "pkg/lint/rules"):
        values[f"{package}/{place}.k8sVersionMajor"] = major
        values[f"{package}/{place}.k8sVersionMinor"] = minor
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())])


def main(words: Sequence[str]) -> int:
    """Prints the path of a Helm."""
    argparse.ArgumentParser(
        prog="python3 -m e2e.cluster helm",
        description="Prints the path of a Helm, built where there is none.",
    ).parse_args(words)
    print(ensure_helm())
    return 0
