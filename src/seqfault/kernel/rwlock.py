"""Reader-writer spinlocks.  kernel/locking/qrwlock.c seen from outside: no queue order, every order of grants.

Who waits cannot run; who holds one cannot sleep.
"""

from __future__ import annotations

from seqfault.kernel.task import preempt_disable, preempt_enable, task_t, taskmask_t
from seqfault.kernel.types import struct
from seqfault.kernel.words import (
    atomic,
    check,
    cmpxchg_acquire,
    cpu_relax,
    fetch_add_acquire,
    lock_acquire,
    lock_release,
    process_id,
    smp_store_release,
)


@struct(at_rest="zero")
class rwlock_t:
    """`writer`: the process that holds it for writing, plus one.  `readers`: a bit per process."""

    writer: task_t
    readers: taskmask_t


def __read_trylock(lock: rwlock_t) -> bool:
    with atomic():
        me = 1 << process_id()
        check(lock.writer != process_id() + 1 and not lock.readers & me, "double-acquire", lock)
        if lock.writer != 0:
            return False
        fetch_add_acquire(lock.readers, me)
        return True


def __write_trylock(lock: rwlock_t) -> bool:
    with atomic():
        me = 1 << process_id()
        check(lock.writer != process_id() + 1 and not lock.readers & me, "double-acquire", lock)
        return lock.readers == 0 and cmpxchg_acquire(lock.writer, 0, process_id() + 1) == 0


def read_lock(lock: rwlock_t):
    preempt_disable()
    lock_acquire(lock)
    while not __read_trylock(lock):
        cpu_relax()


def read_unlock(lock: rwlock_t):
    lock_release(lock)
    with atomic():
        me = 1 << process_id()
        check(lock.readers & me != 0, "release-not-held", lock)
        smp_store_release(lock.readers, lock.readers & ~me)
    preempt_enable()


def write_lock(lock: rwlock_t):
    preempt_disable()
    lock_acquire(lock)
    while not __write_trylock(lock):
        cpu_relax()


def write_unlock(lock: rwlock_t):
    lock_release(lock)
    with atomic():
        check(lock.writer == process_id() + 1, "release-not-held", lock)
        smp_store_release(lock.writer, 0)
    preempt_enable()
