"""The Linux kernel memory model for `check`: stores that others may not have seen yet, and what each CPU knows.

The rules are those of litmus/machine.py, which is held against the axioms of tools/memory-model (linux-kernel.cat);
docs/memory-models.md has them in words.  Here every CPU performs its accesses in the order of its text: a load may
take an older store, a store may be put before others' in coherence order, and nothing else is needed but for load
buffering (a store that passes an earlier load), which is not explored.

State: **entries**, the stores of a location that are not yet the only ones that anybody may see, in coherence order,
the last of them being what memory holds.  A **view** is a word with a bit for each entry but the last one of a
location: it is known that this entry was overwritten.  A store carries a view; a CPU has nine (V_*); a register or a
private cell whose value was loaded, and so orders what depends on it, has one (a **tag**).  An entry that nobody can
read any more is dropped, so that two states that behave alike are one.

Only cells that two CPUs touch otherwise than under one lock have entries: of all others every load sees the last store.
Which these are is learned, as are the cells that a CPU loads or stores at all (`record`): docs/engine.md, "Why records
may be learned", is the argument.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit_views as jit
from seqfault.explore.locksets import against, holding
from seqfault.explore.memory_sc import load as sc_load
from seqfault.explore.memory_sc import store as sc_store
from seqfault.explore.orders import ACQUIRE, ATOMIC, FULL_RMW, RELAXED, RELEASE, RMW_ACQUIRE, RMW_RELEASE
from seqfault.explore.tables import O_MEMORY, O_TAB, SLOT

MOST = 60  # entries that were overwritten: a bit each of a view
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
COUNT = 0xFF  # the first word: how many entries; above it of each unit whether a full barrier is to take effect
BARRIER_AT = 8
TAG = 2  # words: of what, the view

# P[O_MEMORY:]: numbers, then offsets from there
(
    U_CAPACITY, U_BASE, U_UNITS, U_TAGS, U_FIRST_TAG, U_FIRST_ENTRY, U_LOCKS, U_NEWS, U_CHANGED,
    U_UNIT_OF, U_IDLE, U_LOCK_ROWS, U_RACY, U_IS_LOCK, U_RECORDS, U_FOUND, U_LACKS, U_TOUCHED, U_STANDS,
    U_AHEAD, U_NEEDS, U_RACED, U_MET, U_WOKE, U_Q, U_KEYS, U_KNOWN,
    U_CLASSES, U_CLASS, U_STOOD, U_PENDED, U_KEPT,
) = range(32)  # fmt: skip
# behind V_CALLS: of memory_spared.py
U_PLAINS, U_PART_OF, U_LOOSE, U_GAINS, U_LOOKED, U_FIRST, U_EARLY, U_BITS = range(41, 49)
# U_RACED, U_MET, U_PENDED, U_WOKE: what a step did, for movers: an access to a racy cell (1: loaded, 2: stored); a full
# barrier took effect; one came that may take effect later; it began where nothing was known.  U_Q ...: addresses
# of what processes may yet do (futures.py), if that is known.  U_STOOD: before the step processes were where U_STANDS
# says.  U_KEPT: what a read-modify-write's unit knew before it
U_HEADER = 49  # above the numbers: V_CALLS
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


@jit
def mask(first, end):  # type: ignore[no-untyped-def]
    """Bits first to end - 1."""
    return (np.int64(1) << end) - (np.int64(1) << first)


# -- entries come and go
@jit
def moved(v, i, how):  # type: ignore[no-untyped-def]
    """A view when an entry gets bit `i`, or when the one that has it goes.  Who knows that the entry before it was
    overwritten knew the same of one that is put BETWEEN two."""
    low = (np.int64(1) << i) - 1
    if how == REMOVED:
        return (v & low) | ((v >> 1) & ~low)
    v = (v & low) | ((v & ~low) << 1)
    if how == BETWEEN:
        v |= ((v >> (i - 1)) & 1) << i
    return v


@jit
def renumber(B, P, i, how):  # type: ignore[no-untyped-def]
    """Every view when an entry gets bit `i`, or the one that has it goes."""
    u = P[O_MEMORY]
    units = P[u + U_UNITS]
    first = P[u + U_BASE] + 1
    for k in range(first, first + units * VIEWS + 1):
        if B[k]:
            B[k] = moved(B[k], i, how)
    for v in range(units):
        w = tag_at(P, v, 0)
        end = w + TAG * P[u + U_TAGS]
        while w < end and B[w]:
            B[w + 1] = moved(B[w + 1], i, how)
            w += TAG
    for k in range(entries(B, P)):
        w = entry_at(P, k)
        B[w + E_CARRIED] = moved(B[w + E_CARRIED], i, how)
        B[w + E_DEP] = moved(B[w + E_DEP], i, how)
        B[w + E_STRONG] = moved(B[w + E_STRONG], i, how)


@jit
def insert(B, P, i, bit, how):  # type: ignore[no-untyped-def]
    """Make room for an entry number `i`, and for a `bit` (-1: none)."""
    P[P[O_MEMORY] + U_CHANGED] = 1
    if bit >= 0:
        renumber(B, P, bit, how)
    n = entries(B, P)
    for w in range(entry_at(P, n) - 1, entry_at(P, i) - 1, -1):
        B[w + ENTRY] = B[w]
    w = entry_at(P, i)
    for k in range(ENTRY):
        B[w + k] = 0
    B[P[P[O_MEMORY] + U_BASE]] += 1


@jit
def remove(B, P, i):  # type: ignore[no-untyped-def]
    n = entries(B, P)
    bit = bit_of(B, P, i) if B[entry_at(P, i)] & LAST == 0 else np.int64(-1)
    for w in range(entry_at(P, i), entry_at(P, n - 1)):
        B[w] = B[w + ENTRY]
    w = entry_at(P, n - 1)
    for k in range(ENTRY):
        B[w + k] = 0
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
            return B[w + 1]
        w += TAG
    return np.int64(0)


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
    last = P[P[O_MEMORY] + U_TAGS] - 1
    for w in range(tag_at(P, unit, i), tag_at(P, unit, last)):
        B[w] = B[w + TAG]
    w = tag_at(P, unit, last)
    B[w] = 0
    B[w + 1] = 0


@jit
def set_tag(B, P, slot, p, view):  # type: ignore[no-untyped-def]
    """Give a register (or a cell) its tag; False: there is no room.

    Tags are kept in the order of their keys."""
    unit = unit_of(P, p)
    key = key_of(P, slot, p)
    view &= ~(B[view_at(P, unit, V_LOADS)] & B[view_at(P, unit, V_STORES)])
    room = P[P[O_MEMORY] + U_TAGS]
    i = np.int64(0)
    while i < room:
        k = B[tag_at(P, unit, i)]
        if k == 0 or k >= key:
            break
        i += 1
    here = i < room and B[tag_at(P, unit, i)] == key
    if view == 0:
        if here:
            drop_tag(B, P, unit, i)
        return True
    P[P[O_MEMORY] + U_CHANGED] = 1
    if not here:
        if B[tag_at(P, unit, room - 1)] != 0:
            return False
        for w in range(tag_at(P, unit, room - 1) - 1, tag_at(P, unit, i) - 1, -1):
            B[w + TAG] = B[w]
        B[tag_at(P, unit, i)] = key
    B[tag_at(P, unit, i) + 1] = view
    return True


@jit
def branched(B, P, slot, p):  # type: ignore[no-untyped-def]
    """A control dependency: later stores come after what the register's value came from."""
    t = tag(B, P, slot, p)
    if t:
        P[P[O_MEMORY] + U_CHANGED] = 1
        B[view_at(P, unit_of(P, p), V_STORES)] |= t


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


