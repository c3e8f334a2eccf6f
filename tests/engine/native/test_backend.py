"""The engine on the native path: when it is chosen, what it generates, and how the library is made."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slipway_engine.config import EngineConfig
from slipway_engine.core.engine import EngineCore
from slipway_engine.core.messages import NewRequest
from slipway_engine.errors import InvalidArgument
from slipway_engine.loading.checkpoint import open_checkpoint
from slipway_engine.models.config import RopeConfig
from slipway_engine.native import backend, build, library, weights
from slipway_engine.sampling import SamplingParams
from slipway_engine.tokenizer.load import load_tokenizer

CPU = torch.device("cpu")
MARGIN = 2e-3
PROMPTS = (
    (504, 3575, 282, 4649, 314),  # The capital of France is
    tuple(range(1000, 1130)),
    (1, 4093, 198, 19556, 2, 198, 1, 520, 9531, 198),
)


def config(model: Path, **fields: Any) -> EngineConfig:
    base: dict[str, Any] = {"max_model_len": 512, "kv_cache_bytes": 64 << 20, "num_threads": 2}
    return EngineConfig(model, **{**base, **fields})


def generate(core: EngineCore, length: int) -> list[list[tuple[int, float]]]:
    """Greedy tokens of each prompt, with the distance of the best to the second."""
    greedy = SamplingParams(max_tokens=length, temperature=0, ignore_eos=True, logprobs=2)
    for number, prompt in enumerate(PROMPTS):
        core.add_request(NewRequest(str(number), prompt, greedy, time.monotonic()))
    found: list[list[tuple[int, float]]] = [[] for _ in PROMPTS]
    while core.has_work():
        for output in core.step().outputs:
            for token in output.logprobs:
                margin = token.top[0][1] - token.top[1][1]
                found[int(output.request_id)].append((token.token_id, margin))
    core.check_idle()
    return found


def test_greedy_tokens_are_the_torch_paths(smollm2: Path) -> None:
    """Wherever the torch path is sure: closer calls may go either way, and everything after them."""
    expected = generate(EngineCore(config(smollm2, cpu_backend="torch")), 24)
    for fields in ({"quantization": "none", "kv_cache_dtype": "float32"}, {}):
        core = EngineCore(config(smollm2, cpu_backend="native", **fields))
        found = generate(core, 24)
        compared = 0
        for theirs, ours in zip(expected, found, strict=True):
            for (token, margin), (own, _) in zip(theirs, ours, strict=True):
                if margin < MARGIN:
                    break
                assert own == token
                compared += 1
        assert compared > 50


def test_int8_mostly_agrees(smollm2: Path) -> None:
    core = EngineCore(config(smollm2, quantization="int8"))
    assert core.ready.dtype == "int8"
    expected = generate(EngineCore(config(smollm2, cpu_backend="native")), 8)
    found = generate(core, 8)
    assert [row[0][0] for row in found] == [row[0][0] for row in expected]


def test_int4_keeps_blocks_of_four_bits(smollm2: Path) -> None:
    """So it says what the checkpoint's own mode says, which multiplies in the same way."""
    core = EngineCore(config(smollm2, quantization="int4"))
    own = EngineCore(config(smollm2))
    assert core.ready.dtype == own.ready.dtype
    assert generate(core, 8) == generate(own, 8)


def test_plan_counts_what_is_packed(smollm2: Path) -> None:
    checkpoint = open_checkpoint(smollm2)
    chosen = backend.choose(config(smollm2), checkpoint, CPU, 2)
    assert chosen is not None
    packed = weights.load(checkpoint, library.Pool(2), "none")
    needs = chosen.needs(0)
    assert needs.weights == packed.nbytes
    before = _own_memory()
    model = chosen.load(_plan_of(64), 16, lambda done, total: None)
    assert _own_memory() - before < needs.weights + (32 << 20)
    assert model.model.cache.num_blocks == 65


def _own_memory() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("/proc/self/status has no RssAnon")


@pytest.mark.parametrize("kv", ["float32", "float16", "int8"])
def test_plan_counts_the_cache(smollm2: Path, kv: str) -> None:
    checkpoint = open_checkpoint(smollm2)
    chosen = backend.choose(config(smollm2, kv_cache_dtype=kv), checkpoint, CPU, 1)
    assert chosen is not None
    cache = chosen.load(_plan_of(7), 16, lambda done, total: None).model.cache
    assert cache.data.nbytes == 8 * 16 * chosen.needs(0).kv_bytes_per_token
    per_head = {"float32": 256, "float16": 128, "int8": 64 + 4}[kv]
    assert chosen.needs(0).kv_bytes_per_token == 2 * 30 * 3 * per_head


def test_cache_of_bytes_is_near(smollm2: Path) -> None:
    """On a real text, teacher-forced: against the same weights with a cache of float32."""
    tokens = load_tokenizer(smollm2).encode(Path(backend.__file__).read_text())[:500]
    logits = []
    for kv in ("float32", "int8"):
        core = EngineCore(config(smollm2, quantization="none", kv_cache_dtype=kv))
        logits.append(_teacher_forced(core, tokens))
    expected, found = (torch.from_numpy(rows).log_softmax(1) for rows in logits)
    divergence = (expected.exp() * (expected - found)).sum(1)
    assert divergence.mean() < 3e-3
    assert (expected.argmax(1) == found.argmax(1)).float().mean() > 0.97


