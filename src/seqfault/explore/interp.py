"""Tier 0: one step of one process, interpreted.

The operations are fixed and compiled once, whatever the protocol; an automaton is data.  docs/engine.md has
their meaning.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from seqfault.explore.memory_sc import load, store

OK, DISABLED, ENDS = 0, 1, 2
MAX_INSTRUCTIONS = 100_000
MAX_CHOICES = 16

# meta: what the interpreter must know of an automaton besides its tables
(
    M_PC,
    M_HELD,
    M_CPU,
    M_PROCESS,
    M_NW,
    M_HALT,
    K_RANGE,
    K_UNINIT,
    K_OVERFLOW,
    K_DIV,
    K_SHIFT,
    K_NULL,
    K_UAF,
    K_INDEX,
    K_POOL,
    K_DOUBLE_FREE,
    K_ENDLESS,
    K_DEADLOCK,
    M_OBS_BASE,
    M_OBSERVERS,
    M_CLASSES,
) = range(21)
META = 21
# dyn: what a step leaves behind
D_VIOLATIONS, D_USED, D_TRACE, D_HASH, D_PC = range(5)
DYN = 8
# events of a trace
T_LOAD, T_STORE, T_ALLOC, T_FREE, T_EMIT = range(5)


@njit(cache=True)
def get(B, tab, s, pb):  # type: ignore[no-untyped-def]
    return tab[s, 3] + ((B[tab[s, 0] + tab[s, 5] * pb] >> tab[s, 1]) & tab[s, 2])


@njit(cache=True)
def put(B, tab, s, pb, v):  # type: ignore[no-untyped-def]
    """Store in a register; False if the value does not fit."""
    w = tab[s, 0] + tab[s, 5] * pb
    m = tab[s, 2]
    sh = tab[s, 1]
    u = v - tab[s, 3]
    B[w] = (B[w] & ~(m << sh)) | ((u & m) << sh)
    span = tab[s, 4]
    return span < 0 or (0 <= u <= span)


@njit(cache=True)
def violate(viol, dyn, kind, pc, pool, index, process):  # type: ignore[no-untyped-def]
    n = dyn[D_VIOLATIONS]
    if n < viol.shape[0]:
        viol[n, 0] = kind
        viol[n, 1] = pc
        viol[n, 2] = pool
        viol[n, 3] = index
        viol[n, 4] = process
        dyn[D_VIOLATIONS] = n + 1


@njit(cache=True)
def event(trace, dyn, kind, pc, a, v):  # type: ignore[no-untyped-def]
    n = dyn[D_TRACE]
    if n < trace.shape[0]:
        trace[n, 0] = kind
        trace[n, 1] = pc
        trace[n, 2] = a
        trace[n, 3] = v
        dyn[D_TRACE] = n + 1


@njit(cache=True)
def mix(h):  # type: ignore[no-untyped-def]
    """A bijection of 64 bits that spreads every bit (after Stafford's variants of MurmurHash3's finaliser)."""
    h ^= h >> np.uint64(32)
    h *= np.uint64(0xD6E8FEB86659FD93)
    h ^= h >> np.uint64(32)
    h *= np.uint64(0xD6E8FEB86659FD93)
    h ^= h >> np.uint64(32)
    return h


@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def step(B, code, tab, stop, masks, use_masks, rettab, pools, start_raw, meta, p, pb, words, cpu, pc, digits, radix, depth, viol, counts, edges, trace, dyn):  # type: ignore[no-untyped-def]
    """Run process `p` from `pc` to where its next step begins.

    `B`: state words and extra words, changed in place.  `digits[:depth]`: which alternatives of CHOOSE to take
    (0 after that); dyn[D_USED] tells how many were met, `radix` of how many each.  `viol` rows: kind, pc, pool,
    index, process.  Returns OK, DISABLED (the step cannot be taken now) or ENDS (no state follows); dyn[D_PC]
    is where the process stands then.
    """
    B[tab[meta[M_CPU], 0]] = cpu
    B[tab[meta[M_PROCESS], 0]] = p
    used = 0
    first = True
    n = 0
    while True:
        op = code[pc, 0]
        if not first and stop[pc]:
            break
        if op == 36:
            break
        first = False
        n += 1
        if n > MAX_INSTRUCTIONS:
            violate(viol, dyn, meta[K_ENDLESS], pc, -1, 0, p)
            dyn[D_USED] = used
            return ENDS
        a = code[pc, 1]
        b = code[pc, 2]
        c = code[pc, 3]
        nx = code[pc, 8]
        if op == 30:  # LOAD
            addr = b + get(B, tab, c, pb) * code[pc, 4] + get(B, tab, code[pc, 5], pb) * code[pc, 6]
            raw = load(B, tab, addr, p)
            span = tab[addr, 4]
            if span >= 0 and raw > span and tab[addr, 2] != 0:
                violate(viol, dyn, meta[K_UNINIT], pc, -1, addr, p)
                raw = 0
            v = tab[addr, 3] + raw
            if not put(B, tab, a, pb, v):
                violate(viol, dyn, meta[K_RANGE], pc, -1, 0, p)
                dyn[D_USED] = used
                return ENDS
            event(trace, dyn, T_LOAD, pc, addr, v)
        elif op == 31:  # STORE
            addr = b + get(B, tab, c, pb) * code[pc, 4] + get(B, tab, code[pc, 5], pb) * code[pc, 6]
            v = get(B, tab, a, pb)
            u = v - tab[addr, 3]
            span = tab[addr, 4]
            if span >= 0 and (u < 0 or u > span) and tab[addr, 2] != 0:
                violate(viol, dyn, meta[K_RANGE], pc, -1, addr, p)
                dyn[D_USED] = used
                return ENDS
            store(B, tab, addr, u, p)
            event(trace, dyn, T_STORE, pc, addr, v)
        elif op == 32:  # CHKPTR
            x = get(B, tab, a, pb)
            if x == 0:
                violate(viol, dyn, meta[K_NULL], pc, b, 0, p)
                dyn[D_USED] = used
                return ENDS
            if pools[b, 3] >= 0:
                st = get(B, tab, pools[b, 0] + (x - 1) * pools[b, 1], 0)
                if st != 1 and not (st == 2 and pools[b, 4] != 0):
                    violate(viol, dyn, meta[K_UAF], pc, b, x - 1, p)
        elif op == 1:  # MOV
            if not put(B, tab, a, pb, get(B, tab, b, pb)):
                violate(viol, dyn, meta[K_RANGE], pc, -1, 0, p)
                dyn[D_USED] = used
                return ENDS
        elif op == 19:  # BR
            if get(B, tab, a, pb) == 0:
                nx = b
        elif op == 20:
            if get(B, tab, a, pb) != get(B, tab, b, pb):
                nx = c
        elif op == 21:
            if get(B, tab, a, pb) == get(B, tab, b, pb):
                nx = c
        elif op == 22:
            if not get(B, tab, a, pb) < get(B, tab, b, pb):
                nx = c
        elif op == 23:
            if not get(B, tab, a, pb) <= get(B, tab, b, pb):
                nx = c
        elif 2 <= op <= 18 or 24 <= op <= 26:  # arithmetic
            x = get(B, tab, b, pb)
            y = np.int64(0)
            if op != 12 and op != 13 and op != 14 and op != 26:
                y = get(B, tab, c, pb)
            bad = np.int64(-1)
            r = np.int64(0)
            if op == 2:
                r = x + y
                if code[pc, 4] == 0 and ((x ^ r) & (y ^ r)) < 0:
                    bad = meta[K_OVERFLOW]
            elif op == 3:
                r = x - y
                if code[pc, 4] == 0 and ((x ^ y) & (x ^ r)) < 0:
                    bad = meta[K_OVERFLOW]
            elif op == 4:
                r = x * y
                if code[pc, 4] == 0 and x != 0:
                    if x == -1:
                        if y == -9223372036854775808:
                            bad = meta[K_OVERFLOW]
                    elif r // x != y or r % x != 0:
                        bad = meta[K_OVERFLOW]
            elif op == 5 or op == 6:
                if y == 0:
                    bad = meta[K_DIV]
                elif y == -1:
                    if op == 5:
                        r = -x
                        if x == -9223372036854775808:
                            bad = meta[K_OVERFLOW]
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
                    bad = meta[K_SHIFT]
                elif y > 63:
                    if code[pc, 4] == 0 and x != 0:
                        bad = meta[K_OVERFLOW]
                else:
                    r = x << y
                    if code[pc, 4] == 0 and (r >> y) != x:
                        bad = meta[K_OVERFLOW]
            elif op == 11:
                if y < 0:
                    bad = meta[K_SHIFT]
                else:
                    r = x >> min(y, np.int64(63))
            elif op == 12:
                r = np.int64(1) if x == 0 else np.int64(0)
            elif op == 13:
                r = ~x
            elif op == 14:
                r = -x
                if x == -9223372036854775808:
                    bad = meta[K_OVERFLOW]
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
            else:  # WRAP
                if c >= 64:
                    r = x
                else:
                    m = (np.int64(1) << c) - 1
                    r = x & m
                    if code[pc, 4] != 0 and (r >> (c - 1)) & 1:
                        r -= np.int64(1) << c
            if bad < 0 and not put(B, tab, a, pb, r):
                bad = meta[K_RANGE]
            if bad >= 0:
                violate(viol, dyn, bad, pc, -1, 0, p)
                dyn[D_USED] = used
                return ENDS
        elif op == 33:  # CHKIDX
            x = get(B, tab, a, pb)
            if x < 0 or x >= b:
                violate(viol, dyn, meta[K_INDEX], pc, -1, 0, p)
                dyn[D_USED] = used
                return ENDS
        elif op == 34:  # CALL
            put(B, tab, a, pb, b)
            if use_masks:
                for w in range(words):
                    B[pb + w] &= masks[pc, w]
            nx = c
        elif op == 35:  # RET
            nx = rettab[b + get(B, tab, a, pb)]
        elif op == 37:  # CHECK
            if get(B, tab, a, pb) == 0:
                index = np.int64(0)
                if c >= 0:
                    index = get(B, tab, c, pb) - 1
                violate(viol, dyn, b, pc, code[pc, 4], index, p)
                if code[pc, 5] != 0:
                    dyn[D_USED] = used
                    return ENDS
        elif op == 38:  # WAIT
            if get(B, tab, a, pb) == 0:
                dyn[D_USED] = used
                return DISABLED
        elif op == 39:  # RELAX
            dyn[D_USED] = used
            return DISABLED
        elif op == 40:  # CHOOSE
            if used >= depth:
                digits[used] = 0
            radix[used] = b
            put(B, tab, a, pb, digits[used])
            used += 1
        elif op == 41:  # COUNT
            counts[a] += 1
        elif op == 42:  # EMIT
            v = get(B, tab, a, pb)
            dyn[D_HASH] = np.int64(mix(np.uint64(dyn[D_HASH]) * np.uint64(31) ^ np.uint64(v)))
            event(trace, dyn, T_EMIT, pc, a, v)
        elif op == 43:  # ALLOC
            found = np.int64(-1)
            reused = False
            for want in (0, 2):
                for i in range(pools[b, 2]):
                    if get(B, tab, pools[b, 0] + i * pools[b, 1], 0) == want:
                        found = np.int64(i)
                        reused = want == 2
                        break
                if found >= 0:
                    break
            if found < 0:
                violate(viol, dyn, meta[K_POOL], pc, b, 0, p)
                dyn[D_USED] = used
                return ENDS
            first_cell = pools[b, 0] + found * pools[b, 1]
            store(B, tab, first_cell, np.int64(1), p)
            if not (pools[b, 4] != 0 and reused and c == 0):
                for k in range(1, pools[b, 1]):
                    s = first_cell + k
                    if c != 0 or pools[b, 4] != 0 or tab[s, 4] < 0:
                        store(B, tab, s, start_raw[s], p)
                    else:
                        store(B, tab, s, tab[s, 4] + 1, p)
            put(B, tab, a, pb, found + 1)
            event(trace, dyn, T_ALLOC, pc, first_cell, found)
        elif op == 44:  # FREE
            x = get(B, tab, a, pb)
            if x == 0:
                violate(viol, dyn, meta[K_NULL], pc, b, 0, p)
                dyn[D_USED] = used
                return ENDS
            s = pools[b, 0] + (x - 1) * pools[b, 1]
            if get(B, tab, s, 0) != 1:
                violate(viol, dyn, meta[K_DOUBLE_FREE], pc, b, x - 1, p)
            store(B, tab, s, np.int64(2), p)
            event(trace, dyn, T_FREE, pc, s, x - 1)
        elif op == 45:  # LOCKDEP_ACQUIRE
            held = get(B, tab, meta[M_HELD], pb)
            if b == 0:
                for h in range(meta[M_CLASSES]):
                    if (held >> h) & 1 and edges[h, a] == 0:
                        edges[h, a] = pc + 1
            put(B, tab, meta[M_HELD], pb, held | (np.int64(1) << a))
        elif op == 46:  # LOCKDEP_RELEASE
            held = get(B, tab, meta[M_HELD], pb)
            put(B, tab, meta[M_HELD], pb, held & ~(np.int64(1) << a))
        elif op == 49:
            dyn[D_USED] = used
            return ENDS
        pc = nx
    dyn[D_USED] = used
    dyn[D_PC] = pc
    if pb + words <= meta[M_NW]:
        put(B, tab, meta[M_PC], pb, pc)
        if use_masks:
            for w in range(words):
                B[pb + w] &= masks[pc, w]
    return OK
