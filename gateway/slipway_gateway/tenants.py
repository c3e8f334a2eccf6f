"""Who is calling: API keys, kept as SHA-256 only, and the namespaces each tenant sees. Pure.

A tenant is a Secret in the gateway's namespace with the label `slipway.dev/tenant: NAME` and the keys
`namespaces` (names separated by commas, or `*`) and `keys` (one `sha256:HEX` a line; two lines while a key
is being rotated), and, where it is limited, `limits` and `budget` (JSON). Keys carry 256 random bits, so a
plain hash is as good as a slow one. The first characters of a digest find the candidate, the whole digest
is compared in constant time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from slipway_gateway.errors import unauthorized
from slipway_gateway.meters import UNLIMITED, Allowance, read_allowance
from slipway_gateway.objects import LABEL_TENANT, SecretData
from slipway_gateway.routing import Sight

KEY_PREFIX: Final = "sk-slipway-"
_ID_LENGTH: Final = 8
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MAX_KEY_LENGTH: Final = 512

HOW_TO_MAKE = (
    "slipway-gateway key create --tenant NAME --namespaces NAMESPACE | kubectl apply -n {namespace} -f -"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, as far as routing, limits and the log are concerned."""

    tenant: str
    key_id: str
    sight: Sight
    salt: str | None
    """Separates this tenant's prefix cache from all others; None where there are no tenants."""
    allowance: Allowance = UNLIMITED


@dataclass(frozen=True, slots=True)
class Credential:
    """A key's digest and whom it stands for."""

    digest: str
    caller: Caller

    def __repr__(self) -> str:
        return f"Credential({self.caller.tenant})"


class Keyring:
    """All keys, found by the first characters of their digest."""

    def __init__(self, credentials: Iterable[Credential] = ()) -> None:
        self._by_id: dict[str, list[Credential]] = defaultdict(list)
        for credential in credentials:
            self._by_id[credential.digest[:_ID_LENGTH]].append(credential)

    def __len__(self) -> int:
        return sum(map(len, self._by_id.values()))

    def find(self, key: str) -> Caller | None:
        """Return whom `key` stands for."""
        digest = digest_of(key)
        found = None
        for credential in self._by_id.get(digest[:_ID_LENGTH], ()):
            if hmac.compare_digest(credential.digest, digest):
                found = found or credential.caller
        return found


def digest_of(key: str) -> str:
    """Return the digest that is stored of a key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def authenticate(keyring: Keyring, authorization: str, namespace: str) -> Caller:
    """Return the caller of an Authorization header, or refuse with a sentence that says what to do."""
    if not len(keyring):
        command = HOW_TO_MAKE.format(namespace=namespace)
        raise unauthorized(f"This gateway has no tenant yet, so no key is valid; make one with: {command}")
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise unauthorized("There is no API key in the request; send it as 'Authorization: Bearer KEY'.")
    caller = keyring.find(key) if len(key) <= _MAX_KEY_LENGTH else None
    if caller is None:
        raise unauthorized(
            "The API key is not valid here; check it, or ask the gateway's administrator for one."
        )
    return caller


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a tenant's Secret, or a line of it, is not used."""

    secret: str
    sentence: str


def read_tenants(secrets_: Iterable[SecretData]) -> tuple[Keyring, list[Complaint]]:
    """Return the keys of these Secrets, and what is wrong with them."""
    ordered = sorted(secrets_, key=lambda s: (s.uid, s.key))
    salts: dict[str, str] = {}
    credentials: list[Credential] = []
    complaints: list[Complaint] = []
    for secret in ordered:
        salt = salts.setdefault(secret.tenant, _salt(secret))
        try:
            credentials += _credentials(secret, salt)
        except ValueError as error:
            complaints.append(Complaint(str(secret.key), str(error)))
    return Keyring(credentials), complaints


def _credentials(secret: SecretData, salt: str) -> list[Credential]:
    sight = _sight(_decode(secret, "namespaces"))
    digests = [_digest(line) for line in _decode(secret, "keys").split()]
    allowance = read_allowance(_optional(secret, "limits"), _optional(secret, "budget"))
    return [Credential(d, Caller(secret.tenant, d[:_ID_LENGTH], sight, salt, allowance)) for d in digests]


def _optional(secret: SecretData, name: str) -> str | None:
    return _decode(secret, name) if name in secret.data else None


def _decode(secret: SecretData, name: str) -> str:
    if name not in secret.data:
        raise ValueError(f"its key {name!r} is missing; write it as `slipway-gateway key create` prints it")
    try:
        return base64.b64decode(secret.data[name], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError(f"its key {name!r} is not text; write it under stringData") from None


def _sight(text: str) -> Sight:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    return Sight(None) if names == {"*"} else Sight(parse_namespaces(names))


def parse_namespaces(names: Iterable[str]) -> frozenset[str]:
    """Return the names, or raise ValueError with what to write instead."""
    checked = frozenset(names)
    if not checked or not all(_NAMESPACE.fullmatch(name) for name in checked):
        raise ValueError(
            "'namespaces' must be names separated by commas, or * alone, for example team-a,team-b"
        )
    return checked


def _digest(line: str) -> str:
    match = _DIGEST.fullmatch(line)
    if match is None:
        # The line itself may be a key that somebody pasted here: it is not repeated.
        raise ValueError(
            "a line of its key 'keys' is not sha256: and 64 hex digits; store the hash, not the key"
        )
    return match[1]


def _salt(secret: SecretData) -> str:
    # The Secret's UID cannot be guessed by another tenant and is the same in every gateway pod.
    return hashlib.sha256(f"slipway-cache-salt\0{secret.tenant}\0{secret.uid}".encode()).hexdigest()[:32]


def new_key() -> str:
    """Return a new API key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def secret_yaml(
    tenant: str, namespaces: Iterable[str], key: str, more: Mapping[str, str] | None = None
) -> str:
    """Return the Secret that makes `key` valid, as YAML; the key itself is not in it."""
    added = "".join(f"  {name}: '{value}'\n" for name, value in (more or {}).items())
    return f"""apiVersion: v1
kind: Secret
metadata:
  name: slipway-tenant-{tenant}
  labels:
    {LABEL_TENANT}: "{tenant}"
type: Opaque
stringData:
  namespaces: "{",".join(sorted(namespaces))}"
  keys: |
    sha256:{digest_of(key)}
{added}"""
