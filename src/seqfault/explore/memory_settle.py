"""What of the state of the kernel's memory model nobody can tell apart is made equal, after each step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.futures import EARLY, EARLY_STORES, LOADS, STORES, TAKES, control, may
from seqfault.explore.jit import jit_views as jit
from seqfault.explore.layers import units_of, widened
from seqfault.explore.locksets import lock_rows
from seqfault.explore.memory_accesses import everything
from seqfault.explore.memory_barriers import pending, took_effect
from seqfault.explore.memory_spared import no_gains, spared
from seqfault.explore.memory_views import (
    BARRIER_AT,
    E_CARRIED,
    E_DEP,
    E_STRONG,
    ENTRY,
    LAST,
    NEVER,
    TAG,
    U_AHEAD,
    U_BASE,
    U_BITS,
    U_CHANGED,
    U_CLASS,
    U_CLASSES,
    U_EARLY,
    U_FENCED,
    U_FIRST,
    U_FIRST_ENTRY,
    U_FOUND,
    U_GAINS,
    U_HEADER,
    U_IDLE,
    U_KEYS,
    U_KNOWN,
    U_LACKS,
    U_LOOSE,
    U_MET,
    U_NEEDS,
    U_NEWS,
    U_PART_OF,
    U_PENDED,
    U_PLAINS,
    U_Q,
    U_RACED,
    U_RACY,
    U_STANDS,
    U_STOOD,
    U_TELLS,
    U_UNIT_OF,
    U_UNITS,
    U_WOKE,
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
    bits,
    cell_of,
    drop_tag,
    entries,
    entry_at,
    is_lock,
    plain_at,
    remove,
    tag_at,
    tagged,
    tags_of,
    told_at,
    touched,
    unit_of,
    view_at,
    writer_of,
)
from seqfault.explore.memory_words import (
    ONE,
    TWO,
    U_KNEW,
    U_STRONG,
    U_UPPER,
    blank,
    hand,
    handed,
    note,
    noted,
    put_view,
    view,
)
from seqfault.explore.raw import has, mask, nothing, numbers_at, some
from seqfault.explore.slots import get
from seqfault.explore.tables import (
    M_NW,
    M_PC,
    M_PROCESSES,
    M_REGION,
    M_USE_MASKS,
    O_MASKS,
    O_MEMORY,
    O_PROCS,
    O_TAB,
    P_BASE,
    PROCESS_ROW,
    SLOT,
)


@jit
def idle(B, P, unit):  # type: ignore[no-untyped-def]
    """Whether the unit has finished, or waits for work: it sees memory as it is when it goes on."""
    u = P[O_MEMORY]
    i = u + P[u + U_IDLE] + 2 * unit
    pb = P[P[O_PROCS] + P[i] * PROCESS_ROW + P_BASE]
    return get(B, P, P[M_PC], pb) == P[i + 1]


@jit
def wake(B, P, p):  # type: ignore[no-untyped-def]
    """Before a step: a unit that was idle knows everything."""
    P[P[O_MEMORY] + U_CHANGED] = 0
    P[P[O_MEMORY] + U_RACED] = 0
    P[P[O_MEMORY] + U_MET] = 0
    P[P[O_MEMORY] + U_PENDED] = 0
    P[P[O_MEMORY] + U_WOKE] = 0
    P[P[O_MEMORY] + U_FENCED] = 0
    unit = unit_of(P, p)
    hand(P, U_KNEW, everything(B, P, unit))
    hand(P, U_STRONG, view(B, P, view_at(P, unit, V_STRONG)))
    P[P[O_MEMORY] + U_TELLS] = entries(B, P)
    P[P[O_MEMORY] + U_CLASS] = class_of(B, P, p, P[P[O_MEMORY] + U_STOOD] != 0)
    if idle(B, P, unit):
        P[P[O_MEMORY] + U_WOKE] = 1
        if entries(B, P) == 0:
            return
        P[P[O_MEMORY] + U_CHANGED] = 1
        know = mask(P, 0, bits(B, P))
        put_view(B, P, view_at(P, unit, V_LOADS), know)
        put_view(B, P, view_at(P, unit, V_STORES), know)
        put_view(B, P, view_at(P, unit, V_STRONG), know)


@jit
def dead(B, P, key, p, pc, ends):  # type: ignore[no-untyped-def]
    """Whether a tag is of a register that process `p` does not keep at `pc`, where a step `ends` or a call is."""
    i = P[O_TAB] + ((key >> 8) - 1) * SLOT
    if P[i + 5] == 0:
        return ends and P[i] >= P[M_NW]
    if key & 255 != p + 1 or not P[M_USE_MASKS]:
        return False
    return P[P[O_MASKS] + pc * P[M_REGION] + P[i]] & (P[i + 2] << P[i + 1]) == 0


@jit
def drop_dead(B, P, p, pc, ends):  # type: ignore[no-untyped-def]
    """Registers that are not read again have no tags."""
    unit = unit_of(P, p)
    for i in range(tags_of(B, P, unit) - 1, -1, -1):
        if dead(B, P, B[tag_at(P, unit, i)], p, pc, ends):
            drop_tag(B, P, unit, i)


@jit
def clear(B, P):  # type: ignore[no-untyped-def]
    """Without entries there is nothing to know."""
    u = P[O_MEMORY]
    blank(B, P, P[u + U_BASE], P[u + U_BASE] + P[u + U_FIRST_ENTRY])


@jit
def class_of(B, P, p, stood):  # type: ignore[no-untyped-def]
    """What `p` may yet do to racy cells, as a number; 0 if it is not known.  Not `stood`: where it is has to be
    found."""
    u = P[O_MEMORY]
    if P[u + U_Q] == 0:
        return np.int64(0)
    i = u + P[u + U_STANDS] + p
    if not stood:
        P[i] = control(B, P, numbers_at(P[u + U_Q]), numbers_at(P[u + U_KEYS]), p)
    return numbers_at(P[u + U_CLASSES])[P[i]]


@jit
def ahead(P, cell, i):  # type: ignore[no-untyped-def]
    """As `touched`, of what the units may do from where they stand, if that is known, in the row of entry `i` in two
    tables; in the other only plain accesses, and not what comes behind the taking of one lock (memory_spared.py)."""
    u = P[O_MEMORY]
    how = touched(P, cell)
    whenever, early = how, how
    if P[u + U_Q] and how:
        Q, known = numbers_at(P[u + U_Q]), numbers_at(P[u + U_KNOWN])
        whenever = early = np.int64(0)
        for p in range(P[M_PROCESSES]):
            unit = 2 * unit_of(P, p)
            bits = (how >> unit) & 3
            if bits:
                at = P[u + P[u + U_STANDS] + p]
                if may(Q, known, at, cell, TAKES):
                    whenever |= bits << unit
                if may(Q, known, at, cell, LOADS):
                    whenever |= (bits & 1) << unit
                if may(Q, known, at, cell, STORES):
                    whenever |= (bits & 2) << unit
                if may(Q, known, at, cell, EARLY):
                    early |= (bits & 1) << unit
                if may(Q, known, at, cell, EARLY_STORES):
                    early |= (bits & 2) << unit
    P[u + P[u + U_AHEAD] + i] = whenever
    P[u + P[u + U_EARLY] + i] = early


@jit
def settle(B, P, p, pc):  # type: ignore[no-untyped-def]
    """After a step: drop what nobody can see any more, and from views what changes nothing."""
    u = P[O_MEMORY]
    before = P[u + U_TELLS]
    P[u + U_TELLS] = 0
    if entries(B, P) == 0:
        clear(B, P)
        return
    if tagged(B, P, p):
        drop_dead(B, P, p, pc, True)
    if class_of(B, P, p, False) == P[u + U_CLASS] and P[u + U_CHANGED] == 0 and not idle(B, P, unit_of(P, p)):
        return  # it was settled before
    if P[u + U_Q] and P[u + U_STOOD] == 0:
        for q in range(P[M_PROCESSES]):
            class_of(B, P, q, False)
    look_ahead(B, P)
    more = True
    while more:
        more = simplify(B, P)
        if entries(B, P) == 0:
            clear(B, P)
            return
    P[u + U_TELLS] = tells(B, P, unit_of(P, p), before == entries(B, P))


@jit
def tells(B, P, unit, same):  # type: ignore[no-untyped-def]
    """Whether the unit knows by the step that has ended what somebody else lacks, and so would tell it.  Not `same`:
    bits are others than before, and what it knew counts too."""
    know = everything(B, P, unit)
    strong = view(B, P, view_at(P, unit, V_STRONG))
    if same:
        know &= ~handed(P, U_KNEW)
        strong &= ~handed(P, U_STRONG)
    return some(know & others_of(P, U_LACKS, unit)) or some(strong & others_of(P, U_NEEDS, unit))


@jit
def look_ahead(B, P):  # type: ignore[no-untyped-def]
    """Of each entry what the units may yet do to its cell."""
    at = P[O_MEMORY] + P[P[O_MEMORY] + U_AHEAD]
    early = P[O_MEMORY] + P[P[O_MEMORY] + U_EARLY]
    last = np.int64(-1)
    for i in range(entries(B, P)):
        c = cell_of(B, P, i)
        if c == last:
            P[at + i] = P[at + i - 1]
            P[early + i] = P[early + i - 1]
        else:
            ahead(P, c, np.int64(i))
        last = c


@jit
def drop(B, P, i):  # type: ignore[no-untyped-def]
    """Remove an entry of those that there are in `look_ahead`."""
    at = P[O_MEMORY] + P[P[O_MEMORY] + U_AHEAD]
    early = P[O_MEMORY] + P[P[O_MEMORY] + U_EARLY]
    for k in range(i, entries(B, P) - 1):
        P[at + k] = P[at + k + 1]
        P[early + k] = P[early + k + 1]
    remove(B, P, i)


@jit
def narrow(B, P, w, keep):  # type: ignore[no-untyped-def]
    """Of the view at word `w` only `keep`; whether that was less."""
    old = view(B, P, w)
    put_view(B, P, w, old & keep)
    return some(old & ~keep)


@jit
def others_of(P, table, unit):  # type: ignore[no-untyped-def]
    """What the table has of any other unit."""
    out = nothing(P)
    for k in range(P[P[O_MEMORY] + U_UNITS]):
        if k != unit:
            out |= noted(P, table, k)
    return out


@jit
def simplify(B, P):  # type: ignore[no-untyped-def]
    """Drop what nobody can see any more, and from views what changes nothing: once; whether that may show more of
    it."""
    u = P[O_MEMORY]
    less = False
    n = entries(B, P)
    units = P[u + U_UNITS]
    every = mask(P, 0, bits(B, P))
    gone = every  # overwritten for everybody
    lacking = nothing(P)  # some unit lacks it
    for v in range(units):
        if idle(B, P, v):
            for k in range(VIEWS):
                less = narrow(B, P, view_at(P, v, k), nothing(P)) or less
            for i in range(tags_of(B, P, v) - 1, -1, -1):
                drop_tag(B, P, v, i)
                less = True
            note(P, U_LACKS, v, nothing(P))
            if (pending(B, P) >> v) & 1:
                B[P[u + U_BASE]] &= ~(np.int64(1) << (BARRIER_AT + v))
                less = True
            continue
        loads = nothing(P)  # that may take an older one than the last, and are not spared
        stores = nothing(P)
        needs = nothing(P)
        no_gains(P)
        bit = np.int64(0)
        i = np.int64(0)
        while i < n:
            c = cell_of(B, P, i)
            more = bit  # behind its entries but the last
            how = P[u + P[u + U_AHEAD] + i] >> (2 * v)
            early = P[u + P[u + U_EARLY] + i] >> (2 * v)
            while i < n - 1 and B[entry_at(P, i)] & LAST == 0:
                more += 1
                i += 1
            i += 1
            if more > bit and how & 3:
                these = mask(P, bit, more)
                if how & 1:
                    loads |= these & ~spared(B, P, v, c, 0, these, early & 1 != 0)
                if how & 2 and plain_at(P, v, c, 1) != NEVER:
                    stores |= these
                    needs |= these & ~spared(B, P, v, c, 1, these, early & 2 != 0)
            bit = more
        a = view_at(P, v, 0)
        seen, before = view(B, P, a + V_SEEN), view(B, P, a + V_LOADS)
        known = (seen | before | ~loads) & (seen | view(B, P, a + V_STORES) | ~needs)
        gone &= known
        lack = every & ~((seen | before) & (seen | view(B, P, a + V_STORES) | ~stores))
        lacking |= lack
        note(P, U_LACKS, v, lack)
        less = narrow(B, P, a + V_STORES, stores & ~seen) or less
        less = narrow(B, P, a + V_READ, ~(before | seen)) or less
        less = narrow(B, P, a + V_UNLOCKED, lack) or less
        less = narrow(B, P, a + V_SEEN, ~(before & (view(B, P, a + V_STORES) | ~stores))) or less
        for i in range(tags_of(B, P, v) - 1, -1, -1):
            w = tag_at(P, v, i)
            less = narrow(B, P, w + 1, lack) or less
            if not some(view(B, P, w + 1)):
                drop_tag(B, P, v, i)
    for v in range(units):
        others = others_of(P, U_LACKS, v)
        less = narrow(B, P, view_at(P, v, V_OWN), others) or less
        less = narrow(B, P, view_at(P, v, V_CARRIED), others) or less
        less = narrow(B, P, view_at(P, v, V_GIVEN), others & ~view(B, P, view_at(P, v, V_CARRIED))) or less
        note(P, U_NEEDS, v, noted(P, U_LACKS, v) | (others & ~view(B, P, view_at(P, v, V_STRONG))))
    needs = nothing(P)
    for v in range(units):
        if idle(B, P, v):
            note(P, U_NEEDS, v, nothing(P))
        less = narrow(B, P, view_at(P, v, V_STRONG), others_of(P, U_LACKS, v)) or less
        needs |= noted(P, U_NEEDS, v)
    less = narrow(B, P, told_at(P), needs) or less
    for v in range(units):
        if (pending(B, P) >> v) & 1:
            tells = everything(B, P, v) & others_of(P, U_NEEDS, v) & ~view(B, P, told_at(P))
            if not some(tells):
                took_effect(B, P, v)  # it tells nobody anything, and the sooner it does the less it knows
                less = True
    for i in range(n):
        w = entry_at(P, i)
        c = cell_of(B, P, i)
        how = P[u + P[u + U_AHEAD] + i]
        writer = writer_of(B, w)
        others = nothing(P)
        needs = nothing(P)
        for k in range(units):
            if k != writer and (how >> (2 * k)) & 1:
                others |= noted(P, U_LACKS, k)
                needs |= noted(P, U_NEEDS, k)
        less = narrow(B, P, w + E_CARRIED, others) or less
        less = narrow(B, P, w + E_STRONG, needs) or less
        if is_lock(P, c):
            less = narrow(B, P, w + E_DEP, lacking) or less
        elif writer >= 0:
            less = narrow(B, P, w + E_DEP, noted(P, U_LACKS, writer)) or less
    b = bits(B, P)
    for i in range(n - 1, -1, -1):
        if B[entry_at(P, i)] & LAST == 0:
            b -= 1
            if has(gone, b):
                drop(B, P, i)
                less = True
    for i in range(entries(B, P) - 1, -1, -1):
        w = entry_at(P, i)
        alone = i == 0 or cell_of(B, P, i - 1) != cell_of(B, P, i)
        if alone and B[w] & LAST:
            tells = view(B, P, w + E_CARRIED) | view(B, P, w + E_DEP) | view(B, P, w + E_STRONG)
            if not some(tells):
                drop(B, P, i)
                less = True
    return less


# -- the automaton with views
TAGS = 16  # registers and cells of a unit that have tags, at most


def viewed(a: Automaton, capacity: int, wide: bool = False) -> Automaton:
    """`a` under the kernel's memory model, with room for `capacity` stores that were overwritten and for as many that
    were not, as words of the state.  `wide`: views have two words, though one would do.

    Raises `ValueError` for a capacity outside 2 to 120.
    """
    if not 2 <= capacity <= TWO:
        raise ValueError(f"room for {capacity} stores; from 2 to {TWO}")
    wide = wide or capacity > ONE
    units = units_of(a)
    unit_of = [0] * len(a.processes)
    idle: list[int] = []
    for n, ps in enumerate(units.values()):
        for k in ps:
            unit_of[k] = n
        main = min(ps, key=lambda k: a.processes[k].role)
        idle += [main, a.halt_pc if a.processes[main].role == 0 else waits_at(a, a.processes[main].entry)]
    rows = lock_rows(a)
    locks = [0] * a.ncell
    for kind, owner, _ in rows:
        locks[owner] = 1 if kind == 0 else 0
    part_of = [0] * a.ncell
    for k, (kind, owner, readers) in enumerate(rows):
        part_of[owner] = 2 * k + 1
        if kind:
            part_of[readers] = 2 * k + 2
    more = 2 + len(units) * (VIEWS + TAG * TAGS) + ENTRY * 2 * capacity
    first_tag = 2 + len(units) * VIEWS
    head = [0] * U_HEADER
    parts = [unit_of, idle, [x for r in rows for x in r], [0] * a.ncell, locks, [NEVER] * (2 * len(units) * a.ncell),
             [0] * a.ncell, [0] * 2 * len(units), [0] * a.ncell, [0] * len(a.processes), [0] * (2 * capacity),
             [0] * 2 * len(units), [NEVER] * (2 * len(units) * a.ncell), part_of, [0] * len(rows),
             [0] * 4 * len(rows), [0] * (2 * capacity)]  # fmt: skip
    where = [*range(U_UNIT_OF, U_NEEDS + 1), U_PLAINS, U_PART_OF, U_LOOSE, U_GAINS, U_EARLY]
    head[U_FIRST] = most_taken(a, rows)
    head[U_BITS] = capacity
    head[U_UPPER] = more if wide else 0
    head[:9] = [2 * capacity, a.nw, len(units), TAGS, first_tag, first_tag + len(units) * TAG * TAGS, len(rows), 0, 0]
    at = U_HEADER
    for i, part in zip(where, parts, strict=True):
        head[i] = at
        at += len(part)
    return widened(
        a,
        more * (2 if wide else 1),
        memory="lkmm" + (f":{capacity}" if capacity != ONE else ""),
        memory_table=[*head, *(x for part in parts for x in part)],
    )


def most_taken(a: Automaton, rows: list[list[int]]) -> int:
    """Of the semaphores the one in the largest object, of those that are never allocated if there are any: it is likely
    taken before most is done.  -1: there is none."""
    pool = {p.name: p for p in a.pools}
    of = [pool[a.cells[owner].pool] for _, owner, _ in rows]
    some = [k for k, r in enumerate(rows) if r[0]]
    return min(some, key=lambda k: (of[k].state >= 0, -of[k].stride, k), default=-1)


def waits_at(a: Automaton, entry: int) -> int:
    """Where a process that is bound to no CPU stands when there is nothing for it to do: before its first step."""
    pc = entry
    while not a.stop["merged"][pc]:
        pc = int(a.code[pc, 8])
    return pc


def news(P: NDArray[np.int64]) -> bool:
    """Whether the exploration met what the records, and the racy cells, that it began with lack."""
    return bool(P[int(P[O_MEMORY]) + U_NEWS])


def learned(P: NDArray[np.int64], ncell: int) -> bool:
    """Whether there are `news`; the next exploration begins with them."""
    u = int(P[O_MEMORY])
    new = news(P)
    P[u + U_NEWS] = 0
    racy, found = (u + int(P[u + k]) for k in (U_RACY, U_FOUND))
    P[racy : racy + ncell] |= P[found : found + ncell]
    P[found : found + ncell] = 0
    return new
