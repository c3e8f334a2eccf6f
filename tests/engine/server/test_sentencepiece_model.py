"""A GGUF file with a SentencePiece vocabulary, served: random weights, each piece of text its own token."""

import json
import sys

import gguf
import numpy as np
import pytest

SPACE = "\u2581"
WORDS = [f"{SPACE}{word}" for word in ("the", "lazy", "dog", "a")] + [
    SPACE,
    *"abcdefghijklmnop",
    "th",
    "the",
    "日",
]
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
TYPES = [2, 3, 3, *[6] * 256, *[1] * len(WORDS)]
HIDDEN, HEADS, LAYERS = 64, 4, 2


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_process):
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * 259 + [-float(at) for at in range(len(WORDS))])
    writer.add_token_types(TYPES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    draw = np.random.default_rng(7)
    square, row = (HIDDEN, HIDDEN), (len(TOKENS), HIDDEN)
    shapes = {"token_embd.weight": row, "output.weight": row, "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            shapes[f"blk.{layer}.{name}.weight"] = square
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{layer}.{name}.weight"] = (HIDDEN,)
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else draw.normal(0, 0.15, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    argv = [sys.executable, "-m", "slipway_engine", "serve", str(file), "--served-model-name", "toy"]
    argv += ["--kv-cache-memory-bytes", str(4 << 20), "--max-num-seqs", "4", "--cpu-backend", "torch"]
    return start_process(argv).wait()


def spelled(token):
    return token.replace(SPACE, " ")


def test_prompts_begin_with_bos_and_a_blank_that_is_not_shown(served):
    ids = served.http.post("/tokenize", json={"prompt": "a abc"}).json()["tokens"]
    assert [TOKENS[each] for each in ids] == ["<s>", f"{SPACE}a", f"{SPACE}a", "b", "c"]
    assert served.http.post("/detokenize", json={"tokens": ids[1:]}).json()["prompt"] == "a abc"
    mixed = served.http.post("/tokenize", json={"prompt": "é日", "add_special_tokens": False}).json()[
        "tokens"
    ]
    assert [TOKENS[each] for each in mixed] == [SPACE, "<0xC3>", "<0xA9>", "日"]


def test_an_answer_is_the_text_of_its_tokens_whole_and_streamed(served):
    bias = {str(TOKENS.index(word)): 8.0 for word in WORDS}  # words rather than single bytes
    fields = {"prompt": "the lazy", "max_tokens": 24, "temperature": 1.2, "seed": 3, "logit_bias": bias}
    fields |= {"ignore_eos": True, "logprobs": 0}
    choice = served.complete(**fields).json()["choices"][0]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"])
    assert " " in choice["text"], "a run of words without a blank between them"
    lines = served.complete(**fields, stream=True).text.split("\n\n")
    texts = [
        json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines if "choices" in line
    ]
    assert "".join(texts) == choice["text"]


def test_an_answers_first_blank_is_kept(served):
    bias = {str(TOKENS.index(f"{SPACE}dog")): 100.0}
    answer = served.complete(prompt="the lazy", max_tokens=2, temperature=0, logit_bias=bias).json()
    assert answer["choices"][0]["text"] == " dog dog"
    stopped = served.complete(prompt="the", max_tokens=9, temperature=0, logit_bias=bias, stop="g d").json()
    assert (stopped["choices"][0]["text"], stopped["usage"]["completion_tokens"]) == (" do", 2)
