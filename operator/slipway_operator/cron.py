"""Five cron fields: when a schedule last began. Digits, `*`, lists, ranges, steps; weekdays from 0.

As in crontab(5): where both days of the month and days of the week are restricted, either one suffices; 7 is
Sunday too. Times are those of the schedule's zone: one that a change of clocks skips begins after the gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

_RANGES: Final = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Cron:
    """The values of each field; `either` is whether one of the two kinds of days suffices."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    def begun(self, now: float, zone: tzinfo, within: float) -> float | None:
        """Return the last beginning up to `now`, as seconds since 1970; None where there is none `within`."""
        here = datetime.fromtimestamp(now, zone)
        for back in range(int(within // DAY) + 2):
            day = here.date() - timedelta(days=back)
            if not self._on(day.day, day.month, day.isoweekday() % 7):
                continue
            for hour in sorted(self.hours, reverse=True):
                for minute in sorted(self.minutes, reverse=True):
                    start = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).timestamp()
                    if start <= now:
                        return start if now - start < within else None
        return None

    def _on(self, day: int, month: int, weekday: int) -> bool:
        if month not in self.months:
            return False
        by_day, by_weekday = day in self.days, weekday in self.weekdays
        return by_day or by_weekday if self.either else by_day and by_weekday


def parse(text: str) -> Cron:
    """Return five fields. Raises ValueError, which says what is wrong with which."""
    parts = text.split()
    if len(parts) != len(_RANGES):
        raise ValueError(f"{text!r} has {len(parts)} fields; write five, for example 0 8 * * 1-5")
    sets = [_field(part, *known) for part, known in zip(parts, _RANGES, strict=True)]
    weekdays = frozenset(day % 7 for day in sets[4])
    either = not parts[2].startswith("*") and not parts[4].startswith("*")
    return Cron(sets[0], sets[1], sets[2], sets[3], weekdays, either)


def zone_of(name: str | None) -> tzinfo:
    """Return a time zone by its IANA name; None is UTC. Raises ValueError."""
    try:
        return ZoneInfo(name) if name else UTC
    except (KeyError, OSError, ValueError):
        raise ValueError(f"time zone {name!r} is unknown; write one like Europe/Berlin, or none") from None


def _field(text: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = (str(low), "-", str(high)) if span == "*" else span.partition("-")
        if not dash:
            last = str(high) if slash else first
        numbers = (first, last, step if slash else "1")
        if not all(number.isascii() and number.isdigit() and len(number) < 4 for number in numbers):
            raise ValueError(f"{part!r} is no {name}; write a number, a range or a step, like 5, 1-5 or */10")
        begin, end, every = (int(number) for number in numbers)
        if not low <= begin <= end <= high or every == 0:
            raise ValueError(f"{part!r} is no {name}; its numbers go from {low} to {high}")
        found.update(range(begin, end + 1, every))
    return frozenset(found)
