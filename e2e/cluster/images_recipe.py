"""What each image is made of, and the tag that follows from it.

Pure but for reading the checkout: the same sources, options and base give the
same tag on every machine, so an image that exists need not be built again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.keys import key_of

NAMES = ("operator", "gateway", "engine")
VARIANTS = ("cpu", "cuda")
MODEL_LOCK = "tests/model.lock"

IGNORED = (".pyc", ".so")  # as in .dockerignore
SHARED = ("Dockerfile", ".dockerignore", "pyproject.toml", "LICENSE", "api/slipway_api")
ONLY = {
    "operator": ("operator/slipway_operator", "operator/requirements.lock"),
    "gateway": ("gateway/slipway_gateway", "gateway/requirements.lock"),
    "engine": ("engine/slipway_engine", "engine/imagetools", "engine/requirements.lock"),
}


@dataclass(frozen=True)
class Options:
    """What the builder of the images may choose."""

    variant: str = "cpu"
    torch_index: str = ""
    model: bool = True

    def arguments(self, name: str) -> dict[str, str]:
        """The Dockerfile's build arguments for one image, apart from its base."""
        if name != "engine":
            return {}
        return {
            "ENGINE_VARIANT": self.variant,
            "TORCH_INDEX_URL": self.torch_index,
            "MODEL_PACKAGE": MODEL_LOCK if self.model else "",
        }


def check(names: tuple[str, ...], options: Options) -> None:
    """Refuses names and variants there are not."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ClusterError(f"There is no image {unknown[0]!r}; name some of {', '.join(NAMES)}.")
    if options.variant not in VARIANTS:
        raise ClusterError(f"The engine has no variant {options.variant!r}; choose {' or '.join(VARIANTS)}.")
    if options.variant == "cuda" and options.torch_index:
        raise ClusterError("An index of CPU wheels was given for the variant cuda; leave one of the two out.")


def tag(root: Path, name: str, base: str, options: Options) -> str:
    """The tag of an image made from this checkout on this base."""
    arguments = options.arguments(name)
    parts: dict[str, str | bytes] = {f"argument {key}": value for key, value in arguments.items()}
    parts["base"] = base
    for place in (*SHARED, *ONLY[name], *((MODEL_LOCK,) if arguments.get("MODEL_PACKAGE") else ())):
        for path in files(root / place):
            parts[f"file {path.relative_to(root).as_posix()}"] = path.read_bytes()
    return key_of(parts)


def files(place: Path) -> Iterator[Path]:
    """The file, or those below the folder that `.dockerignore` lets through."""
    if place.is_file():
        yield place
    elif place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in IGNORED:
                yield path
    else:
        raise ClusterError(f"{place} is missing from this checkout; restore it with `git checkout {place}`.")
