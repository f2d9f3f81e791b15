"""The exploration's inner loops on generated steps: threads that share a table of states.

A thread takes blocks of the frontier, generates all successors of a block, then enters them in the table; meanwhile
their places in the table have been fetched.  All arrays belong to explore/frontier.py.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.entering import enter, enter_exact, hash_of, hash_of_few, less, queue, sift
from seqfault.explore.interp import get, judge, violate
from seqfault.explore.jit import jit_search as jit
from seqfault.explore.layout import (
    A_ADVANCE,
    A_OBSERVE,
    A_SUCCESSORS,
    A_UNPACK,
    AHEAD,
    BLOCK,
    BY_HASH,
    CHUNK,
    EVERY,
    G_FIRST,
    G_GROWN,
    G_LIMIT,
    G_LOST,
    G_NEXT,
    G_ROOM,
    G_STORED,
    G_TAIL,
    G_UPTO,
    O_HASH,
    O_LEVEL,
    O_STATE,
    RECENT_AT,
    ROOM,
    SLACK,
    T_BASE,
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
    T_PENDING,
    T_SHARED,
    T_TAIL,
    T_TRACED,
    T_TRANSITIONS,
    T_WHY,
    TO_SIFT,
    UNPASSED,
    V_CHOICE,
    V_COUNT,
    V_KIND,
    V_LEVEL,
    V_PC,
    V_POOL,
    V_PROCESS,
    V_STATE,
    WAITING,
    WHY_DONE,
    WHY_FRONTIER,
    WHY_GROWN,
    WHY_OUTCOMES,
    WHY_PAUSE,
    WHY_TABLE,
)
from seqfault.explore.movers import (
    CHAIN,
    LEFT,
    RIGHT,
    TAKES,
    TRIES,
    W_ON,
    W_WAITS,
    classify,
    close,
    held,
    locks_touched,
    record,
    robbed,
)
from seqfault.explore.raw import call2, call5, call7, fetch_add, prefetch
from seqfault.explore.slots import last_open
from seqfault.explore.tables import (
    DISABLED,
    K_CHOICES,
    K_DEADLOCK,
    M_HALT,
    M_NW,
    M_OBSERVERS,
    M_PC,
    M_PROCESSES,
    MAX_ACCESSED,
    MAX_CHOICES,
    O_PROCS,
    O_SEQPC,
    OK,
    P_BASE,
    P_ROLE,
    PROCESS_ROW,
    X_ACCESSED,
    X_COUNTED,
    X_COUNTS,
    X_DIGITS,
    X_HASH,
    X_NEWS,
    X_OWN,
    X_OWN_ROOM,
    X_RADIX,
    X_USED,
    X_VIOL,
    X_VIOLATIONS,
    X_WAITED,
)


@jit
def note(X, distinct, dstate, th, front, head, n, process, choice):  # type: ignore[no-untyped-def]
    """Enter a step's violations in the table of distinct ones: where first, how often.

    Among states of one depth the first in order of packing counts where threads share the work.
    """
    for v in range(X[X_VIOLATIONS]):
        i = X_VIOL + 5 * v
        at = np.int64(-1)
        for k in range(th[T_DISTINCT]):
            if distinct[k, V_KIND] == X[i] and distinct[k, V_PC] == X[i + 1] and distinct[k, V_POOL] == X[i + 2]:
                distinct[k, V_COUNT] += 1
                at = k
                break
        if at >= 0:
            if not th[T_SHARED] or distinct[at, V_LEVEL] != th[T_LEVEL] or not less(front, head, dstate, at, n):
                continue
        elif th[T_DISTINCT] < distinct.shape[0]:
            at = th[T_DISTINCT]
            th[T_DISTINCT] = at + 1
            distinct[at, V_COUNT] = 1
        else:
            continue
        for j in range(4):
            distinct[at, j] = X[i + j]
        distinct[at, V_STATE] = th[T_BASE] + head
        distinct[at, V_PROCESS] = process
        distinct[at, V_CHOICE] = choice
        distinct[at, V_LEVEL] = th[T_LEVEL]
        for w in range(n):
            dstate[at, w] = front[head, w]
    X[X_VIOLATIONS] = 0


@jit
def one_by_one(X, distinct, dstate, th, front, head, n):  # type: ignore[no-untyped-def]
    """Enter violations of several processes' steps, each under its own process."""
    many = X[X_VIOLATIONS]
    for v in range(many):
        for j in range(5):
            X[X_VIOL + j] = X[X_VIOL + 5 * v + j]
        X[X_VIOLATIONS] = 1
        note(X, distinct, dstate, th, front, head, n, X[X_VIOL + 4], np.int64(0))
    X[X_VIOLATIONS] = 0


