"""Which steps commute with all that others may yet do, under sc, tso and lkmm; and what there is to learn for that.

movers.py has the rules, futures.py what others may yet do, private.py which objects are one process's alone.
"""

from __future__ import annotations

import numpy as np

from seqfault.compile.work import ATOMIC_CELL, CELL, LOOK, OBJECT, READ, RMW_CELL, WRITE
from seqfault.explore.futures import (
    ASLEEP_ROW,
    ATOMICS,
    EARLY,
    EARLY_STORES,
    LOADS,
    Q_NEWS,
    STORES,
    TAKES,
    asleep_but_for,
    may,
    touches,
    waits_on,
)
from seqfault.explore.jit import jit_moving as jit
from seqfault.explore.locksets import against
from seqfault.explore.memory_barriers import pending
from seqfault.explore.memory_buffers import is_buffer, together
from seqfault.explore.memory_buffers import own as waiting
from seqfault.explore.memory_settle import idle
from seqfault.explore.memory_views import (
    U_CHANGED,
    U_FENCED,
    U_FIRST,
    U_IDLE,
    U_MET,
    U_PENDED,
    U_RACED,
    U_TELLS,
    U_WOKE,
    racy,
    unit_of,
)
from seqfault.explore.movers import KINDS, LEFT, NEVER, RIGHT, W_STRIDE, W_WHOSE
from seqfault.explore.movers import TAKES as MOVES_TAKES
from seqfault.explore.private import Y_STATE, believed, disowned, private
from seqfault.explore.tables import M_CELLS, M_MEMORY, MAX_ACCESSED, O_MEMORY, X_ACCESSED, X_AGED, X_RADIX, X_USED

BUFFERED, VIEWED = 1, 3  # M_MEMORY of tso, lkmm
ANYBODY, STRANGERS, PARTNERS = range(3)
# two cells behind those of memory stand for what a memory model does: KNOWS is stored by a store to a racy cell, taken
# by a full barrier (under tso by a store, or by what waits for an empty buffer), loaded by whatever touches memory,
# which may change what its unit knows (its ATOMICS: by what goes by that, too, which is all but atomic blocks); WAKES
# is stored by a unit that was idle, and so knows all that there is
KNOWS, WAKES = 0, 1


@jit
def chooses(X):  # type: ignore[no-untyped-def]
    """Whether the step has more than one alternative."""
    for k in range(X[X_USED]):  # noqa: SIM110
        if X[X_RADIX + k] > 1:
            return True
    return False


@jit
def alone_wakes(S, P, W, R, Q, known, at, Z, before, q, p, nproc):  # type: ignore[no-untyped-def]
    """Whether `q` cannot step, and only `p` can change that."""
    if not asleep_but_for(W, R, Q, known, at, Z, before, q, p, nproc):
        return False
    if P[M_MEMORY] == BUFFERED:
        for r in range(nproc):
            if is_buffer(P, r):
                for j in range(Z[q * ASLEEP_ROW]):
                    if waiting(S, P, Z[q * ASLEEP_ROW + 1 + j], r):
                        return False
    return True


@jit
def in_the_way(S, P, W, R, Q, known, at, Z, cell, before, no, p, nproc, store, whom):  # type: ignore[no-untyped-def]
    """Whether another process may yet store to `cell` (or, against a store, load it; or take it for a lock) without a
    lock that `no` rules out.  0: no; 1: yes; 2: only such that wait for this store to go on.  `whom`: ANYBODY, those
    who do not share the buffer of `p`, those who do."""
    says = 0
    tso = P[M_MEMORY] == BUFFERED
    flushes = tso and is_buffer(P, p)
    for q in range(nproc):
        if q == p:
            continue
        if tso:
            same = together(P, p, q)
            if (same and (flushes or whom == STRANGERS)) or (not same and whom == PARTNERS):
                continue  # who shares the buffer sees what is in it
            if is_buffer(P, q):
                if not together(P, p, q) and waiting(S, P, cell, q):
                    return 1
                continue
        i = (cell * nproc + q) * KINDS
        if (
            (R[i + 1] != NEVER and R[i + 1] & no == 0 and may(Q, known, at[q], cell, STORES))
            or (store and R[i] != NEVER and R[i] & no == 0 and may(Q, known, at[q], cell, LOADS))
            or (R[i + 2] != NEVER and R[i + 2] & no == 0 and may(Q, known, at[q], cell, TAKES))
        ):
            if not alone_wakes(S, P, W, R, Q, known, at, Z, before, q, p, nproc):
                return 1
            if store and waits_on(Z, q, cell):
                says = 2
    return says


