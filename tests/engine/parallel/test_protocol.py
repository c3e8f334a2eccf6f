"""What ranks say to each other: steps that follow from the last, records, heartbeats, and who may join."""

from __future__ import annotations

import random
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway_engine.core.request import Request
from slipway_engine.core.scheduler import Scheduled
from slipway_engine.errors import GroupBroken
from slipway_engine.parallel import identity, wire
from slipway_engine.parallel.doors import Doors, refusal_of
from slipway_engine.parallel.pulse import HUNG_SECONDS, SILENT_SECONDS, Watch
from slipway_engine.parallel.shard import Degrees
from slipway_engine.parallel.steps import BadStep, StepReader, StepWriter
from slipway_engine.process.framing import FrameBuffer, frame
from slipway_engine.sampling import SamplingParams

OURS = wire.Hello(1, "slipway 1, torch 2", 0, 3, "tensor 3 x pipeline 1", "aa" * 16, 8, 4, False, "s")


def _request(tokens: list[int], computed: int, tables: list[list[int]], slid: list[int]) -> Request:
    return Request(
        id="r", tokens=tokens, prompt_length=len(tokens), limit=999, sampling=SamplingParams(), chain=[],
        stop_ids=frozenset(), key=(0, 0.0, 0), stream=0, computed=computed, tables=tables, slid=slid,
    )  # fmt: skip


def test_any_history_of_tables_reads_as_it_was_written():
    """Tables grow, slide, are given back and begin anew; seats are few, so requests lose theirs."""
    rng = random.Random(4)
    writer, reader = StepWriter(groups=2, seats=5), StepReader(groups=2, seats=5, blocks=900)
    requests = [_request([1] * 500, 0, [[], []], [0, 0]) for _ in range(9)]
    for _ in range(300):
        plan = []
        for request in rng.sample(requests, rng.randint(1, 5)):
            if rng.random() < 0.1:
                request.tables, request.slid, request.computed = [[], []], [0, 0], 0
            new = rng.randint(0, 3)
            for table in request.tables:
                table += [rng.randint(1, 900) for _ in range(new + (not table))]
            if rng.random() < 0.2:  # copied, as others read it
                for table in request.tables:
                    table[-1] = rng.randint(1, 900)
            if rng.random() < 0.3:
                slid = min(request.slid[1] + 1, len(request.tables[1]) - 1)
                request.tables[1][:slid], request.slid[1] = [0] * slid, slid
            request.computed = rng.randint(0, 100)
            plan.append(Scheduled(request, rng.randint(1, 4)))
        copies = {rng.randint(1, 900): 5} if rng.random() < 0.2 else {}
        step = reader.read(writer.write(plan, copies))
        assert step.copies == [(source, target) for target, source in copies.items()]
        for row, scheduled in zip(step.rows, plan, strict=True):
            request = scheduled.request
            assert (row.computed, row.count, row.rows) == (request.computed, scheduled.count, scheduled.rows)
            assert row.tokens == request.tokens[row.computed : row.computed + row.count]
            assert row.tables == request.tables


def test_a_decode_step_is_a_few_numbers_a_sequence():
    writer = StepWriter(groups=1, seats=8)
    request = _request([1] * 4001, 4000, [[7] * 251], [0])
    first = writer.write([Scheduled(request, 1)], {})
    again = writer.write([Scheduled(request, 1)], {})
    assert (len(first), len(again)) == (4 * (3 + 5 + 3 + 251), 4 * (3 + 5 + 3))


def test_no_bytes_make_a_rank_compute_outside_its_cache():
    writer, rng = StepWriter(groups=1, seats=2), random.Random(9)
    good = writer.write([Scheduled(_request([1] * 9, 4, [[3, 4, 5]], [0]), 5)], {2: 1})
    assert StepReader(groups=1, seats=2, blocks=5).read(good).rows
    with pytest.raises(BadStep):
        StepReader(groups=1, seats=2, blocks=4).read(good)
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        reader = StepReader(groups=1, seats=2, blocks=5)
        try:
            step = reader.read(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
        except BadStep:
            continue
        assert all(0 <= block <= 5 for pair in step.copies for block in pair)
        for row in step.rows:
            assert len(row.tokens) == row.count
            assert all(0 <= block <= 5 for table in row.tables for block in table)


def test_records_are_checked_field_by_field():
    data = wire.write(OURS)
    assert wire.read(data[4:]) == OURS
    msgpack = pytest.importorskip("msgpack")
    for wrong in (
        ("Hello", (1, 2)), ("Nothing", ()), ("Plan", ("x", 1, 2, 3)), ("Plan", (True, 1, 2, 3)), 7, ["Leave"],
    ):  # fmt: skip
        with pytest.raises(wire.WireError):
            wire.read(msgpack.packb(wrong))
    with pytest.raises(wire.WireError):
        wire.read(b"\xc1\xff")
    beat = wire.Beat(3, 1 << 40, 17, True)
    assert wire.Beat.unpacked(beat.packed()) == beat


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"version": "slipway 2, torch 2"},
            "it runs slipway 2, torch 2, the leader slipway 1, torch 2; give all",
        ),
        ({"protocol": 2}, "give all pods of a group one image"),
        (
            {"degrees": "tensor 1 x pipeline 3"},
            "it was started for tensor 1 x pipeline 3, the leader for tensor 3",
        ),
        ({"checksum": "bb" * 16}, "give all pods of a group one revision of the model"),
        ({"rank": 3}, "ranks beside the leader are 1 to 2"),
    ],
)
def test_who_does_not_belong_is_told_why(change, said):
    assert refusal_of(replace(OURS, rank=1), OURS) is None
    assert said in (refusal_of(replace(OURS, **{"rank": 1, **change}), OURS) or "")


