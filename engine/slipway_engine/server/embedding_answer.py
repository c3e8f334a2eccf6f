"""/v1/embeddings: one vector for each text, as numbers or as base64 of little-endian 32-bit floats."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
import uuid

from starlette.requests import Request
from starlette.types import Send

from slipway_engine.sampling import SamplingParams
from slipway_engine.server.answer import Answer
from slipway_engine.server.job import Job
from slipway_engine.server.kinds import read_prompts
from slipway_engine.server.protocol import EmbeddingRequest
from slipway_engine.tokenizer.detokenize import ByteDetokenizer, TextStream


class EmbeddingAnswer(Answer):
    """The response to one request for embeddings."""

    async def _answer(self, request: Request, send: Send) -> None:
        service = self._service
        asked = await self._asked(request, EmbeddingRequest)
        deadline = self._deadline(request, asked.timeout)
        pooling = service.pooling()
        prompts = await read_prompts(
            service, asked.input, "input", add_special_tokens=asked.add_special_tokens is not False, room=0
        )
        job = Job(
            f"embd-{uuid.uuid4().hex}",
            prompts,
            SamplingParams(max_tokens=0),
            lambda _: TextStream(ByteDetokenizer(lambda _: b"")),
            self._arrival,
            asked.priority or 0,
            asked.cache_salt or "",
            deadline=deadline,
            pooling=pooling,
        )
        vectors: dict[int, tuple[float, ...]] = {}
        async with self._running(job, request) as generation:
            async for delta in generation.deltas():
                vectors[delta.index] = delta.embedding or ()
        usage = {
            "prompt_tokens": generation.usage.prompt_tokens,
            "total_tokens": generation.usage.prompt_tokens,
        }
        written = {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _base64(vector) if asked.encoding_format == "base64" else vector,
                }
                for index, vector in sorted(vectors.items())
            ],
            "model": asked.model or service.settings.served_names[0],
            "created": int(time.time()),
            "id": job.request_id,
            "usage": usage,
        }
        # Thousands of numbers take a while to write; the event loop need not wait for them.
        body = await asyncio.to_thread(json.dumps, written)
        await self._send_json(send, body.encode())


def _base64(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
