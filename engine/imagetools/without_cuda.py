"""Lets PyPI's torch run on a machine without a GPU, without the gigabytes of CUDA libraries it is linked to.

The torch that PyPI carries for Linux is the CUDA build: the loader refuses `import torch` without a dozen of
CUDA's libraries, though a CPU never calls one of them. For each library that torch needs and that is
not installed, this writes a stub of a few kilobytes beside torch's own libraries. It offers the symbols that
torch imports, all of them one function that returns an error; torch then finds no GPU, as on any CPU.

usage: python3 -m imagetools.without_cuda SITE_PACKAGES
"""

import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from imagetools import elf

# CUDA's libraries and their symbols. The driver's own (libcuda.so.1) comes with a GPU's machine.
LIBRARY = re.compile(r"lib(cu(?!da\.)|nccl|nv)")
SYMBOL = re.compile(r"cu|nccl|nv")


def main() -> int:
    """Writes the stubs that an installed torch lacks, and removes its headers, of use only to a compiler."""
    if len(sys.argv) != 2:
        sys.exit("usage: python3 -m imagetools.without_cuda SITE_PACKAGES")
    site = Path(sys.argv[1])
    libraries = {
        path.name: elf.read(path) for path in (*site.glob("torch/lib/*.so*"), *site.glob("torch/_C*.so"))
    }
    if not libraries:
        sys.exit(f"{site} holds no torch: give the site-packages folder that torch was installed to.")
    installed = {path.name for path in site.glob("nvidia/**/*.so*")}
    for soname, symbols in sorted(plan(libraries, installed).items()):
        machine = next(iter(libraries.values())).machine
        (site / "torch/lib" / soname).write_bytes(elf.stub(machine, soname, symbols))
        print(f"{soname}: a stub of {len(symbols)} symbols")
    shutil.rmtree(site / "torch/include", ignore_errors=True)
    return 0


def plan(libraries: Mapping[str, elf.Library], installed: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """The stubs to write: for each soname its symbols with their versions.

    A symbol without a version does not say which library it comes from. The loader looks for it in all of
    them, so any one of the importer's missing libraries may hold it.
    """
    here = {*installed, *libraries}
    offered = frozenset[str]().union(*(library.exports for library in libraries.values()))
    stubs: dict[str, dict[str, str | None]] = defaultdict(dict)
    for library in libraries.values():
        missing = [name for name in library.needed if name not in here and LIBRARY.match(name)]
        for soname in missing:
            stubs[soname].update({i.symbol: i.version for i in library.imports if i.file == soname})
        if missing:
            loose = (i.symbol for i in library.imports if i.file is None and SYMBOL.match(i.symbol))
            for symbol in loose:
                if symbol not in offered:
                    stubs[missing[0]].setdefault(symbol, None)
    return dict(stubs)


if __name__ == "__main__":
    sys.exit(main())
