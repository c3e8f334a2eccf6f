"""Text comes out once, whole, and never a piece of a stop string; each token costs the same."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_engine.tokenizer.detokenize import ByteDetokenizer, StopAutomaton, TextStream


def stream_of(pieces, stops=(), **options):
    """Return a stream whose tokens are these byte strings."""
    return TextStream(
        ByteDetokenizer(lambda at: pieces[at]), StopAutomaton(stops) if stops else None, **options
    )


def read(pieces, stops=(), **options):
    """Return all text of a stream and the stop string that ended it."""
    stream, text = stream_of(pieces, stops, **options), ""
    for at in range(len(pieces)):
        piece = stream.add(at)
        text += piece.text
        if piece.stop is not None:
            return text, piece.stop
    piece = stream.flush()
    return text + piece.text, piece.stop


def naively(text, stops):
    """Return the text before the stop string that ends first (of those the longest), and that string."""
    ends = [(text.index(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.text(alphabet="ab日", max_size=4).map(str.encode), max_size=12),
    st.lists(st.text(alphabet="ab日", min_size=1, max_size=4), max_size=3),
)
def test_any_cut_gives_the_same_text_and_stop(pieces, stops):
    text = b"".join(pieces).decode()
    assert read(pieces, stops) == naively(text, stops)
    each_byte = [bytes([byte]) for byte in b"".join(pieces)]
    assert read(each_byte, stops) == naively(text, stops)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=4), max_size=12))
def test_any_bytes_become_what_decoding_all_at_once_gives(pieces):
    assert read(pieces)[0] == b"".join(pieces).decode(errors="replace")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"c"]), max_size=15), st.sampled_from(["abc", "aab", "bb"])
)
def test_what_was_shown_never_has_to_be_taken_back(pieces, stop):
    stream, shown = stream_of(pieces, [stop]), ""
    for at in range(len(pieces)):
        piece = stream.add(at)
        shown += piece.text
        assert stop not in shown
        if piece.stop:
            return
        # Only what may still become the stop string is held back.
        held = b"".join(pieces[: at + 1]).decode()[len(shown) :]
        assert stop.startswith(held)


def test_only_the_incomplete_character_is_held_back():
    stream = stream_of([b"a\xf0\x9f", b"\x99", b"\x82b"])
    assert [stream.add(at).text for at in range(3)] == ["a", "", "🙂b"]


def test_an_incomplete_character_at_the_end_shows_as_one_replacement():
    assert read([b"a\xf0\x9f"]) == ("a\ufffd", None)


def test_the_stop_string_can_be_kept():
    assert read([b"abcd"], ["bc"], keep_stop=True) == ("abc", "bc")


def test_stops_are_not_looked_for_at_first():
    assert read([b"x", b"x", b"x", b"x"], ["x"], ignore_stops_for=2) == ("xx", "x")


def test_a_stop_string_does_not_begin_where_it_was_not_looked_for():
    assert read([b"a", b"b", b"a", b"b"], ["ab"], ignore_stops_for=1) == ("ab", "ab")


def test_overlapping_beginnings_are_found():
    assert read([b"aaab"], ["aab"]) == ("a", "aab")
    assert read([b"abab", b"c"], ["ababc", "bad"]) == ("", "ababc")


@pytest.mark.parametrize("stops", [[], ["a" * 500 + "b"]])
def test_each_token_costs_the_same(stops):
    """A hundred thousand tokens, the worst for a long stop string; a quadratic reader needs minutes."""
    stream = TextStream(ByteDetokenizer(lambda at: b"aaaa"), StopAutomaton(stops) if stops else None)
    began = time.process_time()
    for at in range(100_000):
        stream.add(at)
    assert time.process_time() - began < 5
