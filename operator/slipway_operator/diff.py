"""Whether a live object differs from what the operator would apply. Pure.

Three questions. Is every rendered field there with an equal value (the server's defaults, which we did not
render, do not matter; `1000m` equals `1`)? Does our entry of `managedFields` own every one of them still
(who adds a key to a map that is one value, such as a Service's selector, takes the map from us)? And does it
own nothing that we do not render any more (server-side apply removes such a field)?
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from slipway_api import names
from slipway_api.quantity import parse_quantity

# The keys by which the API merges lists of objects, by the name of the list's field.
LIST_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "conditions": ("type",),
    "effective": ("field",),
    "signals": ("name",),
    "revisions": ("name",),
}
PORT_KEYS: Final = (("containerPort", "protocol"), ("port", "protocol"))
QUANTITY_FIELDS: Final = frozenset({"requests", "limits"})
# What each child is made of; the rest of an object (its type, the data of a ControllerRevision, which cannot
# be changed) is not compared.
BODY_FIELDS: Final = ("metadata", "spec", "status", "revision")
IDENTITY_FIELDS: Final = frozenset({"name", "namespace", "uid", "resourceVersion"})


def differs(live: Mapping[str, Any], rendered: Mapping[str, Any], *, subresource: str = "") -> bool:
    """Return whether applying `rendered` over `live` would change anything."""
    wanted, found, owned = _body(rendered), _body(live), _owned_fields(live, subresource)
    return not covers(found, wanted) or not _owns_all(owned, wanted) or _owns_more(owned, wanted)


def covers(live: Any, rendered: Any, field: str = "") -> bool:
    """Return whether `live` holds everything in `rendered` with equal values."""
    if isinstance(rendered, dict):
        if not isinstance(live, dict):
            return False
        return all(_covers_field(live, name, value, field) for name, value in rendered.items())
    if isinstance(rendered, list):
        return isinstance(live, list) and _covers_list(live, rendered, field)
    return bool(live == rendered and isinstance(live, bool) == isinstance(rendered, bool))


def _body(obj: Mapping[str, Any]) -> dict[str, Any]:
    body = {name: obj[name] for name in BODY_FIELDS if name in obj}
    metadata = {k: v for k, v in body.get("metadata", {}).items() if k not in IDENTITY_FIELDS}
    return {**body, "metadata": metadata}


def _covers_field(live: Mapping[str, Any], name: str, value: Any, parent: str) -> bool:
    if name not in live:
        return _is_empty(value)  # the server drops empty optional fields
    if parent in QUANTITY_FIELDS:
        return _same_quantity(live[name], value)
    return covers(live[name], value, name)


def _is_empty(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


def _same_quantity(left: Any, right: Any) -> bool:
    try:
        return parse_quantity(str(left)) == parse_quantity(str(right))
    except ValueError:
        return bool(left == right)


def _covers_list(live: Sequence[Any], rendered: Sequence[Any], field: str) -> bool:
    keys = _list_keys(field, rendered)
    if keys is None:
        return len(live) == len(rendered) and all(
            covers(have, want, field) for have, want in zip(live, rendered, strict=True)
        )
    found = {_list_key(item, keys): item for item in live}
    return all(covers(found.get(_list_key(item, keys)), item) for item in rendered)


def _list_keys(field: str, rendered: Sequence[Any]) -> tuple[str, ...] | None:
    if field != "ports":
        return LIST_KEYS.get(field)
    return next((keys for keys in PORT_KEYS if rendered and keys[0] in rendered[0]), None)


def _list_key(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(item.get(key) for key in keys)


def _owned_fields(live: Mapping[str, Any], subresource: str) -> Mapping[str, Any]:
    """Return the fields that our field manager owns by applying, in the notation of fieldsV1."""
    for entry in live["metadata"].get("managedFields") or ():
        ours = entry.get("manager") == names.FIELD_MANAGER and entry.get("operation") == "Apply"
        if ours and entry.get("subresource", "") == subresource:
            fields = entry.get("fieldsV1") or {}
            return {path: sub for path, sub in fields.items() if path.removeprefix("f:") in BODY_FIELDS}
    return {}


def _owns_all(fields: Mapping[str, Any], rendered: Any) -> bool:
    """Return whether `fields` hold every field of `rendered`."""
    if isinstance(rendered, dict):
        return all(
            _is_empty(value) or (f"f:{name}" in fields and _owns_value(fields[f"f:{name}"], value))
            for name, value in rendered.items()
        )
    return all(
        any(_selects(path, item) and _owns_value(sub, item) for path, sub in fields.items())
        for item in rendered
    )


def _owns_value(fields: Mapping[str, Any], value: Any) -> bool:
    # An owned field without parts is one value: a scalar, or a map or list that is replaced as a whole.
    return not fields or not isinstance(value, (dict, list)) or _owns_all(fields, value)


def _selects(path: str, item: Any) -> bool:
    kind, _, text = path.partition(":")
    if kind == "v":
        return bool(json.loads(text) == item)
    if kind == "k" and isinstance(item, dict):
        return all(item.get(key) == value for key, value in json.loads(text).items())
    return False


def _owns_more(fields: Mapping[str, Any], rendered: Any) -> bool:
    children = [(name, sub) for name, sub in fields.items() if name != "."]
    return any(_missing(name, sub, rendered) for name, sub in children)


def _missing(name: str, sub: Mapping[str, Any], rendered: Any) -> bool:
    """Return whether the owned path element `name` (or something below it) is absent from `rendered`."""
    kind, _, text = name.partition(":")
    for value in _descend(kind, text, rendered):
        return _owns_more(sub, value)
    return True


def _descend(kind: str, text: str, rendered: Any) -> Iterator[Any]:
    """Yield what a path element of fieldsV1 selects: f:field, k:{keys}, v:value or i:index."""
    if kind == "f":
        if isinstance(rendered, dict) and text in rendered:
            yield rendered[text]
        return
    if not isinstance(rendered, list):
        return
    if kind == "i":
        yield from rendered[int(text) : int(text) + 1]
        return
    yield from (item for item in rendered if _selects(f"{kind}:{text}", item))
