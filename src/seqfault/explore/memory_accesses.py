"""Loads and stores of the kernel's memory model (memory_views.py)."""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit_views as jit
from seqfault.explore.memory_sc import load as sc_load
from seqfault.explore.memory_sc import store as sc_store
from seqfault.explore.memory_views import (
    AFTER,
    BETWEEN,
    E_CARRIED,
    E_CELL,
    E_DEP,
    E_STRONG,
    E_VALUE,
    INSERTED,
    LAST,
    U_BITS,
    U_BY,
    U_CAPACITY,
    U_CHANGED,
    U_RACED,
    UNIT_AT,
    V_CARRIED,
    V_GIVEN,
    V_LOADS,
    V_OWN,
    V_READ,
    V_SEEN,
    V_STORES,
    V_STRONG,
    V_UNLOCKED,
    VIEWS,
    bit_of,
    bits,
    cell_of,
    end_of,
    entries,
    entry_at,
    first_of,
    insert,
    is_lock,
    lasts,
    moved,
    plain,
    racy,
    record,
    tag_at,
    tags_of,
    unit_of,
    view_at,
    writer_of,
)
from seqfault.explore.memory_words import add_view, put_view, view
from seqfault.explore.orders import ACQUIRE, ATOMIC, FULL_RMW, RELAXED, RELEASE, RMW_ACQUIRE, RMW_RELEASE
from seqfault.explore.raw import has, mask, nothing, some
from seqfault.explore.tables import O_MEMORY


@jit
def everything(B, P, unit):  # type: ignore[no-untyped-def]
    v = nothing(P)
    for k in range(VIEWS):
        v |= view(B, P, view_at(P, unit, k))
    return v


@jit
def loaded(B, P, unit):  # type: ignore[no-untyped-def]
    """All that a unit's loads, and full barriers, have shown it."""
    a = view_at(P, unit, 0)
    return view(B, P, a + V_LOADS) | view(B, P, a + V_READ) | view(B, P, a + V_STRONG)


@jit
def readable(B, P, cell, order, p, dep):  # type: ignore[no-untyped-def]
    """From how many stores a load may take its value; `dep`: what its address depends on.  0: `cell` is not racy."""
    if order == 0:
        return np.int64(0)
    record(B, P, cell, p, False)
    if order != ATOMIC:
        plain(B, P, cell, p, 0)
    if not racy(P, cell):
        return np.int64(0)
    P[P[O_MEMORY] + U_RACED] |= 1
    i = first_of(B, P, cell)
    end = end_of(B, P, cell, i)
    if i == end:
        return np.int64(0)
    if order == ATOMIC:
        return np.int64(1)
    unit = unit_of(P, p)
    know = view(B, P, view_at(P, unit, V_SEEN)) | view(B, P, view_at(P, unit, V_LOADS)) | dep
    bit = bit_of(B, P, i)
    while i < end - 1 and has(know, bit):
        bit += 1
        i += 1
    return end - i


@jit
def overtaken(B, P, unit, i, know):  # type: ignore[no-untyped-def]
    """A load has taken entry `i`, of which an earlier one of its unit may have shown that it was overwritten: then it
    comes before that one ((prop \\ id) & int), and what comes after that one knows what it does, too."""
    bit = bit_of(B, P, i)
    for k in (V_STORES, V_UNLOCKED):
        w = view_at(P, unit, k)
        if has(view(B, P, w), bit):
            add_view(B, P, w, know)
    for k in range(tags_of(B, P, unit)):
        w = tag_at(P, unit, k) + 1
        if has(view(B, P, w), bit):
            add_view(B, P, w, know)
    for k in range(entries(B, P)):
        w = entry_at(P, k)
        if writer_of(B, w) == unit and has(view(B, P, w + E_DEP), bit) and not is_lock(P, cell_of(B, P, k)):
            add_view(B, P, w + E_DEP, know)


