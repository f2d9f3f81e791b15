"""Sites: the calls of a text that order or protect something, which `seqfault why` takes out one at a time.

Nothing here is part of a text.  A program that is compiled with sites has a switch for each, in read-only memory: a
text with some of them taken out is the same automaton with other data.  What begins a section and what ends it go
together: who skips the first notes what it would have taken, and skips the end of just that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seqfault.kernel import rcu, rwlock, rwsem, seqlock, spinlock, task
from seqfault.kernel.places import Place
from seqfault.kernel.types import array, integer, struct

NR_SITES: Any = 320
DEEP: Any = 4  # sections that one process has skipped and not left
NR_CAUSES: Any = 32  # counts of which it is noted who moved them last
MOST_CELLS: Any = 16382

# what begins a section -> the kind of site that it is
OPENERS: dict[Callable[..., Any], str] = {
    seqlock.write_seqcount_begin: "count",
    seqlock.write_seqcount_begin_nested: "count",
    seqlock.raw_write_seqcount_begin: "count",
    spinlock.spin_lock: "lock",
    spinlock.spin_lock_nested: "lock",
    rwlock.read_lock: "lock",
    rwlock.write_lock: "lock",
    rwsem.down_read: "lock",
    rwsem.down_write: "lock",
    rwsem.down_write_nested: "lock",
    rcu.srcu_read_lock: "rcu",
    rcu.rcu_read_lock: "rcu",
    task.local_irq_disable: "irqs",
}
CLOSERS: tuple[Callable[..., Any], ...] = (
    seqlock.write_seqcount_end,
    seqlock.raw_write_seqcount_end,
    spinlock.spin_unlock,
    rwlock.read_unlock,
    rwlock.write_unlock,
    rwsem.up_read,
    rwsem.up_write,
    rcu.srcu_read_unlock,
    rcu.rcu_read_unlock,
    task.local_irq_enable,
)
# what a section that was not begun does not do either, and is not ended by
KEEPERS: tuple[Callable[..., Any], ...] = (rwsem.downgrade_write,)
# a trylock -> the lock that waits instead
TRYLOCKS: dict[Callable[..., Any], Callable[..., Any]] = {
    spinlock.spin_trylock: spinlock.spin_lock,
    rwsem.down_read_trylock: rwsem.down_read,
}
# a deferred free -> what is done with its last argument after a grace period
DEFERRED: dict[Callable[..., Any], Place] = {rcu.call_srcu: task.rcu_callback, rcu.call_rcu: task.rcu_callback}
# helpers of the mm text that read an entry again, under its lock
REREADS = ("fault_pte", "pmd_none")
# calls of a protocol that mark an object, as gone or as being changed
MARKS = ("RB_CLEAR_NODE", "vma_start_write", "vma_mark_detached", "vma_end_write_all")


@struct(pool=1, rom=True)
class site_switches:
    """`off[k]`: site k is taken out; `off[0]`: any is."""

    off: array[bool, NR_SITES]


@struct(pool=task.NR_TASKS, private=True)
class site_notes:
    """What each process has skipped: numbers of cells, plus one; 0: nothing.  The checker's notes."""

    skipped: array[integer(0, MOST_CELLS + 1), DEEP]


@struct(pool=1, private=True)
class site_causes:
    """`last`: of each count, the site whose section moved it last.  The checker's notes."""

    last: array[integer(0, NR_SITES), NR_CAUSES]
