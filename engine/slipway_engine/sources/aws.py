"""Requests to S3-compatible stores, signed: AWS Signature Version 4, as its public specification has it.

Pure but for the clock that is handed in. Amazon's own library does the same in ten times the code of this
whole package's sources; the scheme has not changed since 2014, and every S3-compatible store speaks it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

EMPTY: Final = hashlib.sha256(b"").hexdigest()
"""The SHA-256 of no body, which is the body of every request here."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Who asks. `token` comes with keys that expire, at `expires` (Unix seconds; None: never)."""

    access: str
    secret: str
    token: str | None = None
    expires: float | None = None

    def __repr__(self) -> str:
        return f"Keys({self.access!r}, ...)"


def signed(
    method: str,
    url: str,
    headers: Mapping[str, str],
    keys: Keys,
    region: str,
    now: datetime,
    *,
    service: str = "s3",
) -> dict[str, str]:
    """Return `headers` and those that sign a request without a body. `now` is in UTC."""
    parts = urlsplit(url)
    date = now.strftime("%Y%m%dT%H%M%SZ")
    own = {**headers, "x-amz-content-sha256": EMPTY, "x-amz-date": date}
    if keys.token is not None:
        own["x-amz-security-token"] = keys.token
    covered = {name.lower(): " ".join(value.split()) for name, value in own.items()}
    covered["host"] = parts.netloc
    names = ";".join(sorted(covered))
    query = sorted((quote(k, safe=""), quote(v, safe="")) for k, v in parse_qsl(parts.query, True))
    canonical = "\n".join(
        [
            method,
            parts.path or "/",
            "&".join(f"{k}={v}" for k, v in query),
            *(f"{name}:{covered[name]}" for name in sorted(covered)),
            "",
            names,
            EMPTY,
        ]
    )
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys.secret}".encode()
    for part in (date[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    own["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return own
