"""Reads a request's JSON once and changes members of its top level in place, without writing the rest again.

The reader walks the top level only, with the standard library's own C scanner for each value, and remembers
where every member stands. A member that stands twice is refused: two parsers that read one body differently
(the gateway's and an engine's) are how a request gets past the rule that it was checked by. Reading holds up
everybody else's streams, so what makes it slow is bounded: members, and lists and objects inside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.scanner import make_scanner
from typing import Any, NoReturn

from slipway_gateway.errors import bad_request

MAX_MEMBERS = 256
MAX_CONTAINERS = 500_000
"""Brackets and braces in the body, those in its texts included: a tenth of a second at worst."""

_SPACE = re.compile(r"[ \t\n\r]*")


class Member:
    """A top-level member: its value and where that stands in the text."""

    __slots__ = ("end", "start", "value")

    def __init__(self, value: Any, start: int, end: int) -> None:
        self.value = value
        self.start = start
        self.end = end


@dataclass(slots=True)
class Body:
    """A request's JSON object."""

    text: str
    members: Mapping[str, Member]
    first: int
    """Where the first member would stand."""

    def get(self, name: str) -> Any:
        """Return the value of a member, or None."""
        member = self.members.get(name)
        return None if member is None else member.value

    def with_members(self, values: Mapping[str, Any]) -> bytes:
        """Return the JSON with these members set to these values."""
        new = {n: v for n, v in values.items() if n not in self.members}
        old = sorted(
            (self.members[n].start, self.members[n].end, v) for n, v in values.items() if n not in new
        )
        added = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in new.items())
        comma = "," if added and self.members else ""
        pieces, at = [self.text[: self.first], added, comma], self.first
        for start, end, value in old:
            pieces += [self.text[at:start], json.dumps(value)]
            at = end
        pieces.append(self.text[at:])
        return "".join(pieces).encode()


def parse(raw: bytes) -> Body:
    """Read a JSON object, or refuse the request with a sentence."""
    if raw.count(b"[") + raw.count(b"{") > MAX_CONTAINERS:
        raise bad_request(f"The body has more than {MAX_CONTAINERS} lists and objects; send fewer.")
    try:
        return _read_object(raw.decode())
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not UTF-8 (byte {error.start}); send JSON in UTF-8.") from None
    except RecursionError:
        raise bad_request("The body is nested too deeply; send flatter JSON.") from None
    except (ValueError, StopIteration) as error:
        raise bad_request(f"The body is not JSON that can be read: {_reason(error)}; correct it.") from None


def _reason(error: Exception) -> str:
    # The decoder's messages name a position, never the content.
    return str(error) if isinstance(error, json.JSONDecodeError) else "a value is missing or out of range"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_scan_once = make_scanner(json.JSONDecoder(parse_constant=_no_constant))  # type: ignore[arg-type]


def _read_object(text: str) -> Body:
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise bad_request('The body is not a JSON object; send one, for example {"model": ..., ...}.')
    first = at = at + 1
    members: dict[str, Member] = {}
    at = _skip(text, at)
    if text[at : at + 1] != "}":
        at = _read_members(text, at, members)
    end = _skip(text, at + 1)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return Body(text, members, first)


def _read_members(text: str, at: int, members: dict[str, Member]) -> int:
    """Read members from `at` on; return where the closing brace stands."""
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        name, at = scanstring(text, at + 1, True)
        if name in members:
            raise bad_request("A member of the body stands twice; send each once.", param=name[:64])
        if len(members) == MAX_MEMBERS:
            raise bad_request(f"The body has more than {MAX_MEMBERS} members; send fewer.")
        at = _expect(text, _skip(text, at), ":")
        value, end = _scan_once(text, at)
        members[name] = Member(value, at, end)
        at = _skip(text, end)
        if text[at : at + 1] == "}":
            return at
        at = _expect(text, at, ",")


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise json.JSONDecodeError(f"Expecting {mark!r} delimiter", text, at)
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
