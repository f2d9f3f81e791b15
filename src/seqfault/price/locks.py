"""What waiting means under virtual time: spinlocks, semaphores, RCU and shootdowns with queues instead of loops.

Each function stands in for one of the same name of seqfault/kernel or mm/tlb.py (`INSTEAD`); the text that takes the
locks is the same.  A lock's words hold who has it and who waits.

A semaphore's policy is the machine's (`rwsem_policy`), since it has changed more often than its users:

- `steal`: a writer may take a lock that is free although others wait for it (4.x and later); without it the lock is
  handed to whoever waits longest.
- `spin`: a writer spins while a writer holds the lock (3.15 and later), and gets it at once when that one leaves.
- `spin_readers`: and while readers hold it (7d43f1ce9dd0, 5.3).
- `handoff`: who has waited that long is served before any spinner (5.2: 4 ms); 0: never.
- `all_readers`: when a reader is woken all waiting readers are, not only those in front (5.2 and later).
- `readers_first`, `writers_first`: readers pass waiting writers; waiting writers are served before readers.
"""

from __future__ import annotations

from typing import Any

from seqfault.kernel import array, integer, pool_object, ptr, rcu, rwsem, spinlock, struct, the
from seqfault.kernel.rcu import srcu_struct
from seqfault.kernel.rwsem import rw_semaphore
from seqfault.kernel.spinlock import spinlock_t
from seqfault.kernel.task import NR_TASKS, might_sleep, preempt_disable, preempt_enable
from seqfault.kernel.types import Size
from seqfault.price.clock import (
    BLOCKED,
    READY,
    SLEEPING,
    cache_line,
    cell_t,
    hand_over,
    line_t,
    task_t,
    ticks_t,
    vclock,
    vt_block,
    vt_fence,
    vt_read,
    vt_rmw,
    vt_sync,
    vt_wake,
    vt_write,
    vtask,
)
from seqfault.price.words import cell_of, line_of, peek, poke

NR_CALLBACKS = Size("NR_CALLBACKS", 16)
READ, WRITE = 0, 1
FIELD = (1 << 16) - 1
word_t = integer(0, (1 << 48) - 1)
place_t = integer(0, NR_CALLBACKS - 1)
count_t = integer(0, 1 << 60)


@struct(pool=1, private=True)
class lock_costs:
    """`steal` ... `writers_first`: the policy of semaphores; then costs in ticks, then what was counted."""

    steal: bool
    spin: bool
    spin_readers: bool
    all_readers: bool
    readers_first: bool
    writers_first: bool
    handoff: ticks_t
    wakeup: ticks_t  # what waking costs the waker
    latency: ticks_t  # from then on until the woken runs
    idle: ticks_t  # what that takes more when its CPU has been idle for `idle_after`
    idle_after: ticks_t
    ipi_send: ticks_t
    ipi_each: ticks_t
    ipi_handler: ticks_t
    flush: ticks_t
    grace: ticks_t
    sleeps: count_t
    spins: count_t
    ipis: count_t
    callbacks: count_t


@struct(pool=1, private=True)
class callbacks:
    """Deferred frees, oldest first."""

    first: count_t
    last: count_t
    arg: array[integer(0, 1 << 32), NR_CALLBACKS]
    when: array[ticks_t, NR_CALLBACKS]


# -- queues of tasks: first | last << 16, each plus one, and linked by vtask.next
def put_last(queue: integer(0, (1 << 32) - 1), task: task_t) -> integer(0, (1 << 32) - 1):
    pool_object(vtask, task).next = 0
    if queue == 0:
        return task + 1 | task + 1 << 16
    pool_object(vtask, (queue >> 16) - 1).next = task + 1
    return queue & FIELD | task + 1 << 16


def take_first(queue: integer(0, (1 << 32) - 1)) -> integer(0, (1 << 32) - 1):
    first = pool_object(vtask, (queue & FIELD) - 1)
    if first.next == 0:
        return 0
    return queue & ~FIELD | first.next


# -- spinlocks: owner | queue << 16.  Whoever waits gets the lock in turn (qspinlock)
def spin_acquire(cell: cell_t, line: line_t):
    vt_rmw(line)
    m = the(vclock)
    w: word_t = peek(cell)
    if w == 0:
        poke(cell, m.me + 1)
        return
    poke(cell, w & FIELD | put_last(w >> 16, m.me) << 16)
    the(lock_costs).spins += 1
    vt_block(BLOCKED)


