"""Prometheus' query API over HTTP: bounded answers, its own words where it refuses, one number where due."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from typing import Any, Final

import aiohttp

from slipway_operator.explain.findings import clean
from slipway_operator.signals.bodies import bounded
from slipway_operator.signals.connection import Connection

TIMEOUT_SECONDS: Final = 5.0
MAX_ANSWER: Final = 16 << 20
AT_ONCE: Final = 8
TENANT_HEADER: Final = "X-Scope-OrgID"


class PrometheusError(Exception):
    """A query has no answer that can be used; the message says why."""


class Client:
    """Asks one Prometheus."""

    def __init__(self, connection: Connection) -> None:
        self._at = connection
        self._session: aiohttp.ClientSession | None = None
        self._room = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        """Give the connections back."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def value(self, query: str) -> float:
        """Return the one number of a user's query."""
        samples, warnings = await self.query(query, "vector", "scalar")
        if warnings:
            raise PrometheusError(f"answered in part: {clean(warnings[0])[:150]}")
        if len(samples) != 1:
            raise PrometheusError(f"{len(samples)} results; write a query with one, for example sum(...)")
        value = number(samples[0]["value"][1])
        if value is None:
            raise PrometheusError(f"the result {str(samples[0]['value'][1])[:20]} is no number")
        return value

    async def query(self, query: str, *kinds: str) -> tuple[list[Any], list[str]]:
        """Return the result of an instant query as a list, and what Prometheus warns of."""
        async with self._room:
            answer = await self._ask(query)
        try:
            if answer["status"] != "success":
                said = f"{answer.get('errorType')}: {answer.get('error')}"
                raise PrometheusError(clean(said)[:300])
            data, warnings = answer["data"], [str(text) for text in answer.get("warnings") or ()]
            kind, result = data["resultType"], data["result"]
            if kind not in kinds:
                raise PrometheusError(f"the result is a {str(kind)[:20]}; write a query with one number")
            if kind == "scalar":
                return [{"metric": {}, "value": [float(result[0]), str(result[1])]}], warnings
            for one in result:
                dict(one["metric"])
                _ = one["values"][0] if kind == "matrix" else one["value"][1]
            return list(result), warnings
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise PrometheusError(f"an answer that is none of its API ({type(error).__name__})") from error

    async def _ask(self, query: str) -> Any:
        try:
            session = await self._connected()
            headers = dict(self._at.headers)
            if self._at.tenant:
                headers[TENANT_HEADER] = self._at.tenant
            if self._at.token_file is not None:
                token = (await asyncio.to_thread(self._at.token_file.read_text)).strip()
                headers["Authorization"] = f"Bearer {token}"
            url = f"{self._at.url.rstrip('/')}/api/v1/query"
            async with session.post(
                url, data={"query": query}, headers=headers, allow_redirects=False
            ) as answer:
                body = await bounded(answer.content, MAX_ANSWER)
                if body is None:
                    raise PrometheusError(f"an answer of more than {MAX_ANSWER >> 20} MiB")
                known = answer.status in (200, 400, 422, 503)  # these carry the API's own words
                if not known:
                    raise PrometheusError(f"it answers {answer.status}")
        except (TimeoutError, aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            raise PrometheusError(
                f"it does not answer ({type(error).__name__}: {clean(str(error))[:150]})"
            ) from error
        try:
            return json.loads(body)
        except ValueError as error:
            raise PrometheusError("an answer that is no JSON") from error

    async def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            verify = ssl.create_default_context(cafile=str(self._at.ca_file)) if self._at.ca_file else True
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                connector=aiohttp.TCPConnector(ssl=verify, limit=AT_ONCE),
                trust_env=False,
            )
        return self._session


def number(text: object) -> float | None:
    """Return a value of the API as a number; None where it is none that can be counted with."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
