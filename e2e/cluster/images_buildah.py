"""Builds the images with buildah, which needs no daemon, no registry and no network namespace.

Its storage lies in the cache, apart from what the machine's user builds. The
final image is written straight into the store's layout, uncompressed: the layers
that are there are not written again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import apt, debian, packages, shell
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import Progress, Step

PROGRAMS = {"buildah": "buildah", "debootstrap": "debootstrap"}
CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
CERTIFICATES_INSIDE = "/etc/ssl/certs/ca-certificates.crt"
PASSED_ON = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")
STORAGE_LIMIT = 20 << 30  # of cached steps; beyond it all are dropped, and made again from the wheels' cache
EPOCH = "315532800"  # 1980, the first year that a zip file can name: the same content is the same layer
STEPS = (  # of buildah, of Docker's BuildKit, and of Docker's builder before it
    re.compile(r"\[(?P<stage>\d+/\d+)\] STEP (?P<step>\d+/\d+): "),
    re.compile(r"#\d+ \[(?P<stage>[\w-]+) (?P<step>\d+/\d+)\] "),
    re.compile(r"Step (?P<step>\d+/\d+) : "),
)


@dataclass(frozen=True)
class Buildah:
    """Buildah with its storage in one folder."""

    folder: Path
    progress: Progress

    @property
    def program(self) -> list[str]:
        """The start of every command line: in a mount namespace, so that no crash leaves a mount behind."""
        storage = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        return ["unshare", "--mount", "buildah", *storage]

    def ensure(self, *, with_debootstrap: bool) -> None:
        """Installs what is missing, or says what to install; clears what a crash left."""
        check_machine()
        wanted = [name for name in PROGRAMS if name == "buildah" or with_debootstrap]
        missing = [PROGRAMS[name] for name in wanted if not packages.which(name)]
        if missing:
            apt.install(missing, self.progress)
        if (self.folder / "storage").exists():
            shell.attempt([*self.program, "rm", "--all"])

    def base(self, given: str) -> tuple[str, str]:
        """The image to build on, as what identifies it in a tag, and as its name."""
        if given:
            return given, given
        of = debian.release(self.progress)
        return of.key, f"localhost/slipway-base:{of.key}"

    def make_base(self, image: str) -> None:
        """Makes the base image out of this machine's distribution, unless it is there."""
        if not image.startswith("localhost/slipway-base:") or self.has(image):
            return
        root = self.folder / "root"
        debian.make_root(debian.release(self.progress), root, self.progress)
        with self.progress.step("Commit the base image"):
            container = shell.run([*self.program, "from", "scratch"]).strip()
            shell.run([*self.program, "add", "--quiet", container, root, "/"])
            shell.run([*self.program, "config", "--cmd", "python3", container])
            shell.run([*self.program, "commit", "--quiet", "--rm", "--timestamp", EPOCH, container, image])
        shutil.rmtree(root)

    def has(self, image: str) -> bool:
        """Whether the storage holds an image."""
        return shell.attempt([*self.program, "inspect", "--type=image", image]).returncode == 0

    def build(self, root: Path, name: str, base: str, arguments: Mapping[str, str], destination: str) -> None:
        """Builds one target of the checkout's Dockerfile."""
        with self.progress.step(f"Build the image {name}") as step:
            self._run(root, name, base, arguments, [f"--tag={destination}"], step)

    def push(self, root: Path, name: str, base: str, arguments: Mapping[str, str], ref: str) -> None:
        """Sends an image to its registry: builds it again, from cached steps, with that as destination."""
        host = ref.partition("/")[0]
        plain = ["--tls-verify=false"] if host.partition(":")[0] in ("localhost", "127.0.0.1") else []
        with self.progress.step(f"Push {ref}") as step:
            try:
                self._run(root, name, base, arguments, [f"--tag=docker://{ref}", *plain], step)
            except ClusterError as error:
                raise ClusterError(
                    f"{ref} could not be pushed; if it is the login, run `buildah login {host}`. {error}"
                ) from error

    def _run(
        self, root: Path, name: str, base: str, arguments: Mapping[str, str], more: list[str], step: Step
    ) -> None:
        command = [*self.program, "bud", "--layers", "--isolation=chroot", "--network=host"]
        command += [f"--timestamp={EPOCH}", f"--target={name}", *more]
        for key, value in {"BASE_IMAGE": base, **passed_on(), **arguments}.items():
            command.append(f"--build-arg={key}={value}")
        for outside, inside in self.mounts():
            command.append(f"--volume={outside}:{inside}")
        follow([*command, str(root)], step, self.folder / "logs" / f"{name}.log")

    def mounts(self) -> list[tuple[Path, str]]:
        """What the build sees of this machine and no image keeps: its CAs, and the cache of wheels."""
        cache = wheel_cache(self.folder)
        cache.mkdir(parents=True, exist_ok=True)
        bundle = certificates()
        seen = [(cache, "/var/cache/uv:rw")]
        return [*seen, (bundle, f"{CERTIFICATES_INSIDE}:ro")] if bundle else seen

    def trim(self) -> None:
        """Drops the cached steps once they outgrow their limit."""
        storage = self.folder / "storage"
        if size_of(storage) > STORAGE_LIMIT:
            with self.progress.step("Drop the cache of build steps, which outgrew its limit"):
                shell.attempt([*self.program, "rmi", "--prune", "--force"])


def check_machine() -> None:
    """Buildah makes images from this machine's packages on Linux, as root."""
    if sys.platform != "linux":
        raise ClusterError(
            f"Images are built with Docker on {sys.platform}; start a Docker engine and run again."
        )
    if os.geteuid() != 0:
        raise ClusterError(
            "No Docker engine answers, and building without one needs root; start Docker, or run it "
            "with `sudo -E`."
        )


def certificates() -> Path | None:
    """This machine's bundle of trusted certificates, its own CA among them."""
    named = [os.environ.get("SSL_CERT_FILE", ""), *CERTIFICATES]
    return next((Path(path).resolve() for path in named if path and Path(path).is_file()), None)


def wheel_cache(folder: Path) -> Path:
    """The user's own cache of uv where root may write it without taking it over, else one of ours."""
    named = os.environ.get("UV_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    theirs = Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "uv"
    own = folder / "uv"
    return theirs if theirs.is_dir() and theirs.stat().st_uid == os.geteuid() else own


def passed_on() -> dict[str, str]:
    """Where this machine gets its Python packages from, if it says so."""
    return {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}


def follow(command: list[str], step: Step, log: Path) -> None:
    """Runs a build, tells how far it is, and keeps what it said."""
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=40)
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            last.append(line)
            far = how_far(line)
            if far:
                step.say(far)
    if process.returncode != 0:
        raise ClusterError(f"The build failed; all it said is in {log}:\n{shell.tail(''.join(last))}")


def how_far(line: str) -> str | None:
    """How far a build is, by a line of its output; None where the line does not tell."""
    found = next(filter(None, (pattern.match(line) for pattern in STEPS)), None)
    if found:
        return ", ".join(f"{name} {value}" for name, value in found.groupdict().items())
    return "writing the image" if "] COMMIT " in line else None


def size_of(storage: Path) -> int:
    """The bytes of the layers in a storage, from its own books."""
    try:
        layers = json.loads((storage / "overlay-layers" / "layers.json").read_bytes())
        return sum(int(layer.get("diff-size", 0)) for layer in layers)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return 0
