"""Tells a Prometheus which pods to collect from, in the form of its `http_sd_configs`.

Debian builds Prometheus without its own discovery for Kubernetes. This runs beside it in its pod, in the
gateway's image, and lists the engine pods and the gateways by their labels, with the pod's own account.
"""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import aiohttp
from aiohttp import web

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc/api/v1/pods"
PORT = 9091
JOBS = {
    "engines": ("slipway.dev/deployment", 8000),
    "gateways": ("app.kubernetes.io/name=slipway-gateway", 9090),
}


async def targets(request: web.Request) -> web.Response:
    """Answer one job's pods: their addresses, and the labels that their samples get."""
    job = request.match_info["job"]
    selector, port = JOBS[job]
    tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    timeout = aiohttp.ClientTimeout(total=4)
    async with (
        aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as session,
        session.get(API, params={"labelSelector": selector}, ssl=tls, raise_for_status=True) as answer,
    ):
        pods = (await answer.json())["items"]
    found = []
    for pod in pods:
        address, meta = pod["status"].get("podIP"), pod["metadata"]
        containers = {container["name"] for container in pod["spec"]["containers"]}
        if not address or pod["status"].get("phase") != "Running" or not containers & {"engine", "gateway"}:
            continue  # a Job's pod has a deployment's label too, and no metrics
        labels = {"pod": meta["name"]}
        if job == "engines":
            # A gateway's samples bear the namespace of the deployment that they are about.
            labels |= {"namespace": meta["namespace"], "deployment": meta["labels"]["slipway.dev/deployment"]}
        found.append({"targets": [f"{address}:{port}"], "labels": labels})
    return web.Response(text=json.dumps(found), content_type="application/json")


def main() -> None:
    """Serve on loopback, for the Prometheus of the same pod."""
    app = web.Application()
    app.router.add_get("/{job:engines|gateways}", targets)
    web.run_app(app, host="127.0.0.1", port=PORT, access_log=None)


if __name__ == "__main__":
    main()
