"""Which converter reads which object, and the check that what comes out is a valid LLMDeployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from slipway_api.v1alpha1 import EngineSpec, LLMDeploymentSpec
from slipway_operator.plan.plan import explain
from slipway_operator.plan.support import unsupported_field
from slipway_operator.plugin.convert import kserve, kubeai, production_stack
from slipway_operator.plugin.convert.draft import CannotConvert, Draft

Converter = Callable[..., Draft]

CONVERTERS: Final[dict[tuple[str, str], Converter]] = {
    kubeai.KIND: kubeai.convert,
    kserve.KIND: kserve.convert,
    production_stack.KIND: production_stack.convert,
    **dict.fromkeys(kserve.LLM_KINDS, kserve.convert_llm),
}


def convert(
    source: Mapping[str, Any], *, accelerator: str | None = None, keep_runtime: bool = False
) -> list[Draft]:
    """Return the drafts of one document; a chart's values may hold several models. Raises CannotConvert.

    `keep_runtime` keeps vLLM as the engine, with its image and every argument.
    """
    try:
        return [
            checked(converter(found, accelerator=accelerator, keep_runtime=keep_runtime))
            for converter, found in _matching(source)
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CannotConvert):
            raise
        raise CannotConvert(
            f"{source.get('kind', 'The document')} does not have the shape of its kind ({error}); check it "
            "with `kubectl apply --dry-run=server` on the cluster that serves it."
        ) from error


def checked(draft: Draft) -> Draft:
    """Return the draft, with a note for each field that the schema or this version refuses."""
    try:
        spec = LLMDeploymentSpec.model_validate(draft.spec)
    except ValidationError as error:
        draft.note(f"to be corrected by hand before it can be applied: {explain(error)}")
        return draft
    missing = unsupported_field(spec)
    if missing is not None:
        engine = (spec.engine or EngineSpec()).model_copy(update={"runtime": "vllm"})
        theirs = unsupported_field(spec.model_copy(update={"engine": engine})) is None
        way = ", or convert with --keep-runtime, since vLLM can" if theirs else ""
        draft.note(f"to be corrected by hand before it can serve: {missing}{way}")
    return draft


def _matching(source: Mapping[str, Any]) -> list[tuple[Converter, Mapping[str, Any]]]:
    if "servingEngineSpec" in source:
        return [(production_stack.convert_values, entry) for entry in production_stack.entries(source)]
    kind = (str(source.get("apiVersion")), str(source.get("kind")))
    if kind not in CONVERTERS:
        known = ", ".join(f"{name} ({version})" for version, name in CONVERTERS)
        raise CannotConvert(
            f"{kind[1]} ({kind[0]}) is not known here; what can be converted: {known}, and the values of "
            "production-stack's chart."
        )
    return [(CONVERTERS[kind], source)]
