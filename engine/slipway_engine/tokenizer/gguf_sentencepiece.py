"""SentencePiece vocabularies in GGUF (`tokenizer.ggml.model` = `llama`): Llama 2, Mistral v0.1, Gemma, Phi-3.

Such a vocabulary is pieces with scores, and encoding a text is to join, again and again, the two neighbours
whose joint piece has the highest score (Kudo and Richardson, 2018; the BPE model of SentencePiece). The same
is byte-pair encoding with one merge for each way to cut a piece in two, ordered by the pieces' scores; that
is what is built here. What no piece covers is spelled in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from slipway_engine.errors import ModelCorrupt, ModelUnsupported

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"  # stands for a blank within pieces

Metadata = Mapping[str, Any]


def backend(metadata: Metadata, tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """Build the tokenizer. Raises ModelCorrupt, ModelUnsupported."""
    _refuse_normalisation(metadata)
    types = _numbers(metadata, "tokenizer.ggml.token_type", len(tokens))
    scores = _numbers(metadata, "tokenizer.ggml.scores", len(tokens))
    pieces = _spelled(tokens, types)
    vocabulary = {piece: token_id for token_id, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        raise ModelCorrupt(
            f"The GGUF file names {len(pieces) - len(vocabulary)} tokens twice; fetch it again."
        )
    unknown = next((piece for piece, kind in zip(pieces, types, strict=True) if kind == UNKNOWN), None)
    built = tokenizers.Tokenizer(
        models.BPE(
            vocabulary,
            _merges(pieces, types, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=BYTE in types,
        )
    )
    prefixed = metadata.get("tokenizer.ggml.add_space_prefix", True) is True
    blanks = normalizers.Replace(" ", SPACE)
    built.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), blanks]) if prefixed else blanks
    built.decoder = _decoder(stripped=prefixed)
    _add_tokens(built, metadata, pieces, types)
    return built


def _refuse_normalisation(metadata: Metadata) -> None:
    if metadata.get("tokenizer.ggml.remove_extra_whitespaces") is True or metadata.get(
        "tokenizer.ggml.precompiled_charsmap"
    ):
        raise ModelUnsupported(
            "The GGUF file's tokenizer rewrites texts before it cuts them (remove_extra_whitespaces, "
            "precompiled_charsmap), which is not supported; "
            "serve the model from its Hugging Face directory instead."
        )


def _numbers(metadata: Metadata, key: str, count: int) -> Sequence[float]:
    value = metadata.get(key)
    if not isinstance(value, list) or len(value) != count or not isinstance(value[0], (int, float)):
        raise ModelCorrupt(f"The GGUF file needs {count} numbers under {key}, one a token; fetch it again.")
    return value


def _spelled(tokens: Sequence[str], types: Sequence[float]) -> list[str]:
    """Return the tokens' texts; those that are matched before any merge are written with plain blanks."""
    return [
        token.replace(SPACE, " ") if kind == USER_DEFINED else token
        for token, kind in zip(tokens, types, strict=True)
    ]


def _merges(pieces: Sequence[str], types: Sequence[float], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return each way to cut a piece into two pieces, best piece first."""
    score = {piece: value for piece, kind, value in zip(pieces, types, scores, strict=True) if kind == NORMAL}
    cuts = [
        (-value, -at, piece[:at], piece[at:])
        for piece, value in score.items()
        for at in range(1, len(piece))
        if piece[:at] in score and piece[at:] in score
    ]
    cuts.sort(key=lambda cut: cut[:2])
    return [(left, right) for _, _, left, right in cuts]


def _decoder(*, stripped: bool) -> decoders.Decoder:
    parts: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if stripped else parts)


def _add_tokens(
    built: tokenizers.Tokenizer, metadata: Metadata, pieces: Sequence[str], types: Sequence[float]
) -> None:
    """Mark the tokens that are matched before any merge: control tokens and those added by users."""
    # Phi-3's own tokenizer swallows the white space behind its tags; the file's format has no word for that.
    tags_strip = metadata.get("general.architecture") == "phi3"
    chosen = [
        AddedToken(
            piece,
            special=kind == CONTROL,
            normalized=False,
            rstrip=tags_strip and piece.startswith("<|") and piece != "<|endoftext|>",
        )
        for piece, kind in zip(pieces, types, strict=True)
        if kind in (CONTROL, USER_DEFINED) and piece
    ]
    built.add_special_tokens([token for token in chosen if token.special])
    built.add_tokens([token for token in chosen if not token.special])