@jit
def at_rest(S, P, X, A, pS, pT, pE, pX):  # type: ignore[no-untyped-def]
    """Rules and observers of a state at rest; the outcome's hash is X[X_HASH]."""
    judge(S, P, X)
    X[X_HASH] = 1
    for k in range(P[M_OBSERVERS]):
        call5(A[A_OBSERVE], (pS, pT, pE, pX, np.int64(k)))


@jit
def outcome(X, outcomes, ostate, th, front, head, n):  # type: ignore[no-untyped-def]
    """Enter the outcome of a state at rest."""
    h = X[X_HASH]
    mask = outcomes.shape[0] - 1
    s = h & mask
    while outcomes[s, O_STATE] >= 0 and outcomes[s, O_HASH] != h:
        s = (s + 1) & mask
    if outcomes[s, O_STATE] < 0:
        th[T_OUTCOMES] += 1
    elif not th[T_SHARED] or outcomes[s, O_LEVEL] != th[T_LEVEL] or not less(front, head, ostate, s, n):
        return
    outcomes[s, O_HASH] = h
    outcomes[s, O_STATE] = th[T_BASE] + head
    outcomes[s, O_LEVEL] = th[T_LEVEL]
    for w in range(n):
        ostate[s, w] = front[head, w]


@jit
def unpassed(A, X, pS, pT, pE, pX, p, depth, out):  # type: ignore[no-untyped-def]
    """Take a step again, and end it before the first access that was passed over (compile/step_own.py): it reported
    something, or came to no successor, behind one, and others have to be looked at before that."""
    X[X_VIOLATIONS] = 0
    X[X_COUNTED] = 0
    room = X[X_OWN_ROOM]
    X[X_OWN_ROOM] = 0
    status = call7(A[A_ADVANCE], (pS, pT, pE, pX, p, depth, out))
    X[X_OWN_ROOM] = room
    return status


@jit
def waits_for(A, P, W, S, S2, T, E, X, p, pb, packed, before, after):  # type: ignore[no-untyped-def]
    """Whether the step of `p` from S, which takes a lock, waits where somebody else holds it (and does not go another
    way, as a trylock does).  Tried each time: one function may be called by who waits and by who does not.  An
    instruction that does not wait once is not asked again."""
    pc = get(S, P, P[M_PC], pb)
    w = W[W_WAITS] + pc
    if X[X_USED] != 0 or P[M_PROCESSES] < 2 or W[w] == TRIES:
        return False
    pS, pS2 = np.int64(S.ctypes.data), np.int64(S2.ctypes.data)
    pT, pE, pX = np.int64(T.ctypes.data), np.int64(E.ctypes.data), np.int64(X.ctypes.data)
    for j in range(P[M_NW]):
        S2[j] = S[j]
    close(S2, P, W, before, after, p)
    waits = call7(A[A_ADVANCE], (pS2, pT, pE, pX, p, np.int64(0), packed)) == DISABLED
    if not waits:
        W[w] = TRIES
    X[X_VIOLATIONS] = 0
    X[X_COUNTED] = 0
    call7(A[A_ADVANCE], (pS, pT, pE, pX, p, np.int64(0), packed))
    return waits


