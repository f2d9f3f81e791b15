"""Machine code that keeps virtual time: the emitted code of compile/llvm.py with a hook at each shared access.

Each task has a stack of its own; giving way to another task is a few instructions of the emitted code.  So the loop
of events is in machine code, and Python only says until when it runs.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

import llvmlite.binding as llvm

from seqfault.compile.builder import Unit, Val
from seqfault.compile.digest import files_digest
from seqfault.compile.ir import Access, Const, Node
from seqfault.compile.llvm import Body, Module
from seqfault.compile.native import NativeProgram
from seqfault.compile.native_runtime import C_CPU, C_MEM, C_PROCESS, RUNTIME, wrapper
from seqfault.compile.ops import Op
from seqfault.compile.source import Func, reach, source_of
from seqfault.compile.words import Words
from seqfault.kernel.layout import Layout
from seqfault.kernel.places import Place
from seqfault.kernel.types import INT, Struct
from seqfault.price import clock
from seqfault.price.lines import CELLS, Lines
from seqfault.price.texts import TEXTS

FALLBACK = "speculative_fallback/"
# reasons that a writer brings about: a count had moved or was odd, or the VMA was locked for writing.  Not those in
# which there was nothing to find (vma_none, pmd_changed: also where there never was a table), or a lock was taken
INVALIDATED = frozenset({"vma_changed", "odd", "vma_copy", "seq1", "seq2", "vma_locked"})
C_SWAP, C_THREAD = 24, 25  # words of the context's header that compile/native_runtime.py leaves free
HOOKS: dict[str, Func] = {
    "read": clock.vt_read,
    "write": clock.vt_write,
    "rmw": clock.vt_rmw,
    "fence": clock.vt_fence,
    "touch": clock.vt_touch,
    "fresh": clock.vt_fresh,
    "tree": clock.vt_tree,
    "relax": clock.vt_relax,
}
# so that what calls them can become part of its callers
APART: tuple[Func, ...] = (clock.wait_turn, clock.go, clock.who_shares)
ENTRIES: dict[str, Func] = {
    "vt_resume": clock.vt_resume,
    "vt_init": clock.vt_init,
    "vt_start": clock.vt_start,
    "vt_finish": clock.vt_finish,
}


class TimedOp(IntEnum):
    """Operations of virtual time only, beside those of compile/ops.py."""

    SWAP = 101
    CURRENT = 102
    AHEAD = 103
    STACK_AHEAD = 104


AHEAD, STACK_AHEAD = 3, 4  # how many cache lines


class UnsupportedMachine(Exception):
    """Stacks cannot be exchanged on this processor."""


SWITCH = {
    "x86_64": """
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
; rdi: where to keep the stack pointer, rsi: where the other one is
define void @vt_swap(ptr %save, ptr %to, ptr %ctx) naked noinline {
  call void asm sideeffect "pushq %rbp\\0Apushq %rbx\\0Apushq %r12\\0Apushq %r13\\0Apushq %r14\\0Apushq %r15\\0Amovq %rsp, (%rdi)\\0Amovq (%rsi), %rsp\\0Apopq %r15\\0Apopq %r14\\0Apopq %r13\\0Apopq %r12\\0Apopq %rbx\\0Apopq %rbp\\0Aretq", "~{memory}"()
  unreachable
}
; the first return of a new stack comes here: r12 holds the context
define void @vt_enter() naked noinline {
  call void asm sideeffect "movq %r12, %rdi\\0Acallq *%r13\\0Aud2", "~{memory}"()
  unreachable
}
""",  # noqa: E501
}
# what a new stack holds, from its top down to its stack pointer: the order in which vt_swap takes registers off
FIRST_FRAME = {"x86_64": ("r15", "r14", "thread", "context", "rbx", "rbp", "enter", "pad")}


class TimedWords(Words):
    """Lowering with the words of price/words.py, and other functions in place of some."""

    def invoke(self, fn: Func, node: Any, site: str) -> list[Val]:
        other = self.unit.instead.get(fn)  # type: ignore[attr-defined]
        if other is not None and self.scope.src.fn is not other:  # which calls what it stands in for
            fn = other
        return super().invoke(fn, node, site)

    def relax_body(self, s: Any) -> str:
        return ""

    def w_cpu_relax(self, node: Any) -> None:
        self.call_function(clock.vt_relax, source_of(clock.vt_relax), [])

    w_cpu_relax_ipi = w_cpu_relax

    def w_count(self, node: Any) -> None:
        super().w_count(node)
        reason = self.text_arg(node, 0)
        if reason.startswith(FALLBACK):
            why = 2 if reason.removeprefix(FALLBACK) in INVALIDATED else 1
            self.call_function(clock.vt_gave_up, source_of(clock.vt_gave_up), [Val(Const(why), INT)])

    def w_cell_of(self, node: Any) -> Val:
        loc = self.location(node.args[0])
        self.checks(loc)
        at = Val(Const(loc.base), INT)
        for x, stride in loc.terms:
            y = self.compute(Op.MUL, INT, x, Const(stride))
            at = self.compute(Op.ADD, INT, y.op, at.op)
        return at

    def w_line_of(self, node: Any) -> Val:
        loc = self.location(node.args[0])
        lines: Lines = self.unit.lines  # type: ignore[attr-defined]
        terms, at = line_terms(lines, self._access(loc, "line"))
        v = Val(Const(at), INT)
        for x, stride, shift in terms:
            if shift:
                self.fail(node, "line_of() of an element of an array")
            y = self.compute(Op.MUL, INT, x, Const(stride))
            v = self.compute(Op.ADD, INT, y.op, v.op)
        return v

    def raw(self, node: Any, order: str) -> Access:
        cell = self.number(node.args[0])
        return Access(0, ((cell.op, 1),), "vclock", "now", 0, (), order, INT, False)

    def w_peek(self, node: Any) -> Val:
        self.arity(node, "peek", 1)
        access = self.raw(node, "peek")
        r = self.declared("peek", INT, False)
        self.emit(Op.LOAD, r, access=access)
        return Val(r, INT)

    def w_poke(self, node: Any) -> None:
        self.arity(node, "poke", 2)
        access = self.raw(node, "poke")
        self.emit(Op.STORE, self.number(node.args[1]).op, access=access)

    def w_set_current(self, node: Any) -> None:
        self.emit(TimedOp.CURRENT, self.number(node.args[0]).op)  # type: ignore[arg-type]

    def w_swap_stack(self, node: Any) -> None:
        a, b = (self.number(x).op for x in node.args)
        self.emit(TimedOp.SWAP, a, b)  # type: ignore[arg-type]

    def w_ahead(self, node: Any) -> None:
        self.emit(TimedOp.AHEAD, self.number(node.args[0]).op)  # type: ignore[arg-type]

    def w_stack_ahead(self, node: Any) -> None:
        self.emit(TimedOp.STACK_AHEAD, self.number(node.args[0]).op)  # type: ignore[arg-type]


Terms = list[tuple[Any, int, int]]


def line_terms(lines: Lines, acc: Access) -> tuple[Terms, int]:
    """The line of an access: a constant, and terms (operand, factor, cells to a line); the cells of such a term are
    divided after the factor is applied."""
    pool = lines.layout.pools[acc.pool]
    first = 1 if pool.state == 0 else 0
    each, spot = lines.each[acc.pool], lines.spot(acc.pool, acc.offset)
    at = lines.first[acc.pool] + spot.line
    terms: Terms = []
    rest = list(acc.terms)
    which = acc.base - pool.base - first - acc.offset
    if rest and which == -pool.stride and rest[0][1] == pool.stride:
        terms.append((rest.pop(0)[0], each, 0))
        at -= each
    else:
        at += which // pool.stride * each
    if spot.per_line:
        start = acc.offset - spot.offset
        if not rest:
            at += start // spot.per_line
        for i, (x, step) in enumerate(rest):
            terms.append((x, step, spot.per_line + (start << 32 if i == 0 else 0)))
    return terms, at


class TimedBody(Body):
    """The text of one function, with hooks."""

    m: TimedModule

    def finish(self) -> None:
        super().finish()
        if self.f in self.m.apart:
            self.lines[0] = self.lines[0].removesuffix("{") + "noinline {"

    def fuel(self, n: Node) -> None:
        if not self.m.runtime(self.f):
            super().fuel(n)

    def op_swap(self, n: Node) -> None:
        a, b = (self.put(f"getelementptr i64, ptr %mem, i64 {self.val(x)}") for x in n.args)
        p = self.put(f"getelementptr i64, ptr %ctx, i64 {C_SWAP}")
        f = self.put(f"inttoptr i64 {self.put(f'load i64, ptr {p}')} to ptr")
        self.do(f"call void {f}(ptr {a}, ptr {b}, ptr %ctx)")

    def ahead(self, at: str, lines: int) -> None:
        for i in range(lines):
            p = self.put(f"getelementptr i64, ptr {at}, i64 {8 * i}")
            self.do(f"call void @llvm.prefetch.p0(ptr {p}, i32 1, i32 3, i32 1)")

    def op_ahead(self, n: Node) -> None:
        self.ahead(self.put(f"getelementptr i64, ptr %mem, i64 {self.val(n.args[0])}"), AHEAD)

    def op_stack_ahead(self, n: Node) -> None:
        cell = self.put(f"getelementptr i64, ptr %mem, i64 {self.val(n.args[0])}")
        self.ahead(self.put(f"inttoptr i64 {self.put(f'load i64, ptr {cell}')} to ptr"), STACK_AHEAD)

    def op_current(self, n: Node) -> None:
        v = self.val(n.args[0])
        for word in (C_CPU, C_PROCESS):
            self.do(f"store i64 {v}, ptr {self.put(f'getelementptr i64, ptr %ctx, i64 {word}')}")

    def hook(self, kind: str, line: str = "", more: str = "") -> None:
        f = self.m.names[self.m.unit.functions[HOOKS[kind]]]
        args = "".join(f", i64 {x}" for x in (line, more) if x)
        r = self.put(f"call i64 @{f}(ptr %ctx, ptr %mem{args})")
        on = self.new_label()
        self.stops = True
        self.do(f"br i1 {self.put(f'icmp ne i64 {r}, 0')}, label %stop, label %{on}, !prof !0")
        self.begin(on)

    def line(self, acc: Access) -> str:
        terms, base = line_terms(self.m.lines, acc)
        at = str(base)
        for x, factor, per in terms:
            v = self.val(x)
            v = v if factor == 1 else self.put(f"mul nsw i64 {v}, {factor}")
            if per:
                if per >> 32:
                    v = self.put(f"add nsw i64 {v}, {per >> 32}")
                v = self.put(f"ashr i64 {v}, {(per & 0xFFFFFFFF).bit_length() - 1}")
            at = self.put(f"add nsw i64 {v}, {at}")
        return at

    def priced(self, acc: Access) -> bool:
        s = self.layout.pools[acc.pool].struct
        return not (s.private or s.rom) and acc.offset >= 0 and acc.order not in ("peek", "poke")

    def load(self, n: Node) -> None:
        acc = n.access
        assert acc is not None
        if acc.order == "peek":
            self.set(n.args[0], self.put(f"load i64, ptr {self.address(n)}"), self.range(n.args[0]), n)
            return
        if self.priced(acc):
            rmw = acc.order.startswith("rmw")
            self.hook("touch" if acc.atomic and not rmw else "rmw" if rmw else "read", self.line(acc))
        super().load(n)

    def store(self, n: Node) -> None:
        acc = n.access
        assert acc is not None
        if acc.order == "poke":
            self.do(f"store i64 {self.val(n.args[0])}, ptr {self.address(n)}")
            return
        if self.priced(acc) and not acc.order.startswith("rmw"):
            coarse = self.m.lines.spot(acc.pool, acc.offset).per_line > CELLS
            self.hook("tree" if acc.atomic and coarse else "touch" if acc.atomic else "write", self.line(acc))
        super().store(n)

    def node(self, n: Node) -> bool:
        if n.op is Op.FENCE and n.args[0] in (1, 5) and not self.m.runtime(self.f):
            self.hook("fence")
        return super().node(n)

    def op_alloc(self, n: Node) -> None:
        super().op_alloc(n)
        pool = n.args[1]
        if pool in self.m.lines.each:
            each, first = self.m.lines.each[pool], self.m.lines.first[pool]
            v = self.put(f"mul nsw i64 {self.val(n.args[0])}, {each}")
            # what the kernel clears is what it has in its lines; large objects are pages, which are cleared elsewhere
            self.hook("fresh", self.put(f"add nsw i64 {v}, {first - each}"), str(min(each, 4)))


class TimedModule(Module):
    """The text of all functions of a unit, those that keep time among them."""

    unit: Unit

    def __init__(self, unit: Unit, lines: Lines):
        super().__init__(unit)
        self.lines = lines

    def runtime(self, f: Any) -> bool:
        return f in self.quiet

    def text(self) -> str:
        self.quiet = {
            f
            for fn, f in self.unit.functions.items()
            if fn.__module__ in ("seqfault.price.clock", "seqfault.price.locks")
        }
        self.apart = {self.unit.functions[fn] for fn in APART if fn in self.unit.functions}
        out = [t for f in self.unit.functions.values() for t in TimedBody(self, f).lines]
        return "\n".join([*out, *self.metadata()]) + "\n"


def thread(main: str, finish: str) -> str:
    """The first function on a task's stack."""
    return f"""
define void @vt_thread(ptr %ctx) {{
  %mp = getelementptr i64, ptr %ctx, i64 {C_MEM}
  %ma = load i64, ptr %mp
  %mem = inttoptr i64 %ma to ptr
  %r = call i64 @{main}(ptr %ctx, ptr %mem)
  %f = call i64 @{finish}(ptr %ctx, ptr %mem, i64 %r)
  unreachable
}}
"""


