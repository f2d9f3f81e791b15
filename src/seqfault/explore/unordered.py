"""What of a text the kernel's memory model leaves unordered behind a load, in the order of one process.

From each load the ways through the text are followed, through calls and returns, with what orders later stores
behind it: `smp_mb()`, an acquire, a release, a dependency, `smp_rmb()` and a load behind it, an unlock and a lock
(linux-kernel.cat: ppo, fence, po-unlock-lock-po; `fence` is taken to hold of plain accesses too).  Where two ways meet,
what orders on both is kept: where it is in doubt, nothing orders.  By two readings (`strict`):

- as the machine has it (memory_views.py), and processors: dependencies of plain accesses count, and a branch orders all
  later stores;
- as LKMM's letter has it: dependencies are of marked accesses only, and a branch orders the stores inside of it, that
  is until the ways from it meet again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import BRANCHES, Op, Ordering
from seqfault.explore.dominators import EXIT, post_dominators
from seqfault.explore.racewatch import Graph

MB, RMB, WMB, AFTER_SPINLOCK = 1, 2, 3, 5  # Op.FENCE
COMPUTES = frozenset({*range(Op.MOV, Op.LE + 1), Op.MIN, Op.MAX, Op.WRAP})
ONE_OPERAND = frozenset({Op.MOV, Op.NOT, Op.INV, Op.NEG, Op.WRAP})
ASSIGNS = frozenset({Op.CHOOSE, Op.ALLOC})
ENDS = frozenset({Op.RET, Op.HALT})
RMW = frozenset({Ordering.RMW, Ordering.RMW_FULL, Ordering.RMW_ACQUIRE, Ordering.RMW_RELEASE})
ACQUIRES = frozenset({Ordering.ACQUIRE, Ordering.ATOMIC})
RELEASES = frozenset({Ordering.RELEASE, Ordering.RMW_RELEASE, Ordering.ATOMIC})
# how far later stores are behind the load: until the instruction of that number, to the function's end (EXIT), not at
# all, as long as the caller's, always
NOT, CALLERS, EVER = -2, -3, -4
NONE = (-1, -1)
UNKNOWN = -1


class Known(NamedTuple):
    """What is known of a load on all ways from it to here.

    `behind`: slots, and cells of private structs, whose value comes from it or from a load that is behind it; `rmb`: a
    barrier for loads came; `stored`: a store came that is behind it; `unlocked`, `locked`: after it; `until`: how far
    stores are behind it; `failed`: what the last cmpxchg compared, in vain; `false`: a register that says so; `again`:
    the load was made once more.
    """

    behind: frozenset[int]
    rmb: bool = False
    stored: bool = False
    unlocked: bool = False
    locked: bool = False
    until: int = NOT
    failed: tuple[int, int] = NONE
    false: int = -1
    again: bool = False


class Ran(NamedTuple):
    """Of a stretch of text: accesses that may not be behind the load, and what is known at its end (None: everything
    later is behind it, or it has no end)."""

    free: frozenset[int]
    end: Known | None


class Text:
    """An automaton's text as both readings need it."""

    def __init__(self, a: Automaton):
        self.a, self.graph = a, Graph(a)
        g, self.code = self.graph, self.graph.code
        self.body = [reached(e, g.successors) for e in g.entries]  # of each function its instructions
        self.results = {int(a.process_slot) + 1 + i for i in range(4)}
        cpus = 1 + max(p.cpu for p in a.processes)
        self.own = {p.name for p in a.pools if p.n >= cpus > 1}
        self.private: dict[tuple[str, str], int] = {}
        self.pairs: dict[int, int] = {}  # a read-modify-write's store -> its load
        self.sure: set[int] = set()  # loads of those that always store
        self.compares: set[int] = set()  # branches that are a cmpxchg's own
        for pc, row in enumerate(self.code):
            if row[0] == Op.LOAD and row[7] in RMW:
                self._store_of(pc, row)
        self.tries = any(row[0] == Op.LOCKDEP_ACQUIRE and row[2] for row in self.code)

    def _store_of(self, load: int, row: list[int]) -> None:
        pc, sure = row[8], True
        while self.code[pc][0] in COMPUTES or self.code[pc][0] in (Op.BREQ, Op.CHKPTR, Op.CHKIDX, Op.NOP):
            if self.code[pc][0] == Op.BREQ:
                sure = False
                self.compares.add(pc)
            pc = self.code[pc][8]
        if self.code[pc][0] == Op.STORE and self.code[pc][7] == row[7]:
            self.pairs[pc] = load
            if sure:
                self.sure.add(load)

    @staticmethod
    def assigns(op: int) -> bool:
        """Whether an operation assigns a register."""
        return op in COMPUTES or op in ASSIGNS or op == Op.LOAD

    def plain(self, pc: int) -> bool:
        """Whether an access is not marked."""
        access = self.a.access[pc]
        return access is not None and access.order == "plain" and not access.atomic

    def name(self, pc: int) -> int:
        """A number for a field of private structs, below all slots: of those that each CPU has one of, which stand for
        locals (`vm_fault`, `mmu_gather`).  UNKNOWN: any other, of which it is not sure that a load sees the last store.
        """
        access = self.a.access[pc]
        assert access is not None
        if "[" in access.path or access.pool not in self.own:
            return UNKNOWN
        return UNKNOWN - 1 - self.private.setdefault((access.pool, access.path), len(self.private))

    def is_lock(self, pc: int) -> bool:
        """Whether a store is to a spinlock."""
        access = self.a.access[pc]
        return access is not None and access.path.split(".")[-1] == "owner"

    @cached_property
    def meets(self) -> dict[int, int]:
        """Where all ways from an instruction to its function's end come together first; EXIT: at its end only; none:
        it has no way to the end."""
        out: dict[int, int] = {}
        for pcs in self.body:
            out |= post_dominators(pcs, self.graph.successors, {pc for pc in pcs if self.code[pc][0] in ENDS})
        return out

    @cached_property
    def reads(self) -> dict[int, frozenset[int]]:
        """Of each function's entry, the slots and private cells that it or who it calls reads or writes."""
        out: dict[int, frozenset[int]] = {}

        def of(f: int) -> frozenset[int]:
            entry = self.graph.entries[f]
            if entry not in out:
                mine: set[int] = set()
                for pc in self.body[f]:
                    row = self.code[pc]
                    if row[0] == Op.CALL:
                        mine |= of(self.graph.of_entry[row[3]])
                    elif row[0] in (Op.LOAD, Op.STORE):
                        mine |= {row[1], row[3], row[5]}
                        if row[7] == Ordering.DIRECT:
                            mine.add(self.name(pc))
                    elif row[0] in COMPUTES or row[0] in BRANCHES or row[0] == Op.WAIT:
                        mine |= {row[1], row[2], row[3]}
                out[entry] = frozenset(mine)
            return out[entry]

        for f in range(len(self.graph.entries)):
            of(f)
        return out

    def later(self, t: int, c: int) -> bool:
        """Whether all ways from instruction `c` come to `t`."""
        while c >= 0:
            if c == t:
                return True
            c = self.meets.get(c, EXIT)
        return t == EXIT

    def shorter(self, s: int, t: int) -> int:
        """What holds of two `until`s."""
        if s == t or NOT in (s, t):
            return s if s == t else NOT
        for far in (EVER, CALLERS, EXIT):
            if far in (s, t):
                return t if s == far else s
        return t if self.later(s, t) else s if self.later(t, s) else NOT

    def longer(self, s: int, t: int) -> int:
        """The better of two `until`s, both of which hold."""
        if NOT in (s, t):
            return t if s == NOT else s
        return t if self.shorter(s, t) == s else s


