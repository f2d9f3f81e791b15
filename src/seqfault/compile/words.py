"""The words of the language (kernel/words.py) to nodes."""

from __future__ import annotations

import ast
from typing import Any

from seqfault.compile.builder import Loc, StructName, Val
from seqfault.compile.ir import Const, Special
from seqfault.compile.ops import Op
from seqfault.compile.site_causes import Causes
from seqfault.kernel.types import BOOL, INT, IntType, PtrType, Struct

FENCES = {"smp_mb": 1, "smp_rmb": 2, "smp_wmb": 3, "barrier": 4, "smp_mb__after_spinlock": 5}
LOADS = {"READ_ONCE": "once", "smp_load_acquire": "acquire", "rcu_dereference": "dereference"}
STORES = {"WRITE_ONCE": "once", "smp_store_release": "release", "rcu_assign_pointer": "release"}
WRAPS = {"wrap_s64": (64, 1), "wrap_u32": (32, 0), "wrap_u16": (16, 0), "wrap_u8": (8, 0)}
WRAPPING = {ast.Add: Op.ADD, ast.Sub: Op.SUB, ast.Mult: Op.MUL, ast.LShift: Op.SHL}


class Words(Causes):
    """Lowering of words."""

    def plain_word(self, name: str, node: ast.Call) -> list[Val]:
        args = node.args
        if name in FENCES:
            self.arity(node, name, 0)
            self.emit(Op.FENCE, FENCES[name])
            return []
        if name in LOADS:
            self.arity(node, name, 1)
            return [self.load(self.location(args[0]), node, LOADS[name])]
        if name in STORES:
            self.arity(node, name, 2)
            loc = self.location(args[0])
            self.store(loc, self.value(args[1]), node, STORES[name])
            return []
        if name.startswith(("cmpxchg", "xchg", "fetch_add")):
            return self.rmw(name, node)
        if name in WRAPS:
            return [self.wrap(name, node)]
        method = getattr(self, "w_" + name, None)
        if method is None:
            self.fail(node, f"{name}() cannot stand here", {"atomic": "write `with atomic():`"}.get(name, ""))
        r = method(node)
        return r if isinstance(r, list) else [] if r is None else [r]

    def arity(self, node: ast.Call, name: str, n: int) -> None:
        if len(node.args) != n:
            self.fail(node, f"{name}() takes {n} arguments, {len(node.args)} given")

    # -- atomic read-modify-write: a load and a store in one step
    def rmw(self, name: str, node: ast.Call) -> list[Val]:
        self.arity(node, name, 3 if name.startswith("cmpxchg") else 2)
        loc = self.location(node.args[0])
        return self.exchange(name, node, loc, [self.value(a) for a in node.args[1:]])

    def exchange(self, name: str, node: ast.Call, loc: Loc, vals: list[Val], order: str = "") -> list[Val]:
        kind, _, suffix = name.partition("_")
        if name.startswith("fetch_add"):
            kind, suffix = "fetch_add", name[len("fetch_add_") :]
        order = order or f"rmw-{suffix or 'full'}"
        old = self.load(loc, node, order)
        self.atomic += 1
        if kind == "cmpxchg":
            self.comparable(old, vals[0], node)
            yes, no = self.branch(Op.BREQ, old.op, vals[0].op)
            self.open = yes
            self.store(loc, vals[1], node, order)
            self.open = self.open + no
        elif kind == "xchg":
            self.store(loc, vals[0], node, order)
        else:
            self.store(loc, self.arith(Op.ADD, old, vals[0], node), node, order)
        self.atomic -= 1
        return [old]

    # -- arithmetic
    def wrap(self, name: str, node: ast.Call) -> Val:
        self.arity(node, name, 1)
        bits, signed = WRAPS[name]
        x = node.args[0]
        # + - * << under a wrap are computed modulo 2**64, which the narrower wrap is a function of
        v = self.wrapping(x)
        hi = (1 << bits - signed) - 1
        lo = -(hi + 1) if signed else 0
        return self.compute(Op.WRAP, IntType(lo, hi), v.op, bits, signed)

    def wrapping(self, x: ast.expr) -> Val:
        if isinstance(x, ast.BinOp) and type(x.op) in WRAPPING:
            a, b = self.wrapping(x.left), self.wrapping(x.right)
            return self.compute(WRAPPING[type(x.op)], INT, a.op, b.op, 1)
        return self.number(x)

    # -- waiting and choice
    def w_wait_for(self, node: ast.Call) -> None:
        self.arity(node, "wait_for", 1)
        before = len(self.fn.nodes)
        v = self.value(node.args[0])
        if not self.atomic and sum(n.stop for n in self.fn.nodes[before:]) > 1:
            self.fail(node, "wait_for() whose condition makes several accesses", "put it in `with atomic():`")
        self.emit(Op.WAIT, v.op)

    def w_cpu_relax(self, node: ast.Call) -> None:
        self.fail(node, "cpu_relax() outside a spin loop", "it is the whole body of `while CONDITION: cpu_relax()`")

    w_cpu_relax_ipi = w_cpu_relax

    def w_choose(self, node: ast.Call) -> Val:
        n = self.number(node.args[0]).op
        if not isinstance(n, Const) or n.value < 1:
            self.fail(node, "choose() of something that is no positive constant", "choose among a fixed number")
        return self.compute(Op.CHOOSE, IntType(0, n.value - 1), n.value)

    def w_seq_point(self, node: ast.Call) -> None:
        self.emit(Op.SEQPOINT).seq_stop = True

    # -- objects
    def struct_arg(self, node: ast.Call) -> Struct:
        v = self.any(node.args[0]) if node.args else None
        if not isinstance(v, StructName) or v.struct.pool is None:
            self.fail(node, f"{ast.unparse(node)}: the first argument is no struct with a pool")
        return v.struct

    def alloc(self, node: ast.Call, zero: int) -> Val:
        s = self.struct_arg(node)
        if s.static:
            self.fail(node, f"{s.name} is static and cannot be allocated")
        self.begin_step()
        t = PtrType(s)
        r = self.declared(f"new {s.name}", t, False)
        self.emit(Op.ALLOC, r, s.name, zero)
        return Val(r, t)

    def w_kmem_cache_alloc(self, node: ast.Call) -> Val:
        return self.alloc(node, 0)

    def w_kmem_cache_zalloc(self, node: ast.Call) -> Val:
        return self.alloc(node, 1)

    def w_kmem_cache_free(self, node: ast.Call) -> None:
        p = self.pointer(node)
        self.begin_step()
        self.emit(Op.FREE, p.op, p.type.target.name)

    def pointer(self, node: ast.Call) -> Val:
        self.arity(node, ast.unparse(node.func), 1)
        p = self.value(node.args[0])
        if not isinstance(p.type, PtrType):
            self.fail(node, f"{ast.unparse(node)}: the argument is no pointer")
        return p

    def w_is_live(self, node: ast.Call) -> Val:
        p = self.pointer(node)
        pool = self.layout.pools[p.type.target.name]
        if pool.state < 0:
            return Val(Const(1), BOOL)
        loc = Loc(IntType(0, 2), pool.base - pool.stride, ((p.op, pool.stride),), p.type.target.name, "state", -1)
        return self.compute(Op.EQ, BOOL, self.load(loc, node).op, Const(1))

    def w_pool_object(self, node: ast.Call) -> Val:
        s = self.struct_arg(node)
        self.arity(node, "pool_object", 2)
        i = self.number(node.args[1])
        t = PtrType(s)
        n = self.layout.pools[s.name].n
        if isinstance(i.op, Const):
            if not 0 <= i.op.value < n:
                self.fail(node, f"object {i.op.value} of {n} of {s.name}")
            return Val(Const(i.op.value + 1), t)
        self.emit(Op.CHKIDX, i.op, n)
        r = self.temp(t)
        self.emit(Op.ADD, r, i.op, Const(1))
        return Val(r, t)

    def w_index_of(self, node: ast.Call) -> Val:
        p = self.pointer(node)
        n = self.layout.pools[p.type.target.name].n
        if not isinstance(p.op, Const):
            yes, no = self.branch(Op.BR, p.op)
            self.open = no
            self.emit(Op.CHECK, Const(0), self.unit.kind("null-dereference"), -1, -1, 1)
            self.open = yes
        return self.compute(Op.SUB, IntType(0, n - 1), p.op, Const(1))

    def w_the(self, node: ast.Call) -> Val:
        s = self.struct_arg(node)
        if self.layout.pools[s.name].n != 1:
            self.fail(node, f"the({s.name}): its pool has {self.layout.pools[s.name].n} objects")
        return Val(Const(1), PtrType(s))

    def w_smp_processor_id(self, node: ast.Call) -> Val:
        return Val(Special("cpu"), IntType(0, max(0, self.layout.sizes.get("NR_CPUS", 64) - 1)))

    def w_process_id(self, node: ast.Call) -> Val:
        return Val(Special("process"), IntType(0, max(0, self.layout.sizes.get("NR_TASKS", 64) - 1)))

    # -- oracles
    def text_arg(self, node: ast.Call, i: int) -> str:
        a = node.args[i] if i < len(node.args) else None
        if not isinstance(a, ast.Constant) or not isinstance(a.value, str):
            self.fail(node, f"{ast.unparse(node.func)}(): argument {i + 1} is no string constant")
        return a.value

    def w_check(self, node: ast.Call) -> None:
        if len(node.args) not in (2, 3):
            self.fail(node, "check() takes a condition, a kind and perhaps an object")
        self.report(node.args[0], self.text_arg(node, 1), node.args[2] if len(node.args) == 3 else None, fatal=False)

    def w_BUG_ON(self, node: ast.Call) -> None:
        self.arity(node, "BUG_ON", 1)
        self.report(node.args[0], "kernel-bug", None, fatal=True, negate=True)

    def w_emit(self, node: ast.Call) -> None:
        self.arity(node, "emit", 1)
        self.emit(Op.EMIT, self.value(node.args[0]).op)

    def w_count(self, node: ast.Call) -> None:
        self.emit(Op.COUNT, self.unit.counter(self.text_arg(node, 0)))

    # -- lockdep
    def lock_class(self, node: ast.Call) -> int:
        loc = self.location(node.args[0])
        sub = self.number(node.args[1]).op if len(node.args) > 1 else Const(0)
        if not isinstance(sub, Const):
            self.fail(node, "the subclass of a lock is not a constant")
        name = f"{loc.pool}.{loc.path}" + (f"/{sub.value}" if sub.value else "")
        n = self.unit.lock_classes.setdefault(name, len(self.unit.lock_classes))
        if n >= 62:
            self.fail(node, "more than 62 classes of locks")
        return n

    def w_lock_acquire(self, node: ast.Call) -> None:
        c = self.lock_class(node)
        t: Any = self.value(node.args[2]).op if len(node.args) > 2 else Const(0)
        if not isinstance(t, Const):
            self.fail(node, "whether it is a trylock is not a constant")
        self.emit(Op.LOCKDEP_ACQUIRE, c, t.value)

    def w_lock_release(self, node: ast.Call) -> None:
        self.lock_class(node)
        loc = self.location(node.args[0])
        self.emit(Op.LOCKDEP_RELEASE, f"{loc.pool}.{loc.path}")


__all__ = ["Special", "Words"]