@jit
def load(B, P, cell, order, p, dep, age, choices):  # type: ignore[no-untyped-def]
    """Raw value of the store `age` stores before the last one, and what is known of it (for the register)."""
    unit = unit_of(P, p)
    if order:  # smp_rmb() has ordered it behind what only loads come after so far
        dep |= view(B, P, view_at(P, unit, V_LOADS)) & ~view(B, P, view_at(P, unit, V_STORES))
    if choices == 0:
        if some(dep) and order in (ACQUIRE, ATOMIC):
            P[P[O_MEMORY] + U_CHANGED] = 1
            add_view(B, P, view_at(P, unit, V_LOADS), dep)
            add_view(B, P, view_at(P, unit, V_STORES), dep)
        return sc_load(B, P, cell, p), dep
    P[P[O_MEMORY] + U_CHANGED] = 1
    first = first_of(B, P, cell)
    j = end_of(B, P, cell, first) - 1 - age
    w = entry_at(P, j)
    raw = B[w + E_VALUE]
    older = mask(P, bit_of(B, P, first), bit_of(B, P, j))
    know = dep
    if writer_of(B, w) == unit:
        if not is_lock(P, cell):
            know |= view(B, P, w + E_DEP)
    else:
        know |= view(B, P, w + E_CARRIED) | view(B, P, w + E_STRONG) | older
        add_view(B, P, view_at(P, unit, V_STRONG), view(B, P, w + E_STRONG))
    add_view(B, P, view_at(P, unit, V_SEEN), older)
    add_view(B, P, view_at(P, unit, V_READ), know)
    if age:
        overtaken(B, P, unit, j, know)
    if order in (ACQUIRE, ATOMIC):  # of a read-modify-write: when it stores
        add_view(B, P, view_at(P, unit, V_LOADS), know)
        add_view(B, P, view_at(P, unit, V_STORES), know)
    return raw, know


@jit
def comes_after(B, P, order, p, dep):  # type: ignore[no-untyped-def]
    """What a store, not of a read-modify-write, comes after."""
    unit = unit_of(P, p)
    know = view(B, P, view_at(P, unit, V_SEEN)) | view(B, P, view_at(P, unit, V_STORES)) | dep
    return know | everything(B, P, unit) if order == RELEASE else know


@jit
def places(B, P, cell, order, p, dep):  # type: ignore[no-untyped-def]
    """Before how many stores of others, one more than those, a store may be put in coherence order; `dep`: what its
    address and value depend on.  0: `cell` is not racy.  -1: there is no room."""
    if order == 0:
        return np.int64(0)
    record(B, P, cell, p, True)
    if order < RELAXED and not is_lock(P, cell):
        plain(B, P, cell, p, 1)
    if not racy(P, cell):
        return np.int64(0)
    P[P[O_MEMORY] + U_RACED] |= 2
    n = entries(B, P)
    first = first_of(B, P, cell)
    end = end_of(B, P, cell, first)
    u = P[O_MEMORY]
    if n + 1 + (1 if first == end else 0) > P[u + U_CAPACITY] or bits(B, P) >= P[u + U_BITS]:
        return np.int64(-1)
    if order >= RELAXED or is_lock(P, cell):
        return np.int64(1)
    know = comes_after(B, P, order, p, dep)
    k = np.int64(1)
    before = lasts(B, P, first)
    for j in range(end - 1, first, -1):
        if has(know, j - 1 - before):
            break
        if B[entry_at(P, j)] & AFTER == 0:
            k += 1
    return k


@jit
def behind_read(B, P, cell, order, p, age):  # type: ignore[no-untyped-def]
    """Whether a read-modify-write that took its value from the store `age` stores before the last one can stand right
    behind that."""
    if is_lock(P, cell):
        return False
    at = end_of(B, P, cell, first_of(B, P, cell)) - age
    if order in (FULL_RMW, RMW_RELEASE) and has(everything(B, P, unit_of(P, p)), bit_of(B, P, at - 1)):
        return False
    return B[entry_at(P, at)] & AFTER == 0


