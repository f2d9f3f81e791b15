"""Data races of the kernel's memory model that no moment shows: a store was made, and nothing orders it before what
another CPU loads or stores now, as who might still take an older store, or put his own before it.

Of a load these are the stores that it may take (memory_accesses.readable) but for the oldest; of a store those before
which it may be put, and those of read-modify-writes among them.  Entries say then which access they are.  That a load
comes before a store without an order between them shows in another execution, where the store comes first.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit_views as jit
from seqfault.explore.memory_accesses import comes_after
from seqfault.explore.memory_views import (
    E_CELL,
    SIDE_AT,
    U_BY,
    U_IDLE,
    U_WATCHED,
    end_of,
    entry_at,
    first_of,
    is_lock,
    lasts,
    unit_of,
    writer_of,
)
from seqfault.explore.orders import ATOMIC, is_rmw
from seqfault.explore.races import side_of, unordered
from seqfault.explore.raw import has, numbers_at
from seqfault.explore.tables import O_CODE, O_MEMORY, O_PROCS, P_BASE, PROCESS_ROW, ROW


@jit
def side(B, P, q, p, stores):  # type: ignore[no-untyped-def]
    """Which access of `p` the instruction `q` of P is; -1: nobody looks for races, or it takes part in none."""
    watched = P[P[O_MEMORY] + U_WATCHED]
    if watched == 0:
        return np.int64(-1)
    pb = P[P[O_PROCS] + p * PROCESS_ROW + P_BASE]
    return side_of(B, P, numbers_at(watched), np.int64(q - P[O_CODE]) // ROW, stores, pb)


@jit
def meets(B, P, mine, cell, p, i):  # type: ignore[no-untyped-def]
    """Nothing orders entry `i` and the access `mine` of `p`."""
    u = P[O_MEMORY]
    w = entry_at(P, i)
    unit = writer_of(B, w)
    if unit >= 0 and unit != unit_of(P, p):
        by = P[u + P[u + U_IDLE] + 2 * unit]
        unordered(numbers_at(P[u + U_WATCHED]), p, mine, cell, by, (B[w + E_CELL] >> SIDE_AT) - 1)


@jit
def apart_from_load(B, P, q, cell, p, many):  # type: ignore[no-untyped-def]
    """Before a load that may take its value from `many` stores."""
    mine = side(B, P, q, p, False)
    if mine >= 0:
        end = end_of(B, P, cell, first_of(B, P, cell))
        for i in range(end - many + 1, end):
            meets(B, P, mine, cell, p, i)


@jit
def apart_from_store(B, P, q, cell, order, p, dep, many):  # type: ignore[no-untyped-def]
    """Before a store; `dep`: what its address and value depend on; `many`: 0 if its cell is not racy."""
    mine = side(B, P, q, p, True)
    P[P[O_MEMORY] + U_BY] = (mine + 1) << SIDE_AT
    if mine < 0 or many == 0 or order == ATOMIC or is_rmw(order) or is_lock(P, cell):
        return
    know = comes_after(B, P, order, p, dep)
    first = first_of(B, P, cell)
    before = lasts(B, P, first)
    for i in range(end_of(B, P, cell, first) - 1, first, -1):
        if has(know, i - 1 - before):
            return
        meets(B, P, mine, cell, p, i)
