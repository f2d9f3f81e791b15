"""Sequential consistency: a load sees memory, a store changes it at once.

A memory model is a file with these functions; the interpreter reaches shared memory through nothing else.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit
from seqfault.explore.tables import O_TAB, SLOT


@jit
def load(B, P, addr, process):  # type: ignore[no-untyped-def]
    """Raw value of cell `addr`, as `process` sees it."""
    i = np.uintp(P[O_TAB] + addr * SLOT)
    return (B[np.uintp(P[i])] >> P[i + np.uintp(1)]) & P[i + np.uintp(2)]


@jit
def store(B, P, addr, raw, process):  # type: ignore[no-untyped-def]
    """Store a raw value to cell `addr` by `process`."""
    i = np.uintp(P[O_TAB] + addr * SLOT)
    w = np.uintp(P[i])
    m = P[i + np.uintp(2)]
    s = P[i + np.uintp(1)]
    B[w] = (B[w] & ~(m << s)) | ((raw & m) << s)
