"""OpenSSF Model Signing: whether one of the given keys signed exactly these files.

The signature is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists each file's
SHA-256. Verified here are signatures by elliptic-curve keys (P-256, P-384, P-521), with no service asked:
what its own Python package needs beyond that (transparency logs, certificates of identity providers) is a
large share of the engine's dependencies again. Formats: the DSSE and in-toto specifications,
model_signing/signature/v1.0.

A model is fetched without what no engine reads (pictures, pickles, texts), so files that were signed may be
absent, but only those: of what the signature lists, all that the fetch rule takes has to be there, and
nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from slipway_engine.errors import EngineError, InvalidArgument, ModelUnsigned, SignatureInvalid
from slipway_engine.sources.digests import sha256_of
from slipway_engine.sources.listing import SIGNATURE, choose

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
MAX_BYTES: Final = 32 << 20
_HASHES: Final[Mapping[int, HashAlgorithm]] = {256: SHA256(), 384: SHA384(), 521: SHA512()}


def split_keys(text: str) -> tuple[str, ...]:
    """Return the PEM texts that stand behind one another in `text`."""
    end = "-----END PUBLIC KEY-----"
    return tuple(f"{part.strip()}\n{end}\n" for part in text.split(end) if part.strip())


def verify(directory: Path, names: Collection[str], keys: Sequence[str]) -> None:
    """Check that a key signed the files `names` of a directory. Raises ModelUnsigned and SignatureInvalid."""
    (own,) = [name for name in names if name.endswith(".sig")] or [SIGNATURE]
    path = directory / own
    if own not in names or not path.is_file():
        raise ModelUnsigned(
            f"the model has no signature ({SIGNATURE}), and its class requires one; sign it with one of the "
            "class's keys (OpenSSF Model Signing), or take a model that is signed."
        )
    if path.stat().st_size > MAX_BYTES:
        raise SignatureInvalid(f"{own} is larger than {MAX_BYTES >> 20} MiB, too large for a signature.")
    signed = _resources(_statement(_payload(path, [_key(text) for text in keys], own), own), own)
    present = sorted(name for name in names if name != own)
    if own != SIGNATURE:  # of a single file, which its signer may have named in any way
        signed = {present[0]: next(iter(signed.values()))} if len(signed) == len(present) == 1 else {}
    try:
        wanted = set(choose("the signature", [name for name in signed if "/" not in name])) - {SIGNATURE}
    except EngineError as error:
        raise SignatureInvalid(f"{own} signs no model of this kind: {error}") from error
    if wanted != set(present):
        odd = sorted(wanted ^ set(present))[0]
        verb = "is signed and not there" if odd in wanted else "is there and not signed"
        raise SignatureInvalid(f"{odd} {verb}; {own} is for other files: sign the model as it is.")
    for name in present:
        if sha256_of(directory / name) != signed[name]:
            raise SignatureInvalid(f"{name} is not the file that was signed; fetch or sign the model again.")


def _key(text: str) -> EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(
            f"a signer's public key cannot be read ({error}); the class's signatures.publicKeys takes PEM."
        ) from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.key_size not in _HASHES:
        raise InvalidArgument("a signer's public key is none on P-256, P-384 or P-521; give such a key.")
    return key


def _payload(path: Path, keys: Sequence[EllipticCurvePublicKey], own: str) -> bytes:
    """Return what was signed, once a key is found that did."""
    try:
        envelope = _object(json.loads(path.read_bytes()))["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        kind = str(envelope["payloadType"])
        signatures = [base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"]]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise SignatureInvalid(f"{own} is no signature that can be read ({type(error).__name__}).") from error
    # DSSE's pre-authentication encoding: the type is signed too, and lengths leave no room for doubt.
    text = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    if kind != PAYLOAD_TYPE or not any(_holds(key, one, text) for key in keys for one in signatures[:8]):
        raise SignatureInvalid(
            f"{own} was made by none of the {len(keys)} keys that the class trusts; sign the model with one "
            "of them, or let the class's owner add the signer's."
        )
    return payload


def _holds(key: EllipticCurvePublicKey, signature: bytes, text: bytes) -> bool:
    try:
        key.verify(signature, text, ECDSA(_HASHES[key.curve.key_size]))
    except InvalidSignature:
        return False
    return True


def _statement(payload: bytes, own: str) -> dict[str, Any]:
    try:
        statement = _object(json.loads(payload))
    except (ValueError, TypeError, RecursionError) as error:
        raise SignatureInvalid(f"{own} signs something that is no statement about files.") from error
    if (statement.get("_type"), statement.get("predicateType")) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise SignatureInvalid(
            f"{own} signs a statement of another kind ({statement.get('predicateType')}); sign the model "
            f"with "
            "OpenSSF Model Signing 1.0 or newer."
        )
    return statement


def _resources(statement: Mapping[str, Any], own: str) -> dict[str, str]:
    """Return each signed file's SHA-256, in hex, where the statement agrees with itself."""
    try:
        (subject,) = statement["subject"]
        method = statement["predicate"]["serialization"]["method"]
        listed = [
            (str(r["name"]), str(r["algorithm"]), str(r["digest"]))
            for r in statement["predicate"]["resources"]
        ]
        whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, _, digest in listed)).hexdigest()
        agrees = subject["digest"]["sha256"] == whole
    except (ValueError, KeyError, TypeError) as error:
        raise SignatureInvalid(f"{own} signs a statement that cannot be read.") from error
    if not agrees or len({name for name, _, _ in listed}) != len(listed):
        raise SignatureInvalid(f"{own} signs a statement that contradicts itself.")
    if method != "files" or any(algorithm != "sha256" for _, algorithm, _ in listed):
        raise SignatureInvalid(
            f"{own} lists files in another way ({method}) than whole, by SHA-256; sign with the default "
            f"settings."
        )
    return {name: digest.lower() for name, _, digest in listed}


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value
