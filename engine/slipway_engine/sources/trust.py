"""Certificates that are trusted beside the machine's own: those of a company's mirror or of its proxy.

They come as PEM text in an environment variable, so that no object has to exist beside the pod that trusts
them, or as a mounted file. The HTTP clients of this process (httpx, huggingface_hub) read `SSL_CERT_FILE`.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import Final

from slipway_engine.errors import InvalidArgument

ENVIRONMENT: Final = "SLIPWAY_CA_BUNDLE"
FILE_ENVIRONMENT: Final = "SLIPWAY_CA_FILE"
_SYSTEM: Final = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))


def trust_bundle() -> Path | None:
    """Trust what the environment brings, for this process; return the file. Raises InvalidArgument."""
    text = f"{os.environ.get(ENVIRONMENT, '')}\n{_mounted()}".strip()
    if not text:
        return None
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidArgument(
            f"{ENVIRONMENT} or {FILE_ENVIRONMENT} holds no certificates that can be read ({error}); give "
            "them as PEM."
        ) from error
    with tempfile.NamedTemporaryFile("w", prefix="ca-", suffix=".pem", delete=False) as bundle:
        bundle.write(f"{_authorities()}\n{text}\n")
    os.environ["SSL_CERT_FILE"] = bundle.name
    return Path(bundle.name)


def _mounted() -> str:
    path = os.environ.get(FILE_ENVIRONMENT, "")
    try:
        return Path(path).read_text() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            f"{FILE_ENVIRONMENT} names {path}, which cannot be read ({error}); mount the certificates there."
        ) from error


def _authorities() -> str:
    """Return the authorities trusted so far, as PEM; empty where this machine has no such file."""
    named = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    for path in ([Path(named)] if named else []) + list(_SYSTEM):
        if path.is_file():
            return path.read_text()
    return ""
