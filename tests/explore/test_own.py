"""Accesses that are in nobody's way need no step of their own: random concurrent programs, and the smallest text for
each rule.

More programs: SEQFAULT_MOVERS=10000 (for each role of the last process).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from programs import program, show, texts
from test_movers import counted, places, same, shown

from seqfault.compile import step_code
from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op
from seqfault.compile.program import Process, Program, compile_program
from seqfault.compile.step_code import Graph
from seqfault.compile.step_own import LOADS, OWN, STORES, own_accesses
from seqfault.explore import own, steps, tiers
from seqfault.explore.engine import Exploration
from seqfault.explore.frontier import Search
from seqfault.kernel import *
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t

PROGRAMS = int(os.environ.get("SEQFAULT_MOVERS", "400"))
MANY = 60_000  # states; larger programs are left out


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """However few states there are."""
    monkeypatch.setattr(tiers, "FEW", 1)


@pytest.mark.parametrize("role", [0, 1, 2], ids=["cpu", "agent", "environment"])
def test_random_programs(role: int):
    t = texts(role)
    a = t.automaton
    all_states = reduced = compared = passed = 0
    for seed in range(PROGRAMS * role, PROGRAMS * (role + 1)):
        init, rom = t.start(program(seed))
        x = tiers.explore(a, init, rom, graph=True, max_states=MANY)
        if not x.complete:
            continue
        y = tiers.explore(a, init, rom, graph=True, own=True)
        try:
            same(x, y)
            assert places(x) == places(y)
            if seed % 8 == 0:
                shown(a, init, rom, y)
        except AssertionError as e:
            raise AssertionError(f"program {seed}\n{show(program(seed))}") from e
        compared += 1
        all_states, reduced, passed = all_states + x.states, reduced + y.states, passed + y.moved
    assert compared > PROGRAMS * 0.9
    assert passed > compared
    assert reduced < all_states


@pytest.mark.parametrize("role", [0, 1], ids=["cpu", "agent"])
def test_random_programs_in_the_shape_of_large_ones(role: int, monkeypatch, tmp_path):
    """Processes share code, and who would wait is told before a state is copied: states and steps are those of the
    interpreter, and with own accesses all that is promised."""
    monkeypatch.setattr(step_code, "SMALL", 0)
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path))
    monkeypatch.setattr(steps, "_made", {})
    a = replace(texts(role).automaton)
    text = step_code.step_text(a, "merged", True, own=True).text
    assert "@waits0" in text and text.count("label %waiting") > 1
    for seed in range(PROGRAMS * role, PROGRAMS * role + PROGRAMS // 2):
        init, rom = texts(role).start(program(seed))
        x = tiers.explore(a, init, rom, graph=True, max_states=MANY, tier=0)
        if not x.complete:
            continue
        y = tiers.explore(a, init, rom, graph=True)
        z = tiers.explore(a, init, rom, graph=True, own=True)
        try:
            assert (x.states, x.transitions, x.finals) == (y.states, y.transitions, y.finals)
            assert places(x) == places(y) == places(z)
            same(y, z)
        except AssertionError as e:
            raise AssertionError(f"program {seed}\n{show(program(seed))}") from e


@struct(pool=2)
class item:
    n: integer(0, 3)


@struct(pool=1)
class world:
    lock: spinlock_t
    other: spinlock_t
    x: integer(0, 7)
    y: integer(0, 7)
    z: integer(0, 7)
    k: integer(0, 3)
    head: ptr[item]


def outcome():
    w = the(world)
    emit(w.x)
    emit(w.y)
    emit(w.z)


def made(*entries: Callable[..., None]) -> tuple[Automaton, np.ndarray, np.ndarray]:
    p = Program("t", [Process(f, i) for i, f in enumerate(entries)], [outcome])
    a = compile_program(p)
    cells = p.layout().start
    return a, a.pack(cells), a.rom(cells)


def both(*entries: Callable[..., None], threads: int = 1) -> tuple[Exploration, Exploration]:
    """Explorations without and with; all that is promised is equal."""
    a, init, rom = made(*entries)
    x = tiers.explore(a, init, rom, graph=True, threads=threads)
    y = tiers.explore(a, init, rom, graph=True, threads=threads, own=True)
    same(x, y)
    assert places(x) == places(y)
    shown(a, init, rom, y)
    return x, y


def alone():
    w = the(world)
    w.x = 1
    w.x = w.x + 1
    w.x = w.x + 1


def loads_y():
    w = the(world)
    a = w.y
    b = w.y
    w.z = a + b


def loads_y_too():
    w = the(world)
    a = w.y
    b = w.y
    w.k = a + b


def test_what_nobody_else_touches_begins_no_step():
    x, y = both(alone, loads_y)
    assert (x.states, y.states) == (6 * 4, 4)  # five accesses beside three; here each takes one step
    assert y.moved > 0


def test_what_nobody_stores_begins_no_step():
    x, y = both(loads_y, loads_y_too)
    assert (x.states, y.states) == (16, 4)


def stores_y():
    w = the(world)
    w.y = 1
    w.y = 2


def test_what_somebody_stores_does():
    x, y = both(loads_y, stores_y)
    # the loader's place, what it read so far (its sum, from the second load on), and y: 3 + 6 + 9 + 9
    assert x.states == 27
    assert y.states == 18  # the store to z goes along with the second load
    assert len(y.outcomes) == 5


def locks():
    w = the(world)
    spin_lock(w.lock)
    w.x = w.x + 1
    spin_unlock(w.lock)


def locks_another():
    w = the(world)
    spin_lock(w.other)
    w.y = w.y + 1
    spin_unlock(w.other)


def test_a_lock_that_one_process_takes():
    x, y = both(locks, locks_another)
    assert (x.states, y.states) == (25, 4)
    x, y = both(locks, locks)
    assert y.states == x.states == 16


def waits_for_itself():
    w = the(world)
    w.x = 1
    spin_lock(w.lock)
    w.x = 2
    spin_lock(w.lock)
    w.x = 3


def test_who_waits_for_itself():
    """The step that waits ends what goes before it."""
    _, y = both(waits_for_itself, stores_y)
    assert {y.automaton.kinds[v.kind] for v in y.violations} == {"double-acquire", "deadlock"}


def fails_behind_its_own():
    w = the(world)
    w.y = 1
    w.x = 1
    assert w.x == 2
    w.x = 3


def sees_it():
    w = the(world)
    if w.y == 1:
        count("seen")
        w.z = 1
        assert w.z == 0


def test_what_is_reported_behind_an_own_access_hides_nothing():
    """Somebody sees what was stored before the access whose step reports, and ends the path."""
    _, y = both(fails_behind_its_own, sees_it)
    assert len(y.violations) == 2
    assert counted(y) == {"seen"}


def chooses():
    w = the(world)
    w.x = 1
    w.k = choose(4)
    w.x = w.k
    w.x = w.x + choose(2)


def test_choices():
    x, y = both(chooses, loads_y)
    assert len(y.outcomes) == len(x.outcomes) == 5


def makes_and_frees():
    w = the(world)
    p = kmem_cache_zalloc(item)
    p.n = 1
    p.n = 2
    w.head = p
    w.head = NULL
    kmem_cache_free(p)


def looks():
    w = the(world)
    p = w.head
    if p:
        w.x = p.n
        w.x = p.n


def test_an_object_that_somebody_frees():
    _, y = both(makes_and_frees, looks)
    assert "use-after-free" in {y.automaton.kinds[v.kind] for v in y.violations}


def spins():
    w = the(world)
    while w.y == 0:
        w.x = 1
        w.x = 0


def test_an_endless_loop_of_own_accesses():
    """It is one, and not a step that does not end."""
    x, y = both(spins, stores_y)
    assert x.cyclic and y.cyclic
    assert not {y.automaton.kinds[v.kind] for v in y.violations}


def for_ever():
    w = the(world)
    while True:
        w.x = 1
        w.x = 0


def test_a_process_that_goes_on_for_ever_by_itself():
    x, y = both(for_ever, stores_y)
    assert x.cyclic and y.cyclic
    assert not y.violations


def test_threads_share_the_table():
    _, y = both(locks, locks_another, stores_y, loads_y, threads=2)
    assert y.moved > 0


def test_a_table_that_is_wrong_is_found_out():
    """By the table of one who knows nothing, everything is in nobody's way."""
    a, init, rom = made(loads_y, stores_y)
    s = Search(a, init, rom, own=own.no_table(a))
    ex = tiers.run(s)
    assert ex.news > 0
    assert ex.states == 5  # four orders of which two differ in z; the beginning
    again = own.settled(a, s.own)
    s.close()
    s = Search(a, init, rom, own=again)
    ex = tiers.run(s)
    assert (ex.states, ex.news) == (18, 0)
    s.close()


