"""An image's tag follows from what the image is made of, and from nothing else."""

import re
import shutil
from pathlib import Path

import pytest
from e2e.cluster import images_docker
from e2e.cluster.errors import ClusterError
from e2e.cluster.images import build, check_registry, parser
from e2e.cluster.images_recipe import IGNORED, MODEL_LOCK, NAMES, ONLY, SHARED, Options, check, files, tag

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of all that goes into an image."""
    for place in {*SHARED, *(part for parts in ONLY.values() for part in parts), MODEL_LOCK}:
        target = tmp_path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / place).is_dir():
            shutil.copytree(ROOT / place, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / place, target)
    return tmp_path


DEFAULT = Options()


def tags(checkout: Path, options: Options = DEFAULT, base: str = "base") -> dict[str, str]:
    return {name: tag(checkout, name, base, options) for name in NAMES}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in NAMES if before[name] != after[name]}


class TestTag:
    def test_is_twelve_hex_digits_and_stays(self, checkout: Path) -> None:
        first = tags(checkout)
        assert all(re.fullmatch("[0-9a-f]{12}", value) for value in first.values())
        assert tags(checkout) == first

    @pytest.mark.parametrize(
        ("place", "images"),
        [
            ("api/slipway_api/new.py", set(NAMES)),
            ("Dockerfile", set(NAMES)),
            (".dockerignore", set(NAMES)),
            ("operator/slipway_operator/new.py", {"operator"}),
            ("operator/requirements.lock", {"operator"}),
            ("gateway/slipway_gateway/new/new.py", {"gateway"}),
            ("engine/slipway_engine/new.py", {"engine"}),
            ("engine/imagetools/elf.py", {"engine"}),
            ("engine/requirements.lock", {"engine"}),
            (MODEL_LOCK, {"engine"}),
            ("README.md", set()),
            ("tests/test_new.py", set()),
            ("engine/slipway_engine/__pycache__/new.cpython-311.pyc", set()),
            ("engine/slipway_engine/native/lib/libslipway-x86_64.so", set()),
        ],
    )
    def test_moves_with_the_sources(self, checkout: Path, place: str, images: set[str]) -> None:
        before = tags(checkout)
        path = checkout / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.read_text() if path.exists() else ''}# more\n")
        assert changed(before, tags(checkout)) == images

    def test_moves_with_a_renamed_file(self, checkout: Path) -> None:
        before = tags(checkout)
        (checkout / "engine/imagetools/elf.py").rename(checkout / "engine/imagetools/fle.py")
        assert changed(before, tags(checkout)) == {"engine"}

    @pytest.mark.parametrize(
        "options", [Options("cuda"), Options(torch_index="https://wheels.example/cpu"), Options(model=False)]
    )
    def test_moves_with_the_engines_options(self, checkout: Path, options: Options) -> None:
        assert changed(tags(checkout), tags(checkout, options)) == {"engine"}

    def test_moves_with_the_base(self, checkout: Path) -> None:
        assert changed(tags(checkout), tags(checkout, base="other")) == set(NAMES)

    def test_without_the_model_ignores_its_lock(self, checkout: Path) -> None:
        before = tags(checkout, Options(model=False))
        (checkout / MODEL_LOCK).unlink()
        assert tags(checkout, Options(model=False)) == before

    def test_names_what_is_missing(self, checkout: Path) -> None:
        (checkout / "LICENSE").unlink()
        with pytest.raises(ClusterError, match=r"LICENSE is missing"):
            tags(checkout)


class TestDockerfile:
    @pytest.mark.parametrize("name", NAMES)
    def test_copies_nothing_that_the_tag_does_not_cover(self, name: str) -> None:
        covered = {*SHARED, *ONLY[name], MODEL_LOCK}
        for source in copied(stages_of(name)):
            taken = Path(source)
            inside = [path for path in map(Path, covered) if related(taken, path)]
            assert inside, f"COPY {source} is not among what {name} is made of"

    def test_sees_nothing_that_the_tag_does_not_cover(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        let_through = {line[1:] for line in ignored if line.startswith("!")}
        covered = {*SHARED, *(part for parts in ONLY.values() for part in parts), MODEL_LOCK}
        assert let_through | {"Dockerfile", ".dockerignore"} == covered
        assert {f"**/*{suffix}" for suffix in IGNORED} <= set(ignored)

    @pytest.mark.parametrize("name", NAMES)
    def test_ends_as_a_plain_user_in_the_program(self, name: str) -> None:
        last = stage(name)
        assert last.rstrip().endswith(f'USER 65532:65532\nENTRYPOINT ["slipway-{name}"]')
        assert "RUN" not in last

    @pytest.mark.parametrize("name", NAMES)
    def test_installs_from_the_lock_with_hashes(self, name: str) -> None:
        dependencies = stage(f"{name}-dependencies")
        assert copied([dependencies])[0] == f"{name}/requirements.lock"
        assert "--require-hashes" in dependencies
        assert "/src" not in dependencies

    def test_pins_one_installer(self) -> None:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        pins = set(re.findall(r"^(?:ARG )?UV_VERSION *:?= *(\S+)", DOCKERFILE + makefile, re.MULTILINE))
        assert len(pins) == 1

    def test_names_no_architecture_and_no_host(self) -> None:
        instructions = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
        assert not re.search(r"amd64|arm64|x86_64|aarch64|https?://|--mount", instructions)

    def test_has_the_default_base_that_docker_is_asked_for(self) -> None:
        assert f"ARG BASE_IMAGE={images_docker.DEFAULT_BASE}\n" in DOCKERFILE


class TestCommand:
    @pytest.mark.parametrize(
        "registry", ["localhost/slipway", "registry.example:5000/a/b", "docker.io/x-y/z"]
    )
    def test_takes_a_registry(self, registry: str) -> None:
        assert check_registry(f"{registry}/") == registry

    @pytest.mark.parametrize("registry", ["", "Registry.Example/x", "https://x.example/y", "a//b", "a b"])
    def test_refuses_what_is_none(self, registry: str) -> None:
        with pytest.raises(ClusterError, match=r"write it like `registry\.example\.com/team`"):
            check_registry(registry)

    def test_pushes_only_where_a_registry_is_named(self) -> None:
        with pytest.raises(ClusterError, match="localhost/slipway is no registry to push to; name one in"):
            build(push=True)

    @pytest.mark.parametrize("tag", ["a b", "-x", "a/b", "x" * 129])
    def test_refuses_a_malformed_tag(self, tag: str) -> None:
        with pytest.raises(ClusterError, match=r"is no tag; write it like `v0\.1\.0`"):
            build(tag=tag)

    def test_refuses_unknown_images_and_odd_options(self) -> None:
        with pytest.raises(ClusterError, match=r"no image 'motor'; name some of operator, gateway, engine"):
            check(("motor",), Options())
        with pytest.raises(ClusterError, match="no variant 'tpu'; choose cpu or cuda"):
            check(("engine",), Options("tpu"))
        with pytest.raises(ClusterError, match="leave one of the two out"):
            check(("engine",), Options("cuda", "https://wheels.example/cpu"))

    def test_help_names_every_option(self) -> None:
        text = parser().format_help()
        assert all(
            option in text
            for option in ("--registry", "--tag", "--push", "--no-model", "--variant", "--base")
        )


def related(one: Path, other: Path) -> bool:
    """Whether the paths are the same, or one holds the other."""
    return one == other or one in other.parents or other in one.parents


def stage(name: str) -> str:
    """The text of one stage."""
    found = re.search(
        rf"^FROM \S+ AS {re.escape(name)}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL
    )
    assert found, name
    return re.sub(r"^#.*\n?", "", found[1], flags=re.MULTILINE)


def stages_of(name: str) -> list[str]:
    """The texts of a target's stage and of all that it is made from."""
    from_line = re.search(rf"^FROM (\S+) AS {re.escape(name)}$", DOCKERFILE, re.MULTILINE)
    assert from_line
    text = stage(name)
    parents = [from_line[1], *re.findall(r"--from=(\S+)", text)]
    known = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    return [text, *(part for parent in parents if parent in known for part in stages_of(parent))]


def copied(stages: list[str]) -> list[str]:
    """What stages take from the checkout."""
    lines = [line for text in stages for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)]
    words = [word for line in lines for word in line.split()[:-1]]
    return [MODEL_LOCK if word.startswith("${MODEL_PACKAGE") else word for word in words]


def test_files_are_walked_in_one_order(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "a/__pycache__/z.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [path.relative_to(tmp_path).as_posix() for path in files(tmp_path)] == ["a/z.py", "b.py"]
