"""The same record, one step a statement: each load, store, addition and test is a step of its own.

`STATES`: Spin's counts with its merging of statements switched off, and no reduction.
"""

from __future__ import annotations

from seqfault.compile.program import Process, Program
from seqfault.kernel import Size, atomic, integer, struct, the, wait_for

R = Size("R", 2)  # rounds of a writer
K = Size("K", 2)  # rounds of a reader
SEQ_TOP = Size("SEQ_TOP", 255)
seq_count_t = integer(0, SEQ_TOP, "seq_count_t")

# (writers, rounds of a writer, readers, rounds of a reader) -> states
STATES = {(1, 2, 2, 2): 1_699_444, (2, 1, 2, 2): 9_958_680, (1, 3, 2, 2): 12_265_012, (2, 2, 2, 1): 73_410_992}


@struct(pool=1)
class seq_record:
    """`a` and `b` must be seen equal; `lk` is held by a writer."""

    seq: seq_count_t
    a: seq_count_t
    b: seq_count_t
    lk: bool


def writer():
    s = the(seq_record)
    i: integer(0, R) = R
    t: seq_count_t = 0
    while i > 0:
        with atomic():
            wait_for(not s.lk)
            s.lk = True
        t = s.seq
        t = t + 1
        s.seq = t
        s.a = t
        s.b = t
        t = t + 1
        s.seq = t
        s.lk = False
        i = i - 1


def reader():
    s = the(seq_record)
    j: integer(0, K) = K
    v: seq_count_t = 0
    x: seq_count_t = 0
    y: seq_count_t = 0
    z: seq_count_t = 0
    while j > 0:
        v = s.seq
        if not v & 1:
            x = s.a
            y = s.b
            z = s.seq
            if v == z:
                assert x == y
        j = j - 1


def program(writers: int, r: int, readers: int, k: int) -> Program:
    """The model with this many writers of `r` rounds and readers of `k` rounds."""
    procs = [Process(writer, i) for i in range(writers)] + [Process(reader, writers + i) for i in range(readers)]
    return Program("seq", procs, sizes={"R": r, "K": k, "SEQ_TOP": 2 * writers * r})
