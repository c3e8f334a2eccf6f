"""The size of a replica, told before anything runs: `status.plan`'s figures, or the sentence that refuses.

Only what is certain refuses: Slipway's own engine, and sizes read from the model's headers. Otherwise the
same figures are estimates, and a doubt is a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from math import ceil
from typing import Final, get_args

from slipway_api.catalogue import Accelerator, Catalogue
from slipway_api.facts import ModelFacts
from slipway_api.needs import PACKED, Packing
from slipway_api.quantity import parse_quantity, quantity_bytes
from slipway_api.roofline import Expected, Range, expect
from slipway_api.v1alpha1 import (
    ExpectedStatus,
    LLMDeploymentSpec,
    MemoryStatus,
    ParallelismSpec,
    PlanStatus,
    QuantizationSpec,
    RangeStatus,
    SloSpec,
)
from slipway_operator.plan.alternatives import Abilities, alternatives
from slipway_operator.plan.effective import Effective
from slipway_operator.plan.footprint import Fit, Tensor, Wanted, fit
from slipway_operator.plan.support import may_be, runtime_of

PROMPT_TOKENS: Final = 1024
"""Length of the prompt that the expected time to the first token is told for."""
MAX_DEGREE: Final = 64


@dataclass(frozen=True)
class Engine:
    """The settings in force that a size depends on. `exact`: the engine plans its memory as we do."""

    accelerator: Accelerator
    max_model_len: int | None
    max_num_seqs: int
    max_batch_tokens: int
    memory_percent: int
    requests: Mapping[str, str]
    limits: Mapping[str, str]
    exact: bool = True


@dataclass(frozen=True)
class Sizing:
    """What was found. `refusal` is the sentence of DoesNotFit; None where pods may be made."""

    status: PlanStatus
    refusal: str | None = None
    found: Fit | None = None


def engine_of(values: Effective) -> Engine:
    """Return what a size depends on, of the values in force."""
    return Engine(
        accelerator=values.accelerator,
        max_model_len=values.max_model_len,
        max_num_seqs=values.max_num_seqs,
        max_batch_tokens=values.max_batch_tokens,
        memory_percent=values.memory_percent,
        requests=values.resources.requests,
        limits=values.resources.limits,
        exact=values.profile.ours,
    )


def unread(values: Effective) -> str:
    """Return why a model's facts are not known before it is served."""
    if values.source.scheme == "file":
        return "No figures: the model is a file of the engine's image, which the engine alone reads."
    return "No figures: the model's configuration and headers have not been read."


def size(
    spec: LLMDeploymentSpec, engine: Engine, facts: ModelFacts | None, unknown: str, catalogue: Catalogue
) -> Sizing:
    """Return the size of a replica; `unknown` says why there are no facts, where there are none."""
    if facts is None:
        return Sizing(PlanStatus(message=unknown))
    wanted = wanted_of(spec, engine)
    if wanted.accelerator.resource is None and not wanted.memory:
        return Sizing(PlanStatus(message="No figures: the container has no memory limit or request."))
    able = abilities(runtime_of(spec))
    result = fit(facts, wanted, able.tensor)
    certain = engine.exact and not facts.estimated
    timed = wanted.accelerator.resource is not None or "cpu" in engine.limits
    if isinstance(result, Fit):
        return Sizing(_told(facts, result, spec.slo, certain=certain, timed=timed), found=result)
    nearest = [one.sentence() for one in alternatives(facts, wanted, catalogue, able)]
    ways = f"; the nearest that fit: {'; '.join(nearest)}" if nearest else ""
    status = PlanStatus(estimated=not certain, alternatives=nearest or None)
    if certain:
        return Sizing(status, f"the model does not fit: {result.message}{ways}")
    doubt = f"By estimate the model does not fit: {result.message}."
    return Sizing(status.model_copy(update={"message": doubt[:1024]}))


def doubted(sizing: Sizing) -> Sizing:
    """Return a size that refuses nothing, because pods of it have served."""
    message = f"It serves, though by the sums {sizing.refusal}"[:1024]
    return replace(sizing, refusal=None, status=sizing.status.model_copy(update={"message": message}))


