"""Tier 0 with movers, under any memory model: as `engine.expand`, where the steps that commute with all that others may
yet do are taken at once (commute.py).
"""

from __future__ import annotations

import numpy as np

from seqfault.compile.work import CELL, OBJECT, WRITE
from seqfault.explore.commute import BUFFERED, VIEWED, chooses, fenced, learn, moves
from seqfault.explore.engine import encode, fingerprint, note, rested
from seqfault.explore.futures import ASLEEP_ROW, Q_LOST, control, leads, waits_on
from seqfault.explore.interp import get, step, violate
from seqfault.explore.jit import jit_moving as jit
from seqfault.explore.levels import (
    C_EDGES,
    C_HEAD,
    C_OUTCOMES,
    C_STORED,
    C_TAIL,
    C_TRANSITIONS,
    C_WHY,
    SLACK,
    WHY_DONE,
    WHY_EDGES,
    WHY_FRONTIER,
    WHY_OUTCOMES,
    WHY_PAUSE,
    WHY_TABLE,
)
from seqfault.explore.memory_buffers import buffer_of, count, is_buffer
from seqfault.explore.memory_views import U_STANDS, U_STOOD, entries, entry_at, level
from seqfault.explore.memory_words import upper
from seqfault.explore.movers import CHAIN, LEFT, RIGHT, TRIES, W_WAITS, close, locks_touched, robbed
from seqfault.explore.movers import TAKES as MOVES_TAKES
from seqfault.explore.private import own
from seqfault.explore.relief import blocked, holder, holds, relieve
from seqfault.explore.slots import last_open
from seqfault.explore.tables import (
    DISABLED,
    K_BUFFER,
    K_CHOICES,
    M_HALT,
    M_MEMORY,
    M_NW,
    M_PC,
    M_PROCESSES,
    MAX_ACCESSED,
    O_MEMORY,
    O_PROCS,
    O_STOP,
    OK,
    P_BASE,
    P_CPU,
    P_ROLE,
    P_WORDS,
    PROCESS_ROW,
    X_ACCESSED,
    X_AGED,
    X_COUNTED,
    X_COUNTS,
    X_DIGITS,
    X_RADIX,
    X_SEQ,
    X_TRACE,
    X_USED,
    X_VIOL,
    X_VIOLATIONS,
    X_WAITED,
)

# ctl, above those of engine.expand
C_MOVED = 9
C_LOST = 10
EMPTIED, FLUSHED = 256, 512  # in the log of steps, above the process


@jit
def become(B, S, P):  # type: ignore[no-untyped-def]
    """B is the state S, but for who owns what.  Where stores are entries, most of which are not there and zero, no more
    of them are copied than either has."""
    n = P[M_NW]
    if P[M_MEMORY] == VIEWED and upper(P) == 0:
        n = entry_at(P, max(entries(B, P), entries(S, P)))
    for w in range(n):
        B[w] = S[w]


@jit
def run(B, S, P, at, X, p, depth):  # type: ignore[no-untyped-def]
    """The step of process `p` from state S, in which the processes stand `at` their controls; B is what it leads to."""
    become(B, S, P)
    if P[M_MEMORY] == VIEWED:
        u = P[O_MEMORY]
        for q in range(P[M_PROCESSES]):
            P[u + P[u + U_STANDS] + q] = at[q]
        P[u + U_STOOD] = 1
    X[X_COUNTED] = 0
    X[X_TRACE] = 0
    X[X_SEQ] = -1
    i = P[O_PROCS] + p * PROCESS_ROW
    pb = P[i + P_BASE]
    pc = get(S, P, P[M_PC], pb)
    status = step(B, P, X, p, pb, P[i + P_WORDS], P[i + P_CPU], pc, P[O_STOP], depth)
    if P[M_MEMORY] == VIEWED:
        P[P[O_MEMORY] + U_STOOD] = 0
    return status


