"""Why a container ended: the engine's own JSON, the kernel's verdict, or the last line of the log."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from slipway_api.conditions import Reason
from slipway_operator.explain.findings import Finding, clean

SIGKILL_EXIT: Final = 137
SIGTERM_EXIT: Final = 143

_ERROR: Final = re.compile(r"error|exception|fatal|panic|cannot|failed|out of memory", re.IGNORECASE)

# The engine's reasons that are reasons of a condition too.
_ENGINE_REASONS: Final = {
    reason.value: reason
    for reason in (
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_ACCESS_DENIED,
        Reason.MODEL_UNSUPPORTED,
        Reason.MODEL_CORRUPT,
        Reason.MODEL_GATED,
        Reason.MODEL_CHANGED,
        Reason.MODEL_UNSIGNED,
        Reason.SIGNATURE_INVALID,
        Reason.DOWNLOAD_FAILED,
        Reason.DOWNLOAD_STALLED,
        Reason.VOLUME_FULL,
        Reason.DOES_NOT_FIT,
        Reason.INVALID_ARGUMENT,
    )
}


def explain_termination(terminated: Mapping[str, Any], container: str, logs: str) -> Finding | None:
    """Return why a container ended, or None where it ended as asked. `logs` tells more."""
    code = terminated.get("exitCode", 0)
    if terminated.get("reason") == "OOMKilled":
        return Finding(
            Reason.OUT_OF_MEMORY,
            f"container {container} needed more memory than its limit; raise "
            f"podTemplate.resources.limits.memory, or lower engine.maxNumSeqs or engine.memoryPercent",
            logs,
        )
    if code in (0, SIGTERM_EXIT):
        return None
    text = str(terminated.get("message") or "")
    reported = _reported(text)
    if reported is not None:
        return Finding(reported[0], clean(reported[1]), logs)
    if code == SIGKILL_EXIT:
        return Finding(
            Reason.ENGINE_UNHEALTHY,
            f"container {container} was killed because it stopped answering its liveness probe",
            logs,
        )
    last = clean(_telling_line(text))
    said = f"; its last words: {last}" if last else ""
    return Finding(Reason.ENGINE_CRASHED, f"container {container} exited with code {code}{said}", logs)


def _reported(text: str) -> tuple[Reason, str] | None:
    """Return reason and sentence where the message is the engine's JSON; all else is text."""
    try:
        report = json.loads(text)
    except ValueError:
        return None
    if not isinstance(report, dict):
        return None
    reason = _ENGINE_REASONS.get(str(report.get("reason")))
    message = report.get("message")
    if not isinstance(message, str) or not message:
        return None
    return (reason or Reason.ENGINE_CRASHED), message


def _telling_line(text: str) -> str:
    """Return the last line that speaks of an error, else the last one: some programs say goodbye after it.

    Without a message of the container's own, the kubelet puts the end of its log here
    (`FallbackToLogsOnError`), so no right to read logs is needed.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    telling = (line for line in reversed(lines) if _ERROR.search(line))
    return next(telling, lines[-1] if lines else "")
