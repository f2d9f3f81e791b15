"""Reader-writer semaphores.  kernel/locking/rwsem-xadd.c seen from outside.

Who waits is not queued: a waiting writer does not hold readers back, so every order of grants is
explored, the fair ones among them.
"""

from __future__ import annotations

from seqfault.kernel.task import might_sleep, task_t, taskmask_t
from seqfault.kernel.types import integer, struct
from seqfault.kernel.words import atomic, check, cpu_relax, lock_acquire, lock_release, process_id


@struct(at_rest="zero")
class rw_semaphore:
    """`writer`: the process that holds it for writing, plus one.  `readers`: a bit per process."""

    writer: task_t
    readers: taskmask_t


def __down_write(sem: rw_semaphore) -> bool:
    with atomic():
        check(sem.writer != process_id() + 1, "double-acquire", sem)
        check(not sem.readers & 1 << process_id(), "double-acquire", sem)
        if sem.writer != 0 or sem.readers != 0:
            return False
        sem.writer = process_id() + 1
        return True


def __down_read(sem: rw_semaphore) -> bool:
    with atomic():
        check(sem.writer != process_id() + 1, "double-acquire", sem)
        check(not sem.readers & 1 << process_id(), "double-acquire", sem)
        if sem.writer != 0:
            return False
        sem.readers = sem.readers | 1 << process_id()
        return True


def down_write(sem: rw_semaphore):
    might_sleep()
    lock_acquire(sem)
    while not __down_write(sem):
        cpu_relax()


def down_write_nested(sem: rw_semaphore, subclass: integer(0, 3)):
    might_sleep()
    lock_acquire(sem, subclass)
    while not __down_write(sem):
        cpu_relax()


def up_write(sem: rw_semaphore):
    lock_release(sem)
    with atomic():
        check(sem.writer == process_id() + 1, "release-not-held", sem)
        sem.writer = 0


def downgrade_write(sem: rw_semaphore):
    """From writing to reading, with no moment in between."""
    with atomic():
        check(sem.writer == process_id() + 1, "release-not-held", sem)
        sem.writer = 0
        sem.readers = sem.readers | 1 << process_id()


def down_read(sem: rw_semaphore):
    might_sleep()
    lock_acquire(sem)
    while not __down_read(sem):
        cpu_relax()


def down_read_trylock(sem: rw_semaphore) -> bool:
    if __down_read(sem):
        lock_acquire(sem, 0, True)
        return True
    return False


def up_read(sem: rw_semaphore):
    lock_release(sem)
    with atomic():
        check(sem.readers & 1 << process_id() != 0, "release-not-held", sem)
        sem.readers = sem.readers & ~(1 << process_id())
