"""What a reader of tool calls reports: plain text, a call that begins, more of its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    """The call with this number (from 0) begins; its name is complete."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of a call's arguments, as JSON text; the pieces of one call put together are the whole."""

    index: int
    text: str


Event: TypeAlias = Content | CallBegan | Arguments
