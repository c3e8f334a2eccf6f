"""Where the outputs of one HTTP request's sequences wait for the task that writes its answer."""

from __future__ import annotations

import asyncio

from slipway_engine.core.messages import RequestOutput


class Mailbox:
    """A queue that hands out all it holds at once, so a slow reader gets fewer, longer pieces."""

    def __init__(self) -> None:
        self._outputs: list[RequestOutput] = []
        self._problem: Exception | None = None
        self._news = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        """Add an output."""
        self._outputs.append(output)
        self._news.set()

    def close(self, problem: Exception) -> None:
        """Let the reader stop with this exception, whatever is still to come."""
        self._problem = self._problem or problem
        self._news.set()

    async def take(self) -> list[RequestOutput]:
        """Wait for outputs; return all there are."""
        await self._news.wait()
        self._news.clear()
        if self._problem is not None:
            self._news.set()
            raise self._problem
        outputs, self._outputs = self._outputs, []
        return outputs
