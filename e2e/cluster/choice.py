"""Picks the provider, and says why that one.

The order is: the cluster somebody named; kind, where Docker answers and its
node image is there or can be had; this machine itself.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.cluster import shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.versions import Versions

NAMES = ("kind", "existing", "local")
PULL_SECONDS = 600.0


@dataclass(frozen=True)
class Choice:
    """A provider's name and the reason for it, a sentence."""

    provider: str
    why: str


def docker_answers() -> bool:
    """Whether a Docker engine is there and serves."""
    return bool(shutil.which("docker")) and shell.attempt(["docker", "info"], timeout=20).returncode == 0


def image_is_there(image: str) -> bool:
    """Whether Docker has an image."""
    return shell.attempt(["docker", "image", "inspect", image], timeout=20).returncode == 0


def image_can_be_had(image: str) -> bool:
    """Whether Docker has an image, or gets it by pulling."""
    pull = ["docker", "pull", "--quiet", image]
    return image_is_there(image) or shell.attempt(pull, timeout=PULL_SECONDS).returncode == 0


def runs_privileged(image: str) -> bool:
    """Whether Docker may give a container the rights that kind's node needs."""
    words = ["docker", "run", "--rm", "--privileged", "--network=none", "--entrypoint=/bin/true", image]
    return shell.attempt(words, timeout=120).returncode == 0


def choose(
    versions: Versions,
    environment: Mapping[str, str] | None = None,
    docker: Callable[[], bool] = docker_answers,
    image: Callable[[str], bool] = image_can_be_had,
    privileged: Callable[[str], bool] = runs_privileged,
) -> Choice:
    """The provider for this machine."""
    env = os.environ if environment is None else environment
    named = env.get("SLIPWAY_E2E_PROVIDER", "")
    context = env.get("SLIPWAY_E2E_CONTEXT", "")
    if named and named not in NAMES:
        raise ClusterError(
            f"SLIPWAY_E2E_PROVIDER is {named!r}; set it to one of {', '.join(NAMES)}, or unset it."
        )
    if named == "existing" and not context:
        raise ClusterError(
            "SLIPWAY_E2E_PROVIDER is existing; name the cluster's context in SLIPWAY_E2E_CONTEXT too."
        )
    if named:
        return Choice(named, "SLIPWAY_E2E_PROVIDER names it.")
    if context:
        return Choice("existing", f"SLIPWAY_E2E_CONTEXT names {context}.")
    if not docker():
        return Choice("local", "No Docker engine answers.")
    if not image(versions.kind_node_image):
        return Choice(
            "local", f"A Docker engine answers, but kind's image {versions.kind_node_image} cannot be had."
        )
    if not privileged(versions.kind_node_image):
        return Choice("local", "A Docker engine answers, but it may not run kind's privileged node.")
    return Choice("kind", "A Docker engine answers and has kind's node image.")


def context(environment: Mapping[str, str] | None = None) -> str:
    """The context of the user's own cluster."""
    return (os.environ if environment is None else environment).get("SLIPWAY_E2E_CONTEXT", "")


def is_told(environment: Mapping[str, str] | None = None) -> bool:
    """Whether the environment names a provider or a cluster."""
    env = os.environ if environment is None else environment
    return bool(env.get("SLIPWAY_E2E_PROVIDER") or env.get("SLIPWAY_E2E_CONTEXT"))


def remember(chosen: Choice, file: Path) -> None:
    """Notes the choice of `up`, so that what follows need not ask Docker again.

    A cluster of the user's own is named by the environment each time, and not noted.
    """
    if chosen.provider == "existing":
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(asdict(chosen)), encoding="utf-8")
    partial.rename(file)


def remembered(file: Path, environment: Mapping[str, str] | None = None) -> Choice | None:
    """The choice that `up` noted; none where the environment names a provider or a context by now."""
    if is_told(environment):
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        found = Choice(value["provider"], value["why"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if found.provider in ("kind", "local") else None


def forget(file: Path) -> None:
    """The cluster is gone, and the next `up` chooses anew."""
    file.unlink(missing_ok=True)
