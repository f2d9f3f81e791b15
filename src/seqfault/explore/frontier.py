"""Breadth-first exploration on generated steps: the arrays, the rounds, the threads.

Where threads share the work each takes rows of the next frontier, a few hundred at a time.  When a thread needs
something (room in the table or in the frontier, a pause) it comes back, with the successors that it has not entered
yet, and goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore import interrupt
from seqfault.explore import layout as k
from seqfault.explore.batch import begin, deeper, drive
from seqfault.explore.engine import Exploration, Found
from seqfault.explore.entering import LINE
from seqfault.explore.movers import NEVER, W_WAITS, no_records, with_records
from seqfault.explore.own import CHAIN, QUIET, STROLLS
from seqfault.explore.rehash import acyclic, close_ranks, rehash, rehash_exact
from seqfault.explore.room import give, more, take, zeros
from seqfault.explore.search import work
from seqfault.explore.steps import Steps, steps_of
from seqfault.explore.strolls import stroll
from seqfault.explore.tables import X_EDGES, X_NEWS, X_OWN_ROOM, X_TABLE, buffer, work_array

Int64 = NDArray[np.int64]
FIRST_SLOTS = 1 << 14
FULL = 0.8  # of the table, at most
DOUBLES = 1 << 22  # slots up to which the table doubles; then it grows by a half
TRACED = 1 << 21  # states up to which parents are kept
TRACED_MORE = 1 << 26  # if a violation is known by then, to which there will be a path
HANDED = 1 << 18  # states from which it is the parents that are given to who explores, not a copy
CHUNK_S = 0.15
WORKERS_OWN = 1 << 27  # bytes of a frontier that are kept for the next exploration
BUDGET = 20_000  # states of the first round
FIRST_OUTCOMES = 1 << 8
FEW = 4 * k.BLOCK  # states that one thread does alone


class Worker:
    """A thread's own arrays."""

    def __init__(self, a: Automaton, words: int):
        self.th = np.zeros(24, np.int64)
        self.S, self.T = np.zeros(3 * (a.nw + 1), np.int64), np.zeros(a.nw + 1 + k.WHO, np.int64)
        self.N = no_records(a)
        self.E = buffer(a, np.zeros(len(a.rom_cells), np.int64))[a.nw :].copy()
        self.rom_at = int(a.tab[a.rom_cells[0], 0]) - a.nw if a.rom_cells else 0
        n = len(a.lock_classes)
        self.X = np.concatenate([work_array(a), np.zeros(n + 1, np.int64)])
        self.buf = np.zeros((k.RECENT_AT + k.RECENT, words), np.int64)
        self.rec = np.zeros((k.ROOM + k.SLACK, 2), np.int64)
        self.hashes = np.zeros(k.RECENT_AT + k.RECENT, np.uint64)
        self.counts = np.zeros(max(1, len(a.counters)), np.int64)
        self.distinct = np.zeros((k.MAX_DISTINCT, 9), np.int64)
        self.dstate = np.zeros((k.MAX_DISTINCT, words), np.int64)
        self.outcomes = np.full((FIRST_OUTCOMES, 3), -1, np.int64)
        self.ostate = np.zeros((FIRST_OUTCOMES, words), np.int64)
        self.front = np.zeros((2 * k.ROOM, words), np.int64)
        self.part = np.zeros((2 * k.ROOM, words), np.int64)

    def reset(self, rom: Int64, exact: bool, exclusive: bool, traced: bool) -> None:
        """As new, for a scenario's data."""
        self.th[:] = 0
        self.th[k.T_EXACT], self.th[k.T_EXCLUSIVE], self.th[k.T_TRACED] = exact, exclusive, traced
        self.E[self.rom_at : self.rom_at + len(rom)] = rom
        self.X[X_EDGES:] = 0
        self.counts[:] = 0
        self.hashes[k.RECENT_AT :] = 0
        if len(self.outcomes) > FIRST_OUTCOMES:
            self.outcomes = np.full((FIRST_OUTCOMES, 3), -1, np.int64)
            self.ostate = np.zeros((FIRST_OUTCOMES, self.ostate.shape[1]), np.int64)
        self.outcomes[:, k.O_STATE] = -1
        if self.front.nbytes + self.part.nbytes > WORKERS_OWN:
            give(self.front, self.part)
            self.front = np.zeros((2 * k.ROOM, self.front.shape[1]), np.int64)
            self.part = np.zeros((2 * k.ROOM, self.front.shape[1]), np.int64)

    def rest(self) -> tuple[Any, ...]:
        """What every kernel is given of a thread's own, after `th`."""
        return (
            self.S, self.T, self.E, self.X, self.buf, self.rec, self.hashes, self.counts, self.distinct, self.dstate,
            self.outcomes, self.ostate, self.N,
        )  # fmt: skip

    def more_outcomes(self) -> None:
        """Double the room for outcomes."""
        old, states = self.outcomes, self.ostate
        self.outcomes = np.full((2 * len(old), 3), -1, np.int64)
        self.ostate = np.zeros((2 * len(old), states.shape[1]), np.int64)
        for i in np.flatnonzero(old[:, k.O_STATE] >= 0):
            s = int(old[i, 0]) & (len(self.outcomes) - 1)
            while self.outcomes[s, k.O_STATE] >= 0:
                s = (s + 1) & (len(self.outcomes) - 1)
            self.outcomes[s], self.ostate[s] = old[i], states[i]


