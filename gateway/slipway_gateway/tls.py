"""TLS from two files, read again when they change, as a Secret's volume does when its certificate is renewed.

New connections get the new certificate, open ones keep theirs. Files that do not fit together (one was
written before the other) change nothing, and are tried again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0


class NoCertificate(Exception):
    """The files cannot be used."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where certificate chain and key are, in PEM."""

    certificate: Path
    key: Path

    def content(self) -> tuple[bytes, bytes]:
        """Return both; the key is compared, and goes nowhere else."""
        return self.certificate.read_bytes(), self.key.read_bytes()


class Certificate:
    """The context of the listening side."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.context = new_context()
        try:
            self._content = files.content()
            self.context.load_cert_chain(files.certificate, files.key)
        except (OSError, ssl.SSLError) as error:
            raise NoCertificate(
                f"The certificate {files.certificate} with the key {files.key} cannot be used: {error}."
            ) from None

    def look(self) -> bool:
        """Take over what the files hold now; return whether that is new."""
        try:
            content = self._files.content()
            if content == self._content:
                return False
            # A context of its own first: a pair that does not fit would leave the live one half changed.
            new_context().load_cert_chain(self._files.certificate, self._files.key)
            self.context.load_cert_chain(self._files.certificate, self._files.key)
        except (OSError, ssl.SSLError) as error:
            log.warning("the certificate is not renewed, the old one is kept: %s", error)
            return False
        self._content = content
        log.info("the certificate was renewed")
        return True

    async def follow(self, seconds: float = LOOK_SECONDS) -> None:
        """Look again and again until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            self.look()


def new_context() -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 and above, HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
