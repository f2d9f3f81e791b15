"""Successors wait while their places in the table of states are fetched; new ones enter it and the next frontier."""

from __future__ import annotations

import hashlib

import numpy as np

from seqfault.explore.jit import jit_search as jit
from seqfault.explore.layout import (
    AHEAD,
    BY_HASH,
    CHUNK,
    G_STORED,
    G_TAIL,
    RECENT_AT,
    RECENT_MASK,
    ROOM,
    T_BASE,
    T_EDGES,
    T_FRONTIER,
    T_GRAPH,
    T_PENDING,
    T_ROWS,
    T_SHARED,
    T_TAIL,
    T_TRACED,
    TO_SIFT,
)
from seqfault.explore.raw import compare_and_swap, fetch_add, high, prefetch
from seqfault.explore.slots import mix

# so many successors' slots are read before any is claimed: an atomic operation lets no load behind it be early.  What a
# slot holds stays, and of one that was free the claim says what it holds now
TOGETHER = 16
LINE = 7  # a line of the cache has so many slots and one; tables have whole lines
SEED = np.uint64(0x9E3779B97F4A7C15)
MANY_KEYS = 1024
# fixed, as fingerprints are in checkpoints
KEYS = np.frombuffer(hashlib.shake_256(b"seqfault").digest(8 * MANY_KEYS), "<u8").astype(np.uint64)


@jit
def hash_of(words, row, n):  # type: ignore[no-untyped-def]
    """64-bit fingerprint of a packed state; one of a single word is unique.

    Sums of the halves of products of two words each (NH, of UMAC: Black et al. 1999, without the carry from half to
    half), mixed: a multiplication for two words, where mixing each word takes four.  Each word has a key of its own,
    and no key may be a small multiple of another: words are mostly zero."""
    if n == 1:
        h = mix(np.uint64(words[row, 0]) + KEYS[0])
        return h if h != 0 else np.uint64(1)
    low = np.uint64(0)
    up = np.uint64(0)
    even = np.uint64(0)
    odd = np.uint64(0)
    for w in range(0, n - 1, 2):
        i = w & (MANY_KEYS - 1)
        if w >= MANY_KEYS and i == 0:
            even = mix(np.uint64(w))
            odd = mix(even + SEED)
        a = np.uint64(words[row, w]) + (KEYS[i] + even)
        b = np.uint64(words[row, w + 1]) + (KEYS[i + 1] + odd)
        low += a * b
        up += high(a, b)
    if n & 1:
        up += mix(np.uint64(words[row, n - 1]) + KEYS[(n - 1) & (MANY_KEYS - 1)])
    h = mix(mix(low) + up)
    return h if h != 0 else np.uint64(1)


@jit
def hash_of_few(first, last, n):  # type: ignore[no-untyped-def]
    """As `hash_of`, of a state of one word or two.  A call would cost as much as the rest of it: small models spend a
    fifth of their time in `hash_of`."""
    if n == 1:
        h = mix(np.uint64(first) + KEYS[0])
    else:
        a = np.uint64(first) + KEYS[0]
        b = np.uint64(last) + KEYS[1]
        h = mix(mix(a * b) + high(a, b))
    return h if h != 0 else np.uint64(1)


@jit
def less(a, i, b, j, n):  # type: ignore[no-untyped-def]
    """Whether packed state a[i] comes before b[j]."""
    for w in range(n):
        if a[i, w] != b[j, w]:
            return a[i, w] < b[j, w]
    return False


@jit
def home(h, slots):  # type: ignore[no-untyped-def]
    """The slot of fingerprint `h` in a table of so many: tables are in the order of fingerprints."""
    return np.int64(high(h, slots))


@jit
def following(s, first, slots):  # type: ignore[no-untyped-def]
    """The slot that is looked at after `s`, where `first` was the first: those of its line, then those of the next.  A
    line that was not fetched early costs as much as all else of an entry, and in a table that is four fifths full one
    of two would be needed if the search went straight on."""
    s = (s & ~LINE) | ((s + 1) & LINE)
    if (s ^ first) & LINE:
        return s
    s += LINE + 1
    return s if s < slots else s - slots


@jit
def claim(table, s, entry, alone):  # type: ignore[no-untyped-def]
    """Put `entry` in a slot that was free, unless it is no longer; what is there instead, or 0.  An atomic operation
    waits for all loads before it, and keeps those behind it from being early."""
    if alone:
        now = table[s]
        if now == 0:
            table[s] = entry
        return now
    return compare_and_swap(table, s, np.uint64(0), entry)


@jit
def queue(h, table, number, hashes, fresh, rec, m, head, action, how):  # type: ignore[no-untyped-def]
    """Let a successor of fingerprint `h` wait to be entered; how many that makes.  `how`: `BY_HASH`: none, if it was
    entered of late; `TO_SIFT`: that is looked at later, by `sift`."""
    if how == BY_HASH:
        if fresh[h & RECENT_MASK] == h:
            return 0
        fresh[h & RECENT_MASK] = h
    hashes[m] = h
    if how != TO_SIFT:
        s = home(h, np.uint64(table.shape[0]))
        prefetch(table, s)
        if number.shape[0] == table.shape[0]:
            prefetch(number, s)
    rec[m, 0] = head
    rec[m, 1] = action
    return 1


