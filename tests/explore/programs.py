"""Random concurrent programs as data: one text interprets them, so that thousands are explored by one automaton.

A process goes through its instructions (operation, variable or lock, number) in a scenario's data.  What each one saw is
kept in private notes, which belong to the outcome: two explorations with the same outcomes have the same observations.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from seqfault.compile.automaton import Automaton
from seqfault.compile.program import Process, Program, compile_program
from seqfault.kernel import *
from seqfault.kernel.rwsem import (
    down_read,
    down_read_trylock,
    down_write,
    rw_semaphore,
    up_read,
    up_write,
)
from seqfault.kernel.spinlock import spin_lock, spin_trylock, spin_unlock, spinlock_t

PROCESSES, MOST, LENGTH = 3, 4, 14  # processes of a program usually, and at most; instructions of each
OPS = (
    "NOP", "STORE", "LOAD", "ADD", "COPY", "LOCK_A", "UNLOCK_A", "LOCK_B", "UNLOCK_B", "TRY_A", "TRY_B", "READ", "UNREAD",
    "WRITE", "UNWRITE", "TRY_READ", "WAIT", "CHOOSE", "CHECK", "ASSERT", "ALLOC", "FREE", "USE", "SET", "USE_LOCKED",
    "RETRY", "SKIP", "SWAP", "FREE_FIRST", "LIVE", "POINT", "WAIT_TAKE", "MB", "RMB", "WMB", "RELEASE", "ACQUIRE", "XCHG",
    "CMPXCHG",
)  # fmt: skip
(
    NOP, STORE, LOAD, ADD, COPY, LOCK_A, UNLOCK_A, LOCK_B, UNLOCK_B, TRY_A, TRY_B, READ, UNREAD, WRITE, UNWRITE, TRY_READ,
    WAIT, CHOOSE, CHECK, ASSERT, ALLOC, FREE, USE, SET, USE_LOCKED, RETRY, SKIP, SWAP, FREE_FIRST, LIVE, POINT, WAIT_TAKE,
    MB, RMB, WMB, RELEASE, ACQUIRE, XCHG, CMPXCHG,
) = range(len(OPS))  # fmt: skip
OBJECTS = {FREE, FREE_FIRST, USE, SET, USE_LOCKED, LIVE}
LIVE_OBJECT = 1


@struct(pool=3)
class thing:
    n: integer(0, 3)
    lock: spinlock_t


@struct(pool=1)
class world:
    x: array[integer(0, 3), 4]
    h: array[ptr[thing], 2]
    a: spinlock_t
    b: spinlock_t
    sem: rw_semaphore


@struct(pool=1, rom=True)
class text_rom:
    length: array[integer(0, LENGTH), MOST]
    op: array[integer(0, len(OPS)), MOST * LENGTH]
    v: array[integer(0, 15), MOST * LENGTH]
    c: array[integer(0, 15), MOST * LENGTH]


@struct(pool=1, private=True)
class notes:
    saw: array[integer(0, 15), MOST * LENGTH]


def run():
    """One process."""
    w = the(world)
    s = the(text_rom)
    note = the(notes)
    base = process_id() * LENGTH
    i: integer(-LENGTH, 3 * LENGTH) = 0
    r: integer(0, 3) = 0
    while i < s.length[process_id()]:
        o = s.op[base + i]
        v = s.v[base + i]
        c = s.c[base + i]
        at: integer(0, MOST * LENGTH) = base + i
        if o == STORE:
            w.x[v] = c
        elif o == LOAD:
            r = w.x[v]
            note.saw[at] = r + 1
        elif o == ADD:
            r = w.x[v]
            w.x[v] = (r + c) & 3
            note.saw[at] = r + 1
        elif o == COPY:
            w.x[v] = r
        elif o == LOCK_A:
            spin_lock(w.a)
        elif o == UNLOCK_A:
            spin_unlock(w.a)
        elif o == LOCK_B:
            spin_lock(w.b)
        elif o == UNLOCK_B:
            spin_unlock(w.b)
        elif o == TRY_A:
            if spin_trylock(w.a):
                count("a-tried")
                note.saw[at] = 1
            else:
                count("a-missed")
                note.saw[at] = 2
                i += c
        elif o == TRY_B:
            if spin_trylock(w.b):
                count("b-tried")
                note.saw[at] = 1
            else:
                count("b-missed")
                note.saw[at] = 2
                i += c
        elif o == READ:
            down_read(w.sem)
        elif o == UNREAD:
            up_read(w.sem)
        elif o == WRITE:
            down_write(w.sem)
        elif o == UNWRITE:
            up_write(w.sem)
        elif o == TRY_READ:
            if down_read_trylock(w.sem):
                count("read-tried")
                note.saw[at] = 1
            else:
                count("read-missed")
                note.saw[at] = 2
                i += c
        elif o == WAIT:
            wait_for(w.x[v] == c)
        elif o == CHOOSE:
            w.x[v] = choose(2)
        elif o == CHECK:
            check(w.x[v] == c, "odd")
        elif o == ASSERT:
            assert w.x[v] == c
        elif o == ALLOC:
            p = kmem_cache_zalloc(thing)
            w.h[v] = p
        elif o == FREE:
            p = w.h[v]
            w.h[v] = NULL
            if p:
                count("freed")
                kmem_cache_free(p)
        elif o == FREE_FIRST:
            p = w.h[v]
            if p:
                count("freed-first")
                kmem_cache_free(p)
                w.h[v] = NULL
        elif o == USE:
            p = w.h[v]
            if p:
                count("used")
                note.saw[at] = p.n + 1
            else:
                count("nothing-to-use")
                note.saw[at] = 5
        elif o == SET:
            p = w.h[v]
            if p:
                count("set")
                p.n = c
        elif o == USE_LOCKED:
            p = w.h[v]
            if p:
                spin_lock(p.lock)
                note.saw[at] = p.n + 1
                p.n = c
                spin_unlock(p.lock)
        elif o == RETRY:
            if w.x[v] == c & 3:
                count("again")
                i -= c >> 2
        elif o == SKIP:
            if w.x[v] == c & 3:
                count("skipped")
                i += c >> 2
        elif o == SWAP:
            with atomic():
                r = w.x[v]
                w.x[v] = w.x[c]
                w.x[c] = r
            note.saw[at] = r + 1
        elif o == LIVE:
            p = w.h[v]
            if p:
                if is_live(p):
                    count("lives")
                    note.saw[at] = 1
                else:
                    count("dead")
                    note.saw[at] = 2
        elif o == POINT:
            seq_point()
            r = w.x[v]
            note.saw[at] = r + 1
        elif o == WAIT_TAKE:
            with atomic():
                wait_for(w.x[v] != 0)
                w.x[v] = w.x[v] - 1
        elif o == MB:
            smp_mb()
        elif o == RMB:
            smp_rmb()
        elif o == WMB:
            smp_wmb()
        elif o == RELEASE:
            smp_store_release(w.x[v], c)
        elif o == ACQUIRE:
            r = smp_load_acquire(w.x[v])
            note.saw[at] = r + 1
        elif o == XCHG:
            r = xchg(w.x[v], c)
            note.saw[at] = r + 1
        elif o == CMPXCHG:
            r = cmpxchg(w.x[v], c & 3, c >> 2)
            note.saw[at] = r + 1
        i += 1


def outcome():
    w = the(world)
    note = the(notes)
    for k in range(4):
        emit(w.x[k])
    for k in range(2):
        emit(w.h[k])
    for k in range(MOST * LENGTH):
        emit(note.saw[k])


@dataclass(frozen=True)
class Texts:
    """The automaton that interprets programs, whose last process has `role`."""

    program: Program
    automaton: Automaton

    def start(self, p: Listing) -> tuple[Any, Any]:
        """Initial state and data of a program."""
        lay = self.program.layout()
        cells = list(lay.start)
        at = {c.name: c.addr for c in lay.cells}
        for k, listing in enumerate(p):
            cells[at[f"text_rom[0].length[{k}]"]] = len(listing)
            for i, row in enumerate(listing):
                for f, value in zip(("op", "v", "c"), row, strict=True):
                    cells[at[f"text_rom[0].{f}[{k * LENGTH + i}]"]] = value
        if any(row[0] in OBJECTS for listing in p for row in listing):  # there is one to begin with
            first = lay.pools["thing"]
            cells[first.base] = LIVE_OBJECT
            for k in range(1, first.stride):
                cells[first.base + k] = 0
            cells[at["world[0].h[0]"]] = 1
        a = self.automaton
        n = len(self.program.processes)
        running = [bool(x) for x in p] + [False] * (n - len(p))
        running += [True] * (len(a.processes) - n)  # store buffers
        return a.pack(cells, running), a.rom(cells)


Row = tuple[int, int, int]
Listing = tuple[tuple[Row, ...], ...]


@cache
def texts(role: int = 0, granularity: str = "merged", together: bool = False, processes: int = PROCESSES) -> Texts:
    """`role`: of the last of so many processes, which runs on the CPU of the first if they are `together`."""
    last = processes - 1
    procs = [Process(run, 0 if together and k == last else k, 0 if k < last else role) for k in range(processes)]
    program = Program("concurrent", procs, [outcome])
    return Texts(program, compile_program(program, granularity))


def show(p: Listing) -> str:
    """A program, for reading."""
    return "\n".join(f"{k}: " + "; ".join(f"{OPS[o]} {v} {c}" for o, v, c in rows) for k, rows in enumerate(p))


class Gen:
    """One random program.  Each variable has a lock under which most accesses to it are, or none, or an owner."""

    def __init__(self, seed: int):
        self.r = random.Random(seed)
        self.guard = [self.r.choice("aabbsw-") for _ in range(4)]
        self.objects = self.r.random() < 0.5
        self.tame = self.r.random() < 0.6  # what may be reported is rare

    def access(self, v: int) -> list[Row]:
        r = self.r
        k = r.randint(0, 19)
        if k < 5:
            return [(STORE, v, r.randint(0, 3))]
        if k < 9:
            return [(LOAD, v, 0)]
        if k < 13:
            return [(ADD, v, r.randint(1, 3))]
        if k == 13:
            return [(COPY, v, 0)]
        if k == 14:
            return [(SWAP, v, r.randint(0, 3))]
        if k == 15:
            return [(CHOOSE, v, 0)]
        if k == 16 and not self.tame:
            return [(r.choice([CHECK, ASSERT]), v, r.randint(0, 3))]
        if k == 17:
            return [r.choice([(WAIT, v, r.randint(0, 3)), (WAIT_TAKE, v, 0)])]
        if k == 18:
            return [(POINT, v, 0)]
        return [(LOAD, v, 0), (COPY, r.randint(0, 3), 0)]

    def object(self) -> list[Row]:
        r = self.r
        k = r.randint(0, 1) if not self.tame else 0
        return [(r.choice([ALLOC, ALLOC, FREE, FREE_FIRST, USE, USE, SET, USE_LOCKED, USE_LOCKED, LIVE]), k, r.randint(0, 3))]

    def locked(self, lock: str, body: list[Row]) -> list[Row]:
        r = self.r
        n = len(body) + 1
        if lock == "a":
            first = (TRY_A, 0, n) if r.random() < 0.25 else (LOCK_A, 0, 0)
            return [first, *body, (UNLOCK_A, 0, 0)]
        if lock == "b":
            first = (TRY_B, 0, n) if r.random() < 0.25 else (LOCK_B, 0, 0)
            return [first, *body, (UNLOCK_B, 0, 0)]
        if lock == "s":
            first = (TRY_READ, 0, n) if r.random() < 0.3 else (READ, 0, 0)
            return [first, *body, (UNREAD, 0, 0)]
        return [(WRITE, 0, 0), *body, (UNWRITE, 0, 0)]

    def item(self, depth: int) -> list[Row]:
        r = self.r
        k = r.random()
        if k < 0.5 and depth < 2:
            lock = r.choice("abbasw")
            mine = [v for v in range(4) if self.guard[v] == lock or (lock == "w" and self.guard[v] == "s")]
            body: list[Row] = []
            for _ in range(r.randint(1, 2)):
                if mine and r.random() < 0.7:
                    body += self.access(r.choice(mine))
                else:
                    body += self.item(depth + 1)
            return self.locked(lock, body)
        if k < 0.75 and self.objects:
            return self.object()
        if k < 0.82:
            body = self.item(depth + 1)
            return [(SKIP, r.randint(0, 3), len(body) * 4 + r.randint(0, 3)) if len(body) < 4 else (NOP, 0, 0), *body]
        if k < 0.88:
            body = self.item(depth + 1)
            back = (RETRY, r.randint(0, 3), (len(body) + 1) * 4 + r.randint(0, 3)) if len(body) < 3 else (NOP, 0, 0)
            return [*body, back]
        free = [v for v in range(4) if self.guard[v] == "-"]
        return self.access(r.choice(free) if free and self.tame else r.randint(0, 3))

    def listing(self, limit: int) -> tuple[Row, ...]:
        out: list[Row] = []
        for _ in range(50):
            more = self.item(0)
            if len(out) + len(more) <= limit:
                out += more
            elif out:
                break
        if not self.tame and self.r.random() < 0.15 and out:
            out.pop(self.r.randrange(len(out)))  # a lock that is not given back, or was not taken
        return tuple(out) or ((STORE, 0, 1),)


def program(seed: int) -> Listing:
    g = Gen(seed)
    n = g.r.choice([2, 2, 3])
    return tuple(g.listing(g.r.randint(5, LENGTH if n == 2 else 8)) for _ in range(n))


class Fenced(Gen):
    """One with barriers of all kinds."""

    def item(self, depth: int) -> list[Row]:
        r = self.r
        k, v = r.random(), r.randint(0, 2)
        if k < 0.25:
            return [(MB, 0, 0)]
        if k < 0.32:
            return [(r.choice([RMB, WMB]), 0, 0)]
        if k < 0.44:
            return [r.choice([(XCHG, v, r.randint(0, 3)), (CMPXCHG, v, r.randint(0, 15))])]
        if k < 0.5:
            return [r.choice([(RELEASE, v, r.randint(0, 3)), (ACQUIRE, v, 0)])]
        if k < 0.58 and depth < 1:
            return self.locked(r.choice("aasw"), self.item(1))
        if k < 0.62 and self.objects:
            return self.object()
        if k < 0.68:
            return self.access(v)
        return [r.choice([(STORE, v, r.randint(0, 3)), (LOAD, v, 0), (LOAD, v, 0)])]


def fenced(seed: int) -> Listing:
    """A small program with barriers."""
    g = Fenced(seed)
    n = g.r.choice([2, 2, 3])
    return tuple(g.listing(g.r.randint(4, 8 if n == 2 else 4)) for _ in range(n))


class Woken(Gen):
    """One whose last process sleeps until the second wakes it, which has a lock for that: one that the first has too,
    now and then, and reads and writes under."""

    def some(self, n: int) -> list[Row]:
        r = self.r
        out: list[Row] = []
        for _ in range(r.randint(1, n)):
            v, c = r.randint(0, 1), r.randint(1, 3)
            more = r.choice([(STORE, v, c), (STORE, v, c), (LOAD, v, 0), (LOAD, v, 0), (MB, 0, 0), (RELEASE, v, c), (XCHG, v, c)])
            out.append(more)
        return out

    def three(self) -> Listing:
        r = self.r
        lock = r.choice("aasw")
        first = [*self.some(1), *self.locked(r.choice([lock, lock, "b"]), self.some(2))]
        if r.random() < 0.5:
            first += self.some(2)
        wakes = [(r.choice([STORE, RELEASE, XCHG]), 3, 1)]
        if r.random() < 0.3:
            wakes = self.some(1) + wakes
        second = [*self.some(2), *(self.locked("w" if lock == "s" else r.choice([lock, "s"]) if lock == "w" else lock, wakes))]
        third = [(r.choice([WAIT_TAKE, WAIT_TAKE, WAIT]), 3, 1), *self.some(2)]
        return tuple(first), tuple(second), tuple(third)


def woken(seed: int) -> Listing:
    """A small program with a process that sleeps until another wakes it."""
    return Woken(seed).three()


class Handled(Gen):
    """One whose last process does all that it does in atomic blocks, when another has told it to."""

    def plain(self, n: int) -> list[Row]:
        """What goes by what its CPU knows, and by which it learns."""
        r = self.r
        out: list[Row] = []
        for _ in range(r.randint(1, n)):
            v, c = r.randint(0, 1), r.randint(1, 3)
            load, store = (LOAD, v, 0), (STORE, v, c)
            out.append(r.choice([load, load, load, store, store, (ACQUIRE, v, 0), (RMB, 0, 0), (WMB, 0, 0), (MB, 0, 0)]))
        return out

    def four(self) -> Listing:
        r = self.r
        tells = (r.choice([STORE, RELEASE]), 3, 1)
        first = [*self.plain(3), *r.choice([[], [], [(LOCK_B, 0, 0)], [(CHOOSE, 0, 0)]])]
        second = [*self.plain(2), tells, *self.plain(1)]
        third = [*r.choice([[], self.plain(1)]), (r.choice([WAIT, LOAD]), 2, 1), *self.plain(2)]
        told = r.choice([[(SWAP, 0, 2)], [(SWAP, 1, 2)], []])
        return tuple(first), tuple(second), tuple(third), ((WAIT_TAKE, 3, 0), *told, (SWAP, 2, 3))


def handled(seed: int) -> Listing:
    """A small program with an interrupt handler, as the mm model's are."""
    return Handled(seed).four()
