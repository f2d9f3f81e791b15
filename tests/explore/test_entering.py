"""Whole states, shared frontiers and what they take: successors that enter the table, rows that are left free."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from seqfault.compile.program import compile_program
from seqfault.explore import layout, tiers
from seqfault.explore.entering import KEYS, hash_of, hash_of_few, sift
from seqfault.explore.frontier import FULL, Search, run
from seqfault.explore.rehash import close_ranks, enter_at
from seqfault.models import record, seq

LOW = (1 << 40) - 1


def model(module, size):
    p = module.program(*size)
    a = compile_program(p, "full")
    return a, a.pack(p.layout().start), a.rom(p.layout().start)


@pytest.mark.parametrize("threads", [1, 2])
def test_whole_states_need_no_frontier_beside_them(threads: int):
    """A state takes its words and its place in the index, if their number was told; nothing is copied."""
    size = (1, 2, 4, 4)
    a, init, rom = model(record, size)
    n = record.STATES[size]
    s = Search(a, init, rom, mode="full", dead=False, traced=False, exact=True, expect=n, threads=threads)
    store, table = s.store, s.table
    assert s.exact and s.code.packing.bits == 64  # so that a fingerprint may stand for two states
    ex = run(s)
    assert ex.complete and ex.states == n
    assert s.store is store and s.table is table
    rows = s.store[: s.counted].view(np.uint64)
    assert s.counted == n and len(np.unique(rows, axis=0)) == n
    least = n * (8 * s.words + 8 / FULL)
    assert least < ex.bytes < least + 2_000_000
    s.close()


def test_a_state_of_less_than_a_word_is_its_fingerprint():
    a, init, rom = model(seq, (1, 2, 1, 1))
    s = Search(a, init, rom, mode="full", dead=False, exact=True)
    assert s.code.packing.bits < 64 and not s.exact
    ex = run(s)
    assert ex.states == tiers.explore(a, init, rom, mode="full", dead=False, tier=0).states
    s.close()


def test_the_short_way_to_a_fingerprint():
    """Is the same one; and one word's is its own."""
    r = random.Random(8)
    states = np.array([[r.getrandbits(63) >> r.randrange(63), i] for i in range(1000)], np.int64)
    for n in (1, 2):
        h = [int(hash_of(states, i, n)) for i in range(len(states))]
        assert h == [int(hash_of_few(x[0], x[n - 1], n)) for x in states]
        assert len(set(h)) == len(np.unique(states[:, :n], axis=0))
    zero = (2**63 - int(KEYS[0])) % 2**64 - 2**63  # the one word of all with fingerprint 0, which means an empty slot
    both = np.array([[zero, 0], [0, 0]], np.int64)
    assert [int(hash_of(both, 0, 1)), int(hash_of_few(np.int64(zero), np.int64(zero), 1))] == [1, 1]


@pytest.mark.parametrize("n", [2, 3, 7, 53, 2050])
def test_fingerprints_of_states_that_are_mostly_zero(n: int):
    """One bit in one word or in two: all different.  (Keys that are multiples of one another would not do: what one
    word adds another one takes away.)"""
    r = random.Random(n)
    places = list(range(n)) if n < 10 else sorted({0, 1, 2, 3, n - 1, n - 2, *r.sample(range(n), 4)})
    bits = [1 << b for b in range(0, 63, 3 if n < 10 else 6)]
    seen: set[int] = set()
    state = np.zeros((1, n), np.int64)
    many = 0
    for i, j in itertools.combinations_with_replacement(places, 2):
        for x, y in itertools.product(bits, bits):
            if i == j and x >= y:
                continue
            state[:] = 0
            state[0, i] |= x
            state[0, j] |= y
            seen.add(int(hash_of(state, 0, n)))
            many += 1
    for i, x in itertools.product(places, bits):
        state[:] = 0
        state[0, i] = x
        seen.add(int(hash_of(state, 0, n)))
        many += 1
    assert len(seen) == many