def spin_try(cell: cell_t, line: line_t) -> bool:
    vt_rmw(line)
    if peek(cell) != 0:
        return False
    poke(cell, the(vclock).me + 1)
    return True


def spin_release(cell: cell_t, line: line_t):
    vt_write(line)
    vt_sync()
    w: word_t = peek(cell)
    if w >> 16 == 0:
        poke(cell, 0)
        return
    next: task_t = (w >> 16 & FIELD) - 1
    poke(cell, next + 1 | take_first(w >> 16) << 16)
    vt_wake(next, hand_over(line, next))


def spin_lock(lock: spinlock_t):
    preempt_disable()
    spin_acquire(cell_of(lock.owner), line_of(lock.owner))


def spin_lock_nested(lock: spinlock_t, subclass: integer(0, 3)):
    preempt_disable()
    spin_acquire(cell_of(lock.owner), line_of(lock.owner))


def spin_trylock(lock: spinlock_t) -> bool:
    preempt_disable()
    if spin_try(cell_of(lock.owner), line_of(lock.owner)):
        return True
    preempt_enable()
    return False


def spin_unlock(lock: spinlock_t):
    spin_release(cell_of(lock.owner), line_of(lock.owner))
    preempt_enable()


# -- semaphores.  First word: writer | queue << 16; second: readers | spinning writers << 16
def runs_at(task: task_t) -> ticks_t:
    """When a task runs that is woken now."""
    m = the(vclock)
    k = the(lock_costs)
    if m.now >= pool_object(vtask, task).since + k.idle_after:
        return m.now + k.latency + k.idle
    return m.now + k.latency


def rw_sleep(cell: cell_t, kind: integer(0, 1)):
    """Queue up, and leave the CPU.  Back when the lock is ours, or (writers) when it may be."""
    m = the(vclock)
    me = pool_object(vtask, m.me)
    me.kind = kind
    me.granted = 0
    w: word_t = peek(cell)
    poke(cell, w & FIELD | put_last(w >> 16, m.me) << 16)
    the(lock_costs).sleeps += 1
    vt_block(SLEEPING)
    m.now += m.schedule


def rw_down_read(cell: cell_t, line: line_t):
    pool_object(vtask, the(vclock).me).took = 1
    vt_rmw(line)
    w: word_t = peek(cell)
    if w & FIELD == 0 and (w == 0 or the(lock_costs).readers_first):
        poke(cell + 1, peek(cell + 1) + 1)
        return
    rw_sleep(cell, READ)


def rw_try_read(cell: cell_t, line: line_t) -> bool:
    """A look at the count, and a cmpxchg of it until nobody was faster."""
    vt_read(line)
    w: word_t = peek(cell)
    while w & FIELD == 0 and (w == 0 or the(lock_costs).readers_first):
        readers: word_t = peek(cell + 1)
        vt_rmw(line)
        w = peek(cell)
        if w & FIELD == 0 and peek(cell + 1) == readers:
            poke(cell + 1, readers + 1)
            return True
    return False  # held, or waited for


def rw_down_write(cell: cell_t, line: line_t):
    vt_rmw(line)
    m = the(vclock)
    k = the(lock_costs)
    w: word_t = peek(cell)
    r: word_t = peek(cell + 1)
    readers: word_t = r & FIELD
    if w & FIELD == 0 and readers == 0 and (w == 0 or k.steal):
        poke(cell, w | m.me + 1)
        return
    if k.spin and (readers == 0 or k.spin_readers):
        # The line goes to and fro while one spins on it; the one who is first sees the release at once.
        poke(cell + 1, r & FIELD | put_last(r >> 16, m.me) << 16)
        k.spins += 1
        # Nobody spins for one that is not on a CPU, or on a CPU that others want: then it is as if he had slept.
        vt_block(SLEEPING if m.crowded else BLOCKED)
        return
    rw_sleep(cell, WRITE)
    me = pool_object(vtask, m.me)
    while me.granted != 1:
        # Woken to try; somebody may have been faster.
        vt_rmw(line)
        w = peek(cell)
        if w & FIELD == 0 and peek(cell + 1) & FIELD == 0:
            poke(cell, m.me + 1 | take_first(w >> 16) << 16)
            return
        me.granted = 0
        k.sleeps += 1
        vt_block(SLEEPING)
        m.now += m.schedule


