"""How a thread beside the core's ends the process, while the core is in a call that never returns."""

from __future__ import annotations

from collections.abc import Callable

from slipway_engine.errors import EngineError

_listeners: list[Callable[[EngineError], None]] = []


def at_end(say: Callable[[EngineError], None]) -> None:
    """Let `say` tell why, and end the process."""
    _listeners.append(say)


def end(error: EngineError) -> None:
    """End the process for a reason, where somebody listens."""
    for say in _listeners:
        say(error)
