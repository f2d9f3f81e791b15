"""Pages in full: fork, faults, populating, guard regions, truncation, reclaim.  What 6.18 does here, the live kernel
was seen to do."""

from __future__ import annotations

import pytest
from program import ANON, PAGE, PAGES, RW, Program, R, W, X, at

from seqfault.kernel import pool_object, the
from seqfault.kernel.layout import LIVE
from seqfault.kernel.machine import KernelBug, Ptr
from seqfault.mm.lru import lru_add_drain
from seqfault.mm.observe import uapi_observed
from seqfault.mm.opcodes import *
from seqfault.mm.pgtable import pte_at, pte_dirty, pte_is_guard, pte_pfn, pte_present, pte_write, vm_normal_page
from seqfault.mm.truncate import EFBIG
from seqfault.mm.types import (
    EFAULT,
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    SIGBUS,
    SIGSEGV,
    anon_vma,
    anon_vma_chain,
    file,
    mm_struct,
    page,
    pte_table,
    task_mm,
    vm_area_struct,
)

RELEASES = (412, 601, 618)
SEGV, BUS = -1000 - SIGSEGV, -1000 - SIGBUS
PRIVATE, SHARED = UAPI_MAP_PRIVATE, UAPI_MAP_SHARED
DISK = 2


@pytest.fixture
def p() -> Program:
    return Program(618)


@pytest.fixture(params=RELEASES)
def each(request) -> Program:
    return Program(request.param)


def pte(p: Program, at: int, who: int = 0) -> int:
    with p.machine:
        return int(pte_at(pool_object(mm_struct, who), at))


def present(p: Program, start: int, end: int, who: int = 0) -> str:
    """A letter a page: . none, z zero page, w writable, r not, g guard marker."""
    out = ""
    with p.machine:
        for i in range(start, end):
            e = pte_at(pool_object(mm_struct, who), i)
            if pte_is_guard(e):
                out += "g"
            elif not pte_present(e):
                out += "."
            elif pte_pfn(e) == 0:
                out += "z"
            else:
                out += "w" if pte_write(e) else "r"
    return out


def frame(p: Program, at: int, who: int = 0) -> Ptr:
    with p.machine:
        return pool_object(page, pte_pfn(pte(p, at, who)))


def live(p: Program, s) -> int:
    pool = p.machine.pool(s)
    return sum(p.machine.cells[pool.base + i * pool.stride] == LIVE for i in range(pool.n))


def fork(p: Program) -> None:
    assert p.call(OP_FORK) == 0


def leave(p: Program) -> int:
    return p.call(OP_EXIT, who=1)


# -- anonymous pages and fork
def test_first_touch(each) -> None:
    each.mmap(10, 4)
    assert each.read(10) == 0 and each.write(11, 5) == 0 and each.read(11) == 5
    assert present(each, 10, 14) == "zw.."
    assert each.mprotect(10, 4, 0) == 0
    assert present(each, 10, 14) == "zr.." and each.read(10) == SEGV
    with each.machine:
        assert pte_dirty(pte_at(the_mm(), 11))


def the_mm(who: int = 0) -> Ptr:
    return pool_object(mm_struct, who)


def test_forked_pages_are_shared_until_written(each) -> None:
    each.mmap(10, 3)
    each.write(10, 1)
    each.write(11, 2)
    each.read(12)
    fork(each)
    assert present(each, 10, 13) == present(each, 10, 13, 1) == "rrz"
    assert frame(each, 10) == frame(each, 10, 1)
    assert each.write(10, 7, who=1) == 0
    assert each.read(10) == 1 and each.read(10, who=1) == 7
    before = frame(each, 10)
    assert each.write(10, 3) == 0 and frame(each, 10) == before  # the only one that maps it now
    with each.machine:
        assert frame(each, 11).mapcount == 2
    assert leave(each) == 0
    with each.machine:
        assert frame(each, 11).mapcount == 1
    before = frame(each, 11)
    assert each.write(11, 4) == 0 and frame(each, 11) == before


