"""The locks of an automaton, and sets of them: two bits a lock, the lower one for holding it, the upper for writing."""

from __future__ import annotations

import numpy as np

from seqfault.compile.automaton import Automaton
from seqfault.explore.jit import jit_search as jit
from seqfault.explore.slots import get

MAX_LOCKS = 31


def lock_rows(a: Automaton) -> list[list[int]]:
    """Kind (0 spinlock, 1 semaphore), cell of the owner or writer, of the readers, of each lock, at most 31.

    Locks are found by the cells that they are made of.
    """
    cells = {c.name: c.addr for c in a.cells}
    used = [c for c in a.cells if a.tab[c.addr, 2] and a.tab[c.addr, 0] < a.nw]
    locks: list[list[int]] = []
    for c in used:
        if c.path.endswith(".owner") and c.name.replace(".owner", ".writer") not in cells:
            locks.append([0, c.addr, 0])
        elif c.path.endswith(".writer") and c.name[: -len("writer")] + "readers" in cells:
            locks.append([1, c.addr, cells[c.name[: -len("writer")] + "readers"]])
    return locks[:MAX_LOCKS]


@jit
def against(bits):  # type: ignore[no-untyped-def]
    """The lock bits that nobody else can have while somebody holds `bits`."""
    any_ = np.int64(0x1555555555555555)
    low = bits & any_
    high = (bits >> 1) & any_
    return high | ((low & ~high) << 1)


@jit
def holding(S, P, T, r, p):  # type: ignore[no-untyped-def]
    """How process `p` holds, in state S, the lock whose row (`lock_rows`) begins at T[r]: 0, 1 for reading, 3."""
    owner = get(S, P, T[r + 1], 0)
    if T[r] == 0:
        return np.int64(3) if owner == p + 1 else np.int64(0)
    readers = get(S, P, T[r + 2], 0)
    if owner == p + 1 and readers == 0:  # one that does not exclude is none
        return np.int64(3)
    if owner == 0 and (readers >> p) & 1:
        return np.int64(1)
    return np.int64(0)
