"""The part of the ELF format that the image build needs: reading what a library asks for, and writing a stub.

Only 64-bit little-endian files, which is what Linux wheels for x86-64 and arm64 hold.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHT_DYNAMIC, SHT_DYNSYM = 6, 11
SHT_GNU_VERNEED, SHT_GNU_VERSYM = 0x6FFFFFFE, 0x6FFFFFFF
DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME = 0, 1, 4, 5, 6, 10, 11, 14
DT_VERSYM, DT_VERDEF, DT_VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
STB_GLOBAL, STT_FUNC = 1, 2
VERSION_BASE = 1
PAGE = 0x10000  # the largest page any supported machine uses

# `return 1` for each machine: non-zero is an error in every CUDA library's status type.
RETURN_ONE = {
    62: bytes.fromhex("b801000000c3"),  # x86-64: mov eax, 1; ret
    183: bytes.fromhex("20008052c0035fd6"),  # arm64: mov w0, #1; ret
}


class NotElf(ValueError):
    """The file is not one this module reads; the message says which and why."""


@dataclass(frozen=True)
class Import:
    """A symbol that a library expects from elsewhere, with the file and version where it names them."""

    symbol: str
    file: str | None
    version: str | None


@dataclass(frozen=True)
class Library:
    """What the loader reads of a shared library."""

    machine: int
    needed: tuple[str, ...]
    imports: tuple[Import, ...]
    exports: frozenset[str]


@dataclass(frozen=True)
class Section:
    """One row of the section table."""

    kind: int
    offset: int
    size: int
    link: int


def read(path: Path) -> Library:
    """Reads a shared library's needs and offers."""
    return Reader(path).library()


class Reader:
    """Reads one file's dynamic tables by way of its section headers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
                raise NotElf(f"{path} is not a 64-bit little-endian ELF file")
            self.machine: int = struct.unpack_from("<H", header, 18)[0]
            offset: int = struct.unpack_from("<Q", header, 40)[0]
            size, count, _ = struct.unpack_from("<HHH", header, 58)
            file.seek(offset)
            table = file.read(size * count)
            rows = [
                struct.unpack_from("<IIQQQQIIQQ", table, size * i) for i in range(len(table) // max(size, 1))
            ]
            self.sections = [Section(row[1], row[4], row[5], row[6]) for row in rows]
            kinds = (SHT_DYNAMIC, SHT_DYNSYM, SHT_GNU_VERNEED, SHT_GNU_VERSYM)
            wanted = {s.link for s in self.sections if s.kind in kinds}
            self.bytes: dict[int, bytes] = {}
            for index, section in enumerate(self.sections):
                if section.kind in kinds or index in wanted:
                    file.seek(section.offset)
                    self.bytes[index] = file.read(section.size)

    def library(self) -> Library:
        """All of it."""
        versions = dict(self.versions())
        versym = self.content(SHT_GNU_VERSYM)[0]
        imports, exports = [], set()
        for index, (name, undefined, weak) in enumerate(self.symbols()):
            number = struct.unpack_from("<H", versym, 2 * index)[0] & 0x7FFF if versym else 0
            if not undefined:
                exports.add(name)
            elif name and not weak:
                imports.append(Import(name, *versions.get(number, (None, None))))
        return Library(self.machine, tuple(self.needed()), tuple(imports), frozenset(exports))

    def content(self, kind: int) -> tuple[bytes, bytes]:
        """A section's bytes and those of its string table; both empty where there is no such section."""
        for index, section in enumerate(self.sections):
            if section.kind == kind:
                return self.bytes[index], self.bytes[section.link]
        return b"", b""

    def needed(self) -> Iterator[str]:
        """The sonames of the libraries this one cannot be loaded without."""
        dynamic, strings = self.content(SHT_DYNAMIC)
        for tag, value in struct.iter_unpack("<qQ", dynamic):
            if tag == DT_NULL:
                return
            if tag == DT_NEEDED:
                yield text(strings, value)

    def symbols(self) -> Iterator[tuple[str, bool, bool]]:
        """Each dynamic symbol: its name, whether it is undefined, whether it is weak."""
        table, strings = self.content(SHT_DYNSYM)
        for name, info, _, section, _, _ in struct.iter_unpack("<IBBHQQ", table):
            yield text(strings, name), section == 0, info >> 4 != STB_GLOBAL

    def versions(self) -> Iterator[tuple[int, tuple[str, str]]]:
        """The version numbers used by undefined symbols, with the file and the version's name."""
        table, strings = self.content(SHT_GNU_VERNEED)
        entry = 0
        while table:
            _, count, file, first, following = struct.unpack_from("<HHIII", table, entry)
            aux = entry + first
            for _ in range(count):
                _, _, number, name, step = struct.unpack_from("<IHHII", table, aux)
                yield number & 0x7FFF, (text(strings, file), text(strings, name))
                aux += step
            if not following:
                return
            entry += following


