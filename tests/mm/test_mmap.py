"""Mapping, unmapping, protecting, splitting and merging: what Linux's text promises, case by case."""

from __future__ import annotations

import pytest
from maps import (
    NONE,
    PAGES,
    RW,
    RX,
    R,
    W,
    check_all,
    layout,
    machine,
    mmap,
    mmap_file,
    mprotect,
    munmap,
    the_file,
    touch,
    vmas,
)

from seqfault.kernel import NULL, KernelBug, the
from seqfault.kernel.layout import LIVE
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
    faults_left,
    mm_struct,
)
from seqfault.mm.vma import find_vma, find_vma_prev, validate_mm


@pytest.fixture
def m():
    with machine() as it:
        yield it


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
    """With the middle untouched, an outer one may have an anon_vma; the last one's is imported."""
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
