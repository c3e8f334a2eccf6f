"""One model's tokenizer, wherever its files came from."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import tokenizers

from slipway_engine.tokenizer.alphabets import Alphabet, alphabet_of, keeps_length
from slipway_engine.tokenizer.detokenize import ByteDetokenizer, Detokenizer, WindowDetokenizer

# One text is encoded at a time, on the caller's thread; a pool of the library's own only gets in the way.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_CONTEXT = 4  # tokens of the prompt by which a decoder can tell that it is not at a text's beginning


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

    `prefix` is put before every text that is encoded with special tokens, and `suffix` behind it, in addition
    to what the backend's own post-processor adds. `chat_template` is Jinja source, or None;
    `tool_template` is the one for requests with tools, where the model has two.
    """

    backend: tokenizers.Tokenizer = field(repr=False)
    special: SpecialTokens = field(default_factory=SpecialTokens)
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    chat_template: str | None = None
    tool_template: str | None = None
    _bytes: dict[int, bytes] = field(default_factory=dict, init=False)
    _special_ids: frozenset[int] = field(default=frozenset(), init=False)
    _alphabet: Alphabet | None = field(default=None, init=False)
    _longest_token: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Switch off what would change a prompt's length, and look up what does not change."""
        self.backend.no_truncation()
        self.backend.no_padding()
        added = self.backend.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._alphabet = alphabet_of(self.backend)
        if self._alphabet is not None and keeps_length(self.backend):
            spelled = map(self._alphabet.spell, self.backend.get_vocab())
            self._longest_token = max(map(len, spelled), default=1)

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
        if add_special_tokens and self.suffix and tuple(ids[-len(self.suffix) :]) != self.suffix:
            ids = [*ids, *self.suffix]
        return ids

    def least_tokens(self, text: str) -> int:
        """Return a number of tokens that the text has at least, found without encoding it."""
        return 0 if self._longest_token is None else -(-len(text.encode()) // self._longest_token)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of a list of tokens."""
        stream = self.detokenizer(skip_special_tokens=skip_special_tokens)
        text = "".join(map(stream.add, token_ids)) + stream.flush()
        return text[1:] if self._alphabet and self._alphabet.strips and text.startswith(" ") else text

    def detokenizer(
        self, *, skip_special_tokens: bool = True, shown: Container[str] = (), after: Sequence[int] = ()
    ) -> Detokenizer:
        """Return a detokenizer for one sequence that continues the tokens `after`.

        `shown` are special tokens that stay visible where the others are skipped.
        """
        hidden = self._hidden(shown) if skip_special_tokens else frozenset[int]()
        if self._alphabet is not None:
            return ByteDetokenizer(lambda token_id: b"" if token_id in hidden else self.token_bytes(token_id))
        return WindowDetokenizer(
            lambda ids: self.backend.decode(
                [token_id for token_id in ids if token_id not in hidden], skip_special_tokens=False
            ),
            after[-_CONTEXT:],
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

    def _hidden(self, shown: Container[str]) -> frozenset[int]:
        if not shown:
            return self._special_ids
        return frozenset(each for each in self._special_ids if self.backend.id_to_token(each) not in shown)

    def _look_up(self, token_id: int) -> bytes:
        token = self.backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._alphabet is not None:
            return self._alphabet.spell(token)
        return self.backend.decode([token_id], skip_special_tokens=False).encode()
