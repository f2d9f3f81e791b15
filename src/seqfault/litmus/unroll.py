"""Loops with a constant bound become the statements that they run; the others are refused.

A bound is constant if the loop's condition comes from constants and local variables alone. A `break`, `continue` or
`return` under a condition becomes an `if` around what it skips, so that what it skips depends on it, and what follows
the loop does not: herd7's control dependency.
"""

from __future__ import annotations

from collections.abc import Iterable

from seqfault.litmus.tree import (
    Assign,
    Binary,
    Choose,
    Const,
    Expr,
    If,
    Jump,
    LitmusError,
    Loop,
    Reg,
    Stmt,
    Unary,
    Value,
)
from seqfault.litmus.values import Undefined, binary, truth, unary

STATEMENTS = 20_000  # of one thread, loops unrolled
TURNS = 64  # of one loop
DEEPEST = 200  # conditional jumps within each other
Known = dict[str, Value]  # local variables whose value is known
Turns = dict[int, int]  # how many turns each loop, by its line, has had on this way


def unroll(body: Iterable[Stmt], file: str, params: Iterable[str] = ()) -> tuple[Stmt, ...]:
    """The statements of a thread without loops and jumps.

    Args:
        body: statements, `Loop` and `Jump` among them.
        file: for messages.
        params: registers whose value is not known at the start; the others are 0.

    Raises:
        LitmusError: a loop that has no constant bound, or is too long; a jump outside of a loop.
    """
    body = tuple(body)
    if not any(_loops(s) for s in body):
        return body
    u = _Unroller(file, set(params))
    return tuple(u.rest(body, {}, None)[0])


def _loops(s: Stmt) -> bool:
    return isinstance(s, Loop | Jump) or (isinstance(s, If) and any(_loops(x) for x in s.then + s.other))


def _jumps(s: Stmt) -> bool:
    """Whether it may leave the statement that follows out."""
    if isinstance(s, Loop):
        return any(_returns(x) for x in s.body)
    return isinstance(s, Jump) or (isinstance(s, If) and any(_jumps(x) for x in s.then + s.other))


def _returns(s: Stmt) -> bool:
    if isinstance(s, Loop):
        return any(_returns(x) for x in s.body)
    if isinstance(s, If):
        return any(_returns(x) for x in s.then + s.other)
    return isinstance(s, Jump) and s.kind == "return"


class _In:
    """The loop that statements stand in: its turns so far, and what is known where it ends."""

    def __init__(self, loop: Loop, outer: _In | None) -> None:
        self.loop, self.outer = loop, outer
        self.turns = 0
        self.ends: list[Known] = []


