"""The API server: the only module that imports the Kubernetes client.

Paths come from `Kind`, so no discovery is needed. Every failure leaves here as one of `errors`, every
request is counted.
"""

from __future__ import annotations

import asyncio
import builtins
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import client, config, dynamic

from slipway_api import names
from slipway_operator.errors import (
    Conflict,
    Denied,
    Invalid,
    LeadershipLost,
    Missing,
    NotPermitted,
    OperatorError,
    Retryable,
    Terminal,
)
from slipway_operator.kinds import EVENT, LEASE, Key, Kind, Object, key_of, rights_on
from slipway_operator.moments import Clock, steady_clock

REQUEST_TIMEOUT: Final = 30.0
PAGE: Final = 500
CONNECTIONS: Final = 64

Count = Callable[[str, str, str], None]
"""Called with verb, resource and outcome (HTTP status or `error`) of every request."""

# Webhooks and policies may refuse with any client error; their sentence says so.
_ADMISSION: Final = re.compile(r"admission webhook|AdmissionPolicy|is forbidden:")
# A webhook that does not answer refuses as well, with a 500: a person has to look at it.
_SILENT_WEBHOOK: Final = re.compile(r"failed calling webhook")
# A field that the kind does not have: server-side apply answers 500 to it.
_UNTYPED: Final = re.compile(r"failed to create typed patch object")
# What the authoriser says when a right is missing; every other 403 comes from admission.
_NO_RIGHT: Final = (
    " cannot get resource",
    " cannot list resource",
    " cannot create resource",
    " cannot patch resource",
    " cannot update resource",
    " cannot delete resource",
)


def _uncounted(verb: str, resource: str, outcome: str) -> None:
    """Count nothing."""