# -- accesses
@jit
def everything(B, P, unit):  # type: ignore[no-untyped-def]
    v = np.int64(0)
    for k in range(VIEWS):
        v |= B[view_at(P, unit, k)]
    return v


@jit
def loaded(B, P, unit):  # type: ignore[no-untyped-def]
    """All that a unit's loads, and full barriers, have shown it."""
    a = view_at(P, unit, 0)
    return B[a + V_LOADS] | B[a + V_READ] | B[a + V_STRONG]


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
    know = B[view_at(P, unit, V_SEEN)] | B[view_at(P, unit, V_LOADS)] | dep
    know >>= bit_of(B, P, i)
    while i < end - 1 and know & 1:
        know >>= 1
        i += 1
    return end - i


@jit
def overtaken(B, P, unit, i, know):  # type: ignore[no-untyped-def]
    """A load has taken entry `i`, of which an earlier one of its unit may have shown that it was overwritten: then it
    comes before that one ((prop \\ id) & int), and what comes after that one knows what it does, too."""
    bit = np.int64(1) << bit_of(B, P, i)
    for k in (V_STORES, V_UNLOCKED):
        w = view_at(P, unit, k)
        if B[w] & bit:
            B[w] |= know
    for k in range(tags_of(B, P, unit)):
        w = tag_at(P, unit, k) + 1
        if B[w] & bit:
            B[w] |= know
    for k in range(entries(B, P)):
        w = entry_at(P, k)
        if writer_of(B, w) == unit and B[w + E_DEP] & bit and not is_lock(P, cell_of(B, P, k)):
            B[w + E_DEP] |= know


