"""Running one interleaving again, and finding the one with the fewest context switches."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.engine import Executor, Path
from seqfault.explore.tables import (
    DISABLED,
    ENDS,
    OK,
    T_ALLOC,
    T_EMIT,
    T_FLUSH,
    T_FREE,
    T_LOAD,
    T_STORE,
    X_RADIX,
    X_USED,
)

TRACE_ROOM = 4096
KINDS = {T_LOAD: "load", T_STORE: "store", T_ALLOC: "alloc", T_FREE: "free", T_EMIT: "emit", T_FLUSH: "flush"}


class ScheduleError(Exception):
    """A schedule that this automaton cannot follow; the message says at which step."""


@dataclass(frozen=True)
class Access:
    """One access to memory: `kind` load, store, alloc or free; `pc`; the cell; its value after; `behind`: how many
    stores of the cell come behind the one that is read, or behind this one, in coherence order (lkmm)."""

    kind: str
    pc: int
    cell: int
    value: int
    behind: int = 0


@dataclass
class Step:
    """One step of a replay: who moved, from which instruction, what it touched, what was violated, the state after.

    `violations`: (kind, instruction, struct, object)."""

    number: int
    process: int
    choice: int
    pc: int
    accesses: list[Access] = field(default_factory=list)
    violations: list[tuple[int, int, int, int]] = field(default_factory=list)
    words: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    ended: bool = False


def replay(
    automaton: Automaton,
    init: NDArray[np.uint64],
    rom: NDArray[np.int64],
    schedule: Sequence[tuple[int, int]],
    mode: str = "merged",
    rest: bool = True,
) -> list[Step]:
    """Follow a schedule of (process, choice).  With `rest`, a state at rest that it ends in is judged too, as a
    step of process -1.  Raises `ScheduleError` when a process cannot move."""
    ex = Executor(automaton, rom, mode, trace_room=TRACE_ROOM)
    while True:
        try:
            out = _follow(ex, init, schedule, rest)
        except ScheduleError:
            if not ex.learns():
                raise
        else:
            if not ex.learns():
                return out


def knowing(a: Automaton, init: NDArray[np.uint64], rom: NDArray[np.int64], path: Path) -> Executor:
    """An executor that has met what its memory model meets on `path`."""
    ex = Executor(a, rom)
    while ex.views:
        words = ex.start(init)
        for p, choice in path:
            if ex.pc(words, p) == a.halt_pc or ex.run(words, p, choice) != OK:
                break
        if not ex.learns():
            break
    return ex


def _follow(ex: Executor, init: NDArray[np.uint64], schedule: Sequence[tuple[int, int]], rest: bool) -> list[Step]:
    automaton = ex.a
    words = ex.start(init)
    out: list[Step] = []
    for n, (p, choice) in enumerate(schedule):
        if not 0 <= p < len(automaton.processes):
            raise ScheduleError(f"step {n}: there is no process {p}")
        pc = ex.pc(words, p)
        if pc == automaton.halt_pc:
            raise ScheduleError(f"step {n}: {automaton.processes[p].name} has finished already")
        status = ex.run(words, p, choice)
        if status == DISABLED:
            raise ScheduleError(f"step {n}: {automaton.processes[p].name} waits and cannot move")
        rows = ((int(k), int(i), int(c), int(v)) for k, i, c, v in ex.trace())
        acc = [Access(KINDS[k & 255], i, c, v, k >> 8) for k, i, c, v in rows if k & 255 in KINDS]
        out.append(Step(n, p, choice, pc, acc, ex.violations(), words.copy(), status == ENDS))
        if status == ENDS:
            if n + 1 < len(schedule):
                raise ScheduleError(f"step {n}: the path ends here, but the schedule goes on")
            return out
    if rest and at_rest(ex, words):
        ex.rest(words)
        vs = [(k, pc, pool, i) for k, pc, pool, i in ex.violations()]
        if vs:
            out.append(Step(len(schedule), -1, 0, -1, [], vs, words.copy()))
    elif rest and stuck(ex, words):
        kind = list(automaton.kinds).index("deadlock")
        out.append(Step(len(schedule), -1, 0, -1, [], [(kind, -1, -1, 0)], words.copy()))
    return out


def movers(ex: Executor, words: NDArray[np.int64], roles: tuple[int, ...] = (0, 1)) -> bool:
    """Whether any process of these roles can move."""
    for p, info in enumerate(ex.a.processes):
        if info.role in roles and ex.pc(words, p) != ex.a.halt_pc:
            for choice in range(16):
                if ex.run(words.copy(), p, choice) != DISABLED:
                    return True
                if int(ex.X[X_USED]) == 0:  # no choice was met: all are the same
                    break
    return False


def at_rest(ex: Executor, words: NDArray[np.int64]) -> bool:
    """Every CPU has finished and no agent can move."""
    a = ex.a
    done = all(ex.pc(words, p) == a.halt_pc for p, i in enumerate(a.processes) if i.role == 0)
    return done and not movers(ex, words)


def stuck(ex: Executor, words: NDArray[np.int64]) -> bool:
    a = ex.a
    done = all(ex.pc(words, p) == a.halt_pc for p, i in enumerate(a.processes) if i.role == 0)
    return not done and not movers(ex, words)


def switches(path: Path) -> int:
    """Context switches of a schedule."""
    return sum(1 for a, b in itertools.pairwise(path) if a[0] != b[0])


def shows(ex: Executor, first: NDArray[np.int64], path: Path, target: tuple[int, int, int]) -> bool:
    """Whether a schedule can be followed and ends with the violation (kind, instruction, struct)."""
    words = first.copy()
    for n, (p, choice) in enumerate(path):
        if ex.pc(words, p) == ex.a.halt_pc:
            return False
        status = ex.run(words, p, choice)
        last = n + 1 == len(path)
        if last and any((k, pc, pool) == target for k, pc, pool, _ in ex.violations()):
            return True  # who takes a lock twice waits for ever
        if status == DISABLED or (status == ENDS and not last):
            return False
    if target[1] >= 0:
        return False
    if at_rest(ex, words):
        ex.rest(words)
        return any((k, pc, pool) == target for k, pc, pool, _ in ex.violations())
    return ex.a.kinds[target[0]] == "deadlock" and stuck(ex, words)


def ends(ex: Executor, first: NDArray[np.int64], path: Path, outcome: int) -> bool:
    """Whether a schedule can be followed, to rest and to this outcome."""
    words = first.copy()
    for p, choice in path:
        if ex.pc(words, p) == ex.a.halt_pc or ex.run(words, p, choice) != OK:
            return False
    if not at_rest(ex, words):
        return False
    return ex.rest(words) == outcome


def join_turns(
    ex: Executor, first: NDArray[np.int64], path: Path, target: tuple[int, int, int]
) -> list[tuple[int, int]]:
    """Move turns next to others of the same process, as long as the violation stays; then leave steps out at the end
    of turns."""
    turns = [list(g) for _, g in itertools.groupby(path, key=lambda x: x[0])]
    changed = True
    while changed:
        changed = False
        for i in range(len(turns)):
            for j in range(i + 2, len(turns)):
                if turns[j][0][0] != turns[i][0][0]:
                    continue
                for new in (
                    [*turns[:i], turns[i] + turns[j], *turns[i + 1 : j], *turns[j + 1 :]],
                    [*turns[:i], *turns[i + 1 : j], turns[i] + turns[j], *turns[j + 1 :]],
                ):
                    flat = [x for t in new for x in t]
                    if shows(ex, first, flat, target):
                        turns = [list(g) for _, g in itertools.groupby(flat, key=lambda x: x[0])]
                        changed = True
                        break
                break
            if changed:
                break
        if not changed:  # a turn of somebody else may not be needed at all
            for i in range(len(turns) - 1):
                flat = [x for k, t in enumerate(turns) if k != i for x in t]
                if flat and shows(ex, first, flat, target):
                    turns = [list(g) for _, g in itertools.groupby(flat, key=lambda x: x[0])]
                    changed = True
                    break
    return [x for t in turns for x in t]


def fewest_switches(
    automaton: Automaton,
    init: NDArray[np.uint64],
    rom: NDArray[np.int64],
    path: list[tuple[int, int]],
    target: tuple[int, int, int],
    seconds: float = 2.0,
) -> list[tuple[int, int]]:
    """A schedule to the same violation (kind, instruction, struct) with the fewest context switches, then the
    fewest steps.

    First joins turns of the given path, then searches states together with who moved last, in order of
    (switches, steps). When
    that takes more than `seconds`, the joined path is the answer.
    """
    ex = knowing(automaton, init, rom, path)
    new = _fewest(ex, ex.start(init), path, target, seconds)
    if ex.views and not shows(knowing(automaton, init, rom, new), ex.start(init), new, target):
        return path  # what a memory model allows is known of that path only
    return new


def _fewest(
    ex: Executor, first: NDArray[np.int64], path: list[tuple[int, int]], target: tuple[int, int, int], seconds: float
) -> list[tuple[int, int]]:
    automaton = ex.a
    path = join_turns(ex, first, path, target)
    end = time.perf_counter() + seconds
    nproc = len(automaton.processes)
    halt = automaton.halt_pc
    rest_kind = target[1] < 0
    count = itertools.count()
    heap: list[tuple[int, int, int, int]] = [(0, 0, next(count), 0)]
    states: list[tuple[bytes, int]] = [(first.tobytes(), -1)]
    back: list[tuple[int, int, int]] = [(-1, -1, 0)]
    seen: set[tuple[bytes, int]] = set()
    bound = switches(path)

    def unwind(i: int, last: tuple[int, int] | None) -> list[tuple[int, int]]:
        out = [last] if last is not None else []
        while back[i][0] >= 0:
            out.append((back[i][1], back[i][2]))
            i = back[i][0]
        return out[::-1]

    while heap:
        sw, n, _, i = heapq.heappop(heap)
        raw, who = states[i]
        if (raw, who) in seen:
            continue
        seen.add((raw, who))
        if time.perf_counter() > end:
            return path
        words = np.frombuffer(raw, np.int64).copy()
        moved = False
        for p in range(nproc):
            if ex.pc(words, p) == halt:
                continue
            cost = sw + (1 if who not in (-1, p) else 0)
            if cost > bound and not rest_kind:
                continue
            choice = 0
            while True:
                w = words.copy()
                status = ex.run(w, p, choice)
                used = int(ex.X[X_USED])
                span = 1
                for k in range(used):
                    span *= int(ex.X[X_RADIX + k])
                if status != DISABLED:
                    moved = moved or automaton.processes[p].role <= 1
                    if any((k, pc, pool) == target for k, pc, pool, _ in ex.violations()):
                        return unwind(i, (p, choice))
                    if status == OK and cost <= bound:
                        key = (w.tobytes(), p)
                        if key not in seen:
                            states.append(key)
                            back.append((i, p, choice))
                            heapq.heappush(heap, (cost, n + 1, next(count), len(states) - 1))
                choice += 1
                if choice >= span:
                    break
        if not moved and rest_kind:
            done = all(ex.pc(words, p) == halt for p, x in enumerate(automaton.processes) if x.role == 0)
            if done:
                ex.rest(words)
                if any((k, pc, pool) == target for k, pc, pool, _ in ex.violations()):
                    return unwind(i, None)
            elif automaton.kinds[target[0]] == "deadlock":
                return unwind(i, None)
    return path
