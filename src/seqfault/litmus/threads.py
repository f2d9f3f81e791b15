"""What a thread may do alone: its executions, for every value that its reads could return.

The events and dependencies are those of herd7's C semantics with linux-kernel.def (Linux 6.1): a branch is a control
dependency of what stands in it, not of what follows it; a read-modify-write is two events; `mb` orders stand between
two full fences; a `cmpxchg` that fails is a relaxed read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from seqfault.litmus.tree import (
    Address,
    Assign,
    Binary,
    Choose,
    Const,
    Eval,
    Expr,
    Fence,
    If,
    IsLocked,
    Jump,
    Litmus,
    Load,
    Lock,
    Loop,
    Reg,
    Rmw,
    SrcuLock,
    SrcuSync,
    SrcuUnlock,
    Stmt,
    Store,
    Thread,
    TryLock,
    Unary,
    Unlock,
    Value,
)
from seqfault.litmus.values import Undefined, binary, truth, unary

MOST = 1_000_000  # executions of one thread
INITIAL = 1 << 62  # among the writers of a value: the initial state
# Dependencies are two sets in one number: those of the text, and from bit FLOW on those without which the value cannot
# be known. herd7 knows `r1 ^ r1` before it knows r1.
FLOW = 1024
DEPS = (1 << FLOW) - 1


def _from(i: int) -> int:
    """What depends on event `i`."""
    return (1 | 1 << FLOW) << i


class Incomplete(Exception):
    """A limit came first; the argument says which."""


@dataclass(slots=True)
class Limits:
    """Where judging ends without a verdict.

    Attributes:
        candidates: candidate executions, and executions of one thread.
        deadline: of `time.monotonic`; None for no end.
    """

    candidates: int = 10_000_000
    deadline: float | None = None
    seen: int = 0

    def count(self, n: int = 1) -> None:
        """Note `n` candidates.

        Raises:
            Incomplete: the limit or the deadline is passed.
        """
        before = self.seen
        self.seen += n
        if self.seen > self.candidates:
            raise Incomplete(f"the limit of {self.candidates} candidate executions")
        if self.deadline is not None and before >> 6 != self.seen >> 6 and time.monotonic() > self.deadline:
            raise Incomplete("the time limit")


@dataclass(slots=True)
class Event:
    """One event of one thread.

    `kind`: ``R``, ``W``, ``F``, the lock events of lock.cat (``LKR LKW UL LF RU``) and ``SRCU``.
    `tag`: ``plain once acquire release noreturn``, or for ``F`` and ``SRCU`` which one (linux-kernel.bell).
    `addr`, `data`, `ctrl`: which earlier events of the thread it depends on, as bits; `flow`: those without whose
    values its address and value cannot be known.
    `atomic`: in the set ``RMW``. `pair`: of the write of an RMW, the index of its read, else -1.
    """

    kind: str
    tag: str
    address: Address | None
    value: Value
    line: int
    addr: int = 0
    data: int = 0
    ctrl: int = 0
    atomic: bool = False
    pair: int = -1
    flow: int = 0


@dataclass(slots=True)
class Trace:
    """An execution of one thread: events in program order, registers at the end, flags of what is undefined."""

    events: list[Event] = field(default_factory=list)
    registers: dict[str, Value] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)


Writers = dict[Address, dict[Value, int]]
Ranks = dict[Address, dict[Value, int]]
Valued = tuple[Value, int]  # a value and the reads that it comes from


class How(NamedTuple):
    """`pruned`: without what coherence of the thread alone forbids. `guess`: both ways of each branch. `ranks`: of
    cells that one other thread alone stores to, which value comes when; no later read returns an earlier one."""

    pruned: bool = True
    guess: bool = False
    ranks: Ranks = {}  # noqa: RUF012


class _Walk:
    """One execution of a thread; `prefix` says what is chosen where there is a choice."""

    def __init__(self, test: Litmus, thread: Thread, writers: Writers, prefix: list[int], how: How) -> None:
        self.test, self.thread, self.writers, self.prefix = test, thread, writers, prefix
        self.pruned, self.guess, self.ranks = how
        self.last: dict[Address, int] = {}  # the rank of what was read last
        self.options: list[int] = []
        self.chosen: list[int] = []
        self.trace = Trace()
        self.ctrl = 0
        self.own: dict[Address, Value] = {}
        self.env: dict[str, Valued] = {p: (Address(p), 0) for p in thread.params}
        for (number, name), value in test.registers.items():
            if number == thread.number:
                self.env[name] = (value, 0)

    def run(self) -> Trace | None:
        """The execution, or None if coherence alone forbids it."""
        if not self.block(self.thread.body):
            return None
        self.trace.registers = {name: v for name, (v, _) in self.env.items()}
        return self.trace

    def choose(self, n: int) -> int:
        at = len(self.options)
        self.options.append(n)
        self.chosen.append(self.prefix[at] if at < len(self.prefix) else 0)
        return self.chosen[-1]

    def decide(self, known: bool, deps: int) -> bool:
        """Which way a condition goes; what depends on no read has one way."""
        return bool(self.choose(2)) if self.guess and deps else known

    def event(
        self, kind: str, tag: str, line: int, address: Address | None = None, value: Value = 0, **more: int
    ) -> int:
        addr, data = more.get("addr", 0), more.get("data", 0)
        e = Event(
            kind, tag, address, value, line, addr & DEPS, data & DEPS, (self.ctrl | more.get("control", 0)) & DEPS
        )
        e.atomic, e.pair, e.flow = bool(more.get("atomic", 0)), more.get("pair", -1), (addr | data) >> FLOW
        self.trace.events.append(e)
        if len(self.trace.events) > FLOW:
            raise Incomplete(f"the limit of {FLOW} events of a thread")
        return len(self.trace.events) - 1

    def place(self, of: Expr) -> tuple[Address, int]:
        value, deps = self.value(of)
        if isinstance(value, int):
            self.trace.flags.add("null-dereference" if value == 0 else "wild-dereference")
            return Address(f"({value})"), deps
        if value not in self.test.init:
            self.trace.flags.add("out-of-bounds")
        return value, deps

    # statements; False when a read has no value that it could return

    def block(self, body: tuple[Stmt, ...]) -> bool:
        return all(self.statement(s) for s in body)

    def statement(self, s: Stmt) -> bool:
        try:
            self.statement_(s)
        except _Impossible:
            return False
        return True

    def statement_(self, s: Stmt) -> None:
        match s:
            case Assign(name, value, _):
                self.env[name] = self.value(value)
            case Eval(value, _):
                self.value(value)
            case Store(order, address, value, line):
                at, addr = self.place(address)
                v, data = self.value(value)
                self.write(at, order, v, line, addr, data)
            case Fence(kind, line):
                self.event("F", kind, line)
            case If(cond, then, other, _):
                v, deps = self.value(cond)
                outer = self.ctrl
                self.ctrl |= deps
                if not self.block(then if self.decide(truth(v), deps) else other):
                    raise _Impossible
                self.ctrl = outer
            case Lock(address, line):
                self.lock(*self.place(address), line)
            case Unlock(address, line):
                at, addr = self.place(address)
                self.event("UL", "release", line, at, 0, addr=addr)
            case SrcuUnlock(address, index, line):
                at, addr = self.place(address)
                v, data = self.value(index)
                self.event("SRCU", "srcu-unlock", line, at, v, addr=addr, data=data)
            case SrcuSync(address, line):
                at, addr = self.place(address)
                self.event("SRCU", "sync-srcu", line, at, addr=addr)
            case Loop() | Jump():
                raise AssertionError("loops are unrolled by the parser")

    def lock(self, at: Address, addr: int, line: int) -> None:
        r = self.event("LKR", "acquire", line, at, 0, addr=addr)
        self.event("LKW", "once", line, at, 1, addr=addr, pair=r)

    def write(self, at: Address, tag: str, v: Value, line: int, addr: int, data: int, **more: int) -> int:
        self.own[at] = v
        return self.event("W", tag, line, at, v, addr=addr, data=data, **more)

    def read(self, at: Address, tag: str, line: int, addr: int, atomic: bool = False) -> tuple[Value, int]:
        """A read of a value that another thread writes, or that is the thread's own last (coherence)."""
        me = 1 << self.thread.number
        known = self.writers.get(at) or {0: INITIAL}
        if not self.pruned:
            can = list(known)
        elif at in self.own:
            mine = self.own[at]
            can = [v for v, who in known.items() if who & ~me & ~INITIAL or v == mine]
            if mine not in known:
                can.append(mine)
        else:
            can = [v for v, who in known.items() if who & ~me]
        rank = self.ranks.get(at)
        if rank is not None:
            last = self.last.get(at, 0)
            can = [v for v in can if rank.get(v, last) >= last]
        if not can:
            raise _Impossible
        v = can[self.choose(len(can)) if len(can) > 1 else 0]
        if rank is not None:
            self.last[at] = rank.get(v, self.last.get(at, 0))
        return v, self.event("R", tag, line, at, v, addr=addr, atomic=atomic)

    # expressions

    def value(self, e: Expr) -> Valued:
        match e:
            case Const(v):
                return v, 0
            case Reg(name):
                return self.env.get(name, (0, 0))
            case Unary(op, of):
                v, deps = self.value(of)
                return self.defined(lambda: unary(op, v)), deps
            case Binary(op, left, right):
                a, one = self.value(left)
                b, two = self.value(right)
                known = op in ("^", "-", "==", "!=") and left == right and isinstance(left, Reg)
                return self.defined(lambda: binary(op, a, b)), (one | two) & DEPS if known else one | two
            case Choose(cond, then, other):
                v, deps = self.value(cond)
                a, one = self.value(then)
                b, two = self.value(other)
                return (a if truth(v) else b), deps | one | two
            case Load(order, address, line):
                at, addr = self.place(address)
                v, i = self.read(at, order, line, addr)
                return v, _from(i)
            case Rmw():
                return self.rmw(e)
            case TryLock(address, line):
                at, addr = self.place(address)
                if self.choose(2):
                    self.lock(at, addr, line)
                    return 1, 0
                return 0, _from(self.event("LF", "once", line, at, 1, addr=addr))
            case IsLocked(address, line):
                at, addr = self.place(address)
                yes = self.choose(2)
                return yes, _from(self.event("LF" if yes else "RU", "once", line, at, yes, addr=addr))
            case SrcuLock(address, line):
                at, addr = self.place(address)
                index = (self.thread.number + 1) * 307 + len(self.trace.events) * 599  # herd7's, no two the same
                return index, _from(self.event("SRCU", "srcu-lock", line, at, index, addr=addr))

    def defined(self, compute: object) -> Value:
        try:
            out: Value = compute()  # type: ignore[operator]
        except Undefined as u:
            self.trace.flags.add(str(u))
            return 0
        return out

    def rmw(self, e: Rmw) -> Valued:
        at, addr = self.place(e.address)
        operand, data = self.value(e.operand)
        expected, control = self.value(e.expected) if e.expected is not None else (0, 0)
        # the fence before is there only if there is a write; it is taken back below
        fenced = e.order == "mb"
        if fenced:
            self.event("F", "mb", e.line)
        order = e.order if e.order in ("acquire", "noreturn") else "once"
        old, r = self.read(at, order, e.line, addr, atomic=True)
        fails = e.kind in ("cmpxchg", "add_unless") and self.decide((old != expected) == (e.kind == "cmpxchg"), 1)
        if fails:
            if fenced:
                del self.trace.events[r - 1]
                r -= 1
            self.trace.events[r].tag = "once"
            if e.keeps:
                self.env[e.keeps] = old, _from(r)
            return (0 if e.gives == "bool" else old), _from(r)
        new = operand
        if e.kind in ("op", "add_unless"):
            new = self.defined(lambda: binary(e.op, old, operand))
            data |= _from(r)
        tag = "release" if e.order == "release" else "once"
        self.write(at, tag, new, e.line, addr, data, atomic=True, control=control, pair=r)
        if fenced:
            self.event("F", "mb", e.line)
        gives = {"old": old, "new": new, "bool": 1, "none": 0}[e.gives]
        return gives, (data | _from(r) if e.kind == "op" else _from(r))


class _Impossible(Exception):
    """Coherence forbids what was chosen."""


def traces(test: Litmus, thread: Thread, writers: Writers, limits: Limits, how: How) -> Iterator[Trace]:
    """Every execution of one thread whose reads return values of `writers`."""
    prefix: list[int] = []
    for n in count():
        if n > MOST:
            raise Incomplete(f"the limit of {MOST} executions of one thread")
        walk = _Walk(test, thread, writers, prefix, how)
        trace = walk.run()
        limits.count()
        if trace is not None:
            yield trace
        prefix, options = walk.chosen, walk.options
        while prefix and prefix[-1] + 1 == options[len(prefix) - 1]:
            prefix.pop()
        if not prefix:
            return
        prefix[-1] += 1
