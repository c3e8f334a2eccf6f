"""How the API server is reached: address, TLS and a token that may be renewed at any time.

Inside a cluster the three come from the pod's service account, read by this module itself: the Kubernetes
client would add some 30 MiB for reading three files. A kubeconfig is left to the client, which knows its exec
plugins and identity providers; this is the only module that imports it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
AUTO = "auto"


class NoCluster(Exception):
    """No way to an API server was found."""


@dataclass(frozen=True, slots=True)
class Access:
    """Everything a client of the API server needs."""

    server: str
    tls: ssl.SSLContext | None
    headers: Callable[[], Awaitable[dict[str, str]]]
    """Asked before each request: tokens are renewed on disk, or by a plugin."""
    namespace: str
    """The namespace this process lives in."""


async def find(kubeconfig: str) -> Access:
    """Return the access that `--kubeconfig` asks for: a file, or `auto`."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if kubeconfig == AUTO and host and (SERVICE_ACCOUNT / "token").exists():
        return in_cluster(host, os.environ.get("KUBERNETES_SERVICE_PORT", "443"), SERVICE_ACCOUNT)
    return await from_kubeconfig(_kubeconfig_file(kubeconfig))


def _kubeconfig_file(kubeconfig: str) -> Path:
    path = os.environ.get("KUBECONFIG", "~/.kube/config") if kubeconfig == AUTO else kubeconfig
    file = Path(path).expanduser()
    if not file.exists():
        raise NoCluster(
            f"There is no kubeconfig at {file} and this is no pod with a service account; "
            "name one with --kubeconfig FILE."
        )
    return file


def in_cluster(host: str, port: str, account: Path) -> Access:
    """Return the access of the pod's service account."""
    token = account / "token"

    async def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {token.read_text().strip()}"}

    literal = f"[{host}]" if ":" in host else host
    namespace = os.environ.get("POD_NAMESPACE") or (account / "namespace").read_text().strip()
    tls = ssl.create_default_context(cafile=account / "ca.crt")
    return Access(f"https://{literal}:{port}", tls, headers, namespace)


async def from_kubeconfig(file: Path) -> Access:
    """Return the access that a kubeconfig's current context describes."""
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_kube_config

    configuration = Configuration()
    try:
        loader = await load_kube_config(
            config_file=str(file), client_configuration=configuration, persist_config=False
        )
    except ConfigException as error:
        raise NoCluster(f"The kubeconfig {file} cannot be used: {error}.") from error

    async def headers() -> dict[str, str]:
        token = await configuration.get_api_key_with_prefix("BearerToken")
        return {"Authorization": token} if token else {}

    context = loader.current_context.get("context", {})
    namespace = os.environ.get("POD_NAMESPACE") or context.get("namespace") or "default"
    server = str(configuration.host)
    return Access(server, _tls(configuration) if server.startswith("https") else None, headers, namespace)


def _tls(configuration: object) -> ssl.SSLContext:
    read = configuration.__getattribute__
    tls = ssl.create_default_context(cafile=read("ssl_ca_cert"))
    if read("cert_file"):
        tls.load_cert_chain(read("cert_file"), read("key_file"))
    if not read("verify_ssl"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls
