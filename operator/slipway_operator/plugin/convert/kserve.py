"""KServe's InferenceService with the Hugging Face runtime, and its LLMInferenceService."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from slipway_operator.plugin.convert import accelerators
from slipway_operator.plugin.convert.draft import CannotConvert, Draft, begin
from slipway_operator.plugin.convert.flags import apply_flags, environment, pairs

KIND: Final = ("serving.kserve.io/v1beta1", "InferenceService")
LLM_KINDS: Final = (
    ("serving.kserve.io/v1alpha1", "LLMInferenceService"),
    ("serving.kserve.io/v1alpha2", "LLMInferenceService"),
)
_TARGETS: Final = {"concurrency": "InFlight"}


def convert(source: Mapping[str, Any], *, accelerator: str | None, keep_runtime: bool) -> Draft:
    """Return the draft of an InferenceService. Raises CannotConvert where it serves no language model."""
    draft, predictor = begin(source), (source.get("spec") or {}).get("predictor") or {}
    model = predictor.get("model") or {}
    if (model.get("modelFormat") or {}).get("name") != "huggingface":
        raise CannotConvert(
            f"InferenceService {draft.name} has no predictor.model of modelFormat huggingface, so it serves "
            "no language model; leave it where it is."
        )
    arguments = [str(argument) for argument in model.get("args") or ()]
    _source(draft, model, arguments)
    if keep_runtime:
        draft.put("engine.runtime", "vllm")
    apply_flags(draft, arguments, keep_unknown=keep_runtime)
    workers = predictor.get("workerSpec") or {}
    draft.put("parallelism.tensor", workers.get("tensorParallelSize") or draft.get("parallelism.tensor"))
    draft.put(
        "parallelism.pipeline", workers.get("pipelineParallelSize") or draft.get("parallelism.pipeline")
    )
    draft.put("podTemplate.env", environment(model.get("env") or (), draft))
    _pod(draft, predictor)
    resources = model.get("resources")
    draft.put("podTemplate.resources", accelerators.rest(resources))
    found = accelerators.from_labels(predictor.get("nodeSelector"))
    accelerators.choose(draft, accelerators.count(resources), found, accelerator)
    _scaling(draft, predictor)
    for part in ("transformer", "explainer"):
        if (source.get("spec") or {}).get(part):
            draft.note(f"spec.{part} has no counterpart and was left out")
    return draft


def convert_llm(source: Mapping[str, Any], *, accelerator: str | None, keep_runtime: bool) -> Draft:
    """Return the draft of an LLMInferenceService."""
    draft, spec = begin(source), source.get("spec") or {}
    model = spec.get("model") or {}
    _put_source(draft, str(model.get("uri") or ""))
    draft.put("model.servedNames", [model["name"]] if model.get("name") else None)
    adapters = (model.get("lora") or {}).get("adapters") or ()
    draft.put("model.adapters", [{"name": a.get("name"), "source": a.get("uri")} for a in adapters])
    degrees = spec.get("parallelism") or {}
    draft.put("parallelism.tensor", degrees.get("tensor"))
    draft.put("parallelism.pipeline", degrees.get("pipeline"))
    draft.put("parallelism.expert", degrees.get("expert") or None)
    for part in ("data", "dataLocal"):
        if degrees.get(part):
            draft.note(f"spec.parallelism.{part} was left out: replicas are independent of each other")
    draft.put("replicas", spec.get("replicas"))
    scaling = spec.get("scaling") or {}
    draft.put("autoscaling.minReplicas", scaling.get("minReplicas"))
    draft.put("autoscaling.maxReplicas", scaling.get("maxReplicas"))
    template = spec.get("template") or {}
    _pod(draft, template)
    container: Mapping[str, Any] = next(iter(template.get("containers") or ()), {})
    if keep_runtime:
        draft.put("engine.runtime", "vllm")
        draft.put("engine.image", container.get("image"))
    apply_flags(draft, container.get("args") or (), keep_unknown=keep_runtime)
    draft.put("podTemplate.env", environment(container.get("env") or (), draft))
    resources = container.get("resources")
    draft.put("podTemplate.resources", accelerators.rest(resources))
    found = accelerators.from_labels(template.get("nodeSelector"))
    gpus = accelerators.count(resources) or (1 if degrees.get("tensor") else 0)
    accelerators.choose(draft, gpus, found, accelerator)
    known = ("model", "parallelism", "replicas", "scaling", "template", "labels", "annotations", "router")
    draft.put("podTemplate.labels", spec.get("labels"))
    draft.put("podTemplate.annotations", spec.get("annotations"))
    draft.leave(spec, known, "spec.")
    return draft


def _source(draft: Draft, model: Mapping[str, Any], arguments: list[str]) -> None:
    flags = dict(pairs(arguments))
    uri = model.get("storageUri") or (f"hf://{flags['model-id']}" if flags.get("model-id") else None)
    if uri is None:
        raise CannotConvert(
            f"InferenceService {draft.name} names no model: it has neither predictor.model.storageUri nor "
            "--model_id among its args."
        )
    _put_source(draft, str(uri))


def _put_source(draft: Draft, uri: str) -> None:
    """Put the source; KServe writes the revision of an hf:// source behind a colon."""
    found = re.fullmatch(r"(hf://[^:]+):([^:/]+)", uri)
    draft.put("model.source", found[1] if found else uri)
    draft.put("model.revision", found[2] if found else None)


def _pod(draft: Draft, pod: Mapping[str, Any]) -> None:
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        draft.put(f"podTemplate.{name}", pod.get(name))
    secrets = [entry["name"] for entry in pod.get("imagePullSecrets") or () if "name" in entry]
    draft.put("podTemplate.imagePullSecrets", secrets)
    if pod.get("serviceAccountName"):
        draft.note(
            f"serviceAccountName {pod['serviceAccountName']} was left out: engine pods carry no token; name "
            "the Secret of a gated model in model.credentials.secretName"
        )


def _scaling(draft: Draft, predictor: Mapping[str, Any]) -> None:
    low, high = predictor.get("minReplicas"), predictor.get("maxReplicas")
    if not high or high == low:
        draft.put("replicas", low)
        return
    draft.put("autoscaling.minReplicas", 1 if low is None else low)
    draft.put("autoscaling.maxReplicas", high)
    metric, target = predictor.get("scaleMetric"), predictor.get("scaleTarget")
    if metric is None:
        return
    if metric in _TARGETS and target:
        draft.put("autoscaling.metrics", [{"type": _TARGETS[metric], "target": str(target)}])
    else:
        draft.note(f"scaleMetric {metric} was left out: requests in flight decide, with a learned target")
