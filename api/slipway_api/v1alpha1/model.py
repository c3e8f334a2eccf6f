"""`spec.model`: which model is served, under which names, and how its files come to the pods."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from slipway_api.quantity import Quantity
from slipway_api.rules import Rule
from slipway_api.sources import FETCHED_SCHEMES, SOURCE_RULE
from slipway_api.v1alpha1.base import (
    SET,
    ResourceName,
    Revision,
    SecretName,
    ServiceAccountName,
    Spec,
    map_of,
)

Source = Annotated[str, Field(min_length=1, max_length=1024), SOURCE_RULE]
ServedName = Annotated[
    str,
    Field(min_length=1, max_length=128),
    Rule(
        cel="self.matches('^[A-Za-z0-9][A-Za-z0-9._/:-]*$')",
        holds=lambda v: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:-]*", v) is not None,
        message="a served name starts with a letter or a digit and holds letters, digits and . _ / : -",
    ),
]
_REMOTE_CEL = " || ".join(f"self.source.startsWith('{scheme}://')" for scheme in FETCHED_SCHEMES)
_REMOTE = tuple(f"{scheme}://" for scheme in FETCHED_SCHEMES)


class Credentials(Spec):
    """Who the fetch is; exactly one of the two."""

    secret_name: SecretName | None = None
    """Secret of the same namespace. Its key `token` holds a token (`hf`, `https`) or USER:PASSWORD (`oci`);
    `s3` reads the keys `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, `gs` a service
    account's key file under `GOOGLE_APPLICATION_CREDENTIALS`."""
    service_account_name: ServiceAccountName | None = None
    """Service account of the inspect and fetch Jobs, for workload identity with `s3` and `gs`. Engine pods
    never get its token."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.secretName) != has(self.serviceAccountName)",
            holds=lambda c: (c.secret_name is None) != (c.service_account_name is None),
            message="write exactly one of credentials.secretName and credentials.serviceAccountName",
        ),
    )


class CacheSpec(Spec):
    """Where the model's files are kept."""

    mode: Literal["Shared", "PerReplica", "Image"] | None = None
    """`Shared`: one volume for all replicas, filled once. `PerReplica`: each pod fetches for itself. `Image`:
    the kubelet mounts an `oci://` artifact. Absent: what the class says, else `PerReplica`."""
    size: Quantity | None = None
    """Size of the volume. Absent: the size of the files and a tenth."""
    storage_class_name: ResourceName | None = None
    """Storage class of the volume. Absent: the cluster's default."""
    access_mode: Literal["ReadWriteMany", "ReadOnlyMany", "ReadWriteOnce"] | None = None
    """How the volume may be mounted. Absent: `ReadWriteMany`. `ReadWriteOnce` holds all replicas on one
    node."""
    retain_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long a volume stays after the last object that refers to it. Absent: 86400."""


class Adapter(Spec):
    """A LoRA adapter, served under a name of its own."""

    name: ServedName
    """The model name that selects it."""
    source: Source
    """Where its files come from."""
    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` repository."""


class ModelSpec(Spec):
    """Which model is served, and under which names."""

    source: Source
    """Where the model comes from: `hf://ORG/NAME` (a Hugging Face repository), `https://HOST/PATH.gguf`,
    `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `oci://HOST/REPOSITORY:TAG`, `pvc://CLAIM/PATH` (a directory or
    GGUF file on a claim of the same namespace) or `file:///PATH` (inside the engine's image)."""
    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` repository; resolved once to a commit. Absent: `main`."""
    served_names: Annotated[list[ServedName], Field(min_length=1, max_length=16)] | None = Field(
        default=None, json_schema_extra=SET
    )
    """Model names that clients may ask for. Absent: the name of the object."""
    credentials: Credentials | None = None
    """Credentials for a gated or private model."""
    cache: CacheSpec | None = None
    """Where the files are kept."""
    adapters: Annotated[list[Adapter], Field(max_length=64)] | None = Field(
        default=None, json_schema_extra=map_of("name")
    )
    """LoRA adapters served beside the model."""
    trust_remote_code: bool | None = None
    """Runs Python code that comes with the model. Never done by the `slipway` runtime; a class has to allow
    it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.revision) || self.source.startsWith('hf://')",
            holds=lambda model: model.revision is None or model.source.startswith("hf://"),
            message="model.revision only means something for an hf:// source; remove it",
        ),
        Rule(
            cel=f"!has(self.credentials) || {_REMOTE_CEL}",
            holds=lambda model: model.credentials is None or model.source.startswith(_REMOTE),
            message="model.credentials are only used by hf:// and https:// sources, s3://, gs:// and oci://; "
            "remove them",
        ),
        Rule(
            cel="!has(self.cache) || !has(self.cache.mode) || self.cache.mode != 'Image'"
            " || self.source.startsWith('oci://')",
            holds=lambda model: (
                model.cache is None or model.cache.mode != "Image" or model.source.startswith("oci://")
            ),
            message="model.cache.mode Image mounts an oci:// source; write Shared or PerReplica",
        ),
    )
