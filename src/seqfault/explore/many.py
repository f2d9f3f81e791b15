"""Many scenarios of one automaton, explored inside compiled code."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore import batch as b
from seqfault.explore import layout as k
from seqfault.explore.engine import Exploration, Found
from seqfault.explore.frontier import FULL, Worker
from seqfault.explore.movers import no_records
from seqfault.explore.steps import steps_of
from seqfault.explore.tiers import explore

SLOTS = 1 << 18  # for the states of one scenario; one that has more is explored by itself
PER_SCENARIO = 4  # rows of violations and outcomes that there is room for, on average
Start = tuple[NDArray[np.uint64], NDArray[np.int64]]


def explore_batch(
    a: Automaton,
    starts: Sequence[Start],
    *,
    mode: str = "merged",
    exclusive: bool = False,
    dead: bool = True,
    threads: int = 1,
    max_states: int = 1 << 40,
    timeout: float | None = None,
    max_memory: int = 1 << 60,
) -> list[Exploration]:
    """Every state that each of `starts` (state, scenario data) can reach: the same as exploring one by one.

    `max_states`, `timeout`, `max_memory`: limits of one that has more states than there is room for here, and is
    explored by itself.  The explorations keep no parents: for a path, explore the scenario by itself.
    """
    code = steps_of(a, mode, dead)
    words = code.packing.words
    inits = np.array([code.pack(s.astype(np.uint64).view(np.int64)) for s, _ in starts], np.int64).reshape(-1, words)
    roms = np.array([r for _, r in starts], np.int64).reshape(len(starts), -1)
    n, classes = len(starts), len(a.lock_classes)
    result = np.zeros((n, b.R_COLUMNS), np.int64)
    result[:, b.R_WHY] = k.WHY_PAUSE
    counts = np.zeros((n, max(1, len(a.counters))), np.int64)
    edges = np.zeros((n, max(1, classes * classes)), np.int64)
    shared = np.zeros(2, np.int64)
    rows = [(np.zeros((PER_SCENARIO * n + 2 * k.MAX_DISTINCT, 9), np.int64), np.zeros((64 * n + 4096, 3), np.int64))
            for _ in range(threads)]  # fmt: skip

    def work(i: int) -> None:
        w = Worker(a, words)
        w.th[k.T_EXCLUSIVE] = exclusive
        w.front, w.part = np.zeros((SLOTS // 4, words), np.int64), np.zeros((SLOTS // 4, words), np.int64)
        one = np.zeros(1, np.int64)
        b.batch(
            code.addresses, code.program, code.moving, no_records(a), inits, roms, w.rom_at, shared, int(SLOTS * FULL),
            w.front, w.part, np.zeros(SLOTS, np.uint64), np.zeros((1, words), np.int64), np.zeros(16, np.int64), w.th,
            *w.rest(), one, one, np.zeros(1, np.int32), np.zeros((1, 2), np.int32), result, counts, edges, *rows[i],
            np.zeros(2, np.int64), i,
        )  # fmt: skip

    t0 = time.perf_counter()
    others = [threading.Thread(target=work, args=(i,)) for i in range(1, threads)]
    for t in others:
        t.start()
    work(0)
    for t in others:
        t.join()
    code.explored(time.perf_counter() - t0)
    out = []
    for s, r in enumerate(result.tolist()):
        if r[b.R_WHY] != k.WHY_DONE:
            more: dict[str, Any] = {"mode": mode, "exclusive": exclusive, "dead": dead, "traced": False}
            more |= {"max_states": max_states, "timeout": timeout, "max_memory": max_memory}
            out.append(explore(a, *starts[s], **more))
            continue
        ex = Exploration(a, r[b.R_STATES], r[b.R_TRANSITIONS], r[b.R_FINALS], r[b.R_DEPTH], counters=counts[s])
        vs, found = rows[r[b.R_THREAD]]
        for v in vs[r[b.R_FIRST_V] : r[b.R_FIRST_V] + r[b.R_VIOLATIONS]].tolist():
            cell = -2 - v[k.V_PC] if v[k.V_PC] < -1 else -1
            pc = -1 if cell >= 0 else v[k.V_PC]
            ex.violations.append(
                Found(v[k.V_KIND], pc, v[k.V_POOL], v[k.V_INDEX], v[k.V_STATE], v[k.V_PROCESS], v[k.V_CHOICE],
                      v[k.V_COUNT], cell)
            )  # fmt: skip
        for h, state, _ in found[r[b.R_FIRST_O] : r[b.R_FIRST_O] + r[b.R_OUTCOMES]].tolist():
            ex.outcomes[h] = state
        for e in np.flatnonzero(edges[s]).tolist():
            ex.edges.append((e // classes, e % classes, int(edges[s, e]) - 1))
        out.append(ex)
    return out
