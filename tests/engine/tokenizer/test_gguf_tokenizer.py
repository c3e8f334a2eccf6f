"""The tokenizer from GGUF metadata, against facts of SmolLM2 and an encoder written for this test."""

from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.tokenizer.bytelevel import CHARACTER_TO_BYTE
from slipway_engine.tokenizer.gguf import from_metadata
from slipway_engine.tokenizer.pretokenizers import recipe

GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
LLAMA3 = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = regex.compile(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = regex.compile(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = regex.compile(LLAMA3.pattern.replace("{1,3}", ""))
BYTE_TO_CHARACTER = {byte: character for character, byte in CHARACTER_TO_BYTE.items()}

assigned = st.characters(
    exclude_categories=("Cs", "Cn", "Co")
)  # libraries differ in how new their Unicode is
# Bytes that SmolLM2 has no token for: of no UTF-8 text, of planes nobody uses, six control characters.
MISSING = {0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100), 0x04, 0x06, 0x13, 0x14, 0x16, 0x1D}

texts = st.text(assigned, max_size=60) | st.lists(
    st.sampled_from(
        [
            "Hello",
            " world",
            "'s",
            "'LL",
            "  ",
            "\n\n",
            "\r\n",
            "12345",
            "é",
            "日本",
            "🙂🏽",
            "x²",
            "\t",
            "!?",
            "camelCase",
            "HTTPServer",
            "a/b//\n",
            "e\u0301",
            "٣٤",
        ]
    ),
    max_size=12,
).map("".join)


def by_hand(word, ranks):
    """Merge a word's symbols, lowest rank first, as the definition of byte-pair encoding says."""
    symbols = [BYTE_TO_CHARACTER[byte] for byte in word.encode() if byte not in MISSING]
    while len(symbols) > 1:
        pairs = [(ranks.get(pair, 1 << 30), at) for at, pair in enumerate(pairwise(symbols))]
        rank, at = min(pairs)
        if rank == 1 << 30:
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols


def smollm_words(text):
    """Cut a text as SmolLM2 does: every digit by itself, the rest as GPT-2."""
    for part in regex.findall(r"\p{N}|\P{N}+", text):
        yield from GPT2.findall(part)


@pytest.fixture(scope="session")
def ranks(metadata):
    return {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}


def test_facts_of_smollm2(smollm):
    assert smollm.vocab_size == 49152
    assert smollm.encode("Hello world") == [19556, 905]
    assert smollm.encode("<|im_start|>user<|im_end|>") == [1, 4093, 2]
    assert (smollm.special.bos, smollm.special.eos) == ("<|im_start|>", "<|im_end|>")
    assert smollm.prefix == ()
    assert "<|im_start|>" in smollm.chat_template


def test_every_digit_is_a_token(smollm):
    assert [smollm.token_text(token) for token in smollm.encode("2024 is 12")] == [
        *"2024",
        " is",
        " ",
        "1",
        "2",
    ]


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_encoding_is_byte_pair_encoding(smollm, metadata, ranks, text):
    tokens = metadata["tokenizer.ggml.tokens"]
    expected = [symbol for word in smollm_words(text) for symbol in by_hand(word, ranks)]
    assert [tokens[token] for token in smollm.encode(text)] == expected


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_decoding_undoes_encoding(smollm, text):
    known = "".join(character for character in text if not MISSING & set(character.encode()))
    assert smollm.decode(smollm.encode(known), skip_special_tokens=False) == known


def test_a_few_control_bytes_have_no_token_and_vanish(smollm, metadata):
    tokens = set(metadata["tokenizer.ggml.tokens"])
    assert {byte for character, byte in CHARACTER_TO_BYTE.items() if character not in tokens} == MISSING
    assert smollm.encode("a\x06b") == smollm.encode("a") + smollm.encode("b")


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=30), skip=st.booleans())
def test_decoding_any_ids_equals_the_librarys(smollm, ids, skip):
    assert smollm.decode(ids, skip_special_tokens=skip) == smollm.backend.decode(
        ids, skip_special_tokens=skip
    )


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("llama-bpe", LLAMA3),
        ("dbrx", LLAMA3),
        ("qwen2", QWEN2),
        ("gpt-2", GPT2),
        ("tekken", TEKKEN),
        ("gpt-4o", GPT4O),
    ],
)
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_each_family_cuts_text_by_its_pattern(name, pattern, text):
    cut = recipe(name).cut().pre_tokenize_str(text)
    expected = ["".join(BYTE_TO_CHARACTER[byte] for byte in word.encode()) for word in pattern.findall(text)]
    assert [word for word, _ in cut] == expected


def test_the_least_number_of_tokens_is_never_more_than_there_are(smollm):
    for text in ("", "x", "Hello world", "a" * 999, "日本語" * 50):
        assert smollm.least_tokens(text) <= len(smollm.encode(text))
    assert smollm.least_tokens("a" * 100_000) > 1000


def toy(**changes):
    """Return the metadata of a tiny tokenizer."""
    alphabet = sorted(CHARACTER_TO_BYTE)
    tokens = ["<s>", "</s>", *alphabet, "ab", "abc", "<tool>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * (len(tokens) - 3), 4],
        "tokenizer.ggml.merges": ["a b", "ab c"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    } | changes


def test_bos_is_put_in_front_once():
    tokenizer = from_metadata(toy())
    plain = from_metadata(toy(**{"tokenizer.ggml.add_bos_token": False}))
    (abc,) = plain.encode("abc")
    assert tokenizer.encode("abc") == [0, abc]
    assert tokenizer.encode("<s>abc") == [0, abc]
    assert tokenizer.encode("abc", add_special_tokens=False) == [abc]
    assert plain.encode("<s>abc") == [0, abc]


def test_added_tokens_are_matched_whole_and_shown_unless_they_are_control_tokens():
    tokenizer = from_metadata(toy())
    ids = tokenizer.encode("a<tool>b</s>", add_special_tokens=False)
    assert tokenizer.decode(ids) == "a<tool>b"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<tool>b</s>"


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"tokenizer.ggml.model": "t5"}, ModelUnsupported, "'t5'"),
        ({"tokenizer.ggml.model": None}, ModelUnsupported, "safetensors"),
        ({"tokenizer.ggml.pre": "martian"}, ModelUnsupported, "'martian'"),
        ({"tokenizer.ggml.tokens": []}, ModelCorrupt, "tokens"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, ModelCorrupt, "twice"),
        ({"tokenizer.ggml.tokens": [1, 2]}, ModelCorrupt, "tokens"),
        ({"tokenizer.ggml.merges": ["a q7"]}, ModelCorrupt, "merge"),
        ({"tokenizer.ggml.merges": ["nothing"]}, ModelCorrupt, "merge"),
        ({"tokenizer.ggml.token_type": [1]}, ModelCorrupt, "token types"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, ModelCorrupt, "eos"),
        ({"tokenizer.ggml.bos_token_id": "x"}, ModelCorrupt, "bos"),
    ],
)
def test_metadata_that_cannot_be_used_is_named(changes, kind, says):
    with pytest.raises(kind, match=says):
        from_metadata(toy(**changes))
