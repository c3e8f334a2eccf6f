"""The base image's release and mirror come from the machine's own configuration of apt."""

from pathlib import Path

import pytest
from e2e.cluster.debian import Release, chosen, os_release, trim
from e2e.cluster.errors import ClusterError

LISTED = """\
stable-updates main http://mirror.example/debian/
bookworm contrib http://mirror.example/debian/
bookworm main http://mirror.example/debian/
bookworm main http://second.example/debian/
odd line
"""


def test_the_first_source_of_the_release_is_taken() -> None:
    assert chosen("bookworm", "debian", LISTED) == Release(
        "bookworm", "http://mirror.example/debian", ("main",)
    )


def test_ubuntus_python_needs_its_second_component() -> None:
    assert chosen("bookworm", "ubuntu", LISTED).components == ("main", "universe")


def test_a_release_without_a_source_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"apt has no source for trixie main"):
        chosen("trixie", "debian", LISTED)


def test_the_key_follows_the_release_and_not_the_mirror() -> None:
    first = Release("bookworm", "http://a.example", ("main",))
    assert first.key == Release("bookworm", "http://b.example", ("main",)).key
    assert first.key != Release("trixie", "http://a.example", ("main",)).key


def test_os_release_is_read_with_and_without_quotes() -> None:
    text = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n# x\n'
    assert os_release(text) == {
        "ID": "debian",
        "VERSION_ID": "12",
        "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)",
    }


def test_what_a_container_never_reads_goes_and_licences_stay(tmp_path: Path) -> None:
    for name in (
        "usr/share/doc/bash/copyright",
        "usr/share/doc/bash/changelog.gz",
        "usr/share/man/man1/x",
        "var/cache/apt/pkgcache.bin",
        "usr/bin/python3",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "usr/share/man/link").symlink_to("/etc/passwd")
    trim(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"usr/share/doc/bash/copyright", "usr/bin/python3"}
