"""The operator, put together: connect, wait for leadership, fill the store, watch, work, leave in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Collection, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from slipway_operator.caches import Caches
from slipway_operator.errors import OperatorError
from slipway_operator.freshness import Freshness
from slipway_operator.handlers import watch
from slipway_operator.health import Health, serve_health, serve_metrics
from slipway_operator.intake import Intake
from slipway_operator.kinds import PARENT, Key, Kind
from slipway_operator.kube import Kube, connect
from slipway_operator.lease import Leadership
from slipway_operator.measured import Measurements
from slipway_operator.metrics import Metrics
from slipway_operator.metrics.fleet import Fleet
from slipway_operator.progress import ask
from slipway_operator.reconcile import Reconciler
from slipway_operator.relist import Relister
from slipway_operator.scaling.counters import Counters
from slipway_operator.scaling.loop import Autoscaler
from slipway_operator.settings import Settings
from slipway_operator.signals.holds import GatewayHolds
from slipway_operator.signals.prometheus import Prometheus
from slipway_operator.signals.scrape import Scraper
from slipway_operator.store import Store
from slipway_operator.worker import work
from slipway_operator.workqueue import WorkQueue

# A reconcile is at most a dozen requests of 30 s: who needs longer hangs.
STUCK_SECONDS: Final = 400.0
# Time for running reconciles to end after SIGTERM; a kill in their middle would do no harm either.
DRAIN_SECONDS: Final = 15.0

# Containers that come into being before garbage is looked for, and how much more rarely the old are walked.
# Python's own 700 and 10 are for programs that make cycles: JSON makes none, and walking what the store
# holds is a third of what a watch event costs.
COLLECT_EVERY: Final = (20_000, 20, 50)

CACHE_WORKERS: Final = 4
MEASURE_WORKERS = 2

logger = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """Run the operator until a signal; return the exit status."""
    gc.set_threshold(*COLLECT_EVERY)
    metrics, health, stop = Metrics(), Health(), asyncio.Event()
    _listen(stop)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serve_health(health, settings.host, settings.health_port))
        await stack.enter_async_context(serve_metrics(metrics.render, settings.host, settings.metrics_port))
        api = await stack.enter_async_context(connect(metrics.count_request))
        logger.info("started; health on port %d", port)
        leadership = Leadership(api, settings.lease_namespace, settings.identity)
        api.fence(leadership.leads)
        try:
            if await _unless(stop, leadership.acquire()):
                await Leader(settings, api, metrics, health, leadership).lead(stop)
        except OperatorError as error:
            logger.error("%s; leaving, so that a restart can stand for election again", error)
            return 1
        finally:
            metrics.leader.set(0)
            await leadership.release()
    logger.info("stopped")
    return 0


class Leader:
    """The operator once it leads: everything that runs beside each other, and how it ends."""

    def __init__(
        self, settings: Settings, api: Kube, metrics: Metrics, health: Health, leadership: Leadership
    ) -> None:
        self._settings, self._metrics, self._leadership = settings, metrics, leadership
        store = Store()
        self._queue: WorkQueue[Key] = WorkQueue()
        self._freshness = Freshness(settings.watch_grace_seconds)
        self._cache_queue: WorkQueue[Key] = WorkQueue()
        self._intake = Intake(store, self._queue, self._cache_queue, self._freshness, metrics)
        self._caches = Caches(
            store, api, self._intake.remember, ask, self._cache_queue.add, self._queue.add, clock=api.now
        )
        self._relister = Relister(
            api, self._intake, settings.scopes, settings.relist_seconds, settings.watched
        )
        self._measurements = Measurements(self._queue.add)
        self._holds = None
        if settings.gateway is not None:
            self._holds = GatewayHolds(api, settings.gateway, settings.gateway_token, self._woken)
        source = Prometheus(settings.prometheus) if settings.prometheus else Scraper()
        first = partial(self._queue.add, first=True)
        self._autoscaler = Autoscaler(store, api, source, first, Counters(metrics.registry), self._holds)
        self._reconciler = Reconciler(
            store,
            api,
            settings.installation,
            self._intake.remember,
            self._caches,
            clock=api.now,
            measurements=self._measurements,
            scaling=self._autoscaler,
        )
        health.require(self._freshness.dead)
        health.require(self._stuck)
        health.require(self._filling, alive=False)
        self._expose(store)

    async def lead(self, stop: asyncio.Event) -> None:
        """Work until `stop`. Raises OperatorError, or whatever ended one of the parts."""
        self._metrics.leader.set(1)
        keeping = asyncio.create_task(self._leadership.keep(), name="lease")
        workers: list[asyncio.Task[Any]] = []
        filling = asyncio.create_task(self._relister.fill(), name="fill")
        others: list[asyncio.Task[Any]] = [keeping, filling, _waiter(stop)]
        try:
            await _first(others)
            if stop.is_set():
                return
            workers = [
                asyncio.create_task(
                    work(self._queue, self._reconciler.reconcile, self._metrics), name="worker"
                )
                for _ in range(self._settings.workers)
            ]
            workers += [
                asyncio.create_task(
                    work(self._cache_queue, self._caches.reconcile, self._metrics), name="cache worker"
                )
                for _ in range(CACHE_WORKERS)
            ]
            workers += [
                asyncio.create_task(self._measurements.run(), name="measuring")
                for _ in range(MEASURE_WORKERS)
            ]
            others.remove(filling)
            others.append(asyncio.create_task(self._relister.keep(), name="relist"))
            others.append(asyncio.create_task(self._autoscaler.run(), name="autoscaling"))
            if self._holds is not None:
                others.append(asyncio.create_task(self._holds.run(), name="holds"))
            # The last: at its end kopf cancels what came after it.
            listening = partial(_listen, stop)
            watching = watch(self._intake, self._settings.namespaces, listening, self._settings.watched)
            others.append(asyncio.create_task(watching, name="watch"))
            await _first([*workers, *others])
            if not stop.is_set():
                raise OperatorError("the watches or a worker ended by themselves")
        finally:
            await self._leave(workers, others)

    async def _leave(self, workers: list[asyncio.Task[Any]], others: list[asyncio.Task[Any]]) -> None:
        """Let running reconciles end, then everything else; the Lease is kept until then."""
        self._queue.close()
        self._cache_queue.close()
        self._measurements.close()
        if workers:
            await asyncio.wait(workers, timeout=DRAIN_SECONDS)
        for task in [*workers, *others]:
            task.cancel()
        await asyncio.gather(*workers, *others, return_exceptions=True)

    def _woken(self, keys: Collection[Key]) -> None:
        self._autoscaler.wake(keys)

    def _stuck(self) -> list[str]:
        seconds = self._queue.stuck_for()
        return [f"no reconcile has ended for {seconds:.0f} s"] if seconds > STUCK_SECONDS else []

    def _filling(self) -> list[str]:
        return [] if self._relister.filled else ["the store is being filled"]

    def _watch_age(self, kind: Kind) -> float:
        return self._freshness.age(kind, time.monotonic()) or 0.0

    def _expose(self, store: Store) -> None:
        self._metrics.registry.register(Fleet(partial(store.all, PARENT)))
        gauge = self._metrics.watch_gauge
        gauge("slipway_operator_queue_depth", "Keys that wait for a worker.", lambda: len(self._queue))
        gauge("slipway_operator_queue_delayed", "Keys that wait for their time.", lambda: self._queue.delayed)
        ages = self._metrics.watch_gauge_by(
            "slipway_operator_watch_age_seconds", "Seconds since a watch last delivered.", "resource"
        )
        sizes = self._metrics.watch_gauge_by(
            "slipway_operator_store_objects", "Objects in the local store.", "resource"
        )
        for kind in self._settings.watched:
            age = partial(self._watch_age, kind)
            ages.labels(kind.plural).set_function(age)
            sizes.labels(kind.plural).set_function(partial(store.size, kind))


def _listen(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def _waiter(stop: asyncio.Event) -> asyncio.Task[Any]:
    return asyncio.create_task(stop.wait(), name="stop")


async def _unless(stop: asyncio.Event, coroutine: Coroutine[Any, Any, None]) -> bool:
    """Run a coroutine to its end unless `stop` comes first; return whether it ended."""
    task = asyncio.create_task(coroutine)
    await _first([task, waiter := _waiter(stop)])
    for other in (task, waiter):
        other.cancel()
    await asyncio.gather(task, waiter, return_exceptions=True)
    return not stop.is_set()


async def _first(tasks: list[asyncio.Task[Any]]) -> None:
    """Wait until one of the tasks ends, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
