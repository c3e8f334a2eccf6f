"""`slipway-gateway`: `run` serves, `key create` makes a tenant's key."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from slipway_gateway import logs, tenants
from slipway_gateway.gateway import Gateway
from slipway_gateway.kube import AUTO, NoCluster, find
from slipway_gateway.limits import Limits, Timeouts
from slipway_gateway.line import HoldLimits
from slipway_gateway.meters import ANY_MODEL, Period
from slipway_gateway.otlp import NoCollector, target_of
from slipway_gateway.record import NoLog
from slipway_gateway.settings import AuthMode, Settings
from slipway_gateway.tls import Files, NoCertificate


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="slipway-gateway", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    _add_run(commands.add_parser("run", help="serve", formatter_class=argparse.ArgumentDefaultsHelpFormatter))
    key = commands.add_parser("key", help="API keys").add_subparsers(dest="action", required=True)
    create = key.add_parser(
        "create", help="make a key; it goes to standard error, the Secret to standard output"
    )
    create.add_argument("--tenant", required=True, type=_tenant, help="name of the tenant")
    create.add_argument(
        "--namespaces", required=True, type=_namespaces, help="namespaces it sees, separated by commas, or *"
    )
    create.add_argument("--requests-per-minute", type=_positive, metavar="N", help="of each model")
    create.add_argument("--tokens-per-minute", type=_positive, metavar="N", help="of each model")
    create.add_argument("--budget-tokens", type=_positive, metavar="N", help="of all models in a period")
    create.add_argument(
        "--budget-period", choices=[str(period) for period in Period], default="month", help="default: month"
    )
    return top


def _add_run(run: argparse.ArgumentParser) -> None:
    limits, timeouts, holds = Limits(), Timeouts(), HoldLimits()
    run.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - a pod's front door
    run.add_argument("--port", type=int, default=8080, help="port of the API")
    run.add_argument("--admin-port", type=int, default=9090, help="port of /healthz, /readyz and /metrics")
    run.add_argument(
        "--auth-mode",
        type=AuthMode,
        choices=list(AuthMode),
        default=AuthMode.TENANTS,
        help="tenants: keys from Secrets labelled slipway.dev/tenant; none: whoever reaches the port",
    )
    run.add_argument(
        "--namespace",
        nargs="+",
        action="extend",
        default=[],
        metavar="NS",
        help="serve only these namespaces",
    )
    run.add_argument("--kubeconfig", default=AUTO, help="file, or auto: the pod's account, else $KUBECONFIG")
    run.add_argument(
        "--cache-salt",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="set the engine's cache_salt from the tenant",
    )
    run.add_argument(
        "--stream-usage",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask engines for the tokens of each stream; without, those that pass are counted",
    )
    run.add_argument(
        "--request-log",
        type=Path,
        metavar="FILE",
        help="append a line of JSON for each request; default: standard output",
    )
    run.add_argument(
        "--otlp-endpoint",
        default="",
        metavar="URL",
        help="send these records to an OpenTelemetry collector too, for example http://collector:4318; "
        "OTEL_EXPORTER_OTLP_ENDPOINT and _HEADERS are read as well",
    )
    run.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="volume for the sums of budgets, shared by all gateways"
    )
    run.add_argument(
        "--service", default="", help="Service of this gateway; its ready pods divide limits a minute"
    )
    run.add_argument(
        "--status-page",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="serve /status, a page for people with a chat box, on the admin port",
    )
    run.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate chain of the API's port, PEM")
    run.add_argument("--tls-key", metavar="FILE", type=Path, help="its key; both are read again on change")
    run.add_argument(
        "--holds-reader",
        default="",
        metavar="USER",
        help="who may read which deployments requests wait for, and wakes them: "
        "system:serviceaccount:NAMESPACE:NAME",
    )
    run.add_argument(
        "--max-held-bytes", type=_positive, default=holds.max_bytes, help="of requests that wait for a pod"
    )
    run.add_argument(
        "--max-hold-seconds", type=_seconds, default=holds.seconds, help="that a request waits for a pod"
    )
    run.add_argument(
        "--max-body-bytes", type=_positive, default=limits.max_body_bytes, help="largest request"
    )
    run.add_argument(
        "--max-buffered-bytes",
        type=_positive,
        default=limits.max_buffered_bytes,
        help="of all requests together",
    )
    run.add_argument("--max-requests", type=_positive, default=limits.max_requests, help="carried at a time")
    run.add_argument(
        "--max-connections", type=_positive, default=limits.max_connections, help="open at a time"
    )
    for name, value, text in (
        ("connect", timeouts.connect, "to connect to a pod"),
        ("first-byte", timeouts.first_byte, "until a pod's response begins"),
        ("idle", timeouts.idle, "between two pieces of a response"),
        ("header", timeouts.header, "for a request's head to arrive"),
        ("body", timeouts.body, "for a request's body to arrive"),
    ):
        run.add_argument(f"--{name}-timeout", type=_seconds, default=value, metavar="SECONDS", help=text)
    run.add_argument(
        "--drain-seconds", type=_seconds, default=timeouts.drain, help="that streams get after SIGTERM"
    )
    run.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="program log"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1; write a positive number")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def _tenant(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(
            "a tenant's name holds lower-case letters, digits and '-', at most 40, for example team-a"
        )
    return text


def _namespaces(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    try:
        return names if names == {"*"} else tenants.parse_namespaces(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _tls(certificate: Path | None, key: Path | None) -> Files | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise NoCertificate("--tls-cert and --tls-key go together; give both.")
    return Files(certificate, key)


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings that a command line asks for."""
    return Settings(
        host=args.host,
        port=args.port,
        admin_port=args.admin_port,
        auth_mode=args.auth_mode,
        namespaces=tuple(args.namespace),
        kubeconfig=args.kubeconfig,
        set_salt=args.cache_salt,
        tls=_tls(args.tls_cert, args.tls_key),
        holds_reader=args.holds_reader,
        status_page=args.status_page,
        stream_usage=args.stream_usage,
        request_log=args.request_log,
        otlp=target_of(args.otlp_endpoint, os.environ),
        state_dir=args.state_dir,
        service=args.service,
        holds=HoldLimits(args.max_held_bytes, args.max_hold_seconds),
        limits=Limits(
            max_body_bytes=args.max_body_bytes,
            max_buffered_bytes=args.max_buffered_bytes,
            max_requests=args.max_requests,
            max_connections=args.max_connections,
        ),
        timeouts=Timeouts(
            connect=args.connect_timeout,
            first_byte=args.first_byte_timeout,
            idle=args.idle_timeout,
            header=args.header_timeout,
            body=args.body_timeout,
            drain=args.drain_seconds,
        ),
    )


