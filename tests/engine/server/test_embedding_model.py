"""A real embedding model over HTTP, random weights in sentence-transformers' layout, against transformers."""

import json
import sys

import openai
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[UNK]", "</s>", "the", "lazy", "dog", "sleeps", "a", "fox", "jumps"]
TEXTS = ["the lazy dog sleeps", "a fox jumps", "dog"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("embedder")
    torch.manual_seed(3)
    config = transformers.Qwen3Config(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.15,
        eos_token_id=1,
    )  # fmt: skip
    transformers.Qwen3Model(config).eval().save_pretrained(path)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    (path / "modules.json").write_text(
        json.dumps(
            [
                {"idx": at, "name": str(at), "path": where, "type": f"sentence_transformers.models.{kind}"}
                for at, (where, kind) in enumerate(kinds)
            ]
        )
    )
    (path / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def served(directory, start_process):
    argv = [
        sys.executable,
        "-m",
        "slipway_engine",
        "serve",
        str(directory),
        "--served-model-name",
        "embedder",
    ]
    argv += ["--kv-cache-memory-bytes", str(4 << 20), "--max-num-seqs", "4", "--dtype", "float32"]
    return start_process(argv).wait()


def expected(directory, text):
    model = transformers.Qwen3Model.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
    with torch.inference_mode():
        return torch.nn.functional.normalize(model(ids).last_hidden_state[0].mean(0), dim=0)


def test_embeddings_are_those_of_transformers(served, directory):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="embedder", input=TEXTS)
        again = client.embeddings.create(model="embedder", input=[[2, 3, 4, 5]], encoding_format="float")
    assert [each.index for each in answer.data] == [0, 1, 2]
    for text, each in zip(TEXTS, answer.data, strict=True):
        torch.testing.assert_close(torch.tensor(each.embedding), expected(directory, text), atol=2e-3, rtol=0)
    assert again.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-5)
    assert answer.usage.prompt_tokens == 8


def test_it_generates_no_text(served):
    answer = served.http.post("/v1/completions", json={"prompt": "dog"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "embedding_model")


def test_a_text_beyond_the_models_length_is_refused(served):
    full = served.http.post("/v1/embeddings", json={"input": "dog " * 64})
    assert full.status_code == 200, full.text
    assert full.json()["usage"]["prompt_tokens"] == 64
    longer = served.http.post("/v1/embeddings", json={"input": "dog " * 65})
    assert longer.json()["error"]["code"] == "context_length_exceeded"
    served.until(lambda: served.metric("kv_cache_usage_perc") == 0)
