"""vLLM's command line, as the other operators pass it through, told in the fields of an LLMDeployment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from slipway_operator.plugin.convert.draft import Draft

_INTEGERS: Final = {
    "max-model-len": "engine.maxModelLen",
    "max-num-seqs": "engine.maxNumSeqs",
    "max-num-batched-tokens": "engine.maxBatchTokens",
    "tensor-parallel-size": "parallelism.tensor",
    "pipeline-parallel-size": "parallelism.pipeline",
}
_SWITCHES: Final = {
    "enable-prefix-caching": ("engine.prefixCaching", True),
    "no-enable-prefix-caching": ("engine.prefixCaching", False),
    "enable-expert-parallel": ("parallelism.expert", True),
}
_NEEDLESS: Final = {
    "host": "", "port": "", "model": "", "model-id": "", "model-dir": "", "enable-chunked-prefill": "",
    "disable-log-requests": "", "disable-log-stats": "", "disable-uvicorn-access-log": "",
    "swap-space": "", "enable-auto-tool-choice": "", "v1": "",
}  # fmt: skip
"""Flags that say what Slipway does anyway, or decides itself."""

_SHORT: Final = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "q": "quantization"}
_SHORTEST: Final = 8
_KILO: Final = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}


def apply_flags(draft: Draft, arguments: Sequence[str], *, keep_unknown: bool) -> None:
    """Put vLLM's arguments into the draft; unknown ones become `engine.extraArgs`, or a note."""
    extra: list[str] = []
    for flag, value in pairs(arguments):
        if not _apply(draft, flag, value):
            extra += [f"--{flag}"] if value is None else [f"--{flag}={value}"]
    if keep_unknown:
        draft.put("engine.extraArgs", extra)
    else:
        for argument in extra:
            draft.note(f"the engine argument {argument} has no counterpart and was left out")


def pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield flag and value of `--flag value`, `--flag=value`, `-tp 2`; underscores are dashes."""
    at = 0
    while at < len(arguments):
        word = str(arguments[at])
        at += 1
        if not word.startswith("-"):
            continue  # the model's name, or a program that is not ours
        flag, equals, value = word.lstrip("-").partition("=")
        flag = flag.replace("_", "-")
        flag = _SHORT.get(flag, flag)
        if not equals and at < len(arguments) and not str(arguments[at]).startswith("-"):
            value = str(arguments[at])
            at += 1
            equals = "="
        yield flag, value if equals else None


def _apply(draft: Draft, flag: str, value: str | None) -> bool:
    """Put one flag into the draft; False where it has no counterpart."""
    flag = _whole(flag)
    if flag in _NEEDLESS:
        return True
    if flag in _SWITCHES:
        path, on = _SWITCHES[flag]
        draft.put(path, on if value is None else value.lower() == "true")
        return True
    if value is None:
        return flag == "trust-remote-code" and _remote_code(draft)
    if flag in _INTEGERS:
        return _integer(draft, _INTEGERS[flag], flag, value)
    match flag:
        case "gpu-memory-utilization":
            return _percent(draft, value)
        case "served-model-name" | "model-name":
            draft.put("model.servedNames", value.split())
        case "revision":
            draft.put("model.revision", value)
        case "quantization":
            _quantization(draft, value)
        case "kv-cache-dtype":
            draft.put("quantization.kvCache", "fp8" if value.startswith("fp8") else None)
        case "dtype":
            if value not in ("auto", "bfloat16", "half", "float16"):
                draft.note(f"--dtype={value} was left out: the checkpoint's own type is used")
        case _:
            return False
    return True


def _whole(flag: str) -> str:
    """Return the number's flag that `flag` is the beginning of: vLLM takes any that is unique."""
    found = [name for name in _INTEGERS if name.startswith(flag)]
    return found[0] if len(found) == 1 and len(flag) >= _SHORTEST else flag


def _integer(draft: Draft, path: str, flag: str, value: str) -> bool:
    found = re.fullmatch(r"(\d+)([kKmM]?)", value)
    if found is None:
        draft.note(f"--{flag}={value} is no whole number and was left out")
        return True
    draft.put(path, int(found[1]) * _KILO.get(found[2], 1))
    return True


def _percent(draft: Draft, value: str) -> bool:
    try:
        percent = round(float(value) * 100)
    except ValueError:
        percent = 0
    if 10 <= percent <= 100:
        draft.put("engine.memoryPercent", percent)
    else:
        draft.note(f"a memory utilization of {value} is outside 0.1 to 1.0 and was left out")
    return True


def _quantization(draft: Draft, value: str) -> None:
    if value in ("fp8", "int8", "int4"):
        draft.put("quantization.weights", value)
    else:
        draft.note(f"--quantization={value}: quantization.weights stays auto, which follows the checkpoint")


def _remote_code(draft: Draft) -> bool:
    draft.note("--trust-remote-code was left out: code from a model's repository is not run")
    return True


def environment(entries: Sequence[Mapping[str, object]], draft: Draft) -> list[dict[str, object]]:
    """Return the variables that are not Hugging Face tokens; a token becomes `model.credentials`."""
    kept: list[dict[str, object]] = []
    for entry in entries:
        reference = entry.get("valueFrom")
        if entry.get("name") not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            if isinstance(reference, Mapping) and not {"secretKeyRef", "configMapKeyRef"} & set(reference):
                draft.note(
                    f"the variable {entry.get('name')} was left out: podTemplate.env takes values and keys "
                    "of Secrets and ConfigMaps, not fields of the pod"
                )
            else:
                kept.append(dict(entry))
            continue
        secret = reference.get("secretKeyRef") if isinstance(reference, Mapping) else None
        if isinstance(secret, Mapping):
            draft_credentials(draft, str(secret.get("name")), str(secret.get("key") or "token"))
        else:
            draft.note(
                f"the variable {entry.get('name')} holds a token in clear text and was left out: "
                "put it under the key `token` of a Secret and name that in model.credentials"
            )
    return kept


def draft_credentials(draft: Draft, secret: str, key: str) -> None:
    """Name the Secret of the token; Slipway reads its key `token`."""
    draft.put("model.credentials", {"secretName": secret})
    if key != "token":
        draft.note(f"Secret {secret} keeps the token under {key!r}: copy it to the key `token`")
