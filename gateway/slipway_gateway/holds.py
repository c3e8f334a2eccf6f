"""Tells the operator which deployments requests wait for: a long poll on the admin port.

`GET /internal/v1/holds?after=N&waitSeconds=S` answers at once when something changed since N, else after S
seconds; its caller is known by its service-account token.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from aiohttp import web

from slipway_gateway.reviews import NoAnswer, Reviews
from slipway_gateway.room import Room

PATH: Final = "/internal/v1/holds"
MAX_WAIT: Final = 30
MAX_ENTRIES: Final = 1000
MAX_POLLS: Final = 64
_NUMBER = re.compile(r"[0-9]{1,15}")


class Holds:
    """The endpoint."""

    def __init__(self, room: Room, reviews: Reviews, reader: str) -> None:
        self._room = room
        self._reviews = reviews
        self._reader = reader
        self._polls = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one poll."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        try:
            user = await self._reviews.user(token.strip()) if scheme.lower() == "bearer" else None
        except NoAnswer:
            return _error(503, "The API server does not say whose token this is; try again.")
        if user is None or user != self._reader:
            return _error(401, f"This is not a token of {self._reader}; send one as 'Authorization: Bearer'.")
        after = _number(request.query.get("after", "0"))
        seconds = _number(request.query.get("waitSeconds", "0"))
        if after is None or seconds is None or seconds > MAX_WAIT:
            return _error(400, f"'after' is a whole number, 'waitSeconds' one of at most {MAX_WAIT}.")
        if self._polls >= MAX_POLLS:
            return _error(429, f"{MAX_POLLS} polls are open; close one.")
        self._polls += 1
        try:
            # A number from before a restart is beyond ours, and waits for nothing.
            await self._room.changed(after if after <= self._room.sequence else -1, float(seconds))
        finally:
            self._polls -= 1
        return web.json_response(self.answer())

    def answer(self) -> dict[str, object]:
        """Return what is held now."""
        held = [
            {
                "namespace": key.namespace,
                "name": key.name,
                "requests": count,
                "oldestSeconds": round(age, 3),
            }
            for key, count, age in islice(self._room.held(), MAX_ENTRIES)
        ]
        return {"sequence": self._room.sequence, "held": held}


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
