"""The Linux kernel memory model for `check`: stores that others may not have seen yet, and what each CPU knows.

The rules are those of litmus/machine.py, which is held against the axioms of tools/memory-model (linux-kernel.cat);
docs/memory-models.md has them in words.  Here every CPU performs its accesses in the order of its text: a load may
take an older store, a store may be put before others' in coherence order, and nothing else is needed but for load
buffering (a store that passes an earlier load), which is not explored.

State: **entries**, the stores of a location that are not yet the only ones that anybody may see, in coherence order,
the last of them being what memory holds.  A **view** has a bit for each entry but the last one of a location: it is
known that this entry was overwritten (memory_words.py: it is one word, or two).  A store carries a view; a CPU has nine
(V_*); a register or a private cell whose value was loaded, and so orders what depends on it, has one (a **tag**).  An
entry that nobody can read any more is dropped, so that two states that behave alike are one.

Only cells that two CPUs touch otherwise than under one lock have entries: of all others every load sees the last store.
Which these are is learned, as are the cells that a CPU loads or stores at all (`record`): docs/engine.md, "Why records
may be learned", is the argument.  Accesses: memory_accesses.py.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit_views as jit
from seqfault.explore.locksets import against, holding
from seqfault.explore.memory_sc import load as sc_load
from seqfault.explore.memory_words import U_END, add_view, blank, put_view, slide, view
from seqfault.explore.raw import mask, nothing, some
from seqfault.explore.tables import O_MEMORY, O_TAB, SLOT

VIEWS = 9
# what a unit (a CPU, or a process bound to none) knows.  V_SEEN: of each location, by its own accesses to it; V_LOADS:
# what its later loads have to respect; V_READ: all that its loads have shown it; V_STORES: what its later stores come
# after; V_OWN: what its own stores carry; V_CARRIED: what its next store carries; V_STRONG: what full barriers knew
# that its accesses come after; V_UNLOCKED: what its loads had shown it when it last gave back a spinlock; V_GIVEN: its
# own stores then, which after another lock its stores carry
V_SEEN, V_LOADS, V_READ, V_STORES, V_OWN, V_CARRIED, V_STRONG, V_UNLOCKED, V_GIVEN = range(VIEWS)
# words: cell and flags, value, what it carries, what it depended on (of a lock: its holder's own stores), what full
# barriers knew that it comes after
ENTRY = 5
E_CELL, E_VALUE, E_CARRIED, E_DEP, E_STRONG = range(ENTRY)
CELL_BITS = 28
UNIT_AT, LAST, AFTER = 28, 1 << 40, 1 << 41  # in E_CELL; AFTER: of a read-modify-write, nothing comes before it
SIDE_AT = 42  # above it, where data races are looked for: which access it is (races.py: a side), plus one
COUNT = 0xFF  # the first word: how many entries; above it of each unit whether a full barrier is to take effect
BARRIER_AT = 8
TAG = 2  # words: of what, the view

# P[O_MEMORY:]: numbers, then offsets from there
(
    U_CAPACITY, U_BASE, U_UNITS, U_TAGS, U_FIRST_TAG, U_FIRST_ENTRY, U_LOCKS, U_NEWS, U_CHANGED,
    U_UNIT_OF, U_IDLE, U_LOCK_ROWS, U_RACY, U_IS_LOCK, U_RECORDS, U_FOUND, U_LACKS, U_TOUCHED, U_STANDS,
    U_AHEAD, U_NEEDS, U_RACED, U_MET, U_WOKE, U_Q, U_KEYS, U_KNOWN,
    U_CLASSES, U_CLASS, U_STOOD, U_PENDED,
) = range(31)  # fmt: skip
# behind V_CALLS: of memory_spared.py
U_PLAINS, U_PART_OF, U_LOOSE, U_GAINS, U_LOOKED, U_FIRST, U_EARLY, U_BITS = range(41, 49)
# U_RACED, U_MET, U_PENDED, U_WOKE: what a step did, for movers: an access to a racy cell (1: loaded, 2: stored); a full
# barrier took effect; one came that may take effect later; it began where nothing was known.  U_Q ...: addresses
# of what processes may yet do (futures.py), if that is known.  U_STOOD: before the step processes were where U_STANDS
# says.  U_FENCED: it has a barrier; U_TELLS: by it its unit knows what somebody else lacks.  Views: U_KEPT: what a
# read-modify-write's unit knew before it; U_SHOWN: what its load has shown; U_KNEW, U_STRONG: what the step's unit knew
# before it, what full barriers did that it comes after
# U_WATCHED: where the tables are of who looks for data races, or 0; U_BY: which access a store is, for these
U_FENCED, U_TELLS, U_WATCHED, U_BY = range(U_END, U_END + 4)
U_HEADER = U_END + 4  # above the numbers: V_CALLS
NEVER = -1  # in a record: no such access
REMOVED, INSERTED, BETWEEN = range(3)  # what becomes of an entry


@jit
def unit_of(P, p):  # type: ignore[no-untyped-def]
    u = P[O_MEMORY]
    return P[u + P[u + U_UNIT_OF] + p]


@jit
def racy(P, cell):  # type: ignore[no-untyped-def]
    u = P[O_MEMORY]
    return P[u + P[u + U_RACY] + cell] != 0


@jit
def is_lock(P, cell):  # type: ignore[no-untyped-def]
    u = P[O_MEMORY]
    return P[u + P[u + U_IS_LOCK] + cell] != 0


@jit
def view_at(P, unit, which):  # type: ignore[no-untyped-def]
    return P[P[O_MEMORY] + U_BASE] + 1 + unit * VIEWS + which


@jit
def told_at(P):  # type: ignore[no-untyped-def]
    """What full barriers knew that have taken effect."""
    return view_at(P, P[P[O_MEMORY] + U_UNITS], 0)


@jit
def tag_at(P, unit, i):  # type: ignore[no-untyped-def]
    u = P[O_MEMORY]
    return P[u + U_BASE] + P[u + U_FIRST_TAG] + TAG * (unit * P[u + U_TAGS] + i)


@jit
def entry_at(P, i):  # type: ignore[no-untyped-def]
    u = P[O_MEMORY]
    return P[u + U_BASE] + P[u + U_FIRST_ENTRY] + ENTRY * i


@jit
def cell_of(B, P, i):  # type: ignore[no-untyped-def]
    return B[entry_at(P, i)] & ((np.int64(1) << CELL_BITS) - 1)


@jit
def writer_of(B, w):  # type: ignore[no-untyped-def]
    """The unit that made the store of the entry at word `w`; -1: nobody, it is what the cell held."""
    return ((B[w] >> UNIT_AT) & 0xFFF) - 1


@jit
def entries(B, P):  # type: ignore[no-untyped-def]
    return B[P[P[O_MEMORY] + U_BASE]] & COUNT


@jit
def level(B, P):  # type: ignore[no-untyped-def]
    """The last store of each cell is what memory holds, where that was changed by no step."""
    for i in range(entries(B, P)):
        if B[entry_at(P, i)] & LAST:
            B[entry_at(P, i) + E_VALUE] = sc_load(B, P, cell_of(B, P, i), 0)


@jit
def first_of(B, P, cell):  # type: ignore[no-untyped-def]
    """The number of the first entry of a cell, or of the first one behind where they would be."""
    n = entries(B, P)
    i = np.int64(0)
    while i < n and cell_of(B, P, i) < cell:
        i += 1
    return i


@jit
def end_of(B, P, cell, i):  # type: ignore[no-untyped-def]
    n = entries(B, P)
    while i < n and cell_of(B, P, i) == cell:
        i += 1
    return i


@jit
def lasts(B, P, i):  # type: ignore[no-untyped-def]
    """How many of the entries before number `i` are the last ones of their cells, which have no bit."""
    n = np.int64(0)
    for k in range(i):
        if B[entry_at(P, k)] & LAST:
            n += 1
    return n


@jit
def bit_of(B, P, i):  # type: ignore[no-untyped-def]
    """Which bit of a view is that of entry `i`."""
    return i - lasts(B, P, i)


@jit
def bits(B, P):  # type: ignore[no-untyped-def]
    """How many bits of a view there are."""
    return bit_of(B, P, entries(B, P))


# -- entries come and go
@jit
def moved(P, v, i, how):  # type: ignore[no-untyped-def]
    """A view when an entry gets bit `i`, or when the one that has it goes.  Who knows that the entry before it was
    overwritten knew the same of one that is put BETWEEN two."""
    low = mask(P, 0, i)
    if how == REMOVED:
        return (v & low) | ((v >> 1) & ~low)
    v = (v & low) | ((v & ~low) << 1)
    if how == BETWEEN:
        v |= ((v >> (i - 1)) & mask(P, 0, 1)) << i
    return v


@jit
def moved_at(B, P, w, i, how):  # type: ignore[no-untyped-def]
    v = view(B, P, w)
    if some(v):
        put_view(B, P, w, moved(P, v, i, how))


@jit
def renumber(B, P, i, how):  # type: ignore[no-untyped-def]
    """Every view when an entry gets bit `i`, or the one that has it goes."""
    u = P[O_MEMORY]
    units = P[u + U_UNITS]
    first = P[u + U_BASE] + 1
    for k in range(first, first + units * VIEWS + 1):
        moved_at(B, P, k, i, how)
    for v in range(units):
        w = tag_at(P, v, 0)
        end = w + TAG * P[u + U_TAGS]
        while w < end and B[w]:
            moved_at(B, P, w + 1, i, how)
            w += TAG
    for k in range(entries(B, P)):
        w = entry_at(P, k)
        moved_at(B, P, w + E_CARRIED, i, how)
        moved_at(B, P, w + E_DEP, i, how)
        moved_at(B, P, w + E_STRONG, i, how)


@jit
def insert(B, P, i, bit, how):  # type: ignore[no-untyped-def]
    """Make room for an entry number `i`, and for a `bit` (-1: none)."""
    P[P[O_MEMORY] + U_CHANGED] = 1
    if bit >= 0:
        renumber(B, P, bit, how)
    slide(B, P, entry_at(P, i), entry_at(P, entries(B, P)), ENTRY)
    blank(B, P, entry_at(P, i), entry_at(P, i + 1))
    B[P[P[O_MEMORY] + U_BASE]] += 1


@jit
def remove(B, P, i):  # type: ignore[no-untyped-def]
    n = entries(B, P)
    bit = bit_of(B, P, i) if B[entry_at(P, i)] & LAST == 0 else np.int64(-1)
    slide(B, P, entry_at(P, i + 1), entry_at(P, n), -ENTRY)
    blank(B, P, entry_at(P, n - 1), entry_at(P, n))
    B[P[P[O_MEMORY] + U_BASE]] -= 1
    if bit >= 0:
        renumber(B, P, bit, REMOVED)


# -- tags: what a register's value depended on
@jit
def key_of(P, slot, p):  # type: ignore[no-untyped-def]
    """Of a register of process `p`, or of a cell."""
    if P[P[O_TAB] + slot * SLOT + 5]:
        return ((slot + 1) << 8) | (p + 1)
    return (slot + 1) << 8


@jit
def tag(B, P, slot, p):  # type: ignore[no-untyped-def]
    unit = unit_of(P, p)
    w = tag_at(P, unit, 0)
    key = key_of(P, slot, p)
    for _ in range(P[P[O_MEMORY] + U_TAGS]):
        if B[w] == 0:
            break
        if B[w] == key:
            return view(B, P, w + 1)
        w += TAG
    return nothing(P)


@jit
def tagged(B, P, p):  # type: ignore[no-untyped-def]
    """Whether anything of the unit of `p` has a tag."""
    return B[tag_at(P, unit_of(P, p), 0)] != 0


@jit
def tags_of(B, P, unit):  # type: ignore[no-untyped-def]
    """How many tags the unit has."""
    w = tag_at(P, unit, 0)
    n = np.int64(0)
    while n < P[P[O_MEMORY] + U_TAGS] and B[w + TAG * n]:
        n += 1
    return n


@jit
def drop_tag(B, P, unit, i):  # type: ignore[no-untyped-def]
    end = tag_at(P, unit, P[P[O_MEMORY] + U_TAGS])
    slide(B, P, tag_at(P, unit, i + 1), end, -TAG)
    blank(B, P, end - TAG, end)


@jit
def set_tag(B, P, slot, p, v):  # type: ignore[no-untyped-def]
    """Give a register (or a cell) its tag; False: there is no room.

    Tags are kept in the order of their keys."""
    unit = unit_of(P, p)
    key = key_of(P, slot, p)
    v &= ~(view(B, P, view_at(P, unit, V_LOADS)) & view(B, P, view_at(P, unit, V_STORES)))
    room = P[P[O_MEMORY] + U_TAGS]
    i = np.int64(0)
    while i < room:
        k = B[tag_at(P, unit, i)]
        if k == 0 or k >= key:
            break
        i += 1
    here = i < room and B[tag_at(P, unit, i)] == key
    if not some(v):
        if here:
            drop_tag(B, P, unit, i)
        return True
    P[P[O_MEMORY] + U_CHANGED] = 1
    if not here:
        if B[tag_at(P, unit, room - 1)] != 0:
            return False
        slide(B, P, tag_at(P, unit, i), tag_at(P, unit, room - 1), TAG)
        B[tag_at(P, unit, i)] = key
    put_view(B, P, tag_at(P, unit, i) + 1, v)
    return True


@jit
def branched(B, P, slot, p):  # type: ignore[no-untyped-def]
    """A control dependency: later stores come after what the register's value came from."""
    t = tag(B, P, slot, p)
    if some(t):
        P[P[O_MEMORY] + U_CHANGED] = 1
        add_view(B, P, view_at(P, unit_of(P, p), V_STORES), t)


