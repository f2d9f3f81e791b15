"""Exploration by whichever executor serves: generated steps (tier 1), or the interpreter (tier 0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore import engine
from seqfault.explore.engine import Exploration
from seqfault.explore.frontier import Search, run
from seqfault.explore.watch import Watch


def explore(
    automaton: Automaton,
    init: NDArray[np.uint64],
    rom: NDArray[np.int64],
    *,
    tier: int = 1,
    threads: int = 1,
    exact: bool = False,
    expect: int = 0,
    max_states: int = 1 << 40,
    max_memory: int = 1 << 60,
    timeout: float | None = None,
    progress: Callable[[Exploration, int], None] | None = None,
    watcher: Watch | None = None,
    **options: Any,
) -> Exploration:
    """Every state that `init` can reach: as `engine.explore`, which is tier 0 and has the other parameters.

    `tier`: 1 where it can (memory model sc, no `watcher`), or 0; `threads`, `exact` (whole states instead of
    fingerprints), `expect` (states to make room for at the start): tier 1 only.
    """
    limits = {"max_states": max_states, "max_memory": max_memory, "timeout": timeout, "progress": progress}
    if tier == 0 or watcher is not None or automaton.memory != "sc":
        return engine.explore(automaton, init, rom, watcher=watcher, **limits, **options)
    s = Search(automaton, init, rom, threads=threads, exact=exact, expect=expect, **options)
    try:
        return run(s, **limits)
    finally:
        s.close()


Scenarios = Sequence[tuple[NDArray[np.uint64], NDArray[np.int64]]]
