"""Data races: in some explored state two CPUs are about to touch one cell, one of them stores, and one access is plain;
under lkmm also where the store was made before, and nothing orders it before the other access (memory_races.py).

The engine hands over every access of every step with the state before it; here those of one state are compared, and
pairs that race are kept with the first state that shows them.  What counts as marked: docs/violations.md.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit
from seqfault.explore.slots import get, row_of
from seqfault.explore.tables import (
    M_CLASSES,
    M_HELD,
    O_PROCS,
    P_BASE,
    PROCESS_ROW,
    T_LOAD,
    T_STORE,
    TRACE_ROW,
    X_EDGES,
    X_TRACE,
)

RACES = 2  # W[0]: what the engine's hook is for (explore/watch.py has 1)
(
    R_ON, R_STATE, R_N, R_CLASS, R_READ, R_WRITE, R_FUNCTION, R_RETURN, R_CALLS, R_CALL, R_CPU, R_HELD, R_ROWS,
    R_DISTINCT, R_FULL, R_UNORDERED, R_PAIRS,
) = range(17)  # fmt: skip
R_HEADER = 18
NONE, MARKED, PLAIN = range(3)  # what an access is by itself; NONE races with nothing
OUT, SAME, IN = range(3)  # inside a section of a sequence count: no; if the caller is; yes
ROOM, ROW = 64, 4  # accesses that can be next in one state: process, side, cell, choice
UNORDERED = 32  # pairs of a step's access and a store that was made before: two rows each
MADE = -2  # such a store's choice
SIDE_BITS = 28  # an instruction; whether it stores; whether it is plain
PAIR_BITS = 14
# columns of the pairs: sides (plus one), how often; where first: state, the two steps, cell
Q_KEY, Q_COUNT, Q_STATE, Q_FIRST, Q_SECOND, Q_CELL = range(6)


@jit
def inside(S, P, W, table, pc, pb):  # type: ignore[no-untyped-def]
    """Whether a process that is at `pc` is in a section; for a function that may be called in and out of one its
    return number tells."""
    v = W[W[table] + pc]
    while v == SAME:
        f = W[W[R_FUNCTION] + pc]
        slot = W[W[R_RETURN] + f]
        if slot < 0:
            return False
        pc = W[W[R_CALL] + W[W[R_CALLS] + f] + get(S, P, slot, pb)]
        v = W[W[table] + pc]
    return v == IN


@jit
def side_of(S, P, W, pc, stores, pb):  # type: ignore[no-untyped-def]
    """The access that is instruction `pc`, of the process whose words are at `pb`, as a number; -1: it races with
    nothing."""
    how = W[W[R_CLASS] + pc]
    if how == NONE:
        return np.int64(-1)
    plain = how == PLAIN
    if plain and W[R_HELD] != 0 and get(S, P, P[M_HELD], pb) & W[R_HELD] != 0:
        plain = False
    if plain and (inside(S, P, W, R_READ, pc, pb) or inside(S, P, W, R_WRITE, pc, pb)):
        plain = False
    return np.int64(4 * pc + (2 if stores else 0) + (1 if plain else 0))


@jit
def unordered(W, p, side, cell, q, other):  # type: ignore[no-untyped-def]
    """Keep, until the step has ended, that nothing orders the store `other` to a cell, which `q` made before, and the
    access `side` of `p`."""
    if other < 0 or (side | other) & 1 == 0 or W[W[R_CPU] + p] == W[W[R_CPU] + q]:
        return
    n = W[R_UNORDERED]
    if n == UNORDERED:
        W[R_FULL] = 1
        return
    r = W[R_PAIRS] + 2 * ROW * n
    W[r], W[r + 1], W[r + 2] = p, side, cell
    r += ROW
    W[r], W[r + 1], W[r + 2], W[r + 3] = q, other, cell, MADE
    W[R_UNORDERED] = n + 1


@jit
def enter(W, pairs, a, b, state, cell):  # type: ignore[no-untyped-def]
    """Keep the pair of accesses whose rows in W are `a` and `b`."""
    if W[a + 1] > W[b + 1]:
        a, b = b, a
    key = ((W[a + 1] << SIDE_BITS) | W[b + 1]) + 1
    s = row_of(pairs, key, PAIR_BITS)
    if pairs[s, Q_KEY] == 0:
        if W[R_DISTINCT] * 10 > (pairs.shape[0] - 1) * 9:
            W[R_FULL] = 1
            return
        W[R_DISTINCT] += 1
        pairs[s, Q_KEY] = key
        pairs[s, Q_STATE] = state
        pairs[s, Q_FIRST] = W[a] + 256 * W[a + 3]
        pairs[s, Q_SECOND] = W[b] + 256 * W[b + 3]
        pairs[s, Q_CELL] = cell
    pairs[s, Q_COUNT] += 1


@jit
def compare(S, P, X, W, pairs, p, choice, state):  # type: ignore[no-untyped-def]
    """Hold what the next step of `p` in state S touches against the next steps of the others.  `choice`: -1 if it
    waits, having looked."""
    if W[R_STATE] != state + 1:
        W[R_STATE] = state + 1
        W[R_N] = 0
    at = X_EDGES + P[M_CLASSES] * P[M_CLASSES]
    pb = P[P[O_PROCS] + p * PROCESS_ROW + P_BASE]
    for j in range(X[X_TRACE]):
        e = at + TRACE_ROW * j
        kind = X[e]
        if kind != T_LOAD and kind != T_STORE:
            continue
        side = side_of(S, P, W, X[e + 1], kind == T_STORE, pb)
        if side < 0:
            continue
        cell = X[e + 2]
        n = W[R_N]
        rows = W[R_ROWS]
        known = False
        for i in range(n):
            r = rows + ROW * i
            if W[r] == p and W[r + 1] == side and W[r + 2] == cell:
                known = True
        if known:
            continue
        if n == ROOM:
            W[R_FULL] = 1
            continue
        mine = rows + ROW * n
        W[mine] = p
        W[mine + 1] = side
        W[mine + 2] = cell
        W[mine + 3] = choice
        W[R_N] = n + 1
        for i in range(n):
            r = rows + ROW * i
            both = W[r + 1] | side
            if W[r + 2] == cell and both & 1 and both & 2 and W[W[R_CPU] + W[r]] != W[W[R_CPU] + p]:
                enter(W, pairs, r, mine, state, cell)
    for k in range(W[R_UNORDERED]):
        r = W[R_PAIRS] + 2 * ROW * k
        W[r + 3] = choice
        enter(W, pairs, r, r + ROW, state, W[r + 2])
    W[R_UNORDERED] = 0
