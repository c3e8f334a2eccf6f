"""Starts a real server with a test's core in place of the model: `python launch.py PORT [setting=value ...]`.

The process is the real one (sockets, signals, exit status); what differs from `slipway-engine serve` is only
the class that the core process loads.
"""

import sys
from pathlib import Path

from slipway_engine.config import EngineConfig
from slipway_engine.logs import configure_logging
from slipway_engine.process.client import CoreCommand
from slipway_engine.server.run import serve
from slipway_engine.server.settings import ServerSettings


def main(model, core, port, *settings):
    pairs = dict(setting.split("=", 1) for setting in settings)
    configure_logging("json")
    config = EngineConfig(
        Path(model),
        max_model_len=int(pairs.get("max_model_len", 256)),
        max_num_seqs=int(pairs.get("max_num_seqs", 64)),
        max_waiting=int(pairs.get("max_waiting", 1024)),
    )
    template = pairs.get("chat_template")
    server = ServerSettings(
        port=int(port),
        served_names=("toy", "toy-alias"),
        drain_seconds=float(pairs.get("drain_seconds", 30)),
        max_body_bytes=int(pairs.get("max_body_bytes", 1 << 20)),
        body_seconds=float(pairs.get("body_seconds", 60)),
        least_step_seconds=float(pairs.get("least_step_seconds", 10)),
        chat_template=Path(template) if template else None,
        tool_call_parser=pairs.get("tool_call_parser", "auto"),
        reasoning_parser=pairs.get("reasoning_parser", "none"),
        generation_config=pairs.get("generation_config", "auto"),
        log_prompts="log_prompts" in pairs,
        metrics_aliases=pairs.get("metrics_aliases", "none"),
        profile_dir=Path(pairs["profile_dir"]) if "profile_dir" in pairs else None,
        otlp_endpoint=pairs.get("otlp_endpoint"),
    )
    return serve(config, server, CoreCommand(core=f"echo_core:{core}", log_format="json"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
