"""Expressions of Kernel Python to nodes."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from seqfault.compile.builder import Builder, Edge, Loc, StructName, Val
from seqfault.compile.ir import Const, Reg
from seqfault.compile.ops import Op
from seqfault.compile.source import lookup
from seqfault.kernel.machine import Ptr
from seqfault.kernel.types import BOOL, INT, ArrayType, BoolType, IntType, PtrType, Size, Struct, resolve_size

BINARY: dict[type[ast.AST], Op] = {
    ast.Add: Op.ADD,
    ast.Sub: Op.SUB,
    ast.Mult: Op.MUL,
    ast.FloorDiv: Op.DIV,
    ast.Mod: Op.MOD,
    ast.BitAnd: Op.AND,
    ast.BitOr: Op.OR,
    ast.BitXor: Op.XOR,
    ast.LShift: Op.SHL,
    ast.RShift: Op.SHR,
}
FOLD = {
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.AND: lambda a, b: a & b,
    Op.OR: lambda a, b: a | b,
    Op.XOR: lambda a, b: a ^ b,
    Op.DIV: lambda a, b: a // b,
    Op.MOD: lambda a, b: a % b,
    Op.SHL: lambda a, b: a << b,
    Op.SHR: lambda a, b: a >> b,
}
# comparison -> (fused branch, value op, operands swapped, result negated)
COMPARE: dict[type[ast.AST], tuple[Op, Op, bool, bool]] = {
    ast.Eq: (Op.BREQ, Op.EQ, False, False),
    ast.NotEq: (Op.BRNE, Op.NE, False, False),
    ast.Lt: (Op.BRLT, Op.LT, False, False),
    ast.LtE: (Op.BRLE, Op.LE, False, False),
    ast.Gt: (Op.BRLT, Op.LT, True, False),
    ast.GtE: (Op.BRLE, Op.LE, True, False),
}


class Expressions(Builder):
    """Lowering of expressions.  Calls are in `Calls`."""

    def call(self, node: ast.Call, want: bool = True) -> list[Val]:
        raise NotImplementedError

    # -- names
    def name(self, node: ast.Name) -> Any:
        """What a name stands for: `Val`, `Loc` (by reference), `StructName` or a Python object."""
        if node.id in self.scope.names:
            return self.scope.names[node.id]
        if node.id in self.scope.assigned:
            self.fail(node, f"{node.id!r} may be used before it is assigned", "assign it on every path first")
        try:
            v = lookup(node.id, self.scope.src)
        except KeyError:
            self.fail(node, f"the name {node.id!r} is not defined", "define it, or import it at the top of the file")
        return self.constant(v, node)

    def constant(self, v: Any, node: ast.AST) -> Any:
        if isinstance(v, bool):
            return Val(Const(int(v)), BOOL)
        if isinstance(v, int):
            return Val(Const(int(v)), INT)
        if isinstance(v, Size):
            return Val(Const(v.resolve(self.layout.sizes)), INT)
        if isinstance(v, Ptr) and not v:
            return Val(Const(0), None)
        if isinstance(v, Struct):
            return StructName(v)
        return v

    # -- values
    def value(self, node: ast.expr) -> Val:
        """The scalar value of an expression."""
        v = self.any(node)
        if isinstance(v, Loc):
            if isinstance(v.type, Struct | ArrayType):
                self.fail(
                    node,
                    f"{ast.unparse(node)} is a whole {'array' if isinstance(v.type, ArrayType) else 'struct'}",
                    "read one of its fields",
                )
            return self.load(v, node)
        if isinstance(v, Val):
            return v
        if inspect.isfunction(v) or isinstance(v, StructName):
            self.fail(node, f"{ast.unparse(node)!r} is used as a value", "functions and structs are no values; call it")
        self.fail(
            node,
            f"{ast.unparse(node)!r} is {type(v).__name__}, not a number or pointer",
            "Kernel Python has integers, bools and pointers",
        )

    def any(self, node: ast.expr) -> Any:
        """A `Val`, or a `Loc` that was not loaded yet."""
        self.line = getattr(node, "lineno", self.line)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bool | int):
                return self.constant(node.value, node)
            self.fail(node, f"the constant {node.value!r}", "Kernel Python has integers, True, False and NULL")
        if isinstance(node, ast.Name):
            return self.name(node)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Subscript):
            base = self.any(node.value)
            if not isinstance(base, Loc):
                self.fail(node, f"{ast.unparse(node.value)} is no array")
            if isinstance(node.slice, ast.Slice | ast.Tuple):
                self.fail(node, "slices are outside Kernel Python", "index one element at a time")
            return self.element(base, self.value(node.slice), node)
        if isinstance(node, ast.BinOp):
            return self.binop(node)
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, (ast.Compare, ast.BoolOp)):
            return self.boolean(node)
        if isinstance(node, ast.IfExp):
            return self.conditional(node)
        if isinstance(node, ast.NamedExpr):
            self.assign_name(node.target, self.value(node.value), node)
            return self.name(node.target)
        if isinstance(node, ast.Call):
            r = self.call(node)
            if len(r) != 1:
                self.fail(
                    node,
                    f"{ast.unparse(node.func)}() returns {len(r) or 'no'} values here",
                    "use `a, b = f()` for several results; annotate the return type if it has one",
                )
            return r[0]
        self.fail(
            node,
            f"{type(node).__name__} ({ast.unparse(node)[:40]!r}) is outside Kernel Python",
            "use names, fields, integer arithmetic, comparisons and calls",
        )

    def attribute(self, node: ast.Attribute) -> Loc:
        base = self.any(node.value)
        if isinstance(base, Loc) and not isinstance(base.type, Struct):
            base = self.load(base, node)
        if isinstance(base, Val):
            if base.type is None:
                self.fail(node, "field of NULL")
            base = self.pointee(base, node)
        if not isinstance(base, Loc):
            self.fail(node, f"{ast.unparse(node)!r}: {ast.unparse(node.value)!r} is no pointer or struct")
        return self.member(base, node.attr, node)

    def location(self, node: ast.expr) -> Loc:
        """A field or element that is to be stored to, or passed by reference."""
        v = self.any(node)
        if not isinstance(v, Loc):
            self.fail(node, f"{ast.unparse(node)!r} is not a field", "name a field, e.g. vma.vm_start")
        return v

    def number(self, node: ast.expr) -> Val:
        v = self.value(node)
        if isinstance(v.type, PtrType) or v.type is None:
            self.fail(node, f"arithmetic on the pointer {ast.unparse(node)}", "use index_of(p) for its number")
        return v

    def binop(self, node: ast.BinOp) -> Val:
        op = BINARY.get(type(node.op))
        if op is None:
            self.fail(node, f"the operator {type(node.op).__name__}", "use + - * // % & | ^ << >>")
        a = self.number(node.left)
        b = self.number(node.right)
        return self.arith(op, a, b, node)

    def arith(self, op: Op, a: Val, b: Val, node: ast.AST) -> Val:
        if isinstance(a.op, Const) and isinstance(b.op, Const):
            try:
                v = FOLD[op](a.op.value, b.op.value)
            except (ZeroDivisionError, ValueError) as e:
                self.fail(node, f"constant expression: {e}")
            if -(1 << 63) <= v < 1 << 63:
                return Val(Const(v), INT)
            self.fail(node, f"the constant {v} does not fit 64 bits")
        return self.compute(op, INT, a.op, b.op)

    def unary(self, node: ast.UnaryOp) -> Val:
        if isinstance(node.op, ast.Not):
            return self.boolean(node)
        v = self.number(node.operand)
        if isinstance(v.op, Const):
            x = {ast.USub: -v.op.value, ast.Invert: ~v.op.value, ast.UAdd: v.op.value}[type(node.op)]
            return Val(Const(x), INT)
        if isinstance(node.op, ast.UAdd):
            return v
        return self.compute(Op.NEG if isinstance(node.op, ast.USub) else Op.INV, INT, v.op)

    def conditional(self, node: ast.IfExp) -> Val:
        yes, no = self.condition(node.test)
        if not no or not yes:
            self.open = yes or no
            return self.value(node.body if yes else node.orelse)
        out = self.temp()
        self.open = yes
        a = self.value(node.body)
        self.move(out, a)
        done, self.open = self.open, no
        b = self.value(node.orelse)
        self.move(out, b)
        self.open += done
        t = a.type if a.type is not None else b.type
        if isinstance(t, IntType | BoolType) and t != b.type:
            t = INT
        return Val(out, t)

    # -- conditions
    def boolean(self, node: ast.expr) -> Val:
        """The value 0 or 1 of a comparison, `and`, `or`, `not`."""
        if isinstance(node, ast.BoolOp):
            for x in node.values:
                if not isinstance(x, ast.Compare | ast.BoolOp) and not (
                    isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.Not)
                ):
                    self.require_bool(x)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            c = COMPARE.get(type(node.ops[0]))
            if c is not None:
                a, b = self.operands(node.left, node.comparators[0], node)
                if isinstance(a.op, Const) and isinstance(b.op, Const):
                    return Val(Const(int(self.fold_compare(node.ops[0], a.op.value, b.op.value))), BOOL)
                u, v = (b, a) if c[2] else (a, b)
                return self.compute(c[1], BOOL, u.op, v.op)
        yes, no = self.condition(node)
        if not no or not yes:
            self.open = yes or no
            return Val(Const(1 if yes else 0), BOOL)
        out = self.temp(BOOL)
        self.open = yes
        self.emit(Op.MOV, out, Const(1))
        done, self.open = self.open, no
        self.emit(Op.MOV, out, Const(0))
        self.open += done
        return Val(out, BOOL)

    def require_bool(self, node: ast.expr) -> None:
        """In Python ``a and b`` has the value of a or b; as a value it is allowed for bools only."""
        if isinstance(node, ast.Call | ast.Name | ast.Attribute | ast.Subscript | ast.Constant):
            return
        self.fail(node, f"{ast.unparse(node)!r} inside and/or used as a value", "compare it explicitly (!= 0)")

    def operands(self, left: ast.expr, right: ast.expr, node: ast.AST) -> tuple[Val, Val]:
        a = self.value(left)
        b = self.value(right)
        self.comparable(a, b, node)
        return a, b

    def comparable(self, a: Val, b: Val, node: ast.AST) -> None:
        pa = isinstance(a.type, PtrType) or a.type is None
        pb = isinstance(b.type, PtrType) or b.type is None
        if pa != pb:
            self.fail(node, "a pointer is compared with a number", "compare with NULL or another pointer")
        if a.type is not None and b.type is not None and pa and a.type.target is not b.type.target:
            self.fail(node, f"{a.type!r} is compared with {b.type!r}")

    @staticmethod
    def fold_compare(op: ast.cmpop, a: int, b: int) -> bool:
        return {
            ast.Eq: a == b,
            ast.NotEq: a != b,
            ast.Lt: a < b,
            ast.LtE: a <= b,
            ast.Gt: a > b,
            ast.GtE: a >= b,
        }[type(op)]

    def condition(self, node: ast.expr) -> tuple[list[Edge], list[Edge]]:
        """Branch on an expression: the dangling edges when true and when false."""
        self.line = getattr(node, "lineno", self.line)
        if isinstance(node, ast.BoolOp):
            is_and = isinstance(node.op, ast.And)
            out: list[Edge] = []
            go: list[Edge] = self.open
            for x in node.values:
                self.open = go
                if not go:
                    break
                yes, no = self.condition(x)
                go, leave = (yes, no) if is_and else (no, yes)
                out += leave
            self.open = []
            return (go, out) if is_and else (out, go)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yes, no = self.condition(node.operand)
            return no, yes
        if isinstance(node, ast.Compare):
            return self.compare(node)
        v = self.value(node)
        if isinstance(v.op, Const):
            edges, self.open = self.open, []
            return (edges, []) if v.op.value else ([], edges)
        return self.branch(Op.BR, v.op)

    def compare(self, node: ast.Compare) -> tuple[list[Edge], list[Edge]]:
        fails: list[Edge] = []
        left = self.value(node.left)
        for i, (op, right) in enumerate(zip(node.ops, node.comparators, strict=True)):
            c = COMPARE.get(type(op))
            if c is None:
                self.fail(
                    node, f"the comparison {type(op).__name__}", "use == != < <= > >= (pointers: p, not p, p == NULL)"
                )
            r = self.value(right)
            self.comparable(left, r, node)
            if isinstance(left.op, Const) and isinstance(r.op, Const):
                if not self.fold_compare(op, left.op.value, r.op.value):
                    fails += self.open
                    self.open = []
                    return [], fails
            else:
                x, y = (r, left) if c[2] else (left, r)
                yes, no = self.branch(c[0], x.op, y.op)
                fails += no
                self.open = yes
            left = r
            if i + 1 < len(node.ops) and not self.open:
                break
        yes, self.open = self.open, []
        return yes, fails

    def assign_name(self, target: ast.Name, v: Val, node: ast.AST) -> None:
        raise NotImplementedError

    def array_length(self, loc: Loc) -> int:
        return resolve_size(loc.type.length, self.layout.sizes)

    def register(self, v: Val) -> Reg:
        """The value in a register of its own (a copy, so that later assignments do not change it)."""
        r = self.temp(v.type)
        self.move(r, v)
        return r
