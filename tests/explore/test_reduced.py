"""Movers under every memory model (tier 0): random concurrent programs, reduced and whole.

More programs: SEQFAULT_MOVERS=10000 (for each model and role of the last process).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from programs import LOAD, MOST, PROCESSES, STORE, WAIT, Listing, fenced, handled, program, show, texts, woken
from test_movers import kinds, shown

from seqfault.explore import engine, reduced
from seqfault.explore.engine import Exploration
from seqfault.explore.memory import with_memory
from seqfault.explore.progress import find_lassos
from seqfault.explore.rehash import acyclic

PROGRAMS = int(os.environ.get("SEQFAULT_MOVERS", "60"))
MANY = 30_000  # states; larger programs are left out


def endless(x: Exploration) -> bool:
    """Whether a fair execution can go on for ever."""
    graph = x.graph
    assert graph is not None
    if x.automaton.memory == "lkmm":
        graph = graph.seen_in_time()
    return bool(list(find_lassos(x.automaton, graph, x.path_to, True)))


def cyclic(x: Exploration) -> bool:
    graph = x.graph
    assert graph is not None
    if x.automaton.memory == "lkmm":
        graph = graph.seen_in_time()
    n = graph.states
    edges = np.zeros((len(graph.edges), 2), np.int32)
    edges[:, 0] = np.repeat(np.arange(n), np.diff(graph.begin))
    edges[:, 1] = graph.edges[:, 0]
    return not acyclic(edges, len(edges), n, np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int32), np.zeros(n + 1, np.uint8))


def same(x: Exploration, y: Exploration) -> None:
    a = x.automaton
    assert kinds(a, x) == kinds(a, y)
    assert set(x.outcomes) == set(y.outcomes)
    assert ((x.counters > 0) == (y.counters > 0)).all()
    assert {e[:2] for e in x.edges} == {e[:2] for e in y.edges}
    if x.automaton.memory == "lkmm":  # a store that is made at once ends a loop that others would go round before it
        assert not y.cyclic or cyclic(x)
        assert y.cyclic or not endless(x)
    else:
        assert cyclic(x) == y.cyclic


@pytest.mark.parametrize("role", [0, 1, 2], ids=["cpu", "agent", "environment"])
@pytest.mark.parametrize("memory", ["sc", "tso", "lkmm"])
def test_random_programs(memory: str, role: int):
    compared(memory, role, program)


@pytest.mark.parametrize("memory", ["tso", "lkmm"])
def test_random_programs_with_barriers(memory: str):
    for role in (0, 1):
        compared(memory, role, fenced)


@pytest.mark.parametrize("memory", ["tso", "lkmm"])
def test_random_programs_with_an_interrupt_handler(memory: str):
    """The last process shares the CPU of the first."""
    for p in (program, fenced):
        compared(memory, 1, p, together=True)


@pytest.mark.parametrize("memory", ["sc", "tso", "lkmm"])
def test_random_programs_with_one_that_is_woken_under_a_lock(memory: str):
    """On a CPU of its own, or the first one's interrupt handler."""
    compared(memory, 1, woken)
    compared(memory, 1, woken, together=True)


@pytest.mark.parametrize("memory", ["tso", "lkmm"])
def test_random_programs_with_a_handler_that_is_atomic(memory: str):
    """It goes by nothing that its CPU knows, and hands that on to a third one."""
    compared(memory, 1, handled, together=True, processes=MOST, times=1.5)


def test_who_is_woken_sees_what_came_before():
    t = texts(1)
    a = with_memory(t.automaton, "tso")
    p: Listing = (((STORE, 0, 3),), ((STORE, 0, 1), (LOAD, 0, 0), (STORE, 3, 1)), ((WAIT, 3, 1), (LOAD, 0, 0)))
    init, rom = replace(t, automaton=a).start(p)
    y = reduced.explore(a, init, rom, graph=True)
    assert y is not None
    same(engine.explore(a, init, rom, graph=True), y)


def compared(
    memory: str, role: int, program: Callable[[int], Listing], together: bool = False, processes: int = PROCESSES,
    times: float = 2,
) -> None:  # fmt: skip
    """Random programs, reduced and whole; how many times as many states there are whole, at least."""
    t = texts(role, together=together, processes=processes)
    a = with_memory(t.automaton, memory)
    t = replace(t, automaton=a)
    all_states = less = ran = 0
    for seed in range(PROGRAMS * role, PROGRAMS * (role + 1)):
        init, rom = t.start(program(seed))
        x = engine.explore(a, init, rom, graph=True, max_states=MANY)
        if not x.complete or any(a.kinds[v.kind] == "store-buffer-full" for v in x.violations):
            continue
        y = reduced.explore(a, init, rom, graph=True)
        if y is None:
            continue  # locks could not be followed: it is explored whole
        try:
            same(x, y)
            if seed % 8 == 0:
                shown(a, init, rom, y)
            elif seed % 8 == 4:  # while it learns
                z = reduced.explore(a, init, rom, max_states=y.states // 2)
                assert z is not None and set(z.outcomes) <= set(x.outcomes)
                shown(a, init, rom, z)
        except AssertionError as e:
            raise AssertionError(f"program {seed}\n{show(program(seed))}") from e
        ran += 1
        all_states, less = all_states + x.states, less + y.states
    assert ran > PROGRAMS * 0.5
    assert less * times < all_states  # it is a reduction
    print(memory, role, ran, all_states, less)
