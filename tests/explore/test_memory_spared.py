"""Stores that are forgotten under the kernel's memory model though somebody has not seen a newer one, since nobody can
tell (memory_spared.py): shown by how little room is enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seqfault.compile.program import AGENT, Process, Program, compile_program
from seqfault.explore import engine, reduced
from seqfault.explore.memory import with_memory
from seqfault.kernel import *
from seqfault.kernel.rwsem import down_read, down_write, rw_semaphore, up_read, up_write
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t

FULL = "store-buffer-full"
CELLS = 8


@struct(pool=1, static=True)
class shared:
    x: array[integer(0, 7), CELLS]
    early: integer(0, 1)
    pending: integer(0, 1)
    sem: rw_semaphore
    lock: spinlock_t


@struct(pool=2, private=True)
class seen:
    r: array[integer(0, 7), CELLS]


def tell():
    for i in range(CELLS):
        emit(the(shared).x[i])
        emit(pool_object(seen, 0).r[i])


def explored(memory: str, *processes: Process, movers: bool = False) -> tuple[bool, set[int], int]:
    """Whether there was no room, the outcomes, and how many states there are."""
    p = Program("t", list(processes), observers=[tell])
    a = with_memory(compile_program(p), memory)
    cells = p.layout().start
    ex = (reduced if movers else engine).explore(a, a.pack(cells), a.rom(cells))
    assert ex is not None and ex.complete
    return FULL in {a.kinds[v.kind] for v in ex.violations}, set(ex.outcomes), ex.states


def store_each():
    for i in range(CELLS):
        the(shared).x[i] = 1


def store_under_sem():
    down_write(the(shared).sem)
    store_each()
    up_write(the(shared).sem)


def store_under_lock():
    spin_lock(the(shared).lock)
    store_each()
    spin_unlock(the(shared).lock)


def load_each():
    for i in range(CELLS):
        pool_object(seen, 0).r[i] = the(shared).x[i]


def load_atomically():
    for i in range(CELLS):
        with atomic():
            r = the(shared).x[i]
        pool_object(seen, 0).r[i] = r


def look():
    """So that the cells are not only touched under one lock."""
    for i in range(CELLS):
        with atomic():
            r = the(shared).x[i]
        pool_object(seen, 1).r[i] = r


def load_under_sem():
    down_read(the(shared).sem)
    load_each()
    up_read(the(shared).sem)


def load_under_lock():
    spin_lock(the(shared).lock)
    load_each()
    spin_unlock(the(shared).lock)


@pytest.mark.parametrize("reader,full", [(load_atomically, False), (load_each, True)])
def test_what_is_only_loaded_atomically(reader: Callable[..., None], full: bool):
    assert explored("lkmm:2", Process(store_each, 0), Process(reader, 1))[0] is full


@pytest.mark.parametrize(
    "writer,reader,full",
    [
        (store_under_sem, load_under_sem, False),
        (store_under_lock, load_under_lock, False),
        (store_under_sem, load_each, True),
        (store_under_lock, load_under_sem, True),  # a lock that the writer does not take
    ],
)
def test_what_is_loaded_under_the_lock_that_the_writer_holds(
    writer: Callable[..., None], reader: Callable[..., None], full: bool
):
    processes = Process(writer, 0), Process(reader, 1), Process(look, 2)
    assert explored("lkmm:7", *processes, movers=True)[0] is full
    assert explored("lkmm", *processes, movers=True)[1] == explored("sc", *processes, movers=True)[1] or full


def load_early_and_under_sem():
    load_each()
    with atomic():
        the(shared).early = 1
    load_under_sem()


def store_when_that_is_over():
    with atomic():
        wait_for(the(shared).early != 0)
    store_under_sem()


def test_what_is_loaded_again_only_under_the_lock():
    """Both ways of loading are over for the one, and not for the other, by where the reader stands: with movers that is
    known."""
    processes = Process(store_when_that_is_over, 0), Process(load_early_and_under_sem, 1)
    full, outcomes, _ = explored("lkmm:7", *processes, movers=True)
    whole = explored("lkmm:7", *processes)
    assert not full and whole[0]
    assert outcomes == explored("lkmm", *processes)[1]


def agent():
    while True:
        with atomic():
            wait_for(the(shared).pending != 0)
            the(shared).pending = 0


def load_and_interrupt():
    load_each()
    with atomic():
        the(shared).pending = 1


def test_stores_move_past_what_their_own_cpu_does_when_it_has_finished():
    """An interrupt handler may act on a CPU that has finished, and knows then of all stores; its CPU's own stores come
    before that anyway.  While it has not finished, what it stores and what the handler does are in their order."""
    without = explored("lkmm", Process(store_each, 0), Process(load_and_interrupt, 1), movers=True)
    handled = Process(store_each, 0), Process(load_and_interrupt, 1), Process(agent, 0, AGENT)
    reduced_, whole = explored("lkmm", *handled, movers=True), explored("lkmm", *handled)
    assert reduced_[1] == whole[1] == without[1]
    assert without[2] < reduced_[2] < 0.6 * whole[2]


@struct(pool=1)
class place:
    x: integer(0, 1)
    told: integer(0, 1)
    ack: integer(0, 1)
    mine: integer(0, 1)


@struct(pool=1, private=True)
class outcome:
    r: integer(0, 2)


def tell_outcome():
    emit(the(outcome).r)


def mine_alone():
    the(place).mine = 1


def tells():
    the(place).x = 1
    the(place).told = 1


def acknowledges():
    while True:
        with atomic():
            wait_for(the(place).told != 0 and the(place).ack == 0)
            the(place).ack = 1


def loads_behind():
    with atomic():
        wait_for(the(place).ack != 0)
    the(outcome).r = the(place).x + 1


def test_the_last_step_of_a_cpu_does_not_move_past_its_interrupt_handler():
    """A handler on a CPU that has finished knows all that there is, and hands it on; before that step it does not."""
    processes = [
        Process(mine_alone, 0), Process(tells, 1), Process(loads_behind, 2), Process(acknowledges, 0, AGENT),
    ]  # fmt: skip
    p = Program("t", processes, observers=[tell_outcome])
    a = with_memory(compile_program(p), "lkmm")
    cells = p.layout().start
    whole, less = (x.explore(a, a.pack(cells), a.rom(cells)) for x in (engine, reduced))
    assert less is not None and set(less.outcomes) == set(whole.outcomes)
    assert len(whole.outcomes) == 2
