"""Functions to one automaton: frames, bits, rows of code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from seqfault.compile.automaton import Automaton, PoolInfo, ProcessInfo, RestRule
from seqfault.compile.builder import Unit
from seqfault.compile.counts import count_table
from seqfault.compile.ir import Access, CompileError, Const, Function, Node, Operand, Reg, Special, Where
from seqfault.compile.ops import REPORTED, ROW, Op, Ordering
from seqfault.compile.passes import (
    Live,
    begins_step,
    bits_of,
    check_assigned,
    infer_ranges,
    interference,
    liveness,
    place_bits,
    stateful,
    tidy,
)
from seqfault.kernel.layout import Layout
from seqfault.kernel.types import ArrayType, PtrType, Struct, resolve_size

if TYPE_CHECKING:
    from seqfault.compile.program import Program

MASK64 = (1 << 64) - 1
RESULTS = 4  # result registers rv0..rv3
BUILTIN_KINDS = (*REPORTED, "lock-left-held", "sequence-left-odd")
REST_KIND = {"zero": "lock-left-held", "even": "sequence-left-odd"}


def signed(x: int) -> int:
    """A 64-bit pattern as numpy's int64 holds it."""
    x &= MASK64
    return x - (1 << 64) if x >> 63 else x


class Frames:
    """Static frames: without recursion, every register of every function has its own bits in a process."""

    def __init__(self, fns: list[Function], full: bool, header: int):
        self.full = full
        self.live: dict[Function, tuple[Live, Live]] = {}
        self.state: dict[Function, set[Reg]] = {}
        self.at: dict[Reg, int] = {}
        self.end: dict[Function, int] = {}
        order = call_order(fns)
        callers: dict[Function, list[tuple[Function, Node]]] = {f: [] for f in fns}
        for f in order:
            for n in f.calls:
                assert n.callee is not None
                if n.callee.is_entry:
                    what = f"{n.callee.name}() is what a process or an observer runs, and is called here"
                    raise CompileError(n.where.file, n.where.line, what, "give both a function of their own")
                callers[n.callee].append((f, n))
        for f in order:
            if not f.is_entry:
                f.ret_slot = Reg(f"{f.name}.return", 0, max(0, len(callers[f]) - 1))
                f.regs.append(f.ret_slot)
        for f in order:
            inn, out = self.live[f] = liveness(f)
            assert f.entry is not None
            check_assigned(f, inn[id(f.entry)])
            self.state[f] = stateful(f, inn, out, full)
        for f in order:
            f.offset = max([header, *(self.reach(c, n) for c, n in callers[f])])
            regs = self.state[f]
            if full:
                clash = {r: regs - {r} for r in regs}
            else:
                clash = interference(f, regs, *self.live[f])
            at = place_bits(regs, clash, f.offset)
            self.at.update(at)
            self.end[f] = max([f.offset, *(b + bits_of(r) for r, b in at.items())])
        self.callers = callers

    def across(self, f: Function, n: Node) -> set[Reg]:
        """Registers of `f` that a call must not touch."""
        inn, out = self.live[f]
        if self.full:
            return self.state[f]
        keep = set(out[id(n)]) | inn[id(n)]
        for m in n.moves:
            keep |= inn[id(m)]
        return keep & self.state[f]

    def reach(self, f: Function, n: Node) -> int:
        return max([f.offset, *(self.at[r] + bits_of(r) for r in self.across(f, n))])

    def mask(self, keep_below: int, regs: set[Reg], header: int, words: int) -> list[int]:
        """Words with ones where the process's bits are to be kept."""
        bits = (1 << max(keep_below, header)) - 1
        for r in regs:
            if r in self.at:
                bits |= ((1 << bits_of(r)) - 1) << self.at[r]
        return [signed(bits >> 64 * w) for w in range(words)]


