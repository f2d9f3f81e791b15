"""Tier 0: one step of one process, interpreted.

The operations are fixed and compiled once, whatever the protocol; an automaton is data.  docs/engine.md has
their meaning.  An automaton is one array `P` (header, then tables at the offsets that the header names), what a step
leaves behind one array `X`: numba counts references for every array that a function is given, which
with one array for each table took more time than the steps.
"""

from __future__ import annotations

import numpy as np

from seqfault.compile.work import ATOMIC_CELL, LOOK, OBJECT, READ, RMW_CELL, WRITE
from seqfault.explore import memory
from seqfault.explore.counts import rename
from seqfault.explore.jit import jit
from seqfault.explore.memory_sc import load, store
from seqfault.explore.orders import ATOMIC, is_rmw
from seqfault.explore.raw import call8
from seqfault.explore.slots import alternative, get, mix, put
from seqfault.explore.tables import (
    DISABLED,
    ENDS,
    FULL,
    K_BUFFER,
    K_CHOICES,
    K_DIV,
    K_DOUBLE_FREE,
    K_ENDLESS,
    K_INDEX,
    K_NULL,
    K_OVERFLOW,
    K_POOL,
    K_RANGE,
    K_SHIFT,
    K_UAF,
    K_UNINIT,
    M_CELLS,
    M_CLASSES,
    M_COUNTS,
    M_CPU,
    M_HELD,
    M_MEMORY,
    M_NW,
    M_PC,
    M_PROCESS,
    M_REGION,
    M_RULES,
    M_USE_MASKS,
    MANY,
    MAX_ACCESSED,
    MAX_CHOICES,
    MAX_COUNTED,
    MAX_INSTRUCTIONS,
    MAX_VIOLATIONS,
    O_CODE,
    O_MASKS,
    O_MEMORY,
    O_POOLS,
    O_RETTAB,
    O_RULES,
    O_START,
    O_TAB,
    OK,
    ROW,
    SLOT,
    T_ALLOC,
    T_EMIT,
    T_FLUSH,
    T_FREE,
    T_LOAD,
    T_STORE,
    TRACE_ROW,
    V_BEGIN,
    V_BRANCH,
    V_CALLS,
    V_COMPUTE,
    V_END,
    V_FENCE,
    V_FORGET,
    V_LOAD,
    V_OBJECT,
    V_STORE,
    X_ACCESSED,
    X_BEHIND,
    X_COUNTED,
    X_COUNTS,
    X_EDGES,
    X_HASH,
    X_SEQ,
    X_STAND,
    X_TRACE,
    X_TRACE_ROOM,
    X_USED,
    X_VALUE,
    X_VIOL,
    X_VIOLATIONS,
    X_WAITED,
)


@jit
def violate(X, kind, pc, pool, index, process):  # type: ignore[no-untyped-def]
    n = X[X_VIOLATIONS]
    if n < MAX_VIOLATIONS:
        i = X_VIOL + 5 * n
        X[i] = kind
        X[i + 1] = pc
        X[i + 2] = pool
        X[i + 3] = index
        X[i + 4] = process
        X[X_VIOLATIONS] = n + 1


@jit
def judge(S, P, X):  # type: ignore[no-untyped-def]
    """What the state at rest S breaks of the rules for such states."""
    X[X_VIOLATIONS] = 0
    X[X_COUNTED] = 0
    for k in range(P[M_RULES]):
        r = P[O_RULES] + 6 * k
        st = P[r + 2]
        if st >= 0 and get(S, P, st, 0) != 1:
            continue
        v = get(S, P, P[r], 0)
        if (P[r + 1] == 0 and v != 0) or (P[r + 1] == 1 and v & 1):
            violate(X, P[r + 3], np.int64(-2) - P[r], P[r + 4], P[r + 5], np.int64(-1))


