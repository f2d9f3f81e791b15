"""Where a verdict under lkmm passes over load buffering: a store that takes effect before an earlier load of its CPU.

The view machine (memory_views.py) makes the accesses of a CPU in the order of its text.  What it cannot show so needs a
**pair**: a load, and a later store of the same CPU that nothing orders behind it (unordered.py), of cells that two CPUs
touch otherwise than under one lock (memory_views.record); another CPU stores what is loaded, another touches what is
stored.  Without such a pair every execution of LKMM is one of the machine, as far as load buffering goes: a load that
takes effect before an earlier one takes an old value there.

Where one side of a cell is only touched under a lock, what enters and leaves is the lock: its acquire and its release
order.  So both cells have to be racy, and nothing is asked of the ways between the two CPUs: no pair is left out that
could be part of a cycle.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op, Ordering
from seqfault.compile.program import CPU
from seqfault.explore.engine import Exploration
from seqfault.explore.layers import units_of
from seqfault.explore.locksets import lock_rows
from seqfault.explore.memory_views import U_RACY, U_TOUCHED, U_UNIT_OF
from seqfault.explore.reduced import Retrace
from seqfault.explore.tables import O_MEMORY
from seqfault.explore.unordered import Text, Unordered
from seqfault.explore.watch import looks
from seqfault.scenarios.model import Scenario

Int64 = NDArray[np.int64]
KIND = ("scenario_rom", "op[].kind")  # which operation is run, of scenarios


@dataclass(frozen=True)
class Pair:
    """Two instructions of one process: a load, and a later store that nothing orders behind it.

    `weak`: by LKMM's letter only, which counts no dependencies of plain accesses and no branch whose ways have met
    again.
    """

    load: int
    later: int
    weak: bool = False


@dataclass
class Touched:
    """Who touches what: sets of cells, as numbers with a bit for each.  `loads`, `stores`: of each unit."""

    racy: int
    loads: list[int]
    stores: list[int]
    unit: list[int] = field(default_factory=list)

    def others(self, unit: int, load: bool) -> int:
        out = 0
        for v, cells in enumerate(self.stores):
            if v != unit:
                out |= cells | (self.loads[v] if load else 0)
        return out


class Buffering:
    """What there is to know of an automaton, found when it is asked for."""

    def __init__(self, a: Automaton):
        self.a, self.text = a, Text(a)
        self.lax, self.strict = Unordered(self.text, False), Unordered(self.text, True)
        self.locks = 0
        for kind, owner, readers in lock_rows(a):
            self.locks |= 1 << owner | kind << readers
        self.cells: dict[int, int] = {}
        self.found: dict[int, dict[int, list[tuple[int, bool]]]] = {}
        self.loading: dict[frozenset[int], list[tuple[int, int]]] = {}
        self.ran: dict[tuple[int, frozenset[int] | None], frozenset[int]] = {}

    def cells_of(self, pc: int) -> int:
        """The cells that an access may touch."""
        if pc not in self.cells:
            self.cells[pc] = self._cells_of(pc)
        return self.cells[pc]

    def _cells_of(self, pc: int) -> int:
        row = self.text.code[pc]
        if row[0] == Op.ALLOC:
            p = self.a.pools[row[2]]
            return sum(((1 << p.stride - 1) - 1) << p.base + i * p.stride + 1 for i in range(p.n))
        return sum(1 << c for c in self.a.touched(pc))

    def runs(self, process: int, kinds: frozenset[int] | None) -> frozenset[int]:
        """The instructions that a process may come to when its operations are of these `kinds` (None: of any)."""
        entry = self.a.processes[process].entry
        key = entry, kinds
        if key not in self.ran:
            self.ran[key] = self._runs(entry, kinds)
        return self.ran[key]

    def _runs(self, entry: int, kinds: frozenset[int] | None) -> frozenset[int]:
        g, code = self.text.graph, self.text.code
        seen, todo = {entry}, [entry]
        while todo:
            pc = todo.pop()
            row = code[pc]
            to = list(g.successors(pc))
            if kinds is not None and pc in self.asks and self.asks[pc] not in kinds:
                to.remove(row[8] if row[0] == Op.BREQ else row[3])
            if row[0] == Op.CALL:
                to.append(row[3])
            for s in to:
                if s not in seen:
                    seen.add(s)
                    todo.append(s)
        return frozenset(seen)

    @cached_property
    def asks(self) -> dict[int, int]:
        """The branches that ask of which kind an operation is, and of which."""
        value = dict(self.a.const_words)
        tab, code = self.a.tab.tolist(), self.text.code
        constant = {s: value[r[0]] for s, r in enumerate(tab) if r[5] == 0 and s >= self.a.ncell and r[0] in value}
        out: dict[int, int] = {}
        for body in self.text.body:
            kind = [code[pc][1] for pc in body if self._is_kind(pc)]
            given = Counter(code[pc][1] for pc in body if self.text.assigns(code[pc][0]))
            for pc in body:
                op, a, b = code[pc][:3]
                if op in (Op.BREQ, Op.BRNE) and a in kind and given[a] == 1 and b in constant:
                    out[pc] = constant[b]
        return out

    def _is_kind(self, pc: int) -> bool:
        access = self.a.access[pc]
        return self.text.code[pc][0] == Op.LOAD and access is not None and (access.pool, access.path) == KIND

    def later(self, load: int) -> dict[int, list[tuple[int, bool]]]:
        """What is unordered behind a load, by the cells that it may touch: each instruction, and whether by LKMM's
        letter only."""
        if load not in self.found:
            lax = self.lax.behind(load)
            out: dict[int, list[tuple[int, bool]]] = {}
            for pc in sorted(lax | self.strict.behind(load)):
                if self.counts(pc):
                    out.setdefault(self.cells_of(pc), []).append((pc, pc not in lax))
            self.found[load] = out
        return self.found[load]

    def counts(self, pc: int) -> bool:
        """Whether it matters that a store is early: not that a lock is taken, which is given back behind what it was
        early to, unless somebody only tries to; nor what an atomic block stores, or the checker itself looks at."""
        if self.looks(pc) or self.text.code[pc][7] == Ordering.ATOMIC:  # a block is one event, and a release
            return False
        return self.text.tries or self.cells_of(pc) & ~self.locks != 0

    def looks(self, pc: int) -> bool:
        """Whether the checker looks there, and no CPU: it alone loads a spinlock's owner in no atomic block."""
        return looks(self.a.where[pc]) or (self.text.is_lock(pc) and self.text.plain(pc))

    def loads(self, pcs: frozenset[int]) -> list[tuple[int, int]]:
        """The loads among instructions, with the cells that they may touch."""
        if pcs not in self.loading:
            code = self.text.code
            self.loading[pcs] = [
                (pc, self.cells_of(pc))
                for pc in sorted(pcs)
                if code[pc][0] == Op.LOAD and code[pc][7] != Ordering.DIRECT and not self.looks(pc)
            ]
        return self.loading[pcs]

    def pairs(self, ran: list[frozenset[int]], t: Touched) -> list[Pair]:
        """Of processes that come to these instructions, each pair once."""
        out: dict[tuple[int, int], Pair] = {}
        for p, pcs in enumerate(ran):
            u = t.unit[p]
            can_load = t.racy & t.loads[u] & t.others(u, False)
            can_store = t.racy & t.stores[u] & t.others(u, True)
            if not can_load:
                continue
            for load, cells in self.loads(pcs):
                at = cells & can_load
                if not at:
                    continue
                for to, laters in self.later(load).items():
                    to &= can_store
                    if not to or (at == to and at & (at - 1) == 0):
                        continue
                    for pc, weak in laters:
                        if pc in pcs:
                            out[load, pc] = Pair(load, pc, weak)
        return [out[k] for k in sorted(out)]


