"""`slipway-engine plan` of a model on a hub: headers travel, weights do not."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from slipway_engine.cli.main import main

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000, "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def _shard(rows: int) -> bytes:
    size = rows * 64 * 2
    header = json.dumps({"a": {"dtype": "BF16", "shape": [rows, 64], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


@pytest.mark.parametrize("device", ["cpu", "nvidia-l4-24gb"])
def test_a_remote_model_is_planned_by_its_headers(
    hub: Any, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    hub.publish("org/name", {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": _shard(40_000)})
    arguments = ["plan", "hf://org/name", "--device", device, "--memory", "4Gi", "-o", "json"]
    assert main([*arguments, "--log-level", "error"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert not said["exact"]
    assert said["fits"]
    assert said["maxModelLen"] == 4096
    assert said["weights"] >= 40_000 * 64 * 2
    sent = [headers.get("Range") for path, headers in hub.requests if path.endswith(".safetensors")]
    assert sent == ["bytes=0-1048575"]
