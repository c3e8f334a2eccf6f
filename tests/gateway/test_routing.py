"""Names: who holds one, who may see it, what a client is told."""

from __future__ import annotations

import pytest

from slipway_gateway import errors
from slipway_gateway.delivery import find
from slipway_gateway.objects import Deployment, Endpoint, Key, Slice, read_deployment, read_slice
from slipway_gateway.routing import EVERYTHING, Sight, build, endpoints_of, upstream_model


def made(
    namespace: str, name: str, *served: str, created: str = "2026-01-01T00:00:00Z", uid: str = "u"
) -> Deployment:
    return Deployment(Key(namespace, name), created, uid, served or (name,), False, "")


A_OLD = made("a", "chat", "chat", "gpt", created="2026-01-01T00:00:00Z", uid="2")
B_NEW = made("b", "chat", created="2026-02-01T00:00:00Z", uid="1")
ROUTES = build([B_NEW, A_OLD])


def test_namespace_and_name_always_works():
    assert ROUTES.resolve("b/chat", EVERYTHING) is B_NEW
    assert ROUTES.resolve("a/chat", EVERYTHING) is A_OLD


def test_the_oldest_claim_holds_a_name_whatever_the_order_of_arrival():
    assert ROUTES.resolve("chat", EVERYTHING) is A_OLD
    assert build([A_OLD, B_NEW]).resolve("chat", EVERYTHING) is A_OLD


def test_equal_ages_are_settled_by_uid():
    first, second = made("a", "x", "n", uid="1"), made("b", "y", "n", uid="2")
    assert build([second, first]).resolve("n", EVERYTHING) is first


def test_a_name_belongs_to_the_oldest_claim_that_the_caller_sees():
    assert ROUTES.resolve("chat", Sight(frozenset({"b"}))) is B_NEW
    assert ROUTES.resolve("gpt", Sight(frozenset({"b"}))) is None
    assert ROUTES.resolve("a/chat", Sight(frozenset({"b"}))) is None


def test_a_served_name_with_a_slash_cannot_take_over_an_object():
    thief = made("c", "thief", "b/chat", created="2020-01-01T00:00:00Z")
    assert build([thief, B_NEW]).resolve("b/chat", EVERYTHING) is B_NEW
    assert build([thief]).resolve("b/chat", EVERYTHING) is thief


def test_whoever_lost_every_name_is_listed_by_namespace_and_name():
    assert [name for name, _ in ROUTES.names(EVERYTHING)] == ["chat", "gpt", "b/chat"]
    assert [name for name, _ in ROUTES.names(Sight(frozenset({"b"})))] == ["chat"]


def test_every_listed_name_resolves_to_its_deployment():
    for name, deployment in ROUTES.names(EVERYTHING):
        assert ROUTES.resolve(name, EVERYTHING) is deployment


def test_the_engine_gets_a_name_that_it_serves():
    assert upstream_model(A_OLD, "gpt") == "gpt"
    assert upstream_model(A_OLD, "a/chat") == "chat"
    assert upstream_model(made("a", "x", "first", "second"), "a/x") == "first"


def test_an_unknown_name_is_answered_with_the_names_that_work():
    with pytest.raises(errors.GatewayError) as caught:
        find(ROUTES, "nope", Sight(frozenset({"b"})))
    assert caught.value.status == 404
    assert "'chat'" in caught.value.message
    assert "a/" not in caught.value.message


def test_a_long_list_of_names_is_cut():
    routes = build(made("a", f"m{number:03}") for number in range(100))
    with pytest.raises(errors.GatewayError, match="GET /v1/models") as caught:
        find(routes, "x" * 5000, EVERYTHING)
    assert len(caught.value.message) < 700


def test_nobody_to_name_is_said_so():
    with pytest.raises(errors.GatewayError, match="no LLMDeployment that you may see"):
        find(build([]), "chat", EVERYTHING)


@pytest.mark.parametrize(
    "obj",
    [
        None,
        [],
        "x",
        {},
        {"metadata": None},
        {"metadata": {"name": "x"}},
        {"metadata": {"name": 1, "namespace": "a"}},
    ],
)
def test_what_is_no_object_is_nothing(obj):
    assert read_deployment(obj) is None
    assert read_slice(obj) is None


