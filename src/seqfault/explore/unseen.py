"""Under the kernel's memory model: which stores others may not have seen yet, in a state, for a reader."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqfault.explore.engine import Executor
from seqfault.explore.memory_settle import idle
from seqfault.explore.memory_views import (
    E_VALUE,
    LAST,
    U_IDLE,
    U_UNITS,
    V_LOADS,
    V_SEEN,
    bit_of,
    cell_of,
    entries,
    entry_at,
    touched,
    view_at,
)
from seqfault.explore.memory_words import U_UPPER
from seqfault.explore.tables import O_MEMORY


class Unseen(NamedTuple):
    """`process` may still load `raw` from `cell`, which holds another value by now."""

    process: int
    cell: int
    raw: int


def number(words: NDArray[np.int64], P: NDArray[np.int64], w: int) -> int:
    """The view at word `w`, as a number."""
    upper = int(P[int(P[O_MEMORY]) + U_UPPER])
    return int(words[w]) | (int(words[w + upper]) << 64 if upper else 0)


def unseen(ex: Executor, words: NDArray[np.int64]) -> list[Unseen]:
    """What each CPU may still see of what was overwritten, but for CPUs that have finished.

    `ex`: one that knows which cells its processes load (`replay.knowing`); `words`: a state of its automaton.
    """
    P = ex.P
    u = int(P[O_MEMORY])
    out: list[Unseen] = []
    for unit in range(int(P[u + U_UNITS])):
        if idle(words, P, unit):
            continue
        main = int(P[u + int(P[u + U_IDLE]) + 2 * unit])
        know = number(words, P, view_at(P, unit, V_SEEN)) | number(words, P, view_at(P, unit, V_LOADS))
        for i in range(int(entries(words, P))):
            w, cell = int(entry_at(P, i)), int(cell_of(words, P, i))
            loads = int(touched(P, cell)) >> (2 * unit) & 1
            if loads and not int(words[w]) & LAST and not know >> int(bit_of(words, P, i)) & 1:
                out.append(Unseen(main, cell, int(words[w + E_VALUE])))
    return out
