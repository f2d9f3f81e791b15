"""What of the state of the kernel's memory model nobody can tell apart is made equal, after each step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.jit import jit_views as jit
from seqfault.explore.layers import units_of, widened
from seqfault.explore.locksets import lock_rows
from seqfault.explore.memory_views import (
    BARRIER_AT,
    E_CARRIED,
    E_DEP,
    ENTRY,
    LAST,
    MOST,
    NEVER,
    TAG,
    U_BASE,
    U_CHANGED,
    U_FIRST_ENTRY,
    U_FOUND,
    U_HEADER,
    U_IDLE,
    U_LACKS,
    U_NEWS,
    U_RACY,
    U_TAGS,
    U_UNITS,
    V_CARRIED,
    V_LOADS,
    V_OWN,
    V_READ,
    V_SEEN,
    V_STORES,
    VIEWS,
    cell_of,
    drop_tag,
    entries,
    entry_at,
    is_lock,
    remove,
    tag_at,
    tagged,
    touched,
    unit_of,
    view_at,
    writer_of,
)
from seqfault.explore.slots import get
from seqfault.explore.tables import (
    M_NW,
    M_PC,
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
    if entries(B, P) == 0:
        return
    unit = unit_of(P, p)
    if idle(B, P, unit):
        P[P[O_MEMORY] + U_CHANGED] = 1
        know = np.int64(0)
        for i in range(entries(B, P)):
            if B[entry_at(P, i)] & LAST == 0:
                know |= np.int64(1) << i
        B[view_at(P, unit, V_LOADS)] = know
        B[view_at(P, unit, V_STORES)] = know


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
    i = P[P[O_MEMORY] + U_TAGS] - 1
    while i >= 0:
        k = B[tag_at(P, unit, i)]
        if k and dead(B, P, k, p, pc, ends):
            drop_tag(B, P, unit, i)
        i -= 1


@jit
def clear(B, P):  # type: ignore[no-untyped-def]
    """Without entries there is nothing to know."""
    u = P[O_MEMORY]
    for k in range(P[u + U_BASE], P[u + U_BASE] + P[u + U_FIRST_ENTRY]):
        B[k] = 0


@jit
def settle(B, P, p, pc):  # type: ignore[no-untyped-def]
    """After a step: drop what nobody can see any more, and from views what changes nothing."""
    u = P[O_MEMORY]
    n = entries(B, P)
    units = P[u + U_UNITS]
    if n == 0:
        clear(B, P)
        return
    if tagged(B, P, p):
        drop_dead(B, P, p, pc, True)
    if P[u + U_CHANGED] == 0 and not idle(B, P, unit_of(P, p)):
        return  # it was settled before
    every = (np.int64(1) << n) - 1
    gone = every  # overwritten for everybody
    lacking = np.int64(0)  # some unit lacks it
    for v in range(units):
        if idle(B, P, v):
            for k in range(VIEWS):
                B[view_at(P, v, k)] = 0
            for i in range(P[u + U_TAGS]):
                B[tag_at(P, v, i)] = 0
                B[tag_at(P, v, i) + 1] = 0
            P[u + P[u + U_LACKS] + v] = 0
            B[P[u + U_BASE]] &= ~(np.int64(1) << (BARRIER_AT + v))
            continue
        loads = np.int64(0)
        stores = np.int64(0)
        for i in range(n):
            how = touched(P, cell_of(B, P, i)) >> (2 * v)
            loads |= (how & 1) << i
            stores |= ((how >> 1) & 1) << i
        a = view_at(P, v, 0)
        seen = B[a + V_SEEN]
        known = (seen | B[a + V_LOADS] | ~loads) & (seen | B[a + V_STORES] | ~stores)
        gone &= known
        lack = every & ~((seen | B[a + V_LOADS]) & (seen | B[a + V_STORES] | ~stores))
        lacking |= lack
        P[u + P[u + U_LACKS] + v] = lack
        B[a + V_STORES] &= stores & ~seen
        B[a + V_READ] &= ~(B[a + V_LOADS] | seen)
        B[a + V_SEEN] &= ~(B[a + V_LOADS] & (B[a + V_STORES] | ~stores))
        for i in range(P[u + U_TAGS] - 1, -1, -1):
            w = tag_at(P, v, i)
            if B[w]:
                B[w + 1] &= lack
                if B[w + 1] == 0:
                    drop_tag(B, P, v, i)
    for v in range(units):
        others = np.int64(0)
        for k in range(units):
            if k != v:
                others |= P[u + P[u + U_LACKS] + k]
        B[view_at(P, v, V_OWN)] &= others
        B[view_at(P, v, V_CARRIED)] &= others
    for i in range(n):
        w = entry_at(P, i)
        c = cell_of(B, P, i)
        how = touched(P, c)
        writer = writer_of(B, w)
        others = np.int64(0)
        for k in range(units):
            if k != writer and (how >> (2 * k)) & 1:
                others |= P[u + P[u + U_LACKS] + k]
        B[w + E_CARRIED] &= others
        if is_lock(P, c):
            B[w + E_DEP] &= lacking
        elif writer >= 0:
            B[w + E_DEP] &= P[u + P[u + U_LACKS] + writer]
    for i in range(n - 1, -1, -1):
        if (gone >> i) & 1 and B[entry_at(P, i)] & LAST == 0:
            remove(B, P, i)
    for i in range(entries(B, P) - 1, -1, -1):
        w = entry_at(P, i)
        alone = i == 0 or cell_of(B, P, i - 1) != cell_of(B, P, i)
        if alone and B[w] & LAST and B[w + E_CARRIED] == 0 and B[w + E_DEP] == 0:
            remove(B, P, i)
    if entries(B, P) == 0:
        clear(B, P)


# -- the automaton with views
TAGS = 16  # registers and cells of a unit that have tags, at most


def viewed(a: Automaton, capacity: int) -> Automaton:
    """`a` under the kernel's memory model, with room for `capacity` entries as words of the state.

    Raises `ValueError` for a capacity outside 2 to 60.
    """
    if not 2 <= capacity <= MOST:
        raise ValueError(f"room for {capacity} stores; from 2 to {MOST}")
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
    more = 1 + len(units) * (VIEWS + TAG * TAGS) + ENTRY * capacity
    first_tag = 1 + len(units) * VIEWS
    head = [0] * U_HEADER
    parts = [unit_of, idle, [x for r in rows for x in r], [0] * a.ncell, locks, [NEVER] * (2 * len(units) * a.ncell),
             [0] * a.ncell, [0] * len(units), [0] * a.ncell]  # fmt: skip
    head[:9] = [capacity, a.nw, len(units), TAGS, first_tag, first_tag + len(units) * TAG * TAGS, len(rows), 0, 0]
    at = U_HEADER
    for i, part in enumerate(parts):
        head[9 + i] = at
        at += len(part)
    return widened(
        a,
        more,
        memory="lkmm" + (f":{capacity}" if capacity != MOST else ""),
        memory_table=[*head, *(x for part in parts for x in part)],
    )


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
