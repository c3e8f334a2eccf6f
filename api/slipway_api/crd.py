"""The CustomResourceDefinitions of `LLMDeployment` and `LLMClass`, built from their models."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from slipway_api import names
from slipway_api.names import GROUP, VERSION
from slipway_api.rules import VALIDATIONS
from slipway_api.structural import Schema, structural
from slipway_api.v1alpha1 import (
    NAME_RULE,
    LLMClass,
    LLMClassSpec,
    LLMDeployment,
    LLMDeploymentSpec,
    LLMDeploymentStatus,
)

Column: TypeAlias = tuple[str, str, str, str]
Definition: TypeAlias = dict[str, Any]

_COLUMNS: Final[tuple[Column, ...]] = (
    ("Ready", "string", ".status.ready", "Ready replicas of those wanted"),
    (
        "Reason",
        "string",
        '.status.conditions[?(@.type=="Ready")].reason',
        "Why it is ready, or what blocks it",
    ),
    ("Model", "string", ".spec.model.source", "Where the model comes from"),
    ("Accelerator", "string", ".status.accelerator", "What a replica runs on"),
    ("URL", "string", ".status.url", "Base URL of the API inside the cluster"),
    ("Age", "date", ".metadata.creationTimestamp", ""),
)
_CLASS_COLUMNS: Final[tuple[Column, ...]] = (
    ("Default", "boolean", ".spec.default", "Whether objects that name no class get it"),
    ("Accelerator", "string", ".spec.defaults.accelerator.type", "What models run on"),
    ("Upgrade", "string", ".spec.upgrade.policy", "How upgrades reach running objects"),
    ("Age", "date", ".metadata.creationTimestamp", ""),
)


def custom_resource_definition() -> Definition:
    """Return the CRD of `LLMDeployment` as plain data."""
    schema = _root_schema(
        LLMDeployment.__doc__, structural(LLMDeploymentSpec.model_json_schema(by_alias=True))
    )
    schema["properties"]["status"] = structural(LLMDeploymentStatus.model_json_schema(by_alias=True))
    # The only rule at the root, because only there the name can be seen; a name never changes,
    # so it never refuses a status write.
    schema[VALIDATIONS] = [NAME_RULE.as_validation()]
    definition = _definition(
        {
            "kind": names.KIND,
            "listKind": f"{names.KIND}List",
            "plural": names.PLURAL,
            "singular": names.SINGULAR,
            "shortNames": [names.SHORT],
            "categories": ["all"],
        },
        "Namespaced",
        schema,
        _COLUMNS,
    )
    definition["spec"]["versions"][0]["subresources"] = {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }
    return definition


def class_definition() -> Definition:
    """Return the CRD of `LLMClass` as plain data."""
    return _definition(
        {
            "kind": names.CLASS_KIND,
            "listKind": f"{names.CLASS_KIND}List",
            "plural": names.CLASS_PLURAL,
            "singular": names.CLASS_SINGULAR,
            "shortNames": [names.CLASS_SHORT],
        },
        "Cluster",
        _root_schema(LLMClass.__doc__, structural(LLMClassSpec.model_json_schema(by_alias=True))),
        _CLASS_COLUMNS,
    )


def custom_resource_definitions() -> list[Definition]:
    """Return all CRDs."""
    return [custom_resource_definition(), class_definition()]


def _definition(kind: dict[str, Any], scope: str, schema: Schema, columns: tuple[Column, ...]) -> Definition:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind['plural']}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": kind,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "additionalPrinterColumns": [_column(*column) for column in columns],
                }
            ],
        },
    }


def _root_schema(description: str | None, spec: Schema) -> Schema:
    return {
        "type": "object",
        "description": (description or "").strip(),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
        },
    }


def _column(name: str, kind: str, path: str, description: str) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path, "priority": 0}
    return {**column, "description": description} if description else column
