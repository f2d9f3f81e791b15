"""mremap, madvise, mlock and mseal in full.  What 6.18 does here, the live kernel was seen to do."""

from __future__ import annotations

import pytest
from program import ANON, HEAP, PAGE, RW, Program, R, at

from seqfault.kernel import pool_object, the
from seqfault.mm.file import truncate_inode_pages_range
from seqfault.mm.lru import lru_add_drain
from seqfault.mm.msync import EBUSY
from seqfault.mm.opcodes import *
from seqfault.mm.pgtable import pte_at, pte_dirty, vm_normal_page
from seqfault.mm.truncate import unmap_mapping_range
from seqfault.mm.types import (
    EACCES,
    EAGAIN,
    EFAULT,
    EINVAL,
    ENOMEM,
    EPERM,
    LINUX,
    SIGSEGV,
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MERGEABLE,
    VM_SEALED,
    VM_WIPEONFORK,
    file,
    page,
    task_mm,
)

FIXED = MREMAP_MAYMOVE | MREMAP_FIXED
DONTUNMAP = MREMAP_MAYMOVE | MREMAP_DONTUNMAP
RELEASES = (412, 601, 618)


@pytest.fixture
def p() -> Program:
    return Program(618)


@pytest.fixture(params=RELEASES)
def each(request) -> Program:
    return Program(request.param)


# -- mremap
def test_shrinks_and_grows_in_place(each) -> None:
    each.mmap(10, 4)
    each.write(13, 5)
    assert each.mremap(10, 4, 2, 0) == 10 and each.ranges() == [(10, 12)]
    assert each.mremap(10, 2, 6, 0) == 10 and each.ranges() == [(10, 16)]
    assert each.read(13) == 0 and each.mm("total_vm") == 8


def test_grows_only_from_its_end(each) -> None:
    each.mmap(10, 4)
    assert each.mremap(10, 2, 3, 0) == -ENOMEM
    each.mmap(14, 1, R)
    assert each.mremap(10, 4, 5, 0) == -ENOMEM
    assert each.mremap(12, 2, 3) >= 0  # the rest moves away
    assert each.ranges()[:2] == [(10, 12), (14, 15)]


def test_growing_meets_a_neighbour() -> None:
    """It merges with what is behind since ca3d76b0aa80 (5.19)."""
    for release, want in ((412, [(10, 13), (13, 15)]), (601, [(10, 15)]), (618, [(10, 15)])):
        p = Program(release)
        p.mmap(10, 2)
        p.mmap(13, 2)
        assert p.mremap(10, 2, 3, 0) == 10 and p.ranges() == want


def test_moves_with_its_pages(each) -> None:
    each.mmap(10, 3)
    each.write(10, 1)
    each.write(12, 3)
    assert each.mremap(10, 3, 4, FIXED, 20) == 20
    assert each.ranges() == [(20, 24)] and each.vmas()[0][2] & VM_ACCOUNT
    assert [each.read(20 + i) for i in range(4)] == [1, 0, 3, 0]
    assert each.read(10) == -1000 - SIGSEGV


def test_a_move_out_of_the_middle_leaves_two_charged_pieces(each) -> None:
    each.mmap(10, 6)
    assert each.mremap(12, 2, 2, FIXED, 30) == 30
    assert each.ranges() == [(10, 12), (14, 16), (30, 32)]
    assert all(f & VM_ACCOUNT for _, _, f in each.vmas()) and each.mm("total_vm") == 8


def test_touched_ones_keep_their_offset_untouched_ones_merge(each) -> None:
    each.mmap(10, 2)
    each.mmap(20, 2)
    assert each.mremap(20, 2, 2, FIXED, 12) == 12 and each.ranges() == [(10, 14)]
    each.mmap(20, 2)
    each.write(20, 1)
    assert each.mremap(20, 2, 2, FIXED, 14) == 14 and each.ranges() == [(10, 14), (14, 16)]
    assert each.mremap(14, 2, 2, FIXED, 20) == 20 and each.read(20) == 1


