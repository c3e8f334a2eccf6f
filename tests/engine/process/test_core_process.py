"""The line between the two processes, with a real core process at the other end of a real socket."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from slipway_engine.config import EngineConfig
from slipway_engine.core.messages import NewRequest
from slipway_engine.process.client import CoreClient, CoreCommand, CoreFailed, CoreState
from slipway_engine.sampling import SamplingParams

DOUBLES = Path(__file__).parent / "doubles"
HANG, CRASH, DIE = 49140, 49141, 49142


@asynccontextmanager
async def core(name="EchoCore", *, least_step_seconds=10.0, config=None, **environment):
    client = CoreClient(least_step_seconds=least_step_seconds)
    variables = {"PYTHONPATH": str(DOUBLES)} | {
        f"SLIPWAY_TEST_{k.upper()}": v for k, v in environment.items()
    }
    await client.start(
        config or EngineConfig(Path("toy")), CoreCommand(core=f"echo_core:{name}", environment=variables)
    )
    try:
        yield client
    finally:
        await client.close()


def submit(client, name, prompt, **sampling):
    """Send a request; return the queue of its outputs."""
    outputs = asyncio.Queue()
    request = NewRequest(name, tuple(prompt), SamplingParams(**sampling), time.monotonic())
    client.submit(request, outputs.put_nowait)
    return outputs


async def finish(outputs):
    """Return all tokens of a request, and its last output."""
    tokens = []
    while True:
        output = await asyncio.wait_for(outputs.get(), 10)
        tokens += output.new_token_ids
        if output.finish_reason:
            return tokens, output


async def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


async def test_requests_run_side_by_side_and_end_apart():
    async with core() as client:
        ready = await client.wait_ready()
        assert (ready.vocab_size, client.state) == (49152, CoreState.READY)
        short = submit(client, "short", [5, 6], max_tokens=3)
        long = submit(client, "long", [7], max_tokens=9)
        assert (await finish(short))[0] == [5, 6, 5]
        tokens, last = await finish(long)
        assert (tokens, last.finish_reason, client.outstanding) == ([7] * 9, "length", 0)


async def test_an_abort_frees_what_the_request_held():
    async with core() as client:
        await client.wait_ready()
        outputs = submit(client, "a", [5] * 40, max_tokens=100_000)
        await outputs.get()
        assert client.stats.kv_blocks_used > 0
        client.abort(["a", "unknown"])
        await until(lambda: client.stats.kv_blocks_used == 0 and client.stats.num_requests_running == 0)
        await until(lambda: client._watch.since is None)


async def test_choices_end_one_by_one_and_the_request_with_the_last():
    async with core(step="0.01") as client:
        await client.wait_ready()
        outputs = submit(client, "a", [5, 6, 7], max_tokens=30, n=3)
        assert [(await outputs.get()).index for _ in range(3)] == [0, 1, 2]
        client.stop_choice("a", 1)
        client.stop_choice("a", 1)
        client.stop_choice("a", 7)
        seen = []
        while client.outstanding or not outputs.empty():
            seen.append(await asyncio.wait_for(outputs.get(), 10))
        assert {output.index for output in seen} == {0, 2}
        assert sorted(output.index for output in seen if output.finish_reason) == [0, 2]
        await until(lambda: client.stats.kv_blocks_used == 0)


async def test_stopping_the_last_choice_is_an_abort():
    async with core(step="0.01") as client:
        await client.wait_ready()
        submit(client, "a", [5] * 20, max_tokens=100_000, n=2)
        await until(lambda: client.stats.kv_blocks_used > 0)
        client.stop_choice("a", 1)
        client.stop_choice("a", 0)
        assert client.outstanding == 0
        await until(lambda: client.stats.kv_blocks_used == 0 and client.stats.num_requests_running == 0)


async def test_an_abort_before_the_first_step_leaves_no_step_to_wait_for():
    async with core() as client:
        await client.wait_ready()
        submit(client, "a", [5], max_tokens=1000)
        client.abort(["a"])
        await until(lambda: client._watch.since is None)


async def test_a_refusal_by_the_core_keeps_its_status_and_code():
    async with core(config=EngineConfig(Path("toy"), max_num_seqs=1, max_waiting=0)) as client:
        await client.wait_ready()
        _, last = await finish(submit(client, "a", [5], max_tokens=2))
        assert (last.finish_reason, last.error_status, last.error_code) == ("error", 429, "queue_full")
        assert client.health().ok


async def test_a_core_that_cannot_load_says_why():
    async with core("UnloadableCore") as client:
        with pytest.raises(CoreFailed, match="toy is cut off"):
            await client.wait_ready()
        assert client.health().reason == "ModelCorrupt"
        await asyncio.wait_for(client.wait_ended(), 10)


@pytest.mark.parametrize(("token", "says"), [(CRASH, "told to crash"), (DIE, "exit status 7")])
async def test_a_core_that_dies_ends_every_request_and_health(token, says):
    async with core(step="0.01") as client:
        await client.wait_ready()
        bystander = submit(client, "bystander", [5], max_tokens=10_000)
        await bystander.get()
        submit(client, "culprit", [token], max_tokens=5)
        _, last = await finish(bystander)
        assert last.finish_reason == "error"
        assert says in last.error
        health = client.health()
        assert (health.ok, health.reason) == (False, "Internal")
        with pytest.raises(CoreFailed):
            submit(client, "later", [5])


async def test_a_core_that_is_killed_is_noticed():
    async with core() as client:
        await client.wait_ready()
        os.kill(client.pid, signal.SIGKILL)
        await asyncio.wait_for(client.wait_ended(), 10)
        assert "signal 9" in client.health().message


async def test_a_hung_step_makes_health_fail_until_it_ends():
    async with core(least_step_seconds=0.3, hang="1.5") as client:
        await client.wait_ready()
        assert client.health().ok
        outputs = submit(client, "a", [HANG], max_tokens=2)
        await until(lambda: not client.health().ok)
        assert client.health().reason == "StepOverdue"
        await finish(outputs)
        assert client.health().ok


async def test_an_idle_core_is_healthy_however_long_it_idles():
    async with core(least_step_seconds=0.1) as client:
        await client.wait_ready()
        await finish(submit(client, "a", [5], max_tokens=2))
        await asyncio.sleep(0.3)
        assert client.health().ok


async def test_closing_does_not_wait_for_a_core_that_loads():
    began = time.monotonic()
    async with core(load="60"):
        pass
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("busy", [False, True])
def test_the_core_leaves_when_its_parent_dies(busy, tmp_path):
    """The parent is killed outright; busy means: while a step hangs."""
    program = f"""
import asyncio, sys, os
sys.path[:0] = [{str(DOUBLES.parent)!r}]
from test_core_process import core, submit
async def main():
    async with core(hang="60") as client:
        await client.wait_ready()
        if {busy}:
            submit(client, "a", [{HANG}])
            await asyncio.sleep(0.3)
        print(client.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, f"the core {pid} outlives its parent"
        time.sleep(0.02)
