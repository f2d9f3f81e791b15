"""Functions of Kernel Python to LLVM's textual form, for sequential execution.

Memory is one array of 64-bit cells, numbered by the layout.  An undefined cell holds `UNDEFINED`.  A function
takes the machine's context (compile/native_runtime.py) and the cells, and returns a status, 1 if the run has to
stop, and its results.  Everything that the interpreter of the automaton reports is reported here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from seqfault.compile.builder import Unit
from seqfault.compile.ir import Const, Function, Node, Operand, Reg, Special, Where, interval
from seqfault.compile.native_runtime import (
    C_COUNTERS,
    C_CPU,
    C_FUEL,
    C_PROCESS,
    FREE_BIT,
    POOL_POISON,
    POOL_START,
    pool_offset,
)
from seqfault.compile.ops import BRANCHES, Op
from seqfault.compile.passes import result_range
from seqfault.kernel.types import INT_MAX, INT_MIN

UNDEFINED = INT_MIN
COMPARE = {Op.EQ: "eq", Op.NE: "ne", Op.LT: "slt", Op.LE: "sle"}
FUSED = {Op.BREQ: "eq", Op.BRNE: "ne", Op.BRLT: "slt", Op.BRLE: "sle"}
PLAIN = {Op.AND: "and", Op.OR: "or", Op.XOR: "xor"}
CHECKED = {Op.ADD: "add", Op.SUB: "sub", Op.MUL: "mul"}
NOTHING = frozenset({Op.NOP, Op.FENCE, Op.SEQPOINT, Op.LOCKDEP_ACQUIRE, Op.LOCKDEP_RELEASE})
UNLIKELY = "!prof !0"
Range = tuple[int, int]


@dataclass(frozen=True)
class Site:
    """A place in the text where something can be reported: what, where, about an object of which pool."""

    kind: str
    where: Where
    pool: str = ""
    path: str = ""


def function_type(nresults: int) -> str:
    return "i64" if nresults == 0 else "{" + ", ".join(["i64"] * (nresults + 1)) + "}"


def no_results(nresults: int) -> str:
    """What a function returns when the run stops."""
    return "1" if nresults == 0 else "{i64 1" + ", i64 0" * nresults + "}"


class Module:
    """The text of all functions of a unit."""

    def __init__(self, unit: Unit):
        self.unit, self.layout = unit, unit.layout
        self.kinds = {i: k for k, i in unit.kinds.items()}
        self.sites: list[Site] = []
        self.names: dict[Function, str] = {}
        self.tbaa: dict[str, int] = {}
        for i, f in enumerate(unit.functions.values()):
            self.names[f] = f"k{i}_" + re.sub(r"\W", "_", f.name)
        nodes = [n for f in unit.functions.values() for n in f.nodes]
        # pools some of whose objects start undefined
        self.poisoned = {n.args[1] for n in nodes if n.op is Op.ALLOC and not n.args[2]}
        self.poisoned -= {name for name, p in self.layout.pools.items() if p.typesafe}

    def site(self, kind: str, n: Node, pool: str = "", path: str = "") -> int:
        self.sites.append(Site(kind, n.where, pool, path))
        return len(self.sites) - 1

    def alias(self, pool: str, path: str) -> str:
        """Cells of different fields are different memory."""
        key = re.sub(r"\[\d+\]", "[]", f"{pool}.{path}")
        n = self.tbaa.setdefault(key, len(self.tbaa))
        return f"!tbaa !{3 + 2 * n}"

    def text(self) -> str:
        out = [t for f in self.unit.functions.values() for t in Body(self, f).lines]
        return "\n".join([*out, *self.metadata()]) + "\n"

    def metadata(self) -> list[str]:
        """What the functions' text refers to; known when all of it is made."""
        out = ['!0 = !{!"branch_weights", i32 1, i32 100000}', '!1 = !{!"cells"}']
        for key, n in self.tbaa.items():
            out.append(f'!{2 + 2 * n} = !{{!"{key}", !1}}')
            out.append(f"!{3 + 2 * n} = !{{!{2 + 2 * n}, !{2 + 2 * n}, i64 0}}")
        return out


