"""Sequence counts and sequence locks.  include/linux/seqlock.h, 4.12.

The count is odd while a writer is inside.  Its four barriers (two in the writer, two in the reader) are
where the kernel has them.  The kernel's count has 32 bits and wraps; here it has SEQ_MAX and a wrap
is a reported error.
"""

from __future__ import annotations

from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t
from seqfault.kernel.types import Size, integer, struct
from seqfault.kernel.words import (
    READ_ONCE,
    cpu_relax,
    lock_acquire,
    lock_release,
    smp_rmb,
    smp_wmb,
)

SEQ_MAX = Size("SEQ_MAX", 63)
SINGLE_DEPTH_NESTING = 1
seq_t = integer(0, SEQ_MAX, "seq_t")


@struct(at_rest="even")
class seqcount_t:
    """`sequence`: how many times a writer came or went."""

    sequence: seq_t


@struct
class seqlock_t:
    """A sequence count whose writers take a spinlock."""

    seqcount: seqcount_t
    lock: spinlock_t


def seqcount_init(s: seqcount_t):
    s.sequence = 0


def raw_write_seqcount_begin(s: seqcount_t):
    s.sequence += 1
    smp_wmb()


def raw_write_seqcount_end(s: seqcount_t):
    smp_wmb()
    s.sequence += 1


def write_seqcount_begin(s: seqcount_t):
    raw_write_seqcount_begin(s)
    lock_acquire(s)


def write_seqcount_begin_nested(s: seqcount_t, subclass: integer(0, 3)):
    raw_write_seqcount_begin(s)
    lock_acquire(s, subclass)


def write_seqcount_end(s: seqcount_t):
    lock_release(s)
    raw_write_seqcount_end(s)


def raw_read_seqcount(s: seqcount_t) -> seq_t:
    """The count as it is, odd or even.  Does not wait for a writer."""
    ret = READ_ONCE(s.sequence)
    smp_rmb()
    return ret


def read_seqcount_begin(s: seqcount_t) -> seq_t:
    """Wait until the count is even, then return it."""
    while (ret := READ_ONCE(s.sequence)) & 1:
        cpu_relax()
    smp_rmb()
    return ret


def read_seqcount_retry(s: seqcount_t, start: seq_t) -> bool:
    """Whether the count moved since `start`."""
    smp_rmb()
    return s.sequence != start


def write_seqlock(sl: seqlock_t):
    spin_lock(sl.lock)
    write_seqcount_begin(sl.seqcount)


def write_sequnlock(sl: seqlock_t):
    write_seqcount_end(sl.seqcount)
    spin_unlock(sl.lock)


def read_seqbegin(sl: seqlock_t) -> seq_t:
    return read_seqcount_begin(sl.seqcount)


def read_seqretry(sl: seqlock_t, start: seq_t) -> bool:
    return read_seqcount_retry(sl.seqcount, start)
