"""What tenants have spent, kept on a volume: budgets hold over restarts, and over several gateways.

The gateway writes nothing to the API server, so each process keeps one small file of its own sums in
`--state-dir` and reads those of the others, which ran before it or run beside it on the same volume. Files
are replaced whole every two seconds. What is lost in a crash, and what others have not seen yet, is what was
spent in that time; what runs is counted by its own gateway alone. Without a directory the sums begin anew
with the process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from slipway_gateway.meters import Period

log = logging.getLogger(__name__)

WRITE_SECONDS: Final = 2.0
MAX_FILE: Final = 16 * 1024 * 1024
KEPT_DAYS: Final = 62
_FILE: Final = "ledger-*.json"
_PERIOD = re.compile(r"(day:\d{4}-\d{2}-\d{2}|month:\d{4}-\d{2})")

Sums = dict[str, dict[str, int]]
"""By tenant, by period: tokens."""


class Ledger:
    """The sums of all gateways."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._own: Sums = {}
        self._others: dict[Path, tuple[int, Sums]] = {}
        self._dirty = False
        self._trouble = ""
        if directory is not None:
            host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:63]
            self._file = directory / f"ledger-{host}-{uuid.uuid4().hex[:8]}.json"
            self.read_others()

    def spent(self, tenant: str, period: str) -> int:
        """Return what a tenant has spent in a period, on all gateways."""
        own = self._own.get(tenant, {}).get(period, 0)
        return own + sum(sums.get(tenant, {}).get(period, 0) for _, sums in self._others.values())

    def spend(self, tenant: str, tokens: int, moment: datetime) -> None:
        """Count tokens."""
        periods = self._own.setdefault(tenant, {})
        for period in Period:
            name = period.name_at(moment)
            if name not in periods:
                self._forget(periods, moment)
            periods[name] = periods.get(name, 0) + tokens
        self._dirty = True

    def news(self) -> str | None:
        """Return what this process's file is to hold, if that is anything new."""
        if self._directory is None or not self._dirty:
            return None
        self._dirty = False
        return json.dumps({"version": 1, "spent": self._own})

    def write(self, content: str) -> None:
        """Replace this process's file."""
        part = self._file.with_suffix(".part")
        try:
            with part.open("w") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self._file)
        except OSError as error:
            self._dirty = True
            self._complain(error)
        else:
            self._trouble = ""

    def read_others(self) -> None:
        """Read what the other processes have written since the last look."""
        if self._directory is None:
            return
        try:
            others = {}
            for path in self._directory.glob(_FILE):
                if path != self._file:
                    stamp, known = path.stat().st_mtime_ns, self._others.get(path)
                    others[path] = known if known and known[0] == stamp else (stamp, _read(path))
            self._others = others  # at once: sums are read while this runs in its thread
        except OSError as error:
            self._complain(error)

    def tidy(self, now: datetime) -> None:
        """Delete the files of processes that wrote nothing for two months."""
        if self._directory is None:
            return
        oldest = (now - timedelta(days=KEPT_DAYS)).timestamp()
        for path in list(self._directory.glob(_FILE)):
            try:
                if path != self._file and path.stat().st_mtime < oldest:
                    path.unlink()
            except OSError as error:
                self._complain(error)

    async def follow(self, seconds: float = WRITE_SECONDS) -> None:
        """Write and read until cancelled, then write once more."""
        try:
            await asyncio.to_thread(self.tidy, datetime.now(UTC))
            while True:
                await asyncio.sleep(seconds)
                # A slow volume holds up the sums, never the streams.
                await asyncio.to_thread(self._turn, self.news())
        finally:
            if (content := self.news()) is not None:
                self.write(content)

    def _turn(self, content: str | None) -> None:
        if content is not None:
            self.write(content)
        self.read_others()

    def _forget(self, periods: dict[str, int], moment: datetime) -> None:
        current = {period.name_at(moment) for period in Period}
        for name in [name for name in periods if name not in current]:
            del periods[name]

    def _complain(self, error: OSError) -> None:
        if str(error) != self._trouble:
            log.warning("budgets: %s cannot be used: %s; sums are kept in memory", self._directory, error)
        self._trouble = str(error)


def _read(path: Path) -> Sums:
    """Return the sums in a file; none where it makes no sense."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError("it is too large")
        content = json.loads(path.read_bytes())
        spent = content["spent"]
        return {tenant: _periods(periods.items()) for tenant, periods in spent.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("budgets: %s is not counted: %s", path, error)
        return {}


def _periods(items: Iterable[tuple[Any, Any]]) -> dict[str, int]:
    found: Mapping[str, int] = {
        name: tokens
        for name, tokens in items
        if isinstance(name, str) and _PERIOD.fullmatch(name) and isinstance(tokens, int) and tokens >= 0
    }
    return dict(found)
