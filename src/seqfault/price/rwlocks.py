"""Reader-writer spinlocks under virtual time.  Kernel Python.

Words as of semaphores (price/locks.py): writer | queue << 16, then the number of readers.  Who comes while a writer has
the lock or anybody waits, waits in turn (qrwlock).
"""

from __future__ import annotations

from typing import Any

from seqfault.kernel import integer, pool_object, rwlock, the
from seqfault.kernel.rwlock import rwlock_t
from seqfault.kernel.task import preempt_disable, preempt_enable
from seqfault.price.clock import (
    BLOCKED,
    cell_t,
    hand_over,
    line_t,
    task_t,
    vclock,
    vt_block,
    vt_rmw,
    vt_sync,
    vt_wake,
    vt_write,
    vtask,
)
from seqfault.price.locks import FIELD, READ, WRITE, lock_costs, put_last, take_first, word_t
from seqfault.price.words import cell_of, line_of, peek, poke


def rwlock_wait(cell: cell_t, kind: integer(0, 1)):
    me = pool_object(vtask, the(vclock).me)
    me.kind = kind
    w: word_t = peek(cell)
    poke(cell, w & FIELD | put_last(w >> 16, the(vclock).me) << 16)
    the(lock_costs).spins += 1
    vt_block(BLOCKED)


def rwlock_next(cell: cell_t, line: line_t):
    """A writer is gone, or the last reader: the first in the queue, and all readers between him and the next writer."""
    w: word_t = peek(cell)
    queue: integer(0, (1 << 32) - 1) = w >> 16
    while queue != 0:
        next: task_t = (queue & FIELD) - 1
        kind: integer(0, 1) = pool_object(vtask, next).kind
        if kind == WRITE and peek(cell + 1) != 0:
            break
        queue = take_first(queue)
        if kind == WRITE:
            poke(cell, next + 1 | queue << 16)
            vt_wake(next, hand_over(line, next))
            return
        poke(cell + 1, peek(cell + 1) + 1)
        vt_wake(next, hand_over(line, next))
    poke(cell, queue << 16)


def read_lock(lock: rwlock_t):
    preempt_disable()
    cell: cell_t = cell_of(lock.writer)
    vt_rmw(line_of(lock.writer))
    if peek(cell) == 0:
        poke(cell + 1, peek(cell + 1) + 1)
    else:
        rwlock_wait(cell, READ)


def read_unlock(lock: rwlock_t):
    cell: cell_t = cell_of(lock.writer)
    vt_rmw(line_of(lock.writer))
    readers: word_t = peek(cell + 1) - 1
    poke(cell + 1, readers)
    if readers == 0:
        rwlock_next(cell, line_of(lock.writer))
    preempt_enable()


def write_lock(lock: rwlock_t):
    preempt_disable()
    cell: cell_t = cell_of(lock.writer)
    vt_rmw(line_of(lock.writer))
    if peek(cell) == 0 and peek(cell + 1) == 0:
        poke(cell, the(vclock).me + 1)
    else:
        rwlock_wait(cell, WRITE)


def write_unlock(lock: rwlock_t):
    cell: cell_t = cell_of(lock.writer)
    vt_write(line_of(lock.writer))
    vt_sync()
    poke(cell, peek(cell) & ~FIELD)
    rwlock_next(cell, line_of(lock.writer))
    preempt_enable()


INSTEAD: dict[Any, Any] = {
    rwlock.read_lock: read_lock,
    rwlock.read_unlock: read_unlock,
    rwlock.write_lock: write_lock,
    rwlock.write_unlock: write_unlock,
}
