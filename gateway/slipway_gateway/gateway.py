"""Puts the parts together, and takes them apart in order: the door first, the streams when they are done."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal

import aiohttp
from aiohttp import web

from slipway_gateway import admin, upstream
from slipway_gateway.delivery import Reader
from slipway_gateway.fleet import Fleet
from slipway_gateway.follow import Watches
from slipway_gateway.frontdoor import FrontDoor, Guard, NoGuard, TenantGuard
from slipway_gateway.holds import PATH as HOLDS
from slipway_gateway.holds import Holds
from slipway_gateway.kube import Access
from slipway_gateway.ledger import Ledger
from slipway_gateway.limits import Admission
from slipway_gateway.listener import Listener
from slipway_gateway.meter import Meter
from slipway_gateway.metrics import Metrics, Picture
from slipway_gateway.otlp import Exporter
from slipway_gateway.peers import Peers
from slipway_gateway.proxy import Proxy
from slipway_gateway.record import AccessLog
from slipway_gateway.reviews import Reviews
from slipway_gateway.room import Room
from slipway_gateway.settings import AuthMode, Settings
from slipway_gateway.status import StatusPage
from slipway_gateway.tls import Certificate
from slipway_gateway.world import World

log = logging.getLogger(__name__)

BACKLOG = 1024
CLOSE_SECONDS = 2.0
GOODBYE_SECONDS = 1.0
"""Of the time to drain, kept for telling those who still wait."""
GARBAGE = (10_000, 20, 50)
"""How many new objects bring on a search for garbage in cycles, and every how many a longer one. Streams that
begin are many objects and no garbage: with Python's own 700, 10, 10 they are looked through again and again,
and everybody's next event waits for it (`benchmarks/gateway`)."""


class Gateway:
    """A running gateway."""

    def __init__(self, settings: Settings, access: Access, access_log: AccessLog | None = None) -> None:
        self._settings = settings
        self._access = access
        self._access_log = access_log or AccessLog.at(settings.request_log)
        self.exporter = Exporter(settings.otlp) if settings.otlp else None
        self._draining = False
        self.certificate = Certificate(settings.tls) if settings.tls else None
        self._chores: list[asyncio.Task[None]] = []
        self.peers = Peers()
        self.world = World()
        self.admission = Admission(settings.limits)
        self.metrics = Metrics()
        self.port = 0
        self.admin_port = 0

    async def start(self) -> None:
        """Begin to watch and to listen."""
        settings = self._settings
        self._to_pods = upstream.open_session(settings.timeouts)
        self._to_api = aiohttp.ClientSession(trust_env=False)
        fleet = self._fleet = Fleet(self.world, self.metrics)
        ledger = self.ledger = Ledger(settings.state_dir)
        self.room = Room(self.world, fleet.load, settings.holds, wakes=bool(settings.holds_reader))
        self.world.told = self.room.look
        proxy = Proxy(
            self.world,
            self._to_pods,
            Reader(self.world, fleet, set_salt=settings.set_salt, stream_usage=settings.stream_usage),
            self.room,
            Meter(ledger, self.peers.count),
            self.admission,
            self.metrics,
            settings.limits,
            settings.timeouts,
        )
        self.watches = Watches(self._to_api, self._access, self.world, self.peers, settings)
        self.metrics.registry.register(
            Picture(self.world, self.admission, self.room, fleet.balancers, self.watches.heard)
        )
        self.door = FrontDoor(
            self.world, self._guard(), proxy, self.admission, self.metrics, self._access_log, self.exporter
        )
        self.watches.start()
        self._chores = [asyncio.create_task(ledger.follow())]
        if self.certificate is not None:
            self._chores.append(asyncio.create_task(self.certificate.follow()))
        if self.exporter is not None:
            self.metrics.registry.register(self.exporter)
            self._chores.append(asyncio.create_task(self.exporter.follow(self._to_api)))
        await self._listen()

    def _guard(self) -> Guard:
        if self._settings.auth_mode is AuthMode.NONE:
            log.warning("--auth-mode none: whoever reaches this port may use every model")
            return NoGuard()
        return TenantGuard(self.world, self._access.namespace)

    async def _listen(self) -> None:
        settings = self._settings
        listener = Listener(self.door.handle, self.door.unreadable, settings.limits, settings.timeouts)
        self._listener = listener
        admin_side = admin.application(self.metrics.registry, self._dead, self._unready)
        if settings.holds_reader:
            self.reviews = Reviews(self._to_api, self._access)
            holds = Holds(self.room, self.reviews, settings.holds_reader)
            admin_side.router.add_get(HOLDS, holds.handle)
        if settings.status_page:
            page = StatusPage(self.world, self._fleet, self.room, self.peers, self.door)
            self.door.ended = page.recent.note
            page.add_to(admin_side)
        self._admin = web.AppRunner(
            admin_side,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=CLOSE_SECONDS,
        )
        await self._admin.setup()
        # Probes can be answered before the first request is.
        await web.TCPSite(self._admin, settings.host, settings.admin_port).start()
        self._server = await asyncio.get_running_loop().create_server(
            listener,
            settings.host,
            settings.port,
            backlog=BACKLOG,
            ssl=self.certificate.context if self.certificate else None,
            ssl_handshake_timeout=settings.timeouts.header if self.certificate else None,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.admin_port = self._admin.addresses[0][1]
        log.info("listening on %s, admin on %s", self.port, self.admin_port)

    def _dead(self) -> str | None:
        dead = self.watches.dead()
        return f"the watch of {', '.join(dead)} ended" if dead else None

    def _unready(self) -> str | None:
        if self._draining:
            return "draining"
        return None if self.watches.synced() else "the API server was not listed yet"

    async def drain(self) -> None:
        """Take no more connections, and wait for what runs, within the limit."""
        self._draining = True
        self.door.closing = True
        self._server.close()
        log.info("draining: %d requests to finish", self.admission.requests)
        try:
            async with asyncio.timeout(self._settings.timeouts.drain):
                await self._until_empty()
        except TimeoutError:
            log.warning("%d requests were cut by --drain-seconds", self.admission.requests)

    async def _until_empty(self) -> None:
        try:
            async with asyncio.timeout(max(0.0, self._settings.timeouts.drain - GOODBYE_SECONDS)):
                await self.admission.until_empty()
        except TimeoutError:
            self.room.dismiss_all()
            await self.admission.until_empty()

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
        self._listener.pre_shutdown()
        await self._listener.shutdown(CLOSE_SECONDS)
        await self.watches.stop()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        if self.exporter is not None:
            await self.exporter.finish(self._to_api)
        await self._admin.cleanup()
        await self._to_pods.close()
        await self._to_api.close()
        if self._settings.request_log is not None:
            self._access_log.close()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then drain; a second signal cuts the draining short."""
        loop = asyncio.get_running_loop()
        stopped, hurried = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: (hurried if stopped.is_set() else stopped).set())
        _allow_all_files()
        await self.start()
        # What was imported lives as long as the process: looking through it again and again delays streams.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        await stopped.wait()
        draining = asyncio.create_task(self.drain())
        hurry = asyncio.create_task(hurried.wait())
        await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurry):
            task.cancel()
        await asyncio.gather(draining, hurry, return_exceptions=True)
        await self.stop()


def _allow_all_files() -> None:
    """Raise the limit on open files to what may be had: a stream takes two, and the usual limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
