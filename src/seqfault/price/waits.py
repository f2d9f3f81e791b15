"""Threads of a recording that wait for each other: for a mapping, a mark, a thread's beginning or end.  Kernel Python.

It is no part of what is priced: whoever waits goes on at the moment in which what he waits for is so.
"""

from __future__ import annotations

from seqfault.kernel import array, integer, struct, the
from seqfault.kernel.task import NR_TASKS
from seqfault.price.clock import TICKS, task_t, vclock, vt_rouse, vt_sleep, vt_sync

PATIENCE = 40_000_000 * TICKS  # who waits longer goes on without
what_t = integer(0, 1 << 40)


@struct(pool=1, private=True)
class waiting:
    """How many threads wait, and each one's for what; 0: nothing."""

    n: task_t
    what: array[what_t, NR_TASKS + 1]


def wait_for(what: what_t):
    """Off the CPU until `it_is_so`, or out of patience.  Nobody else is behind in time (`vt_sync`)."""
    w = the(waiting)
    w.what[the(vclock).me] = what
    w.n += 1
    vt_sleep(PATIENCE)
    w.n -= 1
    w.what[the(vclock).me] = 0


def it_is_so(what: what_t):
    w = the(waiting)
    if w.n == 0:
        return
    vt_sync()
    for i in range(the(vclock).tasks):
        if w.what[i] == what:
            w.what[i] = 0
            vt_rouse(i)
