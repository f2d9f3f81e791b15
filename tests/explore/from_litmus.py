"""A litmus test as Kernel Python, so that the checker runs it; and the litmus machine in the order of the program.

What cannot be said so is refused with `Refused`: values that are addresses, RCU, words without a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules import load
from seqfault.compile.automaton import Automaton
from seqfault.compile.program import Process, Program, compile_program
from seqfault.explore.engine import Exploration, explore
from seqfault.explore.memory import with_memory
from seqfault.explore.replay import replay
from seqfault.litmus.judge import places_shown
from seqfault.litmus.machine import Done, Machine, State, View, final_states, join
from seqfault.litmus.parse import parse
from seqfault.litmus.paths import Op, Refused, _settle, paths, regs_of
from seqfault.litmus.paths import Path as Op_Path
from seqfault.litmus.tree import (
    Address,
    Assign,
    Binary,
    Const,
    Eval,
    Expr,
    Fence,
    If,
    Litmus,
    Load,
    Lock,
    Place,
    Reg,
    RegisterOf,
    Rmw,
    Stmt,
    Store,
    Unary,
    Unlock,
    Value,
)

FENCES = {"mb": "smp_mb", "rmb": "smp_rmb", "wmb": "smp_wmb", "after-spinlock": "smp_mb__after_spinlock"}
LOADS = {"once": "READ_ONCE", "acquire": "smp_load_acquire", "plain": ""}
LOCKS = {"s", "u"}
STORES = {"once": "WRITE_ONCE", "release": "smp_store_release", "plain": ""}
HEAD = """
from seqfault.kernel import *
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t
from seqfault.kernel.types import array

@struct(pool=1)
class shared:
    c: array[integer(-64, 255), {n}]
    s: spinlock_t
    u: spinlock_t

@struct(pool=1, private=True)
class seen:
    r: array[integer(-64, 255), {r}]

def tell():
    for i in range({r}):
        emit(the(seen).r[i])
    for i in range({n}):
        emit(the(shared).c[i])
