"""Programs of operations as text, one call a line, as a C programmer would write it; what `seqfault run` reads.

    mmap(W+520p, 3p, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)
    fork()
    child: write(W+521p, 7)
    read(W+521p)

`W` is the first byte of the window, `p` a page; numbers may be decimal or hexadecimal; the first argument of
ftruncate and the fifth of mmap number the test files (docs/fuzz.md).  A line that begins with ``child:`` is done by
the process that fork made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from seqfault.mm.opcodes import (
    ADVICE,
    NAMES,
    NR_ARGS,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MAP_COUNT,
    OP_MLOCK2,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MSYNC,
    OP_PWRITE,
    OP_RLIMIT_AS,
    OP_START,
    OP_WRITE,
    PAGE_SIZE,
    WINDOW_BASE,
)

Int64 = NDArray[np.int64]
NUMBERS = {v: k for k, v in NAMES.items()}
PROT = {"PROT_READ": 1, "PROT_WRITE": 2, "PROT_EXEC": 4, "PROT_GROWSDOWN": 1 << 24, "PROT_GROWSUP": 1 << 25}
MAP = {
    "MAP_SHARED": 1,
    "MAP_PRIVATE": 2,
    "MAP_DROPPABLE": 8,
    "MAP_FIXED": 0x10,
    "MAP_ANONYMOUS": 0x20,
    "MAP_GROWSDOWN": 0x100,
    "MAP_LOCKED": 0x2000,
    "MAP_NORESERVE": 0x4000,
    "MAP_POPULATE": 0x8000,
    "MAP_NONBLOCK": 0x10000,
    "MAP_STACK": 0x20000,
    "MAP_FIXED_NOREPLACE": 0x100000,
}
MREMAP = {"MREMAP_MAYMOVE": 1, "MREMAP_FIXED": 2, "MREMAP_DONTUNMAP": 4}
MADV = {"MADV_" + k.upper(): v for k, v in ADVICE.items()}
MLOCK2 = {"MLOCK_ONFAULT": 1}
MCL = {"MCL_CURRENT": 1, "MCL_FUTURE": 2, "MCL_ONFAULT": 4}
MS = {"MS_ASYNC": 1, "MS_INVALIDATE": 2, "MS_SYNC": 4}
# (operation, argument) -> names of bits; MADV is an enumeration
BITS: Mapping[tuple[int, int], Mapping[str, int]] = {
    (OP_MMAP, 2): PROT,
    (OP_MMAP, 3): MAP,
    (OP_MPROTECT, 2): PROT,
    (OP_MREMAP, 3): MREMAP,
    (OP_MLOCK2, 2): MLOCK2,
    (OP_MLOCKALL, 0): MCL,
    (OP_MSYNC, 2): MS,
}
# arguments that are bytes of address or length; others are plain numbers
PLAIN = {
    (OP_MMAP, 4), (OP_WRITE, 1), (OP_FTRUNCATE, 0), (OP_RLIMIT_AS, 0), (OP_PWRITE, 0), (OP_PWRITE, 1), (OP_PWRITE, 2),
    (OP_MAP_COUNT, 0),
}  # fmt: skip
ADDRESSES = {(OP_MREMAP, 4)}
WORDS = {**PROT, **MAP, **MREMAP, **MADV, **MLOCK2, **MCL, **MS, "PROT_NONE": 0}
NO_ADDRESS = (OP_START, OP_FTRUNCATE, OP_RLIMIT_AS, OP_PWRITE, OP_MAP_COUNT, OP_MLOCKALL)
FIRST_ADDRESS = {n for n in NAMES if n not in NO_ADDRESS}


class ScriptError(Exception):
    """A line that is no operation; the message says which, and shows one that is."""


def bits_text(value: int, names: Mapping[str, int]) -> str:
    out = [k for k, v in names.items() if value & v]
    rest = value & ~sum(names.values())
    if rest or not out:
        out.append(hex(rest) if rest else "PROT_NONE" if names is PROT else "0")
    return "|".join(out)


def size_text(v: int) -> str:
    """Bytes: in pages where it is whole ones, and small."""
    if v > 0 and v % PAGE_SIZE == 0 and v < 1 << 32:
        return f"{v // PAGE_SIZE}p"
    if 0 < v < 1 << 32 and v > PAGE_SIZE:
        return f"{v // PAGE_SIZE}p+{v % PAGE_SIZE}"
    return str(v) if -PAGE_SIZE <= v <= PAGE_SIZE else hex(v)


def address_text(v: int) -> str:
    off = v - WINDOW_BASE
    if 0 <= off < 1 << 32:
        page, rest = divmod(off, PAGE_SIZE)
        return f"W+{page}p" + (f"+{rest}" if rest else "")
    return str(v) if v == 0 else hex(v)


def argument_text(op: int, i: int, v: int) -> str:
    names = BITS.get((op, i))
    if names is not None:
        return bits_text(v, names)
    if op == OP_MADVISE and i == 2:
        return next((k for k, x in MADV.items() if x == v), str(v))
    if (op, i) in PLAIN:
        return str(v)
    if (i == 0 and op in FIRST_ADDRESS) or (op, i) in ADDRESSES:
        return address_text(v)
    return size_text(v)


def row_text(row: Sequence[int] | Int64) -> str:
    """One operation as a line."""
    op, who = int(row[0]), int(row[1])
    args = ", ".join(argument_text(op, i, int(row[2 + i])) for i in range(NR_ARGS[op]))
    return f"{'child: ' if who else ''}{NAMES[op]}({args})"


def term(text: str, line: str) -> int:
    m = re.fullmatch(r"(-?)(0[xX][0-9a-fA-F]+|\d+)(p?)", text)
    if text == "W":
        return WINDOW_BASE
    if text in WORDS:
        return WORDS[text]
    if not m:
        raise ScriptError(f"{line!r}: {text!r} is no number; write for example W+520p, 3p, 0x1000 or MAP_FIXED")
    v = int(m[2], 0) * (PAGE_SIZE if m[3] else 1)
    return -v if m[1] else v


def value(text: str, line: str) -> int:
    text = text.replace(" ", "")
    if "|" in text:
        out = 0
        for x in text.split("|"):
            out |= term(x, line)
        return out
    if text.startswith("-"):
        return term(text, line)
    return sum(term(x, line) for x in text.split("+"))


def parse_row(line: str) -> list[int]:
    """One line as an operation: eight integers.  Raises `ScriptError`."""
    m = re.fullmatch(r"\s*(child\s*:)?\s*([a-z_0-9]+)\s*\((.*)\)\s*;?\s*", line)
    if not m or m[2] not in NUMBERS:
        names = ", ".join(n for n in NUMBERS if n != "start")
        raise ScriptError(f"{line.strip()!r} is no operation; write for example munmap(W+520p, 3p); known are {names}")
    op = NUMBERS[m[2]]
    args = [x for x in m[3].split(",") if x.strip()]
    if len(args) != NR_ARGS[op]:
        raise ScriptError(f"{line.strip()!r}: {m[2]} takes {NR_ARGS[op]} arguments, {len(args)} given")
    out = [op, 1 if m[1] else 0] + [value(x, line.strip()) for x in args]
    if any(not -(1 << 63) <= x < 1 << 63 for x in out):
        raise ScriptError(f"{line.strip()!r}: a number does not fit 64 bits")
    return out + [0] * (8 - len(out))


def parse_script(text: str, source: str = "script") -> Int64:
    """A whole script, as rows with the start of the program first.  Raises `ScriptError` with the line's number."""
    rows = [[OP_START] + [0] * 7]
    for n, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        try:
            rows.append(parse_row(line))
        except ScriptError as e:
            raise ScriptError(f"{source}:{n}: {e}") from None
    return np.array([r for i, r in enumerate(rows) if i == 0 or r[0] != OP_START], np.int64)


def script_text(rows: Int64, head: str = "") -> str:
    """A program as a script."""
    lines = [f"# {x}" for x in head.splitlines()]
    lines += [row_text(r) for r in rows if int(r[0]) != OP_START]
    return "\n".join(lines) + "\n"


def is_script(text: str) -> bool:
    """Whether a text is of this form: its first operation is a call with parentheses."""
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line:
            return "(" in line
    return False


__all__ = ["ScriptError", "is_script", "parse_row", "parse_script", "row_text", "script_text"]
