"""Reads what the API server sends into slim, typed records; what the gateway does not need is dropped.

Lenient about fields it does not know (a newer CRD must not stop routing), strict about those it uses: an
object that cannot be read is `None`, never an exception.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from slipway_api import claims
from slipway_api.names import LABEL_DEPLOYMENT

LABEL_SERVICE = "kubernetes.io/service-name"
LABEL_TENANT = "slipway.dev/tenant"
PORT_NAME = "http"
MAX_SENTENCE = 600
PREFIX_AFFINE = "prefix-affine"
PREFIX_CHARACTERS = 100


class Key(NamedTuple):
    """Namespace and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What routing needs of an LLMDeployment."""

    key: Key
    created: str
    """creationTimestamp: RFC 3339 in UTC, so text order is time order."""
    uid: str
    served_names: tuple[str, ...]
    suspended: bool
    sentence: str
    """The message of its Ready condition while that is not True: why it does not serve."""
    prefix_characters: int | None = None
    """How much of a prompt decides on the pod; None: the least loaded one is taken."""
    adapters: tuple[str, ...] = ()
    """Names of its LoRA adapters, which are asked for like models."""
    from_zero: bool = False
    """Whether it may be at zero and be woken: autoscaling.minReplicas is 0, and nothing blocks it."""
    sequences: int | None = None
    """Requests that one of its pods carries at a time, as far as its status says."""
    max_held: int | None = None
    max_hold_seconds: int | None = None
    digest: str = ""
    """Of the model: its digest, or the commit it was resolved to."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every bare name that it claims."""
        return (*self.served_names, *self.adapters)

    @property
    def age_order(self) -> claims.Age:
        """Sorts the oldest claim first."""
        return claims.age_order(self.created, self.uid, *self.key)


class Endpoint(NamedTuple):
    """A ready pod."""

    origin: str
    """`http://address:port`, ready to be put before a path."""
    pod: str
    uid: str


@dataclass(frozen=True, slots=True)
class Slice:
    """What routing needs of an EndpointSlice."""

    key: Key
    service: Key
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class SecretData:
    """A Secret that may describe a tenant; its values are still base64."""

    key: Key
    uid: str
    tenant: str
    data: Mapping[str, str]

    def __repr__(self) -> str:
        # A record that ends up in a traceback or a log must not carry its values there.
        return f"SecretData({self.key})"


def read_key(obj: Any) -> Key | None:
    """Return namespace and name of any object."""
    meta = _mapping(_mapping(obj).get("metadata"))
    namespace, name = meta.get("namespace"), meta.get("name")
    if isinstance(namespace, str) and isinstance(name, str) and namespace and name:
        return Key(namespace, name)
    return None


def read_deployment(obj: Any) -> Deployment | None:
    """Read an LLMDeployment."""
    key = read_key(obj)
    if key is None:
        return None
    meta, spec = _mapping(obj.get("metadata")), _mapping(obj.get("spec"))
    status = _mapping(obj.get("status"))
    scaling = spec.get("autoscaling")
    parked = spec.get("suspend") is True or (not scaling and spec.get("replicas") == 0)
    routing, effective = _mapping(spec.get("routing")), _effective(status)
    return Deployment(
        key=key,
        created=_text(meta.get("creationTimestamp")),
        uid=_text(meta.get("uid")),
        served_names=claims.served_names(key.name, spec),
        suspended=parked,
        sentence=_why_not_ready(status),
        prefix_characters=_prefix_characters(routing),
        adapters=claims.adapter_names(key.name, spec),
        from_zero=not parked and _mapping(scaling).get("minReplicas") == 0 and not _blocked(status),
        sequences=_count(effective.get("engine.maxNumSeqs"), least=1),
        max_held=_count(routing.get("maxHeldRequests", effective.get("routing.maxHeldRequests"))),
        max_hold_seconds=_count(routing.get("maxHoldSeconds", effective.get("routing.maxHoldSeconds"))),
        digest=_text(_mapping(status.get("model")).get("digest"))
        or _text(_mapping(status.get("model")).get("commit")),
    )


