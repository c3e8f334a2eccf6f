"""Why a request gets no place, in sentences: nobody there, nobody in time, no room to wait."""

from __future__ import annotations

from slipway_gateway.errors import RETRY_AFTER_UNAVAILABLE, GatewayError, unavailable
from slipway_gateway.objects import Deployment, Key


def no_pod(deployment: Deployment, wakes: bool = True) -> GatewayError:
    """Say why nobody can answer for a deployment."""
    key = deployment.key
    if deployment.suspended:
        return unavailable(
            f"{key} is parked (spec.suspend is true, or spec.replicas is 0); its owner can start it again."
        )
    if deployment.from_zero and not wakes:
        return unavailable(
            f"{key} is at zero and nobody wakes it; run this gateway with --holds-reader, as the chart does."
        )
    why = f": {deployment.sentence}" if deployment.sentence else "; it may be starting."
    return unavailable(f"No pod of {key} is ready{why}")


def gone(key: Key) -> GatewayError:
    """The deployment was deleted while the request was here."""
    return GatewayError(
        404, f"{key} was deleted; GET /v1/models lists what there is.", code="model_not_found"
    )


def leaving() -> GatewayError:
    """The gateway goes away with requests that still wait."""
    return unavailable("This gateway is being replaced; send the request again.", retry_after=1)


def waited(deployment: Deployment, seconds: float, retry_after: int) -> GatewayError:
    """No place became free in time."""
    return unavailable(
        f"No pod of {deployment.key} could take the request within {seconds:g} s; "
        f"try again in {retry_after} s.",
        code="hold_timeout",
        retry_after=retry_after,
    )


def full(deployment: Deployment, asleep: bool, retry_after: int) -> GatewayError:
    """As many wait already as may."""
    what = "is being started" if asleep else "is busy"
    return GatewayError(
        503 if asleep else 429,
        f"{deployment.key} {what} and as many requests wait for it as may; try again in {retry_after} s.",
        kind="server_error" if asleep else "rate_limit_error",
        code="hold_full",
        headers={"Retry-After": str(retry_after or RETRY_AFTER_UNAVAILABLE)},
    )
