"""/v1/chat/completions: the model's own template, OpenAI's shapes, and the official client."""

import asyncio

import openai
import pytest

SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def prompt_of(server, messages):
    """Return the text that the template makes of the messages."""
    tokens = server.http.post("/tokenize", json={"messages": messages}).json()["tokens"]
    return server.http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]


def test_the_models_own_template_is_used_with_no_second_beginning(server):
    assert prompt_of(server, [{"role": "user", "content": "Hi"}]) == (
        f"{SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_parts_of_text_are_joined_and_developer_is_the_systems_newer_name(server):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": parts}]
    assert prompt_of(server, messages) == (
        "<|im_start|>system\nBe brief<|im_end|>\n"
        "<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_answer_has_openais_shape(client):
    answer = client.chat.completions.create(
        model="toy",
        messages=[{"role": "user", "content": "Hi"}],
        max_completion_tokens=6,
        extra_body={"ignore_eos": True},
    )
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "system\nYou are a"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == 31
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_a_stream_through_the_official_client(client):
    chunks = list(
        client.chat.completions.create(
            model="toy",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    *texts, last = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in texts)
    assert text == "system\nYou are a"
    assert texts[-1].choices[0].finish_reason == "length"
    assert last.usage.completion_tokens == 6


def test_logprobs_through_the_official_client(client):
    answer = client.chat.completions.create(
        model="toy",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=4,
        logprobs=True,
        top_logprobs=3,
    )
    content = answer.choices[0].logprobs.content
    assert bytes(byte for entry in content for byte in entry.bytes).decode() == "<|im_start|>system\nYou"
    assert all(len(entry.top_logprobs) == 3 for entry in content)


def test_n_answers_in_one_stream_keep_apart(client):
    texts = {0: "", 1: "", 2: ""}
    stream = client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": "Hi"}], n=3, max_tokens=4, stream=True, seed=7
    )
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "system\nYou", 1: "system\nYou are", 2: "\nYou are a"}


def test_completions_and_models_through_the_official_client(client):
    answer = client.completions.create(model="toy", prompt="one two three", max_tokens=2, logprobs=1)
    assert answer.choices[0].text == "one two"
    assert [model.id for model in client.models.list()] == ["toy", "toy-alias"]
    assert client.models.retrieve("toy").id == "toy"


def test_errors_become_the_clients_own(client):
    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-7", messages=messages)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="max_tokens is -3; it must be at least 0"):
        client.chat.completions.create(model="toy", messages=messages, max_tokens=-3)


async def test_many_chats_at_once(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def ask(number):
            stream = await client.chat.completions.create(
                model="toy",
                messages=[{"role": "user", "content": f"number {number}"}],
                max_tokens=60,
                stream=True,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*(ask(number) for number in range(40)))
    # The toy repeats the prompt, and stops at the first end of a turn.
    assert answers == ["system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"] * 40