@jit
def load(B, P, cell, order, p, dep, age, choices):  # type: ignore[no-untyped-def]
    """Raw value of the store `age` stores before the last one, and what is known of it (for the register)."""
    unit = unit_of(P, p)
    if order:  # smp_rmb() has ordered it behind what only loads come after so far
        dep |= B[view_at(P, unit, V_LOADS)] & ~B[view_at(P, unit, V_STORES)]
    if choices == 0:
        if dep and order in (ACQUIRE, ATOMIC):
            P[P[O_MEMORY] + U_CHANGED] = 1
            B[view_at(P, unit, V_LOADS)] |= dep
            B[view_at(P, unit, V_STORES)] |= dep
        return sc_load(B, P, cell, p), dep
    P[P[O_MEMORY] + U_CHANGED] = 1
    first = first_of(B, P, cell)
    j = end_of(B, P, cell, first) - 1 - age
    w = entry_at(P, j)
    raw = B[w + E_VALUE]
    older = mask(bit_of(B, P, first), bit_of(B, P, j))
    know = dep
    if writer_of(B, w) == unit:
        if not is_lock(P, cell):
            know |= B[w + E_DEP]
    else:
        know |= B[w + E_CARRIED] | B[w + E_STRONG] | older
        B[view_at(P, unit, V_STRONG)] |= B[w + E_STRONG]
    B[view_at(P, unit, V_SEEN)] |= older
    B[view_at(P, unit, V_READ)] |= know
    if age:
        overtaken(B, P, unit, j, know)
    if order in (ACQUIRE, ATOMIC):  # of a read-modify-write: when it stores
        B[view_at(P, unit, V_LOADS)] |= know
        B[view_at(P, unit, V_STORES)] |= know
    return raw, know


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
    unit = unit_of(P, p)
    know = B[view_at(P, unit, V_SEEN)] | B[view_at(P, unit, V_STORES)] | dep
    if order == RELEASE:
        know |= everything(B, P, unit)
    k = np.int64(1)
    before = lasts(B, P, first)
    for j in range(end - 1, first, -1):
        if (know >> (j - 1 - before)) & 1:
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
    if order in (FULL_RMW, RMW_RELEASE) and (everything(B, P, unit_of(P, p)) >> bit_of(B, P, at - 1)) & 1:
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
            know |= B[view_at(P, unit, V_UNLOCKED)]
            B[view_at(P, unit, V_CARRIED)] |= B[view_at(P, unit, V_GIVEN)]
        B[view_at(P, unit, V_LOADS)] |= know
        B[view_at(P, unit, V_STORES)] |= know
        if is_lock(P, cell) and racy(P, cell):  # and its holder's stores for everybody
            first = first_of(B, P, cell)
            end = end_of(B, P, cell, first)
            if first < end:
                B[view_at(P, unit, V_CARRIED)] |= B[entry_at(P, end - 1) + E_DEP]


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
        B[view_at(P, unit, V_UNLOCKED)] |= loaded(B, P, unit)
        B[view_at(P, unit, V_GIVEN)] = B[view_at(P, unit, V_OWN)]
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
    own = B[view_at(P, unit, V_OWN)]
    carried = B[view_at(P, unit, V_CARRIED)]
    if order in (RELEASE, ATOMIC, RMW_RELEASE):
        carried |= everything(B, P, unit) | dep
    before = lasts(B, P, first)
    bit = (at if at < end else end - 1) - before
    insert(B, P, at, bit, how)  # numbers of what comes behind it change
    if at == end:
        B[entry_at(P, at - 1)] &= ~np.int64(LAST)
        sc_store(B, P, cell, raw, p)
    dep, own, carried = moved(dep, bit, how), moved(own, bit, how), moved(carried, bit, how)
    older = mask(first - before, at - before)
    carried |= older
    w = entry_at(P, at)
    B[w + E_CELL] = cell | (unit + 1) << UNIT_AT
    if at == end:
        B[w + E_CELL] |= LAST
    if order >= RELAXED and order != ATOMIC:
        B[w + E_CELL] |= AFTER
    B[w + E_VALUE] = raw
    B[w + E_CARRIED] = carried
    if is_lock(P, cell):
        B[w + E_DEP] = own if order == RELEASE else np.int64(0)
    else:
        B[w + E_DEP] = dep
    # not that it was overwritten itself: who has shown that to its unit does not come before it
    B[w + E_STRONG] = B[view_at(P, unit, V_STRONG)] & ~mask(at - before, end - before)
    B[view_at(P, unit, V_OWN)] |= carried
    B[view_at(P, unit, V_SEEN)] |= older
