"""Processes that can be exchanged: nobody can tell which of them is which.

A state's canonical form has such processes in order, each with what memory says of it: its own bookkeeping, which locks
have it for their owner, which readers' masks have its bit (Clarke, Enders, Filkorn, Jha 1996; Ip, Dill 1996:
scalarsets).  docs/engine.md has the argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op
from seqfault.compile.step_own import ASSIGNS, overlap
from seqfault.kernel.task import task_t, taskmask_t

if TYPE_CHECKING:
    from seqfault.compile.step_code import Graph

Int64 = NDArray[np.int64]
ALL = (1 << 64) - 1
OWNER, MASK, NOTES = task_t.name, taskmask_t.name, "task_struct"
# may ask who it is; not rwlock.py, which adds a reader's bit: twice by one reader is a bug that makes it another's
LIBRARY = tuple(f"kernel/{x}.py" for x in ("spinlock", "rwsem", "task"))
COMPARES = frozenset({Op.EQ, Op.NE})
# what may be done with a number or a mask of processes, for every exchange of them to commute with it
FAITHFUL = COMPARES | {
    Op.MOV, Op.AND, Op.OR, Op.INV, Op.BR, Op.BREQ, Op.BRNE, Op.LOAD, Op.STORE, Op.CHKPTR, Op.CHKIDX, Op.CHECK,
}  # fmt: skip
ONE = frozenset({Op.MOV, Op.NOT, Op.INV, Op.NEG, Op.WRAP})  # operations of one operand


@dataclass(frozen=True)
class Field:
    """Some bits of a state: `word`, `shift`, and `mask` behind the shift."""

    word: int
    shift: int
    mask: int

    def of(self, words: Int64) -> int:
        return ((int(words[self.word]) & ALL) >> self.shift) & self.mask


@dataclass(frozen=True)
class Alike:
    """Processes that can be exchanged.  `regions`: the words of each one's region; `own`: of each the cells that are
    its bookkeeping; `owners`: cells that hold a process's number plus one, or 0; `masks`: cells with a bit for each
    process."""

    processes: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...]
    own: tuple[tuple[Field, ...], ...]
    owners: tuple[Field, ...]
    masks: tuple[Field, ...]

    @property
    def bits(self) -> int:
        """How many bits of memory are about one process."""
        return sum(f.mask.bit_length() for f in self.own[0]) + len(self.owners) + len(self.masks)

    def key(self, words: Int64, i: int) -> tuple[int, ...]:
        """What the `i`th of them is ordered by, in an unpacked state."""
        p = self.processes[i]
        about = at = 0
        for f in self.own[i]:
            about |= f.of(words) << at
            at += f.mask.bit_length()
        for f in self.owners:
            about |= (f.of(words) == p + 1) << at
            at += 1
        for f in self.masks:
            about |= ((f.of(words) >> p) & 1) << at
            at += 1
        return (*(int(words[w]) & ALL for w in self.regions[i]), about)


def alike(a: Automaton, mode: str = "merged", dead: bool = True) -> list[Alike]:
    """Of `a`'s processes those that can be exchanged, in groups of two and more: CPUs that run the same text, in which
    only locks ask who runs it, and only locks look at what they keep of that."""
    from seqfault.compile.step_code import Graph, slots_of  # not needed where nobody asks

    groups: dict[tuple[int, int], list[int]] = {}
    for i, p in enumerate(a.processes):
        if p.role == 0:
            groups.setdefault((p.entry, p.words), []).append(i)
    if all(len(g) < 2 for g in groups.values()):
        return []
    graph = Graph(a)
    notes = {c.addr for c in a.cells if c.pool == NOTES}
    about = notes | {c.addr for c in a.cells if c.type in (OWNER, MASK)}
    entries = {p.entry for p in a.processes} | set(a.observers)
    if not all(_only_locks(a, pc, about) for pc in {x for e in entries for x in graph.reach(e)}):
        return []
    fields = {i: Field(w, shift, mask) for i, w, shift, mask, _, _ in a.stored if i in about}
    out = []
    for (entry, words), group in groups.items():
        pcs = graph.reach(entry)
        if len(group) < 2 or a.cpu_slot in slots_of(a, pcs) or _remembers(a, graph, entry, about, notes, mode, dead):
            continue
        own = tuple(
            tuple(f for i, f in fields.items() if a.cells[i].pool == NOTES and a.cells[i].index == p)
            for p in group
        )
        owners, masks = (
            tuple(f for i, f in fields.items() if a.cells[i].type == t) for t in (OWNER, MASK)
        )  # fmt: skip
        regions = tuple(tuple(range(a.processes[p].base, a.processes[p].base + words)) for p in group)
        new = Alike(tuple(group), regions, own, owners, masks)
        if new.bits <= 64 and len({tuple(f.mask for f in x) for x in own}) == 1:
            out.append(new)
    return out


def _only_locks(a: Automaton, pc: int, about: set[int]) -> bool:
    """Whether an instruction of somebody else than a lock neither asks who runs it nor may touch the cells `about`
    processes."""
    from seqfault.compile.step_code import slots_of

    if a.where[pc].file in LIBRARY:
        return True
    return a.process_slot not in slots_of(a, [pc]) and about.isdisjoint(a.touched(pc))


def _remembers(
    a: Automaton, graph: Graph, entry: int, about: set[int], notes: set[int], mode: str, dead: bool
) -> bool:
    """Whether a register that is part of a state, or text that is no lock's, may have what was computed from who runs
    it or from cells `about` that, other than its own `notes`; or a lock does with it what an exchange of processes
    would change.  What it compares with it is equal whoever runs it."""
    seen: dict[int, frozenset[int]] = {entry: frozenset()}  # slots that may have it, before an instruction
    work = [entry]
    while work:
        pc = work.pop()
        row = [int(x) for x in a.code[pc]]
        op = Op(row[0])
        before = seen[pc]
        reads = _reads(a, pc, op, row)
        told = bool(before & reads)
        cells = set(a.touched(pc))
        if a.stop[mode][pc] and any(_kept(a, pc, s, dead) for s in before):
            return True
        if told and (a.where[pc].file not in LIBRARY or op not in FAITHFUL):
            return True
        if told and ((op is Op.STORE and not cells <= about) or (op is Op.LOAD and not cells <= notes)):
            return True
        after = before
        if op in ASSIGNS or op is Op.ALLOC:
            after = frozenset(s for s in before if not overlap(a, s, row[1]))
            if op is Op.LOAD:
                told = bool(cells & about - notes)
            elif a.process_slot in reads:
                told = True
            if told and op not in COMPARES:
                after |= {row[1]}
        for m in (*graph.successors(pc), *([graph.callee[pc]] if pc in graph.callee else ()), *graph.rets.get(pc, ())):
            if m not in seen or not after <= seen[m]:
                seen[m] = seen.get(m, frozenset()) | after
                work.append(m)
    return False


def _reads(a: Automaton, pc: int, op: Op, row: list[int]) -> set[int]:
    """Slots that an instruction reads."""
    from seqfault.compile.step_code import slots_of

    if op is Op.LOAD:
        return {row[i] for i in (3, 5) if row[i + 1]}
    if op in (Op.CHOOSE, Op.ALLOC):
        return set()
    if op in ASSIGNS:
        return {row[2]} if op in ONE else {row[2], row[3]}
    return slots_of(a, [pc])


def _kept(a: Automaton, pc: int, s: int, dead: bool) -> bool:
    """Whether slot `s` is part of the states in which a process stands at `pc`."""
    word, shift, mask, _, _, rel = (int(x) for x in a.tab[s])
    if not rel:
        return False
    bits = (mask & ALL) << shift
    return not dead or word >= a.masks.shape[1] or int(a.masks[pc][word]) & bits & ALL != 0


def really(groups: Sequence[Alike], words: Int64, p: int) -> int:
    """Who is process `p` of the canonical form of the state `words`."""
    for g in groups:
        if p in g.processes:
            order = sorted(range(len(g.processes)), key=lambda i: g.key(words, i))
            return g.processes[order[g.processes.index(p)]]
    return p


def canonical_text(name: str, g: Alike, value: dict[int, str], used: Sequence[int]) -> list[str]:
    """LLVM instructions that bring a state's words (`value`, those of which bits are `used`) into canonical form;
    `value` becomes what they are then.  Neighbours are exchanged in as many rounds as there are processes."""
    out: list[str] = []
    count = 0

    def put(text: str) -> str:
        nonlocal count
        count += 1
        out.append(f"  %{name}_{count} = {text}\n")
        return f"%{name}_{count}"

    def field(f: Field) -> str:
        return put(f"and i64 {put(f'lshr i64 {value[f.word]}, {f.shift}')}, {f.mask}")

    keys: list[list[str]] = []
    held = [field(f) for f in g.owners]
    masks = [field(f) for f in g.masks]
    for i, p in enumerate(g.processes):
        about, at = "0", 0
        for f in g.own[i]:
            about = put(f"or i64 {about}, {put(f'shl i64 {field(f)}, {at}')}")
            at += f.mask.bit_length()
        for v in held:
            bit = put(f"zext i1 {put(f'icmp eq i64 {v}, {p + 1}')} to i64")
            about = put(f"or i64 {about}, {put(f'shl i64 {bit}, {at}')}")
            at += 1
        for v in masks:
            bit = put(f"and i64 {put(f'lshr i64 {v}, {p}')}, 1")
            about = put(f"or i64 {about}, {put(f'shl i64 {bit}, {at}')}")
            at += 1
        keys.append([*(value[w] for w in g.regions[i] if used[w]), about])
    for turn in range(len(keys)):
        for i in range(turn % 2, len(keys) - 1, 2):
            less = ""
            for x, y in reversed(list(zip(keys[i], keys[i + 1], strict=True))):
                smaller = put(f"icmp ult i64 {y}, {x}")
                if less:
                    equal = put(f"icmp eq i64 {y}, {x}")
                    smaller = put(f"or i1 {smaller}, {put(f'and i1 {equal}, {less}')}")
                less = smaller
            both = [
                (put(f"select i1 {less}, i64 {y}, i64 {x}"), put(f"select i1 {less}, i64 {x}, i64 {y}"))
                for x, y in zip(keys[i], keys[i + 1], strict=True)
            ]
            keys[i], keys[i + 1] = [x for x, _ in both], [y for _, y in both]
    for i, region in enumerate(g.regions):
        for w, v in zip([w for w in region if used[w]], keys[i], strict=False):
            value[w] = v

    def into(f: Field, v: str) -> None:
        kept = put(f"and i64 {value[f.word]}, {~(f.mask << f.shift) & ALL}")
        value[f.word] = put(f"or i64 {kept}, {put(f'shl i64 {v}, {f.shift}')}")

    def bit_of(i: int, at: int, mask: int = 1) -> str:
        return put(f"and i64 {put(f'lshr i64 {keys[i][-1]}, {at}')}, {mask}")

    at = 0
    for k, f in enumerate(g.own[0]):
        for i, own in enumerate(g.own):
            into(own[k], bit_of(i, at, f.mask))
        at += f.mask.bit_length()
    for f, v in zip(g.owners, held, strict=True):
        who = v
        for i, p in enumerate(g.processes):
            who = put(f"select i1 {put(f'icmp ne i64 {bit_of(i, at)}, 0')}, i64 {p + 1}, i64 {who}")
        into(f, who)
        at += 1
    everybody = sum(1 << p for p in g.processes)
    for f, v in zip(g.masks, masks, strict=True):
        new = put(f"and i64 {v}, {f.mask & ~everybody}")
        for i, p in enumerate(g.processes):
            new = put(f"or i64 {new}, {put(f'shl i64 {bit_of(i, at)}, {p}')}")
        into(f, new)
        at += 1
    return out
