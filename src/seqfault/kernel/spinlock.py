"""Spinlocks from one atomic operation.  kernel/locking/qspinlock.c seen from outside: no queue order.

A trylock that fails changes nothing; a lock that is held makes its taker unable to run.
"""

from __future__ import annotations

from seqfault.kernel.task import preempt_disable, preempt_enable, task_t
from seqfault.kernel.types import integer, struct
from seqfault.kernel.words import (
    atomic,
    check,
    cmpxchg_acquire,
    cpu_relax,
    lock_acquire,
    lock_release,
    process_id,
    smp_store_release,
)


@struct(at_rest="zero")
class spinlock_t:
    """`owner`: number of the process that holds it, plus one; 0 when free."""

    owner: task_t


def __spin_trylock(lock: spinlock_t) -> bool:
    with atomic():
        check(lock.owner != process_id() + 1, "double-acquire", lock)
        return cmpxchg_acquire(lock.owner, 0, process_id() + 1) == 0


def spin_lock_nested(lock: spinlock_t, subclass: integer(0, 3)):
    preempt_disable()
    lock_acquire(lock, subclass)
    while not __spin_trylock(lock):
        cpu_relax()


def spin_lock(lock: spinlock_t):
    preempt_disable()
    lock_acquire(lock)
    while not __spin_trylock(lock):
        cpu_relax()


def spin_trylock(lock: spinlock_t) -> bool:
    preempt_disable()
    if __spin_trylock(lock):
        lock_acquire(lock, 0, True)
        return True
    preempt_enable()
    return False


def spin_unlock(lock: spinlock_t):
    lock_release(lock)
    with atomic():
        check(lock.owner == process_id() + 1, "release-not-held", lock)
        smp_store_release(lock.owner, 0)
    preempt_enable()
