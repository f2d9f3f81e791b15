"""Steps that commute with everything that others do: they are taken at once, and no state is kept before them.

Which steps these are is not declared but learned, scenario by scenario.  For each cell and process, a record of loads and
one of stores keep the locks that were held at every such access.  A step is a mover if no other process has an access to the
same cell (one of the two a store) except under a lock that the step's process now holds against it.  A step that takes a
lock, or looks whether an object lives that somebody else frees, only moves to the right; one that gives a lock back only
to the left (Lipton 1975).  Exploration starts from empty records, and is repeated with what was seen until nothing new
is: docs/engine.md has the argument.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.work import LOOK, MAX_ACCESSED, OBJECT, READ, X_ACCESSED
from seqfault.explore.interp import get
from seqfault.explore.jit import jit_search as jit

# W: whether it is on; how many locks; offsets of the locks, of each cell's number of cells in its object, of the lock that
# a cell belongs to (its number plus one)
W_ON, W_LOCKS, W_LOCK, W_STRIDE, W_WHOSE = range(5)
W_HEADER = 8
LOCK_ROW = 3  # 0 spinlock, 1 semaphore; its owner's or writer's cell; its readers' cell
NEVER = -1  # in a record: no such access
MAX_LOCKS = 31  # two bits of a record each
CHAIN = 1000  # movers in a row
RIGHT, LEFT, TAKES = 1, 2, 4  # what `classify` says; TAKES: the step takes a lock


def tables(a: Automaton, on: bool) -> NDArray[np.int64]:
    """`W` for an automaton: its locks are found by the cells that they are made of."""
    cells = {c.name: c.addr for c in a.cells}
    used = [c for c in a.cells if a.tab[c.addr, 2] and a.tab[c.addr, 0] < a.nw]
    locks: list[list[int]] = []
    for c in used:
        if c.path.endswith(".owner") and c.name.replace(".owner", ".writer") not in cells:
            locks.append([0, c.addr, 0])
        elif c.path.endswith(".writer") and c.name[: -len("writer")] + "readers" in cells:
            locks.append([1, c.addr, cells[c.name[: -len("writer")] + "readers"]])
    locks = locks[:MAX_LOCKS]
    stride = [0] * a.ncell
    for p in a.pools:
        for i in range(p.n):
            stride[p.base + i * p.stride] = p.stride
    head = [0] * W_HEADER
    head[W_ON], head[W_LOCKS], head[W_LOCK] = on, len(locks), W_HEADER
    head[W_STRIDE] = W_HEADER + LOCK_ROW * len(locks)
    head[W_WHOSE] = head[W_STRIDE] + a.ncell
    whose = [0] * a.ncell
    for i, (semaphore, first, second) in enumerate(locks):
        whose[first] = i + 1
        if semaphore:
            whose[second] = i + 1
    return np.array([*head, *(x for r in locks for x in r), *stride, *whose], np.int64)


def no_records(a: Automaton) -> NDArray[np.int64]:
    """Records (cells x processes x 2) of an exploration that has not begun."""
    return np.full(a.ncell * len(a.processes) * 2, NEVER, np.int64)


@jit
def held(S, P, W, p):  # type: ignore[no-untyped-def]
    """The locks that process `p` holds: two bits each, the lower one for holding it at all, the upper for writing."""
    bits = np.int64(0)
    for k in range(W[W_LOCKS]):
        r = W[W_LOCK] + LOCK_ROW * k
        owner = get(S, P, W[r + 1], 0)
        if W[r] == 0:
            if owner == p + 1:
                bits |= np.int64(3) << (2 * k)
            continue
        readers = get(S, P, W[r + 2], 0)
        if owner == p + 1 and readers == 0:  # one that does not exclude is none
            bits |= np.int64(3) << (2 * k)
        elif owner == 0 and (readers >> p) & 1:
            bits |= np.int64(1) << (2 * k)
    return bits


@jit
def against(bits):  # type: ignore[no-untyped-def]
    """The lock bits that nobody else can have while somebody holds `bits`."""
    any_ = np.int64(0x1555555555555555)
    low = bits & any_
    high = (bits >> 1) & any_
    return high | ((low & ~high) << 1)


@jit
def locks_touched(W, X):  # type: ignore[no-untyped-def]
    """Whether an access in X is to a cell of a lock."""
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        if W[W[W_WHOSE] + (X[X_ACCESSED + 1 + j] >> 2)] != 0:
            return True
    return False


@jit
def disturbed(R, cell, no, p, nproc, store):  # type: ignore[no-untyped-def]
    """Whether another process stores to `cell` (or, against a store, loads it) without a lock that `no` rules out."""
    for q in range(nproc):
        if q == p:
            continue
        i = (cell * nproc + q) * 2
        if R[i + 1] != NEVER and R[i + 1] & no == 0:
            return True
        if store and R[i] != NEVER and R[i] & no == 0:
            return True
    return False


@jit
def classify(W, R, X, before, after, p, nproc):  # type: ignore[no-untyped-def]
    """Where the step of `p` whose accesses are in X moves: RIGHT and LEFT bits, TAKES.  `before`, `after`: the locks
    held."""
    n = X[X_ACCESSED]
    if n > MAX_ACCESSED:
        return 0
    no = against(before)
    says = RIGHT | LEFT
    for j in range(n):
        code = X[X_ACCESSED + 1 + j]
        cell = code >> 2
        how = code & 3
        whose = W[W[W_WHOSE] + cell]
        if whose != 0:
            was = (before >> (2 * (whose - 1))) & 3
            now = (after >> (2 * (whose - 1))) & 3
            if was != now:
                if disturbed(R, cell, np.int64(0), p, nproc, True):
                    return 0
                says &= RIGHT | TAKES if now > was else LEFT
                if now > was:
                    says |= TAKES
                continue
        if how == LOOK:
            if disturbed(R, cell, no, p, nproc, False):
                says &= ~LEFT
            continue
        many = np.int64(1)
        if how == OBJECT:
            many = W[W[W_STRIDE] + cell]
        for c in range(cell, cell + many):
            if disturbed(R, c, no, p, nproc, how != READ):
                return 0
    return says


@jit
def record(W, R, X, before, after, blocked, p, nproc):  # type: ignore[no-untyped-def]
    """Enter the accesses in X in the records; whether anything was new.

    Taking a lock and giving it back are no accesses to its cells: `classify` knows what they do.  `blocked`: the step
    could not be taken."""
    new = False
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        code = X[X_ACCESSED + 1 + j]
        cell = code >> 2
        whose = W[W[W_WHOSE] + cell]
        if whose != 0 and (blocked or ((before ^ after) >> (2 * (whose - 1))) & 3 != 0):
            continue
        many = np.int64(1)
        if code & 3 == OBJECT:
            many = W[W[W_STRIDE] + cell]
        for c in range(cell, cell + many):
            i = (c * nproc + p) * 2 + (0 if code & 3 == READ or code & 3 == LOOK else 1)
            now = R[i] & before if R[i] != NEVER else before
            if now != R[i]:
                R[i] = now
                new = True
    return new
