"""vLLM production-stack: its VLLMRuntime objects, and the `modelSpec` entries of its chart's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from slipway_operator.plugin.convert import accelerators
from slipway_operator.plugin.convert.draft import CannotConvert, Draft, begin
from slipway_operator.plugin.convert.flags import apply_flags, draft_credentials, environment

KIND: Final = ("production-stack.vllm.ai/v1alpha1", "VLLMRuntime")
_VALUES: Final = {
    "maxModelLen": "engine.maxModelLen",
    "maxNumSeqs": "engine.maxNumSeqs",
    "maxNumBatchedTokens": "engine.maxBatchTokens",
    "enablePrefixCaching": "engine.prefixCaching",
    "tensorParallelSize": "parallelism.tensor",
    "pipelineParallelSize": "parallelism.pipeline",
}
_NEEDLESS: Final = (
    "enableChunkedPrefill", "port", "v1", "dtype", "gpuMemoryUtilization", "extraArgs", "env",
    "toolCallParser", "enableTool",
)  # fmt: skip


def convert(source: Mapping[str, Any], *, accelerator: str | None, keep_runtime: bool) -> Draft:
    """Return the draft of a VLLMRuntime."""
    draft, spec = begin(source), source.get("spec") or {}
    model, engine, pods = (spec.get(part) or {} for part in ("model", "vllmConfig", "deploymentConfig"))
    _model(draft, str(model.get("modelURL") or ""))
    secret = model.get("hfTokenSecret") or {}
    if secret.get("hfTokenSecretName"):
        draft_credentials(draft, secret["hfTokenSecretName"], secret.get("hfTokenKeyName") or "token")
    _engine(
        draft, {**engine, **{k: model[k] for k in ("maxModelLen", "maxNumSeqs") if k in model}}, keep_runtime
    )
    image = pods.get("image") or {}
    if keep_runtime and image.get("name"):
        draft.put("engine.image", "/".join(part for part in (image.get("registry"), image["name"]) if part))
    draft.put("podTemplate.tolerations", pods.get("toleration"))
    resources = pods.get("resources") or {}
    requests = {name: str(resources[name]) for name in ("cpu", "memory") if resources.get(name)}
    draft.put("podTemplate.resources", {"requests": requests} if requests else None)
    gpus = int(resources["gpu"]) if str(resources.get("gpu") or "").isdigit() else 0
    accelerators.choose(draft, gpus, _from_terms(pods.get("nodeSelectorTerms") or ()), accelerator)
    _scaling(draft, spec.get("autoscalingConfig") or {}, pods.get("replicas"))
    _storage(draft, spec.get("storageConfig") or {})
    if (spec.get("lmCacheConfig") or {}).get("enabled"):
        draft.note(
            "spec.lmCacheConfig was left out: offload of the KV cache is not configured per object yet"
        )
    return draft


def entries(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the models of the chart's values."""
    yield from (values.get("servingEngineSpec") or {}).get("modelSpec") or ()


def convert_values(entry: Mapping[str, Any], *, accelerator: str | None, keep_runtime: bool) -> Draft:
    """Return the draft of one `servingEngineSpec.modelSpec` entry."""
    draft = begin({"metadata": {"name": entry.get("name")}})
    if not draft.name:
        raise CannotConvert("An entry of servingEngineSpec.modelSpec has no name; give it one.")
    _model(draft, str(entry.get("modelURL") or ""))
    token = entry.get("hf_token")
    if isinstance(token, Mapping) and token.get("secretName"):
        draft_credentials(draft, token["secretName"], token.get("secretKey") or "token")
    elif token:
        draft.note(
            "hf_token holds a token in clear text and was left out: put it under the key `token` of a "
            "Secret and name that in model.credentials.secretName"
        )
    _engine(draft, entry.get("vllmConfig") or {}, keep_runtime)
    if keep_runtime and entry.get("repository"):
        draft.put("engine.image", f"{entry['repository']}:{entry.get('tag', 'latest')}")
    draft.put("podTemplate.env", environment(entry.get("env") or (), draft))
    requests = {
        name: str(entry[key])
        for name, key in (("cpu", "requestCPU"), ("memory", "requestMemory"))
        if entry.get(key)
    }
    draft.put("podTemplate.resources", {"requests": requests} if requests else None)
    gpus = int(entry["requestGPU"]) if str(entry.get("requestGPU") or "").isdigit() else 0
    accelerators.choose(draft, gpus, _from_terms(entry.get("nodeSelectorTerms") or ()), accelerator)
    draft.put("replicas", entry.get("replicaCount"))
    if entry.get("pvcStorage"):
        draft.put("model.cache", {"mode": "Shared", "size": str(entry["pvcStorage"])})
    return draft


def _model(draft: Draft, url: str) -> None:
    """Put the source: production-stack writes a Hugging Face name or a path."""
    if not url:
        raise CannotConvert(f"{draft.name} has no modelURL; name the model there.")
    draft.put(
        "model.source", f"file://{url}" if url.startswith("/") else url if "://" in url else f"hf://{url}"
    )
    draft.put("model.servedNames", [url] if "://" not in url and not url.startswith("/") else None)


def _engine(draft: Draft, config: Mapping[str, Any], keep_runtime: bool) -> None:
    if keep_runtime:
        draft.put("engine.runtime", "vllm")
    for name, path in _VALUES.items():
        draft.put(path, config.get(name) or None)
    flags = list(config.get("extraArgs") or ())
    if config.get("gpuMemoryUtilization"):
        flags.insert(0, f"--gpu-memory-utilization={config['gpuMemoryUtilization']}")
    apply_flags(draft, flags, keep_unknown=keep_runtime)
    draft.put("podTemplate.env", environment(config.get("env") or (), draft))
    draft.leave(config, (*_VALUES, *_NEEDLESS), "vllmConfig.")


def _from_terms(terms: Any) -> str | None:
    labels = {
        f"{index}": value
        for term in terms
        for expression in term.get("matchExpressions") or ()
        for index, value in enumerate(expression.get("values") or ())
    }
    return accelerators.from_labels(labels)


def _scaling(draft: Draft, scaling: Mapping[str, Any], replicas: int | None) -> None:
    if not scaling.get("enabled"):
        draft.put("replicas", replicas)
        return
    draft.put("autoscaling.minReplicas", scaling.get("minReplicas", 1))
    draft.put("autoscaling.maxReplicas", scaling.get("maxReplicas"))
    if scaling.get("triggers"):
        draft.note(
            "autoscalingConfig.triggers were left out: requests in flight decide, with a learned target"
        )


def _storage(draft: Draft, storage: Mapping[str, Any]) -> None:
    if storage.get("enabled"):
        cache = {
            "mode": "Shared",
            "size": storage.get("size"),
            "storageClassName": storage.get("storageClassName"),
            "accessMode": storage.get("accessMode"),
        }
        draft.put("model.cache", {name: value for name, value in cache.items() if value})
