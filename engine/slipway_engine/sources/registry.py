"""An OCI registry: who asks, and manifests by digest, as the OCI Distribution Specification has it."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from slipway_engine.errors import DownloadFailed, ModelAccessDenied, ModelCorrupt, ModelNotFound
from slipway_engine.sources.download import Answer, Downloader, RemoteFile
from slipway_engine.sources.identity import in_json
from slipway_engine.sources.peers import is_loopback

HINT: Final = (
    "give USER:PASSWORD or a token (HF_TOKEN, or key token of the Secret in model.credentials.secretName)"
)
MAX_MANIFEST: Final = 4 << 20
TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_EARLY: Final = 20.0


class Registry:
    """One repository of a registry, read with `credentials` (USER:PASSWORD, a token, or None)."""

    def __init__(self, host: str, repository: str, credentials: str | None, downloader: Downloader) -> None:
        self._host, self._repository, self._downloader = host, repository, downloader
        self._local = is_loopback(urlsplit(f"//{host}").hostname or "")
        self._base = f"{'http' if self._local else 'https'}://{host}/v2/{repository}"
        self._credentials = credentials
        self._realm: str | None = None
        self._authorization = ""
        self._until = float("inf")

    @property
    def where(self) -> str:
        """The repository's name, for sentences."""
        return f"oci://{self._host}/{self._repository}"

    def manifest(self, reference: str) -> tuple[str, dict[str, Any]]:
        """Return the digest and the content of what a tag or a digest names. Raises EngineError."""
        url = f"{self._base}/manifests/{reference}"
        accept = {"Accept": ", ".join(TYPES)}
        file = RemoteFile(url, reference, headers=accept, sign=self.sign, hint=HINT)
        answer = self._downloader.ask(file, most=MAX_MANIFEST, accept=(401, 403, 404))
        if answer.status == 401 and self._learn(answer):
            answer = self._downloader.ask(file, most=MAX_MANIFEST, accept=(401, 403, 404))
        if answer.status in (401, 403):
            raise ModelAccessDenied(
                f"{self.where} is not open to these credentials (HTTP {answer.status}); {HINT}."
            )
        if answer.status == 404:
            raise ModelNotFound(f"{self.where} has no {reference}; check repository and tag.")
        digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        if reference.startswith("sha256:") and digest != reference:
            raise ModelCorrupt(
                f"{self.where} answers with another manifest than {reference}; fetch it again."
            )
        return digest, in_json(answer.body, url)

    def blob(self, digest: str, name: str, size: int) -> RemoteFile:
        """Return a blob as a file; registries often send its reader on to a store."""
        known = {"SHA-256": digest.removeprefix("sha256:")}
        return RemoteFile(f"{self._base}/blobs/{digest}", name, size, known, sign=self.sign, hint=HINT)

    def sign(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return `headers` with what opens the repository, renewed before it expires. Raises EngineError."""
        if self._realm is not None and self._until - time.time() < _EARLY:
            self._renew(self._realm)
        return {**headers, "Authorization": self._authorization} if self._authorization else headers

    def _learn(self, answer: Answer) -> bool:
        """Take in how the registry wants to be asked; return whether asking again may help."""
        given = answer.headers.get("www-authenticate", "")
        scheme, _, rest = given.partition(" ")
        if scheme.lower() == "basic" and self._credentials and ":" in self._credentials:
            self._authorization = _basic(self._credentials)
            return True
        if scheme.lower() != "bearer":
            return False
        if self._credentials and ":" not in self._credentials:
            self._authorization = f"Bearer {self._credentials}"
            return True
        told = dict(_PARAMETER.findall(rest))
        realm = urlsplit(told.get("realm", ""))
        if realm.scheme not in ("https", "http") or (is_loopback(realm.hostname or "") and not self._local):
            raise DownloadFailed(f"{self.where} names no place that gives tokens; check the registry.")
        scope = told.get("scope") or f"repository:{self._repository}:pull"
        asked = {"scope": scope, **({"service": told["service"]} if "service" in told else {})}
        self._renew(f"{told['realm']}{'&' if realm.query else '?'}{urlencode(asked)}")
        return True

    def _renew(self, realm: str) -> None:
        headers = {"Authorization": _basic(self._credentials)} if self._credentials else {}
        file = RemoteFile(realm, "token", headers=headers, redirects=False, hint=HINT)
        told = in_json(self._downloader.ask(file, most=1 << 20).body, realm)
        token, seconds = told.get("token") or told.get("access_token"), told.get("expires_in")
        if not isinstance(token, str):
            raise ModelAccessDenied(f"{self.where}: its token service gives no token; {HINT}.")
        self._realm, self._authorization = realm, f"Bearer {token}"
        self._until = time.time() + (seconds if isinstance(seconds, int) and seconds > 0 else 60)


def _basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"
