"""The CustomResourceDefinition of `LLMDeployment`, built from its models."""

from __future__ import annotations

from typing import Any, Final

from slipway_api.names import GROUP, KIND, PLURAL, SHORT, SINGULAR, VERSION
from slipway_api.rules import VALIDATIONS
from slipway_api.structural import Schema, structural
from slipway_api.v1alpha1 import NAME_RULE, LLMDeployment, LLMDeploymentSpec, LLMDeploymentStatus

_COLUMNS: Final = (
    ("Ready", "string", ".status.ready", "Ready replicas of those wanted", 0),
    (
        "Reason",
        "string",
        '.status.conditions[?(@.type=="Ready")].reason',
        "Why it is ready, or what blocks it",
        0,
    ),
    ("Model", "string", ".spec.model.source", "Where the model comes from", 0),
    ("Accelerator", "string", ".spec.accelerator.type", "What it runs on", 1),
    ("URL", "string", ".status.url", "Base URL of the API inside the cluster", 0),
    ("Age", "date", ".metadata.creationTimestamp", "", 0),
)


def custom_resource_definition() -> dict[str, Any]:
    """Return the whole CRD as plain data."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root_schema()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [_column(*column) for column in _COLUMNS],
                }
            ],
        },
    }


def _root_schema() -> Schema:
    return {
        "type": "object",
        "description": (LLMDeployment.__doc__ or "").strip(),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(LLMDeploymentSpec.model_json_schema(by_alias=True)),
            "status": structural(LLMDeploymentStatus.model_json_schema(by_alias=True)),
        },
        # The only rule at the root, because only there the name can be seen; a name never changes,
        # so it never refuses a status write.
        VALIDATIONS: [NAME_RULE.as_validation()],
    }


def _column(name: str, kind: str, path: str, description: str, priority: int) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path, "priority": priority}
    return {**column, "description": description} if description else column