@jit
def look(B, C, P, at, Z, X, q):  # type: ignore[no-untyped-def]
    """Whether process `q` can step from state C, and what it looks at if it cannot."""
    z = q * ASLEEP_ROW
    Z[z] = 0
    if P[P[O_PROCS] + q * PROCESS_ROW + P_ROLE] > 1:
        return  # a page walker may nearly always
    pb = P[P[O_PROCS] + q * PROCESS_ROW + P_BASE]
    if get(C, P, P[M_PC], pb) == P[M_HALT]:
        return
    if P[M_MEMORY] == BUFFERED:
        m = buffer_of(P, q)
        if m >= 0 and count(C, m):
            return  # it may wait for that
    n = 0
    depth = np.int64(0)
    for _ in range(ASLEEP_ROW):
        if run(B, C, P, at, X, q, depth) != DISABLED or X[X_VIOLATIONS]:
            X[X_VIOLATIONS] = 0
            return
        for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
            cell = (X[X_ACCESSED + 1 + j] >> 2) & CELL
            if X[X_ACCESSED + 1 + j] & 3 == OBJECT:
                return  # it waits until nobody has a store to that object in a buffer
            here = False
            for k in range(n):
                here = here or Z[z + 1 + k] == cell
            if not here:
                if n == ASLEEP_ROW - 1:
                    return
                Z[z + 1 + n] = cell
                n += 1
        k = last_open(X, X[X_USED])
        if k < 0:
            Z[z] = n
            return
        X[X_DIGITS + k] += 1
        depth = k + 1


@jit
def stirs(Z, X, q, takes):  # type: ignore[no-untyped-def]
    """Whether a step may have changed whether `q` can step: it stored where `q` looked, or took a lock."""
    if takes:
        return True
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        code = X[X_ACCESSED + 1 + j]
        if code & 3 == WRITE and waits_on(Z, q, (code >> 2) & CELL):
            return True
    return False


@jit
def after_step(B, C, P, at, Z, X, p, takes, nproc):  # type: ignore[no-untyped-def]
    """Who can step, after a step of `p` to C."""
    bits = np.int64(0)
    for q in range(nproc):
        if q != p and stirs(Z, X, q, takes):
            bits |= np.int64(1) << q
    Z[p * ASLEEP_ROW] = 0
    for q in range(nproc):
        if (bits >> q) & 1:
            look(B, C, P, at, Z, X, q)


@jit
def waits_for(B, S, S2, P, W, at, X, p, before, after):  # type: ignore[no-untyped-def]
    """Whether the step of `p` from S, which takes a lock, waits where somebody else holds it (and does not go another
    way, as a trylock does)."""
    pc = get(S, P, P[M_PC], P[P[O_PROCS] + p * PROCESS_ROW + P_BASE])
    w = W[W_WAITS] + pc
    if chooses(X) or P[M_PROCESSES] < 2 or W[w] == TRIES:
        return False
    become(S2, S, P)
    close(S2, P, W, before, after, p)
    if P[M_MEMORY] == VIEWED:
        level(S2, P)
    waits = run(B, S2, P, at, X, p, np.int64(0)) == DISABLED
    if not waits:
        W[w] = TRIES
    X[X_VIOLATIONS] = 0
    run(B, S, P, at, X, p, np.int64(0))
    return waits


@jit
def behind(B, S, S2, P, W, R, Y, Q, keys, known, at, Z, ctl, X, p, before):  # type: ignore[no-untyped-def]
    """Of the step of `p`, who held the locks `before`, that was taken from S to B: what need not wait in a buffer
    leaves it; the locks held behind the step, and whether it waits where somebody else holds what it takes."""
    nproc = P[M_PROCESSES]
    if P[M_MEMORY] == BUFFERED:
        relieve(S, B, P, W, R, Y, Q, keys, known, at, Z, before, p, nproc)
    if not locks_touched(W, X):
        return before, False
    h = holder(P, p, nproc)
    after = holds(B, P, W, p, nproc)
    if robbed(S, B, P, W, h, nproc):
        ctl[C_LOST] = 1
    return after, after & ~before != 0 and waits_for(B, S, S2, P, W, at, X, p, before, after)


