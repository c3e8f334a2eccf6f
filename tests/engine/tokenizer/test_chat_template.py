"""Chat templates: what transformers' templates count on works, and a hostile one harms nobody."""

import asyncio
import time

import pytest

from slipway_engine.errors import RequestError
from slipway_engine.tokenizer.chat import ChatTemplate

HI = [{"role": "user", "content": "Hi"}]


async def rendered(source, messages=HI, seconds=5.0, variables=None, **special):
    template = ChatTemplate(source, special, seconds=seconds)
    try:
        return await template.render(messages, variables)
    finally:
        await template.close()


async def test_the_models_own_template(smollm):
    text = await rendered(smollm.chat_template, **smollm.special.for_template())
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>Hi"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "Hi"}]'),
        ("{{ '<é>' | tojson }}", '"<é>"'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{% for m in messages %}\n  {{ m.role }}\n{% endfor %}", "  user\n"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}{{ 'kept' }}{% endgeneration %}", "kept"),
        ("{{ add_generation_prompt }}", "True"),
        ("{{ undefined_name }}", ""),
        ("<b>{{ '<i>' }}", "<b><i>"),
        (
            "{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = s.n + 1 %}{% endfor %}{{ s.n }}",
            "1",
        ),
    ],
)
async def test_what_templates_count_on(source, text):
    assert await rendered(source, bos_token="<s>") == text


async def test_the_date_of_today():
    assert await rendered("{{ strftime_now('%Y') }}") == time.strftime("%Y")


async def test_variables_of_the_request_reach_the_template():
    assert await rendered("{{ enable_thinking }}", variables={"enable_thinking": False}) == "False"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "refuses"),
        ("{{ messages[0].content + 5 }}", "refuses"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ messages.__init__.__globals__ }}", "refuses"),
        ("{{ strftime_now.__globals__['os'] }}", "refuses"),
        ("{% include '/etc/passwd' %}", "refuses"),
        ("{{ range(10 ** 9) | list }}", "refuses"),
        ("{{ 'x' * 10 ** 10 }}", "refuses"),
        ("{{ 'x' * 20000000 }}", "20000000 characters"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "refuses"),
    ],
)
async def test_what_a_template_may_not_do_or_refuses(source, says):
    with pytest.raises(RequestError, match=says) as refused:
        await rendered(source)
    assert (refused.value.status, refused.value.param) == (400, "messages")


async def test_a_loop_without_end_is_cut_off_and_the_next_render_works():
    loop = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    loop = f"{{% if messages | length > 1 %}}{loop}{{% endif %}}ok"
    template = ChatTemplate(loop, {}, seconds=0.5)
    try:
        assert await template.render(HI) == "ok"
        began = time.monotonic()
        with pytest.raises(RequestError, match=r"did not finish within 0\.5 s"):
            await template.render(HI * 2)
        assert time.monotonic() - began < 3
    finally:
        await template.close()


async def test_after_a_render_that_was_given_up_answers_are_not_mixed_up():
    template = ChatTemplate("{{ messages[0].content }}", {})
    try:
        assert await template.render(HI) == "Hi"
        given_up = asyncio.create_task(template.render([{"role": "user", "content": "x" * 3_000_000}]))
        await asyncio.sleep(0.003)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert await template.render([{"role": "user", "content": "second"}]) == "second"
    finally:
        await template.close()


async def test_renders_at_once_each_get_their_own_answer():
    template = ChatTemplate("{{ messages[0].content }}", {})
    try:
        renders = (template.render([{"role": "user", "content": str(n)}]) for n in range(50))
        assert await asyncio.gather(*renders) == [str(n) for n in range(50)]
    finally:
        await template.close()


async def test_a_busy_machine_is_not_the_templates_fault():
    loop = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    template = ChatTemplate(loop, {}, seconds=60, patience=0.5)
    with pytest.raises(RequestError, match="too busy") as caught:
        await template.render(HI)
    assert (caught.value.status, caught.value.code) == (503, "chat_template_busy")
    assert caught.value.retry_after
    await template.close()
