"""Lets a tenant's requests in as its limits and its budget allow, and settles what each really cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from slipway_gateway.errors import GatewayError
from slipway_gateway.ledger import Ledger
from slipway_gateway.meters import Allowance, Bucket, Budget, Rate
from slipway_gateway.objects import Key

FORGET_EVERY: Final = 1024
"""New pairs of tenant and model, after which buckets that are full again are dropped."""


@dataclass(slots=True)
class Pair:
    """A tenant's buckets for one model, and the limits they had at the last look."""

    requests: Bucket
    tokens: Bucket
    rate: Rate


@dataclass(slots=True)
class Reservation:
    """What one request has taken."""

    tenant: str
    pair: Pair | None
    tokens: int
    budget: Budget | None
    headers: dict[str, str]
    """For the client: what is left."""


class Meter:
    """All tenants' buckets."""

    def __init__(
        self,
        ledger: Ledger,
        gateways: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger = ledger
        self._gateways = gateways
        self._clock = clock
        self._calendar = calendar
        self._pairs: dict[tuple[str, Key], Pair] = {}
        self._reserved: dict[str, int] = {}
        self._forget_at = FORGET_EVERY

    def reserve(self, tenant: str, allowance: Allowance, model: Key, tokens: int) -> Reservation:
        """Take one request of about `tokens` tokens, or refuse it."""
        self._check_budget(tenant, allowance.budget, tokens)
        rate = allowance.rate(str(model))
        pair, headers = None, {}
        if rate is not None:
            pair = self._pair(tenant, model, rate)
            headers = self._take(pair, model, tokens)
        self._reserved[tenant] = self._reserved.get(tenant, 0) + tokens
        return Reservation(tenant, pair, tokens, allowance.budget, headers)

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """The request is over and cost `tokens`."""
        left = self._reserved[reservation.tenant] - reservation.tokens
        if left:
            self._reserved[reservation.tenant] = left
        else:
            del self._reserved[reservation.tenant]
        if reservation.pair is not None:
            reservation.pair.tokens.take(tokens - reservation.tokens)
        if tokens and reservation.tenant:
            self._ledger.spend(reservation.tenant, tokens, self._calendar())

    def _check_budget(self, tenant: str, budget: Budget | None, tokens: int) -> None:
        if budget is None:
            return
        now = self._calendar()
        spent = self._ledger.spent(tenant, budget.period.name_at(now)) + self._reserved.get(tenant, 0)
        if spent + tokens > budget.tokens:
            raise _refused(
                f"{tenant} has spent {spent} of its {budget.tokens} tokens of this {budget.period}, and the "
                f"request may take {tokens}; ask for fewer tokens, wait for the next {budget.period}, or ask "
                "the gateway's administrator for more.",
                "budget_exhausted",
                budget.period.left(now),
            )

    def _take(self, pair: Pair, model: Key, tokens: int) -> dict[str, str]:
        now, share = self._clock(), 1 / max(1, self._gateways())
        headers: dict[str, str] = {}
        asked = [
            ("requests", pair.requests, pair.rate.requests, 1),
            ("tokens", pair.tokens, pair.rate.tokens, tokens),
        ]
        limited = [
            (word, bucket, most * share, n, most) for word, bucket, most, n in asked if most is not None
        ]
        for word, bucket, per_minute, amount, most in limited:
            wait = bucket.wait(amount, per_minute, now, most)
            if math.isinf(wait):
                raise _too_much(word, amount, most, model)
            if wait > 0:
                seconds = math.ceil(wait)
                raise _refused(
                    f"The limit of {most} {word} a minute for {model} is reached; try again in {seconds} s.",
                    "rate_limit_exceeded",
                    seconds,
                    {f"x-ratelimit-limit-{word}": str(most), f"x-ratelimit-remaining-{word}": "0"},
                )
        for word, bucket, per_minute, amount, most in limited:
            bucket.take(amount)
            headers[f"x-ratelimit-limit-{word}"] = str(most)
            headers[f"x-ratelimit-remaining-{word}"] = str(bucket.left(per_minute))
        return headers

    def _pair(self, tenant: str, model: Key, rate: Rate) -> Pair:
        pair = self._pairs.get((tenant, model))
        if pair is None:
            now = self._clock()
            pair = self._pairs[tenant, model] = Pair(Bucket(now), Bucket(now), rate)
            self._forget(now)
        pair.rate = rate
        return pair

    def _forget(self, now: float) -> None:
        if len(self._pairs) < self._forget_at:
            return
        self._pairs = {
            key: pair
            for key, pair in self._pairs.items()
            if not pair.requests.empty(pair.rate.requests or 0, now)
            or not pair.tokens.empty(pair.rate.tokens or 0, now)
        }
        self._forget_at = len(self._pairs) + FORGET_EVERY


def _refused(message: str, code: str, seconds: int, more: dict[str, str] | None = None) -> GatewayError:
    return GatewayError(
        429,
        message,
        kind="rate_limit_error",
        code=code,
        headers={"Retry-After": str(seconds)} | (more or {}),
    )


def _too_much(word: str, amount: int, most: int, model: Key) -> GatewayError:
    what = "of tokens; lower max_tokens, or shorten the prompt" if word == "tokens" else "of requests"
    return GatewayError(
        400,
        f"The request counts for {amount} {word}, and the limit for {model} is {most} a minute: it would "
        f"never be let in. Ask for less {what}, or for a higher limit.",
        code="request_exceeds_limit",
    )