def test_nothing_is_left_after_exit(each) -> None:
    each.mmap(10, 6)
    for i in range(10, 16):
        each.write(i, i)
    each.mmap(20, 2, RW, SHARED | UAPI_MAP_ANONYMOUS)
    each.write(20, 9)
    counts = [live(each, s) for s in (vm_area_struct, anon_vma, anon_vma_chain, pte_table)]
    for _ in range(3):
        fork(each)
        for i in range(10, 16, 2):
            each.write(i, 1, who=1)
        each.munmap(12, 1)
        each.mmap(12, 1)
        leave(each)
        assert each.write(12, 12) == 0
        with each.machine:
            assert the_mm(1).mmap == the_mm(1).mm_rb and not the_mm(1).mmap
    now = [live(each, s) for s in (vm_area_struct, anon_vma, anon_vma_chain, pte_table)]
    assert now == counts


def test_advice_on_fork(p) -> None:
    p.mmap(10, 6)
    for i in range(10, 16):
        p.write(i, i)
    assert p.madvise(10, 2, MADV_DONTFORK) == 0 and p.madvise(12, 2, MADV_WIPEONFORK) == 0
    fork(p)
    assert p.read(10, who=1) == SEGV and p.read(12, who=1) == 0 and p.read(14, who=1) == 14
    assert p.read(12) == 12


def test_shared_memory_is_shared_with_a_child(each) -> None:
    each.mmap(10, 2, RW, SHARED | UAPI_MAP_ANONYMOUS)
    each.write(10, 4)
    fork(each)
    assert present(each, 10, 12, 1) == ".."  # no anon_vma: a fault finds the page again
    assert each.read(10, who=1) == 4 and each.write(11, 6, who=1) == 0 and each.read(11) == 6


# -- anon_vma's families
def chain(p: Program, at: int, who: int) -> list[Ptr]:
    out = []
    with p.machine:
        vma = the_mm(who).mmap
        while vma and vma.vm_end <= at:
            vma = vma.vm_next
        avc = vma.anon_vma_chain
        while avc:
            out.append(avc.anon_vma)
            avc = avc.next_same_vma
    return out


def test_a_child_has_its_parents_anon_vma_and_one_of_its_own(each) -> None:
    each.mmap(10, 2)
    each.write(10, 1)
    (root,) = chain(each, 10, 0)
    fork(each)
    own, inherited = chain(each, 10, 1)
    assert inherited == root
    with each.machine:
        assert own.root == root and own.parent == root and root.refcount == 2 and own.refcount == 1
        if each.machine.layout.sizes["LINUX"] >= 600:
            assert (root.num_children, root.num_active_vmas) == (2, 1)
            assert (own.num_children, own.num_active_vmas) == (0, 1)
        else:
            assert (root.degree, own.degree) == (3, 1)
    each.call(OP_MPROTECT, at(11), PAGE, R, who=1)  # a split copies the chain, in order
    assert chain(each, 11, 1) == [own, inherited]
    leave(each)
    with each.machine:
        assert root.refcount == 1
    assert live(each, anon_vma) == 1


# -- files
def test_holes_get_pages_when_they_are_touched(each) -> None:
    each.mmap(10, 4, R, PRIVATE, 0)
    assert each.read(11) == 0
    with each.machine:
        assert pool_object(file, 0).nrpages == 1
    each.mmap(20, 10, RW, SHARED, 0)
    assert each.write(21, 9) == 0 and each.read(11) == 9
    assert each.write(28, 1) == BUS  # 8 pages


def test_fault_around(p) -> None:
    p.mmap(20, 6, R, PRIVATE, DISK)
    assert p.read(23) == 0x63 and present(p, 20, 26) == "rrrrrr"
    p.mmap(40, 6, R, PRIVATE, DISK)
    assert present(p, 40, 46) == "......"
    assert p.read(46 - 1) == 0x65 and present(p, 40, 46) == "rrrrrr"


