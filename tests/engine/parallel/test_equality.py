"""Over several processes a model computes what it computes in one: logits within rounding, so tokens too."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from slipway_engine.parallel.counts import Counts

TOLERANCE = 2e-3
"""Most that a log-probability may differ: sums over ranks are added in another order."""

LAYOUTS = [
    ("smollm2", 3, 1, {}),
    ("smollm2", 1, 2, {}),
    ("gemma3", 2, 1, {}),
    ("gemma3", 2, 2, {}),
    ("experts", 2, 1, {"enable_expert_parallel": True}),
    ("experts", 2, 1, {}),
]
NAMES = ["TP 3", "PP 2", "TP 2, repeated key head", "TP 2 x PP 2", "EP 2", "TP 2, cut experts"]

Start = Callable[..., Any]


def _prompts(seed: int, count: int, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(199) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@pytest.fixture(params=LAYOUTS, ids=NAMES, scope="module")
def layout(request: pytest.FixtureRequest) -> Any:
    """A model, degrees and settings."""
    return request.param


@pytest.fixture
def pair(layout: Any, engines: Start) -> tuple[Any, Any]:
    """The same model in one process and, with too little memory for all requests, in several."""
    model, tensor, pipeline, settings = layout
    little = _little(model, pipeline, tensor)
    return engines(model), engines(model, tensor, pipeline, kv_cache_bytes=little, **settings)


def same(alone: list[Any], together: list[Any]) -> None:
    """Compare entries up to where the best two are nearer than rounding; from there texts may differ."""
    assert alone, "nothing to compare"
    for one, other in zip(alone, together, strict=True):
        best = [value for _, value in one.top]
        if best[0] - best[1] <= 2 * TOLERANCE:
            return
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=TOLERANCE)
        assert best == pytest.approx([value for _, value in other.top], abs=TOLERANCE)


def test_a_given_text_has_the_same_log_probabilities(pair):
    (text,) = _prompts(1, 1, 3)
    text = (text * 60)[:90]
    found = []
    for engine in pair:
        engine.send("text", text, prompt_logprobs=3, max_tokens=1)
        engine.finish()
        found.append([entry for one in engine.outputs["text"] for entry in one.prompt_logprobs])
    assert len(found[0]) == len(text) - 1
    for one, other in zip(*found, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=TOLERANCE)
        assert [value for _, value in one.top] == pytest.approx(
            [value for _, value in other.top], abs=TOLERANCE
        )


def test_greedy_texts_of_many_requests_at_once_are_the_same(pair):
    for engine in pair:
        for number, prompt in enumerate(_prompts(2, 6)):
            engine.send(f"r{number}", prompt, max_tokens=10 + number, logprobs=2)
        engine.finish()
    for number in range(6):
        assert len(pair[1].tokens(f"r{number}")) == 10 + number
        same(*(engine.logprobs(f"r{number}") for engine in pair))


def test_several_choices_and_seeded_sampling_are_the_same(pair):
    for engine in pair:
        engine.send("n", [5, 6, 7, 8, 9], n=3, temperature=0.7, seed=11, max_tokens=6, logprobs=2)
        engine.send("beam", [9, 8, 7], beam_width=2, n=2, max_tokens=5)
        engine.finish()
    alone, together = pair
    for index in range(3):
        assert together.tokens("n", index) == alone.tokens("n", index)
    assert [together.tokens("beam", index) for index in range(2)] == [
        alone.tokens("beam", index) for index in range(2)
    ]


def test_a_known_prefix_is_not_computed_again_and_changes_nothing(pair):
    prompt = list(range(20, 60))
    _, engine = pair
    for name in ("first", "again"):
        engine.send(name, prompt, max_tokens=6, logprobs=2)
        engine.finish()
    assert engine.outputs["again"][0].cached_tokens >= 36
    same(engine.logprobs("first"), engine.logprobs("again"))


def test_an_abort_frees_everything_and_the_others_go_on(pair):
    for engine in pair:
        engine.send("gone", [3] * 40, max_tokens=100)
        engine.send("stays", [4, 5, 6], max_tokens=12, logprobs=2)
        for _ in range(5):
            engine.step()
        engine.core.abort(["gone"])
        engine.finish()
        assert engine.outputs["gone"][-1].finish_reason == "abort"
    same(*(engine.logprobs("stays") for engine in pair))


def test_tokens_are_streamed_as_they_come(pair):
    _, engine = pair
    engine.send("stream", [1, 2, 3], max_tokens=8)
    engine.finish()
    assert [len(one.new_token_ids) for one in engine.outputs["stream"]] == [1] * 8


def test_who_gave_blocks_back_goes_on_as_before(pair):
    alone, small = pair
    before = [engine.core.stats().num_preemptions for engine in pair]
    for engine in pair:
        for number, prompt in enumerate(_prompts(5, 6, 30)):
            engine.send(f"r{number}", prompt, max_tokens=50, logprobs=2)
        engine.finish()
    assert alone.core.stats().num_preemptions == before[0]
    assert small.core.stats().num_preemptions > before[1]
    for number in range(6):
        same(alone.logprobs(f"r{number}"), small.logprobs(f"r{number}"))


def test_ranks_tell_what_they_did_and_experts_how_many_tokens_they_answered(layout, pair):
    name, tensor, pipeline, settings = layout
    _, engine = pair

    def told(seconds: float = 30.0) -> dict[int, Counts]:
        """Wait for everybody to have told the same steps."""
        until = time.monotonic() + seconds
        while True:
            rows = [Counts.of(row) for row in engine.core.stats().ranks]
            if len(rows) == tensor * pipeline and len({row.steps for row in rows}) == 1:
                return {row.rank: row for row in rows}
            assert time.monotonic() < until, rows
            time.sleep(0.1)

    before = told()
    engine.send("counted", [77, 3, 77, 9, 77, 1, 78, 2, 79, 4], max_tokens=5)
    engine.finish()
    after = told()
    steps = after[0].steps - before[0].steps
    assert steps == 5
    sums = after[0].calls[0] - before[0].calls[0]
    layers = -(-{"smollm2": 3, "gemma3": 5, "experts": 3}[name] // pipeline)
    whole = settings.get("enable_expert_parallel", False)
    assert sums == (0 if tensor == 1 else steps * ((1 if whole else 2) * layers + 1))
    answered = sum(sum(row.experts) for row in after.values()) - sum(
        sum(row.experts) for row in before.values()
    )
    assert answered == (14 * 2 * 3 if whole else 0)
    if whole:
        assert sorted(number for row in after.values() for number in range(row.first, row.first + 3)) == list(
            range(6)
        )


def _little(model: str, pipeline: int, tensor: int) -> int:
    """Return bytes for about 45 blocks of 4 tokens, on the rank that keeps most of a token."""
    elements = {"smollm2": 2 * 8 * 3 // tensor, "gemma3": 2 * 8, "experts": 2 * 8 * 2 // tensor}[model]
    layers = {"smollm2": -(-3 // pipeline), "gemma3": 6 if pipeline == 1 else 4, "experts": 3}[model]
    return 46 * 4 * 4 * elements * layers
