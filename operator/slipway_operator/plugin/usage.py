"""What tenants used, from the lines that the gateway writes about its requests, and their part of the cost.

A deployment's dollars are divided among its tenants by tokens, those of answers counted double. Lines come
from the gateways' logs, which the cluster keeps for a while, or from a file that a log collector kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from slipway_operator.kinds import POD, key_of
from slipway_operator.plugin.errors import PluginError, UsageError
from slipway_operator.plugin.kubectl import Kubectl

SELECTOR: Final = "app.kubernetes.io/name=slipway-gateway"
NOBODY: Final = "(nobody)"
"""Cost of deployments that nobody asked in the time that is looked at."""
ANYBODY: Final = "(no tenant)"
_ANSWER_WEIGHT: Final = 2


@dataclass(frozen=True)
class Use:
    """One request."""

    tenant: str
    deployment: str
    prompt: int
    answer: int
    estimated: bool

    @property
    def work(self) -> int:
        """What it weighs."""
        return self.prompt + _ANSWER_WEIGHT * self.answer


@dataclass(frozen=True)
class TenantLine:
    """One tenant's sum."""

    tenant: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    estimated: int
    """Requests whose tokens their engine did not count."""
    dollars: str


def lines_of(cluster: Kubectl, path: str | None) -> Iterator[str]:
    """Yield the lines of a file, or of all gateways' logs."""
    if path is not None:
        try:
            with Path(path).open(encoding="utf-8", errors="replace") as stream:
                yield from stream
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
        return
    pods = cluster.find(POD, selector=SELECTOR, everywhere=True)
    if not pods:
        raise PluginError("No gateway runs here; --usage FILE reads lines that a log collector kept.")
    for pod in pods:
        key = key_of(pod)
        yield from replace(cluster, namespace=key.namespace).log(key.name, -1)


def read(lines: Iterable[str], since: datetime | None) -> Iterator[Use]:
    """Yield the requests among log lines; whatever else stands there is passed over."""
    for line in lines:
        if '"kind":"request"' not in line:
            continue
        try:
            found = json.loads(line)
            use = _use(found)
            at = datetime.fromisoformat(found["time"])
        except (ValueError, KeyError, TypeError):
            continue
        if use is not None and (since is None or at >= since):
            yield use


def _use(found: Mapping[str, Any]) -> Use | None:
    prompt, answer = found["prompt_tokens"], found["completion_tokens"]
    if not found["deployment"] or not prompt + answer:
        return None
    return Use(
        str(found["tenant"] or ANYBODY),
        str(found["deployment"]),
        int(prompt),
        int(answer),
        bool(found["tokens_estimated"]),
    )


def by_tenant(uses: Iterable[Use], dollars: Mapping[str, Decimal]) -> list[TenantLine]:
    """Return one line a tenant, the dearest first; `dollars` is what each deployment cost."""
    by_deployment: dict[str, dict[str, list[Use]]] = {}
    tenants: dict[str, list[Use]] = {}
    for use in uses:
        by_deployment.setdefault(use.deployment, {}).setdefault(use.tenant, []).append(use)
        tenants.setdefault(use.tenant, []).append(use)
    share: dict[str, Decimal] = {}
    for deployment, cost in dollars.items():
        users = by_deployment.get(deployment, {})
        whole = sum(use.work for uses_ in users.values() for use in uses_)
        if not whole:
            share[NOBODY] = share.get(NOBODY, Decimal(0)) + cost
        for tenant, own in users.items():
            part = Decimal(sum(use.work for use in own)) / whole
            share[tenant] = share.get(tenant, Decimal(0)) + cost * part
    names = sorted({*tenants, *share}, key=lambda name: (-share.get(name, Decimal(0)), name))
    return [_line(name, tenants.get(name, []), share.get(name, Decimal(0))) for name in names]


def _line(tenant: str, uses: list[Use], dollars: Decimal) -> TenantLine:
    return TenantLine(
        tenant=tenant,
        requests=len(uses),
        prompt_tokens=sum(use.prompt for use in uses),
        completion_tokens=sum(use.answer for use in uses),
        estimated=sum(use.estimated for use in uses),
        dollars=str(dollars.quantize(Decimal("0.01"))),
    )