def test_fault_around_makes_no_table_for_the_last_page() -> None:
    """Since 6.18; of a file that is not shmem."""
    for release, expected in ((601, "r.."), (618, "...")):
        p = Program(release)
        p.mmap(10, 3, R, PRIVATE, DISK, 5)
        assert p.read(12) == BUS and present(p, 10, 13) == expected


def test_readahead_fills_what_is_around(p) -> None:
    p.call(OP_FTRUNCATE, DISK, 10 * PAGE)
    p.mmap(20, 10, R, PRIVATE, DISK)
    assert p.read(28) == 0
    with p.machine:
        assert pool_object(file, DISK).nrpages == 10
    p.call(OP_FTRUNCATE, DISK, 6 * PAGE)
    p.call(OP_FTRUNCATE, DISK, 10 * PAGE)
    p.madvise(20, 10, MADV_RANDOM)
    assert p.read(28) == 0
    with p.machine:
        assert pool_object(file, DISK).nrpages == 7


def test_truncation_unmaps_private_copies_too(each) -> None:
    each.mmap(10, 6, RW, PRIVATE, DISK)
    each.write(11, 1)
    each.write(14, 2)
    assert each.call(OP_FTRUNCATE, DISK, 3 * PAGE) == 0
    assert present(each, 14, 16) == ".." and each.read(14) == BUS and each.read(11) == 1
    each.call(OP_FTRUNCATE, DISK, 6 * PAGE)
    assert each.read(14) == 0


def test_a_punched_hole_spares_private_copies(p) -> None:
    p.mmap(10, 6, RW, PRIVATE, DISK)
    p.write(12, 9)
    p.mmap(20, 6, RW, SHARED, DISK)
    assert p.read(23) == 0x63
    assert p.madvise(22, 2, MADV_REMOVE) == 0
    assert p.read(12) == 9 and p.read(13) == 0 and p.read(23) == 0


# -- populating
def test_populate_breaks_copy_on_write(each) -> None:
    each.mmap(10, 3, RW, ANON | UAPI_MAP_POPULATE)
    each.mmap(14, 3, R, ANON | UAPI_MAP_POPULATE)
    each.mmap(18, 3, 0, ANON | UAPI_MAP_POPULATE)
    each.mmap(22, 3, RW, SHARED | UAPI_MAP_POPULATE, 0)
    assert present(each, 10, 13) == "www" and present(each, 14, 17) == "zzz" and present(each, 18, 21) == "..."
    assert present(each, 22, 25) == "www"


def test_errors_of_populating(p) -> None:
    p.mmap(10, 2)
    p.mmap(12, 2, R)
    assert p.madvise(10, 4, MADV_POPULATE_WRITE) == -EINVAL and present(p, 10, 14) == "ww.."
    assert p.madvise(10, 4, MADV_POPULATE_READ) == 0 and present(p, 10, 14) == "wwzz"
    assert p.madvise(10, 8, MADV_POPULATE_READ) == -ENOMEM
    p.mmap(30, 10, R, PRIVATE, 0)
    assert p.madvise(30, 10, MADV_POPULATE_READ) == -EFAULT  # behind the end of the file
    assert p.mlock(30, 10) == -ENOMEM


# -- guard regions
def test_guard_regions(p) -> None:
    p.mmap(10, 6)
    p.write(11, 5)
    p.write(14, 6)
    assert p.madvise(11, 2, MADV_GUARD_INSTALL) == 0 and present(p, 10, 16) == ".gg.w."
    assert p.read(11) == SEGV and p.write(12, 1) == SEGV and p.read(14) == 6
    assert p.madvise(10, 6, MADV_DONTNEED) == 0 and present(p, 10, 16) == ".gg..."
    fork(p)
    assert present(p, 10, 16, 1) == ".gg..." and p.read(12, who=1) == SEGV
    leave(p)
    assert p.mremap(10, 6, 6, MREMAP_MAYMOVE | MREMAP_FIXED, 20) == 20 and present(p, 20, 26) == ".gg..."
    assert p.madvise(22, 4, MADV_GUARD_REMOVE) == 0 and present(p, 20, 26) == ".g...."
    assert p.read(22) == 0 and p.read(21) == SEGV
    assert p.mmap(21, 1) == 21 and p.read(21) == 0


