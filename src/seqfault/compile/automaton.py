"""The automaton: what the compiler produces and every executor of it reads.

A state is `nw` 64-bit words: memory cells packed into bits, then a region for each process (its place in
the code, its live registers).  Executors add `nx` words that are no part of it: scenario data, constants,
transient registers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.ir import Access, Where
from seqfault.compile.ops import BRANCHES, Op
from seqfault.kernel.layout import Cell

Int64 = NDArray[np.int64]
Words = NDArray[np.uint64]


@dataclass(frozen=True)
class PoolInfo:
    """Objects of one struct: object i begins at cell `base` + i * `stride`; `state` is 0 if that cell tells
    whether it lives, else -1."""

    name: str
    base: int
    stride: int
    n: int
    state: int
    typesafe: bool

    @property
    def states(self) -> list[int]:
        """The cells that tell whether its objects live."""
        return [self.base + i * self.stride for i in range(self.n)]


@dataclass(frozen=True)
class ProcessInfo:
    """`entry`: first instruction; `base`, `words`: its region of the state; `role`: 0 CPU, 1 agent, 2 environment;
    `bound`: it runs on CPU `cpu`, whose store buffer it shares."""

    name: str
    entry: int
    base: int
    words: int
    role: int
    cpu: int
    bound: bool = True


@dataclass(frozen=True)
class RestRule:
    """At rest, `cell` must be zero (`rule` 0) or even (1) if its object (`state` cell, or -1) is live."""

    cell: int
    rule: int
    state: int
    kind: int


@dataclass
class Automaton:
    """A compiled program.  `/docs/engine.md` has the meaning of each instruction.

    `code` (n, 9): operation, a..g, next.  `tab` (slots, 6): word, shift, mask, lo, span, relative to the process.
    Slots 0..ncell - 1 are the memory cells, in the order of `cells`.  `stop`: mode -> where steps begin.
    `masks` (n, words): which bits of its region a process keeps when it stops, or calls, there.  `memory`: the memory
    model, whose own numbers are `memory_table` (explore/memory.py adds both).  `renames`: sequence counts are renamed
    after each step, where `count_table` says that there are any (explore/counts.py).
    """

    name: str
    granularity: str
    code: Int64
    tab: Int64
    stop: Mapping[str, NDArray[np.uint8]]
    seqpc: NDArray[np.uint8]
    masks: Int64
    rettab: Int64
    pools: Sequence[PoolInfo]
    const_words: Sequence[tuple[int, int]]
    nw: int
    nx: int
    ncell: int
    rom_cells: Sequence[int]
    processes: Sequence[ProcessInfo]
    halt_pc: int
    pc_slot: int
    held_slot: int
    cpu_slot: int
    process_slot: int
    kinds: Sequence[str]
    counters: Sequence[str]
    lock_classes: Sequence[str]
    observers: Sequence[int]
    observer_base: int
    observer_words: int
    rest_rules: Sequence[RestRule]
    where: Sequence[Where]
    access: Sequence[Access | None]
    cells: Sequence[Cell]
    state_bits: int
    wide_registers: Sequence[tuple[str, int]] = ()
    places: Sequence[str] = ()
    compile_s: float = 0.0
    cached: bool = False
    memory: str = "sc"
    memory_table: Sequence[int] = ()
    renames: bool = False
    count_table: Sequence[int] = ()
    extra: dict[str, object] = field(default_factory=dict)
    off: Sequence[int] = ()  # read-only cells that are 1 whatever the scenario says: sites that are taken out

    @property
    def locations(self) -> int:
        """Number of instructions."""
        return len(self.code)

    @cached_property
    def stored(self) -> list[tuple[int, int, int, int, int, int]]:
        """Each cell that is part of the state: number, word, shift, mask, least value, span (of 64 bits each)."""
        full = (1 << 64) - 1
        rows = enumerate(self.tab[: self.ncell].tolist())
        return [(a, r[0], r[1], r[2] & full, r[3], r[4] & full) for a, r in rows if r[2] and r[0] < self.nw]

    def pack(self, cells: Sequence[int | None], running: Sequence[bool] | None = None) -> Words:
        """The state of these memory cells (None: undefined) with every process at its entry.

        `running`: which processes take part; the others have finished.  Raises `ValueError` for a value
        outside its cell's range.
        """
        out = [0] * self.nw
        for a, word, shift, mask, lo, span in self.stored:
            v = cells[a]
            raw = span + 1 if v is None else v - lo
            if v is None and raw > mask:
                raw = 0
            if mask != (1 << 64) - 1 and not 0 <= raw <= mask:
                raise ValueError(f"{self.cells[a].name} = {v} is outside its range")
            out[word] |= (raw & mask) << shift
        for i, p in enumerate(self.processes):
            pc = p.entry if running is None or running[i] else self.halt_pc
            out[p.base] |= pc
        return np.array([x & (1 << 64) - 1 for x in out], np.uint64)

    def rom(self, cells: Sequence[int | None]) -> Int64:
        """The extra words that a scenario fixes, in the order of `rom_cells`."""
        off = set(self.off)
        return np.array([1 if a in off else cells[a] or 0 for a in self.rom_cells], np.int64)

    def unpack(self, words: Words) -> list[int | None]:
        """Memory cells of a state (None: undefined; cells that no text touches: their first value)."""
        w = [int(x) for x in words]
        out: list[int | None] = []
        for a in range(self.ncell):
            word, shift, mask, lo, span, _ = (int(x) for x in self.tab[a])
            mask &= (1 << 64) - 1
            if not mask or word >= self.nw:
                out.append(self.cells[a].start)
                continue
            raw = (w[word] >> shift) & mask
            if mask == (1 << 64) - 1:
                out.append(raw - (1 << 64) if raw >> 63 else raw)
            else:
                out.append(None if raw > (span & (1 << 64) - 1) else raw + lo)
        return out

    def pc_of(self, words: Words, process: int) -> int:
        """Where a process stands."""
        mask = int(self.tab[self.pc_slot][2])
        return int(words[self.processes[process].base]) & mask

    def touched(self, pc: int, most: int = 1 << 60) -> list[int]:
        """Numbers of the cells that the access of an instruction may mean, in order (none: it makes none, or may mean
        more than `most`)."""
        acc = self.access[pc]
        if acc is None:
            return []
        pool = next(p for p in self.pools if p.name == acc.pool)
        if acc.offset < 0:
            return pool.states
        offsets = [acc.offset]
        for count, stride in acc.spans:
            offsets = [o + i * stride for o in offsets for i in range(count)]
            if len(offsets) * pool.n > most:
                return []
        first = pool.base + (1 if pool.state == 0 else 0)
        return sorted({first + i * pool.stride + o for i in range(pool.n) for o in offsets})

    def disassemble(self) -> str:
        """One line an instruction, for reading."""
        lines = []
        for pc, row in enumerate(self.code):
            op = Op(int(row[0]))
            w = self.where[pc]
            mark = "".join(c for c, m in (("*", "merged"), ("s", "seq")) if self.stop[m][pc])
            acc = self.access[pc]
            what = f" {acc.pool}.{acc.path} ({acc.order})" if acc is not None else ""
            alt = ""
            if op in BRANCHES:
                alt = f" else {int(row[2 if op is Op.BR else 3])}"
            args = " ".join(str(int(x)) for x in row[1:8])
            lines.append(f"{pc:5} {mark:2} {op.name:8} {args} -> {int(row[8])}{alt}{what}  ; {w.function}:{w.line}")
        return "\n".join(lines)
