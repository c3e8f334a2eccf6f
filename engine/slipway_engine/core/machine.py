"""What this process may use of the machine: processors and memory, by its cgroups (v1 and v2) and by /proc.

The tightest limit on the way from the process's own group up to the root counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """A view of /proc and /sys/fs/cgroup; tests give other roots."""

    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")

    def threads(self) -> int:
        """Return how many threads can compute at once: the quota rounded up, at most the processors."""
        quotas = [quota for quota in (*self._quotas_v2(), *self._quotas_v1()) if quota > 0]
        return max(1, min([_processors(), *(ceil(quota) for quota in quotas)]))

    def memory_limit(self) -> int:
        """Return the bytes that this process's group may use, or the machine's where nothing limits it."""
        limits = [*self._numbers("memory.max", None), *self._numbers("memory.limit_in_bytes", "memory")]
        return min([self._meminfo("MemTotal"), *limits])

    def memory_available(self) -> int:
        """Return the bytes of the machine that nobody uses or that can be had back."""
        return self._meminfo("MemAvailable")

    def resident(self) -> int:
        """Return the bytes of memory that this process holds now, mapped files not counted."""
        fields = (self.proc / "self" / "statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")

    def has_cpu_flag(self, *flags: str) -> bool:
        """Say whether the processor names one of these features."""
        try:
            lines = (self.proc / "cpuinfo").read_text().splitlines()
        except OSError:
            return False
        named = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return bool(set(flags) & set(named.split()))

    def _meminfo(self, name: str) -> int:
        for line in (self.proc / "meminfo").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
        raise OSError(f"{self.proc / 'meminfo'} has no {name}.")

    def _quotas_v2(self) -> Iterator[float]:
        for text in self._files("cpu.max", None):
            quota, _, period = text.partition(" ")
            if quota != "max":
                yield int(quota) / int(period or 100000)

    def _quotas_v1(self) -> Iterator[float]:
        quotas = self._files("cpu.cfs_quota_us", "cpu")
        for quota, period in zip(quotas, self._files("cpu.cfs_period_us", "cpu"), strict=False):
            yield int(quota) / int(period)

    def _numbers(self, name: str, controller: str | None) -> Iterator[int]:
        for text in self._files(name, controller):
            if text != "max":
                yield int(text)

    def _files(self, name: str, controller: str | None) -> Iterator[str]:
        """Yield the texts of `name` in the process's group and all above; controller None is v2."""
        for root, group in self._groups(controller):
            for parent in (group, *group.parents):
                try:
                    yield (root / str(parent).lstrip("/") / name).read_text().strip()
                except OSError:
                    continue

    def _groups(self, controller: str | None) -> Iterator[tuple[Path, Path]]:
        """Yield (mount, path of this process's group); in a container the path is seen from its own root."""
        try:
            lines = (self.proc / "self" / "cgroup").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            _, names, path = line.split(":", 2)
            if controller is None and not names:
                yield self.cgroup, Path(path)
            elif controller is not None and controller in names.split(","):
                yield self.cgroup / controller, Path(path)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
