"""The configuration files of the node's programs, as text: no I/O here.

All are JSON but containerd's, since JSON is what every YAML reader reads too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.local.network import Network

NODE_NAME = "slipway"


@dataclass(frozen=True)
class Settings:
    """What the files depend on."""

    name: str
    network: Network
    node: Path
    run: Path
    containerd_root: Path
    cni_programs: Path
    pause_image: str
    may_raise_oom_score: bool

    @property
    def config(self) -> Path:
        """Where the files are written."""
        return self.node / "config"

    @property
    def pki(self) -> Path:
        """Where the certificates are."""
        return self.node / "pki"

    @property
    def socket(self) -> Path:
        """Containerd's socket."""
        return self.run / "containerd.sock"


def quoted(value: object) -> str:
    """A TOML string: JSON's escapes are TOML's."""
    return json.dumps(str(value))


def containerd(settings: Settings) -> str:
    """Containerd with its own root, state and socket, apart from one the machine may run."""
    # Where root may not lower its score, a sandbox that asks for less fails with an empty message.
    restrict = str(not settings.may_raise_oom_score).lower()
    return f"""version = 2
root = {quoted(settings.containerd_root)}
state = {quoted(settings.run / "containerd")}
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
  address = {quoted(settings.socket)}

[plugins."io.containerd.internal.v1.opt"]
  path = {quoted(settings.run / "opt")}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {quoted(settings.pause_image)}
  restrict_oom_score_adj = {restrict}
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {quoted(settings.cni_programs)}
    conf_dir = {quoted(settings.config / "cni")}
"""


def cni(settings: Settings) -> str:
    """Pod network: a routed pair of interfaces for each pod.

    Routes instead of a bridge, so that services work where the kernel does not
    show bridged packets to iptables.
    """
    ipam = {
        "type": "host-local",
        "dataDir": str(settings.run / "ipam"),
        "ranges": [[{"subnet": str(settings.network.pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "0.4.0", "name": settings.name, "plugins": plugins}, indent=2)


def audit_policy() -> str:
    """Every write is recorded, once, when it is answered; reads are not."""
    rules = [{"level": "None", "verbs": ["get", "list", "watch"]}, {"level": "Metadata"}]
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": rules,
    }
    return json.dumps(policy, indent=2)


def kubelet(settings: Settings) -> str:
    """The kubelet of the one node."""
    pki = settings.pki
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": str(settings.network.node),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / "kubelet.crt"),
            "tlsPrivateKeyFile": str(pki / "kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{settings.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{settings.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": ["pods"],
            "clusterDNS": [str(settings.network.dns)],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "podLogsDir": str(settings.node / "pods"),
            "volumePluginDir": str(settings.node / "volume-plugins"),
            # There is no registry to pull from again, so an image that was loaded stays.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
        },
        indent=2,
    )


def kube_proxy(settings: Settings) -> str:
    """Services by iptables, in the node's own network namespace."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(settings.config / "kube-proxy.kubeconfig")},
            "clusterCIDR": str(settings.network.pods),
            "hostnameOverride": NODE_NAME,
            "oomScoreAdj": 0,
            # Zeroes leave the connection tracker's limits, which the whole kernel shares, as they are.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
                "udpTimeout": "0s",
                "udpStreamTimeout": "0s",
            },
        },
        indent=2,
    )


def files(settings: Settings) -> dict[str, str]:
    """All files, by their path below the configuration folder."""
    return {
        "containerd.toml": containerd(settings),
        "cni/10-slipway.conflist": cni(settings),
        "audit-policy.json": audit_policy(),
        "kubelet.json": kubelet(settings),
        "kube-proxy.json": kube_proxy(settings),
    }
