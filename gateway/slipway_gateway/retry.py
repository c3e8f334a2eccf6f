"""When a request may be tried again: before its first byte, on another pod, twice at most, within a budget.

The budget keeps retries below a tenth of the traffic of a deployment, so that an overload is not doubled by
those who answer for it. Each deployment has its own: a broken one spends nobody else's.
"""

from __future__ import annotations

from typing import Final

MAX_RETRIES: Final = 2
RETRY_STATUSES: Final = frozenset({502, 503})
BUDGET_RATIO: Final = 0.1
BUDGET_BURST: Final = 10.0


class RetryBudget:
    """A tenth of a retry is earned by each request; the first few are free."""

    def __init__(self, ratio: float = BUDGET_RATIO, burst: float = BUDGET_BURST) -> None:
        self._ratio = ratio
        self._burst = burst
        self._saved = burst

    def earn(self) -> None:
        """Count a request that came in."""
        self._saved = min(self._burst, self._saved + self._ratio)

    def spend(self) -> bool:
        """Take one retry; return whether there was one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


def may_retry(retries: int, budget: RetryBudget) -> bool:
    """Return whether a request that was retried `retries` times may be retried once more, and pay for it."""
    return retries < MAX_RETRIES and budget.spend()
