"""The red-black tree of VMAs: its rules after thousands of changes, and lookups between any two stores."""

from __future__ import annotations

import random

import pytest

from seqfault.kernel import NULL, Machine, kmem_cache_free, kmem_cache_zalloc, the
from seqfault.kernel.layout import Layout
from seqfault.mm.rbtree import (
    RB_CLEAR_NODE,
    RB_EMPTY_NODE,
    rb_erase,
    rb_first,
    rb_insert_color,
    rb_link_node,
    rb_next,
)
from seqfault.mm.types import mm_struct, vm_area_struct


def memory(pages: int, vmas: int) -> Layout:
    sizes = {"NR_PAGES": pages, "NR_VMAS": vmas, "PGOFF_MAX": pages, "PTRS_PER_PTE": 4, "NR_TASKS": 1}
    return Layout([mm_struct, vm_area_struct], sizes)


def machine(pages: int, vmas: int) -> Machine:
    return Machine(memory(pages, vmas))


def insert(mm, at: int):
    vma = kmem_cache_zalloc(vm_area_struct)
    vma.vm_start, vma.vm_end = at, at + 1
    parent, left, node = None, False, mm.mm_rb
    while node:
        parent = node
        left = at < node.vm_start
        node = node.vm_rb.rb_left if left else node.vm_rb.rb_right
    rb_link_node(mm, vma, parent if parent is not None else mm.mm_rb, left)
    rb_insert_color(vma, mm)
    return vma


def black_height(node, parent, low: int, high: int) -> tuple[int, int]:
    """Checks the rules below `node`; returns its black height and how many nodes there are."""
    if not node:
        return 1, 0
    rb = node.vm_rb
    assert rb.rb_parent == parent
    assert low <= node.vm_start < high
    if not rb.rb_black:
        assert parent and parent.vm_rb.rb_black, "two red nodes in a row, or a red root"
    a, n = black_height(rb.rb_left, node, low, node.vm_start)
    b, k = black_height(rb.rb_right, node, node.vm_end, high)
    assert a == b, "paths with different numbers of black nodes"
    return a + int(rb.rb_black), n + k + 1


def check_tree(mm, want: list[int]) -> None:
    _, n = black_height(mm.mm_rb, NULL, 0, 1 << 20)
    assert n == len(want)
    got, node = [], rb_first(mm)
    while node:
        got.append(int(node.vm_start))
        node = rb_next(node)
    assert got == sorted(want)


@pytest.mark.parametrize("seed", range(4))
def test_rules_after_every_random_change(seed: int) -> None:
    rng = random.Random(seed)
    with machine(64, 40):
        mm, there = the(mm_struct), {}
        for step in range(1200):
            grow = rng.random() < (0.7 if step % 200 < 100 else 0.3)
            if there and (not grow or len(there) == 40):
                at = rng.choice(list(there))
                vma = there.pop(at)
                rb_erase(vma, mm)
                kmem_cache_free(vma)
            else:
                at = rng.choice([i for i in range(64) if i not in there])
                there[at] = insert(mm, at)
            check_tree(mm, list(there))


@pytest.mark.parametrize("order", ["up", "down", "inside"])
def test_every_erase_from_full_trees(order: str) -> None:
    keys = list(range(31))
    if order == "down":
        keys.reverse()
    if order == "inside":
        keys.sort(key=lambda k: bin(k)[:1:-1])
    for victim in range(31):
        with machine(32, 31):
            mm = the(mm_struct)
            there = {k: insert(mm, k) for k in keys}
            rb_erase(there.pop(victim), mm)
            check_tree(mm, list(there))


def test_cleared_node() -> None:
    with machine(8, 4):
        mm = the(mm_struct)
        a, b = insert(mm, 1), insert(mm, 2)
        assert not RB_EMPTY_NODE(a) and not RB_EMPTY_NODE(b)
        rb_erase(b, mm)
        RB_CLEAR_NODE(b)
        assert RB_EMPTY_NODE(b) and not RB_EMPTY_NODE(a)


class Watched(Machine):
    """Looks at the tree, as a lookup without the lock would, after every single store."""

    def __init__(self, layout: Layout):
        super().__init__(layout)
        self.busy = False
        self.stores = 0
        self.missed = 0
        self.expect: list[int] = []

    def store(self, addr, value, t) -> None:
        super().store(addr, value, t)
        if self.busy:
            return
        self.stores += 1
        self.busy = True
        for key in self.expect:
            node, hops = the(mm_struct).mm_rb, 0
            while node and node.vm_start != key:
                node = node.vm_rb.rb_left if key < node.vm_start else node.vm_rb.rb_right
                hops += 1
                assert hops <= 16, "a lookup runs in a circle"
            self.missed += not node
        self.busy = False


def test_lookups_between_stores_end_but_may_miss() -> None:
    rng = random.Random(7)
    m = Watched(memory(32, 16))
    with m:
        mm, there = the(mm_struct), {}
        for _ in range(150):
            m.expect = list(there)
            if there and (rng.random() < 0.45 or len(there) == 12):
                at = rng.choice(list(there))
                m.expect.remove(at)
                vma = there.pop(at)
                rb_erase(vma, mm)
                m.busy = True
                kmem_cache_free(vma)
            else:
                at = rng.choice([i for i in range(32) if i not in there])
                there[at] = insert(mm, at)
            m.busy = False
    assert m.missed > 0, "no lookup missed a subtree: rotations are not one store a pointer"
    assert m.stores > 1000
