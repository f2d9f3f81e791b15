"""Tier 1: an automaton's steps as machine code.

Each process class (processes that run the same text in regions of one size) becomes one entry, ``advance``: copy a
state, run one step, pack what follows.  The functions of the text stay functions: a call or a return that does not end
the step goes through the entry's dispatcher.  docs/engine.md has what an instruction means; explore/interp.py is
the oracle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import BRANCHES, Op
from seqfault.compile.packing import Packing
from seqfault.compile.step_body import Body, Known, signed_range
from seqfault.compile.step_own import OwnAccess, begin_own, own_accesses, own_text
from seqfault.compile.step_runtime import runtime
from seqfault.compile.step_wait import waits_text
from seqfault.compile.symmetry import Alike, canonical_text

SMALL = 600  # instructions times processes, up to which each process gets code of its own
OK, DISABLED, ENDS = 0, 1, 2


@dataclass(frozen=True)
class StepClass:
    """Processes that share code.  `base`, `process`, `cpu`: known only where a process has code of its own."""

    number: int
    entry: int
    words: int
    observer: bool = False
    base: int | None = None
    process: int | None = None
    cpu: int | None = None


@dataclass
class StepText:
    """LLVM text of an automaton's steps.  `packing_text`: a module of its own, unless empty; `class_of`: number of
    each process's class."""

    text: str
    packing_text: str
    class_of: list[int]
    packing: Packing
    small: bool
    classes: list[StepClass] = field(default_factory=list)


class Graph:
    """The automaton's instructions as the functions of the text, found again from its rows."""

    def __init__(self, a: Automaton):
        self.a = a
        n = len(a.code)
        op = a.code[:, 0]
        self.next: list[list[int]] = [[] for _ in range(n)]
        self.callee: dict[int, int] = {}
        returns: dict[int, list[int]] = {}
        targets: dict[int, dict[int, int]] = {}
        for pc in range(n):
            row = a.code[pc]
            o = Op(int(op[pc]))
            if o is Op.HALT or o is Op.STOPPATH or o is Op.RELAX:
                continue
            if o is Op.RET:
                continue
            if o is Op.CALL:
                entry = int(row[3])
                self.callee[pc] = entry
                targets.setdefault(entry, {})[int(row[2])] = -1
                continue
            succ = [int(row[8])]
            if o in BRANCHES:
                succ.append(int(row[2 if o is Op.BR else 3]))
            self.next[pc] = succ
        self.returns = returns
        self.component = self._components()
        self.back = self._back_edges()

    def return_points(self, pc: int) -> list[int]:
        """Where the RET at `pc` may go, by the number of the call."""
        return self.rets[pc]

    def _components(self) -> list[int]:
        """Number of the function of each instruction.  A call is followed by the instruction that its number among its
        callee's calls leads back to."""
        a = self.a
        n = len(a.code)
        parent = list(range(n))

        def find(x: int) -> int:
            while parent[x] != x:
                parent[x] = parent[parent[x]]
                x = parent[x]
            return x

        # HALT (0) is shared by all
        for pc in range(n):
            for m in self.next[pc]:
                if pc and m:
                    parent[find(pc)] = find(m)
        # a RET belongs to a function whose entry is known; its table row gives the callers' return points
        ends = np.flatnonzero(a.code[1:, 0] == Op.RET) + 1
        ret_row: dict[int, int] = dict(zip(ends.tolist(), a.code[ends, 2].tolist(), strict=True))
        number = a.code[:, 2].tolist()
        rettab = a.rettab.tolist()
        again = True
        self.after: dict[int, int] = {}
        while again:  # joining callers' parts may join the parts that hold a callee's RETs
            again = False
            row_of = {find(pc): row for pc, row in ret_row.items()}
            for pc, entry in self.callee.items():
                if pc in self.after:
                    continue
                r = row_of.get(find(entry), -1)
                if r < 0:
                    continue
                back = rettab[r + number[pc]]
                self.after[pc] = back
                if back and find(pc) != find(back):
                    parent[find(pc)] = find(back)
                    again = True
        count: dict[int, int] = {}
        for entry in self.callee.values():
            count[entry] = count.get(entry, 0) + 1
        calls_of: dict[int, int] = {}
        for entry, k in count.items():
            calls_of[find(entry)] = k
        self.rets: dict[int, list[int]] = {}
        for pc, r in ret_row.items():
            k = calls_of.get(find(pc), 0)
            self.rets[pc] = rettab[r : r + k]
        roots: dict[int, int] = {}
        return [roots.setdefault(find(pc), len(roots)) for pc in range(n)]

    def successors(self, pc: int) -> list[int]:
        """In the same function: after a call, where it comes back to."""
        if pc in self.after:
            return [self.after[pc]]
        return self.next[pc]

    def _back_edges(self) -> set[int]:
        """Instructions that a loop goes back to."""
        n = len(self.a.code)
        state = bytearray(n)
        heads: set[int] = set()
        for root in range(1, n):
            if state[root]:
                continue
            work = [(root, 0)]
            while work:
                pc, k = work.pop()
                if k == 0:
                    state[pc] = 1
                succ = self.successors(pc)
                if k < len(succ):
                    work.append((pc, k + 1))
                    m = succ[k]
                    if state[m] == 1:
                        heads.add(m)
                    elif state[m] == 0:
                        work.append((m, 0))
                else:
                    state[pc] = 2
        return heads

    def reach(self, entry: int) -> list[int]:
        """Instructions that a process starting at `entry` can come to."""
        seen = {entry}
        work = [entry]
        while work:
            pc = work.pop()
            more = list(self.successors(pc))
            if pc in self.callee:
                more.append(self.callee[pc])
            for m in more:
                if m not in seen:
                    seen.add(m)
                    work.append(m)
        return sorted(seen)


