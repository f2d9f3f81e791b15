"""One run, instruction by instruction: what each CPU does to shared cells, and which loads that depends on.

The interpreter itself takes the steps, one instruction at a time (a table says that a step begins everywhere); beside
it, each register has the expression over the run's loads that it was computed from. What only one CPU touches, or
nobody stores, is a constant of the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ir import WRITES_A, Where
from seqfault.compile.ops import Op, Ordering
from seqfault.explore.engine import Executor
from seqfault.explore.interp import get, step
from seqfault.explore.tables import DISABLED, X_DIGITS, X_STAND, X_TRACE, X_VIOLATIONS, program_array
from seqfault.kernel.layout import Cell
from seqfault.report.litmus.flow import joins

FENCES = {1: "smp_mb", 2: "smp_rmb", 3: "smp_wmb", 5: "smp_mb__after_spinlock"}
TEXT = {
    Op.ADD: "+", Op.SUB: "-", Op.MUL: "*", Op.AND: "&", Op.OR: "|", Op.XOR: "^",
    Op.EQ: "==", Op.NE: "!=", Op.LT: "<", Op.LE: "<=",
}  # fmt: skip
BRANCH = {Op.BREQ: ("==", "!="), Op.BRNE: ("!=", "=="), Op.BRLT: ("<", ">="), Op.BRLE: ("<=", ">")}
LONGEST = 100  # characters of an expression; a longer one is its value, with a dependency on the same loads
WRITER = 100  # what a writer makes of a semaphore's count
SPIN, RWSEM, RCU = "kernel/spinlock.py", "kernel/rwsem.py", "kernel/rcu.py"
LIBRARY = (SPIN, RWSEM, RCU)


class ExportError(Exception):
    """What a litmus test cannot say, or a run that cannot be followed."""


@dataclass(frozen=True)
class Sym:
    """A value of the run; `text`: as an expression over loads (none: a constant); `deps`: those loads."""

    value: int
    text: str = ""
    deps: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text or (str(self.value) if self.value >= 0 else f"(0 - {-self.value})")  # herd7 has no unary minus


@dataclass
class Event:
    """One thing in a thread of the test.

    `kind`: ``load``, ``store``, ``rmw``, ``fence``, ``lock``, ``unlock``, ``trylock`` (it failed), ``down_read``,
    ``up_read``, ``down_write``, ``up_write``, ``srcu_lock``, ``srcu_unlock``, ``grace`` (a grace period ends), ``cond``
    (the run went this way), ``check`` (what the text asserts). `var`: the cell, or the lock. `reg`: what it defines.
    `word`: the order, the name of the operation or of the fence. `value`: what is stored; the condition. `old`: what a
    cmpxchg compares with. `addr`: loads that the address depends on. `under`: the conditions that it depends on.
    """

    kind: str
    var: str = ""
    reg: str = ""
    word: str = ""
    value: Sym = field(default_factory=lambda: Sym(0))
    old: Sym | None = None
    addr: tuple[str, ...] = ()
    under: tuple[str, ...] = ()
    where: Where = field(default_factory=lambda: Where("", "", 0))


@dataclass(frozen=True)
class Did:
    """One instruction that was run: operands before, the cell (of an access), the value after."""

    pc: int
    row: tuple[int, ...]
    x: int
    y: int
    cell: int
    value: int
    next: int


class Single:
    """The interpreter, one instruction at a time."""

    def __init__(self, a: Automaton, rom: NDArray[np.int64], init: NDArray[np.uint64]) -> None:
        self.a = a
        self.ex = Executor(a, rom, "merged", trace_room=16)
        self.words = self.ex.start(init)
        plain = program_array(a, "merged", False)
        self.P = np.concatenate([plain, np.ones(len(a.code) + 1, np.int64)])
        self.everywhere = len(plain)
        self.B = self.ex.B.copy()
        self.B[: a.nw] = self.words

    def get(self, slot: int, base: int) -> int:
        return int(get(self.B, self.P, slot, base))

    def pc(self, p: int) -> int:
        return self.ex.pc(self.B[: self.a.nw], p)

    def one(self, p: int, pc: int, digit: int) -> tuple[int, int]:
        """Run one instruction: its status and the next."""
        info, x = self.a.processes[p], self.ex.X
        x[X_DIGITS] = digit
        x[X_VIOLATIONS] = x[X_TRACE] = 0
        status = int(step(self.B, self.P, x, p, info.base, info.words, info.cpu, pc, self.everywhere, 1))
        return status, int(x[X_STAND])

    def turn(self, p: int, choice: int) -> list[Did]:
        """One step of a process.  Raises `ExportError` if it cannot be taken."""
        a, base = self.a, self.a.processes[p].base
        pc, stop, out = self.pc(p), self.a.stop["merged"], list[Did]()
        while True:
            row = tuple(int(v) for v in a.code[pc])
            op = row[0]
            if op == Op.HALT or (out and stop[pc]):
                return out
            digit = 0
            if op == Op.CHOOSE:
                choice, digit = divmod(choice, row[2])
            cell = -1
            if op in (Op.LOAD, Op.STORE):
                cell = row[2]
                if row[4]:
                    cell += self.get(row[3], base) * row[4]
                    if row[6]:
                        cell += self.get(row[5], base) * row[6]
            one, two = OPERANDS.get(op, (0, 0))
            x = self.get(row[one], base) if one else 0
            y = self.get(row[two], base) if two else 0
            status, after = self.one(p, pc, digit)
            if status == DISABLED:
                raise ExportError(f"{a.processes[p].name} waits in {a.where[pc].function} and cannot go on")
            value = self.get(row[1], base) if op in WRITES_A else x
            out.append(Did(pc, row, x, y, cell, value, after))
            if status != 0:
                return out
            pc = after


# operation -> the columns of its two operands
OPERANDS: dict[int, tuple[int, int]] = {
    **{op: (2, 3) for op in (*TEXT, Op.DIV, Op.MOD, Op.SHL, Op.SHR, Op.MIN, Op.MAX)},
    **{op: (2, 0) for op in (Op.MOV, Op.NOT, Op.INV, Op.NEG, Op.WRAP)},
    **{op: (1, 2) for op in BRANCH},
    **{op: (1, 0) for op in (Op.BR, Op.STORE, Op.WAIT, Op.CHECK)},
}  # fmt: skip


def thread_of(a: Automaton, p: int) -> str:
    """The CPU that a process runs on; a process that is on none is a thread of its own."""
    info = a.processes[p]
    return f"cpu{info.cpu}" if info.bound else info.name


def library(w: Where) -> str:
    """The file of the lock or RCU function that an instruction stands in."""
    for _, file, _ in (*w.chain, (w.function, w.file, w.line)):
        if file in LIBRARY:
            return file
    return ""


def base_of(cell: str) -> str:
    """The lock that a cell is part of: ``mm.mmap_sem`` of ``mm.mmap_sem.writer``."""
    return cell.rpartition(".")[0] or cell


@dataclass
class Run:
    """What a run is in a test: events of each thread, in order; the cells and locks that threads share."""

    threads: dict[str, list[Event]]
    loads: dict[str, tuple[str, int]]  # register: its thread, the value that it had
    grace: bool


class Walk:
    """Follows a schedule twice: to see what is shared, then to write it down.

    `only`: says of a cell's name whether it belongs into the test.
    """

    def __init__(
        self,
        a: Automaton,
        init: NDArray[np.uint64],
        rom: NDArray[np.int64],
        schedule: Sequence[tuple[int, int]],
        only: Callable[[str], bool],
    ) -> None:
        self.a, self.only = a, only
        m = Single(a, rom, init)
        self.turns = [(p, m.turn(p, choice)) for p, choice in schedule if m.pc(p) != a.halt_pc]
        self.join = joins(a)
        self.shared = self.share()
        self.events: dict[str, list[Event]] = {}
        self.regs: dict[tuple[int, int], Sym] = {}
        self.cells: dict[int, Sym] = {}
        self.under: dict[int, list[tuple[str, int, int]]] = {}  # of a process: condition, where it ends, call depth
        self.depth: dict[int, int] = {}
        self.loads: dict[str, tuple[str, int]] = {}
        self.zeros = dict(a.const_words)
        self.conds = 0
        self.local = 0
        self.inside: dict[tuple[int, str], str] = {}  # of a process: what srcu_read_lock returned
        self.grace = False

    # what is shared

    def what(self, d: Did) -> str:
        """The cell or the lock that an access touches; none if it is bookkeeping."""
        if d.row[7] == Ordering.DIRECT:
            return ""
        name = self.a.cells[d.cell].name
        return base_of(name) if library(self.a.where[d.pc]) else name

    def share(self) -> set[str]:
        touched: dict[str, set[str]] = {}
        stored: dict[str, set[str]] = {}
        for p, did in self.turns:
            t = thread_of(self.a, p)
            for d in did:
                if d.cell >= 0 and (name := self.what(d)):
                    touched.setdefault(name, set()).add(t)
                    if d.row[0] == Op.STORE:
                        stored.setdefault(name, set()).add(t)
                elif d.row[0] == Op.ALLOC:
                    for c in self.cells_of(d):
                        touched.setdefault(c.name, set()).add(t)
                        stored.setdefault(c.name, set()).add(t)
        self.stored = stored
        return {n for n, ts in touched.items() if len(ts) > 1 and n in stored and self.only(n)}

    def cells_of(self, d: Did) -> Sequence[Cell]:
        """The cells of the object that an ALLOC gave out, if it was zeroed."""
        pool = self.a.pools[d.row[2]]
        first = pool.base + (d.value - 1) * pool.stride
        return self.a.cells[first + 1 : first + pool.stride] if d.row[3] else []

    # the second time

    def run(self) -> Run:
        for p, did in self.turns:
            self.turn(p, did)
        return Run(self.events, self.loads, self.grace)

    def put(self, p: int, e: Event, pc: int) -> Event:
        e.under = tuple(c for c, _, _ in self.under.get(p, ()))
        e.where = self.a.where[pc]
        self.events.setdefault(thread_of(self.a, p), []).append(e)
        return e

    def sym(self, p: int, slot: int, value: int) -> Sym:
        known = self.regs.get((p, slot))
        return known if known is not None and known.value == value else Sym(value)

    def turn(self, p: int, did: list[Did]) -> None:
        a = self.a
        atomic = [i for i, d in enumerate(did) if d.row[7] == Ordering.ATOMIC and d.cell >= 0 and self.counts(d)]
        if atomic:
            self.put(p, Event("fence", word="smp_mb"), did[atomic[0]].pc)
        for i, d in enumerate(did):
            self.leave(p, d.pc)
            op, row = d.row[0], d.row
            if op == Op.LOAD:
                self.regs[p, row[1]] = self.load(p, did, i)
            elif op == Op.STORE:
                self.store(p, did, i)
            elif op == Op.CALL:
                self.depth[p] = self.depth.get(p, 0) + 1
            elif op == Op.RET:
                self.depth[p] = self.depth.get(p, 0) - 1
            elif op == Op.FENCE and d.row[1] in FENCES:
                self.put(p, Event("fence", word=FENCES[d.row[1]]), d.pc)
            elif op in BRANCH or op == Op.BR:
                self.branch(p, d)
            elif op == Op.WAIT:
                s = self.sym(p, row[1], d.x)
                if s.deps:
                    self.pin(p, stated(s), d.pc, s.deps)
            elif op == Op.CHECK:
                s = self.sym(p, row[1], d.x)
                if s.deps and not library(a.where[d.pc]):
                    self.put(p, Event("check", reg=f"ok{self.conds}", value=s, word=a.kinds[row[2]]), d.pc)
                    self.conds += 1
            elif op == Op.ALLOC:
                for c in self.cells_of(d):
                    if c.name in self.shared:
                        self.put(p, Event("store", c.name, word="once", value=Sym(c.start)), d.pc)
            elif op in WRITES_A:
                self.regs[p, row[1]] = self.compute(p, d)
        if atomic:
            self.put(p, Event("fence", word="smp_mb"), did[atomic[-1]].pc)

    def counts(self, d: Did) -> bool:
        """An access in `with atomic():` that the test shows as it is."""
        return self.what(d) in self.shared and not library(self.a.where[d.pc])

    def leave(self, p: int, pc: int) -> None:
        """Conditions whose two ways have met."""
        here, depth = self.under.get(p, []), self.depth.get(p, 0)
        while here and (here[-1][2] > depth or (here[-1][2] == depth and here[-1][1] == pc)):
            here.pop()

    def compute(self, p: int, d: Did) -> Sym:
        op, row = d.row[0], d.row
        if op not in OPERANDS:
            return Sym(d.value)
        x = self.sym(p, row[2], d.x)
        y = self.sym(p, row[3], d.y) if OPERANDS[op][1] else Sym(0)
        deps = (*x.deps, *(r for r in y.deps if r not in x.deps))
        if not deps:
            return Sym(d.value)
        if op in (Op.MOV, Op.WRAP):
            return Sym(d.value, x.text, deps)
        if op == Op.NOT:
            text = f"({negated(x)})"
        elif op == Op.NEG:
            text = f"(0 - {x})"
        else:
            text = f"({x} {TEXT[Op(op)]} {y})" if op in TEXT else ""
        if not text or len(text) > LONGEST:
            text = f"({d.value} + {false(deps)})"
        return Sym(d.value, text, deps)

    def branch(self, p: int, d: Did) -> None:
        op, row = d.row[0], d.row
        x = self.sym(p, row[1], d.x)
        taken = d.next == row[8]
        if op == Op.BR:
            if not x.deps:
                return
            ways = stated(x), negated(x)
            deps = x.deps
        else:
            y = self.sym(p, row[2], d.y)
            deps = (*x.deps, *(r for r in y.deps if r not in x.deps))
            if not deps:
                return
            ways = f"{x} {BRANCH[Op(op)][0]} {y}", f"{x} {BRANCH[Op(op)][1]} {y}"
        text = ways[0 if taken else 1]
        other = row[2 if op == Op.BR else 3] if taken else row[8]
        for pc, right in ((other, text), (d.next, ways[1 if taken else 0])):
            if kind := self.fails(pc):
                self.put(p, Event("check", reg=f"ok{self.conds}", value=Sym(1, right, deps), word=kind), d.pc)
                self.conds += 1
                return
        name = self.put(p, Event("cond", reg=f"p{self.conds}", value=Sym(1, text, deps)), d.pc).reg
        self.conds += 1
        self.under.setdefault(p, []).append((name, self.join.get(d.pc, -1), self.depth.get(p, 0)))

    def fails(self, pc: int) -> str:
        """The kind of the check that fails if the text goes on here; none if it may go well."""
        while self.a.code[pc, 0] in (Op.NOP, Op.MOV):
            pc = int(self.a.code[pc, 8])
        row = self.a.code[pc]
        if row[0] != Op.CHECK or self.zeros.get(int(self.a.tab[row[1], 0])) != 0 or library(self.a.where[pc]):
            return ""
        return self.a.kinds[int(row[2])]

    def pin(self, p: int, text: str, pc: int, deps: tuple[str, ...] = ()) -> None:
        """The run needs that this holds."""
        self.put(p, Event("cond", reg=f"p{self.conds}", value=Sym(1, text, deps)), pc)
        self.conds += 1

    def address(self, p: int, d: Did) -> tuple[str, ...]:
        deps: dict[str, None] = {}
        for slot in (d.row[3],) * bool(d.row[4]) + (d.row[5],) * bool(d.row[4] and d.row[6]):
            known = self.regs.get((p, slot))
            deps.update(dict.fromkeys(known.deps if known else ()))
        return tuple(deps)

    def new(self, p: int, value: int) -> str:
        name = f"r{len(self.loads)}"
        self.loads[name] = thread_of(self.a, p), value
        return name

    def load(self, p: int, did: list[Did], i: int) -> Sym:
        d = did[i]
        name = self.what(d)
        if library(self.a.where[d.pc]):
            self.library_load(p, did, i, name)
            return Sym(d.value)
        if not name or name not in self.shared:
            known = self.cells.get(d.cell)
            return known if known is not None and known.value == d.value else Sym(d.value)
        order = self.order(d.pc)
        store = next((k for k in range(i + 1, len(did)) if did[k].row[0] == Op.STORE and did[k].cell == d.cell), -1)
        if order.startswith("rmw"):
            return self.rmw(p, did, i, store, name, order.removeprefix("rmw-"))
        atomic = d.row[7] == Ordering.ATOMIC
        seen = next((k for k in range(i) if did[k].row[0] == Op.LOAD and did[k].cell == d.cell), -1) if atomic else -1
        if seen >= 0:  # nothing comes between two loads in one step
            return self.sym(p, did[seen].row[1], d.value)
        reg = self.new(p, d.value)
        if atomic and store >= 0 and len(self.stored[name]) > 1:  # if nobody else stores, nothing comes between anyway
            e = Event("rmw", name, reg, "cmpxchg", Sym(did[store].x), Sym(d.value), self.address(p, d))
            self.put(p, e, d.pc)
            self.pin(p, f"{reg} == {d.value}", d.pc, (reg,))
            return Sym(d.value, reg, (reg,))
        self.put(p, Event("load", name, reg, order, addr=self.address(p, d)), d.pc)
        return Sym(d.value, reg, (reg,))

    def order(self, pc: int) -> str:
        access = self.a.access[pc]
        return access.order if access is not None else "plain"

    def rmw(self, p: int, did: list[Did], i: int, store: int, name: str, suffix: str) -> Sym:
        """xchg, fetch_add, cmpxchg: a load and, if it stores, a store in the same step."""
        d = did[i]
        reg = self.new(p, d.value)
        me = Sym(d.value, reg, (reg,))
        addr = self.address(p, d)
        suffix = "" if suffix == "full" else f"_{suffix}"
        compare = next((k for k in range(i + 1, min(i + 3, len(did))) if did[k].row[0] in (Op.BREQ, Op.BRNE)), -1)
        if compare >= 0 and did[compare].row[1] == d.row[1]:
            old = self.sym(p, did[compare].row[2], did[compare].y)
            # of one that fails, what would be stored was not computed in a way that shows: one more than it found
            new = self.sym(p, did[store].row[1], did[store].x) if store >= 0 else Sym(d.value + 1)
            self.put(p, Event("rmw", name, reg, f"cmpxchg{suffix}", new, old, addr), d.pc)
            return me
        if store < 0:
            raise ExportError(f"{self.a.where[d.pc].function} reads {name} for a store that does not come")
        between = [k for k in range(i + 1, store) if did[k].row[0] == Op.ADD and did[k].row[2] == d.row[1]]
        if between and did[between[0]].row[1] == did[store].row[1]:
            add = did[between[0]]
            self.put(p, Event("rmw", name, reg, f"fetch_add{suffix}", self.sym(p, add.row[3], add.y), None, addr), d.pc)
        else:
            new = self.sym(p, did[store].row[1], did[store].x)
            self.put(p, Event("rmw", name, reg, f"xchg{suffix}", new, None, addr), d.pc)
        return me

    def store(self, p: int, did: list[Did], i: int) -> None:
        d = did[i]
        name = self.what(d)
        if library(self.a.where[d.pc]):
            self.library_store(p, d, name)
            return
        value = self.sym(p, d.row[1], d.x)
        if not name or name not in self.shared:
            self.cells[d.cell] = value
            return
        order = self.order(d.pc)
        loaded = any(x.row[0] == Op.LOAD and x.cell == d.cell for x in did[:i])
        if order.startswith("rmw") or (d.row[7] == Ordering.ATOMIC and loaded and len(self.stored[name]) > 1):
            return  # written with its load
        self.put(p, Event("store", name, word=order, value=value, addr=self.address(p, d)), d.pc)

    # locks and RCU, which are words of the litmus dialect

    def library_load(self, p: int, did: list[Did], i: int, name: str) -> None:
        d = did[i]
        stored = any(x.row[0] == Op.STORE and x.cell == d.cell for x in did[i:])
        if name in self.shared and self.order(d.pc).startswith("rmw") and not stored:
            reg = self.put(p, Event("trylock", name, self.temporary()), d.pc).reg
            self.pin(p, f"{reg} == 0", d.pc)

    def temporary(self) -> str:
        self.local += 1
        return f"s{self.local - 1}"

    def library_store(self, p: int, d: Did, name: str) -> None:
        file, part = library(self.a.where[d.pc]), self.a.cells[d.cell].name.rpartition(".")[2]
        if file == RCU:
            self.rcu_store(p, d, name, part)
        elif name not in self.shared:
            return
        elif file == SPIN:
            self.put(p, Event("lock" if d.x else "unlock", name), d.pc)
        elif part == "writer":
            if d.x:
                reg = self.put(p, Event("down_write", name, self.temporary()), d.pc).reg
                self.pin(p, f"{reg} == 0", d.pc)
            else:
                self.put(p, Event("up_write", name), d.pc)
        elif d.x >> p & 1:
            reg = self.put(p, Event("down_read", name, self.temporary()), d.pc).reg
            self.pin(p, f"{reg} < {WRITER}", d.pc)
        else:
            self.put(p, Event("up_read", name, self.temporary()), d.pc)

    def rcu_store(self, p: int, d: Did, name: str, part: str) -> None:
        domain = name.partition(".queue")[0]
        if part == "readers":
            if d.x >> p & 1:
                self.inside[p, name] = self.put(p, Event("srcu_lock", name, self.temporary()), d.pc).reg
            else:
                self.put(p, Event("srcu_unlock", name, self.inside.get((p, name), "0")), d.pc)
        elif part == "arg" and d.x:
            self.put(p, Event("store", f"{domain}.called", word="release", value=Sym(1)), d.pc)
        elif part == "arg" and self.a.processes[p].role:
            self.grace = True
            reg = self.put(p, Event("load", f"{domain}.called", self.new(p, 1), "acquire"), d.pc).reg
            self.pin(p, f"{reg} == 1", d.pc, (reg,))
            self.put(p, Event("grace", domain), d.pc)


COMPARED = re.compile(r"\((\w+) (==|!=|<|<=|>|>=) (\w+)\)")
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def stated(s: Sym) -> str:
    """That a value is not 0."""
    m = COMPARED.fullmatch(s.text)
    return f"{m[1]} {m[2]} {m[3]}" if m else f"{s} != 0"


def negated(s: Sym) -> str:
    """That a value is 0."""
    m = COMPARED.fullmatch(s.text)
    return f"{m[1]} {OPPOSITE[m[2]]} {m[3]}" if m else f"{s} == 0"


def false(regs: Sequence[str]) -> str:
    """A dependency on loads whose values do not matter: ``(r1 ^ r1)``, as diy writes it."""
    return " + ".join(f"({r} ^ {r})" for r in regs)
