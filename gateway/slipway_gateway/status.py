"""The status page, on the admin port where it is asked for: one HTML file, and the JSON that it shows.

Its chat box asks through the same door as every client, with a key that is typed into the page and kept
nowhere. The page runs only the script that it brings along, and names that users chose are shown as text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from itertools import islice
from typing import Any, Final

from aiohttp import web

from slipway_gateway.fleet import Fleet
from slipway_gateway.frontdoor import FrontDoor
from slipway_gateway.objects import Deployment
from slipway_gateway.peers import Peers
from slipway_gateway.recent import Recent
from slipway_gateway.room import Room
from slipway_gateway.world import World

PAGE: Final = "/status"
DATA: Final = "/status.json"
CHAT: Final = "/v1/chat/completions"
MAX_SHOWN: Final = 1000


class StatusPage:
    """Page, data, and the door of its chat box."""

    def __init__(self, world: World, fleet: Fleet, room: Room, peers: Peers, door: FrontDoor) -> None:
        self._world = world
        self._fleet = fleet
        self._room = room
        self._peers = peers
        self._door = door
        self.recent = Recent()
        self._html = (files("slipway_gateway") / "status.html").read_text(encoding="utf-8")
        self._headers = {
            "Content-Security-Policy": policy(self._html),
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get(PAGE, self._page)
        app.router.add_get(DATA, self._data)
        app.router.add_post(CHAT, self._chat)

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html", headers=self._headers)

    async def _data(self, _: web.Request) -> web.Response:
        return web.json_response(self.data(), headers={"Cache-Control": "no-store"})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise web.HTTPForbidden(text="The chat box answers its own page only.")
        return await self._door.handle(request)

    def data(self) -> dict[str, Any]:
        """Return everything that the page shows."""
        taken: dict[str, list[dict[str, str]]] = {}
        for deployment, name, holder in self._world.routes().taken():
            taken.setdefault(str(deployment.key), []).append({"name": name, "by": str(holder.key)})
        waiting = {key: count for key, count, _ in self._room.held()}
        shown = islice(sorted(self._world.deployments, key=lambda d: d.key), MAX_SHOWN)
        rows = [self._row(d, waiting.get(d.key, 0), taken.get(str(d.key), [])) for d in shown]
        return {"gateways": self._peers.count(), "deployments": rows}

    def _row(self, deployment: Deployment, waiting: int, taken: list[dict[str, str]]) -> dict[str, Any]:
        endpoints, summary = self._world.endpoints(deployment.key), self.recent.summary(deployment.key)
        return {
            "namespace": deployment.key.namespace,
            "name": deployment.key.name,
            "names": list(deployment.names),
            "nameTaken": taken,
            "state": _state(deployment, bool(endpoints)),
            "message": "" if endpoints else deployment.sentence,
            "ready": len(endpoints),
            "running": self._fleet.load(deployment.key, endpoints),
            "waiting": waiting,
            "requests": summary.requests,
            "failed": summary.failed,
            "tokensPerSecond": round(summary.tokens_per_second, 1),
            "ttftMs": {name: round(seconds * 1000) for name, seconds in summary.first_byte.items()},
        }


def _state(deployment: Deployment, ready: bool) -> str:
    if ready:
        return "serving"
    if deployment.suspended:
        return "parked"
    return "at zero" if deployment.from_zero else "not ready"


def policy(html: str) -> str:
    """Return a content security policy that allows the page's own script and style, by their hashes."""

    def hashes(tag: str) -> str:
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (hashlib.sha256(body.encode()).digest() for body in bodies)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; connect-src 'self'; script-src {hashes('script')}; "
        f"style-src {hashes('style')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
