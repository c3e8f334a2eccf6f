"""Tools over HTTP: the toy repeats its prompt, so a message says what the model answers."""

import json

import openai
import pytest

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} something",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "add")
]
TEMPLATE = """\
{%- if tools and not quiet %}{#- within <tool_call></tool_call> #}{% endif %}
{%- if show %}{{ (tools or []) | tojson }}|{{ messages | tojson }}
{%- else %}{{ messages[-1].content }}{% endif %}
{{- '<|im_end|>' }}"""
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ADD = '<tool_call>{"name": "add", "arguments": {"a": [1, 2]}}</tool_call>'


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    template = tmp_path_factory.mktemp("template") / "tools.jinja"
    template.write_text(TEMPLATE)
    running = start_server(chat_template=template, max_model_len=2048)
    yield running
    running.close()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, answer, **fields):
    """Ask for an answer that is these words."""
    fields = {"tools": TOOLS} | fields
    return client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": answer}], **fields
    )


def refused(server, **fields):
    answer = server.chat("Hi", **({"tools": TOOLS} | fields))
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_a_call_in_a_whole_answer(client):
    (choice,) = ask(client, f"Let me see.\n{PARIS}").choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert call.id.startswith("call_")


def test_content_is_null_where_there_are_only_calls(client):
    (choice,) = ask(client, PARIS + "\n" + ADD).choices
    assert choice.message.content is None
    assert [call.function.name for call in choice.message.tool_calls] == ["weather", "add"]
    assert len({call.id for call in choice.message.tool_calls}) == 2


def gathered(stream):
    """Put a stream's deltas together as clients do; return text, calls and reasons by choice."""
    choices = {}
    for chunk in stream:
        for choice in chunk.choices:
            text, calls, reasons = choices.setdefault(choice.index, ([], {}, []))
            text.append(choice.delta.content or "")
            for piece in choice.delta.tool_calls or []:
                if piece.id is not None:
                    assert piece.index == len(calls)
                    calls[piece.index] = {"id": piece.id, "name": piece.function.name, "arguments": ""}
                else:
                    assert piece.function.name is None
                calls[piece.index]["arguments"] += piece.function.arguments
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    return {
        index: ("".join(text), list(calls.values()), reasons)
        for index, (text, calls, reasons) in choices.items()
    }


def test_calls_are_streamed_as_openai_streams_them(client):
    stream = ask(client, f"Well, {PARIS}\n{ADD}", stream=True)
    chunks = list(stream)
    text, calls, reasons = gathered(chunks)[0]
    assert (text, reasons) == ("Well,", ["tool_calls"])
    assert [call["name"] for call in calls] == ["weather", "add"]
    assert [json.loads(call["arguments"]) for call in calls] == [{"city": "Paris"}, {"a": [1, 2]}]
    pieces = [chunk for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert len(pieces) > 4, "the arguments came in one piece"


def test_n_answers_are_read_apart(client):
    # Choice i of the toy begins at the prompt's token i.
    stream = ask(client, ": " + PARIS, n=2, stream=True)
    for text, calls, reasons in gathered(stream).values():
        assert "{" not in text
        assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
            ("weather", {"city": "Paris"})
        ]
        assert reasons == ["tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("length", range(2, 24, 3))
def test_an_answer_that_ends_at_its_limit_shows_no_broken_json(client, length, stream):
    answer = ask(client, PARIS, max_tokens=length, stream=stream)
    if stream:
        text, _, reasons = gathered(answer)[0]
    else:
        text, reasons = answer.choices[0].message.content or "", [answer.choices[0].finish_reason]
    assert text == ""
    assert reasons == ["length"]


def test_text_without_calls_is_as_ever(client):
    assert ask(client, "Just words.").choices[0].message.content == "Just words."
    text, calls, reasons = gathered(ask(client, "Just <b>words</b>.", stream=True))[0]
    assert (text, calls, reasons) == ("Just <b>words</b>.", [], ["stop"])


def test_logprobs_cover_every_token_of_a_call(client):
    whole = ask(client, PARIS, logprobs=True).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in ask(client, PARIS, logprobs=True, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole]
    assert "".join(entry.token for entry in whole).startswith("<tool_call>")


def test_one_call_where_parallel_ones_are_not_wanted(client):
    (choice,) = ask(client, PARIS + ADD, parallel_tool_calls=False).choices
    assert [call.function.name for call in choice.message.tool_calls] == ["weather"]


def test_no_tools_are_offered_where_none_may_be_chosen(client):
    (choice,) = ask(client, PARIS, tool_choice="none").choices
    assert (choice.message.content, choice.message.tool_calls) == (PARIS, None)


def prompt_of(server, **fields):
    body = {"chat_template_kwargs": {"show": True}, "tools": TOOLS} | fields
    tokens = server.http.post("/tokenize", json=body).json()["tokens"]
    text = server.http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    tools, _, messages = text.removesuffix("<|im_end|>").partition("|")
    return json.loads(tools), json.loads(messages)


def test_the_template_is_told_of_tools_and_of_what_was_called(server):
    history = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Sunny"}]},
    ]
    tools, messages = prompt_of(server, messages=history)
    assert tools == TOOLS
    assert messages[1]["content"] == ""
    assert messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert messages[2] == {"role": "tool", "content": "Sunny", "tool_call_id": "call_1"}


