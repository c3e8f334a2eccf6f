"""What further arguments may not say even where a class allows them: what the object's own fields say.

Engines accept a flag with dashes or underscores, with `=` or as two words, and often any beginning that is
unique; all of these are the same flag here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from slipway_operator.plan.profiles import CUSTOM, PROFILES

# Flags by which an engine runs code that is not its own: a model's, a request's, or some file's.
_REMOTE_CODE: Final = (
    "--trust-remote-code", "--trust-request-chat-template", "--trust-request-mm-kwargs", "--middleware",
    "--worker-cls", "--worker-extension-cls", "--scheduler-cls", "--distributed-executor-backend",
    "--logits-processors", "--tool-parser-plugin", "--reasoning-parser-plugin", "--io-processor-plugin",
    "--model-class-overrides", "--tool-server", "--enable-custom-logit-processor", "--custom-weight-loader",
    "--forward-hooks", "--sidecar", "--sidecar-args", "--warmups", "--log-config-file",
    "--logging-config", "--model-config-parser",
)  # fmt: skip
# Flags by which an engine is led to other files than the object's source.
_SOURCES: Final = (
    "--model", "--model-path", "--tokenizer", "--tokenizer-path", "--hf-config-path", "--hf-overrides",
    "--hf-token", "--download-dir", "--lora-modules", "--lora-paths", "--speculative-config",
    "--speculative-model", "--speculative-draft-model-path", "--draft-model", "--code-revision", "--revision",
    "--tokenizer-revision", "--load-format", "--model-loader-extra-config", "--chat-template", "--allow-http",
    "--config", "--compilation-config", "--spec-model", "--default-mm-loras", "--generation-config",
    "--allowed-local-media-path", "--allowed-media-domains", "--kv-transfer-config", "--ec-transfer-config",
    "--weight-transfer-config", "--uno-lora-path", "--kt-weight-path", "--quantization-param-path",
    "--speculative-draft-model-revision", "--speculative-token-map", "--json-model-override-args",
    "--modelopt-checkpoint-restore-path", "--remote-instance-weight-loader-seed-instance-ip",
    "--remote-instance-weight-loader-backend", "--decrypted-config-file", "--decrypted-draft-config-file",
    "--modelexpress-config", "--weight-cache-socket", "--weight-cache-mode", "--hf-chat-template-name",
    "--completion-template", "--additional-config", "--hicache-storage-backend",
)  # fmt: skip
# Short flags of vLLM; SGLang and Slipway's engine have none.
_SHORT: Final = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-q": "--quantization",
    "-n": "--nnodes",
    "-ep": "--enable-expert-parallel",
    "-sc": "--speculative-config",
    "-cc": "--compilation-config",
    "-asc": "--api-server-count",
}
_OPTIMISATION: Final = re.compile(r"-O\.?[0-9a-z_]*", re.IGNORECASE)
"""vLLM's level of optimisation, glued to its flag as compilers have it."""
_VARIABLE: Final = re.compile(r"\$\([^)]*\)")
_DEGREES: Final = (
    "--tensor-parallel-size",
    "--pipeline-parallel-size",
    "--data-parallel-size",
    "--dp-size",
    "--nnodes",
)


def smuggled(arguments: Sequence[str], *, runtime: str, remote_code: bool, sources: bool) -> Iterator[str]:
    """Yield what of `arguments` is not allowed. `remote_code` and `sources` say that these are free."""
    profile = PROFILES[runtime]
    own = [word for flag in profile.flags for word in (flag.flag, flag.on, flag.off) if word]
    own += [word for word in profile.arguments if word.startswith("--")] + list(_DEGREES)
    for argument in arguments:
        if _VARIABLE.search(argument.replace("$$", "")) and runtime != CUSTOM.name:
            yield f"engine.extraArgs {argument}, which Kubernetes replaces by a variable; write its value"
            continue
        flag = _flag(argument)
        if flag is None or (runtime == CUSTOM.name and not flag.startswith("--")):
            continue
        if not flag.startswith("--"):
            yield f"engine.extraArgs {flag}, which nobody knows by its short form; write the long one"
        elif not remote_code and _means(flag, _REMOTE_CODE) and flag not in (*own, *_SOURCES):
            yield f"engine.extraArgs {flag}, which runs code that is not the engine's own (allow.remoteCode)"
        elif not sources and _means(flag, _SOURCES):
            yield f"engine.extraArgs {flag}, which can lead to other sources than allowedSources"
        elif _means(flag, own):
            yield f"engine.extraArgs {flag}, which the object's own fields set"


def _flag(argument: str) -> str | None:
    """Return the flag that an argument is, as engines normalise it; None where it is a value."""
    word = argument.strip().split("=", 1)[0]
    if not word.startswith("-") or word.lstrip("-")[:1].isdigit() or _OPTIMISATION.fullmatch(word):
        return None
    if not word.startswith("--"):
        # `-tp4` glues the value to the flag, `-sc.model` sets a part of it.
        head = word.split(".", 1)[0].rstrip("0123456789")
        word = _SHORT.get(head, word)
    return word.replace("_", "-").lower() if word.startswith("--") else word


def _means(flag: str, known: Sequence[str]) -> bool:
    """Return whether a flag is one of `known`, or a beginning by which an engine would find it.

    `--no-` turns a switch off, as `--disable-` does with one that begins with `--enable-`, and a dotted name
    (`--a.b`) sets a part of `--a`.
    """
    base = _positive(flag).split(".", 1)[0]
    if len(base) < 2:
        return False
    names = [_positive(word) for word in known]
    return any(name == base or (len(base) >= 3 and name.startswith(base)) for name in names)


def _positive(flag: str) -> str:
    """Return a flag's name as that of the switch that it turns on or off."""
    name = flag.removeprefix("--").removeprefix("no-")
    return f"enable-{name.removeprefix('disable-')}" if name.startswith("disable-") else name
