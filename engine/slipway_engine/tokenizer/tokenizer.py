"""One model's tokenizer, wherever its files came from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import tokenizers

from slipway_engine.tokenizer.bytelevel import token_bytes
from slipway_engine.tokenizer.detokenize import ByteDetokenizer, Detokenizer, WindowDetokenizer

# One text is encoded at a time, on the caller's thread; a pool of the library's own only gets in the way.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens' texts, as chat templates name them; None where the model has none."""

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None

    def for_template(self) -> dict[str, str]:
        """Return the variables of a chat template."""
        names = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad, "unk_token": self.unk}
        return {name: text for name, text in names.items() if text is not None}


@dataclass(slots=True)
class Tokenizer:
    """Text to token ids and back.

    `prefix` is put before every text that is encoded with special tokens, in addition to what the backend's
    own post-processor adds. `chat_template` is Jinja source, or None.
    """

    backend: tokenizers.Tokenizer = field(repr=False)
    special: SpecialTokens = field(default_factory=SpecialTokens)
    prefix: tuple[int, ...] = ()
    chat_template: str | None = None
    _bytes: dict[int, bytes] = field(default_factory=dict, init=False)
    _special_ids: frozenset[int] = field(default=frozenset(), init=False)
    _byte_level: bool = field(default=False, init=False)
    _longest_token: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Switch off what would change a prompt's length, and look up what does not change."""
        self.backend.no_truncation()
        self.backend.no_padding()
        added = self.backend.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._byte_level = _is_byte_level(self.backend)
        if self._byte_level and self.backend.normalizer is None:
            self._longest_token = max((len(token) for token in self.backend.get_vocab()), default=1)

    @property
    def vocab_size(self) -> int:
        """Tokens known to the tokenizer; a model's embedding may have more rows."""
        return self.backend.get_vocab_size()

    @property
    def bos_id(self) -> int | None:
        """The id of the token that begins a text, where there is one."""
        return None if self.special.bos is None else self.backend.token_to_id(self.special.bos)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text; a beginning-of-text token that it spells out is not doubled."""
        (encoding,) = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        if add_special_tokens and tuple(ids[: len(self.prefix)]) != self.prefix:
            ids = [*self.prefix, *ids]
        if add_special_tokens and len(ids) > 1 and ids[0] == ids[1] == self.bos_id:
            del ids[0]
        return ids

    def least_tokens(self, text: str) -> int:
        """Return a number of tokens that the text has at least, found without encoding it."""
        # In the byte alphabet a character is a byte; a normalizer may shorten the text.
        return 0 if self._longest_token is None else -(-len(text.encode()) // self._longest_token)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of a list of tokens."""
        stream = self.detokenizer(skip_special_tokens=skip_special_tokens)
        return "".join(map(stream.add, token_ids)) + stream.flush()

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """Return a detokenizer for one sequence."""
        if self._byte_level:
            return ByteDetokenizer(self._visible_bytes if skip_special_tokens else self.token_bytes)
        return WindowDetokenizer(
            lambda ids: self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token by itself; none for an id without a token."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._look_up(token_id)
        return found

    def token_text(self, token_id: int) -> str:
        """Return one token as text; bytes that are no whole character show as replacement characters."""
        return self.token_bytes(token_id).decode(errors="replace")

    def _visible_bytes(self, token_id: int) -> bytes:
        return b"" if token_id in self._special_ids else self.token_bytes(token_id)

    def _look_up(self, token_id: int) -> bytes:
        token = self.backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return token_bytes(token)
        return self.backend.decode([token_id], skip_special_tokens=False).encode()


def _is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    parts = decoder.get("decoders", [decoder])
    return [part.get("type") for part in parts] == ["ByteLevel"]
