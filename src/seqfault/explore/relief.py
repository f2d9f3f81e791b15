"""Stores that need not wait in a buffer (tso), since nobody could tell.

docs/memory-models.md has the argument.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.commute import BUFFERED, STRANGERS, alone_wakes, in_the_way, lock_looked_at
from seqfault.explore.futures import EARLY, LOADS, Q_WIDTH, SETS, STORES, TAKES, control, may
from seqfault.explore.jit import jit_moving as jit
from seqfault.explore.locksets import against
from seqfault.explore.memory_buffers import address, buffer_of, count, is_buffer, pop, together
from seqfault.explore.memory_buffers import own as waiting
from seqfault.explore.movers import KINDS, LOCK_ROW, NEVER, W_LOCK, W_LOCKS, W_WHOSE, held
from seqfault.explore.private import Y_STATE, private
from seqfault.explore.tables import M_MEMORY


@jit
def danger(S, P, W, R, Y, Q, known, at, Z, before, p, nproc):  # type: ignore[no-untyped-def]
    """Whether one that shares the buffer of `p` may yet load, with something in the buffer, what others may store
    meanwhile, or allocate or free; only then can anybody tell that a store has not left it."""
    width = Q[Q_WIDTH]
    for r in range(nproc):
        if not together(P, p, r) or is_buffer(P, r):
            continue
        for q in range(nproc):
            if together(P, p, q):
                continue
            if is_buffer(P, q):
                m = buffer_of(P, q)
                for j in range(count(S, m)):
                    if may(Q, known, at[r], address(S, P, m, j), EARLY):
                        return True
                continue
            for w in range(width):
                both = known[(at[r] * width + w) * SETS + EARLY]
                row = (at[q] * width + w) * SETS
                both &= known[row + STORES] | known[row + TAKES] | known[row + LOADS]
                while both:
                    low = both & -both
                    both &= ~low
                    cell = 64 * w + bit_number(low)
                    mine = R[(cell * nproc + r) * KINDS]
                    k = (cell * nproc + q) * KINDS
                    no = against(mine) if mine != NEVER else np.int64(0)
                    if (
                        (R[k + 1] != NEVER and R[k + 1] & no == 0 and may(Q, known, at[q], cell, STORES))
                        or (R[k + 2] != NEVER and R[k + 2] & no == 0 and may(Q, known, at[q], cell, TAKES))
                        or Y[Y[Y_STATE] + cell]  # what is allocated or freed is seen at once
                    ) and not alone_wakes(S, P, W, R, Q, known, at, Z, before, q, p, nproc):
                        return True
    return False


@jit
def bit_number(x):  # type: ignore[no-untyped-def]
    n = 0
    y = np.uint64(x)
    while y > np.uint64(1):
        y >>= np.uint64(1)
        n += 1
    return n


@jit
def relieve(S, B, P, W, R, Y, Q, keys, known, at, Z, before, p, nproc):  # type: ignore[no-untyped-def]
    """After a step of `p` from S to B: what went into the buffer reaches memory at once if nobody can tell."""
    m = buffer_of(P, p)
    if m < 0 or is_buffer(P, p):
        return
    n = count(S, m)
    i = n
    while i < count(B, m):
        cell = address(B, P, m, i)
        alone = True
        for j in range(i):
            alone = alone and address(B, P, m, j) != cell
        go = False
        if alone and private(S, P, Y, cell, p):
            go = True
        elif alone and W[W[W_WHOSE] + cell] == 0:
            way = in_the_way(S, P, W, R, Q, known, at, Z, cell, before, against(before), p, nproc, True, STRANGERS)
            go = way == 0 or (way == 2 and i == 0)  # whom it wakes sees what comes before it in the buffer
        elif alone and i == 0:
            go = not lock_looked_at(S, P, W, R, Q, known, at, Z, cell, before, p, nproc)
        if go:
            pop(B, P, m, i)
        else:
            i += 1
    if n == 0 and count(B, m):
        was = at[p]
        at[p] = control(B, P, Q, keys, p)
        if not danger(B, P, W, R, Y, Q, known, at, Z, before, p, nproc):
            while count(B, m):
                pop(B, P, m, 0)
        at[p] = was


@jit
def blocked(S, P, W, R, Y, Q, known, at, Z, p, nproc):  # type: ignore[no-untyped-def]
    """Whether `p` may as well wait until its buffer is empty."""
    m = buffer_of(P, p)
    if m < 0 or is_buffer(P, p) or count(S, m) == 0:
        return False
    return not danger(S, P, W, R, Y, Q, known, at, Z, holds(S, P, W, p, nproc), p, nproc)


@jit
def holder(P, p, nproc):  # type: ignore[no-untyped-def]
    """Whose locks the process `p` gives back: of a buffer, its CPU's."""
    if P[M_MEMORY] == BUFFERED and is_buffer(P, p):
        for q in range(nproc):
            if together(P, p, q) and not is_buffer(P, q):
                return np.int64(q)
    return np.int64(p)


@jit
def holds(S, P, W, p, nproc):  # type: ignore[no-untyped-def]
    """The locks that `p` holds (of a buffer: its CPU, in memory), and gives back in a step of its own.  One whose
    release waits in its buffer may be gone at any moment."""
    h = holder(P, p, nproc)
    bits = held(S, P, W, h)
    if bits and h == p and P[M_MEMORY] == BUFFERED and buffer_of(P, p) >= 0:
        for k in range(W[W_LOCKS]):
            r = W[W_LOCK] + LOCK_ROW * k
            if waiting(S, P, W[r + 1], p) or (W[r] and waiting(S, P, W[r + 2], p)):
                bits &= ~(np.int64(3) << (2 * W[r + 3]))
    return bits
