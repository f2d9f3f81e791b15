"""Which accesses are in nobody's way, so that no step need begin with them: the table of compile/step_own.py.

Nothing is declared.  A table by which every process has every cell for its own is told what executions at random touch
(strolls.py); exploration begins with that, and is repeated with what it met until nothing contradicts the table:
docs/engine.md has the argument.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.step_own import LOADS, OWN, STORES, width

CHAIN = 48  # accesses, at most, that begin no step of their own, one after the other
FEW = 10_000  # states that are explored before it is worth learning anything
STROLLS, QUIET = 1000, 64  # executions at random, at most; until so many in a row met nothing new
TRIES = 64  # how often the table of one scenario may be made anew
Table = NDArray[np.uint8]


def no_table(a: Automaton) -> Table:
    """The table (processes, cells + 1) of an exploration that has not begun."""
    return settled(a, np.zeros((len(a.processes), width(a)), np.uint8))


def settled(a: Automaton, table: Table) -> Table:
    """The table by which what was met is in nobody's way.  What the environment does (a page walker, which may act or
    not) always begins a step.

    Who gets which object of a pool depends on who comes first, so what was met of one that was allocated is taken for
    met of all such, and of those that nobody touched yet."""
    met = table & (LOADS | STORES)
    for pool in a.pools:
        if pool.state >= 0:
            objects = met[:, pool.base : pool.base + pool.n * pool.stride].reshape(len(met), pool.n, pool.stride)
            made = ((objects & STORES) != 0).all(axis=2).any(axis=0)
            objects[:, made | ~objects.any(axis=(0, 2))] |= np.bitwise_or.reduce(objects[:, made], axis=1)[:, None]
    stores = (met & STORES) != 0
    some = met != 0
    others_store = stores.sum(axis=0)[None, :] > stores
    others_touch = some.sum(axis=0)[None, :] > some
    out = met.copy()
    out[~others_store] |= LOADS << OWN
    out[~others_touch] |= STORES << OWN
    for p, info in enumerate(a.processes):
        if info.role > 1:
            out[p] = met[p]
    out[:, -1] = 0
    return np.ascontiguousarray(out, np.uint8)