def test_populating_a_guard_region(p) -> None:
    p.mmap(10, 3)
    p.madvise(11, 1, MADV_GUARD_INSTALL)
    assert p.madvise(10, 3, MADV_POPULATE_WRITE) == -EFAULT and present(p, 10, 13) == "wg."


# -- stacks
def test_stacks_keep_a_gap() -> None:
    p = Program(618, STACK_GUARD_GAP=4)
    p.mmap(30, 2, RW, ANON | UAPI_MAP_GROWSDOWN)
    p.mmap(20, 2, R)
    assert p.write(26, 1) == 0 and p.ranges()[-1] == (26, 32)
    assert p.write(25, 1) == SEGV
    p.mprotect(20, 2, 0)  # nobody can access it: no gap
    assert p.write(25, 1) == 0 and p.ranges()[-1] == (25, 32)


# -- reclaim
def test_free_pages_stay_until_they_are_paged_out(p) -> None:
    p.mmap(10, 2)
    p.write(10, 1)
    p.write(11, 2)
    assert p.madvise(10, 2, MADV_FREE) == 0 and p.read(10) == 1
    p.write(11, 3)
    assert p.madvise(10, 2, MADV_PAGEOUT) == 0
    assert present(p, 10, 12) == ".w" and p.read(10) == 0 and p.read(11) == 3


def test_droppable_pages_are_paged_out_dirty_or_not(p) -> None:
    p.mmap(10, 2, RW, UAPI_MAP_DROPPABLE | UAPI_MAP_ANONYMOUS)
    p.write(10, 1)
    assert p.madvise(10, 2, MADV_PAGEOUT) == 0
    assert present(p, 10, 12) == ".." and p.read(10) == 0


def test_pages_that_are_unevictable_stay_though_nobody_has_them_locked(p) -> None:
    """MREMAP_DONTUNMAP takes the lock from all of the VMA that stays, not from its pages."""
    p.call(OP_MLOCKALL, MCL_FUTURE)
    p.mmap(10, 4, R, PRIVATE, 0)
    assert p.mremap(11, 1, 1, MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED, 20) == 20
    assert present(p, 10, 14) == "r.rr" and p.madvise(12, 1, MADV_PAGEOUT) == 0
    assert present(p, 10, 14) == "r.rr"


@pytest.mark.parametrize("release, there", [(601, False), (618, True)])
def test_random_access_is_read_ahead_of_where_it_is_executed(release, there) -> None:
    """Since 6.17."""
    p = Program(release)
    p.call(OP_FTRUNCATE, DISK, 0)
    p.call(OP_FTRUNCATE, DISK, 6 * PAGE)
    p.mmap(10, 6, R | X, PRIVATE, DISK)
    p.madvise(10, 6, MADV_RANDOM)
    p.read(11)
    with p.machine:
        assert (pool_object(file, DISK).pages[2] != 0) == there


def test_a_page_that_is_read_alone_lets_the_fault_begin_anew() -> None:
    """So what is around it is mapped by the second look, which makes the page table that the first one did not: there
    was nothing but the file's last page."""
    p = Program(618)
    p.mmap(10, 5, R, SHARED, DISK, 6)
    p.call(OP_PWRITE, DISK, 10, 7)
    p.madvise(10, 5, MADV_RANDOM)
    assert p.read(12) == 0 and present(p, 10, 15) == "..r.r"


def test_holes_that_no_file_can_have() -> None:
    far = 1 << 50
    for ra, disk in ((32, -EFBIG), (0, -EOPNOTSUPP)):
        p = Program(618, RA_PAGES=ra)
        p.mmap(10, 2, RW, SHARED, DISK, far)
        p.mmap(20, 2, RW, SHARED, 0, far)
        assert p.madvise(10, 1, MADV_REMOVE) == disk and p.madvise(20, 1, MADV_REMOVE) == 0