def loop_heads(f: Function) -> set[int]:
    """Nodes (by id) that an edge of the graph leads back to: each loop has one."""
    state: dict[int, int] = {}
    heads: set[int] = set()
    assert f.entry is not None
    work: list[tuple[Node, int]] = [(f.entry, 0)]
    while work:
        n, k = work.pop()
        if k == 0:
            state[id(n)] = 1
        succ = [m for m in (n.next, n.alt) if m is not None]
        if k < len(succ):
            work.append((n, k + 1))
            m = succ[k]
            s = state.get(id(m), 0)
            if s == 1:
                heads.add(id(m))
            elif s == 0:
                work.append((m, 0))
        else:
            state[id(n)] = 2
    return heads


class Body:
    """The text of one function."""

    def __init__(self, module: Module, f: Function):
        self.m, self.f, self.layout = module, f, module.layout
        self.lines: list[str] = []
        self.count = 0
        self.known: dict[Any, str] = {}
        self.slots: dict[Any, str] = {}
        self.fatal: list[tuple[str, int, str]] = []
        self.cold: list[str] = []
        self.stops = False
        self.block = "entry"
        self.run()

    # -- text
    def tmp(self) -> str:
        self.count += 1
        return f"%t{self.count}"

    def put(self, text: str) -> str:
        t = self.tmp()
        self.lines.append(f"  {t} = {text}")
        return t

    def do(self, text: str) -> None:
        self.lines.append("  " + text)

    def begin(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def new_label(self) -> str:
        self.count += 1
        return f"c{self.count}"

    # -- values
    def slot(self, r: Any) -> str:
        key = r.name if isinstance(r, Special) else r
        if key not in self.slots:
            self.slots[key] = f"%r{len(self.slots)}"
        return self.slots[key]

    def val(self, x: Operand) -> str:
        if isinstance(x, Const):
            return str(x.value)
        if isinstance(x, Special) and x.name in ("cpu", "process"):
            p = self.put(f"getelementptr i64, ptr %ctx, i64 {C_CPU if x.name == 'cpu' else C_PROCESS}")
            return self.put(f"load i64, ptr {p}")
        key = x.name if isinstance(x, Special) else x
        if key not in self.known:
            self.known[key] = self.put(f"load i64, ptr {self.slot(x)}")
        return self.known[key]

    def range(self, x: Operand) -> Range:
        if isinstance(x, Const):
            return x.value, x.value
        if isinstance(x, Reg) and x.lo is not None and x.hi is not None:
            return x.lo, x.hi
        if isinstance(x, Special) and x.name in ("cpu", "process"):
            size = "NR_CPUS" if x.name == "cpu" else "NR_TASKS"
            return 0, self.layout.sizes.get(size, 64) - 1
        return INT_MIN, INT_MAX

    def set(self, d: Operand, v: str, got: Range, n: Node) -> None:
        lo, hi = self.range(d)
        if got[0] < lo or got[1] > hi:
            self.in_range(v, lo, hi, n)
        self.do(f"store i64 {v}, ptr {self.slot(d)}")
        self.known[d.name if isinstance(d, Special) else d] = v

    # -- reports
    def fail_if(self, cond: str, kind: str, n: Node, pool: str = "", index: str = "0", path: str = "") -> None:
        """Report and stop if `cond` (an i1)."""
        on = self.new_label()
        self.fatal.append((self.block, self.m.site(kind, n, pool, path), index))
        self.do(f"br i1 {cond}, label %fatal, label %{on}, {UNLIKELY}")
        self.begin(on)

    def fail(self, kind: str, n: Node, pool: str = "", index: str = "0") -> None:
        self.fatal.append((self.block, self.m.site(kind, n, pool), index))
        self.do("br label %fatal")

    def report_if(self, cond: str, kind: str, n: Node, pool: str = "", index: str = "0", path: str = "") -> str:
        """Report if `cond`, and go on unless the machine is strict.  Returns the label of the cold block."""
        cold, on = self.new_label(), self.new_label()
        self.do(f"br i1 {cond}, label %{cold}, label %{on}, {UNLIKELY}")
        self.report(cold, self.m.site(kind, n, pool, path), index, on)
        self.begin(on)
        return cold

    def report(self, label: str, site: int, index: str, on: str) -> None:
        t = self.tmp()
        self.stops = True
        self.cold += [
            f"{label}:",
            f"  {t} = call i64 @violate(ptr %ctx, i64 {site}, i64 {index})",
            f"  {t}b = icmp ne i64 {t}, 0",
            f"  br i1 {t}b, label %stop, label %{on}",
        ]

    def in_range(self, v: str, lo: int, hi: int, n: Node) -> None:
        d = self.put(f"sub i64 {v}, {lo}") if lo else v
        pool, path = (n.access.pool, n.access.path) if n.access is not None else ("", "")
        self.fail_if(self.put(f"icmp ugt i64 {d}, {hi - lo}"), "range-overflow", n, pool, v, path)

    # -- the function
    def run(self) -> None:
        f = self.f
        assert f.entry is not None
        preds: dict[int, int] = {id(f.entry): 1}
        for n in f.nodes:
            for s in (n.next, n.alt):
                if s is not None:
                    preds[id(s)] = preds.get(id(s), 0) + 1
        heads = loop_heads(f)
        label = {id(n): f"n{i}" for i, n in enumerate(f.nodes)}
        leads = {id(n) for n in f.nodes if preds.get(id(n), 0) != 1 or id(n) in heads}
        leads.add(id(f.entry))
        for n in f.nodes:
            if n.op in BRANCHES:
                leads |= {id(s) for s in (n.next, n.alt) if s is not None}
        self.label = label
        for start in f.nodes:
            if id(start) not in leads:
                continue
            self.begin(label[id(start)])
            self.known = {}
            if id(start) in heads:
                self.fuel(start)
            at = start
            while not self.node(at):
                if at.next is None or id(at.next) in leads:
                    self.do(f"br label %{label[id(at.next)]}" if at.next is not None else "unreachable")
                    break
                at = at.next
        self.finish()

    def finish(self) -> None:
        f, m = self.f, self.m
        ret = function_type(f.nresults)
        # the caller's registers of a callee's parameters, and results, are slots too
        params = "".join(f", i64 %p{i}" for i in range(len(f.params)))
        head = [f"define internal {ret} @{m.names[f]}(ptr noalias %ctx, ptr noalias %mem{params}) {{", "entry:"]
        slots = [self.slot(p) for p in f.params]
        head += [f"  {s} = alloca i64" for s in self.slots.values()]
        head += [f"  store i64 %p{i}, ptr {s}" for i, s in enumerate(slots)]
        assert f.entry is not None
        head.append(f"  br label %{self.label[id(f.entry)]}")
        tail = list(self.cold)
        if self.fatal:
            sites = ", ".join(f"[{s}, %{b}]" for b, s, _ in self.fatal)
            values = ", ".join(f"[{v}, %{b}]" for b, _, v in self.fatal)
            tail += [
                "fatal:",
                f"  %site = phi i64 {sites}",
                f"  %about = phi i64 {values}",
                "  %ignored = call i64 @violate(ptr %ctx, i64 %site, i64 %about)",
                "  br label %stop",
            ]
        if self.fatal or self.stops:
            tail += ["stop:", f"  ret {ret} {no_results(f.nresults)}"]
        self.lines = [*head, *self.lines, *tail, "}"]

    def fuel(self, n: Node) -> None:
        p = self.put(f"getelementptr i64, ptr %ctx, i64 {C_FUEL}")
        a = self.put(f"load i64, ptr {p}")
        b = self.put(f"sub i64 {a}, 1")
        self.do(f"store i64 {b}, ptr {p}")
        self.fail_if(self.put(f"icmp slt i64 {b}, 0"), "endless-step", n)

    # -- nodes
    def node(self, n: Node) -> bool:
        """Emit a node; True if it ends its block."""
        op, a = n.op, n.args
        if op in NOTHING:
            return False
        if op is Op.MOV:
            self.set(a[0], self.val(a[1]), self.range(a[1]), n)
        elif op in BRANCHES:
            self.branch(n)
            return True
        elif op is Op.LOAD:
            self.load(n)
        elif op is Op.STORE:
            self.store(n)
        elif op in (Op.RET, Op.HALT):
            self.ret()
            return True
        elif op in (Op.RELAX, Op.STOPPATH):
            self.fail("would-block", n)
            return True
        elif op is Op.CHECK:
            return self.check(n)
        elif hasattr(self, "op_" + op.name.lower()):
            getattr(self, "op_" + op.name.lower())(n)
        else:
            self.arithmetic(n)
        return False

    def branch(self, n: Node) -> None:
        if n.op is Op.BR:
            c = self.put(f"icmp ne i64 {self.val(n.args[0])}, 0")
        else:
            x, y = self.val(n.args[0]), self.val(n.args[1])
            c = self.put(f"icmp {FUSED[n.op]} i64 {x}, {y}")
        yes, no = (self.label[id(s)] if s is not None else "" for s in (n.next, n.alt))
        self.do(f"br i1 {c}, label %{yes}, label %{no}")

    def ret(self) -> None:
        k = self.f.nresults
        if k == 0:
            return self.do("ret i64 0")
        t = function_type(k)
        v = f"{{i64 0{', i64 0' * k}}}"
        for i in range(k):
            v = self.put(f"insertvalue {t} {v}, i64 {self.val(Special(f'rv{i}'))}, {i + 1}")
        self.do(f"ret {t} {v}")

    def op_call(self, n: Node) -> None:
        g = n.callee
        assert g is not None
        args = "".join(f", i64 {self.val(p)}" for p in g.params)
        t = function_type(g.nresults)
        r = self.put(f"call {t} @{self.m.names[g]}(ptr %ctx, ptr %mem{args})")
        s = r if g.nresults == 0 else self.put(f"extractvalue {t} {r}, 0")
        on = self.new_label()
        self.stops = True
        self.do(f"br i1 {self.put(f'icmp ne i64 {s}, 0')}, label %stop, label %{on}, {UNLIKELY}")
        self.begin(on)
        for i in range(g.nresults):
            v = self.put(f"extractvalue {t} {r}, {i + 1}")
            self.known[f"rv{i}"] = v
            self.do(f"store i64 {v}, ptr {self.slot(Special(f'rv{i}'))}")

    # -- memory
    def address(self, n: Node) -> str:
        acc = n.access
        assert acc is not None
        at = str(acc.base + sum(t.value * stride for t, stride in acc.terms if isinstance(t, Const)))
        for t, stride in acc.terms:
            if isinstance(t, Const):
                continue
            v = self.val(t)
            x = v if stride == 1 else self.put(f"mul nsw i64 {v}, {stride}")
            at = x if at == "0" else self.put(f"add nsw i64 {x}, {at}")
        return self.put(f"getelementptr i64, ptr %mem, i64 {at}")

    def load(self, n: Node) -> None:
        acc = n.access
        assert acc is not None
        if acc.offset < 0 and not isinstance(acc.terms[0][0], Const):  # is_live(NULL)
            null = self.put(f"icmp eq i64 {self.val(acc.terms[0][0])}, 0")
            self.fail_if(null, "null-dereference", n, acc.pool)
        p = self.address(n)
        v = self.put(f"load i64, ptr {p}, {self.m.alias(acc.pool, acc.path if acc.offset >= 0 else '#state')}")
        lo, hi = self.layout.bounds(acc.type)
        if acc.pool in self.m.poisoned and acc.offset >= 0 and hi - lo < (1 << 64) - 1:
            before = self.block
            bad = self.put(f"icmp eq i64 {v}, {UNDEFINED}")
            cold = self.report_if(bad, "uninitialised-read", n, acc.pool, "0", acc.path)
            v = self.put(f"phi i64 [{v}, %{before}], [{lo}, %{cold}]")
        self.set(n.args[0], v, (lo, hi), n)

    def store(self, n: Node) -> None:
        acc = n.access
        assert acc is not None
        v = self.val(n.args[0])
        lo, hi = self.layout.bounds(acc.type)
        got = self.range(n.args[0])
        if got[0] < lo or got[1] > hi:
            self.in_range(v, lo, hi, n)
        self.do(f"store i64 {v}, ptr {self.address(n)}, {self.m.alias(acc.pool, acc.path)}")

    def state(self, x: Operand, pool: Any) -> str:
        if isinstance(x, Const):
            return self.put(f"getelementptr i64, ptr %mem, i64 {pool.base + (x.value - 1) * pool.stride}")
        at = self.put(f"mul nsw i64 {self.val(x)}, {pool.stride}")
        return self.put(f"getelementptr i64, ptr %mem, i64 {self.put(f'add nsw i64 {at}, {pool.base - pool.stride}')}")

    def op_chkptr(self, n: Node) -> None:
        x, name = n.args[0], n.args[1]
        pool = self.layout.pools[name]
        v = self.val(x)
        self.fail_if(self.put(f"icmp eq i64 {v}, 0"), "null-dereference", n, name)
        if pool.state < 0:
            return
        s = self.put(f"load i64, ptr {self.state(x, pool)}, {self.m.alias(name, '#state')}")
        if pool.typesafe:
            bad = self.put(f"icmp eq i64 {s}, 0")
        else:
            bad = self.put(f"icmp ne i64 {s}, 1")
        self.report_if(bad, "use-after-free", n, name, v)

    def op_chkidx(self, n: Node) -> None:
        lo, hi = self.range(n.args[0])
        if lo < 0 or hi >= n.args[1]:
            v = self.val(n.args[0])
            self.fail_if(self.put(f"icmp uge i64 {v}, {n.args[1]}"), "index-out-of-range", n, "", v)

    def pool_word(self, name: str, word: int) -> str:
        p = self.put(f"getelementptr i64, ptr %ctx, i64 {pool_offset(self.layout.pools[name].number) + word}")
        at = self.put(f"load i64, ptr {p}")
        return self.put(f"inttoptr i64 {at} to ptr")

    def op_alloc(self, n: Node) -> None:
        d, name, zero = n.args
        pool = self.layout.pools[name]
        r = self.put(f"call i64 @pool_take(ptr %ctx, ptr %mem, i64 {pool_offset(pool.number)})")
        self.fail_if(self.put(f"icmp slt i64 {r}, 0"), "pool-exhausted", n, name)
        i = self.put(f"and i64 {r}, {FREE_BIT - 1}")
        at = self.put(f"mul nsw i64 {i}, {pool.stride}")
        p = self.put(f"getelementptr i64, ptr %mem, i64 {self.put(f'add nsw i64 {at}, {pool.base}')}")
        self.do(f"store i64 1, ptr {p}")
        first = self.put(f"getelementptr i64, ptr {p}, i64 1")
        size = 8 * (pool.stride - 1)
        word = POOL_START if zero or pool.typesafe else POOL_POISON
        on = self.new_label()
        if pool.typesafe and not zero:
            new = self.new_label()
            self.do(f"br i1 {self.put(f'icmp sge i64 {r}, {FREE_BIT}')}, label %{on}, label %{new}")
            self.begin(new)
        template = self.pool_word(name, word)
        self.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {first}, ptr {template}, i64 {size}, i1 false)")
        if pool.typesafe and not zero:
            self.do(f"br label %{on}")
            self.begin(on)
        v = self.put(f"add nsw i64 {i}, 1")
        self.set(d, v, (1, pool.n), n)

    def op_free(self, n: Node) -> None:
        x, name = n.args
        pool = self.layout.pools[name]
        v = self.val(x)
        self.fail_if(self.put(f"icmp eq i64 {v}, 0"), "null-dereference", n, name)
        p = self.state(x, pool)
        s = self.put(f"load i64, ptr {p}")
        self.report_if(self.put(f"icmp ne i64 {s}, 1"), "double-free", n, name, v)
        self.do(f"store i64 2, ptr {p}")
        self.do(f"call void @pool_give(ptr %ctx, i64 {pool_offset(pool.number)}, i64 {self.put(f'sub i64 {v}, 1')})")

    # -- oracles, choice
    def check(self, n: Node) -> bool:
        _, kind, obj, pool, fatal = n.args
        name = pool if isinstance(pool, str) else ""
        index = self.val(obj) if isinstance(obj, Reg | Const | Special) else "0"
        if fatal:
            self.fail(self.m.kinds[kind], n, name, index)
            return True
        on, cold = self.new_label(), self.new_label()
        self.do(f"br label %{cold}")
        self.report(cold, self.m.site(self.m.kinds[kind], n, name), index, on)
        self.begin(on)
        return False

    def op_wait(self, n: Node) -> None:
        self.fail_if(self.put(f"icmp eq i64 {self.val(n.args[0])}, 0"), "would-block", n)

    def op_choose(self, n: Node) -> None:
        v = self.put(f"call i64 @choose(ptr %ctx, i64 {n.args[1]})")
        self.fail_if(self.put(f"icmp slt i64 {v}, 0"), "index-out-of-range", n)
        self.set(n.args[0], v, (0, n.args[1] - 1), n)

    def op_count(self, n: Node) -> None:
        p = self.put(f"getelementptr i64, ptr %ctx, i64 {C_COUNTERS}")
        base = self.put(f"inttoptr i64 {self.put(f'load i64, ptr {p}')} to ptr")
        q = self.put(f"getelementptr i64, ptr {base}, i64 {n.args[0]}")
        had = self.put(f"load i64, ptr {q}")
        self.do(f"store i64 {self.put(f'add i64 {had}, 1')}, ptr {q}")

    def op_emit(self, n: Node) -> None:
        r = self.put(f"call i64 @emit(ptr %ctx, i64 {self.val(n.args[0])})")
        self.fail_if(self.put(f"icmp ne i64 {r}, 0"), "output-full", n)

    # -- arithmetic
    def arithmetic(self, n: Node) -> None:
        op, a = n.op, n.args
        x = self.val(a[1])
        rx = self.range(a[1])
        two = len(a) > 2 and isinstance(a[2], Reg | Const | Special)
        y, ry = (self.val(a[2]), self.range(a[2])) if two else ("0", (0, 0))
        wraps = len(a) > 3 and two and bool(a[3])
        got = result_range(n, self.range, self.layout) or (INT_MIN, INT_MAX)
        if op in CHECKED:
            r = self.checked(CHECKED[op], x, y, rx, ry, wraps, n)
        elif op in (Op.DIV, Op.MOD):
            r = self.divide(op, x, y, rx, ry, n)
        elif op in PLAIN:
            r = self.put(f"{PLAIN[op]} i64 {x}, {y}")
        elif op is Op.SHL:
            r = self.shift_left(x, y, ry, wraps or interval(op, rx, ry) != (INT_MIN, INT_MAX), n)
        elif op is Op.SHR:
            if ry[0] < 0:
                self.fail_if(self.put(f"icmp slt i64 {y}, 0"), "bad-shift", n)
            k = y if ry[1] <= 63 else self.put(f"call i64 @llvm.umin.i64(i64 {y}, i64 63)")
            r = self.put(f"ashr i64 {x}, {k}")
        elif op is Op.NOT:
            r = self.flag(self.put(f"icmp eq i64 {x}, 0"))
        elif op is Op.INV:
            r = self.put(f"xor i64 {x}, -1")
        elif op is Op.NEG:
            r = self.checked("sub", "0", x, (0, 0), rx, False, n)
        elif op in COMPARE:
            r = self.flag(self.put(f"icmp {COMPARE[op]} i64 {x}, {y}"))
        elif op in (Op.MIN, Op.MAX):
            r = self.put(f"call i64 @llvm.s{op.name.lower()}.i64(i64 {x}, i64 {y})")
        elif op is Op.WRAP:
            r = self.wrap(x, a[2], a[3])
        else:
            raise AssertionError(op)
        self.set(a[0], r, got, n)

    def flag(self, c: str) -> str:
        return self.put(f"zext i1 {c} to i64")

    def checked(self, name: str, x: str, y: str, rx: Range, ry: Range, wraps: bool, n: Node) -> str:
        fn = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b}[name]
        ends = [fn(a, b) for a in rx for b in ry]
        if min(ends) >= INT_MIN and max(ends) <= INT_MAX:
            return self.put(f"{name} nsw i64 {x}, {y}")
        if wraps:
            return self.put(f"{name} i64 {x}, {y}")
        t = self.put(f"call {{i64, i1}} @llvm.s{name}.with.overflow.i64(i64 {x}, i64 {y})")
        self.fail_if(self.put(f"extractvalue {{i64, i1}} {t}, 1"), "arithmetic-overflow", n)
        return self.put(f"extractvalue {{i64, i1}} {t}, 0")

    def divide(self, op: Op, x: str, y: str, rx: Range, ry: Range, n: Node) -> str:
        """Python's: the quotient is rounded down, the remainder has the divisor's sign."""
        if ry[0] == ry[1] > 0 and ry[0] & (ry[0] - 1) == 0:
            if op is Op.DIV:
                return self.put(f"ashr i64 {x}, {ry[0].bit_length() - 1}")
            return self.put(f"and i64 {x}, {ry[0] - 1}")
        if ry[0] <= 0 <= ry[1]:
            self.fail_if(self.put(f"icmp eq i64 {y}, 0"), "division-by-zero", n)
        if rx[0] >= 0 and ry[0] >= 0:
            return self.put(f"{'udiv' if op is Op.DIV else 'urem'} i64 {x}, {y}")
        if ry[0] <= -1 <= ry[1] and rx[0] == INT_MIN:
            minus = self.put(f"icmp eq i64 {y}, -1")
            if op is Op.DIV:
                least = self.put(f"icmp eq i64 {x}, {INT_MIN}")
                self.fail_if(self.put(f"and i1 {minus}, {least}"), "arithmetic-overflow", n)
            else:
                y = self.put(f"select i1 {minus}, i64 1, i64 {y}")  # x % 1 is 0 too
        r = self.put(f"srem i64 {x}, {y}")
        some = self.put(f"icmp ne i64 {r}, 0")
        apart = self.put(f"icmp slt i64 {self.put(f'xor i64 {r}, {y}')}, 0")
        down = self.put(f"and i1 {some}, {apart}")
        if op is Op.MOD:
            return self.put(f"add i64 {r}, {self.put(f'select i1 {down}, i64 {y}, i64 0')}")
        q = self.put(f"sdiv i64 {x}, {y}")
        return self.put(f"sub i64 {q}, {self.flag(down)}")

    def shift_left(self, x: str, y: str, ry: Range, wraps: bool, n: Node) -> str:
        if ry[0] < 0:
            self.fail_if(self.put(f"icmp slt i64 {y}, 0"), "bad-shift", n)
        if ry[1] <= 63:
            k, r = y, self.put(f"shl i64 {x}, {y}")
        else:
            k = self.put(f"and i64 {y}, 63")
            big = self.put(f"icmp ugt i64 {y}, 63")
            r = self.put(f"select i1 {big}, i64 0, i64 {self.put(f'shl i64 {x}, {k}')}")
        if not wraps:
            back = self.put(f"ashr i64 {r}, {k}")
            self.fail_if(self.put(f"icmp ne i64 {back}, {x}"), "arithmetic-overflow", n)
        return r

    def wrap(self, x: str, bits: int, signed: int) -> str:
        if bits >= 64:
            return self.put(f"add i64 {x}, 0")
        if signed:
            return self.put(f"ashr i64 {self.put(f'shl i64 {x}, {64 - bits}')}, {64 - bits}")
        return self.put(f"and i64 {x}, {(1 << bits) - 1}")
