"""What a programmer could change: a recording converted as if the program had done otherwise (`--rewrite`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from seqfault.mm.opcodes import (
    MADV_DONTNEED,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    UAPI_MAP_NONBLOCK,
    UAPI_MAP_POPULATE,
)
from seqfault.price import driver as d
from seqfault.price.converter import FILLED, MAP_FIXED, Converter, Row
from seqfault.price.workloads import ANON, PRIVATE

BATCH = 16  # mappings that are made, and unmapped, together
MOST_TOGETHER = 8192  # pages
GUARD = 64  # pages; what is larger and not accessible is a reservation, no guard
GUARDS_SINCE = 613  # the release that has MADV_GUARD_INSTALL


class Parts(Converter):
    """Where a mapping is one that was there, or a part of one."""

    def fill(self, m: int, n: int, kind: int) -> None:
        """What MAP_POPULATE does beside mapping."""
        if kind & (UAPI_MAP_POPULATE | UAPI_MAP_NONBLOCK) == UAPI_MAP_POPULATE:
            self.p.append((d.DO_POPULATE, self.number(m), n, self.within(m), 0))


class Keep(Parts):
    """munmap of a whole mapping is nothing; the next mmap of that size takes the mapping, with its pages."""

    advises = False

    def __init__(self, *args: Any):
        super().__init__(*args)
        # mappings to take again, by size; who let go of them, and at which of his steps
        self.spare: dict[int, list[tuple[int, int, int]]] = {}

    def make(self, m: int, n: int, prot: int, kind: int, fixed: bool, place: int) -> None:
        if kind & ANON and m not in self.locked and self.spare.get(n):
            real, tid, at = self.spare[n].pop()
            self.alias[m] = real, 0
            if tid != self.tid:
                self.handed.append((tid, at, self.tid, len(self.p)))
            self.fill(m, n, kind)
        else:
            super().make(m, n, prot, kind, fixed, place)

    def unmap(self, m: int, off: int, part: int, place: int) -> None:
        if off or part != self.size[m] or m in self.heap_parts or m in self.locked:
            super().unmap(m, off, part, place)
            return
        real = self.alias.get(m, (m, 0))[0]
        if self.advises:
            self.p.append((d.DO_ADVISE, d.NR_REGS + real, part, 0, MADV_DONTNEED, place))
        self.spare.setdefault(part, []).append((real, self.tid, len(self.p)))


class DontNeed(Keep):
    """munmap of a whole mapping is MADV_DONTNEED; the next mmap of that size takes the mapping."""

    advises = True


class Batch(Parts):
    """A thread cuts mappings of one size and rights from one that is larger, unmapped when all its parts were."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.cut: dict[tuple[int, int, int], list[int]] = {}  # thread, pages, rights -> what is cut, how many were
        self.unused: dict[int, int] = {}  # of a mapping that is cut, how many pages were freed

    def make(self, m: int, n: int, prot: int, kind: int, fixed: bool, place: int) -> None:
        if not kind & ANON or fixed or n * BATCH > MOST_TOGETHER or m in self.locked:
            super().make(m, n, prot, kind, fixed, place)
            return
        had = self.cut.get((self.tid, n, prot))
        if had is None or had[1] == BATCH:
            whole = self.mapping(n * BATCH)
            self.unused[whole] = 0
            had = self.cut[self.tid, n, prot] = [whole, 0]
            super().make(whole, n * BATCH, prot, PRIVATE | ANON, False, place)
        self.alias[m] = had[0], n * had[1]
        had[1] += 1
        self.fill(m, n, kind)

    def unmap(self, m: int, off: int, part: int, place: int) -> None:
        if m in self.alias:
            self.free(m, part, place)
        else:
            super().unmap(m, off, part, place)

    def free(self, m: int, part: int, place: int) -> None:
        whole = self.alias[m][0]
        self.unused[whole] += part
        if self.unused[whole] == self.size[whole]:
            super().unmap(whole, 0, self.size[whole], place)

    def remap(self, m: int, off: int, old: int, new: int, flags: int, to: int, place: int) -> None:
        super().remap(m, off, old, new, flags, to, place)
        if m in self.alias:
            self.free(m, old, place)


