"""What the search for data races (races.py) has to know of an automaton, and what it found.

Whether an instruction is inside a section of a sequence count is told from the text: by the calls on all ways to it,
and for a function that is called both in and out of one, by who called it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ir import Access, Where
from seqfault.compile.ops import BRANCHES, Op, Ordering
from seqfault.explore.races import (
    IN,
    MADE,
    MARKED,
    NONE,
    OUT,
    PAIR_BITS,
    PLAIN,
    Q_KEY,
    R_CALL,
    R_CALLS,
    R_CLASS,
    R_CPU,
    R_DISTINCT,
    R_FULL,
    R_FUNCTION,
    R_HEADER,
    R_HELD,
    R_ON,
    R_PAIRS,
    R_READ,
    R_RETURN,
    R_ROWS,
    R_STATE,
    R_UNORDERED,
    R_WRITE,
    RACES,
    ROOM,
    ROW,
    SAME,
    SIDE_BITS,
    UNORDERED,
)  # fmt: skip
from seqfault.explore.watch import looks


@dataclass(frozen=True)
class Side:
    """One of two accesses that race.  `how`: "plain"; "marked"; "section": plain, but in a section of a sequence count,
    which counts as marked."""

    access: Access
    where: Where
    write: bool
    how: str


@dataclass(frozen=True)
class Pair:
    """Two accesses that race, as they did first: in `state`, about `cell`, as the next steps (process, choice, or -1 if
    it waits, MADE: a store that was made before, by some process of that one's CPU); `count`: how often, over all
    states."""

    sides: tuple[Side, Side]
    steps: tuple[tuple[int, int], tuple[int, int]]
    state: int
    cell: int
    count: int

    @property
    def made(self) -> bool:
        """Whether one of them is a store that was made before."""
        return any(choice == MADE for _, choice in self.steps)


@dataclass(frozen=True)
class Point:
    """A statement that races.  `how`: plain, marked or section, as of a `Side`; `caller`: of a function that is
    inlined, who called it."""

    function: str
    file: str
    line: int
    write: bool
    how: str
    caller: str = ""


@dataclass
class Race:
    """A data race in one scenario: `field` as struct.field, the two statements, loads first.

    `cell`: which object's it was first; `schedule`: the shortest way there, then the two accesses (without one that
    waits), under `memory`; `count`: how often, over all states.  `made`: the store of one of them was made on the way,
    and nothing orders it before the other, which is the last step.
    """

    field: str
    points: tuple[Point, Point]
    cell: str
    count: int
    schedule: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    memory: str = "sc"
    made: bool = False

    def key(self) -> tuple[object, ...]:
        """What makes two races the same."""
        return self.field, *((p.write, p.file, p.line, p.function, p.how, p.caller) for p in self.points)


def race_from(d: dict[str, Any]) -> Race:
    """Of what `dataclasses.asdict` made."""
    one, two = (Point(**p) for p in d["points"])
    return Race(**{**d, "points": (one, two), "schedule": [(p, c) for p, c in d["schedule"]]})


class Races:
    """Collects what races in explorations of one automaton: pass it to `explore` as its watcher."""

    def __init__(self, a: Automaton):
        self.a = a
        self.seen = np.zeros((1 << PAIR_BITS, 6), np.int64)
        self.W = tables(a)

    def clear(self) -> None:
        """Forget everything."""
        self.seen.fill(0)
        self.W[R_STATE] = self.W[R_DISTINCT] = self.W[R_FULL] = self.W[R_UNORDERED] = 0

    @property
    def full(self) -> bool:
        """Whether there was no room for everything."""
        return bool(self.W[R_FULL])

    def pairs(self) -> list[Pair]:
        """What races, in the order of the program; a load before a store, as their steps can be taken then."""
        rows = self.seen[self.seen[:, Q_KEY] > 0]
        out = []
        for key, count, state, one, two, cell in rows[np.argsort(rows[:, Q_KEY])].tolist():
            sides = [self.side(key - 1 >> SIDE_BITS), self.side(key - 1 & (1 << SIDE_BITS) - 1)]
            steps = [(one & 255, one >> 8), (two & 255, two >> 8)]
            if sides[0].write and not sides[1].write:
                sides.reverse()
                steps.reverse()
            out.append(Pair((sides[0], sides[1]), (steps[0], steps[1]), state, cell, count))
        return out

    def side(self, number: int) -> Side:
        pc = number >> 2
        acc = self.a.access[pc]
        assert acc is not None
        w = self.a.where[pc]
        alone = kind_of(self.a.code[pc].tolist(), acc, w)
        return Side(acc, w, bool(number & 2), "plain" if number & 1 else "section" if alone == PLAIN else "marked")


# -- what there is to know of an automaton
READ_BEGIN = frozenset({"read_seqcount_begin", "raw_read_seqcount"})
READ_END = frozenset({"read_seqcount_retry"})
WRITE_BEGIN = frozenset({"raw_write_seqcount_begin"})
WRITE_END = frozenset({"raw_write_seqcount_end"})
SEQLOCK = "kernel/seqlock.py"
LIBRARY = "kernel/"


RMW = frozenset({Ordering.RMW, Ordering.RMW_FULL, Ordering.RMW_ACQUIRE, Ordering.RMW_RELEASE})


def within(w: Where, functions: frozenset[str], file: str = "") -> bool:
    """Whether an instruction is of one of `functions` (of `file`), perhaps inlined."""
    chain = (*w.chain, (w.function, w.file, w.line))
    return any(fn in functions and (not file or f == file) for fn, f, _ in chain)


def kind_of(row: Sequence[int], access: Access | None, w: Where) -> int:
    """What an access counts as, wherever it is called."""
    order = int(row[7])
    block = access is not None and access.atomic and order not in RMW
    if access is None or order == Ordering.DIRECT or block or looks(w):
        return NONE
    return MARKED if access.order != "plain" or w.file.startswith(LIBRARY) else PLAIN


class Graph:
    """The instructions by function: `function` of each, `entries`, `calls` (those that call each function, by return
    number)."""

    def __init__(self, a: Automaton):
        self.code = a.code.tolist()
        self.slots: dict[int, int] = {}  # function's entry -> slot of its return number
        self.decided: dict[int, bool] = {}  # branches on the switch of a site: whether it is taken out
        calls: dict[int, dict[int, int]] = {}
        for pc, row in enumerate(self.code):
            if row[0] == Op.CALL:
                calls.setdefault(row[3], {})[row[2]] = pc
                self.slots[row[3]] = row[1]
            acc = a.access[pc]
            if acc is not None and acc.pool == "site_switches" and row[0] == Op.LOAD and row[4] == 0:
                then = self.code[row[8]]
                if then[0] == Op.BR and then[1] == row[1]:
                    self.decided[row[8]] = row[2] in a.off
        self.entries = sorted({*calls, *(p.entry for p in a.processes)})
        self.calls = [[calls[e][i] for i in range(len(calls[e]))] if e in calls else [] for e in self.entries]
        self.function = [0] * len(self.code)
        self.of_entry = {e: i for i, e in enumerate(self.entries)}
        for e, i in self.of_entry.items():
            todo, seen = [e], {e}
            while todo:
                pc = todo.pop()
                self.function[pc] = i
                for s in self.successors(pc):
                    if s not in seen:
                        seen.add(s)
                        todo.append(s)

    def successors(self, pc: int) -> list[int]:
        """Inside the function: of a call, where it returns to."""
        row = self.code[pc]
        if row[0] in (Op.RET, Op.HALT, Op.STOPPATH, Op.RELAX) or (row[0] == Op.CHECK and row[5] and row[8] == 0):
            return []
        if pc in self.decided:
            return [row[8] if self.decided[pc] else row[2]]
        return [row[8], row[2 if row[0] == Op.BR else 3]] if row[0] in BRANCHES else [row[8]]

    def sections(self, effect: Callable[[int], int | None]) -> list[int]:
        """OUT, SAME or IN at each instruction: whether all ways there are inside.  `effect`: what an instruction makes
        of it, or None."""
        at = [IN + 1] * len(self.code)
        after = [SAME] * len(self.entries)  # of a function, when it returns
        for e in self.entries:
            at[e] = SAME
        changed = True
        while changed:
            changed = False
            ends = [IN + 1] * len(self.entries)
            todo = [pc for pc, v in enumerate(at) if v <= IN]
            while todo:
                pc = todo.pop()
                v = effect(pc)
                v = at[pc] if v is None else v
                row = self.code[pc]
                if row[0] == Op.RET:
                    ends[self.function[pc]] = min(ends[self.function[pc]], v)
                elif row[0] == Op.CALL:
                    then = after[self.of_entry[row[3]]]
                    v = v if then == SAME else then
                for s in self.successors(pc):
                    if v < at[s]:
                        at[s] = v
                        todo.append(s)
            ends = [SAME if x > IN else x for x in ends]
            if ends != after:
                after, changed = ends, True
                at = [IN + 1] * len(self.code)
                for e in self.entries:
                    at[e] = SAME
        for p in self.entries:
            if p not in self.slots:  # nobody calls a process
                at[p] = min(at[p], SAME)
        return [OUT if v > IN else v for v in at]


def tables(a: Automaton) -> NDArray[np.int64]:
    """`W` for an automaton."""
    g = Graph(a)

    def effect(begin: frozenset[str], end: frozenset[str]) -> Callable[[int], int | None]:
        by = {
            pc: IN if within(w, begin, SEQLOCK) else OUT
            for pc, w in enumerate(a.where)
            if within(w, begin | end, SEQLOCK)
        }
        return by.get

    head = [0] * R_HEADER
    parts: list[Sequence[int]] = [head]

    def add(slot: int, table: Sequence[int]) -> None:
        head[slot] = sum(map(len, parts))
        parts.append(table)

    head[R_ON] = RACES
    for pc, row in enumerate(g.code):
        if row[0] == Op.LOCKDEP_ACQUIRE and a.where[pc].file == SEQLOCK:
            head[R_HELD] |= 1 << row[1]
    add(R_CLASS, [kind_of(row, a.access[pc], a.where[pc]) for pc, row in enumerate(g.code)])
    add(R_READ, g.sections(effect(READ_BEGIN, READ_END)))
    add(R_WRITE, g.sections(effect(WRITE_BEGIN, WRITE_END)))
    add(R_FUNCTION, g.function)
    add(R_RETURN, [g.slots.get(e, -1) for e in g.entries])
    starts = np.cumsum([0, *map(len, g.calls)]).tolist()
    add(R_CALLS, starts)
    add(R_CALL, [pc for calls in g.calls for pc in calls])
    add(R_CPU, [p.cpu if p.bound else -1 - i for i, p in enumerate(a.processes)])
    add(R_ROWS, [0] * (ROOM * ROW))
    add(R_PAIRS, [0] * (UNORDERED * 2 * ROW))
    return np.array([x for part in parts for x in part], np.int64)
