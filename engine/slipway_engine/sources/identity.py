"""One identity handed in for another: short requests to whoever issues tokens and keys."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx

from slipway_engine.errors import DownloadFailed, ModelAccessDenied

_ATTEMPTS: Final = 4
_SECONDS: Final = 15.0
_MOST: Final = 1 << 20


def exchange(
    url: str,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    direct: bool = False,
) -> bytes:
    """Return what `url` answers: to a form that is posted, else to a GET. `direct` goes by no proxy.

    Raises ModelAccessDenied where the identity is refused, DownloadFailed where nobody answers.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with httpx.Client(timeout=_SECONDS, trust_env=not direct) as client:
                method = "GET" if form is None else "POST"
                answer = client.request(method, url, data=form, headers=headers)
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}".rstrip(": ")
        else:
            if answer.status_code == 200 and len(answer.content) <= _MOST:
                return answer.content
            problem = f"HTTP {answer.status_code}"
            if answer.status_code < 500 and answer.status_code != 429:
                raise ModelAccessDenied(
                    f"{_shown(url)} gives this identity nothing ({problem}); check model.credentials, and "
                    "what the service account or key may read."
                )
        time.sleep(2.0**attempt / 2)
    raise DownloadFailed(
        f"{_shown(url)} did not answer ({problem}); it is asked who this fetch is: check the network."
    )


def in_json(body: bytes, url: str) -> dict[str, Any]:
    """Return an answer's JSON object. Raises DownloadFailed."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DownloadFailed(f"{_shown(url)} answered with something that is no JSON object.")
    return value


def _shown(url: str) -> str:
    return url.split("?", 1)[0]