def test_pageout_drops_clean_pages_of_files(p) -> None:
    p.mmap(10, 4, RW, SHARED | UAPI_MAP_ANONYMOUS)
    p.read(10)
    p.write(11, 7)
    assert p.madvise(10, 4, MADV_PAGEOUT) == 0 and present(p, 10, 14) == "...."
    with p.machine:
        f = pool_object(file, 6)
        assert f.nrpages == 1
    assert p.read(11) == 7 and p.read(10) == 0


def test_a_reference_of_a_batch_costs_a_copy(p) -> None:
    """A locked page that the parent gave up is still in a batch of the CPU when the child writes to it."""
    p.mmap(10, 1)
    p.write(10, 1)
    fork(p)
    assert p.mlock(10, 2) == -ENOMEM  # a hole: locked, but not populated
    p.munmap(10, 1)
    before = frame(p, 10, 1)
    assert p.write(10, 2, who=1) == 0 and frame(p, 10, 1) != before
    with p.machine:
        lru_add_drain()
    assert p.read(10, who=1) == 2


# -- protection
def test_exclusive_pages_become_writable_at_once() -> None:
    for release, expected in ((412, "r"), (618, "w")):
        p = Program(release)
        p.mmap(10, 1)
        p.write(10, 1)
        p.mprotect(10, 1, R)
        p.mprotect(10, 1, RW)
        assert present(p, 10, 11) == expected and p.write(10, 2) == 0


def test_write_only_memory_is_readable(each) -> None:
    each.mmap(10, 1, W)
    assert each.write(10, 3) == 0 and each.read(10) == 3


def test_the_task_runs_in_its_own_space(p) -> None:
    fork(p)
    p.mmap(10, 1, who=1)
    assert p.write(10, 3, who=1) == 0 and p.read(10) == SEGV
    with p.machine:
        assert the(task_mm).mm == the_mm(0)


# -- what must always be so
def broken(p: Program, change) -> str:
    """What an oracle says once something is changed by hand and a page unmapped."""
    for i in range(10, 24, 2):
        p.mmap(i, 1)
        p.write(i, 1)
    with p.machine:
        change(pool_object(mm_struct, 0))
    try:
        p.munmap(12, 1)
    except KernelBug as e:
        return e.kind
    return ""


def first(mm):
    vma = mm.mmap
    while vma.vm_start < 12:
        vma = vma.vm_next
    return vma


def recolour(mm) -> None:
    mm.mm_rb.vm_rb.rb_left.vm_rb.rb_black = not mm.mm_rb.vm_rb.rb_left.vm_rb.rb_black


def orphan(mm) -> None:
    mm.mm_rb.vm_rb.rb_left.vm_rb.rb_parent = mm.mm_rb.vm_rb.rb_right


@pytest.mark.parametrize(
    "change, kind",
    [
        (lambda mm: None, ""),
        (recolour, "validate-mm"),
        (orphan, "validate-mm"),
        (lambda mm: setattr(first(mm).anon_vma, "num_active_vmas", 2), "kernel-bug"),
        (lambda mm: setattr(first(mm).anon_vma, "num_children", 2), "kernel-bug"),
        (lambda mm: setattr(first(mm).anon_vma, "degree", 5), "kernel-bug"),
        (lambda mm: setattr(first(mm).vm_next.anon_vma_chain, "vma", mm.mmap), "validate-mm"),
    ],
)
def test_oracles_see_wrong_colours_and_counts(p, change, kind) -> None:
    assert broken(p, change) == kind