def text(strings: bytes, offset: int) -> str:
    """The zero-terminated string at an offset."""
    return strings[offset : strings.index(b"\0", offset)].decode()


def sysv_hash(name: str) -> int:
    """The hash of the classic symbol table."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


class Strings:
    """A string table under construction."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self.known: dict[str, int] = {"": 0}

    def add(self, word: str) -> int:
        """The offset of a string, added where it is new."""
        if word not in self.known:
            self.known[word] = len(self.data)
            self.data += word.encode() + b"\0"
        return self.known[word]


def stub(machine: int, soname: str, symbols: Mapping[str, str | None]) -> bytes:
    """A shared library in which every symbol (name to version) is one function that returns 1."""
    if machine not in RETURN_ONE:
        raise NotElf(f"no stub is known for ELF machine {machine}; x86-64 is 62, arm64 is 183")
    strings = Strings()
    names = sorted(symbols)
    versions = sorted({version for version in symbols.values() if version})
    number = {version: index for index, version in enumerate(versions, start=VERSION_BASE + 1)}
    parts = {
        "headers": bytes(64 + 4 * 56),
        "code": RETURN_ONE[machine],
        "hash": hash_table(names),
        "versym": struct.pack(
            f"<{len(names) + 1}H", 0, *(number.get(symbols[n] or "", VERSION_BASE) for n in names)
        ),
        "verdef": version_table(soname, versions, strings),
        "symbols": b"",
        "strings": b"",
    }
    code = len(parts["headers"])
    rows = [struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)]
    rows += [struct.pack("<IBBHQQ", strings.add(n), STB_GLOBAL << 4 | STT_FUNC, 0, 1, code, 0) for n in names]
    parts["symbols"] = b"".join(rows)
    soname_at = strings.add(soname)
    parts["strings"] = bytes(strings.data)
    at, image = lay_out(parts)
    dynamic = [
        (DT_SONAME, soname_at),
        (DT_HASH, at["hash"]),
        (DT_STRTAB, at["strings"]),
        (DT_SYMTAB, at["symbols"]),
        (DT_STRSZ, len(parts["strings"])),
        (DT_SYMENT, 24),
        (DT_VERSYM, at["versym"]),
        (DT_VERDEF, at["verdef"]),
        (DT_VERDEFNUM, 1 + len(versions)),
        (DT_NULL, 0),
    ]
    tail = b"".join(struct.pack("<qQ", *entry) for entry in dynamic)
    image[: len(parts["headers"])] = headers(machine, len(image), len(tail))
    return bytes(image) + tail


def lay_out(parts: Mapping[str, bytes]) -> tuple[dict[str, int], bytearray]:
    """Puts the parts one after the other, each on eight bytes; returns where they went, and the bytes."""
    image, at = bytearray(), {}
    for name, part in parts.items():
        at[name] = len(image)
        image += part + bytes(-len(part) % 8)
    return at, image


def headers(machine: int, body: int, dynamic: int) -> bytes:
    """The file header and four segments: read-only body, writable dynamic table, its pointer, plain stack."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf = ident + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 4, 64, 0, 0)
    there = body + PAGE
    segments = [
        (PT_LOAD, 5, 0, 0, 0, body, body, PAGE),
        (PT_LOAD, 6, body, there, there, dynamic, dynamic, PAGE),
        (PT_DYNAMIC, 6, body, there, there, dynamic, dynamic, 8),
        (PT_GNU_STACK, 6, 0, 0, 0, 0, 0, 16),
    ]
    return elf + b"".join(struct.pack("<IIQQQQQQ", *segment) for segment in segments)


def hash_table(names: Sequence[str]) -> bytes:
    """The classic hash table over symbols 1..n (0 is the null symbol)."""
    buckets = [0] * max(1, len(names) // 2)
    chains = [0] * (len(names) + 1)
    for index, name in enumerate(names, start=1):
        slot = sysv_hash(name) % len(buckets)
        chains[index], buckets[slot] = buckets[slot], index
    return struct.pack(f"<{2 + len(buckets) + len(chains)}I", len(buckets), len(chains), *buckets, *chains)


def version_table(soname: str, versions: Sequence[str], strings: Strings) -> bytes:
    """The versions the library defines; the first is the library itself."""
    rows = []
    for index, name in enumerate((soname, *versions), start=VERSION_BASE):
        flags = 1 if index == VERSION_BASE else 0
        step = 28 if index <= len(versions) else 0
        rows.append(struct.pack("<HHHHIII", 1, flags, index, 1, sysv_hash(name), 20, step))
        rows.append(struct.pack("<II", strings.add(name), 0))
    return b"".join(rows)
