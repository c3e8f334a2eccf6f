"""Show what deployments cost: the catalogue's price of what their pods hold, idle time included.

A pod holds its accelerators from the moment it has a node, so that is what counts, whether it serves or
loads or idles. The total covers the pods that exist now, since they started or since --since, whichever is
later; pods that are gone are not in the cluster's books any more. Prices are estimates, in US dollars, that
--prices overrides: a YAML file of `{nvidia-l4-24gb: "0.71"}` a device and hour.
"""

from __future__ import annotations

import csv
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from slipway_api import names
from slipway_api.catalogue import CATALOGUE, CPU, Accelerator
from slipway_api.quantity import parse_quantity
from slipway_operator.kinds import PARENT, POD, Key, Object, key_of
from slipway_operator.plugin import documents, screen, usage
from slipway_operator.plugin.errors import PluginError, UsageError
from slipway_operator.plugin.kubectl import Kubectl

NAME = "cost"
SUMMARY = "show what deployments cost, idle time included"
TENANT: Final = "tenant"
GROUPS: Final = ("deployment", "namespace", "model", "class", "accelerator", TENANT)
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}
_CENT: Final = Decimal("0.01")
_COLUMNS: Final = ("PODS", "DEVICES", "$/HOUR", "POD HOURS", "$")
_TENANT_COLUMNS: Final = ("TENANT", "REQUESTS", "PROMPT TOKENS", "ANSWER TOKENS", "ESTIMATED", "$")


@dataclass(frozen=True)
class Item:
    """One pod: what it belongs to, what it holds, what that costs."""

    namespace: str
    deployment: str
    model: str
    class_name: str
    accelerator: str
    devices: Decimal
    per_hour: Decimal
    hours: Decimal


@dataclass(frozen=True)
class Line:
    """One group's sum."""

    group: str
    pods: int
    devices: str
    dollars_per_hour: str
    hours: str
    dollars: str


def arguments(parser: ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    parser.add_argument(
        "--by", choices=GROUPS, default="deployment", help="what to sum by (default deployment)"
    )
    parser.add_argument(
        "--since", type=_duration, metavar="DURATION", help="at most so far back: 30m, 24h, 7d"
    )
    parser.add_argument("--prices", metavar="FILE", help="YAML file of prices a device and hour")
    parser.add_argument(
        "--usage", metavar="FILE", help="with --by tenant: the gateway's log lines, instead of its pods' logs"
    )
    parser.add_argument("--csv", action="store_true", help="CSV instead of a table")


def run(options: Namespace, cluster: Kubectl) -> int:
    """Print one line a group."""
    parents = {key_of(o): o for o in cluster.find(PARENT, everywhere=options.all_namespaces)}
    pods = cluster.find(
        POD, selector=f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY},{names.LABEL_DEPLOYMENT}",
        everywhere=options.all_namespaces,
    )  # fmt: skip
    if not parents:
        raise PluginError("There is no LLMDeployment here; -A looks in all namespaces.")
    prices, now = _prices(options.prices), datetime.now(UTC)
    items = [item for pod in pods if (item := item_of(pod, parents, prices, now, options.since))]
    lines: Sequence[Line | usage.TenantLine]
    if options.by == TENANT:
        uses = usage.read(
            usage.lines_of(cluster, options.usage), now - options.since if options.since else None
        )
        lines = usage.by_tenant(uses, dollars_of(items))
    else:
        lines = sums(items, options.by)
    if options.csv:
        _csv(lines)
    elif options.output == "text":
        _print(lines, _TENANT_COLUMNS if options.by == TENANT else (options.by.upper(), *_COLUMNS))
    else:
        screen.machine([asdict(line) for line in lines], options.output)
    return 0


def item_of(
    pod: Object,
    parents: Mapping[Key, Object],
    prices: Mapping[str, Decimal],
    now: datetime,
    since: timedelta | None,
) -> Item | None:
    """Return what a pod costs; None where it holds nothing (no node yet, or ended)."""
    status = pod.get("status") or {}
    started = status.get("startTime")
    key = key_of(pod)
    name = str((pod["metadata"].get("labels") or {}).get(names.LABEL_DEPLOYMENT, ""))
    parent = parents.get(Key(key.namespace, name))
    if not started or status.get("phase") in ("Succeeded", "Failed") or parent is None:
        return None
    age = now - datetime.fromisoformat(started)
    spec = parent.get("spec") or {}
    accelerator = _accelerator(parent)
    devices, share = held(pod, accelerator)
    return Item(
        namespace=key.namespace,
        deployment=f"{key.namespace}/{name}",
        model=str((spec.get("model") or {}).get("source", "?")),
        class_name=_effective(parent, "className") or str(spec.get("className") or "-"),
        accelerator=accelerator,
        devices=devices,
        per_hour=devices * share * prices.get(accelerator, Decimal(0)),
        hours=Decimal(min(age, since or age).total_seconds()) / 3600,
    )


