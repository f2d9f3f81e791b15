"""Views of two words under the kernel's memory model (memory_words.py): the same explorations as with one; a text for
which one has no room."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from programs import fenced, program, texts

from seqfault.compile.automaton import Automaton
from seqfault.compile.program import Process, Program, compile_program
from seqfault.explore import engine, reduced
from seqfault.explore.check import HOLDS, INCOMPLETE, VIOLATED, check_scenario
from seqfault.explore.engine import Exploration
from seqfault.explore.memory_settle import viewed
from seqfault.explore.model import small_scenario, start_of
from seqfault.explore.replay import replay
from seqfault.explore.suppliers import old_reads
from seqfault.kernel import *

PROGRAMS = int(os.environ.get("SEQFAULT_MOVERS", "60"))
FULL = "store-buffer-full"
STORES = 62
ROOM = STORES + 1  # and one of the other cell


def same(x: Exploration, y: Exploration) -> None:
    """The same states in the same order, reached by the same steps."""
    assert (x.states, x.transitions, x.depth, x.complete) == (y.states, y.transitions, y.depth, y.complete)
    assert np.array_equal(x.parent, y.parent) and np.array_equal(x.action, y.action)
    assert x.outcomes == y.outcomes and x.violations == y.violations and x.edges == y.edges
    assert np.array_equal(x.counters, y.counters)


@pytest.mark.parametrize("role", [0, 1])
def test_one_word_and_two(role: int):
    """With little room, too: there is none at the same step."""
    t = texts(role)
    full = 0
    for seed in range(PROGRAMS * role, PROGRAMS * (role + 1)):
        room = (60, 4, 3)[seed % 3]
        for make in (program, fenced):
            found = []
            for wide in (False, True):
                a = viewed(t.automaton, room, wide)
                init, rom = replace(t, automaton=a).start(make(seed))
                found.append((engine.explore(a, init, rom, max_states=2_000), reduced.explore(a, init, rom, max_states=2_000)))
            (x, x2), (y, y2) = found
            same(x, y)
            assert x2 is not None and y2 is not None
            same(x2, y2)
            full += any(t.automaton.kinds[v.kind] == FULL for v in x.violations)
    assert full > PROGRAMS // 10


@struct(pool=1)
class shared:
    x: integer(0, 63)
    y: integer(0, 1)
    r: integer(0, 63)


def stores_many():
    w = the(shared)
    for i in range(STORES):
        w.x = i + 1
    smp_wmb()
    w.y = 1


def stores_many_without():
    w = the(shared)
    for i in range(STORES):
        w.x = i + 1
    w.y = 1


def loads():
    w = the(shared)
    if w.y != 0:
        smp_rmb()
        r: integer(0, 63) = w.x
        with atomic():
            w.r = r
        assert r == STORES


@pytest.mark.parametrize("writer,verdict", [(stores_many, HOLDS), (stores_many_without, VIOLATED)])
def test_what_has_no_room_in_one_word(writer, verdict: str):  # type: ignore[no-untyped-def]
    """`lkmm` takes two words by itself, `lkmm:N` has what it was told to have."""
    p = Protocol("many", processes=(writer, loads))
    s = small_scenario(p)
    assert check_scenario(p, s, memory="lkmm").verdict == check_scenario(p, s, memory="lkmm:120").verdict == verdict
    for n in (60, STORES):
        r = check_scenario(p, s, memory=f"lkmm:{n}")
        assert f"no room for more than {n} stores" in r.reason
        if verdict == HOLDS:
            assert r.verdict == INCOMPLETE
    r = check_scenario(p, s, memory=f"lkmm:{ROOM}")
    assert (r.verdict, r.reason) == (verdict, "")


def test_a_path_of_two_words():
    """A violation says with which room it was found; its run names the store that was not seen, and what prevents it."""
    p = Protocol("many", processes=(stores_many_without, loads))
    s = small_scenario(p)
    v = check_scenario(p, s, memory="lkmm").violations[0]
    assert v.memory == "lkmm:120"
    a, init, rom = start_of(p, s, v.memory)
    steps = replay(a, init, rom, v.schedule)
    assert [a.kinds[k] for k, *_ in steps[-1].violations] == ["assertion"]
    old = old_reads(a, init, rom, v.schedule, steps)
    assert [b[0] for b in old[-1].barriers] == ["smp_wmb()"]


def wide(a: Automaton, room: int) -> bool:
    """Whether two words have no room for the text of `stores_many` with so much room."""
    a = viewed(a, room, True)
    p = Program("t", [Process(stores_many, 0), Process(loads, 1)])
    cells = p.layout().start
    ex = engine.explore(a, a.pack(cells), a.rom(cells))
    return FULL in {a.kinds[v.kind] for v in ex.violations}


def test_little_room_in_two_words():
    a = compile_program(Program("t", [Process(stores_many, 0), Process(loads, 1)]))
    assert wide(a, 4) and wide(a, ROOM - 1) and not wide(a, ROOM)
