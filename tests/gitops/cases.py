"""Objects as the operator leaves them, one for each state that a GitOps tool tells apart.

    python tests/gitops/cases.py

writes them where Argo CD looks for the test data of a health check; a test holds the files against this.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from slipway_api import names
from slipway_api.conditions import Reason
from slipway_operator.explain.findings import Finding
from slipway_operator.plan import Refusal
from slipway_operator.status.conditions import Told, Verdict, conditions_of

ROOT = Path(__file__).resolve().parents[2]
CUSTOMIZATION = ROOT / "examples/gitops/argocd/resource_customizations/slipway.dev/LLMDeployment"
NOW = "2026-01-02T03:04:05Z"

SERVES = Verdict(
    refusal=None,
    finding=None,
    complete=True,
    overdue=False,
    wanted=2,
    ready=2,
    enough=True,
    suspended=False,
)
AT_ZERO = replace(SERVES, wanted=0, ready=0)
ON_ITS_WAY = replace(SERVES, complete=False, ready=1, enough=False)
FOLLOWS: Told = ("True", Reason.VALID_METRIC_FOUND, "The load decides on the number of replicas.")

VERDICTS: dict[str, Verdict] = {
    "healthy": SERVES,
    "healthy_at_zero": AT_ZERO,
    "healthy_at_zero_by_autoscaling": replace(AT_ZERO, scaling=FOLLOWS),
    "healthy_upgrade_available": replace(SERVES, upgrade="The class would make other pods now."),
    "progressing_loading": replace(
        ON_ITS_WAY, finding=Finding(Reason.LOADING, "pod chat-a loads the model", "kubectl logs chat-a")
    ),
    "progressing_unschedulable": replace(
        ON_ITS_WAY, finding=Finding(Reason.UNSCHEDULABLE, "no node has a free nvidia.com/gpu")
    ),
    "degraded_deadline": replace(
        ON_ITS_WAY, overdue=True, finding=Finding(Reason.UNSCHEDULABLE, "no node has a free nvidia.com/gpu")
    ),
    "degraded_refused": replace(
        SERVES,
        complete=False,
        refusal=Refusal(Reason.DOES_NOT_FIT, "spec.accelerator: 40 GiB of weights do not fit 24 GiB"),
    ),
    "degraded_rollout_failed": replace(
        SERVES,
        complete=False,
        finding=Finding(Reason.ROLLOUT_FAILED, "revision 2 never became ready; revision 1 serves"),
    ),
    "suspended_parked": replace(AT_ZERO, suspended=True),
    "suspended_paused": replace(SERVES, held=Reason.PAUSED),
    "suspended_canary": replace(SERVES, held=Reason.CANARY),
}


def parent(generation: int = 3) -> dict[str, Any]:
    """Return an object without a status."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "chat", "namespace": "team", "generation": generation},
        "spec": {"model": {"source": "file:///models/smollm2.gguf"}},
    }


def told(verdict: Verdict, planned_from: int = 3) -> dict[str, Any]:
    """Return the object with the status that the operator writes."""
    seen = parent(planned_from)
    conditions = conditions_of(verdict, seen, NOW)
    written = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in conditions]
    status = {"observedGeneration": planned_from, "readyReplicas": verdict.ready, "conditions": written}
    return {**parent(), "status": status}


def cases() -> dict[str, dict[str, Any]]:
    """Return every object of the test data by its name."""
    return {
        "progressing_not_seen": parent(),
        "progressing_changed": told(SERVES, planned_from=2),
        **{name: told(verdict) for name, verdict in VERDICTS.items()},
    }


def expected() -> dict[str, Any]:
    """Return Argo CD's list of tests: the state is the first word of a case's name."""
    return {
        "tests": [
            {
                "healthStatus": {"status": name.split("_")[0].capitalize(), "message": message_of(case)},
                "inputPath": f"testdata/{name}.yaml",
            }
            for name, case in cases().items()
        ]
    }


def message_of(case: dict[str, Any]) -> str:
    """Return what a person should read beside the state."""
    status = case.get("status")
    if status is None:
        return "Waiting for the operator to see the object."
    if status["observedGeneration"] != case["metadata"]["generation"]:
        return "Waiting for the operator to see the last change of the object."
    by_type = {one["type"]: one for one in status["conditions"]}
    if by_type["Stalled"]["status"] == "True":
        return f"{by_type['Stalled']['reason']}: {by_type['Stalled']['message']}"
    ready = by_type["Ready"]
    return ready["message"] if ready["status"] == "True" else f"{ready['reason']}: {ready['message']}"


def main() -> None:
    """Write the files."""
    (CUSTOMIZATION / "testdata").mkdir(parents=True, exist_ok=True)
    for name, case in cases().items():
        (CUSTOMIZATION / f"testdata/{name}.yaml").write_text(yaml.safe_dump(case, sort_keys=False, width=110))
    (CUSTOMIZATION / "health_test.yaml").write_text(yaml.safe_dump(expected(), sort_keys=False, width=110))


if __name__ == "__main__":
    main()
