"""The simulator: nothing is lost in it, its laws hold, and its command answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway_operator.autoscale.terms import Bounds
from slipway_operator.simulate import policies
from slipway_operator.simulate.main import main
from slipway_operator.simulate.plot import buckets, sparkline, svg
from slipway_operator.simulate.replica import Job, Replica, Speed, needed
from slipway_operator.simulate.report import Slo, report
from slipway_operator.simulate.trace import Arrival, TraceError, burst_day, read, stretched
from slipway_operator.simulate.world import Setting, run

DAY = burst_day(seed=3, hours=1.0, mean_rate=1.5)


def test_one_request_takes_its_prefill_and_its_steps() -> None:
    replica = Replica(1, 0.0, Speed(base=0.1, each=0.0, prefill=1000.0))
    job = Job(Arrival(0.0, prompt=500, answer=11))
    replica.take(job)
    for tick in range(1, 20):
        replica.advance(tick * 0.25, 0.25)
    assert job.first == pytest.approx(0.5)
    assert job.done == pytest.approx(1.5)
    assert job.tpot == pytest.approx(0.1)
    assert replica.stream_seconds / replica.tokens == pytest.approx(0.1)
    assert (replica.running, replica.kv_used) == (0, 0)


def test_running_requests_share_the_pace() -> None:
    replica = Replica(1, 0.0, Speed(base=0.0, each=0.1, prefill=1e9))
    jobs = [Job(Arrival(0.0, 1, 11)) for _ in range(4)]
    for job in jobs:
        replica.take(job)
    for tick in range(1, 40):
        replica.advance(tick * 0.25, 0.25)
    assert [job.done for job in jobs] == pytest.approx([4.0] * 4, abs=0.01)


@pytest.mark.parametrize("policy", [policies.Static(6), policies.Ours(Bounds(1, 8, tpot=0.15))])
def test_every_request_ends_where_there_are_replicas(policy: policies.Static | policies.Ours) -> None:
    outcome = run(DAY, policy, Setting(), first=2)
    assert all(job.done is not None for job in outcome.jobs)
    assert all(job.first is not None and job.first >= job.arrival.at for job in outcome.jobs)


def test_from_zero_the_first_request_waits_for_a_start_and_is_served() -> None:
    outcome = run([Arrival(30.0, 10, 10)], policies.Ours(Bounds(0, 4)), Setting(start_seconds=60), first=0)
    assert outcome.jobs[0].ttft == pytest.approx(70, abs=15)
    assert outcome.starts == 1


def test_our_policy_starts_fewer_replicas_and_keeps_more_within_the_slo_than_queue_depth() -> None:
    ours = report("ours", run(DAY, policies.Ours(Bounds(1, 24, tpot=0.15)), Setting(), first=2), Slo())
    queue = policies.Hpa("hpa", (policies.waiting(5),), 1, 24)
    theirs = report("hpa", run(DAY, queue, Setting(), first=2), Slo())
    assert ours.slo_percent > theirs.slo_percent
    assert ours.starts < theirs.starts


def test_a_trace_is_read_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    good.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n"
    )
    assert [(round(a.at, 3), a.prompt) for a in read(good)] == [(0.0, 374), (4.315, 396)]
    bad = tmp_path / "bad.csv"
    bad.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n")
    with pytest.raises(TraceError, match="line 2"):
        read(bad)
    bad.write_text("a,b\n")
    with pytest.raises(TraceError, match="no column"):
        read(bad)


def test_a_stretched_trace_has_that_many_times_the_requests() -> None:
    assert len(stretched(DAY, 2.0, 1)) == 2 * len(DAY)
    assert 0.4 * len(DAY) < len(stretched(DAY, 0.5, 1)) < 0.6 * len(DAY)


def test_the_command_answers_in_json_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "day.svg"
    status = main(["--hours", "0.2", "--compare", "slipway,static", "-o", "json", "--svg", str(picture)])
    rows = json.loads(capsys.readouterr().out)
    assert status == 0
    assert [row["policy"] for row in rows] == ["slipway", "static 10"]
    assert picture.read_text().startswith("<svg")
    assert main(["--trace", str(tmp_path / "none.csv")]) == 2


def test_pictures_keep_the_peaks() -> None:
    assert buckets([0.0] * 99 + [5.0], 10)[-1] == 5.0
    assert sparkline([0, 1, 2]) == "▁▅█"
    assert "&lt;a&gt;" in svg([("<a>", run(DAY[:3], policies.Static(1), Setting(), first=1))])


def test_a_run_begins_with_the_replicas_that_its_traffic_needs() -> None:
    speed = Speed(base=0.03, each=0.003, prefill=8000.0)
    assert speed.bears(0.15) == pytest.approx(40)
    steady = [Arrival(i / 5, 1155, 211) for i in range(5000)]  # five a second
    # Little: 5 a second x 211 x 0.126 s = 133 in flight; prompts take 14 % of each of 5: 155, 32 in each
    assert needed(steady, speed, 40.0) == 5
    assert needed([], speed, 40.0) == 1
    first = run(steady, policies.Ours(Bounds(1, 24, 1, tpot=0.15)), Setting(speed), first=5)
    assert report("ours", first, Slo()).slo_percent > 99


@pytest.mark.parametrize("seed", [2, 3])
def test_a_day_of_bursts_is_borne_with_one_spare_for_half_of_what_a_fixed_number_costs(seed: int) -> None:
    day = burst_day(seed, hours=6.0, mean_rate=1.3)
    ours = report("ours", run(day, policies.Ours(Bounds(1, 24, 1, tpot=0.15)), Setting(), first=1), Slo())
    assert ours.slo_percent >= 98.5
    assert ours.replica_hours <= 30  # nine fixed ones take 54
    assert ours.starts <= 30
