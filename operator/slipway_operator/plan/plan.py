"""The plan for one LLMDeployment: its children, or the sentence why there can be none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from slipway_api.conditions import Reason
from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.kinds import Kind, Object, key_of
from slipway_operator.plan.classes import Refused, classed
from slipway_operator.plan.effective import Effective, UnknownAccelerator, resolve
from slipway_operator.plan.installation import Installation
from slipway_operator.plan.render import render_children
from slipway_operator.plan.support import unsupported_field

MAX_PROBLEMS = 3


@dataclass(frozen=True)
class Plan:
    """What should be."""

    suspended: bool
    values: Effective
    children: Mapping[Kind, Object]
    revision: str

    @property
    def replicas(self) -> int:
        """Return the number of pods wanted."""
        return self.values.replicas


@dataclass(frozen=True)
class Refusal:
    """Why the object cannot be planned. Nothing that exists is touched."""

    reason: Reason
    message: str


def make_plan(
    parent: Mapping[str, Any], installation: Installation, classes: Mapping[str, Object] | None = None
) -> Plan | Refusal:
    """Return the plan for an LLMDeployment as the API server stores it; `classes` are all there are."""
    try:
        given = LLMDeploymentSpec.model_validate(parent.get("spec") or {})
        found = classed(given, key_of(parent).namespace, classes or {})
        spec = found.spec
        missing = unsupported_field(spec)
        if missing is not None:
            return Refusal(Reason.UNSUPPORTED_FIELD, missing)
        values = resolve(key_of(parent).name, found, installation)
    except ValidationError as error:
        return Refusal(Reason.INVALID_SPEC, explain(error))
    except Refused as error:
        return Refusal(error.reason, str(error))
    except UnknownAccelerator as error:
        return Refusal(Reason.UNKNOWN_ACCELERATOR, str(error))
    children, revision = render_children(parent, spec, values, installation)
    return Plan(spec.suspend, values, children, revision)


def explain(error: ValidationError) -> str:
    """Return a validation error as one sentence: each field's path, what is wrong, what was found."""
    problems = error.errors(include_url=False, include_context=False)
    shown = [_problem(problem) for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        shown.append(f"and {len(problems) - MAX_PROBLEMS} more")
    return "; ".join(shown)


def _problem(problem: Mapping[str, Any]) -> str:
    path = ".".join(["spec", *(str(part) for part in problem["loc"])])
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{path} is not a field that this operator knows; remove it, or upgrade the operator"
    if problem["type"] == "missing":
        return f"{path} is missing"
    return f"{path}: {text[:1].lower()}{text[1:]}"
