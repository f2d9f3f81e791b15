"""Expressions over the state in which a step begins, what values they can have, and their Promela text.

An expression is one object however often it is built, so it is compared by identity.  Its leaves are constants,
variables of a process ("var") and elements of memory ("cell": group, position).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

SMALL = 64  # a set of more values becomes an interval
COMBINATIONS = 1024  # so many valuations of its leaves are tried to find the values of an expression
INT = 1 << 31  # Promela's int


class ExportError(Exception):
    """What Promela cannot say; the message is one line that names the place."""


class Expr:
    """`op` and `args`: "const" (n), "var" (name), "cell" (group, position), else an operation on expressions."""

    __slots__ = ("args", "leaves", "op", "run")

    def __init__(self, op: str, args: tuple[object, ...]):
        self.op, self.args = op, args
        found: dict[Expr, None] = {}
        if op in ("var", "cell"):
            found[self] = None
        else:
            for a in args:
                if isinstance(a, Expr):
                    found.update(dict.fromkeys(a.leaves))
        self.leaves: tuple[Expr, ...] = tuple(found)
        self.run: Callable[..., int] | None = None

    def __repr__(self) -> str:
        return render(self)


# the values that an expression may have: a set, or an interval
Values = frozenset[int] | tuple[int, int]
Facts = Mapping[Expr, Values]

_made: dict[tuple[object, ...], Expr] = {}


def make(op: str, *args: object) -> Expr:
    key = (op, *args)
    e = _made.get(key)
    if e is None:
        e = _made[key] = Expr(op, args)
    return e


def forget() -> None:
    """Let go of all expressions, once a model is written."""
    _made.clear()
    _made["const", 0], _made["const", 1] = ZERO, ONE


ZERO, ONE = make("const", 0), make("const", 1)


def const(n: int) -> Expr:
    return make("const", n)


def var(name: str) -> Expr:
    return make("var", name)


def cell(group: str, at: Expr) -> Expr:
    return make("cell", group, at)


def is_const(e: Expr) -> bool:
    return e.op == "const"


def number(e: Expr) -> int:
    n = e.args[0]
    assert e.op == "const" and isinstance(n, int)
    return n


FUNCTIONS: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
    "floordiv": lambda a, b: a // b if b else 0,
    "floormod": lambda a, b: a % b if b else 0,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b if 0 <= b < 64 else 0,
    "shr": lambda a, b: a >> b if 0 <= b < 64 else 0,
    "eq": lambda a, b: int(a == b),
    "ne": lambda a, b: int(a != b),
    "lt": lambda a, b: int(a < b),
    "le": lambda a, b: int(a <= b),
    "not": lambda a: int(not a),
    "all": lambda a, b: int(bool(a and b)),
    "any": lambda a, b: int(bool(a or b)),
    "if": lambda c, a, b: a if c else b,
}
SIGN = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "mod": "%",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "shr": ">>",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "all": "&&",
    "any": "||",
}
OPPOSITE = {"eq": "ne", "ne": "eq"}
BOOLEAN = frozenset({"eq", "ne", "lt", "le", "not", "all", "any"})


def op(name: str, *args: Expr) -> Expr:
    """An operation, simplified where its arguments are known."""
    if all(map(is_const, args)):
        return const(FUNCTIONS[name](*map(number, args)))
    a = args[0]
    b = args[1] if len(args) > 1 else a
    if name == "not":
        if a.op in OPPOSITE:
            return make(OPPOSITE[a.op], *a.args)
        if a.op in ("lt", "le"):
            return make("le" if a.op == "lt" else "lt", a.args[1], a.args[0])
        if a.op == "not":
            return truth(a.args[0])  # type: ignore[arg-type]
    elif name == "if":
        if is_const(a):
            return b if number(a) else args[2]
        if b is args[2]:
            return b
    elif name in ("all", "any"):
        keep = name == "all"
        for x, y in ((a, b), (b, a)):
            if is_const(x):
                return truth(y) if bool(number(x)) == keep else const(int(not keep))
        if a is b:
            return a
    elif name in ("add", "sub") and is_const(b):
        k = number(b) if name == "add" else -number(b)
        if a.op in ("add", "sub") and is_const(a.args[1]):  # type: ignore[arg-type]
            m = number(a.args[1])  # type: ignore[arg-type]
            k, a = k + (m if a.op == "add" else -m), a.args[0]  # type: ignore[assignment]
        if k == 0:
            return a
        return make("add", a, const(k)) if k > 0 else make("sub", a, const(-k))
    elif (name == "add" and is_const(a)) or (name in ("mul", "and", "or", "xor") and is_const(a)):
        return op(name, b, a)
    elif name == "mul" and is_const(b):
        if number(b) in (0, 1):
            return a if number(b) else ZERO
    elif name in ("or", "xor", "shl", "shr") and b is ZERO:
        return a
    elif name == "and" and b is ZERO:
        return ZERO
    elif name in ("eq", "ne") and is_const(b):
        # (x + k) == n is x == n - k; a truth value against 0 or 1 is itself or its opposite
        if a.op in ("add", "sub") and is_const(a.args[1]):  # type: ignore[arg-type]
            k = number(a.args[1])  # type: ignore[arg-type]
            return op(name, a.args[0], const(number(b) - (k if a.op == "add" else -k)))  # type: ignore[arg-type]
        if a.op in BOOLEAN and number(b) in (0, 1):
            return a if (number(b) == 1) == (name == "eq") else op("not", a)
    elif name in ("eq", "ne") and is_const(a):
        return op(name, b, a)
    elif a is b and name in ("eq", "le", "ne", "lt"):
        return const(int(name in ("eq", "le")))
    return make(name, *args)


def truth(e: Expr) -> Expr:
    """`e` as a condition."""
    return e if e.op in BOOLEAN else op("ne", e, ZERO)


# -- values
def hull(v: Values) -> tuple[int, int]:
    return v if isinstance(v, tuple) else (min(v), max(v))


def of(xs: Iterable[int]) -> Values:
    s = frozenset(xs)
    return s if len(s) <= SMALL else (min(s), max(s))


def join(a: Values, b: Values) -> Values:
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return of(a | b)
    (l1, h1), (l2, h2) = hull(a), hull(b)
    return min(l1, l2), max(h1, h2)


PYTHON = {"div": "//", "floordiv": "//", "floormod": "%", "all": "and", "any": "or"}


def python(e: Expr, names: Mapping[Expr, str]) -> str:
    """`e` as a Python expression; the side of an `if` that is not taken need not have a value."""
    if e.op == "const":
        return str(number(e))
    if e in names:
        return names[e]
    xs = [python(a, names) for a in e.args]  # type: ignore[arg-type]
    if e.op == "not":
        return f"(not {xs[0]})"
    if e.op == "if":
        return f"({xs[1]} if {xs[0]} else {xs[2]})"
    return f"({xs[0]} {PYTHON.get(e.op) or SIGN[e.op]} {xs[1]})"


def function(e: Expr) -> Callable[..., int]:
    """`e` as a function of its leaves."""
    if e.run is None:
        names = {x: f"x{i}" for i, x in enumerate(e.leaves)}
        e.run = eval(f"lambda {', '.join(names.values())}: int({python(e, names)})")
    return e.run


def valuations(e: Expr, facts: Facts) -> Iterator[tuple[int, ...]] | None:
    """Every combination of values of the leaves of `e`, if there are few."""
    sets = []
    n = 1
    for x in e.leaves:
        v = facts.get(x)
        if not isinstance(v, frozenset):
            return None
        n *= len(v)
        if n > COMBINATIONS:
            return None
        sets.append(sorted(v))
    return itertools.product(*sets)


def values(e: Expr, facts: Facts) -> Values:
    """What `e` can be.  Every leaf must be in `facts`."""
    if e.op == "const":
        return frozenset((number(e),))
    if e in facts:
        return facts[e]
    every = valuations(e, facts)
    if every is not None:
        return of(itertools.starmap(function(e), every))
    return compare(e, facts) if e.op in BOOLEAN else interval(e, facts)


def compare(e: Expr, facts: Facts) -> Values:
    if e.op in ("eq", "ne", "lt", "le"):
        (l1, h1), (l2, h2) = (hull(values(a, facts)) for a in e.args)  # type: ignore[arg-type]
        if e.op in ("eq", "ne") and (h1 < l2 or h2 < l1):
            return frozenset((int(e.op == "ne"),))
        if (e.op == "lt" and h1 < l2) or (e.op == "le" and h1 <= l2):
            return frozenset((1,))
        if (e.op == "lt" and l1 >= h2) or (e.op == "le" and l1 > h2):
            return frozenset((0,))
    return frozenset((0, 1))


def interval(e: Expr, facts: Facts) -> Values:
    h = [hull(values(a, facts)) for a in e.args]  # type: ignore[arg-type]
    (l1, h1), (l2, h2) = h[0], h[-1]
    if e.op == "if":
        return min(h[1][0], l2), max(h[1][1], h2)
    if e.op == "add":
        return l1 + l2, h1 + h2
    if e.op == "sub":
        return l1 - h2, h1 - l2
    if e.op in ("mul", "div", "floordiv", "shl", "shr") and (not e.op.endswith("div") or l2 >= 0):
        if e.op in ("shl", "shr"):
            l2, h2 = max(0, l2), min(63, h2)
        elif e.op != "mul":
            l2, h2 = max(1, l2), max(1, h2)
        corners = [FUNCTIONS[e.op](x, y) for x in (l1, h1) for y in (l2, h2)]
        return min(corners), max(corners)
    if e.op in ("mod", "floormod") and l2 >= 0:
        return 0, max(0, h2 - 1)
    if e.op == "and" and (l1 >= 0 or l2 >= 0):
        return 0, min(h for lo, h in ((l1, h1), (l2, h2)) if lo >= 0)
    if e.op in ("or", "xor") and l1 >= 0 and l2 >= 0:
        return 0, (1 << max(h1, h2).bit_length()) - 1
    return -(1 << 63), (1 << 63) - 1


def refine(facts: dict[Expr, Values], cond: Expr, holds: bool) -> dict[Expr, Values]:
    """`facts` where `cond` holds, or does not: leaves keep the values that allow it."""
    every = valuations(cond, facts)
    if every is not None:
        f = function(cond)
        kept = [at for at in every if bool(f(*at)) == holds]
        out = dict(facts)
        out.update((x, frozenset(xs)) for x, xs in zip(cond.leaves, zip(*kept, strict=True), strict=True))
        return out
    out = dict(facts)
    if cond.op in ("eq", "ne", "lt", "le"):
        a, b = cond.args
        assert isinstance(a, Expr) and isinstance(b, Expr)
        va, vb = values(a, facts), values(b, facts)
        (l1, h1), (l2, h2) = hull(va), hull(vb)
        if (cond.op == "eq") == holds and cond.op in ("eq", "ne"):
            narrow(out, a, va, max(l1, l2), min(h1, h2))
            narrow(out, b, vb, max(l1, l2), min(h1, h2))
        elif cond.op in ("eq", "ne") and l2 == h2:
            narrow(out, a, va, l1 + int(l1 == l2), h1 - int(h1 == l2))
        elif cond.op in ("lt", "le"):
            if holds:
                k = int(cond.op == "lt")
                narrow(out, a, va, l1, min(h1, h2 - k))
                narrow(out, b, vb, max(l2, l1 + k), h2)
            else:
                k = int(cond.op == "le")
                narrow(out, a, va, max(l1, l2 + k), h1)
                narrow(out, b, vb, l2, min(h2, h1 - k))
    return out


def narrow(facts: dict[Expr, Values], e: Expr, v: Values, lo: int, hi: int) -> None:
    if e.op in ("add", "sub") and is_const(e.args[1]):  # type: ignore[arg-type]
        x = e.args[0]
        assert isinstance(x, Expr)
        k = number(e.args[1]) if e.op == "add" else -number(e.args[1])  # type: ignore[arg-type]
        narrow(facts, x, values(x, facts), lo - k, hi - k)
        return
    if is_const(e) or lo > hi:
        return
    facts[e] = frozenset(x for x in v if lo <= x <= hi) if isinstance(v, frozenset) else (lo, hi)
    if not facts[e]:
        facts[e] = v


# -- text
def render(e: Expr, names: Mapping[tuple[str, int] | str, str] | None = None) -> str:
    """Promela text; `names`: what elements at constant positions are called, where they are no arrays."""
    text = _render(e, names or {})
    return text[1:-1] if text.startswith("(") and e.op != "if" else text


def _render(e: Expr, names: Mapping[tuple[str, int] | str, str]) -> str:
    if e.op == "const":
        return str(number(e)) if number(e) >= 0 else f"({number(e)})"
    if e.op == "var":
        return str(e.args[0])
    if e.op == "cell":
        g, at = e.args
        assert isinstance(g, str) and isinstance(at, Expr)
        if is_const(at) and (g, number(at)) in names:
            return names[g, number(at)]
        return f"{names.get(g, g)}[{render(at, names)}]"
    xs = [_render(a, names) for a in e.args]  # type: ignore[arg-type]
    if e.op == "not":
        return f"(!{xs[0]})"
    if e.op == "if":
        return f"({render(e.args[0], names)} -> {xs[1]} : {xs[2]})"  # type: ignore[arg-type]
    if e.op.startswith("floor"):  # Promela rounds towards 0
        mod = f"(({xs[0]} % {xs[1]} + {xs[1]}) % {xs[1]})"
        return mod if e.op == "floormod" else f"(({xs[0]} - {mod}) / {xs[1]})"
    return f"({xs[0]} {SIGN[e.op]} {xs[1]})"
