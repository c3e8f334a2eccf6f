"""How a Prometheus is reached and asked, as the installation says it; no object does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FIELDS: Final = {
    "running": "running",
    "waiting": "waiting",
    "kvCache": "kv_cache",
    "tokenSeconds": "tpot",
    "finishing": "finishing",
}
"""What a query of the installation may replace, by its name there."""
FIRST_TOKEN: Final = "firstTokenSeconds"  # noqa: S105 - of a model, not of a login


_KNOWN: Final = frozenset(
    {
        "url",
        "caFile",
        "tokenFile",
        "headers",
        "tenant",
        "freshSeconds",
        "namespaceLabel",
        "podLabel",
        "queries",
    }
)


@dataclass(frozen=True)
class Connection:
    """Where a Prometheus is and how it is asked.

    `queries` replace what is read by default: PromQL with a result for each pod, labelled with its name, in
    which `$namespace` and `$pods` (a regular expression) are filled in. `fresh_seconds` is how old a sample
    may be: more than twice the interval at which pods are collected.
    """

    url: str
    ca_file: Path | None = None
    token_file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tenant: str = ""
    fresh_seconds: float = 90.0
    namespace_label: str = "namespace"
    pod_label: str = "pod"
    queries: Mapping[str, str] = field(default_factory=dict)


def connection_of(given: Mapping[str, Any]) -> Connection | None:
    """Return a connection from its JSON; None where no URL is given. Raises ValueError."""
    if not given.get("url"):
        return None
    wrong = sorted(given.keys() - _KNOWN)
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no setting of a Prometheus; known are {', '.join(sorted(_KNOWN))}")
    url, queries = str(given["url"]), dict(given.get("queries") or {})
    if not re.fullmatch(r"https?://[^\s@]+", url):
        raise ValueError(
            f"{url!r} is no URL of a Prometheus; write one like http://prometheus.monitoring:9090"
        )
    strange = sorted(queries.keys() - {*FIELDS, FIRST_TOKEN})
    if strange:
        raise ValueError(f"query {strange[0]!r} is unknown; known are {', '.join((*FIELDS, FIRST_TOKEN))}")
    labels = [str(given.get(f"{name}Label") or name) for name in ("namespace", "pod")]
    if not all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label) for label in labels):
        raise ValueError(f"{labels} are no names of labels")
    fresh = float(given.get("freshSeconds") or 90.0)
    if not 10 <= fresh <= 600:
        raise ValueError(f"freshSeconds {fresh:g} is not between 10 and 600")
    return Connection(
        url=url,
        ca_file=Path(given["caFile"]) if given.get("caFile") else None,
        token_file=Path(given["tokenFile"]) if given.get("tokenFile") else None,
        headers={str(name): str(value) for name, value in (given.get("headers") or {}).items()},
        tenant=str(given.get("tenant") or ""),
        fresh_seconds=fresh,
        namespace_label=labels[0],
        pod_label=labels[1],
        queries={str(name): str(query) for name, query in queries.items()},
    )
