"""From an LLMDeployment to what is simulated: its bounds at every moment, and its replica's figures.

The figures come from the object's status, where the operator keeps what a replica proved to bear; what no
status tells is assumed, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from slipway_api import names
from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_operator.autoscale import kept
from slipway_operator.autoscale.bounds import bounds_of
from slipway_operator.autoscale.terms import Bounds
from slipway_operator.kinds import Key
from slipway_operator.plan.profiles import PROFILES, custom_profile
from slipway_operator.simulate.policies import Ours, Static
from slipway_operator.simulate.replica import Speed
from slipway_operator.simulate.report import Slo
from slipway_operator.simulate.trace import TraceError
from slipway_operator.simulate.world import Policy, Setting

PLAIN_SLO: Final = Slo()


@dataclass(frozen=True)
class Deployment:
    """An object as a file or the API server has it."""

    key: Key
    spec: LLMDeploymentSpec
    status: Mapping[str, Any]


def load(path: Path) -> Deployment:
    """Return the first LLMDeployment of a YAML file. Raises TraceError."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    for body in documents:
        if isinstance(body, dict) and body.get("kind") == names.KIND:
            return deployment_of(body, "default")
    raise TraceError(f"{path} holds no {names.KIND}.")


def deployment_of(body: Mapping[str, Any], namespace: str) -> Deployment:
    """Return an object read. Raises TraceError where the API server would refuse it."""
    meta = body.get("metadata") or {}
    key = Key(str(meta.get("namespace") or namespace), str(meta.get("name") or ""))
    try:
        spec = LLMDeploymentSpec.model_validate(body.get("spec") or {})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TraceError(f"{key.name}: spec.{place}: {first['msg']}.") from error
    return Deployment(key, spec, body.get("status") or {})


def metrics_of(spec: LLMDeploymentSpec) -> Mapping[str, str]:
    """Return Slipway's names of metrics to those of the object's engine."""
    engine = spec.engine
    if engine is not None and engine.custom is not None:
        return custom_profile(engine.custom).metrics
    return PROFILES[(engine and engine.runtime) or "slipway"].metrics


def policy_of(spec: LLMDeploymentSpec, name: str, begin: float, most: int) -> tuple[Policy, list[str]]:
    """Return what decides on the replicas of an object, and what of it cannot be simulated, in sentences.

    `begin` is when the traffic began, in seconds since 1970, `most` the requests of one step of a replica.
    """
    scaling = spec.autoscaling
    if scaling is None or spec.suspend:
        count = 0 if spec.suspend else spec.replicas
        return Static(count, f"{name}: {count} fixed"), []
    metrics = [one for one in scaling.metrics or () if one.type != "Prometheus"]
    left_out = len(metrics) < len(scaling.metrics or ())
    played = scaling.model_copy(update={"metrics": metrics or None})
    remarks = [f"{name}: metrics of type Prometheus are left out; nothing tells what they would have been."]

    def bounds(at: float) -> Bounds:
        return bounds_of(played, spec.slo, most, begin + at)

    return Ours(bounds, name), remarks if left_out else []


def slo_of(spec: LLMDeploymentSpec) -> Slo:
    """Return the SLO that requests are held to: the object's, else 2 s and 150 ms."""
    given = spec.slo
    ttft = given.ttft_ms / 1000 if given and given.ttft_ms is not None else PLAIN_SLO.ttft
    tpot = given.tpot_ms / 1000 if given and given.tpot_ms is not None else PLAIN_SLO.tpot
    return Slo(ttft, tpot)


def setting_of(status: Mapping[str, Any], given: Mapping[str, float | None]) -> tuple[Setting, list[str]]:
    """Return a replica as the status knows it, and what is assumed; the command line's word goes before."""
    learned = (status.get("autoscaling") or {}).get("learned") or {}
    memory = (status.get("plan") or {}).get("memory") or {}
    effective = {
        one.get("field"): one.get("value") for one in (status.get("plan") or {}).get("effective") or ()
    }
    known: dict[str, Callable[[], object]] = {
        "base": lambda: learned.get("baseSeconds"),
        "each": lambda: learned.get("eachSeconds"),
        "prefill": lambda: None,
        "kv_tokens": lambda: memory.get("maxTokens"),
        "max_num_seqs": lambda: effective.get("engine.maxNumSeqs"),
    }
    speed, remarks = Speed(), []
    for field, told in known.items():
        value = given.get(field) if given.get(field) is not None else kept.positive(told())
        if value is None:
            remarks.append(
                f"{field} {getattr(speed, field):g} is assumed: neither the status nor a flag tells."
            )
        else:
            number = type(getattr(speed, field))(value)
            speed = replace(speed, **{field: number})
    start = given.get("start_seconds") or kept.start_of(learned) or Setting().start_seconds
    return Setting(speed, start), remarks
