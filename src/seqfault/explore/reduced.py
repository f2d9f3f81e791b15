"""Exploration by tier 0 with movers, under any memory model (moving.py), repeated until what it learns is complete."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore import interrupt, moving
from seqfault.explore.engine import Executor, Exploration, Path, fingerprint_of
from seqfault.explore.exploration import states_to, steps_to
from seqfault.explore.futures import ASLEEP_ROW, IDS, Q_IDS, Q_LOST, Q_NEWS, Futures
from seqfault.explore.levels import C_EDGES, C_HEAD, C_WHY, SLACK, WHY_DONE, WHY_EDGES, WHY_TABLE, Levels
from seqfault.explore.memory_buffers import address, buffer_of, count, is_buffer, together
from seqfault.explore.memory_settle import news
from seqfault.explore.memory_views import U_CLASSES, U_KEYS, U_KNOWN, U_Q, U_RACY
from seqfault.explore.movers import W_STRIDE, keep_locks, no_records, tables
from seqfault.explore.moving import C_LOST, C_MOVED, EMPTIED, FLUSHED
from seqfault.explore.private import owner_tables
from seqfault.explore.rehash import acyclic
from seqfault.explore.relief import holds
from seqfault.explore.replay import ends, knowing, shows
from seqfault.explore.tables import DISABLED, O_MEMORY, X_EDGES, X_VIOLATIONS

Int64 = NDArray[np.int64]
GROWN = "a step was taken for a mover that is none"
LOST = "what a step does to locks could not be followed"
TRIES = 64
TSO = "tso"
MORE = 16  # how many times as many states are looked at when something new was met, to meet more


class Known(NamedTuple):
    """What an exploration knew at a moment: of who touches what (movers.py, private.py), of what controls (their
    numbers `ids`) may yet do, and of racy cells."""

    R: Int64
    W: Int64
    Y: Int64
    ids: Int64
    known: Int64
    classes: Int64
    memory: Int64


class Reduced:
    """An automaton's exploration with movers: what is known of who touches what, and the arrays that stay."""

    def __init__(self, a: Automaton, init: NDArray[np.uint64], rom: Int64):
        self.a, self.init, self.rom = a, init, rom
        self.t = Executor(a, rom)
        self.memory = slice(int(self.t.P[O_MEMORY]), int(self.t.P[O_MEMORY]) + len(a.memory_table))
        self.recalled: Known | None = None
        more = 2  # cells for what a memory model with views says (moving.py)
        self.W = tables(a, True, more)
        self.locks = self.W[: self.W[W_STRIDE]].copy()
        self.R = no_records(a, more)
        self.N = self.R.copy()
        self.futures = Futures(a, a.ncell + more)
        self.Y, owners = owner_tables(a)
        self.words = a.nw + owners
        self.learning = True  # on the way
        self.S, self.C, self.S2 = (np.zeros(self.words, np.int64) for _ in range(3))

        if self.t.views:
            u = int(self.t.P[O_MEMORY])
            f = self.futures
            for at, array in ((U_Q, f.Q), (U_KEYS, f.keys), (U_KNOWN, f.known), (U_CLASSES, f.classes)):
                self.t.P[u + at] = array.ctypes.data

    def racy(self) -> Int64 | None:
        """Which cells have old stores that may be read (lkmm)."""
        if not self.t.views:
            return None
        u = int(self.t.P[O_MEMORY])
        at = u + int(self.t.P[u + U_RACY])
        return self.t.P[at : at + self.a.ncell]

    def shared(self) -> tuple[Any, ...]:
        """What every function of moving.py is given, between state arrays and what is particular to it."""
        f = self.futures
        return self.W, self.R, self.N, self.Y, f.Q, f.keys, f.known, f.own, f.edges

    def new(self) -> bool:
        """Whether something was met that is not known."""
        return bool(self.futures.Q[Q_NEWS]) or (self.t.views and news(self.t.P))

    def learn(self) -> None:
        """What was met is what is known."""
        self.t.learns()
        self.R[:] = self.N
        self.W[: self.locks.size] = self.locks
        keep_locks(self.W, self.R, len(self.a.processes))
        self.futures.again(self.racy())

    def begin(self, ctl: Int64, counts: Int64, log: Int64) -> Int64:
        """The state that exploration begins with."""
        first = self.t.start(self.init)
        np.add.at(counts, self.t.counted, 1)
        self.t.X[X_EDGES:] = 0
        self.t.X[X_VIOLATIONS] = 0
        f = self.futures
        at, asleep = self.standing()
        self.C[:] = 0
        self.C[: self.a.nw] = first
        moving.stand(self.t.B, self.C, self.t.P, f.Q, f.keys, at, asleep, self.t.X)
        t = self.t
        moving.everybody(t.B, self.C, self.S2, t.P, *self.shared(), at, asleep, ctl, t.X, -1, counts, log)
        return self.C.copy()

    def knowledge(self) -> Known:
        """What is known now."""
        f = self.futures
        ids = f.keys[IDS : IDS + f.Q[Q_IDS]].copy()
        known = f.known.reshape(IDS, -1)[ids]
        memory = self.t.P[self.memory].copy()
        return Known(self.R.copy(), self.W.copy(), self.Y.copy(), ids, known, f.classes[ids], memory)

    def recall(self, k: Known) -> None:
        """Know what was known then."""
        if k is self.recalled:
            return
        self.recalled = k
        self.R[:], self.W[:], self.Y[:], self.t.P[self.memory] = k.R, k.W, k.Y, k.memory
        f = self.futures
        known = f.known.reshape(IDS, -1)
        met = f.keys[IDS : IDS + f.Q[Q_IDS]]
        known[met] = 0
        f.classes[met] = 0
        known[k.ids] = k.known
        f.classes[k.ids] = k.classes

    def standing(self) -> tuple[Int64, Int64]:
        n = len(self.a.processes)
        return np.zeros(n, np.int64), np.zeros(n * ASLEEP_ROW, np.int64)

    def path(self, steps: list[tuple[int, int]], known: list[Known]) -> list[tuple[int, int]]:
        """Steps between states as those of single processes: with the movers that follow each.  `known`: what was,
        when each was taken."""
        t, f, nw = self.t, self.futures, self.a.nw
        ctl, counts = np.zeros(16, np.int64), np.zeros(max(1, len(self.a.counters)), np.int64)
        log = np.zeros(70_000, np.int64)
        at, asleep = self.standing()
        self.recall(known[0])
        state = self.begin(ctl, counts, log)
        real = InOrder(self.a, self.init, self.rom)
        real.take(log, 0)
        for (p, choice), then in zip(steps, known[1:], strict=True):
            self.recall(then)
            self.S[:] = state
            log[0] = 0
            moving.stand(t.B, self.S, t.P, f.Q, f.keys, at, asleep, t.X)
            words = state[:nw].copy()
            if t.run(words, p, choice):
                break
            t.B[:nw] = words
            before = holds(self.S, t.P, self.W, p, len(self.a.processes))
            moving.chain(
                t.B, self.S, self.C, self.S2, t.P, *self.shared(), at, asleep, ctl, t.X, p, before, counts, log
            )
            real.take(log, choice)
            state = self.C.copy()
        real.catch_up(state)
        return real.out