def test_totals_of_a_process(p) -> None:
    """VmSize, VmLck, VmData, VmStk, VmExe + VmLib, page tables: more than at the start."""
    with p.machine:
        the(uapi_observed).detail_every = 1

    def totals() -> list[int]:
        r = p.record()
        return r[-9 - PAGES - 7 * r[2] :][:6]

    assert totals() == [0, 0, 0, 0, 0, 0]
    p.mmap(10, 2)
    p.mmap(14, 3, R | X)
    p.mmap(20, 1, RW, ANON | UAPI_MAP_GROWSDOWN)
    assert totals() == [6, 0, 2, 1, 3, 0]
    p.write(10, 1)
    p.call(OP_MLOCK, at(10), PAGE)
    assert totals() == [6, 1, 2, 1, 3, 1]
    p.munmap(10, 2)
    assert totals() == [4, 0, 0, 1, 3, 1]


def test_what_is_cached_of_each_file_is_told(p) -> None:
    with p.machine:
        the(uapi_observed).detail_every = 1

    def cached() -> list[int]:
        r = p.record()
        return r[-3 - PAGES - 7 * r[2] :][:3]

    assert cached() == [0, 0, 0b111111]
    p.call(OP_PWRITE, 0, 2, 7)
    p.call(OP_FTRUNCATE, DISK, 2 * PAGE)
    assert cached() == [0b100, 0, 0b11]


@pytest.mark.parametrize("lru, kind", [(True, ""), (False, "not-on-lru")])
def test_pages_are_on_a_list(p, lru, kind) -> None:
    """Looked at where smaps is."""
    p.mmap(10, 1)
    p.write(10, 1)
    with p.machine:
        the(uapi_observed).detail_every = 1
        lru_add_drain()
        pool_object(page, pte_pfn(pte_at(pool_object(mm_struct, 0), 10))).lru = lru
    if kind:
        with pytest.raises(KernelBug) as e:
            p.record()
        assert e.value.kind == kind
    else:
        p.record()


def test_a_page_that_is_unlocked_and_locked_at_once_is_not_locked(p) -> None:
    """The batch is gone through in order: the mark of the lock is taken away by what came before it."""
    p.call(OP_FTRUNCATE, DISK, 10 * PAGE)
    p.call(OP_MLOCKALL, MCL_FUTURE)
    p.mmap(10, 3, RW, SHARED, DISK, 6)  # page 8 at 12
    p.mmap(12, 3, RW, SHARED, DISK, 6)  # and at 14
    with p.machine:
        lru_add_drain()
        p8, p7 = (pool_object(page, pool_object(file, DISK).pages[i]) for i in (8, 7))
        assert (p8.mlocked, p8.unevictable) == (False, False) and (p7.mlocked, p7.mlock_count) == (True, 2)


def test_marks_of_pages_are_told(p) -> None:
    """Unevictable 1, locked 2."""
    with p.machine:
        the(uapi_observed).detail_every = 1
    p.mmap(10, 2)
    p.write(10, 1)
    p.write(11, 1)
    p.mlock(11, 1)
    r = p.record()
    assert r[-PAGES - 7 * r[2] :][10:13] == [0, 3, 0]


@pytest.mark.parametrize("field", ["i_mmap_vmas", "f_count"])
def test_a_file_that_somebody_still_has_when_all_have_left_is_told(p, field) -> None:
    p.mmap(10, 2, R, SHARED, 0)
    assert p.call(OP_START) == 0
    with p.machine:
        setattr(pool_object(file, 0), field, 7)
    with pytest.raises(KernelBug, match="BUG_ON"):
        p.call(OP_START)


def test_a_locked_page_that_could_not_be_paged_out_is_counted_anew(p) -> None:
    """It goes back to its list without its count, so that the next unlock is the last."""
    p.mmap(10, 3)
    p.write(10, 1)
    p.mlock(10, 3)
    p.mremap(12, 1, 1, MREMAP_MAYMOVE | MREMAP_DONTUNMAP)  # which unlocks all that stays
    assert p.madvise(10, 1, MADV_PAGEOUT) == 0 and p.mlock(10, 1) == 0
    with p.machine:
        lru_add_drain()
        first = vm_normal_page(pte(p, 10))
        assert (first.mlocked, first.mlock_count) == (True, 1)
