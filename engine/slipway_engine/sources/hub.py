"""What a Hugging Face repository holds, and which of it a model needs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub import HfApi, ModelInfo, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of whichever HTTP library this version of the hub's client uses
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from slipway_engine.errors import (
    DownloadFailed,
    InvalidArgument,
    ModelAccessDenied,
    ModelGated,
    ModelNotFound,
    ModelUnsupported,
)
from slipway_engine.sources.download import RemoteFile

DEFAULT_ENDPOINT = "https://huggingface.co"
_TIMEOUT = 30.0
_ATTEMPTS = 5
# Weights that run no code when they are read, and the texts that describe them. All else stays where it is.
_ALLOWED = re.compile(r"[\w.+-]+\.(safetensors|gguf|json|jinja)|LICENSE[\w.]*|(merges|vocab)\.txt", re.ASCII)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on a hub; `file` names one GGUF file of it."""

    name: str
    revision: str = "main"
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files to fetch, at one commit, and the licence that the repository names."""

    commit: str
    files: tuple[RemoteFile, ...]
    license: str | None = None


def endpoint() -> str:
    """Return the hub's address."""
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")


def list_files(
    repository: Repository, token: str | None, *, sleep: Callable[[float], None] = time.sleep
) -> Listing:
    """Return what the model needs of its repository. Raises EngineError."""
    info = _info(repository, token, sleep)
    found = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    chosen = choose(repository, list(found))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    files = []
    for name in chosen:
        lfs = found[name].lfs
        url = hf_hub_url(repository.name, name, revision=info.sha, endpoint=endpoint())
        blob = None if lfs else found[name].blob_id
        files.append(RemoteFile(url, name, found[name].size, lfs.sha256 if lfs else None, headers, blob))
    return Listing(str(info.sha), tuple(files), _license(info.tags or ()))


def _license(tags: Sequence[str]) -> str | None:
    named = (tag.removeprefix("license:") for tag in tags if tag.startswith("license:"))
    return next(named, None)


def choose(repository: Repository, names: Sequence[str]) -> list[str]:
    """Return which files of a repository a model needs. Raises EngineError."""
    if repository.file is not None:
        if repository.file not in names:
            raise ModelNotFound(f"{repository.name} has no file {repository.file}; it has {_some(names)}.")
        return [repository.file]
    allowed = sorted(name for name in names if _ALLOWED.fullmatch(name))
    tensors = [name for name in allowed if name.endswith(".safetensors")]
    files = [name for name in names if name.endswith(".gguf")]
    texts = [name for name in allowed if not name.endswith((".safetensors", ".gguf"))]
    if tensors:
        return texts + _one_format(tensors)
    if len(files) == 1:
        return texts + files
    if files:
        raise InvalidArgument(
            f"{repository.name} has {len(files)} GGUF files; name one: "
            f"hf://{repository.name}/{sorted(files)[0]}."
        )
    raise ModelUnsupported(
        f"{repository.name} has neither safetensors nor GGUF weights (it has {_some(names)}); pickles "
        "are never read: convert them to safetensors first."
    )


def _one_format(tensors: Sequence[str]) -> list[str]:
    """Return the tensors once: some repositories also hold them in a single consolidated file."""
    split = [name for name in tensors if not name.startswith("consolidated")]
    return split or list(tensors)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "no files"


def _info(repository: Repository, token: str | None, sleep: Callable[[float], None]) -> ModelInfo:
    """Return what the hub says of the repository, asking again where it does not answer."""
    for attempt in range(_ATTEMPTS):
        try:
            return HfApi(endpoint=endpoint(), token=token or False).model_info(
                repository.name, revision=repository.revision, files_metadata=True, timeout=_TIMEOUT
            )
        except (HTTPError, HFValidationError) as error:
            problem = _problem(repository, error)
            if not isinstance(problem, DownloadFailed) or attempt == _ATTEMPTS - 1:
                raise problem from error
            sleep(2.0**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _problem(repository: Repository, error: HTTPError | HFValidationError) -> Exception:
    """Return our error for the hub's."""
    where = f"{repository.name} at {endpoint()}"
    match error:
        case GatedRepoError():
            return ModelGated(
                f"{where} is gated: accept its terms there and give a token that may read it (HF_TOKEN, or "
                "model.credentials of the object)."
            )
        case RevisionNotFoundError():
            return ModelNotFound(
                f"{where} has no revision {repository.revision!r}; use a branch, a tag or a commit."
            )
        case RepositoryNotFoundError():
            return ModelNotFound(
                f"{where} does not exist, or is private and no token for it was given; check the name, "
                "or set HF_TOKEN (model.credentials of the object)."
            )
        case HFValidationError():
            return InvalidArgument(f"hf://{repository.name} is no repository's name: {error}")
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return ModelAccessDenied(f"{where} is not open to this token; give one that is (HF_TOKEN).")
        case HfHubHTTPError() if error.response.status_code == 404:
            return ModelNotFound(f"{where} does not exist; check the name.")
        case HfHubHTTPError():
            return DownloadFailed(f"{where} answered HTTP {error.response.status_code}; try again later.")
        case _:
            return DownloadFailed(
                f"{where} did not answer ({type(error).__name__}: {error}); check the network or HF_ENDPOINT."
            )
