"""An API server that the operator and the gateway work against, with a kubelet's part for one engine pod."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from typing import Any

from aiohttp import web
from tests.gateway.conftest import KubeServer
from tests.operator.conftest import _applied

from slipway_operator.kinds import WATCHED

_PATH = re.compile(
    r"(?P<group>/api/v1|/apis/[^/]+/[^/]+)/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)"
    r"(/(?P<name>[^/]+)(/(?P<part>[^/]+))?)?"
)
_SINCE = "2026-01-02T03:04:05Z"
Object = dict[str, Any]


class World(KubeServer):
    """Lists, watches, discovery, and server-side apply as far as the operator relies on it."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        self._engine = engine
        """Address of the engine; it is every Deployment's only pod."""
        self.loop: asyncio.AbstractEventLoop
        """Where the server runs."""

    def edit(self, path: str, namespace: str, name: str, **slo: int) -> None:
        """Change an object's promise, from another thread."""
        obj = copy.deepcopy(self.objects[path][namespace, name])
        obj["spec"]["slo"] |= slo
        obj["metadata"]["generation"] += 1
        asyncio.run_coroutine_threadsafe(self.put(path, obj), self.loop).result(10)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._route)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def _route(self, request: web.Request) -> web.StreamResponse:
        named = _PATH.fullmatch(request.path)
        if request.method in ("PATCH", "POST", "PUT") and named:
            return await self._write(request, named)
        if named and named["name"]:
            found = self._live(named)
            return web.json_response(found or {"message": "none"}, status=200 if found else 404)
        resources = self._discovered(request.path.rstrip("/"))
        return web.json_response(resources) if resources else await self._answer(request)

    def _live(self, named: re.Match[str]) -> Object | None:
        known = self.objects.get(f"{named['group']}/{named['plural']}", {})
        return known.get((named["namespace"], named["name"]))

    async def _write(self, request: web.Request, named: re.Match[str]) -> web.Response:
        body = json.loads(await request.read())
        if request.method == "PATCH":
            live = copy.deepcopy(self._live(named)) or {"metadata": {}}
            body = _applied(live, body, named["part"])
        body["metadata"].setdefault("uid", f"uid-{named['plural']}-{named['name']}")
        body["metadata"].setdefault("creationTimestamp", _SINCE)
        body["metadata"].setdefault("name", f"generated-{self.version}")
        body["metadata"].setdefault("namespace", named["namespace"])
        if named["plural"] == "deployments":
            await self._run(body)
        await self.put(f"{named['group']}/{named['plural']}", body)
        return web.json_response(body)

    async def _run(self, deployment: Object) -> None:
        """Do what the controllers and a kubelet do: one pod, which serves."""
        status = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"), 1)
        meta = deployment["metadata"]
        deployment["status"] = {"observedGeneration": meta.get("generation", 1), **status}
        state = {"running": {"startedAt": _SINCE}}
        container = {"name": "engine", "ready": True, "started": True, "restartCount": 0, "state": state}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{meta['name']}-a",
                "namespace": meta["namespace"],
                "uid": f"uid-{meta['name']}-a",
                "creationTimestamp": _SINCE,
                "labels": deployment["spec"]["template"]["metadata"]["labels"],
            },
            "spec": copy.deepcopy(deployment["spec"]["template"]["spec"]),
            "status": {
                "phase": "Running",
                "podIP": self._engine,
                "startTime": _SINCE,
                "conditions": [
                    {"type": kind, "status": "True", "lastTransitionTime": _SINCE}
                    for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
                ],
                "containerStatuses": [container],
            },
        }
        await self.put("/api/v1/pods", pod)

    def _discovered(self, path: str) -> Object | None:
        groups = {kind.group: kind.version for kind in WATCHED if kind.group}
        groups["apiextensions.k8s.io"] = "v1"
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            versions = [(name, {"version": version}) for name, version in groups.items()]
            found = [{"name": n, "preferredVersion": v, "versions": [v]} for n, v in versions]
            return {"groups": found}
        if path != "/api/v1" and path not in {f"/apis/{name}/{version}" for name, version in groups.items()}:
            return None
        resources = [
            _resource(kind.plural, kind.kind)
            for kind in WATCHED
            if kind.path(None).removesuffix(f"/{kind.plural}") == path
        ]
        more = {"/api/v1": _resource("namespaces", "Namespace", namespaced=False)}
        more["/apis/apiextensions.k8s.io/v1"] = _resource(
            "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
        )
        return {"resources": [*resources, *([more[path]] if path in more else [])]}


def _resource(plural: str, kind: str, *, namespaced: bool = True) -> Object:
    verbs = ["list", "watch", "patch"]
    return {"name": plural, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs}
