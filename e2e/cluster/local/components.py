"""The node's programs and their arguments: no I/O here."""

from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.local.config import NODE_NAME, Settings

API_PORT = 6443
ETCD_URL = "https://127.0.0.1:2379"
ALIASES = {"apiserver": "kube-apiserver", "controller-manager": "kube-controller-manager"}
ALIASES |= {"scheduler": "kube-scheduler", "proxy": "kube-proxy"}


@dataclass(frozen=True)
class Component:
    """A program of the node; its arguments are all it is told, so they say which version of it runs."""

    name: str
    argv: tuple[str, ...]


def _flags(**values: object) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in values.items())


def server(settings: Settings) -> str:
    """The API server's URL, the same from the host and from the node."""
    return f"https://{settings.network.node}:{API_PORT}"


def _etcd(settings: Settings) -> tuple[str, ...]:
    pki = settings.pki
    return _flags(
        name=NODE_NAME,
        data_dir=settings.node / "etcd",
        listen_client_urls=ETCD_URL,
        advertise_client_urls=ETCD_URL,
        listen_peer_urls="https://127.0.0.1:2380",
        initial_advertise_peer_urls="https://127.0.0.1:2380",
        initial_cluster=f"{NODE_NAME}=https://127.0.0.1:2380",
        client_cert_auth="true",
        trusted_ca_file=pki / "ca.crt",
        cert_file=pki / "etcd.crt",
        key_file=pki / "etcd.key",
        peer_client_cert_auth="true",
        peer_trusted_ca_file=pki / "ca.crt",
        peer_cert_file=pki / "etcd.crt",
        peer_key_file=pki / "etcd.key",
        log_level="warn",
    )


def _apiserver(settings: Settings) -> tuple[str, ...]:
    pki = settings.pki
    return _flags(
        etcd_servers=ETCD_URL,
        etcd_cafile=pki / "ca.crt",
        etcd_certfile=pki / "etcd.crt",
        etcd_keyfile=pki / "etcd.key",
        advertise_address=settings.network.node,
        secure_port=API_PORT,
        service_cluster_ip_range=settings.network.services,
        tls_cert_file=pki / "kube-apiserver.crt",
        tls_private_key_file=pki / "kube-apiserver.key",
        client_ca_file=pki / "ca.crt",
        authorization_mode="Node,RBAC",
        # Beside upstream's own set, which holds PodSecurity, ResourceQuota and LimitRanger.
        enable_admission_plugins="NodeRestriction",
        allow_privileged="true",
        service_account_issuer="https://kubernetes.default.svc.cluster.local",
        service_account_key_file=pki / "tokens.pub",
        service_account_signing_key_file=pki / "tokens.key",
        kubelet_certificate_authority=pki / "ca.crt",
        kubelet_client_certificate=pki / "apiserver-kubelet.crt",
        kubelet_client_key=pki / "apiserver-kubelet.key",
        # The node's name is in nobody's DNS.
        kubelet_preferred_address_types="InternalIP",
        requestheader_client_ca_file=pki / "ca.crt",
        requestheader_allowed_names="front-proxy-client",
        requestheader_username_headers="X-Remote-User",
        requestheader_group_headers="X-Remote-Group",
        requestheader_extra_headers_prefix="X-Remote-Extra-",
        proxy_client_cert_file=pki / "front-proxy.crt",
        proxy_client_key_file=pki / "front-proxy.key",
        audit_policy_file=settings.config / "audit-policy.json",
        audit_log_path=settings.node / "audit" / "audit.log",
        audit_log_maxsize=512,
        audit_log_maxbackup=2,
    )


def _kubeconfig(settings: Settings, client: str) -> Path:
    return settings.config / f"{client}.kubeconfig"


def _controller_manager(settings: Settings) -> tuple[str, ...]:
    kubeconfig = _kubeconfig(settings, "kube-controller-manager")
    pki = settings.pki
    return _flags(
        kubeconfig=kubeconfig,
        authentication_kubeconfig=kubeconfig,
        authorization_kubeconfig=kubeconfig,
        leader_elect="false",
        use_service_account_credentials="true",
        service_account_private_key_file=pki / "tokens.key",
        root_ca_file=pki / "ca.crt",
        cluster_signing_cert_file=pki / "ca.crt",
        cluster_signing_key_file=pki / "ca.key",
        allocate_node_cidrs="true",
        cluster_cidr=settings.network.pods,
        node_cidr_mask_size=settings.network.pods.prefixlen,
        service_cluster_ip_range=settings.network.services,
    )


def _scheduler(settings: Settings) -> tuple[str, ...]:
    kubeconfig = _kubeconfig(settings, "kube-scheduler")
    return _flags(
        kubeconfig=kubeconfig,
        authentication_kubeconfig=kubeconfig,
        authorization_kubeconfig=kubeconfig,
        leader_elect="false",
    )


def _kubelet(settings: Settings) -> tuple[str, ...]:
    return _flags(
        config=settings.config / "kubelet.json",
        kubeconfig=_kubeconfig(settings, "kubelet"),
        hostname_override=NODE_NAME,
        node_ip=settings.network.node,
    )


def components(settings: Settings, programs: Path, containerd: Path) -> list[Component]:
    """All programs in the order in which they start."""

    def ours(name: str, arguments: tuple[str, ...]) -> Component:
        return Component(name, (str(programs / name), *arguments))

    return [
        Component("containerd", (str(containerd), *_flags(config=settings.config / "containerd.toml"))),
        ours("etcd", _etcd(settings)),
        ours("kube-apiserver", _apiserver(settings)),
        ours("kube-controller-manager", _controller_manager(settings)),
        ours("kube-scheduler", _scheduler(settings)),
        ours("kubelet", _kubelet(settings)),
        ours("kube-proxy", _flags(config=settings.config / "kube-proxy.json")),
    ]


def named(wanted: str, known: list[Component]) -> Component:
    """The component of this name, long or short."""
    name = ALIASES.get(wanted, wanted)
    for component in known:
        if component.name == name:
            return component
    names = ", ".join(component.name for component in known)
    raise ClusterError(f"The node has no component {wanted!r}; name one of {names}.")
