"""The trigger: kopf watches, and every event goes into the store and queues the LLMDeployment it is about.

The only module that imports kopf. It registers bare event handlers alone, so kopf writes nothing: no
finalizers, no annotations, no peering, no Kubernetes events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import kopf

from slipway_operator.intake import Intake
from slipway_operator.kinds import OWNED, OWNED_SELECTOR, WATCHED, Kind

RETRY_SECONDS = 5.0


class _Patiently:
    """Delays between attempts to reach the API server: it may be away for longer than any list of numbers."""

    def __iter__(self) -> Iterator[float]:
        while True:
            yield RETRY_SECONDS


class _NoHistory(kopf.DiffBaseStorage):
    """Remembers no object's last state: change handlers would compare with it, and there are none.

    Without it kopf copies every object of every event, which is a quarter of what an event costs.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


async def watch(
    intake: Intake,
    namespaces: Collection[str],
    started: Callable[[], None],
    kinds: Collection[Kind] = WATCHED,
) -> None:
    """Watch until cancelled, in some namespaces or, with none named, in the whole cluster.

    What belongs to the cluster is watched there in either case.

    At its end kopf cancels every task that was not there at its start. `started` is called once kopf has
    taken over the signal handlers, so that the caller can take them back.
    """
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=_registry(intake, kinds),
        settings=_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=tuple(namespaces),
    )
    started()
    await kopf.run_tasks(tasks, ignored=others)


def _registry(intake: Intake, kinds: Collection[Kind]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for kind in kinds:
        handler = partial(_on_event, intake, kind)
        kopf.on.event(
            group=kind.group, version=kind.version, plural=kind.plural, id=kind.plural, registry=registry
        )(handler)
    return registry


async def _on_event(intake: Intake, kind: Kind, /, event: Any, **_: Any) -> None:
    intake.take(kind, event["type"], event["object"])


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Return the pod's service account, else what KUBECONFIG says."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # no rights on CustomResourceDefinitions and namespaces
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = _NoHistory()
    settings.networking.error_backoffs = _Patiently()
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 300
    settings.queueing.idle_timeout = 1
    for kind in OWNED:
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = OWNED_SELECTOR
    return settings
