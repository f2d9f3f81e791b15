"""Mapping, unmapping, protecting, splitting and merging, against page-by-page expectations."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from seqfault.kernel import NULL, KernelBug, Machine, the
from seqfault.kernel.layout import LIVE, Layout
from seqfault.kernel.machine import Ptr
from seqfault.mm.anon_vma import anon_vma_prepare
from seqfault.mm.mmap import split_vma
from seqfault.mm.stack import expand_downwards
from seqfault.mm.syscalls import sys_mmap, sys_mprotect, sys_munmap
from seqfault.mm.types import (
    EINVAL,
    ENOMEM,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    MAP_SHARED,
    VM_GROWSDOWN,
    VM_SHARED,
    anon_vma,
    anon_vma_chain,
    faults_left,
    file,
    mm_struct,
    vm_area_struct,
)
from seqfault.mm.vma import find_vma, find_vma_prev, validate_mm, vm_get_page_prot

NONE, R, W, RW, RX = 0, 1, 2, 3, 5
PAGES = 16
SIZES = {
    "NR_PAGES": PAGES,
    "PTRS_PER_PTE": 4,
    "NR_VMAS": 24,
    "NR_ANON_VMAS": 20,
    "NR_AVCS": 32,
    "NR_FILES": 2,
    "PGOFF_MAX": 63,
    "NR_CPUS": 1,
    "NR_TASKS": 4,
}


@pytest.fixture
def m():
    machine = Machine(Layout(sizes=SIZES))
    with machine:
        yield machine


def the_file(i: int = 0) -> Ptr:
    from seqfault.kernel import pool_object

    return pool_object(file, i)


def mmap(start: int, end: int, prot: int = RW, flags: int = 0) -> int:
    return sys_mmap(start, end - start, prot, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | flags, NULL, 0)


def mmap_file(start: int, end: int, prot: int, pgoff: int, shared: bool = False, i: int = 0) -> int:
    how = MAP_SHARED if shared else MAP_PRIVATE
    return sys_mmap(start, end - start, prot, MAP_FIXED | how, the_file(i), pgoff)


def munmap(start: int, end: int) -> int:
    return sys_munmap(start, end - start)


def mprotect(start: int, end: int, prot: int) -> int:
    return sys_mprotect(start, end - start, prot)


def touch(page: int) -> None:
    """What the first fault on an anonymous page does to its VMA."""
    vma = find_vma(the(mm_struct), page)
    assert vma and vma.vm_start <= page
    assert anon_vma_prepare(vma) == 0


def vmas() -> list[Ptr]:
    out, vma = [], the(mm_struct).mmap
    while vma:
        out.append(vma)
        vma = vma.vm_next
    return out


def layout() -> list[tuple[int, int, int]]:
    return [(int(v.vm_start), int(v.vm_end), int(v.vm_flags)) for v in vmas()]


def live(m: Machine, s) -> int:
    pool = m.pool(s)
    return sum(m.cells[pool.base + i * pool.stride] == LIVE for i in range(pool.n))


def subtree(node: Ptr, parent: Ptr) -> tuple[int, list[Ptr]]:
    if not node:
        return 1, []
    rb = node.vm_rb
    assert rb.rb_parent == parent
    assert rb.rb_black or (parent and parent.vm_rb.rb_black)
    a, left = subtree(rb.rb_left, node)
    b, right = subtree(rb.rb_right, node)
    assert a == b
    return a + int(rb.rb_black), [*left, node, *right]


def check_all(m: Machine) -> None:
    """Everything that holds between operations."""
    mm = the(mm_struct)
    validate_mm(mm)
    here = vmas()
    _, tree = subtree(mm.mm_rb, NULL)
    assert tree == here
    assert live(m, vm_area_struct) == len(here) == mm.map_count
    prev = NULL
    entries: Counter[Ptr] = Counter()
    files: Counter[int] = Counter()
    for v in here:
        assert v.vm_prev == prev
        prev = v
        assert v.vm_page_prot == vm_get_page_prot(v.vm_flags)
        assert bool(v.anon_vma) == bool(v.anon_vma_chain)
        if v.anon_vma:
            avc = v.anon_vma_chain
            assert avc.vma == v and avc.anon_vma == v.anon_vma and not avc.next_same_vma
            entries[v.anon_vma] += 1
        if v.vm_file:
            files[v.vm_file.k_v] += 1
        else:
            assert v.vm_pgoff == v.vm_start
    for av, n in entries.items():
        assert av.rb_root == n and av.refcount == 1
        assert av.rwsem.writer == 0 and av.rwsem.readers == 0
    assert live(m, anon_vma) == len(entries)
    assert live(m, anon_vma_chain) == sum(entries.values())
    for i in range(SIZES["NR_FILES"]):
        f = the_file(i)
        assert f.f_count == f.i_mmap_vmas == files[f.k_v]
        assert f.i_mmap_rwsem.writer == 0
    assert mm.mmap_sem.writer == 0 and mm.mmap_sem.readers == 0 and mm.page_table_lock.owner == 0
    assert not m.held


# -- the eight cases
def test_case1_both_neighbours(m) -> None:
    mmap(2, 4)
    mmap(6, 8)
    mmap(4, 6)
    assert layout() == [(2, 8, RW)] and m.counters["vma_merge/case1"] == 1
    check_all(m)


def test_case1_imports_the_anon_vma_of_next(m) -> None:
    mmap(2, 4)
    mmap(6, 8)
    touch(6)
    av = find_vma(the(mm_struct), 6).anon_vma
    mmap(4, 6)
    assert layout() == [(2, 8, RW)] and vmas()[0].anon_vma == av
    check_all(m)


def test_case1_clone_fails(m) -> None:
    """No memory for the chain: prev is as it was, and the mapping becomes a VMA of its own."""
    mmap(2, 4)
    mmap(6, 8)
    touch(6)
    the(faults_left).n = 1
    m.choices = [1]
    assert mmap(4, 6) == 4
    assert layout() == [(2, 4, RW), (4, 6, RW), (6, 8, RW)]
    assert not vmas()[0].anon_vma and m.counters["vma_merge/case1"] == 0
    check_all(m)


def test_case2_prev_over_a_hole(m) -> None:
    mmap(2, 4)
    mmap(8, 10)
    mmap(4, 6)
    assert layout() == [(2, 6, RW), (8, 10, RW)] and m.counters["vma_merge/case2"] == 1
    mmap(10, 12)  # nothing behind it
    assert layout() == [(2, 6, RW), (8, 12, RW)] and m.counters["vma_merge/case2"] == 2
    check_all(m)


def test_case3_next_over_a_hole(m) -> None:
    mmap(0, 1, R)
    mmap(6, 8)
    mmap(8, 9, R)
    mmap(4, 6)
    assert layout() == [(0, 1, R), (4, 8, RW), (8, 9, R)] and m.counters["vma_merge/case3"] == 1
    check_all(m)


def test_case4_prev_gives_its_tail_to_next(m) -> None:
    mmap(2, 6)
    mmap(6, 8, R)
    mprotect(4, 6, R)
    assert layout() == [(2, 4, RW), (4, 8, R)] and m.counters["vma_merge/case4"] == 1
    check_all(m)


def test_case5_prev_takes_the_head_of_next(m) -> None:
    mmap(2, 4)
    mmap(4, 8, R)
    mprotect(4, 6, RW)
    assert layout() == [(2, 6, RW), (6, 8, R)] and m.counters["vma_merge/case5"] == 1
    check_all(m)


def test_case6_three_become_one(m) -> None:
    mmap(2, 4)
    mmap(4, 6, R)
    mmap(6, 8)
    mmap(8, 9, RX)
    mprotect(4, 6, RW)
    assert layout() == [(2, 8, RW), (8, 9, RX)] and m.counters["vma_merge/case6"] == 1
    check_all(m)


@pytest.mark.parametrize("touched", [(2,), (6,), (2, 4), (2, 4, 6)])
def test_case6_touched(m, touched) -> None:
    """With the middle untouched, the outer ones may have an anon_vma; it is the last one's that is imported."""
    mmap(2, 4)
    mmap(4, 6, R)
    mmap(6, 8)
    for page in touched:
        touch(page)
    av = find_vma(the(mm_struct), touched[0]).anon_vma
    mprotect(4, 6, RW)
    if touched == (2, 4):  # `next` is untouched, the range is not: not mergeable with next
        assert layout() == [(2, 6, RW), (6, 8, RW)] and m.counters["vma_merge/case7"] == 1
    else:
        assert layout() == [(2, 8, RW)] and m.counters["vma_merge/case6"] == 1
    assert vmas()[0].anon_vma == av
    check_all(m)