def call_order(fns: list[Function]) -> list[Function]:
    """Callers before callees.  Raises `CompileError` on recursion."""
    done: dict[Function, int] = {}
    out: list[Function] = []

    def visit(f: Function, path: list[Function]) -> None:
        if done.get(f) == 2:
            return
        if done.get(f) == 1:
            names = " -> ".join(g.name for g in [*path[path.index(f) :], f])
            n = next(n for n in path[-1].calls if n.callee is f)
            raise CompileError(n.where.file, n.where.line, f"recursion: {names}", "use a loop")
        done[f] = 1
        for n in f.calls:
            assert n.callee is not None
            visit(n.callee, [*path, f])
        done[f] = 2
        out.append(f)

    for f in fns:
        visit(f, [])
    return out[::-1]


def touched(fns: list[Function], layout: Layout) -> set[int]:
    """Cells that some access can reach."""
    out: set[int] = set()
    seen: set[tuple[Any, ...]] = set()
    for f in fns:
        for n in f.nodes:
            a = n.access
            if a is None or (a.pool, a.offset, a.spans) in seen:
                continue
            seen.add((a.pool, a.offset, a.spans))
            pool = layout.pools[a.pool]
            first = pool.base + (1 if pool.state == 0 else 0)
            offs = [a.offset]
            for count, stride in a.spans:
                offs = [o + i * stride for o in offs for i in range(count)]
            for i in range(pool.n):
                out.update(first + i * pool.stride + o for o in offs)
    return out


def rest_rules(layout: Layout, used: set[int]) -> list[tuple[int, str, int]]:
    """(cell, rule, state cell or -1) of everything that must be zero or even at rest."""
    out: list[tuple[int, str, int]] = []

    def walk(t: Any, addr: int, rule: str, state: int) -> None:
        if isinstance(t, ArrayType):
            for i in range(resolve_size(t.length, layout.sizes)):
                walk(t.elem, addr + i * layout.type_cells(t.elem), rule, state)
        elif isinstance(t, Struct):
            for m in layout.members(t).values():
                walk(m.type, addr + m.offset, t.at_rest or rule, state)
        elif rule and addr in used:
            out.append((addr, rule, state))

    for pool in layout.pools.values():
        if pool.struct.rom or pool.struct.private:
            continue
        for i in range(pool.n):
            start = pool.base + i * pool.stride
            state = start if pool.state == 0 else -1
            walk(pool.struct, start + (1 if pool.state == 0 else 0), "", state)
    return out