def _teacher_forced(core: EngineCore, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
    model = core._runner.model  # type: ignore[attr-defined]
    logits = np.empty((len(tokens), model.vocab_size), dtype=np.float32)
    model.step(
        np.array(tokens, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        np.array([0, len(tokens)], dtype=np.int32),
        np.arange(1, 1 + -(-len(tokens) // 16), dtype=np.int32),
        np.array([0, -(-len(tokens) // 16)], dtype=np.int32),
        np.arange(len(tokens), dtype=np.int32),
        logits.ctypes.data,
    )
    return logits


def _plan_of(blocks: int) -> Any:
    from slipway_engine.kv.plan import MemoryPlan

    return MemoryPlan(512, blocks, 16, 0, 0, 0, 0, 0, 0)


def test_choice_says_what_keeps_it(smollm2: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = open_checkpoint(smollm2)
    caplog.set_level("INFO")
    assert backend.choose(config(smollm2, cpu_backend="torch"), checkpoint, CPU, 1) is None
    assert backend.choose(config(smollm2, block_size=8), checkpoint, CPU, 1) is None
    assert "block_size is 8; it takes 16" in caplog.text
    for fields, sentence in (
        ({"cpu_backend": "native", "dtype": "bfloat16"}, "dtype is bfloat16; it takes auto or float32"),
        ({"cpu_backend": "fast"}, "cpu_backend is 'fast'; write auto, native or torch"),
        ({"quantization": "int3"}, "quantization is 'int3'"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype is 'fp8'"),
    ):
        with pytest.raises(InvalidArgument, match=sentence):
            backend.choose(config(smollm2, **fields), checkpoint, CPU, 1)


def test_absent_library_is_named_with_the_way_to_get_it(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(library, "library_path", lambda: None)
    assert backend.choose(config(smollm2), open_checkpoint(smollm2), CPU, 1) is None
    assert "run python -m slipway_engine.native.build" in caplog.text


def test_head_groups_beyond_the_kernels_fall_back(smollm2: Path) -> None:
    checkpoint = open_checkpoint(smollm2)
    checkpoint.config = replace(checkpoint.config, num_heads=97, num_kv_heads=1)  # type: ignore[misc]
    assert backend.choose(config(smollm2), checkpoint, CPU, 1) is None


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"rope": RopeConfig(fraction=0.05)}, "an odd part of a head"),
        ({"local_rope": RopeConfig(fraction=0.5)}, "different parts of a head"),
        ({"rope": RopeConfig(kind="dynamic")}, "rope kind 'dynamic'"),  # type: ignore[arg-type]
    ],
)
def test_features_beyond_the_library_fall_back(
    smollm2: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], word: str
) -> None:
    caplog.set_level("INFO")
    checkpoint = open_checkpoint(smollm2)
    checkpoint.config = replace(checkpoint.config, **fields)  # type: ignore[misc]
    assert backend.choose(config(smollm2), checkpoint, CPU, 1) is None
    assert word in caplog.text


def test_forced_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CPU_ISA", "portable")
    assert library.choose_instruction_set() == "portable"
    monkeypatch.setenv("SLIPWAY_CPU_ISA", "mmx")
    with pytest.raises(InvalidArgument, match="SLIPWAY_CPU_ISA is 'mmx'; this processor runs"):
        library.choose_instruction_set()


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match="install one"):
        build.build(tmp_path)


SANITIZED = """
import numpy as np
from slipway_engine.native.library import Format, Matrix, Pool, Rows, instruction_sets
pool = Pool(2)
draw = np.random.default_rng(0)
for shape in ((1, 32), (33, 96), (100, 64)):
    for kind in Format:
        if kind.quantised or kind is Format.BF16:
            raw = draw.integers(0, 60, (shape[0], kind.row_bytes(shape[1])), dtype=np.uint8)
            rows = Rows(kind, *shape, raw)
        else:
            dtype = np.float16 if kind is Format.F16 else np.float32
            rows = Rows.of_floats(draw.standard_normal(shape).astype(dtype))
        matrix = Matrix(pool, [rows])
        for isa in instruction_sets():
            for count in (1, 3, 5, 14):
                matrix.apply(pool, isa, draw.standard_normal((count, shape[1])), 1 if kind.quantised else 4)
                matrix.apply(pool, isa, draw.standard_normal((count, shape[1])))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """No read or write out of bounds and no undefined behaviour, in kernels and in whole steps."""
    made = build.build(tmp_path, sanitize=True)
    runtime = subprocess.run(
        [build.find_compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "SLIPWAY_NATIVE_LIBRARY": str(made),
        "PATH": "/usr/bin:/bin",
    }
    steps = Path(__file__).with_name("test_decoder.py")
    for command in (
        [sys.executable, "-c", SANITIZED],
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(steps), "-k",
         "(bits_do_not_depend or stale or odd or narrow or experts) and not bytes_is"],
    ):  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.slow
def test_library_of_other_architectures(tmp_path: Path) -> None:
    """What is compiled where there is no x86-64: the portable kernels alone, and the same tests."""
    made = build.build(tmp_path, portable=True)
    environment = {**os.environ, "SLIPWAY_NATIVE_LIBRARY": str(made), "SLIPWAY_CPU_ISA": "portable"}
    tests = [str(Path(__file__).with_name(name)) for name in ("test_linear.py", "test_decoder.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        [*command, "-k", "portable"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "skipped" not in done.stdout
