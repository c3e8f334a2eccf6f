"""What a request asks of the sampler: plain values, validated once, shared by the HTTP side and the core."""

from __future__ import annotations

from dataclasses import dataclass, field

from slipway_engine.errors import RequestError

MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_TOKENS = 2**31 - 1
MAX_SEQUENCES = 128
MAX_BEAMS = 16


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling of one request; the names and ranges are those of the OpenAI API and of vLLM's extensions.

    `temperature` 0 is greedy. `top_k` 0 (or -1) switches top-k off. `logprobs` is the number of alternatives
    returned for each generated token beside the chosen one (None: no log-probabilities at all).
    `stop_token_ids` end a sequence; `eos` does too unless `ignore_eos`. Stop strings are matched on text,
    outside the core.

    `n` sequences are returned. With `best_of` so many are generated, and the `n` of the highest cumulative
    log-probability are returned. `beam_width` searches with so many beams instead of sampling (temperature 0,
    no logprobs); a beam's score is its cumulative log-probability / its output's length ** `length_penalty`,
    and `early_stopping` ends the search once `beam_width` beams have ended. `max_tokens` 0 only scores the
    prompt, or pools it.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: dict[int, float] = field(default_factory=dict)
    n: int = 1
    best_of: int | None = None
    beam_width: int | None = None
    length_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their range, naming the field and the range."""
        _within("max_tokens", self.max_tokens, 0, MAX_TOKENS)
        _within("min_tokens", self.min_tokens, 0, self.max_tokens)
        _within("temperature", self.temperature, 0, 100)
        _within("top_p", self.top_p, 0, 1, low_open=True)
        _within("top_k", self.top_k, -1, MAX_TOKENS)
        _within("min_p", self.min_p, 0, 1)
        _within("presence_penalty", self.presence_penalty, -2, 2)
        _within("frequency_penalty", self.frequency_penalty, -2, 2)
        _within("repetition_penalty", self.repetition_penalty, 0, 100, low_open=True)
        if self.seed is not None:
            _within("seed", self.seed, -MAX_SEED, MAX_SEED)
        if self.logprobs is not None:
            _within("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        for bias in self.logit_bias.values():
            _within("logit_bias", bias, -100, 100)
        _within("n", self.n, 1, MAX_SEQUENCES)
        _within("length_penalty", self.length_penalty, -10, 10)
        if self.best_of is not None:
            _within("best_of", self.best_of, self.n, MAX_SEQUENCES)
        if self.beam_width is not None:
            self._check_beams(self.beam_width)

    @property
    def sequences(self) -> int:
        """Sequences that are generated side by side at most."""
        return self.beam_width or self.best_of or self.n

    @property
    def ranked(self) -> bool:
        """True where nothing can be sent before all sequences have ended and are compared."""
        return self.beam_width is not None or self.sequences > self.n

    @property
    def greedy(self) -> bool:
        """True where the most likely token is always taken."""
        return self.temperature == 0

    @property
    def penalises(self) -> bool:
        """True where a token's likelihood depends on how often it has occurred."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def _check_beams(self, width: int) -> None:
        _within("beam_width", width, 2, MAX_BEAMS)
        _within("n", self.n, 1, width)
        for name, wrong, way in (
            ("temperature", not self.greedy, "send temperature 0"),
            ("best_of", self.best_of is not None, "leave it out"),
            ("logprobs", self.logprobs is not None, "leave it out"),
        ):
            if wrong:
                raise RequestError(f"{name} does not go with beam_width; {way}.", param=name)


def _within(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
    # A comparison with NaN is false, so NaN falls outside every range.
    inside = (value > low if low_open else value >= low) and value <= high
    if not inside:
        lower = f"greater than {low}" if low_open else f"at least {low}"
        raise RequestError(f"{name} is {_shown(value)}; it must be {lower} and at most {high}.", param=name)


def _shown(value: float) -> str:
    """Return the value for a message; an integer may be too long to print."""
    return f"{value}" if abs(value) <= 10**18 or value != value else "out of every range"