@pytest.mark.parametrize("expect", [0, 4_157_242])
def test_states_of_two_words(expect: int):
    """The index and the store grow, or have room from the start."""
    a, init, rom = model(record, (2, 2, 3, 3))
    ex = tiers.explore(a, init, rom, mode="full", dead=False, traced=False, exact=True, expect=expect)
    assert ex.states == record.STATES[2, 2, 3, 3]


def test_whole_states_with_parents_and_a_graph():
    a, init, rom = model(record, (1, 2, 4, 4))
    x, y = (tiers.explore(a, init, rom, mode="full", dead=False, graph=True, exact=e) for e in (False, True))
    assert x.states == y.states == record.STATES[1, 2, 4, 4] and x.transitions == y.transitions
    assert x.cyclic is y.cyclic is False and x.outcomes == y.outcomes
    assert (x.parent == y.parent).all() and (x.action == y.action).all()


def test_two_threads_take_little_more_room_than_one():
    """Whoever of them does how much: the rows of the next frontier are for both."""
    size = (1, 2, 2, 2)
    a, init, rom = model(seq, size)
    n = seq.STATES[size]
    one, two = (
        tiers.explore(a, init, rom, mode="full", dead=False, traced=False, expect=n, threads=t) for t in (1, 2)
    )
    assert one.states == two.states == n
    assert two.bytes < one.bytes * 1.05 + 1_000_000


@pytest.mark.parametrize("words", [1, 3])
def test_sifting_leaves_out_what_is_the_same(words: int):
    """Not what only has the same fingerprint, or is one that was entered long ago."""
    r = random.Random(words)
    hashes = np.zeros(layout.RECENT_AT + layout.RECENT, np.uint64)
    buf = np.zeros((layout.RECENT_AT + layout.RECENT, words), np.int64)
    rec = np.zeros((layout.RECENT_AT, 2), np.int64)
    table = np.zeros(64, np.uint64)
    entered: set[tuple[int, ...]] = set()
    last: dict[int, tuple[int, ...]] = {}
    out = 0
    for _ in range(50):
        m = r.randrange(1, 200)
        want = []
        for k in range(m):
            state = tuple(r.randrange(4) for _ in range(words))
            h = 1 + sum(state) % 3 + layout.RECENT * r.randrange(2) * 5  # many collide, in the place and altogether
            buf[k], hashes[k], rec[k] = state, h, (k, 7)
            place = h % layout.RECENT
            if last.get(place) != (h, *state):
                want.append((k, h, state))
            last[place] = (h, *state)
        left = sift(buf, rec, hashes, words, m, table)
        got = [(int(rec[i, 0]), int(hashes[i]), tuple(buf[i].tolist())) for i in range(left)]
        assert got == want
        out += m - left
        entered |= {s for _, _, s in got}
    assert out and len(entered) == 4**words


@pytest.mark.parametrize("whole", [False, True])
def test_rows_that_nobody_used_are_filled(whole: bool):
    r = random.Random(3)
    for _ in range(300):
        first, n = r.randrange(5), r.randrange(1, 60)
        cuts = sorted(r.randrange(n + 1) for _ in range(2 * r.randrange(4)))
        holes = np.array(cuts, np.int64).reshape(-1, 2)
        free = {i for b, e in holes.tolist() for i in range(b, e)}
        store = np.array([[r.getrandbits(62), i] for i in range(first + n)], np.int64).reshape(-1, 2)
        rows = store[first:]
        table = np.zeros(2 * (first + n) // 8 * 8 + 8, np.uint64)
        for i in range(first + n):
            if i - first not in free:
                h = int(hash_of(store, i, 2))
                enter_at(table, h * len(table) >> 64, np.uint64((h & 0xFFFFFF) << 40 | i + 1), True)
        before = {tuple(rows[i].tolist()) for i in range(n) if i not in free}
        left = close_ranks(rows, holes, n, table, first if whole else -1)
        assert left == len(before) and {tuple(x) for x in rows[:left].tolist()} == before
        if whole:
            numbers = sorted(int(e) & LOW for e in table if e)
            assert numbers == list(range(1, first + left + 1))
            for e in table[table != 0].tolist():
                assert int(hash_of(store, (e & LOW) - 1, 2)) & 0xFFFFFF == e >> 40
