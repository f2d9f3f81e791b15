"""Emission of nodes: dangling edges, steps, memory accesses and their checks."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from seqfault.compile.ir import Access, CompileError, Const, Function, Node, Operand, Reg, Special, Where
from seqfault.compile.ops import Op
from seqfault.compile.source import Func, Source
from seqfault.kernel.layout import Layout
from seqfault.kernel.places import Place
from seqfault.kernel.types import INT, ArrayType, BoolType, IntType, PtrType, Struct, resolve_size

Edge = tuple[Node, str]


@dataclass(frozen=True)
class Val:
    """A scalar value: an operand and its type (`None` for the type of NULL)."""

    op: Operand
    type: Any


@dataclass(frozen=True)
class Loc:
    """A place in memory: a scalar, an embedded struct or an array.  `check`: pointers to look at first."""

    type: Any
    base: int
    terms: tuple[tuple[Operand, int], ...]
    pool: str
    path: str
    offset: int
    spans: tuple[tuple[int, int], ...] = ()
    check: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class StructName:
    struct: Struct


@dataclass
class Scope:
    """Names of one function body, out of line or inlined."""

    src: Source
    names: dict[str, Any] = field(default_factory=dict)
    chain: tuple[tuple[str, str, int], ...] = ()
    site: str = ""
    inlined: bool = False
    returns: list[Edge] = field(default_factory=list)
    results: list[Reg] = field(default_factory=list)
    direct: Val | None = None
    nest: int = 0
    loops: list[tuple[Any, list[Edge]]] = field(default_factory=list)
    assigned: dict[str, int] = field(default_factory=dict)
    all_loads: dict[str, int] = field(default_factory=dict)


@dataclass
class Unit:
    """What all functions of one program share while they are compiled."""

    layout: Layout
    binds: Mapping[Place, Func]
    functions: dict[Func, Function] = field(default_factory=dict)
    queue: list[Func] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    lock_classes: dict[str, int] = field(default_factory=dict)
    inlinable: dict[Func, bool] = field(default_factory=dict)
    used_places: set[str] = field(default_factory=set)
    sites: Any = None  # a `SiteTable` (compile/sites.py), if the program is compiled with switches

    def kind(self, name: str) -> int:
        return self.kinds.setdefault(name, len(self.kinds))

    def counter(self, name: str) -> int:
        return self.counters.setdefault(name, len(self.counters))


class Builder:
    """Builds the nodes of one out-of-line function."""

    def __init__(self, unit: Unit, fn: Function):
        self.unit, self.layout, self.fn = unit, unit.layout, fn
        self.open: list[Edge] = []
        self.scope: Scope = None  # type: ignore[assignment]
        self.line = 0
        self.atomic = 0
        self.mark_full = False
        self.mark_stop = False
        self.stmt_accesses = 0

    # -- errors
    def fail(self, node: ast.AST | int, what: str, remedy: str = "") -> NoReturn:
        line = node if isinstance(node, int) else getattr(node, "lineno", self.line)
        raise CompileError(self.scope.src.file, line, what, remedy)

    # -- nodes
    def where(self) -> Where:
        s = self.scope
        return Where(s.src.name, s.src.file, self.line, s.chain, s.site)

    def emit(self, op: Op, *args: Any, access: Access | None = None) -> Node:
        n = Node(op, list(args), self.where(), access=access)
        n.stop, n.full_stop = self.mark_stop, self.mark_full
        self.mark_stop = self.mark_full = False
        for e, attr in self.open:
            setattr(e, attr, n)
        self.open = [(n, "next")]
        self.fn.nodes.append(n)
        return n

    def begin_step(self) -> None:
        """The next node begins a step, because it touches shared memory."""
        if self.atomic:
            return
        self.mark_stop = True
        if self.stmt_accesses:
            self.mark_full = True
        self.stmt_accesses += 1

    def begin_statement(self) -> None:
        self.stmt_accesses = 0
        self.mark_full = not self.atomic

    def label(self) -> Node:
        """A node to jump back to; it does nothing."""
        keep = self.mark_full, self.mark_stop
        self.mark_full = self.mark_stop = False
        n = self.emit(Op.NOP)
        self.mark_full, self.mark_stop = keep
        return n

    def jump(self, target: Node) -> None:
        for e, attr in self.open:
            setattr(e, attr, target)
        self.open = []

    def branch(self, op: Op, *args: Any) -> tuple[list[Edge], list[Edge]]:
        n = self.emit(op, *args)
        self.open = []
        return [(n, "next")], [(n, "alt")]

    # -- registers and values
    def temp(self, t: Any = None, name: str = "") -> Reg:
        r = Reg(name or f"t{len(self.fn.regs)}", type=t)
        self.fn.regs.append(r)
        return r

    def declared(self, name: str, t: Any, named: bool = True) -> Reg:
        lo, hi = self.layout.bounds(t)
        r = Reg(name, lo, hi, named, t)
        self.fn.regs.append(r)
        return r

    def range_of(self, v: Val) -> tuple[int, int]:
        if isinstance(v.op, Const):
            return v.op.value, v.op.value
        if v.type is None:
            return 0, 0
        return self.layout.bounds(v.type)

    def compute(self, op: Op, t: Any, *args: Any) -> Val:
        r = self.temp(t)
        self.emit(op, r, *args)
        return Val(r, t)

    def move(self, dest: Operand, v: Val) -> None:
        self.emit(Op.MOV, dest, v.op)

    # -- memory
    def pointee(self, p: Val, node: ast.AST) -> Loc:
        """The object that a pointer points to."""
        if not isinstance(p.type, PtrType):
            self.fail(node, "field access on something that is no pointer", "only pointers and structs have fields")
        return self.object_at(p.op, p.type.target)

    def object_at(self, p: Operand, s: Struct) -> Loc:
        pool = self.layout.pools[s.name]
        first = 1 if pool.state == 0 else 0
        base = pool.base + first
        if isinstance(p, Const) and p.value > 0 and pool.state < 0:
            return Loc(s, base + (p.value - 1) * pool.stride, (), s.name, "", 0)
        return Loc(s, base - pool.stride, ((p, pool.stride),), s.name, "", 0, (), (p,))

    def member(self, loc: Loc, name: str, node: ast.AST) -> Loc:
        if not isinstance(loc.type, Struct):
            self.fail(node, f"{loc.pool}.{loc.path} is no struct and has no field {name!r}")
        m = self.layout.members(loc.type).get(name)
        if m is None:
            self.fail(
                node,
                f"struct {loc.type.name} has no field {name!r} in this program",
                f"its fields are {', '.join(self.layout.members(loc.type))}",
            )
        return replace(
            loc,
            type=m.type,
            base=loc.base + m.offset,
            path=f"{loc.path}.{name}" if loc.path else name,
            offset=loc.offset + m.offset,
        )

    def element(self, loc: Loc, index: Val, node: ast.AST) -> Loc:
        if not isinstance(loc.type, ArrayType):
            self.fail(node, "index into something that is no array")
        n = resolve_size(loc.type.length, self.layout.sizes)
        step = self.layout.type_cells(loc.type.elem)
        if isinstance(index.op, Const):
            i = index.op.value
            if not 0 <= i < n:
                self.fail(node, f"index {i} is outside an array of {n}")
            return replace(
                loc,
                type=loc.type.elem,
                base=loc.base + i * step,
                path=f"{loc.path}[{i}]",
                offset=loc.offset + i * step,
            )
        self.emit(Op.CHKIDX, index.op, n)
        terms = (*loc.terms, (index.op, step))
        if len(terms) > 2:
            (a, sa), (b, sb), (c, sc) = terms
            x = self.compute(Op.MUL, INT, b, Const(sb))
            y = self.compute(Op.MUL, INT, c, Const(sc))
            terms = ((a, sa), (self.compute(Op.ADD, INT, x.op, y.op).op, 1))
        return replace(loc, type=loc.type.elem, terms=terms, path=f"{loc.path}[]", spans=(*loc.spans, (n, step)))

    def shared(self, loc: Loc) -> bool:
        s = self.layout.pools[loc.pool].struct
        return not (s.private or s.rom)

    def scalar(self, loc: Loc, node: ast.AST) -> None:
        if not isinstance(loc.type, IntType | BoolType | PtrType):
            self.fail(node, f"{loc.pool}.{loc.path} is not a scalar", "read or assign one of its fields")

    def _access(self, loc: Loc, order: str) -> Access:
        return Access(
            loc.base, loc.terms, loc.pool, loc.path, loc.offset, loc.spans, order, loc.type, bool(self.atomic)
        )

    def checks(self, loc: Loc) -> None:
        for p in loc.check:
            self.emit(Op.CHKPTR, p, loc.pool)

    def load(self, loc: Loc, node: ast.AST, order: str = "plain") -> Val:
        self.scalar(loc, node)
        if self.shared(loc):
            self.begin_step()
        self.checks(loc)
        lo, hi = self.layout.bounds(loc.type)
        r = Reg(f"t{len(self.fn.regs)}", lo, hi, False, loc.type)
        self.fn.regs.append(r)
        self.emit(Op.LOAD, r, access=self._access(loc, order))
        return Val(r, loc.type)

    def store(self, loc: Loc, v: Val, node: ast.AST, order: str = "plain") -> None:
        self.scalar(loc, node)
        self.same_type(loc.type, v, node, f"{loc.pool}.{loc.path}")
        if self.shared(loc):
            self.begin_step()
        self.checks(loc)
        # STORE reads its first argument; only LOAD writes it
        self.emit(Op.STORE, v.op, access=self._access(loc, order))

    def same_type(self, t: Any, v: Val, node: ast.AST, what: str) -> None:
        if isinstance(t, PtrType):
            if v.type is None:
                return
            if not isinstance(v.type, PtrType):
                self.fail(node, f"{what} is a pointer, the value is not", "assign a pointer or NULL")
            if v.type.target is not t.target:
                self.fail(node, f"{what} is {t!r}, the value {v.type!r}", "assign a pointer to the same struct")
        elif isinstance(v.type, PtrType) or v.type is None:
            self.fail(node, f"{what} is no pointer, the value is", "use index_of(p) for its number")


__all__ = ["Builder", "Edge", "Loc", "Scope", "Special", "StructName", "Unit", "Val"]
