"""Whole explorations inside compiled code: level after level by one thread, and scenario after scenario."""

from __future__ import annotations

import numpy as np

from seqfault.explore import layout as k
from seqfault.explore.entering import hash_of, home
from seqfault.explore.interp import get
from seqfault.explore.jit import jit_search as jit
from seqfault.explore.layout import (
    A_ADVANCE,
    A_PACK,
    A_UNPACK,
    G_NEXT,
    G_STORED,
    G_UPTO,
    MAX_DISTINCT,
    O_STATE,
    T_BASE,
    T_BUDGET,
    T_DISTINCT,
    T_EDGES,
    T_END,
    T_EXACT,
    T_EXCLUSIVE,
    T_FINALS,
    T_FRONTIER,
    T_GRAPH,
    T_HEAD,
    T_LEVEL,
    T_MOVED,
    T_OUTCOMES,
    T_PARITY,
    T_PENDING,
    T_ROWS,
    T_SHARED,
    T_TAIL,
    T_TRANSITIONS,
    T_WHY,
    WHY_DONE,
    WHY_GROWN,
    WHY_PAUSE,
)
from seqfault.explore.movers import NEVER, W_ON
from seqfault.explore.raw import call2, call7, fetch_add
from seqfault.explore.search import follow, work
from seqfault.explore.tables import (
    M_CLASSES,
    M_NW,
    M_PC,
    M_PROCESSES,
    O_PROCS,
    O_STOP,
    OK,
    P_BASE,
    P_ENTRY,
    P_ROLE,
    PROCESS_ROW,
    X_COUNTED,
    X_COUNTS,
    X_EDGES,
    X_USED,
    X_VIOLATIONS,
)

# what a batch says of a scenario
R_STATES, R_TRANSITIONS, R_FINALS, R_DEPTH, R_VIOLATIONS, R_OUTCOMES, R_WHY, R_FIRST_V, R_FIRST_O, R_THREAD = range(10)
R_COLUMNS = 10
TRIES = 64  # how often the records of one scenario may grow
B_VIOLATIONS, B_OUTCOMES = range(2)  # how much of the lists is filled


@jit
def deeper(th, G, n):  # type: ignore[no-untyped-def]
    """On to the next depth, which has `n` states; whether there are any."""
    th[T_BASE] += th[T_FRONTIER]
    th[T_FRONTIER] = n
    th[T_HEAD] = th[T_END] = th[T_TAIL] = 0
    G[G_NEXT] = 0
    if n == 0:
        return False
    th[T_LEVEL] += 1
    th[T_PARITY] = 1 - th[T_PARITY]
    return True


@jit
def drive(  # type: ignore[no-untyped-def]
    A, P, W, R, fa, fb, table, store, G, th, S, T, E, X, buf, rec, hashes, counts, distinct, dstate, outcomes, ostate,
    N,
    parent, action, number, edges,
):
    """`work`, depth after depth; `fa` and `fb` take turns as the frontier, unless it is in the store.  th[T_WHY] is
    WHY_DONE when nothing is left."""
    left = th[T_BUDGET]
    while True:
        G[G_UPTO] = G[G_NEXT] + left
        n = th[T_FRONTIER]
        if th[T_EXACT]:
            front, nxt = store[th[T_BASE] :], store[th[T_BASE] + n :]
        elif th[T_PARITY]:
            front, nxt = fb, fa
        else:
            front, nxt = fa, fb
        work(
            A, P, W, R, front, nxt, table, store, G, th, S, T, E, X, buf, rec, hashes, counts, distinct, dstate,
            outcomes, ostate, N, parent, action, number, edges,
        )  # fmt: skip
        if th[T_WHY] != WHY_DONE:
            return
        if not deeper(th, G, th[T_TAIL]):
            return
        left -= n
        if left <= 0:
            th[T_WHY] = WHY_PAUSE
            return