@jit
def taken(B, P, cell, order, p, know):  # type: ignore[no-untyped-def]
    """A read-modify-write with an acquire's order stores, and so orders what comes later; `know`: what its load has
    shown."""
    if order == RMW_ACQUIRE:
        unit = unit_of(P, p)
        if is_lock(P, cell):  # an unlock and a lock order all that is before and behind
            P[P[O_MEMORY] + U_CHANGED] = 1
            know |= view(B, P, view_at(P, unit, V_UNLOCKED))
            add_view(B, P, view_at(P, unit, V_CARRIED), view(B, P, view_at(P, unit, V_GIVEN)))
        add_view(B, P, view_at(P, unit, V_LOADS), know)
        add_view(B, P, view_at(P, unit, V_STORES), know)
        if is_lock(P, cell) and racy(P, cell):  # and its holder's stores for everybody
            first = first_of(B, P, cell)
            end = end_of(B, P, cell, first)
            if first < end:
                add_view(B, P, view_at(P, unit, V_CARRIED), view(B, P, entry_at(P, end - 1) + E_DEP))


@jit
def skipped(B, P, cell, back):  # type: ignore[no-untyped-def]
    """How many stores come behind one that is put before `back` of those that it may be put before."""
    at = end_of(B, P, cell, first_of(B, P, cell))
    n = np.int64(0)
    while back > 0:
        n += 1
        if B[entry_at(P, at - n)] & AFTER == 0:
            back -= 1
    return n


@jit
def store(B, P, cell, raw, order, p, dep, back, choices):  # type: ignore[no-untyped-def]
    """Store a raw value, with `back` stores behind it in coherence order."""
    unit = unit_of(P, p)
    if order == RELEASE and is_lock(P, cell):
        add_view(B, P, view_at(P, unit, V_UNLOCKED), loaded(B, P, unit))
        put_view(B, P, view_at(P, unit, V_GIVEN), view(B, P, view_at(P, unit, V_OWN)))
    if choices == 0:
        sc_store(B, P, cell, raw, p)
        return
    first = first_of(B, P, cell)
    end = end_of(B, P, cell, first)
    if first == end:
        insert(B, P, first, -1, INSERTED)
        w = entry_at(P, first)
        B[w + E_CELL] = cell | LAST
        B[w + E_VALUE] = sc_load(B, P, cell, p)
        end += 1
    at = end - back
    how = BETWEEN if at < end else INSERTED
    own = view(B, P, view_at(P, unit, V_OWN))
    carried = view(B, P, view_at(P, unit, V_CARRIED))
    if order in (RELEASE, ATOMIC, RMW_RELEASE):
        carried |= everything(B, P, unit) | dep
    before = lasts(B, P, first)
    bit = (at if at < end else end - 1) - before
    insert(B, P, at, bit, how)  # numbers of what comes behind it change
    if at == end:
        B[entry_at(P, at - 1)] &= ~np.int64(LAST)
        sc_store(B, P, cell, raw, p)
    dep, own, carried = moved(P, dep, bit, how), moved(P, own, bit, how), moved(P, carried, bit, how)
    older = mask(P, first - before, at - before)
    carried |= older
    w = entry_at(P, at)
    B[w + E_CELL] = cell | (unit + 1) << UNIT_AT | P[P[O_MEMORY] + U_BY]
    if at == end:
        B[w + E_CELL] |= LAST
    if order >= RELAXED and order != ATOMIC:
        B[w + E_CELL] |= AFTER
    B[w + E_VALUE] = raw
    put_view(B, P, w + E_CARRIED, carried)
    if not is_lock(P, cell):
        put_view(B, P, w + E_DEP, dep)
    elif order == RELEASE:
        put_view(B, P, w + E_DEP, own)
    # not that it was overwritten itself: who has shown that to its unit does not come before it
    put_view(B, P, w + E_STRONG, view(B, P, view_at(P, unit, V_STRONG)) & ~mask(P, at - before, end - before))
    add_view(B, P, view_at(P, unit, V_OWN), carried)
    add_view(B, P, view_at(P, unit, V_SEEN), older)
