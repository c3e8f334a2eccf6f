"""Access tokens of Google Cloud: from a service account's key, or from the node's metadata server.

With workload identity the metadata server answers for the pod's own Kubernetes service account. It is asked
only where `SLIPWAY_WORKLOAD_IDENTITY` says so: elsewhere the answer would be the node's, which is never
borrowed.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from slipway_engine.errors import InvalidArgument, ModelAccessDenied
from slipway_engine.sources.download import Downloader
from slipway_engine.sources.identity import exchange, in_json

KEY_FILE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
IDENTITY: Final = "SLIPWAY_WORKLOAD_IDENTITY"
SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_only"
_METADATA: Final = "/computeMetadata/v1/instance/service-accounts/default/token"
_EARLY: Final = 300.0


class Tokens:
    """The token in force, renewed before it expires; none where nothing says who this is."""

    def __init__(self, downloader: Downloader) -> None:
        self._downloader = downloader
        self._token: str | None = None
        self._until = 0.0

    def sign(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return `headers` with the token in force. Raises EngineError."""
        if self._until - time.time() < _EARLY:
            self._renew()
        return {**headers, "Authorization": f"Bearer {self._token}"} if self._token else headers

    def _renew(self) -> None:
        if path := os.environ.get(KEY_FILE):
            told, where = _by_key(Path(path))
        elif os.environ.get(IDENTITY):
            told, where = _by_metadata()
        else:
            self._until = float("inf")  # open to all, or refused
            return
        token, seconds = told.get("access_token"), told.get("expires_in")
        if not isinstance(token, str) or not isinstance(seconds, int):
            raise ModelAccessDenied(f"{where} hands out no token; check what the service account may read.")
        self._token, self._until = token, time.time() + seconds


def _by_metadata() -> tuple[dict[str, Any], str]:
    host = os.environ.get("GCE_METADATA_HOST") or "169.254.169.254"
    url = f"http://{host}{_METADATA}"
    return in_json(exchange(url, headers={"Metadata-Flavor": "Google"}, direct=True), url), url


def _by_key(path: Path) -> tuple[dict[str, Any], str]:
    """Return a token for a service account's key: a JWT signed by it (RFC 7523), handed in for the token."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        known = json.loads(path.read_text())
        url, email = str(known["token_uri"]), str(known["client_email"])
        key = load_pem_private_key(str(known["private_key"]).encode(), None)
    except (OSError, ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(
            f"{KEY_FILE} names {path}, which is no service account's key file ({type(error).__name__}); give "
            "the JSON that was downloaded with the key."
        ) from None  # what is in it is secret
    if not isinstance(key, RSAPrivateKey) or not url.startswith(("https://", "http://127.0.0.1:")):
        raise InvalidArgument(f"{KEY_FILE} holds no RSA key, or its token_uri is not https://.")
    now = int(time.time())
    claims = {"iss": email, "scope": SCOPE, "aud": url, "iat": now, "exp": now + 3600}
    head = {"alg": "RS256", "typ": "JWT", "kid": known.get("private_key_id")}
    text = b".".join(_url_safe(json.dumps(part).encode()) for part in (head, claims))
    signature = key.sign(text, PKCS1v15(), SHA256())
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": (text + b"." + _url_safe(signature)).decode(),
    }
    return in_json(exchange(url, form=form), url), url


def _url_safe(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
