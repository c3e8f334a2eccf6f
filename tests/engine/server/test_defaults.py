"""A model's own sampling defaults: where they come from, and that a request's words come first."""

import json

import pytest

from slipway_engine.errors import InvalidArgument, ModelCorrupt
from slipway_engine.server.defaults import sampling_defaults
from slipway_engine.server.parsing import parse
from slipway_engine.server.protocol import CompletionRequest

GIVEN = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "generation_config.json").write_text(
        json.dumps(
            GIVEN | {"eos_token_id": [1, 2], "do_sample": True, "min_p": None, "transformers_version": "5"}
        )
    )
    return tmp_path


def sampling(defaults, **fields):
    request = parse(CompletionRequest, json.dumps({"prompt": "x"} | fields).encode())
    return request.sampling(16, 100, defaults)


def test_the_models_own_file_is_the_default(model):
    assert sampling_defaults("auto", model) == GIVEN
    assert sampling_defaults("none", model) == sampling_defaults("vllm", model) == {}


def test_a_model_without_the_file_has_none(tmp_path):
    assert sampling_defaults("auto", tmp_path) == {}
    assert sampling_defaults("auto", tmp_path / "model.gguf") == {}


def test_another_directory_can_be_named(model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "generation_config.json").write_text('{"top_k": 3}')
    assert sampling_defaults(str(other), model) == {"top_k": 3}
    with pytest.raises(InvalidArgument, match="does not exist"):
        sampling_defaults(str(tmp_path / "nowhere"), model)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ('{"temperature": -1}', "temperature is -1.*--generation-config none"),
        ('{"top_p": 7}', "top_p is 7"),
        ("[" * 100_000, "not valid JSON"),
        ('"' + "x" * (1 << 20) + '"', "at most"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, says):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ModelCorrupt, match=says):
        sampling_defaults("auto", tmp_path)


def test_what_a_request_says_comes_first():
    mixed = sampling(GIVEN, temperature=0, top_k=-1)
    assert (mixed.temperature, mixed.top_k, mixed.top_p, mixed.repetition_penalty) == (0, -1, 0.95, 1.05)
    silent = sampling({})
    assert (silent.temperature, silent.top_p, silent.repetition_penalty) == (1.0, 1.0, 1.0)


def test_a_search_is_not_sampling():
    beams = sampling(GIVEN, use_beam_search=True, n=2)
    assert (beams.temperature, beams.top_k, beams.beam_width, beams.n) == (0, 0, 2, 2)
    wide = sampling(GIVEN, use_beam_search=True, beam_width=5, length_penalty=0.5, early_stopping=True)
    assert (wide.beam_width, wide.n, wide.length_penalty, wide.early_stopping) == (5, 1, 0.5, True)
