"""Whose a name is: the oldest claim's, and the operator tells exactly what the gateway routes by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slipway_api import claims
from slipway_gateway import routing
from slipway_gateway.objects import read_deployment
from slipway_operator.kinds import Key
from slipway_operator.rivals import Claims, claim_of, sentence

NAMES = st.sampled_from(["a", "b", "c", "d"])


def parent(namespace, name, created, uid, served=(), adapters=()):
    model = {"servedNames": list(served)} if served else {}
    model |= {"adapters": [{"name": each} for each in adapters]} if adapters else {}
    meta = {"namespace": namespace, "name": name, "uid": uid, "creationTimestamp": created}
    return {"metadata": meta, "spec": {"model": model}}


@st.composite
def clusters(draw):
    keys = draw(st.lists(st.tuples(st.sampled_from(["n", "m"]), NAMES), unique=True, max_size=6))
    return [
        parent(
            *key,
            draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])),
            str(number),
            draw(st.lists(NAMES, max_size=3)),
            draw(st.lists(NAMES, max_size=2)),
        )
        for number, key in enumerate(keys)
    ]


@given(clusters(), st.lists(st.integers(0, 5), max_size=3))
def test_the_operator_tells_what_the_gateway_routes_by(parents, dropped):
    index = Claims()
    for one in parents:
        index.put(parent("n", "x", "", "", ["a", "b"]) | {"metadata": one["metadata"]})  # an earlier version
        index.put(one)
    for number in {each for each in dropped if each < len(parents)}:
        meta = parents[number]["metadata"]
        index.drop(Key(meta["namespace"], meta["name"]))
    left = [one for number, one in enumerate(parents) if number not in dropped]
    routes = routing.build(filter(None, map(read_deployment, left)))
    routed = {(tuple(d.key), name, tuple(holder.key)) for d, name, holder in routes.taken()}
    told = set()
    for one in left:
        key = claim_of(one).key
        told |= {(tuple(key), name, tuple(holder)) for name, holder in index.taken(key)}
    assert told == routed
    for one in left:  # and who is told has the other among its rivals, so that news of one reach the other
        key = claim_of(one).key
        assert {holder for _, holder in index.taken(key)} <= index.rivals(key)


def test_what_cannot_be_read_claims_nothing_but_the_objects_name():
    for model in (None, 3, [], {"servedNames": "abc"}, {"servedNames": [1, None, ""]}, {"adapters": [3, {}]}):
        assert claims.served_names("x", {"model": model}) == ("x",)
        assert claims.adapter_names("x", {"model": model}) == ()
    assert claims.adapter_names("x", {"model": {"adapters": [{"name": "x"}, {"name": "y"}]}}) == ("y",)


def test_the_sentence_names_objects_of_the_same_namespace_alone():
    text = sentence(Key("n", "new"), (("chat", Key("n", "old")), ("other", Key("secret", "hidden"))))
    assert "'chat' (by old)" in text
    assert "'other' (in another namespace)" in text
    assert "secret" not in text
    assert "hidden" not in text
    assert "ask for n/new" in text
