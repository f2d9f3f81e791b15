"""RCU and SRCU as their users see them: a callback runs at some moment after every reader that was inside
when it was queued has left.  kernel/rcu/srcutree.c; the requirement, not the implementation.

A callback names an object by number; the place ``rcu_callback/call`` says what is done with it.
"""

from __future__ import annotations

from seqfault.kernel.task import preempt_disable, preempt_enable, rcu_callback, taskmask_t
from seqfault.kernel.types import Size, array, integer, ptr, struct
from seqfault.kernel.words import BUG_ON, atomic, check, choose, process_id, the, wait_for

NR_RCU = Size("NR_RCU", 4)


@struct
class rcu_head:
    """`arg`: number of the object, plus one; 0: this slot is free.  `waiting`: readers to wait for."""

    arg: integer(0, 255)
    waiting: taskmask_t


@struct(pool=1, static=True)
class srcu_struct:
    """One SRCU domain.  `readers`: a bit per process inside."""

    readers: taskmask_t
    queue: array[rcu_head, NR_RCU]


def look_at_callbacks(ss: ptr[srcu_struct]):
    """Whoever begins after a grace period sees what was done before it (tools/memory-model/Documentation/
    explanation.txt, "RCU relations"): he reads what the worker wrote.  Under sc that says nothing."""
    queued = 0
    for i in range(NR_RCU):
        queued += min(ss.queue[i].arg, 1)
    BUG_ON(queued > NR_RCU)


def srcu_read_lock(ss: ptr[srcu_struct]):
    with atomic():
        check(not ss.readers & 1 << process_id(), "double-acquire", ss)
        look_at_callbacks(ss)
        ss.readers = ss.readers | 1 << process_id()


def srcu_read_unlock(ss: ptr[srcu_struct]):
    with atomic():
        me = 1 << process_id()
        check(ss.readers & me != 0, "release-not-held", ss)
        ss.readers = ss.readers & ~me
        for i in range(NR_RCU):
            if ss.queue[i].waiting & me:
                ss.queue[i].waiting = ss.queue[i].waiting & ~me


def call_srcu(ss: ptr[srcu_struct], arg: integer(0, 254)):
    """Queue object number `arg` (index_of) to be given to the callback after a grace period."""
    with atomic():
        slot = -1
        for i in range(NR_RCU):
            if ss.queue[i].arg == 0:
                slot = i
                break
            check(ss.queue[i].arg != arg + 1, "double-free")
        BUG_ON(slot < 0)
        ss.queue[slot].arg = arg + 1
        ss.queue[slot].waiting = ss.readers


def rcu_read_lock():
    """Plain RCU: a section that may not sleep.  Its callbacks wait as those of SRCU do: there is one domain."""
    preempt_disable()
    ss = the(srcu_struct)
    with atomic():
        look_at_callbacks(ss)
        ss.readers = ss.readers | 1 << process_id()


def rcu_read_unlock():
    ss = the(srcu_struct)
    with atomic():
        me = 1 << process_id()
        check(ss.readers & me != 0, "release-not-held", ss)
        ss.readers = ss.readers & ~me
        for i in range(NR_RCU):
            if ss.queue[i].waiting & me:
                ss.queue[i].waiting = ss.queue[i].waiting & ~me
    preempt_enable()


def call_rcu(arg: integer(0, 254)):
    """Queue object number `arg` (index_of) to be given to the callback after a grace period."""
    call_srcu(the(srcu_struct), arg)


def rcu_agent():
    """The grace-period worker: any queued callback whose readers have left, at any moment."""
    ss = the(srcu_struct)
    while True:
        with atomic():
            i = choose(NR_RCU)
            wait_for(ss.queue[i].arg != 0)
            wait_for(ss.queue[i].waiting == 0)
            arg = ss.queue[i].arg - 1
            ss.queue[i].arg = 0
        rcu_callback(arg)