def test_an_answer_can_be_sent_back_as_history(client):
    message = ask(client, PARIS).choices[0].message
    again = client.chat.completions.create(
        model="toy",
        messages=[
            {"role": "user", "content": "Weather?"},
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Sunny"},
        ],
        tools=TOOLS,
    )
    assert again.choices[0].message.content == "Sunny"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}, "maybe"])
def test_a_call_cannot_be_forced(server, choice):
    error = refused(server, tool_choice=choice)
    assert error["param"] == "tool_choice"
    assert "Send 'auto'" in error["message"]


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([{}], "tools.0.type"),
        ([{"type": "code_interpreter"}], "tools.0.type"),
        ([{"type": "function", "function": {"name": "a b"}}], "tools.0.function.name"),
        ([{"type": "function", "function": {"name": "f", "parameters": []}}], "tools.0.function.parameters"),
        ([{"type": "function", "function": {"name": "f", "strict": True}}], "tools.0.function.strict"),
        ([TOOLS[0]] * 129, "tools"),
        ("weather", "tools"),
    ],
)
def test_tools_that_cannot_be_read_are_named(server, tools, says):
    assert says in refused(server, tools=tools)["message"]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "tool", "content": "x"}, "tool_call_id is missing"),
        (
            {"role": "user", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
            "assistant",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
            "messages.0.tool_calls.0.function.arguments is not valid JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[]"}}]},
            "JSON object",
        ),
    ],
)
def test_history_that_cannot_be_read_is_named(server, message, says):
    answer = server.http.post("/v1/chat/completions", json={"model": "toy", "messages": [message]})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_an_unknown_way_to_call_is_refused_and_the_flag_is_named(start_server, tmp_path):
    template = tmp_path / "odd.jinja"
    template.write_text("{% if tools %}{{ tools }}{% endif %}{{ messages[-1].content }}<|im_end|>")
    server = start_server(chat_template=template, max_model_len=2048)
    error = refused(server)
    assert error["code"] == "no_tool_call_parser"
    assert "--tool-call-parser" in error["message"]
    told = start_server(chat_template=template, tool_call_parser="mistral", max_model_len=2048)
    content = '[TOOL_CALLS] [{"name": "add", "arguments": {}}]'
    call = {"type": "function", "function": {"name": "add"}}
    # The toy says all of the prompt, in which the tools stand too.
    answer = told.chat(content, tools=[call]).json()["choices"][0]
    assert [each["function"]["name"] for each in answer["message"]["tool_calls"]] == ["add"]
    assert len(answer["message"]["tool_calls"][0]["id"]) == 9
