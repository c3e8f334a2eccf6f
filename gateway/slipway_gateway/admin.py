"""The other port, for the cluster only: liveness, readiness, metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


def application(
    registry: CollectorRegistry, alive: Callable[[], str | None], ready: Callable[[], str | None]
) -> web.Application:
    """Return the admin application; `alive` and `ready` return what is wrong, or None."""

    def probe(what: Callable[[], str | None]) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            trouble = what()
            return web.Response(text=f"{trouble or 'ok'}\n", status=503 if trouble else 200)

        return answer

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", probe(alive))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", metrics)
    return app
