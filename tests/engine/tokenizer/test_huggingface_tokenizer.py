"""A tokenizer from a directory in Hugging Face layout."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.tokenizer.detokenize import WindowDetokenizer
from slipway_engine.tokenizer.huggingface import from_directory


@pytest.fixture
def directory(tmp_path, smollm):
    (tmp_path / "tokenizer.json").write_text(smollm.backend.to_str())
    config = {
        "bos_token": "<|im_start|>",
        "eos_token": {"content": "<|im_end|>"},
        "chat_template": "{{ messages }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def sentencepiece_like():
    """A tokenizer as Llama 2's: a space is a mark, what has no token falls back to bytes."""
    words = ["▁hello", "▁world", "▁", "he", "llo", "w", "o", "r", "l", "d", "h", "e"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    vocabulary |= {word: len(vocabulary) + at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.fixture
def llama2(tmp_path):
    (tmp_path / "tokenizer.json").write_text(sentencepiece_like().to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return from_directory(tmp_path)


def test_it_is_the_same_tokenizer(directory, smollm):
    tokenizer = from_directory(directory)
    for text in ("Hello world 2024", "<|im_start|>user\nnaïve 日本<|im_end|>"):
        assert tokenizer.encode(text) == smollm.encode(text)
        assert tokenizer.decode(smollm.encode(text)) == smollm.decode(smollm.encode(text))
    assert (tokenizer.special.bos, tokenizer.special.eos) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.chat_template == "{{ messages }}"


def test_a_template_file_comes_before_the_configuration(directory):
    (directory / "chat_template.jinja").write_text("{{ 'file' }}")
    assert from_directory(directory).chat_template == "{{ 'file' }}"


def test_of_several_templates_the_default_is_taken(directory):
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    tokenizer = from_directory(directory)
    assert (tokenizer.chat_template, tokenizer.tool_template) == ("plain", "tools")


def test_a_truncation_left_in_the_file_is_switched_off(directory):
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=10)
    tokenizer.save(str(directory / "tokenizer.json"))
    assert len(from_directory(directory).encode("one two three four five six")) == 6


def test_the_files_own_beginning_is_not_doubled(llama2):
    assert llama2.encode("hello")[0] == 1
    assert llama2.encode("<s>hello").count(1) == 1
    assert 1 not in llama2.encode("hello", add_special_tokens=False)


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="helo wrd日é🙂", max_size=20))
def test_any_vocabulary_is_detokenized_piece_by_piece(text):
    tokenizer = sentencepiece_like()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stream = WindowDetokenizer(lambda part: tokenizer.decode(list(part)))
    assert "".join(map(stream.add, ids)) + stream.flush() == tokenizer.decode(ids)


def test_bytes_that_never_become_a_character_are_not_held_back_for_ever():
    tokenizer = sentencepiece_like()
    stream = WindowDetokenizer(lambda part: tokenizer.decode(list(part)))
    pieces = [stream.add(3 + 0xFF) for _ in range(40)]
    assert sum(map(len, pieces)) >= 20


@pytest.mark.parametrize(
    ("file", "content", "kind"),
    [
        ("tokenizer.json", None, ModelUnsupported),
        ("tokenizer.json", b"{}", ModelCorrupt),
        ("tokenizer.json", b"\xff", ModelCorrupt),
        ("tokenizer_config.json", b"{", ModelCorrupt),
        ("tokenizer_config.json", b"[]", ModelCorrupt),
        ("tokenizer_config.json", b"[" * 100_000, ModelCorrupt),
    ],
)
def test_files_that_cannot_be_used_are_named(directory, file, content, kind):
    (directory / file).unlink()
    if content is not None:
        (directory / file).write_bytes(content)
    with pytest.raises(kind, match="tokenizer"):
        from_directory(directory)
