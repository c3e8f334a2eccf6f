"""The places that models come from, by the scheme of their source: each tells its files as one `Listing`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from slipway_engine.errors import InvalidArgument, ModelChanged
from slipway_engine.sources import gcs, hub, oci, s3
from slipway_engine.sources.download import CHANGED, Downloader
from slipway_engine.sources.listing import Listing
from slipway_engine.sources.tally import Tally

LISTED: Final = ("hf://", "s3://", "gs://", "oci://")
"""Schemes of places that tell which files they have."""
_HUB = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(/(?P<file>[\w./+-]+\.gguf))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fetch:
    """How to fetch. `token_for_https` sends the token to the host of an https:// source too.

    `revision` is a branch, a tag or a commit of a hub, and for other places the version that `inspect` told.
    `tally` is told how far all files together have come. `signers` are public keys in PEM, one of which has
    to have signed the model; None asks for no signature.
    """

    revision: str | None = None
    token: str | None = None
    token_for_https: bool = False
    allow_http: bool = False
    tally: Tally | None = None
    signers: tuple[str, ...] | None = None


def is_remote(source: str) -> bool:
    """Return whether the source has to be fetched over a network."""
    return source.startswith((*LISTED, "https://", "http://"))


def is_listed(source: str) -> bool:
    """Return whether the source is a place with files, rather than one file."""
    return source.startswith(LISTED)


def listing_of(source: str, options: Fetch, downloader: Downloader) -> Listing:
    """Return what of a place the model needs. Raises EngineError."""
    if source.startswith("hf://"):
        return hub.list_files(_repository(source, options), options.token)
    if source.startswith("oci://"):
        return oci.list_files(source, options.token, options.revision, downloader)
    list_files = s3.list_files if source.startswith("s3://") else gcs.list_files
    listing = list_files(source, downloader)
    if options.revision not in (None, listing.commit):
        raise ModelChanged(f"{source} holds other files than when its version was resolved; {CHANGED}.")
    return listing


def plain_http_meant(source: str) -> bool:
    """Return whether the place that was set by hand speaks plain HTTP: then that was meant."""
    set_by_hand = {
        "hf": hub.endpoint(),
        "s3": s3.endpoint() or "",
        "gs": os.environ.get(gcs.ENDPOINT, ""),
    }
    return set_by_hand.get(source.split("://", 1)[0], "").startswith("http://")


def _repository(source: str, options: Fetch) -> hub.Repository:
    found = _HUB.fullmatch(source)
    if found is None or ".." in source:
        raise InvalidArgument(f"{source!r} is no repository; write hf://ORG/NAME or hf://ORG/NAME/FILE.gguf.")
    return hub.Repository(found["name"], options.revision or "main", found["file"])