_of: dict[int, Buffering] = {}


def buffering_of(a: Automaton) -> Buffering:
    """That of an automaton, made once in a process."""
    if id(a) not in _of:
        _of[id(a)] = Buffering(a)
    return _of[id(a)]


def touched_in(ex: Exploration) -> Touched | None:
    """What an exploration under lkmm has learned of who touches what; None: it did not keep that."""
    if not isinstance(ex.retrace, Retrace):
        return None
    a, P = ex.automaton, ex.retrace.r.t.P
    u = int(P[O_MEMORY])
    racy, bits, unit = (P[u + int(P[u + k]) :] for k in (U_RACY, U_TOUCHED, U_UNIT_OF))
    units = 1 + max(int(x) for x in unit[: len(a.processes)])

    def where(row: Int64) -> int:
        return int.from_bytes(np.packbits(row != 0, bitorder="little").tobytes(), "little")

    how = bits[: a.ncell]
    return Touched(
        where(racy[: a.ncell]),
        [where(how >> 2 * v & 1) for v in range(units)],
        [where(how >> 2 * v & 2) for v in range(units)],
        unit[: len(a.processes)].tolist(),
    )


def touched_by(b: Buffering, ran: list[frozenset[int]]) -> Touched:
    """The same from the text alone: what is touched by two is racy."""
    unit = [0] * len(ran)
    for n, ps in enumerate(units_of(b.a).values()):
        for p in ps:
            unit[p] = n
    loads, stores = [0] * (1 + max(unit)), [0] * (1 + max(unit))
    for p, pcs in enumerate(ran):
        for pc in pcs:
            row = b.text.code[pc]
            if row[0] in (Op.LOAD, Op.STORE) and row[7] != Ordering.DIRECT:
                (loads if row[0] == Op.LOAD else stores)[unit[p]] |= b.cells_of(pc)
    racy = 0
    for v, cells in enumerate(stores):
        for w in range(len(stores)):
            if w != v:
                racy |= cells & (loads[w] | stores[w])
    return Touched(racy, loads, stores, unit)


def passed_over(ex: Exploration, scenario: Scenario) -> list[tuple[int, int, bool]]:
    """Of an exploration under lkmm: the pairs of a load and a late store (two instructions, and whether they are
    unordered by LKMM's letter only)."""
    a = ex.automaton
    b = buffering_of(a)
    kinds: list[frozenset[int] | None] = [None] * len(a.processes)
    for i, p in enumerate(a.processes):
        if p.role == CPU and p.cpu < len(scenario.cpus):
            kinds[i] = frozenset(o.kind for o in scenario.cpus[p.cpu])
    ran = [b.runs(i, k) for i, k in enumerate(kinds)]
    return [(x.load, x.later, x.weak) for x in b.pairs(ran, touched_in(ex) or touched_by(b, ran))]
