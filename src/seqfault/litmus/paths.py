"""Every way through a thread of a litmus test, and in which order its events may happen (for machine.py).

A way is a list of events whose values are expressions over the loads before them; what a branch assumes is an event
too.  The orders are those of linux-kernel.cat (Linux 6.1): dependencies, fences, acquire and release,
po-unlock-lock-po.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

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
    Litmus,
    Load,
    Lock,
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
from seqfault.litmus.values import binary, truth, unary

STRONG = ("mb", "sync-rcu", "sync-srcu")
SECTION = ("rcu-lock", "rcu-unlock", "srcu-lock", "srcu-unlock")


class Refused(Exception):
    """The machine does not have this; the argument names it."""


@dataclass(slots=True)
class Op:
    """An event of one path through a thread.

    `kind`: R, W, U (a read-modify-write), F, or A (`value` must be true, or false, by `flag`).  `reg`: what a read
    gives its value to.  `order`: once, acquire, release, noreturn, or which fence.  `addr`, `data`, `ctrl`: registers
    that the address, the value, and being there at all depend on.  `lock`: it is a spinlock's lock or unlock.
    """

    kind: str
    order: str
    address: Expr | None = None
    value: Expr | None = None
    reg: str = ""
    addr: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()
    ctrl: frozenset[str] = frozenset()
    flag: bool = True
    lock: str = ""


@dataclass(slots=True)
class Path:
    """One way through a thread: its events, and what its registers are at the end."""

    ops: list[Op] = field(default_factory=list)
    registers: dict[str, Expr] = field(default_factory=dict)
    before: list[int] = field(default_factory=list)  # of each event, the earlier ones that must have happened (bits)
    ppo: list[int] = field(default_factory=list)  # whose knowledge it has
    wmb: list[int] = field(default_factory=list)  # stores that a store carries along


def regs_of(e: Expr | None) -> frozenset[str]:
    """The loads that a value comes from."""
    match e:
        case Reg(name):
            return frozenset({name})
        case Unary(_, of):
            return regs_of(of)
        case Binary(_, left, right, _):
            return regs_of(left) | regs_of(right)
        case Choose(cond, then, other):
            return regs_of(cond) | regs_of(then) | regs_of(other)
    return frozenset()


def evaluate(e: Expr, env: dict[str, Value]) -> Value:
    """The value of an expression without accesses."""
    match e:
        case Const(v):
            return v
        case Reg(name):
            return env[name]
        case Unary(op, of):
            return unary(op, evaluate(of, env))
        case Binary(op, left, right, _):
            return binary(op, evaluate(left, env), evaluate(right, env))
        case Choose(cond, then, other):
            return evaluate(then if truth(evaluate(cond, env)) else other, env)
    raise AssertionError(e)


class _Lower:
    """One path; `prefix` says which way is taken where there are two."""

    def __init__(self, test: Litmus, thread: Thread, prefix: list[int]):
        self.prefix, self.chosen, self.thread, self.indexed = prefix, list[int](), thread, test.model.indexed
        self.path = Path()
        self.ctrl: frozenset[str] = frozenset()
        self.env: dict[str, Expr] = {p: Const(Address(p)) for p in thread.params}
        for (number, name), value in test.registers.items():
            if number == thread.number:
                self.env[name] = Const(value)
        self.block(thread.body)
        self.path.registers = self.env

    def choose(self) -> bool:
        at = len(self.chosen)
        self.chosen.append(self.prefix[at] if at < len(self.prefix) else 0)
        return bool(self.chosen[-1])

    def add(self, kind: str, order: str, address: Expr | None = None, value: Expr | None = None, **more: object) -> str:
        op = Op(kind, order, address, value, ctrl=self.ctrl, **more)  # type: ignore[arg-type]
        op.addr, op.data = regs_of(address), regs_of(value) - {op.reg}
        self.path.ops.append(op)
        return op.reg

    def fresh(self) -> str:
        return f"%{len(self.path.ops)}"

    def read(self, order: str, address: Expr) -> Expr:
        if order == "plain":
            raise Refused("plain accesses")
        return Reg(self.add("R", order, address, reg=self.fresh()))

    def assume(self, value: Expr, flag: bool) -> None:
        self.add("A", "", None, value, flag=flag)

    def block(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            self.statement(s)

    def statement(self, s: Stmt) -> None:
        match s:
            case Assign(name, value, _):
                self.env[name] = self.value(value)
            case Eval(value, _):
                self.value(value)
            case Store(order, address, value, _):
                if order == "plain":
                    raise Refused("plain accesses")
                self.add("W", order, self.value(address), self.value(value))
            case Fence(kind, _):
                self.fence(kind)
            case If(cond, then, other, _):
                v = self.value(cond)
                taken = self.choose()
                self.assume(v, taken)
                outer = self.ctrl
                self.ctrl |= regs_of(v)
                self.block(then if taken else other)
                self.ctrl = outer
            case Lock(address, _):
                self.lock(self.value(address))
            case Unlock(address, _):
                self.add("W", "release", self.value(address), Const(0), lock="unlock")
            case SrcuUnlock(address, _, _):
                self.add("F", "srcu-unlock", self.value(address))
            case SrcuSync(address, _):
                self.add("F", "sync-srcu", self.value(address))

    def lock(self, at: Expr) -> None:
        r = self.fresh()
        self.add("U", "acquire", at, Const(1), reg=r, lock="lock")
        self.assume(Reg(r), False)

    def fence(self, kind: str) -> None:
        ops = [o for o in self.path.ops if o.kind != "A"]
        if kind == "after-unlock-lock":
            raise Refused("smp_mb__after_unlock_lock")
        if kind == "after-srcu-read-unlock":
            raise Refused("smp_mb__after_srcu_read_unlock")
        if kind == "after-spinlock":
            if any(o.lock == "lock" for o in ops):
                if ops[-1].lock != "lock":
                    raise Refused("an access between a lock and smp_mb__after_spinlock")
                self.add("F", "mb")
        elif kind == "after-atomic":
            if any(o.kind == "U" and not o.lock for o in ops):
                if ops[-1].kind != "U" and ops[-1].order != "mb":
                    raise Refused("an access between a read-modify-write and smp_mb__after_atomic")
                self.add("F", "mb")
        elif kind == "before-atomic":
            self.add("F", "before-atomic")
        elif kind != "barrier":
            self.add("F", kind)

    def value(self, e: Expr) -> Expr:
        match e:
            case Const():
                return e
            case Reg(name):
                return self.env.get(name, Const(0))
            case Unary(op, of):
                return Unary(op, self.value(of))
            case Binary(op, left, right, line):
                return Binary(op, self.value(left), self.value(right), line)
            case Choose(cond, then, other):
                return Choose(self.value(cond), self.value(then), self.value(other))
            case Load(order, address, _):
                return self.read(order, self.value(address))
            case TryLock(address, _):
                at = self.value(address)
                if self.choose():
                    self.lock(at)
                    return Const(1)
                r = self.read("once", at)
                self.assume(r, True)
                return Binary("*", r, Const(0))
            case IsLocked(address, _):
                yes = self.choose()
                r = self.read("once", self.value(address))
                self.assume(r, yes)
                return r
            case SrcuLock(address, _):
                if self.indexed:
                    raise Refused("SRCU sections that are told by their index")
                self.add("F", "srcu-lock", self.value(address))
                return Const((self.thread.number + 1) * 307 + (len(self.path.ops) - 1) * 599)
            case Rmw():
                return self.rmw(e)

    def rmw(self, e: Rmw) -> Expr:
        at, operand = self.value(e.address), self.value(e.operand)
        expected = self.value(e.expected) if e.expected is not None else None
        if expected is not None and self.choose():  # it fails
            old = self.read("once", at)
            self.assume(Binary("==", old, expected), e.kind == "add_unless")
            if e.keeps:
                self.env[e.keeps] = old
            return Binary("*", old, Const(0)) if e.gives == "bool" else old
        full = e.order == "mb"
        if full:
            self.add("F", "mb")
        r = self.fresh()
        old = Reg(r)
        new: Expr = Binary(e.op, old, operand) if e.kind in ("op", "add_unless") else operand
        outer = self.ctrl
        if expected is not None:
            self.ctrl |= regs_of(expected)
        self.add("U", "once" if full else e.order, at, new, reg=r)
        self.ctrl = outer
        if expected is not None:
            self.assume(Binary("==", old, expected), e.kind != "add_unless")
        if full:
            self.add("F", "mb")
        if e.gives == "new":
            return new
        return Binary("+", Binary("*", old, Const(0)), Const(1)) if e.gives == "bool" else old


def paths(test: Litmus, thread: Thread) -> Iterator[Path]:
    """Every way through a thread.  Raises `Refused`."""
    prefix: list[int] = []
    while True:
        low = _Lower(test, thread, prefix)
        _settle(low.path)
        yield low.path
        prefix = low.chosen
        while prefix and prefix[-1] == 1:
            prefix.pop()
        if not prefix:
            return
        prefix[-1] = 1


def _settle(p: Path) -> None:
    """The static orders of a path: linux-kernel.cat's dep, ctrl, fences, acquire, release, po-unlock-lock-po."""
    ops = p.ops
    for i, o in enumerate(ops):
        if o.order == "before-atomic" and o.kind == "F":
            rest = [x for x in ops[i + 1 :] if x.kind != "A"]
            if any(x.kind == "U" and not x.lock for x in rest):
                if rest[0].kind != "U" and rest[0].order != "mb":
                    raise Refused("an access between smp_mb__before_atomic and a read-modify-write")
                o.order = "mb"
            else:
                o.order = "barrier"
    for j, b in enumerate(ops):
        before = ppo = wmb = 0
        fences: set[str] = set()
        unlocked = locked = False  # between k and b, seen backwards: a lock, and before it an unlock
        for k in range(j - 1, -1, -1):
            a = ops[k]
            if a.kind == "F":
                fences.add(a.order)
                told = a.order in (*STRONG, "rcu-lock", "srcu-lock")
                if told or (b.kind == "F" and b.order in STRONG):
                    before |= 1 << k
                if told:
                    ppo |= 1 << k
                continue
            if a.kind == "A":
                continue
            if b.kind == "A":
                before |= (a.reg in b.data) << k
                continue
            if b.kind == "F":
                if b.order in STRONG or b.order in ("rcu-unlock", "srcu-unlock") or a.order == "acquire":
                    before |= 1 << k
                continue
            reads, writes = b.kind in "RU", b.kind in "WU"
            dep = a.reg in b.addr or (writes and (a.reg in b.data or a.reg in b.ctrl))
            held = "rmb" in fences and a.kind in "RU" and reads and "noreturn" not in (a.order, b.order)
            stores = a.kind in "WU" and writes and ("wmb" in fences or unlocked)
            if dep or held or stores or unlocked or a.order == "acquire" or b.order == "release":
                before |= 1 << k
                ppo |= 1 << k
            if stores:
                wmb |= 1 << k
            if b.lock == "lock" and a.lock == "unlock":
                before |= 1 << k
            if a.lock == "unlock" and locked:
                unlocked = True
            if a.lock == "lock":
                locked = True
        p.before.append(before)
        p.ppo.append(ppo)
        p.wmb.append(wmb)