"""


class _Thread:
    def __init__(self, test: Litmus, cells: list[str]):
        self.test, self.cells = test, cells
        self.lines: list[str] = []
        self.n = 0

    def temp(self, text: str) -> str:
        self.n += 1
        self.lines.append(f"{self.pad}t{self.n} = {text}")
        return f"t{self.n}"

    pad = "    "

    def at(self, e: Expr) -> str:
        match e:
            case Reg(name) if name in self.cells:
                return f"the(shared).c[{self.cells.index(name)}]"
            case Const(Address(name, 0)) if name in self.cells:
                return f"the(shared).c[{self.cells.index(name)}]"
            case Binary("+", Reg(name), off, _) if name in self.cells:
                return f"the(shared).c[{self.cells.index(name)} + {self.value(off)}]"
        raise Refused(f"address {e}")

    def value(self, e: Expr) -> str:
        match e:
            case Const(v) if isinstance(v, int):
                return str(v)
            case Reg(name) if name not in self.cells and name not in LOCKS:
                return name
            case Binary("&", left, Const(0), _):  # as 0 it would be no dependency
                return f"({self.value(left)} & 128)"
            case Binary(op, left, right, _) if op in ("+", "-", "^", "&", "|", "=="):
                return f"({self.value(left)} {op} {self.value(right)})"
            case Unary("-", of):
                return f"(-{self.value(of)})"
            case Load(order, address, _) if order in LOADS:
                at = self.at(address)
                return self.temp(f"{LOADS[order]}({at})" if LOADS[order] else at)
            case Rmw():
                return self.rmw(e)
        raise Refused(f"value {type(e).__name__}")

    def rmw(self, e: Rmw) -> str:
        if e.order == "noreturn":
            raise Refused("noreturn")
        o = {"mb": "", "once": "_relaxed"}.get(e.order, f"_{e.order}")
        at, v = self.at(e.address), self.value(e.operand)
        if e.kind == "xchg":
            return self.temp(f"xchg{o}({at}, {v})")
        if e.kind == "cmpxchg" and e.expected is not None and e.gives == "old":
            return self.temp(f"cmpxchg{o}({at}, {self.value(e.expected)}, {v})")
        if e.kind == "op" and e.op in "+-":
            v = v if e.op == "+" else f"-{v}"
            old = self.temp(f"fetch_add{o}({at}, {v})")
            return old if e.gives == "old" else f"({old} + {v})"
        raise Refused(f"{e.kind} {e.op}")

    def block(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            match s:
                case Assign(name, value, _):
                    self.lines.append(f"{self.pad}{name} = {self.value(value)}")
                case Eval(value, _):
                    self.value(value)
                case Store(order, address, value, _) if order in STORES:
                    v = self.value(value)
                    at = self.at(address)
                    self.lines.append(f"{self.pad}{STORES[order]}({at}, {v})" if STORES[order] else f"{self.pad}{at} = {v}")
                case Fence(kind, _) if kind in FENCES:
                    self.lines.append(f"{self.pad}{FENCES[kind]}()")
                case Lock(Reg(name)) if name in LOCKS:
                    self.lines.append(f"{self.pad}spin_lock(the(shared).{name})")
                case Unlock(Reg(name)) if name in LOCKS:
                    self.lines.append(f"{self.pad}spin_unlock(the(shared).{name})")
                case If(cond, then, other, _):
                    self.lines.append(f"{self.pad}if {self.value(cond)} != 0:")
                    self.nested(then)
                    if other:
                        self.lines.append(f"{self.pad}else:")
                        self.nested(other)
                case _:
                    raise Refused(f"statement {s}")

    def nested(self, body: tuple[Stmt, ...]) -> None:
        outer, self.pad = self.pad, self.pad + "    "
        self.block(body)
        if not body:
            self.lines.append(f"{self.pad}pass")
        self.pad = outer


def registers_of(body: tuple[Stmt, ...]) -> list[str]:
    out: list[str] = []
    for s in body:
        if isinstance(s, Assign) and s.name not in out:
            out.append(s.name)
        if isinstance(s, If):
            out += [r for r in registers_of((*s.then, *s.other)) if r not in out]
    return out


def module(test: Litmus, folder: Path) -> tuple[ModuleType, list[str], list[RegisterOf]]:
    """The test as a module with functions P0, P1, ...; the names of its cells; what is in seen.r at the end."""
    cells = sorted({a.name for a in test.init} - {n for n, k in test.kinds.items() if "spinlock" in k} - LOCKS)
    if test.registers or any(a.cell for a in test.init) or not all(isinstance(v, int) for v in test.init.values()):
        raise Refused("initial values")
    text, places = "", list[RegisterOf]()
    for t in test.threads:
        th = _Thread(test, cells)
        th.block(t.body)
        regs = registers_of(t.body)
        body = [f"    {r} = 0" for r in regs] + th.lines
        for r in regs:
            body.append(f"    the(seen).r[{len(places)}] = {r}")
            places.append(RegisterOf(t.number, r))
        text += f"\ndef P{t.number}():\n" + "\n".join(body or ["    pass"]) + "\n"
    text = HEAD.format(n=len(cells), r=max(1, len(places))) + text
    file = folder / f"{re.sub(r'[^a-zA-Z0-9]', '_', test.name)}.py"
    file.write_text(text)
    return load(file, f"from_litmus_{file.stem}"), cells, places


def automaton(
    test: Litmus, folder: Path, memory: str = "lkmm"
) -> tuple[Automaton, NDArray[np.uint64], NDArray[np.int64], list[str], list[RegisterOf]]:
    """A test under a memory model of the checker, with what it begins with, and what `module` says of it."""
    m, cells, places = module(test, folder)
    p = Program("t", [Process(getattr(m, f"P{t.number}"), t.number) for t in test.threads], observers=[m.tell])
    a = with_memory(compile_program(p), memory)
    start = list(p.layout().start)
    for addr, v in test.init.items():
        if addr.name in cells:
            at = next(c.addr for c in a.cells if c.name == f"shared[0].c[{cells.index(addr.name)}]")
            start[at] = v  # type: ignore[call-overload]
    return a, a.pack(start), a.rom(start), cells, places


def checker_states(
    test: Litmus, folder: Path, memory: str = "lkmm", dead: bool = True
) -> tuple[Exploration, set[tuple[Value, ...]]]:
    """The final states of a test under a memory model of the checker, as the keys of `Verdict.states`."""
    a, words, rom, cells, places = automaton(test, folder, memory)
    ex = explore(a, words, rom, dead=dead)
    assert ex.complete, ex.reason
    bad = {a.kinds[v.kind] for v in ex.violations} - {"deadlock"}
    assert not bad, bad
    out = set()
    shown = places_shown(test)
    for state in ex.outcomes.values():
        at_end = replay(a, words, rom, ex.path_to(state), rest=False)[-1].words
        cell: dict[str, Any] = {c.name: v for c, v in zip(a.cells, a.unpack(at_end.view("uint64")), strict=True)}
        got: dict[Place, Value] = {Address(n): cell[f"shared[0].c[{i}]"] for i, n in enumerate(cells)}
        got |= {p: cell[f"seen[0].r[{i}]"] for i, p in enumerate(places)}
        out.add(tuple(got.get(p, 0) for p in shown))
    return ex, out


class InOrder(Machine):
    """The litmus machine as the checker has it: threads do everything in the order of their text; a branch orders all
    later stores; that a read is overwritten by what another one shows ((prop \\ id) & int) is known to what comes later.

    What comes after smp_wmb() comes after all earlier loads.  What full barriers knew is handed on by hb, as docs/memory-models.md has it: a view has it a second time, behind
    what is known, and a store carries what all earlier events of its thread have of it.
    """

    def __init__(self, init: dict[Address, Value], ways: tuple[Op_Path, ...]):
        super().__init__(init, ways)
        self.zero = (0,) * (2 * len(self.names))

    def _known(self, s: State, t: int, i: int, x: int) -> tuple[View, int, int]:
        know, last, end = super()._known(s._replace(sc=self.zero), t, i, x)
        way = self.ways[t]
        wmb = max((k for k in range(i) if way.ops[k].order == "wmb" and way.ops[k].kind == "F"), default=-1)
        if way.ops[i].kind in "WU":
            know = join(know, *(d.know for d in s.events[t][: wmb + 1] if d is not None))
        return know, last, end

    def _read(self, s: State, t: int, x: int, n: int, know: View) -> View:
        m = s.memory[x][n]
        know = join(know, m.dep) if m.writer[0] == t else join(know, m.carried, self._at(x, n))
        strong = know[len(self.names) :]
        return join(know, (*strong, *strong))

    def _meet(self, s: State, t: int, i: int, more: View | None = None) -> tuple[State, View]:
        known = super()._meet(s, t, i, more)[1][: len(self.names)]
        know = (*known, *known)
        return s._replace(sc=know), know

    def _access(self, s: State, t: int, i: int, o: Op, x: int, env: dict[str, Value]) -> Iterator[State]:
        for after in super()._access(s, t, i, o, x, env):
            mine = after.events[t][i]
            assert mine is not None
            if o.kind == "W":
                yield after
                continue
            know, n = mine.know, mine.number

            def told(view: View, know: View = know, n: int = n) -> View:
                return join(view, know) if view[x] > n else view

            row = tuple(d if d is None or k >= i else d._replace(know=told(d.know)) for k, d in enumerate(after.events[t]))
            memory = tuple(
                tuple(m._replace(dep=told(m.dep)) if m.writer[0] == t else m for m in ms) for ms in after.memory
            )
            yield after._replace(events=(*after.events[:t], row, *after.events[t + 1 :]), memory=memory)

    def _shift(self, w: View, x: int, n: int) -> View:
        return super()._shift(super()._shift(w, x, n), x + len(self.names), n)

    def _told(self, earlier: tuple[Done | None, ...], know: View, x: int, n: int) -> View:
        all_ = self._shift(join(know, *(d.know for d in earlier if d is not None)), x, n)
        strong = all_[len(self.names) :]
        # what is older than what was known was not behind who showed that
        return (*(0 for _ in self.names), *strong[:x], min(n, strong[x]), *strong[x + 1 :])


def ordered(way: Op_Path, compares: bool) -> Op_Path:
    """A path whose branches order all later stores, and which nothing leaves its place in.  `compares`: what assumes an
    equality is a cmpxchg, not a branch."""
    seen: frozenset[str] = frozenset()
    locks = {o.reg for o in way.ops if o.lock}
    for o in way.ops:
        if o.kind != "A":
            o.ctrl |= seen
        elif not (compares and isinstance(o.value, Binary)) and not regs_of(o.value) & locks:
            seen |= regs_of(o.value)
    way.before, way.ppo, way.wmb = [], [], []
    _settle(way)
    way.before = [(1 << j) - 1 for j in range(len(way.ops))]
    return way


def in_order(test: Litmus, full: bool = False, machine: type[Machine] = InOrder) -> set[tuple[Value, ...]]:
    """The final states of the litmus machine whose threads do everything in the order of their text; `full`: with
    (prop \\ id) & int."""
    compares = any("cmpxchg" in line for line in test.source)
    ways = lambda of, t: (ordered(w, compares) for w in paths(of, t))  # noqa: E731
    return final_states(test, None, Machine if full else machine, ways)


def read(text: str, name: str = "t") -> Litmus:
    return parse(text, name)
