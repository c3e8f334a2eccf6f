"""Thinking is parted from the answer, wherever it is cut, with tools and without."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_engine.server.reader import AnswerReader
from slipway_engine.server.reasoning import Reasoning, ThinkReader, begins_inside
from slipway_engine.server.tools.dialects import HERMES
from slipway_engine.server.tools.events import Arguments, CallBegan, Content
from slipway_engine.server.tools.reader import ToolReader


def read(pieces, *, inside=False):
    reader = ThinkReader(inside=inside)
    parts = [reader.feed(piece) for piece in pieces] + [reader.finish()]
    return "".join(thought for thought, _ in parts), "".join(text for _, text in parts)


@pytest.mark.parametrize(
    ("text", "inside", "expected"),
    [
        ("<think>\nHm. <b> </thi\n</think>\n\nYes.\n", False, ("Hm. <b> </thi", "Yes.\n")),
        ("Hm.</think>Yes.", True, ("Hm.", "Yes.")),
        ("Hm, still", True, ("Hm, still", "")),
        ("<think>Hm, still \n", False, ("Hm, still", "")),
        ("<think>\n\n</think>\n\nYes.", False, ("", "Yes.")),
        ("Yes. <think>no</think>", False, ("", "Yes. <think>no</think>")),
        ("  Yes.", False, ("", "  Yes.")),
        ("<thin", False, ("", "<thin")),
        ("", False, ("", "")),
        ("<think>a</think>b</think>c", False, ("a", "b</think>c")),
    ],
)
def test_thinking_comes_first_and_by_itself(text, inside, expected):
    assert read([text], inside=inside) == expected
    assert read(list(text), inside=inside) == expected


@given(
    parts=st.lists(
        st.sampled_from(["<think>", "</think>", "<", "/", "think>", " ", "\n", "a", "</"]), max_size=12
    ),
    inside=st.booleans(),
    at=st.integers(0, 60),
)
def test_the_same_in_any_pieces(parts, inside, at):
    text = "".join(parts)
    whole = read([text], inside=inside)
    assert read([text[:at], text[at:]], inside=inside) == whole
    assert read(list(text), inside=inside) == whole


def test_where_an_answer_begins():
    assert begins_inside("deepseek_r1", "x")
    assert begins_inside("qwen3", "<|im_start|>assistant\n<think>\n")
    assert not begins_inside("qwen3", "<|im_start|>assistant\n")


def test_calls_come_after_thinking():
    answer = '<think>Need <tool_call>?</think>\n<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    for pieces in ([answer], list(answer)):
        reader = AnswerReader(ThinkReader(inside=False), ToolReader(HERMES, ["add"]))
        events = [event for piece in pieces for event in reader.feed(piece)] + reader.finish(cut=False)
        assert "".join(e.text for e in events if isinstance(e, Reasoning)) == "Need <tool_call>?"
        assert [e.name for e in events if isinstance(e, CallBegan)] == ["add"]
        assert "".join(e.text for e in events if isinstance(e, Arguments)) == "{}"
        assert not [e for e in events if isinstance(e, Content)]
        assert reader.called


def test_over_http(start_server, tmp_path):
    template = tmp_path / "echo.jinja"
    template.write_text("{{ messages[-1].content }}<|im_end|>")
    server = start_server(chat_template=template, reasoning_parser="qwen3")
    content = "<think>\nLet me think.\n</think>\n\nFine."
    message = server.chat(content).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Let me think.", "Fine.")
    streamed = server.chat(content, stream=True).text
    assert '"reasoning_content": "Let' in streamed
    assert "<think>" not in streamed
    assert "reasoning_content" not in server.chat("Fine.").json()["choices"][0]["message"]
