"""Which class is in force for an object, and whether the object keeps to it: pure, and strict where in doubt.

A class that cannot be read refuses whoever names it, and still counts where it asks for a class everywhere.
Nothing is written into the object: what a class adds is seen in `status.plan.effective` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from slipway_api.conditions import Reason
from slipway_api.v1alpha1 import LLMClassSpec, LLMDeploymentSpec, with_defaults
from slipway_operator.kinds import Object
from slipway_operator.plan.permissions import names_token, violations

MAX_SHOWN = 3


@dataclass(frozen=True)
class Classed:
    """A spec with its class's defaults filled in.

    `given` is what the object says, `spec` that and the defaults; `name` and `offer` are the class, None
    where none is in force.
    """

    given: LLMDeploymentSpec
    spec: LLMDeploymentSpec
    name: str | None = None
    offer: LLMClassSpec | None = None


class Refused(ValueError):
    """The object may not be, or not like this; `reason` names which."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def classed(spec: LLMDeploymentSpec, namespace: str, classes: Mapping[str, Object] | None) -> Classed:
    """Return a spec with what its class adds; no classes are read where they are None. Raises Refused."""
    if names_token(spec):
        raise Refused(
            Reason.INVALID_SPEC,
            "podTemplate.volumes projects a service account token, and engine pods get none; remove that "
            "source",
        )
    if classes is None:
        if spec.class_name is not None:
            raise Refused(
                Reason.CLASS_NOT_FOUND,
                f"LLMClass {spec.class_name} is not known: this operator was installed without the right to "
                "read classes; remove spec.className, or have it installed with watchClasses: true",
            )
        return Classed(spec, spec)
    name = spec.class_name or _default(classes)
    if name is None:
        _refuse_where_one_is_required(classes)
        return Classed(spec, spec)
    offer = _offer(name, classes)
    if not namespace_allowed(namespace, offer.allowed_namespaces):
        raise Refused(
            Reason.CLASS_DENIED,
            f"class {name} is not open to namespace {namespace} (allowedNamespaces: "
            f"{_some(offer.allowed_namespaces or ())}); name another class in spec.className",
        )
    merged = _merged(spec, name, offer)
    found = violations(spec, merged, offer)
    if found:
        more = f"; and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
        raise Refused(
            Reason.CLASS_DENIED, f"class {name} does not allow: {'; '.join(found[:MAX_SHOWN])}{more}"
        )
    return Classed(spec, merged, name, offer)


def namespace_allowed(namespace: str, patterns: Sequence[str] | None) -> bool:
    """Return whether a namespace is among `patterns`: names, or beginnings that end in `*`; None is all."""
    return patterns is None or any(
        namespace.startswith(pattern[:-1]) if pattern.endswith("*") else namespace == pattern
        for pattern in patterns
    )


def _default(classes: Mapping[str, Object]) -> str | None:
    """Return the oldest class that says it is the default."""
    defaults = [(_age(obj), name) for name, obj in classes.items() if _raw(obj).get("default") is True]
    return min(defaults)[1] if defaults else None


def _refuse_where_one_is_required(classes: Mapping[str, Object]) -> None:
    requiring = sorted(name for name, obj in classes.items() if _raw(obj).get("requireClass") is True)
    if requiring:
        raise Refused(
            Reason.CLASS_REQUIRED,
            f"class {requiring[0]} requires a class of every object, and this one has none; set "
            f"spec.className to one of {_some(sorted(classes))}",
        )


def _offer(name: str, classes: Mapping[str, Object]) -> LLMClassSpec:
    obj = classes.get(name)
    if obj is None:
        known = f"one of {_some(sorted(classes))}" if classes else "no class: there is none"
        raise Refused(
            Reason.CLASS_NOT_FOUND, f"LLMClass {name} does not exist; set spec.className to {known}"
        )
    try:
        return LLMClassSpec.model_validate(_raw(obj))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(["spec", *(str(part) for part in problem["loc"])])
        raise Refused(
            Reason.CLASS_INVALID,
            f"LLMClass {name} cannot be read: {where}: {problem['msg']}; whoever owns the class has to "
            "correct it",
        ) from error


def _merged(spec: LLMDeploymentSpec, name: str, offer: LLMClassSpec) -> LLMDeploymentSpec:
    if offer.defaults is None:
        return spec
    try:
        return with_defaults(spec, offer.defaults)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise Refused(
            Reason.INVALID_SPEC,
            f"the object and the defaults of class {name} contradict each other: "
            f"{str(problem['msg']).removeprefix('Value error, ')}",
        ) from error


def _raw(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = obj.get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _age(obj: Mapping[str, Any]) -> str:
    # A class without a timestamp is one from a file; any that is in the cluster is older.
    return str(obj["metadata"].get("creationTimestamp") or "9999")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "none"
