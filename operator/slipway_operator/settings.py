"""How an operator is installed: typed settings from flags and environment."""

from __future__ import annotations

import argparse
import json
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway_api.catalogue import CATALOGUE, Catalogue, CatalogueError, extend
from slipway_operator.kinds import WATCHED, WATCHED_WITHOUT_CLASSES, Key, Kind
from slipway_operator.plan import Installation
from slipway_operator.signals.connection import Connection, connection_of

DEFAULT_GATEWAY_TOKEN = Path("/var/run/secrets/slipway-gateway/token")
DEFAULT_ENGINE_IMAGE = "localhost/slipway/engine:latest"


@dataclass(frozen=True)
class Settings:
    """The operator's settings.

    Attributes:
        namespaces: the namespaces it serves; empty is the whole cluster.
        classes: whether it reads LLMClasses, which belong to the cluster.
        engine_image: the engine image of objects that name none.
        host: the address on which health and metrics are served.
        health_port: port of /healthz and /readyz.
        metrics_port: port of /metrics.
        lease_namespace: where the Lease of the leader lives.
        identity: who this operator is among its replicas.
        workers: how many objects are reconciled at the same time.
        relist_seconds: how often the local store is compared with complete lists.
        watch_grace_seconds: how long a watch may owe a version that is known to exist.
        log_level: the least important level that is logged.
        fetch_environment: variables of the containers that fetch models.
        admitted: NetworkPolicyPeers admitted to every engine; None makes no NetworkPolicies.
        catalogue: the accelerators that there are, the cluster's own among them.
        gateway: the Service of the gateways' admin ports; None where no gateway holds requests.
        gateway_token: the file with the service-account token that gateways accept.
        prometheus: whom to ask for the pods' metrics; None asks the pods themselves.
    """

    namespaces: tuple[str, ...]
    classes: bool
    engine_image: str
    host: str
    health_port: int
    metrics_port: int
    lease_namespace: str
    identity: str
    workers: int
    relist_seconds: float
    watch_grace_seconds: float
    log_level: str
    fetch_environment: Mapping[str, str]
    admitted: tuple[Mapping[str, Any], ...] | None
    catalogue: Catalogue
    gateway: Key | None = None
    gateway_token: Path = DEFAULT_GATEWAY_TOKEN
    prometheus: Connection | None = None

    @property
    def scopes(self) -> tuple[str | None, ...]:
        """Return the namespaces to list and watch; None is all of them."""
        return self.namespaces or (None,)

    @property
    def watched(self) -> tuple[Kind, ...]:
        """Return the kinds to list and watch."""
        return WATCHED if self.classes else WATCHED_WITHOUT_CLASSES

    @property
    def installation(self) -> Installation:
        """Return what of this shapes plans."""
        return Installation(
            self.engine_image,
            self.fetch_environment,
            self.admitted,
            self.catalogue,
            self.classes,
            everywhere=not self.namespaces,
        )


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Return what a command line and an environment ask for. Exits with usage where they are wrong."""
    parsed = _parser(environment).parse_args(arguments)
    return Settings(
        namespaces=tuple(sorted(set(parsed.namespace))),
        classes=not parsed.no_classes,
        engine_image=parsed.engine_image,
        host=parsed.host,
        health_port=parsed.health_port,
        metrics_port=parsed.metrics_port,
        lease_namespace=parsed.lease_namespace,
        identity=environment.get("POD_NAME") or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        workers=parsed.workers,
        relist_seconds=parsed.relist_seconds,
        watch_grace_seconds=parsed.watch_grace_seconds,
        log_level=parsed.log_level.upper(),
        fetch_environment=parsed.fetch_environment,
        admitted=None if parsed.no_network_policies else parsed.admit,
        catalogue=parsed.catalogue,
        gateway=parsed.gateway_service,
        gateway_token=parsed.gateway_token_file,
        prometheus=parsed.prometheus,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slipway-operator", description="Makes the cluster match its LLMDeployments."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="serve until told to stop",
        description="Serves until SIGTERM. Connects as the pod's service account, else as KUBECONFIG says.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    run.add_argument(
        "--namespace", action="append", default=[], metavar="NS", help="serve this namespace only; repeatable"
    )
    run.add_argument(
        "--engine-image",
        default=environment.get("SLIPWAY_ENGINE_IMAGE", DEFAULT_ENGINE_IMAGE),
        help="engine image of objects that name none (SLIPWAY_ENGINE_IMAGE)",
    )
    run.add_argument(
        "--fetch-environment",
        type=_variables,
        default=environment.get("SLIPWAY_FETCH_ENVIRONMENT", "{}"),
        metavar="JSON",
        help="variables of the containers that fetch models: HF_ENDPOINT, HTTPS_PROXY, NO_PROXY, "
        "SLIPWAY_CA_BUNDLE (SLIPWAY_FETCH_ENVIRONMENT)",
    )
    run.add_argument(
        "--admit",
        type=_peers,
        default=environment.get("SLIPWAY_ADMIT", "[]"),
        metavar="JSON",
        help="NetworkPolicyPeers that may reach every engine, beside its own group (SLIPWAY_ADMIT)",
    )
    run.add_argument(
        "--catalogue",
        type=_catalogue,
        default=environment.get("SLIPWAY_CATALOGUE") or "{}",
        metavar="JSON",
        help="the cluster's own accelerators, and other prices of the known ones (SLIPWAY_CATALOGUE)",
    )
    run.add_argument(
        "--no-network-policies", action="store_true", help="make no NetworkPolicies for the engines"
    )
    run.add_argument(
        "--no-classes",
        action="store_true",
        help="read no LLMClasses, where the operator has no right beyond its namespaces",
    )
    run.add_argument(
        "--gateway-service",
        type=_service,
        metavar="NS/NAME",
        help="Service of the gateways' admin ports, which are asked for the requests they hold",
    )
    run.add_argument(
        "--gateway-token-file",
        type=Path,
        default=DEFAULT_GATEWAY_TOKEN,
        metavar="FILE",
        help="service-account token of audience slipway-gateway",
    )
    run.add_argument(
        "--prometheus",
        type=_prometheus,
        default=environment.get("SLIPWAY_PROMETHEUS") or "{}",
        metavar="JSON",
        help="url, caFile, tokenFile, headers, tenant, freshSeconds, namespaceLabel, podLabel, queries of a "
        "Prometheus that collects the pods' metrics; without, the pods are asked (SLIPWAY_PROMETHEUS)",
    )
    run.add_argument("--host", default="0.0.0.0", help="address of the two ports below")  # noqa: S104
    run.add_argument("--health-port", type=_port, default=8080, help="port of /healthz and /readyz")
    run.add_argument("--metrics-port", type=_port, default=9090, help="port of /metrics")
    run.add_argument(
        "--lease-namespace",
        default=environment.get("POD_NAMESPACE", "default"),
        help="namespace of the leader's Lease (POD_NAMESPACE)",
    )
    run.add_argument("--workers", type=_positive, default=16, help="objects reconciled at the same time")
    run.add_argument(
        "--relist-seconds", type=_positive, default=300, help="interval of the comparison with complete lists"
    )
    run.add_argument(
        "--watch-grace-seconds", type=_positive, default=60, help="longest silence about a known change"
    )
    run.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="least level logged",
    )
    return parser


def _variables(text: str) -> dict[str, str]:
    value = _json(text)
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise argparse.ArgumentTypeError('write an object of strings, like {"HF_ENDPOINT": "https://mirror"}')
    return value


def _peers(text: str) -> tuple[Mapping[str, Any], ...]:
    value = _json(text)
    if not isinstance(value, list) or not all(isinstance(each, dict) and each for each in value):
        raise argparse.ArgumentTypeError('write a list of peers, like [{"namespaceSelector": {}}]')
    return tuple(value)


def _service(text: str) -> Key:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise argparse.ArgumentTypeError(f"{text!r} is no Service; write NAMESPACE/NAME")
    return Key(namespace, name)


def _prometheus(text: str) -> Connection | None:
    value = _json(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('write an object, like {"url": "http://prometheus.monitoring:9090"}')
    try:
        return connection_of(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it is not JSON: {error}") from error


def _catalogue(text: str) -> Catalogue:
    entries = _json(text)
    if not isinstance(entries, dict):
        raise argparse.ArgumentTypeError('write an object, like {"nvidia-l4-24gb": {"pricePerHour": 0.5}}')
    try:
        return extend(CATALOGUE, entries)
    except CatalogueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port; write a number from 1 to 65535, or 0 for any")
    return value
