"""A sequence count by itself: one writer, one reader, and the kernel's own words for both.

    seqfault check examples/seqcount/seqcount.py --memory sc
    seqfault why examples/seqcount/seqcount.py --memory all

The reader never waits: if the count is odd, or has moved when it looks again, it leaves without a result.  What it
accepts must be the two halves of one value.
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

value_t = integer(0, 3)


@struct(pool=1)
class record:
    """`low` and `high` belong together, and are written one after the other."""

    seq: seqcount_t
    low: value_t
    high: value_t


def writer():
    r = the(record)
    for v in range(1, 3):
        raw_write_seqcount_begin(r.seq)
        r.low = v
        r.high = v
        raw_write_seqcount_end(r.seq)


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
    "seqcount",
    "one writer and one reader of a sequence count",
    doc=__doc__ or "",
    speculative="accepted",
    processes=(writer, reader),
    sizes={"SEQ_MAX": 7},
)
