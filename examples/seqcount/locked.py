"""A sequence count whose writers take a lock, two of them and three readers.

    seqfault check examples/seqcount/locked.py
    seqfault check examples/seqcount/locked.py --reduce symmetry

Processes that run the same function can be exchanged: the second command explores a ninth of the states.
"""

from __future__ import annotations

from seqfault.kernel import Protocol, count, integer, struct, the
from seqfault.kernel.seqlock import (
    raw_read_seqcount,
    raw_write_seqcount_begin,
    raw_write_seqcount_end,
    read_seqcount_retry,
    seqcount_t,
)
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t

value_t = integer(0, 3)


@struct(pool=1)
class record:
    """`low` and `high` belong together; `lock` is held by who writes them."""

    seq: seqcount_t
    lock: spinlock_t
    low: value_t
    high: value_t


def writer():
    r = the(record)
    spin_lock(r.lock)
    v: value_t = (r.low + 1) & 3
    raw_write_seqcount_begin(r.seq)
    r.low = v
    r.high = v
    raw_write_seqcount_end(r.seq)
    spin_unlock(r.lock)


def reader():
    r = the(record)
    seq = raw_read_seqcount(r.seq)
    if seq & 1 == 0:
        low: value_t = r.low
        high: value_t = r.high
        if not read_seqcount_retry(r.seq, seq):
            count("accepted")
            assert low == high


PROTOCOL = Protocol(
    "seqcount-locked",
    "two writers, which take a lock, and three readers of a sequence count",
    doc=__doc__ or "",
    speculative="accepted",
    processes=(writer, writer, reader, reader, reader),
    sizes={"SEQ_MAX": 7},
)