def test_a_move_next_to_itself(p) -> None:
    """An untouched mapping merges with its own copy before it is unmapped."""
    p.mmap(10, 2)
    assert p.mremap(10, 2, 2, FIXED, 12) == 12 and p.ranges() == [(12, 14)]
    assert p.mm("map_count") == 3 and p.mm("total_vm") == 4


def test_dontunmap(p) -> None:
    p.mmap(10, 4)
    p.write(11, 7)
    assert p.mremap(10, 4, 4, DONTUNMAP | MREMAP_FIXED, 20) == 20
    assert p.ranges() == [(10, 14), (20, 24)] and (p.read(11), p.read(21)) == (0, 7)
    assert all(f & VM_ACCOUNT for _, _, f in p.vmas())
    a, b = p.anon_vmas()
    assert b and a != b


def test_dontunmap_unlocks_what_stays(p) -> None:
    p.mmap(10, 4)
    p.mlock(10, 4)
    assert p.mremap(11, 2, 2, DONTUNMAP | MREMAP_FIXED, 14) == 14
    assert [(a, b, f & VM_LOCKED) for a, b, f in p.vmas()] == [(10, 14, 0), (14, 16, VM_LOCKED)]


def test_dontunmap_by_release() -> None:
    """It is there since 5.7, for mappings of files since 5.13."""
    assert [Program(r).mremap(0, 1, 1, DONTUNMAP) for r in (412,)] == [-EINVAL]
    for release, want in ((508, -EINVAL), (618, 20)):
        p = Program(release)
        p.mmap(10, 1, RW, UAPI_MAP_SHARED, 0)
        assert p.mremap(10, 1, 1, DONTUNMAP | MREMAP_FIXED, 20) == want


def test_no_old_length_duplicates_what_is_shared() -> None:
    for release, private in ((412, 20), (601, -EINVAL), (618, -EINVAL)):
        p = Program(release)
        p.mmap(10, 2, RW, UAPI_MAP_SHARED, 0, 1)
        p.write(11, 9)
        assert p.mremap(10, 0, 2, FIXED, 20) == 20 and p.ranges() == [(10, 12), (20, 22)]
        assert p.read(21) == 9
        p.munmap(10, 12)
        p.mmap(10, 2)
        assert p.mremap(10, 0, 2, FIXED, 20) == private


def test_several_at_once(p) -> None:
    """Since 6.17: the gaps stay."""
    p.mmap(10, 2)
    p.mmap(13, 1, R)
    p.write(11, 4)
    assert p.mremap(11, 4, 4, FIXED, 30) == 30
    assert p.ranges() == [(10, 11), (30, 31), (32, 33)] and p.read(30) == 4
    old = Program(601)
    old.mmap(10, 2)
    old.mmap(13, 1, R)
    assert old.mremap(11, 4, 4, FIXED, 30) == -EFAULT


def test_several_begin_with_a_hole(p) -> None:
    p.mmap(12, 2)
    assert p.mremap(11, 3, 3, FIXED, 30) == -EFAULT and p.ranges() == [(12, 14)]


def test_several_until_a_sealed_one(p) -> None:
    p.mmap(10, 1)
    p.mmap(11, 1, R)
    p.call(OP_MSEAL, at(11), PAGE, 0)
    assert p.mremap(10, 2, 2, FIXED, 30) == -EPERM and p.ranges() == [(11, 12), (30, 31)]


def test_the_target_is_unmapped_first_before_6_17() -> None:
    for release, left in ((601, []), (618, [(30, 31)])):
        p = Program(release)
        p.mmap(10, 2)
        p.mmap(30, 1)
        assert p.mremap(10, 3, 4, FIXED, 30) == -EFAULT
        assert p.ranges()[1:] == left