def test_without_what_is_learned_outcomes_are_lost():
    """What the tests above would show."""
    a, init, rom = made(loads_y, stores_y)
    s = Search(a, init, rom, own=own.no_table(a))
    ex = tiers.run(s)
    s.close()
    assert len(ex.outcomes) == 2


def test_strolls_meet_what_there_is():
    a, init, rom = made(locks, locks_another, stores_y)
    s = Search(a, init, rom, own=own.no_table(a))
    assert own.QUIET <= s.stroll() <= own.STROLLS
    met = s.own.copy()
    s.close()
    at = {c.name: i for i, c in enumerate(a.cells)}
    x, y = at["world[0].x"], at["world[0].y"]
    assert met[:, x].tolist() == [LOADS | STORES | 12, 12, 12]
    assert [b & 3 for b in met[:, y].tolist()] == [0, LOADS | STORES, STORES]
    bits = own.settled(a, met)[:, y] >> OWN
    assert bits.tolist() == [0, 0, 0]


def test_where_it_can_be_told():
    """What a step touches is known where it begins: of a lock's steps, of none that allocates or frees."""
    a, _, _ = made(locks, makes_and_frees)
    stops = np.flatnonzero(a.stop["merged"]).tolist()
    found = own_accesses(a, Graph(a), a.stop["merged"])
    of = {name: [pc for pc in stops if a.where[pc].function == name] for name in ("locks", "makes_and_frees")}
    assert [pc for pc in of["locks"] if pc not in found] == []
    left = [Op(int(a.code[pc, 0])) for pc in of["makes_and_frees"] if pc not in found]
    assert left == [Op.ALLOC, Op.FREE]


def makes_two():
    w = the(world)
    p = kmem_cache_zalloc(item)
    p.n = 1
    q = kmem_cache_zalloc(item)
    q.n = 2
    w.x = p.n


def test_what_was_met_of_one_object_is_taken_for_met_of_all():
    """Who gets which depends on who comes first."""
    a, _, _ = made(makes_two, stores_y)
    [pool] = [p for p in a.pools if p.name == "item"]
    met = np.zeros((len(a.processes), a.ncell + 1), np.uint8)
    first, other = (slice(pool.base + i * pool.stride, pool.base + (i + 1) * pool.stride) for i in range(2))
    met[0, first] = LOADS | STORES  # allocated
    table = own.settled(a, met)
    assert (table[0, other] & (LOADS | STORES) == LOADS | STORES).all()
    assert (table[1, other] >> OWN == 0).all() and (table[0, other] >> OWN == LOADS | STORES).all()
    met[:, first] = 0
    met[0, first.start] = LOADS  # only looked at
    assert (own.settled(a, met)[0, other] & (LOADS | STORES) == 0).all()