def rw_wake_readers(cell: cell_t, queue: integer(0, (1 << 32) - 1)):
    """Let the readers in front in, or all of them."""
    m = the(vclock)
    k = the(lock_costs)
    left: integer(0, (1 << 32) - 1) = 0
    n: task_t = 0
    front = True
    i: integer(0, NR_TASKS) = queue & FIELD
    while i != 0:
        t = pool_object(vtask, i - 1)
        after: integer(0, NR_TASKS) = t.next
        if t.kind == READ and (front or k.all_readers):
            n += 1
            t.granted = 1
            m.now += k.wakeup
            vt_wake(i - 1, runs_at(i - 1))
        elif not k.all_readers:
            left = queue & ~FIELD | i  # the rest as it is
            break
        else:
            front = False
            left = put_last(left, i - 1)
        i = after
    poke(cell, peek(cell) & FIELD | left << 16)
    poke(cell + 1, peek(cell + 1) + n)


def writers_to_front(queue: integer(0, (1 << 32) - 1)) -> integer(0, (1 << 32) - 1):
    """The queue with its first writer in front."""
    out: integer(0, (1 << 32) - 1) = 0
    first: integer(0, NR_TASKS) = queue & FIELD
    while first != 0 and pool_object(vtask, first - 1).kind == READ:
        first = pool_object(vtask, first - 1).next
    if first == 0:
        return queue
    i: integer(0, NR_TASKS) = queue & FIELD
    out = 0
    after: integer(0, NR_TASKS) = pool_object(vtask, first - 1).next
    out = put_last(out, first - 1)
    while i != 0:
        then: integer(0, NR_TASKS) = after if i == first else pool_object(vtask, i - 1).next
        if i != first:
            out = put_last(out, i - 1)
        i = then
    return out


def rw_free(cell: cell_t, line: line_t):
    """Nobody holds the lock any more: who is next?"""
    m = the(vclock)
    k = the(lock_costs)
    w: word_t = peek(cell)
    r: word_t = peek(cell + 1)
    if w == 0 and r == 0:
        return
    queue: integer(0, (1 << 32) - 1) = w >> 16
    if queue != 0 and k.writers_first:
        queue = writers_to_front(queue)
        poke(cell, queue << 16)
    due = False
    if queue != 0 and k.handoff != 0:
        due = m.now >= pool_object(vtask, (queue & FIELD) - 1).since + k.handoff
    if r >> 16 != 0 and not due:
        next: task_t = (r >> 16 & FIELD) - 1
        poke(cell, queue << 16 | next + 1)
        poke(cell + 1, take_first(r >> 16) << 16)
        vt_wake(next, hand_over(line, next))
        return
    if queue == 0:
        return
    t = pool_object(vtask, (queue & FIELD) - 1)
    if t.kind == READ:
        rw_wake_readers(cell, queue)
    elif t.granted == 0:
        first: task_t = (queue & FIELD) - 1
        if k.steal and not due:
            t.granted = 2  # on its way
        else:
            t.granted = 1
            poke(cell, first + 1 | take_first(queue) << 16)
        m.now += k.wakeup
        vt_wake(first, runs_at(first))


def rw_up_read(cell: cell_t, line: line_t):
    vt_rmw(line)
    r: word_t = peek(cell + 1) - 1
    poke(cell + 1, r)
    if r & FIELD == 0:
        rw_free(cell, line)


def rw_up_write(cell: cell_t, line: line_t):
    vt_rmw(line)
    poke(cell, peek(cell) & ~FIELD)
    rw_free(cell, line)


def rw_downgrade(cell: cell_t, line: line_t):
    vt_rmw(line)
    w: word_t = peek(cell) & ~FIELD
    poke(cell, w)
    poke(cell + 1, peek(cell + 1) + 1)
    queue: integer(0, (1 << 32) - 1) = w >> 16
    if queue != 0 and pool_object(vtask, (queue & FIELD) - 1).kind == READ:
        rw_wake_readers(cell, queue)


def down_read(sem: rw_semaphore):
    might_sleep()
    rw_down_read(cell_of(sem.writer), line_of(sem.writer))


def down_read_trylock(sem: rw_semaphore) -> bool:
    return rw_try_read(cell_of(sem.writer), line_of(sem.writer))


def up_read(sem: rw_semaphore):
    rw_up_read(cell_of(sem.writer), line_of(sem.writer))


