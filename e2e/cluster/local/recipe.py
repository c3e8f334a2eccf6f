"""What a local cluster is made of: programs, images, settings, and the key over all of it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.cluster import build, keys, oci, packages
from e2e.cluster.errors import ClusterError
from e2e.cluster.local import components, config, pki
from e2e.cluster.local.components import Component
from e2e.cluster.local.network import Network
from e2e.cluster.paths import Paths
from e2e.cluster.versions import Versions

CAP_SYS_RESOURCE = 24


def may_raise_oom_score(status: str) -> bool:
    """Whether the text of `/proc/self/status` shows the capability that takes."""
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


@dataclass(frozen=True)
class Recipe:
    """The cluster that this checkout makes on this machine."""

    paths: Paths
    versions: Versions

    @property
    def programs(self) -> Path:
        """The folder of the built programs."""
        return build.folder(self.paths, self.versions)

    def image(self, program: str, build_key: str = "") -> oci.Image:
        """The image that holds one program of a build, of this checkout's unless told, and nothing else."""
        return oci.Image(
            name=f"localhost/slipway-cluster/{program}:{build_key or self.programs.name}",
            files={program: self.programs / program},
            entrypoint=[f"/{program}"],
            architecture=oci.architecture(build.machine()),
        )

    def settings(self, network: Network) -> config.Settings:
        """What the node's files depend on."""
        cni = packages.cni_folder()
        if cni is None:
            raise ClusterError(f"The CNI plugins are gone; run `apt-get install {packages.CNI_PACKAGE}`.")
        return config.Settings(
            name=self.paths.name,
            network=network,
            node=self.paths.node,
            run=self.paths.run,
            containerd_root=self.paths.containerd,
            cni_programs=cni,
            pause_image=self.image("pause").name,
            may_raise_oom_score=may_raise_oom_score(Path("/proc/self/status").read_text(encoding="utf-8")),
        )

    def components(self, settings: config.Settings) -> list[Component]:
        """The node's programs."""
        containerd = packages.which("containerd")
        if containerd is None:
            raise ClusterError("containerd is gone; run `apt-get install containerd`.")
        return components.components(settings, self.programs, Path(containerd))

    def key(self, network: Network) -> str:
        """The hash of all of it; a cluster of another key is made anew."""
        settings = self.settings(network)
        certificates = json.dumps([asdict(one) for one in pki.wanted(network, config.NODE_NAME)])
        arguments = {one.name: "\0".join(one.argv) for one in self.components(settings)}
        return keys.key_of({**config.files(settings), **arguments, "certificates": certificates})
