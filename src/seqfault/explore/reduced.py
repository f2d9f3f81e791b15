"""Exploration by tier 0 with movers, under any memory model (moving.py), repeated until what it learns is complete."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore import interrupt, moving
from seqfault.explore.engine import (
    C_DISTINCT,
    C_EDGES,
    C_FINALS,
    C_HEAD,
    C_STORED,
    C_TAIL,
    C_TRANSITIONS,
    C_WHY,
    CHUNK_S,
    MAX_DISTINCT,
    SLACK,
    WHY_DONE,
    WHY_EDGES,
    WHY_FRONTIER,
    WHY_OUTCOMES,
    WHY_PAUSE,
    WHY_TABLE,
    Executor,
    Exploration,
    Found,
    fingerprint_of,
    rehash,
)
from seqfault.explore.futures import ASLEEP_ROW, Q_LOST, Q_NEWS, Futures
from seqfault.explore.memory_buffers import address, buffer_of, count, is_buffer, together
from seqfault.explore.memory_settle import news
from seqfault.explore.memory_views import U_CLASSES, U_KEYS, U_KNOWN, U_Q, U_RACY
from seqfault.explore.movers import no_records, tables
from seqfault.explore.moving import C_LOST, C_MOVED, EMPTIED, FLUSHED
from seqfault.explore.private import owner_tables
from seqfault.explore.rehash import acyclic
from seqfault.explore.tables import DISABLED, O_MEMORY, X_EDGES, X_VIOLATIONS

Int64 = NDArray[np.int64]
GROWN = "a step was taken for a mover that is none"
LOST = "what a step does to locks could not be followed"
TRIES = 64
TSO = "tso"
MORE = 4  # how many times as many states are looked at when something new was met, to meet more


class Reduced:
    """An automaton's exploration with movers: what is known of who touches what, and the arrays that stay."""

    def __init__(self, a: Automaton, init: NDArray[np.uint64], rom: Int64):
        self.a, self.init, self.rom = a, init, rom
        self.t = Executor(a, rom)
        more = 2  # cells for what a memory model with views says (moving.py)
        self.W = tables(a, True, more)
        self.R = no_records(a, more)
        self.N = self.R.copy()
        self.futures = Futures(a, a.ncell + more)
        self.Y, owners = owner_tables(a)
        self.words = a.nw + owners
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

    def standing(self) -> tuple[Int64, Int64]:
        n = len(self.a.processes)
        return np.zeros(n, np.int64), np.zeros(n * ASLEEP_ROW, np.int64)

    def path(self, steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Steps between states as those of single processes: with the movers that follow each."""
        t, f, nw = self.t, self.futures, self.a.nw
        ctl, counts = np.zeros(16, np.int64), np.zeros(max(1, len(self.a.counters)), np.int64)
        log = np.zeros(70_000, np.int64)
        at, asleep = self.standing()
        state = self.begin(ctl, counts, log)
        real = InOrder(self.a, self.init, self.rom)
        real.take(log, 0)
        for p, choice in steps:
            self.S[:] = state
            log[0] = 0
            moving.stand(t.B, self.S, t.P, f.Q, f.keys, at, asleep, t.X)
            words = state[:nw].copy()
            if t.run(words, p, choice):
                break
            t.B[:nw] = words
            moving.chain(t.B, self.S, self.C, self.S2, t.P, *self.shared(), at, asleep, ctl, t.X, p, counts, log)
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
        ex = _explore(r, max_states, max_memory, timeout, progress, graph, t0)
        if ex.reason == LOST:
            return None
        if ex.reason not in ("", GROWN):
            return ex
        new = r.t.learns() or bool(r.futures.Q[Q_NEWS])
        if not new:
            return ex
        r.R[:] = r.N
        r.futures.again(r.racy())
    return None


def _explore(
    r: Reduced,
    max_states: int,
    max_memory: int,
    timeout: float | None,
    progress: Callable[[Exploration, int], None] | None,
    graph: bool,
    t0: float,
) -> Exploration:
    a, t, f = r.a, r.t, r.futures
    nw = r.words
    counts = np.zeros(max(1, len(a.counters)), np.int64)
    ctl = np.zeros(16, np.int64)
    log = np.zeros(1, np.int64)
    table = np.zeros(1 << 12, np.uint64)
    while len(table) * 6 // 10 < 2 * SLACK:
        table = np.zeros(len(table) * 2, np.uint64)
    cur = np.zeros((SLACK, nw), np.int64)
    nxt = np.zeros((2 * SLACK, nw), np.int64)
    ex = Exploration(a)
    first = r.begin(ctl, counts, log)
    cur[0] = first
    parent = np.zeros(2 * SLACK, np.int64)
    action = np.zeros(2 * SLACK, np.int64)
    h = fingerprint_of(first, nw)
    table[int(h) & (len(table) - 1)] = h
    index = np.zeros(len(table) if graph else 1, np.int32)
    edges = np.zeros((2 * SLACK if graph else 1, 2), np.int32)
    distinct = np.zeros((MAX_DISTINCT, 8), np.int64)
    outcomes = np.full((1 << 10, 2), -1, np.int64)
    ncur, base, depth = 1, 0, 0
    ctl[C_STORED] = 1
    budget = 2_000
    reason = ""
    met = 0
    while True:
        ctl[C_WHY] = WHY_DONE
        c0 = time.perf_counter()
        before = int(ctl[C_HEAD])
        moving.expand(
            cur, ncur, base, nxt, table, parent, action, ctl, max_states, budget, t.B, r.S, r.C, r.S2, t.P, t.X, counts,
            distinct, outcomes, *r.shared(), index, edges,
        )  # fmt: skip
        now = time.perf_counter()
        why = int(ctl[C_WHY])
        if why == WHY_PAUSE:
            worked = max(1, int(ctl[C_HEAD]) - before)
            budget = int(min(5_000_000, max(500, worked * CHUNK_S / max(1e-6, now - c0))))
        used = table.nbytes + cur.nbytes + nxt.nbytes + parent.nbytes + action.nbytes + index.nbytes + edges.nbytes
        if not met and (f.Q[Q_NEWS] or (t.views and news(t.P))):
            met = int(ctl[C_STORED])
        if ctl[C_LOST] or f.Q[Q_LOST]:
            reason = LOST
        elif met and ctl[C_STORED] > MORE * met + 256:
            reason = GROWN
        elif interrupt.asked():
            reason = interrupt.INTERRUPTED
        elif ctl[C_STORED] > max_states:
            reason = f"limit of {max_states:,} states"
        elif timeout is not None and now - t0 > timeout:
            reason = f"time limit of {timeout:g} s"
        elif (why == WHY_TABLE and used + table.nbytes > max_memory) or (
            why == WHY_FRONTIER and used + nxt.nbytes + parent.nbytes > max_memory
        ):
            reason = f"memory limit of {max_memory / (1 << 20):,.0f} MiB"
        if progress is not None:
            ex.states, ex.transitions, ex.depth, ex.seconds = (
                int(ctl[C_STORED]), int(ctl[C_TRANSITIONS]), depth, now - t0,
            )  # fmt: skip
            progress(ex, int(ctl[C_TAIL]) + ncur - int(ctl[C_HEAD]))
        if reason:
            break
        if why == WHY_TABLE:
            bigger = np.zeros(len(table) * 2, np.uint64)
            places = np.zeros(len(bigger) if graph else 1, np.int32)
            rehash(table, bigger, index, places)
            table, index = bigger, places
        elif why == WHY_EDGES:
            edges = np.concatenate([edges, np.zeros_like(edges)])
        elif why == WHY_FRONTIER:
            if int(ctl[C_TAIL]) + SLACK > len(nxt):
                nxt = np.concatenate([nxt, np.zeros_like(nxt)])
            if int(ctl[C_STORED]) + SLACK > len(parent):
                parent = np.concatenate([parent, np.zeros_like(parent)])
                action = np.concatenate([action, np.zeros_like(action)])
        elif why == WHY_OUTCOMES:
            bigger2 = np.full((len(outcomes) * 2, 2), -1, np.int64)
            for oh, s in outcomes[outcomes[:, 1] >= 0]:
                k = int(oh) & (len(bigger2) - 1)
                while bigger2[k, 1] >= 0:
                    k = (k + 1) & (len(bigger2) - 1)
                bigger2[k] = oh, s
            outcomes = bigger2
        elif why == WHY_DONE:
            base += ncur
            ncur = int(ctl[C_TAIL])
            ctl[C_HEAD] = ctl[C_TAIL] = 0
            if ncur == 0:
                break
            depth += 1
            cur, nxt = nxt, cur
            if len(nxt) < 2 * SLACK:
                nxt = np.zeros((2 * SLACK, nw), np.int64)
    n = int(ctl[C_STORED])
    ex.states, ex.transitions, ex.finals, ex.depth = n, int(ctl[C_TRANSITIONS]), int(ctl[C_FINALS]), depth
    ex.moved = int(ctl[C_MOVED])
    ex.parent, ex.action = parent[:n].copy(), action[:n].copy()
    ex.counters = counts
    ex.outcomes = {int(oh): int(s) for oh, s in outcomes if s >= 0}
    ex.complete, ex.reason = not reason, reason
    if graph and not reason:
        rooms = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int32), np.zeros(n + 1, np.uint8)
        ex.cyclic = not acyclic(edges, int(ctl[C_EDGES]), n, *rooms)
    ex.retrace = Retrace(r, ex.parent, ex.action)
    for row in distinct[: int(ctl[C_DISTINCT])]:
        k, pc, pool, i, state, process, choice, count = (int(x) for x in row)
        cell = -1
        if pc < -1:  # a rule about a cell
            cell, pc = -2 - pc, -1
        ex.violations.append(Found(k, pc, pool, i, state, process, choice, count, cell))
    m = len(a.lock_classes)
    order = t.X[X_EDGES : X_EDGES + m * m].reshape(m, m)
    for i, j in zip(*np.nonzero(order), strict=True):
        ex.edges.append((int(i), int(j), int(order[i, j]) - 1))
    ex.bytes = table.nbytes + cur.nbytes + nxt.nbytes + parent.nbytes + action.nbytes
    ex.seconds = time.perf_counter() - t0
    return ex


class Retrace:
    """Paths to the states of an exploration with movers."""

    def __init__(self, r: Reduced, parent: Int64, action: Int64):
        self.r, self.parent, self.action = r, parent, action

    def __call__(self, state: int) -> list[tuple[int, int]]:
        out = []
        while state > 0:
            k = int(self.action[state])
            out.append((k & 255, k >> 8))
            state = int(self.parent[state])
        return self.r.path(out[::-1])