def reached(start: int, successors: Callable[[int], list[int]]) -> list[int]:
    out = [start]
    seen = {start}
    for pc in out:
        for s in successors(pc):
            if s not in seen:
                seen.add(s)
                out.append(s)
    return out


class Unordered:
    """One reading of a text: `behind(load)` is what it leaves unordered."""

    def __init__(self, text: Text, strict: bool):
        self.text, self.strict = text, strict
        self.code, self.graph = text.code, text.graph
        self.runs: dict[tuple[int, Known], Ran] = {}
        self.ups: dict[tuple[int, Known], frozenset[int]] = {}
        self.known: dict[int, frozenset[int]] = {}

    def behind(self, load: int) -> frozenset[int]:
        """The stores that a process may make after `load`, and that nothing orders behind it."""
        if load not in self.known:
            self.known[load] = self._behind(load)
        return self.known[load]

    def _behind(self, load: int) -> frozenset[int]:
        row, t = self.code[load], self.text
        if row[7] in ACQUIRES or row[7] == Ordering.DIRECT:
            return frozenset()
        if load in t.sure and row[7] in (Ordering.RMW_FULL, Ordering.RMW_ACQUIRE):
            return frozenset()
        counts = not (self.strict and t.plain(load))
        ran = self.run(row[8], Known(frozenset({row[1]} if counts else ())), load)
        free = set(ran.free)
        if ran.end is not None:
            free |= self.above(self.graph.function[load], ran.end)
        return frozenset(free)

    def above(self, f: int, end: Known) -> frozenset[int]:
        """What is unordered in those that call function `f`, after it returned."""
        key = f, end
        if key not in self.ups:
            self.ups[key] = frozenset()
            free: set[int] = set()
            keep = frozenset(x for x in end.behind if x < 0 or x in self.text.results)
            after = end._replace(behind=keep, until=EVER if end.until == EVER else NOT)
            for call in self.graph.calls[f]:
                ran = self.run(self.code[call][8], after)
                free |= ran.free
                if ran.end is not None:
                    free |= self.above(self.graph.function[call], ran.end)
            self.ups[key] = frozenset(free)
        return self.ups[key]

    def run(self, start: int, known: Known, load: int = -1) -> Ran:
        """From an instruction to its function's end.  `load`: which load it is about, if it stands in this function."""
        key = start, known
        if load < 0 and key in self.runs:
            return self.runs[key]
        first = known._replace(until=NOT) if known.until == start else known
        at = {way(start, first): first}
        todo = list(at)
        free: set[int] = set()
        end: Known | None = None
        while todo:
            here = todo.pop()
            pc = here[0]
            after = self.step(pc, at[here], free, load)
            if after is None:
                continue
            if self.code[pc][0] in ENDS:
                after = after._replace(failed=NONE, false=-1)
                end = after if end is None else self.join(end, after)
                continue
            for s in self.graph.successors(pc):
                new = self.arrive(pc, s, after)
                if new is None:
                    continue
                there = way(s, new)
                old = at.get(there)
                if old is not None:
                    new = self.join(old, new)
                if new != old:
                    at[there] = new
                    todo.append(there)
        out = Ran(frozenset(free), end)
        if load < 0:
            self.runs[key] = out
        return out

    def arrive(self, pc: int, s: int, k: Known) -> Known | None:
        """What is known at `s`, come from `pc`; None: nobody comes that way."""
        row = self.code[pc]
        if row[0] == Op.BR and row[1] == k.false and s == row[8] != row[2]:
            return None
        if pc in self.text.compares and s == row[3]:
            k = k._replace(failed=(row[1], row[2]))
        return k._replace(until=NOT) if k.until == s else k

    def join(self, a: Known, b: Known) -> Known:
        if a == b:
            return a
        return Known(
            a.behind & b.behind, a.rmb and b.rmb, a.stored and b.stored, a.unlocked and b.unlocked,
            a.locked and b.locked, self.text.shorter(a.until, b.until), a.failed, a.false,
            a.again or b.again,
        )  # fmt: skip

    def step(self, pc: int, k: Known, free: set[int], load: int) -> Known | None:
        """What is known behind an instruction; None: all that is later is ordered.  Stores that are not ordered are
        added to `free`."""
        row = self.code[pc]
        op = row[0]
        if op in COMPUTES:
            of = (row[2],) if op in ONE_OPERAND else (row[2], row[3])
            k = put(k, row[1], any(x in k.behind for x in of))
            if (op == Op.EQ and (row[2], row[3]) == k.failed) or (op == Op.MOV and row[2] == k.false):
                return k._replace(false=row[1])
            return k._replace(false=-1) if row[1] == k.false else k
        if op == Op.LOAD:
            return self.loads(pc, row, k._replace(again=True) if pc == load else k)
        if op == Op.STORE:
            return self.stores(pc, row, k, free, load)
        if op in BRANCHES or op == Op.WAIT:
            return self.branches(pc, row, k)
        if op == Op.FENCE:
            if row[1] == MB or (row[1] == AFTER_SPINLOCK and k.locked):
                return None
            if row[1] == WMB:
                return k._replace(until=EVER) if k.stored else k
            return k._replace(rmb=True) if row[1] == RMB else k
        if op == Op.CALL:
            return self.calls(row, k, free)
        if op in ASSIGNS:
            if op == Op.ALLOC and row[3] and self.text.a.pools[row[2]].typesafe and k.until == NOT:
                free.add(pc)
            return put(k, row[1], False)
        return k

    def loads(self, pc: int, row: list[int], k: Known) -> Known | None:
        if row[7] == Ordering.DIRECT:
            return put(k, row[1], self.text.name(pc) in k.behind)  # UNKNOWN never is
        after = (k.rmb or self.address(row, k)) and not (self.strict and self.text.plain(pc))
        if pc in self.text.sure and row[7] == Ordering.RMW_FULL:
            return None
        if after and row[7] in ACQUIRES:
            return None
        return put(k, row[1], after)

    def address(self, row: list[int], k: Known) -> bool:
        return bool((row[4] and row[3] in k.behind) or (row[6] and row[5] in k.behind))

    def stores(self, pc: int, row: list[int], k: Known, free: set[int], load: int) -> Known | None:
        t, order = self.text, row[7]
        if order == Ordering.DIRECT:
            return put(k, t.name(pc), row[1] in k.behind and t.name(pc) != UNKNOWN)
        if order == Ordering.RMW_FULL:
            return None
        if order in RELEASES:
            more = order == Ordering.RELEASE and t.is_lock(pc)
            return k._replace(stored=True, unlocked=k.unlocked or more)
        depends = row[1] in k.behind or self.address(row, k)
        if self.strict and t.plain(pc):
            ordered = k.until == EVER  # by a fence: branches are not that long by the letter
        else:
            ordered = depends or k.until != NOT
        if pc in t.pairs:  # a read-modify-write stores behind its own load
            mine = t.pairs[pc] == load and not k.again
            ordered = ordered or mine
            if order == Ordering.RMW_ACQUIRE:
                if mine or k.rmb or self.address(row, k) or (t.is_lock(pc) and k.unlocked):
                    return None
                k = k._replace(locked=k.locked or t.is_lock(pc))
        if not ordered:
            free.add(pc)
            return k
        return k._replace(stored=True)

    def branches(self, pc: int, row: list[int], k: Known) -> Known:
        on = (row[1],) if row[0] in (Op.BR, Op.WAIT) else (row[1], row[2])
        if pc in self.text.compares or pc in self.graph.decided or not any(x in k.behind for x in on):
            return k
        if not self.strict:
            return k._replace(until=EVER)
        if row[0] == Op.WAIT or pc not in self.text.meets:
            return k
        return k._replace(until=self.text.longer(k.until, self.text.meets[pc]))

    def calls(self, row: list[int], k: Known, free: set[int]) -> Known | None:
        entry = row[3]
        reads = self.text.reads[entry]
        until = k.until if k.until in (NOT, EVER) else CALLERS
        ran = self.run(entry, k._replace(behind=k.behind & reads, until=until, failed=NONE, false=-1))
        free |= ran.free
        if ran.end is None:
            return None
        keep = {x for x in k.behind if (x >= 0 and x not in self.text.results) or (x < 0 and x not in reads)}
        keep |= {x for x in ran.end.behind if x < 0 or x in self.text.results}
        return ran.end._replace(behind=frozenset(keep), until=EVER if ran.end.until == EVER else k.until)


def way(pc: int, k: Known) -> tuple[int, tuple[int, int], int, int]:
    """Where two ways that come to `pc` are one.  Kept apart: a cmpxchg that failed and one that did not, and how far
    stores are behind, as a loop's second round knows it by the branch of the first."""
    return pc, k.failed, k.false, k.until


def put(k: Known, slot: int, behind: bool) -> Known:
    """`k` when a register, or a private cell, was assigned."""
    if slot in k.failed:
        k = k._replace(failed=NONE)
    if (slot in k.behind) == behind:
        return k
    return k._replace(behind=k.behind | {slot} if behind else k.behind - {slot})
