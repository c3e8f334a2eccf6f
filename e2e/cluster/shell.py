"""Runs programs; a failure becomes one sentence with the program's own last words."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.cluster.errors import ClusterError

TAIL_LINES = 12


def tail(text: str) -> str:
    """The last lines of a program's output, enough to see why it failed."""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


def attempt(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns how it ended, whichever way."""
    arguments = [str(part) for part in command]
    try:
        return subprocess.run(
            arguments,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(
            f"The program {arguments[0]} is not on this machine; install it and run again."
        ) from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 124, "", f"no answer within {timeout:.0f} s")


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Runs a command and returns what it printed; raises where it failed."""
    done = attempt(command, stdin=stdin, env=env, cwd=cwd, timeout=timeout)
    if done.returncode != 0:
        words = tail(done.stderr or done.stdout)
        raise ClusterError(f"`{shlex.join(done.args)}` failed with status {done.returncode}:\n{words}")
    return done.stdout
