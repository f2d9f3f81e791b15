"""Under the kernel's memory model: which stores others may not have seen yet, in a state, for a reader."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqfault.explore.engine import Executor
from seqfault.explore.memory_views import (
    CELL_BITS,
    COUNT,
    E_CELL,
    E_VALUE,
    ENTRY,
    LAST,
    U_BASE,
    U_FIRST_ENTRY,
    U_IDLE,
    U_TOUCHED,
    U_UNITS,
    V_LOADS,
    V_SEEN,
    VIEWS,
)
from seqfault.explore.tables import O_MEMORY


class Unseen(NamedTuple):
    """`process` may still load `raw` from `cell`, which holds another value by now."""

    process: int
    cell: int
    raw: int


def unseen(ex: Executor, words: NDArray[np.int64]) -> list[Unseen]:
    """What each CPU may still see of what was overwritten, but for CPUs that have finished.

    `ex`: one that knows which cells its processes load (`replay.knowing`); `words`: a state of its automaton.
    """
    P = ex.P
    u = int(P[O_MEMORY])
    base = int(P[u + U_BASE])
    out: list[Unseen] = []
    for unit in range(int(P[u + U_UNITS])):
        at = u + int(P[u + U_IDLE]) + 2 * unit
        main = int(P[at])
        if ex.pc(words, main) == P[at + 1]:
            continue
        view = base + 1 + unit * VIEWS
        know = int(words[view + V_SEEN]) | int(words[view + V_LOADS])
        bit = 0
        for i in range(int(words[base]) & COUNT):
            w = base + int(P[u + U_FIRST_ENTRY]) + ENTRY * i
            cell = int(words[w + E_CELL]) & ((1 << CELL_BITS) - 1)
            if int(words[w + E_CELL]) & LAST:
                continue
            loads = int(P[u + int(P[u + U_TOUCHED]) + cell]) >> (2 * unit) & 1
            if loads and not know >> bit & 1:
                out.append(Unseen(main, cell, int(words[w + E_VALUE])))
            bit += 1
    return out
