"""What Argo CD and kstatus make of the statuses that the operator writes: the same, for every state there is.

The health check runs in Lua 5.1 with what Argo CD leaves of the language: no `string`, no `math`, no `io`,
one second. Argo CD itself runs it in another interpreter of the same language.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lupa.lua51 import LuaError, LuaRuntime

from slipway_api.conditions import Reason
from slipway_operator.explain.findings import Finding
from slipway_operator.plan import Refusal
from slipway_operator.status.conditions import Verdict


def _cases() -> Any:
    path = Path(__file__).with_name("cases.py")
    spec = importlib.util.spec_from_file_location("gitops_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


cases = _cases()
HEALTH = (cases.CUSTOMIZATION / "health.lua").read_text()
CASES = cases.cases()

# What Argo CD's sandbox leaves out, and an end to loops: about a second of instructions.
SANDBOX = """
debug.sethook(function() error("it takes too long") end, "", 10000000)
getmetatable("").__index = nil
for _, name in ipairs({"string", "math", "io", "debug", "coroutine", "python", "os"}) do _G[name] = nil end
"""


def lua() -> LuaRuntime:
    """Return an interpreter with what Argo CD gives a health check."""
    runtime = LuaRuntime(register_eval=False, register_builtins=False)
    runtime.execute(SANDBOX)
    return runtime


def health(obj: dict[str, Any]) -> tuple[str, str]:
    """Run the health check."""
    runtime = lua()
    runtime.globals().obj = runtime.table_from(obj, recursive=True)
    found = runtime.execute(HEALTH)
    return found["status"], found["message"]


def kstatus(obj: dict[str, Any]) -> str:
    """Return the state by the rules of kstatus (sigs.k8s.io/cli-utils, pkg/kstatus): what Flux waits for."""
    status = obj.get("status")
    if status is None:
        # Custom resources without a status are Current by the rules; Flux, and we, wait for a generation.
        return "InProgress"
    if status["observedGeneration"] != obj["metadata"]["generation"]:
        return "InProgress"
    by_type = {one["type"]: one["status"] for one in status["conditions"]}
    if by_type.get("Reconciling") == "True":
        return "InProgress"
    if by_type.get("Stalled") == "True":
        return "Failed"
    return "Current" if by_type["Ready"] == "True" else "InProgress"


AGREES = {
    "Healthy": {"Current"},
    "Suspended": {"Current"},
    "Degraded": {"Failed"},
    "Progressing": {"InProgress"},
}


def test_the_test_data_is_what_the_operator_writes_now() -> None:
    found = {path.stem: yaml.safe_load(path.read_text()) for path in cases.CUSTOMIZATION.glob("testdata/*")}
    assert found == CASES, "run `python tests/gitops/cases.py`"
    written = yaml.safe_load((cases.CUSTOMIZATION / "health_test.yaml").read_text())
    assert written == cases.expected(), "run `python tests/gitops/cases.py`"


@pytest.mark.parametrize("case", cases.expected()["tests"], ids=lambda case: case["inputPath"])
def test_each_state_has_its_health(case: dict[str, Any]) -> None:
    obj = yaml.safe_load((cases.CUSTOMIZATION / case["inputPath"]).read_text())
    assert health(obj) == (case["healthStatus"]["status"], case["healthStatus"]["message"])


@pytest.mark.parametrize("name", CASES)
def test_kstatus_agrees_case_by_case(name: str) -> None:
    assert kstatus(CASES[name]) in AGREES[name.split("_")[0].capitalize()]


findings = st.builds(Finding, st.sampled_from(Reason), st.text(max_size=20), on_the_way=st.booleans())
verdicts = st.builds(
    Verdict,
    refusal=st.none() | st.builds(Refusal, st.sampled_from(Reason), st.text(max_size=20)),
    finding=st.none() | findings,
    complete=st.booleans(),
    overdue=st.booleans(),
    wanted=st.integers(0, 3),
    ready=st.integers(0, 3),
    enough=st.booleans(),
    suspended=st.booleans(),
    held=st.sampled_from([None, Reason.PAUSED, Reason.CANARY]),
)


@given(verdicts, st.booleans())
def test_argo_cd_and_kstatus_agree_on_every_state_and_an_older_plan_is_never_healthy(
    verdict: Verdict, seen: bool
) -> None:
    obj = cases.told(verdict, planned_from=3 if seen else 2)
    state, message = health(obj)
    assert message
    if not seen:
        assert state == "Progressing"
    if not (verdict.complete and verdict.stalled):  # a complete world that is stalled is none
        assert kstatus(obj) in AGREES[state]
    by_type = {one["type"]: one["status"] for one in obj["status"]["conditions"]}
    assert not (by_type["Reconciling"] == "True" and by_type["Stalled"] == "True")


@pytest.mark.parametrize("code", ["return math.max(1, 2)", "return ('a'):upper()", "while true do end"])
def test_the_sandbox_holds_what_argo_cd_holds(code: str) -> None:
    with pytest.raises(LuaError):
        lua().execute(code)


def test_the_config_map_carries_the_same_check() -> None:
    path = cases.ROOT / "examples/gitops/argocd/argocd-cm.yaml"
    data = yaml.safe_load(path.read_text())["data"]
    assert data["resource.customizations.health.slipway.dev_LLMDeployment"] == HEALTH
