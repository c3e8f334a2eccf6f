"""What a request asks for: its deployment, its size, and the body that the engine gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from slipway_gateway import affinity, bodies, errors, estimate, fair, headers, usage
from slipway_gateway.fleet import Fleet, Pods
from slipway_gateway.line import Ask
from slipway_gateway.objects import Deployment, Endpoint, Key
from slipway_gateway.record import Record
from slipway_gateway.routing import Routes, Sight, upstream_model
from slipway_gateway.tenants import Caller
from slipway_gateway.world import World


@dataclass(slots=True)
class Delivery:
    """A request on its way to one of its deployment's pods."""

    request: web.BaseRequest
    caller: Caller
    deployment: Deployment
    path: str
    body: bytes
    headers: dict[str, str]
    pods: Pods
    record: Record
    ask: Ask
    prompt_tokens: int
    """About."""
    answer_tokens: int
    """At most."""
    prefix: bytes | None = None
    """The beginning of the prompt, where it decides on the pod."""
    tried: list[Endpoint] = field(default_factory=list)

    @property
    def key(self) -> Key:
        """The deployment's namespace and name."""
        return self.deployment.key


class Reader:
    """Understands requests."""

    def __init__(self, world: World, fleet: Fleet, *, set_salt: bool, stream_usage: bool) -> None:
        self._world = world
        self._fleet = fleet
        self._set_salt = set_salt
        self._stream_usage = stream_usage

    def understand(
        self, request: web.BaseRequest, path: str, raw: bytes, caller: Caller, record: Record
    ) -> Delivery:
        """Return what a body asks for, or refuse it."""
        body = bodies.parse(raw)
        asked = body.get("model")
        if not isinstance(asked, str) or not asked:
            raise errors.bad_request("'model' is missing; name a model that GET /v1/models lists.", "model")
        deployment = find(self._world.routes(), asked, caller.sight)
        record.deployment, record.digest = deployment.key, deployment.digest
        changes = self._changes(deployment, body, asked, caller, record)
        prompt, answer = estimate.prompt_tokens(body), estimate.answer_tokens(body)
        to_pod = headers.to_pod(request.headers, record.request_id)
        record.trace_id = headers.trace_id(to_pod)
        work = fair.work(prompt, min(answer, estimate.ANSWER_TOKENS))
        return Delivery(
            request=request,
            caller=caller,
            deployment=deployment,
            path=path,
            body=body.with_members(changes) if changes else raw,
            headers=to_pod,
            pods=self._fleet.of(deployment.key),
            record=record,
            ask=Ask(deployment.key, caller.tenant, len(raw), work, headers.patience(request.headers)),
            prompt_tokens=prompt,
            answer_tokens=answer,
            prefix=_prefix(deployment, body, caller),
        )

    def _changes(
        self, deployment: Deployment, body: bodies.Body, asked: str, caller: Caller, record: Record
    ) -> dict[str, Any]:
        """Return the members of the body that the engine gets in another form."""
        changes: dict[str, Any] = {}
        if (name := upstream_model(deployment, asked)) != asked:
            changes["model"] = name
        if self._set_salt and caller.salt is not None:
            changes["cache_salt"] = caller.salt
        if self._stream_usage:
            options = usage.wanted(body.get("stream"), body.get("stream_options"))
            if options is not None:
                changes["stream_options"] = options
                record.tally.hide = True
        return changes


def find(routes: Routes, asked: str, sight: Sight) -> Deployment:
    """Return the deployment that `asked` means to a caller, or refuse with the names that would work."""
    deployment = routes.resolve(asked, sight)
    if deployment is None:
        raise errors.model_not_found(asked, (name for name, _ in routes.names(sight)))
    return deployment


def _prefix(deployment: Deployment, body: bodies.Body, caller: Caller) -> bytes | None:
    if deployment.prefix_characters is None:
        return None
    prompt = {name: body.get(name) for name in ("messages", "prompt", "input") if name in body.members}
    return affinity.beginning(prompt, deployment.prefix_characters, caller.salt)
