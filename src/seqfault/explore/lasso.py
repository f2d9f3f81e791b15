"""An execution that goes on for ever, run again: does it come back, is it fair, and who never comes to an end?

Nothing of explore/progress.py is used here, so that what that finds is judged by other code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.engine import Executor
from seqfault.explore.graph import boundaries
from seqfault.explore.replay import ScheduleError
from seqfault.explore.tables import DISABLED, OK, X_SEQ, X_USED


def can_step(ex: Executor, words: NDArray[np.int64], p: int) -> bool:
    """Whether process `p` can take a step."""
    if ex.pc(words, p) == ex.a.halt_pc:
        return False
    for choice in range(256):
        if ex.run(words.copy(), p, choice) != DISABLED:
            return True
        if int(ex.X[X_USED]) == 0:  # no choice was met: all are the same
            break
    return False


def judge(
    a: Automaton, init: NDArray[np.uint64], rom: NDArray[np.int64], path: Sequence[tuple[int, int]], loop_from: int
) -> list[tuple[str, int, int]]:
    """What a path shows whose steps from `loop_from` on are repeated for ever: (livelock or starvation, process,
    where it stands when the loop begins).  Nothing if the loop is not fair.

    Raises `ScheduleError` if the path cannot be followed, or does not come back to where its loop begins.
    """
    if not 0 <= loop_from < len(path):
        raise ScheduleError("the loop has no step")
    ex = Executor(a, rom)
    edge = boundaries(a)
    words = ex.start(init)
    processes = range(len(a.processes))
    able: list[set[int]] = []
    begun = words
    stepped: set[int] = set()
    completed: set[int] = set()
    restarted: set[int] = set()  # came to a seq_point inside an operation
    for n, (p, choice) in enumerate(path):
        if n == loop_from:
            begun = words.copy()
        if n >= loop_from:
            able.append({q for q in processes if can_step(ex, words, q)})
        if ex.pc(words, p) == a.halt_pc:
            raise ScheduleError(f"step {n}: {a.processes[p].name} has finished already")
        ex.X[X_SEQ] = -1
        if ex.run(words, p, choice) != OK:
            raise ScheduleError(f"step {n}: {a.processes[p].name} cannot go on")
        if n >= loop_from:
            stepped.add(p)
            at = int(ex.X[X_SEQ])
            if ex.pc(words, p) == a.halt_pc or (at >= 0 and edge[at]):
                completed.add(p)
            elif at >= 0:
                restarted.add(p)
    if not np.array_equal(begun, words):
        raise ScheduleError("the loop does not come back to where it begins")
    always = set.intersection(*able)
    roles = [x.role for x in a.processes]
    if any(roles[p] <= 1 and p not in stepped for p in always):
        return []
    cpus = {p for p in processes if roles[p] == 0}
    victims = [p for p in sorted(cpus & stepped) if p not in completed]
    if not cpus & completed:
        return [("livelock", p, ex.pc(begun, p)) for p in victims[:1]]
    victims = [p for p in victims if p not in restarted]
    waiting = sorted((cpus - stepped) & set().union(*able))
    return [("starvation", p, ex.pc(begun, p)) for p in [*victims, *waiting]]


__all__ = ["can_step", "judge"]
