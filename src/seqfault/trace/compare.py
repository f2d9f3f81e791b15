"""The layout that was recorded beside the model's: equal, or in which lines not."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from seqfault.mm.opcodes import TASK_SIZE_BYTES
from seqfault.trace.layout import Area, Layout
from seqfault.trace.spaces import FLAGS, Vma

# flags of smaps that are compared; the others (io, pf, um, ...) the model has not
MODELLED = frozenset(FLAGS)


@dataclass
class Comparison:
    """One layout.  `merged`: neighbours that could have been one VMA were taken as one, on both sides."""

    pid: int
    when: str
    areas: int
    merged: bool
    diff: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.diff


@dataclass(frozen=True, slots=True)
class Row:
    """What is compared."""

    start: int
    end: int
    perms: str
    offset: int
    file: str
    flags: frozenset[str]

    def __str__(self) -> str:
        flags = ",".join(sorted(self.flags))
        return f"{self.start:x}-{self.end:x} {self.perms} {self.offset:08x} [{flags}] {self.file}".rstrip()


def recorded_row(area: Area) -> Row:
    # vvar has an offset and no file, and anonymous memory's offset is not shown
    named = area.inode or area.path.startswith("/")
    file = area.path if named else ""
    return Row(area.start, area.end, area.perms, area.offset if named else 0, file, area.flags & MODELLED)


def model_row(vma: Vma, named: dict[int, str]) -> Row:
    file = named.get(vma.file, "/dev/zero (deleted)") if vma.file >= 0 else ""
    return Row(vma.start, vma.end, vma.perms, vma.offset, file, vma.flags)


def plain(path: str) -> str:
    """A file's name without what /proc and strace say of it being gone."""
    return path.replace(" (deleted)", "").replace("(deleted)", "").lstrip("/")


def merge(rows: Sequence[Row]) -> list[Row]:
    """Neighbours as one where nothing that a layout shows keeps them apart."""
    out: list[Row] = []
    for r in rows:
        last = out[-1] if out else None
        if (
            last
            and last.end == r.start
            and (last.perms, last.file, last.flags) == (r.perms, r.file, r.flags)
            and (not r.file or last.offset + last.end - last.start == r.offset)
        ):
            out[-1] = Row(last.start, r.end, r.perms, last.offset, r.file, r.flags)
        else:
            out.append(r)
    return out


def compare_layouts(layout: Layout, maps: Sequence[Vma], named: dict[int, str], touched_known: bool) -> Comparison:
    """`touched_known`: the faults were replayed too; else what could have merged is taken as merged."""
    want = [recorded_row(a) for a in layout.areas if a.end <= TASK_SIZE_BYTES]
    got = [model_row(v, named) for v in maps]
    want = [Row(r.start, r.end, r.perms, r.offset, plain(r.file), r.flags) for r in want]
    got = [Row(r.start, r.end, r.perms, r.offset, plain(r.file), r.flags) for r in got]
    if not touched_known:
        want, got = merge(want), merge(got)
    out = Comparison(layout.pid, layout.when, len(want), not touched_known)
    if want != got:
        lines = difflib.unified_diff(
            [str(r) for r in want], [str(r) for r in got], "recorded", "model", n=1, lineterm=""
        )
        out.diff = list(lines)[2:]
    return out
