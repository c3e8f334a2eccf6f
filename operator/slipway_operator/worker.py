"""Workers: take a key, reconcile it, and decide when it is tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from slipway_operator.errors import UNFORESEEN, OperatorError, Retryable
from slipway_operator.kinds import Key
from slipway_operator.metrics import Metrics
from slipway_operator.problems import Result
from slipway_operator.workqueue import WorkQueue

Reconcile = Callable[[Key], Awaitable[Result]]

logger = logging.getLogger(__name__)


async def work(queue: WorkQueue[Key], reconcile: Reconcile, metrics: Metrics) -> None:
    """Reconcile keys until the queue is closed."""
    while (key := await queue.get()) is not None:
        started = time.perf_counter()
        try:
            outcome = await _attempt(key, queue, reconcile, metrics)
        finally:
            queue.done(key)
        metrics.reconcile_seconds.labels(outcome).observe(time.perf_counter() - started)


async def _attempt(key: Key, queue: WorkQueue[Key], reconcile: Reconcile, metrics: Metrics) -> str:
    try:
        result = await reconcile(key)
    except OperatorError as error:
        reason = type(error).__name__
        after = error.after if isinstance(error, Retryable) else None
        delay = queue.add_failed(key, at_least=after or 0.0)
        logger.warning("%s; tried again in %.1f s", error, delay, extra={"object": key})
    except UNFORESEEN as error:
        reason = type(error).__name__
        delay = queue.add_failed(key)
        logger.exception("a defect of the operator; tried again in %.1f s", delay, extra={"object": key})
    else:
        if result.again is not None:
            queue.add_after(key, result.again)
        if not result.problems:
            queue.forget(key)
            return "done"
        reason = result.problems[0].reason.value
        delay = queue.add_failed(key)
        logger.info("%s; tried again in %.1f s", result.problems[0].message, delay, extra={"object": key})
    metrics.errors.labels(reason).inc()
    return "retried"
