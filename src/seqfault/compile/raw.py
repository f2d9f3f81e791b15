"""The raw dialect: Kernel Python for a real machine, with words for system calls, memory and faults.

Text in this dialect is compiled to a static executable (compile/elf.py); the checker refuses its words.  x86-64 Linux
only.  Each word is an LLVM function of the form that compile/llvm.py gives to every function: it takes the context and
the cells, and returns a status and its result.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import llvmlite.binding as llvm

from seqfault.compile.builder import Unit, Val
from seqfault.compile.elf import Executable, link_executable
from seqfault.compile.ir import Function, Reg
from seqfault.compile.llvm import Body, Module, Site
from seqfault.compile.native_runtime import C_FUEL, HEADER
from seqfault.compile.passes import check_assigned, infer_ranges, liveness, tidy
from seqfault.compile.source import Func, reach, source_of
from seqfault.compile.words import Words
from seqfault.kernel.layout import Layout
from seqfault.kernel.types import INT, INT_MAX, INT_MIN

TRIPLE = "x86_64-unknown-linux-gnu"
STACK = 64 * 1024
FUEL = 1 << 62
SIGNALLED = -1000  # an access that faulted: this minus the signal
CRASHED, VIOLATED = 1, 2  # the first word of the crash area
CRASH_EXIT, VIOLATION_EXIT = 100, 99  # exit status: this plus the signal; of a violated check of the language

RAW: dict[str, Callable[..., Any]] = {}
BODIES: dict[str, str] = {}


def raw(body: str) -> Callable[[Func], Func]:
    """Register a word.  `body`: LLVM instructions that compute %v from the arguments %p0, %p1 …"""

    def make(f: Func) -> Func:
        RAW[f.__name__] = f
        BODIES[f.__name__] = body
        f.__kernel_word__ = f.__name__  # type: ignore[attr-defined]
        return f

    return make


def _here(name: str) -> int:
    raise NotImplementedError(f"{name}() is a word for a real machine; only compiled text has it")


def _load(bits: int) -> str:
    load = f"%p = inttoptr i64 %p0 to ptr\n  %w = load i{bits}, ptr %p, align 1\n"
    return load + (f"  %v = zext i{bits} %w to i64" if bits < 64 else "  %v = or i64 %w, 0")


def _store(bits: int) -> str:
    cut = f"%w = trunc i64 %p1 to i{bits}" if bits < 64 else "%w = or i64 %p1, 0"
    return f"%p = inttoptr i64 %p0 to ptr\n  {cut}\n  store i{bits} %w, ptr %p, align 1\n  %v = or i64 0, 0"


_REGISTERS = "={rax},{rax},{rdi},{rsi},{rdx},{r10},{r8},{r9},~{rcx},~{r11},~{memory}"


@raw(f'%v = call i64 asm sideeffect "syscall", "{_REGISTERS}"' + f"({', '.join(f'i64 %p{i}' for i in range(7))})")
def syscall6(nr: int, a: int, b: int, c: int, d: int, e: int, f: int) -> int:
    """System call `nr`: its result, or minus an error number."""
    return _here("syscall6")


@raw(_load(8))
def load8(address: int) -> int:
    """The byte at an address."""
    return _here("load8")


@raw(_load(16))
def load16(address: int) -> int:
    return _here("load16")


@raw(_load(32))
def load32(address: int) -> int:
    return _here("load32")


@raw(_load(64))
def load64(address: int) -> int:
    """The 64-bit word at an address, as a signed number."""
    return _here("load64")


@raw(_store(8))
def store8(address: int, value: int) -> int:
    return _here("store8")


@raw(_store(32))
def store32(address: int, value: int) -> int:
    return _here("store32")


@raw(_store(64))
def store64(address: int, value: int) -> int:
    return _here("store64")


@raw('%v = call i64 @"raw.probe_read8"(i64 %p0)')
def probe_read8(address: int) -> int:
    """The byte at an address, or -1000 minus the signal that the access raised."""
    return _here("probe_read8")


@raw('%v = call i64 @"raw.probe_write8"(i64 %p0, i64 %p1)')
def probe_write8(address: int, value: int) -> int:
    """Store a byte: 0, or -1000 minus the signal that the access raised."""
    return _here("probe_write8")


@raw("%v = ptrtoint ptr @raw.handler to i64")
def signal_handler() -> int:
    """Address of the handler for SIGSEGV and SIGBUS that the probing words need."""
    return _here("signal_handler")


@raw("%v = ptrtoint ptr @raw.restorer to i64")
def signal_restorer() -> int:
    return _here("signal_restorer")


@raw("%v = ptrtoint ptr @raw.altstack to i64")
def signal_stack() -> int:
    """Lowest address of the signal handler's stack, STACK bytes."""
    return _here("signal_stack")


