"""The model's side of `fuzz`: mm/uapi.py as machine code, fed with batches of operations."""

from __future__ import annotations

import ast
import errno
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.native import NativeProgram
from seqfault.compile.source import Func, source_of
from seqfault.kernel.machine import KernelBug, Machine
from seqfault.live.abi import STACK_PAGES
from seqfault.live.generate import Geometry
from seqfault.mm.fullsize import full_sizes
from seqfault.mm.opcodes import OP_START
from seqfault.mm.uapi import uapi_init, uapi_step

Int64 = NDArray[np.int64]
OUT_PER_ROW = 800  # words; records have fewer on average, also where both processes live and details are asked for


@dataclass
class ModelRun:
    """`stream`, `offsets`: the records of the first `done` rows; `bug`: what an oracle of the text said then."""

    stream: Int64
    offsets: Int64
    done: int
    bug: KernelBug | None


ENTRIES: dict[str, Func] = {"init": uapi_init, "step": uapi_step}


def window_sizes(release: int, g: Geometry, **more: int) -> dict[str, int]:
    """Sizes of the text for the window of `g`.  `release`: major * 100 + minor; `more`: other sizes."""
    sizes = {
        "NR_PAGES": g.nr_pages,
        "HEAP_PAGE": g.heap_page,
        "NR_FRAMES": max(1024, g.nr_pages + 512),
        "RLIMIT_STACK": STACK_PAGES,
    }
    return full_sizes(release, **(sizes | more))


def program_for(release: int, g: Geometry, **more: int) -> NativeProgram:
    """The program of the whole user interface; parameters as `window_sizes`."""
    return NativeProgram(ENTRIES, sizes=window_sizes(release, g, **more))


def live_lines(program: NativeProgram) -> dict[Func, set[int]]:
    """The functions of mm/ that a program has, and their lines that are not folded away for its release."""
    lines: dict[str, set[int]] = {}
    for f in program.unit().functions.values():
        for n in f.nodes:
            lines.setdefault(n.where.file, set()).add(n.where.line)
    out: dict[Func, set[int]] = {}
    for s in program.sources:
        if s.file.startswith("mm/"):
            mine = {x for x in lines.get(s.file, ()) if s.node.lineno < x <= (s.node.end_lineno or s.node.lineno)}
            if mine:
                out[s.fn] = mine
    return out


def errnos(program: NativeProgram) -> list[str]:
    """The errno values that the text of a release can give, by name: those that its live lines return."""
    names: set[str] = set()
    for fn, lines in live_lines(program).items():
        for n in ast.walk(source_of(fn).node):
            neg = isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.USub) and isinstance(n.operand, ast.Name)
            if neg and n.lineno in lines and n.operand.id in errno.errorcode.values():  # type: ignore[attr-defined]
                names.add(n.operand.id)  # type: ignore[attr-defined]
    return sorted(names)


class ModelSide:
    """The model with the window of `g`.

    Parameters: `release`, major * 100 + minor; `g`; `detail_every`: how often a record has what smaps says (rows; 0:
    never).
    """

    def __init__(self, release: int, g: Geometry, detail_every: int = 0, **more: int):
        self.geometry, self.release, self.detail_every = g, release, detail_every
        self.program = program_for(release, g, **more)
        self.machine: Any = self.program.machine()
        self.out = np.zeros(1 << 20, np.int64)
        self.start()

    def begin(self) -> None:
        """After a bug: memory as at the start."""
        self.machine.reset()
        self.start()

    def start(self) -> None:
        """The text's own beginning, on memory as at the start."""
        self.machine.call("init")
        observe(self.machine, self.program, self.geometry, self.detail_every)

    def run(self, rows: Int64) -> ModelRun:
        """Run programs one after the other (each begins with OP_START)."""
        if len(self.out) < OUT_PER_ROW * len(rows):
            self.out = np.zeros(OUT_PER_ROW * len(rows), np.int64)
        set_field(self.machine, self.program, "detail_every", self.detail_every)
        offsets, done, bug = self.machine.batch("step", rows, "uapi_request", self.out)
        run = ModelRun(self.out, offsets, done, bug)
        if bug is not None:
            self.begin()
        return run


def cell(program: NativeProgram, name: str) -> int:
    """The cell of a field of `uapi_observed`."""
    return int(program.layout.address("uapi_observed", 0, name))


def set_field(machine: Any, program: NativeProgram, name: str, value: int) -> None:
    machine.cells[cell(program, name)] = value


def observe(machine: Any, program: NativeProgram, g: Geometry, detail_every: int) -> None:
    """Tell the text which pages are looked at."""
    set_field(machine, program, "nr_spans", len(g.spans))
    for i, (a, b) in enumerate(g.spans):
        set_field(machine, program, f"start[{i}]", a)
        set_field(machine, program, f"end[{i}]", b)
    set_field(machine, program, "detail_every", detail_every)
    set_field(machine, program, "row", 0)


class PlainSide:
    """The same text as plain Python, one operation at a time: slow, and the judge of the machine code.

    `check(rows)` runs a program in both and compares every cell of memory after each operation.  Raises
    `KernelBug` with kind "executors-differ" where they do not agree.
    """

    def __init__(self, release: int, g: Geometry, **more: int):
        self.geometry = g
        self.program = program_for(release, g, **more)

    def check(self, rows: Int64) -> int:
        """Returns how many operations were compared."""
        assert int(rows[0, 0]) == OP_START
        native: Any = self.program.machine()
        native.call("init")
        observe(native, self.program, self.geometry, 0)
        plain: Machine = native.to_plain()
        out = np.zeros(1 << 16, np.int64)
        request = self.program.layout.pools["uapi_request"].base
        for n, row in enumerate(rows):
            got = native.batch("step", row.reshape(1, -1), "uapi_request", out)
            plain.cells[request : request + len(row)] = [int(v) for v in row]
            plain.emitted.clear()
            bug = ""
            try:
                with plain:
                    uapi_step()
            except KernelBug as e:
                bug = e.kind
            if bug or got.bug is not None:
                kind = got.bug.kind if got.bug is not None else "nothing"
                if kind != bug:
                    what = f"operation {n}: plain Python reports {bug}, machine code {kind}"
                    raise KernelBug("executors-differ", what)
                return n
            wrong = native.differences(plain)
            if list(out[: got.offsets[1]]) != plain.emitted:
                wrong.append("what is emitted")
            if wrong:
                raise KernelBug("executors-differ", f"operation {n}: {wrong[0]}")
        return len(rows)
