"""An object file that LLVM made to a static executable for x86-64 Linux, without a linker.

The object is read (its sections, symbols and relocations), its sections are given addresses, its relocations are
applied, and two segments are written: what is read and executed, and what is written.  System V ABI, "Object Files",
and the AMD64 supplement, table 4.9, for the relocations.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PAGE = 4096
BASE = 0x400000
EM_X86_64 = 62
SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOBITS = 1, 2, 4, 8
SHF_WRITE, SHF_ALLOC = 1, 2
R_64, R_PC32, R_PLT32, R_32, R_32S, R_PC64 = 1, 2, 4, 10, 11, 24


class LinkError(Exception):
    """What the object holds that an executable without libraries cannot."""


@dataclass
class Section:
    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    align: int
    link: int
    info: int
    address: int = 0


@dataclass(frozen=True)
class Symbol:
    name: str
    section: int
    value: int


@dataclass(frozen=True)
class Executable:
    """The file's bytes, where it begins, and the address of each named symbol."""

    image: bytes
    entry: int
    symbols: dict[str, int]


def _string(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


def read_object(obj: bytes) -> tuple[list[Section], list[Symbol]]:
    """The sections and symbols of a relocatable file."""
    if obj[:6] != b"\x7fELF\x02\x01":
        raise LinkError("not an ELF64 little-endian object")
    kind, machine = struct.unpack_from("<HH", obj, 16)
    if machine != EM_X86_64 or kind != 1:
        raise LinkError(f"an object for machine {machine}, type {kind}; only x86-64 relocatable objects are linked")
    shoff = struct.unpack_from("<Q", obj, 40)[0]
    shentsize, shnum, shstrndx = struct.unpack_from("<HHH", obj, 58)
    raw = [struct.unpack_from("<IIQQQQIIQQ", obj, shoff + i * shentsize) for i in range(shnum)]
    names = obj[raw[shstrndx][4] : raw[shstrndx][4] + raw[shstrndx][5]]
    sections = []
    for name, t, flags, _, off, size, link, info, align, _ in raw:
        data = b"" if t == SHT_NOBITS else obj[off : off + size]
        sections.append(Section(_string(names, name), t, flags, data, size, max(align, 1), link, info))
    symbols: list[Symbol] = []
    for s in sections:
        if s.kind == SHT_SYMTAB:
            strings = sections[s.link].data
            for i in range(0, s.size, 24):
                name, _, _, shndx, value, _ = struct.unpack_from("<IBBHQQ", s.data, i)
                symbols.append(Symbol(_string(strings, name), shndx, value))
    return sections, symbols


def _place(sections: list[Section], at: int) -> int:
    for s in sections:
        at = -(-at // s.align) * s.align
        s.address = at
        at += s.size
    return at


def _relocate(sections: list[Section], symbols: list[Symbol], image: dict[int, bytearray]) -> None:
    for r in sections:
        if r.kind != SHT_RELA or r.info not in image:
            continue
        out, base = image[r.info], sections[r.info].address
        for i in range(0, r.size, 24):
            offset, info, addend = struct.unpack_from("<QQq", r.data, i)
            sym, kind = symbols[info >> 32], info & 0xFFFFFFFF
            if sym.section == 0:
                raise LinkError(f"{sym.name!r} is not defined in the object, and there are no libraries")
            value = sym.value + addend + (0 if sym.section == 0xFFF1 else sections[sym.section].address)
            if kind in (R_PC32, R_PLT32, R_PC64):
                value -= base + offset
            if kind in (R_64, R_PC64):
                struct.pack_into("<Q", out, offset, value & (1 << 64) - 1)
            elif kind in (R_PC32, R_PLT32, R_32, R_32S):
                lo, hi = (0, 1 << 32) if kind == R_32 else (-1 << 31, 1 << 31)
                if not lo <= value < hi:
                    raise LinkError(f"{sym.name!r} is out of reach of a 32-bit relocation")
                struct.pack_into("<I", out, offset, value & 0xFFFFFFFF)
            else:
                raise LinkError(f"relocation type {kind} of {sym.name!r}")


def link_executable(obj: bytes, entry: str = "_start") -> Executable:
    """A static executable of one object.  Raises `LinkError` for undefined symbols and for relocations that a
    program without libraries has no use for."""
    sections, symbols = read_object(obj)
    kept = [(i, s) for i, s in enumerate(sections) if s.flags & SHF_ALLOC and s.size]
    fixed = [s for _, s in kept if not s.flags & SHF_WRITE]
    data = [s for _, s in kept if s.flags & SHF_WRITE and s.kind != SHT_NOBITS]
    bss = [s for _, s in kept if s.flags & SHF_WRITE and s.kind == SHT_NOBITS]
    header = 64 + 3 * 56
    fixed_end = _place(fixed, BASE + header)
    data_at = -(-fixed_end // PAGE) * PAGE
    data_end = _place(data, data_at)
    bss_end = _place(bss, data_end)
    image = {i: bytearray(s.data) for i, s in kept if s.kind != SHT_NOBITS}
    _relocate(sections, symbols, image)
    table = {s.name: sections[s.section].address + s.value for s in symbols if s.name and 0 < s.section < 0xFF00}
    if entry not in table:
        raise LinkError(f"the object has no {entry!r}")
    out = bytearray(data_end - BASE)
    for i, b in image.items():
        at = sections[i].address - BASE
        out[at : at + len(b)] = b
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", 2, EM_X86_64, 1, table[entry], 64, 0, 0, 64, 56, 3, 0, 0, 0)
    rx = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, fixed_end - BASE, fixed_end - BASE, PAGE)
    off = data_at - BASE
    rw = struct.pack("<IIQQQQQQ", 1, 6, off, data_at, data_at, data_end - data_at, bss_end - data_at, PAGE)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK: not executable
    out[:header] = ident + head + rx + rw + stack
    return Executable(bytes(out), table[entry], table)
