"""How the operator of the cluster is installed, as far as it shapes what it would render."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from slipway_operator.kinds import DEPLOYMENT, Object
from slipway_operator.plan.installation import Installation
from slipway_operator.plugin.errors import PluginError
from slipway_operator.plugin.kubectl import Kubectl
from slipway_operator.settings import DEFAULT_ENGINE_IMAGE

SELECTOR: Final = "app.kubernetes.io/name=slipway-operator"
IMAGE_VARIABLE: Final = "SLIPWAY_ENGINE_IMAGE"


def offline(image: str | None) -> Installation:
    """Return what is assumed where no cluster is asked."""
    return Installation(engine_image=image or DEFAULT_ENGINE_IMAGE)


def installed(cluster: Kubectl, image: str | None) -> tuple[Installation, str]:
    """Return how the operator is installed, and a remark where that could not be seen."""
    try:
        operators = cluster.find(DEPLOYMENT, selector=SELECTOR, everywhere=True)
    except PluginError:
        return offline(image), "the operator's Deployment may not be read, so its engine image is assumed"
    if not operators:
        return offline(image), "no operator runs in the cluster, so its engine image is assumed"
    return Installation(engine_image=image or _image(operators[0]) or DEFAULT_ENGINE_IMAGE), ""


def _image(operator: Object) -> str | None:
    for variable in _environment(operator):
        if variable.get("name") == IMAGE_VARIABLE:
            return str(variable.get("value") or "") or None
    return None


def _environment(operator: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    for container in operator["spec"]["template"]["spec"]["containers"]:
        yield from container.get("env") or ()