@jit
def judge(B, S, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, status, p, before):  # type: ignore[no-untyped-def]
    """Of the step of `p`, who held the locks `before`, from S to B that was just made: enter it in the records; what
    `moves` says of it, and the locks held behind it."""
    nproc = P[M_PROCESSES]
    after, waits = before, False
    if status == OK:
        after, waits = behind(B, S, S2, P, W, R, Y, Q, keys, known, at, Z, ctl, X, p, before)
    if X[X_ACCESSED] > MAX_ACCESSED:
        ctl[C_LOST] = 1
    learn(S, B, P, W, N, Y, Q, known, own_, at[p], X, before, after, status == DISABLED, waits, p, nproc)
    if status == OK:
        leads(Q, known, edges, at[p], control(B, P, Q, keys, p), fenced(P, X, before, after))
    return moves(S, B, P, W, R, Y, Q, known, at, Z, X, before, after, p, nproc, waits), after


@jit
def enter(log, C, P, X, p):  # type: ignore[no-untyped-def]
    """Log the step of `p` that led to C: which cell left a buffer (plus one), whether its buffer is empty, and `p`."""
    entry = np.int64(p)
    if P[M_MEMORY] == BUFFERED and buffer_of(P, p) >= 0:
        if count(C, buffer_of(P, p)) == 0:
            entry += EMPTIED
        if is_buffer(P, p):
            entry += FLUSHED * (((X[X_ACCESSED + 1] >> 2) & CELL) + 1)
    log[0] += 1
    log[log[0]] = entry


@jit
def follow(  # type: ignore[no-untyped-def]
    B, C, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, p, says, before, counts, log
):
    """From state C, which changes to where they lead, take the steps of process `p`, who holds the locks `before`,
    between which nobody need act; how many they were.  `says`: what `moves` says of the step that led here (0: of
    none).  log[0]: how many are in the log, which follow (`enter`)."""
    early = says & RIGHT != 0
    taken = says & MOVES_TAKES != 0
    moved = np.int64(0)
    pb = P[P[O_PROCS] + p * PROCESS_ROW + P_BASE]
    nproc = P[M_PROCESSES]
    while moved < CHAIN:
        if get(C, P, P[M_PC], pb) == P[M_HALT]:
            break
        if P[M_MEMORY] == BUFFERED and blocked(C, P, W, R, Y, Q, known, at, Z, p, nproc):
            break
        status = run(B, C, P, at, X, p, np.int64(0))
        if status != OK or chooses(X) or X[X_VIOLATIONS]:
            X[X_VIOLATIONS] = 0  # it is looked at where all processes are
            break
        after, waits = behind(B, C, S2, P, W, R, Y, Q, keys, known, at, Z, ctl, X, p, before)
        c = moves(C, B, P, W, R, Y, Q, known, at, Z, X, before, after, p, nproc, waits)
        if c & LEFT == 0 and not early:
            break
        # who holds a lock and may have to wait is seen by the others
        if taken and early and (c & MOVES_TAKES != 0 or X[X_WAITED] != 0):
            break
        early = early and c & RIGHT != 0
        taken = taken or c & MOVES_TAKES != 0
        if X[X_ACCESSED] > MAX_ACCESSED:
            ctl[C_LOST] = 1
        learn(C, B, P, W, N, Y, Q, known, own_, at[p], X, before, after, False, waits, p, nproc)
        j = control(B, P, Q, keys, p)
        leads(Q, known, edges, at[p], j, fenced(P, X, before, after))
        at[p] = j
        for k in range(X[X_COUNTED]):
            counts[X[X_COUNTS + k]] += 1
        own(C, B, P, Y, X, p)
        become(C, B, P)
        after_step(B, C, P, at, Z, X, p, after & ~before != 0, nproc)
        before = after
        moved += 1
        if log.shape[0] > 1:
            enter(log, C, P, X, p)
    return moved


