"""What a class denies: each check yields sentences that name the field, the limit and the way out.

Judged is what the object itself says; a class's own defaults need no permission. Ceilings hold for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from slipway_api.allowed import image_allowed, source_allowed
from slipway_api.quantity import parse_quantity
from slipway_api.v1alpha1 import (
    Ceilings,
    EngineSpec,
    LLMClassSpec,
    LLMDeploymentSpec,
    Permissions,
    PodTemplateSpec,
    RolloutSpec,
)
from slipway_operator.plan.arguments import smuggled
from slipway_operator.plan.resources import is_rdma

# Variables that lead a fetch elsewhere than its source says.
FETCH_VARIABLES: Final = frozenset(
    {
        "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS", "STORAGE_EMULATOR_HOST",
        "GCE_METADATA_HOST", "AWS_REGION", "AWS_DEFAULT_REGION", "HUGGINGFACE_CO_STAGING",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    }
)  # fmt: skip
# Variables by which the loader, Python or an engine takes in other code than its own.
CODE_VARIABLES: Final = frozenset(
    {
        "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP",
        "PYTHONUSERBASE", "PYTHONBREAKPOINT", "PYTHONWARNINGS", "PYTHONPLATLIBDIR", "VLLM_PLUGINS",
        "SGLANG_EXTERNAL_MODEL_PACKAGE", "SGLANG_PLUGINS", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
    }
)  # fmt: skip
_FREE_POD_FIELDS: Final = frozenset({"resources", "env", "volume_mounts"})


def violations(given: LLMDeploymentSpec, merged: LLMDeploymentSpec, offer: LLMClassSpec) -> list[str]:
    """Return what the class does not allow of an object, one sentence's part each, in a fixed order."""
    allow = offer.allow or Permissions()
    return [
        *_sources(given, offer),
        *_image(given, offer),
        *_runtime(given, merged, offer, allow),
        *_denied_unless_opened(given, allow),
        *_pod_fields(given.pod_template or PodTemplateSpec(), offer, allow),
        *_arguments(given, merged, offer, allow),
        *_rdma(given, allow),
        *_ceilings(merged, offer.ceilings or Ceilings()),
        *_unsigned(merged, offer),
    ]


def names_token(spec: LLMDeploymentSpec) -> bool:
    """Return whether a volume would bring a service account's token into the pod, class or no class."""
    volumes = (spec.pod_template and spec.pod_template.volumes) or ()
    sources = (source for v in volumes if v.projected for source in v.projected.get("sources") or ())
    return any(not isinstance(source, dict) or "serviceAccountToken" in source for source in sources)


def _sources(given: LLMDeploymentSpec, offer: LLMClassSpec) -> Iterator[str]:
    if offer.allowed_sources is None:
        return
    speculative = given.engine.speculative if given.engine else None
    asked = [("model.source", given.model.source)]
    asked += [(f"model.adapters[{a.name}].source", a.source) for a in given.model.adapters or ()]
    if speculative is not None and speculative.draft_source is not None:
        asked.append(("engine.speculative.draftSource", speculative.draft_source))
    for field, source in asked:
        if not source_allowed(source, offer.allowed_sources):
            yield f"{field} {source}; allowed are {_some(offer.allowed_sources)}"
    revisions = [("model.revision", given.model.revision)]
    revisions += [(f"model.adapters[{a.name}].revision", a.revision) for a in given.model.adapters or ()]
    if speculative is not None:
        revisions.append(("engine.speculative.draftRevision", speculative.draft_revision))
    for field, revision in revisions:
        if revision is None or not revision.lower().startswith("refs/"):
            continue
        yield (
            f"{field} {revision}, which anybody may have proposed (allowedSources); write a branch, a "
            "tag or a commit of the repository"
        )


