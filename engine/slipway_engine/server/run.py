"""Bring a server up, keep it up, and take it down: signals, exit status, last words."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn

from slipway_engine.config import EngineConfig
from slipway_engine.errors import EngineError, InvalidArgument
from slipway_engine.process.client import CoreCommand, CoreFailed
from slipway_engine.server.app import create_app
from slipway_engine.server.service import Service
from slipway_engine.server.settings import ServerSettings
from slipway_engine.termination import write_termination_log

log = logging.getLogger(__name__)

_LAST_ANSWERS_SECONDS = 2.0  # for a probe or two to learn why
_BACKLOG = 2048
_INTERRUPTED = 130  # what a shell shows for a program that was interrupted


def serve(config: EngineConfig, settings: ServerSettings, command: CoreCommand | None = None) -> int:
    """Serve until stopped; return the process's exit status. Raises EngineError where the port is taken."""
    listener = _listen(settings.host, settings.port)
    return asyncio.run(_serve(listener, Service(config, settings, command)))


async def _serve(listener: socket.socket, service: Service) -> int:
    stop = asyncio.Event()
    server = _Server(create_app(service), stop)
    host, port = listener.getsockname()[:2]
    log.info("Listening.", extra={"host": host, "port": port})
    supervisor = asyncio.create_task(_supervise(service, server, stop))
    try:
        await server.serve(sockets=[listener])
        if server.force_exit:
            supervisor.cancel()
            return _INTERRUPTED
        return await supervisor
    finally:
        await service.close()


async def _supervise(service: Service, server: uvicorn.Server, stop: asyncio.Event) -> int:
    """Load, wait for the end, and let the HTTP server go; return the exit status."""
    try:
        loading = asyncio.create_task(service.load())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
            return 0
        await loading
        ended = asyncio.create_task(service.client.wait_ended())
        await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            log.info("Stopping: no more requests are taken.", extra={"in_flight": service.in_flight})
            await service.drain(service.settings.drain_seconds)
        return await _farewell(service)
    except (EngineError, CoreFailed) as error:
        service.failure = error
        return await _farewell(service)
    finally:
        server.should_exit = True


async def _farewell(service: Service) -> int:
    """Leave the last answers time to be read; say what failed, if something did."""
    health = service.health()
    if service.failure is None and service.client.failure is None:
        return 0
    log.error(health.message, extra={"reason": health.reason})
    write_termination_log(health.reason, health.message)
    await asyncio.sleep(_LAST_ANSWERS_SECONDS)
    return 1


class _Server(uvicorn.Server):
    """Uvicorn, except that a signal begins a drain, during which it still answers; a second one ends it."""

    def __init__(self, app: object, stop: asyncio.Event) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                lifespan="off",
                http="h11",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=5,
            )
        )
        self._stop = stop
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal stop at once."""
        if self._stop.is_set():
            self.should_exit = self.force_exit = True
        log.info("Received %s.", signal.Signals(sig).name)
        self._loop.call_soon_threadsafe(self._stop.set)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a taken port is known before the model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidArgument(
            f"Cannot listen on {host}:{port}: {error}; choose another --port or --host."
        ) from error
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener
