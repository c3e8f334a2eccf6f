"""The routes."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from slipway_engine.errors import RequestError
from slipway_engine.process.client import CoreFailed
from slipway_engine.server.body import read_body
from slipway_engine.server.embedding_answer import EmbeddingAnswer
from slipway_engine.server.kinds import CHAT, COMPLETION, chat_prompt
from slipway_engine.server.metrics import CONTENT_TYPE
from slipway_engine.server.parsing import RequestT, parse
from slipway_engine.server.problems import on_http_exception, on_request_error, on_unexpected
from slipway_engine.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    ProfileRequest,
    TokenizeRequest,
)
from slipway_engine.server.service import Phase, Service
from slipway_engine.server.text_answer import TextAnswer

VERSION = version("slipway")


def create_app(service: Service) -> FastAPI:
    """Return the ASGI application that serves one model."""
    app = FastAPI(title="Slipway engine", version=VERSION, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_unexpected)
    _add_openai_routes(app, service)
    _add_text_routes(app, service)
    _add_probe_routes(app, service)
    if service.settings.profile_dir is not None:
        _add_profile_route(app, service, service.settings.profile_dir)
    return app


def _add_openai_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", openapi_extra=_body_of(CompletionRequest))
    async def completions() -> Response:
        return TextAnswer(service, COMPLETION)

    @app.post("/v1/chat/completions", openapi_extra=_body_of(ChatRequest))
    async def chat_completions() -> Response:
        return TextAnswer(service, CHAT)

    @app.post("/v1/embeddings", openapi_extra=_body_of(EmbeddingRequest))
    async def embeddings() -> Response:
        return EmbeddingAnswer(service)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse(
            {"object": "list", "data": [_card(service, n) for n in service.settings.served_names]}
        )

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.check_name(name)
        return JSONResponse(_card(service, name))


def _add_text_routes(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize", openapi_extra=_body_of(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        asked = await _asked(service, request, TokenizeRequest)
        ids = await _tokens(service, asked)
        model = service.model
        answer = {"count": len(ids), "max_model_len": model.ready.max_model_len, "tokens": ids}
        if asked.return_token_strs:
            answer["token_strs"] = [model.tokenizer.token_text(token_id) for token_id in ids]
        return JSONResponse(answer)

    @app.post("/detokenize", openapi_extra=_body_of(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        asked = await _asked(service, request, DetokenizeRequest)
        if asked.tokens:
            service.check_prompt(asked.tokens, "tokens", room=0)
        return JSONResponse(
            {"prompt": service.model.tokenizer.decode(asked.tokens, skip_special_tokens=False)}
        )


async def _tokens(service: Service, asked: TokenizeRequest) -> list[int]:
    if asked.messages is not None and asked.prompt is None:
        if asked.tools:
            service.model.templates.dialect()
        return list((await chat_prompt(service, asked, asked.tools or [])).token_ids)
    if asked.prompt is not None and asked.messages is None:
        return await service.encode(
            asked.prompt, add_special_tokens=asked.add_special_tokens is not False, param="prompt"
        )
    raise RequestError("Send either prompt or messages.", param="prompt")


def _add_probe_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        state = service.health()
        body = {"status": "ok" if state.ok else "failed", "reason": state.reason, "message": state.message}
        return JSONResponse(body, 200 if state.ok else 500)

    @app.get("/ready")
    async def ready() -> Response:
        state = service.health()
        phase = service.phase if state.ok else Phase.FAILED
        serving = phase is Phase.SERVING
        # Another replica may answer at once, so there is no point in a long wait.
        headers = None if serving else {"Retry-After": "1"}
        return JSONResponse({"status": phase.value}, 200 if serving else 503, headers)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE)

    @app.get("/version")
    async def shown_version() -> Response:
        return JSONResponse({"version": VERSION})


def _add_profile_route(app: FastAPI, service: Service, directory: Path) -> None:
    @app.post("/debug/profile", openapi_extra=_body_of(ProfileRequest))
    async def profile(request: Request) -> Response:
        asked = await _asked(service, request, ProfileRequest)
        file = directory / f"steps-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json"
        try:
            profiled = await service.client.profile(str(file), asked.steps, asked.seconds)
        except CoreFailed as error:
            raise RequestError(str(error), code="engine_failed", status=500) from error
        if profiled.error is not None:
            raise RequestError(profiled.error, code="not_profiled", status=409)
        return JSONResponse({"file": profiled.path, "steps": profiled.steps})


async def _asked(service: Service, request: Request, kind: type[RequestT]) -> RequestT:
    """Return the request in the body, once the service takes requests. Raises RequestError."""
    service.admit()
    settings = service.settings
    body = await read_body(request, limit=settings.max_body_bytes, seconds=settings.body_seconds)
    asked = parse(kind, body)
    service.check_name(getattr(asked, "model", None))
    return asked


def _card(service: Service, name: str) -> dict[str, Any]:
    card: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "slipway",
        "root": service.settings.served_names[0],
        "parent": None,
    }
    if service.phase is Phase.SERVING:
        card["max_model_len"] = service.model.ready.max_model_len
    return card


def _body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says of a body, which is read by hand to bound its size before it is parsed."""
    schema = kind.model_json_schema()
    whole = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole}}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return the schema with each reference replaced by what it names."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}
