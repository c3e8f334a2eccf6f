"""Builds the images with a Docker engine."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.choice import docker_answers, image_can_be_had
from e2e.cluster.errors import ClusterError
from e2e.cluster.images_buildah import follow, passed_on
from e2e.cluster.progress import Progress

DEFAULT_BASE = "python:3.12-slim-bookworm"  # the Dockerfile's own; a test holds the two together


@dataclass(frozen=True)
class Docker:
    """The Docker engine this machine's client talks to."""

    logs: Path
    progress: Progress

    def has(self, ref: str) -> bool:
        """Whether the engine holds an image."""
        return shell.attempt(["docker", "image", "inspect", ref], timeout=20).returncode == 0

    def build(self, root: Path, name: str, base: str, arguments: Mapping[str, str], ref: str) -> None:
        """Builds one target of the checkout's Dockerfile."""
        command = ["docker", "build", f"--target={name}", f"--tag={ref}"]
        for key, value in {"BASE_IMAGE": base, **passed_on(), **arguments}.items():
            command.append(f"--build-arg={key}={value}")
        with self.progress.step(f"Build the image {name}") as step:
            follow([*command, str(root)], step, self.logs / f"{name}.log")

    def push(self, ref: str) -> None:
        """Sends a built image to its registry."""
        with self.progress.step(f"Push {ref}"):
            done = shell.attempt(["docker", "push", "--quiet", ref])
            if done.returncode != 0:
                raise ClusterError(
                    f"{ref} could not be pushed; log in with `docker login {ref.partition('/')[0]}` and run "
                    f"again:\n{shell.tail(done.stderr)}"
                )


def usable(base: str) -> bool:
    """Whether a Docker engine answers that has the base image or can pull it."""
    return bool(shutil.which("docker")) and docker_answers() and image_can_be_had(base or DEFAULT_BASE)
