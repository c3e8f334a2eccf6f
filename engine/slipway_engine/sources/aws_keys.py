"""Where the keys for an S3-compatible store come from, in the order in which Amazon's own tools look.

1. `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`): a Secret's keys.
2. `AWS_ROLE_ARN` and `AWS_WEB_IDENTITY_TOKEN_FILE`: the service account's token, exchanged at STS.
3. `AWS_CONTAINER_CREDENTIALS_FULL_URI`: what an agent on the node hands to this service account.

The node's own role (instance metadata) is never borrowed. None of them: requests are not signed, for buckets
that are open to all.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Final

from slipway_engine.errors import InvalidArgument, ModelAccessDenied
from slipway_engine.sources import markup
from slipway_engine.sources.aws import Keys
from slipway_engine.sources.credentials import credential
from slipway_engine.sources.identity import exchange, in_json

EARLY: Final = 300.0
"""Keys are renewed this many seconds before they expire."""
_AGENTS: Final = ("http://169.254.170.2/", "http://169.254.170.23/", "http://[fd00:ec2::23]/", "https://")
"""Where agents listen that hand out keys."""


class KeyChain:
    """The keys in force, renewed before they expire."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._keys: Keys | None = None

    def current(self) -> Keys | None:
        """Return keys; None where requests are to go out unsigned. Raises EngineError."""
        keys = self._keys
        if keys is None or (keys.expires is not None and keys.expires - time.time() < EARLY):
            self._keys = _static() or _web_identity(self._region) or _agent()
        return self._keys


def _static() -> Keys | None:
    access, secret = credential("AWS_ACCESS_KEY_ID"), credential("AWS_SECRET_ACCESS_KEY")
    if not access and not secret:
        return None
    if not access or not secret:
        raise InvalidArgument(
            "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set; give both (keys of the Secret "
            "that model.credentials.secretName names)."
        )
    return Keys(access, secret, credential("AWS_SESSION_TOKEN"))


def _web_identity(region: str) -> Keys | None:
    role, path = os.environ.get("AWS_ROLE_ARN"), os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    if not role or not path:
        return None
    url = os.environ.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{region}.{domain(region)}"
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": role,
        "RoleSessionName": "slipway-fetch",
        "WebIdentityToken": _read(path),
    }
    answer = markup.parse(exchange(url, form=form), url)
    return _keys(
        url,
        markup.text_of(answer, "AccessKeyId"),
        markup.text_of(answer, "SecretAccessKey"),
        markup.text_of(answer, "SessionToken"),
        markup.text_of(answer, "Expiration"),
    )


def _agent() -> Keys | None:
    url = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if not url:
        return None
    if not url.startswith(_AGENTS):
        raise InvalidArgument("AWS_CONTAINER_CREDENTIALS_FULL_URI names no agent of a node; remove it.")
    path = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    headers = {"Authorization": _read(path)} if path else {}
    told = in_json(exchange(url, headers=headers, direct=True), url)
    names = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")
    return _keys(url, *(str(told.get(name) or "") for name in names))


def _keys(where: str, access: str, secret: str, token: str, expires: str) -> Keys:
    try:
        until = datetime.fromisoformat(expires.replace("Z", "+00:00")).timestamp()
    except ValueError:
        until = 0.0
    if not (access and secret and token and until):
        raise ModelAccessDenied(f"{where} hands out no keys; check the role of the service account.")
    return Keys(access, secret, token, until)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the identity token {path} cannot be read ({error}).") from error


def domain(region: str) -> str:
    """Return the domain of a region's services."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
