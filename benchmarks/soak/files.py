"""Model files with changed bytes: each is read, or refused by a named error that names the file.

They are read in a process of their own, so that a crash is seen as one and says which mutation it was.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from slipway_engine.errors import EngineError
from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.loading.gguf import GGUFFile

_BYTES = (0, 1, 2, 0x22, 0x2C, 0x39, 0x5D, 0x7B, 0x7D, 0x7F, 0x80, 0xFF)

_SHAPES = {
    "token_embd": (11, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
    "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32),
    "blk.0.attn_output": (32, 32),
    "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A file whose first `header` bytes are changed, and the path by which the model is opened."""

    file: Path
    opened: Path
    header: int


def mutate_files(model: Path, count: int, seed: int) -> list[str]:
    """Read `count` mutated files; return what went wrong. The header of `model` is among them."""
    with tempfile.TemporaryDirectory(prefix="mutated-") as directory:
        command = [
            sys.executable,
            "-m",
            "benchmarks.soak.files",
            directory,
            str(model),
            str(count),
            str(seed),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        faults = [line for line in ended.stdout.splitlines() if line.startswith("FAULT")]
        if ended.returncode:
            last = Path(directory, "round").read_text() if Path(directory, "round").exists() else "none"
            faults.append(f"status {ended.returncode} in round {last}: {ended.stderr[-600:]}")
        return faults


def _rounds(directory: Path, model: Path, count: int, seed: int) -> Iterator[str]:
    targets = [_gguf(directory), _safetensors(directory), _safetensors(directory, "config.json")]
    wholes = [target.file.read_bytes() for target in targets]
    real, draw = _without_data(directory, model), random.Random(seed)
    for number in range(count):
        Path(directory, "round").write_text(str(number))
        if number % 200 == 199:
            target, whole = real, real.file.read_bytes()[: real.header]
        else:
            place = draw.randrange(len(targets))
            target, whole = targets[place], wholes[place]
        changed = _changed(whole, target.header, draw)
        with target.file.open("r+b") as file:
            file.write(changed)
            if target is not real:
                file.truncate()
        yield from (f"FAULT in round {number}, {target.file.name}: {fault}" for fault in _read(target.opened))
        with target.file.open("r+b") as file:
            file.write(whole)
            if target is not real:
                file.truncate()


def _changed(whole: bytes, header: int, draw: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        content[draw.randrange(header)] = draw.choice((*_BYTES, draw.randrange(256)))
    if draw.random() < 0.05:
        del content[draw.randrange(len(content)) :]
    return bytes(content)


def _read(path: Path) -> Iterator[str]:
    try:
        checkpoint = open_checkpoint(path)
        if sum(torch.Size(shape).numel() for shape in checkpoint.shapes.values()) < 1 << 20:
            for name, shape in checkpoint.shapes.items():
                checkpoint.read_into(name, torch.empty(shape))
    except EngineError as error:
        if path.name not in str(error):
            yield f"the error does not name the file: {error}"
    except Exception as error:  # noqa: BLE001 - any other kind is what this looks for
        yield f"{type(error).__name__}: {error}"


def _gguf(directory: Path) -> Target:
    path = directory / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    numbers: dict[Callable[[int], None], int] = {
        writer.add_block_count: 1,
        writer.add_context_length: 64,
        writer.add_embedding_length: 32,
        writer.add_feed_forward_length: 64,
        writer.add_head_count: 2,
        writer.add_head_count_kv: 1,
        writer.add_eos_token_id: 2,
    }
    for add, number in numbers.items():
        add(number)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    kinds = (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1)
    for at, (name, shape) in enumerate(_SHAPES.items()):
        values = np.ones(shape, np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            kind = kinds[at % 2]
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Target(path, path, _header(path))


def _safetensors(directory: Path, mutated: str = "model.safetensors") -> Target:
    from transformers import LlamaConfig, LlamaForCausalLM

    to = directory / f"of-{mutated}"
    config = LlamaConfig(
        vocab_size=11, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    config.save_pretrained(to)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(state, to / "model.safetensors", {"format": "pt"})
    file = to / mutated
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little") if mutated.endswith(".safetensors") else len(whole)
    return Target(file, to, header)


def _without_data(directory: Path, model: Path) -> Target:
    """Return a file as long as `model` with its header and zeros for the rest, which take no room."""
    path, header = directory / f"real-{model.name}", _header(model)
    with model.open("rb") as source, path.open("wb") as file:
        file.write(source.read(header))
        file.truncate(model.stat().st_size)
    return Target(path, path, header)


def _header(path: Path) -> int:
    return min(info.offset for info in GGUFFile.open(path).tensors.values())


if __name__ == "__main__":
    for line in _rounds(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])):
        print(line, flush=True)
