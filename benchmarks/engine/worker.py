"""One engine in a process of its own: loads the model, then runs what stdin asks and answers on stdout.

A message is a line of JSON, the fields of a `Job`; the answer holds the figures, and none where the engine
cannot do it. Run with the interpreter that has the engine; this file needs nothing else of the project for a
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

from workloads import Job, figures

Result = dict[str, float]
Engine = Callable[[Job], Result]


class Door:
    """Lets a job's requests in: as seats get free, or at their hours."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._began = time.monotonic()
        self.arrivals: list[float] = []
        self.tokens: list[list[float]] = []

    @property
    def closed(self) -> bool:
        """True where all requests are in."""
        return len(self.arrivals) == len(self._job.prompts)

    def next(self, running: int) -> int | None:
        """Return the number of a request that comes in now, or None."""
        number, now = len(self.arrivals), time.monotonic()
        if self.closed or running >= self._job.concurrency:
            return None
        if self._job.arrivals is not None:
            due = self._began + self._job.arrivals[number]
            if now < due:
                return None
            now = due
        self.arrivals.append(now)
        self.tokens.append([])
        return number

    def wait(self) -> None:
        """Sleep until the next request is due; for an engine with nothing to do."""
        if not self.closed and self._job.arrivals is not None:
            time.sleep(max(0.0, self._began + self._job.arrivals[len(self.arrivals)] - time.monotonic()))

    def figures(self) -> Result:
        """Return what was measured."""
        return figures(self.arrivals, self.tokens)


def slipway(model: Path, threads: int, **settings: Any) -> tuple[Engine, str]:
    """Our core, in process, with its default limits."""
    from slipway_engine.config import EngineConfig
    from slipway_engine.core.engine import EngineCore
    from slipway_engine.core.messages import NewRequest
    from slipway_engine.process.collector import settle
    from slipway_engine.sampling import SamplingParams

    core = EngineCore(
        EngineConfig(model, max_model_len=4096, kv_cache_bytes=1 << 30, num_threads=threads, **settings)
    )
    settle()  # as the process that serves does
    names = iter(range(1 << 60))
    inside = _clocked(core)

    def run(job: Job) -> Result:
        door, numbers = Door(job), dict[str, int]()
        inside.clear()
        while not door.closed or core.has_work():
            while (number := door.next(len(numbers))) is not None:
                sampling = SamplingParams(max_tokens=job.outputs[number], temperature=0, ignore_eos=True)
                name = str(next(names))
                numbers[name] = number
                prompt = tuple(job.prompts[number])
                core.add_request(NewRequest(name, prompt, sampling, door.arrivals[number]))
            if not core.has_work():
                door.wait()
                continue
            for found in core.step().outputs:
                door.tokens[numbers[found.request_id]] += [time.monotonic()] * len(found.new_token_ids)
                if found.finish_reason is not None:
                    del numbers[found.request_id]
        result = door.figures()
        if inside:
            result["outside_kernels_percent"] = 100 * (1 - sum(inside) / result["seconds"])
        return result

    cache = "on" if settings.get("prefix_caching", True) else "off"
    weights = core.memory.weights >> 20
    return run, (
        f"slipway {core.ready.dtype}, {settings}, {weights} MiB weights, prefix cache {cache}, "
        f"{core.ready.num_kv_blocks} blocks"
    )


def _clocked(core: Any) -> list[float]:
    """Return a list that takes the seconds of each native step; the torch path has none."""
    from slipway_engine.native.runner import NativeRunner

    seconds: list[float] = []
    if isinstance(core._runner, NativeRunner):
        model = core._runner.model
        step = model.step

        def clocked(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return step(*given, **named)
            finally:
                seconds.append(time.perf_counter() - began)

        model.step = clocked
    return seconds


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

    def run(job: Job) -> Result:
        if job.arrivals is not None:
            return {}
        arrivals, tokens, output = [], [], job.outputs[0]
        for start in range(0, len(job.prompts), job.concurrency):
            batch, clock = job.prompts[start : start + job.concurrency], Clock()
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

    def run(job: Job) -> Result:
        import numpy as np

        door, running = Door(job), dict[int, Any]()
        while not door.closed or running:
            while (number := door.next(len(running))) is not None:
                asked = genai.GenerationConfig()
                asked.max_new_tokens = asked.min_new_tokens = job.outputs[number]
                asked.ignore_eos = True
                ids = ov.Tensor(np.array([job.prompts[number]], dtype=np.int64))
                running[number] = pipeline.add_request(next(names), ids, asked)
            if not running:
                door.wait()
                continue
            pipeline.step()
            now = time.monotonic()
            for number, handle in list(running.items()):
                while handle.can_read():
                    for found in handle.read().values():
                        door.tokens[number] += [now] * len(found.generated_ids)
                if handle.get_status() != genai.GenerationStatus.RUNNING:
                    del running[number]
        return door.figures()

    name = f"openvino-genai {genai.__version__}, {properties}, prefix cache on, 512 tokens a step"
    return run, name


def llamacpp(model: Path, threads: int) -> tuple[Engine, str]:
    """llama.cpp through its Python binding: one request after the other."""
    import llama_cpp

    loaded = llama_cpp.Llama(
        str(model), n_ctx=4096, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def run(job: Job) -> Result:
        if job.arrivals is not None:
            return {}
        arrivals, tokens = [], []
        for prompt, output in zip(job.prompts, job.outputs, strict=True):
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


def _ours(**settings: Any) -> Callable[[Path, int], tuple[Engine, str]]:
    return lambda model, threads: slipway(model, threads, **{"cpu_backend": "native"} | settings)


ENGINES: dict[str, Callable[[Path, int], tuple[Engine, str]]] = {
    "slipway-torch": _ours(cpu_backend="torch"),
    "slipway": _ours(),
    "slipway-kv32": _ours(kv_cache_dtype="float32"),
    "slipway-uncached": _ours(prefix_caching=False),
    "slipway-float32": _ours(quantization="none"),
    "slipway-float32-kv32": _ours(quantization="none", kv_cache_dtype="float32"),
    "slipway-int8": _ours(quantization="int8"),
    "slipway-int8-kv8": _ours(quantization="int8", kv_cache_dtype="int8"),
    "slipway-int4": _ours(quantization="int4"),
    "slipway-int4-kv8": _ours(quantization="int4", kv_cache_dtype="int8"),
    "transformers": transformers,
    "openvino-f32": lambda model, threads: openvino(model, threads, "f32", "f16"),
    "openvino-int8": lambda model, threads: openvino(model, threads, "f32", "u8"),
    "openvino-int4": lambda model, threads: openvino(model, threads, "f32", "u8"),
    "llama.cpp": llamacpp,
    "llama.cpp-q8_0": llamacpp,
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
        print(json.dumps(run(Job(**json.loads(line)))), file=answers, flush=True)


if __name__ == "__main__":
    main()
