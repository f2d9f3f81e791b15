"""A record of two fields under a sequence count, in coarse steps.

The grouping of steps is that of the Promela model that Spin, TLC and two Python checkers agree on; `STATES` are their
counts, without any reduction.
"""

from __future__ import annotations

from seqfault.compile.program import Process, Program
from seqfault.kernel import Size, atomic, integer, struct, the, wait_for

KW = Size("KW", 2)  # rounds of a writer
KR = Size("KR", 2)  # rounds of a reader
COUNT_MAX = Size("COUNT_MAX", 255)
count_t = integer(0, COUNT_MAX, "count_t")

# (writers, readers, rounds of a writer, rounds of a reader) -> states
STATES = {(1, 2, 2, 2): 9_877, (1, 2, 4, 4): 444_825, (2, 2, 3, 3): 4_157_242}


@struct(pool=1)
class record:
    """`a` and `b` must be seen equal; `lk` is held by a writer."""

    seq: count_t
    a: count_t
    b: count_t
    lk: bool


def writer():
    s = the(record)
    r: integer(0, KW) = 0
    while True:
        with atomic():
            wait_for(not s.lk)
            s.lk = True
        with atomic():
            s.seq += 1
        with atomic():
            s.a += 1
        with atomic():
            s.b += 1
        with atomic():
            s.seq += 1
        with atomic():
            s.lk = False
            r += 1
            if r == KW:
                return


def reader():
    s = the(record)
    r: integer(0, KR) = 0
    v: count_t = 0
    x: count_t = 0
    y: count_t = 0
    while True:
        with atomic():
            v = s.seq
            if v & 1:
                v = 0
                r += 1
                if r == KR:
                    return
                continue
        with atomic():
            x = s.a
        with atomic():
            y = s.b
        with atomic():
            assert s.seq != v or x == y
            v = 0
            x = 0
            y = 0
            r += 1
            if r == KR:
                return


def program(writers: int, readers: int, kw: int, kr: int) -> Program:
    """The model with this many writers and readers of `kw` and `kr` rounds."""
    procs = [Process(writer, i) for i in range(writers)] + [Process(reader, writers + i) for i in range(readers)]
    most = 2 * writers * kw
    return Program("record", procs, sizes={"KW": kw, "KR": kr, "COUNT_MAX": most})