def _image(given: LLMDeploymentSpec, offer: LLMClassSpec) -> Iterator[str]:
    image = given.engine.image if given.engine else None
    default = offer.defaults.engine.image if offer.defaults and offer.defaults.engine else None
    if image is None or offer.allowed_images is None or image == default:
        return
    if not image_allowed(image, offer.allowed_images):
        yield f"engine.image {image}; allowed are {_some(offer.allowed_images)}"


def _runtime(
    given: LLMDeploymentSpec, merged: LLMDeploymentSpec, offer: LLMClassSpec, allow: Permissions
) -> Iterator[str]:
    asked = given.engine.runtime if given.engine else None
    runtime = (merged.engine.runtime if merged.engine else None) or "slipway"
    if asked == "custom" and not allow.custom_runtime:
        yield "engine.runtime custom (allow.customRuntime)"
    elif asked != "custom" and offer.allowed_runtimes is not None and runtime not in offer.allowed_runtimes:
        yield f"engine.runtime {runtime}; allowed are {_some(offer.allowed_runtimes)}"
    elif asked == "custom" and offer.allowed_runtimes is not None and asked not in offer.allowed_runtimes:
        yield f"engine.runtime custom; allowed are {_some(offer.allowed_runtimes)}"
    accelerator = (merged.accelerator.type if merged.accelerator else None) or "cpu"
    if offer.allowed_accelerators is not None and accelerator not in offer.allowed_accelerators:
        yield f"accelerator.type {accelerator}; allowed are {_some(offer.allowed_accelerators)}"


def _denied_unless_opened(given: LLMDeploymentSpec, allow: Permissions) -> Iterator[str]:
    if given.model.trust_remote_code and not allow.remote_code:
        yield "model.trustRemoteCode (allow.remoteCode)"
    if given.engine and given.engine.extra_args and not allow.extra_args:
        yield "engine.extraArgs (allow.extraArgs)"
    metrics = given.autoscaling.metrics if given.autoscaling else None
    if any(metric.query is not None for metric in metrics or ()) and not allow.prometheus_queries:
        yield "autoscaling.metrics of type Prometheus (allow.prometheusQueries)"


def _pod_fields(given: PodTemplateSpec, offer: LLMClassSpec, allow: Permissions) -> Iterator[str]:
    if given.env and not allow.env:
        yield "podTemplate.env (allow.env)"
    else:
        yield from _variables(given, offer, allow)
    opened = set(allow.pod_template or ())
    for name, field in PodTemplateSpec.model_fields.items():
        if name in _FREE_POD_FIELDS or getattr(given, name) in (None, {}, []):
            continue
        if field.alias not in opened:
            yield f"podTemplate.{field.alias} (allow.podTemplate)"
    if given.volume_mounts and "volumes" not in opened:
        yield "podTemplate.volumeMounts (allow.podTemplate: [volumes])"


def _variables(given: PodTemplateSpec, offer: LLMClassSpec, allow: Permissions) -> Iterator[str]:
    names = {entry.name for entry in given.env or ()}
    leading = sorted(name for name in names if name.upper() in FETCH_VARIABLES)
    if leading and offer.allowed_sources is not None:
        yield f"podTemplate.env {', '.join(leading)}, which lead to other sources than allowedSources"
    coding = sorted(name for name in names if name.upper() in CODE_VARIABLES)
    if coding and not allow.remote_code:
        yield (
            f"podTemplate.env {', '.join(coding)}, which bring in code that is not the engine's own "
            "(allow.remoteCode)"
        )


def _rdma(given: LLMDeploymentSpec, allow: Permissions) -> Iterator[str]:
    resources = given.pod_template.resources if given.pod_template else None
    named = {*((resources and resources.requests) or ()), *((resources and resources.limits) or ())}
    devices = sorted(name for name in named if is_rdma(name))
    if devices and not allow.rdma:
        yield f"podTemplate.resources {', '.join(devices)} (allow.rdma)"