@jit
def others_may(S, P, W, R, Q, known, at, Z, cell, kind, before, p, nproc):  # type: ignore[no-untyped-def]
    """Whether another process may yet touch `cell` in a way, whatever locks there are."""
    for q in range(nproc):
        if q != p and may(Q, known, at[q], cell, kind):  # noqa: SIM102
            if not alone_wakes(S, P, W, R, Q, known, at, Z, before, q, p, nproc):
                return True
    return False


@jit
def partner_may(S, P, W, R, Q, known, at, Z, kind, before, p, nproc):  # type: ignore[no-untyped-def]
    """Whether another process that shares the views of `p` (lkmm), or its store buffer (tso), may yet do `kind` of
    KNOWS: a CPU's interrupt handler.  What that one does is known to `p`, and what `p` does to that one; stores leave a
    buffer in their order, and who waits until it is empty would wait for one that had come earlier, too."""
    for q in range(nproc):
        if P[M_MEMORY] == VIEWED:
            shares = unit_of(P, q) == unit_of(P, p)
        else:
            shares = together(P, p, q) and not is_buffer(P, q)
        if q != p and shares and may(Q, known, at[q], P[M_CELLS] + KNOWS, kind):  # noqa: SIM102
            if not alone_wakes(S, P, W, R, Q, known, at, Z, before, q, p, nproc):
                return True
    return False


@jit
def racy_way(S, P, W, R, Q, known, at, Z, cell, before, no, p, nproc, store):  # type: ignore[no-untyped-def]
    """What is left of RIGHT | LEFT for a load or store of a cell whose old stores may be read yet.

    Who loads before a store may load after it, and take the older one; two stores are in either order by choice."""
    says = RIGHT | LEFT
    for q in range(nproc):
        if q == p:
            continue
        i = (cell * nproc + q) * KINDS
        loads = R[i] != NEVER and R[i] & no == 0 and may(Q, known, at[q], cell, LOADS)
        stores = R[i + 1] != NEVER and R[i + 1] & no == 0 and may(Q, known, at[q], cell, STORES)
        if (loads or stores) and not alone_wakes(S, P, W, R, Q, known, at, Z, before, q, p, nproc):
            if may(Q, known, at[q], cell, ATOMICS):
                return 0
            if store and loads:
                says &= LEFT
            if not store and stores:
                says &= RIGHT
        elif loads and store and waits_on(Z, q, cell):
            says &= LEFT
    return says


@jit
def quiet(P, X):  # type: ignore[no-untyped-def]
    """Whether a step only loads, last stores, and learns by that nothing that another unit lacks."""
    u = P[O_MEMORY]
    if P[u + U_FENCED] | P[u + U_MET] | P[u + U_PENDED] | P[u + U_WOKE] | P[u + U_TELLS] | X[X_AGED]:
        return False
    for j in range(X[X_ACCESSED]):
        code = X[X_ACCESSED + 1 + j]
        if code & 3 != LOOK and (code & 3 != READ or (code >> 2) & RMW_CELL != 0):
            return False
    return True


@jit
def known_way(S, B, P, W, R, Q, known, at, Z, X, before, p, nproc):  # type: ignore[no-untyped-def]
    """What is left of RIGHT | LEFT by what the step knows, and makes known, of racy cells."""
    u = P[O_MEMORY]
    knows, wakes = P[M_CELLS] + KNOWS, P[M_CELLS] + WAKES
    says = RIGHT | LEFT
    finishes = idle(B, P, unit_of(P, p)) and not idle(S, P, unit_of(P, p))
    if P[u + U_RACED] | P[u + U_CHANGED] or finishes:
        kind = ATOMICS if quiet(P, X) and not finishes else LOADS
        if partner_may(S, P, W, R, Q, known, at, Z, kind, before, p, nproc):
            return 0
    if P[u + U_RACED] & 2:
        unit = unit_of(P, p)
        main = P[u + P[u + U_IDLE] + 2 * unit] == p and P[u + U_WOKE] == 0
        for q in range(nproc):
            if q == p or (main and unit_of(P, q) == unit):
                continue  # its unit is not idle before `p` has finished
            if may(Q, known, at[q], wakes, STORES) and not alone_wakes(
                S, P, W, R, Q, known, at, Z, before, q, p, nproc
            ):
                return 0
    if P[u + U_MET] | P[u + U_PENDED] and (
        pending(S, P) & ~(np.int64(1) << unit_of(P, p)) != 0
        or others_may(S, P, W, R, Q, known, at, Z, knows, TAKES, before, p, nproc)
    ):
        if P[u + U_MET]:
            return 0
        says &= LEFT
    if P[u + U_WOKE] and others_may(S, P, W, R, Q, known, at, Z, knows, STORES, before, p, nproc):
        return 0
    return says