class InOrder:
    """A path of reduced steps as it is without reduction: where stores wait in buffers in order, those that reached
    memory ahead of others leave when the others do, or when the buffer has to be empty."""

    def __init__(self, a: Automaton, init: NDArray[np.uint64], rom: Int64):
        self.a = a
        self.t = Executor(a, rom)
        self.words = self.t.start(init)
        self.out: list[tuple[int, int]] = []
        self.buffers: list[int] = []
        if a.memory.startswith(TSO):
            self.buffers = [p for p in range(len(a.processes)) if is_buffer(self.t.P, p)]

    def take(self, log: Int64, choice: int) -> None:
        """The steps of a log; the first with a `choice`."""
        for entry in log[1 : 1 + log[0]].tolist():
            p, cell = entry & 0xFF, entry // FLUSHED - 1
            if cell >= 0:
                while self.cell_of(p) not in (cell, -1):
                    self.step(p, 0)
                self.step(p, 0)
            else:
                self.step(p, choice)
            if entry & EMPTIED:
                b = next(b for b in self.buffers if together(self.t.P, b, p))
                while self.cell_of(b) >= 0:
                    self.step(b, 0)
            choice = 0

    def cell_of(self, b: int) -> int:
        """The cell whose store is next to leave a buffer; -1: it is empty."""
        m = int(buffer_of(self.t.P, b))
        return int(address(self.words, self.t.P, m, 0)) if count(self.words, m) else -1

    def step(self, p: int, choice: int) -> None:
        for b in [b for b in self.buffers if together(self.t.P, b, p)] + self.buffers:
            while self.t.run(self.words.copy(), p, choice) == DISABLED and self.cell_of(b) >= 0 and b != p:
                self.step(b, 0)
        self.t.run(self.words, p, choice)
        self.out.append((p, choice))

    def catch_up(self, state: Int64) -> None:
        """Let leave what has, in the reduced exploration's `state`."""
        for b in self.buffers:
            m = int(buffer_of(self.t.P, b))
            first = int(address(state, self.t.P, m, 0)) if count(state, m) else -1
            while self.cell_of(b) not in (first, -1):
                self.step(b, 0)


def explore(
    automaton: Automaton,
    init: NDArray[np.uint64],
    rom: Int64,
    *,
    max_states: int = 1 << 40,
    max_memory: int = 1 << 60,
    timeout: float | None = None,
    progress: Callable[[Exploration, int], None] | None = None,
    graph: bool = False,
) -> Exploration | None:
    """Every state that `init` can reach, but for those between movers; None: locks could not be followed."""
    r = Reduced(automaton, init, rom)
    t0 = time.perf_counter()
    for _ in range(TRIES):
        ex, met = _explore(r, max_states, max_memory, timeout, progress, graph, t0)
        if ex.reason == LOST:
            return None
        # what it found before it knew enough may be found again with what it knows now
        if ex.reason != GROWN:
            now = r.knowledge()
            if not met or keep_shown(r, ex) or not r.learning:
                return ex
            r.learning = False
            r.recall(now)  # paths were told with what was known then
        r.learn()
    return None