@jit
def event(P, X, kind, pc, a, v):  # type: ignore[no-untyped-def]
    n = X[X_TRACE]
    if n < X[X_TRACE_ROOM]:
        i = X_EDGES + P[M_CLASSES] * P[M_CLASSES] + TRACE_ROW * n
        X[i] = kind
        X[i + 1] = pc
        X[i + 2] = a
        X[i + 3] = v
        X[X_TRACE] = n + 1


@jit
def touch(X, cell, how):  # type: ignore[no-untyped-def]
    """Tell that a cell is touched (compile/work.py)."""
    n = X[X_ACCESSED]
    X[X_ACCESSED] = n + 1
    X[X_ACCESSED + 1 + min(n, np.int64(MAX_ACCESSED - 1))] = 4 * cell + how


@jit
def how_atomic(order):  # type: ignore[no-untyped-def]
    if is_rmw(order):
        return ATOMIC_CELL + RMW_CELL
    return ATOMIC_CELL if order == ATOMIC else 0


@jit
def waits(X, used):  # type: ignore[no-untyped-def]
    """The step cannot be taken now, and so has shown nothing."""
    X[X_VIOLATIONS] = 0
    X[X_USED] = used
    return DISABLED


@jit
def has_no_room(P, X, used, pc, p, why):  # type: ignore[no-untyped-def]
    """The step cannot be taken: it waits, or a memory model has no room for it."""
    waits(X, used)
    if why == FULL:
        violate(X, P[K_BUFFER], pc, -1, 0, p)
    elif why == MANY:
        violate(X, P[K_CHOICES], pc, -1, 0, p)
    return DISABLED