@jit
def sift(buf, rec, hashes, n, m, table):  # type: ignore[no-untyped-def]
    """Of `m` waiting successors, whole states, leave out those that were entered of late; how many are left."""
    fresh = hashes[RECENT_AT:]
    late = buf[RECENT_AT:]
    left = np.int64(0)
    for k in range(m):
        h = hashes[k]
        i = np.int64(h & RECENT_MASK)
        if fresh[i] == h and not less(late, i, buf, k, n) and not less(buf, k, late, i, n):
            continue
        fresh[i] = h
        for w in range(n):
            late[i, w] = buf[left, w] = buf[k, w]
        hashes[left] = h
        rec[left, 0] = rec[k, 0]
        rec[left, 1] = rec[k, 1]
        prefetch(table, home(h, np.uint64(table.shape[0])))
        left += 1
    return left


@jit
def enter(buf, rec, hashes, n, table, store, nxt, th, G, parent, action, number, edges):  # type: ignore[no-untyped-def]
    """Enter the waiting successors; new ones go to the next frontier."""
    slots = np.uint64(table.shape[0])
    tail = th[T_TAIL]
    rows = th[T_ROWS]
    alone = th[T_SHARED] == 0
    new = np.int64(0)
    found = hashes[ROOM:]
    many = th[T_PENDING]
    for k in range(many):
        if k % TOGETHER == 0:
            for i in range(min(TOGETHER, many - k)):
                found[i] = table[home(hashes[k + i], slots)]
        h = hashes[k]
        s = first = home(h, slots)
        e = found[k % TOGETHER]
        while True:
            if e == 0:
                e = claim(table, s, h, alone)
                if e == 0:
                    if tail == rows:
                        tail = fetch_add(G, 0 + G_TAIL, np.int64(CHUNK))
                        rows = tail + CHUNK
                    for w in range(n):
                        nxt[tail, w] = buf[k, w]
                    if th[T_TRACED]:
                        at = G[G_STORED] + new
                        parent[at] = th[T_BASE] + rec[k, 0]
                        action[at] = rec[k, 1]
                    if th[T_GRAPH]:
                        number[s] = G[G_STORED] + new
                    tail += 1
                    new += 1
                    break
            if e == h:
                break
            s = following(s, first, table.shape[0])
            e = table[s]
        if th[T_GRAPH]:
            edges[th[T_EDGES], 0] = th[T_BASE] + rec[k, 0]
            edges[th[T_EDGES], 1] = number[s]
            th[T_EDGES] += 1
    th[T_TAIL] = tail
    th[T_ROWS] = rows
    th[T_PENDING] = 0
    fetch_add(G, 0 + G_STORED, new)


@jit
def enter_exact(buf, rec, hashes, n, table, store, nxt, th, G, parent, action, number, edges):  # type: ignore[no-untyped-def]
    """As `enter`, with whole states: the next frontier is what is behind this one in the store; a slot has 24 bits of
    the fingerprint and the number of the state's row plus one."""
    slots = np.uint64(table.shape[0])
    low = np.uint64((1 << 40) - 1)
    tail = th[T_TAIL]
    rows = th[T_ROWS]
    alone = th[T_SHARED] == 0
    begin = th[T_BASE] + th[T_FRONTIER] + 1
    new = np.int64(0)
    many = th[T_PENDING]
    for k in range(many):
        if k + AHEAD < many:  # the state that it will be compared with
            h = hashes[k + AHEAD]
            e = table[home(h, slots)]
            if e >> np.uint64(40) == h & np.uint64(0xFFFFFF) and e != 0:
                prefetch(store, (np.int64(e & low) - 1) * n)
        h = hashes[k]
        s = first = home(h, slots)
        tag = (h & np.uint64(0xFFFFFF)) << np.uint64(40)
        mine = False
        while True:
            e = table[s]
            if e == 0:
                if not mine:  # before anybody can see it
                    mine = True
                    if tail == rows:
                        tail = fetch_add(G, 0 + G_TAIL, np.int64(CHUNK))
                        rows = tail + CHUNK
                    for w in range(n):
                        nxt[tail, w] = buf[k, w]
                e = claim(table, s, tag | np.uint64(begin + tail), alone)
                if e == 0:
                    if th[T_TRACED]:
                        at = G[G_STORED] + new
                        parent[at] = th[T_BASE] + rec[k, 0]
                        action[at] = rec[k, 1]
                    if th[T_GRAPH]:
                        number[s] = G[G_STORED] + new
                    tail += 1
                    new += 1
                    break
            if e & ~low == tag:
                i = np.int64(e & low) - 1
                same = True
                for w in range(n):
                    if store[i, w] != buf[k, w]:
                        same = False
                        break
                if same:
                    break
            s = following(s, first, table.shape[0])
        if th[T_GRAPH]:
            edges[th[T_EDGES], 0] = th[T_BASE] + rec[k, 0]
            edges[th[T_EDGES], 1] = number[s]
            th[T_EDGES] += 1
    th[T_TAIL] = tail
    th[T_ROWS] = rows
    th[T_PENDING] = 0
    fetch_add(G, 0 + G_STORED, new)
