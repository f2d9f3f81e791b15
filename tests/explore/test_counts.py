"""Exact counts: derived by hand for tiny programs, and those on which other tools agree."""

from __future__ import annotations

import pytest

from seqfault.compile.program import Process, Program, compile_program
from seqfault.explore.engine import Exploration, explore
from seqfault.kernel import atomic, choose, integer, struct, the, wait_for
from seqfault.models import record, seq
from seqfault.models.seq import seq_record


def run(p: Program, granularity: str = "full", dead: bool = False) -> Exploration:
    a = compile_program(p, granularity)
    cells = p.layout().start
    return explore(a, a.pack(cells), a.rom(cells), mode=granularity, dead=dead)


@struct(pool=1)
class tiny_cells:
    x: integer(0, 7)
    y: integer(0, 7)
    lk: bool


def two_stores():
    s = the(tiny_cells)
    s.x = 1
    s.x = 2


def two_other_stores():
    s = the(tiny_cells)
    s.y = 1
    s.y = 2


def test_independent_steps():
    # two steps each, no interaction: every pair of positions is one state, every position has its moves
    ex = run(Program("t", [Process(two_stores, 0), Process(two_other_stores, 1)]))
    assert (ex.states, ex.transitions, ex.finals, len(ex.outcomes), ex.depth) == (9, 12, 1, 1, 4)


def load_add_store():
    s = the(tiny_cells)
    t: integer(0, 7) = s.x
    s.x = t + 1


@pytest.mark.parametrize("dead,states", [(False, 15), (True, 13)])
def test_lost_update(dead: bool, states: int):
    """Two unlocked increments, as positions (0 before, 1 loaded, 2 done) of each and what they loaded.

    Merged: each is a load, then a store. (0,0); (1,0),(0,1); (1,1); (2,0),(0,2); (2,1) with the second having loaded 0 or
    1, (1,2) likewise; (2,2) with x 1 or 2. Keeping t afterwards tells apart who lost: with x = 1, t = 0 and 0; with x = 2, (0,1) or (1,0).
    """
    p = Program("t", [Process(load_add_store, 0), Process(load_add_store, 1)])
    ex = run(p, "merged", dead)
    by_hand = {
        # position pairs -> number of memory and register contents
        True: {"00": 1, "10": 1, "01": 1, "11": 1, "20": 1, "02": 1, "21": 2, "12": 2, "22": 2},
        False: {"00": 1, "10": 1, "01": 1, "11": 1, "20": 1, "02": 1, "21": 2, "12": 2, "22": 3},
    }[dead]
    assert ex.states == sum(by_hand.values())
    assert ex.finals == by_hand["22"]


def locked():
    s = the(tiny_cells)
    with atomic():
        wait_for(not s.lk)
        s.lk = True
    s.x += 1
    s.lk = False


def test_lock_excludes():
    # inside the lock: load, store, unlock; the other waits. Before and after: 4 + 4 positions of one CPU while the other has
    # not begun or has finished, for each order.
    ex = run(Program("t", [Process(locked, 0), Process(locked, 1)]), "merged", True)
    # start; A in section (3 positions) ; A done; B in section after A (3); both done; and the same with B first
    assert ex.states == 1 + 2 * (3 + 1 + 3) + 1
    assert not ex.violations and ex.finals == 1


def chooser():
    s = the(tiny_cells)
    s.x = choose(3)
    s.y = choose(2)


def test_choices():
    ex = run(Program("t", [Process(chooser, 0)]), "merged", True)
    # the first choice is a step (3 states), each store takes the next choice with it (6), the last store (6)
    assert (ex.states, ex.finals) == (1 + 3 + 6 + 6, 6)


@pytest.mark.parametrize("size", list(record.STATES))
def test_record_counts(size: tuple[int, int, int, int]):
    """The counts of Spin, TLC and two Python checkers."""
    ex = run(record.program(*size))
    assert ex.states == record.STATES[size]
    assert ex.complete and not ex.violations


def test_seq_counts():
    """Spin's count with `spin -a -o1 -o2 -o3` and -DNOREDUCE."""
    ex = run(seq.program(1, 2, 2, 2))
    assert ex.states == seq.STATES[1, 2, 2, 2]
    assert ex.complete and not ex.violations


@pytest.mark.parametrize("size,states", [((1, 1, 1, 1), 409), ((1, 1, 0, 1), 13), ((1, 2, 0, 1), 24), ((1, 2, 1, 1), 1723)])
def test_seq_counts_small(size: tuple[int, int, int, int], states: int):
    """Spin's counts of small instances; 13: twelve statements of one round and the test that ends the loop."""
    assert run(seq.program(*size)).states == states


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1)])
def test_reductions_keep_verdict_and_outcomes(size: tuple[int, int, int, int]):
    p = seq.program(*size)
    full, merged, dead = run(p), run(p, "merged"), run(p, "merged", True)
    assert full.states > merged.states > dead.states
    assert not full.violations and not merged.violations and not dead.violations
    assert set(full.outcomes) == set(merged.outcomes) == set(dead.outcomes)


def broken_writer():
    s = the(seq_record)
    s.a = 1
    s.b = 1


@pytest.mark.parametrize("granularity,dead", [("full", False), ("merged", False), ("merged", True)])
def test_broken_record_is_found(granularity: str, dead: bool):
    """A writer that does not count: the reader's assertion fails, whatever is reduced."""
    p = Program("t", [Process(broken_writer, 0), Process(seq.reader, 1)], sizes={"R": 1, "K": 1, "SEQ_TOP": 2})
    ex = run(p, granularity, dead)
    a = ex.automaton
    assert {a.kinds[v.kind] for v in ex.violations} == {"assertion"}