@raw(
    '%w = call {i64, i64} asm sideeffect "rdtsc", "={rax},={rdx}"()\n  %l = extractvalue {i64, i64} %w, 0\n'
    "  %h = extractvalue {i64, i64} %w, 1\n  %s = shl i64 %h, 32\n  %v = or i64 %s, %l"
)
def ticks() -> int:
    """The processor's time-stamp counter."""
    return _here("ticks")


def text(s: str) -> int:
    """Address of a string constant, which ends with a zero byte."""
    return _here("text")


text.__kernel_word__ = "text"  # type: ignore[attr-defined]


def assembly(crash: int) -> str:
    """The entry of the program, and what catches signals.  `crash`: where a crash leaves its record."""
    return f"""
.text
.globl _start
_start:
  movq %rsp, %rdi
  leaq raw.stack(%rip), %rsp
  addq ${STACK}, %rsp
  callq raw.main
  ud2
# A fault in a probing word resumes at that word's other end; any other ends the process.
.globl raw.handler
raw.handler:
  movq 168(%rdx), %rax
  leaq raw.probe_read_at(%rip), %rcx
  cmpq %rcx, %rax
  je 1f
  leaq raw.probe_write_at(%rip), %rcx
  cmpq %rcx, %rax
  je 1f
  movabsq ${crash}, %rcx
  movq ${CRASHED}, (%rcx)
  movq %rdi, 8(%rcx)
  movq 16(%rsi), %r8
  movq %r8, 16(%rcx)
  movq %rax, 24(%rcx)
  addl ${CRASH_EXIT}, %edi
  movl $231, %eax
  syscall
1:
  movl %edi, %edi
  negq %rdi
  addq ${SIGNALLED}, %rdi
  movq %rdi, 144(%rdx)
  leaq raw.probe_end(%rip), %rcx
  movq %rcx, 168(%rdx)
  ret
.globl raw.restorer
raw.restorer:
  movl $15, %eax
  syscall
.globl raw.probe_read8
raw.probe_read8:
  xorl %eax, %eax
raw.probe_read_at:
  movzbl (%rdi), %eax
raw.probe_end:
  ret
.globl raw.probe_write8
raw.probe_write8:
  xorl %eax, %eax
raw.probe_write_at:
  movb %sil, (%rdi)
  ret
"""


def runtime(entry: str, crash: int, cells: list[int]) -> str:
    """Start, reports and memory, in LLVM's textual form."""
    n = max(1, len(cells))
    start = "zeroinitializer" if not any(cells) else "[" + ", ".join(f"i64 {x}" for x in cells) + "]"
    exit_call = f'call i64 asm sideeffect "syscall", "{_REGISTERS}"(i64 231, i64 CODE, {", ".join(["i64 0"] * 5)})'
    return f"""
@raw.stack = internal global [{STACK} x i8] zeroinitializer, align 4096
@raw.altstack = internal global [{STACK} x i8] zeroinitializer, align 4096
@raw.cells = internal global [{n} x i64] {start}, align 4096
@raw.context = internal global [{HEADER} x i64] zeroinitializer, align 64
@llvm.used = appending global [1 x ptr] [ptr @raw.stack], section "llvm.metadata"
declare {{i64, i1}} @llvm.sadd.with.overflow.i64(i64, i64)
declare {{i64, i1}} @llvm.ssub.with.overflow.i64(i64, i64)
declare {{i64, i1}} @llvm.smul.with.overflow.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
declare dso_local i64 @"raw.probe_read8"(i64)
declare dso_local i64 @"raw.probe_write8"(i64, i64)
declare dso_local void @raw.handler()
declare dso_local void @raw.restorer()

define void @raw.main(i64 %sp) noreturn {{
  %f = getelementptr i64, ptr @raw.context, i64 {C_FUEL}
  store i64 {FUEL}, ptr %f
  %s = call i64 @{entry}(ptr @raw.context, ptr @raw.cells, i64 %sp)
  %x = {exit_call.replace("CODE", "0")}
  unreachable
}}

define internal i64 @violate(ptr %ctx, i64 %site, i64 %about) cold noinline {{
  %c = inttoptr i64 {crash} to ptr
  store i64 {VIOLATED}, ptr %c
  %c1 = getelementptr i64, ptr %c, i64 1
  store i64 %site, ptr %c1
  %c2 = getelementptr i64, ptr %c, i64 2
  store i64 %about, ptr %c2
  %x = {exit_call.replace("CODE", str(VIOLATION_EXIT))}
  unreachable
}}
"""


@dataclass
class RawUnit(Unit):
    """What the functions of one executable share.  `texts`: string constants."""

    texts: dict[str, Function] = field(default_factory=dict)


