"""A minute of twice what the engine can do, against the real server; `make soak` goes on for an hour."""

import random

import pytest
from benchmarks.soak import client
from benchmarks.soak.files import mutate_files
from benchmarks.soak.mix import Mix
from benchmarks.soak.run import soak
from benchmarks.soak.server import Plan, default_model


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_every_request_ends_and_memory_stays_within_the_plan(tmp_path):
    report = soak(default_model(), tmp_path / "server.log", seconds=60)
    assert not report.faults, "\n".join(report.lines())


@pytest.mark.slow
def test_mutated_model_files_are_read_or_refused_by_name():
    assert mutate_files(default_model(), 1000, seed=1) == []


def test_the_mix_repeats_itself_with_its_seed():
    def some(seed):
        stream = iter(Mix("m", 2048, seed))
        return [next(stream) for _ in range(300)]

    assert some(4) == some(4) != some(5)
    assert {"chat", "hung up", "deadline", "several choices"} <= {request.kind for request in some(4)}


def test_the_plan_is_read_from_the_log_and_its_absence_told():
    line = "memory: 900 MiB of 1000 MiB usable = 300 MiB process + 90 MiB weights + 5 MiB workspace + "
    plan = Plan.read(f"other\n{line}160 MiB KV cache (401 blocks); 2 threads\n")
    assert plan.parts == {"process": 300, "weights": 90, "workspace": 5, "KV cache": 160}
    assert plan.total == 555
    with pytest.raises(ValueError, match="no memory plan"):
        Plan.read("nothing")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"data: {}\n\n",
        b'data: {"choices": [{"index": 0, "finish_reason": null}]}\n\ndata: [DONE]\n\n',
        b'data: {"error": {"message": "m"}}\n\n',
        b'data: {"error": {"message": "m", "code": "internal_error"}}\n\n',
    ],
)
async def test_a_stream_that_breaks_off_is_a_fault(answer):
    """The judge itself: what is no end must not pass for one."""
    import aiohttp
    from aiohttp import web
    from aiohttp.test_utils import TestServer

    async def handler(request):
        return web.Response(body=answer, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/completions", handler)
    request = next(
        request
        for request in Mix("m", 2048, random.randrange(9))
        if request.stream and request.hang_up is None and request.path == "/v1/completions"
    )
    async with TestServer(app) as server, aiohttp.ClientSession(str(server.make_url("/"))) as session:
        with pytest.raises(client.Fault):
            await client.send(session, request)
