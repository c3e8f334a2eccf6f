"""One engine in a process of its own that answers a text with the logits of every position.

A line of stdin is a JSON list of token ids; the answer is float32 [tokens, vocabulary], raw. Before that
goes one line of JSON, {"engine": description, "vocabulary": n} or {"absent": reason}. Run with the
interpreter that has the engine. Texts go in `CHUNK` tokens at a time, so that later ones read keys and values
from the engine's cache, in its type, as they do when it serves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 64

Rows = Callable[[Sequence[int]], Iterator["np.ndarray[Any, Any]"]]


def slipway(model: Path, threads: int, context: int, reference: bool = False, **settings: Any) -> Engine:
    """Our engine; the reference is the torch path in float32."""
    from slipway_engine.config import EngineConfig
    from slipway_engine.core.scoring import Scorer, reference_of

    config = EngineConfig(model, num_threads=threads, **settings)
    scorer = Scorer(reference_of(config) if reference else config, context)

    def rows(text: Sequence[int]) -> Iterator[np.ndarray[Any, Any]]:
        for part in scorer.logits(text):
            yield part.numpy()

    return rows, f"slipway {scorer.mode}", scorer.vocab_size


def transformers(model: Path, threads: int, context: int) -> Engine:
    """Transformers, eager, float32."""
    import torch
    import transformers as hf

    torch.set_num_threads(threads)
    loaded = hf.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def rows(text: Sequence[int]) -> Iterator[np.ndarray[Any, Any]]:
        with torch.inference_mode():
            yield loaded(torch.tensor([list(text)])).logits[0].numpy()

    return rows, f"transformers {hf.__version__}, float32", loaded.config.vocab_size


def openvino(model: Path, threads: int, context: int, kv: str) -> Engine:
    """OpenVINO's runtime with the properties that its GenAI pipeline is measured with."""
    import openvino as ov

    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": kv,
    }
    compiled = ov.Core().compile_model(model / "openvino_model.xml", "CPU", properties)
    request = compiled.create_infer_request()

    def rows(text: Sequence[int]) -> Iterator[np.ndarray[Any, Any]]:
        request.reset_state()
        for start in range(0, len(text), CHUNK):
            ids = np.array([text[start : start + CHUNK]], dtype=np.int64)
            end = start + ids.shape[1]
            asked = {
                "input_ids": ids,
                "attention_mask": np.ones((1, end), dtype=np.int64),
                "position_ids": np.arange(start, end, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
            yield request.infer(asked)["logits"][0]

    vocabulary = compiled.output("logits").partial_shape[2].get_length()
    return rows, f"openvino {ov.__version__}, {properties}", vocabulary


def llamacpp(model: Path, threads: int, context: int) -> Engine:
    """llama.cpp through its Python binding, as the file is."""
    import llama_cpp

    loaded = llama_cpp.Llama(
        str(model), n_ctx=context, n_batch=CHUNK, n_threads=threads, n_threads_batch=threads, logits_all=True,
        verbose=False,
    )  # fmt: skip

    def rows(text: Sequence[int]) -> Iterator[np.ndarray[Any, Any]]:
        loaded.reset()
        loaded.eval(list(text))
        yield loaded.scores[: len(text)]

    return rows, f"llama-cpp-python {llama_cpp.__version__}, {model.name}, f16 KV", loaded.n_vocab()


def _ours(**settings: Any) -> Callable[[Path, int, int], Engine]:
    return lambda *given: slipway(*given, cpu_backend="native", **settings)


Engine = tuple[Rows, str, int]
ENGINES: dict[str, Callable[[Path, int, int], Engine]] = {
    "reference": lambda *given: slipway(*given, reference=True),
    "slipway": _ours(),
    "slipway-kv32": _ours(kv_cache_dtype="float32"),
    "slipway-float32": _ours(quantization="none"),
    "slipway-float32-kv32": _ours(quantization="none", kv_cache_dtype="float32"),
    "slipway-int8": _ours(quantization="int8"),
    "slipway-int8-kv8": _ours(quantization="int8", kv_cache_dtype="int8"),
    "slipway-int4": _ours(quantization="int4"),
    "slipway-int4-kv8": _ours(quantization="int4", kv_cache_dtype="int8"),
    "transformers": transformers,
    "openvino-f32": lambda *given: openvino(*given, kv="f16"),
    "openvino-int8": lambda *given: openvino(*given, kv="u8"),
    "openvino-int4": lambda *given: openvino(*given, kv="u8"),
    "llama.cpp": llamacpp,
    "llama.cpp-q8_0": llamacpp,
}


def main() -> None:
    """Serve one engine until stdin ends."""
    name, model, threads, context = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # engines print what they like; answers go out alone
    try:
        rows, description, vocabulary = ENGINES[name](model, threads, context)
        hello: dict[str, Any] = {"engine": description, "vocabulary": vocabulary}
    except ImportError as error:
        hello = {"absent": str(error)}
    answers.write(json.dumps(hello).encode() + b"\n")
    answers.flush()
    for line in sys.stdin:
        text = json.loads(line)
        found = np.concatenate([np.array(part, dtype=np.float32) for part in rows(text)])
        assert found.shape == (len(text), vocabulary), found.shape
        answers.write(found.data)
        answers.flush()


if __name__ == "__main__":
    main()
