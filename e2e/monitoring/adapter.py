"""Answers `external.metrics.k8s.io` from a Prometheus: the least that a HorizontalPodAutoscaler needs of one.

    python3 adapter.py --prometheus URL --metrics FILE --cert FILE --key FILE --front-proxy-ca FILE
                       --names NAME,...

Runs in the cluster, in the gateway's image, which has aiohttp. `--metrics` is JSON: names of metrics and
their PromQL, in which `$namespace` and the label selector's `$deployment` are filled in. Only the API
server's aggregation layer gets in: its certificate must be of the front proxy's CA and bear one of
`--names`; who may read what was decided there (RBAC). A query without a result is an empty list, never
zero: the HPA then says that it has no metric, and keeps its replicas.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

import aiohttp
from aiohttp import web

GROUP = "external.metrics.k8s.io"
VERSION = f"{GROUP}/v1beta1"
BASE = f"/apis/{VERSION}"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Adapter:
    """The API's two calls."""

    def __init__(self, prometheus: str, metrics: dict[str, str], names: frozenset[str]) -> None:
        self._prometheus = prometheus
        self._metrics = metrics
        self._names = names

    def application(self) -> web.Application:
        """Return the server."""
        app = web.Application()
        app.router.add_get(BASE, self.resources)
        app.router.add_get(BASE + "/namespaces/{namespace}/{metric}", self.values)
        app.cleanup_ctx.append(self._session)
        return app

    async def _session(self, _: web.Application):  # type: ignore[no-untyped-def]
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as self._client:
            yield

    def _check(self, request: web.Request) -> None:
        """Refuse whoever is not the aggregation layer. TLS has checked the certificate's chain already."""
        subject: Any = ()
        if request.transport is not None:
            subject = (request.transport.get_extra_info("peercert") or {}).get("subject", ())
        if not self._names & {value for part in subject for field, value in part if field == "commonName"}:
            raise web.HTTPForbidden(text="Only the API server's aggregation layer is answered.")

    async def resources(self, request: web.Request) -> web.Response:
        """List the metrics; the API server's check of availability reads it too."""
        self._check(request)
        found = [
            {
                "name": name,
                "singularName": "",
                "namespaced": True,
                "kind": "ExternalMetricValueList",
                "verbs": ["get"],
            }
            for name in self._metrics
        ]
        return web.json_response(
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": found}
        )

    async def values(self, request: web.Request) -> web.Response:
        """Answer one metric of one deployment."""
        self._check(request)
        name, namespace = request.match_info["metric"], request.match_info["namespace"]
        deployment = dict(
            part.split("=", 1) for part in request.query.get("labelSelector", "").split(",") if "=" in part
        ).get("deployment", "")
        if name not in self._metrics or not _NAME.fullmatch(namespace) or not _NAME.fullmatch(deployment):
            return web.json_response({"kind": "Status", "status": "Failure", "code": 404}, status=404)
        query = Template(self._metrics[name]).safe_substitute(namespace=namespace, deployment=deployment)
        async with self._client.get(f"{self._prometheus}/api/v1/query", params={"query": query}) as answer:
            content = await answer.json()
        result = content["data"]["result"]
        numbers = [float(one["value"][1]) for one in result]
        items = [self._item(name, deployment, number) for number in numbers if math.isfinite(number)]
        return web.json_response(
            {"kind": "ExternalMetricValueList", "apiVersion": VERSION, "metadata": {}, "items": items}
        )

    def _item(self, name: str, deployment: str, number: float) -> dict[str, object]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        labels = {"deployment": deployment}
        return {
            "metricName": name,
            "metricLabels": labels,
            "timestamp": now,
            "value": f"{round(number * 1000)}m",
        }


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    for name in ("--cert", "--key", "--front-proxy-ca"):
        parser.add_argument(name, required=True)
    parser.add_argument("--names", required=True)
    parser.add_argument("--port", type=int, default=8443)
    args = parser.parse_args()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(args.cert, args.key)
    tls.load_verify_locations(args.front_proxy_ca)
    tls.verify_mode = ssl.CERT_REQUIRED
    metrics = json.loads(args.metrics.read_text(encoding="utf-8"))
    adapter = Adapter(args.prometheus, metrics, frozenset(args.names.split(",")))
    web.run_app(adapter.application(), port=args.port, ssl_context=tls, access_log=None)


if __name__ == "__main__":
    main()
