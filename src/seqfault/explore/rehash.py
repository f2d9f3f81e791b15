"""What is done with a whole table of states, or a whole graph, between rounds of the search."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.explore.entering import following, hash_of, home
from seqfault.explore.jit import jit_search as jit
from seqfault.explore.raw import compare_and_swap

Edges = NDArray[Any]


@jit
def enter_at(new, s, entry, alone):  # type: ignore[no-untyped-def]
    """Put an entry, which is in no table yet, into the first free slot from `s` on; which one."""
    first = s
    while True:
        if new[s] == 0:
            if alone:
                new[s] = entry
                return s
            if compare_and_swap(new, s, np.uint64(0), entry) == 0:
                return s
        s = following(s, first, new.shape[0])


@jit
def rehash(old, new, number, numbers, lo, hi, alone):  # type: ignore[no-untyped-def]
    """Move the fingerprints in old[lo:hi], and the states' numbers; both tables are in the order of fingerprints, so
    memory is read and written forwards."""
    slots = np.uint64(new.shape[0])
    numbered = numbers.shape[0] > 1
    for i in range(lo, hi):
        h = old[i]
        if h != 0:
            s = enter_at(new, home(h, slots), h, alone)
            if numbered:
                numbers[s] = number[i]


@jit
def rehash_exact(old, new, number, numbers, store, n, lo, hi, alone):  # type: ignore[no-untyped-def]
    """As `rehash`, for an index of whole states."""
    slots = np.uint64(new.shape[0])
    low = np.uint64((1 << 40) - 1)
    numbered = numbers.shape[0] > 1
    for i in range(lo, hi):
        e = old[i]
        if e != 0:
            s = enter_at(new, home(hash_of(store, np.int64(e & low) - 1, n), slots), e, alone)
            if numbered:
                numbers[s] = number[i]


@jit
def renumber(table, h, old, new):  # type: ignore[no-untyped-def]
    """In an index of whole states, the one of fingerprint `h` that is in row `old` is in row `new` from now on."""
    low = np.uint64((1 << 40) - 1)
    s = first = home(h, np.uint64(table.shape[0]))
    while table[s] & low != np.uint64(old + 1):
        s = following(s, first, table.shape[0])
    table[s] = (table[s] & ~low) | np.uint64(new + 1)


@jit
def close_ranks(rows, holes, tail, table, first):  # type: ignore[no-untyped-def]
    """Fill the `holes` (begin and end of each, in order) in the first `tail` rows with the last of them; how many rows
    that leaves.  `first`: number in the store of the first of `rows`, with whole states, or -1."""
    n = rows.shape[1]
    low = np.int64(0)
    top = np.int64(holes.shape[0] - 1)
    while low <= top:
        if holes[top, 1] == tail:
            tail = holes[top, 0]
            top -= 1
        elif holes[low, 0] == holes[low, 1]:
            low += 1
        else:
            tail -= 1
            to = holes[low, 0]
            holes[low, 0] += 1
            for w in range(n):
                rows[to, w] = rows[tail, w]
            if first >= 0:
                renumber(table, hash_of(rows, to, n), first + tail, first + to)
    return tail


@jit
def peeled(edges, m, n):  # type: ignore[no-untyped-def]
    """As `acyclic`, in time that does not depend on the numbers: states that nothing leads to any more are taken away
    until none is left."""
    into = np.zeros(n, np.int32)
    begin = np.zeros(n + 1, np.int64)
    for e in range(m):
        into[edges[e, 1]] += 1
        begin[edges[e, 0] + 1] += 1
    for i in range(n):
        begin[i + 1] += begin[i]
    at = begin.copy()
    to = np.zeros(m, np.int32)
    for e in range(m):
        to[at[edges[e, 0]]] = edges[e, 1]
        at[edges[e, 0]] += 1
    free = np.zeros(n, np.int32)
    tail = np.int64(0)
    for i in range(n):
        if into[i] == 0:
            free[tail] = i
            tail += 1
    head = np.int64(0)
    while head < tail:
        i = free[head]
        head += 1
        for e in range(begin[i], begin[i + 1]):
            into[to[e]] -= 1
            if into[to[e]] == 0:
                free[tail] = to[e]
                tail += 1
    return tail == n


PASSES = 32
NO, YES, OPEN = range(3)


@jit
def passes(edges, m, n, begin, rest, free):  # type: ignore[no-untyped-def]
    """As `acyclic`: YES, NO, or OPEN after so many passes.

    A state is free of cycles if all its successors are.  States are numbered breadth first and most edges lead to
    higher numbers, so a pass backwards frees nearly all; passes to and fro free the rest, or find none to free.
    """
    begin[: n + 1] = 0
    free[:n] = 0
    for e in range(m):
        begin[edges[e, 0] + 1] += 1
    for i in range(n):
        begin[i + 1] += begin[i]
    for i in range(n):
        rest[i] = n - 1 - i
    count = np.int64(n)
    for _ in range(PASSES):
        kept = np.int64(0)
        for k in range(count):
            i = rest[k]
            e = begin[i]
            while e < begin[i + 1] and free[edges[e, 1]]:
                e += 1
            if e == begin[i + 1]:
                free[i] = 1
            else:
                rest[kept] = i
                kept += 1
        if kept == 0:
            return YES
        if kept == count:
            return NO
        count = kept
        for k in range(count // 2):
            rest[k], rest[count - 1 - k] = rest[count - 1 - k], rest[k]
    return OPEN


def acyclic(edges: Edges, m: int, n: int, begin: Edges, rest: Edges, free: Edges) -> bool:
    """Whether the graph of `n` states with the first `m` of `edges` (from, to), in the order of `from`, has no cycle.
    `begin`, `rest`, `free`: room for so many states and one more."""
    said = passes(edges, m, n, begin, rest, free)
    return bool(said == YES or (said == OPEN and peeled(edges, m, n)))
