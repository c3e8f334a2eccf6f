"""What a Hugging Face repository holds."""

from __future__ import annotations

import os
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
)
from slipway_engine.sources.download import RemoteFile, shown
from slipway_engine.sources.listing import Listing, choose

DEFAULT_ENDPOINT = "https://huggingface.co"
_TIMEOUT = 30.0
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on a hub; `file` names one GGUF file of it."""

    name: str
    revision: str = "main"
    file: str | None = None


def endpoint() -> str:
    """Return the hub's address."""
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")


def list_files(
    repository: Repository, token: str | None, *, sleep: Callable[[float], None] = time.sleep
) -> Listing:
    """Return what the model needs of its repository. Raises EngineError."""
    info = _info(repository, token, sleep)
    found = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    chosen = choose(f"hf://{repository.name}", list(found), repository.file)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    files = []
    for name in chosen:
        lfs = found[name].lfs
        url = hf_hub_url(repository.name, name, revision=info.sha, endpoint=endpoint())
        digest = {"SHA-256": lfs.sha256} if lfs else {"git object name": found[name].blob_id}
        known = {kind: value for kind, value in digest.items() if value}
        files.append(RemoteFile(url, name, found[name].size, known, headers))
    return Listing(str(info.sha), tuple(files), _license(info.tags or ()))


def _license(tags: Sequence[str]) -> str | None:
    named = (tag.removeprefix("license:") for tag in tags if tag.startswith("license:"))
    return next(named, None)


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
    where = f"{repository.name} at {shown(endpoint())}"
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
