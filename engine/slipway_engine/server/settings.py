"""What the HTTP side is told by the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slipway_engine.process.watchdog import LEAST_ALLOWED_SECONDS

DRAIN_SECONDS = 300.0
ALIASES = ("none", "vllm")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to serve.

    Attributes:
        served_names: the names by which requests may call the model; answers carry the first.
        drain_seconds: how long running requests may go on after SIGTERM.
        max_body_bytes: longest request body.
        max_sequences: most sequences (prompts x n) of one request.
        body_seconds: how long a client may take to send its body.
        least_step_seconds: a step may always last this long before `/health` fails.
        chat_template: a Jinja file to use in place of the model's own template.
        tool_call_parser: how the model writes calls of tools; "auto" tells it from the template.
        reasoning_parser: how the model marks its thinking; "none" leaves it in the text.
        generation_config: whose sampling defaults hold; "auto" is the model's, "none" are OpenAI's.
        log_prompts: whether prompts are written to the log.
        metrics_aliases: a second prefix under which the metrics are shown, "vllm" or "none".
        profile_dir: where traces of the core are written; None allows none.
        otlp_endpoint: where spans are sent, over HTTP; None for nowhere.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_names: tuple[str, ...] = ("model",)
    drain_seconds: float = DRAIN_SECONDS
    max_body_bytes: int = 8 << 20
    max_sequences: int = 128
    body_seconds: float = 60.0
    least_step_seconds: float = LEAST_ALLOWED_SECONDS
    chat_template: Path | None = None
    tool_call_parser: str = "auto"
    reasoning_parser: str = "none"
    generation_config: str = "auto"
    log_prompts: bool = False
    metrics_aliases: str = "none"
    profile_dir: Path | None = None
    otlp_endpoint: str | None = None
    log_format: str = "auto"
