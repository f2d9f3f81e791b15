"""Sequential consistency: a load sees memory, a store changes it at once.

A memory model is a file with these functions; the interpreter reaches shared memory through nothing else.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True)
def load(B, tab, addr, process):  # type: ignore[no-untyped-def]
    """Raw value of cell `addr`, as `process` sees it."""
    return (B[tab[addr, 0]] >> tab[addr, 1]) & tab[addr, 2]


@njit(cache=True)
def store(B, tab, addr, raw, process):  # type: ignore[no-untyped-def]
    """Store a raw value to cell `addr` by `process`."""
    w = tab[addr, 0]
    m = tab[addr, 2]
    s = tab[addr, 1]
    B[w] = (B[w] & ~(m << s)) | ((raw & m) << s)
