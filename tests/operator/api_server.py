"""An API server over HTTP as far as watching needs it: discovery, lists, watches."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from slipway_api import names
from slipway_operator.kinds import WATCHED


def resource(plural, kind, *, namespaced=True):
    verbs = ["list", "watch", "patch"]
    return {"name": plural, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs}


CORE = resource("namespaces", "Namespace", namespaced=False)
CRDS = resource("customresourcedefinitions", "CustomResourceDefinition", namespaced=False)


class ApiServer:
    """Discovery, lists and watches over HTTP. Events go to the watches that are open."""

    def __init__(self):
        self.objects = {kind: {} for kind in WATCHED}
        self.watches = {kind: [] for kind in WATCHED}
        self.asked, self.deaf, self.version = [], set(), 10
        self.watching = {kind: asyncio.Event() for kind in WATCHED}

    def application(self):
        application = web.Application()
        application.router.add_get("/{path:.*}", self.answer)
        return application

    async def answer(self, request):
        self.asked.append(request)
        path = request.path.strip("/")
        if path == "api":
            return web.json_response({"versions": ["v1"]})
        if path == "apis":
            return web.json_response({"groups": self.groups()})
        kind = next((kind for kind in WATCHED if path == kind.path(None).strip("/")), None)
        if kind is not None:
            return await (self.stream(request, kind) if "watch" in request.query else self.list(kind))
        return web.json_response({"resources": self.resources(path)})

    def groups(self):
        versions = {kind.group: kind.version for kind in WATCHED if kind.group}
        versions["apiextensions.k8s.io"] = "v1"
        return [
            {"name": g, "preferredVersion": {"version": v}, "versions": [{"version": v}]}
            for g, v in versions.items()
        ]

    def resources(self, path):
        found = [
            resource(kind.plural, kind.kind)
            for kind in WATCHED
            if path == kind.path(None).strip("/").removesuffix(f"/{kind.plural}")
        ]
        return found + ([CORE] if path == "api/v1" else []) + ([CRDS] if "apiextensions" in path else [])

    async def list(self, kind):
        items = list(self.objects[kind].values())
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def stream(self, request, kind):
        response = web.StreamResponse()
        await response.prepare(request)
        queue = asyncio.Queue()
        self.watches[kind].append(queue)
        self.watching[kind].set()
        try:
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        except (asyncio.CancelledError, ConnectionResetError):
            pass
        finally:
            self.watches[kind].remove(queue)
        return response

    def put(self, kind, name="chat", event="MODIFIED", **fields):
        self.version += 1
        meta = {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{kind.plural}-{name}",
            "resourceVersion": str(self.version),
        }
        meta["labels"] = names.labels_of("chat")
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, **fields}
        if event == "DELETED":
            self.objects[kind].pop(name)
        else:
            self.objects[kind][name] = obj
        if kind not in self.deaf:
            for queue in self.watches[kind]:
                queue.put_nowait({"type": event, "object": obj})
        return obj

    def cut(self, kind):
        """End the open watches, as a restarting API server does."""
        self.watching[kind].clear()
        for queue in self.watches[kind]:
            queue.put_nowait(None)