def _explore(
    r: Reduced,
    max_states: int,
    max_memory: int,
    timeout: float | None,
    progress: Callable[[Exploration, int], None] | None,
    graph: bool,
    t0: float,
) -> tuple[Exploration, bool]:
    """One of them, and whether it met something that it did not know at first."""
    a, t, f = r.a, r.t, r.futures
    counts = np.zeros(max(1, len(a.counters)), np.int64)
    log = np.zeros(1, np.int64)
    opening = np.zeros(16, np.int64)
    first = r.begin(opening, counts, log)
    ex = Exploration(a, counters=counts)
    lv = Levels(a, first, fingerprint_of(first, r.words), 100, 100)
    ctl = lv.ctl
    ctl[C_LOST] = opening[C_LOST]
    index = np.zeros(len(lv.table) if graph else 1, np.int32)
    edges = np.zeros((2 * SLACK if graph else 1, 2), np.int32)
    reason = ""
    known: list[tuple[int, Known]] = []
    met = 0  # how many states there were when something new was met last
    while True:
        ctl[C_WHY] = WHY_DONE
        c0 = time.perf_counter()
        before = int(ctl[C_HEAD])
        moving.expand(
            lv.cur, lv.ncur, lv.base, lv.nxt, lv.table, lv.parent, lv.action, ctl, max_states, lv.budget, t.B, r.S, r.C,
            r.S2, t.P, t.X, counts, lv.distinct, lv.outcomes, *r.shared(), index, edges,
        )  # fmt: skip
        now = time.perf_counter()
        lv.paused(before, now - c0)
        if r.new():
            met = lv.stored
            if r.learning:
                known.append((lv.base + int(ctl[C_HEAD]), r.knowledge()))
                r.learn()
        if ctl[C_LOST] or f.Q[Q_LOST]:
            reason = LOST
        elif met and r.learning and lv.stored > MORE * met + 256:
            reason = GROWN
        elif interrupt.asked():
            reason = interrupt.INTERRUPTED
        else:
            reason = lv.limit(index.nbytes + edges.nbytes, max_states, max_memory, timeout, now - t0)
        lv.tell(ex, progress, now - t0)
        if reason:
            break
        if lv.why == WHY_TABLE:
            places = np.zeros(2 * len(lv.table) if graph else 1, np.int32)
            lv.larger_table(index, places)
            index = places
        elif lv.why == WHY_EDGES:
            edges = np.concatenate([edges, np.zeros_like(edges)])
        elif lv.why != WHY_DONE:
            lv.make_room()
        elif not lv.deeper():
            reason = GROWN if met else ""
            break
    n = lv.stored
    ex.moved = int(ctl[C_MOVED])
    if graph and not reason:
        rooms = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int32), np.zeros(n + 1, np.uint8)
        ex.cyclic = not acyclic(edges, int(ctl[C_EDGES]), n, *rooms)
    lv.fill(ex, t.X, reason, time.perf_counter() - t0)
    if reason not in (GROWN, LOST):
        ex.retrace = Retrace(r, [*known, (n, r.knowledge())])
    return ex, met > 0


def keep_shown(r: Reduced, ex: Exploration) -> bool:
    """Of what an exploration found that ended while it learned, leave what its paths show without reduction; whether
    those are all its violations.  Before it knew what a process may yet touch, it may have forgotten which stores that
    one knows, or taken them out of turn."""
    found = len(ex.violations)

    def run(path: Path) -> tuple[Executor, NDArray[np.int64]]:
        real = knowing(r.a, r.init, r.rom, path)
        return real, real.start(r.init)

    for v in ex.violations[:]:
        path = ex.path_of(v)
        if not shows(*run(path), path, (v.kind, v.pc if v.cell < 0 else -2 - v.cell, v.pool)):
            ex.violations.remove(v)
    for h, state in list(ex.outcomes.items()):
        path = ex.path_to(state)
        if not ends(*run(path), path, h):
            del ex.outcomes[h]
    ex.edges.clear()
    return found == len(ex.violations)


class Retrace:
    """Paths to the states of an exploration with movers."""

    def __init__(self, r: Reduced, known: list[tuple[int, Known]]):
        self.r, self.known = r, known  # up to which state what was known

    def __call__(self, ex: Exploration, state: int) -> list[tuple[int, int]]:
        begins = [0, *states_to(ex.parent, state)[:-1]] if state else []
        then = [next(k for end, k in self.known if i < end) for i in (0, *begins)]
        return self.r.path(steps_to(ex.parent, ex.action, state), then)
