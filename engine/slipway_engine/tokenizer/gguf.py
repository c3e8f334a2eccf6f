"""A tokenizer from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models

from slipway_engine.errors import ModelCorrupt, ModelUnsupported
from slipway_engine.tokenizer import gguf_sentencepiece
from slipway_engine.tokenizer.pretokenizers import recipe
from slipway_engine.tokenizer.tokenizer import SpecialTokens, Tokenizer

_CONTROL, _USER_DEFINED = 3, 4
_ADDED_WITHOUT_SAYING = {"llama-bpe", "llama3", "llama-v3"}  # these begin a text with BOS unless told not to

Metadata = Mapping[str, Any]


def from_metadata(metadata: Metadata) -> Tokenizer:
    """Build the tokenizer that the metadata describes. Raises ModelUnsupported, ModelCorrupt."""
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "llama":
        backend, bos_unless_told = gguf_sentencepiece.backend(metadata, tokens), True
    elif kind == "gpt2":
        pre = metadata.get("tokenizer.ggml.pre", "default")
        backend, bos_unless_told = _byte_level(metadata, tokens, pre), pre in _ADDED_WITHOUT_SAYING
    else:
        raise ModelUnsupported(
            f"The GGUF file's tokenizer is {kind!r}; byte-level BPE ('gpt2') and SentencePiece ('llama') are "
            "supported. Serve the model from its Hugging Face safetensors directory instead."
        )
    special = SpecialTokens(
        bos=_token(metadata, tokens, "bos"),
        eos=_token(metadata, tokens, "eos"),
        pad=_token(metadata, tokens, "padding"),
        unk=_token(metadata, tokens, "unknown"),
    )
    template = metadata.get("tokenizer.chat_template")
    return Tokenizer(
        backend,
        special,
        prefix=_edge(metadata, "bos", bos_unless_told),
        suffix=_edge(metadata, "eos", False),
        chat_template=template if isinstance(template, str) else None,
    )


def _byte_level(metadata: Metadata, tokens: Sequence[str], pre: str) -> tokenizers.Tokenizer:
    around = recipe(pre)
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ModelCorrupt(
            f"The GGUF file names {len(tokens) - len(vocabulary)} tokens twice; fetch it again."
        )
    merges = _merges(_strings(metadata, "tokenizer.ggml.merges"), vocabulary)
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=around.whole_words))
    if around.normalize is not None:
        backend.normalizer = around.normalize()
    backend.pre_tokenizer = around.cut()
    backend.decoder = decoders.ByteLevel()
    _add_tokens(backend, metadata, tokens)
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, metadata: Metadata, tokens: Sequence[str]) -> None:
    """Mark the tokens that are matched before any merge: control tokens and those added by users."""
    types = metadata.get("tokenizer.ggml.token_type", [])
    if len(types) not in (0, len(tokens)):
        raise ModelCorrupt(
            f"The GGUF file has {len(tokens)} tokens and {len(types)} token types; fetch it again."
        )
    for kind, add in ((_CONTROL, backend.add_special_tokens), (_USER_DEFINED, backend.add_tokens)):
        chosen = [token for token, its_type in zip(tokens, types, strict=False) if its_type == kind and token]
        add([AddedToken(token, special=kind == _CONTROL, normalized=False) for token in chosen])


def _merges(lines: Sequence[str], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    merges = []
    for line in lines:
        left, _, right = line.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise ModelCorrupt(f"The GGUF file's merge {line[:80]!r} names no tokens of its vocabulary.")
        merges.append((left, right))
    return merges


def _edge(metadata: Metadata, name: str, unless_told: bool) -> tuple[int, ...]:
    """Return the token that a text begins (bos) or ends (eos) with, where the file wants it added."""
    wanted = metadata.get(f"tokenizer.ggml.add_{name}_token", unless_told)
    token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return (token_id,) if wanted and isinstance(token_id, int) else ()


def _token(metadata: Metadata, tokens: Sequence[str], name: str) -> str | None:
    token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if token_id is None:
        return None
    if not isinstance(token_id, int) or not 0 <= token_id < len(tokens):
        raise ModelCorrupt(f"The GGUF file's {name} token is {token_id!r}; it has {len(tokens)} tokens.")
    return tokens[token_id]


def _strings(metadata: Metadata, key: str) -> Sequence[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise ModelCorrupt(f"The GGUF file has no list of texts under {key}; it cannot be tokenized for.")
    return value