class Guard(Converter):
    """Guard pages are markers in the page tables (MADV_GUARD_INSTALL), so that the mapping stays one VMA."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.anon: set[int] = set()  # private anonymous mappings
        self.rights: dict[int, int | None] = {}  # of such a mapping; None: they differ
        self.left: Counter[int] = Counter()  # how much of it is mapped
        self.closed: dict[int, tuple[list[Row], int]] = {}  # made without rights, and where: its step
        self.guards: dict[int, set[int]] = {}  # its pages that are guards
        self.touched: dict[int, set[int]] = {}
        self.did: Counter[str] = Counter()

    # -- mappings
    def instead_of(self, start: int, n: int, prot: int, flags: int, anon: bool, place: int) -> bool:
        """A mapping without rights, put over pages of another one."""
        if prot or not anon or not flags & MAP_FIXED or n > GUARD:
            return False
        found = self.live.parts(start, n)
        if len(found) != 1 or found[0][2] != n or not self.guardable(found[0][0], n):
            return False
        self.install(*found[0], place)
        return True

    def guardable(self, m: int, n: int) -> bool:
        """Whether `n` pages without rights in it are guards: few, and beside something."""
        known = m in self.anon and m not in self.closed and m not in self.locked
        return known and n <= GUARD and n < self.left[m]

    def make(self, m: int, n: int, prot: int, kind: int, fixed: bool, place: int) -> None:
        super().make(m, n, prot, kind, fixed, place)
        if kind & ~FILLED == PRIVATE | ANON:
            self.anon.add(m)
            self.rights[m], self.left[m] = prot, n
            if prot == 0:
                self.closed[m] = self.p, len(self.p) - 1

    def unmap(self, m: int, off: int, part: int, place: int) -> None:
        super().unmap(m, off, part, place)
        self.left[m] -= part

    def remap(self, m: int, off: int, old: int, new: int, flags: int, to: int, place: int) -> None:
        super().remap(m, off, old, new, flags, to, place)
        self.left[m] -= old

    def touch(self, m: int, off: int, how: int) -> None:
        super().touch(m, off, how)
        self.touched.setdefault(m, set()).add(off)

    # -- rights
    def protect(self, m: int, off: int, part: int, prot: int, place: int) -> None:
        if m not in self.anon:
            super().protect(m, off, part, prot, place)
        elif prot == 0 and self.guardable(m, part):
            self.install(m, off, part, place)
        elif prot and m in self.closed:
            self.open(m, off, part, prot, place)
        elif not self.remove(m, off, part, prot, place):
            super().protect(m, off, part, prot, place)
            self.did["as_recorded"] += prot == 0
            self.rights[m] = prot if part == self.left[m] else None

    def open(self, m: int, off: int, part: int, prot: int, place: int) -> None:
        """The first rights in a mapping that had none: what is left without them is its guard, if it is small."""
        p, k = self.closed.pop(m)
        rest = self.left[m] - part
        if not 0 < rest <= GUARD or self.left[m] != self.size[m]:
            self.did["as_recorded"] += rest > 0
            self.rights[m] = prot if not rest else None
            super().protect(m, off, part, prot, place)
            return
        row = list(p[k])
        row[4] |= prot
        p[k] = tuple(row)
        self.rights[m] = prot
        for first, n in ((0, off), (off + part, self.size[m] - off - part)):
            if n:
                self.install(m, first, n, place)

    def install(self, m: int, off: int, n: int, place: int) -> None:
        of = set(range(off, off + n))
        if of & self.touched.get(m, set()):
            self.did["dropped"] += 1
        self.guards.setdefault(m, set()).update(of)
        self.did["installed"] += 1
        self.advise(m, off, n, MADV_GUARD_INSTALL, place)

    def remove(self, m: int, off: int, part: int, prot: int, place: int) -> bool:
        """Take guards out of pages that get rights; True: that was all there was to do."""
        here = sorted(x for x in self.guards.get(m, ()) if off <= x < off + part)
        if not here or not prot:
            return False
        self.guards[m].difference_update(here)
        first = here[0]
        for x, then in zip(here, [*here[1:], -1], strict=True):
            if then != x + 1:
                self.did["removed"] += 1
                self.advise(m, first, x + 1 - first, MADV_GUARD_REMOVE, place)
                first = then
        return self.rights[m] == prot


class Processes(Converter):
    """Each thread is a process with an address space of its own.

    What was mapped before each of them has, as after a fork.  A mapping that one makes and others use each of those
    maps for itself when it first uses it, and unmaps when it is unmapped; what a thread does to another one's mapping
    without ever using it, that one does."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.caller = 0
        self.owners: list[int] = []  # of each step of `setup`: the thread in whose address space
        self.maker: dict[int, int] = {}  # of mappings that were not there before
        self.first_step: dict[int, Row] = {}  # of those that were
        self.copies: dict[int, dict[int, int]] = {}  # mapping -> thread -> its own one
        self.breaks: dict[int, tuple[int, int]] = {}  # of a process: the break, and the step that moved it last
        self.ended: set[int] = set()
        self.shared: set[int] = set()

    def mapping(self, n: int) -> int:
        m = super().mapping(n)
        self.maker[m] = self.tid
        return m

    def before(self, m: int, row: Row) -> None:
        self.first_step[m] = row
        del self.maker[m]

    def pause(self, tid: int, time: int, kind: str = "") -> None:
        super().pause(tid, time, kind)
        self.caller = tid

    def exit(self) -> None:
        self.ended.add(self.tid)

    def turn(self, tid: int) -> None:
        self.tid, self.p = tid, self.programs[tid]

    def holders(self, m: int) -> list[int]:
        """The processes that have it mapped."""
        made = [self.maker[m]] if m in self.maker else []
        return [t for t in [*made, *self.copies.get(m, ())] if t not in self.ended]

    def act_as(self, m: int) -> None:
        has = self.holders(m)
        self.turn(has[0] if has and self.caller not in has else self.caller)

    def own(self, m: int) -> int:
        """The mapping of process `tid`."""
        if self.maker.get(m) == self.tid:
            return m
        copies = self.copies.setdefault(m, {})
        if self.tid not in copies:
            c = copies[self.tid] = super().mapping(self.size[m])
            self.maker[c] = self.tid
            row = self.first_step.get(m)
            if row is None:
                self.shared.add(m)
                # it can be mapped when its maker has made it
                self.p.append((d.DO_WHERE, d.NR_REGS + m, 0, 0, 0))
                self.p.append((d.DO_MMAP, d.NR_REGS + c, max(self.size[m], 1), 0, 3 | (PRIVATE | ANON) << 8))
            elif row[0] == d.DO_BRK:
                self.prepare((*row[:3], c, row[4]))
            else:
                self.prepare((row[0], d.NR_REGS + c, *row[2:]))
        return copies[self.tid]

    def prepare(self, row: Row) -> None:
        self.setup.append(row)
        self.owners.append(self.tid)

    def number(self, m: int) -> int:
        return d.NR_REGS + self.own(m)

    def unmap(self, m: int, off: int, part: int, place: int) -> None:
        me = self.tid
        for tid in self.holders(m) or ([] if m in self.maker else [me]):
            self.turn(tid)
            super().unmap(m, off, part, place)
        self.turn(me)

    def remap(self, m: int, off: int, old: int, new: int, flags: int, to: int, place: int) -> None:
        me = self.tid
        self.maker[to] = me
        super().remap(m, off, old, new, flags, to, place)
        for tid in self.holders(m):
            if tid != me:
                self.turn(tid)
                super().unmap(m, off, old, place)
        self.turn(me)

    def step_break(self, m: int, old: int, brk: int, place: int) -> None:
        """Each process has a heap of its own, which grows by what it grew by in the recording."""
        assert self.heap is not None
        if self.tid not in self.breaks:
            self.breaks[self.tid] = self.heap.brk - self.heap.start * d.PAGE_SIZE, self.own(self.moved)
        at, chain = self.breaks[self.tid]
        to = max(at + brk - old, 0)
        first = (at + d.PAGE_SIZE - 1) // d.PAGE_SIZE
        self.p.append((d.DO_BRK, d.NR_REGS + chain, to, m, first, place))
        self.breaks[self.tid] = to, m


REWRITES: dict[str, Callable[..., Converter]] = {
    "dontneed": DontNeed,
    "batch": Batch,
    "keep": Keep,
    "guard": Guard,
    "processes": Processes,
}


def notes(c: Converter) -> dict[str, int]:
    """What a rewrite did, and what it asks for, in numbers.

    guard: guards `installed` and `removed`; `dropped`: of those installed, how many over pages that held something;
    `as_recorded`: larger parts without rights.  processes: how many; mappings from before that several of them use
    (`inherited`), and those that one makes and others use, which would have to be shared memory (`shared`)."""
    if isinstance(c, Guard):
        return {k: c.did[k] for k in ("installed", "removed", "dropped", "as_recorded")}
    if isinstance(c, Processes):
        both = [m for m, who in c.copies.items() if m in c.first_step and len(who) > 1]
        return {
            "processes": len(c.programs),
            "inherited": len(both),
            "inherited_pages": sum(c.size[m] for m in both),
            "shared": len(c.shared),
            "shared_pages": sum(c.size[m] for m in c.shared),
        }
    return {}
