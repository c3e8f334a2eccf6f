"""Which watches there are: deployments and slices where they are served, tenants where the gateway lives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import aiohttp

from slipway_api.names import API_VERSION, LABEL_DEPLOYMENT, PLURAL
from slipway_gateway.kube import Access
from slipway_gateway.objects import LABEL_SERVICE, LABEL_TENANT
from slipway_gateway.peers import Peers
from slipway_gateway.settings import AuthMode, Settings
from slipway_gateway.watch import Follower, Resource, Sink
from slipway_gateway.world import World

GATEWAYS: Final = "gateways"


def path_of(api: str, plural: str, namespace: str | None) -> str:
    """Return the path of a kind's collection, in one namespace or in all."""
    root = "/api/v1" if api == "v1" else f"/apis/{api}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


class Watches:
    """All followers of this gateway, as one thing to run and to ask."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        access: Access,
        world: World,
        peers: Peers,
        settings: Settings,
    ) -> None:
        self._tasks: list[asyncio.Task[None]] = []

        def follower(resource: Resource, sink: Sink) -> Follower:
            return Follower(session, access, resource, sink)

        self._followers: list[Follower] = []
        for namespace in settings.namespaces or (None,):
            deployments = Resource(PLURAL, path_of(API_VERSION, PLURAL, namespace))
            slices = Resource(
                "endpointslices",
                path_of("discovery.k8s.io/v1", "endpointslices", namespace),
                LABEL_DEPLOYMENT,
            )
            self._followers += [
                follower(deployments, world.deployments.sink(namespace)),
                follower(slices, world.slices.sink(namespace)),
            ]
        if settings.auth_mode is AuthMode.TENANTS:
            secrets = Resource("secrets", path_of("v1", "secrets", access.namespace), LABEL_TENANT)
            self._followers.append(follower(secrets, world.secrets.sink(access.namespace)))
        if settings.service:
            selector = f"{LABEL_SERVICE}={settings.service}"
            own = Resource(
                GATEWAYS, path_of("discovery.k8s.io/v1", "endpointslices", access.namespace), selector
            )
            self._followers.append(follower(own, peers))

    def start(self) -> None:
        """Begin to follow."""
        self._tasks = [asyncio.create_task(follower.run()) for follower in self._followers]

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def synced(self) -> bool:
        """Return whether the picture was ever complete; who else serves it is no part of it.

        While the other gateways are unknown this one allows whole limits, which is better than no answer.
        """
        return all(follower.synced for follower in self._followers if follower.resource.name != GATEWAYS)

    def dead(self) -> list[str]:
        """Return the resources whose follower ended through a defect."""
        return [f.resource.name for f, task in zip(self._followers, self._tasks, strict=False) if task.done()]

    def heard(self) -> Mapping[str, float]:
        """Return for each resource when the API server last said something about it."""
        moments: dict[str, float] = {}
        for follower in self._followers:
            name = follower.resource.name
            moments[name] = min(follower.heard, moments.get(name, follower.heard))
        return moments