def wanted_of(spec: LLMDeploymentSpec, engine: Engine) -> Wanted:
    """Return the configuration that an object asks for."""
    parallelism, packing = spec.parallelism or ParallelismSpec(), spec.quantization or QuantizationSpec()
    memory = engine.limits.get("memory") or engine.requests.get("memory") or "0"
    cores = engine.limits.get("cpu") or engine.requests.get("cpu") or "1"
    mig = spec.accelerator.mig.profile if spec.accelerator and spec.accelerator.mig else None
    return Wanted(
        accelerator=engine.accelerator,
        mig=mig,
        memory=quantity_bytes(memory),
        cores=float(parse_quantity(cores)),
        tensor=_tensor(parallelism),
        pipeline=parallelism.pipeline or 1,
        weights=packing.weights or "auto",
        kv_cache=packing.kv_cache or "auto",
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        max_batch_tokens=engine.max_batch_tokens,
        memory_percent=engine.memory_percent,
    )


def abilities(runtime: str) -> Abilities:
    """Return what may be proposed: what this version acts on, and nothing else."""
    packings: tuple[Packing, ...] = get_args(Packing)
    return Abilities(
        tensor=MAX_DEGREE if may_be("parallelism.tensor", 2, runtime) else 1,
        weights=tuple(
            one for one in packings if one in PACKED and may_be("quantization.weights", one, runtime)
        ),
        kv_cache=tuple(one for one in ("fp8", "int8") if may_be("quantization.kvCache", one, runtime)),
    )


def _tensor(parallelism: ParallelismSpec) -> Tensor:
    degree = parallelism.tensor or 1
    return "auto" if isinstance(degree, str) else degree


def _told(facts: ModelFacts, found: Fit, slo: SloSpec | None, *, certain: bool, timed: bool) -> PlanStatus:
    ledger = found.ledger
    return PlanStatus(
        accelerators_per_replica=found.placement.accelerators,
        pods_per_replica=found.placement.pods,
        memory=MemoryStatus.model_validate(
            {
                **ledger.parts(),
                "maxTokens": ledger.max_tokens,
                "maxSequences": found.max_sequences,
                "maxModelLen": ledger.max_model_len,
            }
        ),
        expected=_expected(facts, found, slo) if timed else None,
        message=None
        if timed
        else "No expected times: without a CPU limit the engine may use any number of cores.",
        estimated=not certain,
    )


def _expected(facts: ModelFacts, found: Fit, slo: SloSpec | None) -> ExpectedStatus:
    prompt = max(1, min(PROMPT_TOKENS, found.ledger.max_model_len - 1))
    expected = expect(facts, found.shape, found.device, prompt)
    return ExpectedStatus(
        prompt_tokens=prompt,
        ttft_ms=_range(expected.ttft),
        tpot_ms=_range(expected.tpot),
        slo=held_against(slo, expected),
    )


def _range(times: Range) -> RangeStatus:
    return RangeStatus(low=max(1, round(times.low)), high=max(1, ceil(times.high)))


def held_against(slo: SloSpec | None, expected: Expected) -> str | None:
    """Return how the expected times compare with `spec.slo`; None where nothing was promised."""
    if slo is None or (slo.ttft_ms is None and slo.tpot_ms is None):
        return None
    told = [
        _compare(f"slo.{name} {promised}", Decimal(promised), times)
        for name, promised, times in (
            ("ttftMs", slo.ttft_ms, expected.ttft),
            ("tpotMs", slo.tpot_ms, expected.tpot),
        )
        if promised is not None
    ]
    return f"{'; '.join(told)} (one request of {expected.prompt_tokens} tokens on an idle replica)."


def _compare(name: str, promised: Decimal, times: Range) -> str:
    if promised < Decimal(times.low):
        return f"{name} cannot be met: the hardware allows {times.low:.0f} ms at best"
    if promised < Decimal(times.high):
        return f"{name} is in doubt: {times.low:.0f} to {times.high:.0f} ms are to be expected"
    return f"{name} can be met: {times.high:.0f} ms or less are to be expected"
