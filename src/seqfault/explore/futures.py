"""What a process may still touch, from where it stands: learned, state by state of its control.

A process's *control* is its place in the text, the calls that it is in, and the registers that its outermost function
keeps across calls (in `cpu_main`: which operation it has come to).  For each control the cells that the process may yet
load, store, or take for a lock are the accesses of its next step and those of every control that the step leads to.
Which those are is learned as exploration goes on, and exploration is repeated until nothing new is met: docs/engine.md,
"Why records may be learned".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op
from seqfault.explore.jit import jit_views as jit
from seqfault.explore.movers import W_WHOSE
from seqfault.explore.slots import mix
from seqfault.explore.tables import O_PROCS, P_BASE, P_WORDS, PROCESS_ROW

# ATOMICS: loads and stores that are no plain ones (lkmm).  EARLY: loads before the process's next full barrier or
# locked operation (tso); plain ones before it takes one lock (lkmm, memory_spared.py).  EARLY_STORES: such stores
LOADS, STORES, TAKES, ATOMICS, EARLY, EARLY_STORES = range(6)
SETS = 6
IDS = 1 << 15
EDGES = 1 << 18
# Q: numbers, then of each process which bits of its region make up its control
Q_IDS, Q_EDGES, Q_NEWS, Q_LOST, Q_WIDTH, Q_REGION, Q_MASKS = range(7)
# of a process that cannot step: how many cells it looked at to find that (0: it can, or they are too many), then these
ASLEEP_ROW = 16
ALL = (1 << 64) - 1


_masks: dict[int, tuple[Automaton, NDArray[np.int64]]] = {}


def control_masks(a: Automaton) -> NDArray[np.int64]:
    """Of each process, the bits of its region (processes x words) that make up its control; looked for once."""
    if id(a) not in _masks:
        _masks[id(a)] = a, _control_masks(a)  # with the automaton, so that its number stays its own
    return _masks[id(a)][1]


def _control_masks(a: Automaton) -> NDArray[np.int64]:
    region = max(p.words for p in a.processes)
    out = np.zeros((len(a.processes), max(region, a.masks.shape[1])), np.uint64)
    calls = np.flatnonzero(a.code[:, 0] == Op.CALL).tolist()
    slots = {a.pc_slot} | set(a.code[calls, 1].tolist())
    for i, p in enumerate(a.processes):
        if p.base >= a.observer_base or p.words < 1:
            continue
        for s in slots:
            word, shift, mask = (int(x) for x in a.tab[s, :3])
            if word < p.words:
                out[i, word] |= np.uint64((mask & ALL) << shift & ALL)
        mine = a.where[p.entry].function
        for pc in calls:
            if a.where[pc].function == mine and not a.where[pc].chain:
                out[i, : a.masks.shape[1]] |= a.masks[pc].view(np.uint64)
    return out.view(np.int64)


class Futures:
    """What is known at the beginning of an exploration (`known`), and what it learns (`own`, `edges`).

    `known`, `own`: of each control, of each 64 cells, the sets of those that it may yet touch, a bit for a cell: what
    is asked of one cell lies together.
    """

    def __init__(self, a: Automaton, cells: int):
        masks = control_masks(a)
        width = (cells + 63) // 64
        self.Q = np.concatenate([np.zeros(Q_MASKS, np.int64), masks.reshape(-1)])
        self.Q[Q_WIDTH], self.Q[Q_REGION] = width, masks.shape[1]
        self.keys = np.zeros(2 * IDS, np.int64)  # then those that there are, in the order in which they were met
        self.known = np.zeros(IDS * SETS * width, np.int64)
        self.own = np.zeros(IDS * SETS * width, np.int64)
        self.edges = np.zeros(2 * EDGES, np.int64)  # as `keys`
        self.classes = np.zeros(IDS, np.int64)

    def again(self, racy: NDArray[np.int64] | None = None) -> None:
        """Make what was learned what is known.  Controls of one class may yet do the same to `racy` cells."""
        settle_futures(self.Q, self.keys, self.known, self.own, self.edges)
        if racy is not None:
            classify(self.Q, self.keys, self.known, racy, self.classes)
        self.Q[Q_NEWS] = 0


@jit
def control(S, P, Q, keys, p):  # type: ignore[no-untyped-def]
    """Number of the control of process `p` in state S; a new one if it was not met."""
    i = P[O_PROCS] + p * PROCESS_ROW
    pb = P[i + P_BASE]
    m = Q_MASKS + p * Q[Q_REGION]
    h = np.uint64(p + 1) * np.uint64(0x9E3779B97F4A7C15)
    for w in range(P[i + P_WORDS]):
        if Q[m + w]:
            h = mix(h ^ np.uint64(S[pb + w] & Q[m + w])) + np.uint64(0x9E3779B97F4A7C15)
    s = np.int64(h >> np.uint64(40)) & (IDS - 1)
    key = np.int64(h | np.uint64(1))
    while keys[s] != key:
        if keys[s] == 0:
            if Q[Q_IDS] * 4 >= IDS * 3:
                Q[Q_LOST] = 1
                return s
            keys[s] = key
            keys[IDS + Q[Q_IDS]] = s
            Q[Q_IDS] += 1
            return s
        s = (s + 1) & (IDS - 1)
    return s


@jit
def leads(Q, known, edges, i, j, drained):  # type: ignore[no-untyped-def]
    """A step leads from control `i` to `j`; `drained`: what the process does there is not EARLY to it."""
    if i == j:
        return
    e = (np.int64(i) << 32 | np.int64(j) << 1 | np.int64(1 if drained else 0)) + 1
    s = np.int64(mix(np.uint64(e)) >> np.uint64(40)) & (EDGES - 1)
    while edges[s] != e:
        if edges[s] == 0:
            if Q[Q_EDGES] * 4 >= EDGES * 3:
                Q[Q_LOST] = 1
                return
            edges[s] = e
            edges[EDGES + Q[Q_EDGES]] = s
            Q[Q_EDGES] += 1
            a, b = i * SETS * Q[Q_WIDTH], j * SETS * Q[Q_WIDTH]
            for w in range(SETS * Q[Q_WIDTH]):
                if known[b + w] & ~known[a + w] and not (drained and w % SETS >= EARLY):
                    Q[Q_NEWS] += 1
                    break
            return
        s = (s + 1) & (EDGES - 1)


@jit
def touches(Q, known, own, i, cell, kind):  # type: ignore[no-untyped-def]
    """The step from control `i` touches a cell."""
    w = (i * Q[Q_WIDTH] + (cell >> 6)) * SETS + kind
    bit = np.int64(1) << (cell & 63)
    if own[w] & bit == 0:
        own[w] |= bit
        if known[w] & bit == 0:
            Q[Q_NEWS] += 1


@jit
def may(Q, known, i, cell, kind):  # type: ignore[no-untyped-def]
    """Whether a process in control `i` may yet touch a cell."""
    return (known[(i * Q[Q_WIDTH] + (cell >> 6)) * SETS + kind] >> (cell & 63)) & 1 != 0


@jit
def classify(Q, keys, known, racy, classes):  # type: ignore[no-untyped-def]
    width = Q[Q_WIDTH]
    mask = np.zeros(width, np.int64)
    for c in range(racy.shape[0]):
        if racy[c]:
            mask[c >> 6] |= np.int64(1) << (c & 63)
    for k in range(Q[Q_IDS]):
        i = keys[IDS + k]
        h = np.uint64(0)
        for kind in range(SETS):
            for w in range(width):
                x = known[(i * width + w) * SETS + kind] & mask[w]
                if x:
                    h = mix(h ^ np.uint64(x) + np.uint64(kind * width + w + 1) * np.uint64(0x9E3779B97F4A7C15))
        classes[i] = np.int64(h)


@jit
def asleep_but_for(W, R, Q, known, at, Z, before, q, p, nproc):  # type: ignore[no-untyped-def]
    """Whether process `q`, which cannot step now (Z), can only be woken by `p`, which holds the locks `before`."""
    z = q * ASLEEP_ROW
    if Z[z] == 0:
        return False
    for j in range(Z[z]):
        cell = Z[z + 1 + j]
        whose = W[W[W_WHOSE] + cell]
        if whose != 0 and (before >> (2 * (whose - 1))) & 3 == 3:
            continue  # nobody else takes it before `p` gives it back
        for r in range(nproc):
            if r != p and r != q and (may(Q, known, at[r], cell, STORES) or may(Q, known, at[r], cell, TAKES)):
                return False
    return True


@jit
def waits_on(Z, q, cell):  # type: ignore[no-untyped-def]
    """Whether `q`, which cannot step, looked at `cell` to find that."""
    z = q * ASLEEP_ROW
    for j in range(Z[z]):  # noqa: SIM110
        if Z[z + 1 + j] == cell:
            return True
    return False


@jit
def settle_futures(Q, keys, known, own, edges):  # type: ignore[no-untyped-def]
    """What each control may still touch: what its steps touch, and what those may to which they lead."""
    row = SETS * Q[Q_WIDTH]
    for k in range(Q[Q_IDS]):
        i = keys[IDS + k]
        for w in range(row):
            known[i * row + w] = own[i * row + w]
    changed = True
    while changed:
        changed = False
        for k in range(Q[Q_EDGES] - 1, -1, -1):
            e = edges[edges[EDGES + k]] - 1
            i, j, drained = e >> 32, (e >> 1) & 0x7FFFFFFF, e & 1
            for w in range(row):
                more = known[j * row + w] & ~known[i * row + w]
                if more and not (drained and w % SETS >= EARLY):
                    known[i * row + w] |= more
                    changed = True
