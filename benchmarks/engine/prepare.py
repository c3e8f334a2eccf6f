"""What peers need of a GGUF model: its values in Hugging Face layout, OpenVINO's exports, other GGUF types.

Each is made once, in a cache directory named by the model file.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

CACHE = Path.home() / ".cache" / "slipway" / "benchmarks"


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
    """Export with optimum-intel, in the peers' interpreter; `weights`: fp32, int8 or int4 (groups of 32)."""
    directory = unpacked.with_name(f"{unpacked.name}-openvino-{weights}")
    if not (directory / "openvino_model.bin").exists():
        groups = ["--group-size", "32"] if weights == "int4" else []
        subprocess.run(
            [python.parent / "optimum-cli", "export", "openvino", "--model", unpacked, "--task",
             "text-generation-with-past", "--weight-format", weights, *groups, directory],
            check=True,
        )  # fmt: skip
    return directory


def llamacpp(model: Path, cache: Path, python: Path, kind: str) -> Path:
    """Quantise the file's values again with llama.cpp, in the peers' interpreter, to a type such as Q8_0."""
    file = cache / f"{model.stem}.{kind}.gguf"
    if not file.exists():
        program = (
            "import ctypes, sys, llama_cpp as ll\n"
            "asked = ll.llama_model_quantize_default_params()\n"
            "asked.ftype, asked.allow_requantize = getattr(ll, 'LLAMA_FTYPE_MOSTLY_' + sys.argv[3]), True\n"
            "given, made = (path.encode() for path in sys.argv[1:3])\n"
            "sys.exit(ll.llama_model_quantize(given, made, ctypes.byref(asked)))"
        )
        part = file.with_suffix(".part")
        subprocess.run([python, "-c", program, model, part, kind], check=True)
        part.rename(file)
    return file


def for_peer(name: str, model: Path, cache: Path, python: Path | None) -> Path | None:
    """Return the files that the peer `name` reads, made where they are not; None without its interpreter."""
    if name == "transformers":
        return hugging_face(model, cache)
    if python is None:
        print(f"{name}: left out, give --peers a virtual environment that has it")
        return None
    if name.startswith("openvino-"):
        weights = name.removeprefix("openvino-")
        return openvino(hugging_face(model, cache), python, "fp32" if weights == "f32" else weights)
    kind = name.partition("-")[2]
    return llamacpp(model, cache, python, kind.upper()) if kind else model
