"""Frames come out whole however the stream is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_engine.process.framing import MAX_FRAME_BYTES, FrameBuffer, frame


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 17), min_size=1))
def test_any_cut_gives_the_same_frames(payloads, sizes):
    stream = b"".join(map(frame, payloads))
    buffer, out, at, turn = FrameBuffer(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        out += buffer.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert out == payloads


def test_a_length_over_the_limit_is_refused_before_it_is_awaited():
    with pytest.raises(ValueError, match="over the limit"):
        FrameBuffer().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
