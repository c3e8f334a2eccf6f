"""Bodies: read once, refused with a sentence, changed in place."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_gateway import bodies, errors

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=8)


@given(OBJECTS, st.sampled_from([None, 0, 2]), st.booleans())
def test_every_member_of_any_object_is_found(content, indent, ascii_only):
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    if not ascii_only and any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        return
    body = bodies.parse(text.encode())
    assert {name: member.value for name, member in body.members.items()} == content


@given(OBJECTS, st.dictionaries(st.sampled_from(["model", "cache_salt", "a"]), st.text(), max_size=3))
def test_changing_members_changes_these_and_nothing_else(content, changes):
    raw = bodies.parse(json.dumps(content).encode()).with_members(changes)
    assert json.loads(raw) == content | changes
    assert bodies.parse(raw)  # and no member stands twice


def test_the_rest_of_the_text_stays_byte_for_byte():
    text = '{ "model" : "a/b",\n "x": 1.10, "é": "\\u00e9" }'
    assert bodies.parse(text.encode()).with_members({"model": "c"}).decode() == text.replace('"a/b"', '"c"')


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"null", b"[]", b'"x"', b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}',
        b"{,}", b'{"a":1}x', b"{'a':1}", b'{"a":NaN}', b'{"a":[Infinity]}', b'{"a":01}', b'{a:1}',
        b'{"a":1 "b":2}',
        b'{"a":"\x01"}', b"\xef\xbb\xbf{}", b'{"a":"\xff"}',
        b'{"a":' + b"[" * 200_000, b'{"a":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused_with_a_sentence(raw):
    with pytest.raises(errors.GatewayError) as caught:
        bodies.parse(raw)
    assert caught.value.status == 400
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("text", ['{"model":"a","model":"b"}', '{"model":"a","mod\\u0065l":"b"}'])
def test_a_member_that_stands_twice_is_refused(text):
    with pytest.raises(errors.GatewayError, match="twice"):
        bodies.parse(text.encode())


SIZE = 8 * 1024 * 1024


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"x","a":[' + b"[]," * (SIZE // 3 - 20) + b"[]]}",
        b'{"model":"x"' + b"".join(b',"%d":1' % number for number in range(SIZE // 12)) + b"}",
    ],
    ids=["lists", "members"],
)
def test_a_body_made_to_hold_up_others_is_refused_at_once(raw):
    start = time.perf_counter()
    with pytest.raises(errors.GatewayError, match="more than"):
        bodies.parse(raw)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("piece", [b"1,", b'"",', b"1e9,"])
def test_the_largest_body_of_numbers_is_read(piece):
    raw = b'{"model":"x","a":[' + piece * ((SIZE - 40) // len(piece)) + b"1]}"
    assert bodies.parse(raw).get("model") == "x"
