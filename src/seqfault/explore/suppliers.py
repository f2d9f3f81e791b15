"""Which store supplied the value of a load, where that was not the last one of its cell; and which barrier would have
prevented that: found by putting barriers into the run and looking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore import memory
from seqfault.explore.engine import Executor
from seqfault.explore.memory import LKMM
from seqfault.explore.memory_barriers import AT_ONCE
from seqfault.explore.memory_buffers import address, buffer_of, count
from seqfault.explore.memory_lkmm import fence_now
from seqfault.explore.replay import TRACE_ROOM, Access, Step, knowing
from seqfault.explore.tables import DISABLED, T_LOAD

MB, RMB, WMB = 1, 2, 3  # Op.FENCE
NAMES = {MB: "smp_mb()", RMB: "smp_rmb()", WMB: "smp_wmb()"}
Fences = dict[tuple[int, bool], tuple[int, int]]  # (step, whether behind it) -> (process, kind)


@dataclass(frozen=True)
class OldRead:
    """A load that did not see the last store of its cell.

    `step`, `access`: the load; `source`: step and access of the store that it took (None: what was there at the start);
    `newer`: step and access of the first store that it did not see; `buffered`: that one was in its CPU's store buffer;
    `barriers`: what would have prevented it, each as its name, and the step that it stands before (reader) or behind
    (writer).  Empty: nothing tried would.
    """

    step: Step
    access: Access
    source: tuple[Step, Access] | None
    newer: tuple[Step, Access]
    buffered: bool
    barriers: tuple[tuple[str, Step, bool], ...]


def old_reads(
    a: Automaton, init: NDArray[np.uint64], rom: NDArray[np.int64], schedule: Sequence[tuple[int, int]],
    steps: Sequence[Step],
) -> list[OldRead]:  # fmt: skip
    """Of a replayed schedule the loads of cells that somebody had stored to, unseen; none under sc."""
    out: list[OldRead] = []
    order: dict[int, list[tuple[Step, Access]]] = {}  # stores of a cell in coherence order
    waiting: dict[int, list[tuple[Step, Access]]] = {}  # in each buffer
    views = a.memory.startswith(LKMM)
    if a.memory == "sc":
        return out
    ex = knowing(a, init, rom, list(schedule))
    traced = Executor(a, rom, trace_room=TRACE_ROOM)
    traced.P[:] = ex.P  # what is known of memory, too
    units = {} if views else {p: int(buffer_of(ex.P, p)) for p in range(len(a.processes))}
    for s in steps:
        for x in s.accesses:
            here = order.setdefault(x.cell, [])
            if x.kind == "store":
                if views:
                    here.insert(len(here) - x.behind, (s, x))
                elif units.get(s.process, -1) >= 0 and _buffered(ex, s, x):
                    waiting.setdefault(units[s.process], []).append((s, x))
                else:
                    here.append((s, x))
            elif x.kind == "flush":
                mine = waiting.get(units[s.process], [])
                i = next((i for i, (_, y) in enumerate(mine) if y.cell == x.cell), -1)
                if i >= 0:
                    here.append(mine.pop(i))
            elif x.kind == "load" and s.process >= 0:
                newer: tuple[Step, Access] | None = None
                if views and x.behind and x.behind <= len(here):
                    newer = here[len(here) - x.behind]
                elif not views:
                    others = [w for u, ws in waiting.items() if u != units.get(s.process, -1) for w in ws]
                    newer = next((w for w in others if w[1].cell == x.cell), None)
                if newer is None or newer[0].process == s.process:
                    continue
                k = len(here) - x.behind - 1 if views else len(here) - 1
                source = here[k] if k >= 0 else None
                barriers = _preventing(traced, init, schedule, s, x, newer[0])
                out.append(OldRead(s, x, source, newer, not views, barriers))
    return out


def _buffered(ex: Executor, s: Step, x: Access) -> bool:
    m = int(buffer_of(ex.P, s.process))
    return any(int(address(s.words, ex.P, m, i)) == x.cell for i in range(int(count(s.words, m))))


def _preventing(
    ex: Executor, init: NDArray[np.uint64], schedule: Sequence[tuple[int, int]], load: Step, access: Access, store: Step
) -> tuple[tuple[str, Step, bool], ...]:
    """The weakest barriers, of those tried, with which the load cannot take that store."""
    reader, writer = (load.number, False), (store.number, True)
    tries: list[Fences] = [{writer: (store.process, MB)}]
    if ex.views:
        tries = [
            {reader: (load.process, RMB)},
            {writer: (store.process, WMB)},
            {reader: (load.process, RMB), writer: (store.process, WMB)},
            {reader: (load.process, MB), writer: (store.process, MB)},
        ]
    elif ex.a.memory.startswith("pso"):
        tries = [{writer: (store.process, WMB)}, *tries]
    for fences in tries:
        if not _still(ex, init, schedule, load, access, fences):
            return tuple(
                (NAMES[kind], load if where == reader else store, where[1]) for where, (_, kind) in fences.items()
            )
    return ()


def _fence(ex: Executor, words: NDArray[np.int64], who: int, kind: int) -> None:
    """Process `who` has a barrier here; a full one under lkmm takes effect, so that nothing is left to choose."""
    if not ex.views:
        memory.fence(words, ex.P, kind, who)
    else:
        fence_now(words, ex.P, AT_ONCE if kind == MB else kind, who)


def _still(
    ex: Executor, init: NDArray[np.uint64], schedule: Sequence[tuple[int, int]], load: Step, access: Access,
    fences: Fences,
) -> bool:  # fmt: skip
    """Whether the load takes the same store although there are barriers."""
    at = load.accesses.index(access)
    words = ex.start(init)
    for n, (p, choice) in enumerate(schedule[: load.number + 1]):
        if (n, False) in fences:
            _fence(ex, words, *fences[n, False])
        if ex.run(words, p, choice) == DISABLED:
            return False
        if (n, True) in fences:
            _fence(ex, words, *fences[n, True])
    rows = ex.trace()
    loads = [(int(k) >> 8, int(c), int(v)) for k, _, c, v in rows if int(k) & 255 == T_LOAD]
    before = [x for x in load.accesses[:at] if x.kind == "load"]
    return len(loads) > len(before) and loads[len(before)] == (access.behind, access.cell, access.value)
