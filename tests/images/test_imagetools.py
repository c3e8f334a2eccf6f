"""Stubs in CUDA's place: the loader takes them, torch runs on them."""

import ctypes
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagetools import elf
from imagetools.without_cuda import plan

MACHINES = {"x86_64": 62, "aarch64": 183}
MACHINE = MACHINES.get(platform.machine(), 0)
linux = pytest.mark.skipif(
    sys.platform != "linux" or not MACHINE, reason="stubs are for Linux on x86-64 and arm64"
)


def torch_folder() -> Path:
    """Where torch is installed, without importing it."""
    found = importlib.util.find_spec("torch")
    assert found
    assert found.origin
    return Path(found.origin).parent


class TestStub:
    @linux
    def test_is_loaded_and_every_function_returns_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "libslipwaytest.so.1"
        names = {f"function{n}": ("VERS_1" if n % 2 else None) for n in range(100)}
        path.write_bytes(elf.stub(MACHINE, path.name, names))
        library = ctypes.CDLL(str(path))
        assert [getattr(library, name)() for name in names] == [1] * 100
        with pytest.raises(AttributeError):
            _ = library.function100

    @linux
    def test_defines_the_versions_it_says(self, tmp_path: Path) -> None:
        path = tmp_path / "libversioned.so.1"
        path.write_bytes(elf.stub(MACHINE, path.name, {"one": "V_1", "two": "V_2"}))
        find = ctypes.CDLL(None).dlvsym
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        handle = ctypes.CDLL(str(path))._handle
        assert find(handle, b"one", b"V_1")
        assert find(handle, b"two", b"V_2")
        assert not find(handle, b"one", b"V_2")

    @linux
    def test_without_a_symbol_is_still_a_library(self, tmp_path: Path) -> None:
        path = tmp_path / "libempty.so"
        path.write_bytes(elf.stub(MACHINE, path.name, {}))
        ctypes.CDLL(str(path))

    @pytest.mark.parametrize("machine", MACHINES.values())
    def test_is_made_for_either_processor(self, machine: int) -> None:
        stub = elf.stub(machine, "libx.so", {"a": None, "b": "V"})
        assert int.from_bytes(stub[18:20], "little") == machine

    def test_of_another_processor_is_refused(self) -> None:
        with pytest.raises(elf.NotElf, match="no stub is known for ELF machine 243"):
            elf.stub(243, "libx.so", {})


class TestRead:
    @linux
    def test_reads_what_the_loader_reads(self) -> None:
        library = elf.read(torch_folder() / "lib" / "libtorch_cpu.so")
        assert library.machine == MACHINE
        assert {"libc10.so", "libc.so.6"} <= set(library.needed)
        assert any(i.file == "libc.so.6" and (i.version or "").startswith("GLIBC_") for i in library.imports)

    @pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(64), b"\x7fELF"])
    def test_refuses_other_files(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "libx.so"
        path.write_bytes(content)
        with pytest.raises(elf.NotElf, match=r"libx\.so is not a 64-bit little-endian ELF file"):
            elf.read(path)


class TestPlan:
    def test_stubs_what_is_missing_and_nothing_of_the_system(self) -> None:
        importer = elf.Library(
            62,
            (
                "libcublas.so.13",
                "libcudart.so.13",
                "libnccl.so.2",
                "libcuda.so.1",
                "libz.so.1",
                "libtorch.so",
            ),
            (
                elf.Import("cublasCreate_v2", "libcublas.so.13", "libcublas.so.13"),
                elf.Import("cudaMalloc", "libcudart.so.13", "libcudart.so.13"),
                elf.Import("ncclSend", None, None),
                elf.Import("cuHere", None, None),
                elf.Import("PyObject_Call", None, None),
                elf.Import("inflate", None, None),
            ),
            frozenset(),
        )
        torch = elf.Library(62, (), (), frozenset({"cuHere"}))
        stubs = plan({"libtorch_cuda.so": importer, "libtorch.so": torch}, {"libcudart.so.13"})
        assert stubs == {
            "libcublas.so.13": {"cublasCreate_v2": "libcublas.so.13", "ncclSend": None},
            "libnccl.so.2": {},
        }

    def test_leaves_a_whole_installation_alone(self) -> None:
        importer = elf.Library(62, ("libcublas.so.13",), (elf.Import("cublasX", None, None),), frozenset())
        assert plan({"libtorch_cuda.so": importer}, {"libcublas.so.13"}) == {}


CHECK = """
import torch
assert not torch.cuda.is_available()
a = torch.ones(64, 64)
assert (a @ a).sum() == 64**3
assert torch.linalg.inv(torch.eye(3)).sum() == 3
assert torch.allclose(torch.fft.ifft(torch.fft.fft(a)).real, a)
assert torch.nn.functional.scaled_dot_product_attention(*[torch.ones(1, 2, 3, 4)] * 3).shape == (1, 2, 3, 4)
try:
    torch.zeros(1, device="cuda")
except (RuntimeError, AssertionError):
    pass
else:
    raise AssertionError("a tensor on a GPU that is not there")
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "/lib" in line}
print("\\n".join(sorted(path for path in loaded if "nvidia" in path)))
"""


def place(path: Path, target: Path) -> None:
    """A library under another path, as a hard link: the loader would look beside what a soft one leads to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(path)
    except OSError:  # another file system
        shutil.copy(path, target)


@linux
@pytest.mark.slow
def test_torch_runs_on_stubs(tmp_path: Path) -> None:
    """The installed torch, by links, with the two small ones of CUDA's libraries and stubs for the rest."""
    torch = torch_folder()
    nvidia = torch.parent / "nvidia"
    if not (torch / "lib" / "libtorch_cuda.so").exists():
        pytest.skip("the installed torch is a CPU build, which needs no stubs")
    wanted = [*torch.glob("_C*.so"), *torch.glob("lib/*.so*")]
    wanted += [*nvidia.rglob("libcudart.so.*"), *nvidia.rglob("libcupti.so.*")]
    for path in wanted:
        place(path, tmp_path / path.relative_to(torch.parent))
    others = [path for path in torch.parent.iterdir() if not re.match("nvidia|triton|cuda", path.name)]
    for path in (*others, *torch.iterdir()):
        link = tmp_path / path.relative_to(torch.parent)
        if not link.exists():
            link.symlink_to(path)
    room = Path(elf.__file__).parent.parent
    made = subprocess.run(
        [sys.executable, "-m", "imagetools.without_cuda", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(room)},
        text=True,
        capture_output=True,
        check=True,
    )
    assert "libcublas.so" in made.stdout
    ran = subprocess.run(
        [sys.executable, "-S", "-c", CHECK],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    names = {Path(line).name.partition(".")[0] for line in ran.stdout.split()}
    assert names <= {"libcudart", "libcupti"}, ran.stdout
