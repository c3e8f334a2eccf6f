"""Fields of the API that this version does not act on. An object that sets one is refused by name.

The names of v1alpha1 are final before everything behind them works. Ignoring a field would promise what does
not happen, so each stands here until it does; whoever makes one work removes its entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from slipway_api.v1alpha1 import LLMDeploymentSpec, Spec

UNSUPPORTED: Final[Mapping[str, tuple[object, ...]]] = {
    "model.adapters": ([],),
    "model.trustRemoteCode": (False,),
    "engine.speculative": (),
    "quantization.weights": ("auto",),
    "quantization.kvCache": ("auto",),
    "parallelism.tensor": (1,),
    "parallelism.pipeline": (1,),
    "parallelism.expert": (False,),
}
"""Paths below `spec`, each with the values that ask for nothing beyond what is done anyway."""

_DEGREES: Final = tuple(range(1, 65))
BY_RUNTIME: Final[Mapping[str, Mapping[str, tuple[object, ...]]]] = {
    "slipway": {
        "quantization.weights": ("none", "int8", "int4"),
        "quantization.kvCache": ("none", "int8"),
        "parallelism.tensor": ("auto",),
    },
    "vllm": {
        "quantization.weights": ("fp8",),
        "quantization.kvCache": ("fp8",),
        "parallelism.tensor": _DEGREES,
        "parallelism.pipeline": _DEGREES,
    },
    "sglang": {
        "quantization.weights": ("fp8",),
        "parallelism.tensor": _DEGREES,
        "parallelism.pipeline": _DEGREES,
    },
}
"""Further values that are acted on where a runtime can."""


def unsupported_field(spec: LLMDeploymentSpec) -> str | None:
    """Return the sentence about the first field that is set but not acted on; None where there is none."""
    runtime = runtime_of(spec)
    for path in UNSUPPORTED:
        value = value_at(spec, path)
        if value is not None and not may_be(path, value, runtime):
            known = [str(each) for each in _known(path, runtime) if not isinstance(each, (list, bool))]
            few = f"write {' or '.join(known)}" if 0 < len(known) < 6 else "remove it"
            shown = f" {value}" if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
            return f"spec.{path}{shown} is not supported by this version of Slipway yet; {few}"
    return None


def runtime_of(spec: LLMDeploymentSpec) -> str:
    """Return the name of the runtime that an object asks for."""
    return (spec.engine.runtime if spec.engine else None) or "slipway"


def may_be(path: str, value: object, runtime: str) -> bool:
    """Return whether a field may have a value, as far as support goes."""
    return path not in UNSUPPORTED or value in _known(path, runtime)


def _known(path: str, runtime: str) -> tuple[object, ...]:
    return (*UNSUPPORTED[path], *BY_RUNTIME.get(runtime, {}).get(path, ()))


def value_at(spec: Spec, path: str) -> object:
    """Return what stands at a path of camelCase names; None where any part is absent."""
    value: object = spec
    for name in path.split("."):
        if not isinstance(value, Spec):
            return None
        fields = type(value).model_fields
        value = getattr(value, next(field for field, info in fields.items() if info.alias == name))
    return value
