"""What a unit need not be kept apart by, of the kernel's memory model: stores that it is sure to know of by the time it
could tell.

docs/memory-models.md, "Stores that are forgotten", has the argument.  Learned, as records are (memory_views.py): which
locks a unit holds at each load of a cell that may take an older store than the last, and at each store that may be put
before others; and which locks are no more than taken and given back.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit_views as jit
from seqfault.explore.locksets import holding
from seqfault.explore.memory_accesses import everything
from seqfault.explore.memory_views import (
    E_CARRIED,
    NEVER,
    U_FIRST,
    U_GAINS,
    U_IS_LOCK,
    U_LOCK_ROWS,
    U_LOCKS,
    U_LOOKED,
    U_LOOSE,
    U_NEWS,
    U_PART_OF,
    end_of,
    entry_at,
    first_of,
    plain_at,
    racy,
    unit_of,
    writer_of,
)
from seqfault.explore.memory_words import note, noted, view
from seqfault.explore.orders import ATOMIC, FULL_RMW, RELEASE, RMW_ACQUIRE
from seqfault.explore.raw import nothing, some
from seqfault.explore.slots import get
from seqfault.explore.tables import M_PROCESSES, O_MEMORY

LOCK = 3  # numbers of a lock's row: locksets.lock_rows


@jit
def row_of(P, k):  # type: ignore[no-untyped-def]
    """Where the row of lock `k` is in P."""
    return P[O_MEMORY] + P[P[O_MEMORY] + U_LOCK_ROWS] + LOCK * k


@jit
def part_of(P, cell):  # type: ignore[no-untyped-def]
    """Of which lock a cell is a part: twice its number, plus one for the cell of its readers; -1: of none."""
    u = P[O_MEMORY]
    return P[u + P[u + U_PART_OF] + cell] - 1


@jit
def loosen(P, k):  # type: ignore[no-untyped-def]
    """Nothing is concluded from lock `k` any more."""
    u = P[O_MEMORY]
    if P[u + P[u + U_LOOSE] + k] == 0:
        P[u + P[u + U_LOOSE] + k] = 1
        P[u + U_NEWS] += 1


@jit
def begun(P, cell):  # type: ignore[no-untyped-def]
    """A cell of an object that is allocated: who took the lock in it before, and who takes it now, have not met."""
    part = part_of(P, cell)
    if part >= 0:
        loosen(P, part >> 1)


@jit
def lock_loaded(P, cell, order):  # type: ignore[no-untyped-def]
    """A load: whether its step has seen the last store of a part of a lock, and what that carries."""
    part = part_of(P, cell)
    if part >= 0:
        u = P[O_MEMORY]
        spin = P[u + P[u + U_IS_LOCK] + cell] != 0  # its atomic operations stand behind the last store
        if order == ATOMIC or (spin and order in (RMW_ACQUIRE, FULL_RMW)):
            P[u + U_LOOKED] |= np.int64(1) << part


@jit
def lock_stored(B, P, cell, order, p, old):  # type: ignore[no-untyped-def]
    """A store to a part of a lock, which held `old`: the lock is loose unless `p` takes it, having seen the last store
    of each part, or gives it back, and tells what it knows."""
    part = part_of(P, cell)
    if part < 0:
        return
    k = part >> 1
    i = row_of(P, k)
    new = get(B, P, cell, 0)
    me = np.int64(p) + 1
    looked = P[P[O_MEMORY] + U_LOOKED]
    saw = (looked >> part) & 1 != 0
    if P[i] == 0:
        takes = old == 0 and new == me and saw and order in (ATOMIC, FULL_RMW, RMW_ACQUIRE)
        gives = old == me and new == 0 and order in (ATOMIC, RELEASE)
        fine = takes or gives
    else:
        both = (looked >> (2 * k)) & 3 == 3
        if part & 1:
            fine = old ^ new == np.int64(1) << p and (new < old or (both and get(B, P, P[i + 1], 0) == 0))
        else:
            fine = (old == 0 and new == me and both and get(B, P, P[i + 2], 0) == 0) or (old == me and new == 0)
        fine = fine and saw and order == ATOMIC
    if not fine:
        loosen(P, k)


@jit
def carried(B, P, cell, unit):  # type: ignore[no-untyped-def]
    """What the last store of a cell carries, if it is not the unit's own."""
    first = first_of(B, P, cell)
    end = end_of(B, P, cell, first)
    if first == end or writer_of(B, entry_at(P, end - 1)) == unit:
        return nothing(P)
    return view(B, P, entry_at(P, end - 1) + E_CARRIED)


@jit
def gain(B, P, unit, k, alone):  # type: ignore[no-untyped-def]
    """What a unit is sure to know when it takes lock `k`, which none of its processes holds: what the last store of the
    lock carries, and what those know who have to give it back before.  `alone`: it takes it for writing."""
    u = P[O_MEMORY]
    i = row_of(P, k)
    if P[u + P[u + U_LOOSE] + k]:
        return nothing(P)
    know = nothing(P)
    for p in range(P[M_PROCESSES]):
        holds = holding(B, P, P, i, p)
        if holds:
            if unit_of(P, p) == unit:
                return nothing(P)
            if (holds == 3 and racy(P, P[i + 1])) or (holds == 1 and alone and racy(P, P[i + 2])):
                know |= everything(B, P, unit_of(P, p))
    know |= carried(B, P, P[i + 1], unit)
    if P[i]:
        know |= carried(B, P, P[i + 2], unit)
    return know


@jit
def no_gains(P):  # type: ignore[no-untyped-def]
    """Forget what `gain` said: of another unit, or of another state."""
    u = P[O_MEMORY]
    at = u + P[u + U_GAINS]
    for k in range(2 * P[u + U_LOCKS]):
        P[at + 2 * k + 1] = NEVER  # what no second word of a view is


@jit
def gained(B, P, unit, k, alone):  # type: ignore[no-untyped-def]
    """`gain`, or what it said before."""
    i = 2 * k + alone
    at = P[O_MEMORY] + P[P[O_MEMORY] + U_GAINS] + 2 * i + 1
    if P[at] == NEVER:
        P[at] = 0
        note(P, U_GAINS, i, gain(B, P, unit, k, alone != 0))
    return noted(P, U_GAINS, i)


@jit
def spared(B, P, unit, cell, kind, these, early):  # type: ignore[no-untyped-def]
    """Of which entries of a cell (`these`, as a view) the unit, which may yet load (`kind` 0) or store it, is sure to
    know by then.  `early`: it may do so before it takes the lock U_FIRST."""
    s = plain_at(P, unit, cell, kind)
    if s == NEVER:
        return these
    sure = nothing(P)
    k = P[P[O_MEMORY] + U_FIRST]
    if k >= 0 and not early:
        sure |= gained(B, P, unit, k, 0)
    k = np.int64(0)
    while s and some(these & ~sure):
        if s & 3:
            sure |= gained(B, P, unit, k, (s >> 1) & 1)
        s >>= 2
        k += 1
    return sure
