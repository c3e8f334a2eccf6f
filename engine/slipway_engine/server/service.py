"""The state behind the routes: what is loaded, whether requests are taken, and what runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum

from slipway_engine.config import EngineConfig
from slipway_engine.core.messages import Pooling, Ready
from slipway_engine.errors import EngineError, RequestError
from slipway_engine.process.client import CoreClient, CoreCommand, CoreFailed, CoreState, Health
from slipway_engine.server.defaults import sampling_defaults
from slipway_engine.server.generation import Generation
from slipway_engine.server.job import Job, Prompt
from slipway_engine.server.metrics import Metrics
from slipway_engine.server.settings import ServerSettings
from slipway_engine.server.templates import Templates
from slipway_engine.server.tracing import open_tracer
from slipway_engine.tokenizer.load import load_tokenizer
from slipway_engine.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class Phase(Enum):
    """Where the server stands."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Model:
    """What is known once the model is loaded."""

    ready: Ready
    tokenizer: Tokenizer
    templates: Templates
    defaults: dict[str, float]


class Service:
    """One model, served."""

    def __init__(
        self, config: EngineConfig, settings: ServerSettings, command: CoreCommand | None = None
    ) -> None:
        self.config = config
        self.settings = settings
        self.client = CoreClient(least_step_seconds=settings.least_step_seconds)
        self.metrics = Metrics(settings.served_names[0], lambda: self.client.stats, settings.metrics_aliases)
        self.tracer = open_tracer(settings.otlp_endpoint, settings.served_names[0])
        self.started = int(time.time())
        self.failure: EngineError | CoreFailed | None = None
        self._command = command
        self._draining = False
        self._model: Model | None = None
        self._running: set[Generation] = set()
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # Coming up and going down

    async def load(self) -> None:
        """Load model and tokenizer. Raises EngineError, CoreFailed."""
        await self.client.start(self.config, self._command)
        settings = self.settings
        tokenizer = await asyncio.to_thread(load_tokenizer, self.config.model)
        defaults = sampling_defaults(settings.generation_config, self.config.model)
        templates = Templates(tokenizer, file=settings.chat_template, parser=settings.tool_call_parser)
        await templates.warm()
        ready = await self.client.wait_ready()
        self._model = Model(ready, tokenizer, templates, defaults)
        self.metrics.loaded(ready)
        log.info(
            "The model is loaded.",
            extra={
                "model": self.settings.served_names[0],
                "max_model_len": ready.max_model_len,
                "kv_blocks": ready.num_kv_blocks,
                "dtype": ready.dtype,
                "device": ready.device,
                "sampling_defaults": defaults,
            },
        )

    async def drain(self, seconds: float) -> None:
        """Take no more requests; return when the last has ended, or has been ended at the deadline."""
        self._draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        if self._running:
            log.warning("The drain time is over.", extra={"requests_ended": len(self._running)})
        for generation in self._running:
            generation.mailbox.close(_draining("This server has been stopped and its drain time is over."))

    async def close(self) -> None:
        """End the core and the template's worker."""
        if self._model is not None:
            await self._model.templates.close()
        await asyncio.to_thread(self.tracer.close)
        await self.client.close()

    @property
    def phase(self) -> Phase:
        """Where the server stands."""
        if self.failure is not None or self.client.state is CoreState.FAILED:
            return Phase.FAILED
        if self._draining:
            return Phase.DRAINING
        return Phase.SERVING if self._model is not None else Phase.LOADING

    def health(self) -> Health:
        """Return whether this process and its core do what they should."""
        if isinstance(self.failure, EngineError):
            return Health(False, self.failure.reason, str(self.failure))
        return self.client.health()

    def admit(self) -> None:
        """Refuse a request that comes too early or too late. Raises RequestError."""
        match self.phase:
            case Phase.SERVING:
                return
            case Phase.LOADING:
                raise RequestError("The model is still being loaded.", code="loading", status=503)
            case Phase.DRAINING:
                raise _draining("This server is being stopped.")
            case Phase.FAILED:
                raise RequestError(self.health().message, code="engine_failed", status=500)

    @property
    def model(self) -> Model:
        """What is loaded; for requests that were admitted."""
        if self._model is None:
            raise RequestError("The model is still being loaded.", code="loading", status=503)
        return self._model

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request as in flight, until its answer is written: a drain waits for it."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    # Requests

    def check_name(self, name: str | None) -> None:
        """Refuse a model name that is not served here."""
        if name is not None and name not in self.settings.served_names:
            served = ", ".join(self.settings.served_names)
            raise RequestError(
                f"The model {name!r} is not served here; served: {served}.",
                param="model",
                code="model_not_found",
                status=404,
            )

    def check_generates(self) -> None:
        """Refuse to generate text with a model that makes embeddings."""
        if self.model.ready.pooling is not None:
            raise RequestError(
                "This model makes embeddings and generates no text; use /v1/embeddings.",
                code="embedding_model",
            )

    def pooling(self) -> Pooling:
        """Return how the model makes embeddings. Raises RequestError where it makes none."""
        pooling = self.model.ready.pooling
        if pooling is None:
            raise RequestError(
                "This model generates text and makes no embeddings; serve one with a sentence-transformers "
                "configuration (modules.json), or use /v1/completions.",
                code="no_embedding_model",
            )
        return pooling

    def shown(self, prompt: Prompt) -> str:
        """Return a prompt as text."""
        if prompt.text is not None:
            return prompt.text
        return self.model.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)

    @contextmanager
    def run(self, job: Job) -> Iterator[Generation]:
        """Keep a generation in the books while it runs."""
        generation = Generation(job, self.client, self.metrics)
        self._running.add(generation)
        try:
            yield generation
        finally:
            self._running.discard(generation)

    async def encode(self, text: str, *, add_special_tokens: bool, param: str) -> list[int]:
        """Return the token ids of a prompt, off the event loop. Raises RequestError."""
        model = self.model
        limit = model.ready.max_model_len
        if model.tokenizer.least_tokens(text) > limit:
            raise _too_long(f"more than {limit}", limit, param)
        return await asyncio.to_thread(model.tokenizer.encode, text, add_special_tokens=add_special_tokens)

    def check_prompt(self, prompt: Sequence[int], param: str, *, room: int = 1) -> None:
        """Refuse a prompt that is empty, leaves no room for an answer, or has ids that are no tokens."""
        ready = self.model.ready
        if not prompt:
            raise RequestError(f"{param} is empty; send at least one token.", param=param)
        if len(prompt) + room > ready.max_model_len:
            raise _too_long(str(len(prompt)), ready.max_model_len, param)
        if min(prompt) < 0 or max(prompt) >= ready.vocab_size:
            raise RequestError(f"{param} has token ids outside 0 to {ready.vocab_size - 1}.", param=param)


def _draining(sentence: str) -> RequestError:
    return RequestError(f"{sentence} Send the request again.", code="draining", status=503)


def _too_long(length: str, limit: int, param: str) -> RequestError:
    return RequestError(
        f"{param} has {length} tokens; this model's limit is {limit} for prompt and answer together.",
        param=param,
        code="context_length_exceeded",
    )
