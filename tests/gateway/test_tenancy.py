"""What tenants may ask for, what they asked for, and that the one is counted by the other."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_gateway import estimate, usage
from slipway_gateway.errors import GatewayError
from slipway_gateway.ledger import Ledger
from slipway_gateway.meter import Meter
from slipway_gateway.meters import Allowance, Bucket, Budget, Period, Rate, read_allowance
from slipway_gateway.objects import Key
from slipway_gateway.record import AccessLog, NoLog, Record
from slipway_gateway.settings import AuthMode
from slipway_gateway.sse import Events

from .conftest import (
    SECRETS,
    SSE_HEAD,
    Cluster,
    Start,
    answers,
    chunk,
    deployment,
    event,
    plain,
    streams,
    tenant_secret,
    until,
)

COUNT = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
COUNTED = plain(200, json.dumps({"choices": [{"text": 'a "usage": {} b'}], "usage": COUNT}).encode())
LAST = b"data: " + json.dumps({"choices": [], "usage": COUNT}).encode() + b"\n\n"
STREAM = SSE_HEAD + chunk(event("one")) + chunk(event("two")) + chunk(LAST)
STREAM += chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
CHAT = Key("team-a", "chat")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def limited(secret: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """Add `limits` or `budget` to a tenant's Secret."""
    for name, value in keys.items():
        secret["data"][name] = base64.b64encode(json.dumps(value).encode()).decode()
    return secret


@pytest.fixture
async def guarded(start: Start) -> Cluster:
    cluster = await start(auth=AuthMode.TENANTS)
    await cluster.deploy(deployment("team-a", "chat"))
    return cluster


async def test_requests_a_minute_are_limited_by_tenant(guarded: Cluster):
    rates = {"*": {"requestsPerMinute": 2}}
    await guarded.tenant(limited(tenant_secret("slow", "team-a", "k-slow"), limits=rates))
    await guarded.tenant(tenant_secret("free", "team-a", "k-free"))
    pod = await guarded.pod(answers(COUNTED))
    status, _, headers = await guarded.chat(key="k-slow")
    assert (status, headers["x-ratelimit-limit-requests"]) == (200, "2")
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert (await guarded.chat(key="k-slow"))[0] == 200
    status, body, headers = await guarded.chat(key="k-slow")
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["Retry-After"]) <= 30
    assert [(await guarded.chat(key="k-free"))[0] for _ in range(4)] == [200] * 4
    assert pod.requests == 6


async def test_tokens_are_reserved_and_given_back(guarded: Cluster):
    rates = {"team-a/chat": {"tokensPerMinute": 1000}}
    await guarded.tenant(limited(tenant_secret("slow", "team-a", "k"), limits=rates))
    await guarded.pod(answers(COUNTED))
    # Each may take 900 and takes 18: without giving back, the second would be refused.
    for _ in range(5):
        assert (await guarded.chat(key="k", max_tokens=900))[0] == 200
    status, body, _ = await guarded.chat(key="k", max_tokens=1001)
    assert (status, body["error"]["code"]) == (400, "request_exceeds_limit")
    assert "max_tokens" in body["error"]["message"]
    assert (await guarded.chat(key="k", max_tokens=300, n=4))[0] == 400


async def test_a_request_that_runs_keeps_its_reservation(guarded: Cluster):
    rates = {"*": {"tokensPerMinute": 1000}}
    await guarded.tenant(limited(tenant_secret("slow", "team-a", "k"), limits=rates))
    hold = asyncio.Event()
    pod = await guarded.pod(streams(["x"], hold=hold))
    running = asyncio.create_task(guarded.chat(key="k", max_tokens=900, stream=True))
    await until(lambda: pod.requests == 1)
    assert (await guarded.chat(key="k", max_tokens=900))[0] == 429
    hold.set()
    assert (await running)[0] == 200
    assert (await guarded.chat(key="k", max_tokens=900, stream=True))[0] == 200


async def test_a_changed_limit_counts_at_once(guarded: Cluster):
    secret = limited(tenant_secret("t", "team-a", "k"), limits={"*": {"requestsPerMinute": 1}})
    await guarded.tenant(secret)
    await guarded.pod(answers(COUNTED))
    assert (await guarded.chat(key="k"))[0] == 200
    assert (await guarded.chat(key="k"))[0] == 429
    await guarded.kube.put(SECRETS, tenant_secret("t", "team-a", "k"))
    async with asyncio.timeout(5):
        while (await guarded.chat(key="k"))[0] != 200:
            pass