def test_mremap_errors_in_order() -> None:
    p = Program(618)
    p.mmap(10, 4)
    cases = {
        (10, 4, 4, 8, 0): -EINVAL,
        (10, 4, 0, 1, 0): -EINVAL,
        (10, 4, 4, MREMAP_FIXED, 20): -EINVAL,
        (10, 4, 4, FIXED, 12): -EINVAL,
        (10, 4, 5, DONTUNMAP, 0): -EINVAL,
        (10, 5, 6, MREMAP_MAYMOVE, 0): -EFAULT,
        (20, 1, 1, 0, 0): -EFAULT,
        (10, 4, 70, MREMAP_MAYMOVE, 0): -ENOMEM,
        (10, 4, 1 << 36, MREMAP_MAYMOVE, 0): -EINVAL,
    }
    assert {k: p.mremap(*k) for k in cases} == cases
    assert p.call(OP_MREMAP, at(10) + 1, PAGE, PAGE, 0, 0) == -EINVAL
    assert p.call(OP_MREMAP, at(10), PAGE, PAGE, FIXED, at(20) + 1) == -EINVAL
    assert Program(412).mremap(20, 1, 1, 0) == 20  # nothing was looked up before 5.16


def test_mremap_locked_faults_the_new_part_in(each) -> None:
    each.mmap(10, 1)
    each.mlock(10, 1)
    assert each.mremap(10, 1, 3, 0) == 10
    assert each.call(OP_MINCORE, at(10), 3 * PAGE) == 0
    assert each.record()[-3:] == [1, 1, 1] and each.mm("locked_vm") == 3


def test_mremap_needs_room_for_vmas(p) -> None:
    p.mmap(10, 2)
    p.call(OP_MAP_COUNT, 4)
    assert p.mremap(10, 1, 1, FIXED, 20) == -ENOMEM
    p.call(OP_MAP_COUNT, 6)
    assert p.mremap(10, 1, 1, FIXED, 20) == 20


def test_guards_move(p) -> None:
    p.mmap(10, 3)
    p.madvise(11, 1, MADV_GUARD_INSTALL)
    assert p.mremap(10, 3, 3, FIXED, 20) == 20
    assert p.read(21) == -1000 - SIGSEGV and p.read(20) == 0


# -- madvise
def test_flags_split_and_merge(each) -> None:
    each.mmap(10, 6)
    assert each.madvise(12, 2, MADV_DONTFORK) == 0 and each.ranges() == [(10, 12), (12, 14), (14, 16)]
    assert each.vmas()[1][2] & VM_DONTCOPY
    assert each.madvise(10, 6, MADV_DOFORK) == 0 and each.ranges() == [(10, 16)]
    each.madvise(10, 3, MADV_SEQUENTIAL)
    each.madvise(10, 3, MADV_RANDOM)
    assert each.ranges() == [(10, 13), (13, 16)]
    each.madvise(10, 3, MADV_NORMAL)
    assert each.ranges() == [(10, 16)]


def test_holes_are_told_of_at_the_end(each) -> None:
    each.mmap(10, 1)
    each.mmap(12, 1)
    assert each.madvise(9, 4, MADV_DONTDUMP) == -ENOMEM
    assert [f for _, _, f in each.vmas()][0] == [f for _, _, f in each.vmas()][1]
    assert each.madvise(13, 1, MADV_DONTNEED) == -ENOMEM


def test_wipeonfork(p) -> None:
    p.mmap(10, 1)
    p.mmap(11, 1, RW, UAPI_MAP_PRIVATE, 0)
    assert p.madvise(10, 1, MADV_WIPEONFORK) == 0 and p.vmas()[0][2] & VM_WIPEONFORK
    assert p.madvise(11, 1, MADV_WIPEONFORK) == -EINVAL
    p.write(10, 3)
    p.call(OP_FORK)
    assert (p.read(10), p.read(10, who=1)) == (3, 0)


