"""Volumes of `spec.podTemplate`: the kinds that Pod Security `restricted` allows, in the words of a pod."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from slipway_api.quantity import Quantity
from slipway_api.rules import Rule
from slipway_api.v1alpha1.base import ANYTHING, ResourceName, Spec

_KINDS: Final = ("configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected", "csi")
_FIELDS: Final = ("config_map", "secret", "empty_dir", "persistent_volume_claim", "projected", "csi")
RESERVED: Final = ("model", "claim", "tmp")
"""Names of volumes that Slipway itself adds."""

VolumeName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Rule(
        cel="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && !self.startsWith('slipway-')"
        f" && !(self in {list(RESERVED)})",
        holds=lambda v: (
            re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", v) is not None
            and not v.startswith("slipway-")
            and v not in RESERVED
        ),
        message="a volume's name holds lower-case letters, digits and '-', and slipway-..., "
        f"{', '.join(RESERVED)} are taken",
    ),
]


class ConfigMapVolume(Spec):
    """Files from a ConfigMap."""

    name: ResourceName
    """Name of the ConfigMap."""
    optional: bool | None = None
    """Whether the pod starts without it."""


class SecretVolume(Spec):
    """Files from a Secret."""

    secret_name: ResourceName
    """Name of the Secret."""
    optional: bool | None = None
    """Whether the pod starts without it."""


class EmptyDirVolume(Spec):
    """An empty directory that goes with the pod."""

    medium: Literal["Memory"] | None = None
    """`Memory`: it counts against the pod's memory limit. Absent: the node's disk."""
    size_limit: Quantity | None = None
    """Most that may be written."""


class ClaimVolume(Spec):
    """A claim of the same namespace."""

    claim_name: ResourceName
    """Name of the claim."""
    read_only: bool | None = None
    """Mount it read-only."""


class CSIVolume(Spec):
    """An ephemeral volume of a CSI driver."""

    driver: ResourceName
    """Name of the driver."""
    read_only: bool | None = None
    """Mount it read-only."""
    volume_attributes: (
        Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=32)] | None
    ) = None
    """What the driver is told."""


class Volume(Spec):
    """A volume; exactly one kind."""

    name: VolumeName
    """Name of the volume."""
    config_map: ConfigMapVolume | None = None
    """Files from a ConfigMap."""
    secret: SecretVolume | None = None
    """Files from a Secret."""
    empty_dir: EmptyDirVolume | None = None
    """An empty directory."""
    persistent_volume_claim: ClaimVolume | None = None
    """A claim of the same namespace."""
    projected: dict[str, Any] | None = Field(default=None, json_schema_extra=ANYTHING)
    """A projected volume, as in a pod."""
    csi: CSIVolume | None = None
    """An ephemeral CSI volume."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[" + ", ".join(f"has(self.{kind})" for kind in _KINDS) + "].filter(x, x).size() == 1",
            holds=lambda volume: sum(getattr(volume, field) is not None for field in _FIELDS) == 1,
            message=f"a volume has exactly one of {', '.join(_KINDS)}",
        ),
    )


class VolumeMount(Spec):
    """Where a volume is seen."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the volume."""
    mount_path: Annotated[
        str,
        Field(min_length=2, max_length=256),
        Rule(
            cel="self.matches('^/[^:]+$') && !self.contains('/..')"
            " && !self.startsWith('/var/lib/slipway')"
            " && !(self in ['/tmp', '/tmp/', '/dev/shm', '/dev/shm/'])",
            holds=lambda v: (
                re.fullmatch(r"/[^:]+", v) is not None
                and "/.." not in v
                and not v.startswith("/var/lib/slipway")
                and v.rstrip("/") not in ("/tmp", "/dev/shm")  # noqa: S108 - a path in the pod
            ),
            message="mountPath is absolute, without ':' and '..', and /var/lib/slipway, /tmp and /dev/shm "
            "are Slipway's own",
        ),
    ]
    """Path in the container."""
    sub_path: (
        Annotated[
            str,
            Field(min_length=1, max_length=256),
            Rule(
                cel="!self.startsWith('/') && !self.contains('..')",
                holds=lambda v: not v.startswith("/") and ".." not in v,
                message="subPath is relative and has no '..'",
            ),
        ]
        | None
    ) = None
    """Path inside the volume."""
    read_only: bool | None = None
    """Mount it read-only."""
