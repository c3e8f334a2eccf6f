"""Plans: children rendered from objects, values resolved with their origin."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_api import names
from slipway_api.catalogue import CATALOGUE
from slipway_api.conditions import Reason
from slipway_operator.kinds import CONTROLLER_REVISION, DEPLOYMENT, NETWORK_POLICY, PDB, PER_REVISION, SERVICE
from slipway_operator.plan import Plan, Refusal, World, make_plan
from slipway_operator.plan.effective import rollout_bounds
from slipway_operator.plan.revision import LABEL_REVISION, SPEC_ANNOTATION


def pod_of(plan):
    return plan.of_kind(DEPLOYMENT)[0]["spec"]["template"]["spec"]


def engine_of(plan):
    return pod_of(plan)["containers"][0]


def origins(plan):
    return {value.field: (value.value, value.source) for value in plan.values.values}


def test_the_children_carry_labels_owner_and_nothing_of_the_parents_metadata(recorded):
    parent = recorded.parent()
    parent["metadata"]["labels"] = {"argocd.argoproj.io/instance": "app"}
    parent["metadata"]["annotations"] = {"note": "mine"}
    plan = recorded.plan(parent)
    assert [kind for kind, _ in plan.children] == [
        CONTROLLER_REVISION,
        NETWORK_POLICY,
        SERVICE,
        PDB,
        DEPLOYMENT,
    ]
    for kind, child in plan.children:
        meta = child["metadata"]
        of_one = {LABEL_REVISION: plan.revision} if kind in PER_REVISION else {}
        name = f"chat-{plan.revision}" if of_one else "chat"
        assert (child["kind"], meta["name"], meta["namespace"]) == (kind.kind, name, "team")
        assert meta["labels"] == names.labels_of("chat") | of_one
        assert set(meta.get("annotations", ())) <= {SPEC_ANNOTATION}
        assert meta["ownerReferences"] == [
            {
                "apiVersion": names.API_VERSION,
                "kind": "LLMDeployment",
                "name": "chat",
                "uid": "uid-of-chat",
                "controller": True,
            }
        ]


def test_the_service_selects_the_pods_of_any_revision(recorded):
    plan = recorded.plan(recorded.parent())
    selector = plan.of_kind(SERVICE)[0]["spec"]["selector"]
    labels = plan.of_kind(DEPLOYMENT)[0]["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert LABEL_REVISION not in selector
    assert (
        plan.of_kind(SERVICE)[0]["spec"]["ports"][0] | {"port": 80, "targetPort": "http"}
        == (plan.of_kind(SERVICE)[0]["spec"]["ports"][0])
    )
    assert engine_of(plan)["ports"][0]["containerPort"] == 8000
    assert plan.of_kind(PDB)[0]["spec"]["maxUnavailable"] == 1
    assert plan.of_kind(PDB)[0]["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize(
    ("source", "path", "fetch"),
    [
        ("file:///models/tiny.gguf", "/models/tiny.gguf", None),
        ("pvc://weights/llama/7b", "/var/lib/slipway/pvc/llama/7b", None),
        ("pvc://weights", "/var/lib/slipway/pvc", None),
        (
            "hf://org/name",
            names.MODEL_DIR,
            ["fetch", "hf://org/name", "--revision", "c" * 40, "--to", names.MODEL_DIR],
        ),
        (
            "https://example.com/m.gguf",
            names.MODEL_DIR,
            ["fetch", "https://example.com/m.gguf", "--to", names.MODEL_DIR],
        ),
    ],
)
def test_where_the_model_comes_from(recorded, source, path, fetch):
    plan = recorded.plan(recorded.parent(model={"source": source}))
    assert engine_of(plan)["args"][:2] == ["serve", path]
    init = pod_of(plan).get("initContainers", [])
    assert [container["args"] for container in init] == ([fetch] if fetch else [])
    claims = [v["persistentVolumeClaim"] for v in pod_of(plan)["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ([{"claimName": "weights", "readOnly": True}] if source.startswith("pvc") else [])
    mounts = [m for m in engine_of(plan)["volumeMounts"] if m["mountPath"] != "/tmp"]
    assert all(mount["readOnly"] for mount in mounts)


def test_the_token_reaches_the_download_and_not_the_engine(recorded):
    model = {"source": "hf://org/name", "revision": "v1", "credentials": {"secretName": "hub"}}
    pod = pod_of(recorded.plan(recorded.parent(model=model)))
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    assert token in pod["initContainers"][0]["env"]
    assert "HF_TOKEN" not in json.dumps(pod["containers"])
    assert pod["initContainers"][0]["args"][3] == "c" * 40


def test_the_pod_is_restricted(recorded):
    pod = pod_of(recorded.plan(recorded.parent(model={"source": "hf://org/name"})))
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsUser"] == 65532
    for container in pod["containers"] + pod["initContainers"]:
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"]
        assert context["runAsNonRoot"]
        assert context["allowPrivilegeEscalation"] is False
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        assert "command" not in container


def test_every_setting_becomes_a_flag(recorded):
    engine = {
        "image": "mine:2",
        "maxModelLen": 2048,
        "maxNumSeqs": 8,
        "maxBatchTokens": 256,
        "memoryPercent": 50,
        "prefixCaching": False,
    }
    parent = recorded.parent(
        model={"source": "file:///m", "servedNames": ["a", "b"]},
        engine=engine,
        rollout={"drainSeconds": 0, "maxSurge": 0, "progressDeadlineSeconds": 60},
    )
    plan = recorded.plan(parent)
    assert " ".join(engine_of(plan)["args"]) == (
        "serve /m --host 0.0.0.0 --port 8000 --served-model-name a b --max-model-len 2048 --max-num-seqs 8 "
        "--max-num-batched-tokens 256 --memory-percent 50 --no-enable-prefix-caching --drain-seconds 0"
    )
    assert engine_of(plan)["image"] == "mine:2"
    values = plan.values
    assert (values.max_surge, values.max_unavailable, values.progress_deadline_seconds) == (0, 1, 60)
    assert pod_of(plan)["terminationGracePeriodSeconds"] == 30
    assert origins(plan)["engine.image"] == ("mine:2", "spec")
    assert origins(plan)["engine.prefixCaching"] == ("false", "spec")
    assert origins(plan)["rollout.maxUnavailable"] == ("1", "built-in")


def test_absent_values_are_resolved_and_shown(recorded):
    shown = origins(recorded.plan(recorded.parent()))
    assert shown["engine.image"] == (recorded.image, "operator")
    assert shown["engine.maxNumSeqs"] == ("64", "built-in")
    assert shown["model.servedNames"] == ("chat", "built-in")
    assert shown["accelerator.type"] == ("cpu", "built-in")
    assert shown["podTemplate.resources.limits.memory"] == ("2Gi", "built-in")
    assert "engine.maxModelLen" not in shown  # the engine decides it from the model


def test_a_resource_that_the_user_mentions_is_the_users_alone(recorded):
    resources = {"limits": {"memory": "1Gi"}}
    plan = recorded.plan(recorded.parent(podTemplate={"resources": resources}))
    assert engine_of(plan)["resources"] == {"limits": {"memory": "1Gi"}, "requests": {"cpu": "500m"}}
    assert origins(plan)["podTemplate.resources.limits.memory"] == ("1Gi", "spec")


def test_values_longer_than_the_status_may_hold_are_shortened(recorded):
    names_ = [f"{'n' * 120}{i}" for i in range(16)]
    limits = {f"example.com/{'r' * 200}{i}": "1" for i in range(3)}
    parent = recorded.parent(
        model={"source": "file:///m", "servedNames": names_}, podTemplate={"resources": {"limits": limits}}
    )
    values = recorded.plan(parent).values.values
    assert max(len(value.value) for value in values) == 1024
    assert max(len(value.field) for value in values) == 128
    assert len({value.field for value in values}) == len(values)


@pytest.mark.parametrize("entry", [e for e in CATALOGUE.values() if e.resource], ids=lambda e: e.name)
def test_an_accelerator_is_requested_and_its_nodes_are_required(recorded, entry):
    user = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
                ]
            }
        }
    }
    for affinity in ({}, user):
        plan = recorded.plan(
            recorded.parent(accelerator={"type": entry.name}, podTemplate={"affinity": affinity})
        )
        assert engine_of(plan)["resources"]["limits"] == {entry.resource: "1"}
        node = pod_of(plan)["affinity"]["nodeAffinity"]
        terms = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert len(terms) == (2 if affinity else 1)
        for term in terms:  # terms are alternatives: each has to ask
            assert term["matchExpressions"][-1]["values"] == list(entry.node_products)
    fetched = recorded.plan(recorded.parent(accelerator={"type": entry.name}, model={"source": "hf://a/b"}))
    assert entry.resource not in json.dumps(pod_of(fetched)["initContainers"])


def test_the_overlay_reaches_the_pod_and_our_labels_win(recorded):
    overlay = {
        "labels": {"team": "a", names.LABEL_DEPLOYMENT: "other"},
        "annotations": {"a": "b"},
        "env": [
            {"name": "HOME", "value": "/data"},
            {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "high",
        "serviceAccountName": "runner",
        "imagePullSecrets": ["pull"],
    }
    plan = recorded.plan(recorded.parent(podTemplate=overlay, rollout={"restartToken": "again"}))
    template = plan.of_kind(DEPLOYMENT)[0]["spec"]["template"]
    assert template["metadata"]["labels"][names.LABEL_DEPLOYMENT] == "chat"
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["metadata"]["annotations"] == {"a": "b", "slipway.dev/restart-token": "again"}
    assert engine_of(plan)["env"] == overlay["env"]
    pod = template["spec"]
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert (pod["priorityClassName"], pod["serviceAccountName"]) == ("high", "runner")
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["automountServiceAccountToken"] is False


def test_what_shapes_pods_changes_the_revision_and_nothing_else_does(recorded):
    revision = recorded.plan(recorded.parent()).revision
    for same in ({"replicas": 7}, {"suspend": True}, {"rollout": {"maxSurge": 3}}):
        assert recorded.plan(recorded.parent(**same)).revision == revision
    for other in (
        {"rollout": {"restartToken": "1"}},
        {"engine": {"maxNumSeqs": 2}},
        {"podTemplate": {"annotations": {"a": "b"}}},
    ):
        assert recorded.plan(recorded.parent(**other)).revision != revision


def test_suspended_is_zero_replicas(recorded):
    plan = recorded.plan(recorded.parent(suspend=True, replicas=3))
    assert plan.suspended
    assert plan.of_kind(DEPLOYMENT)[0]["spec"]["replicas"] == 0


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"model": {}}, "spec.model.source is missing"),
        ({"model": {"source": "s3://b"}}, "spec.model.source: model.source must be hf://ORG/NAME"),
        ({"later": 1}, "spec.later is not a field that this operator knows"),
        ({"podTemplate": {"env": [{"name": "A"}]}}, "spec.podTemplate.env.0"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "and 1 more"),
    ],
)
def test_an_object_of_another_schema_is_refused_by_field(recorded, spec, says):
    refusal = make_plan(World(recorded.parent(**spec)), recorded.here, recorded.moment)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.INVALID_SPEC
    assert says in refusal.message


@pytest.mark.parametrize("spec", [None, {}, [], "text", {"model": None}, {"model": {"source": 5}}])
def test_no_stored_object_breaks_the_planner(recorded, spec):
    parent = recorded.parent()
    parent["spec"] = spec
    assert isinstance(make_plan(World(parent), recorded.here, recorded.moment), Refusal)


@given(st.none() | st.integers(0, 5), st.none() | st.integers(0, 5))
def test_a_rollout_can_always_move(surge, unavailable):
    if (surge, unavailable) == (0, 0):
        return  # refused by the schema
    bounds = rollout_bounds(surge, unavailable)
    assert sum(bounds) > 0
    assert surge in (None, bounds[0])
    assert unavailable in (None, bounds[1])


specs = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"source": st.sampled_from(["file:///m", "hf://a/b", "pvc://c", "https://h/m.gguf"])}
        )
    },
    optional={
        "replicas": st.integers(0, 9),
        "suspend": st.booleans(),
        "engine": st.fixed_dictionaries(
            {},
            optional={
                "maxNumSeqs": st.integers(1, 99),
                "prefixCaching": st.booleans(),
                "image": st.just("i:1"),
            },
        ),
        "accelerator": st.fixed_dictionaries({"type": st.sampled_from(sorted(CATALOGUE))}),
        "rollout": st.fixed_dictionaries(
            {}, optional={"maxSurge": st.integers(1, 3), "drainSeconds": st.integers(0, 9)}
        ),
        "podTemplate": st.fixed_dictionaries(
            {},
            optional={
                "labels": st.dictionaries(
                    st.sampled_from(["a", names.LABEL_DEPLOYMENT]), st.just("v"), max_size=2
                ),
                "env": st.lists(
                    st.fixed_dictionaries(
                        {"name": st.sampled_from("ABC"), "value": st.text("x", max_size=2)}
                    ),
                    max_size=2,
                    unique_by=lambda e: e["name"],
                ),
                "resources": st.fixed_dictionaries(
                    {},
                    optional={"limits": st.dictionaries(st.sampled_from(["cpu", "memory"]), st.just("64Gi"))},
                ),
            },
        ),
    },
)


@given(specs)
def test_any_valid_object_is_planned_and_planned_the_same_again(recorded, spec):
    parent = {"metadata": {"name": "x", "namespace": "n", "uid": "u"}, "spec": spec}
    plan, again = (
        make_plan(recorded.world(parent), recorded.here, 0.0),
        make_plan(recorded.world(json.loads(json.dumps(parent))), recorded.here, 0.0),
    )
    assert isinstance(plan, Plan)
    assert json.dumps([child for _, child in plan.children]) == json.dumps([c for _, c in again.children])
    limits, requests = (
        engine_of(plan)["resources"].get("limits", {}),
        engine_of(plan)["resources"].get("requests", {}),
    )
    assert not (set(spec.get("podTemplate", {}).get("resources", {}).get("limits", {})) & set(requests))
    assert plan.values.accelerator.resource is None or limits[plan.values.accelerator.resource] == "1"
