"""Sites while a program is compiled: a switch at each call that orders or protects something (kernel/sites.py).

COUNT the site; if off[k]: what is done without it; else: the call
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from seqfault.compile.builder import Edge, Loc, Val
from seqfault.compile.ir import Const, Operand, Special
from seqfault.compile.ops import Op
from seqfault.compile.source import Source, source_of
from seqfault.compile.stmt import Statements
from seqfault.kernel.seqlock import seq_t
from seqfault.kernel.sites import (
    CLOSERS,
    DEEP,
    DEFERRED,
    KEEPERS,
    MARKS,
    MOST_CELLS,
    NR_SITES,
    OPENERS,
    REREADS,
    TRYLOCKS,
)
from seqfault.kernel.types import BOOL, INT, IntType, PtrType, Struct

COUNTER = "site/"  # and the number: how often control came to a site
ONCE = {"READ_ONCE", "WRITE_ONCE"}
WEAKER = {
    "smp_load_acquire": "once",
    "smp_store_release": "once",
    "rcu_assign_pointer": "once",
    "cmpxchg": "rmw-relaxed",
    "cmpxchg_acquire": "rmw-relaxed",
    "cmpxchg_release": "rmw-relaxed",
    "xchg": "rmw-relaxed",
    "xchg_acquire": "rmw-relaxed",
    "xchg_release": "rmw-relaxed",
    "fetch_add": "rmw-relaxed",
    "fetch_add_acquire": "rmw-relaxed",
    "fetch_add_release": "rmw-relaxed",
}
FENCES = {"smp_mb", "smp_rmb", "smp_wmb", "smp_mb__after_spinlock"}
LOCKING = {"spin_lock", "pte_map_lock", "pte_spinlock"}
# what is done instead, by kind
INSTEAD = {
    "count": "its begin and its end do nothing",
    "lock": "it is neither taken nor given back",
    "rcu": "the section is none",
    "irqs": "interrupts stay on",
    "trylock": "it waits for the lock instead",
    "barrier": "no barrier",
    "order": "the access orders nothing",
    "recheck": "it says that nothing has changed",
    "check": "it does not fall back",
    "reread": "it is not looked at again",
    "deferred": "done at once",
    "mark": "not done",
    "once": "a plain access",
}


@dataclass
class Site:
    """A call that can be taken out.

    `number`: its switch; 0: it has none, since no memory model tells the text without it from the text with it;
    `place`: where in the mm text, or ""; `function`, `file`, `line`: where it is written; `call`: what is called;
    `object`: what about, as struct.field; `variable`: what the text calls that; `text`: the line."""

    number: int
    kind: str
    function: str
    file: str
    line: int
    call: str
    place: str = ""
    object: str = ""
    variable: str = ""
    text: str = ""
    reason: str = ""
    name: str = ""


@dataclass
class SiteTable:
    """The sites of one program, in the order in which they were met.  `causes`: those of sections, if it is noted which
    of them moved each count last (site_causes.py); `cause_at`: where."""

    rows: dict[tuple[Any, ...], Site] = field(default_factory=dict)
    causes: tuple[int, ...] | None = None
    cause_at: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def site(self, key: tuple[Any, ...], make: Callable[[int], Site], switched: bool = True) -> Site:
        if key not in self.rows:
            n = 1 + max([0, *(s.number for s in self.rows.values())]) if switched else 0
            self.rows[key] = make(n)
        return self.rows[key]

    def named(self) -> list[Site]:
        """All sites, with names that no two share."""
        rows = list(self.rows.values())
        used: dict[str, int] = {}
        for s in rows:
            s.name = name_of(s, rows)
            n = used[s.name] = used.get(s.name, 0) + 1
            if n > 1:
                s.name = f"{s.name}.{n}"
        return rows


def short(path: str) -> str:
    """A lock or count as one speaks of it: ``vm_sequence``, ``mm_seq``, ``ptl``."""
    return path.split(".")[1] if "." in path else path


def name_of(s: Site, rows: Iterable[Site]) -> str:
    """The stable name of a site: where it is, and what."""
    if s.kind in ("barrier", "order") and s.object and s.file.startswith("kernel/"):
        return f"{s.function}/{s.call}@{short(s.object)}"
    home = s.place or s.function
    if s.kind == "count" and s.place:
        same = [r for r in rows if r.kind == "count" and r.place == s.place]
        if len(same) > 1:
            name = f"{s.place.split('/')[0]}/{s.variable}.begin"
            function = s.place.split("/")[0]
            others = [
                r for r in rows
                if r.kind == "count" and r.place.split("/")[0] == function and r.variable == s.variable and r is not s
                and r.place != s.place and sum(x.kind == "count" and x.place == r.place for x in rows) > 1
            ]  # fmt: skip
            return f"{s.place}/{s.variable}.begin" if others else name
        return s.place if s.place.endswith("begin") else f"{s.place}.begin"
    if s.kind == "trylock":
        return f"{home}/{s.call}"
    if s.kind in ("recheck", "reread"):
        return f"{home}/recheck"
    if s.kind == "check":
        return f"{home}/{s.reason or 'check'}"
    return f"{home}/{s.call}"


def is_recheck(src: Source) -> bool:
    """Whether a function is given a count that was read before, and says whether it has changed since."""
    counts = [t for _, t in src.params if isinstance(t, IntType) and t.name == seq_t.name]
    return len(src.results) == 1 and src.results[0] == BOOL and bool(counts)


def calls(tree: ast.AST) -> list[str]:
    """Names of what is called somewhere in a tree."""
    return [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]


class Sites(Statements):
    """Lowering of calls that are sites.  Without a `SiteTable` in the unit: as if it were not there."""

    quiet = 0  # inside a call that is one site, or is the end of one
    looks: dict[int, tuple[str, bool]]  # conditions that read an entry again: the kind, what they are when taken out

    # -- which site
    def stack(self) -> list[tuple[str, str, int]]:
        s = self.scope
        return [*s.chain, (s.src.name, s.src.file, self.line)]

    def at(self, node: ast.AST, kind: str, call: str, obj: str = "", switched: bool = True, reason: str = "") -> Site:
        """The site of a call that stands here."""
        assert self.unit.sites is not None
        stack = self.stack()
        inner = stack[-1]
        home = next((x for x in reversed(stack) if not x[1].startswith("kernel/")), stack[0])
        place = self.scope.site or self.place_of(home)
        if kind in ("barrier", "order", "once") and inner[1].startswith("kernel/"):
            home, place = inner, ""
        direct = home == inner
        what = call if direct else (call, inner[0], inner[2])
        key: tuple[Any, ...] = (kind, place, *home, what, obj, getattr(node, "col_offset", 0))
        if home is inner and inner[1].startswith("kernel/"):
            key = (kind, inner[0], inner[1], inner[2], call, obj)

        def make(number: int) -> Site:
            if number >= NR_SITES:
                self.fail(node, f"more than {NR_SITES - 1} sites")
            variable = ""
            if isinstance(node, ast.Call) and node.args:
                first = next((n for n in ast.walk(node.args[0]) if isinstance(n, ast.Name)), None)
                variable = first.id if first is not None else ""
            text = ast.unparse(node.test if isinstance(node, ast.If) else node)
            return Site(number, kind, home[0], home[1], home[2], call, place, obj, variable, text, reason)

        return self.unit.sites.site(key, make, switched)

    def place_of(self, home: tuple[str, str, int]) -> str:
        """The place that a function is bound to, if it is one."""
        names = {p.name for p, f in self.unit.binds.items() if f.__name__ == home[0]}
        return names.pop() if len(names) == 1 else ""

    def switch(self, site: Site) -> tuple[list[Edge], list[Edge]]:
        """Branch on whether a site is taken out."""
        self.emit(Op.COUNT, self.unit.counter(f"{COUNTER}{site.number}"))
        return self.off(site.number)

    def off(self, number: int) -> tuple[list[Edge], list[Edge]]:
        base = self.layout.pools["site_switches"].base
        loc = Loc(BOOL, base + number, (), "site_switches", f"off[{number}]", number)
        return self.branch(Op.BR, self.load(loc, self.scope.src.node).op)

    # -- what a process has skipped
    def cell_number(self, args: list[Any]) -> Operand:
        """Which object a section is about: its first cell, plus one."""
        if not args:
            return Const(MOST_CELLS + 1)
        a = args[0]
        loc = a if isinstance(a, Loc) else self.object_at(a.op, a.type.target)
        if len(self.layout.cells) > MOST_CELLS:
            self.fail(self.line, f"sites of a program with more than {MOST_CELLS} cells of memory")
        out: Operand = Const(loc.base + 1)
        for op, stride in loc.terms:
            v = self.compute(Op.MUL, INT, op, Const(stride))
            out = self.compute(Op.ADD, INT, out, v.op).op
        return out

    def note(self, i: int, me: Operand) -> Loc:
        pool = self.layout.pools["site_notes"]
        t = IntType(0, MOST_CELLS + 1)
        return Loc(t, pool.base - pool.stride + i, ((me, pool.stride),), "site_notes", f"skipped[{i}]", i)

    def me(self) -> Operand:
        return self.compute(Op.ADD, INT, Special("process"), Const(1)).op

    def skip(self, args: list[Any], node: ast.AST) -> None:
        """Note that a section was not begun."""
        cell, me = self.cell_number(args), self.me()
        done: list[Edge] = []
        for i in range(DEEP):
            loc = self.note(i, me)
            yes, no = self.branch(Op.BREQ, self.load(loc, node).op, Const(0))
            self.open = yes
            self.store(loc, Val(cell, INT), node)
            done += self.open
            self.open = no
        self.emit(Op.CHECK, Const(0), self.unit.kind("pool-exhausted"), -1, -1, 1)
        self.open = done

    def skipped(self, args: list[Any], node: ast.AST, keep: bool = False) -> tuple[list[Edge], list[Edge]]:
        """Branch on whether this section was not begun; then that is forgotten, unless `keep`."""
        some, go = self.off(0)
        self.open = some
        cell, me = self.cell_number(args), self.me()
        out: list[Edge] = []
        for i in range(DEEP):
            loc = self.note(i, me)
            yes, no = self.branch(Op.BREQ, self.load(loc, node).op, cell)
            self.open = yes
            if not keep:
                self.store(loc, Val(Const(0), INT), node)
            out += self.open
            self.open = no
        return out, go + self.open

    # -- calls
    def perform(self, fn: Callable[..., Any], src: Source, args: list[Any], node: ast.Call, site: str) -> list[Val]:
        if self.unit.sites is None or self.quiet:
            return super().perform(fn, src, args, node, site)
        outer = self.scope.site
        if site:
            loops = any(isinstance(n, ast.While | ast.For) for n in ast.walk(src.node))
            if set(calls(src.node)) & set(MARKS) and not loops:  # at each place a site of its own
                return self.inline(fn, src, args, node, site)
            return super().perform(fn, src, args, node, site)
        if fn in OPENERS:
            here = self.at(node, OPENERS[fn], src.name, self.about(args))
            off, on = self.switch(here)
            self.open = off
            self.skip(args, node)
            off, self.open = self.open, on
            self.begun(here, args, node)
            self.whole(fn, src, args, node)
            self.open += off
            return []
        if fn in CLOSERS or fn in KEEPERS:
            off, self.open = self.skipped(args, node, keep=fn in KEEPERS)
            self.whole(fn, src, args, node)
            self.open += off
            return []
        if fn in TRYLOCKS:
            return self.trylock(fn, src, args, node)
        if fn in DEFERRED:
            off, on = self.switch(self.at(node, "deferred", src.name))
            self.open = off
            place = DEFERRED[fn]
            other = self.unit.binds.get(place, place.default)
            super().perform(other, source_of(other), args[-1:], node, place.name)
            off, self.open = self.open, on
            self.whole(fn, src, args, node)
            self.open += off
            return []
        if src.name in MARKS and (outer or self.own_text()):
            off, on = self.switch(self.at(node, "mark", src.name))
            self.open = on
            super().perform(fn, src, args, node, site)
            self.open += off
            return []
        if is_recheck(src):
            off, on = self.switch(self.at(node, "recheck", src.name, self.about(args)))
            out = self.either(off, on, 0, lambda: self.whole(fn, src, args, node))
            self.gave_up(out[0].op, args, node, odd=False)
            return out
        return super().perform(fn, src, args, node, site)

    def begun(self, site: Site, args: list[Any], node: ast.AST) -> None:
        """A section begins: to be noted (site_causes.py)."""

    def gave_up(self, test: Operand, args: list[Any], node: ast.AST, odd: bool) -> None:
        """A recheck was made: whom it tells of is to be counted (site_causes.py)."""

    def whole(self, fn: Callable[..., Any], src: Source, args: list[Any], node: ast.Call) -> list[Val]:
        """A call whose parts are no sections of their own."""
        self.quiet += 1
        out = super().perform(fn, src, args, node, "")
        self.quiet -= 1
        return out

    def either(self, off: list[Edge], on: list[Edge], value: int, call: Callable[[], list[Val]]) -> list[Val]:
        out = self.temp(BOOL)
        self.open = on
        self.move(out, call()[0])
        done, self.open = self.open, off
        self.emit(Op.MOV, out, Const(value))
        self.open += done
        return [Val(out, BOOL)]

    def trylock(self, fn: Callable[..., Any], src: Source, args: list[Any], node: ast.Call) -> list[Val]:
        """Two sites: whether it is taken at all, and whether it is waited for."""
        lock = TRYLOCKS[fn]
        no_lock = self.at(node, "lock", "lock", self.about(args))
        waits = self.at(node, "trylock", src.name, self.about(args))
        out = self.temp(BOOL)
        off, on = self.switch(no_lock)
        self.open = off
        self.skip(args, node)
        self.emit(Op.MOV, out, Const(1))
        done = self.open
        self.open = on
        off, on = self.switch(waits)
        self.open = off
        self.whole(lock, source_of(lock), args, node)
        self.emit(Op.MOV, out, Const(1))
        done += self.open
        self.open = on
        self.move(out, self.whole(fn, src, args, node)[0])
        self.open += done
        return [Val(out, BOOL)]

    @staticmethod
    def about(args: list[Any]) -> str:
        if args and isinstance(args[0], Loc):
            return f"{args[0].pool}.{args[0].path}"
        return args[0].type.target.name if args and isinstance(args[0].type, PtrType) else ""

    def parameter(self) -> str:
        """The struct that the function at hand was given by reference: which count, or which lock."""
        for name, t in self.scope.src.params:
            v = self.scope.names.get(name)
            if isinstance(t, Struct) and isinstance(v, Loc):
                return f"{v.pool}.{v.path}"
        return ""

    # -- words
    def word(self, name: str, node: ast.Call) -> list[Val]:
        """Barriers, and orderings of accesses."""
        if self.unit.sites is None:
            return self.plain_word(name, node)
        if name in ONCE:
            self.at(node, "once", name, self.parameter(), switched=False)
            return self.plain_word(name, node)
        if name in FENCES:
            off, on = self.switch(self.at(node, "barrier", name, self.parameter()))
            self.open = on
            self.plain_word(name, node)
            self.open += off
            return []
        if name not in WEAKER:
            return self.plain_word(name, node)
        if name.startswith(("cmpxchg", "xchg", "fetch_add")):
            args: list[Any] = [self.location(node.args[0]), *(self.value(a) for a in node.args[1:])]
            off, on = self.switch(self.at(node, "order", name, self.parameter()))
            self.open = off
            weak = self.exchange(name, node, args[0], args[1:], WEAKER[name])[0]
            out = self.temp(weak.type)
            self.move(out, weak)
            done, self.open = self.open, on
            self.move(out, self.exchange(name, node, args[0], args[1:])[0])
            self.open += done
            return [Val(out, weak.type)]
        loc = self.location(node.args[0])
        if name == "smp_load_acquire":
            off, on = self.switch(self.at(node, "order", name, self.parameter()))
            self.open = off
            weak = self.load(loc, node, "once")
            out = self.temp(weak.type)
            self.move(out, weak)
            done, self.open = self.open, on
            self.move(out, self.load(loc, node, "acquire"))
            self.open += done
            return [Val(out, weak.type)]
        v = self.value(node.args[1])
        off, on = self.switch(self.at(node, "order", name, self.parameter()))
        self.open = off
        self.store(loc, v, node, "once")
        access = self.fn.nodes[-1].access
        assert access is not None
        access.atomic = False  # a store that no step of its own keeps from staying behind
        done, self.open = self.open, on
        self.store(loc, v, node, "release")
        self.open += done
        return []

    def plain_word(self, name: str, node: ast.Call) -> list[Val]:
        raise NotImplementedError

    def exchange(self, name: str, node: ast.Call, loc: Loc, vals: list[Val], order: str = "") -> list[Val]:
        raise NotImplementedError

    # -- conditions
    def s_if(self, s: ast.If) -> None:
        if self.unit.sites is None:
            return super().s_if(s)
        self.looks = getattr(self, "looks", {})
        names = calls(s.test)
        leaves = self.gives_up(s)
        if not self.scope.src.file.startswith("kernel/"):
            if set(names) & set(REREADS) and self.locked_before(s):
                first = s.test.values[0] if isinstance(s.test, ast.BoolOp) else s.test
                self.looks[id(first)] = ("reread", not leaves)
            elif leaves and self.own_text() and not self.asks_count(s.test):
                self.looks[id(s.test)] = ("check", False)
        return super().s_if(s)

    def own_text(self) -> bool:
        """Whether the text at hand is a protocol's or a user's, and none of Linux's."""
        return not self.scope.src.file.startswith(("kernel/", "mm/"))

    def asks_count(self, test: ast.expr) -> bool:
        fns = [self.scope.src.scope.get(x) for x in calls(test)]
        return any(callable(f) and hasattr(f, "__code__") and not hasattr(f, "__kernel_word__")
                   and is_recheck(source_of(f)) for f in fns)  # fmt: skip

    def gives_up(self, s: ast.If) -> bool:
        """Whether the body ends with the return of a constant, such as VM_FAULT_RETRY."""
        last = s.body[-1]
        if not isinstance(last, ast.Return) or s.orelse:
            return False
        v = last.value
        if isinstance(v, ast.Constant):
            return v.value is not True
        return isinstance(v, ast.Name) and v.id not in self.scope.names

    def locked_before(self, s: ast.If) -> bool:
        before = [st for st in ast.walk(self.scope.src.node) if isinstance(st, ast.stmt) and st.lineno < s.lineno]
        simple = [st for st in before if not isinstance(st, ast.FunctionDef)]
        return any(set(calls(st.test if isinstance(st, ast.If | ast.While) else st)) & LOCKING for st in simple)

    def reason(self, node: ast.expr) -> str:
        """What the body of an `if` counts before it gives up."""
        for s in ast.walk(self.scope.src.node):
            if isinstance(s, ast.If) and s.test is node:
                for c in ast.walk(ast.Module(s.body, [])):
                    if isinstance(c, ast.Call) and isinstance(c.func, ast.Name) and c.func.id == "count":
                        arg = c.args[0]
                        return str(arg.value).rpartition("/")[2] if isinstance(arg, ast.Constant) else ""
        return ""

    def condition(self, node: ast.expr) -> tuple[list[Edge], list[Edge]]:
        look = getattr(self, "looks", {}).pop(id(node), None)
        if look is None:
            return super().condition(node)
        kind, value = look
        self.line = node.lineno
        reason = self.reason(node) if kind == "check" else ""
        off, on = self.switch(self.at(node, kind, "if", reason=reason))
        self.open = on
        yes, no = super().condition(node)
        seq = next((v for v in self.read(node) if isinstance(v.type, IntType) and v.type.name == seq_t.name), None)
        if kind == "check" and seq is not None:
            here = [v for v in self.scope.names.values() if isinstance(v, Val) and isinstance(v.type, PtrType)]
            self.open = yes
            self.gave_up(Const(1), [*here[:1], seq], node, odd=True)
            yes = self.open
            self.open = []
        return (yes + off, no) if value else (yes, no + off)

    def read(self, node: ast.expr) -> list[Val]:
        """The locals that an expression reads."""
        names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
        return [v for v in (self.scope.names.get(n) for n in names) if isinstance(v, Val)]


__all__ = ["COUNTER", "INSTEAD", "Site", "SiteTable", "Sites"]