@jit
def begin(A, P, W, R, N, init, fa, table, store, G, th, S, T, E, X, buf, counts, outcomes,
    number):  # type: ignore[no-untyped-def]
    """Make everything as at the start of an exploration from the packed state `init`: each process has done the local
    work before its first step, which nobody can see.  `table` is empty already."""
    n = fa.shape[1]
    pS, pT, pE, pX = (
        np.int64(S.ctypes.data), np.int64(T.ctypes.data), np.int64(E.ctypes.data), np.int64(X.ctypes.data),
    )  # fmt: skip
    pF = np.int64(fa.ctypes.data)
    for w in range(n):
        fa[0, w] = init[w]
    call2(A[A_UNPACK], (pF, pS))
    more = True
    while more:  # canonical states (compile/symmetry.py) have another process in its place then
        more = False
        for p in range(P[M_PROCESSES]):
            i = P[O_PROCS] + p * PROCESS_ROW
            pc = get(S, P, P[M_PC], P[i + P_BASE])
            if pc == P[i + P_ENTRY] and not P[P[O_STOP] + pc]:
                X[X_VIOLATIONS] = 0
                X[X_COUNTED] = 0
                status = call7(A[A_ADVANCE], (pS, pT, pE, pX, np.int64(p), np.int64(0), pF))
                # local work that makes a choice, or is itself at fault, belongs to the first step
                if status == OK and X[X_USED] == 0 and X[X_VIOLATIONS] == 0:
                    more = True
                    call2(A[A_UNPACK], (pF, pS))
                    for j in range(X[X_COUNTED]):
                        counts[X[X_COUNTS + j]] += 1
    call2(A[A_PACK], (pS, pF))
    X[X_VIOLATIONS] = 0
    X[X_COUNTED] = 0
    X[X_EDGES:] = 0
    outcomes[:, O_STATE] = -1
    G[:] = 0
    for i in range(N.shape[0]):  # `N[:] = R` takes a second and a half to compile
        N[i] = R[i]
    for j in (T_HEAD, T_END, T_PENDING, T_TAIL, T_TRANSITIONS, T_FINALS, T_DISTINCT, T_OUTCOMES, T_LEVEL, T_BASE,
        T_PARITY, T_EDGES, T_MOVED):
        th[j] = 0
    th[T_ROWS] = 0 if th[T_SHARED] else np.int64(1) << 60
    th[T_FRONTIER] = 1
    if W[W_ON] and not th[T_EXCLUSIVE]:
        for w in range(n):
            buf[0, w] = fa[0, w]
        for p in range(P[M_PROCESSES]):
            i = P[O_PROCS] + p * PROCESS_ROW
            if P[i + P_ROLE] <= 1:
                th[T_MOVED] += follow(
                    A, P, W, R, N, G, S[P[M_NW] + 1 :], S[2 * (P[M_NW] + 1) :], T, E, X, buf, np.int64(0), n,
                    np.int64(p),
                    P[i + P_BASE], counts, np.int64(0),
                )
        for w in range(n):
            fa[0, w] = buf[0, w]
    G[G_STORED] = 1
    h = hash_of(fa, 0, n)
    s = home(h, np.uint64(table.shape[0]))
    table[s] = h
    if th[T_GRAPH]:
        number[s] = 0
    if th[T_EXACT]:
        table[s] = ((h & np.uint64(0xFFFFFF)) << np.uint64(40)) | np.uint64(1)
        for w in range(n):
            store[0, w] = fa[0, w]


@jit
def batch(  # type: ignore[no-untyped-def]
    A, P, W, R, inits, roms, rom_at, shared, room, fa, fb, table, store, G, th, S, T, E, X, buf, rec, hashes, counts,
    distinct, dstate, outcomes, ostate, N, parent, action, number, edges, result, all_counts, all_edges, violations,
    found,
    filled, thread,
):
    """Explore the scenarios that nobody has taken yet; shared[0] is the next one.

    `result` (scenarios, R_COLUMNS); `violations` and `found` (outcomes): rows that begin with the scenario's number.  A
    scenario for which there is not room enough has result[., R_WHY] != WHY_DONE, and is to be explored by itself.
    """
    classes = P[M_CLASSES]
    while True:
        s = fetch_add(shared, 0, np.int64(1))
        if s >= inits.shape[0] or shared[1]:
            return
        for j in range(roms.shape[1]):
            E[rom_at + j] = roms[s, j]
        counts[:] = 0
        R[:] = NEVER
        why = WHY_GROWN
        again = 0
        while why == WHY_GROWN and again < TRIES:
            again += 1
            counts[:] = 0
            table[:] = 0
            hashes[k.RECENT_AT :] = 0
            begin(A, P, W, R, N, inits[s], fa, table, store, G, th, S, T, E, X, buf, counts, outcomes, number)
            G[k.G_ROOM] = room
            G[k.G_LIMIT] = np.int64(1) << 60
            th[T_BUDGET] = np.int64(1) << 60
            drive(
                A, P, W, R, fa, fb, table, store, G, th, S, T, E, X, buf, rec, hashes, counts, distinct, dstate,
                outcomes,
                ostate, N, parent, action, number, edges,
            )  # fmt: skip
            why = th[T_WHY]
            if G[k.G_LOST]:
                why = np.int64(k.WHY_TABLE)
            elif G[k.G_GROWN] and why in (WHY_DONE, WHY_GROWN):
                for i in range(N.shape[0]):
                    R[i] = N[i]
                why = np.int64(WHY_GROWN)
        more = filled[B_OUTCOMES] + th[T_OUTCOMES]
        if filled[B_VIOLATIONS] + MAX_DISTINCT > violations.shape[0] or more > found.shape[0]:
            why = WHY_PAUSE
        r = result[s]
        r[R_WHY] = why
        r[R_THREAD] = thread
        if why != WHY_DONE:
            continue
        r[R_STATES] = G[G_STORED]
        r[R_TRANSITIONS] = th[T_TRANSITIONS]
        r[R_FINALS] = th[T_FINALS]
        r[R_DEPTH] = th[T_LEVEL]
        r[R_VIOLATIONS] = th[T_DISTINCT]
        r[R_OUTCOMES] = th[T_OUTCOMES]
        r[R_FIRST_V] = filled[B_VIOLATIONS]
        r[R_FIRST_O] = filled[B_OUTCOMES]
        for j in range(th[T_DISTINCT]):
            for c in range(distinct.shape[1]):
                violations[filled[B_VIOLATIONS], c] = distinct[j, c]
            filled[B_VIOLATIONS] += 1
        for j in range(outcomes.shape[0]):
            if outcomes[j, O_STATE] >= 0:
                for c in range(outcomes.shape[1]):
                    found[filled[B_OUTCOMES], c] = outcomes[j, c]
                filled[B_OUTCOMES] += 1
        for e in range(counts.shape[0]):
            all_counts[s, e] = counts[e]
        for e in range(classes * classes):
            all_edges[s, e] = X[X_EDGES + e]