class Kube:
    """A connection to one API server."""

    def __init__(self, api: client.ApiClient, count: Count = _uncounted) -> None:
        self._dynamic = dynamic.DynamicClient(api)
        self._count = count
        self._clock: Clock | None = None
        self._may_write: Callable[[], bool] = lambda: True

    def now(self) -> float:
        """Return the API server's time in seconds since 1970; before its first answer, this machine's.

        The timestamps of a cluster come from its own clocks, so a machine whose clock is wrong must not
        compare them with its own. After the first answer only the monotonic clock counts.
        """
        return (self._clock or steady_clock())()

    def fence(self, may_write: Callable[[], bool]) -> None:
        """Refuse every write but the Lease's while `may_write` says no, even in the middle of a reconcile."""
        self._may_write = may_write

    async def get(self, kind: Kind, key: Key) -> Object | None:
        """Return one object, or None where there is none."""
        try:
            return await self._call("get", kind, key.namespace, key.name)
        except Missing:
            return None

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None
    ) -> tuple[list[Object], int]:
        """Return all objects of a kind and the resource version at which the list is true, page by page."""
        items: list[Object] = []
        token: str | None = None
        while True:
            page = await self._call(
                "list", kind, namespace, label_selector=labels, limit=PAGE, _continue=token
            )
            items += [_typed(kind, item) for item in page.get("items") or ()]
            token = page["metadata"].get("continue")
            if not token:
                version = str(page["metadata"].get("resourceVersion", ""))
                return items, int(version) if version.isdigit() else 0

    async def apply(
        self,
        kind: Kind,
        key: Key,
        body: Object,
        *,
        subresource: str | None = None,
        force: bool = True,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply `body` as the operator's field manager; return the object as it is now.

        With `dry_run` nothing is stored; the answer is what would have been.
        """
        more = {"dry_run": "All"} if dry_run else {}
        return await self._call(
            "apply",
            kind,
            key.namespace,
            key.name,
            subresource=subresource,
            body=json.dumps(body),
            content_type=_APPLY,
            field_manager=names.FIELD_MANAGER,
            force_conflicts="true" if force else "false",
            **more,
        )

    async def delete(self, kind: Kind, obj: Object) -> None:
        """Delete this very version of an object. Raises Conflict where it changed, Missing where gone."""
        key, meta = key_of(obj), obj["metadata"]
        exactly = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        body = {"preconditions": exactly, "propagationPolicy": "Background"}
        await self._call("delete", kind, key.namespace, key.name, body=body)

    async def pod_events(self, namespace: str, pod_uid: str, reason: str) -> builtins.list[Object]:
        """Return the events of one pod that have `reason`."""
        selector = f"involvedObject.uid={pod_uid},reason={reason}"
        page = await self._call("list", EVENT, namespace, field_selector=selector, limit=20)
        return list(page.get("items") or ())

    async def create_event(self, about: Object, reason: str, message: str, *, warning: bool) -> None:
        """Write a Kubernetes event about an object, which is told apart from others by its time."""
        key, now = key_of(about), datetime.now(UTC)
        moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": f"{key.name}.{int(now.timestamp() * 1e6):x}", "namespace": key.namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": key.name,
                "namespace": key.namespace,
                "uid": about["metadata"].get("uid", ""),
            },
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:1000],
            "source": {"component": names.FIELD_MANAGER},
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }
        await self._call("create", EVENT, key.namespace, body=body)

    async def create_lease(self, key: Key, body: Object) -> Object:
        """Create a Lease. Raises Conflict where there is one."""
        return await self._call("create", LEASE, key.namespace, body=body)

    async def replace_lease(self, key: Key, body: Object) -> Object:
        """Write a Lease. Raises Conflict where it changed since it was read."""
        return await self._call("update", LEASE, key.namespace, key.name, body=body)

    async def _call(
        self,
        verb: str,
        kind: Kind,
        namespace: str | None,
        name: str | None = None,
        *,
        subresource: str | None = None,
        **params: Any,
    ) -> Object:
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        what = f"{verb} {resource} {Key(namespace or '*', name or '*')}"
        path = kind.path(namespace, name, subresource)
        if _RIGHTS.get(verb, verb) not in rights_on(kind, subresource):
            raise NotPermitted(f"{what}: not among the operator's rights (`kinds.rights_on` and the chart)")
        if verb in _FENCED and kind != LEASE and not self._may_write():
            raise LeadershipLost(f"{what}: the Lease was not renewed in time, so another operator may lead")
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                response = await self._dynamic.request(
                    _METHODS[verb],
                    path,
                    serialize=False,
                    **{k: v for k, v in params.items() if v is not None},
                )
                answer: Object = await response.json()
        except dynamic.exceptions.DynamicApiError as error:
            self._count(verb, resource, str(error.status))
            raise _translate(what, error) from error
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError, OSError, ValueError) as error:
            self._count(verb, resource, "error")
            raise Retryable(f"{what}: {type(error).__name__}: {error}") from error
        self._count(verb, resource, str(response.status))
        self._clock = self._clock or _clock_of(response.headers.get("Date", ""))
        return answer


_METHODS: Final = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "update": "PUT",
    "apply": "PATCH",
    "delete": "DELETE",
}


_FENCED: Final = frozenset({"create", "update", "apply", "delete"})

# With a character set the client sends the text as it is; else it walks every object once more before that.
_APPLY: Final = "application/apply-patch+yaml; charset=utf-8"

# Applying creates too; who may patch a child may create it, and the status is never created.
_RIGHTS: Final = {"apply": "patch"}


def _typed(kind: Kind, item: Object) -> Object:
    """Return a list's item with the type that lists leave out."""
    return {"apiVersion": kind.api_version, "kind": kind.kind, **item}


def _translate(what: str, error: dynamic.exceptions.DynamicApiError) -> OperatorError:
    message = _message_of(error)
    text = f"{what}: {message}"
    match error.status:
        case HTTPStatus.NOT_FOUND:
            return Missing(text)
        case HTTPStatus.CONFLICT:
            return Conflict(text)
        case HTTPStatus.UNAUTHORIZED:
            return NotPermitted(text)
        case HTTPStatus.FORBIDDEN if any(phrase in message for phrase in _NO_RIGHT):
            return NotPermitted(text)
        case HTTPStatus.FORBIDDEN:
            return Denied(message)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Retryable(text, after=_retry_after(error))
        case status if (
            status is not None and HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        ):
            return _refused(message, status)
        case _ if _UNTYPED.search(message):
            return Invalid(message)
        case _ if _SILENT_WEBHOOK.search(message):
            return Denied(message)
        case _:
            return Retryable(text, after=_retry_after(error))


def _refused(message: str, status: int) -> OperatorError:
    if _ADMISSION.search(message):
        return Denied(message)
    return Invalid(message) if status == HTTPStatus.UNPROCESSABLE_ENTITY else Terminal(message)


def _message_of(error: dynamic.exceptions.DynamicApiError) -> str:
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body or ""
    try:
        parsed = json.loads(body)
    except ValueError:
        return body[:500] or str(error.reason)
    message = parsed.get("message") if isinstance(parsed, dict) else None
    return str(message or error.reason)


def _clock_of(date: str) -> Clock | None:
    """Return a clock that starts at an answer's `Date`; None where that is none."""
    try:
        moment = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    return steady_clock(wall=lambda: moment)


def _retry_after(error: dynamic.exceptions.DynamicApiError) -> float | None:
    value = (error.headers or {}).get("Retry-After", "")
    return float(value) if value.isdigit() else None


async def _load_kubeconfig(configuration: client.Configuration) -> None:
    try:
        await config.load_kube_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise Terminal(
            f"no API server is known: this is no pod with a service account, and {error}; "
            f"set KUBECONFIG to a file that names a cluster"
        ) from error


def _proxy_to(server: str) -> str | None:
    """Return the proxy that the environment names for a URL, unless NO_PROXY excepts it."""
    parts = urlsplit(server)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


@asynccontextmanager
async def connect(count: Count = _uncounted) -> AsyncIterator[Kube]:
    """Connect as the pod's service account, or, outside a cluster, as KUBECONFIG says. Raises Terminal."""
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        await _load_kubeconfig(configuration)
    configuration.connection_pool_maxsize = CONNECTIONS
    configuration.proxy = configuration.proxy or _proxy_to(configuration.host)
    # Else aiohttp asks the environment and ~/.netrc anew for every request, each in a thread: half its cost.
    configuration.client_session_kwargs = {"trust_env": False}
    async with client.ApiClient(configuration) as api:
        api.user_agent = names.FIELD_MANAGER
        yield Kube(api, count)