class _Door:
    """Doors that are open in a thread."""

    def __init__(self, seconds: float = 20.0) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.doors = Doors(self.listener, OURS, wire.Welcome(b"x", 3, 1, False))
        self.result: Any = None
        self.thread = threading.Thread(target=self._gather, args=(seconds,))
        self.thread.start()

    def _gather(self, seconds: float) -> None:
        try:
            self.result = self.doors.gather(seconds, lambda: None)
        except GroupBroken as error:
            self.result = error

    def call(self, data: bytes) -> socket.socket:
        sock = socket.create_connection(self.listener.getsockname())
        sock.settimeout(10)
        sock.sendall(data)
        return sock

    def end(self) -> Any:
        self.thread.join(30)
        self.listener.close()
        return self.result


def test_strangers_are_not_let_in_and_hold_nobody_up():
    door, open_ones = _Door(), []
    for data in (b"GET / HTTP/1.1\r\n\r\n", frame(b"x" * 9), b"\xff\xff\xff\xff", wire.write(wire.Leave())):
        stranger = door.call(data)
        assert stranger.recv(10) == b""
        stranger.close()
    thief = door.call(wire.write(replace(OURS, rank=1, secret="wrong")))
    assert thief.recv(10) == b""
    thief.close()
    open_ones.append(door.call(b"\x00\x00"))  # says nothing more
    for rank in (1, 2):
        steps = door.call(wire.write(replace(OURS, rank=rank)))
        assert wire.read(FrameBuffer().feed(steps.recv(1000))[0]) == wire.Welcome(b"x", 3, 1, False)
        open_ones += [steps, door.call(wire.write(replace(OURS, rank=rank, beats=True)))]
    members = door.end()
    assert sorted(members) == [1, 2]
    for member in members.values():
        open_ones += [member.steps, member.beats]
    for sock in open_ones:
        sock.close()


def test_a_rank_that_is_there_twice_ends_the_group_before_it_began():
    door = _Door()
    first = door.call(wire.write(replace(OURS, rank=1)))
    assert first.recv(1000)
    second = door.call(wire.write(replace(OURS, rank=1)))
    said = wire.read(FrameBuffer().feed(second.recv(1000))[0])
    assert isinstance(said, wire.Refused)
    assert "rank 1 is in the group already" in said.message
    assert door.end().reason == "RankRefused"
    for member in door.doors.members.values():
        member.steps.close()
    first.close()
    second.close()


def test_a_model_that_was_trained_on_has_another_checksum(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(random.Random(1).randbytes(3_000_000))
    before = identity.checksum(tmp_path)
    assert identity.checksum(tmp_path) == before
    weights.write_bytes(random.Random(2).randbytes(3_000_000))
    assert identity.checksum(tmp_path) != before


def _watch() -> Watch:
    names = {rank: f"pod-{rank}" for rank in range(4)}
    return Watch(Degrees(2, 2), names, dict.fromkeys((1, 2, 3), 100.0), moved=100.0)


def test_silence_is_a_verdict_and_a_beat_breaks_it():
    watch = _watch()
    assert watch.judge(100.0 + SILENT_SECONDS) is None
    for rank in (1, 3):
        watch.take(wire.Beat(rank, 0, 0, False), 105.0)
    verdict = watch.judge(101.0 + SILENT_SECONDS)
    assert verdict is not None
    assert (verdict.reason, "Rank 2 (pod-2)" in verdict.message) == ("RankSilent", True)


@pytest.mark.parametrize(
    ("come", "guilty"),
    [
        ({0: (9, 50), 1: (9, 50), 2: (8, 40), 3: (8, 41)}, 2),  # the second stage waits for its first rank
        ({0: (8, 49), 1: (8, 50), 2: (8, 40), 3: (8, 40)}, 0),  # everybody waits for rank 0
        ({0: (8, 50), 1: (8, 49), 2: (8, 40), 3: (8, 40)}, 1),  # the first stage has fewer steps to come
    ],
)
def test_of_ranks_that_beat_but_stand_still_the_last_is_named(come, guilty):
    watch = _watch()
    for now in range(100, 100 + int(HUNG_SECONDS) + 2):
        for rank, (steps, calls) in come.items():
            watch.take(wire.Beat(rank, steps, calls, True), float(now))
        if now <= 100 + HUNG_SECONDS:
            assert watch.judge(float(now)) is None
    verdict = watch.judge(101.0 + HUNG_SECONDS)
    assert verdict is not None
    assert (verdict.reason, watch.last_in_line()) == ("RankHung", guilty)
    assert f"Rank {guilty} (pod-{guilty})" in verdict.message


def test_who_has_nothing_to_do_does_not_hang():
    watch = _watch()
    for now in range(100, 200):
        for rank in range(4):
            watch.take(wire.Beat(rank, 5, 5, False), float(now))
        assert watch.judge(float(now)) is None