def slots_of(a: Automaton, pcs: Iterable[int]) -> set[int]:
    """Slots that instructions name in the columns that may hold one."""
    out: set[int] = set()
    for pc in pcs:
        row = a.code[pc]
        for c in SLOT_COLUMNS.get(Op(int(row[0])), (1, 2, 3)):
            if 0 <= row[c] < len(a.tab):
                out.add(int(row[c]))
    return out


SLOT_COLUMNS: dict[Op, tuple[int, ...]] = {
    Op.LOAD: (1, 3, 5),
    Op.STORE: (1, 3, 5),
    Op.CHKPTR: (1,),
    Op.CHKIDX: (1,),
    Op.CALL: (1,),
    Op.RET: (1,),
    Op.CHECK: (1, 3),
    Op.WAIT: (1,),
    Op.CHOOSE: (1,),
    Op.EMIT: (1,),
    Op.ALLOC: (1,),
    Op.FREE: (1,),
    Op.BR: (1,),
    Op.BREQ: (1, 2),
    Op.BRNE: (1, 2),
    Op.BRLT: (1, 2),
    Op.BRLE: (1, 2),
    Op.NOP: (),
    Op.COUNT: (),
    Op.FENCE: (),
    Op.SEQPOINT: (),
    Op.HALT: (),
    Op.RELAX: (),
    Op.STOPPATH: (),
    Op.LOCKDEP_ACQUIRE: (),
    Op.LOCKDEP_RELEASE: (),
    Op.WRAP: (1, 2),
}


WIDE = 16  # words of a state from which copying it is cheaper than squeezing it
SQUEEZED = 0.8  # of its words, if it is squeezed; where more are left, it is not


