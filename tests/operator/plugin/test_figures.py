"""The arithmetic of top, bench and cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from slipway_operator.kinds import Key, Object
from slipway_operator.plugin.commands import bench, cost, top

METRICS = """\
# TYPE slipway:num_requests_running gauge
slipway:num_requests_running{model_name="a"} 3
# TYPE slipway:generation_tokens counter
slipway:generation_tokens_total{model_name="a"} 100
slipway:generation_tokens_total{model_name="b"} 20
# TYPE slipway:time_to_first_token_seconds histogram
slipway:time_to_first_token_seconds_bucket{le="0.1"} 0
slipway:time_to_first_token_seconds_bucket{le="0.2"} 4
slipway:time_to_first_token_seconds_bucket{le="+Inf"} 4
# TYPE process_open_fds gauge
process_open_fds 7
"""


def test_samples_are_summed_over_labels_and_only_the_engine_counts() -> None:
    found = top.samples(METRICS)
    assert found["generation_tokens_total"] == 120
    assert found["num_requests_running"] == 3
    assert "process_open_fds" not in found


def test_a_quantile_is_interpolated_and_needs_news() -> None:
    after = top.samples(METRICS)
    assert top.quantile({}, after, "time_to_first_token_seconds", 0.5) == pytest.approx(0.15)
    assert top.quantile(after, after, "time_to_first_token_seconds", 0.5) is None


def test_a_restarted_counter_is_no_negative_rate(recorded: Any) -> None:
    pod = recorded.pod(recorded.parent())
    row = top.row_of(pod, {"generation_tokens_total": 500}, {"generation_tokens_total": 10}, 2.0)
    assert row.output_tokens_per_second == 0
    assert row.prompt_tokens_per_second is None
    assert row.deployment == "chat"


def test_percentiles_are_by_nearest_rank() -> None:
    spread = bench.spread([float(value) for value in range(1, 101)])
    assert (spread["p50"], spread["p95"], spread["p99"]) == (50.5, 95, 99)
    assert bench.spread([]) == {}


def test_time_per_output_token_leaves_the_first_out() -> None:
    timings = [bench.Timing(first=1.0, total=3.0, gaps=(1.0, 1.0), tokens=3)]
    report = bench.summarise(timings, ["x"], 4.0)
    assert report["tpotMs"]["p50"] == 1000
    assert report["outputTokensPerSecond"] == 0.8
    assert report["failed"] == 1


def _pod(name: str, resources: dict[str, str], *, hours: float, phase: str = "Running") -> Object:
    started = (NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {"name": name, "namespace": "team", "labels": {"slipway.dev/deployment": "chat"}},
        "spec": {"containers": [{"name": "engine", "resources": {"limits": resources}}]},
        "status": {"startTime": started, "phase": phase},
    }


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PRICES = {"nvidia-a100-80gb": Decimal(4), "cpu": Decimal("0.05")}


def _parent(kind: str) -> dict[Key, Object]:
    spec = {"accelerator": {"type": kind}, "model": {"source": "hf://a/b"}}
    return {Key("team", "chat"): {"metadata": {"name": "chat", "namespace": "team"}, "spec": spec}}


def test_a_pod_costs_what_it_holds_for_as_long_as_it_is_there() -> None:
    pods = [_pod("a", {"nvidia.com/gpu": "2"}, hours=3), _pod("b", {"nvidia.com/gpu": "2"}, hours=1)]
    parents = _parent("nvidia-a100-80gb")
    items = [item for pod in pods if (item := cost.item_of(pod, parents, PRICES, NOW, None))]
    line, total = cost.sums(items, "model")
    assert (line.group, line.devices, line.dollars_per_hour, line.dollars) == (
        "hf://a/b", "4 nvidia-a100-80gb", "16.00", "32.00",
    )  # fmt: skip
    assert total.dollars == "32.00"


def test_since_bounds_the_time_and_ended_pods_hold_nothing() -> None:
    parents = _parent("cpu")
    pods = [_pod("a", {"cpu": "1500m"}, hours=30), _pod("b", {"cpu": "1"}, hours=1, phase="Failed")]
    found = [cost.item_of(pod, parents, PRICES, NOW, timedelta(hours=24)) for pod in pods]
    assert found[1] is None
    assert found[0] is not None
    assert found[0].hours == 24
    assert found[0].per_hour == Decimal("0.075")


def test_a_slice_costs_its_part_of_the_device() -> None:
    pod = _pod("a", {"nvidia.com/mig-3g.40gb": "1"}, hours=1)
    item = cost.item_of(pod, _parent("nvidia-a100-80gb"), PRICES, NOW, None)
    assert item is not None
    assert item.per_hour == 2  # half of the memory, three sevenths of the compute
