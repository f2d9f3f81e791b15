"""Sequence counts that stay finite.

Text does three things with a count: it adds one, asks whether it is odd, and compares it with a saved copy.  So
the counts and the copies of a state may be replaced by others of the same parity and the same order, and nothing that
is ever seen changes: what is equal stays equal, and a copy that is behind its count stays behind, which is all that a
copy that once differed can do.  Zero stays zero, because text stores that constant (a new count, a forgotten copy).
The least such numbers are taken, so a writer that goes on for ever comes back to states that were seen.

All counts of a state are renamed together, since a register does not tell whose copy it holds; what is kept too much
is the order of counts of different objects, which splits states and joins none.
"""

from __future__ import annotations

from seqfault.compile.counts import AT, CELLS, FUNCTIONS, HEAD
from seqfault.explore.jit import jit
from seqfault.explore.slots import get, put
from seqfault.explore.tables import (
    COUNTS,
    COUNTS_AT,
    M_PC,
    M_PROCESSES,
    O_COUNTS,
    O_PROCS,
    O_TAB,
    P_BASE,
    PROCESS_ROW,
    SLOT,
)


@jit
def gather(P, first, n, base, pb, slots, k):  # type: ignore[no-untyped-def]
    for i in range(n):
        if k < COUNTS:
            P[slots + k] = P[base + first + i]
            P[slots + COUNTS + k] = pb
            k += 1
    return k


@jit
def rename(B, P):  # type: ignore[no-untyped-def]
    """Give the counts of the state B, and their copies in its registers, the least values of the same parity and
    order."""
    t = P[O_COUNTS]
    slots = P.shape[0] - COUNTS_AT  # arrays, at the end of `P`: those of its own would want numba's runtime
    bases = slots + COUNTS
    values = bases + COUNTS
    names = values + COUNTS + 1
    k = gather(P, HEAD, P[t + CELLS], t, 0, slots, 0)
    for p in range(P[M_PROCESSES]):
        pb = P[P[O_PROCS] + p * PROCESS_ROW + P_BASE]
        row = t + P[t + AT] + 3 * get(B, P, P[M_PC], pb)
        f = P[row]
        if f < 0:
            continue
        k = gather(P, P[row + 1], P[row + 2], t, pb, slots, k)
        while True:  # those who wait for it to return
            g = t + P[t + FUNCTIONS] + 2 * f
            if P[g] < 0:
                break
            call = t + P[g + 1] + 3 * get(B, P, P[g], pb)
            k = gather(P, P[call + 1], P[call + 2], t, pb, slots, k)
            f = P[call]
    P[values] = 0
    n = 1
    for i in range(k):
        v = get(B, P, P[slots + i], P[bases + i])
        span = P[P[O_TAB] + P[slots + i] * SLOT + 4]
        if P[bases + i] == 0 and v > span:  # undefined
            P[slots + i] = -1
            continue
        j = n
        while j > 0 and P[values + j - 1] > v:
            j -= 1
        if j > 0 and P[values + j - 1] == v:
            continue
        for m in range(n, j, -1):
            P[values + m] = P[values + m - 1]
        P[values + j] = v
        n += 1
    P[names] = 0
    for j in range(1, n):
        P[names + j] = P[names + j - 1] + (1 if (P[values + j] - P[values + j - 1]) & 1 else 2)
    if P[names + n - 1] == P[values + n - 1]:
        return
    for i in range(k):
        if P[slots + i] < 0:
            continue
        v = get(B, P, P[slots + i], P[bases + i])
        for j in range(n):
            if P[values + j] == v:
                put(B, P, P[slots + i], P[bases + i], P[names + j])
                break
