"""Classes: which one is in force, what it adds, and every way around it that we could think of."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_api.allowed import image_allowed, source_allowed
from slipway_api.conditions import Reason
from slipway_api.v1alpha1 import LLMDeploymentSpec
from slipway_api.v1alpha1.base import Spec
from slipway_operator.plan.classes import Refused, classed, namespace_allowed

DIGEST = "sha256:" + "ab" * 32


def spec_of(**spec):
    return LLMDeploymentSpec.model_validate({"model": {"source": "hf://org/name"}, **spec})


def class_of(name="standard", created="2026-01-01T00:00:00Z", **spec):
    return {name: {"metadata": {"name": name, "creationTimestamp": created}, "spec": spec}}


def refused(spec, classes, namespace="team-a"):
    with pytest.raises(Refused) as caught:
        classed(spec, namespace, classes)
    return caught.value


def denied(offer, **spec):
    """Return the sentence with which a class with `offer` refuses an object."""
    error = refused(spec_of(className="standard", **spec), class_of(**offer))
    assert error.reason is Reason.CLASS_DENIED
    return str(error)


def passes(offer, **spec):
    return classed(spec_of(className="standard", **spec), "team-a", class_of(**offer))


def test_without_classes_an_object_is_as_it_is():
    spec = spec_of()
    found = classed(spec, "team-a", {})
    assert (found.spec, found.name, found.offer) == (spec, None, None)


def test_an_operator_that_reads_no_classes_says_so_and_enforces_none():
    assert classed(spec_of(), "team-a", None).name is None
    with pytest.raises(Refused, match="installed without the right to read classes; remove") as refusal:
        classed(spec_of(className="standard"), "team-a", None)
    assert refusal.value.reason is Reason.CLASS_NOT_FOUND


def test_a_class_that_is_named_fills_in_what_is_absent_and_nothing_else():
    offer = {
        "defaults": {
            "engine": {"maxNumSeqs": 8, "memoryPercent": 50},
            "cache": {"mode": "Shared"},
            "podTemplate": {"nodeSelector": {"pool": "gpu"}, "env": [{"name": "A", "value": "b"}]},
        }
    }
    found = passes(offer, engine={"maxNumSeqs": 2})
    assert (found.spec.engine.max_num_seqs, found.spec.engine.memory_percent) == (2, 50)
    assert found.spec.model.cache.mode == "Shared"
    assert found.spec.pod_template.node_selector == {"pool": "gpu"}, "a class's own fields need no permission"
    assert found.given.engine.memory_percent is None
    assert found.name == "standard"


def test_the_default_class_is_the_oldest_that_says_so():
    classes = (
        class_of("young", "2026-02-01T00:00:00Z", default=True)
        | class_of("old", "2025-01-01T00:00:00Z", default=True)
        | class_of("oldest", "2024-01-01T00:00:00Z")
    )
    assert classed(spec_of(), "team-a", classes).name == "old"
    assert classed(spec_of(className="oldest"), "team-a", classes).name == "oldest"


def test_a_class_that_does_not_exist_is_said_with_those_that_do():
    error = refused(spec_of(className="fast"), class_of("standard"))
    assert error.reason is Reason.CLASS_NOT_FOUND
    assert str(error) == "LLMClass fast does not exist; set spec.className to one of standard"
    assert "there is none" in str(refused(spec_of(className="fast"), {}))


@pytest.mark.parametrize("readable", [True, False])
def test_a_required_class_is_required_even_of_a_broken_one(readable):
    classes = class_of("strict", requireClass=True, **({} if readable else {"nonsense": 1}))
    error = refused(spec_of(), classes)
    assert error.reason is Reason.CLASS_REQUIRED
    assert "one of strict" in str(error)


@pytest.mark.parametrize("spec", [{"nonsense": 1}, {"ceilings": {"replicas": -1}}])
def test_a_class_that_cannot_be_read_refuses_who_names_it(spec):
    error = refused(spec_of(className="standard"), class_of(**spec))
    assert error.reason is Reason.CLASS_INVALID
    assert "LLMClass standard cannot be read" in str(error)


def test_defaults_and_object_may_contradict_each_other():
    offer = {"defaults": {"rollout": {"maxSurge": 0}}}
    error = refused(spec_of(className="standard", rollout={"maxUnavailable": 0}), class_of(**offer))
    assert error.reason is Reason.INVALID_SPEC
    assert "contradict" in str(error)


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [
        (None, True),
        ([], False),
        (["team-a"], True),
        (["team-*"], True),
        (["*"], True),
        (["team"], False),
        (["team-ab"], False),
        (["prod-*"], False),
    ],
)
def test_namespaces(patterns, allowed):
    assert namespace_allowed("team-a", patterns) is allowed
    if patterns is not None and not allowed:
        classes = class_of("standard", default=True, allowedNamespaces=patterns)
        for spec in (spec_of(), spec_of(className="standard")):
            assert refused(spec, classes).reason is Reason.CLASS_DENIED, "the default class is no way around"


@pytest.mark.parametrize(
    ("source", "entry", "allowed"),
    [
        ("hf://org/name", "hf://org/", True),
        ("hf://org/name", "hf://org/name", True),
        ("hf://org-evil/name", "hf://org", False),  # no boundary
        ("hf://org/name-evil", "hf://org/name", False),
        ("hf://ORG/name", "hf://org/", False),
        ("https://models.example/a/m.gguf", "https://models.example/a/", True),
        ("https://models.example/a/../b/m.gguf", "https://models.example/a/", False),
        ("https://models.example/a/%2e%2e/b/m.gguf", "https://models.example/a/", False),
        ("https://models.example/a/%252e%252e/b/m.gguf", "https://models.example/a/", False),
        ("https://models.example/a/..%2fb/m.gguf", "https://models.example/a/", False),
        ("https://models.example/a/./m.gguf", "https://models.example/a/", False),
        ("https://models.example/a//m.gguf", "https://models.example/a/", False),
        ("https://models.example.evil/a/m.gguf", "https://models.example", False),
        ("https://models.example:8443/a/m.gguf", "https://models.example/", False),
        ("pvc://weights/llama", "pvc://weights/", True),
        ("pvc://weights-of-others/llama", "pvc://weights", False),
        ("file:///models/a.gguf", "file:///models/", True),
        ("file:///etc/passwd", "file:///models/", False),
    ],
)
def test_sources(source, entry, allowed):
    assert source_allowed(source, [entry]) is allowed


@given(st.text(alphabet="./%2eEfF\\ab", max_size=24))
def test_no_path_leads_out_of_what_is_allowed(path):
    from posixpath import normpath
    from urllib.parse import unquote

    source = f"https://h/a/{path}"
    if source_allowed(source, ["https://h/a/"]):
        text = source.removeprefix("https://h")
        for _ in range(6):
            assert normpath(text).startswith("/a")
            text = unquote(text)


@pytest.mark.parametrize(
    ("image", "entry", "allowed"),
    [
        ("allowed.example/team/engine:1", "allowed.example/team/", True),
        ("allowed.example/team/engine:1", "allowed.example/team/engine:1", True),
        ("allowed.example/team/engine:2", "allowed.example/team/engine:1", False),
        ("allowed.example/team-evil/engine:1", "allowed.example/team", False),  # no boundary
        ("allowed.example/team/engine-evil", "allowed.example/team/engine", False),
        ("allowed.example.evil/engine", "allowed.example", False),
        ("allowed.example:5000/engine", "allowed.example/", False),
        ("allowed.example/../evil/engine", "allowed.example/", False),
        ("Allowed.Example/engine", "allowed.example/", False),
        ("allowed.example/Engine:1", "allowed.example/", False),
        ("allowed.example/evil@sha256", "allowed.example/", False),
        ("allowed.example/evil@sha256:abcd", "allowed.example/", False),
        ("allowed.example/evil@sha512:" + "ab" * 64, "allowed.example/", False),
        ("allowed.example/engine:1\nevil", "allowed.example/", False),
        (" allowed.example/engine:1", "allowed.example/", False),
        ("allowed.example/a@evil/b", "allowed.example/", False),
        (f"anywhere.example/engine@{DIGEST}", DIGEST, True),
        (f"anywhere.example/engine:1@{DIGEST}", DIGEST, True),
        (f"anywhere.example/{DIGEST}", DIGEST, False),
        (f"anywhere.example/engine:{DIGEST[7:]}", DIGEST, False),
        (f"anywhere.example/engine@{DIGEST}0", DIGEST, False),
        (DIGEST, DIGEST, False),
    ],
)
def test_images(image, entry, allowed):
    assert image_allowed(image, [entry]) is allowed


def test_sources_of_adapters_and_drafts_count_as_the_models():
    offer = {"allowedSources": ["hf://org/"]}
    assert passes(offer)
    assert "model.source hf://evil/x; allowed are hf://org/" in denied(offer, model={"source": "hf://evil/x"})
    adapters = [{"name": "a", "source": "hf://org/a"}, {"name": "b", "source": "hf://evil/b"}]
    assert "model.adapters[b].source" in denied(offer, model={"source": "hf://org/x", "adapters": adapters})
    draft = {"speculative": {"method": "draft", "draftSource": "hf://evil/d"}}
    assert "engine.speculative.draftSource" in denied(offer, engine=draft)
    assert "model.source" in denied({"allowedSources": []})


@pytest.mark.parametrize("revision", ["refs/pr/1", "Refs/PR/1", "refs/convert/parquet"])
def test_what_anybody_proposed_to_an_allowed_repository_is_not_allowed(revision):
    model = {"source": "hf://org/x", "revision": revision}
    assert "which anybody may have proposed" in denied({"allowedSources": ["hf://org/"]}, model=model)
    assert passes({}, model=model)
    adapter = {"name": "a", "source": "hf://org/a", "revision": revision}
    asked = {"source": "hf://org/x", "adapters": [adapter]}
    assert "model.adapters[a].revision" in denied({"allowedSources": ["hf://org/"]}, model=asked)
    draft = {"speculative": {"method": "draft", "draftSource": "hf://org/d", "draftRevision": revision}}
    assert "engine.speculative.draftRevision" in denied({"allowedSources": ["hf://org/"]}, engine=draft)


def test_images_of_the_class_need_no_permission():
    offer = {"allowedImages": [], "defaults": {"engine": {"image": "allowed.example/engine:1"}}}
    assert passes(offer).spec.engine.image == "allowed.example/engine:1"
    assert passes(offer, engine={"image": "allowed.example/engine:1"})
    assert "engine.image evil.example/x" in denied(offer, engine={"image": "evil.example/x"})


def test_the_environment_is_closed_however_it_is_written():
    for entry in (
        {"name": "A", "value": "b"},
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}},
    ):
        assert "podTemplate.env (allow.env)" in denied({}, podTemplate={"env": [entry]})
        assert passes({"allow": {"env": True}}, podTemplate={"env": [entry]})
    assert passes({}, podTemplate={"env": []})


@pytest.mark.parametrize(
    "name",
    [
        "HF_ENDPOINT",
        "https_proxy",
        "HTTP_PROXY",
        "SSL_CERT_FILE",
        "all_proxy",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "aws_default_region",
        "HUGGINGFACE_CO_STAGING",
    ],
)
def test_an_open_environment_does_not_lead_fetches_elsewhere(name):
    offer = {"allow": {"env": True}, "allowedSources": ["hf://org/"]}
    entry = {"name": name, "value": "http://evil"}
    assert f"podTemplate.env {name}" in denied(offer, podTemplate={"env": [entry]})
    assert passes({"allow": {"env": True}}, podTemplate={"env": [entry]})


@pytest.mark.parametrize("name", ["LD_PRELOAD", "ld_audit", "PYTHONPATH", "PYTHONSTARTUP", "VLLM_PLUGINS"])
def test_no_code_but_the_engines_comes_in_by_a_variable(name):
    entry = {"name": name, "value": "/models/model.safetensors"}
    assert f"podTemplate.env {name}" in denied({"allow": {"env": True}}, podTemplate={"env": [entry]})
    assert passes({"allow": {"env": True, "remoteCode": True}}, podTemplate={"env": [entry]})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", {"a": "b"}),
        ("annotations", {"a": "b"}),
        ("nodeSelector", {"a": "b"}),
        ("tolerations", [{"operator": "Exists"}]),
        ("affinity", {"nodeAffinity": {}}),
        ("topologySpreadConstraints", [{"maxSkew": 1}]),
        ("priorityClassName", "system-node-critical"),
        ("runtimeClassName", "other"),
        ("schedulerName", "other"),
        ("serviceAccountName", "powerful"),
        ("imagePullSecrets", ["s"]),
        ("volumes", [{"name": "v", "secret": {"secretName": "s"}}]),
    ],
)
def test_fields_of_the_pod_are_closed_one_by_one(field, value):
    assert f"podTemplate.{field} (allow.podTemplate)" in denied({}, podTemplate={field: value})
    others = {"allow": {"podTemplate": ["labels" if field != "labels" else "affinity"]}}
    assert f"podTemplate.{field}" in denied(others, podTemplate={field: value})
    assert passes({"allow": {"podTemplate": [field]}}, podTemplate={field: value})


def test_every_field_of_the_pod_is_either_closed_or_known_to_be_free():
    from slipway_api.v1alpha1 import PodTemplateSpec
    from slipway_api.v1alpha1.llmclass import PodField

    closed = set(PodField.__args__)
    assert {f.alias for f in PodTemplateSpec.model_fields.values()} - closed == {
        "resources",
        "env",
        "volumeMounts",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trust-remote-code"],
        ["--trust_remote_code"],
        ["--trust-remote-code=true"],
        ["--TRUST-REMOTE-CODE"],
        ["--trust-rem"],
        ["--tru"],
        [" --trust-remote-code"],
        ["--dtype", "auto", "--trust-remote-code"],
    ],
)
def test_remote_code_does_not_come_in_by_an_argument(arguments):
    assert "engine.extraArgs (allow.extraArgs)" in denied({}, engine={"extraArgs": arguments})
    opened = {"allow": {"extraArgs": True}}
    assert "allow.remoteCode" in denied(opened, engine={"runtime": "vllm", "extraArgs": arguments})
    both = {"allow": {"extraArgs": True, "remoteCode": True}}
    assert passes(both, engine={"runtime": "vllm", "extraArgs": arguments})


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--max-model-len=1000000", "own fields set"),
        ("--max_num_seqs", "own fields set"),
        ("-tp8", "own fields set"),
        ("-tp", "own fields set"),
        ("--served-model-name", "own fields set"),
        ("--port", "own fields set"),
        ("--no-enable-prefix-caching", "own fields set"),
        ("--disable-prefix-caching", "own fields set"),
        ("-q", "allowedSources"),
        ("-n2", "own fields set"),
        ("-sc", "allowedSources"),
        ("-sc.model", "allowedSources"),
        ("-cc={}", "allowedSources"),
        ("-s", "write the long one"),
        ("-dpn", "write the long one"),
        ("$(ANY)", "write its value"),
        ("--seed=$(ANY)", "write its value"),
        ("$$$(ANY)", "write its value"),
        ("--tokenizer", "allowedSources"),
        ("--tokeni", "allowedSources"),
        ("--lora-modules", "allowedSources"),
        ("--speculative-config.model", "allowedSources"),
        ("--config=/tmp/x", "allowedSources"),
        ("--hf-overrides", "allowedSources"),
        ("--spec-model", "allowedSources"),
        ("--generation-config", "allowedSources"),
        ("--default-mm-loras", "allowedSources"),
    ],
)
def test_arguments_do_not_say_what_fields_and_lists_limit(argument, says):
    offer = {"allow": {"extraArgs": True}, "allowedSources": ["hf://org/"]}
    assert says in denied(offer, engine={"runtime": "vllm", "extraArgs": [argument]})


@pytest.mark.parametrize(
    ("runtime", "argument"),
    [
        *(
            ("vllm", word)
            for word in ("--middleware=a.b", "--worker-cls", "--worker_extension_cls", "--tool-parser-plugin")
        ),
        *(
            ("vllm", word)
            for word in ("--logits-processors", "--scheduler-cls", "--logging-config", "--log-config-file")
        ),
        *(
            ("sglang", word)
            for word in ("--sidecar", "--forward-hooks", "--custom-weight-loader", "--warmups")
        ),
        ("sglang", "--enable-custom-logit-processor"),
    ],
)
def test_no_code_but_the_engines_comes_in_by_an_argument(runtime, argument):
    engine = {"runtime": runtime, "extraArgs": [argument]}
    assert "allow.remoteCode" in denied({"allow": {"extraArgs": True}}, engine=engine)
    assert passes({"allow": {"extraArgs": True, "remoteCode": True}}, engine=engine)


@pytest.mark.parametrize(
    "argument", ["--lora-paths", "--kt-weight-path", "--uno-lora-path", "--model", "--speculative-token-map"]
)
def test_no_other_files_come_in_by_an_argument_of_sglang(argument):
    engine = {"runtime": "sglang", "extraArgs": [argument]}
    assert "allowedSources" in denied(
        {"allow": {"extraArgs": True}, "allowedSources": ["hf://org/"]}, engine=engine
    )


def test_ordinary_arguments_pass_where_they_are_open():
    arguments = [
        "--dtype",
        "bfloat16",
        "-O3",
        "-O.level=3",
        "$$(X)",
        "--seed",
        "-1",
        "--enforce-eager",
        "--trace-name=x",
    ]
    assert passes(
        {"allow": {"extraArgs": True}, "allowedSources": ["hf://org/"]}, engine={"extraArgs": arguments}
    )


def test_runtimes_accelerators_remote_code_and_queries():
    custom = {"runtime": "custom", "custom": {"args": ["--x"]}}
    assert "allow.customRuntime" in denied({}, engine=custom)
    assert "allow.customRuntime" in denied({"allowedRuntimes": ["custom"]}, engine=custom)
    assert passes({"allow": {"customRuntime": True}}, engine=custom)
    opened = {"allowedRuntimes": ["vllm"], "allow": {"customRuntime": True}}
    assert "engine.runtime custom; allowed are vllm" in denied(opened, engine=custom)
    assert "engine.runtime slipway; allowed are vllm" in denied({"allowedRuntimes": ["vllm"]})
    assert "accelerator.type cpu; allowed" in denied({"allowedAccelerators": ["nvidia-l4-24gb"]})
    assert "model.trustRemoteCode" in denied({}, model={"source": "hf://a/b", "trustRemoteCode": True})
    metrics = {"maxReplicas": 2, "metrics": [{"type": "Prometheus", "target": "1", "query": "up"}]}
    assert "allow.prometheusQueries" in denied({}, autoscaling=metrics)


@pytest.mark.parametrize(
    ("ceiling", "spec", "says"),
    [
        ({"replicas": 2}, {"replicas": 3}, "replicas 3, above the ceiling of 2"),
        ({"replicas": 2}, {"replicas": 1, "autoscaling": {"maxReplicas": 9}}, "autoscaling.maxReplicas 9"),
        ({"maxModelLen": 4096}, {"engine": {"maxModelLen": 8192}}, "engine.maxModelLen 8192"),
        ({"maxNumSeqs": 4}, {"engine": {"maxNumSeqs": 8}}, "engine.maxNumSeqs 8"),
        ({"drainSeconds": 60}, {"rollout": {"drainSeconds": 61}}, "rollout.drainSeconds 61"),
        (
            {"acceleratorsPerReplica": 2},
            {"accelerator": {"type": "nvidia-l4-24gb"}, "parallelism": {"tensor": 2, "pipeline": 2}},
            "parallelism 4",
        ),
        (
            {"acceleratorsPerReplica": 0},
            {"accelerator": {"type": "nvidia-l4-24gb"}},
            "parallelism 1, above the ceiling of 0",
        ),
        (
            {"acceleratorsPerReplica": 1},
            {"podTemplate": {"resources": {"limits": {"nvidia.com/gpu": "64"}}}},
            "podTemplate.resources.limits",
        ),
        (
            {"acceleratorsPerReplica": 1},
            {"podTemplate": {"resources": {"limits": {"nvidia.com/mig-1g.5gb": 1, "amd.com/gpu": 1}}}},
            "podTemplate.resources.limits",
        ),
        (
            {"memory": "4Gi"},
            {"podTemplate": {"resources": {"limits": {"memory": "4097Mi"}}}},
            "limits.memory 4097Mi, above the ceiling of 4Gi",
        ),
        (
            {"memory": "4Gi"},
            {"podTemplate": {"resources": {"requests": {"memory": "5e9"}}}},
            "requests.memory",
        ),
        ({"cpu": "2"}, {"podTemplate": {"resources": {"requests": {"cpu": "2001m"}}}}, "requests.cpu 2001m"),
        (
            {"cacheSize": "10Gi"},
            {"model": {"source": "hf://a/b", "cache": {"size": "11Gi"}}},
            "model.cache.size",
        ),
        (
            {"adapters": 0},
            {"model": {"source": "hf://a/b", "adapters": [{"name": "a", "source": "hf://a/b"}]}},
            "model.adapters 1",
        ),
    ],
)
def test_ceilings(ceiling, spec, says):
    assert says in denied({"ceilings": ceiling}, **spec)


def test_what_is_at_the_ceiling_passes():
    offer = {"ceilings": {"replicas": 2, "memory": "4Gi", "acceleratorsPerReplica": 0}}
    assert passes(offer, replicas=2, podTemplate={"resources": {"limits": {"memory": "4096Mi"}}})


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"source": "pvc://claim/m"}, "mounted as it is"),
        ({"source": "file:///models/m.gguf"}, "mounted as it is"),
        ({"source": "oci://h/b:1", "cache": {"mode": "Image"}}, "the kubelet verifies no signature"),
    ],
)
def test_signatures_that_nobody_checks_are_no_signatures(model, says):
    key = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"
    assert says in denied({"signatures": {"publicKeys": [key]}}, model=model)


def test_all_that_is_denied_is_said_at_once_and_no_more_than_three_sentences():
    message = denied(
        {},
        engine={"extraArgs": ["x"]},
        podTemplate={"labels": {"a": "b"}, "env": [], "affinity": {"a": 1}, "schedulerName": "x"},
    )
    assert message.startswith("class standard does not allow: engine.extraArgs")
    assert message.endswith("and 1 more")


@pytest.mark.parametrize("classes", [{}, class_of(default=True, allow={"podTemplate": ["volumes"]})])
def test_a_projected_token_is_refused_with_and_without_a_class(classes):
    sources = [{"configMap": {"name": "a"}}, {"serviceAccountToken": {"path": "t"}}]
    spec = spec_of(podTemplate={"volumes": [{"name": "v", "projected": {"sources": sources}}]})
    assert "service account token" in str(refused(spec, classes))


JUDGED = {
    "allowedSources": {"model.source", "model.revision", "model.adapters", "engine.speculative"},
    "allowedImages, allowedRuntimes, allow.customRuntime": {
        "engine.image", "engine.runtime", "engine.custom",
    },
    "allow": {"model.trustRemoteCode", "engine.extraArgs", "autoscaling.metrics", "podTemplate"},
    "allowedAccelerators": {"accelerator.type"},
    "ceilings": {
        "replicas", "autoscaling.maxReplicas", "parallelism.tensor", "parallelism.pipeline",
        "engine.maxModelLen", "engine.maxNumSeqs", "rollout.drainSeconds", "model.cache.size",
    },
    "signatures": {"model.cache.mode"},
}  # fmt: skip
FREE = {
    "className", "suspend", "slo", "routing", "quantization",
    # A credential is of the same namespace, and shown to the operator's own image alone.
    "model.servedNames", "model.credentials",
    "model.cache.storageClassName", "model.cache.accessMode", "model.cache.retainSeconds",
    # Within what ceilings leave: never more pods than twice the replicas, never more memory than the limit.
    "engine.maxBatchTokens", "engine.memoryPercent", "engine.prefixCaching", "parallelism.expert",
    "accelerator.mig", "accelerator.capacity",
    "autoscaling.minReplicas", "autoscaling.spareReplicas", "autoscaling.fallbackReplicas",
    "autoscaling.idleSeconds", "autoscaling.behavior", "autoscaling.schedules",
    "rollout.maxSurge", "rollout.maxUnavailable", "rollout.progressDeadlineSeconds", "rollout.paused",
    "rollout.canary", "rollout.upgradePolicy", "rollout.restartToken",
}  # fmt: skip


def leaves(model, above=""):
    """Yield the path of every field that a user can write."""

    def specs(annotation):
        if isinstance(annotation, type) and issubclass(annotation, Spec):
            return [annotation]
        return [found for part in typing.get_args(annotation) for found in specs(part)]

    for field in model.model_fields.values():
        inner = specs(field.annotation)
        for each in inner:
            yield from leaves(each, f"{above}{field.alias}.")
        if not inner:
            yield f"{above}{field.alias}"


def test_every_field_is_judged_by_a_class_or_known_to_be_free():
    """A new field has to be put on one of the two lists, and thereby thought about."""
    known = FREE.union(*JUDGED.values())
    covered = {
        path: {k for k in known if path == k or path.startswith(f"{k}.")}
        for path in leaves(LLMDeploymentSpec)
    }
    assert {path for path, by in covered.items() if len(by) != 1} == set()
    assert known == set().union(*covered.values()), "no list names what is no field"
