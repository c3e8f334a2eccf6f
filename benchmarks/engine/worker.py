"""One engine in a process of its own: loads the model, then runs what stdin asks and answers on stdout.

A message is a line of JSON, {"prompts": [[ids]], "output": n, "concurrency": n}; the answer holds the
figures. Run with the interpreter that has the engine; this file needs nothing else of the project for a
peer.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from workloads import figures

Result = dict[str, float]
Engine = Callable[[list[list[int]], int, int], Result]


def slipway(model: Path, threads: int, **settings: Any) -> tuple[Engine, str]:
    """Our core, in process, with its default limits."""
    from slipway_engine.config import EngineConfig
    from slipway_engine.core.engine import EngineCore
    from slipway_engine.core.messages import NewRequest
    from slipway_engine.sampling import SamplingParams

    core = EngineCore(
        EngineConfig(model, max_model_len=4096, kv_cache_bytes=1 << 30, num_threads=threads, **settings)
    )
    names = iter(range(1 << 60))

    def run(prompts: list[list[int]], output: int, concurrency: int) -> Result:
        sampling = SamplingParams(max_tokens=output, temperature=0, ignore_eos=True)
        queue = [(str(next(names)), tuple(prompt)) for prompt in prompts]
        arrivals: dict[str, float] = {}
        tokens: dict[str, list[float]] = {name: [] for name, _ in queue}
        running = 0
        while queue or core.has_work():
            while queue and running < concurrency:
                name, prompt = queue.pop(0)
                arrivals[name] = time.monotonic()
                core.add_request(NewRequest(name, prompt, sampling, arrivals[name]))
                running += 1
            for found in core.step().outputs:
                tokens[found.request_id] += [time.monotonic()] * len(found.new_token_ids)
                running -= found.finish_reason is not None
        return figures(list(arrivals.values()), list(tokens.values()))

    return run, f"slipway {core.ready.dtype}, {settings}, prefix cache on, {core.ready.num_kv_blocks} blocks"


def transformers(model: Path, threads: int) -> tuple[Engine, str]:
    """Transformers, eager, float32: requests of a batch start and end together."""
    import torch
    import transformers as hf

    torch.set_num_threads(threads)
    loaded = hf.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    loaded.eval()

    class Clock(hf.LogitsProcessor):
        """Notes when the logits of each token are there."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self.times.append(time.monotonic())
            return scores

    def run(prompts: list[list[int]], output: int, concurrency: int) -> Result:
        arrivals, tokens = [], []
        for start in range(0, len(prompts), concurrency):
            batch, clock = prompts[start : start + concurrency], Clock()
            arrivals += [time.monotonic()] * len(batch)
            ids = torch.tensor(batch)
            with torch.inference_mode():
                loaded.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=output,
                    min_new_tokens=output,
                    do_sample=False,
                    pad_token_id=0,
                    logits_processor=hf.LogitsProcessorList([clock]),
                )
            tokens += [clock.times] * len(batch)
        return figures(arrivals, tokens)

    return (
        run,
        f"transformers {hf.__version__}, torch {torch.__version__}, float32, static batches, no prefix cache",
    )


def openvino(model: Path, threads: int, precision: str, kv: str) -> tuple[Engine, str]:
    """OpenVINO GenAI's continuous batching."""
    import openvino as ov
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.max_num_seqs = 64
    scheduler.max_num_batched_tokens = 512
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = True
    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": kv,
    }
    pipeline = genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", properties)
    names = iter(range(1 << 60))

    def run(prompts: list[list[int]], output: int, concurrency: int) -> Result:
        import numpy as np

        asked = genai.GenerationConfig()
        asked.max_new_tokens = asked.min_new_tokens = output
        asked.ignore_eos = True
        queue, running = list(prompts), {}
        arrivals: list[float] = []
        tokens: list[list[float]] = []
        while queue or running:
            while queue and len(running) < concurrency:
                at = len(arrivals)
                arrivals.append(time.monotonic())
                tokens.append([])
                ids = ov.Tensor(np.array([queue.pop(0)], dtype=np.int64))
                running[at] = pipeline.add_request(next(names), ids, asked)
            pipeline.step()
            now = time.monotonic()
            for at, handle in list(running.items()):
                while handle.can_read():
                    for found in handle.read().values():
                        tokens[at] += [now] * len(found.generated_ids)
                if handle.get_status() != genai.GenerationStatus.RUNNING:
                    del running[at]
        return figures(arrivals, tokens)

    name = f"openvino-genai {genai.__version__}, {properties}, prefix cache on, 512 tokens a step"
    return run, name


def llamacpp(model: Path, threads: int) -> tuple[Engine, str]:
    """llama.cpp through its Python binding: one request after the other."""
    import llama_cpp

    loaded = llama_cpp.Llama(
        str(model), n_ctx=4096, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def run(prompts: list[list[int]], output: int, concurrency: int) -> Result:
        arrivals, tokens = [], []
        for prompt in prompts:
            arrivals.append(time.monotonic())
            loaded.reset()
            times: list[float] = []
            for _ in loaded.generate(prompt, temp=0.0, reset=False):
                times.append(time.monotonic())
                if len(times) == output:
                    break
            tokens.append(times)
        return figures(arrivals, tokens)

    return run, f"llama-cpp-python {llama_cpp.__version__}, n_batch 512, f16 KV, requests in turn"


ENGINES: dict[str, Callable[[Path, int], tuple[Engine, str]]] = {
    "slipway-torch": lambda model, threads: slipway(model, threads, cpu_backend="torch"),
    "slipway": lambda model, threads: slipway(model, threads, cpu_backend="native"),
    "slipway-float32": lambda model, threads: slipway(
        model, threads, cpu_backend="native", quantization="none"
    ),
    "slipway-int8": lambda model, threads: slipway(model, threads, cpu_backend="native", quantization="int8"),
    "transformers": transformers,
    "openvino-f32": lambda model, threads: openvino(model, threads, "f32", "f16"),
    "openvino-int8": lambda model, threads: openvino(model, threads, "f32", "u8"),
    "llama.cpp": llamacpp,
}


def main() -> None:
    """Serve one engine until stdin ends."""
    name, model, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    answers = sys.stdout
    sys.stdout = sys.stderr  # engines print what they like; answers go out alone
    try:
        run, description = ENGINES[name](model, threads)
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"engine": description}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(
            json.dumps(run(asked["prompts"], asked["output"], asked["concurrency"])), file=answers, flush=True
        )


if __name__ == "__main__":
    main()
