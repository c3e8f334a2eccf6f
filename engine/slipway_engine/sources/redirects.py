"""Where an https:// source may lead: a class's list of allowed sources holds for redirects as well.

The operator tells the list in the environment of whatever fetches or inspects such a source. What a
repository (hf:// and others) refers to is the hub's business, which the platform chose.
"""

from __future__ import annotations

import json
import os
from typing import Final

import httpx

from slipway_api.allowed import source_allowed
from slipway_engine.errors import InvalidArgument, ModelAccessDenied

ENVIRONMENT: Final = "SLIPWAY_ALLOWED_SOURCES"


def check_redirect(response: httpx.Response) -> None:
    """Refuse a redirect to what is not on the list. Raises ModelAccessDenied."""
    listed = os.environ.get(ENVIRONMENT)
    if listed is None or not response.has_redirect_location:
        return
    target = response.request.url.join(response.headers["Location"])
    address = str(target.copy_with(query=None, fragment=None, username=None, password=None))
    if not source_allowed(address, _entries(listed)):
        raise ModelAccessDenied(
            f"{response.request.url.host} redirects to {address}, which is not among the sources that the "
            "class allows; have it added to the class's allowedSources."
        )


def _entries(listed: str) -> list[str]:
    try:
        entries = json.loads(listed)
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(isinstance(each, str) for each in entries):
        raise InvalidArgument(f"{ENVIRONMENT} is no JSON list of sources; write [] to allow no redirect.")
    return entries
