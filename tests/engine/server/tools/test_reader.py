"""Tool calls as models write them: whole, cut anywhere, broken, and mixed with text."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_engine.server.tools.dialects import DIALECTS
from slipway_engine.server.tools.events import Arguments, CallBegan, Content
from slipway_engine.server.tools.reader import ToolReader

KNOWN = ("get_weather", "add")
PARIS = {"city": "Paris", "note": 'a "}]" \\ in a string'}
NESTED = {"a": [1, {"b": "}"}], "c": {"d": {}}, "é": "日本🙂"}


def read(dialect, pieces, *, cut=False, most=None):
    """Return the text and the calls that the pieces of an answer hold."""
    reader = ToolReader(DIALECTS[dialect], KNOWN, most=most)
    events = [event for piece in pieces for event in reader.feed(piece)] + reader.finish(cut=cut)
    text, calls = "", []
    for event in events:
        match event:
            case Content(more):
                text += more
            case CallBegan(index, name):
                assert index == len(calls)
                calls.append([name, ""])
            case Arguments(index, more):
                assert index == len(calls) - 1
                calls[index][1] += more
    return text, calls


def parsed(calls):
    return [(name, json.loads(arguments)) for name, arguments in calls]


def one(name, arguments, key="arguments"):
    return json.dumps({"name": name, key: arguments})


def hermes(*calls):
    return "\n".join(f"<tool_call>\n{one(*call)}\n</tool_call>" for call in calls)


def llama(*calls):
    return "; ".join(one(*call, key="parameters") for call in calls)


def mistral(*calls):
    return f"[TOOL_CALLS] [{', '.join(one(*call) for call in calls)}]"


def mistral_named(*calls):
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls)


def granite(*calls):
    return f"<|tool_call|>[{', '.join(one(*call) for call in calls)}]"


WRITERS = [
    ("hermes", hermes),
    ("llama3_json", llama),
    ("llama3_json", lambda *calls: "<|python_tag|>" + llama(*calls)),
    ("mistral", mistral),
    ("mistral", mistral_named),
    ("granite", granite),
]


@pytest.mark.parametrize(("dialect", "write"), WRITERS)
@pytest.mark.parametrize(
    "calls", [[("get_weather", PARIS)], [("add", {})], [("get_weather", PARIS), ("add", NESTED), ("add", {})]]
)
def test_each_family_is_read_wherever_it_is_cut(dialect, write, calls):
    text = write(*calls)
    assert parsed(read(dialect, [text])[1]) == calls
    for at in range(len(text) + 1):
        content, found = read(dialect, [text[:at], text[at:]])
        assert (content, parsed(found)) == ("", calls)
    content, found = read(dialect, list(text))
    assert (content, parsed(found)) == ("", calls)


@pytest.mark.parametrize(("dialect", "write"), [each for each in WRITERS if each[1] is not llama])
def test_text_before_a_call_is_text_and_the_space_between_is_none(dialect, write):
    text = "Let me look.\n\n" + write(("add", {"a": 1}))
    for at in range(len(text)):
        content, calls = read(dialect, [text[:at], text[at:]])
        assert (content, parsed(calls)) == ("Let me look.", [("add", {"a": 1})])


@pytest.mark.parametrize(("dialect", "write"), WRITERS)
def test_arguments_come_before_the_call_is_complete(dialect, write):
    reader = ToolReader(DIALECTS[dialect], KNOWN)
    text = write(("add", {"text": "x" * 100}))
    events = reader.feed(text[:-60])
    assert isinstance(events[0], CallBegan)
    assert any(isinstance(event, Arguments) and "xxx" in event.text for event in events)


@pytest.mark.parametrize(("dialect", "write"), WRITERS)
def test_an_answer_that_is_cut_off_never_shows_json_as_text(dialect, write):
    text = write(("get_weather", PARIS), ("add", NESTED))
    for end in range(len(text)):
        content, _ = read(dialect, list(text[:end]), cut=True)
        assert '"' not in content
        assert "get_weather" not in content


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "text",
    [
        "Hello there.\n",
        "",
        "\n ",
        "a < b and <tool is no tag, nor is [TOOL",
        "<|",
        'Here is JSON: {"name": "add"}',
        "x {",
    ],
)
def test_what_calls_nothing_is_text_as_it_is(dialect, text):
    assert read(dialect, [text]) == (text, [])
    assert read(dialect, list(text)) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": 42, "name": "add"}',
        '{"name": "Bob", "parameters": {}}',
        '{"name": "add", "age": 3}',
        '{"name": "add"}',
        '{"name": 5, "parameters": {}}',
        "{",
        '  {"a": 1}\n',
        "[1, 2]",
        "{} ok",
    ],
)
def test_json_that_is_no_call_of_a_known_tool_stays_an_answer(text):
    assert read("llama3_json", [text]) == (text, [])
    assert read("llama3_json", list(text)) == (text, [])


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', [("add", {"a": 1})]),
        ('<tool_call>{"name": "add"}</tool_call>', [("add", {})]),
        ('<tool_call>{"name": "add", "arguments": null}</tool_call>', [("add", {})]),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', [("add", {"a": 1})]),
        ('<tool_call>{"id": "x", "type": "function", "name": "add", "arguments": {}}', [("add", {})]),
        ('<tool_call>{"name": "add", "arguments": {}}}</tool_call>', [("add", {})]),
        ('<tool_call>{"name": "add", "arguments": {}}\n<tool_call>{"name": "add"}', [("add", {})] * 2),
        ('<tool_call>[{"name": "add"}, {"name": "add"}]</tool_call>', [("add", {})] * 2),
        ('<tool_call>{"name": "invented", "arguments": {}}</tool_call>', [("invented", {})]),
    ],
)
def test_what_models_write_in_place_of_the_exact_form(text, calls):
    assert parsed(read("hermes", [text])[1]) == calls
    content, found = read("hermes", list(text))
    assert (content, parsed(found)) == ("", calls)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>never mind</tool_call>",
        '<tool_call>{"name": }</tool_call>',
        '<tool_call>{"name"]',
        "<tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
    ],
)
def test_an_announcement_of_no_call_is_shown_as_it_was_written(text):
    assert read("hermes", [text]) == (text, [])
    assert read("hermes", list(text)) == (text, [])


def test_a_call_that_breaks_off_keeps_what_was_sent_and_the_next_is_read():
    text = '<tool_call>{"name": "add", "arguments": {"a": ]}}</tool_call> Then <tool_call>{"name": "add"}'
    for pieces in ([text], list(text)):
        assert read("hermes", pieces) == (" Then", [["add", '{"a": '], ["add", "{}"]])


def test_text_after_the_calls_is_text():
    text = hermes(("add", {})) + "\nDone."
    assert read("hermes", [text])[0] == "\nDone."
    assert read("hermes", list(text))[0] == "\nDone."
    assert read("hermes", [hermes(("add", {})) + "\n"])[0] == ""


def test_later_calls_are_dropped_where_one_is_wanted():
    text = "So: " + hermes(("add", {"a": 1}), ("add", {"a": 2}))
    assert read("hermes", list(text), most=1) == ("So:", [["add", '{"a": 1}']])


def test_mistrals_calls_may_carry_an_id_of_their_own():
    text = '[TOOL_CALLS]add[CALL_ID]abc123XYZ[ARGS]{"a": 1}'
    assert read("mistral", list(text)) == ("", [["add", '{"a": 1}']])
    assert read("mistral", ["[TOOL_CALLS] and so on"]) == ("[TOOL_CALLS] and so on", [])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
calls = st.lists(
    st.tuples(st.sampled_from(KNOWN), st.dictionaries(st.text(max_size=6), values, max_size=3)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(writer=st.sampled_from(WRITERS), calls=calls, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_arguments_in_any_pieces(writer, calls, cuts):
    dialect, write = writer
    text = write(*calls)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in pairwise(ends)]
    content, found = read(dialect, pieces)
    assert (content, parsed(found)) == ("", calls)


SNIPPETS = [
    "<tool_call>", "</tool_call>", "<|tool_call|>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>",
    '{"name": "add"', ', "arguments": ', ', "parameters": ', "{", "}", "[", "]", ",", ";", '"', "\\", " ",
    "\n", "add", "<tool", ":", "x",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(
    dialect=st.sampled_from(sorted(DIALECTS)),
    parts=st.lists(st.sampled_from(SNIPPETS), max_size=20),
    cut=st.booleans(),
    data=st.data(),
)
def test_rubbish_reads_the_same_in_any_pieces(dialect, parts, cut, data):
    text = "".join(parts)
    at = data.draw(st.integers(0, len(text)))
    whole = read(dialect, [text], cut=cut)
    assert read(dialect, [text[:at], text[at:]], cut=cut) == whole
    assert read(dialect, list(text), cut=cut) == whole
