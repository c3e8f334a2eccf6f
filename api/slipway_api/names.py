"""Names that more than one room or one object must agree on: group, labels, ports, paths, managers."""

from __future__ import annotations

from typing import Final

GROUP: Final = "slipway.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "LLMDeployment"
PLURAL: Final = "llmdeployments"
SINGULAR: Final = "llmdeployment"
SHORT: Final = "llmdep"
CLASS_KIND: Final = "LLMClass"
CLASS_PLURAL: Final = "llmclasses"
CLASS_SINGULAR: Final = "llmclass"
CLASS_SHORT: Final = "llmc"

FIELD_MANAGER: Final = "slipway-operator"

LABEL_DEPLOYMENT: Final = f"{GROUP}/deployment"
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
APP_NAME: Final = "slipway-engine"
MANAGED_BY: Final = "slipway"

# The name becomes a Service's, so it is a DNS-1035 label; 40 leaves room for the suffixes of children.
NAME_MAX_LENGTH: Final = 40

ENGINE_PORT: Final = 8000
SERVICE_PORT: Final = 80
ENGINE_CONTAINER: Final = "engine"
FETCH_CONTAINER: Final = "fetch"

MODEL_DIR: Final = "/var/lib/slipway/model"
CLAIM_DIR: Final = "/var/lib/slipway/pvc"


def labels_of(name: str) -> dict[str, str]:
    """Return the labels that every child of the LLMDeployment `name` carries."""
    return {
        LABEL_NAME: APP_NAME,
        LABEL_INSTANCE: name,
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_DEPLOYMENT: name,
    }


def selector_of(name: str) -> dict[str, str]:
    """Return the labels that select the serving pods of the LLMDeployment `name`."""
    return {LABEL_DEPLOYMENT: name}
