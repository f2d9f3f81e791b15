"""What a breadth-first exploration by tier 0 keeps, depth after depth: the frontier, the table of fingerprints, how
each state was reached, what was found.  engine.py and reduced.py fill it, each by its own `expand`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.exploration import Exploration, Found
from seqfault.explore.jit import jit
from seqfault.explore.tables import X_EDGES

SLACK = 4096  # room for the successors of one state
MAX_DISTINCT = 512
CHUNK_S = 0.15

# ctl: where a chunk of the exploration stands
C_HEAD, C_TAIL, C_TRANSITIONS, C_DISTINCT, C_FINALS, C_OUTCOMES, C_STORED, C_WHY, C_EDGES = range(9)
WHY_DONE, WHY_PAUSE, WHY_FRONTIER, WHY_TABLE, WHY_OUTCOMES, WHY_EDGES = range(6)
# columns of the distinct violations
V_KIND, V_PC, V_POOL, V_INDEX, V_STATE, V_PROCESS, V_CHOICE, V_COUNT = range(8)


@jit
def rehash(old, new, index, indexed):  # type: ignore[no-untyped-def]
    mask = np.uint64(new.shape[0] - 1)
    for i in range(old.shape[0]):
        h = old[i]
        if h != 0:
            s = h & mask
            while new[s] != 0:
                s = (s + np.uint64(1)) & mask
            new[s] = h
            if index.shape[0] > 1:
                indexed[s] = index[i]


class Levels:
    """`first`: the state that it begins with, as `expand` keeps it, and its fingerprint.  `budget`: how many states the
    first chunk may expand; `least`: any."""

    def __init__(self, a: Automaton, first: NDArray[np.int64], fingerprint: np.uint64, budget: int, least: int):
        self.a, self.width, self.budget, self.least = a, len(first), budget, least
        self.ctl = np.zeros(16, np.int64)
        self.table = np.zeros(1 << 14, np.uint64)
        self.cur = np.zeros((SLACK, self.width), np.int64)
        self.nxt = np.zeros((2 * SLACK, self.width), np.int64)
        self.parent = np.zeros(2 * SLACK, np.int64)
        self.action = np.zeros(2 * SLACK, np.int64)
        self.distinct = np.zeros((MAX_DISTINCT, 8), np.int64)
        self.outcomes = np.full((1 << 10, 2), -1, np.int64)
        self.ncur, self.base, self.depth = 1, 0, 0
        self.cur[0] = first
        self.table[int(fingerprint) & (len(self.table) - 1)] = fingerprint
        self.ctl[C_STORED] = 1

    @property
    def why(self) -> int:
        return int(self.ctl[C_WHY])

    @property
    def stored(self) -> int:
        return int(self.ctl[C_STORED])

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.table, self.cur, self.nxt, self.parent, self.action))

    def paused(self, before: int, seconds: float) -> None:
        """A chunk from state `before` on took so long: how many the next may expand."""
        if self.why == WHY_PAUSE:
            worked = max(1, int(self.ctl[C_HEAD]) - before)
            self.budget = int(min(5_000_000, max(self.least, worked * CHUNK_S / max(1e-6, seconds))))

    def limit(self, more: int, max_states: int, max_memory: int, timeout: float | None, seconds: float) -> str:
        """Which limit is reached, or "".  `more`: bytes beside these."""
        used = self.nbytes + more
        if self.stored > max_states:
            return f"limit of {max_states:,} states"
        if timeout is not None and seconds > timeout:
            return f"time limit of {timeout:g} s"
        if (self.why == WHY_TABLE and used + self.table.nbytes > max_memory) or (
            self.why == WHY_FRONTIER and used + self.nxt.nbytes + self.parent.nbytes > max_memory
        ):
            return f"memory limit of {max_memory / (1 << 20):,.0f} MiB"
        return ""

    def tell(self, ex: Exploration, progress: Callable[[Exploration, int], None] | None, seconds: float) -> None:
        if progress is not None:
            ex.states, ex.transitions, ex.depth = self.stored, int(self.ctl[C_TRANSITIONS]), self.depth
            ex.seconds = seconds
            progress(ex, int(self.ctl[C_TAIL]) + self.ncur - int(self.ctl[C_HEAD]))

    def larger_table(self, index: NDArray[np.int32], indexed: NDArray[np.int32]) -> None:
        """Twice the table; `index`, by place in the table, goes to `indexed` (one number each: there is none)."""
        bigger = np.zeros(len(self.table) * 2, np.uint64)
        rehash(self.table, bigger, index, indexed)
        self.table = bigger

    def make_room(self) -> None:
        """Where the frontier, or the outcomes, have no room."""
        if self.why == WHY_FRONTIER:
            if int(self.ctl[C_TAIL]) + SLACK > len(self.nxt):
                self.nxt = np.concatenate([self.nxt, np.zeros_like(self.nxt)])
            if self.stored + SLACK > len(self.parent):
                self.parent = np.concatenate([self.parent, np.zeros_like(self.parent)])
                self.action = np.concatenate([self.action, np.zeros_like(self.action)])
        elif self.why == WHY_OUTCOMES:
            bigger = np.full((len(self.outcomes) * 2, 2), -1, np.int64)
            for h, s in self.outcomes[self.outcomes[:, 1] >= 0]:
                k = int(h) & (len(bigger) - 1)
                while bigger[k, 1] >= 0:
                    k = (k + 1) & (len(bigger) - 1)
                bigger[k] = h, s
            self.outcomes = bigger

    def deeper(self) -> bool:
        """On to the next depth; whether it has any states."""
        self.base += self.ncur
        self.ncur = int(self.ctl[C_TAIL])
        self.ctl[C_HEAD] = self.ctl[C_TAIL] = 0
        if self.ncur == 0:
            return False
        self.depth += 1
        self.cur, self.nxt = self.nxt, self.cur
        if len(self.nxt) < 2 * SLACK:
            self.nxt = np.zeros((2 * SLACK, self.width), np.int64)
        return True

    def fill(self, ex: Exploration, X: NDArray[np.int64], reason: str, seconds: float) -> None:
        """Enter in `ex` what was found; X has the order of locks."""
        n = self.stored
        ex.states, ex.transitions, ex.depth = n, int(self.ctl[C_TRANSITIONS]), self.depth
        ex.finals = int(self.ctl[C_FINALS])
        ex.parent, ex.action = self.parent[:n].copy(), self.action[:n].copy()
        ex.outcomes = {int(h): int(s) for h, s in self.outcomes if s >= 0}
        ex.complete, ex.reason = not reason, reason
        for row in self.distinct[: int(self.ctl[C_DISTINCT])]:
            k, pc, pool, index, state, process, choice, count = (int(x) for x in row)
            cell = -1
            if pc < -1:  # a rule about a cell
                cell, pc = -2 - pc, -1
            ex.violations.append(Found(k, pc, pool, index, state, process, choice, count, cell))
        classes = len(self.a.lock_classes)
        order = X[X_EDGES : X_EDGES + classes * classes].reshape(classes, classes)
        for i, j in zip(*np.nonzero(order), strict=True):
            ex.edges.append((int(i), int(j), int(order[i, j]) - 1))
        ex.bytes, ex.seconds = self.nbytes, seconds
