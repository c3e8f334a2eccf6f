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
    regex = f"{_CONTRACTIONS}|{_WORDS}|{digits}|{_REST}"
    return lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_GPT2 = Recipe(_gpt2)
_SINGLE_DIGITS = Recipe(_single_digits)
_LLAMA3 = Recipe(_pattern(r"\p{N}{1,3}"), whole_words=True)
_QWEN2 = Recipe(_pattern(r"\p{N}"), normalize=normalizers.NFC)

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
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
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
