"""SentencePiece vocabularies in GGUF, against the definition: join the neighbours whose piece scores best."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import SentencePieceBPETokenizer

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.loading.gguf import GGUFFile
from slipway_engine.tokenizer.gguf import from_metadata

SPACE = "\u2581"
CORPUS = [
    "the quick brown fox jumps over the lazy dog and the other dogs",
    "def encode(self, text): return [token for token in text.split(' ')]",
    "naïve café, über straße; привет мир, как дела",
    "日本語のテキストです 日本語です",
    "aaa aaaa aaaaa abab ababab",
] * 4
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
HEAD = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
HEAD += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=SPACE), max_size=40) | st.lists(
    st.sampled_from(
        [" ", "  ", "\n", "the", "dog", "aaaa", "aa", "ab", "naïve", "日本語", "🙂🏽", "мир", "()", "\t"]
    ),
    max_size=12,
).map("".join)


def trained():
    """Return the pieces of a small model, best first: what training joined, then single characters."""
    tokenizer = SentencePieceBPETokenizer(add_prefix_space=True)
    tokenizer.train_from_iterator(CORPUS, vocab_size=400, show_progress=False)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    pieces = [piece for piece, _ in by_id if piece != "<unk>"]
    return [piece for piece in pieces if len(piece) > 1] + [piece for piece in pieces if len(piece) == 1]


PIECES = trained()


def metadata(*, added=(), **changes):
    entries = HEAD + [(piece, NORMAL) for piece in PIECES] + list(added)
    scores = [0.0] * len(HEAD) + [float(-at) for at in range(len(PIECES))] + [0.0] * len(added)
    values = {
        "model": "llama",
        "tokens": [token for token, _ in entries],
        "token_type": [kind for _, kind in entries],
        "scores": scores,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | changes
    return {f"tokenizer.ggml.{name}": value for name, value in values.items() if value is not None}


SCORES = {piece: -at for at, piece in enumerate(PIECES)}


def by_hand(text, *, prefix):
    """Join the best two neighbours (first of equals) until no joint is a piece; spell the rest in bytes."""
    if not text:
        return []
    symbols = list((SPACE if prefix else "") + text.replace(" ", SPACE))
    while True:
        joints = [
            (-SCORES[joint], at)
            for at in range(len(symbols) - 1)
            if (joint := symbols[at] + symbols[at + 1]) in SCORES
        ]
        if not joints:
            break
        _, at = min(joints)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return [
        token
        for symbol in symbols
        for token in ([symbol] if symbol in SCORES else [f"<0x{b:02X}>" for b in symbol.encode()])
    ]


@pytest.fixture(scope="module", params=[True, False], ids=["prefixed", "plain"])
def built(request):
    return request.param, from_metadata(metadata(add_space_prefix=request.param, add_bos_token=False))


def tokens_of(tokenizer, text):
    return [tokenizer.backend.id_to_token(each) for each in tokenizer.encode(text)]


@settings(max_examples=400, deadline=None)
@given(text=texts)
def test_encoding_joins_the_best_neighbours(built, text):
    prefix, tokenizer = built
    assert tokens_of(tokenizer, text) == by_hand(text, prefix=prefix)


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_decoding_undoes_encoding(built, text):
    _, tokenizer = built
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text == tokenizer.backend.decode(ids)
    assert tokenizer.least_tokens(text) <= len(ids)


@settings(max_examples=200, deadline=None)
@given(text=texts, cut=st.integers(0, 40))
def test_an_answer_goes_on_where_the_prompt_ended(built, text, cut):
    """A continuation's first blank is its own; only a whole text's first blank is the prefix's."""
    _, tokenizer = built
    ids = tokenizer.encode("Say: " + text)
    cut = max(1, min(cut, len(ids)))
    stream = tokenizer.detokenizer(after=ids[:cut])
    answer = "".join(map(stream.add, ids[cut:])) + stream.flush()
    whole = b"".join(map(tokenizer.token_bytes, ids)).decode()
    if "\ufffd" not in answer:
        assert whole.endswith(answer)
        assert len(answer.encode()) == sum(len(tokenizer.token_bytes(each)) for each in ids[cut:])


