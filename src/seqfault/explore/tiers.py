"""Exploration by whichever executor serves: generated steps (tier 1), or the interpreter (tier 0)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore import engine, interrupt
from seqfault.explore.checkpoint import Keeper, Saved, restore
from seqfault.explore.engine import Exploration
from seqfault.explore.frontier import GROWN, Search, run
from seqfault.explore.layout import G_GROWN, G_LOST
from seqfault.explore.movers import W_ON, no_records
from seqfault.explore.own import FEW, Table, no_table, settled
from seqfault.explore.own import TRIES as TABLES
from seqfault.explore.racewatch import Races
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
    movers: bool | None = False,
    own: bool = False,
    symmetric: bool = False,
    max_states: int = 1 << 40,
    max_memory: int = 1 << 60,
    timeout: float | None = None,
    progress: Callable[[Exploration, int], None] | None = None,
    watcher: Watch | Races | None = None,
    checkpoint: Path | None = None,
    every: float = 60.0,
    keep: bool = False,
    **options: Any,
) -> Exploration:
    """Every state that `init` can reach: as `engine.explore`, which is tier 0 and has the other parameters.

    `tier`: 1 where it can (memory model sc, no renamed counts, no `watcher`), or 0.  `movers`: steps that commute with
    all that others do are taken at once (movers.py): fewer states, the same kinds of violations and the same outcomes.
    None: under tso and lkmm always (reduced.py); under sc where there are more than `MANY` states, and if that shows a
    violation everything is explored, for every place that shows it and the shortest paths.  `own`: wherever movers are
    not taken, accesses that are in nobody's way begin no step (own.py).  `symmetric`: neither of those, but of states
    that differ in which of some alike processes stands where, one is explored (compile/symmetry.py).  For tier 1:
    `threads`;
    `exact` (whole states instead of fingerprints); `expect` (states to make room for at the start); `traced` (parents
    are kept while there are few states); `checkpoint`: a file that it is saved to every so many seconds, at a limit and
    at a signal (interrupt.py), and goes on from; it is removed at the end, or left for one who will ask again (`keep`).
    Raises `CheckpointError` if it cannot be used.
    """
    limits: dict[str, Any] = {"max_states": max_states, "max_memory": max_memory}
    limits |= {"timeout": timeout, "progress": progress}
    if tier == 0 or watcher is not None or automaton.memory != "sc" or automaton.renames:
        if tier and watcher is None and movers is not False and automaton.memory.startswith(("tso", "lkmm")):
            from seqfault.explore import reduced  # what sc has no need of

            with interrupt.later():
                ex = reduced.explore(automaton, init, rom, **limits, **options)
            if ex is not None:
                return ex
        return engine.explore(automaton, init, rom, watcher=watcher, **limits, **options)
    shape = {"threads": threads, "exact": exact, "expect": expect, "symmetric": symmetric, **options}
    if symmetric:
        movers = own = False
    keeper = Keeper(checkpoint, every)
    with interrupt.later():
        ex = _explore(automaton, init, rom, movers, own, shape, limits, keeper)
        if ex.complete and not keep:
            keeper.done()
    return ex


def _explore(
    automaton: Automaton,
    init: NDArray[np.uint64],
    rom: NDArray[np.int64],
    movers: bool | None,
    own: bool,
    shape: dict[str, Any],
    limits: dict[str, Any],
    keeper: Keeper,
) -> Exploration:
    end = None if limits["timeout"] is None else time.perf_counter() + limits["timeout"]
    most = limits["max_states"]
    own = own and shape.get("mode", "merged") == "merged" and not shape.get("exclusive")

    def once(
        moves: NDArray[np.int64] | None = None,
        saved: Saved | None = None,
        few: int = 0,
        table: Table | None = None,
    ) -> Once:
        s = Search(automaton, init, rom, moves=moves, own=table, **shape)
        left = None if end is None else max(0.01, end - time.perf_counter())
        mine = {**limits, "timeout": left, "max_states": min(few, most) if few else most}
        return _once(s, mine, keeper, saved, 0 < few < most)

    def without(saved: Saved | None, few: int = 0) -> Exploration:
        """Everything, without movers; or what there is up to `few` states."""
        table = None
        if saved is not None and len(saved[1]["own"]):
            table = saved[1]["own"]
        elif own:
            ex = once(saved=saved, few=FEW)[0]
            if ex.complete or most <= FEW or "states" not in ex.reason:
                return ex
            saved = None
            table = no_table(automaton)
            s = Search(automaton, init, rom, own=table, **shape)
            s.stroll()
            s.close()
            table = settled(automaton, table)
        for _ in range(TABLES):
            ex, _, _ = once(saved=saved, few=few, table=table)
            if table is None or (ex.news == 0 if ex.complete else ex.reason != GROWN):
                return ex
            table, saved = settled(automaton, table), None
        return once(few=few)[0]

    if movers is False or shape.get("exclusive"):
        return without(keeper.open(keeper.path))
    saved = keeper.open(keeper.path)
    moving = saved is not None and bool(saved[1]["W"][W_ON])
    if movers is None and not moving:
        few = without(saved, MANY)
        if few.complete or most <= MANY or "states" not in few.reason:
            return few
        saved = None
    records = saved[1]["R"] if saved is not None and moving else no_records(automaton)
    for _ in range(TRIES):
        ex, learned, lost = once(records, saved)
        saved = None
        if lost:
            break
        if learned is None or (not ex.complete and ex.reason != GROWN):
            if movers or not ex.complete or not ex.violations:
                return ex
            everything = without(keeper.open(keeper.second))
            if everything.complete:
                return everything
            if everything.reason.startswith((interrupt.INTERRUPTED, "time")):  # it can go on
                ex.complete, ex.reason = False, everything.reason
            return ex
        records = learned
    return without(keeper.open(keeper.second))


MANY = 20_000_000  # states
TRIES = 64  # how often the records of one scenario may grow, after which it is explored without


Once = tuple[Exploration, NDArray[np.int64] | None, bool]


def _once(s: Search, limits: dict[str, Any], keeper: Keeper, saved: Saved | None, goes_on: bool) -> Once:
    """An exploration, from where it was `saved`; the records that it made, if anything in them is new; whether it could
    not keep them.  `goes_on`: its limit of states is not the end."""

    def stopped(s: Search) -> None:
        if not goes_on or s.states <= limits["max_states"]:
            keeper.now(s)

    try:
        if saved is not None:
            restore(s, keeper.file, *saved)
            saved = None
        ex = run(s, between=keeper, stopped=stopped, **limits)
        if ex.complete:
            keeper.ended(s)
        return ex, s.learned() if s.moving and s.G[G_GROWN] else None, bool(s.G[G_LOST])
    finally:
        s.close()
