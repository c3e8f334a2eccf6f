"""How much a tenant may ask for: requests and tokens a minute, and tokens a day or month. Pure.

Each tenant has, for each model, a bucket of requests and one of tokens that fill evenly and hold a minute's
worth. A request takes its prompt's estimate and the longest answer it allows; what it did not use is given
back when it ends. A budget is a sum over a day or a month in UTC. With several gateways each allows its share
of a limit: together never more than the limit, and as little as one share where all of a tenant's requests
meet the same gateway.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

ANY_MODEL: Final = "*"
MAX_RATE: Final = 10**12
SECONDS: Final = 60.0


class Period(StrEnum):
    """How long a budget lasts."""

    DAY = "day"
    MONTH = "month"

    def name_at(self, moment: datetime) -> str:
        """Return the name of the period that `moment` is in, such as `month:2026-01`."""
        return f"{self}:{moment:%Y-%m-%d}" if self is Period.DAY else f"{self}:{moment:%Y-%m}"

    def left(self, moment: datetime) -> int:
        """Return the seconds until the next one begins."""
        start = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self is Period.DAY:
            end = start + timedelta(days=1)
        else:
            end = (start.replace(day=1) + timedelta(days=32)).replace(day=1)
        return max(1, math.ceil((end - moment).total_seconds()))


@dataclass(frozen=True, slots=True)
class Rate:
    """What one tenant may ask of one model in a minute; None: as much as it likes."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of all models in a period."""

    tokens: int
    period: Period


@dataclass(frozen=True, slots=True)
class Allowance:
    """Everything that limits a tenant."""

    rates: Mapping[str, Rate] = field(default_factory=dict)
    """By `namespace/name`, or `*` for each model that is not named."""
    budget: Budget | None = None

    def rate(self, model: str) -> Rate | None:
        """Return the limits on a model."""
        return self.rates.get(model, self.rates.get(ANY_MODEL))


UNLIMITED: Final = Allowance()


def read_allowance(limits: str | None, budget: str | None) -> Allowance:
    """Read the keys `limits` and `budget` of a tenant's Secret. Raises ValueError with what to write."""
    rates = {}
    for model, given in _object(limits, "limits").items():
        if (
            not isinstance(given, dict)
            or not given
            or given.keys() - {"requestsPerMinute", "tokensPerMinute"}
        ):
            raise ValueError(
                "its key 'limits' holds JSON such as "
                '{"*": {"requestsPerMinute": 60, "tokensPerMinute": 100000}}, by NAMESPACE/NAME or *'
            )
        rates[model] = Rate(
            _rate(given.get("requestsPerMinute")),
            _rate(given.get("tokensPerMinute")),
        )
    given = _object(budget, "budget")
    if not given:
        return Allowance(rates)
    if given.keys() != {"tokens", "period"} or given["period"] not in list(Period):
        raise ValueError(
            'its key "budget" holds JSON such as {"tokens": 1000000, "period": "month"}, or "day"'
        )
    return Allowance(rates, Budget(_rate(given["tokens"]) or 0, Period(given["period"])))


def _object(text: str | None, name: str) -> dict[str, Any]:
    if not text or not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"its key {name!r} is not a JSON object")
    return found


def _rate(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_RATE:
        raise ValueError(f"a limit is a whole number from 0 to {MAX_RATE}, without quotes")
    return value


class Bucket:
    """Fills evenly and holds a minute's worth; may be overdrawn by what turned out to cost more."""

    def __init__(self, now: float) -> None:
        self._used = 0.0
        self._at = now

    def wait(self, amount: float, per_minute: float, now: float, most: float | None = None) -> float:
        """Return the seconds until `amount` can be taken: 0 now, infinity never.

        `per_minute` is a share of the limit `most`: what is larger than the share, but not than the limit,
        goes in once the bucket is full, and is paid off afterwards.
        """
        self._drain(per_minute, now)
        if amount > (per_minute if most is None else most):
            return math.inf
        missing = self._used + min(amount, per_minute) - per_minute
        return max(0.0, missing / per_minute * SECONDS) if per_minute else math.inf

    def take(self, amount: float) -> None:
        """Take `amount`; negative gives back."""
        self._used = max(0.0, self._used + amount)

    def left(self, per_minute: float) -> int:
        """Return what could be taken at the last look."""
        return max(0, int(per_minute - self._used))

    def empty(self, per_minute: float, now: float) -> bool:
        """Return whether forgetting the bucket changes nothing."""
        self._drain(per_minute, now)
        return self._used <= 0

    def _drain(self, per_minute: float, now: float) -> None:
        self._used = max(0.0, self._used - per_minute * max(0.0, now - self._at) / SECONDS)
        self._at = now
