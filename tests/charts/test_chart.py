"""The chart renders what the operator needs, and nothing it must not have."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.helm import ensure_helm

from slipway_api import names
from slipway_api.v1alpha1 import LLMDeployment
from slipway_operator import kinds, lease
from slipway_operator.settings import parse_settings
from slipway_operator.signals import holds

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "slipway"
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

Object = dict[str, Any]
Render = Callable[..., list[Object]]
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def helm() -> Helm:
    program = ensure_helm()

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], text=True, capture_output=True, check=False, timeout=60)

    return call


@pytest.fixture
def render(helm: Helm) -> Render:
    def call(*settings: str, release: str = "slipway") -> list[Object]:
        words = [word for setting in settings for word in ("--set-json", setting)]
        done = helm("template", release, str(CHART), "--namespace", "slipway-system", *words)
        assert done.returncode == 0, done.stderr
        return [doc for doc in yaml.safe_load_all(done.stdout) if doc]

    return call


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [obj for obj in objects if obj["kind"] == kind]


def one(objects: list[Object], kind: str) -> Object:
    found = of_kind(objects, kind)
    assert len(found) == 1, [obj["metadata"]["name"] for obj in found]
    return found[0]


def container_of(objects: list[Object]) -> Object:
    containers = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert len(containers) == 1
    container: Object = containers[0]
    return container


def test_lint_is_clean(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


class TestCrd:
    def test_the_charts_copy_is_the_generated_one(self) -> None:
        assert len(CRDS) == 2
        for crd in CRDS:
            assert (CHART / "files" / crd.name).read_bytes() == crd.read_bytes(), "run `make generate`"

    def test_is_rendered_whole_and_kept_on_uninstall(self, render: Render) -> None:
        objects = render()
        for crd in CRDS:
            expected = yaml.safe_load(crd.read_text(encoding="utf-8"))
            rendered = one_named(objects, "CustomResourceDefinition", expected["metadata"]["name"])
            assert rendered["metadata"].pop("annotations")["helm.sh/resource-policy"] == "keep"
            expected["metadata"].pop("annotations", None)
            assert rendered == expected

    def test_can_be_left_to_somebody_else(self, render: Render) -> None:
        assert not of_kind(render('crds={"install":false}'), "CustomResourceDefinition")


class TestValues:
    def test_every_value_has_a_schema_with_a_description(self) -> None:
        for path, schema in fields(SCHEMA):
            assert schema.get("description"), path
        assert {path for path, _ in leaves(VALUES)} <= {path for path, _ in fields(SCHEMA)}

    def test_every_property_of_the_schema_is_a_value_that_can_be_read(self) -> None:
        known = {
            path
            for path, schema in fields(SCHEMA)
            if "properties" not in schema or path.endswith(".resources")
        }
        assert known - {path for path, _ in leaves(VALUES)} == {"global"}

    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ('operator={"replica":2}', "replica"),
            ('operator={"replicas":"two"}', "operator.replicas"),
            ('operator={"replicas":-1}', "operator.replicas"),
            ('image={"pullPolicy":"Sometimes"}', "image.pullPolicy"),
            ('image={"registry":"Registry.Example/Team"}', "image.registry"),
            ('watchNamespaces=["Team_A"]', "watchNamespaces"),
            ('watchNamespaces=["a","a"]', "watchNamespaces"),
            ('operator={"image":"x y"}', "operator.image"),
            ('operator={"resources":{"limit":{}}}', "limit"),
            ('serviceAccount={"create":false}', "name an existing account in serviceAccount.name"),
        ],
    )
    def test_a_wrong_one_is_refused_by_its_name(self, helm: Helm, setting: str, said: str) -> None:
        done = helm("template", "slipway", str(CHART), "--set-json", setting)
        assert done.returncode != 0
        assert said in done.stderr.replace("/", ".")


class TestImages:
    def test_come_from_the_registry_at_the_charts_version(self, render: Render) -> None:
        version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
        container = container_of(render('image={"registry":"registry.example/team"}'))
        assert container["image"] == f"registry.example/team/operator:{version}"
        assert environment(container)["SLIPWAY_ENGINE_IMAGE"] == f"registry.example/team/engine:{version}"

    def test_take_one_tag(self, render: Render) -> None:
        container = container_of(render('image={"tag":"0123456789ab"}'))
        assert container["image"].endswith("/operator:0123456789ab")
        assert environment(container)["SLIPWAY_ENGINE_IMAGE"].endswith("/engine:0123456789ab")

    def test_can_be_named_one_by_one(self, render: Render) -> None:
        digest = f"registry.example:5000/x@sha256:{'0' * 64}"
        container = container_of(
            render('operator={"image":"localhost/slipway/operator:1a"}', f'engine={{"image":"{digest}"}}')
        )
        assert container["image"] == "localhost/slipway/operator:1a"
        assert environment(container)["SLIPWAY_ENGINE_IMAGE"] == digest

    def test_are_never_pulled_again_by_default(self, render: Render) -> None:
        assert container_of(render())["imagePullPolicy"] == "IfNotPresent"


class TestDeployment:
    def test_satisfies_the_restricted_pod_security_level(self, render: Render) -> None:
        pod = one(render(), "Deployment")["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        inner = pod["containers"][0]["securityContext"]
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume] == ["tmp"]

    def test_starts_the_operator_with_arguments_it_takes(self, render: Render) -> None:
        container = container_of(
            render('watchNamespaces=["b","a"]', 'operator={"logLevel":"debug","workers":3}')
        )
        settings = parse_settings(
            container["args"], {"POD_NAME": "p", "POD_NAMESPACE": "n", **environment(container)}
        )
        assert settings.namespaces == ("a", "b")
        assert settings.log_level == "DEBUG"
        assert settings.workers == 3
        assert settings.lease_namespace == "n"
        assert settings.engine_image == environment(container)["SLIPWAY_ENGINE_IMAGE"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"health": settings.health_port, "metrics": settings.metrics_port}

    def test_is_probed_where_the_operator_answers(self, render: Render) -> None:
        container = container_of(render())
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert probes["startup"] == probes["liveness"] == {"path": "/healthz", "port": "health"}
        assert probes["readiness"] == {"path": "/readyz", "port": "health"}

    def test_its_selector_finds_its_pods_and_no_other_release(self, render: Render) -> None:
        first, second = (one(render(release=name), "Deployment") for name in ("slipway", "canary"))
        labels = first["spec"]["template"]["metadata"]["labels"]
        assert first["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert not second["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert first["metadata"]["name"] == "slipway-operator"

    @pytest.mark.parametrize(("replicas", "budgets"), [(0, 0), (1, 0), (2, 1)])
    def test_has_a_budget_when_there_is_something_to_keep(
        self, render: Render, replicas: int, budgets: int
    ) -> None:
        found = of_kind(render(f'operator={{"replicas":{replicas}}}'), "PodDisruptionBudget")
        assert len(found) == budgets


class TestGatewayPoll:
    def test_the_operator_asks_this_releases_gateway_with_a_token_of_its_own(self, render: Render) -> None:
        objects = render('gateway={"enabled":true}')
        pod = one_named(objects, "Deployment", "slipway-operator")["spec"]["template"]["spec"]
        settings = parse_settings(pod["containers"][0]["args"], {})
        assert settings.gateway == kinds.Key("slipway-system", "slipway-gateway-metrics")
        service = one_named(objects, "Service", settings.gateway.name)
        assert holds.PORT_NAME in {port["name"] for port in service["spec"]["ports"]}
        (volume,) = [each for each in pod["volumes"] if each["name"] == "gateway-token"]
        (source,) = volume["projected"]["sources"]
        assert source["serviceAccountToken"]["audience"] == "slipway-gateway"
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "gateway-token"]
        assert f"{mount['mountPath']}/{source['serviceAccountToken']['path']}" == str(settings.gateway_token)

    def test_may_list_where_gateways_are_and_nothing_else(self, render: Render) -> None:
        role = one_named(render('gateway={"enabled":true}'), "Role", "slipway-operator-gateways")
        assert granted(role["rules"]) == {
            ("discovery.k8s.io", "endpointslices"): set(kinds.rights_on(kinds.ENDPOINT_SLICE))
        }

    def test_another_releases_gateway_can_be_named(self, render: Render) -> None:
        objects = render('operator={"gatewayService":"edge/edge-gateway-metrics"}')
        role = one_named(objects, "Role", "slipway-operator-gateways")
        assert role["metadata"]["namespace"] == "edge"

    def test_without_a_gateway_there_is_neither(self, render: Render) -> None:
        objects = render()
        assert parse_settings(container_of(objects)["args"], {}).gateway is None
        assert not [
            role for role in of_kind(objects, "Role") if role["metadata"]["name"].endswith("-gateways")
        ]


class TestPrometheus:
    def test_its_connection_reaches_the_operator_as_it_is_parsed(self, render: Render) -> None:
        own = {"url": "https://prom:9090", "caConfigMap": "ca", "tokenSecret": "prom", "tenant": "blue"}
        objects = render(f"prometheus={json.dumps(own)}")
        found = parse_settings(["run"], environment(container_of(objects))).prometheus
        assert found is not None
        assert (found.url, found.tenant, found.fresh_seconds) == ("https://prom:9090", "blue", 90)
        mounts = {mount["mountPath"] for mount in container_of(objects)["volumeMounts"]}
        files = (found.ca_file, found.token_file)
        assert {str(file.parent) for file in files if file is not None} < mounts

    def test_without_one_the_pods_are_asked(self, render: Render) -> None:
        assert parse_settings(["run"], environment(container_of(render()))).prometheus is None

    def test_the_operators_own_token_can_be_sent(self, render: Render) -> None:
        objects = render('prometheus={"url":"http://prom","serviceAccountToken":true}')
        found = parse_settings(["run"], environment(container_of(objects))).prometheus
        assert found is not None
        assert str(found.token_file) == "/var/run/secrets/kubernetes.io/serviceaccount/token"


class TestCatalogue:
    def test_reaches_the_operator_as_it_is_parsed(self, render: Render) -> None:
        own = {"nvidia-l4-24gb": {"pricePerHour": 0.41}}
        objects = render(f"catalogue={json.dumps(own)}")
        written = one(objects, "ConfigMap")
        source = next(e for e in container_of(objects)["env"] if e["name"] == "SLIPWAY_CATALOGUE")
        reference = source["valueFrom"]["configMapKeyRef"]
        assert reference["optional"] is True
        assert reference["name"] == written["metadata"]["name"]
        text = written["data"][reference["key"]]
        settings = parse_settings(["run"], {"SLIPWAY_CATALOGUE": text})
        assert settings.installation.catalogue["nvidia-l4-24gb"].price_per_hour == Decimal("0.41")

    def test_is_not_needed(self, render: Render) -> None:
        assert not of_kind(render(), "ConfigMap")

    def test_stops_the_operator_where_it_is_wrong(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parse_settings(["run"], {"SLIPWAY_CATALOGUE": '{"npu": {}}'})
        assert "lacks resource" in capsys.readouterr().err


class TestRights:
    def test_cover_what_the_operator_calls_and_nothing_else(self, render: Render) -> None:
        rules = one_named(render(), "ClusterRole", "slipway-operator")["rules"]
        classes = {(names.GROUP, names.CLASS_PLURAL): {"get", "list", "watch"}}
        assert granted(rules) == dict(expected_rights()) | classes

    def test_hold_nothing_on_secrets_and_no_wildcard(self, render: Render) -> None:
        for role in (*of_kind(render(), "ClusterRole"), *of_kind(render(), "Role")):
            for rule in role["rules"]:
                words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
                assert "*" not in words
                assert "secrets" not in words
                assert not {"escalate", "bind", "impersonate"} & set(words)

    def test_the_lease_is_the_operators_own(self, render: Render) -> None:
        role = one_named(render(), "Role", "slipway-operator-leader")
        assert role["metadata"]["namespace"] == "slipway-system"
        named = [rule for rule in role["rules"] if "resourceNames" in rule]
        assert [rule["resourceNames"] for rule in named] == [[lease.LEASE_NAME]]
        verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
        assert verbs == kinds.rights_on(kinds.LEASE)

    def test_stay_in_the_namespaces_that_are_served(self, render: Render) -> None:
        objects = render('watchNamespaces=["team-a","team-b"]', "watchClasses=false")
        assert not of_kind(objects, "ClusterRole")
        assert not of_kind(objects, "ClusterRoleBinding")
        assert not parse_settings(container_of(objects)["args"], {}).classes
        roles = [role for role in of_kind(objects, "Role") if role["metadata"]["name"] == "slipway-operator"]
        assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
        for role in roles:
            assert granted(role["rules"]) == dict(expected_rights(kinds.WATCHED_WITHOUT_CLASSES))

    @pytest.mark.parametrize("classes", [True, False])
    @pytest.mark.parametrize("namespaces", ["[]", '["team-a"]'])
    def test_reach_beyond_the_namespaces_for_classes_alone(
        self, render: Render, namespaces: str, classes: bool
    ) -> None:
        objects = render(f"watchNamespaces={namespaces}", f"watchClasses={json.dumps(classes)}")
        settings = parse_settings(container_of(objects)["args"], {})
        own = ("ClusterRole", "Role"), ("slipway-operator",)
        roles = [o for o in objects if o["kind"] in own[0] and o["metadata"]["name"] in own[1]]
        rights = {key: verbs for role in roles for key, verbs in granted(role["rules"]).items()}
        assert rights == dict(expected_rights(settings.watched)), "what is watched is what is granted"
        wide = {key for role in of_kind(roles, "ClusterRole") for key in granted(role["rules"])}
        if namespaces != "[]":
            assert wide == ({(names.GROUP, names.CLASS_PLURAL)} if classes else set())

    def test_bind_the_account_that_the_pods_use(self, render: Render) -> None:
        objects = render()
        account = one(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
        assert one(objects, "ServiceAccount")["metadata"]["name"] == account
        for binding in (*of_kind(objects, "ClusterRoleBinding"), *of_kind(objects, "RoleBinding")):
            assert binding["subjects"] == [
                {"kind": "ServiceAccount", "name": account, "namespace": "slipway-system"}
            ]

    def test_users_get_theirs_by_aggregation(self, render: Render) -> None:
        roles = {role["metadata"]["name"]: role for role in of_kind(render(), "ClusterRole")}
        assert set(roles) == {"slipway-operator", "slipway-viewer", "slipway-editor"}
        view = granted(roles["slipway-viewer"]["rules"])
        assert set().union(*view.values()) == {"get", "list", "watch"}
        none = render('rbac={"aggregate":false}')
        assert [role["metadata"]["name"] for role in of_kind(none, "ClusterRole")] == ["slipway-operator"]


def test_the_notes_show_an_object_that_the_schema_takes(helm: Helm, tmp_path: Path) -> None:
    chart = tmp_path / "slipway"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "notes.yaml").write_text(
        'kind: Notes\ntext: {{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}\n'
    )
    done = helm(
        "template",
        "slipway",
        str(chart),
        "-s",
        "templates/notes.yaml",
        "--set-json",
        'watchNamespaces=["team-a"]',
    )
    assert done.returncode == 0, done.stderr
    notes: str = yaml.safe_load(done.stdout)["text"]
    shown = yaml.safe_load(notes.partition("<<EOF\n")[2].partition("  EOF")[0])
    LLMDeployment.model_validate(shown)
    assert shown["metadata"]["namespace"] == "team-a"
    assert "helm uninstall" in notes


def one_named(objects: list[Object], kind: str, name: str) -> Object:
    return next(obj for obj in of_kind(objects, kind) if obj["metadata"]["name"] == name)


def environment(container: Object) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def granted(rules: list[Object]) -> dict[tuple[str, str], set[str]]:
    """The verbs by (group, resource)."""
    return {
        (group, resource): set(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def expected_rights(
    watched: tuple[kinds.Kind, ...] = kinds.WATCHED,
) -> Iterator[tuple[tuple[str, str], set[str]]]:
    """The verbs beyond which the operator's client refuses to ask, whatever the code wants."""
    for kind in (*watched, kinds.EVENT):
        yield (kind.group, kind.plural), set(kinds.rights_on(kind))
    yield (names.GROUP, f"{names.PLURAL}/status"), set(kinds.rights_on(kinds.PARENT, "status"))


def fields(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every property of a schema by its path, apart from the contents of Kubernetes' own types."""
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}".removeprefix(".")
        yield here, child
        if name != "resources":
            yield from fields(child, here)


def leaves(values: Object, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        here = f"{path}.{name}".removeprefix(".")
        if isinstance(value, dict) and value and name != "resources":
            yield from leaves(value, here)
        else:
            yield here, value