def test_case7_prev_swallows_the_range(m) -> None:
    mmap(2, 4)
    mmap(4, 6, R)
    mmap(6, 8, RX)
    mprotect(4, 6, RW)
    assert layout() == [(2, 6, RW), (6, 8, RX)] and m.counters["vma_merge/case7"] == 1
    check_all(m)


def test_case8_next_swallows_the_range(m) -> None:
    mmap(2, 4, RX)
    mmap(4, 6, R)
    mmap(6, 8)
    gone, stays = find_vma(the(mm_struct), 4), find_vma(the(mm_struct), 6)
    mprotect(4, 6, RW)
    assert layout() == [(2, 4, RX), (4, 8, RW)] and m.counters["vma_merge/case8"] == 1
    assert vmas()[1] == stays and stays.vm_pgoff == 4 and m.state_of(gone) != LIVE
    check_all(m)


def test_case8_first_in_the_list(m) -> None:
    mmap(4, 6, R)
    mmap(6, 8)
    mprotect(4, 6, RW)
    assert layout() == [(4, 8, RW)] and m.counters["vma_merge/case8"] == 1
    check_all(m)


@pytest.mark.parametrize(
    "case, maps, change",
    [
        (1, [(2, 4, RW, 1), (6, 8, RW, 5)], ("map", 4, 6, RW, 3)),
        (2, [(2, 4, RW, 1)], ("map", 4, 6, RW, 3)),
        (3, [(6, 8, RW, 5)], ("map", 4, 6, RW, 3)),
        (4, [(2, 6, RW, 1), (6, 8, R, 5)], ("protect", 4, 6, R, 0)),
        (5, [(2, 4, RW, 1), (4, 8, R, 3)], ("protect", 4, 6, RW, 0)),
        (6, [(2, 4, RW, 1), (4, 6, R, 3), (6, 8, RW, 5)], ("protect", 4, 6, RW, 0)),
        (7, [(2, 4, RW, 1), (4, 6, R, 3), (6, 8, RX, 5)], ("protect", 4, 6, RW, 0)),
        (8, [(2, 4, RX, 1), (4, 6, R, 3), (6, 8, RW, 5)], ("protect", 4, 6, RW, 0)),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_cases_of_a_file(m, case, maps, change, shared) -> None:
    for start, end, prot, pgoff in maps:
        mmap_file(start, end, prot, pgoff, shared)
    what, start, end, prot, pgoff = change
    if what == "map":
        mmap_file(start, end, prot, pgoff, shared)
    else:
        mprotect(start, end, prot)
    assert {k: v for k, v in m.counters.items() if k.startswith("vma_merge/")} == {f"vma_merge/case{case}": 1}
    assert all(v.vm_pgoff == v.vm_start - 1 for v in vmas())
    check_all(m)


# -- what keeps VMAs apart
def test_files_offsets_and_flags_keep_apart(m) -> None:
    mmap_file(2, 4, RW, 1)
    mmap_file(4, 5, RW, 4)  # a gap in the file
    mmap_file(5, 6, RW, 5, i=1)  # another file
    mmap(6, 7)  # none
    mmap(7, 8, R)
    mmap(8, 9, R, MAP_GROWSDOWN)
    assert len(vmas()) == 6
    assert vmas()[5].vm_flags == R | VM_GROWSDOWN
    check_all(m)


def test_shared_and_private_keep_apart(m) -> None:
    mmap_file(2, 4, RW, 1)
    mmap_file(4, 6, RW, 3, shared=True)
    assert layout() == [(2, 4, RW), (4, 6, RW | VM_SHARED)]
    assert [int(v.vm_page_prot) for v in vmas()] == [1, 3]
    check_all(m)


def test_touched_apart_the_middle_merges_with_prev_only(m) -> None:
    mmap(2, 4)
    mmap(4, 6, NONE)
    mmap(6, 8)
    touch(2)
    touch(6)
    assert vmas()[0].anon_vma != vmas()[2].anon_vma
    mprotect(4, 6, RW)
    assert layout() == [(2, 6, RW), (6, 8, RW)] and m.counters["vma_merge/case7"] == 1
    check_all(m)


def test_adjacent_vmas_reuse_the_anon_vma_and_merge_later(m) -> None:
    mmap(2, 4)
    mmap(4, 6, R)
    mmap(6, 8)
    touch(2)
    touch(4)  # takes that of the VMA before it
    touch(6)
    assert len({v.anon_vma for v in vmas()}) == 1
    mprotect(4, 6, RW)
    assert layout() == [(2, 8, RW)]
    check_all(m)


def test_the_anon_vma_of_next_is_preferred(m) -> None:
    mmap(2, 4)
    mmap(4, 6, NONE)
    mmap(6, 8)
    touch(2)
    touch(6)
    after = vmas()[2].anon_vma
    touch(4)
    assert vmas()[1].anon_vma == after
    check_all(m)


def test_touched_range_does_not_merge_with_an_untouched_vma(m) -> None:
    mmap(2, 4)
    mmap(4, 6, R)
    touch(4)
    mprotect(4, 6, RW)
    assert layout() == [(2, 4, RW), (4, 6, RW)]
    check_all(m)


def test_untouched_range_merges_with_a_touched_vma(m) -> None:
    mmap(2, 4)
    touch(2)
    mmap(4, 6, R)
    mprotect(4, 6, RW)
    assert layout() == [(2, 6, RW)]
    check_all(m)


def test_the_middle_unmapped_and_mapped_again_merges_fully(m) -> None:
    mmap(2, 8)
    touch(2)
    munmap(4, 6)
    assert layout() == [(2, 4, RW), (6, 8, RW)]
    check_all(m)
    mmap(4, 6)
    assert layout() == [(2, 8, RW)] and m.counters["vma_merge/case1"] == 1
    check_all(m)


# -- splitting
@pytest.mark.parametrize(
    "start, end, want",
    [
        (2, 4, [(2, 4, R), (4, 8, RW)]),
        (6, 8, [(2, 6, RW), (6, 8, R)]),
        (4, 6, [(2, 4, RW), (4, 6, R), (6, 8, RW)]),
        (2, 8, [(2, 8, R)]),
    ],
)
@pytest.mark.parametrize("kind", ["anon", "touched", "file"])
def test_mprotect_splits_and_merges_back(m, start, end, want, kind) -> None:
    if kind == "file":
        mmap_file(2, 8, RW, 5)
    else:
        mmap(2, 8)
    if kind == "touched":
        touch(3)
    assert mprotect(start, end, R) == 0
    assert layout() == want
    check_all(m)
    assert mprotect(start, end, RW) == 0
    assert layout() == [(2, 8, RW)]
    check_all(m)


def test_split_vma_alone(m) -> None:
    for below in (False, True):
        mmap_file(2, 8, RW, 5)
        old = vmas()[0]
        assert split_vma(the(mm_struct), old, 5, below) == 0
        assert layout() == [(2, 5, RW), (5, 8, RW)]
        assert [int(v.vm_pgoff) for v in vmas()] == [5, 8]
        assert vmas()[1 if below else 0] == old
        check_all(m)


@pytest.mark.parametrize("fails", [[1], [0, 1]])
def test_split_without_memory_changes_nothing(m, fails) -> None:
    mmap(2, 8)
    touch(2)
    the(faults_left).n = 1
    m.choices = list(fails)
    assert munmap(4, 6) == -ENOMEM
    assert layout() == [(2, 8, RW)]
    check_all(m)


def test_munmap_whose_second_split_fails(m) -> None:
    """The first split stays, which no program can tell."""
    mmap(2, 8)
    the(faults_left).n = 1
    m.choices = [0, 1]
    assert munmap(4, 6) == -ENOMEM
    assert layout() == [(2, 4, RW), (4, 8, RW)]
    check_all(m)


# -- unmapping
def test_munmap_across_vmas_and_holes(m) -> None:
    mmap(1, 3)
    mmap(3, 5, R)
    mmap_file(6, 9, RW, 2)
    mmap(10, 12)
    touch(1)
    touch(10)
    assert munmap(2, 11) == 0
    assert layout() == [(1, 2, RW), (11, 12, RW)]
    check_all(m)
    assert munmap(0, PAGES) == 0
    assert layout() == [] and the(mm_struct).map_count == 0
    check_all(m)


@pytest.mark.parametrize("start, end", [(0, 2), (8, 10), (0, 1), (12, 16)])
def test_munmap_of_nothing(m, start, end) -> None:
    mmap(2, 8)
    assert munmap(start, end) == 0
    assert layout() == [(2, 8, RW)]
    check_all(m)


def test_fixed_mapping_replaces_what_is_there(m) -> None:
    mmap(2, 10)
    touch(2)
    assert mmap(4, 6, R) == 4
    assert layout() == [(2, 4, RW), (4, 6, R), (6, 10, RW)]
    check_all(m)
    assert mmap_file(3, 8, RW, 0) == 3
    assert layout() == [(2, 3, RW), (3, 8, RW), (8, 10, RW)]
    check_all(m)


# -- arguments
def test_errors(m) -> None:
    anon = MAP_PRIVATE | MAP_ANONYMOUS
    assert sys_mmap(2, 0, RW, anon, NULL, 0) == -EINVAL
    assert sys_mmap(PAGES - 2, 4, RW, anon | MAP_FIXED, NULL, 0) == -ENOMEM
    assert sys_mmap(2, 2, RW, MAP_ANONYMOUS, NULL, 0) == -EINVAL
    assert sys_mmap(2, 2, RW, MAP_SHARED | MAP_ANONYMOUS, NULL, 0) == -EINVAL
    assert sys_mmap(2, 2, RW, MAP_PRIVATE, NULL, 0) == -EINVAL
    assert sys_mmap(2, 2, RW, 0, the_file(), 0) == -EINVAL
    assert sys_mmap(2, 2, RW, MAP_SHARED | MAP_PRIVATE, the_file(), 0) == -EINVAL
    assert sys_mmap(2, 2, RW, MAP_PRIVATE | MAP_GROWSDOWN, the_file(), 0) == -EINVAL
    assert sys_munmap(2, 0) == -EINVAL
    assert sys_munmap(PAGES - 1, 2) == -EINVAL
    assert sys_mprotect(2, 0, RW) == 0
    assert sys_mprotect(2, 2, RW) == -ENOMEM
    assert sys_mprotect(PAGES - 1, 2, RW) == -ENOMEM
    assert layout() == []
    check_all(m)


def test_mmap_without_memory(m) -> None:
    the(faults_left).n = 1
    m.choices = [1]
    assert mmap(2, 4) == -ENOMEM
    assert layout() == []
    check_all(m)


def test_mprotect_stops_at_a_hole(m) -> None:
    mmap(2, 4)
    mmap(6, 8)
    assert mprotect(2, 8, R) == -ENOMEM
    assert layout() == [(2, 4, R), (6, 8, RW)]
    assert mprotect(1, 4, RX) == -ENOMEM
    assert layout() == [(2, 4, R), (6, 8, RW)]
    check_all(m)


def test_mprotect_over_several_vmas(m) -> None:
    mmap(1, 3)
    mmap(3, 5, R)
    mmap_file(5, 7, RX, 0)
    mmap(7, 9, NONE)
    assert mprotect(2, 8, RW) == 0
    assert layout() == [(1, 5, RW), (5, 7, RW), (7, 8, RW), (8, 9, NONE)]
    check_all(m)


def test_where_a_mapping_goes(m) -> None:
    anon = MAP_PRIVATE | MAP_ANONYMOUS
    assert sys_mmap(0, 2, RW, anon, NULL, 0) == PAGES - 2
    assert sys_mmap(0, 2, R, anon, NULL, 0) == PAGES - 4
    assert sys_mmap(4, 2, RX, anon, NULL, 0) == 4  # the hint is free
    assert sys_mmap(5, 2, RX, anon, NULL, 0) == PAGES - 6  # and here it is not
    assert sys_mmap(0, 5, RW, anon, NULL, 0) == -ENOMEM
    assert sys_mmap(0, 4, W, anon, NULL, 0) == 6  # the highest of two equal holes
    check_all(m)


# -- lookups and growing stacks
def test_find_vma(m) -> None:
    mm = the(mm_struct)
    assert not find_vma(mm, 3)
    mmap(2, 4)
    mmap(6, 8, R)
    mmap(8, 9)
    a, b, c = vmas()
    assert [find_vma(mm, p) for p in range(9)] == [a, a, a, a, b, b, b, b, c]
    assert not find_vma(mm, 9)
    assert find_vma_prev(mm, 5) == (b, a)
    assert find_vma_prev(mm, 2) == (a, NULL)
    assert find_vma_prev(mm, 12) == (NULL, c)


def test_a_stack_grows(m) -> None:
    mmap(2, 3)
    mmap(8, 9, RW, MAP_GROWSDOWN)
    stack = vmas()[1]
    assert expand_downwards(stack, 5) == 0
    assert (stack.vm_start, stack.vm_pgoff) == (5, 5) and stack.anon_vma
    check_all(m)
    assert expand_downwards(stack, 6) == 0  # somebody was faster
    assert stack.vm_start == 5
    assert expand_downwards(stack, 2) == -ENOMEM
    check_all(m)
    the(faults_left).n = 1
    mmap(12, 13, RW, MAP_GROWSDOWN)
    m.choices = [1]
    assert expand_downwards(vmas()[2], 11) == -ENOMEM
    assert vmas()[2].vm_start == 12
    check_all(m)


def test_validate_mm_sees_a_broken_list(m) -> None:
    mmap(2, 4)
    mmap(6, 8)
    vmas()[0].vm_next = NULL
    with pytest.raises(KernelBug, match="validate-mm"):
        validate_mm(the(mm_struct))


@pytest.mark.parametrize("field, value", [("vm_end", 7), ("vm_start", 4)])
def test_validate_mm_sees_overlap_and_emptiness(m, field, value) -> None:
    mmap(2, 4)
    mmap(6, 8)
    setattr(vmas()[0], field, value)
    with pytest.raises(KernelBug, match="validate-mm"):
        validate_mm(the(mm_struct))


# -- random sequences against a dictionary of pages
Page = tuple[int, int, int]  # flags, file (0: none), offset


class Reference:
    """What each page should be, page by page; knows nothing of VMAs."""

    def __init__(self) -> None:
        self.page: dict[int, Page] = {}

    def mmap(self, a: int, b: int, flags: int, f: int, pgoff: int) -> None:
        for p in range(a, b):
            self.page[p] = (flags, f, pgoff + p - a if f else p)

    def munmap(self, a: int, b: int) -> None:
        for p in range(a, b):
            self.page.pop(p, None)

    def mprotect(self, a: int, b: int, prot: int) -> int:
        for p in range(a, b):
            if p not in self.page:
                return -ENOMEM
            flags, f, off = self.page[p]
            self.page[p] = (flags & ~7 | prot, f, off)
        return 0

    def runs(self) -> list[tuple[int, int, Page]]:
        """Maximal runs of pages that one VMA could hold."""
        out: list[tuple[int, int, Page]] = []
        for p in sorted(self.page):
            flags, f, off = self.page[p]
            if out:
                a, b, (fl, ff, o) = out[-1]
                if b == p and (fl, ff, o + b - a) == (flags, f, off):
                    out[-1] = (a, p + 1, (fl, ff, o))
                    continue
            out.append((p, p + 1, (flags, f, off)))
        return out


def pages_of_vmas() -> dict[int, Page]:
    out: dict[int, Page] = {}
    for v in vmas():
        for p in range(int(v.vm_start), int(v.vm_end)):
            assert p not in out
            out[p] = (int(v.vm_flags), v.vm_file.k_v, int(v.vm_pgoff) + p - int(v.vm_start))
    return out


def random_range(rng: random.Random) -> tuple[int, int]:
    a = rng.randrange(PAGES)
    return a, min(PAGES, a + rng.randint(1, 6))


def random_step(m: Machine, rng: random.Random, ref: Reference, failing: bool) -> None:
    a, b = random_range(rng)
    kind = rng.choice(["mmap", "mmap", "file", "munmap", "mprotect", "mprotect", "mprotect"])
    prot = rng.choice([NONE, R, RW, RW])
    before = dict(ref.page)
    if failing and rng.random() < 0.5:
        the(faults_left).n = 1
        m.choices = [0] * rng.randrange(4) + [1]
    if kind == "mmap":
        got = mmap(a, b, prot)
        ref.mmap(a, b, prot, 0, 0)
        want = a
    elif kind == "file":
        f, shared = rng.randint(1, 2), rng.random() < 0.5
        pgoff = a + rng.choice([0, 0, 0, 2])
        got = mmap_file(a, b, prot, pgoff, shared, f - 1)
        ref.mmap(a, b, prot | (VM_SHARED if shared else 0), f, pgoff)
        want = a
    elif kind == "munmap":
        got, want = munmap(a, b), 0
        ref.munmap(a, b)
    else:
        got, want = mprotect(a, b, prot), ref.mprotect(a, b, prot)
    failed = failing and the(faults_left).n == 0 and not m.choices
    the(faults_left).n, m.choices = 0, []
    now = pages_of_vmas()
    if not failed or got >= 0:
        assert got == want
        assert now == ref.page
        return
    # It ran out of memory: what it had done by then stays.
    assert got == -ENOMEM
    for p in set(before) | set(now):
        old, new = before.get(p), now.get(p)
        if a <= p < b and kind in ("mmap", "file"):
            assert new in (old, None)
        elif a <= p < b and kind == "mprotect":
            assert new in (old, ref.page.get(p))
        else:
            assert new == old
    ref.page = now


@pytest.mark.parametrize("seed", range(6))
def test_random_untouched(m, seed) -> None:
    """Without anon_vmas everything that can be merged is merged, after every operation."""
    rng = random.Random(seed)
    ref = Reference()
    for _ in range(250):
        random_step(m, rng, ref, False)
        got = [
            (int(v.vm_start), int(v.vm_end), (int(v.vm_flags), v.vm_file.k_v, int(v.vm_pgoff))) for v in vmas()
        ]
        assert got == ref.runs()
        check_all(m)
    want = {f"vma_merge/case{i}" for i in range(1, 9)}
    assert seed or want <= set(m.counters), "the sequence does not reach every case"


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_random_touched(m, seed, failing) -> None:
    rng = random.Random(100 + seed)
    ref = Reference()
    for _ in range(250):
        random_step(m, rng, ref, failing)
        check_all(m)
        if ref.page and rng.random() < 0.5:
            touch(rng.choice(list(ref.page)))
            check_all(m)
    munmap(0, PAGES)
    check_all(m)
    assert live(m, anon_vma) == live(m, anon_vma_chain) == live(m, vm_area_struct) == 0
