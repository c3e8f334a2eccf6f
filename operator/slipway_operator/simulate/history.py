"""The recorded traffic of one deployment, asked of a Prometheus: by its URL, or by what else GETs a path."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from slipway_operator.kinds import Key
from slipway_operator.simulate.recorded import Record, queries, record, series_of, step_of
from slipway_operator.simulate.trace import TraceError

TIMEOUT_SECONDS: Final = 60.0
MAX_ANSWER: Final = 64 << 20

Get = Callable[[str], str]
"""Returns what a Prometheus answers to a GET of a path with its query. Raises TraceError."""


def gather(get: Get, names: Mapping[str, str], key: Key, begin: float, end: float, seed: int) -> Record:
    """Return the requests of a deployment between two times, in seconds since 1970. Raises TraceError."""
    step = step_of(end - begin)
    begin = begin // step * step
    found = {}
    for what, query in queries(names, key.namespace, key.name, step).items():
        asked = {"query": query, "start": f"{begin:.0f}", "end": f"{end:.0f}", "step": str(step)}
        text = get(f"/api/v1/query_range?{urllib.parse.urlencode(asked)}")
        try:
            answer: Any = json.loads(text)
        except ValueError as error:
            raise TraceError("What answers is no Prometheus: its answer is no JSON.") from error
        found[what] = series_of(answer)
    return record(found, begin, end, step, seed)


def service_path(url: str) -> str | None:
    """Return the API server's proxy path for the URL of a Service; None where it is none of the cluster.

    The host is NAME.NAMESPACE, with or without what follows it in cluster DNS.
    """
    parts = urllib.parse.urlsplit(url)
    name, dot, rest = (parts.hostname or "").partition(".")
    namespace, _, end = rest.partition(".")
    if not (name and dot and namespace) or not (end == "" or end == "svc" or end.startswith("svc.")):
        return None
    scheme = "https:" if parts.scheme == "https" else ""
    port = parts.port or (443 if scheme else 80)
    return f"/api/v1/namespaces/{namespace}/services/{scheme}{name}:{port}/proxy{parts.path.rstrip('/')}"


def by_url(url: str, token_file: Path | None = None) -> Get:
    """Return how to ask the Prometheus at a URL. Raises TraceError where it is none."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise TraceError(f"{url!r} is no URL of a Prometheus; write one like http://127.0.0.1:9090")

    def get(path: str) -> str:
        try:
            headers = {"Authorization": f"Bearer {token_file.read_text().strip()}"} if token_file else {}
            asked = urllib.request.Request(url.rstrip("/") + path, headers=headers)  # noqa: S310 - see above
            with urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                body: bytes = answer.read(MAX_ANSWER + 1)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace")
            raise TraceError(f"Prometheus answers {error.code}: {said[:300]}") from error
        except (OSError, ValueError) as error:
            raise TraceError(f"{url} does not answer: {error}.") from error
        if len(body) > MAX_ANSWER:
            raise TraceError(f"An answer of more than {MAX_ANSWER >> 20} MiB; give a shorter --since.")
        return body.decode("utf-8", "replace")

    return get