def test_a_file_gives_the_same_tokenizer(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "llama")
    values = metadata(add_space_prefix=False)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(values["tokenizer.ggml.tokens"])
    writer.add_token_scores(values["tokenizer.ggml.scores"])
    writer.add_token_types(values["tokenizer.ggml.token_type"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    writer.add_tensor("x", np.zeros((32,), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = from_metadata(GGUFFile.open(tmp_path / "model.gguf").metadata)
    for text in ("the lazy dog", "日本語 🙂", "  a"):
        assert read.encode(text) == from_metadata(values).encode(text)
    assert (read.special.bos, read.special.eos) == ("<s>", "</s>")


def test_a_text_begins_with_bos_unless_told_not_to_and_ends_with_eos_where_told_to():
    plain = from_metadata(metadata(add_bos_token=False)).encode("the dog")
    assert from_metadata(metadata()).encode("the dog") == [1, *plain]
    assert from_metadata(metadata()).encode("<s>the dog").count(1) == 1
    assert from_metadata(metadata()).encode("the dog", add_special_tokens=False) == plain
    assert from_metadata(metadata(add_eos_token=True)).encode("the dog") == [1, *plain, 2]
    assert from_metadata(metadata(add_eos_token=True)).encode("the dog</s>").count(2) == 1


def test_added_tokens_are_matched_whole_and_runs_of_blanks_may_be_some():
    added = [("<|tag|>", CONTROL), (SPACE * 2, USER), ("\n\n", USER)]
    tokenizer = from_metadata(metadata(added=added, add_space_prefix=False, add_bos_token=False))
    assert tokens_of(tokenizer, "dog  the\n\n<|tag|>dog")[1:-1].count("  ") == 1
    ids = tokenizer.encode("dog  the\n\n<|tag|>dog")
    assert {len(HEAD) + len(PIECES) + at for at in range(3)} <= set(ids)
    assert tokenizer.decode(ids) == "dog  the\n\ndog"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "dog  the\n\n<|tag|>dog"
    shown = tokenizer.detokenizer(shown=("<|tag|>",))
    assert "".join(map(shown.add, ids)) == "dog  the\n\n<|tag|>dog"


def test_the_tags_of_phi3_swallow_the_white_space_behind_them():
    added = [("<|user|>", CONTROL), ("<|endoftext|>", CONTROL)]
    values = metadata(added=added, add_bos_token=False)
    phi3 = from_metadata(values | {"general.architecture": "phi3"})
    assert phi3.encode("<|user|>\ndog") == phi3.encode("<|user|>dog")
    assert phi3.encode("<|endoftext|>\ndog") != phi3.encode("<|endoftext|>dog")
    other = from_metadata(values | {"general.architecture": "llama"})
    assert other.encode("<|user|>\ndog") != other.encode("<|user|>dog")


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"scores": None}, ModelCorrupt, "scores"),
        ({"scores": [1.0]}, ModelCorrupt, "scores"),
        ({"token_type": None}, ModelCorrupt, "token_type"),
        ({"token_type": ["x"] * (len(HEAD) + len(PIECES))}, ModelCorrupt, "token_type"),
        ({"tokens": [1]}, ModelCorrupt, "tokens"),
        ({"bos_token_id": 10**6}, ModelCorrupt, "bos"),
        ({"remove_extra_whitespaces": True}, ModelUnsupported, "remove_extra_whitespaces"),
        ({"precompiled_charsmap": [1, 2]}, ModelUnsupported, "precompiled_charsmap"),
        ({"model": "t5"}, ModelUnsupported, "'t5'"),
    ],
)
def test_metadata_that_cannot_be_used_is_named(changes, kind, says):
    with pytest.raises(kind, match=says):
        from_metadata(metadata(**changes))


def test_a_token_named_twice_is_refused():
    with pytest.raises(ModelCorrupt, match="twice"):
        from_metadata(metadata(added=[("<s>", CONTROL)]))
