"""Which dialect a chat template teaches: by the sentences in which published templates ask for calls."""

import pytest

from slipway_engine.server.tools.dialects import DIALECTS, detect, takes_tools

ASKS = {
    "hermes": (
        "{%- if tools %}{{- 'For each function call, return a json object with function name and arguments "
        'within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": <function-name>, '
        '\\"arguments\\": '
        "<args-json-object>}\\n</tool_call>' }}{%- endif %}"
    ),
    "llama3_json": (
        '{%- if tools is not none %}{{- \'Respond in the format {"name": function name, "parameters": '
        "dictionary of argument name and its value}. Do not use variables.' }}{%- endif %}"
    ),
    "mistral": "{%- if tools is not none %}{{- '[AVAILABLE_TOOLS] [' }}{%- endif %}{{- '[TOOL_CALLS] [' }}",
    "granite": (
        "{%- if tools %}{{- 'When a tool is required to answer the query, respond with <|tool_call|> "
        "followed by a JSON list of tools used.' }}{%- endif %}"
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_template_says_which_dialect_its_model_speaks(name):
    assert detect(ASKS[name]) is DIALECTS[name]


def test_llama_3_1_is_known_by_its_tag():
    assert detect("{% if tools %}{{ '<|python_tag|>' }}{% endif %}") is DIALECTS["llama3_json"]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ '<tool_call>' }}",
        "{% if tools %}{{ tools | tojson }}{% endif %}",
        "{% if tools %}{{ '<tool_call><function=name>' }}{% endif %}",
        "{% if tools %}{{ '<tool_call>name<arg_key>' }}{% endif %}",
    ],
)
def test_others_are_not_guessed(template):
    assert detect(template) is None


def test_a_template_that_takes_no_tools_is_told_by_the_variable():
    assert not takes_tools("{{ messages[0].content }} {{ toolset }}")
    assert takes_tools("{%- if tools %}x{%- endif %}")
