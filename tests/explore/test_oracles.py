"""Each oracle fires, on the smallest text that deserves it, and is silent on the text that does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seqfault.compile.program import Process, Program, compile_program
from seqfault.compile.work import MAX_CHOICES
from seqfault.explore import tiers
from seqfault.explore.engine import Exploration, explore
from seqfault.explore.locks import cycles
from seqfault.kernel import (
    BUG_ON,
    NULL,
    choose,
    integer,
    kmem_cache_alloc,
    kmem_cache_free,
    kmem_cache_zalloc,
    pool_object,
    ptr,
    struct,
    the,
)
from seqfault.kernel.rcu import call_srcu, rcu_agent, srcu_read_lock, srcu_read_unlock, srcu_struct
from seqfault.kernel.rwsem import down_read, down_write, rw_semaphore, up_read, up_write
from seqfault.kernel.seqlock import seqcount_t, write_seqcount_begin, write_seqcount_end
from seqfault.kernel.spinlock import spin_lock, spin_trylock, spin_unlock, spinlock_t
from seqfault.kernel.task import (
    local_irq_disable,
    local_irq_enable,
    might_sleep,
    preempt_disable,
    preempt_enable,
)


@struct(pool=3)
class thing:
    n: integer(0, 7)
    next: ptr[thing]


@struct(pool=1)
class world:
    head: ptr[thing]
    small: integer(0, 3)
    zero: integer(0, 7)
    a: spinlock_t
    b: spinlock_t
    sem: rw_semaphore
    seq: seqcount_t


def explored(*entries: Callable[..., None], agents: tuple[Callable[..., None], ...] = ()) -> Exploration:
    procs = [Process(f, i) for i, f in enumerate(entries)]
    procs += [Process(f, 0, 1) for f in agents]
    p = Program("t", procs)
    a = compile_program(p)
    cells = p.layout().start
    ex = explore(a, a.pack(cells), a.rom(cells))
    # generated steps say the same, with and without movers
    for movers in (False, True):
        other = tiers.explore(a, a.pack(cells), a.rom(cells), movers=movers, graph=True)
        kinds = [{(v.kind, v.pool) for v in e.violations} for e in (ex, other)]
        assert kinds[0] == kinds[1], (movers, [a.kinds[k] for k, _ in kinds[0] ^ kinds[1]])
        assert set(ex.outcomes) == set(other.outcomes)
        assert {(i, j) for i, j, _ in ex.edges} == {(i, j) for i, j, _ in other.edges}
        if not movers:
            assert (ex.states, ex.transitions, ex.finals) == (other.states, other.transitions, other.finals)
    return ex


def kinds(ex: Exploration) -> set[str]:
    return {ex.automaton.kinds[v.kind] for v in ex.violations}


def use_after_free():
    w = the(world)
    t = kmem_cache_zalloc(thing)
    kmem_cache_free(t)
    w.small = 0 if t.n == 0 else 1


def use_before_free():
    w = the(world)
    t = kmem_cache_zalloc(thing)
    w.small = 0 if t.n == 0 else 1
    kmem_cache_free(t)


def double_free():
    t = kmem_cache_zalloc(thing)
    kmem_cache_free(t)
    kmem_cache_free(t)


def single_free():
    t = kmem_cache_zalloc(thing)
    kmem_cache_free(t)


def null_dereference():
    w = the(world)
    w.head.n = 1


def null_tested():
    w = the(world)
    if w.head:
        w.head.n = 1


def uninitialised():
    w = the(world)
    t = kmem_cache_alloc(thing)
    w.small = 1 if t.n == 0 else 2


def initialised():
    w = the(world)
    t = kmem_cache_alloc(thing)
    t.n = 0
    w.small = 1 if t.n == 0 else 2


def out_of_pool():
    w = the(world)
    t = pool_object(thing, w.small + 3)
    w.head = t


def inside_pool():
    w = the(world)
    t = pool_object(thing, w.small)
    w.head = t


def overflow():
    w = the(world)
    w.small = w.small + 4


def no_overflow():
    w = the(world)
    w.small = w.small + 3


def too_large():
    w = the(world)
    x = w.zero + 9223372036854775807
    x = x + 1
    w.zero = x % 8


def large():
    w = the(world)
    x = w.zero + 9223372036854775806
    x = x + 1
    w.zero = x % 8


def by_zero():
    w = the(world)
    w.small = 3 // w.zero


def by_one():
    w = the(world)
    w.small = 3 // (w.zero + 1)


def shift_below():
    w = the(world)
    w.small = 1 << w.zero - 1


def shift():
    w = the(world)
    w.small = 1 << w.zero


def asserts():
    w = the(world)
    assert w.small == 1


def asserts_right():
    w = the(world)
    assert w.small == 0


def bug():
    w = the(world)
    BUG_ON(w.small == 0)


def no_bug():
    w = the(world)
    BUG_ON(w.small == 1)


def takes_twice():
    w = the(world)
    spin_lock(w.a)
    spin_lock(w.a)
    spin_unlock(w.a)


def takes_once():
    w = the(world)
    spin_lock(w.a)
    spin_unlock(w.a)


def sem_twice():
    w = the(world)
    down_read(w.sem)
    down_read(w.sem)
    up_read(w.sem)


def sem_once():
    w = the(world)
    down_read(w.sem)
    up_read(w.sem)


def gives_what_it_has_not():
    w = the(world)
    up_write(w.sem)


def gives_what_it_has():
    w = the(world)
    down_write(w.sem)
    up_write(w.sem)


def forgets_lock():
    w = the(world)
    down_write(w.sem)


def forgets_count():
    w = the(world)
    write_seqcount_begin(w.seq)


def ends_count():
    w = the(world)
    write_seqcount_begin(w.seq)
    write_seqcount_end(w.seq)


def sleeps_with_lock():
    w = the(world)
    spin_lock(w.a)
    might_sleep()
    spin_unlock(w.a)


def sleeps_without():
    w = the(world)
    spin_lock(w.a)
    spin_unlock(w.a)
    might_sleep()


def sleeps_irqs_off():
    local_irq_disable()
    might_sleep()
    local_irq_enable()


def sleeps_irqs_on():
    local_irq_disable()
    local_irq_enable()
    might_sleep()


def enables_twice():
    local_irq_disable()
    local_irq_enable()
    local_irq_enable()


def preempts_twice():
    preempt_disable()
    preempt_enable()
    preempt_enable()


def preempts_once():
    preempt_disable()
    preempt_enable()


def queues_twice():
    call_srcu(the(srcu_struct), 1)
    call_srcu(the(srcu_struct), 1)


def queues_once():
    call_srcu(the(srcu_struct), 1)
    call_srcu(the(srcu_struct), 2)


def reads_twice():
    srcu_read_lock(the(srcu_struct))
    srcu_read_lock(the(srcu_struct))
    srcu_read_unlock(the(srcu_struct))


def reads_once():
    srcu_read_lock(the(srcu_struct))
    srcu_read_unlock(the(srcu_struct))


def spins_for_ever():
    w = the(world)
    while w.head == NULL or w.head != NULL:
        w.small = 0
        break
    n = 0
    while n >= 0:
        n = n ^ 1


PAIRS = [
    ("use-after-free", use_after_free, use_before_free),
    ("double-free", double_free, single_free),
    ("null-dereference", null_dereference, null_tested),
    ("uninitialised-read", uninitialised, initialised),
    ("index-out-of-range", out_of_pool, inside_pool),
    ("range-overflow", overflow, no_overflow),
    ("arithmetic-overflow", too_large, large),
    ("division-by-zero", by_zero, by_one),
    ("bad-shift", shift_below, shift),
    ("assertion", asserts, asserts_right),
    ("kernel-bug", bug, no_bug),
    ("double-acquire", takes_twice, takes_once),
    ("double-acquire", sem_twice, sem_once),
    ("double-acquire", reads_twice, reads_once),
    ("release-not-held", gives_what_it_has_not, gives_what_it_has),
    ("lock-left-held", forgets_lock, gives_what_it_has),
    ("sequence-left-odd", forgets_count, ends_count),
    ("sleep-in-atomic", sleeps_with_lock, sleeps_without),
    ("sleep-with-irqs-off", sleeps_irqs_off, sleeps_irqs_on),
    ("unbalanced-irq", enables_twice, sleeps_irqs_on),
    ("unbalanced-preempt", preempts_twice, preempts_once),
]


@pytest.mark.parametrize("kind,broken,right", PAIRS, ids=[f"{k}-{b.__name__}" for k, b, _ in PAIRS])
def test_fires_and_is_silent(kind: str, broken: Callable[..., None], right: Callable[..., None]):
    assert kind in kinds(explored(broken))
    assert not kinds(explored(right))


def test_double_queue():
    assert "double-free" in kinds(explored(queues_twice))
    assert "double-free" not in kinds(explored(queues_once))


def test_endless_step_is_a_limit():
    assert kinds(explored(spins_for_ever)) == {"endless-step"}


def chooses_without_end():
    n: integer(0, 7) = 0
    for _ in range(MAX_CHOICES + 1):
        n = (n + choose(2)) % 3
    the(world).zero = n


def chooses_up_to_the_limit():
    n: integer(0, 7) = 0
    for _ in range(7):
        n = (n + choose(2)) % 3
    the(world).zero = n


def chooses_among_many():
    the(world).zero = choose(5000) % 4


def test_too_many_choices():
    assert kinds(explored(chooses_up_to_the_limit)) == set()
    assert kinds(explored(chooses_without_end)) == {"too-many-choices"}
    assert kinds(explored(chooses_among_many)) == {"too-many-choices"}
    assert kinds(explored(*[chooses_among_many] * 3)) == {"too-many-choices"}


def ab():
    w = the(world)
    spin_lock(w.a)
    spin_lock(w.b)
    spin_unlock(w.b)
    spin_unlock(w.a)


def ba():
    w = the(world)
    spin_lock(w.b)
    spin_lock(w.a)
    spin_unlock(w.a)
    spin_unlock(w.b)


def b_then_try_a():
    w = the(world)
    spin_lock(w.b)
    if spin_trylock(w.a):
        spin_unlock(w.a)
    spin_unlock(w.b)


def edges(ex: Exploration) -> list[tuple[str, str]]:
    names = ex.automaton.lock_classes
    return [(names[h], names[t]) for h, t, _ in ex.edges]


def test_deadlock_and_inversion():
    ex = explored(ab, ba)
    assert kinds(ex) == {"deadlock"}
    assert cycles(edges(ex)) == [["world.a", "world.b"]]


def test_same_order_is_fine():
    ex = explored(ab, ab)
    assert not kinds(ex) and not cycles(edges(ex))


def test_trylock_neither_deadlocks_nor_inverts():
    ex = explored(ab, b_then_try_a)
    assert not kinds(ex) and not cycles(edges(ex))


def test_inversion_without_deadlock():
    """Both orders by one CPU, one after the other: no execution deadlocks, lockdep still speaks."""

    ex = explored(both_orders)
    assert not kinds(ex)
    assert cycles(edges(ex)) == [["world.a", "world.b"]]


def both_orders():
    ab()
    ba()


def frees_deferred():
    w = the(world)
    t = kmem_cache_zalloc(thing)
    w.head = t
    w.head = NULL
    call_srcu(the(srcu_struct), 0)


def reads_in_section():
    w = the(world)
    ss = the(srcu_struct)
    srcu_read_lock(ss)
    t = w.head
    if t:
        w.small = t.n % 4
    srcu_read_unlock(ss)


def reads_outside_section():
    w = the(world)
    t = w.head
    if t:
        w.small = t.n % 4


def free_thing(arg: integer(0, 255)):
    kmem_cache_free(pool_object(thing, arg))


@pytest.mark.parametrize("reader,found", [(reads_in_section, set()), (reads_outside_section, {"use-after-free"})])
def test_grace_period(reader: Callable[..., None], found: set[str]):
    """A deferred free can happen at any moment after the readers that were inside have left, and not before."""
    from seqfault.kernel.task import rcu_callback

    p = Program("t", [Process(frees_deferred, 0), Process(reader, 1), Process(rcu_agent, 0, 1)], binds={rcu_callback: free_thing})
    a = compile_program(p)
    cells = p.layout().start
    assert kinds(explore(a, a.pack(cells), a.rom(cells))) == found


def test_exploration_goes_on_past_a_violation():
    """The double free comes after the use after free, on the same path."""
    ex = explored(use_after_free_then_double_free)
    assert {"use-after-free", "double-free"} <= kinds(ex)


def use_after_free_then_double_free():
    w = the(world)
    t = kmem_cache_zalloc(thing)
    kmem_cache_free(t)
    w.small = t.n % 4
    kmem_cache_free(t)


def test_limits_make_it_incomplete():
    p = Program("t", [Process(ab, 0), Process(ba, 1)])
    a = compile_program(p)
    cells = p.layout().start
    ex = explore(a, a.pack(cells), a.rom(cells), max_states=5)
    assert not ex.complete and "5 states" in ex.reason
    ex = explore(a, a.pack(cells), a.rom(cells), timeout=0.0)
    assert not ex.complete and "time limit" in ex.reason