def _more(args: argparse.Namespace) -> dict[str, str]:
    """Return the keys of a tenant's Secret that limit it."""
    rates = {"requestsPerMinute": args.requests_per_minute, "tokensPerMinute": args.tokens_per_minute}
    rates = {name: value for name, value in rates.items() if value is not None}
    more = {"limits": json.dumps({ANY_MODEL: rates})} if rates else {}
    if args.budget_tokens is not None:
        more["budget"] = json.dumps({"tokens": args.budget_tokens, "period": args.budget_period})
    return more


def create_key(tenant: str, namespaces: frozenset[str], more: Mapping[str, str]) -> None:
    """Print a new key, once, and the Secret that makes it valid."""
    key = tenants.new_key()
    # The Secret alone is on standard output, so that it can be piped into kubectl.
    print(tenants.secret_yaml(tenant, namespaces, key, more), end="")
    sys.stdout.flush()
    print(f"The key of {tenant}, shown this once: {key}", file=sys.stderr)


async def _run(settings: Settings) -> None:
    await Gateway(settings, await find(settings.kubeconfig)).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = parser().parse_args(argv)
    if args.command == "key":
        create_key(args.tenant, args.namespaces, _more(args))
        return 0
    logs.configure(args.log_level)
    try:
        asyncio.run(_run(settings_of(args)))
    except (NoCluster, NoCertificate, NoLog, NoCollector) as error:
        print(f"slipway-gateway: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
