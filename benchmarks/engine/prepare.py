"""What peers need of a GGUF model: its values in Hugging Face layout, and OpenVINO's export of those.

Both are made once, in a cache directory named by the model file.
"""

from __future__ import annotations

import subprocess
from pathlib import Path


def hugging_face(model: Path, cache: Path) -> Path:
    """Unpack `model` to float32 safetensors with configuration and tokenizer."""
    directory = cache / f"{model.stem}-float32"
    if (directory / "tokenizer.json").exists():
        return directory
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, LlamaConfig

    from slipway_engine.loading.checkpoint import open_checkpoint

    directory.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(model)
    tensors = {name: torch.empty(shape) for name, shape in checkpoint.shapes.items()}
    for name, tensor in tensors.items():
        checkpoint.read_into(name, tensor)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    ours = checkpoint.config
    if ours.architecture != "LlamaForCausalLM":
        raise SystemExit(f"{model} is a {ours.architecture}; peers can be given Llama models only.")
    LlamaConfig(
        architectures=[ours.architecture],
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        max_position_embeddings=ours.max_position,
        rms_norm_eps=ours.rms_eps,
        rope_theta=ours.rope.theta,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope.theta},
        tie_word_embeddings=ours.tied_embeddings,
        eos_token_id=ours.eos_token_ids[0] if ours.eos_token_ids else None,
        dtype="float32",
    ).save_pretrained(directory)
    AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name).save_pretrained(directory)
    return directory


def openvino(unpacked: Path, python: Path, weights: str) -> Path:
    """Export with optimum-intel, in the peers' interpreter; `weights` is fp32 or int8."""
    directory = unpacked.with_name(f"{unpacked.name}-openvino-{weights}")
    if not (directory / "openvino_model.bin").exists():
        subprocess.run(
            [python.parent / "optimum-cli", "export", "openvino", "--model", unpacked, "--task",
             "text-generation-with-past", "--weight-format", weights, directory],
            check=True,
        )  # fmt: skip
    return directory
