"""Health: alive while watches deliver, work ends and the event loop turns; ready once the store is filled.

The pages are served from the operator's own event loop, so a loop that hangs answers nothing, and the
kubelet's time-out says the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

Check = Callable[[], Sequence[str]]
"""Returns a sentence for everything that is wrong."""


class Health:
    """The checks behind /healthz and /readyz."""

    def __init__(self) -> None:
        self._alive: list[Check] = []
        self._ready: list[Check] = []

    def require(self, check: Check, *, alive: bool = True) -> None:
        """Add a check to /healthz, or with `alive=False` to /readyz."""
        (self._alive if alive else self._ready).append(check)

    def ailments(self) -> list[str]:
        """Return what a restart would cure."""
        return [text for check in self._alive for text in check()]

    def obstacles(self) -> list[str]:
        """Return what keeps the operator from being ready."""
        return [text for check in self._ready for text in check()]


@asynccontextmanager
async def serve_health(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Serve /healthz and /readyz; yield the port."""

    async def healthz(_: web.Request) -> web.Response:
        return _answer(health.ailments())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(health.ailments() + health.obstacles())

    async with _serve({"/healthz": healthz, "/readyz": readyz}, host, port) as bound:
        yield bound


@asynccontextmanager
async def serve_metrics(render: Callable[[], bytes], host: str, port: int) -> AsyncIterator[int]:
    """Serve /metrics; yield the port. Rendered beside the loop: 5,000 objects take most of a second."""

    async def metrics(_: web.Request) -> web.Response:
        body = await asyncio.to_thread(render)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async with _serve({"/metrics": metrics}, host, port) as bound:
        yield bound


def _answer(problems: Sequence[str]) -> web.Response:
    if problems:
        return web.Response(status=503, text="\n".join(problems) + "\n")
    return web.Response(text="ok\n")


@asynccontextmanager
async def _serve(
    pages: dict[str, Callable[[web.Request], object]], host: str, port: int
) -> AsyncIterator[int]:
    application = web.Application()
    for path, page in pages.items():
        application.router.add_get(path, page)  # type: ignore[arg-type]
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