class RawWords(Words):
    """Lowering of the words of both dialects."""

    unit: RawUnit

    def word(self, name: str, node: ast.Call) -> list[Val]:
        if name == "text":
            return self.string(node)
        fn = RAW.get(name)
        if fn is None:
            return super().word(name, node)
        src = source_of(fn)
        self.arity(node, name, len(src.params))
        return self.call_function(fn, src, [self.number(a) for a in node.args])

    def string(self, node: ast.Call) -> list[Val]:
        s = self.text_arg(node, 0)
        f = self.unit.texts.get(s)
        if f is None:
            f = Function(f"text{len(self.unit.texts)}", nresults=1)
            self.unit.texts[s] = f
            self.unit.functions[f] = f  # type: ignore[index]
        signature: Any = _Signature((), (INT,))
        return self.call_function(f, signature, [])  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Signature:
    params: tuple[Any, ...]
    results: tuple[Any, ...]


class RawModule(Module):
    """The text of a raw unit: its functions, and the words that they use."""

    def text(self) -> str:
        unit: Any = self.unit
        out: list[str] = []
        words = {id(unit.functions[f]): name for name, f in RAW.items() if f in unit.functions}
        strings = {id(f): s for s, f in unit.texts.items()}
        for f in unit.functions.values():
            if id(f) in words:
                out.append(self.definition(f, BODIES[words[id(f)]]))
            elif id(f) in strings:
                data = strings[id(f)].encode() + b"\0"
                name = f"@{self.names[f]}.s"
                escaped = "".join(f"\\{b:02x}" for b in data)
                out.append(f'{name} = internal constant [{len(data)} x i8] c"{escaped}"')
                out.append(self.definition(f, f"%v = ptrtoint ptr {name} to i64"))
            else:
                out += Body(self, f).lines
        return "\n".join([*out, *self.metadata()]) + "\n"

    def definition(self, f: Function, body: str) -> str:
        params = "".join(f", i64 %p{i}" for i in range(len(f.params)))
        return (
            f"define internal {{i64, i64}} @{self.names[f]}(ptr %ctx, ptr %mem{params}) alwaysinline {{\n"
            f"  {body}\n  %r = insertvalue {{i64, i64}} {{i64 0, i64 0}}, i64 %v, 1\n  ret {{i64, i64}} %r\n}}"
        )


@dataclass(frozen=True)
class RawProgram:
    """An executable and, for a violation's number, where in the text it was reported."""

    executable: Executable
    sites: list[Site]
    ir: str


def raw_module(entry: Func, crash: int, sizes: Mapping[str, int] | None = None) -> tuple[str, list[Site]]:
    """LLVM's textual form of `entry`, which takes the address of the initial stack, and all that it calls."""
    _, structs = reach([entry], {})
    layout = Layout(structs, dict(sizes or {}))
    unit = RawUnit(layout, {})
    unit.functions[entry] = Function(entry.__name__, params=[Reg("sp", INT_MIN, INT_MAX, True, INT)])
    unit.functions[entry].regs = list(unit.functions[entry].params)
    unit.queue.append(entry)
    built: list[Function] = []
    while unit.queue:
        fn = unit.queue.pop(0)
        f = unit.functions[fn]
        if fn in RAW.values():
            continue
        RawWords(unit, f).compile(fn)
        tidy(f, False)
        assert f.entry is not None
        check_assigned(f, liveness(f)[0][id(f.entry)])
        built.append(f)
    infer_ranges(built, layout)
    module = RawModule(unit)
    lines = [f'target triple = "{TRIPLE}"']
    lines += [f'module asm "{x}"' for x in assembly(crash).strip().splitlines()]
    out = "\n".join(lines) + runtime(module.names[unit.functions[entry]], crash, [c.start for c in layout.cells])
    out += module.text()
    # no calls of a library's memset or memcpy, and no floating-point registers
    out = re.sub(r"^(define .*) \{$", r"\1 #0 {", out, flags=re.M)
    out += '\nattributes #0 = { nounwind noimplicitfloat "no-builtins" "target-cpu"="x86-64" }\n'
    return out, module.sites


def compile_raw(entry: Func, crash: int, sizes: Mapping[str, int] | None = None) -> RawProgram:
    """A static x86-64 executable whose first function is `entry`.  `crash`: address of four words, in memory that the
    program maps shared, where a crash leaves what happened.  Raises `CompileError` for text outside the dialect."""
    ir, sites = raw_module(entry, crash, sizes)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()
    module = llvm.parse_assembly(ir)
    module.verify()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(opt=2, reloc="static", codemodel="small")
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    return RawProgram(link_executable(machine.emit_object(module)), sites, ir)