@jit
def step(B, P, X, p, pb, words, cpu, pc, stops, depth):  # type: ignore[no-untyped-def]
    """Run process `p`, whose region is `words` words from `pb` on, from `pc` to where its next step begins.

    `B`: state words and extra words, changed in place.  `stops`: offset in P of the table of where steps begin.
    X[X_DIGITS:][:depth]: which alternatives of CHOOSE to take (0 after that); X[X_USED] tells how many were
    met, X[X_RADIX:] of how many each.  X[X_VIOL:]: rows of kind, pc, pool, index, process.  Returns OK, DISABLED (the
    step cannot be taken now) or ENDS (no state follows); X[X_STAND] is where the process stands then.
    """
    put(B, P, P[M_CPU], 0, cpu)
    put(B, P, P[M_PROCESS], 0, p)
    weak = P[M_MEMORY] == 1 or P[M_MEMORY] == 2
    X[X_ACCESSED] = 0
    X[X_WAITED] = 0
    views = P[M_MEMORY] == 3 and pb + words <= P[M_NW]  # not an observer, which looks at memory at rest
    pB, pP, pX, lk = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    if views:
        pB, pP, pX = np.int64(B.ctypes.data), np.int64(P.ctypes.data), np.int64(X.ctypes.data)
        lk = P[O_MEMORY] + V_CALLS
        call8(P[lk + V_BEGIN], (pB, pP, pX, p, pc, depth, np.int64(0), np.int64(0)))
    if weak and memory.blocked(B, P, p, pc):
        X[X_USED] = 0
        return DISABLED
    used = X[X_USED] if views else np.int64(0)
    first = True
    n = 0
    while True:
        if not first and P[np.uintp(stops + pc)]:
            break
        q = np.uintp(P[O_CODE] + pc * ROW)
        op = P[q]
        if op == 36:
            break
        first = False
        n += 1
        if n > MAX_INSTRUCTIONS:
            violate(X, P[K_ENDLESS], pc, -1, 0, p)
            X[X_USED] = used
            return ENDS
        a = P[q + np.uintp(1)]
        b = P[q + np.uintp(2)]
        c = P[q + np.uintp(3)]
        nx = P[q + np.uintp(8)]
        if op < 19 or (op > 23 and op < 30):  # arithmetic
            if op == 0:
                pc = nx
                continue
            x = get(B, P, b, pb)
            y = get(B, P, c, pb) if op <= 11 or (op > 14 and op < 26) else np.int64(0)
            bad = np.int64(-1)
            r = x
            if op == 2:
                r = x + y
                if P[q + np.uintp(4)] == 0 and ((x ^ r) & (y ^ r)) < 0:
                    bad = P[K_OVERFLOW]
            elif op == 3:
                r = x - y
                if P[q + np.uintp(4)] == 0 and ((x ^ y) & (x ^ r)) < 0:
                    bad = P[K_OVERFLOW]
            elif op == 4:
                r = x * y
                if P[q + np.uintp(4)] == 0 and x != 0:
                    if x == -1:
                        if y == -9223372036854775808:
                            bad = P[K_OVERFLOW]
                    elif r // x != y or r % x != 0:
                        bad = P[K_OVERFLOW]
            elif op == 5 or op == 6:
                if y == 0:
                    bad = P[K_DIV]
                elif y == -1:
                    r = np.int64(0)
                    if op == 5:
                        r = -x
                        if x == -9223372036854775808:
                            bad = P[K_OVERFLOW]
                elif op == 5:
                    r = x // y
                else:
                    r = x % y
            elif op == 7:
                r = x & y
            elif op == 8:
                r = x | y
            elif op == 9:
                r = x ^ y
            elif op == 10:
                if y < 0:
                    bad = P[K_SHIFT]
                elif y > 63:
                    r = np.int64(0)
                    if P[q + np.uintp(4)] == 0 and x != 0:
                        bad = P[K_OVERFLOW]
                else:
                    r = x << y
                    if P[q + np.uintp(4)] == 0 and (r >> y) != x:
                        bad = P[K_OVERFLOW]
            elif op == 11:
                if y < 0:
                    bad = P[K_SHIFT]
                else:
                    r = x >> min(y, np.int64(63))
            elif op == 12:
                r = np.int64(1) if x == 0 else np.int64(0)
            elif op == 13:
                r = ~x
            elif op == 14:
                r = -x
                if x == -9223372036854775808:
                    bad = P[K_OVERFLOW]
            elif op == 15:
                r = np.int64(1) if x == y else np.int64(0)
            elif op == 16:
                r = np.int64(1) if x != y else np.int64(0)
            elif op == 17:
                r = np.int64(1) if x < y else np.int64(0)
            elif op == 18:
                r = np.int64(1) if x <= y else np.int64(0)
            elif op == 24:
                r = min(x, y)
            elif op == 25:
                r = max(x, y)
            elif op == 26:  # WRAP
                if c >= 64:
                    r = x
                else:
                    m = (np.int64(1) << c) - 1
                    r = x & m
                    if P[q + np.uintp(4)] != 0 and (r >> (c - 1)) & 1:
                        r -= np.int64(1) << c
            if bad < 0 and not put(B, P, a, pb, r):
                bad = P[K_RANGE]
            if bad >= 0:
                violate(X, bad, pc, -1, 0, p)
                X[X_USED] = used
                return ENDS
            if views:
                call8(P[lk + V_COMPUTE], (pB, pP, pX, op, a, b, c, p))
        elif op <= 23:  # BR, BREQ, BRNE, BRLT, BRLE
            x = get(B, P, a, pb)
            y = np.int64(0)
            second = np.int64(-1)
            other = b
            if op > 19:
                y = get(B, P, b, pb)
                second = b
                other = c
            if views:
                call8(P[lk + V_BRANCH], (pB, pP, pX, a, second, p, np.int64(0), np.int64(0)))
            if op == 19 or op == 21:
                go = x != y
            elif op == 20:
                go = x == y
            elif op == 22:
                go = x < y
            else:
                go = x <= y
            if not go:
                nx = other
        elif op == 30:  # LOAD
            addr = b
            if P[q + np.uintp(4)] != 0:
                addr += get(B, P, c, pb) * P[q + np.uintp(4)]
                if P[q + np.uintp(6)] != 0:
                    addr += get(B, P, P[q + np.uintp(5)], pb) * P[q + np.uintp(6)]
            if P[q + np.uintp(7)] != 0:
                touch(X, addr + how_atomic(P[q + np.uintp(7)]), READ)
            if weak:
                if not memory.may_load(B, P, addr, P[q + np.uintp(7)], p):
                    return waits(X, used)
                raw = memory.load(B, P, addr, p)
            elif views:
                why = call8(P[lk + V_LOAD], (pB, pP, pX, np.int64(q), addr, p, used, depth))
                if why:
                    return has_no_room(P, X, used, pc, p, why)
                used = X[X_USED]
                raw = X[X_VALUE]
            else:
                raw = load(B, P, addr, p)
            t = np.uintp(P[O_TAB] + addr * SLOT)
            span = P[t + np.uintp(4)]
            if span >= 0 and raw > span and P[t + np.uintp(2)] != 0:
                violate(X, P[K_UNINIT], pc, -1, addr, p)
                raw = 0
            v = P[t + np.uintp(3)] + raw
            if not put(B, P, a, pb, v):
                violate(X, P[K_RANGE], pc, -1, 0, p)
                X[X_USED] = used
                return ENDS
            event(P, X, T_LOAD + (X[X_BEHIND] << 8 if views else 0), pc, addr, v)
        elif op == 31:  # STORE
            addr = b
            if P[q + np.uintp(4)] != 0:
                addr += get(B, P, c, pb) * P[q + np.uintp(4)]
                if P[q + np.uintp(6)] != 0:
                    addr += get(B, P, P[q + np.uintp(5)], pb) * P[q + np.uintp(6)]
            v = get(B, P, a, pb)
            t = np.uintp(P[O_TAB] + addr * SLOT)
            u = v - P[t + np.uintp(3)]
            span = P[t + np.uintp(4)]
            if span >= 0 and (u < 0 or u > span) and P[t + np.uintp(2)] != 0:
                violate(X, P[K_RANGE], pc, -1, addr, p)
                X[X_USED] = used
                return ENDS
            if P[q + np.uintp(7)] != 0:
                touch(X, addr + how_atomic(P[q + np.uintp(7)]), WRITE)
            if weak:
                how = memory.store(B, P, addr, u & P[t + np.uintp(2)], P[q + np.uintp(7)], p)
                if how:
                    return has_no_room(P, X, used, pc, p, how)
            elif views:
                X[X_VALUE] = u & P[t + np.uintp(2)]
                why = call8(P[lk + V_STORE], (pB, pP, pX, np.int64(q), addr, p, used, depth))
                if why:
                    return has_no_room(P, X, used, pc, p, why)
                used = X[X_USED]
            else:
                store(B, P, addr, u, p)
            event(P, X, T_STORE + (X[X_BEHIND] << 8 if views else 0), pc, addr, v)
        elif op == 32:  # CHKPTR
            pool = P[O_POOLS] + 5 * b
            x = get(B, P, a, pb)
            if x == 0:
                violate(X, P[K_NULL], pc, b, 0, p)
                X[X_USED] = used
                return ENDS
            if P[pool + 3] >= 0:
                touch(X, P[pool] + (x - 1) * P[pool + 1], LOOK)
                st = get(B, P, P[pool] + (x - 1) * P[pool + 1], 0)
                if st != 1 and not (st == 2 and P[pool + 4] != 0):
                    violate(X, P[K_UAF], pc, b, x - 1, p)
        elif op == 33:  # CHKIDX
            x = get(B, P, a, pb)
            if x < 0 or x >= b:
                violate(X, P[K_INDEX], pc, -1, 0, p)
                X[X_USED] = used
                return ENDS
        elif op == 34:  # CALL
            put(B, P, a, pb, b)
            if P[M_USE_MASKS]:
                for w in range(words):
                    B[pb + w] &= P[P[O_MASKS] + pc * P[M_REGION] + w]
            if views:
                call8(P[lk + V_FORGET], (pB, pP, pX, a, p, pc, np.int64(0), np.int64(0)))
            nx = c
        elif op == 35:  # RET
            nx = P[P[O_RETTAB] + b + get(B, P, a, pb)]
        elif op == 37:  # CHECK
            if get(B, P, a, pb) == 0:
                index = np.int64(0)
                if c >= 0:
                    index = get(B, P, c, pb) - 1
                violate(X, b, pc, P[q + np.uintp(4)], index, p)
                if P[q + np.uintp(5)] != 0:
                    X[X_USED] = used
                    return ENDS
        elif op == 38:  # WAIT
            if views:
                call8(P[lk + V_BRANCH], (pB, pP, pX, a, np.int64(-1), p, np.int64(0), np.int64(0)))
            if get(B, P, a, pb) == 0:
                X[X_USED] = used
                return DISABLED
            X[X_WAITED] = 1
        elif op == 39:  # RELAX
            X[X_USED] = used
            return DISABLED
        elif op == 40:  # CHOOSE
            if used >= MAX_CHOICES:
                violate(X, P[K_CHOICES], pc, -1, 0, p)
                X[X_USED] = used
                return ENDS
            put(B, P, a, pb, alternative(X, used, depth, b))
            used += 1
            if views:
                call8(P[lk + V_FORGET], (pB, pP, pX, a, p, np.int64(-1), np.int64(0), np.int64(0)))
        elif op == 41:  # COUNT
            if X[X_COUNTED] < MAX_COUNTED:
                X[X_COUNTS + X[X_COUNTED]] = a
                X[X_COUNTED] += 1
        elif op == 42:  # EMIT
            v = get(B, P, a, pb)
            X[X_HASH] = np.int64(mix(np.uint64(X[X_HASH]) * np.uint64(31) ^ np.uint64(v)))
            event(P, X, T_EMIT, pc, a, v)
        elif op == 43:  # ALLOC
            pool = P[O_POOLS] + 5 * b
            found = np.int64(-1)
            reused = False
            for i in range(P[pool + 2]):  # where there is none, too: whoever frees one changes that
                touch(X, P[pool] + i * P[pool + 1], READ)
            for want in (0, 2):
                for i in range(P[pool + 2]):
                    if get(B, P, P[pool] + i * P[pool + 1], 0) == want:
                        found = np.int64(i)
                        reused = want == 2
                        break
                if found >= 0:
                    break
            if found < 0:
                violate(X, P[K_POOL], pc, b, 0, p)
                X[X_USED] = used
                return ENDS
            first_cell = P[pool] + found * P[pool + 1]
            touch(X, first_cell, OBJECT)
            if weak and memory.pending(B, P, first_cell, first_cell + P[pool + 1], -1):
                return waits(X, used)
            if views:
                why = call8(P[lk + V_OBJECT], (pB, pP, pX, first_cell, np.int64(1), p, np.int64(0), np.int64(0)))
                if why:
                    return has_no_room(P, X, used, pc, p, why)
                call8(P[lk + V_FORGET], (pB, pP, pX, a, p, np.int64(-1), np.int64(0), np.int64(0)))
            else:
                store(B, P, first_cell, np.int64(1), p)
            if not (P[pool + 4] != 0 and reused and c == 0):
                for k in range(1, P[pool + 1]):
                    s = first_cell + k
                    zero = c != 0 or P[pool + 4] != 0 or P[P[O_TAB] + s * SLOT + 4] < 0
                    raw = P[P[O_START] + s] if zero else P[P[O_TAB] + s * SLOT + 4] + 1
                    if not views:
                        store(B, P, s, raw, p)
                    elif P[P[O_TAB] + s * SLOT + 2] != 0:
                        why = call8(P[lk + V_OBJECT], (pB, pP, pX, s, raw, p, np.int64(1), np.int64(zero)))
                        if why:
                            return has_no_room(P, X, used, pc, p, why)
            put(B, P, a, pb, found + 1)
            event(P, X, T_ALLOC, pc, first_cell, found)
        elif op == 44:  # FREE
            x = get(B, P, a, pb)
            if x == 0:
                violate(X, P[K_NULL], pc, b, 0, p)
                X[X_USED] = used
                return ENDS
            pool = P[O_POOLS] + 5 * b
            s = P[pool] + (x - 1) * P[pool + 1]
            touch(X, s, WRITE)
            if weak and memory.pending(B, P, s, s + P[pool + 1], p):
                return waits(X, used)
            if get(B, P, s, 0) != 1:
                violate(X, P[K_DOUBLE_FREE], pc, b, x - 1, p)
            if not views:
                store(B, P, s, np.int64(2), p)
            else:
                why = call8(P[lk + V_OBJECT], (pB, pP, pX, s, np.int64(2), p, np.int64(0), np.int64(0)))
                if why:
                    return has_no_room(P, X, used, pc, p, why)
            event(P, X, T_FREE, pc, s, x - 1)
        elif op == 45:  # LOCKDEP_ACQUIRE
            held = get(B, P, P[M_HELD], pb)
            if b == 0:
                for h in range(P[M_CLASSES]):
                    e = X_EDGES + h * P[M_CLASSES] + a
                    if (held >> h) & 1 and X[e] == 0:
                        X[e] = pc + 1
            put(B, P, P[M_HELD], pb, held | (np.int64(1) << a))
        elif op == 46:  # LOCKDEP_RELEASE: the most deeply nested class of this lock that is held
            held = get(B, P, P[M_HELD], pb)
            for k in range(1, 5):
                x = P[q + np.uintp(k)]
                if x >= 0 and (held >> x) & 1:
                    put(B, P, P[M_HELD], pb, held & ~(np.int64(1) << x))
                    break
        elif op == 47:  # FENCE
            if weak:
                if a == 1 or a == 5:
                    touch(X, P[M_CELLS], LOOK)  # for movers: what was stored before has left its buffer
                memory.fence(B, P, a, p)
            elif views:
                call8(P[lk + V_FENCE], (pB, pP, pX, a, p, np.int64(0), np.int64(0), np.int64(0)))
        elif op == 48:  # SEQPOINT
            X[X_SEQ] = pc
        elif op == 49:
            X[X_USED] = used
            return ENDS
        elif op == 50:  # FLUSH: one of the stores in a buffer that may leave it
            k = memory.leavers(B, P, pb)
            if k == 0:
                X[X_USED] = used
                return DISABLED
            s = memory.flush(B, P, pb, alternative(X, used, depth, k))
            used += 1
            touch(X, s, WRITE)
            o = memory.object_of(P, s)
            if P[o] >= 0:
                touch(X, P[o], LOOK)
                st = get(B, P, P[o], 0)
                if st != 1 and not (st == 2 and P[P[O_POOLS] + 5 * P[o + 1] + 4] != 0):
                    violate(X, P[K_UAF], pc, P[o + 1], P[o + 2], p)
            event(P, X, T_FLUSH, pc, s, get(B, P, s, 0))
        pc = nx
    X[X_USED] = used
    X[X_STAND] = pc
    if pb + words <= P[M_NW]:
        put(B, P, P[M_PC], pb, pc)
        if P[M_USE_MASKS]:
            for w in range(words):
                B[pb + w] &= P[P[O_MASKS] + pc * P[M_REGION] + w]
    if views:
        call8(P[lk + V_END], (pB, pP, pX, p, pc, np.int64(0), np.int64(0), np.int64(0)))
    if P[M_COUNTS]:
        rename(B, P)
    return OK
