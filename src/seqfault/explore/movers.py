"""Steps that commute with everything that others do: they are taken at once, and no state is kept before them.

Which steps these are is not declared but learned, scenario by scenario.  For each cell and process, a record of loads
and one of stores keep the locks that were held at every such access.  A step is a mover if no other process has an
access to the same cell (one of the two a store) except under a lock that the step's process now holds against it.  A
step that takes a lock, or looks whether an object lives that somebody else frees, only moves to the right; one that
gives a lock back only to the left (Lipton 1975).  Exploration starts from empty records, and is repeated with what was
seen until nothing new is: docs/engine.md has the argument.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.work import CELL, LOOK, MAX_ACCESSED, OBJECT, READ, X_ACCESSED
from seqfault.explore.jit import jit_search as jit
from seqfault.explore.locksets import against, holding, lock_rows
from seqfault.explore.slots import get, put

# W: whether it is on; how many locks; offsets of the locks, of each cell's number of cells in its object, of the lock
# that a cell belongs to (its number plus one), of which instructions take a lock without waiting: TRIES
W_ON, W_LOCKS, W_LOCK, W_STRIDE, W_WHOSE, W_WAITS, W_KNOWN = range(7)
W_HEADER = 8
LOCK_ROW = 4  # 0 spinlock, 1 semaphore; its owner's or writer's cell; its readers' cell; its number
ALWAYS, MAYBE = 1, 2  # of a cell and a process, whether a load is in somebody's way; times 4: a store
KINDS = 3
NEVER = -1  # in a record: no such access
CHAIN = 1000  # movers in a row
TRIES = 1
RIGHT, LEFT, TAKES = 1, 2, 4  # what `classify` says; TAKES: the step takes a lock


def tables(a: Automaton, on: bool, more: int = 0) -> NDArray[np.int64]:
    """`W` for an automaton: its locks are found by the cells that they are made of.  `more`: cells behind its own."""
    locks = [[*r, i] for i, r in enumerate(lock_rows(a))]
    ncell = a.ncell + more
    stride = [0] * ncell
    for p in a.pools:
        for i in range(p.n):
            stride[p.base + i * p.stride] = p.stride
    head = [0] * W_HEADER
    head[W_ON], head[W_LOCKS], head[W_LOCK] = on, len(locks), W_HEADER
    head[W_STRIDE] = W_HEADER + LOCK_ROW * len(locks)
    head[W_WHOSE] = head[W_STRIDE] + ncell
    head[W_WAITS] = head[W_WHOSE] + ncell
    whose = [0] * ncell
    for semaphore, first, second, i in locks:
        whose[first] = i + 1
        if semaphore:
            whose[second] = i + 1
    return np.array([*head, *(x for r in locks for x in r), *stride, *whose, *([0] * len(a.code))], np.int64)


def with_records(W: NDArray[np.int64], R: NDArray[np.int64], nproc: int) -> NDArray[np.int64]:
    """`W` for an exploration by these records: without locks that nobody takes, and with what the records say of each
    cell and process at once."""
    out = W.copy()
    r = R.reshape(-1, nproc, KINDS)
    keep_locks(out, R, nproc)
    stores = [r[:, :, 1], r[:, :, 2]]
    known = np.zeros(r.shape[:2], np.int64)
    for shift, kinds in ((0, stores), (2, [*stores, r[:, :, 0]])):
        some = np.logical_or.reduce([x != NEVER for x in kinds])
        bare = np.logical_or.reduce([x == 0 for x in kinds])
        others = some.sum(axis=1)[:, None] - some
        bare_others = bare.sum(axis=1)[:, None] - bare
        known |= np.where(bare_others > 0, ALWAYS, np.where(others > 0, MAYBE, 0)) << shift
    out[W_KNOWN] = len(out)
    return np.concatenate([out, known.reshape(-1)])


def keep_locks(W: NDArray[np.int64], R: NDArray[np.int64], nproc: int) -> None:
    """Of the locks in W only those that the records (of which there are any) name: of no other is one held."""
    r = R.reshape(-1, nproc, KINDS)
    if (r == NEVER).all():
        return
    rows = W[W[W_LOCK] : W[W_LOCK] + LOCK_ROW * W[W_LOCKS]].reshape(-1, LOCK_ROW)
    taken = [x for x in rows if (r[x[1]] != NEVER).any() or (x[0] and (r[x[2]] != NEVER).any())]
    W[W_LOCKS] = len(taken)
    for k, x in enumerate(taken):
        at = W[W_LOCK] + LOCK_ROW * k
        W[at : at + LOCK_ROW] = x


def no_records(a: Automaton, more: int = 0) -> NDArray[np.int64]:
    """Records (cells x processes x loads, stores, takings of a lock) of an exploration that has not begun."""
    return np.full((a.ncell + more) * len(a.processes) * KINDS, NEVER, np.int64)


@jit
def held(S, P, W, p):  # type: ignore[no-untyped-def]
    """The locks that process `p` holds: two bits each, the lower one for holding it at all, the upper for writing."""
    bits = np.int64(0)
    for k in range(W[W_LOCKS]):
        r = W[W_LOCK] + LOCK_ROW * k
        bits |= holding(S, P, W, r, p) << (2 * W[r + 3])
    return bits


@jit
def locks_touched(W, X):  # type: ignore[no-untyped-def]
    """Whether an access in X is to a cell of a lock."""
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        code = X[X_ACCESSED + 1 + j]
        cell = (code >> 2) & CELL
        many = np.int64(1)
        if code & 3 == OBJECT:
            many = W[W[W_STRIDE] + cell]
        for c in range(cell, cell + many):
            if W[W[W_WHOSE] + c] != 0:
                return True
    return False


@jit
def robbed(S, S2, P, W, p, nproc):  # type: ignore[no-untyped-def]
    """Whether the step of `p` from S to S2 changed what others hold: then a lock protects nothing."""
    for k in range(W[W_LOCKS]):
        r = W[W_LOCK] + LOCK_ROW * k
        if get(S, P, W[r + 1], 0) == get(S2, P, W[r + 1], 0) and (
            W[r] == 0 or get(S, P, W[r + 2], 0) == get(S2, P, W[r + 2], 0)
        ):
            continue
        for q in range(nproc):
            if q != p and holding(S, P, W, r, q) != holding(S2, P, W, r, q):
                return True
    return False


@jit
def close(S, P, W, before, after, p):  # type: ignore[no-untyped-def]
    """Let another process hold, in state S, what a step of `p` took."""
    for k in range(W[W_LOCKS]):
        r = W[W_LOCK] + LOCK_ROW * k
        if (after >> (2 * W[r + 3])) & 3 > (before >> (2 * W[r + 3])) & 3:
            put(S, P, W[r + 1], 0, np.int64(2 if p == 0 else 1))


@jit
def disturbed(W, R, cell, no, p, nproc, store):  # type: ignore[no-untyped-def]
    """Whether another process stores to `cell` (or, against a store, loads it; or takes it for a lock) without a lock
    that `no` rules out."""
    for q in range(nproc):
        if q == p:
            continue
        i = (cell * nproc + q) * KINDS
        if R[i + 1] != NEVER and R[i + 1] & no == 0:
            return True
        if store and R[i] != NEVER and R[i] & no == 0:
            return True
        if R[i + 2] != NEVER and R[i + 2] & no == 0:
            return True
    return False


@jit
def looked_at(R, cell, p, nproc):  # type: ignore[no-untyped-def]
    """Whether another process loads or stores the cell of a lock otherwise than by taking it and giving it back."""
    for q in range(nproc):
        i = (cell * nproc + q) * KINDS
        if q != p and (R[i] != NEVER or R[i + 1] != NEVER):
            return True
    return False


@jit
def classify(W, R, X, before, after, p, nproc, waits):  # type: ignore[no-untyped-def]
    """Where the step of `p` whose accesses are in X moves: RIGHT and LEFT bits, TAKES.  `before`, `after`: the locks
    held; `waits`: where it takes one that is held, it waits."""
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
            if now < was or (now > was and waits):
                if looked_at(R, cell, p, nproc):
                    return 0
                says &= RIGHT | TAKES if now > was else LEFT
                if now > was:
                    says |= TAKES
                continue
        if how == LOOK:
            if disturbed(W, R, cell, no, p, nproc, False):
                says &= ~LEFT
            continue
        many = np.int64(1)
        if how == OBJECT:
            many = W[W[W_STRIDE] + cell]
        for c in range(cell, cell + many):
            if disturbed(W, R, c, no, p, nproc, how != READ):
                return 0
    return says


@jit
def record(W, R, X, before, after, blocked, p, nproc, waits):  # type: ignore[no-untyped-def]
    """Enter the accesses in X in the records; whether anything was new.

    Taking a lock (where one `waits` for it) and giving it back have a record of their own.  `blocked`: the step could
    not be taken."""
    new = False
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        code = X[X_ACCESSED + 1 + j]
        cell = code >> 2
        whose = W[W[W_WHOSE] + cell]
        kind = 0 if code & 3 == READ or code & 3 == LOOK else 1
        if whose != 0:
            was = (before >> (2 * (whose - 1))) & 3
            now = (after >> (2 * (whose - 1))) & 3
            if blocked or now < was or (now > was and waits):
                kind = 2
        many = np.int64(1)
        if code & 3 == OBJECT:
            many = W[W[W_STRIDE] + cell]
        for c in range(cell, cell + many):
            i = (c * nproc + p) * KINDS + kind
            old = R[i]
            held_then = old & before if old != NEVER else before
            if held_then != old:
                R[i] = held_then
                new = True
    return new
