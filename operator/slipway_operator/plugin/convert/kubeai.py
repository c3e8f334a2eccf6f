"""KubeAI's Model (kubeai.org/v1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from slipway_operator.plugin.convert import accelerators
from slipway_operator.plugin.convert.draft import CannotConvert, Draft, begin
from slipway_operator.plugin.convert.flags import apply_flags, environment

KIND: Final = ("kubeai.org/v1", "Model")
_KNOWN: Final = (
    "url", "adapters", "features", "engine", "resourceProfile", "image", "args", "env", "replicas",
    "minReplicas", "maxReplicas", "autoscalingDisabled", "targetRequests", "scaleDownDelaySeconds",
    "loadBalancing", "priorityClassName", "owner", "cacheProfile",
)  # fmt: skip
_TEXT: Final = frozenset({"TextGeneration", "TextEmbedding"})


def convert(source: Mapping[str, Any], *, accelerator: str | None, keep_runtime: bool) -> Draft:
    """Return the draft. Raises CannotConvert for a model that is no LLM or has no checkpoint to load."""
    draft, spec = begin(source), source.get("spec") or {}
    _check(draft.name, spec)
    draft.put("model.source", spec["url"])
    draft.put("model.adapters", [{"name": a["name"], "source": a["url"]} for a in spec.get("adapters") or ()])
    if spec.get("cacheProfile"):
        draft.put("model.cache.mode", "Shared")
        draft.note("cacheProfile became model.cache.mode Shared: write size and storageClassName")
    if keep_runtime:
        draft.put("engine.runtime", "vllm")
        draft.put("engine.image", spec.get("image"))
    apply_flags(draft, spec.get("args") or (), keep_unknown=keep_runtime)
    variables = [{"name": name, "value": str(value)} for name, value in (spec.get("env") or {}).items()]
    draft.put("podTemplate.env", environment(variables, draft))
    draft.put("podTemplate.priorityClassName", spec.get("priorityClassName"))
    _accelerator(draft, spec, accelerator)
    _scaling(draft, spec)
    if (spec.get("loadBalancing") or {}).get("strategy") == "PrefixHash":
        draft.put("routing.policy", "prefix-affine")
    draft.leave(spec, _KNOWN, "spec.")
    return draft


def _check(name: str, spec: Mapping[str, Any]) -> None:
    features = set(spec.get("features") or ())
    if features and not features & _TEXT:
        raise CannotConvert(
            f"Model {name} serves {', '.join(sorted(features))}; an LLMDeployment serves text generation and "
            "embeddings, so leave this one where it is."
        )
    if str(spec.get("url", "")).startswith("ollama://"):
        raise CannotConvert(
            f"Model {name} has the source {spec['url']}: name the model's repository or GGUF file instead, "
            "for example hf://ORG/NAME, and convert again."
        )


def _accelerator(draft: Draft, spec: Mapping[str, Any], asked: str | None) -> None:
    profile, _, number = str(spec.get("resourceProfile") or "cpu:1").partition(":")
    found = accelerators.from_words([profile])
    gpus = 0 if found == "cpu" else int(number) if number.isdigit() else 1
    accelerators.choose(draft, gpus, found, asked)


def _scaling(draft: Draft, spec: Mapping[str, Any]) -> None:
    if spec.get("autoscalingDisabled") or not spec.get("maxReplicas"):
        draft.put("replicas", spec.get("replicas"))
        if not spec.get("autoscalingDisabled"):
            draft.note(
                "there was no maxReplicas, so autoscaling is off: write autoscaling.maxReplicas to have it"
            )
        return
    draft.put("autoscaling.minReplicas", spec.get("minReplicas", 0))
    draft.put("autoscaling.maxReplicas", spec["maxReplicas"])
    if spec.get("targetRequests") not in (None, 100):
        draft.put("autoscaling.metrics", [{"type": "InFlight", "target": str(spec["targetRequests"])}])
    if spec.get("scaleDownDelaySeconds") not in (None, 30):
        window = spec["scaleDownDelaySeconds"]
        draft.put("autoscaling.behavior.scaleDown.stabilizationWindowSeconds", window)