async def test_a_budget_holds_over_a_restart(start: Start, tmp_path: Path):
    async def gateway() -> Cluster:
        return await start(auth=AuthMode.TENANTS, state_dir=tmp_path)

    first = await gateway()
    await first.deploy(deployment("team-a", "chat"))
    budget = {"tokens": 100, "period": "month"}
    await first.tenant(limited(tenant_secret("t", "team-a", "k"), budget=budget))
    pod = await first.pod(answers(COUNTED))
    for _ in range(4):
        assert (await first.chat(key="k", max_tokens=20))[0] == 200
    assert (await first.chat(key="k", max_tokens=30))[0] == 429
    await first.gateway.stop()
    second = await gateway()
    await until(lambda: second.endpoints("team-a/chat"))
    status, body, headers = await second.chat(key="k", max_tokens=30)
    assert (status, body["error"]["code"]) == (429, "budget_exhausted")
    assert "72 of its 100 tokens" in body["error"]["message"]
    assert 0 < int(headers["Retry-After"]) <= 31 * 86_400
    assert (await second.chat(key="k", max_tokens=5))[0] == 200
    assert pod.requests == 5


async def test_a_line_says_who_asked_of_what_and_what_it_cost(guarded: Cluster):
    obj = deployment("team-a", "chat")
    obj["status"] = {"model": {"digest": "sha256:abc"}}
    await guarded.deploy(obj)
    await guarded.tenant(tenant_secret("team-a", "team-a", "k"))
    await guarded.pod(answers(COUNTED))
    await guarded.chat(key="k")
    line = guarded.records()[-1]
    assert line["kind"] == "request"
    assert (line["tenant"], line["model_digest"], line["status"]) == ("team-a", "sha256:abc", 200)
    assert (line["prompt_tokens"], line["completion_tokens"], line["tokens_estimated"]) == (11, 7, False)
    assert len(line["key_id"]) == 8
    assert "hi" not in json.dumps(line).split('"')