@jit
def everybody(  # type: ignore[no-untyped-def]
    B, C, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, tried, counts, log
):
    """From state C, take all steps that nobody can tell from others in another order; how many they were.  `tried`: the
    process that has none (-1: it is not known of any)."""
    moved = np.int64(0)
    last = np.int64(-1)  # who moved last: when it is its turn again, nobody else could
    while moved < CHAIN:
        more = False
        for q in range(P[M_PROCESSES]):
            if q == last:
                return moved
            if q == tried or Z[q * ASLEEP_ROW] or P[P[O_PROCS] + q * PROCESS_ROW + P_ROLE] > 1:
                continue
            n = follow(
                B, C, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, q, np.int64(0),
                holds(C, P, W, q, P[M_PROCESSES]), counts, log,
            )  # fmt: skip
            if n > 0:
                moved += n
                more = True
                last = np.int64(q)
                tried = np.int64(-1)
        if not more:
            break
    return moved


@jit
def chain(B, S, C, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, p, before, counts, log):  # type: ignore[no-untyped-def]
    """After the step of `p`, who held the locks `before`, from S to B: C becomes where the movers lead that follow
    it."""
    nproc = P[M_PROCESSES]
    says, after = judge(B, S, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, OK, p, before)
    for w in range(P[M_NW], S.shape[0]):
        C[w] = S[w]
    own(C, B, P, Y, X, p)
    become(C, B, P)
    at[p] = control(C, P, Q, keys, p)
    if log.shape[0] > 1:
        enter(log, C, P, X, p)
    X[X_VIOLATIONS] = 0
    after_step(B, C, P, at, Z, X, p, after & ~before != 0, nproc)
    n = np.int64(0)
    if P[P[O_PROCS] + p * PROCESS_ROW + P_ROLE] <= 1:
        n = follow(B, C, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, p, says, after, counts, log)
    n += everybody(B, C, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, p, counts, log)
    return n


@jit
def stand(B, S, P, Q, keys, at, Z, X):  # type: ignore[no-untyped-def]
    """The control of each process in state S, and which cannot step."""
    for p in range(P[M_PROCESSES]):
        at[p] = control(S, P, Q, keys, p)
    for p in range(P[M_PROCESSES]):
        look(B, S, P, at, Z, X, p)