@jit
def first(A, P, W, R, N, G, S, S2, T, E, X, packed, status, p, pb):  # type: ignore[no-untyped-def]
    """Record the accesses of a step from S to the packed state at address `packed`; what `classify` says of it."""
    nproc = P[M_PROCESSES]
    before = held(S, P, W, p)
    after = before
    waits = False
    if status == OK and locks_touched(W, X):
        call2(A[A_UNPACK], (packed, np.int64(S2.ctypes.data)))
        after = held(S2, P, W, p)
        if robbed(S, S2, P, W, p, nproc):
            G[G_LOST] = 1
        if after & ~before:
            waits = waits_for(A, P, W, S, S2, T, E, X, p, pb, packed, before, after)
    if record(W, N, X, before, after, status == DISABLED, p, nproc, waits):
        G[G_GROWN] += 1
    if X[X_ACCESSED] > MAX_ACCESSED:
        G[G_LOST] = 1
    return classify(W, R, X, before, after, p, nproc, waits)


@jit
def follow(A, P, W, R, N, G, S, S2, T, E, X, buf, m, n, p, pb, counts, says):  # type: ignore[no-untyped-def]
    """From packed state buf[m], which changes to where they lead, take the steps of process `p` between which nobody
    need act; how many they were.

    `says`: what `classify` says of the step that led here.  As long as all steps move to the right, the next one
    belongs to them; after the first that does not, those that move to the left.  S and S2 are scratch.
    """
    pS = np.int64(S.ctypes.data)
    pT = np.int64(T.ctypes.data)
    pE = np.int64(E.ctypes.data)
    pX = np.int64(X.ctypes.data)
    at = np.int64(buf.ctypes.data) + m * n * 8
    nproc = P[M_PROCESSES]
    early = says & RIGHT != 0
    taken = says & TAKES != 0
    moved = np.int64(0)
    while moved < CHAIN:
        call2(A[A_UNPACK], (at, pS))
        if get(S, P, P[M_PC], pb) == P[M_HALT]:
            break
        X[X_COUNTED] = 0
        status = call7(A[A_ADVANCE], (pS, pT, pE, pX, p, np.int64(0), at + n * 8))
        if status != OK or X[X_USED] or X[X_VIOLATIONS]:
            X[X_VIOLATIONS] = 0  # it is looked at where all processes are
            break
        before = held(S, P, W, p)
        after = before
        waits = False
        if locks_touched(W, X):
            call2(A[A_UNPACK], (at + n * 8, np.int64(S2.ctypes.data)))
            after = held(S2, P, W, p)
            if robbed(S, S2, P, W, p, nproc):
                G[G_LOST] = 1
            if after & ~before:
                waits = waits_for(A, P, W, S, S2, T, E, X, p, pb, at + n * 8, before, after)
        c = classify(W, R, X, before, after, p, nproc, waits)
        if c & LEFT == 0 and not early:
            break
        # who holds a lock and may have to wait is seen by the others
        if taken and early and (c & TAKES != 0 or X[X_WAITED] != 0):
            break
        early = early and c & RIGHT != 0
        taken = taken or c & TAKES != 0
        if record(W, N, X, before, after, False, p, nproc, waits):
            G[G_GROWN] += 1
        if X[X_ACCESSED] > MAX_ACCESSED:
            G[G_LOST] = 1
        for k in range(X[X_COUNTED]):
            counts[X[X_COUNTS + k]] += 1
        for w in range(n):
            buf[m, w] = buf[m + 1, w]
        moved += 1
    return moved


