"""A model's chat template, rendered in a process of its own with a limit on time and memory."""

from __future__ import annotations

import asyncio
import logging
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgpack

from slipway_engine.errors import RequestError

log = logging.getLogger(__name__)

_HEADER = struct.Struct(">I")
_ENDED = 'The process that renders chat templates ended ("{}"); send the request again.'
RENDER_SECONDS = 5.0
"""Computing time of one render: on a busy machine it may take longer, and the template is not at fault."""
PATIENCE_SECONDS = 60.0
RETRY_AFTER = 5
CLOSING_SECONDS = 1.0


class ChatTemplate:
    """Renders messages to a prompt; starts its worker when first needed, and again after it was killed."""

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str],
        *,
        seconds: float = RENDER_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._source = source
        self._variables = dict(variables)
        self._seconds = seconds
        self._patience = patience
        self._worker: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def render(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None = None
    ) -> str:
        """Return the prompt for these messages, ready for the assistant's answer. Raises RequestError."""
        variables = {"add_generation_prompt": True, **self._variables, **(variables or {})}
        async with self._turn:
            try:
                outcome, text = await asyncio.wait_for(self._ask(messages, variables), self._patience)
            except TimeoutError as error:
                await self.close()
                raise RequestError(
                    f"The machine is too busy: a chat template was not rendered within {self._patience:g} s; "
                    "send the request again.",
                    code="chat_template_busy",
                    status=503,
                    retry_after=RETRY_AFTER,
                ) from error
            except BaseException:  # a render given up half-way leaves an answer in the pipe
                await self.close()
                raise
        if outcome == "error":
            raise RequestError(
                f"The model's chat template refuses these messages: {text}.",
                param="messages",
                code="chat_template_error",
            )
        return text

    async def warm(self) -> None:
        """Start the worker, so that the first chat need not wait for it."""
        async with self._turn:
            await self._running()

    async def close(self) -> None:
        """Kill the worker; the next render starts another."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.returncode is None:
            worker.kill()
            await worker.wait()

    async def _ask(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> tuple[str, str]:
        worker = await self._running()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            request = {"messages": messages, "variables": variables, "seconds": self._seconds}
            worker.stdin.write(_frame(request))
            await worker.stdin.drain()
            (length,) = _HEADER.unpack(await worker.stdout.readexactly(_HEADER.size))
            outcome, text = msgpack.unpackb(await worker.stdout.readexactly(length), raw=False)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise await self._ended(worker, error) from error
        return outcome, text

    async def _ended(self, worker: asyncio.subprocess.Process, error: Exception) -> RequestError:
        """Return why the worker is gone: its computing time was up, or something else."""
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.wait(), CLOSING_SECONDS)
        await self.close()
        if worker.returncode == -signal.SIGPROF:
            return RequestError(
                f"The model's chat template did not finish within {self._seconds:g} s of computing.",
                param="messages",
                code="chat_template_timeout",
            )
        return RequestError(_ENDED.format(error), param="messages", code="chat_template_error", status=500)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._worker is None or self._worker.returncode is not None:
            self._worker = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "slipway_engine.tokenizer.template_worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # the terminal's Ctrl-C is not for it
            )
            assert self._worker.stdin is not None
            self._worker.stdin.write(_frame(self._source))
        return self._worker


def _frame(value: object) -> bytes:
    payload: bytes = msgpack.packb(value)
    return _HEADER.pack(len(payload)) + payload
