"""Images in a node's containerd: what is there, and bringing in only what is not.

Containerd's content store names its blobs as an OCI layout does, by digest.
So an image is sent as an archive that holds only the blobs the store lacks:
after a change of code, a few megabytes instead of the whole image.
"""

import subprocess
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from e2e.cluster import shell
from e2e.cluster.archives import Source, write_stream
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import Step

CLIENT = ("ctr", "--namespace=k8s.io")
BLOBS = Path("io.containerd.content.v1.content/blobs/sha256")
SANDBOXES = Path("io.containerd.grpc.v1.cri")


@dataclass(frozen=True)
class Store:
    """A node's containerd: the command line of its client, and its files where they are at hand."""

    client: tuple[str, ...]
    root: Path

    def ctr(self, *arguments: str) -> list[str]:
        """A command of containerd's own client."""
        return [*self.client, *arguments]

    def answers(self) -> bool:
        """Whether containerd runs and serves."""
        return shell.attempt(self.ctr("version"), timeout=5).returncode == 0

    def digests(self) -> dict[str, str]:
        """The digest of every image by its name."""
        rows = shell.run(self.ctr("images", "list")).splitlines()[1:]
        fields = [row.split() for row in rows]
        return {row[0]: row[2] for row in fields if len(row) > 2}

    def has(self, source: Source) -> bool:
        """Whether the node has this very image under this name."""
        return self.digests().get(source.name) == source.digest

    def has_blob(self, digest: str) -> bool:
        """Whether the content store holds a blob."""
        return (self.root / BLOBS / digest.removeprefix("sha256:")).is_file()

    def bring(self, source: Source, step: Step) -> bool:
        """Brings in an image; false where the node had this very one under this name."""
        if self.has(source):
            return False
        with subprocess.Popen(
            self.ctr("images", "import", "-"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            broken = False
            try:
                self._send(source, process.stdin, step)
                process.stdin.close()
            except BrokenPipeError:  # it says why on its own output
                broken = True
            words = process.stdout.read().decode(errors="replace")
        if broken or process.returncode != 0:
            raise ClusterError(f"containerd refused the image {source.name}:\n{shell.tail(words)}")
        return True

    def _send(self, source: Source, stream: IO[bytes], step: Step) -> None:
        missing = [blob for blob in source.blobs() if not self.has_blob(blob.digest)]
        total = sum(blob.size for blob in missing)
        sent = write_stream(
            source, missing, stream, lambda done: step.say(f"{done >> 20} of {total >> 20} MiB")
        )
        step.say("unpacking")
        step.note = f"{sent >> 20} MiB sent"

    def remove(self, names: Sequence[str]) -> None:
        """Removes images by their names; containerd frees what no other image uses."""
        gone = removable(set(names), self.digests())
        if gone:
            shell.run(self.ctr("images", "remove", *gone))

    def containers(self) -> list[str]:
        """Containers of any cluster this store has served."""
        return shell.run(self.ctr("containers", "list", "--quiet")).split()

    def forget(self, containers: Iterable[str]) -> None:
        """Removes the containers' records; what ran in them ended with its node."""
        names = list(containers)
        if names:
            shell.run(self.ctr("containers", "delete", *names))


def removable(names: Set[str], have: Mapping[str, str]) -> list[str]:
    """The references that go with these names, of all that there are with their digests.

    The kubelet's side of containerd gives each image a second name, its ID, which
    would keep the image; it goes too where no other name stands for the same image.
    """
    kept = {digest for name, digest in have.items() if name not in names and not name.startswith("sha256:")}
    dropped = {have[name] for name in names if name in have} - kept
    return [
        name
        for name, digest in have.items()
        if name in names or (name.startswith("sha256:") and digest in dropped)
    ]