def _effective(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values in force, by field: a class may have set them."""
    values = map(_mapping, _list(_mapping(status.get("plan")).get("effective")))
    return {_text(entry.get("field")): entry.get("value") for entry in values}


def _count(value: Any, least: int = 0) -> int | None:
    """Return a count, which the status writes as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= least else None


def _blocked(status: Mapping[str, Any]) -> bool:
    """Return whether waiting is in vain: the operator gave up on it, or refuses it."""
    conditions = {c.get("type"): c.get("status") for c in map(_mapping, _list(status.get("conditions")))}
    return conditions.get("Stalled") == "True" or conditions.get("Accepted") == "False"


def _prefix_characters(routing: Mapping[str, Any]) -> int | None:
    if routing.get("policy") != PREFIX_AFFINE:
        return None
    characters = routing.get("prefixCharacters")
    return characters if isinstance(characters, int) and characters > 0 else PREFIX_CHARACTERS


def _why_not_ready(status: Mapping[str, Any]) -> str:
    for condition in map(_mapping, _list(status.get("conditions"))):
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            return _text(condition.get("message"))[:MAX_SENTENCE]
    return ""


def read_slice(obj: Any) -> Slice | None:
    """Read an EndpointSlice of an LLMDeployment's Service."""
    key = read_key(obj)
    if key is None:
        return None
    labels = _mapping(_mapping(obj.get("metadata")).get("labels"))
    service, owner = labels.get(LABEL_SERVICE), labels.get(LABEL_DEPLOYMENT)
    if not isinstance(service, str) or service != owner:
        return None  # another Service of the deployment (a headless one of a group, say) is not its front
    port = _port(_list(obj.get("ports")))
    if port is None:
        return Slice(key, Key(key.namespace, service), ())
    ready = (_endpoint(_mapping(entry), port) for entry in _list(obj.get("endpoints")))
    return Slice(key, Key(key.namespace, service), tuple(e for e in ready if e is not None))


def _port(ports: list[Any]) -> int | None:
    """Return the port named http, or the only one there is."""
    entries = [p for p in map(_mapping, ports) if p.get("protocol") in (None, "TCP")]
    chosen = [p for p in entries if p.get("name") == PORT_NAME] or (entries if len(entries) == 1 else [])
    number = chosen[0].get("port") if chosen else None
    return number if isinstance(number, int) and 0 < number < 65536 else None


def _endpoint(entry: Mapping[str, Any], port: int) -> Endpoint | None:
    # `ready` absent means unknown, which the API documents to be read as ready.
    if _mapping(entry.get("conditions")).get("ready") is False:
        return None
    host = _host(_list(entry.get("addresses")))
    if host is None:
        return None
    target = _mapping(entry.get("targetRef"))
    return Endpoint(f"http://{host}:{port}", _text(target.get("name")), _text(target.get("uid")) or host)


def _host(addresses: list[Any]) -> str | None:
    """Return the first address as it stands in a URL, or None for what no pod can have.

    Names are refused: the gateway never resolves what somebody wrote into a slice. Loopback is left to the
    API server, which refuses it (and link-local) in every EndpointSlice.
    """
    try:
        address = ipaddress.ip_address(addresses[0] if addresses else "")
    except ValueError:
        return None
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return None
    return f"[{address}]" if address.version == 6 else str(address)


def read_secret(obj: Any) -> SecretData | None:
    """Read a Secret that carries the tenant label."""
    key = read_key(obj)
    if key is None:
        return None
    meta = _mapping(obj.get("metadata"))
    tenant = _text(_mapping(meta.get("labels")).get(LABEL_TENANT))
    data = {k: v for k, v in _mapping(obj.get("data")).items() if isinstance(v, str)}
    return SecretData(key, _text(meta.get("uid")), tenant, data) if tenant else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
