"""How each family of byte-level BPE cuts text into words before merging: GGUF's `tokenizer.ggml.pre`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from slipway_engine.errors import ModelUnsupported

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What surrounds the merges of one family. `whole_words`: a word that is a token needs no merges."""

    cut: Callable[[], PreTokenizer]
    normalize: Callable[[], Normalizer] | None = None
    whole_words: bool = False


def _gpt2() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _pattern(digits: str) -> Callable[[], PreTokenizer]:
    return _split(f"{_CONTRACTIONS}|{_WORDS}|{digits}|{_REST}")


def _split(regex: str) -> Callable[[], PreTokenizer]:
    return lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _cased(digits: str, endings: str) -> Callable[[], PreTokenizer]:
    """Cut also where the case changes: upper-case letters begin a word, lower-case ones go on with it."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    before = r"[^\r\n\p{L}\p{N}]?"
    rest = _REST.replace(r"[\r\n]*|", r"[\r\n/]*|", 1)
    words = f"{before}{upper}*{lower}+{endings}|{before}{upper}+{lower}*{endings}"
    return _split(f"{words}|{digits}|{rest}")


_GPT2 = Recipe(_gpt2)
_SINGLE_DIGITS = Recipe(_single_digits)
_LLAMA3 = Recipe(_pattern(r"\p{N}{1,3}"), whole_words=True)
_GPT4 = Recipe(_pattern(r"\p{N}{1,3}"))
_QWEN2 = Recipe(_pattern(r"\p{N}"), normalize=normalizers.NFC)
_TEKKEN = Recipe(_cased(r"\p{N}", ""), whole_words=True)
_GPT4O = Recipe(_cased(r"\p{N}{1,3}", f"{_CONTRACTIONS}?"))

RECIPES: dict[str, Recipe] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "olmo": _GPT2,
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "codeshell": _SINGLE_DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": _GPT4,
    "smaug-bpe": _GPT4,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
    "gpt-4o": _GPT4O,
}


def recipe(name: str) -> Recipe:
    """Return the recipe of this name. Raises ModelUnsupported."""
    found = RECIPES.get(name)
    if found is None:
        raise ModelUnsupported(
            f"The GGUF file's pre-tokenizer {name!r} is not supported (supported: {', '.join(RECIPES)}); "
            "serve the model from its Hugging Face safetensors directory instead."
        )
    return found