@jit
def lock_looked_at(S, P, W, R, Q, known, at, Z, cell, before, p, nproc):  # type: ignore[no-untyped-def]
    """Whether another process may yet load or store the cell of a lock otherwise than by taking it and giving it
    back."""
    for q in range(nproc):
        i = (cell * nproc + q) * KINDS
        if (
            q != p
            and (
                (R[i] != NEVER and may(Q, known, at[q], cell, LOADS))
                or (R[i + 1] != NEVER and may(Q, known, at[q], cell, STORES))
            )
            and not alone_wakes(S, P, W, R, Q, known, at, Z, before, q, p, nproc)
        ):
            return True
    return False


@jit
def moves(S, B, P, W, R, Y, Q, known, at, Z, X, before, after, p, nproc, waits):  # type: ignore[no-untyped-def]
    """As `movers.classify` of a step of `p` from S to B, with what others may yet do from where they are."""
    n = X[X_ACCESSED]
    if n > MAX_ACCESSED:
        return 0
    no = against(before)
    says = RIGHT | LEFT
    views = P[M_MEMORY] == VIEWED
    tso = P[M_MEMORY] == BUFFERED
    if tso and is_buffer(P, p):
        says = LEFT  # a locked operation may wait for it
    if views:
        says = known_way(S, B, P, W, R, Q, known, at, Z, X, before, p, nproc)
    for j in range(n):
        code = X[X_ACCESSED + 1 + j]
        cell = (code >> 2) & CELL
        how = code & 3
        flushed = tso and is_buffer(P, p)  # though another store of the cell may wait behind it
        if tso and (cell == P[M_CELLS] or (how == WRITE and not flushed and waiting(B, P, cell, p))):
            if how == WRITE:
                says &= LEFT  # nobody else sees it before it leaves the buffer
                if partner_may(S, P, W, R, Q, known, at, Z, TAKES, before, p, nproc):
                    return 0
                if in_the_way(S, P, W, R, Q, known, at, Z, cell, before, no, p, nproc, True, PARTNERS):
                    return 0
            continue
        whose = W[W[W_WHOSE] + cell]
        if whose != 0:
            was = (before >> (2 * (whose - 1))) & 3
            now = (after >> (2 * (whose - 1))) & 3
            if now < was or (now > was and waits):
                if lock_looked_at(S, P, W, R, Q, known, at, Z, cell, before, p, nproc):
                    return 0
                # who takes it for reading after somebody gave it back knows what that one did, and not before
                if views and was + now == 1 and others_may(S, P, W, R, Q, known, at, Z, cell, TAKES, before, p, nproc):
                    return 0
                says &= (RIGHT | MOVES_TAKES) if now > was else LEFT
                if now > was:
                    says |= MOVES_TAKES
                continue
        state = Y[Y[Y_STATE] + cell] != 0
        if how == OBJECT and believed(Y, cell):
            continue  # that others allocate is told by what this allocation looks at
        if (how == LOOK or not state) and private(S, P, Y, cell, p):
            continue
        if how == LOOK:
            if in_the_way(S, P, W, R, Q, known, at, Z, cell, before, no, p, nproc, False, ANYBODY):
                says &= ~LEFT
            continue
        many = np.int64(1)
        if how == OBJECT:
            many = W[W[W_STRIDE] + cell]
        elif views and code >> 2 == cell and racy(P, cell) and not state:
            says &= racy_way(S, P, W, R, Q, known, at, Z, cell, before, no, p, nproc, how != READ) | MOVES_TAKES
            continue
        for c in range(cell, cell + many):
            way = in_the_way(S, P, W, R, Q, known, at, Z, c, before, no, p, nproc, how != READ, ANYBODY)
            if way == 1:
                return 0
            if way == 2:
                says &= ~RIGHT
    return says


@jit
def drains(X):  # type: ignore[no-untyped-def]
    """Whether a step is taken only when nothing waits in the buffer: it stores, or reads to store, atomically."""
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        cell = X[X_ACCESSED + 1 + j] >> 2
        if cell & RMW_CELL or (X[X_ACCESSED + 1 + j] & 3 == WRITE and cell & ATOMIC_CELL):
            return True
    return False


