"""What further arguments may not say even where a class allows them: what the object's own fields say.

Engines accept a flag with dashes or underscores, with `=` or as two words, and often any beginning that is
unique; all of these are the same flag here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from slipway_operator.plan.profiles import PROFILES

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
_SHORT: Final = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
}
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
        flag = _flag(argument)
        if flag is None:
            continue
        if not remote_code and _means(flag, _REMOTE_CODE) and flag not in (*own, *_SOURCES):
            yield f"engine.extraArgs {flag}, which runs code that is not the engine's own (allow.remoteCode)"
        elif not sources and _means(flag, _SOURCES):
            yield f"engine.extraArgs {flag}, which can lead to other sources than allowedSources"
        elif _means(flag, own):
            yield f"engine.extraArgs {flag}, which the object's own fields set"


def _flag(argument: str) -> str | None:
    """Return the flag that an argument is, as engines normalise it; None where it is a value."""
    word = argument.strip().split("=", 1)[0]
    if not word.startswith("-") or word.lstrip("-")[:1].isdigit():
        return None
    word = _SHORT.get(word, word)
    # `-tp4` and `-O3` glue the value to the flag.
    glued = next((long for short, long in _SHORT.items() if word.startswith(short)), word)
    return (glued if not word.startswith("--") else word).replace("_", "-").lower()


def _means(flag: str, known: Sequence[str]) -> bool:
    """Return whether a flag is one of `known`, or a beginning by which an engine would find it.

    `--no-` turns a switch off, and a dotted name (`--a.b`) sets a part of `--a`.
    """
    bare = flag.removeprefix("--no-") if flag.startswith("--no-") else flag.removeprefix("--")
    base = bare.split(".", 1)[0]
    if len(base) < 2:
        return False
    names = [word.removeprefix("--").removeprefix("no-") for word in known]
    return any(name == base or (len(base) >= 3 and name.startswith(base)) for name in names)
