"""How the operator of the cluster is installed, as far as it shapes what it would render."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from slipway_operator.kinds import DEPLOYMENT, Object
from slipway_operator.plan.installation import Installation
from slipway_operator.plugin.errors import PluginError
from slipway_operator.plugin.kubectl import Kubectl
from slipway_operator.settings import DEFAULT_ENGINE_IMAGE, parse_settings
from slipway_operator.signals.connection import connection_of

SELECTOR: Final = "app.kubernetes.io/name=slipway-operator"


def offline(image: str | None) -> Installation:
    """Return what is assumed where no cluster is asked."""
    return Installation(engine_image=image or DEFAULT_ENGINE_IMAGE)


def installed(cluster: Kubectl, image: str | None) -> tuple[Installation, str]:
    """Return how the operator is installed, and a remark where that could not be seen."""
    try:
        operators = cluster.find(DEPLOYMENT, selector=SELECTOR, everywhere=True)
    except PluginError:
        return offline(image), "the operator's Deployment may not be read, so its settings are assumed"
    if not operators:
        return offline(image), "no operator runs in the cluster, so its settings are assumed"
    found = settings_of(operators[0])
    if found is None:
        return offline(image), "the operator is of another version, so its settings are assumed"
    return (replace(found, engine_image=image) if image else found), ""


def settings_of(operator: Object) -> Installation | None:
    """Return what an operator's command line and variables say; None where this version cannot read them.

    A catalogue of the cluster's own comes from a ConfigMap that is not read here.
    """
    (container, *_) = operator["spec"]["template"]["spec"]["containers"]
    variables = {str(entry["name"]): str(entry["value"]) for entry in _plain(container)}
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse_settings(container.get("args") or [], variables).installation
    except SystemExit:
        return None


def prometheus_of(operator: Object) -> str | None:
    """Return the URL of the Prometheus that an operator asks; None where it asks none, or cannot be read."""
    (container, *_) = operator["spec"]["template"]["spec"]["containers"]
    variables = {str(entry["name"]): str(entry["value"]) for entry in _plain(container)}
    try:
        found = connection_of(json.loads(variables.get("SLIPWAY_PROMETHEUS") or "{}"))
    except (ValueError, TypeError, AttributeError):
        return None
    return found.url if found is not None else None


def _plain(container: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (entry for entry in container.get("env") or () if "value" in entry)