@jit
def fenced(P, X, before, after):  # type: ignore[no-untyped-def]
    """Whether what comes behind a step is not EARLY to what comes before: nothing waits in the buffer then, or the step
    took the lock that is meant."""
    if P[M_MEMORY] == VIEWED:
        k = P[P[O_MEMORY] + U_FIRST]
        return k >= 0 and (before >> (2 * k)) & 3 == 0 and (after >> (2 * k)) & 3 != 0
    if P[M_MEMORY] != BUFFERED:
        return False
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        if X[X_ACCESSED + 1 + j] == 4 * P[M_CELLS] + LOOK:
            return True
    return drains(X)


@jit
def atomically(P, X):  # type: ignore[no-untyped-def]
    """Whether a step goes by nothing that its unit knows: it takes the last store of each cell, and is put behind
    it."""
    u = P[O_MEMORY]
    if P[u + U_FENCED] | P[u + U_MET] | P[u + U_PENDED]:
        return False
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        code = X[X_ACCESSED + 1 + j]
        if code & 3 == OBJECT or (code & 3 != LOOK and (code >> 2) & (ATOMIC_CELL | RMW_CELL) != ATOMIC_CELL):
            return False
    return True


@jit
def learn(S, B, P, W, N, Y, Q, known, own_, i, X, before, after, blocked, waits, p, nproc):  # type: ignore[no-untyped-def]
    """Enter what a step of `p` from S to B, in control `i`, touches."""
    tso = P[M_MEMORY] == BUFFERED
    if tso and is_buffer(P, p):
        return  # it was entered when it went there
    orders = tso and drains(X)
    early = tso and not blocked and not orders
    allocates = False
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        allocates = allocates or X[X_ACCESSED + 1 + j] & 3 == OBJECT
        orders = orders or (tso and X[X_ACCESSED + 1 + j] & 3 == WRITE)
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        code = X[X_ACCESSED + 1 + j]
        cell = (code >> 2) & CELL
        how = code & 3
        if tso and cell == P[M_CELLS]:
            touches(Q, known, own_, i, P[M_CELLS] + KNOWS, TAKES)
            continue
        state = Y[Y[Y_STATE] + cell] != 0
        if (how == LOOK or not state) and private(S, P, Y, cell, p):
            continue
        whose = W[W[W_WHOSE] + cell]
        kind = LOADS if how in (READ, LOOK) else STORES
        if whose != 0:
            was = (before >> (2 * (whose - 1))) & 3
            now = (after >> (2 * (whose - 1))) & 3
            given = tso and was and how == WRITE and waiting(B, P, cell, p)
            if blocked or given or now < was or (now > was and waits):
                kind = TAKES
        many = np.int64(1)
        if how == OBJECT and not believed(Y, cell):
            many = W[W[W_STRIDE] + cell]
        for c in range(cell, cell + many):
            k = (c * nproc + p) * KINDS + kind
            old = N[k]
            held_then = old & before if old != NEVER else before
            if held_then != old:
                N[k] = held_then
                Q[Q_NEWS] += 1
            touches(Q, known, own_, i, c, kind)
            if how == READ and state and not allocates:  # it would have, had there been one
                touches(Q, known, own_, i, c, STORES)
                N[k + STORES - LOADS] = 0
            if P[M_MEMORY] == VIEWED:
                if code >> 2 != cell or state:
                    touches(Q, known, own_, i, c, ATOMICS)
                if how == READ and (code >> 2 == cell or (code >> 2) & RMW_CELL != 0):
                    touches(Q, known, own_, i, c, EARLY)
                if how == WRITE and code >> 2 == cell:
                    touches(Q, known, own_, i, c, EARLY_STORES)
                if state:  # who frees or allocates knows what who did before it knew
                    touches(Q, known, own_, i, c, LOADS)
            elif early and (kind == LOADS or (state and code >> 2 == cell)):
                touches(Q, known, own_, i, c, EARLY)
    if orders:
        touches(Q, known, own_, i, P[M_CELLS] + KNOWS, TAKES)
    if P[M_MEMORY] == VIEWED:
        u = P[O_MEMORY]
        if X[X_ACCESSED]:
            touches(Q, known, own_, i, P[M_CELLS] + KNOWS, LOADS)
        if not atomically(P, X):
            touches(Q, known, own_, i, P[M_CELLS] + KNOWS, ATOMICS)
        if P[u + U_RACED] & 2:
            touches(Q, known, own_, i, P[M_CELLS] + KNOWS, STORES)
        if P[u + U_MET] | P[u + U_PENDED]:
            touches(Q, known, own_, i, P[M_CELLS] + KNOWS, TAKES)
        if P[u + U_WOKE]:
            touches(Q, known, own_, i, P[M_CELLS] + WAKES, STORES)
    if disowned(S, P, Y, X, p):
        Q[Q_NEWS] += 1
