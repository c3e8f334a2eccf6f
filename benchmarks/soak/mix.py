"""The mix of requests, as data: what users of a busy server send, and what they should not.

A request knows its kind, its path and body, when its client hangs up, and whether it may be refused.
Everything comes from one seeded stream, so that a run can be repeated.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_SYLLABLES = [consonant + vowel for consonant in "bdfklmnrst" for vowel in "aeio"]
_COMPLETIONS, _CHAT = "/v1/completions", "/v1/chat/completions"
PATHS = (_COMPLETIONS, _CHAT, "/tokenize", "/detokenize", "/v1/embeddings")


@dataclass(frozen=True, slots=True)
class Request:
    """`hang_up` counts the events after which the client goes; 0 is before anything was heard.

    `choices` are owed where the request is good; `refusable` says that a 4xx is a right answer too.
    """

    kind: str
    path: str
    body: bytes
    stream: bool = False
    choices: int = 0
    hang_up: int | None = None
    refusable: bool = False


class Mix:
    """An endless mix for one model; `longest` is its prompt and answer together, in tokens."""

    def __init__(self, model: str, longest: int, seed: int) -> None:
        self._model = model
        self._longest = longest
        self._draw = random.Random(seed)
        self._shared = self._words(120)
        kinds: dict[Callable[[], Request], int] = {
            self._chat: 22,
            self._completion: 18,
            self._shared_prefix: 10,
            self._long_prompt: 7,
            self._several: 7,
            self._best_of: 2,
            self._beams: 1,
            self._scored: 3,
            self._penalised: 5,
            self._hung_up: 9,
            self._deadline: 5,
            self._tokenized: 2,
            self._embedded: 1,
            self._too_long: 1,
            self._broken_json: 2,
            self._random_fields: 5,
        }
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def __iter__(self) -> Iterator[Request]:
        """Yield requests for ever."""
        while True:
            yield self._draw.choices(self._kinds, self._weights)[0]()

    def _words(self, count: int) -> str:
        draw = self._draw
        return " ".join("".join(draw.choices(_SYLLABLES, k=draw.randint(1, 3))) for _ in range(count))

    def _request(self, kind: str, path: str, choices: int = 1, **fields: Any) -> Request:
        fields = {"model": self._model, "temperature": self._draw.choice((0, 0.7, 1.0))} | fields
        return Request(kind, path, json.dumps(fields).encode(), bool(fields.get("stream")), choices)

    def _length(self) -> int:
        return self._draw.choice((1, 4, 16, 32, 64, 128))

    def _chat(self) -> Request:
        messages = [{"role": "user", "content": self._words(self._draw.randint(2, 60))}]
        return self._request(
            "chat", _CHAT, messages=messages, max_tokens=self._length(), stream=self._draw.random() < 0.8
        )

    def _completion(self) -> Request:
        prompt, stream = self._words(self._draw.randint(1, 120)), self._draw.random() < 0.3
        fields = {"seed": self._draw.randrange(1000)} if self._draw.random() < 0.5 else {}
        return self._request(
            "completion",
            _COMPLETIONS,
            prompt=prompt,
            max_tokens=self._length(),
            stream=stream,
            ignore_eos=True,
            **fields,
        )

    def _shared_prefix(self) -> Request:
        prompt, salt = f"{self._shared} {self._words(8)}", self._draw.choice((None, "one", "two"))
        return self._request(
            "shared prefix", _COMPLETIONS, prompt=prompt, max_tokens=16, cache_salt=salt, stream=True
        )

    def _long_prompt(self) -> Request:
        # A word of this mix is 2 to 4 tokens of an English vocabulary.
        prompt = self._words(self._draw.randint(self._longest // 12, self._longest // 5))
        return self._request("long prompt", _COMPLETIONS, prompt=prompt, max_tokens=8, stream=True)

    def _several(self) -> Request:
        count = self._draw.randint(2, 4)
        return self._request(
            "several choices",
            _COMPLETIONS,
            count,
            prompt=self._words(20),
            n=count,
            max_tokens=24,
            stream=self._draw.random() < 0.5,
            temperature=0.9,
        )

    def _best_of(self) -> Request:
        return self._request(
            "best of", _COMPLETIONS, prompt=self._words(12), best_of=3, max_tokens=12, temperature=0.9
        )

    def _beams(self) -> Request:
        return self._request(
            "beams",
            _COMPLETIONS,
            prompt=self._words(12),
            use_beam_search=True,
            beam_width=3,
            max_tokens=8,
            temperature=0,
        )

    def _scored(self) -> Request:
        return self._request(
            "log-probabilities",
            _COMPLETIONS,
            prompt=self._words(40),
            max_tokens=4,
            logprobs=3,
            echo=self._draw.random() < 0.5,
        )

    def _penalised(self) -> Request:
        return self._request(
            "sampled",
            _COMPLETIONS,
            prompt=self._words(30),
            max_tokens=48,
            temperature=1.1,
            top_p=0.9,
            top_k=40,
            repetition_penalty=1.1,
            presence_penalty=0.5,
            stop=[" and", "\n"],
            stream=True,
        )

    def _hung_up(self) -> Request:
        asked = self._completion() if self._draw.random() < 0.5 else self._several()
        fields = json.loads(asked.body) | {"stream": True, "max_tokens": 256}
        after = self._draw.choice((0, 0, 1, 5, 20))
        return Request("hung up", asked.path, json.dumps(fields).encode(), True, asked.choices, after)

    def _deadline(self) -> Request:
        return self._request(
            "deadline",
            _COMPLETIONS,
            prompt=self._words(30),
            max_tokens=400,
            ignore_eos=True,
            timeout=self._draw.choice((0.05, 0.5, 2.0)),
            stream=self._draw.random() < 0.5,
        )

    def _tokenized(self) -> Request:
        body = {"model": self._model, "prompt": self._words(50)}
        return Request("tokenize", "/tokenize", json.dumps(body).encode())

    def _embedded(self) -> Request:
        """A model that only generates refuses it."""
        body = {"model": self._model, "input": self._words(5)}
        return Request("embedding", "/v1/embeddings", json.dumps(body).encode(), refusable=True)

    def _too_long(self) -> Request:
        body = {"model": self._model, "prompt": self._words(self._longest), "max_tokens": 8}
        return Request("too long", _COMPLETIONS, json.dumps(body).encode(), refusable=True)

    def _broken_json(self) -> Request:
        body = bytearray(self._chat().body)
        for _ in range(self._draw.randint(1, 6)):
            place = self._draw.randrange(len(body))
            match self._draw.randrange(3):
                case 0:
                    body[place] = self._draw.randrange(256)
                case 1:
                    del body[place:]
                    body += b"}"
                case _:
                    body[place:place] = self._draw.randbytes(self._draw.randint(1, 4))
        return Request("broken JSON", _CHAT, bytes(body), refusable=True)

    def _random_fields(self) -> Request:
        """A good request with fields of any type and value; it may be good still."""
        path = self._draw.choice(PATHS)
        fields: dict[str, Any] = {"model": self._model, "prompt": "a b", "max_tokens": 2}
        if path == _CHAT:
            fields = {"model": self._model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        for _ in range(self._draw.randint(1, 3)):
            fields[self._draw.choice(_FIELDS)] = self._value(2)
        return Request("random fields", path, json.dumps(fields).encode(), refusable=True)

    def _value(self, depth: int) -> Any:
        draw = self._draw
        if depth and draw.random() < 0.3:
            if draw.random() < 0.5:
                return [self._value(depth - 1) for _ in range(draw.randint(0, 3))]
            return {draw.choice(_FIELDS): self._value(depth - 1) for _ in range(draw.randint(0, 3))}
        text = "".join(draw.choices(string.printable, k=draw.randint(0, 12)))
        return draw.choice(
            (
                None,
                True,
                False,
                0,
                1,
                -1,
                2,
                17,
                10**25,
                -(2**63),
                0.5,
                1e308,
                -0.1,
                "",
                "user",
                text,
                "\ud800",
            )
        )


_FIELDS = (
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k",
    "min_p", "n", "best_of", "stop", "seed", "logprobs", "top_logprobs", "prompt_logprobs", "echo",
    "logit_bias", "priority", "cache_salt", "timeout", "use_beam_search", "beam_width", "length_penalty",
    "stop_token_ids", "min_tokens", "ignore_eos", "tools", "tool_choice", "response_format", "tokens",
    "input", "encoding_format", "stream_options", "user", "content", "role", "nonsense", "",
)  # fmt: skip
"""`stream` is left out: whether an answer is a stream must be known to judge it."""