def test_mergeable_is_ignored_where_shared(each) -> None:
    each.mmap(10, 1)
    each.mmap(11, 1, RW, UAPI_MAP_SHARED, 0)
    assert each.madvise(10, 2, MADV_MERGEABLE) == 0
    assert [f & VM_MERGEABLE for _, _, f in each.vmas()] == [VM_MERGEABLE, 0]
    assert each.madvise(10, 2, MADV_UNMERGEABLE) == 0 and not each.vmas()[0][2] & VM_MERGEABLE


def test_locked_memory_is_not_thrown_away(p) -> None:
    p.mmap(10, 1)
    p.write(10, 8)
    p.mlock(10, 1)
    for advice in (MADV_DONTNEED, MADV_FREE, MADV_COLD, MADV_PAGEOUT, MADV_REMOVE, MADV_GUARD_INSTALL):
        assert p.madvise(10, 1, advice) == -EINVAL
    assert p.read(10) == 8
    assert p.madvise(10, 1, MADV_DONTNEED_LOCKED) == 0 and p.read(10) == 0


def test_remove_punches_a_hole(each) -> None:
    each.mmap(10, 2, RW, UAPI_MAP_SHARED, 0)
    each.mmap(12, 2, RW, UAPI_MAP_PRIVATE, 0)
    each.write(10, 5)
    assert each.madvise(12, 1, MADV_REMOVE) == -EACCES
    assert each.madvise(10, 1, MADV_REMOVE) == 0 and each.read(10) == 0
    each.mmap(14, 1)
    assert each.madvise(14, 1, MADV_REMOVE) == -EINVAL


def test_advice_by_release() -> None:
    since = {
        MADV_WIPEONFORK: 414,
        MADV_COLD: 504,
        MADV_POPULATE_READ: 514,
        MADV_DONTNEED_LOCKED: 518,
        MADV_GUARD_INSTALL: 613,
    }
    for release in RELEASES:
        p = Program(release)
        p.mmap(10, 1)
        for advice, first in since.items():
            assert p.madvise(10, 1, advice) == (0 if release >= first else -EINVAL)
        assert p.madvise(10, 1, 77) == -EINVAL


def test_too_many_vmas_by_release() -> None:
    """ENOMEM until 5.16, then what is a shortage: EAGAIN."""
    for release, want in ((412, -ENOMEM), (601, -EAGAIN), (618, -EAGAIN)):
        p = Program(release)
        p.mmap(10, 4)
        p.call(OP_MAP_COUNT, 0)
        assert p.madvise(11, 1, MADV_DONTFORK) == want


# -- mlock
def test_mlock_splits_locks_and_faults_in(each) -> None:
    each.mmap(10, 4)
    assert each.call(OP_MLOCK, at(11) + 5, PAGE) == 0  # two pages are touched
    assert each.ranges() == [(10, 11), (11, 13), (13, 14)] and each.mm("locked_vm") == 2
    assert each.call(OP_MINCORE, at(10), 4 * PAGE) == 0 and each.record()[-4:] == [0, 1, 1, 0]
    assert each.call(OP_MUNLOCK, at(10), 4 * PAGE) == 0 and each.mm("locked_vm") == 0
    with each.machine:
        whole = int(LINUX) >= 618
    # A touched range does not merge with a VMA that was never touched, until 6.16.
    assert each.ranges() == ([(10, 14)] if whole else [(10, 11), (11, 13), (13, 14)])


def test_mlock_stops_at_a_hole(each) -> None:
    each.mmap(10, 1)
    each.mmap(12, 1)
    assert each.mlock(10, 3) == -ENOMEM and each.mm("locked_vm") == 1
    assert each.mlock(9, 1) == -ENOMEM


def test_mlock_where_nothing_may_be_touched(each) -> None:
    each.mmap(10, 1, 0)
    assert each.mlock(10, 1) == -ENOMEM and each.vmas()[0][2] & VM_LOCKED