def test_odd_fields_of_a_deployment_are_survived():
    obj = {
        "metadata": {"name": "x", "namespace": "a", "uid": 5, "creationTimestamp": None},
        "spec": {"model": {"servedNames": [1, None, "n", "n", ""]}, "future": True},
        "status": {"conditions": ["x", {"type": "Ready", "status": "False", "message": 7}]},
    }
    assert read_deployment(obj) == Deployment(Key("a", "x"), "", "", ("n",), False, "")


def slice_of(**changes: object) -> dict[str, object]:
    labels = {"kubernetes.io/service-name": "chat", "slipway.dev/deployment": "chat"}
    return {
        "metadata": {"namespace": "a", "name": "chat-1", "labels": labels},
        "ports": [{"name": "metrics", "port": 9}, {"name": "http", "port": 8000}],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"name": "p1", "uid": "u1"}}],
    } | changes


def test_a_slice_gives_its_ready_pods_at_the_http_port():
    piece = read_slice(slice_of())
    assert piece is not None
    assert piece.service == Key("a", "chat")
    assert piece.endpoints == (Endpoint("http://10.0.0.1:8000", "p1", "u1"),)


@pytest.mark.parametrize(
    "endpoint",
    [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": False, "serving": True, "terminating": True}},
        {"addresses": ["example.com"]},
        {"addresses": ["169.254.169.254"]},
        {"addresses": ["fe80::1"]},
        {"addresses": ["224.0.0.1"]},
        {"addresses": ["0.0.0.0"]},
        {"addresses": []},
        {"addresses": [None]},
        {},
        None,
    ],
)
def test_what_is_no_ready_pod_is_left_out(endpoint):
    piece = read_slice(slice_of(endpoints=[endpoint]))
    assert piece is not None
    assert piece.endpoints == ()


def test_an_address_of_version_6_is_bracketed():
    piece = read_slice(slice_of(endpoints=[{"addresses": ["fd00::1"]}]))
    assert piece is not None
    assert piece.endpoints[0].origin == "http://[fd00::1]:8000"


@pytest.mark.parametrize(
    "ports", [[], [{"name": "a", "port": 1}, {"name": "b", "port": 2}], [{"port": 0}], None]
)
def test_a_slice_without_an_http_port_has_no_pods(ports):
    piece = read_slice(slice_of(ports=ports))
    assert piece is not None
    assert piece.endpoints == ()


def test_a_slice_of_another_service_is_not_read():
    labels = {"kubernetes.io/service-name": "chat-headless", "slipway.dev/deployment": "chat"}
    assert read_slice(slice_of(metadata={"namespace": "a", "name": "s", "labels": labels})) is None


def test_a_pod_in_two_address_families_counts_once_and_by_version_4():
    service = Key("a", "chat")
    six = Slice(Key("a", "s6"), service, (Endpoint("http://[fd00::1]:8000", "p", "u"),))
    four = Slice(Key("a", "s4"), service, (Endpoint("http://10.0.0.1:8000", "p", "u"),))
    assert endpoints_of([six, four]) == endpoints_of([four, six]) == four.endpoints


ADAPTED = Deployment(
    Key("a", "base"), "2026-01-01T00:00:00Z", "u", ("base",), False, "", adapters=("sql", "poetry")
)


def test_an_adapter_is_asked_for_like_a_model():
    rival = made("b", "sql", created="2026-02-01T00:00:00Z")
    routes = build([rival, ADAPTED])
    assert routes.resolve("sql", EVERYTHING) is ADAPTED
    assert routes.resolve("a/base:poetry", EVERYTHING) is ADAPTED
    assert routes.resolve("a/base:none", EVERYTHING) is None
    assert routes.resolve("a/base:sql", Sight(frozenset({"b"}))) is None
    assert upstream_model(ADAPTED, "sql") == upstream_model(ADAPTED, "a/base:sql") == "sql"
    assert upstream_model(ADAPTED, "a/base") == "base"
    assert [(d.key, name, holder.key) for d, name, holder in routes.taken()] == [
        (rival.key, "sql", ADAPTED.key)
    ]


def test_an_adapters_taken_name_is_listed_in_full():
    older = made("b", "sql", created="2025-01-01T00:00:00Z")
    routes = build([older, ADAPTED])
    assert [name for name, _ in routes.names(EVERYTHING)] == ["sql", "base", "a/base:sql", "poetry"]
    for name, deployment in routes.names(EVERYTHING):
        assert routes.resolve(name, EVERYTHING) is deployment