async def test_keys_stand_in_no_log(guarded: Cluster, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    key = "sk-slipway-never-to-be-seen"
    await guarded.tenant(tenant_secret("t", "team-a", key))
    pasted = tenant_secret("u", "team-a", "other")
    pasted["data"]["keys"] = base64.b64encode(key.encode()).decode()
    await guarded.tenant(pasted)
    await guarded.pod(answers(COUNTED))
    assert (await guarded.chat(key=key))[0] == 200
    assert (await guarded.chat(key=key + "x"))[0] == 401
    assert key not in guarded.log.getvalue() + caplog.text
    assert all(key.encode() not in head for head in guarded.pods[0].heads)


async def test_a_stream_is_counted_though_its_client_did_not_ask(guarded: Cluster):
    await guarded.tenant(tenant_secret("t", "team-a", "k"))
    pod = await guarded.pod(answers(STREAM))
    status, text, _ = await guarded.chat(key="k", stream=True)
    assert pod.json()["stream_options"] == {"include_usage": True}
    assert (status, "usage" in text) == (200, False)
    assert text == (event("one") + event("two") + b"data: [DONE]\n\n").decode()
    line = guarded.records()[-1]
    assert (line["prompt_tokens"], line["completion_tokens"], line["tokens_estimated"]) == (11, 7, False)


async def test_a_client_that_asked_gets_the_count(guarded: Cluster):
    await guarded.tenant(tenant_secret("t", "team-a", "k"))
    pod = await guarded.pod(answers(STREAM))
    options = {"include_usage": True, "other": 1}
    _, text, _ = await guarded.chat(key="k", stream=True, stream_options=options)
    assert pod.json()["stream_options"] == options
    assert LAST.decode() in text


async def test_without_asking_what_passes_is_counted(start: Start):
    cluster = await start(stream_usage=False)
    await cluster.deploy(deployment("team-a", "chat"))
    pod = await cluster.pod(streams(["a", "b", "c"]))
    await cluster.chat(stream=True)
    assert "stream_options" not in pod.json()
    line = cluster.records()[-1]
    assert (line["completion_tokens"], line["tokens_estimated"]) == (3, True)


async def test_a_refusal_costs_nothing(guarded: Cluster):
    await guarded.tenant(limited(tenant_secret("t", "team-a", "k"), budget={"tokens": 600, "period": "day"}))
    await guarded.pod(answers(plain(400, b'{"error": {"message": "no"}}')))
    for _ in range(3):
        assert (await guarded.chat(key="k"))[0] == 400
    assert guarded.records()[-1]["prompt_tokens"] == 0
    assert guarded.gateway.ledger._own == {}


# The parts.


@pytest.mark.parametrize(
    ("limits", "budget"),
    [
        ("x", None),
        ("[]", None),
        ('{"*": 5}', None),
        ('{"*": {}}', None),
        ('{"*": {"perHour": 5}}', None),
        ('{"*": {"tokensPerMinute": "5"}}', None),
        ('{"*": {"tokensPerMinute": -5}}', None),
        (None, '{"tokens": 5}'),
        (None, '{"tokens": 5, "period": "year"}'),
        (None, '{"tokens": true, "period": "day"}'),
    ],
)
def test_limits_that_cannot_be_read_are_a_sentence(limits: str | None, budget: str | None):
    with pytest.raises(ValueError, match=r"limit|budget"):
        read_allowance(limits, budget)


def test_a_named_model_has_limits_of_its_own():
    given = read_allowance(
        '{"*": {"requestsPerMinute": 1}, "team-a/chat": {"tokensPerMinute": 5}}',
        '{"tokens": 9, "period": "day"}',
    )
    assert given.rate("team-a/chat") == Rate(tokens=5)
    assert given.rate("team-a/other") == Rate(requests=1)
    assert given.budget == Budget(9, Period.DAY)


@given(
    st.lists(st.tuples(st.floats(0, 90), st.integers(1, 40)), max_size=60),
    st.integers(1, 60),
)
def test_in_no_minute_is_more_taken_than_twice_the_limit(steps: list[tuple[float, int]], rate: int):
    bucket, now, taken = Bucket(0.0), 0.0, []
    for pause, amount in steps:
        now += pause
        if bucket.wait(amount, rate, now) == 0:
            bucket.take(amount)
            taken.append((now, amount))
    for start, _ in taken:
        # A minute's worth at once and what fills in the minute: the bound of every token bucket.
        assert sum(n for at, n in taken if start <= at < start + 60) <= 2 * rate + 1e-6
    if taken:
        assert sum(n for _, n in taken) <= rate * (1 + now / 60) + 1e-6


def test_several_gateways_together_stay_within_the_limit():
    clock = [0.0]
    gateways = [Meter(Ledger(), lambda: 3, clock=lambda: clock[0]) for _ in range(3)]
    allowance = Allowance({"*": Rate(requests=30)})
    taken = []
    for second in range(120):
        clock[0] = float(second)
        for meter in gateways:
            for _ in range(3):
                try:
                    meter.settle(meter.reserve("t", allowance, CHAT, 1), 1)
                    taken.append(second)
                except GatewayError:
                    break
    # 30 at once, and 30 for each of the two minutes.
    assert 85 <= len(taken) <= 90
    # Where all of a tenant's requests meet one gateway, it gets that one's share.
    clock[0], alone = 1000.0, 0
    for _ in range(30):
        try:
            gateways[0].reserve("t", allowance, CHAT, 1)
            alone += 1
        except GatewayError:
            break
    assert alone == 10


def test_a_request_larger_than_a_gateways_share_is_let_in_and_paid_off():
    clock = [0.0]
    meter = Meter(Ledger(), lambda: 4, clock=lambda: clock[0])
    allowance = Allowance({"*": Rate(tokens=1000)})
    meter.settle(meter.reserve("t", allowance, CHAT, 900), 900)
    with pytest.raises(GatewayError) as refusal:
        meter.reserve("t", allowance, CHAT, 10)
    # 900 at the share of 250 a minute, down to the 240 that leave room for 10.
    assert int(refusal.value.headers["Retry-After"]) == pytest.approx((900 - 240) / 250 * 60, abs=1)
    clock[0] = 170.0
    meter.reserve("t", allowance, CHAT, 10)
    with pytest.raises(GatewayError, match="never be let in"):
        meter.reserve("t", allowance, CHAT, 1001)


def test_periods_end_where_the_calendar_says():
    assert Period.MONTH.name_at(NOON) == "month:2026-01"
    assert Period.DAY.name_at(NOON) == "day:2026-01-31"
    assert Period.DAY.left(NOON) == Period.MONTH.left(NOON) == 12 * 3600


def test_a_ledger_adds_up_over_processes_and_survives_nonsense(tmp_path: Path):
    (tmp_path / "ledger-x-1.json").write_text("{nonsense")
    (tmp_path / "ledger-x-2.json").write_text('{"spent": {"t": {"month:2026-01": "5", "month:x": 4}}}')
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.spend("t", 5, NOON)
    second.spend("t", 6, NOON)
    for ledger in (first, second):
        content = ledger.news()
        assert content is not None
        ledger.write(content)
        assert ledger.news() is None
    for ledger in (first, second):
        ledger.read_others()
        assert ledger.spent("t", "month:2026-01") == 11
    assert Ledger(tmp_path).spent("t", "day:2026-01-31") == 11
    first.spend("t", 1, datetime(2026, 2, 1, tzinfo=UTC))
    assert first._own["t"] == {"day:2026-02-01": 1, "month:2026-02": 1}


def test_a_volume_that_is_full_or_gone_keeps_the_sums(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ledger = Ledger(tmp_path / "nowhere")
    ledger.spend("t", 5, NOON)
    ledger.write(ledger.news() or "")
    assert "kept in memory" in caplog.text
    assert ledger.news() is not None
    assert ledger.spent("t", "day:2026-01-31") == 5


def test_files_of_long_ago_are_deleted(tmp_path: Path):
    import os

    old = tmp_path / "ledger-x-1.json"
    old.write_text("{}")
    os.utime(old, (NOON.timestamp(), NOON.timestamp()))
    Ledger(tmp_path).tidy(datetime(2026, 6, 1, tzinfo=UTC))
    assert not old.exists()


@pytest.mark.parametrize(
    ("body", "prompt", "answer"),
    [
        ({"messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 9}, 14, 9),
        ({"messages": [{"content": [{"type": "text", "text": "x" * 8}, {"type": "image_url"}]}]}, 6, 512),
        ({"prompt": "x" * 40, "max_tokens": 2, "n": 3}, 10, 6),
        ({"prompt": [1, 2, 3], "best_of": 2, "max_tokens": 5}, 3, 10),
        ({"prompt": [[1, 2], [3]], "max_tokens": 1}, 3, 1),
        ({"input": ["abcd", "é" * 2]}, 2, 0),
        ({"messages": "x", "prompt": None}, 0, 512),
        ({"messages": [None, 5, {"content": 7}], "max_tokens": True}, 12, 512),
    ],
)
def test_a_request_is_estimated_without_a_tokenizer(body: dict[str, Any], prompt: int, answer: int):
    assert estimate.prompt_tokens(body) == prompt
    assert estimate.answer_tokens(body) == answer


@given(st.lists(st.integers(1, 200), max_size=8), st.booleans())
def test_a_count_is_found_wherever_the_stream_is_cut(cuts: list[int], hide: bool):
    raw = event('says "usage": {"prompt_tokens": 9}') + event("two") + LAST + b"data: [DONE]\n\n"
    tally, events, out, at = usage.Tally(hide=hide), Events(), b"", 0
    for size in [*cuts, len(raw)]:
        out += tally.pass_events(events.feed(raw[at : at + size]))
        at += size
    out += tally.pass_events(events.rest())
    assert (tally.prompt, tally.answer, tally.exact) == (11, 7, True)
    assert out == (raw.replace(LAST, b"") if hide else raw)


@given(st.binary(max_size=200))
def test_nonsense_is_passed_on_and_counts_nothing(piece: bytes):
    tally = usage.Tally(hide=True)
    assert tally.pass_events(piece) == piece or b'"usage"' in piece
    tally.take(piece)


def test_lines_go_to_a_file_where_one_is_named(tmp_path: Path):
    path = tmp_path / "requests"
    for number in range(2):
        log = AccessLog.at(path)
        log.write(Record(f"r{number}", "GET", "other"))
        log.close()
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["r0", "r1"]
    with pytest.raises(NoLog, match="--request-log"):
        AccessLog.at(tmp_path / "no" / "file")