def test_mlock2_on_fault(each) -> None:
    each.mmap(10, 2)
    assert each.call(OP_MLOCK2, at(10), 2 * PAGE, MLOCK_ONFAULT) == 0
    assert each.vmas()[0][2] & VM_LOCKONFAULT
    assert each.call(OP_MINCORE, at(10), 2 * PAGE) == 0 and each.record()[-2:] == [0, 0]
    assert each.call(OP_MLOCK2, at(10), 2 * PAGE, 2) == -EINVAL


def test_mlockall_for_what_is_to_come(each) -> None:
    assert each.call(OP_MLOCKALL, MCL_FUTURE) == 0
    each.mmap(10, 1)
    assert each.vmas()[0][2] & VM_LOCKED and each.mm("locked_vm") == 1
    assert each.call(OP_BRK, at(HEAP + 1)) == at(HEAP + 1)
    assert each.call(OP_MINCORE, at(HEAP), PAGE) == 0 and each.record()[-1:] == [1]
    assert each.call(OP_MUNLOCKALL) == 0 and each.mm("locked_vm") == 0
    assert not any(f & VM_LOCKED for _, _, f in each.vmas())
    assert each.call(OP_MLOCKALL, 0) == each.call(OP_MLOCKALL, 8) == -EINVAL


# -- mseal
def test_mseal(p) -> None:
    p.mmap(10, 4)
    assert p.call(OP_MSEAL, at(11), PAGE, 0) == 0
    assert p.ranges() == [(10, 11), (11, 12), (12, 14)] and p.vmas()[1][2] & VM_SEALED
    assert p.munmap(10, 2) == p.mprotect(11, 1, R) == -EPERM
    assert p.mremap(11, 1, 1, FIXED, 20) == p.mremap(11, 1, 3, 1) == -EPERM
    assert p.mmap(10, 4) == -EPERM and p.madvise(11, 1, MADV_DONTFORK) == 0
    assert p.call(OP_MSEAL, at(10), 4 * PAGE, 0) == 0
    assert p.call(OP_MSEAL, at(10), PAGE, 1) == -EINVAL
    assert p.call(OP_MSEAL, at(13), 2 * PAGE, 0) == -ENOMEM


def test_sealed_data_that_cannot_be_written_stays(p) -> None:
    p.mmap(10, 1)
    p.write(10, 6)
    p.mprotect(10, 1, R)
    p.call(OP_MSEAL, at(10), PAGE, 0)
    for advice in (MADV_DONTNEED, MADV_DONTFORK, MADV_WIPEONFORK, MADV_GUARD_INSTALL):
        assert p.madvise(10, 1, advice) == -EPERM
    assert p.madvise(10, 1, MADV_RANDOM) == 0 and p.read(10) == 6


def test_mseal_is_new() -> None:
    assert Program(601).call(OP_MSEAL, at(1), PAGE, 0) == -38


# -- msync, mincore
def test_msync(each) -> None:
    each.mmap(10, 1)
    each.mmap(12, 1)
    assert each.call(OP_MSYNC, at(10), PAGE, MS_SYNC) == 0
    assert each.call(OP_MSYNC, at(10), 3 * PAGE, MS_SYNC) == -ENOMEM
    assert each.call(OP_MSYNC, at(10), PAGE, MS_SYNC | MS_ASYNC) == -EINVAL
    assert each.call(OP_MSYNC, at(10), PAGE, 8) == each.call(OP_MSYNC, at(10) + 1, PAGE, MS_SYNC) == -EINVAL
    each.mlock(10, 1)
    assert each.call(OP_MSYNC, at(10), PAGE, MS_INVALIDATE) == -EBUSY


def test_mincore(each) -> None:
    """Present, or in the page cache."""
    each.mmap(10, 2)
    each.mmap(12, 2, R, UAPI_MAP_SHARED, 0)
    each.write(11, 1)
    each.read(12)
    each.madvise(12, 1, MADV_DONTNEED)
    assert each.call(OP_MINCORE, at(10), 4 * PAGE) == 0 and each.record()[-5:] == [4, 0, 1, 1, 0]
    assert each.call(OP_MINCORE, at(10), 5 * PAGE) == -ENOMEM
    assert each.call(OP_MINCORE, at(10) + 1, PAGE) == -EINVAL


