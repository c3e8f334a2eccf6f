"""The catalogue: figures that can be, and a cluster's own entries laid over them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from slipway_api.catalogue import CATALOGUE, CPU, CatalogueError, extend

OWN = {
    "resource": "example.com/npu",
    "memoryMib": 32768,
    "bandwidthGbPerSecond": 1000,
    "teraFlops": {"bfloat16": "200"},
}


def test_every_kind_is_complete():
    wanted = {"t4", "a10", "l4", "l40s", "a100", "h100", "h200", "b200", "mi300x"}
    assert wanted <= {part for name in CATALOGUE for part in name.split("-")}
    for name, entry in CATALOGUE.items():
        assert entry.price_per_hour is not None
        assert entry.tera_flops["float32"] > 0
        if name != CPU:
            gigabytes = int(name.split("gb")[0].rsplit("-", 1)[1])
            assert 0.9 * gigabytes < entry.memory_bytes / 1e9 < 1.1 * gigabytes, name
            assert entry.node_products
            assert entry.tera_flops["float16"] >= entry.tera_flops["float32"]


def test_no_two_kinds_claim_the_same_nodes():
    products = [(e.product_label, product) for e in CATALOGUE.values() for product in e.node_products]
    assert len(products) == len(set(products))


def test_mig_profiles_are_named_by_their_share():
    for entry in CATALOGUE.values():
        for name, profile in entry.mig.items():
            compute, memory = name.removesuffix("gb").split("g.")
            assert int(compute) == profile.compute_sevenths
            share = entry.memory_bytes / 1e9 * profile.memory_eighths / 8
            assert abs(int(memory) - share) <= 0.1 * share + 1, (entry.name, name)
    assert CATALOGUE["nvidia-h100-80gb"].mig_resource("1g.10gb") == "nvidia.com/mig-1g.10gb"


def test_a_price_can_be_overridden_and_the_rest_stays():
    merged = extend(CATALOGUE, {"nvidia-l4-24gb": {"pricePerHour": "0.41"}})
    assert merged["nvidia-l4-24gb"].price_per_hour == Decimal("0.41")
    assert merged["nvidia-l4-24gb"].memory_mib == CATALOGUE["nvidia-l4-24gb"].memory_mib
    assert CATALOGUE["nvidia-l4-24gb"].price_per_hour != Decimal("0.41")


def test_a_new_kind():
    assert extend(CATALOGUE, {"example-npu-32gb": OWN})["example-npu-32gb"].memory_bytes == 32 << 30


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"npu": {}}, "lacks resource"),
        ({"npu": 3}, "must be an object"),
        ({"npu": {**OWN, "memoryMib": 0}}, "memoryMib is missing"),
        ({"npu": {**OWN, "bandwidthGbPerSecond": -1}}, "bandwidthGbPerSecond"),
        ({"npu": {**OWN, "teraFlops": {"int3": 1}}}, "teraFlops"),
        ({"npu": {**OWN, "memoryGib": 1}}, "memoryGib"),
        ({"NPU": OWN}, "name"),
        ({"cpu": {"resource": "a/b"}}, "'cpu' has no resource"),
        ({f"npu-{i}": OWN for i in range(300)}, "it may have 256"),
    ],
)
def test_a_wrong_entry_is_refused_with_a_sentence(entries, sentence):
    with pytest.raises(CatalogueError, match=sentence):
        extend(CATALOGUE, entries)
