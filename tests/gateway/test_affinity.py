"""The same beginning goes to the same pod, unless that one is busy; who comes and goes moves its share."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from slipway_gateway.affinity import LOAD_SLACK, Ring, beginning, bound
from slipway_gateway.balance import Balancer
from slipway_gateway.objects import Endpoint, read_deployment

PODS = tuple(Endpoint(f"http://10.0.0.{n}:8000", f"p{n}", f"u{n}") for n in range(5))


def key(number: int) -> bytes:
    return f"prompt {number}".encode()


def test_every_pod_has_its_share_of_the_ring():
    counts = Counter(next(Ring(PODS).along(key(n))) for n in range(5000))
    assert set(counts) == set(PODS)
    assert max(counts.values()) < 1.4 * min(counts.values())


def test_a_pod_that_goes_moves_nothing_but_its_own():
    whole, fewer = Ring(PODS), Ring(PODS[:-1])
    for n in range(500):
        before = next(whole.along(key(n)))
        if before is not PODS[-1]:
            assert next(fewer.along(key(n))) is before


def test_the_order_along_the_ring_has_each_pod_once():
    assert sorted(Ring(PODS).along(b"x")) == sorted(PODS)
    assert list(Ring(()).along(b"x")) == []


def test_the_same_beginning_goes_to_the_same_pod_until_it_is_busy():
    balance = Balancer(random.Random(1))
    first = balance.pick(PODS, (), 0, b"same")
    assert first is not None
    taken = []
    for _ in range(40):
        pod = balance.pick(PODS, (), 0, b"same")
        assert pod is not None
        balance.started(pod)
        taken.append(pod)
    assert taken[:LOAD_SLACK] == [first] * LOAD_SLACK
    assert len(set(taken)) > 1  # one hot beginning does not drown its pod
    busiest = max(Counter(taken).values())
    assert busiest <= bound(39, len(PODS))


def test_an_ejected_or_tried_pod_is_passed_over_and_comes_back():
    balance = Balancer(random.Random(1))
    first = balance.pick(PODS, (), 0, b"same")
    assert first is not None
    second = balance.pick(PODS, (first,), 0, b"same")
    assert second is not first
    for _ in range(5):
        balance.failed(first, 0)
    assert balance.pick(PODS, (), 1, b"same") is second
    assert balance.pick(PODS, (), 11, b"same") is first


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_some_pod_is_always_below_the_bound(loads: list[int]) -> None:
    assert min(loads) + 1 <= bound(sum(loads), len(loads))


def test_what_counts_as_the_beginning():
    chat = {"messages": [{"role": "system", "content": "You are kind."}, {"role": "user", "content": "Hi"}]}
    longer = {"messages": [*chat["messages"], {"role": "user", "content": "more"}]}
    assert beginning(chat, 12, None) == beginning(longer, 12, None)
    assert beginning(chat, 100, None) != beginning(longer, 100, None)
    assert beginning(chat, 12, "a") != beginning(chat, 12, "b")
    parts = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]}]
    }
    assert beginning(parts, 10, None) == b"\0user\0Hi"
    assert beginning({"prompt": "abcdef"}, 3, None) == b"\0abc"
    assert beginning({"prompt": ["abcdef", "x"]}, 3, None) == b"\0abc"
    assert beginning({"prompt": [1, 2, 3]}, 100, None) == beginning({"prompt": [1, 2, 3]}, 100, None)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["messages", "prompt", "input", "other"]), anything)
def test_whatever_stands_in_the_body_has_a_beginning(name: str, value: object) -> None:
    assert isinstance(beginning({name: value}, 10, None), bytes)


def test_the_object_asks_for_it():
    def deployment(**routing: object) -> int | None:
        body = {"metadata": {"namespace": "a", "name": "b"}, "spec": {"routing": routing}}
        read = read_deployment(body)
        assert read is not None
        return read.prefix_characters

    assert deployment() is None
    assert deployment(policy="least-outstanding", prefixCharacters=5) is None
    assert deployment(policy="prefix-affine") == 100
    assert deployment(policy="prefix-affine", prefixCharacters=5) == 5