def test_shared_anonymous_memory_is_not_anonymous(p) -> None:
    p.mmap(10, 1, RW, UAPI_MAP_SHARED | UAPI_MAP_ANONYMOUS)
    assert p.madvise(10, 1, MADV_FREE) == p.madvise(10, 1, MADV_WIPEONFORK) == -EINVAL
    assert ANON & UAPI_MAP_SHARED == 0


def test_msync_cleans_pages_of_a_file_on_disk(each) -> None:
    """Not of one in memory; and the next write makes them dirty again."""

    def dirty(page: int) -> bool:
        with each.machine:
            e = pte_at(the(task_mm).mm, page)
            return bool(pte_dirty(e) or vm_normal_page(e).dirty)

    each.mmap(10, 2, RW, UAPI_MAP_SHARED, 2)
    each.mmap(12, 1, RW, UAPI_MAP_SHARED, 0)
    for n in (10, 11, 12):
        each.write(n, 1)
    assert each.call(OP_MSYNC, at(10), PAGE, MS_ASYNC) == 0 and dirty(10)
    assert each.call(OP_MSYNC, at(11), 2 * PAGE, MS_SYNC) == 0
    assert [dirty(n) for n in (10, 11, 12)] == [True, False, True]
    each.write(11, 2)
    assert dirty(11)


def test_what_was_written_back_is_read_again(each) -> None:
    """Once the clean page is dropped; a hole that the file gets meanwhile reads as zero."""
    each.call(OP_FTRUNCATE, 2, 2 * PAGE)
    each.mmap(10, 2, RW, UAPI_MAP_SHARED, 2)
    for at_page in (10, 11):
        each.write(at_page, 7)
    assert each.call(OP_MSYNC, at(10), 2 * PAGE, MS_SYNC) == 0
    with each.machine:
        f = pool_object(file, 2)
        unmap_mapping_range(f, 0, 2, True)
        truncate_inode_pages_range(f, 0, 2)
    assert each.read(10) == each.read(11) == 7
    each.call(OP_FTRUNCATE, 2, PAGE)
    each.call(OP_FTRUNCATE, 2, 2 * PAGE)
    assert (each.read(10), each.read(11)) == (7, 0)


def test_the_end_of_a_page_that_has_a_block_is_made_dirty(p) -> None:
    """Of a file that ends in it; of a hole there is nothing to write."""
    p.call(OP_FTRUNCATE, 2, 8 * PAGE)
    p.mmap(10, 8, RW, UAPI_MAP_SHARED, 2)
    assert p.read(17) == 0 and p.call(OP_MSYNC, at(10), 8 * PAGE, MS_SYNC) == 0

    def dirty(index: int) -> bool:
        with p.machine:
            return bool(pool_object(page, pool_object(file, 2).pages[index]).dirty)

    p.call(OP_FTRUNCATE, 2, 7 * PAGE + 1)
    assert not dirty(7)
    p.call(OP_FTRUNCATE, 2, 5 * PAGE + 1)
    assert dirty(5) and not dirty(4)


def test_pages_of_ramfs_are_unevictable() -> None:
    """Locked or not, and after they were unlocked."""
    p = Program(601, RA_PAGES=0)
    p.mmap(10, 2, RW, UAPI_MAP_SHARED, 2)
    p.write(10, 1)
    p.write(11, 1)
    p.mlock(11, 1)
    p.call(OP_MUNLOCK, at(11), PAGE)
    with p.machine:
        lru_add_drain()
        marks = [(q.unevictable, q.mlocked) for q in (pool_object(page, pool_object(file, 2).pages[i]) for i in (0, 1))]
    assert marks == [(True, False), (True, False)]