class Linker:
    def __init__(self, program: Program, unit: Unit, full: bool):
        self.program, self.unit, self.layout, self.full = program, unit, unit.layout, full
        self.fns = list(unit.functions.values())
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        self.slot_of: dict[tuple[int, int, int, int, int, int], int] = {}
        self.consts: dict[int, int] = {}
        self.reg_slot: dict[Reg, int] = {}
        self.transients: dict[Reg, int] = {}
        self.names: dict[tuple[int, str], str] = {}  # of a function's registers, by their slots

    def slot(self, word: int, shift: int, mask: int, lo: int, span: int, rel: int) -> int:
        row = (word, shift, signed(mask), lo, signed(span), rel)
        if row not in self.slot_of:
            self.slot_of[row] = len(self.rows)
            self.rows.append(row)
        return self.slot_of[row]

    def wide(self, word: int, lo: int = 0, hi: int | None = None) -> int:
        return self.slot(word, 0, MASK64, lo, MASK64 if hi is None else hi - lo, 0)

    # -- memory
    def pack_cells(self) -> int:
        """Slots of all cells; returns the number of state words that memory takes."""
        used = touched(self.fns, self.layout)
        self.used = used
        poisoned = {n.args[1] for f in self.fns for n in f.nodes if n.op is Op.ALLOC and not n.args[2]}
        freeable = {n.args[1] for f in self.fns for n in f.nodes if n.op in (Op.ALLOC, Op.FREE)}
        word = bit = 0
        rom = 0
        self.rom_cells: list[int] = []
        for c in self.layout.cells:
            pool = self.layout.pools[c.pool]
            if pool.struct.rom:
                self.rows.append((-1 - rom, 0, -1, 0, -1, 0))  # word is fixed when the state's size is known
                self.rom_cells.append(c.addr)
                rom += 1
                continue
            span = c.hi - c.lo
            poison = c.pool in poisoned and not c.is_state and span < MASK64
            live = (c.addr in used) if not c.is_state else (c.pool in freeable or c.addr in used)
            w = 0 if not live else (span + 1 if poison else span).bit_length()
            if w == 0:
                self.rows.append((0, 0, 0, c.start, 0, 0))
                continue
            if bit + w > 64:
                word, bit = word + 1, 0
            self.rows.append((word, bit, signed((1 << w) - 1), c.lo if w < 64 else 0, signed(span), 0))
            bit += w
        return word + (1 if bit else 0)

    # -- operands
    def operand(self, x: Operand | int, f: Function) -> int:
        if isinstance(x, Const):
            return self.const(x.value)
        if isinstance(x, Special):
            return self.special[x.name]
        assert isinstance(x, Reg)
        if x not in self.reg_slot:
            assert x.lo is not None and x.hi is not None
            if x in self.frames.at:
                b = self.frames.at[x]
                w = bits_of(x)
                if w >= 64:
                    self.reg_slot[x] = self.slot(b // 64, 0, MASK64, 0, MASK64, 1)
                else:
                    self.reg_slot[x] = self.slot(b // 64, b % 64, (1 << w) - 1, x.lo, x.hi - x.lo, 1)
                self.names.setdefault((self.reg_slot[x], f.name), x.name)
            else:
                i = self.transient_count.get(f, 0)
                self.transient_count[f] = i + 1
                hi = x.hi if x.hi - x.lo < MASK64 else None
                self.reg_slot[x] = self.wide(self.transient_base + i, x.lo if hi is not None else 0, hi)
        return self.reg_slot[x]

    def const(self, v: int) -> int:
        if v not in self.consts:
            self.consts[v] = len(self.consts)
        # constants get their words last: number them now, fix rows after
        return self.wide(-1_000_000 - self.consts[v])

    def link(self, granularity: str) -> Automaton:
        u, full = self.unit, self.full
        for k in BUILTIN_KINDS:
            u.kind(k)
        for f in self.fns:
            tidy(f, full)
        infer_ranges(self.fns, self.layout)
        nloc = 1 + sum(len(f.nodes) for f in self.fns)
        pc_bits = nloc.bit_length()
        held_bits = len(u.lock_classes)
        held_at = pc_bits if pc_bits + held_bits <= 64 else 64
        header = held_at + held_bits
        self.frames = fr = Frames(self.fns, full, header)
        mem_words = self.pack_cells()

        # process regions
        region: dict[Function, int] = {}
        for p in self.program.processes:
            f = u.functions[p.entry]
            region[f] = (max(fr.end[g] for g in closure(f)) + 63) // 64
        for o in self.program.observers:
            f = u.functions[o]
            region[f] = (max(fr.end[g] for g in closure(f)) + 63) // 64
        nw = mem_words
        infos: list[tuple[int, int]] = []
        for p in self.program.processes:
            words = region[u.functions[p.entry]]
            infos.append((nw, words))
            nw += words
        obs_words = max([0, *(region[u.functions[o]] for o in self.program.observers)])
        max_region = max([1, obs_words, *(w for _, w in infos)])

        # extra words: rom, specials, results, transients, constants, observer frame
        x = nw
        rom_base = x
        x += len(self.rom_cells)
        self.special = {}
        for name in ("cpu", "process", *(f"rv{i}" for i in range(RESULTS))):
            self.special[name] = self.wide(x)
            x += 1
        obs_base = x
        x += obs_words
        self.transient_base = x
        self.transient_count: dict[Function, int] = {}

        # code
        pc_slot = self.slot(0, 0, (1 << pc_bits) - 1, 0, (1 << pc_bits) - 1, 1)
        held_slot = (
            self.slot(held_at // 64, held_at % 64, (1 << held_bits) - 1, 0, (1 << held_bits) - 1, 1)
            if held_bits
            else -1
        )
        order: list[tuple[Function, Node]] = []
        for f in self.fns:
            for n in f.nodes:
                if n.op is Op.HALT:
                    n.pc = 0
                else:
                    n.pc = 1 + len(order)
                    order.append((f, n))
        npc = 1 + len(order)
        code = np.zeros((npc, ROW), np.int64)
        code[0, 0] = Op.HALT
        stops = {m: np.zeros(npc, np.uint8) for m in ("merged", "full", "seq")}
        seqpc = np.zeros(npc, np.uint8)
        for m in stops.values():
            m[0] = 1
        seqpc[0] = 1
        masks = np.full((npc, max_region), -1, np.int64)
        halt = fr.mask(0, set(), header, max_region)
        masks[0] = halt
        rettab: list[int] = []
        ret_row: dict[Function, int] = {}
        sites: dict[Function, int] = {}
        for f in self.fns:
            if not f.is_entry:
                ret_row[f] = len(rettab)
                rettab += [0] * len(fr.callers[f])
        where: list[Where] = [Where("", "", 0)] * npc
        access: list[Access | None] = [None] * npc
        numbering = {name: p.number for name, p in self.layout.pools.items()}
        for f, n in order:
            pc = n.pc
            where[pc] = n.where
            if n.access is not None:  # without the types, whose modules cannot be kept in a cache
                access[pc] = replace(n.access, terms=(), type=None)
            inn = fr.live[f][0]
            code[pc, 0] = n.op
            code[pc, 1:8] = self.encode(n, f, numbering)
            code[pc, 8] = n.next.pc if n.next is not None else 0
            if n.op in (Op.BREQ, Op.BRNE, Op.BRLT, Op.BRLE):
                code[pc, 3] = n.alt.pc if n.alt is not None else 0
            elif n.op is Op.BR:
                code[pc, 2] = n.alt.pc if n.alt is not None else 0
            elif n.op is Op.CALL:
                g = n.callee
                assert g is not None and g.ret_slot is not None and g.entry is not None and n.next is not None
                nth = sites.get(g, 0)
                sites[g] = nth + 1
                rettab[ret_row[g] + nth] = n.next.pc
                code[pc, 1:4] = self.operand(g.ret_slot, g), nth, g.entry.pc
                keep = (fr.live[f][1][id(n)] & fr.state[f]) | set(g.params) | {g.ret_slot}
                masks[pc] = fr.mask(f.offset, keep, header, max_region)
            elif n.op is Op.RET:
                assert f.ret_slot is not None
                code[pc, 1:3] = self.operand(f.ret_slot, f), ret_row[f]
            stops["merged"][pc] = n.stop
            stops["full"][pc] = n.full_stop or n.stop
            stops["seq"][pc] = n.seq_stop
            seqpc[pc] = n.op is Op.SEQPOINT
            if begins_step(n, full):
                masks[pc] = fr.mask(f.offset, inn[id(n)] & fr.state[f], header, max_region)
        for p in self.program.processes:
            e = u.functions[p.entry].entry
            assert e is not None
            stops["seq"][e.pc] = seqpc[e.pc] = 1

        counts = count_table(self, order)

        # constants, then the words of constants and rom
        const_base = self.transient_base + max([0, *self.transient_count.values()])
        total = const_base + len(self.consts)
        tab = np.array(self.rows, np.int64).reshape(-1, 6)
        for i, row in enumerate(self.rows):
            if row[0] <= -1_000_000:
                tab[i, 0] = const_base + (-1_000_000 - row[0])
            elif row[0] < 0:
                tab[i, 0] = rom_base + (-1 - row[0])
        const_words = [(const_base + i, signed(v)) for v, i in self.consts.items()]

        pools = [
            PoolInfo(p.struct.name, p.base, p.stride, p.n, p.state, p.typesafe)
            for p in sorted(self.layout.pools.values(), key=lambda p: p.number)
        ]
        rules = [
            RestRule(addr, 0 if rule == "zero" else 1, state, u.kind(REST_KIND[rule]))
            for addr, rule, state in rest_rules(self.layout, self.used)
        ]
        processes = []
        for p, (base, words) in zip(self.program.processes, infos, strict=True):
            e = u.functions[p.entry].entry
            assert e is not None
            processes.append(ProcessInfo(p.name or p.entry.__name__, e.pc, base, words, p.role, p.cpu, p.bound))
        observers = []
        for o in self.program.observers:
            e = u.functions[o].entry
            assert e is not None
            observers.append(e.pc)
        sized = sorted(
            ((f"{f.name}: {r.name}", bits_of(r)) for f in self.fns for r in fr.state[f] if r.named), key=lambda x: -x[1]
        )
        return Automaton(
            name=self.program.name,
            granularity=granularity,
            code=code,
            tab=tab,
            stop=stops,
            seqpc=seqpc,
            masks=masks,
            rettab=np.array(rettab or [0], np.int64),
            pools=pools,
            const_words=const_words,
            nw=nw,
            nx=total - nw,
            ncell=len(self.layout.cells),
            rom_cells=self.rom_cells,
            processes=processes,
            halt_pc=0,
            pc_slot=pc_slot,
            held_slot=held_slot,
            cpu_slot=self.special["cpu"],
            process_slot=self.special["process"],
            kinds=list(u.kinds),
            counters=list(u.counters),
            lock_classes=list(u.lock_classes),
            observers=observers,
            observer_base=obs_base,
            observer_words=obs_words,
            rest_rules=rules,
            where=where,
            access=access,
            cells=[
                replace(c, type=f"ptr {c.type.target.name}" if isinstance(c.type, PtrType) else named(c.type))
                for c in self.layout.cells
            ],
            state_bits=int(nw * 64),
            wide_registers=[x for x in sized if x[1] > 32],
            places=sorted(u.used_places),
            count_table=counts,
            extra={"registers": dict(self.names)} | ({"sites": u.sites.named()} if u.sites is not None else {}),
        )

    def encode(self, n: Node, f: Function, numbering: dict[str, int]) -> list[int]:
        """Columns a..g of a node, except for jump targets."""
        c = [0] * 7
        op = n.op
        zero = self.const(0)
        if n.access is not None:
            a = n.access
            c[0] = self.operand(n.args[0], f)
            c[1], c[2], c[4] = a.base, zero, zero
            for i, (t, stride) in enumerate(a.terms):
                c[2 + 2 * i], c[3 + 2 * i] = self.operand(t, f), stride
            s = self.layout.pools[a.pool].struct
            c[6] = int(Ordering.DIRECT if s.private or s.rom or a.order == "note" else a.ordering())
            return c
        if op is Op.LOCKDEP_RELEASE:  # the classes of that lock, the most deeply nested first
            name = n.args[0]
            known = self.unit.lock_classes
            c[:4] = (known.get(f"{name}/{k}" if k else name, -1) for k in (3, 2, 1, 0))
            return c
        if op in (Op.CHKPTR, Op.FREE):
            return [self.operand(n.args[0], f), numbering[n.args[1]], 0, 0, 0, 0, 0]
        if op is Op.ALLOC:
            return [self.operand(n.args[0], f), numbering[n.args[1]], n.args[2], 0, 0, 0, 0]
        if op is Op.CHECK:
            cond, kind, obj, pool, fatal = n.args
            c[:5] = (
                self.operand(cond, f),
                kind,
                self.operand(obj, f) if obj != -1 else -1,
                numbering[pool] if pool != -1 else -1,
                fatal,
            )
            return c
        for i, x in enumerate(n.args):
            c[i] = self.operand(x, f) if isinstance(x, Reg | Const | Special) else int(x)
        return c


def closure(f: Function) -> set[Function]:
    out = {f}
    work = [f]
    while work:
        for n in work.pop().calls:
            if n.callee is not None and n.callee not in out:
                out.add(n.callee)
                work.append(n.callee)
    return out


def link(program: Program, unit: Unit, granularity: str) -> Automaton:
    """Lay out a program's functions as one automaton."""
    return Linker(program, unit, granularity == "full").link(granularity)


def named(t: Any) -> str:
    """What an integer's type is called, or "int"."""
    return getattr(t, "name", "") or "int"