@jit
def expand(  # type: ignore[no-untyped-def]
    cur, ncur, base, nxt, table, parent, action, ctl, limit, maxsteps, B, S, C, S2, P, X, counts, distinct, outcomes,
    W, R, N, Y, Q, keys, known, own_, edges, index, graph,
):
    """Expand states of one depth from ctl[C_HEAD] on; why it stopped is ctl[C_WHY].  With more than one number in
    `index`, edges between states are kept in `graph`."""
    nw = S.shape[0]  # with who owns what
    mask = np.uint64(table.shape[0] - 1)
    room = np.int64(table.shape[0] * 6 // 10)
    head = ctl[C_HEAD]
    tail = ctl[C_TAIL]
    stored = ctl[C_STORED]
    nproc = P[M_PROCESSES]
    most = SLACK // nproc
    pcslot = P[M_PC]
    halt = P[M_HALT]
    done = 0
    keep = index.shape[0] > 1
    ne = ctl[C_EDGES]
    at = np.zeros(nproc, np.int64)
    at2 = np.zeros(nproc, np.int64)
    Z = np.zeros(nproc * ASLEEP_ROW, np.int64)
    Z2 = np.zeros(nproc * ASLEEP_ROW, np.int64)
    digits = np.zeros(64, np.int64)
    log = np.zeros(1, np.int64)
    why = WHY_DONE
    while head < ncur:
        if tail + SLACK > nxt.shape[0] or stored + SLACK > parent.shape[0]:
            why = WHY_FRONTIER
            break
        if keep and ne + SLACK > graph.shape[0]:
            why = WHY_EDGES
            break
        if stored + SLACK > room:
            why = WHY_TABLE
            break
        if ctl[C_OUTCOMES] * 2 > outcomes.shape[0]:
            why = WHY_OUTCOMES
            break
        if done >= maxsteps or stored > limit or Q[Q_LOST] or ctl[C_LOST]:
            why = WHY_PAUSE
            break
        done += 1
        for w in range(nw):
            S[w] = cur[head, w]
        stand(B, S, P, Q, keys, at, Z, X)
        busy = False
        finished = True
        crowded = False  # a step has no room, which is no deadlock
        for p in range(nproc):
            i = P[O_PROCS] + p * PROCESS_ROW
            pc = get(S, P, pcslot, P[i + P_BASE])
            role = P[i + P_ROLE]
            if pc == halt:
                continue
            if role == 0:
                finished = False
            if P[M_MEMORY] == BUFFERED and blocked(S, P, W, R, Y, Q, known, at, Z, p, nproc):
                continue  # its stores leave first
            before = holds(S, P, W, p, nproc)
            depth = np.int64(0)
            taken = np.int64(0)
            while True:
                status = run(B, S, P, at, X, p, depth)
                used = X[X_USED]
                choice = np.int64(0)
                if used:
                    choice = encode(X, used)
                if X[X_VIOLATIONS]:
                    crowded = crowded or (status == DISABLED and X[X_VIOL] == P[K_BUFFER])
                    note(X, distinct, ctl, base + head, p, choice)
                for k in range(used):
                    digits[k] = X[X_DIGITS + k]
                    digits[32 + k] = X[X_RADIX + k]
                if status != DISABLED:
                    for k in range(X[X_COUNTED]):
                        counts[X[X_COUNTS + k]] += 1
                    ctl[C_TRANSITIONS] += 1
                    if role <= 1:
                        busy = True
                aged = X[X_AGED]
                if status == OK:
                    for q in range(nproc):
                        at2[q] = at[q]
                    for q in range(nproc * ASLEEP_ROW):
                        Z2[q] = Z[q]
                    ctl[C_MOVED] += chain(
                        B, S, C, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at2, Z2, ctl, X, p, before, counts, log
                    )
                    h = fingerprint(C, nw)
                    s = h & mask
                    while True:
                        e = table[s]
                        if e == h:
                            break
                        if e == 0:
                            table[s] = h
                            for w in range(nw):
                                nxt[tail, w] = C[w]
                            parent[stored] = base + head
                            action[stored] = p + 256 * choice
                            if keep:
                                index[s] = stored
                            tail += 1
                            stored += 1
                            break
                        s = (s + np.uint64(1)) & mask
                    if keep and not aged:  # nobody reads an old store for ever
                        graph[ne, 0] = base + head
                        graph[ne, 1] = index[s]
                        ne += 1
                else:
                    judge(B, S, S2, P, W, R, N, Y, Q, keys, known, own_, edges, at, Z, ctl, X, status, p, before)
                    X[X_VIOLATIONS] = 0
                # the next combination of choices
                for k in range(used):
                    X[X_DIGITS + k] = digits[k]
                    X[X_RADIX + k] = digits[32 + k]
                k = last_open(X, used)
                if k < 0:
                    break
                taken += 1
                if taken >= most:
                    X[X_VIOLATIONS] = 0
                    violate(X, P[K_CHOICES], pc, -1, 0, p)
                    note(X, distinct, ctl, base + head, p, choice)
                    break
                X[X_DIGITS + k] += 1
                depth = k + 1
        if not busy and (finished or not crowded):
            rested(B, S, P, X, distinct, ctl, outcomes, base + head, finished)
        head += 1
    ctl[C_EDGES] = ne
    ctl[C_HEAD] = head
    ctl[C_TAIL] = tail
    ctl[C_STORED] = stored
    ctl[C_WHY] = why