class _Unroller:
    def __init__(self, file: str, unknown: set[str]) -> None:
        self.file, self.unknown, self.size, self.depth = file, unknown, 0, 0

    def fail(self, line: int, message: str) -> LitmusError:
        return LitmusError(self.file, line, message)

    def rest(self, body: tuple[Stmt, ...], known: Known, loop: _In | None) -> tuple[list[Stmt], str]:
        """The statements, and how they end: ``next`` (with what follows), ``continue``, ``break``, ``return``, or
        ``done``, where what follows is in them already."""
        out: list[Stmt] = []
        for i, s in enumerate(body):
            self.size += 1
            if self.size > STATEMENTS:
                raise self.fail(s.line, f"a thread of more than {STATEMENTS} statements, loops unrolled")
            match s:
                case Jump(kind, line):
                    if kind != "return" and loop is None:
                        raise self.fail(line, f"`{kind}` stands outside of a loop; remove it")
                    return out, kind
                case Assign(name, value, _):
                    new = self.constant(value, known)
                    known[name] = _UNKNOWN if new is None else new
                    out.append(s)
                case Loop():
                    if s.first is False and not any(_jumps(x) for x in s.body) and _zero(s.cond):
                        more, how = self.rest(s.body, known, loop)  # do { ... } while (0)
                    elif _returns(s):
                        raise self.fail(s.line, "`return` in a loop is not supported; use `break` and an if")
                    else:
                        more, how = self.loop(s, known, loop), "next"
                    out += more
                    if how != "next":
                        return out, how
                case If(cond, then, other, line):
                    v = self.constant(cond, known)
                    if not _jumps(s):
                        a, b = dict(known), dict(known)
                        sides = self.rest(then, a, loop)[0], self.rest(other, b, loop)[0]
                        _join(known, a, b)
                        out.append(If(cond, tuple(sides[0]), tuple(sides[1]), line))
                        continue
                    after = body[i + 1 :]
                    if v is not None:
                        more, how = self.rest((then if truth(v) else other) + after, known, loop)
                        return out + more, how
                    return [*out, self.fork(s, after, known, loop)], "done"
                case _:
                    out.append(s)
        return out, "next"

    def fork(self, s: If, after: tuple[Stmt, ...], known: Known, loop: _In | None) -> Stmt:
        """An `if` with a jump in it: what follows stands in both branches."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.fail(s.line, f"more than {DEEPEST} conditional jumps in a row; write it shorter")
        sides: list[tuple[Stmt, ...]] = []
        turns = loop.turns if loop else 0
        ways: list[Known] = []
        for side in (s.then, s.other):
            k = dict(known)
            more, how = self.rest(side + after, k, loop)
            if loop and how in ("next", "continue"):
                more += self.turn(loop, k, step=True)
            elif loop and how == "break":
                loop.ends.append(k)
            if loop:
                loop.turns = turns
            sides.append(tuple(more))
            ways.append(k)
        _join(known, *ways)
        self.depth -= 1
        return If(s.cond, sides[0], sides[1], s.line)

    def loop(self, s: Loop, known: Known, outer: _In | None) -> list[Stmt]:
        here = _In(s, outer)
        out = self.turn(here, known, step=False)
        if here.ends:
            _join(known, *here.ends)
        return out

    def turn(self, here: _In, known: Known, step: bool) -> list[Stmt]:
        """The loop from its test on; `step`: a turn has ended, what the loop steps by comes first."""
        out: list[Stmt] = []
        loop = here.loop
        while True:
            if step:
                out += self.rest(loop.step, known, None)[0]
            if step or loop.first:
                v = self.constant(loop.cond, known)
                if v is None:
                    raise self.fail(
                        loop.line,
                        "a loop that has no constant bound: its end depends on what is read; write "
                        "`for (i = 0; i < N; i++)`, or read once and say in a filter clause what was read",
                    )
                if not truth(v):
                    here.ends.append(dict(known))
                    return out
            here.turns += 1
            if here.turns > TURNS:
                raise self.fail(loop.line, f"a loop that has no constant bound, or one of more than {TURNS} turns")
            more, how = self.rest(loop.body, known, here)
            out += more
            if how == "break":
                here.ends.append(dict(known))
            if how in ("break", "done"):
                return out
            step = True

    def constant(self, e: Expr, known: Known) -> Value | None:
        """The value of an expression that reads nothing, or None."""
        try:
            return self.constant_(e, known)
        except Undefined:
            return None

    def constant_(self, e: Expr, known: Known) -> Value | None:
        match e:
            case Const(v):
                return v
            case Reg(name):
                if name not in known:
                    return None if name in self.unknown else 0
                return None if known[name] == _UNKNOWN else known[name]
            case Unary(op, of):
                inner = self.constant_(of, known)
                return None if inner is None else unary(op, inner)
            case Binary(op, left, right, _):
                a, b = self.constant_(left, known), self.constant_(right, known)
                return None if a is None or b is None else binary(op, a, b)
            case Choose(cond, then, other):
                c = self.constant_(cond, known)
                return None if c is None else self.constant_(then if truth(c) else other, known)
        return None


_UNKNOWN: Value = 1 << 80  # no value of 64 bits


def _zero(e: Expr) -> bool:
    return e == Const(0)


def _join(known: Known, *ways: Known) -> None:
    """What is known after any of `ways`."""
    names = {name for w in ways for name in w}
    found = {}
    for name in names:
        values = {w.get(name, 0) for w in ways}
        found[name] = values.pop() if len(values) == 1 else _UNKNOWN
    known.clear()
    known.update(found)
