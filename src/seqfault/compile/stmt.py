"""Statements and calls of Kernel Python to nodes."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from seqfault.compile.builder import Edge, Loc, Scope, StructName, Val
from seqfault.compile.expr import BINARY, Expressions
from seqfault.compile.ir import Const, Function, Node, Reg, Special
from seqfault.compile.ops import Op, Ordering
from seqfault.compile.source import Func, Source, annotation, body_of, is_empty, source_of
from seqfault.kernel.places import Place
from seqfault.kernel.types import INT, ArrayType, PtrType, Struct

MAX_RESULTS = 4
INLINE_STATEMENTS = 6  # a leaf up to this many statements is copied into its callers


def assigned_names(src: Source) -> dict[str, int]:
    """Names that a function body assigns, and how often."""
    out: dict[str, int] = {}
    for n in src.nodes:
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store):
            out[n.id] = out.get(n.id, 0) + 1
    return out


class Statements(Expressions):
    """Lowering of statements and calls."""

    def word(self, name: str, node: ast.Call) -> list[Val]:
        raise NotImplementedError

    # -- bodies
    def enter(self, src: Source, chain: tuple[tuple[str, str, int], ...], site: str, inlined: bool) -> Scope:
        s = Scope(src, chain=chain, site=site, inlined=inlined, assigned=assigned_names(src))
        for n in src.nodes:
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load):
                s.all_loads[n.id] = s.all_loads.get(n.id, 0) + 1
        return s

    def block(self, body: list[ast.stmt]) -> None:
        self.scope.nest += 1
        for s in body:
            if not self.open:
                break  # unreachable
            self.statement(s)
        self.scope.nest -= 1

    def statement(self, s: ast.stmt) -> None:
        self.line = s.lineno
        handler = getattr(self, "s_" + type(s).__name__.lower(), None)
        if handler is None:
            self.fail(
                s,
                f"the statement {type(s).__name__.lower()!r} is outside Kernel Python",
                "see docs/kernel-python.md for what it has",
            )
        handler(s)
        self.mark_full = False

    def s_pass(self, s: ast.Pass) -> None:
        pass

    def s_expr(self, s: ast.Expr) -> None:
        if isinstance(s.value, ast.Constant) and isinstance(s.value.value, str):
            return
        if not isinstance(s.value, ast.Call):
            self.fail(s, f"the expression {ast.unparse(s)[:40]!r} as a statement", "assign its value, or remove it")
        self.begin_statement()
        self.call(s.value, want=False)

    def s_assert(self, s: ast.Assert) -> None:
        self.begin_statement()
        self.report(s.test, "assertion", None, fatal=True)

    def report(self, test: ast.expr, kind: str, obj: ast.expr | None, fatal: bool, negate: bool = False) -> None:
        yes, no = self.condition(test)
        good, bad = (no, yes) if negate else (yes, no)
        self.open = bad
        if bad:
            op: Any = -1
            pool: Any = -1
            if obj is not None:
                o = self.any(obj)
                if isinstance(o, Loc):
                    if not o.path and not o.terms:
                        op, pool = Const(1), o.pool
                    elif isinstance(o.type, PtrType):
                        o = self.load(o, obj)
                    elif o.terms:
                        op, pool = o.terms[0][0], o.pool
                    else:
                        op, pool = Const(1), o.pool
                if isinstance(o, Val) and isinstance(o.type, PtrType):
                    op, pool = o.op, o.type.target.name
            self.emit(Op.CHECK, Const(0), self.unit.kind(kind), op, pool, int(fatal))
            if fatal:
                self.open = []
        self.open = self.open + good

    def s_assign(self, s: ast.Assign) -> None:
        if len(s.targets) != 1:
            self.fail(s, "a chained assignment", "write one assignment for each")
        t = s.targets[0]
        self.begin_statement()
        if isinstance(t, ast.Tuple):
            return self.unpack(t, s)
        if isinstance(t, ast.Name):
            self.assign_name(t, self.value(s.value), s)
        elif isinstance(t, ast.Attribute | ast.Subscript):
            v = self.value(s.value)
            self.store(self.location(t), v, t)
        else:
            self.fail(s, f"assignment to {type(t).__name__}", "assign to a name, a field or an array element")

    def unpack(self, t: ast.Tuple, s: ast.Assign) -> None:
        if isinstance(s.value, ast.Tuple):
            vals = [Val(self.register(v), v.type) for v in map(self.value, s.value.elts)]
        elif isinstance(s.value, ast.Call):
            vals = self.call(s.value)
        else:
            self.fail(s, "unpacking of something that is no call", "use `a, b = f(...)`")
        if len(vals) != len(t.elts):
            self.fail(s, f"{len(vals)} values for {len(t.elts)} names")
        for name, v in zip(t.elts, vals, strict=True):
            if not isinstance(name, ast.Name):
                self.fail(s, "unpacking into something that is no name", "unpack into names")
            self.assign_name(name, v, s)

    def assign_name(self, target: ast.Name, v: Val, node: ast.AST) -> None:
        old = self.scope.names.get(target.id)
        once = self.scope.assigned[target.id] == 1 and self.scope.nest == 1  # on every path
        if old is None and isinstance(v.op, Const) and v.type is not None and once:
            self.scope.names[target.id] = v  # a name for a constant
            return
        if old is None:
            reg = Reg(target.id, named=True, type=v.type)
            if v.type is None:
                self.fail(
                    node,
                    f"{target.id!r} is first assigned NULL, so its type is not known",
                    f"write `{target.id}: ptr[T] = NULL`",
                )
            if isinstance(v.type, PtrType):
                reg.lo, reg.hi = self.layout.bounds(v.type)
            self.fn.regs.append(reg)
            old = self.scope.names[target.id] = Val(reg, v.type)
        if not isinstance(old, Val) or not isinstance(old.op, Reg):
            self.fail(node, f"{target.id!r} is a reference and cannot be assigned", "use another name")
        if isinstance(old.type, PtrType) or isinstance(v.type, PtrType) or v.type is None:
            self.same_type(old.type, v, node, repr(target.id))
        elif old.type != v.type and old.op.lo is None:
            self.scope.names[target.id] = Val(old.op, INT)
        last = self.fn.nodes[-1]
        if self.open == [(last, "next")] and last.dest() is v.op and isinstance(v.op, Reg) and not v.op.named:
            last.args[0] = old.op  # the value was made for this name
            return
        self.move(old.op, v)

    def s_annassign(self, s: ast.AnnAssign) -> None:
        if not isinstance(s.target, ast.Name):
            self.fail(s, "an annotation on a field", "annotate fields in the struct")
        t = annotation(s.annotation, self.scope.src)
        if isinstance(t, tuple | Struct | ArrayType):
            self.fail(s, f"a local of type {t!r}", "locals are integers, bools and pointers; put structs in pools")
        if s.target.id in self.scope.names:
            if self.scope.names[s.target.id].type != t:
                self.fail(s, f"{s.target.id!r} is declared twice with different types")
        else:
            self.scope.names[s.target.id] = Val(self.declared(s.target.id, t), t)
        if s.value is not None:
            initial = isinstance(s.value, ast.Constant) or (
                isinstance(s.value, ast.Name) and s.value.id not in self.scope.names
            )
            if not initial:  # a constant is an initial value, as in a declaration of C: no step
                self.begin_statement()
            self.assign_name(s.target, self.value(s.value), s)

    def s_augassign(self, s: ast.AugAssign) -> None:
        op = BINARY.get(type(s.op))
        if op is None:
            self.fail(s, f"the operator {type(s.op).__name__}=", "use += -= *= //= %= &= |= ^= <<= >>=")
        self.begin_statement()
        if isinstance(s.target, ast.Name):
            a = self.number(ast.copy_location(ast.Name(s.target.id, ast.Load()), s))
            self.assign_name(s.target, self.arith(op, a, self.number(s.value), s), s)
            return
        loc = self.location(s.target)
        a = self.load(loc, s)
        if isinstance(a.type, PtrType):
            self.fail(s, "arithmetic on a pointer")
        r = self.arith(op, a, self.number(s.value), s)
        self.store(loc, r, s)

    # -- control flow
    def s_if(self, s: ast.If) -> None:
        self.begin_statement()
        yes, no = self.condition(s.test)
        self.mark_full = False
        before = dict(self.scope.names)
        self.open = yes
        self.block(s.body)
        done, after_body = self.open, self.scope.names
        self.open = no
        self.scope.names = dict(before) | {k: v for k, v in after_body.items() if k not in before}
        self.block(s.orelse)
        self.open = done + self.open

    def s_while(self, s: ast.While) -> None:
        if s.orelse:
            self.fail(s, "else of a loop", "use a flag")
        relax = self.relax_body(s)
        head = self.label()
        self.begin_statement()
        if relax:
            first = len(self.fn.nodes)
        yes, no = self.condition(s.test)
        self.mark_full = False
        self.open = yes
        if relax:
            self.check_spin(s, first)
            self.emit(Op.RELAX)
            if relax == "cpu_relax_ipi":
                head.seq_stop = True
            self.open = no
            return
        breaks: list[Edge] = []
        self.scope.loops.append((head, breaks))
        self.block(s.body)
        self.scope.loops.pop()
        self.jump(head)
        self.open = no + breaks

    def relax_body(self, s: ast.While) -> str:
        """The word if the loop's body is only ``cpu_relax()``."""
        b = s.body
        if len(b) == 1 and isinstance(b[0], ast.Expr) and isinstance(b[0].value, ast.Call):
            f = b[0].value.func
            v = self.scope.src.scope.get(f.id) if isinstance(f, ast.Name) else None
            w = getattr(v, "__kernel_word__", "")
            if w in ("cpu_relax", "cpu_relax_ipi"):
                return str(w)
        return ""

    def check_spin(self, s: ast.While, first: int) -> None:
        nodes = self.fn.nodes[first:]
        if not self.atomic and sum(n.stop for n in nodes) > 1:
            self.fail(
                s,
                "a spin loop whose condition makes several accesses",
                "make one access (or one `with atomic()` block) in the condition of `while …: cpu_relax()`",
            )

    def s_for(self, s: ast.For) -> None:
        it = s.iter
        ok = isinstance(it, ast.Call) and isinstance(it.func, ast.Name) and it.func.id == "range" and not it.keywords
        if not ok or s.orelse or not isinstance(s.target, ast.Name):
            self.fail(
                s, "a for loop over something else than range(...)", "write `for i in range(a, b):`, or a while loop"
            )
        assert isinstance(it, ast.Call)
        self.begin_statement()
        args = [self.number(a) for a in it.args]
        if not 1 <= len(args) <= 3:
            self.fail(s, f"range with {len(args)} arguments")
        start, end = (args[0], args[1]) if len(args) > 1 else (Val(Const(0), INT), args[0])
        step = args[2].op if len(args) == 3 else Const(1)
        if not isinstance(step, Const) or step.value == 0:
            self.fail(s, "a range whose step is not a constant", "use a while loop")
        if isinstance(end.op, Reg) and end.op.named:
            end = Val(self.register(end), end.type)
        up = step.value > 0
        (alo, ahi), (blo, bhi) = self.range_of(start), self.range_of(end)
        lo, hi = (alo, max(ahi, bhi + step.value - 1)) if up else (min(alo, blo + step.value + 1), ahi)
        name = s.target.id
        inside = sum(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in ast.walk(s))
        stored = sum(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store) for n in ast.walk(s))
        own = self.scope.all_loads.get(name, 0) == inside and stored == 1 and name not in self.scope.names
        counter = Reg(name if own else f"{name}'", max(lo, -(1 << 63)), min(hi, (1 << 63) - 1), own, INT)
        self.fn.regs.append(counter)
        self.move(counter, start)
        head = self.label()
        self.begin_statement()
        a, b = (counter, end.op) if up else (end.op, counter)
        yes, no = self.branch(Op.BRLT, a, b)
        self.mark_full = False
        self.open = yes
        if own:
            self.scope.names[name] = Val(counter, INT)
        else:
            self.assign_name(s.target, Val(counter, INT), s)
        cont = Node(Op.NOP, [], self.where())
        breaks: list[Edge] = []
        self.scope.loops.append((cont, breaks))
        self.block(s.body)
        self.scope.loops.pop()
        if own:
            del self.scope.names[name]
        for e, attr in self.open:
            setattr(e, attr, cont)
        self.fn.nodes.append(cont)
        self.open = [(cont, "next")]
        self.emit(Op.ADD, counter, counter, step)
        self.jump(head)
        self.open = no + breaks

    def s_break(self, s: ast.Break) -> None:
        self.scope.loops[-1][1].extend(self.open)
        self.open = []

    def s_continue(self, s: ast.Continue) -> None:
        self.jump(self.scope.loops[-1][0])

    def s_with(self, s: ast.With) -> None:
        e = s.items[0].context_expr
        w = None
        if (
            len(s.items) == 1
            and s.items[0].optional_vars is None
            and isinstance(e, ast.Call)
            and isinstance(e.func, ast.Name)
        ):
            w = getattr(self.scope.src.scope.get(e.func.id), "__kernel_word__", None)
        if w != "atomic":
            self.fail(s, f"`with {ast.unparse(e)}`", "only `with atomic():` is in the language")
        if not self.atomic:
            self.begin_statement()
            self.stmt_accesses = 0
            self.mark_stop = True
            self.emit(Op.NOP)
        first = len(self.fn.nodes)
        self.atomic += 1
        self.block(s.body)
        self.atomic -= 1
        self.stmt_accesses = 1
        accesses = [n.access for n in self.fn.nodes[first:] if n.op is Op.STORE and n.access is not None]
        if any(x.ordering() is Ordering.ATOMIC for x in accesses):
            for x in accesses:  # the block is a full barrier: a release in it could only wait for itself
                x.order = "atomic" if x.order == "release" else x.order

    def s_return(self, s: ast.Return) -> None:
        sc = self.scope
        want = len(sc.src.results)
        if s.value is None:
            vals: list[Val] = []
        else:
            self.begin_statement()
            exprs = s.value.elts if isinstance(s.value, ast.Tuple) else [s.value]
            if want == 0:
                self.fail(s, f"{sc.src.name} returns a value but declares none", "annotate it: `-> type`")
            vals = [self.value(e) for e in exprs] if len(exprs) == want else []
            if len(exprs) == 1 and want > 1 and isinstance(s.value, ast.Call):
                vals = self.call(s.value)
        if len(vals) != want:
            self.fail(s, f"{sc.src.name} returns {len(vals)} values here, its annotation says {want}")
        for v, t in zip(vals, sc.src.results, strict=True):
            self.same_type(t, v, s, f"the result of {sc.src.name}")
        if sc.inlined:
            last = body_of(sc.src)
            if len(vals) == 1 and last and last[-1] is s and not sc.returns and isinstance(vals[0].op, Const):
                sc.direct = vals[0]
            else:
                regs = [Val(r, t) for r, t in zip(sc.results, sc.src.results, strict=True)]
                if len(vals) > 1:
                    vals = [Val(self.register(v), v.type) for v in vals]
                for r, v in zip(regs, vals, strict=True):
                    self.move(r.op, v)
            sc.returns += self.open
            self.open = []
            return
        for i, v in enumerate(vals):
            self.emit(Op.MOV, Special(f"rv{i}"), v.op)
        self.finish()

    def finish(self) -> None:
        """The end of an out-of-line function."""
        keep, self.mark_full = self.mark_full, False
        self.emit(Op.HALT if self.fn.is_entry else Op.RET)
        self.mark_full = keep
        self.open = []

    # -- calls
    def call(self, node: ast.Call, want: bool = True) -> list[Val]:
        self.line = node.lineno
        if node.keywords:
            self.fail(node, "a keyword argument", "pass arguments by position")
        if not isinstance(node.func, ast.Name):
            self.fail(node, f"the call {ast.unparse(node.func)}()", "call functions by their name")
        name = node.func.id
        if name in self.scope.names:
            self.fail(node, f"{name!r} is a local, not a function")
        if name in ("min", "max", "len", "int", "bool") and name not in self.scope.src.scope:
            return [self.builtin(name, node)]
        v = self.name(node.func)
        if isinstance(v, Place):
            self.unit.used_places.add(v.name)
            fn = self.unit.binds.get(v, v.default)
            src = source_of(fn)
            if is_empty(src) and not src.results:
                for a in node.args:
                    if not isinstance(a, ast.Name | ast.Constant):
                        self.any(a)
                return []
            return self.invoke(fn, node, v.name)
        if hasattr(v, "__kernel_word__"):
            return self.word(v.__kernel_word__, node)
        if inspect.isfunction(v):
            return self.invoke(v, node, "")
        self.fail(node, f"{name!r} is {type(v).__name__}, not a function")

    def builtin(self, name: str, node: ast.Call) -> Val:
        if name == "len":
            loc = self.any(node.args[0])
            if not isinstance(loc, Loc) or not isinstance(loc.type, ArrayType):
                self.fail(node, "len() of something that is no array")
            return Val(Const(self.array_length(loc)), INT)
        if name in ("int", "bool"):
            if name == "bool":
                return self.boolean(
                    ast.copy_location(ast.UnaryOp(ast.Not(), ast.UnaryOp(ast.Not(), node.args[0])), node)
                )
            return self.number(node.args[0])
        if len(node.args) != 2:
            self.fail(node, f"{name}() of {len(node.args)} values", "use it with two")
        a, b = self.number(node.args[0]), self.number(node.args[1])
        if isinstance(a.op, Const) and isinstance(b.op, Const):
            return Val(Const((min if name == "min" else max)(a.op.value, b.op.value)), INT)
        return self.compute(Op.MIN if name == "min" else Op.MAX, INT, a.op, b.op)

    def should_inline(self, fn: Func) -> bool:
        """Small leaves, and everything that takes a struct by reference."""
        known = self.unit.inlinable.get(fn)
        if known is not None:
            return known
        self.unit.inlinable[fn] = False
        src = source_of(fn)
        if any(isinstance(t, Struct) for _, t in src.params):
            self.unit.inlinable[fn] = True
            return True
        small = sum(isinstance(n, ast.stmt) for n in src.nodes) - 1 <= INLINE_STATEMENTS
        loops = any(isinstance(n, ast.While | ast.For) for n in src.nodes)
        ok = small and not loops
        if ok:
            for n in src.code:
                if isinstance(n, ast.Call) and isinstance(n.func, ast.Name):
                    g = src.scope.get(n.func.id)
                    if isinstance(g, Place):
                        g = self.unit.binds.get(g, g.default)
                    if inspect.isfunction(g) and not hasattr(g, "__kernel_word__") and not self.should_inline(g):
                        ok = False
        self.unit.inlinable[fn] = ok
        return ok

    def invoke(self, fn: Func, node: ast.Call, site: str) -> list[Val]:
        src = source_of(fn)
        if len(node.args) != len(src.params):
            self.fail(node, f"{src.name} takes {len(src.params)} arguments, {len(node.args)} given")
        args: list[Any] = []
        for a, (pname, t) in zip(node.args, src.params, strict=True):
            if isinstance(t, Struct):
                loc = self.location(a)
                if loc.type is not t:
                    self.fail(a, f"{pname!r} of {src.name} is {t!r}, {ast.unparse(a)} is {loc.type!r}")
                args.append(loc)
            else:
                v = self.value(a)
                self.same_type(t, v, a, f"{pname!r} of {src.name}")
                args.append(v)
        self.line = node.lineno
        return self.perform(fn, src, args, node, site)

    def perform(self, fn: Func, src: Source, args: list[Any], node: ast.Call, site: str) -> list[Val]:
        """A call whose arguments are known."""
        if self.atomic or self.should_inline(fn):
            return self.inline(fn, src, args, node, site)
        return self.call_function(fn, src, args)

    def call_function(self, fn: Func, src: Source, args: list[Val]) -> list[Val]:
        f = self.unit.functions.get(fn)
        if f is None:
            f = Function(src.name)
            f.nresults = len(src.results)
            for pname, t in src.params:
                lo, hi = self.layout.bounds(t)
                f.params.append(Reg(pname, lo, hi, True, t))
            f.regs = list(f.params)
            self.unit.functions[fn] = f
            self.unit.queue.append(fn)
        moves = [self.emit(Op.MOV, p, a.op) for p, a in zip(f.params, args, strict=True)]
        n = self.emit(Op.CALL)
        n.callee, n.moves = f, moves
        self.fn.calls.append(n)
        out = []
        for i, t in enumerate(src.results):
            lo, hi = self.layout.bounds(t)
            r = Reg(f"t{len(self.fn.regs)}", lo, hi, False, t)
            self.fn.regs.append(r)
            self.emit(Op.MOV, r, Special(f"rv{i}"))
            out.append(Val(r, t))
        return out

    def inline(self, fn: Func, src: Source, args: list[Any], node: ast.Call, site: str) -> list[Val]:
        caller = self.scope
        if any(c[0] == src.name and c[1] == src.file for c in caller.chain) or caller.src.fn is fn:
            self.fail(node, f"{src.name} calls itself", "Kernel Python has no recursion; use a loop")
        here = (caller.src.name, caller.src.file, node.lineno)
        scope = self.enter(src, (*caller.chain, here), site or caller.site, True)
        for (pname, t), a in zip(src.params, args, strict=True):
            if isinstance(a, Loc):
                scope.names[pname] = a
            elif pname in scope.assigned or (isinstance(a.op, Special) and a.op.name.startswith("rv")):
                r = self.declared(pname, t)
                self.move(r, a)
                scope.names[pname] = Val(r, t)
            else:
                scope.names[pname] = Val(a.op, t)
        self.scope = scope
        scope.results = [Reg(f"{src.name}()", *self.layout.bounds(t), False, t) for t in src.results]
        self.fn.regs += scope.results
        self.block(body_of(src))
        if self.open and src.results and not scope.direct:
            self.scope = scope
            self.fail(node, f"{src.name} may end without returning a value", "return one on every path")
        self.open += scope.returns
        self.scope = caller
        self.line = node.lineno
        if scope.direct is not None:
            return [Val(scope.direct.op, src.results[0])]
        return [Val(r, t) for r, t in zip(scope.results, src.results, strict=True)]

    def compile(self, fn: Func, args: dict[str, int] | None = None) -> None:
        """Compile `fn` as this builder's out-of-line function."""
        src = source_of(fn)
        self.scope = self.enter(src, (), "", False)
        for (pname, t), r in zip(src.params, self.fn.params, strict=True):
            if isinstance(t, Struct):
                self.fail(src.node, f"{src.name} takes a struct by reference and cannot be an entry")
            self.scope.names[pname] = Val(r, t)
        self.line = src.node.lineno
        self.fn.entry = self.emit(Op.NOP)
        self.block(body_of(src))
        if self.open:
            if src.results:
                self.fail(src.node, f"{src.name} may end without returning a value", "return one on every path")
            self.finish()


__all__ = ["Statements", "StructName"]
