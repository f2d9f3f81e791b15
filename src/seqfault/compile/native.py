"""Kernel Python as machine code, run sequentially: for `AddressSpace` and `fuzz`, on pools of full size.

``NativeProgram({"push": push}, sizes={"NR_NODES": 1000}).machine().call("push", 1, 5)``
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

import seqfault
from seqfault.compile.builder import Unit
from seqfault.compile.cache import keep_object, kept_object
from seqfault.compile.ir import Function, Reg, Where
from seqfault.compile.llvm import UNDEFINED, Module, Site
from seqfault.compile.native_runtime import (
    C_CHOICES,
    C_CHOICES_AT,
    C_CHOICES_N,
    C_COUNTERS,
    C_CPU,
    C_FUEL,
    C_FUEL_START,
    C_MEM,
    C_OUT,
    C_OUT_CAP,
    C_OUT_N,
    C_PROCESS,
    C_VIOLATIONS,
    C_VIOLATIONS_CAP,
    C_VIOLATIONS_N,
    POOL_BASE,
    POOL_HIGH,
    POOL_LEVEL,
    POOL_LEVELS,
    POOL_N,
    POOL_POISON,
    POOL_START,
    POOL_STATE,
    POOL_STRIDE,
    RUNTIME,
    STOPPED,
    VIOLATION_ROW,
    pool_offset,
    wrapper,
)
from seqfault.compile.passes import check_assigned, infer_ranges, liveness, tidy
from seqfault.compile.program import compiler_hash
from seqfault.compile.source import Func, reach, source_of
from seqfault.compile.target import host, linked_objects, optimise, target_machine
from seqfault.compile.words import Words
from seqfault.kernel.layout import FREE, FREED, Layout, Pool
from seqfault.kernel.machine import KernelBug, Machine
from seqfault.kernel.places import Place
from seqfault.kernel.types import Struct

Words64 = NDArray[np.int64]
MAX_VIOLATIONS = 256
LOOPS = 1 << 32  # passes of loops in one call, after which it is taken to be endless
OUT_WORDS = 1 << 16
C_HEADER = slice(C_OUT_N, C_FUEL + 1)  # what each call sets: C_OUT_N, C_STRICT, C_VIOLATIONS_N, C_FUEL
MAP_NORESERVE = 0x4000  # mmap has no name for it before Python 3.13
DROPPED = 1 << 16  # memory of more cells is given back, not written over, when it is reset


@dataclass
class Code:
    """Compiled code and what its reports mean."""

    object: bytes
    sites: list[Site]
    counters: list[str]
    entries: dict[str, tuple[int, int]]  # name -> numbers of parameters and results
    poisoned: list[str]
    seconds: dict[str, float] = field(default_factory=dict)


class Batch(NamedTuple):
    """What a batch did: `done` rows ended well, and `bug` stopped the next; row i emitted offsets[i] to offsets[i + 1]
    of `out`."""

    offsets: Words64
    done: int
    bug: KernelBug | None


def function_for(unit: Unit, fn: Func) -> Function:
    """The function of an entry: it has parameters like any other, and may be called by others too."""
    src = source_of(fn)
    f = Function(src.name)
    f.nresults = len(src.results)
    for name, t in src.params:
        lo, hi = unit.layout.bounds(t)
        f.params.append(Reg(name, lo, hi, True, t))
    f.regs = list(f.params)
    unit.functions[fn] = f
    unit.queue.append(fn)
    return f


class NativeProgram:
    """Entry functions and everything that they call, as machine code.

    `entries`: name -> function; `binds`: place -> function; `sizes`, `fields`: as of a `Program`; `structs`: more
    structs whose memory belongs to the program; `level`: 1, or 2 for code that is a fifth faster and takes three times
    as long to make, or 0 for code that is made in half the time and takes half as long again.  Raises `CompileError`
    for text outside the language.
    """

    def __init__(
        self,
        entries: Mapping[str, Func],
        binds: Mapping[Place, Func] | None = None,
        sizes: Mapping[str, int] | None = None,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
        structs: Iterable[Struct] = (),
        level: int = 1,
    ):
        self.entries, self.binds, self.level = dict(entries), dict(binds or {}), level
        self.sizes = {"NR_CPUS": 1, "NR_TASKS": 1, **(sizes or {})}
        self.fields = dict(fields or {})
        self.sources, found = reach(self.entries.values(), self.binds)
        self.layout = Layout([*found, *structs], self.sizes, self.fields)
        self._code: Code | None = None
        self._engine: Any = None
        self.cached = False

    def key(self) -> str:
        """A hash of everything that the machine code depends on."""
        h = hashlib.sha256(f"{seqfault.__version__} {compiler_hash()} {llvmlite.__version__}".encode())
        h.update(f"{host()} {self.level}".encode())
        for s in self.sources:
            h.update(s.meaning().encode())
        for p in self.layout.pools.values():
            st = p.struct
            h.update(f"{st.name} {p.base} {p.n} {st.static} {st.private} {st.rom} {p.typesafe}\n".encode())
            h.update(self.layout.describe(st).encode())
        h.update(repr(sorted((k, source_of(f).name) for k, f in self.entries.items())).encode())
        h.update(repr(sorted((p.name, f.__name__) for p, f in self.binds.items())).encode())
        h.update(repr(sorted(self.sizes.items())).encode())
        return h.hexdigest()[:32]

    def unit(self) -> Unit:
        """The functions as nodes, tidied, with ranges."""
        return self.compiled(Unit(self.layout, self.binds), self.entries.values(), Words)

    def compiled(self, unit: Unit, roots: Iterable[Callable[..., Any]], words: type[Words]) -> Unit:
        """`unit` with the functions `roots` and all that they call, by this compiler of words."""
        for fn in roots:
            if fn not in unit.functions:
                function_for(unit, fn)
        while unit.queue:
            fn = unit.queue.pop(0)
            words(unit, unit.functions[fn]).compile(fn)
        fns = list(unit.functions.values())
        for f in fns:
            tidy(f, False)
            assert f.entry is not None
            check_assigned(f, liveness(f)[0][id(f.entry)])
        infer_ranges(fns, self.layout)
        return unit

    def llvm_text(self) -> tuple[str, Module, Unit]:
        unit = self.unit()
        module = Module(unit)
        text = [RUNTIME, module.text()]
        for name, fn in self.entries.items():
            f = unit.functions[fn]
            text.append(wrapper(name, module.names[f], len(f.params), f.nresults))
        return "".join(text), module, unit

    def compile(self) -> Code:
        """Compile without the cache."""
        seconds: dict[str, float] = {}
        t0 = time.perf_counter()
        text, module, unit = self.llvm_text()
        seconds["front end"] = time.perf_counter() - t0
        t0 = time.perf_counter()
        mod = llvm.parse_assembly(text)
        seconds["parse"] = time.perf_counter() - t0
        t0 = time.perf_counter()
        tm = target_machine(self.level)
        optimise(mod, tm, self.level)
        seconds["optimise"] = time.perf_counter() - t0
        t0 = time.perf_counter()
        obj = tm.emit_object(mod)
        seconds["emit"] = time.perf_counter() - t0
        entries = {k: (len(unit.functions[f].params), unit.functions[f].nresults) for k, f in self.entries.items()}
        return Code(obj, module.sites, list(unit.counters), entries, sorted(module.poisoned), seconds)

    def code(self) -> Code:
        """The machine code, from the cache where the same text was compiled before."""
        if self._code is None:
            name = f"{self.key()}.native"
            self._code = kept_object(name)
            self.cached = self._code is not None
            if self._code is None:
                self._code = self.compile()
                keep_object(name, self._code)
        return self._code

    def address(self, name: str) -> int:
        """Address of a function of the machine code."""
        if self._engine is None:
            self._engine = linked_objects(self.code().object, level=self.level)
        return int(self._engine.get_function_address(name))

    def machine(self, strict: bool = True, choices: Sequence[int] = (), out_words: int = OUT_WORDS) -> NativeMachine:
        """Memory of its own for this code; `out_words`: how much one call may emit."""
        return NativeMachine(self, strict, choices, out_words)

    @staticmethod
    def plain(m: NativeMachine) -> Machine:
        """A machine of plain Python with the memory of `m`."""
        return m.to_plain()

    @staticmethod
    def difference(m: NativeMachine, plain: Machine) -> str:
        """The first cell in which they differ, in words; empty if they agree."""
        return next(iter(m.differences(plain)), "")


class NativeMachine:
    """Memory and sequential execution of a `NativeProgram`.

    `cells`: memory, by the layout's cell numbers; an undefined cell holds `UNDEFINED`; an object that was never
    allocated may hold zeros where its start values are others.  `strict`: whether a violation raises `KernelBug` (else
    it is kept in `violations`, unless nothing can follow).  `choices`: results of `choose`, in order, then 0.
    """

    def __init__(
        self,
        program: NativeProgram,
        strict: bool = True,
        choices: Sequence[int] = (),
        out_words: int = OUT_WORDS,
    ):
        self.program, self.layout, self.code = program, program.layout, program.code()
        self.strict = strict
        self.violations: list[tuple[str, str]] = []
        pools = list(self.layout.pools.values())
        self.ctx: Words64 = np.zeros(pool_offset(len(pools)), np.int64)
        self._counters = np.zeros(max(1, len(self.code.counters)), np.int64)
        self._violations = np.zeros(MAX_VIOLATIONS * VIOLATION_ROW, np.int64)
        self._out = np.zeros(out_words, np.int64)
        self._choices = np.array([*choices, 0], np.int64)
        self._keep: list[Words64] = []
        c = self.ctx
        c[C_COUNTERS] = self._counters.ctypes.data
        c[C_VIOLATIONS], c[C_VIOLATIONS_CAP] = self._violations.ctypes.data, MAX_VIOLATIONS
        c[C_OUT], c[C_OUT_CAP] = self._out.ctypes.data, len(self._out)
        c[C_CHOICES], c[C_CHOICES_N] = self._choices.ctypes.data, len(choices)
        c[C_FUEL_START] = LOOPS
        self.loops = LOOPS
        self._levels: dict[str, list[Words64]] = {}
        for p in pools:
            self._pool(p)
        self.cells: Words64 = np.zeros(0, np.int64)
        self.reset()
        self._call = {k: self._function(f"call_{k}", 2) for k in self.code.entries}
        self._args = (ctypes.c_int64 * max([4, *(max(e) for e in self.code.entries.values())]))()
        self._at = self.ctx.ctypes.data, ctypes.addressof(self._args)
        self._batch = self._function("batch", 10)

    def _function(self, name: str, nargs: int) -> Any:
        proto = ctypes.CFUNCTYPE(ctypes.c_int64, *([ctypes.c_int64] * nargs))
        return proto(self.program.address(name))

    def _pool(self, p: Pool) -> None:
        d = pool_offset(p.number)
        c = self.ctx
        c[d + POOL_BASE], c[d + POOL_STRIDE], c[d + POOL_N], c[d + POOL_STATE] = p.base, p.stride, p.n, p.state
        levels: list[Words64] = []
        if p.state == 0:
            start, poison = self.layout.templates(p.struct, UNDEFINED)
            self._keep += [start, poison]
            c[d + POOL_START], c[d + POOL_POISON] = start.ctypes.data, poison.ctypes.data
            n = p.n
            while True:
                n = (n + 63) // 64
                levels.append(np.zeros(n, np.int64))
                if n == 1:
                    break
            for i, words in enumerate(levels):
                c[d + POOL_LEVEL + i] = words.ctypes.data
        c[d + POOL_LEVELS] = len(levels)
        self._levels[p.struct.name] = levels

    # -- memory
    def reset(self) -> None:
        """Memory as at the start."""
        size = self.layout.size
        if len(self.cells) != size:
            # pages that are never touched take no memory, however large the pools are
            self._mapping = mmap.mmap(-1, max(8 * size, 8), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
            self.cells = np.frombuffer(self._mapping, np.int64, size)
            self.ctx[C_MEM] = self.cells.ctypes.data
        elif size > DROPPED:
            self._mapping.madvise(mmap.MADV_DONTNEED)
        else:
            self.cells[:] = 0
        for addr, v in self.layout.static_starts():
            self.cells[addr] = v
        for name, levels in self._levels.items():
            for words in levels:
                words[:] = 0
            self.ctx[pool_offset(self.layout.pools[name].number) + POOL_HIGH] = 0

    def sync(self) -> None:
        """After `cells` were changed from outside: find the free objects again."""
        for name, levels in self._levels.items():
            p = self.layout.pools[name]
            if not levels:
                continue
            states = self.cells[p.base : p.base + p.n * p.stride : p.stride]
            never = np.flatnonzero(states == FREE)
            self.ctx[pool_offset(p.number) + POOL_HIGH] = int(never[0]) if len(never) else p.n
            bits = (states == FREED).astype(np.uint8)
            for words in levels:
                packed = np.packbits(bits, bitorder="little")
                padded = np.zeros(len(words) * 8, np.uint8)
                padded[: len(packed)] = packed
                words[:] = padded.view(np.int64)
                bits = (words != 0).astype(np.uint8)

    def snapshot(self) -> list[int | None]:
        """Memory as plain Python has it: start values in objects never allocated, None where undefined."""
        cells: list[int | None] = self.cells.tolist()
        for p in self.layout.pools.values():
            if p.state < 0:
                continue
            start = self.layout.templates(p.struct, UNDEFINED)[0].tolist()
            for a in range(p.base, p.base + p.n * p.stride, p.stride):
                if cells[a] == FREE:
                    cells[a + 1 : a + p.stride] = start
                else:
                    cells[a + 1 : a + p.stride] = [None if v == UNDEFINED else v for v in cells[a + 1 : a + p.stride]]
        return cells

    def to_plain(self, strict: bool | None = None) -> Machine:
        """A machine of plain Python with this memory."""
        m = Machine(self.layout, self.program.binds, strict=self.strict if strict is None else strict)
        m.cells = self.snapshot()
        m.cpu, m.process = self.cpu, self.process
        return m

    def load_plain(self, m: Machine) -> None:
        """Take over the memory of a machine of plain Python."""
        self.cells[:] = [UNDEFINED if v is None else v for v in m.cells]
        self.sync()

    def differences(self, m: Machine) -> list[str]:
        """Cells that differ from a machine of plain Python, named.  A cell of 64 bits has no value to say undefined
        with: there None stands for anything."""
        out: list[str] = []
        mine = self.snapshot()
        if mine == m.cells:
            return out
        for i, (a, b) in enumerate(zip(mine, m.cells, strict=True)):
            if a != b:
                c = self.layout.cells[i]
                if b is None and c.hi - c.lo == (1 << 64) - 1:
                    continue
                out.append(f"{c.name}: {a} here, {b} in plain Python")
        return out

    # -- what the text sees
    @property
    def cpu(self) -> int:
        return int(self.ctx[C_CPU])

    @cpu.setter
    def cpu(self, n: int) -> None:
        self.ctx[C_CPU] = n

    @property
    def process(self) -> int:
        return int(self.ctx[C_PROCESS])

    @process.setter
    def process(self, n: int) -> None:
        self.ctx[C_PROCESS] = n

    @property
    def counters(self) -> dict[str, int]:
        return {k: int(v) for k, v in zip(self.code.counters, self._counters, strict=False)}

    @property
    def emitted(self) -> Words64:
        """What the last call emitted."""
        return self._out[: self.ctx[C_OUT_N]]

    def limit_loops(self, passes: int) -> None:
        """How many passes of loops one call may make before it is taken to be endless."""
        self.loops = passes
        self.ctx[C_FUEL_START] = passes

    def choose(self, choices: Sequence[int]) -> None:
        """What `choose` will give from now on."""
        self._choices = np.array([*choices, 0], np.int64)
        self.ctx[C_CHOICES], self.ctx[C_CHOICES_N], self.ctx[C_CHOICES_AT] = (
            self._choices.ctypes.data,
            len(choices),
            0,
        )

    # -- running
    def _begin(self) -> None:
        self.ctx[C_HEADER] = (0, self.strict, 0, self.loops)

    def _reports(self) -> list[KernelBug]:
        """The violations of the last call."""
        out = []
        for i in range(min(MAX_VIOLATIONS, int(self.ctx[C_VIOLATIONS_N]))):
            site, about = (int(v) for v in self._violations[VIOLATION_ROW * i : VIOLATION_ROW * i + 2])
            out.append(self._bug(site, about))
        self.violations += [(b.kind, b.message) for b in out]
        return out

    def _bug(self, site: int, about: int) -> KernelBug:
        if site < 0:
            return KernelBug("range-overflow", f"word {about} of the request is outside the range of its field")
        s = self.code.sites[site]
        pool = self.layout.pools.get(s.pool)
        what = ""
        if s.kind == "range-overflow":
            what = f"{s.pool}.{s.path} = {about}, " if s.path else f"{about}, "
        elif s.kind == "index-out-of-range":
            what = f"index {about}, "
        elif pool is not None:
            what = s.pool + (f".{s.path}" if s.path else f"[{about - 1}]" if about > 0 else "") + ", "
        return KernelBug(s.kind, what + place(s.where))

    def call(self, name: str, *args: int) -> Any:
        """Run an entry; its result, a tuple of several, or None.  Raises `KernelBug` for a violation that nothing can
        follow, or any if strict; `ValueError` for the wrong number of arguments."""
        params, results = self.code.entries[name]
        if len(args) != params:
            raise ValueError(f"{name} takes {params} arguments, {len(args)} given")
        c = self.ctx
        c[C_HEADER] = (0, self.strict, 0, self.loops)
        self._args[:params] = list(args)
        status = self._call[name](*self._at)
        bugs = self._reports() if c[C_VIOLATIONS_N] else []
        if status:
            raise bugs[-1]
        if results == 1:
            return self._args[0]
        return tuple(self._args[:results]) if results else None

    def batch(
        self, name: str, rows: Words64, request: str = "", out: Words64 | None = None, margin: int = 4096
    ) -> Batch:
        """Run an entry without parameters once for each row, whose words go to the first cells of struct `request`.

        What it emits goes to `out`; it stops at a violation, or when fewer than `margin` words of `out` are left.
        """
        if self.code.entries[name][0]:
            raise ValueError(f"{name} takes arguments; a batch passes them in a struct")
        rows = np.ascontiguousarray(rows, np.int64)
        n, k = rows.shape
        base, bounds = 0, np.zeros((max(k, 1), 2), np.int64)
        if k:
            pool = self.layout.pools[request]
            if pool.state == 0 or pool.n != 1 or k > pool.stride:
                raise ValueError(f"{request} has no {k} cells of its own that always exist")
            base = pool.base
            cells = self.layout.cells
            bounds = np.array([(cells[base + i].lo, cells[base + i].hi) for i in range(k)], np.int64)
        buf = self._out if out is None else out
        assert buf.dtype == np.int64 and buf.flags.c_contiguous
        offsets = np.zeros(n + 1, np.int64)
        status = np.zeros(1, np.int64)
        c = self.ctx
        self._begin()
        c[C_OUT], c[C_OUT_CAP], c[C_OUT_N] = buf.ctypes.data, len(buf), 0
        done = self._batch(
            c.ctypes.data,
            self.program.address(f"call_{name}"),
            rows.ctypes.data,
            n,
            k,
            base,
            bounds.ctypes.data,
            offsets.ctypes.data,
            min(margin, len(buf)),
            status.ctypes.data,
        )
        c[C_OUT], c[C_OUT_CAP] = self._out.ctypes.data, len(self._out)
        bugs = self._reports() if c[C_VIOLATIONS_N] else []
        bug = bugs[-1] if status[0] == STOPPED else None
        if bug is not None:
            bug = KernelBug(bug.kind, f"row {done}: {bug.message}")
        return Batch(offsets, int(done), bug)


def place(w: Where) -> str:
    """Function, file and line, and through which copied calls it came."""
    via = "".join(f", in {f} {file}:{line}" for f, file, line in reversed(w.chain))
    return f"{w.function} {w.file}:{w.line}{via}"


__all__ = ["UNDEFINED", "Batch", "NativeMachine", "NativeProgram"]