def held(pod: Object, accelerator: str) -> tuple[Decimal, Decimal]:
    """Return the devices (or cores) that a pod reserves, and the share of a device that each is."""
    kind = CATALOGUE.get(accelerator)
    asked: dict[str, Any] = {}
    for container in (pod.get("spec") or {}).get("containers") or ():
        resources = container.get("resources") or {}
        asked |= {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    if kind is None or kind.resource is None:
        return parse_quantity(str(asked.get("cpu", 0))), Decimal(1)
    for profile in kind.mig:
        if (count := asked.get(kind.mig_resource(profile))) is not None:
            return parse_quantity(str(count)), _share(kind, profile)
    return parse_quantity(str(asked.get(kind.resource, 0))), Decimal(1)


def dollars_of(items: Iterable[Item]) -> dict[str, Decimal]:
    """Return what each deployment cost."""
    found: dict[str, Decimal] = {}
    for item in items:
        found[item.deployment] = found.get(item.deployment, Decimal(0)) + item.per_hour * item.hours
    return found


def sums(items: Iterable[Item], by: str) -> list[Line]:
    """Return one line a group, the dearest first, and the total."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(getattr(item, {"class": "class_name"}.get(by, by)), []).append(item)
    ordered = sorted(groups.items(), key=lambda entry: (-sum(i.per_hour for i in entry[1]), entry[0]))
    lines = [_line(name, members) for name, members in ordered]
    return [*lines, _line("total", [item for members in groups.values() for item in members])]


def _line(name: str, items: Sequence[Item]) -> Line:
    devices = ", ".join(
        f"{_plain(sum((i.devices for i in items if i.accelerator == kind), Decimal(0)))} {kind}"
        for kind in sorted({item.accelerator for item in items})
    )
    return Line(
        group=name,
        pods=len(items),
        devices=devices or "-",
        dollars_per_hour=str(sum((i.per_hour for i in items), Decimal(0)).quantize(_CENT)),
        hours=str(sum((i.hours for i in items), Decimal(0)).quantize(_CENT)),
        dollars=str(sum((i.per_hour * i.hours for i in items), Decimal(0)).quantize(_CENT)),
    )


def _share(kind: Accelerator, profile: str) -> Decimal:
    """Return a slice's part of the device: the scarcer of compute and memory decides what else fits."""
    part = kind.mig[profile]
    return max(Decimal(part.compute_sevenths) / 7, Decimal(part.memory_eighths) / 8)


def _accelerator(parent: Object) -> str:
    asked = ((parent.get("spec") or {}).get("accelerator") or {}).get("type")
    return str(_effective(parent, "accelerator.type") or asked or CPU)


def _effective(parent: Object, field: str) -> str | None:
    status = parent.get("status") or {}
    values = (status.get("plan") or {}).get("effective") or ()
    return next((str(entry.get("value")) for entry in values if entry.get("field") == field), None)


def _prices(path: str | None) -> dict[str, Decimal]:
    prices = {name: entry.price_per_hour or Decimal(0) for name, entry in CATALOGUE.items()}
    for document in documents.read(path) if path else ():
        for name, text in document.body.items():
            try:
                prices[str(name)] = Decimal(str(text))
            except InvalidOperation as error:
                raise UsageError(
                    f"{document.place}: the price of {name} is {text!r}, which is no number."
                ) from error
    return prices


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _print(lines: Sequence[Line | usage.TenantLine], columns: Sequence[str]) -> None:
    rows = [[str(value) for value in asdict(line).values()] for line in lines]
    screen.console().print(screen.table("", columns, rows))


def _csv(lines: Sequence[Line | usage.TenantLine]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if not lines:
        return
    writer.writerow(asdict(lines[0]).keys())
    writer.writerows(asdict(line).values() for line in lines)


def _duration(text: str) -> timedelta:
    if len(text) < 2 or text[-1] not in _UNITS or not text[:-1].isdigit():
        raise ArgumentTypeError(f"{text!r} is no duration; write a number and m, h or d, such as 24h")
    return timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
