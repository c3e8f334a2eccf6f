"""Builds the project's images: `python3 -m e2e.cluster images [operator gateway engine]`.

With Docker where an engine answers that has the base image or can pull it, and
where the cluster can take an image from it; else with buildah. An image's tag is
the hash of what it is made of, so what exists is not built again.
"""

import argparse
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.cluster import choice, images_docker, images_recipe
from e2e.cluster.errors import ClusterError
from e2e.cluster.images_buildah import Buildah
from e2e.cluster.images_docker import Docker
from e2e.cluster.images_recipe import NAMES, VARIANTS, Options
from e2e.cluster.images_store import Store
from e2e.cluster.paths import REPOSITORY, cache_root, default_paths
from e2e.cluster.progress import Progress, duration

DEFAULT_REGISTRY = "localhost/slipway"
REGISTRY = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Image:
    """A built image: its full name, and what `load` takes (an OCI layout, or its name in Docker)."""

    ref: str
    archive: str


@dataclass(frozen=True)
class Job:
    """What to build."""

    names: tuple[str, ...]
    registry: str
    options: Options
    base: str
    push: bool
    tag: str


def build(
    names: Sequence[str] = NAMES,
    registry: str = DEFAULT_REGISTRY,
    *,
    engine_variant: str = "cpu",
    torch_index: str = "",
    model: bool = True,
    base: str = "",
    push: bool = False,
    tag: str = "",
    progress: Progress | None = None,
) -> dict[str, Image]:
    """Builds the images that are not there yet; returns all that were asked for, by name."""
    options = Options(engine_variant, torch_index, model)
    job = Job(tuple(names) or NAMES, check_registry(registry), options, base, push, check_tag(tag))
    images_recipe.check(job.names, options)
    if push and job.registry == DEFAULT_REGISTRY:
        raise ClusterError(
            f"{DEFAULT_REGISTRY} is no registry to push to; name one in REGISTRY or --registry."
        )
    shown = progress or Progress()
    folder = cache_root() / "images"
    with locked(folder, shown):
        if not needs_archive() and images_docker.usable(base):
            return build_with_docker(job, folder, shown)
        return build_with_buildah(job, folder, shown)


def needs_archive() -> bool:
    """Whether the cluster in use can take images only as files."""
    remembered = choice.remembered(default_paths().choice)
    return (
        bool(remembered and remembered.provider == "local")
        or os.environ.get("SLIPWAY_E2E_PROVIDER") == "local"
    )


def build_with_docker(job: Job, folder: Path, progress: Progress) -> dict[str, Image]:
    """The images, in the Docker engine."""
    docker = Docker(folder / "logs", progress)
    base = job.base or images_docker.DEFAULT_BASE
    built = {}
    for name in job.names:
        tag = images_recipe.tag(REPOSITORY, name, base, job.options)
        ref = f"{job.registry}/{name}:{job.tag or tag}"
        if job.tag or not docker.has(ref):  # Docker's own cache tells what a given tag stands for
            docker.build(REPOSITORY, name, base, job.options.arguments(name), ref)
        if job.push:
            docker.push(ref)
        built[name] = Image(ref, ref)
    return built


def build_with_buildah(job: Job, folder: Path, progress: Progress) -> dict[str, Image]:
    """The images, in the cache's layout."""
    buildah, store = Buildah(folder, progress), Store(folder)
    identity, base = buildah.base(job.base)
    built: dict[str, Image] = {}
    ready = False
    for name in job.names:
        tag = images_recipe.tag(REPOSITORY, name, identity, job.options)
        described = store.find(name, tag)
        if not ready and (described is None or job.push):
            buildah.ensure(with_debootstrap=not job.base)
            buildah.make_base(base)
            ready = True
        if described is None:
            buildah.build(REPOSITORY, name, base, job.options.arguments(name), store.destination(name, tag))
            described = store.find(name, tag)
        if described is None:
            raise ClusterError(
                f"The build of {name} left no whole image in {store.layout}; delete it and run again."
            )
        ref = f"{job.registry}/{name}:{job.tag or tag}"
        if job.push:
            buildah.push(REPOSITORY, name, base, job.options.arguments(name), ref)
        built[name] = Image(ref, str(store.show(name, tag, ref, described)))
    if ready:
        store.prune()
        buildah.trim()
    return built


def check_registry(registry: str) -> str:
    """Refuses what cannot start an image's name."""
    plain = registry.rstrip("/")
    if not REGISTRY.fullmatch(plain):
        raise ClusterError(
            f"{registry!r} is no registry; write it like `registry.example.com/team`, in lower case."
        )
    return plain


def check_tag(tag: str) -> str:
    """Refuses what cannot end an image's name."""
    if tag and not TAG.fullmatch(tag):
        raise ClusterError(f"{tag!r} is no tag; write it like `v0.1.0`, in letters, digits, dots and dashes.")
    return tag


@contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Lets one build at a time use the cache."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step("Wait for another build of the images"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def helm_settings(built: Mapping[str, Image]) -> list[str]:
    """The chart's settings for these images."""
    return [f"--set {name}.image={image.ref}" for name, image in built.items()]


def parser() -> argparse.ArgumentParser:
    """The command's words."""
    root = argparse.ArgumentParser(
        prog="python3 -m e2e.cluster images", description="Builds the images that are not there yet."
    )
    root.add_argument("name", nargs="*", help=f"some of {', '.join(NAMES)}; all of them unless named")
    root.add_argument(
        "--registry",
        default=os.environ.get("REGISTRY") or DEFAULT_REGISTRY,
        help="what the images' names start with (default: $REGISTRY, else %(default)s)",
    )
    root.add_argument("--tag", default="", help="the images' tag (default: the hash of what each is made of)")
    root.add_argument("--push", action="store_true", help="send the images to their registry")
    root.add_argument(
        "--no-model", action="store_true", help="leave the demo's model out of the engine's image"
    )
    root.add_argument("--variant", choices=VARIANTS, default="cpu", help="of the engine (default: cpu)")
    root.add_argument(
        "--torch-index", default="", metavar="URL", help="an index of CPU wheels to take torch from"
    )
    root.add_argument(
        "--base", default="", metavar="IMAGE", help="the image to build on, with Python 3.11 or later"
    )
    root.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return root


def main(words: Sequence[str]) -> int:
    """Builds, and prints the images' names."""
    given = parser().parse_args(words)
    progress = Progress()
    built = build(
        tuple(dict.fromkeys(given.name)),
        given.registry,
        engine_variant=given.variant,
        torch_index=given.torch_index,
        model=not given.no_model,
        base=given.base,
        push=given.push,
        tag=given.tag,
        progress=progress,
    )
    if given.output == "json":
        print(json.dumps({name: asdict(image) for name, image in built.items()}, indent=2))
    else:
        print("\n".join(image.ref for image in built.values()))
    if given.push:
        progress.tell(f"helm install slipway charts/slipway {' '.join(helm_settings(built))}")
    progress.tell(f"The images {', '.join(built)} are there after {duration(progress.elapsed)}.")
    return 0
