"""Equal or not, held against objects as the API server stores them."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_api import names
from slipway_operator.diff import covers, differs
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, NETWORK_POLICY, PDB, SERVICE
from slipway_operator.plan import make_plan
from slipway_operator.status import Observation, build_status

LIVE = {
    DEPLOYMENT: "live-deployment",
    SERVICE: "live-service",
    PDB: "live-poddisruptionbudget",
    CONTROLLER_REVISION: "live-controllerrevision",
    NETWORK_POLICY: "live-networkpolicy",
}


@pytest.fixture
def live(recorded):
    return {kind: recorded.load(name) for kind, name in LIVE.items()}


@pytest.fixture
def rendered(recorded):
    return copy.deepcopy(dict(recorded.plan(recorded.load("live-llmdeployment")).children))


@pytest.mark.parametrize("kind", LIVE, ids=lambda kind: kind.kind)
def test_what_the_server_stored_equals_what_was_rendered(live, rendered, kind):
    assert not differs(live[kind], rendered[kind])


def test_the_stored_status_equals_itself(recorded):
    parent = recorded.load("live-llmdeployment")
    assert not differs(parent, {"status": parent["status"]}, subresource="status")
    changed = copy.deepcopy(parent["status"])
    changed["readyReplicas"] = 7
    assert differs(parent, {"status": changed}, subresource="status")
    shorter = copy.deepcopy(parent["status"])
    del shorter["url"]
    assert differs(parent, {"status": shorter}, subresource="status")


def test_the_built_status_has_nothing_the_schema_would_drop(recorded):
    """Every field that we render must be owned afterwards, or each reconcile would write again."""
    parent = recorded.load("live-llmdeployment")
    world = recorded.world(parent, deployments=[recorded.load("live-deployment")])
    plan = make_plan(world, recorded.here, recorded.moment)
    status = build_status(Observation(world, plan, recorded.now))
    owned = next(
        entry["fieldsV1"]["f:status"]
        for entry in parent["metadata"]["managedFields"]
        if entry["manager"] == names.FIELD_MANAGER
    )
    assert {f"f:{name}" for name in status} == set(owned)


EDITS = {
    "image": lambda o: o["spec"]["template"]["spec"]["containers"][0].update(image="evil"),
    "replicas": lambda o: o["spec"].update(replicas=5),
    "label": lambda o: o["metadata"]["labels"].pop(names.LABEL_DEPLOYMENT),
    "owner": lambda o: o["metadata"].pop("ownerReferences"),
    "argument": lambda o: o["spec"]["template"]["spec"]["containers"][0]["args"].append("--debug"),
    "memory": lambda o: o["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].update(
        memory="1Gi"
    ),
    "container": lambda o: o["spec"]["template"]["spec"].update(containers=[]),
    "probe": lambda o: o["spec"]["template"]["spec"]["containers"][0].pop("readinessProbe"),
    "security": lambda o: o["spec"]["template"]["spec"]["securityContext"].update(runAsNonRoot=False),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_is_noticed(live, rendered, edit):
    edit(live[DEPLOYMENT])
    assert differs(live[DEPLOYMENT], rendered[DEPLOYMENT])


def test_defaults_and_fields_of_others_do_not_matter(live, rendered):
    pod = live[DEPLOYMENT]["spec"]["template"]["spec"]
    pod["containers"].insert(0, {"name": "sidecar", "image": "mesh"})
    pod["dnsPolicy"] = "Default"
    live[DEPLOYMENT]["metadata"]["annotations"]["somebody"] = "else"
    assert not differs(live[DEPLOYMENT], rendered[DEPLOYMENT])


def test_quantities_are_compared_by_value(live, rendered):
    resources = live[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["cpu"] == "500m"
    rendered[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "0.5", "memory": str(2 * 1024**3)},
        "limits": {"memory": "2048Mi"},
    }
    assert not differs(live[DEPLOYMENT], rendered[DEPLOYMENT])


def test_an_empty_value_that_the_server_drops_is_equal(live, rendered):
    rendered[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = ""
    live[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["env"][0].pop("value")
    assert not differs(live[DEPLOYMENT], rendered[DEPLOYMENT])


def test_a_field_no_longer_rendered_is_noticed(live, rendered):
    rendered[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0].pop("lifecycle")
    assert differs(live[DEPLOYMENT], rendered[DEPLOYMENT])


def test_an_environment_variable_no_longer_rendered_is_noticed(live, rendered):
    rendered[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["env"] = []
    assert differs(live[DEPLOYMENT], rendered[DEPLOYMENT])


def test_a_selector_that_somebody_added_to_is_noticed(live, rendered):
    """A Service's selector is one value: who adds a key owns all of it, and traffic goes nowhere."""
    live[SERVICE]["spec"]["selector"]["added"] = "by hand"
    for entry in live[SERVICE]["metadata"]["managedFields"]:
        entry["fieldsV1"]["f:spec"].pop("f:selector", None)
    assert differs(live[SERVICE], rendered[SERVICE])


def test_an_object_that_we_never_applied_is_noticed(live, rendered):
    live[SERVICE]["metadata"]["managedFields"] = []
    assert differs(live[SERVICE], rendered[SERVICE])


scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.text("ab", max_size=3))
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("xyz", max_size=2), v, max_size=3)
)
objects = st.dictionaries(st.text("xyz", max_size=2), values, max_size=4)


@given(objects)
def test_everything_covers_itself(obj):
    assert covers(json.loads(json.dumps(obj)), obj)


@given(objects, objects)
def test_covering_survives_additions_and_no_change_of_a_value(obj, more):
    assert covers({**more, **obj}, obj)
    for name, value in obj.items():
        assert not covers({**obj, name: [value, "other"]}, obj)
