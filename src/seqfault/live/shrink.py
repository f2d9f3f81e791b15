"""A program that shows a difference, made shorter and simpler while it still does.

Candidates are run many at a time: each is a program of its own in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seqfault.mm.opcodes import (
    NR_ARGS,
    OP_FORK,
    OP_MAP_COUNT,
    OP_MMAP,
    OP_MREMAP,
    OP_RLIMIT_AS,
    OP_START,
    PAGE_SIZE,
    UAPI_MAP_ANONYMOUS,
    UAPI_MAP_FIXED,
    UAPI_MAP_POPULATE,
    UAPI_MAP_PRIVATE,
    WINDOW_BASE,
)

Int64 = NDArray[np.int64]
# Programs (each with its OP_START) -> for each the number of its first differing row, or -1.
Differ = Callable[[Sequence[Int64]], list[int]]
ROUND_ROWS = 3000  # of one batch of candidates
UNSEEN = 560  # a page between those that are observed


def _try(candidates: Iterator[Int64], differ: Differ) -> Int64 | None:
    """The shortest candidate of the first batch in which one still differs, cut behind the difference."""
    while True:
        batch: list[Int64] = []
        rows = 0
        for c in candidates:
            batch.append(c)
            rows += len(c)
            if rows >= ROUND_ROWS:
                break
        if not batch:
            return None
        good = [c[: at + 1] for c, at in zip(batch, differ(batch), strict=True) if at >= 0]
        if good:
            return min(good, key=len)


def _without(rows: Int64) -> Iterator[Int64]:
    """Rows left out: large pieces first, then one by one, from the end."""
    n = len(rows) - 1
    piece = n // 2
    while piece >= 1:
        for end in range(n, 0, -piece):
            start = max(1, end - piece + 1)
            if end - start + 1 < n:
                yield np.delete(rows, np.arange(start, end + 1), axis=0)
        piece //= 2


def _pairs(rows: Int64) -> Iterator[Int64]:
    """Two rows left out at once, for programs that are short already."""
    n = len(rows)
    if n > 24:
        return
    for i in range(1, n):
        for j in range(i + 1, n):
            yield np.delete(rows, [i, j], axis=0)


def _replaced(rows: Int64) -> Iterator[Int64]:
    """What only took frames away, for a difference that depends on their numbers: as many at once, by a mapping that
    nobody looks at."""
    n = len(rows) - 1
    piece = n // 2
    while piece >= 2 and n > 6:
        for end in range(n - 1, piece - 1, -piece):
            for pages in range(1, 13):
                c = np.delete(rows, np.arange(end - piece + 2, end + 1), axis=0)
                row = c[end - piece + 1]
                row[:] = 0
                flags = UAPI_MAP_PRIVATE | UAPI_MAP_FIXED | UAPI_MAP_ANONYMOUS | UAPI_MAP_POPULATE
                row[[0, 2, 3, 4, 5, 6]] = OP_MMAP, WINDOW_BASE + UNSEEN * PAGE_SIZE, pages * PAGE_SIZE, 3, flags, -1
                yield c
        piece //= 2


def _simpler_value(op: int, i: int, v: int) -> Iterator[int]:
    """Plainer values of one argument."""
    if op == OP_MMAP and i == 3:
        for bit in range(2, 22):
            if v >> bit & 1 and bit != 4:
                yield v & ~(1 << bit)
        return
    if op == OP_MMAP and i == 4:
        if v > 0:
            yield 0
        return
    if op == OP_MMAP and i == 2 and v not in (1, 3):
        yield 3
        yield 1
        return
    if op in (OP_MAP_COUNT, OP_RLIMIT_AS):
        for n in (0, 1, v // 2, v - 1):
            if 0 <= n < v:
                yield n
        return
    if v > PAGE_SIZE and v < 1 << 32:
        for n in (1, 2, v // PAGE_SIZE // 2, v // PAGE_SIZE - 1):
            if 0 < n * PAGE_SIZE < v:
                yield n * PAGE_SIZE
    if op == OP_MREMAP and i == 3 and v:
        for bit in range(3):
            if v >> bit & 1:
                yield v & ~(1 << bit)


def _simpler(rows: Int64) -> Iterator[Int64]:
    for k in range(1, len(rows)):
        op = int(rows[k, 0])
        if int(rows[k, 1]) and op != OP_FORK:
            c = rows.copy()
            c[k, 1] = 0
            yield c
        if op == OP_MMAP and not int(rows[k, 5]) & UAPI_MAP_ANONYMOUS:
            c = rows.copy()
            c[k, 5] = int(rows[k, 5]) & ~3 | UAPI_MAP_PRIVATE | UAPI_MAP_ANONYMOUS
            c[k, 6], c[k, 7] = -1, 0
            yield c
        for i in range(NR_ARGS[op]):
            for v in _simpler_value(op, i, int(rows[k, 2 + i])):
                c = rows.copy()
                c[k, 2 + i] = v
                yield c


def _moved(rows: Int64, lo: int = 513, hi: int = 551) -> Iterator[Int64]:
    """All addresses together, so that the program begins at page 520, if it stays among the busy pages."""
    where = [
        (k, i)
        for k in range(1, len(rows))
        for i in range(NR_ARGS[int(rows[k, 0])])
        if WINDOW_BASE < rows[k, 2 + i] < WINDOW_BASE + (1 << 32)
    ]
    pages = [(int(rows[k, 2 + i]) - WINDOW_BASE) // PAGE_SIZE for k, i in where]
    if not pages or min(pages) < lo or max(pages) >= hi or min(pages) == 520:
        return
    shift = min(pages) - 520
    if max(pages) - shift >= hi:
        return
    c = rows.copy()
    for k, i in where:
        c[k, 2 + i] -= shift * PAGE_SIZE
    yield c


def shrink(
    rows: Int64,
    differ: Differ,
    rounds: int = 60,
    note: Callable[[int], None] | None = None,
    guesses: Sequence[Int64] = (),
) -> Int64:
    """A shorter program that differs too.

    Parameters: `rows`, with its OP_START first and the differing row last; `differ`, see above; `rounds`, how often
    a step may succeed and be tried again; `note`, called with the number of operations left; `guesses`: programs
    that are tried first.
    """
    assert int(rows[0, 0]) == OP_START
    guess = _try(iter(guesses), differ)
    rows = rows if guess is None else guess
    for _ in range(rounds):
        better = _try(_without(rows), differ)
        if better is None:
            better = _try(_simpler(rows), differ)
        if better is None:
            better = _try(_pairs(rows), differ)
        if better is None:
            better = _try(_replaced(rows), differ)
        if better is None:
            break
        rows = better
        if note is not None:
            note(len(rows) - 1)
    moved = _try(_moved(rows), differ)
    return rows if moved is None else moved
