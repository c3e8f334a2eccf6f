"""What a container that inspects or fetches is told, and who it is: the only ones that hold a credential.

A Secret's keys are variables under the names that the stores' own tools use, a service account's token is a
projected one for one audience, and public keys of signers, endpoints and authorities are no secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from slipway_api.v1alpha1 import LLMDeploymentSpec, PodTemplateSpec
from slipway_operator.kinds import Object
from slipway_operator.plan.effective import Effective

CA_DIR: Final = "/etc/slipway/ca"
KEY_DIR: Final = "/etc/slipway/credentials"
IDENTITY_DIR: Final = "/etc/slipway/identity"
KEY_FILE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
AUDIENCE: Final = "sts.amazonaws.com"
"""For whom the token of an s3:// source is made out: Amazon's, and the default of compatible stores."""
TOKEN_SECONDS: Final = 3600
_SECRET_KEYS: Final[Mapping[str, Mapping[str, tuple[str, bool]]]] = {
    "s3": {
        "AWS_ACCESS_KEY_ID": ("AWS_ACCESS_KEY_ID", False),
        "AWS_SECRET_ACCESS_KEY": ("AWS_SECRET_ACCESS_KEY", False),
        "AWS_SESSION_TOKEN": ("AWS_SESSION_TOKEN", True),
    },
    "gs": {},
}
"""By scheme: the variable, the Secret's key, and whether it may be absent."""
_TOKEN: Final = {"HF_TOKEN": ("token", False)}


def fetch_environment(spec: LLMDeploymentSpec, values: Effective) -> list[Object]:
    """Return the variables of a container that fetches or inspects."""
    told: dict[str, str] = {}
    if values.ca_bundle is not None:
        told["SLIPWAY_CA_FILE"] = f"{CA_DIR}/{values.ca_bundle.key or 'ca.crt'}"
    if values.signers is not None:
        told["SLIPWAY_SIGNATURE_KEYS"] = "".join(f"{key.strip()}\n" for key in values.signers)
    if _key_file(spec, values):
        told[KEY_FILE] = f"{KEY_DIR}/{KEY_FILE}"
    if _account(spec) is not None:
        told["SLIPWAY_WORKLOAD_IDENTITY"] = "true"
        if values.source.scheme == "s3":
            told["AWS_WEB_IDENTITY_TOKEN_FILE"] = f"{IDENTITY_DIR}/token"
    env = environment(spec.pod_template or PodTemplateSpec(), {**values.fetch_environment, **told})
    secret = _secret(spec)
    if secret is None:
        return env
    keys = _SECRET_KEYS.get(values.source.scheme, _TOKEN)
    env = [entry for entry in env if entry["name"] not in keys]
    for name, (key, optional) in keys.items():
        reference = {"name": secret, "key": key, **({"optional": True} if optional else {})}
        env.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    return env


def environment(overlay: PodTemplateSpec, extra: Mapping[str, str]) -> list[Object]:
    """Return a container's variables: what the object writes wins, HOME is the one writable directory."""
    given = [_dump(entry) for entry in overlay.env or ()]
    own = {"HOME": "/tmp", **extra}  # noqa: S108 - inside the container
    written = {entry["name"] for entry in given}
    return [{"name": name, "value": value} for name, value in own.items() if name not in written] + given


def ca_volumes(values: Effective) -> list[Object]:
    """Return the volume of the class's certificates."""
    if values.ca_bundle is None:
        return []
    return [{"name": "slipway-ca", "configMap": {"name": values.ca_bundle.config_map_name}}]


def ca_mounts(values: Effective) -> list[Object]:
    """Return where a container that fetches sees them."""
    if values.ca_bundle is None:
        return []
    return [{"name": "slipway-ca", "mountPath": CA_DIR, "readOnly": True}]


def key_volumes(spec: LLMDeploymentSpec, values: Effective) -> list[Object]:
    """Return the volume of a key that is a file: of the Secret that one key alone."""
    if not _key_file(spec, values):
        return []
    items = [{"key": KEY_FILE, "path": KEY_FILE}]
    return [{"name": "slipway-key", "secret": {"secretName": _secret(spec), "items": items}}]


def key_mounts(spec: LLMDeploymentSpec, values: Effective) -> list[Object]:
    """Return where a container that fetches sees it."""
    if not _key_file(spec, values):
        return []
    return [{"name": "slipway-key", "mountPath": KEY_DIR, "readOnly": True}]


def identity_volumes(spec: LLMDeploymentSpec, values: Effective) -> list[Object]:
    """Return the volume of a service account's token; gs:// asks the node's metadata server instead."""
    if _account(spec) is None or values.source.scheme != "s3":
        return []
    token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
    return [{"name": "slipway-identity", "projected": {"sources": [{"serviceAccountToken": token}]}}]


def identity_mounts(spec: LLMDeploymentSpec, values: Effective) -> list[Object]:
    """Return where a Job's container sees it."""
    if not identity_volumes(spec, values):
        return []
    return [{"name": "slipway-identity", "mountPath": IDENTITY_DIR, "readOnly": True}]


def _key_file(spec: LLMDeploymentSpec, values: Effective) -> bool:
    return values.source.scheme == "gs" and _secret(spec) is not None


def _secret(spec: LLMDeploymentSpec) -> str | None:
    return spec.model.credentials.secret_name if spec.model.credentials else None


def _account(spec: LLMDeploymentSpec) -> str | None:
    return spec.model.credentials.service_account_name if spec.model.credentials else None


def _dump(model: Any) -> Object:
    dumped: Object = model.model_dump(by_alias=True, exclude_none=True)
    return dumped
