"""Why pods were refused at admission, told from the words in which the API server says so."""

from __future__ import annotations

import re
from typing import Final

from slipway_api.conditions import Reason
from slipway_operator.explain.findings import Finding, clean

# In this order: the more telling phrase first. Each is stable wording of Kubernetes' own admission plugins.
_PHRASES: Final = (
    (Reason.QUOTA_EXCEEDED, re.compile(r"exceeded quota|failed quota|insufficient quota", re.IGNORECASE)),
    (Reason.POD_SECURITY_DENIED, re.compile(r"violates PodSecurity")),
    (
        Reason.LIMIT_RANGE_VIOLATED,
        re.compile(
            r"(maximum|minimum) \S+ usage per (Container|Pod)|max limit to request ratio per (Container|Pod)"
        ),
    ),
    (
        Reason.CONFIG_MISSING,
        re.compile(r"serviceaccount \"?\S+ not found|no PriorityClass with name|RuntimeClass \S+ not found"),
    ),
)

_ADVICE: Final = {
    Reason.QUOTA_EXCEEDED: "kubectl -n {namespace} describe resourcequota",
    Reason.POD_SECURITY_DENIED: "kubectl get namespace {namespace} --show-labels",
    Reason.LIMIT_RANGE_VIOLATED: "kubectl -n {namespace} describe limitrange",
    Reason.CONFIG_MISSING: "kubectl -n {namespace} get serviceaccounts && kubectl get priorityclasses",
    Reason.ADMISSION_DENIED: "kubectl get validatingwebhookconfigurations,validatingadmissionpolicies",
}
_POD_NAME: Final = re.compile(r'\S+ "[^"]*" is forbidden: |error looking up service account \S+: ')


def explain_denial(message: str, namespace: str, what: str = "pods are refused") -> Finding:
    """Return what `what` says was refused is refused for."""
    reason = next((reason for reason, phrase in _PHRASES if phrase.search(message)), Reason.ADMISSION_DENIED)
    # The name of the refused pod is random: it says nothing, and would change the sentence at every attempt.
    detail = clean(_POD_NAME.sub("", message))
    return Finding(reason, f"{what}: {detail}", _ADVICE[reason].format(namespace=namespace))