def packing_of(a: Automaton, graph: Graph, may_be_whole: bool = True) -> Packing:
    """Which bits of each word of a state are ever used; all of them where little would be gained, if it may be so."""
    used = [0] * a.nw
    for i in range(a.ncell):
        word, shift, mask = int(a.tab[i, 0]), int(a.tab[i, 1]), int(a.tab[i, 2]) & ((1 << 64) - 1)
        if mask and word < a.nw:
            used[word] |= mask << shift
    by_entry: dict[int, list[int]] = {}
    for p in a.processes:
        if p.entry not in by_entry:
            slots = slots_of(a, graph.reach(p.entry)) | {a.pc_slot}
            if a.held_slot >= 0:
                slots.add(a.held_slot)
            words = [0] * max(q.words for q in a.processes)
            for s in slots:
                word, shift, mask, _, _, rel = (int(x) for x in a.tab[s])
                if rel and word < len(words):
                    words[word] |= (mask & ((1 << 64) - 1)) << shift
            by_entry[p.entry] = words
        for w in range(p.words):
            used[p.base + w] |= by_entry[p.entry][w]
    widths = [u.bit_length() for u in used]
    squeezed = max(1, (sum(widths) + 63) // 64)
    if may_be_whole and a.nw >= WIDE and squeezed >= a.nw * SQUEEZED:
        return Packing([64] * a.nw, a.nw)
    return Packing(widths, squeezed)


def step_text(
    a: Automaton, mode: str, use_masks: bool, track: bool = False, own: bool = False,
    alike: Sequence[Alike] = (),
) -> StepText:  # fmt: skip
    """The LLVM text of `a`'s steps, which begin where `mode` says; `use_masks`: dead registers are zeroed; `track`:
    they tell which cells they touch; `own`: accesses that are in nobody's way begin none (step_own.py); `alike`:
    processes that are put in order in what they lead to (symmetry.py)."""
    graph = Graph(a)
    packing = packing_of(a, graph, not alike)
    small = sum(len(graph.reach(p.entry)) for p in a.processes) <= SMALL
    classes: list[StepClass] = []
    class_of: list[int] = []
    shared: dict[tuple[int, int], int] = {}
    for i, p in enumerate(a.processes):
        if small:
            class_of.append(len(classes))
            classes.append(StepClass(len(classes), p.entry, p.words, False, p.base, i, p.cpu))
            continue
        key = (p.entry, p.words)
        if key not in shared:
            shared[key] = len(classes)
            classes.append(StepClass(len(classes), p.entry, p.words))
        class_of.append(shared[key])
    known = Known(a)
    out = [runtime(a, known)]
    unshared = own_accesses(a, graph, a.stop[mode]) if own else None
    if own:
        out.append(own_text(a))
    observers: list[StepClass] = []
    for entry in a.observers:
        observers.append(StepClass(len(classes) + len(observers), entry, a.observer_words, True))
    for c in [*classes, *observers]:
        out.append(class_text(a, graph, c, a.stop[mode], use_masks, known, small, track, unshared))
    looks = not small and not track
    if looks:
        out += [waits_text(a, graph, c, a.stop[mode], known, unshared) for c in classes]
    out.append(entry_text(a, classes, class_of, observers, packing, small, own, looks))
    pack = pack_text(packing, a, small, alike)
    out.append(pack if small else "declare void @pack(ptr noalias, ptr noalias)\n")
    plain = not any(int(op) in (Op.CHOOSE, Op.COUNT) for op in a.code[:, 0])
    if small and plain and not track and not own:
        out.append(successors_text(a, classes, packing))
    return StepText("".join(out), "" if small else pack, class_of, packing, small, classes)


def class_text(
    a: Automaton,
    graph: Graph,
    c: StepClass,
    stops: Any,
    use_masks: bool,
    known: Known,
    small: bool,
    track: bool,
    own: Mapping[int, OwnAccess] | None,
) -> str:
    """The functions that one class of processes can come to, and the dispatcher between them."""
    pcs = graph.reach(c.entry)
    parts: dict[int, list[int]] = {}
    for pc in pcs:
        if pc:
            parts.setdefault(graph.component[pc], []).append(pc)
    if c.observer:
        stops = np.zeros(len(a.code), np.int64)
    entries = {c.entry}
    for pc in pcs:
        if stops[pc]:
            entries.add(pc)
        if pc in graph.callee:
            entries |= {graph.callee[pc], graph.after.get(pc, 0)}
    entries.discard(0)
    out = []
    order = sorted(parts)
    for f in order:
        mine = sorted(entries & set(parts[f]))
        body = Body(a, graph, c, f"k{c.number}_{f}", parts[f], mine, stops, use_masks, known, track, own)
        out.append(body.text())
    number = {f: i for i, f in enumerate(order)}
    args = "ptr %mem, ptr %reg, ptr %ext, ptr %x"
    out.append(f"define internal i64 @run{c.number}(ptr noalias %mem, ptr noalias %reg, ptr noalias %ext, "
               "ptr noalias %x, i64 %start)" + (" alwaysinline" if small else "") + " {\n")  # fmt: skip
    if len(order) == 1:
        out.append(f"  %r = call i64 @k{c.number}_{order[0]}({args}, i64 %start)\n  ret i64 %r\n}}\n")
        return "".join(out)
    table = ", ".join(
        f"i16 {number.get(graph.component[pc], 0) if pc in entries else 0}" for pc in range(len(a.code))
    )
    out.insert(0, f"@part{c.number} = internal constant [{len(a.code)} x i16] [{table}]\n")
    out.append("entry:\n  br label %again\nagain:\n  %pc = phi i64 [%start, %entry]")
    for f in order:
        out.append(f", [%r{f}, %call{f}]")
    out.append(f"\n  %tp = getelementptr i16, ptr @part{c.number}, i64 %pc\n  %part = load i16, ptr %tp\n")
    out.append(f"  switch i16 %part, label %call{order[0]} [")
    out.append(" ".join(f"i16 {number[f]}, label %call{f}" for f in order[1:]) + "]\n")
    for f in order:
        out.append(f"call{f}:\n  %r{f} = call i64 @k{c.number}_{f}({args}, i64 %pc)\n")
        out.append(f"  %c{f} = icmp slt i64 %r{f}, {1 << 32}\n  br i1 %c{f}, label %again, label %done\n")
    out.append("done:\n  %r = phi i64 " + ", ".join(f"[%r{f}, %call{f}]" for f in order) + "\n  ret i64 %r\n}\n")
    return "".join(out)


def entry_text(
    a: Automaton,
    classes: list[StepClass],
    class_of: list[int],
    observers: list[StepClass],
    packing: Packing,
    small: bool,
    own: bool,
    looks: bool,
) -> str:
    """``advance(S, T, ext, x, process, depth, out)`` and ``observe(S, T, ext, x, number)``."""
    from seqfault.compile.work import X_ACCESSED, X_DEPTH, X_FUEL, X_SEQ, X_STAND, X_USED, X_WAITED

    n, nb = a.nw, 8 * a.nw
    at_pc, shift_pc, mask_pc = (int(x) for x in a.tab[a.pc_slot][:3])
    cpu_word, process_word = int(a.tab[a.cpu_slot][0]) - n, int(a.tab[a.process_slot][0]) - n
    out = []
    head = (
        "define i64 @advance(ptr noalias %S, ptr noalias %given, ptr noalias %ext, ptr noalias %x, i64 %process, "
        "i64 %depth, ptr noalias %out) {\nentry:\n"
    )
    out.append(head)
    given = "%out" if packing.whole else "%given"
    out.append(f"  %T = alloca [{n} x i64]\n" if small else f"  %T = getelementptr i64, ptr {given}, i64 0\n")
    copy = f"  call void @llvm.memcpy.p0.p0.i64(ptr %T, ptr %S, i64 {nb}, i1 false)\n"
    out.append("" if looks else copy)
    for k, (off, v) in enumerate([
        (X_USED, "0"), (X_DEPTH, "%depth"), (X_FUEL, "100000"), (X_ACCESSED, "0"), (X_SEQ, "-1"), (X_WAITED, "0"),
    ]):
        out.append(f"  %h{k} = getelementptr i64, ptr %x, i64 {off}\n  store i64 {v}, ptr %h{k}\n")
    out.append(f"  %pp = getelementptr i64, ptr %ext, i64 {process_word}\n  store i64 %process, ptr %pp\n")
    if own:
        out.append(begin_own(a))
    out.append("  switch i64 %process, label %never [")
    out.append(" ".join(f"i64 {i}, label %p{i}" for i in range(len(a.processes))) + "]\nnever:\n  unreachable\n")
    phis = []
    for i, p in enumerate(a.processes):
        c = classes[class_of[i]]
        out.append(
            f"p{i}:\n  %reg{i} = getelementptr i64, ptr %T, i64 {p.base}\n"
            f"  %cp{i} = getelementptr i64, ptr %ext, i64 {cpu_word}\n  store i64 {p.cpu}, ptr %cp{i}\n"
            f"  %w{i} = getelementptr i64, ptr %S, i64 {p.base + at_pc}\n  %v{i} = load i64, ptr %w{i}\n"
            f"  %s{i} = lshr i64 %v{i}, {shift_pc}\n  %pc{i} = and i64 %s{i}, {mask_pc}\n"
        )
        if looks:
            out.append(
                f"  %sr{i} = getelementptr i64, ptr %S, i64 {p.base}\n"
                f"  %no{i} = call i64 @waits{c.number}(ptr %S, ptr %sr{i}, ptr %ext, ptr %x, i64 %pc{i})\n"
                f"  %nb{i} = icmp ne i64 %no{i}, 0\n  br i1 %nb{i}, label %waits, label %go{i}\ngo{i}:\n{copy}"
            )
        out.append(
            f"  %r{i} = call i64 @run{c.number}(ptr %T, ptr %reg{i}, ptr %ext, ptr %x, i64 %pc{i})\n"
            "  br label %join\n"
        )
        phis.append(f"[%r{i}, %{'go' if looks else 'p'}{i}]")
    if looks:
        out.append(f"waits:\n  ret i64 {DISABLED}\n")
    out.append("join:\n  %r = phi i64 " + ", ".join(phis) + "\n  %k = lshr i64 %r, 32\n")
    out.append("  %ok = icmp eq i64 %k, 1\n  br i1 %ok, label %keep, label %no\nkeep:\n")
    out.append(f"  %stand = and i64 %r, {(1 << 32) - 1}\n  %stp = getelementptr i64, ptr %x, i64 {X_STAND}\n")
    out.append("  store i64 %stand, ptr %stp\n")
    if small or not packing.whole:
        out.append("  call void @pack(ptr %T, ptr %out)\n")
    out.append("  ret i64 0\nno:\n  %st = sub i64 %k, 1\n  ret i64 %st\n}\n")
    obs = a.observer_base - n
    out.append("define i64 @observe(ptr noalias %S, ptr noalias %T, ptr noalias %ext, ptr noalias %x, i64 %number) {\n")
    out.append(f"entry:\n  call void @llvm.memcpy.p0.p0.i64(ptr %T, ptr %S, i64 {nb}, i1 false)\n")
    out.append(f"  %reg = getelementptr i64, ptr %ext, i64 {obs}\n")
    out.append(f"  call void @llvm.memset.p0.i64(ptr %reg, i8 0, i64 {8 * a.observer_words}, i1 false)\n")
    for k, (off, n) in enumerate([(X_USED, 0), (X_DEPTH, 0), (X_FUEL, 100000)]):
        out.append(f"  %h{k} = getelementptr i64, ptr %x, i64 {off}\n  store i64 {n}, ptr %h{k}\n")
    for k, w in enumerate((process_word, cpu_word)):
        out.append(f"  %z{k} = getelementptr i64, ptr %ext, i64 {w}\n  store i64 0, ptr %z{k}\n")
    out.append("  switch i64 %number, label %never [")
    out.append(" ".join(f"i64 {i}, label %o{i}" for i in range(len(observers))) + "]\nnever:\n  ret i64 0\n")
    for i, c in enumerate(observers):
        call = f"call i64 @run{c.number}(ptr %T, ptr %reg, ptr %ext, ptr %x, i64 {c.entry})"
        out.append(f"o{i}:\n  %r{i} = {call}\n  ret i64 %r{i}\n")
    out.append("}\n")
    return "".join(out)


def successors_text(a: Automaton, classes: list[StepClass], packing: Packing) -> str:
    """``successors(in, ext, x, out, who)``: all successors of a packed state, and the process of each.  Returns how
    many there are, plus the number of steps times 2^16, plus 2^32 if a CPU or an agent can step, plus 2^33 if all CPUs
    have finished.  For small models without choices and counters: the whole state stays in registers."""
    from seqfault.compile.work import X_FUEL

    n, words = a.nw, packing.words
    at_pc, shift_pc, mask_pc = (int(x) for x in a.tab[a.pc_slot][:3])
    process_word = int(a.tab[a.process_slot][0]) - n
    out = [
        "define i64 @successors(ptr noalias %in, ptr noalias %ext, ptr noalias %x, ptr noalias %out, "
        "ptr noalias %who) {\n"
        f"entry:\n  %S = alloca [{n} x i64]\n"
    ]
    out += [f"  %T{i} = alloca [{n} x i64]\n" for i in range(len(a.processes))]
    out.append("  call void @unpack(ptr %in, ptr %S)\n")
    out.append(f"  %fuel = getelementptr i64, ptr %x, i64 {X_FUEL}\n  store i64 100000, ptr %fuel\n")
    out.append(f"  %me = getelementptr i64, ptr %ext, i64 {process_word}\n  br label %p0\n")
    for i, p in enumerate(a.processes):
        c = classes[i]
        k, s, f = (f"%k{i}", f"%s{i}", f"%f{i}")
        if i == 0:
            out.append(f"p0:\n  {k} = add i64 0, 0\n  {s} = add i64 0, 0\n  {f} = add i64 {1 << 33}, 0\n")
        else:
            j = i - 1
            out.append(f"p{i}:\n")
            for v, end in ((k, f"%k{j}"), (s, f"%s{j}"), (f, f"%f{j}")):
                ended = {"k": f"%k{j}", "s": f"%t{j}", "f": f"%g{j}"}[v[1]]
                kept = {"k": f"%n{j}", "s": f"%t{j}", "f": f"%g{j}"}[v[1]]
                blocked = f"%b{j}" if v[1] == "f" else end
                out.append(f"  {v} = phi i64 [{end}, %p{j}], [{blocked}, %blocked{j}], ")
                out.append(f"[{ended}, %ends{j}], [{kept}, %ok{j}]\n")
        cpu = p.role == 0
        out.append(
            f"  %w{i} = getelementptr i64, ptr %S, i64 {p.base + at_pc}\n  %v{i} = load i64, ptr %w{i}\n"
            f"  %h{i} = lshr i64 %v{i}, {shift_pc}\n  %pc{i} = and i64 %h{i}, {mask_pc}\n"
            f"  %halt{i} = icmp eq i64 %pc{i}, {a.halt_pc}\n  br i1 %halt{i}, label %p{i + 1}, label %run{i}\n"
            f"run{i}:\n  call void @llvm.memcpy.p0.p0.i64(ptr %T{i}, ptr %S, i64 {8 * n}, i1 false)\n"
            f"  store i64 {i}, ptr %me\n  %reg{i} = getelementptr i64, ptr %T{i}, i64 {p.base}\n"
            f"  %r{i} = call i64 @run{c.number}(ptr %T{i}, ptr %reg{i}, ptr %ext, ptr %x, i64 %pc{i})\n"
            f"  %b{i} = and i64 {f}, {-1 if not cpu else ~(1 << 33)}\n"
            f"  %kind{i} = lshr i64 %r{i}, 32\n"
            f"  switch i64 %kind{i}, label %ends{i} [i64 1, label %step{i} i64 2, label %blocked{i}]\n"
            f"blocked{i}:\n  br label %p{i + 1}\n"
            f"step{i}:\n  %o{i} = mul i64 {k}, {words}\n  %op{i} = getelementptr i64, ptr %out, i64 %o{i}\n"
            f"  call void @pack(ptr %T{i}, ptr %op{i})\n  %wp{i} = getelementptr i64, ptr %who, i64 {k}\n"
            f"  store i64 {i}, ptr %wp{i}\n  %n{i} = add i64 {k}, 1\n  br label %ends{i}x\n"
            f"ends{i}x:\n  br label %ok{i}\n"
        )
        # what both a step with and one without a successor add
        busy = 1 << 32 if p.role <= 1 else 0
        out[-1] = out[-1].replace(
            f"ends{i}x:\n  br label %ok{i}\n",
            f"ends{i}x:\n  br label %ok{i}\nends{i}:\n  br label %p{i + 1}\nok{i}:\n  br label %p{i + 1}\n",
        )
        out[-1] = out[-1].replace(
            f"  %kind{i} = lshr", f"  %t{i} = add i64 {s}, 65536\n  %g{i} = or i64 %b{i}, {busy}\n  %kind{i} = lshr"
        )
    j = len(a.processes) - 1
    out.append(f"p{j + 1}:\n")
    for v in "ksf":
        end = f"%{v}{j}"
        ended = {"k": f"%k{j}", "s": f"%t{j}", "f": f"%g{j}"}[v]
        kept = {"k": f"%n{j}", "s": f"%t{j}", "f": f"%g{j}"}[v]
        blocked = f"%b{j}" if v == "f" else end
        out.append(f"  %{v}{j + 1} = phi i64 [{end}, %p{j}], [{blocked}, %blocked{j}], ")
        out.append(f"[{ended}, %ends{j}], [{kept}, %ok{j}]\n")
    out.append(f"  %a = or i64 %k{j + 1}, %s{j + 1}\n  %z = or i64 %a, %f{j + 1}\n  ret i64 %z\n}}\n")
    return "".join(out)


def pack_text(packing: Packing, a: Automaton, small: bool, alike: Sequence[Alike] = ()) -> str:
    """``pack(S, out)`` and ``unpack(in, S)``; packed, `alike` processes are in order."""
    if packing.whole:
        copy = f"  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 {8 * a.nw}, i1 false)\n  ret void\n}}\n"
        sign = "(ptr noalias %from, ptr noalias %to) alwaysinline {\n"
        first = "" if small else "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n"
        return f"{first}define void @pack{sign}{copy}define void @unpack{sign}{copy}"
    out = ["define void @pack(ptr noalias %S, ptr noalias %out) alwaysinline {\n"]
    back = ["define void @unpack(ptr noalias %in, ptr noalias %S) alwaysinline {\n"]
    acc: list[str] = ["0"] * packing.words
    n = 0
    for i in range(packing.words):
        back.append(f"  %ip{i} = getelementptr i64, ptr %in, i64 {i}\n  %i{i} = load i64, ptr %ip{i}\n")
    for w, width in enumerate(packing.widths):
        if width:
            out.append(f"  %p{w} = getelementptr i64, ptr %S, i64 {w}\n  %v{w} = load i64, ptr %p{w}\n")
    value = {w: f"%v{w}" for w in range(len(packing.widths))}
    for i, group in enumerate(alike):
        out += canonical_text(f"g{i}", group, value, packing.widths)
    at = 0
    for w, width in enumerate(packing.widths):
        back.append(f"  %sp{w} = getelementptr i64, ptr %S, i64 {w}\n")
        if width == 0:
            back.append(f"  store i64 0, ptr %sp{w}\n")
            continue
        word, bit = divmod(at, 64)
        mask = (1 << width) - 1

        def put(k: int, v: str) -> None:
            nonlocal n
            if acc[k] == "0":
                acc[k] = v
            else:
                out.append(f"  %o{n} = or i64 {acc[k]}, {v}\n")
                acc[k] = f"%o{n}"
                n += 1

        if bit:
            out.append(f"  %l{w} = shl i64 {value[w]}, {bit}\n")
            put(word, f"%l{w}")
            back.append(f"  %a{w} = lshr i64 %i{word}, {bit}\n")
            got = f"%a{w}"
        else:
            put(word, value[w])
            got = f"%i{word}"
        if bit + width > 64:
            out.append(f"  %r{w} = lshr i64 {value[w]}, {64 - bit}\n")
            put(word + 1, f"%r{w}")
            back.append(f"  %b{w} = shl i64 %i{word + 1}, {64 - bit}\n  %c{w} = or i64 {got}, %b{w}\n")
            got = f"%c{w}"
        if width < 64:
            back.append(f"  %m{w} = and i64 {got}, {signed_range(mask)}\n")
            got = f"%m{w}"
        back.append(f"  store i64 {got}, ptr %sp{w}\n")
        at += width
    for k in range(packing.words):
        out.append(f"  %q{k} = getelementptr i64, ptr %out, i64 {k}\n  store i64 {acc[k]}, ptr %q{k}\n")
    return "".join(out) + "  ret void\n}\n" + "".join(back) + "  ret void\n}\n"