# -- records
@jit
def held(B, P, p, of):  # type: ignore[no-untyped-def]
    """The locks of the set `of` that process `p` holds: two bits each, for holding it at all and for writing."""
    bits = np.int64(0)
    rows = P[O_MEMORY] + P[P[O_MEMORY] + U_LOCK_ROWS]
    for k in range(P[P[O_MEMORY] + U_LOCKS]):
        if (of >> (2 * k)) & 3:
            bits |= holding(B, P, P, rows + 3 * k, p) << (2 * k)
    return bits & of


@jit
def record(B, P, cell, p, store):  # type: ignore[no-untyped-def]
    """Enter an access in the records.  A cell becomes racy (in the next exploration) if it was touched otherwise than
    under one lock."""
    u = P[O_MEMORY]
    units = P[u + U_UNITS]
    unit = unit_of(P, p)
    kind = np.int64(1) if store else np.int64(0)
    at = u + P[u + U_RECORDS] + 2 * units * cell
    mine = at + 2 * unit + kind
    old = P[mine]
    if old == 0:
        return
    P[u + P[u + U_TOUCHED] + cell] |= np.int64(1) << (2 * unit + kind)
    if P[u + P[u + U_RACY] + cell]:
        if old == NEVER:
            P[mine] = 0
            P[u + U_NEWS] += 1
        return
    now = held(B, P, p, old)
    if now == old:
        return
    P[mine] = now
    no = against(now)
    for v in range(units):
        if v != unit:
            stores, loads = P[at + 2 * v + 1], P[at + 2 * v]
            if (stores != NEVER and stores & no == 0) or (store and loads != NEVER and loads & no == 0):
                P[u + U_NEWS] += 1
                P[u + P[u + U_FOUND] + cell] = 1


@jit
def plain_at(P, unit, cell, kind):  # type: ignore[no-untyped-def]
    """The locks that a unit holds at each load of a cell that may take an older store than the last (`kind` 0), at each
    store that may be put before others; NEVER: there is none."""
    u = P[O_MEMORY]
    return P[u + P[u + U_PLAINS] + 2 * P[u + U_UNITS] * cell + 2 * unit + kind]


@jit
def plain(B, P, cell, p, kind):  # type: ignore[no-untyped-def]
    """Enter a load that may take an older store than the last (`kind` 0), or a store that may be put before others."""
    u = P[O_MEMORY]
    at = u + P[u + U_PLAINS] + 2 * P[u + U_UNITS] * cell + 2 * unit_of(P, p) + kind
    old = P[at]
    if old:
        now = held(B, P, p, old)
        if now != old:
            P[at] = now
            if racy(P, cell):
                P[u + U_NEWS] += 1


@jit
def touched(P, cell):  # type: ignore[no-untyped-def]
    """Two bits for each unit: whether it loads, stores the cell."""
    return P[P[O_MEMORY] + P[P[O_MEMORY] + U_TOUCHED] + cell]
