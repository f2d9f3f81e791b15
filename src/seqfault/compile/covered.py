"""Which lines of the text a run reaches: machine code that notes each line as it comes to it.

machine = CoveredProgram({"step": step}).machine()
...
reached_lines(machine)  # file -> lines
"""

from __future__ import annotations

from typing import Any

from seqfault.compile.builder import Unit
from seqfault.compile.ir import Function, Node
from seqfault.compile.native import NativeProgram
from seqfault.compile.ops import BRANCHES, Op

LINE = "line "


class CoveredProgram(NativeProgram):
    """As `NativeProgram`; its machine's counters have one for each line too, named after file and line."""

    def unit(self) -> Unit:
        unit = super().unit()
        for f in unit.functions.values():
            note_lines(unit, f)
        return unit

    def key(self) -> str:
        return super().key() + "-lines"


def note_lines(unit: Unit, f: Function) -> None:
    """Count each line where control comes to it."""
    before: dict[int, list[Node]] = {}
    for n in f.nodes:
        for s in (n.next, n.alt):
            if s is not None:
                before.setdefault(id(s), []).append(n)
    nodes: list[Node] = []
    for n in f.nodes:
        came = before.get(id(n), [])
        w = n.where
        alone = len(came) == 1 and came[0].op not in BRANCHES and n is not f.entry
        if not (alone and (came[0].where.file, came[0].where.line) == (w.file, w.line)):
            note = Node(Op.COUNT, [unit.counter(f"{LINE}{w.file}:{w.line}")], w, next=n)
            for p in came:
                p.next = note if p.next is n else p.next
                p.alt = note if p.alt is n else p.alt
            if f.entry is n:
                f.entry = note
            nodes.append(note)
        nodes.append(n)
    f.nodes = nodes


def reached_lines(machine: Any) -> dict[str, set[int]]:
    """The lines that a `CoveredProgram`'s machine has come to, by file."""
    seen: dict[str, set[int]] = {}
    for name, times in machine.counters.items():
        if times and name.startswith(LINE):
            file, line = name.removeprefix(LINE).rsplit(":", 1)
            seen.setdefault(file, set()).add(int(line))
    return seen