def _arguments(
    given: LLMDeploymentSpec, merged: LLMDeploymentSpec, offer: LLMClassSpec, allow: Permissions
) -> Iterator[str]:
    engine = given.engine
    if engine is None or not engine.extra_args or not allow.extra_args:
        return
    yield from smuggled(
        engine.extra_args,
        runtime=(merged.engine.runtime if merged.engine else None) or "slipway",
        remote_code=bool(allow.remote_code),
        sources=offer.allowed_sources is None,
    )


def _ceilings(merged: LLMDeploymentSpec, ceilings: Ceilings) -> Iterator[str]:
    engine, rollout = merged.engine or EngineSpec(), merged.rollout or RolloutSpec()
    parallelism = merged.parallelism
    scaled = merged.autoscaling
    replicas = scaled.max_replicas if scaled else merged.replicas
    tensor = parallelism.tensor if parallelism else None
    degree = (tensor if isinstance(tensor, int) else 1) * ((parallelism and parallelism.pipeline) or 1)
    for field, value, most in (
        ("autoscaling.maxReplicas" if scaled else "replicas", replicas, ceilings.replicas),
        ("parallelism", degree, ceilings.accelerators_per_replica),
        ("engine.maxModelLen", engine.max_model_len, ceilings.max_model_len),
        ("engine.maxNumSeqs", engine.max_num_seqs, ceilings.max_num_seqs),
        ("model.adapters", len(merged.model.adapters or ()), ceilings.adapters),
        ("rollout.drainSeconds", rollout.drain_seconds, ceilings.drain_seconds),
    ):
        # Ordinary CPUs are no accelerators: a ceiling of 0 forbids accelerators, not the one replica.
        counted = 0 if field == "parallelism" and _on_cpu(merged) else value
        if most is not None and counted is not None and counted > most:
            yield f"{field} {counted}, above the ceiling of {most}"
    yield from _resources(merged, ceilings)
    cache = merged.model.cache
    if cache is not None and cache.size is not None and _above(cache.size, ceilings.cache_size):
        yield f"model.cache.size {cache.size}, above the ceiling of {ceilings.cache_size}"


def _resources(merged: LLMDeploymentSpec, ceilings: Ceilings) -> Iterator[str]:
    resources = merged.pod_template.resources if merged.pod_template else None
    if resources is None:
        return
    accelerators = ceilings.accelerators_per_replica
    for kind, values in (("requests", resources.requests), ("limits", resources.limits)):
        counted = Decimal(0)
        for name, value in (values or {}).items():
            most = {"cpu": ceilings.cpu, "memory": ceilings.memory}.get(name)
            if _above(value, most):
                yield f"podTemplate.resources.{kind}.{name} {value}, above the ceiling of {most}"
            counted += parse_quantity(value) if "/" in name and not is_rdma(name) else 0
        if accelerators is not None and counted > accelerators:
            yield f"podTemplate.resources.{kind} with {counted} devices, above the ceiling of {accelerators}"


def _unsigned(merged: LLMDeploymentSpec, offer: LLMClassSpec) -> Iterator[str]:
    """Signatures are verified where files are fetched: what is mounted as it is brings none that was."""
    if offer.signatures is None:
        return
    if merged.model.source.startswith(("pvc://", "file://")):
        yield (
            f"model.source {merged.model.source}, whose signature nobody verifies, since it is mounted as it "
            "is (signatures); take a source that is fetched"
        )
    elif merged.model.cache is not None and merged.model.cache.mode == "Image":
        yield "model.cache.mode Image, since the kubelet verifies no signature (signatures); write Shared"


def _on_cpu(spec: LLMDeploymentSpec) -> bool:
    return spec.accelerator is None or spec.accelerator.type in (None, "cpu")


def _above(value: str, most: str | None) -> bool:
    return most is not None and parse_quantity(value) > parse_quantity(most)


def _some(allowed: Sequence[str]) -> str:
    shown = ", ".join(str(each) for each in allowed[:5])
    return f"{shown} and {len(allowed) - 5} more" if len(allowed) > 5 else shown or "none"
