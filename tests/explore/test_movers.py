"""Taking movers at once loses nothing: random concurrent programs, and the smallest text for each rule.

More programs: SEQFAULT_MOVERS=10000 (for each role of the last process).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from programs import program, show, texts

from seqfault.compile.automaton import Automaton
from seqfault.compile.program import Process, Program, compile_program
from seqfault.explore import engine, tiers
from seqfault.explore.engine import Exploration
from seqfault.explore.tables import DISABLED
from seqfault.kernel import *
from seqfault.kernel.rwsem import down_read, down_read_trylock, down_write, rw_semaphore, up_read, up_write
from seqfault.kernel.spinlock import spin_lock, spin_trylock, spin_unlock, spinlock_t

PROGRAMS = int(os.environ.get("SEQFAULT_MOVERS", "400"))
MANY = 60_000  # states; larger programs are left out


def kinds(a: Automaton, ex: Exploration) -> set[tuple[str, int]]:
    return {(a.kinds[v.kind], v.pool) for v in ex.violations}


def places(ex: Exploration) -> set[tuple[int, int, int, int]]:
    """Where each violation shows."""
    return {(v.kind, v.pc, v.pool, v.cell) for v in ex.violations}


def same(x: Exploration, y: Exploration) -> None:
    """What movers promise."""
    a = x.automaton
    assert kinds(a, x) == kinds(a, y)
    assert set(x.outcomes) == set(y.outcomes)
    assert ((x.counters > 0) == (y.counters > 0)).all()
    assert {e[:2] for e in x.edges} == {e[:2] for e in y.edges}
    assert x.cyclic == y.cyclic


def shown(a: Automaton, init, rom, y: Exploration) -> None:
    """Each violation by its path, run by the interpreter without any reduction."""
    for v in y.violations:
        e = engine.Executor(a, rom)
        path = y.path_of(v)
        while True:
            words = e.start(init)
            statuses: list[int] = []
            met: list[int] = []
            for p, choice in path:
                statuses.append(e.run(words, p, choice))
                met = [k[0] for k in e.violations()]
            if not e.learns():  # which cells have old stores, under lkmm
                break
        assert DISABLED not in statuses[:-1]  # who takes a lock twice waits for ever
        if a.kinds[v.kind] == "deadlock":
            for p, info in enumerate(a.processes):
                assert info.role > 1 or e.pc(words, p) == a.halt_pc or e.run(words.copy(), p) == DISABLED
            continue
        if v.process < 0:
            e.rest(words)
            met = [k[0] for k in e.violations()]
        assert v.kind in met, a.kinds[v.kind]


@pytest.mark.parametrize("role", [0, 1, 2], ids=["cpu", "agent", "environment"])
def test_random_programs(role: int):
    t = texts(role)
    a = t.automaton
    all_states = reduced = compared = 0
    for seed in range(PROGRAMS * role, PROGRAMS * (role + 1)):
        init, rom = t.start(program(seed))
        x = tiers.explore(a, init, rom, graph=True, max_states=MANY)
        if not x.complete:
            continue
        y = tiers.explore(a, init, rom, graph=True, movers=True)
        try:
            same(x, y)
            if seed % 8 == 0:
                shown(a, init, rom, y)
        except AssertionError as e:
            raise AssertionError(f"program {seed}\n{show(program(seed))}") from e
        compared += 1
        all_states, reduced = all_states + x.states, reduced + y.states
    assert compared > PROGRAMS * 0.9
    assert reduced * 2 < all_states  # it is a reduction


@struct(pool=2)
class item:
    n: integer(0, 3)


@struct(pool=1)
class world:
    a: spinlock_t
    b: spinlock_t
    sem: rw_semaphore
    x: integer(0, 7)
    y: integer(0, 7)
    z: integer(0, 7)
    free: bool
    head: ptr[item]


def outcome():
    w = the(world)
    emit(w.x)
    emit(w.y)
    emit(w.z)


def both(*entries: Callable[..., None]) -> tuple[Exploration, Exploration]:
    """Explorations without movers and with; all that is promised is equal."""
    p = Program("t", [Process(f, i) for i, f in enumerate(entries)], [outcome])
    a = compile_program(p)
    cells = p.layout().start
    init, rom = a.pack(cells), a.rom(cells)
    x, y = tiers.explore(a, init, rom, graph=True), tiers.explore(a, init, rom, graph=True, movers=True)
    same(x, y)
    shown(a, init, rom, y)
    return x, y


def counted(ex: Exploration) -> set[str]:
    return {c for c, n in zip(ex.automaton.counters, ex.counters, strict=False) if n}


def adds_under_a():
    w = the(world)
    spin_lock(w.a)
    w.x += 1
    w.x += 1
    spin_unlock(w.a)


def test_accesses_under_a_common_lock_are_one_step():
    x, y = both(adds_under_a, adds_under_a)
    assert len(x.outcomes) == 1 and y.states <= 6 < x.states


def adds_bare():
    w = the(world)
    w.x += 1
    w.x += 1


def test_an_access_without_the_lock_is_in_the_way():
    x, y = both(adds_under_a, adds_bare)
    assert len(x.outcomes) > 1 and y.states > 6


def alone():
    w = the(world)
    w.y = 1
    w.y = 2


def test_what_nobody_else_touches_is_no_state():
    _, y = both(alone, adds_bare)
    assert y.states == 1


def makes_and_frees():
    w = the(world)
    p = kmem_cache_zalloc(item)
    w.head = p
    w.x = 1
    kmem_cache_free(p)


def looks():
    w = the(world)
    p = w.head
    if p:
        count("there")
        w.y = p.n
        w.y = p.n


def test_a_look_at_an_object_that_is_freed_is_found():
    x, _ = both(makes_and_frees, looks)
    assert kinds(x.automaton, x) == {("use-after-free", [p.name for p in x.automaton.pools].index("item"))}


def lets_free():
    w = the(world)
    p = kmem_cache_zalloc(item)
    spin_lock(w.a)
    w.head = p
    w.y = p.n
    spin_unlock(w.a)
    w.x = p.n


def frees_under_a():
    w = the(world)
    spin_lock(w.a)
    p = w.head
    if p:
        kmem_cache_free(p)
    spin_unlock(w.a)


def test_an_unlock_that_lets_another_free():
    """The look after the unlock only moves to the right: it may not follow the unlock at once."""
    x, _ = both(lets_free, frees_under_a)
    assert "use-after-free" in {k for k, _ in kinds(x.automaton, x)}


def tries_a():
    w = the(world)
    if spin_trylock(w.a):
        count("taken")
        w.y = 1
        spin_unlock(w.a)
    else:
        count("missed")
        w.z = 1


def test_a_trylock_that_fails_is_seen():
    x, _ = both(adds_under_a, tries_a)
    assert counted(x) == {"taken", "missed"} and len(x.outcomes) == 2


def test_two_trylocks():
    x, _ = both(tries_a, tries_a)
    assert counted(x) == {"taken", "missed"}


def locks_then_tries():
    w = the(world)
    spin_lock(w.a)
    w.x += 1
    spin_unlock(w.a)
    if spin_trylock(w.a):
        count("taken")
        spin_unlock(w.a)
    else:
        count("missed")
        w.z = 1


def test_a_lock_and_a_trylock_in_one_process():
    x, _ = both(adds_under_a, locks_then_tries)
    assert counted(x) == {"taken", "missed"}


def attempt(k: integer(0, 3)) -> bool:
    """Not copied into its callers: it has a loop."""
    w = the(world)
    n: integer(0, 9) = 0
    while n < k:
        n += 1
    with atomic():
        return cmpxchg_acquire(w.a.owner, 0, process_id() + 1) == 0


def waits_with_attempt():
    w = the(world)
    while not attempt(1):
        cpu_relax()
    w.x = 1
    w.x = 0
    w.a.owner = 0


def waits_then_attempts():
    w = the(world)
    while not attempt(1):
        cpu_relax()
    w.x = 2
    w.x = 0
    w.a.owner = 0
    if attempt(2):
        count("taken")
        w.a.owner = 0
    else:
        count("missed")
        w.z = 1


def test_one_instruction_that_takes_a_lock_for_who_waits_and_for_who_does_not():
    x, _ = both(waits_with_attempt, waits_then_attempts)
    assert counted(x) == {"taken", "missed"}
    both(waits_then_attempts, waits_then_attempts)


def reads_x():
    w = the(world)
    down_read(w.sem)
    w.y = w.x
    w.y = w.x
    up_read(w.sem)


def reads_x_too():
    w = the(world)
    down_read(w.sem)
    w.z = w.x
    w.z = w.x
    up_read(w.sem)


def writes_x():
    w = the(world)
    down_write(w.sem)
    w.x = 1
    w.x = 2
    up_write(w.sem)


def writes_x_as_a_reader():
    w = the(world)
    down_read(w.sem)
    w.x = 1
    w.x = 2
    up_read(w.sem)


def reads_twice():
    w = the(world)
    down_read(w.sem)
    w.y = w.x
    w.z = w.x
    up_read(w.sem)


def test_readers_and_a_writer():
    x, y = both(reads_x, reads_x_too, writes_x)
    assert len(x.outcomes) == 4 and y.states * 4 < x.states


def test_readers_do_not_keep_each_other_out():
    x, _ = both(reads_twice, writes_x_as_a_reader)
    assert len(x.outcomes) == 6


def tries_to_read():
    w = the(world)
    if down_read_trylock(w.sem):
        count("taken")
        w.y = w.x
        up_read(w.sem)
    else:
        count("missed")


@pytest.mark.parametrize("other", [writes_x, reads_x_too])
def test_a_read_trylock(other: Callable[..., None]):
    x, _ = both(other, tries_to_read)
    assert ("missed" in counted(x)) == (other is writes_x)


def ab():
    w = the(world)
    spin_lock(w.a)
    spin_lock(w.b)
    w.x = 1
    spin_unlock(w.b)
    spin_unlock(w.a)


def ba():
    w = the(world)
    spin_lock(w.b)
    spin_lock(w.a)
    w.x = 2
    spin_unlock(w.a)
    spin_unlock(w.b)


def ba_far():
    """With much between the locks that only it touches."""
    w = the(world)
    w.y = 1
    spin_lock(w.b)
    w.y = 2
    w.y = 3
    spin_lock(w.a)
    w.y = 4
    spin_unlock(w.a)
    spin_unlock(w.b)


def a_sem():
    w = the(world)
    down_write(w.sem)
    spin_lock(w.a)
    spin_unlock(w.a)
    up_write(w.sem)


def sem_a():
    w = the(world)
    spin_lock(w.a)
    while not down_read_trylock(w.sem):
        cpu_relax()
    up_read(w.sem)
    spin_unlock(w.a)


@pytest.mark.parametrize("pair", [(ab, ba), (ab, ba_far), (a_sem, sem_a)], ids=["near", "far", "semaphore"])
def test_locks_in_different_order(pair: tuple[Callable[..., None], ...]):
    x, _ = both(*pair)
    assert ("deadlock", -1) in kinds(x.automaton, x)


def bc():
    w = the(world)
    spin_lock(w.b)
    w.y = 1
    down_write(w.sem)
    up_write(w.sem)
    spin_unlock(w.b)


def ca():
    w = the(world)
    down_write(w.sem)
    w.z = 1
    spin_lock(w.a)
    spin_unlock(w.a)
    up_write(w.sem)


def test_three_locks_in_a_ring():
    x, _ = both(ab, bc, ca)
    assert ("deadlock", -1) in kinds(x.automaton, x)


def holds_and_waits():
    w = the(world)
    spin_lock(w.a)
    wait_for(w.free)
    w.x = 1
    spin_unlock(w.a)


def takes_then_lets():
    w = the(world)
    spin_lock(w.a)
    w.x = 2
    spin_unlock(w.a)
    w.free = True


def test_who_holds_a_lock_and_waits():
    x, _ = both(holds_and_waits, takes_then_lets)
    assert ("deadlock", -1) in kinds(x.automaton, x) and len(x.outcomes) == 1


def chooses_under_a():
    w = the(world)
    spin_lock(w.a)
    w.x = choose(3)
    w.y = choose(2)
    spin_unlock(w.a)


def test_a_step_with_a_choice():
    x, _ = both(chooses_under_a, adds_under_a)
    assert len(x.outcomes) == 10  # x is 0 to 2, or 2 to 4; y is 0 or 1


def asserts_under_a():
    w = the(world)
    spin_lock(w.a)
    assert w.x == 0
    w.y = 1
    spin_unlock(w.a)


def test_a_step_that_ends_the_path():
    x, _ = both(asserts_under_a, adds_under_a)
    assert kinds(x.automaton, x) == {("assertion", -1)}
    assert len(x.outcomes) == 1


def takes_all():
    w = the(world)
    kmem_cache_zalloc(item)
    kmem_cache_zalloc(item)
    w.y = 1


def takes_one():
    w = the(world)
    kmem_cache_zalloc(item)
    count("one")
    w.z = 1


def test_who_finds_no_object_looks_at_all():
    x, _ = both(takes_all, takes_one)
    assert counted(x) == {"one"} and "pool-exhausted" in {k for k, _ in kinds(x.automaton, x)}


def adds_under_write():
    w = the(world)
    down_write(w.sem)
    w.x += 1
    up_write(w.sem)


def gives_back_what_it_has_not():
    w = the(world)
    w.y = 1
    up_write(w.sem)


def test_a_lock_that_somebody_else_gives_back_protects_nothing():
    x, _ = both(adds_under_write, adds_under_write, gives_back_what_it_has_not)
    assert len(x.outcomes) == 2  # an addition is lost


def spins():
    w = the(world)
    while w.x != 1:
        pass
    w.y = 1


def sets():
    w = the(world)
    w.z = 1
    w.x = 1


def test_a_cycle_stays():
    x, _ = both(spins, sets)
    assert x.cyclic


def test_a_whole_exploration_if_records_do_not_settle(monkeypatch):
    monkeypatch.setattr(tiers, "TRIES", 1)
    x, y = both(adds_under_a, adds_bare)
    assert y.states == x.states and y.moved == 0


@pytest.mark.parametrize(("role", "seed"), [(0, 5528), (1, 13920), (2, 16240)])
def test_programs_that_once_were_told_wrong(role: int, seed: int):
    t = texts(role)
    init, rom = t.start(program(seed))
    y = tiers.explore(t.automaton, init, rom, graph=True, movers=True)
    same(tiers.explore(t.automaton, init, rom, graph=True), y)
    shown(t.automaton, init, rom, y)
