"""Arrays that grow, memory that is kept, and whether a graph has a cycle."""

from __future__ import annotations

import random

import numpy as np
import pytest

from seqfault.explore import room
from seqfault.explore.rehash import acyclic, peeled


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_kept", [])


def test_growing_keeps_what_was_there():
    x = room.take(1000, 3)
    x[:] = np.arange(3000).reshape(1000, 3)
    base = x.base
    y = room.more(x, 4000, 1000)
    assert y.base is base and y.shape == (4000, 3) and (y[:1000] == np.arange(3000).reshape(1000, 3)).all()
    z = room.more(y, 40_000, 1000)  # more than was taken ahead
    assert z.base is not base and (z[:1000] == np.arange(3000).reshape(1000, 3)).all()


def test_memory_is_lent_again_and_never_twice():
    x = room.take(5_000_000, 0)
    room.give(x, x)
    y, z = room.take(5_000_000, 0), room.take(5_000_000, 0)
    assert (y.base is x.base) != (z.base is x.base)
    y[:] = 7
    room.give(y)
    assert (room.zeros(5_000_000) == 0).all()


def test_large_arrays_grow_where_they_are():
    x = room.take(room.LARGE // 8, 0)
    x[-3:] = 5, 6, 7
    y = room.more(x, 8 * len(x), len(x))
    assert y.base is x.base and y[len(x) - 3 : len(x)].tolist() == [5, 6, 7]


def test_large_zeros_are_zeros_again():
    x = room.take(room.LARGE // 8, 0)
    x[:] = 7
    room.give(x)
    y = room.zeros(room.LARGE // 4)
    assert y.base is x.base and not y.any()
    y[-1] = 7
    room.give(y)
    assert not room.zeros(room.LARGE // 8).any()


def test_little_does_not_take_much():
    x = room.take(room.LARGE // 8, 0)
    room.give(x)
    assert room.take(1000, 0).base is not x.base and room.take(room.LARGE // 64, 0).base is x.base


def test_a_limit_of_address_space_leaves_what_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    def full(*args: object) -> None:
        raise OSError

    monkeypatch.setattr(room.mmap, "mmap", full)
    assert room.take(room.LARGE // 8, 0).base.nbytes == room.LARGE


def test_arrays_of_others_are_left_alone():
    own = np.ones((4, 2), np.int64)
    out = room.more(own, 8, 4)
    assert (out[:4] == 1).all() and out.shape == (8, 2)
    room.give(own)
    room.give(own[1:])


def test_too_much_is_not_kept():
    big = room.take(room.KEPT // 8 + 1, 0)
    room.give(big)
    assert not any(m is big.base for m in room._kept)


def test_cycles_of_random_graphs():
    """Against the other way, with cycles and without, on graphs whose numbers help and on ones whose numbers do not."""
    r = random.Random(1)
    seen = set()
    for _ in range(3000):
        n = r.randint(1, 40)
        order = list(range(n))
        if r.random() < 0.5:
            r.shuffle(order)
        pairs = []
        for _ in range(r.randint(0, 2 * n)):
            a, b = sorted((r.randrange(n), r.randrange(n)))
            if a != b or r.random() < 0.02:
                pairs.append((order[a], order[b]) if r.random() < 0.99 else (order[b], order[a]))
        edges = np.array(sorted(pairs), np.int32).reshape(-1, 2)
        work = np.full(n + 1, 9, np.int64), np.full(n + 1, 9, np.int32), np.full(n + 1, 9, np.uint8)
        says = bool(acyclic(edges, len(edges), n, *work))
        assert says == bool(peeled(edges, len(edges), n))
        seen.add(says)
    assert seen == {False, True}


def test_a_chain_against_the_numbers():
    """A pass to and fro frees a chain of a million whichever way it goes."""
    n = 1_000_000
    for edges in (np.c_[1:n, 0 : n - 1], np.c_[0 : n - 1, 1:n]):
        e = np.ascontiguousarray(edges, np.int32)
        assert acyclic(e, n - 1, n, np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int32), np.zeros(n + 1, np.uint8))
