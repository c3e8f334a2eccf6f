"""Everything that can be set, in one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from slipway_gateway.kube import AUTO
from slipway_gateway.limits import Limits, Timeouts
from slipway_gateway.line import HoldLimits
from slipway_gateway.otlp import Target
from slipway_gateway.tls import Files


class AuthMode(StrEnum):
    """Who may call."""

    TENANTS = "tenants"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Settings:
    """How the gateway runs."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod's front door
    port: int = 8080
    admin_port: int = 9090
    auth_mode: AuthMode = AuthMode.TENANTS
    namespaces: tuple[str, ...] = ()
    """Namespaces whose deployments are served; none: all."""
    kubeconfig: str = AUTO
    set_salt: bool = True
    tls: Files | None = None
    """Certificate and key of the API's port; none: plain HTTP."""
    holds_reader: str = ""
    """User name of whoever reads what is held, and wakes it; nobody: nothing is held at zero."""
    holds: HoldLimits = field(default_factory=HoldLimits)
    status_page: bool = False
    """Whether the admin port has a page for people."""
    stream_usage: bool = True
    """Whether engines are asked for the tokens of each stream."""
    state_dir: Path | None = None
    """Where sums for budgets are kept; None: in memory."""
    service: str = ""
    """The Service in front of the gateways, whose number divides limits; none: this is the only one."""
    request_log: Path | None = None
    """File to which a line for each request is appended; None: standard output."""
    otlp: Target | None = None
    """The collector that gets these records too; None: nobody."""
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
