"""Reading and writing a slot: a memory cell, a register, a constant.  A hash of words."""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit
from seqfault.explore.tables import O_TAB, SLOT, X_DIGITS, X_RADIX


@jit
def get(B, P, s, pb):  # type: ignore[no-untyped-def]
    """Value of slot `s` of a process whose region begins at word `pb`."""
    i = np.uintp(P[O_TAB] + s * SLOT)
    return P[i + np.uintp(3)] + (
        (B[np.uintp(P[i] + (P[i + np.uintp(5)] & pb))] >> P[i + np.uintp(1)]) & P[i + np.uintp(2)]
    )


@jit
def put(B, P, s, pb, v):  # type: ignore[no-untyped-def]
    """Store in a register; False if the value does not fit."""
    i = np.uintp(P[O_TAB] + s * SLOT)
    w = np.uintp(P[i] + (P[i + np.uintp(5)] & pb))
    m = P[i + np.uintp(2)]
    sh = P[i + np.uintp(1)]
    u = v - P[i + np.uintp(3)]
    B[w] = (B[w] & ~(m << sh)) | ((u & m) << sh)
    span = P[i + np.uintp(4)]
    return span < 0 or (0 <= u <= span)


@jit
def alternative(X, used, depth, n):  # type: ignore[no-untyped-def]
    """Which of `n` alternatives to take at the choice number `used` of a step: the first, unless it is said."""
    if used >= depth:
        X[X_DIGITS + used] = 0
    X[X_RADIX + used] = n
    return X[X_DIGITS + used]


@jit
def mix(h):  # type: ignore[no-untyped-def]
    """A bijection of 64 bits that spreads every bit (after Stafford's variants of MurmurHash3's finaliser)."""
    h ^= h >> np.uint64(32)
    h *= np.uint64(0xD6E8FEB86659FD93)
    h ^= h >> np.uint64(32)
    h *= np.uint64(0xD6E8FEB86659FD93)
    h ^= h >> np.uint64(32)
    return h


@jit
def row_of(rows, key, bits):  # type: ignore[no-untyped-def]
    """Of a table of 2 ** `bits` rows, the one with `key` in its first column, or the free one (0) for it."""
    size = rows.shape[0] - 1
    s = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
    while rows[s, 0] != key and rows[s, 0] != 0:
        s = (s + 1) & size
    return s


@jit
def last_open(X, used):  # type: ignore[no-untyped-def]
    """The last of a step's `used` choices that has another alternative; -1: none has."""
    k = used - 1
    while k >= 0 and X[X_DIGITS + k] + 1 >= X[X_RADIX + k]:
        k -= 1
    return k