def larger(x: NDArray[Any]) -> int:
    """Rows of an array that is to grow: doubled, or a quarter more where address space was taken ahead (room.py)."""
    n = len(x)
    return 2 * n if n < 1 << 18 else n + n // 4


def whole_lines(slots: int) -> int:
    """So many slots of the table, or a few more (entering.py)."""
    return (slots | LINE) + 1


def _worker(code: Steps) -> Worker:
    return code.spare.pop() if code.spare else Worker(code.a, code.packing.words)


class Search:
    """An exploration that can be stopped between rounds, saved, and gone on with.

    `threads`: how many share the work; `exact`: whole states are kept, not fingerprints (unless a fingerprint is the
    whole state: one of less than a word); `traced`: parents are kept as
    long as there are few states; `expect`: states for which there is room from the start; `graph`: whether it can go on
    for ever is found out (one thread); `moves`: records by which movers are told (movers.py), or None; `own`: the table
    of accesses that begin no step (own.py), or None; `symmetric`: of states that differ in which of some processes that
    can be exchanged stands where, one is explored (compile/symmetry.py); neither with `moves` nor with `own`.
    """

    def __init__(
        self,
        a: Automaton,
        init: NDArray[np.uint64],
        rom: Int64,
        *,
        mode: str = "merged",
        exclusive: bool = False,
        dead: bool = True,
        threads: int = 1,
        exact: bool = False,
        traced: bool = True,
        expect: int = 0,
        graph: bool = False,
        moves: Int64 | None = None,
        own: NDArray[np.uint8] | None = None,
        symmetric: bool = False,
    ):
        self.a, self.mode, self.dead = a, mode, dead and mode != "full"
        self.init, self.rom, self.exclusive, self.keep = init, rom, exclusive, TRACED
        self.code = steps_of(a, mode, dead, moves is not None, own is not None, symmetric)
        self.own, self.symmetric = own, symmetric
        self.W = self.code.moving if moves is None else with_records(self.code.moving, moves, len(a.processes))
        self.R = no_records(a) if moves is None else moves
        self.moving = moves is not None and not exclusive
        self.graph = graph and threads == 1
        self.A = self.code.addresses
        self.words = self.code.packing.words
        self.exact = exact = exact and self.code.packing.bits >= 64
        self.P = self.code.program
        self.threads = threads
        self.workers = [_worker(self.code) for _ in range(threads)]
        self.traced = traced and threads == 1
        for w in self.workers:
            w.reset(rom, exact, exclusive, self.traced)
            w.th[k.T_SHARED], w.th[k.T_GRAPH] = threads if threads > 1 else 0, self.graph
        room = whole_lines(max(FIRST_SLOTS, int((expect + threads * k.ROOM) / FULL) + 1))
        self.table = zeros(room, np.uint64, threads)
        self.store = take(max(4 * k.ROOM, expect) + threads * (k.ROOM + k.CHUNK) if exact else 1, self.words)
        self.G = np.zeros(16, np.int64)
        self.parent = take(4 * k.ROOM if self.traced else 1, 0)
        self.action = take(4 * k.ROOM if self.traced else 1, 0)
        self.parent[0] = self.action[0] = 0
        self.number = take(room if self.graph else 1, 0, np.int32)
        self.edges = take(4 * k.ROOM if self.graph else 1, 2, np.int32)
        self.handed = False  # the parents, to who has the result
        self.peak = 0
        self.seconds = 0.0
        self.need_table = False
        self.allow(0)
        w = self.workers[0]
        begin(
            self.A, self.P, self.W, self.R, w.N, self.code.pack(init.astype(np.uint64).view(np.int64)), w.front,
            self.table, self.store, self.G, w.th, w.S, w.T, w.E, w.X, w.buf, w.counts, w.outcomes, self.number,
        )  # fmt: skip
        self.first = w.front[0].copy()
        for w in self.workers[1:]:
            w.N[:] = self.workers[0].N
            w.th[k.T_FRONTIER] = 1
        self.allow(CHAIN)
        self.pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self.G[k.G_LIMIT] = 1 << 60
        self.resize()

    def allow(self, room: int) -> None:
        """So many accesses of a step that are a process's own begin none."""
        for w in self.workers:
            w.X[X_OWN_ROOM] = room if self.own is not None else 0
            w.X[X_NEWS] = 0
            w.X[X_TABLE] = self.own.ctypes.data if self.own is not None else 0

    def stroll(self) -> int:
        """Executions at random, to learn what is touched (`own` is changed); how many."""
        w = self.workers[0]
        self.allow(0)
        return int(stroll(self.A, self.P, w.front, w.buf, w.S, w.T, w.E, w.X, STROLLS, QUIET))

    def learned(self) -> Int64:
        """The records that this exploration made (movers.py)."""
        at = int(self.W[W_WAITS])
        n = len(self.code.moving) - at
        self.code.moving[at:] = np.maximum(self.code.moving[at:], self.W[at : at + n])  # what was tried is known
        out = self.workers[0].N.copy()
        for w in self.workers[1:]:
            out = np.where(out == NEVER, w.N, np.where(w.N == NEVER, out, out & w.N))
        return out

    def close(self) -> None:
        """Give the threads' arrays back for the next exploration."""
        for w in reversed(self.workers):  # the first one has the frontier, and is the first to be used again
            self.code.spare.append(w)
        self.workers = []
        if self.pool is not None:
            self.pool.shutdown()
        give(self.table, self.store, self.number, self.edges, *(() if self.handed else (self.parent, self.action)))
        self.table = self.store = self.number = self.parent = self.action = self.edges = np.zeros(1, np.int64)

    @property
    def depth(self) -> int:
        return int(self.workers[0].th[k.T_LEVEL])

    @property
    def width(self) -> int:
        """States of the depth that is being expanded."""
        return int(self.workers[0].th[k.T_FRONTIER])

    @property
    def counted(self) -> int:
        """States of all depths up to that one."""
        return int(self.workers[0].th[k.T_BASE]) + self.width

    @property
    def waiting(self) -> int:
        """States that are not expanded yet."""
        if self.threads > 1:
            return self.width - min(self.width, int(self.G[k.G_NEXT])) + int(self.G[k.G_TAIL])
        th = self.workers[0].th
        return int(th[k.T_FRONTIER] - th[k.T_HEAD] + th[k.T_TAIL])

    # -- sizes
    def resize(self) -> None:
        """Tell the threads how much room there is."""
        room = int(len(self.table) * FULL)
        if self.exact:
            room = min(room, len(self.store) - (self.threads * k.CHUNK if self.threads > 1 else 0))
        self.G[k.G_ROOM] = room - (self.threads - 1) * k.ROOM

    @property
    def states(self) -> int:
        return int(self.G[k.G_STORED])

    @property
    def bytes(self) -> int:
        """Of everything that grows with the states."""
        own = sum(w.part.nbytes + w.front.nbytes + w.outcomes.nbytes + w.ostate.nbytes for w in self.workers)
        mine = (self.table, self.store, self.parent, self.action, self.number, self.edges)
        return int(sum(x.nbytes for x in mine) + own)

    def grow_needs(self) -> int:
        """Bytes that growing the table takes while both are there."""
        return self._next_slots() * 8 + (larger(self.store) * self.words * 8 - self.store.nbytes if self.exact else 0)

    def _next_slots(self) -> int:
        n = len(self.table)
        return 2 * n if n < DOUBLES else whole_lines(n + n // 2)

    def grow(self) -> None:
        """Make room for more states."""
        if self.exact and self.states + 2 * self.threads * k.ROOM > len(self.store):
            self.store = more(self.store, larger(self.store), len(self.store))
        if self.states + 2 * self.threads * k.ROOM > len(self.table) * FULL:
            new = zeros(self._next_slots(), np.uint64, self.threads)
            old = self.table
            numbers = take(len(new) if self.graph else 1, 0, np.int32)
            cuts = np.linspace(0, len(old), self.threads + 1).astype(np.int64)
            jobs: list[tuple[Any, ...]] = []
            for i in range(self.threads):
                lo, hi = int(cuts[i]), int(cuts[i + 1])
                both = (old, new, self.number, numbers)
                whole = (self.store, self.words) if self.exact else ()
                jobs.append((*both, *whole, lo, hi, self.threads == 1))
            self._parallel(rehash_exact if self.exact else rehash, jobs)
            give(self.table, self.number)
            self.table, self.number = new, numbers
        self.resize()

    def _parallel(self, fn: Callable[..., Any], jobs: list[tuple[Any, ...]]) -> None:
        others = [self.pool.submit(fn, *j) for j in jobs[1:]] if self.pool is not None else []
        fn(*jobs[0])
        for t in others:
            t.result()

    # -- rounds
    def round(self, budget: int) -> bool:
        """Work until something is needed, or each thread has expanded about `budget` states; False when nothing is
        left."""
        if self.threads > 1:
            return self._share(budget)
        w = self.workers[0]
        w.th[k.T_BUDGET] = budget
        drive(
            self.A, self.P, self.W, self.R, w.front, w.part, self.table, self.store, self.G, w.th, *w.rest(),
            self.parent, self.action, self.number, self.edges,
        )  # fmt: skip
        self._supply(w)
        self.need_table = w.th[k.T_WHY] == k.WHY_TABLE
        return bool(w.th[k.T_WHY] != k.WHY_DONE)

    def _supply(self, w: Worker) -> None:
        """More room for a thread that came back for it (the table is grown elsewhere)."""
        if w.th[k.T_WHY] == k.WHY_FRONTIER:
            self._more_frontier()
            if self.traced and self.states + k.ROOM > len(self.parent):
                self._more_parents()
            if self.graph and w.th[k.T_EDGES] + k.ROOM > len(self.edges):
                self.edges = more(self.edges, larger(self.edges), int(w.th[k.T_EDGES]))
        elif w.th[k.T_WHY] == k.WHY_OUTCOMES:
            w.more_outcomes()

    def _more_frontier(self) -> None:
        """Room for the next states of each thread."""
        w = self.workers[0]
        used, needed = int(w.th[k.T_TAIL]), k.ROOM
        if self.threads > 1:
            used, needed = int(self.G[k.G_TAIL]), self.threads * (k.ROOM + k.CHUNK)
        if self.exact:
            return
        if w.th[k.T_PARITY]:
            if used + needed > len(w.front):
                w.front = more(w.front, larger(w.front), used)
        elif used + needed > len(w.part):
            w.part = more(w.part, larger(w.part), used)

    def _fronts(self) -> tuple[Int64, Int64]:
        """The frontier and the next one."""
        w = self.workers[0]
        if self.exact:
            at = int(w.th[k.T_BASE])
            return self.store[at:], self.store[at + self.width :]
        return (w.part, w.front) if w.th[k.T_PARITY] else (w.front, w.part)

    def _share(self, budget: int) -> bool:
        if self.width == 0:  # one that had ended
            return False
        use = self.workers
        if self.width <= FEW:
            use = [w for w in use if w.th[k.T_PENDING] or w.th[k.T_HEAD] < w.th[k.T_END]] or use[:1]
        self.G[k.G_UPTO] = self.G[k.G_NEXT] + budget * self.threads
        fronts = self._fronts()
        self._parallel(self._expand, [(w, *fronts) for w in use])
        self.need_table = any(w.th[k.T_WHY] == k.WHY_TABLE for w in use)
        for w in use:
            self._supply(w)
        if all(w.th[k.T_WHY] == k.WHY_DONE for w in use):
            return self._next_depth()
        return True

    def _expand(self, w: Worker, front: Int64, nxt: Int64) -> None:
        """A thread's share of the depth."""
        work(
            self.A, self.P, self.W, self.R, front, nxt, self.table, self.store, self.G, w.th, *w.rest(), self.parent,
            self.action, self.number, self.edges,
        )  # fmt: skip

    def _next_depth(self) -> bool:
        own = [(int(w.th[k.T_TAIL]), int(w.th[k.T_ROWS])) for w in self.workers]
        first = int(self.workers[0].th[k.T_BASE]) + self.width if self.exact else -1
        n = close_ranks(self._fronts()[1], np.array(sorted(own)), int(self.G[k.G_TAIL]), self.table, first)
        self.G[k.G_TAIL] = 0
        for w in self.workers:
            w.th[k.T_ROWS] = 0
            deeper(w.th, self.G, n)
        return bool(n)

    def _more_parents(self) -> None:
        known = any(w.th[k.T_DISTINCT] for w in self.workers)
        if self.states > (max(self.keep, TRACED_MORE) if known else self.keep):
            self.forget_parents()
            return
        self.parent = more(self.parent, larger(self.parent), self.states)
        self.action = more(self.action, larger(self.action), self.states)

    def forget_parents(self) -> None:
        """Whoever asks for a path has to explore again."""
        self.traced = False
        give(self.parent, self.action)
        self.parent = self.action = np.zeros(1, np.int64)
        for w in self.workers:
            w.th[k.T_TRACED] = 0

    # -- results
    def exploration(self, complete: bool, reason: str) -> Exploration:
        """What was found so far."""
        a = self.a
        ex = Exploration(a, self.states)
        ex.transitions = sum(int(w.th[k.T_TRANSITIONS]) for w in self.workers)
        ex.finals = sum(int(w.th[k.T_FINALS]) for w in self.workers)
        ex.depth, ex.complete, ex.reason, ex.seconds = self.depth, complete, reason, self.seconds
        ex.counters = np.sum([w.counts for w in self.workers], axis=0)
        ex.bytes = max(self.peak, self.bytes)
        ex.moved, ex.news = sum(int(w.th[k.T_MOVED]) for w in self.workers), int(self.G[k.G_GROWN])
        if self.graph and complete:
            n = self.states
            room = take(n + 1, 0), take(n + 1, 0, np.int32), take(n + 1, 0, np.uint8)
            ex.cyclic = not acyclic(self.edges, int(self.workers[0].th[k.T_EDGES]), n, *room)
            give(*room)
        if self.traced:
            ex.parent, ex.action = self.parent[: self.states], self.action[: self.states]
            self.handed = complete and self.states > HANDED  # nothing is added to them any more
            if not self.handed:
                ex.parent, ex.action = ex.parent.copy(), ex.action.copy()
        if self.moving or self.own is not None or self.symmetric or not self.traced:
            from seqfault.explore.retrace import Retrace

            ex.retrace = again = Retrace(self, ex)
            ex.real = again.real if self.symmetric else None
        rows: dict[tuple[int, int, int], tuple[tuple[Any, ...], Int64, Int64, int]] = {}
        for w in self.workers:
            for i in range(int(w.th[k.T_DISTINCT])):
                d = w.distinct[i]
                key = int(d[k.V_KIND]), int(d[k.V_PC]), int(d[k.V_POOL])
                rank = (int(d[k.V_LEVEL]), *w.dstate[i].tolist()) if self.threads > 1 else (int(d[k.V_LEVEL]),)
                n = int(d[k.V_COUNT])
                if key in rows:
                    n += rows[key][3]
                    if rows[key][0] <= rank:
                        rows[key] = (*rows[key][:3], n)
                        continue
                rows[key] = rank, d, w.dstate[i], n
        for (kind, pc, pool), (rank, d, state, n) in rows.items():
            cell = -1
            if pc < -1:
                cell, pc = -2 - pc, -1
            v = Found(
                kind, pc, pool, int(d[k.V_INDEX]), int(d[k.V_STATE]), int(d[k.V_PROCESS]), int(d[k.V_CHOICE]), n, cell
            )
            ex.violations.append(v)
            ex.packed[v.state] = state.copy(), int(rank[0])
        best: dict[int, tuple[tuple[int, ...], int, Int64]] = {}
        for w in self.workers:
            for i in np.flatnonzero(w.outcomes[:, k.O_STATE] >= 0).tolist():
                h, state_no, level = (int(x) for x in w.outcomes[i].tolist())
                where = (level, *w.ostate[i].tolist()) if self.threads > 1 else (level,)
                if h not in best or where < best[h][0]:
                    best[h] = where, state_no, w.ostate[i]
        for h, (where, state_no, state) in best.items():
            ex.outcomes[h] = state_no
            ex.packed[state_no] = state.copy(), int(where[0])
        n = len(a.lock_classes)
        edges = np.zeros((n, n), np.int64)
        for w in self.workers:
            mine = w.X[X_EDGES : X_EDGES + n * n].reshape(n, n)
            edges = np.where((edges == 0) | ((mine > 0) & (mine < edges)), mine, edges) if self.threads > 1 else mine
        for i, j in zip(*np.nonzero(edges), strict=True):
            ex.edges.append((int(i), int(j), int(edges[i, j]) - 1))
        return ex


@dataclass
class Seen(Exploration):
    """What `progress` is told of an exploration that goes on: also how many states the depth has that is being
    expanded, and all up to it; and the limit for `bytes`."""

    width: int = 0
    counted: int = 0
    max_memory: int = 0


GROWN = "a step was taken for a mover that is none"  # the exploration is to be repeated


def run(
    s: Search,
    *,
    max_states: int = 1 << 40,
    max_memory: int = 1 << 60,
    timeout: float | None = None,
    progress: Callable[[Exploration, int], None] | None = None,
    between: Callable[[Search], None] | None = None,
    stopped: Callable[[Search], None] | None = None,
) -> Exploration:
    """Explore until everything was seen or a limit is reached.  `between(search)` is called between rounds,
    `stopped(search)` when a limit is reached or a signal came (interrupt.py).  `timeout` is for this call; the
    `seconds` of the result are also those before it."""
    begun = time.perf_counter()
    t0 = begun - s.seconds
    budget = BUDGET
    s.G[k.G_LIMIT] = max_states
    reason = ""
    seen = Seen(s.a, max_memory=max_memory)
    while True:
        before = time.perf_counter()
        more = s.round(budget)
        if any(w.th[k.T_WHY] == k.WHY_GROWN for w in s.workers):
            return s.exploration(False, GROWN)
        now = time.perf_counter()
        s.seconds = now - t0
        s.peak = max(s.peak, s.bytes)
        if timeout is None and s.code.explored(now - before):
            s.A = s.code.addresses
        if now - before > CHUNK_S * 1.5:
            budget = max(1000, budget * 2 // 3)
        elif now - before < CHUNK_S and any(w.th[k.T_WHY] == k.WHY_PAUSE for w in s.workers):
            budget = min(5_000_000, int(budget * min(2.0, CHUNK_S / max(1e-6, now - before))))
        if progress is not None:
            seen.states, seen.depth, seen.seconds = s.states, s.depth, s.seconds
            seen.transitions = sum(int(w.th[k.T_TRANSITIONS]) for w in s.workers)
            seen.width, seen.counted, seen.bytes = s.width, s.counted, s.bytes
            progress(seen, s.waiting)
        if not more:
            break
        needs = s.grow_needs() if s.need_table else 0
        if interrupt.asked():
            reason = interrupt.INTERRUPTED
        elif s.states > max_states:
            reason = f"limit of {max_states:,} states"
        elif timeout is not None and now - begun > timeout:
            reason = f"time limit of {timeout:g} s"
        elif s.bytes + needs > max_memory:
            if s.traced:
                s.forget_parents()
            if s.bytes + needs > max_memory:
                reason = f"memory limit of {max_memory / (1 << 20):,.0f} MiB"
        if reason:
            if stopped is not None:
                stopped(s)
            break
        if s.need_table:
            s.grow()
            s.peak = max(s.peak, s.bytes)
        if between is not None:
            between(s)
    return s.exploration(not reason, reason)