@jit
def work(  # type: ignore[no-untyped-def]
    A, P, W, R, front, nxt, table, store, G, th, S, T, E, X, buf, rec, hashes, counts, distinct, dstate,
    outcomes, ostate, N, parent, action, number, edges,
):
    """Expand states of the frontier until it is done or something is needed; why is th[T_WHY].

    `A`: addresses of generated code; `W`, `R`, `N`: movers, with the records that count and those that are made;
    `number`: of the state in each slot, and `edges`, if the graph is kept; `front`, `nxt` (states, words): packed; `G`:
    what threads share; `th`: a thread's own.
    """
    n = front.shape[1]
    nfront = th[T_FRONTIER]
    nproc = P[M_PROCESSES]
    pcslot = P[M_PC]
    halt = P[M_HALT]
    most = SLACK // nproc
    pS = np.int64(S.ctypes.data)
    pT = np.int64(T.ctypes.data)
    pE = np.int64(E.ctypes.data)
    pX = np.int64(X.ctypes.data)
    pB = np.int64(buf.ctypes.data)
    pF = np.int64(front.ctypes.data)
    advance = A[A_ADVANCE]
    unpack = A[A_UNPACK]
    exclusive = th[T_EXCLUSIVE]
    moving = W[W_ON] and not exclusive
    quick = A[A_SUCCESSORS] != 0 and not exclusive
    who = T[P[M_NW] + 1 :]
    fresh = hashes[RECENT_AT:]
    how = EVERY if th[T_GRAPH] else TO_SIFT if th[T_EXACT] else BY_HASH
    pW = np.int64(who.ctypes.data)
    T2 = S[P[M_NW] + 1 :]  # room for more states
    T3 = S[2 * (P[M_NW] + 1) :]
    m = th[T_PENDING]
    head = th[T_HEAD]
    end = th[T_END]
    transitions = th[T_TRANSITIONS]
    why = WHY_DONE
    while True:
        if m > 0 and (m > WAITING or head >= end):
            th[T_PENDING] = m
            full = th[T_GRAPH] and th[T_EDGES] + ROOM > edges.shape[0]
            if not th[T_EXACT]:  # else it is the store's room, which is counted with the table's
                if th[T_SHARED]:
                    full = full or G[G_TAIL] + th[T_SHARED] * (ROOM + CHUNK) > nxt.shape[0]
                else:
                    full = full or th[T_TAIL] + ROOM > nxt.shape[0]
            if full or (th[T_TRACED] and G[G_STORED] + ROOM > parent.shape[0]):
                why = WHY_FRONTIER
                break
            if G[G_STORED] + m > G[G_ROOM]:
                why = WHY_TABLE
                break
            if th[T_EXACT]:
                if how == TO_SIFT:
                    th[T_PENDING] = sift(buf, rec, hashes, n, m, table)
                enter_exact(buf, rec, hashes, n, table, store, nxt, th, G, parent, action, number, edges)
            else:
                enter(buf, rec, hashes, n, table, store, nxt, th, G, parent, action, number, edges)
            m = np.int64(0)
        if head >= end:
            if G[G_UPTO] <= G[G_NEXT] < nfront or G[G_STORED] > G[G_LIMIT]:
                why = WHY_PAUSE
                break
            if X[X_NEWS]:
                G[G_GROWN] += X[X_NEWS]
                X[X_NEWS] = 0
            if G[G_GROWN]:  # some step was no mover after all: what follows is for the records only
                if G[G_FIRST] == 0:
                    G[G_FIRST] = G[G_STORED]
                if G[G_STORED] > 2 * G[G_FIRST] + 256:
                    why = WHY_GROWN
                    break
            if th[T_OUTCOMES] * 2 > outcomes.shape[0]:
                why = WHY_OUTCOMES
                break
            head = fetch_add(G, 0 + G_NEXT, np.int64(BLOCK))
            if head >= nfront:
                head = end = nfront
                break
            end = min(head + BLOCK, nfront)
        if n >= 8:
            for w in range(0, n, 8):  # a state that is expanded soon
                prefetch(front, np.int64((head + AHEAD) * n + w))
        if quick:
            z = call5(A[A_SUCCESSORS], (pF + head * n * 8, pE, pX, pB + m * n * 8, pW))
            if (z >> 32) & 1:  # it is not at rest, nor in a deadlock
                transitions += (z >> 16) & 0xFFFF
                if X[X_VIOLATIONS]:
                    one_by_one(X, distinct, dstate, th, front, head, n)
                begun = m
                for j in range(z & 0xFFFF):
                    i = begun + j
                    if n <= 2:
                        h = hash_of_few(buf[i, 0], buf[i, n - 1], n)
                        buf[m, 0] = buf[i, 0]
                        buf[m, n - 1] = buf[i, n - 1]
                    else:
                        h = hash_of(buf, i, n)
                        if m != i:
                            for w in range(n):
                                buf[m, w] = buf[i, w]
                    m += queue(h, table, number, hashes, fresh, rec, m, head, who[j], how)
                head += 1
                continue
            X[X_VIOLATIONS] = 0
        call2(unpack, (pF + head * n * 8, pS))
        busy = False
        finished = True
        alone = np.int64(-1)
        for p in range(nproc):
            i = P[O_PROCS] + p * PROCESS_ROW
            if P[i + P_ROLE] == 0:
                pc = get(S, P, pcslot, P[i + P_BASE])
                if pc != halt:
                    finished = False
                    if exclusive and P[P[O_SEQPC] + pc] == 0:
                        alone = np.int64(p)
        for p in range(nproc):
            i = P[O_PROCS] + p * PROCESS_ROW
            if get(S, P, pcslot, P[i + P_BASE]) == halt:
                continue
            role = P[i + P_ROLE]
            if alone >= 0 and role == 0 and alone != p:
                continue
            depth = np.int64(0)
            taken = np.int64(0)
            while True:
                X[X_COUNTED] = 0
                status = call7(advance, (pS, pT, pE, pX, np.int64(p), depth, pB + m * n * 8))
                by = p
                if X[X_OWN]:
                    if status != OK or X[X_VIOLATIONS]:
                        status = unpassed(A, X, pS, pT, pE, pX, np.int64(p), depth, pB + m * n * 8)
                        by = p + UNPASSED
                    th[T_MOVED] += X[X_OWN]
                used = X[X_USED]
                says = np.int64(0)
                if moving:
                    says = first(
                        A, P, W, R, N, G, S, T2, T, E, X, pB + m * n * 8, status, np.int64(p), P[i + P_BASE]
                    )
                choice = np.int64(0)
                if used:
                    for k in range(used - 1, -1, -1):
                        choice = choice * X[X_RADIX + k] + X[X_DIGITS + k]
                if X[X_VIOLATIONS]:
                    th[T_HEAD] = head
                    note(X, distinct, dstate, th, front, head, n, np.int64(p), choice)
                if status != DISABLED:
                    for k in range(X[X_COUNTED]):
                        counts[X[X_COUNTS + k]] += 1
                    transitions += 1
                    if role <= 1:
                        busy = True
                    if status == OK:
                        if moving and role <= 1:
                            for j in range(used):
                                hashes[ROOM + j] = np.uint64(X[X_DIGITS + j])
                                hashes[ROOM + MAX_CHOICES + j] = np.uint64(X[X_RADIX + j])
                            k = follow(
                                A, P, W, R, N, G, T2, T3, T, E, X, buf, m, n, np.int64(p), P[i + P_BASE], counts, says
                            )  # fmt: skip
                            th[T_MOVED] += k
                            for j in range(used):
                                X[X_DIGITS + j] = np.int64(hashes[ROOM + j])
                                X[X_RADIX + j] = np.int64(hashes[ROOM + MAX_CHOICES + j])
                        h = hash_of(buf, m, n)
                        m += queue(h, table, number, hashes, fresh, rec, m, head, by + 256 * choice, how)
                k = last_open(X, used)
                if k < 0:
                    break
                taken += 1
                if taken >= most:
                    X[X_VIOLATIONS] = 0
                    at_pc = get(S, P, pcslot, P[i + P_BASE])
                    violate(X, P[K_CHOICES], at_pc, -1, 0, p)
                    note(X, distinct, dstate, th, front, head, n, np.int64(p), choice)
                    break
                X[X_DIGITS + k] += 1
                depth = k + 1
        if not busy:
            if finished:
                th[T_FINALS] += 1
                at_rest(S, P, X, A, pS, pT, pE, pX)
                note(X, distinct, dstate, th, front, head, n, np.int64(-1), np.int64(0))
                outcome(X, outcomes, ostate, th, front, head, n)
            else:
                violate(X, P[K_DEADLOCK], -1, -1, 0, -1)
                note(X, distinct, dstate, th, front, head, n, np.int64(-1), np.int64(0))
        head += 1
    G[G_GROWN] += X[X_NEWS]
    X[X_NEWS] = 0
    th[T_HEAD] = head
    th[T_END] = end
    th[T_PENDING] = m
    th[T_TRANSITIONS] = transitions
    th[T_WHY] = why
