"""A program of operations with the model's answers, as a script for `seqfault run`, in C, and in Python.

Each runs on its own: the C program needs a compiler, the Python program nothing but Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqfault.live.abi import STACK_PAGES
from seqfault.live.compare import ALIVE0, VMA_WORDS
from seqfault.live.generate import Geometry
from seqfault.live.script import row_text, script_text
from seqfault.mm.opcodes import (
    NAMES,
    NR_ARGS,
    OP_BRK,
    OP_EXIT,
    OP_FORK,
    OP_FTRUNCATE,
    OP_MAP_COUNT,
    OP_PWRITE,
    OP_READ,
    OP_RLIMIT_AS,
    OP_START,
    OP_WRITE,
    PAGE_SIZE,
    WINDOW_BASE,
)

Int64 = NDArray[np.int64]
TEMPLATES = Path(__file__).parent / "templates"
# the calls of the C program that are no system call
SPECIAL = {OP_READ, OP_WRITE, OP_FORK, OP_EXIT, OP_FTRUNCATE, OP_PWRITE, OP_RLIMIT_AS}
DISK_CONTENT = 96  # the first byte of page i of the file on disk is this plus i


@dataclass(frozen=True)
class Record:
    """What was observed after one operation: `vmas` and `pages` of each living process."""

    result: int
    vmas: dict[int, list[tuple[int, ...]]]
    pages: dict[int, list[int]]


def read_record(words: Int64, observed: int) -> Record:
    """A record of a stream; `observed`: how many pages are observed."""
    result, mask = int(words[0]), int(words[1])
    at = 2
    vmas: dict[int, list[tuple[int, ...]]] = {}
    pages: dict[int, list[int]] = {}
    for p in range(2):
        if not mask & (ALIVE0 << p):
            continue
        n = int(words[at])
        at += 1
        vmas[p] = [tuple(int(x) for x in words[at + i * VMA_WORDS : at + (i + 1) * VMA_WORDS]) for i in range(n)]
        at += n * VMA_WORDS
        pages[p] = [int(x) for x in words[at : at + observed]]
        at += observed
    return Record(result, vmas, pages)


def perms(bits: int) -> str:
    return "".join(c if bits & b else "-" for b, c in ((1, "r"), (2, "w"), (4, "x"))) + ("s" if bits & 8 else "p")


def observed_pages(g: Geometry) -> list[int]:
    return [p for a, b in g.spans for p in range(a, b)]


def c_number(v: int) -> str:
    return f"{v}L" if v > -(1 << 63) else "(-9223372036854775807L-1)"


def export_script(rows: Int64, head: str) -> str:
    """For ``seqfault run``."""
    return script_text(rows, head)


def _fill(template: str, values: dict[str, str]) -> str:
    text = (TEMPLATES / template).read_text()
    for k, v in {**values, "STACK": str(STACK_PAGES)}.items():
        text = text.replace(f"@{k}@", v)
    return text


def _last(records: Sequence[Record], who: int, g: Geometry) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    """The VMAs inside the window, without its fences, and the words of its pages."""
    last = records[-1]
    vmas = [v for v in last.vmas.get(who, []) if v[0] > 0 and v[1] < g.nr_pages]
    words = list(zip(observed_pages(g), last.pages.get(who, []), strict=False))
    return vmas, words


def export_c(rows: Int64, records: Sequence[Record], who: int, g: Geometry, head: str) -> str:
    """A C program.  `records`: the model's, one for each row; `who`: the process whose window is compared at the
    end."""
    ops = []
    for row, rec in zip(rows, records, strict=True):
        op = int(row[0])
        if op in (OP_START, OP_MAP_COUNT):
            continue
        nr = f"-{op}" if op in SPECIAL else f"SYS_{NAMES[op]}" if NAMES[op] != "mseal" else "462"
        args = ", ".join(c_number(int(x)) for x in row[2 : 2 + NR_ARGS[op]]) or "0"
        text = row_text(row).replace("\\", "\\\\").replace('"', '\\"')
        ops.append(f'\t{{ "{text}", {int(row[1])}, {nr}, {{ {args} }}, {c_number(rec.result)} }},')
    vmas, words = _last(records, who, g)
    maps = "".join(
        f'\n\t{{ W + {a} * P, W + {b} * P, "{perms(bits)}", {off * PAGE_SIZE}UL }},' for a, b, bits, off, _ in vmas
    )
    files = "\n".join(
        [f'\tfds[{fd}] = memfd_create("seqfault", 0);\n\tif (ftruncate(fds[{fd}], {n} * P))\n\t\treturn 2;'
         for fd, n in ((0, 8), (1, 4), (3, 1))]
        + ['\tchar name[] = "/tmp/seqfault-XXXXXX";', "\tfds[2] = mkstemp(name);",
           "\tfor (int i = 0; i < 6; i++) {",
           f"\t\tstatic char page[4096];\n\t\tpage[0] = {DISK_CONTENT} + i;",
           "\t\tif (write(fds[2], page, P) != (ssize_t)P)\n\t\t\treturn 2;\n\t}",
           "\tfds[4] = open(name, O_RDONLY);", "\tfds[5] = open(name, O_WRONLY);", "\tunlink(name);"]
    )  # fmt: skip
    return _fill(
        "repro.c.in",
        {
            "HEAD": "\n".join(f" * {x}" for x in head.splitlines()).lstrip(),
            "PAGES": str(g.nr_pages),
            "OPS": "\n".join(ops),
            "MAPS": maps,
            "NMAPS": str(len(vmas)),
            "WORDS": "".join(f"\n\t{{ {p}, {w & 0xFFFF} }}," for p, w in words),
            "WHO": str(who),
            "FILES": files,
            "BRK": c_brk(rows, g),
        },
    )


def c_brk(rows: Int64, g: Geometry) -> str:
    """The lines that put the heap into the window, where the program uses brk."""
    if not (rows[:, 0] == OP_BRK).any():
        return ""
    at = WINDOW_BASE + g.heap_page * PAGE_SIZE
    return f"\tmove_heap({at}UL);"


def export_python(rows: Int64, records: Sequence[Record], who: int, g: Geometry, head: str) -> str:
    """A Python program; parameters as `export_c`."""
    ops = []
    for row, rec in zip(rows, records, strict=True):
        op = int(row[0])
        if op in (OP_START, OP_MAP_COUNT):
            continue
        args = [int(x) for x in row[2 : 2 + NR_ARGS[op]]]
        ops.append(f"    ({row_text(row)!r}, {int(row[1])}, {NAMES[op]!r}, {args}, {rec.result}),")
    vmas, words = _last(records, who, g)
    brk = ""
    if (rows[:, 0] == OP_BRK).any():
        at = WINDOW_BASE + g.heap_page * PAGE_SIZE
        brk = f"move_heap({at})"
    return _fill(
        "repro.py.in",
        {
            "HEAD": head,
            "PAGES": str(g.nr_pages),
            "OPS": "\n".join(ops),
            "MAPS": repr([(a, b, perms(bits), off * PAGE_SIZE) for a, b, bits, off, _ in vmas]),
            "WORDS": repr({p: w & 0xFFFF for p, w in words}),
            "WHO": str(who),
            "DISK": str(DISK_CONTENT),
            "BRK": brk,
        },
    )
