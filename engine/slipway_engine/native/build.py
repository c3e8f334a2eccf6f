"""Compiles the native library with the system's C++ compiler: `python -m slipway_engine.native.build`.

Each instruction set is a translation unit with flags of its own; the rest is compiled for the baseline, so
one library runs on every processor of its architecture. The file's name carries the digest of the sources,
so that a library of other sources is never loaded. Needs the standard library alone: images build it in a
stage of their own.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
PACKAGED = Path(__file__).parent / "lib"

COMMON = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra")
QUIET = ("-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-restrict")  # GCC 12 warns of its own headers
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
UNITS: dict[str, tuple[str, ...]] = {
    "kernels_avx2": _AVX2,
    "kernels_avxvnni": (*_AVX2, "-mavxvnni"),
    "kernels_avx512": (*_AVX2, *_AVX512),
}
"""The units of one instruction set, for x86-64, and what they may use."""


class BuildError(Exception):
    """The library could not be compiled; the message says what to do."""


def library_name() -> str:
    """Return the file name of the library that these sources make on this machine."""
    digest = sha256(repr((COMMON, UNITS)).encode())
    for path in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"libslipway-{platform.machine()}-{digest.hexdigest()[:12]}.so"


def cache_directory() -> Path:
    """Return where a library goes that cannot lie in the package."""
    return Path(os.environ.get("SLIPWAY_CACHE") or Path.home() / ".cache" / "slipway") / "native"


def find_compiler() -> str:
    """Return the C++ compiler: $CXX, or the first of the usual names."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return name
    raise BuildError(
        "There is no C++ compiler; install one (Debian and Ubuntu: apt install g++) or name it in CXX."
    )


def build(directory: Path, sanitize: bool = False, portable: bool = False) -> Path:
    """Compile the library into `directory` and return its path.

    `portable` leaves every instruction set out but the one that all processors have, as on other
    architectures than x86-64.
    """
    compiler = find_compiler()
    name = "".join(["asan-" * sanitize, "portable-" * portable, library_name()])
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="slipway-build-") as scratch:
        extra = (*(SANITIZE if sanitize else ()), *(("-DSLIPWAY_PORTABLE_ONLY",) if portable else ()))
        units = [path for path in sorted(SOURCES.glob("*.cpp")) if _belongs(path, portable)]
        objects = [Path(scratch) / f"{unit.stem}.o" for unit in units]
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            commands = [
                [
                    compiler,
                    *COMMON,
                    *QUIET,
                    *UNITS.get(unit.stem, ()),
                    *extra,
                    "-c",
                    str(unit),
                    "-o",
                    str(made),
                ]
                for unit, made in zip(units, objects, strict=True)
            ]
            list(workers.map(_run, commands))
        library = Path(scratch) / name
        _run([compiler, "-shared", *extra, *map(str, objects), "-pthread", "-o", str(library)])
        staged = directory / f".{name}.{os.getpid()}"
        shutil.copyfile(library, staged)
        staged.replace(directory / name)
    return directory / name


def _belongs(unit: Path, portable: bool) -> bool:
    return unit.stem not in UNITS or (not portable and platform.machine() in ("x86_64", "AMD64"))


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}.") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")


def main(arguments: list[str] | None = None) -> int:
    """Compile, print the library's path, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m slipway_engine.native.build", description=__doc__)
    parser.add_argument(
        "--out", type=Path, help="directory for the library (default: the package, or a cache)"
    )
    parser.add_argument(
        "--sanitize", action="store_true", help="compile with the address and undefined-behaviour sanitizers"
    )
    parser.add_argument(
        "--portable", action="store_true", help="leave out what only x86-64 has, as on other architectures"
    )
    parser.add_argument("--force", action="store_true", help="compile even where the library exists")
    parsed = parser.parse_args(arguments)
    directory = parsed.out or (PACKAGED if os.access(PACKAGED.parent, os.W_OK) else cache_directory())
    try:
        made = directory / library_name()
        if parsed.force or parsed.sanitize or parsed.portable or not made.exists():
            made = build(directory, parsed.sanitize, parsed.portable)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