class TimedProgram(NativeProgram):
    """A text whose tasks all run `main`, with virtual time.

    `instead`: functions of the text -> those that stand in for them; other arguments are those of `NativeProgram`.
    Raises `UnsupportedMachine` where stacks cannot be exchanged.
    """

    def __init__(
        self,
        main: Func,
        entries: Mapping[str, Func] | None = None,
        binds: Mapping[Place, Func] | None = None,
        sizes: Mapping[str, int] | None = None,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
        structs: Iterable[Struct] = (),
        instead: Mapping[Func, Func] | None = None,
        level: int = 1,
        typesafe: Iterable[str] = (),
    ):
        if platform.machine() not in SWITCH:
            raise UnsupportedMachine(f"virtual time needs an x86-64 processor, this is {platform.machine()}")
        self.main, self.instead, self.level = main, {**TEXTS, **(instead or {})}, level
        self.entries = {**ENTRIES, **(entries or {}), "vt_main": main}
        self.binds = dict(binds or {})
        self.sizes = {"NR_CPUS": 1, "NR_TASKS": 1, **(sizes or {})}
        tasks = self.sizes["NR_TASKS"]
        self.sizes["NR_TREE"] = 2 << (tasks - 1).bit_length()
        self.sizes["NR_MASKS"] = tasks // 32 + 1
        self.sizes.setdefault("NR_CALLBACKS", 16)
        self.fields = dict(fields or {})
        self.sources, found = reach([*self.entries.values(), *self.instead.values(), *HOOKS.values()], self.binds)
        found = [*found, *structs]
        self.lines = Lines(Layout(found, {**self.sizes, "NR_LINES": 8}, self.fields, typesafe))
        self.sizes["NR_LINES"] = self.lines.total
        self.layout = Layout(found, self.sizes, self.fields, typesafe)
        self.lines = Lines(self.layout)
        self._code = None
        self._engine = None
        self.cached = False

    def key(self) -> str:
        from pathlib import Path

        return super().key()[:16] + files_digest(sorted(Path(__file__).parent.glob("*.py")))[:16]

    def unit(self) -> Unit:
        unit = Unit(self.layout, self.binds)
        unit.instead = self.instead  # type: ignore[attr-defined]
        unit.lines = self.lines  # type: ignore[attr-defined]
        return self.compiled(unit, [*self.entries.values(), *HOOKS.values()], TimedWords)

    def llvm_text(self) -> tuple[str, Module, Unit]:
        llvm.initialize_native_asmparser()
        unit = self.unit()
        module = TimedModule(unit, self.lines)
        text = [RUNTIME, module.text(), SWITCH[platform.machine()]]
        text.append(thread(module.names[unit.functions[self.main]], module.names[unit.functions[clock.vt_finish]]))
        for name, fn in self.entries.items():
            f = unit.functions[fn]
            text.append(wrapper(name, module.names[f], len(f.params), f.nresults))
        return "".join(text), module, unit