def down_write(sem: rw_semaphore):
    might_sleep()
    rw_down_write(cell_of(sem.writer), line_of(sem.writer))


def down_write_nested(sem: rw_semaphore, subclass: integer(0, 3)):
    might_sleep()
    rw_down_write(cell_of(sem.writer), line_of(sem.writer))


def up_write(sem: rw_semaphore):
    rw_up_write(cell_of(sem.writer), line_of(sem.writer))


def downgrade_write(sem: rw_semaphore):
    rw_downgrade(cell_of(sem.writer), line_of(sem.writer))


# -- RCU and SRCU
def enter_rcu():
    m = the(vclock)
    pool_object(vtask, m.me).inside = m.now + 1


def leave_rcu():
    pool_object(vtask, the(vclock).me).inside = 0


def rcu_read_lock():
    preempt_disable()
    enter_rcu()


def rcu_read_unlock():
    leave_rcu()
    preempt_enable()


def srcu_read_lock(ss: ptr[srcu_struct]):
    """A count of one's own CPU, and a full barrier."""
    enter_rcu()
    vt_fence()


def srcu_read_unlock(ss: ptr[srcu_struct]):
    vt_fence()
    leave_rcu()


def defer(arg: count_t):
    m = the(vclock)
    c = the(callbacks)
    i: place_t = c.last % NR_CALLBACKS
    assert c.last - c.first < NR_CALLBACKS
    c.arg[i] = arg
    c.when[i] = m.now
    c.last += 1


def call_srcu(ss: ptr[srcu_struct], arg: integer(0, 1 << 32)):
    defer(arg)


def call_rcu(arg: integer(0, 1 << 32)):
    defer(arg)


def callback_due() -> integer(0, 1 << 33):
    """The object whose grace period is over, plus one; 0: there is none."""
    m = the(vclock)
    c = the(callbacks)
    if c.first == c.last:
        return 0
    i: place_t = c.first % NR_CALLBACKS
    when: ticks_t = c.when[i]
    if when + the(lock_costs).grace > m.now:
        return 0
    for t in range(m.tasks):
        inside: ticks_t = pool_object(vtask, t).inside
        if inside != 0 and inside <= when:
            return 0
    c.first += 1
    the(lock_costs).callbacks += 1
    return c.arg[i] + 1


# -- TLB shootdown
def flush_tlb_mm_range(start: integer(0, 1 << 40), end: integer(0, 1 << 40)):
    """smp_call_function_many to the CPUs that run threads of the mm; those that sleep have left it (lazy TLB).

    Only the caller's own mm is flushed: files that are mapped are neither truncated nor written back here.
    """
    m = the(vclock)
    k = the(lock_costs)
    vt_sync()
    m.now += k.flush * min(end - start, 33)
    n: task_t = 0
    space: task_t = pool_object(vtask, m.me).space
    for i in range(m.tasks):
        t = pool_object(vtask, i)
        if i != m.me and t.state <= BLOCKED and t.space == space:
            n += 1
            t.stolen += k.ipi_handler
    if n != 0:
        k.ipis += n
        m.now += k.ipi_send + n * k.ipi_each


INSTEAD: dict[Any, Any] = {
    spinlock.spin_lock: spin_lock,
    spinlock.spin_lock_nested: spin_lock_nested,
    spinlock.spin_trylock: spin_trylock,
    spinlock.spin_unlock: spin_unlock,
    rwsem.down_read: down_read,
    rwsem.down_read_trylock: down_read_trylock,
    rwsem.up_read: up_read,
    rwsem.down_write: down_write,
    rwsem.down_write_nested: down_write_nested,
    rwsem.up_write: up_write,
    rcu.srcu_read_lock: srcu_read_lock,
    rcu.srcu_read_unlock: srcu_read_unlock,
    rcu.call_srcu: call_srcu,
}
for _name, _of, _fn in (
    ("downgrade_write", rwsem, downgrade_write),
    ("rcu_read_lock", rcu, rcu_read_lock),
    ("rcu_read_unlock", rcu, rcu_read_unlock),
    ("call_rcu", rcu, call_rcu),
):
    if hasattr(_of, _name):
        INSTEAD[getattr(_of, _name)] = _fn
__all__ = ["INSTEAD", "READY", "cache_line", "callback_due", "callbacks", "lock_costs"]
