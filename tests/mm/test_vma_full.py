"""mmap, munmap, mprotect, brk and merging in full.  What 6.18 does here, the live kernel was seen to do."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from program import ANON, HEAP, PAGE, RW, Program, R, W, X, at

from seqfault.kernel import NULL, Machine, pool_object, the
from seqfault.kernel.layout import Layout
from seqfault.mm.fullsize import full_sizes
from seqfault.mm.limits import is_data_mapping, is_exec_mapping, is_stack_mapping
from seqfault.mm.mmap import LEGACY_MAP_MASK
from seqfault.mm.opcodes import *
from seqfault.mm.types import (
    EACCES,
    EEXIST,
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    VM_ACCOUNT,
    VM_DONTDUMP,
    VM_DROPPABLE,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_SHARED,
    VM_WIPEONFORK,
    mm_struct,
)
from seqfault.mm.uapi import uapi_world
from seqfault.mm.vma import validate_mm

RELEASES = (412, 601, 618)
PRIVATE, SHARED, VALIDATE = UAPI_MAP_PRIVATE, UAPI_MAP_SHARED, UAPI_MAP_SHARED_VALIDATE
STACK = ANON | UAPI_MAP_GROWSDOWN
DISK, READ_ONLY, WRITE_ONLY = 2, 4, 5


@pytest.fixture
def p() -> Program:
    return Program(618)


@pytest.fixture(params=RELEASES)
def each(request) -> Program:
    return Program(request.param)


def alive(p: Program) -> bool:
    with p.machine:
        return bool(the(uapi_world).alive[1])


def counters(p: Program) -> Counter[str]:
    return Counter(p.machine.counters)


# -- arguments
@pytest.mark.parametrize(
    "n, prot, flags, fd, pgoff, want",
    [
        (0, RW, ANON, -1, 0, -EINVAL),
        (1, RW, UAPI_MAP_ANONYMOUS, -1, 0, -EINVAL),
        (1, RW, UAPI_MAP_ANONYMOUS | VALIDATE, -1, 0, -EINVAL),
        (1, RW, UAPI_MAP_ANONYMOUS | SHARED | UAPI_MAP_GROWSDOWN, -1, 0, -EINVAL),
        (1, R, PRIVATE | UAPI_MAP_GROWSDOWN, 0, 0, -EINVAL),
        (1, R, 0, 0, 0, -EINVAL),
        (1, R, PRIVATE, 99, 0, -9),
        (1, R, PRIVATE, WRITE_ONLY, 0, -EACCES),
        (1, W, SHARED, WRITE_ONLY, 0, -EACCES),
        (1, RW, SHARED, READ_ONLY, 0, -EACCES),
        (1, RW, PRIVATE, READ_ONLY, 0, 10),
        (1, RW, SHARED | 1 << 22, DISK, 0, 10),  # unknown flags are nothing to MAP_SHARED
    ],
)
def test_arguments(each, n, prot, flags, fd, pgoff, want) -> None:
    assert each.mmap(10, n, prot, flags, fd, pgoff) == want


def test_later_arguments() -> None:
    for release, validate, unknown, noreplace, far, droppable in (
        (412, -EINVAL, -EINVAL, 61, 10, -EINVAL),
        (601, 10, -EOPNOTSUPP, -EEXIST, -EOVERFLOW, -EINVAL),
        (618, 10, -EOPNOTSUPP, -EEXIST, -EOVERFLOW, 10),
    ):
        p = Program(release)
        assert p.mmap(10, 1, RW, VALIDATE, DISK) == validate
        assert p.mmap(10, 1, RW, VALIDATE | 1 << 22, DISK) == unknown
        assert p.mmap(10, 1, R, PRIVATE, DISK, (1 << 51) - 1) == far
        assert p.mmap(10, 1, RW, UAPI_MAP_ANONYMOUS | UAPI_MAP_DROPPABLE) == droppable
        p.munmap(1, 62)
        p.mmap(10, 2)
        assert p.mmap(11, 2, RW, ANON | UAPI_MAP_FIXED_NOREPLACE) == noreplace  # before 4.17 it is a hint
        assert p.mmap(20, 2, RW, ANON | UAPI_MAP_FIXED_NOREPLACE) == 20
    assert UAPI_MAP_FIXED_NOREPLACE & LEGACY_MAP_MASK == 0


def test_errors_come_in_order(p) -> None:
    """Where to put it is asked before what it is."""
    p.mmap(1, 62)
    assert p.mmap(0, 1, RW, UAPI_MAP_ANONYMOUS) == -ENOMEM
    assert p.mmap(1, 1, RW, UAPI_MAP_ANONYMOUS | UAPI_MAP_FIXED_NOREPLACE) == -EEXIST
    assert p.mmap(1, 1, RW, UAPI_MAP_ANONYMOUS) == -EINVAL and p.ranges() == [(1, 63)]


def test_flags_of_new_mappings(p) -> None:
    may = 7 << 6
    for flags, want in (
        (ANON, RW | may | VM_ACCOUNT),
        (ANON | UAPI_MAP_NORESERVE, RW | may | VM_NORESERVE),
        (ANON | UAPI_MAP_STACK, RW | may | VM_ACCOUNT | VM_NOHUGEPAGE),
        (STACK, RW | may | VM_ACCOUNT | VM_GROWSDOWN),
        (ANON | UAPI_MAP_LOCKED, RW | may | VM_ACCOUNT | VM_LOCKED),
        (UAPI_MAP_ANONYMOUS | SHARED, RW | may | VM_SHARED | VM_MAYSHARE),
        (
            UAPI_MAP_ANONYMOUS | UAPI_MAP_DROPPABLE,
            RW | may | VM_DROPPABLE | VM_NORESERVE | VM_WIPEONFORK | VM_DONTDUMP,
        ),
    ):
        assert p.mmap(10, 1, RW, flags) == 10
        assert p.vmas() == [(10, 11, want)]
    assert p.mmap(10, 1, R, SHARED, READ_ONLY) == 10
    assert p.vmas() == [(10, 11, R | may & ~VM_MAYWRITE | VM_MAYSHARE)]


def test_droppable_memory_is_not_locked_by_mlockall(p) -> None:
    p.call(OP_MLOCKALL, MCL_FUTURE)
    p.mmap(10, 1, RW, UAPI_MAP_ANONYMOUS | UAPI_MAP_DROPPABLE)
    p.mmap(20, 2)
    assert not p.vmas()[0][2] & VM_LOCKED and p.mm("locked_vm") == 2


def test_shared_anonymous_memory_is_a_file(each) -> None:
    both = UAPI_MAP_ANONYMOUS | SHARED
    each.mmap(10, 3, RW, both)
    each.mmap(13, 3, RW, both)
    assert each.ranges() == [(10, 13), (13, 16)]
    assert each.mprotect(11, 1, R) == 0 and each.mprotect(11, 1, RW) == 0
    assert each.ranges() == [(10, 13), (13, 16)]
    assert [each.file_users(6), each.file_users(7)] == [1, 1]
    each.munmap(10, 2)
    assert each.ranges() == [(12, 13), (13, 16)]
    each.munmap(12, 1)
    assert [each.file_users(6), each.file_users(7)] == [0, 1]
    each.mmap(20, 1, RW, both)
    assert each.file_users(6) == 1


# -- places
def test_the_highest_gap_that_is_large_enough(each) -> None:
    each.mmap(1, 62)
    for a, n in ((50, 2), (30, 4), (10, 8)):
        each.munmap(a, n)
    assert each.mmap(0, 1, R, ANON) == 51
    assert each.mmap(0, 3, R, ANON) == 31
    assert each.mmap(0, 5, R, ANON) == 13
    assert each.mmap(0, 9, R, ANON) == -ENOMEM


def test_a_hint_is_taken_if_it_is_free(each) -> None:
    each.mmap(10, 4)
    hint = lambda page, n: each.page(OP_MMAP, at(page) + 5, n * PAGE, R, ANON, -1, 0)  # noqa: E731
    assert hint(20, 3) == 20
    assert hint(18, 2) == 18
    assert hint(19, 3) == 60


def test_guard_gaps_of_stacks() -> None:
    """6.x looks only at what is behind the highest gap that would do, and then leaves out all that a stack guards."""
    for release, want in ((412, 600), (601, 10), (618, 10)):
        p = Program(release, NR_PAGES=1024, NR_VMAS=40)
        p.mmap(1, 1022)
        p.munmap(10, 4)
        p.munmap(600, 4)
        p.munmap(700, 4)
        p.mmap(700 + 4, 1, RW, STACK)
        p.mmap(704 + 1, 100, R)
        assert p.mmap(0, 4, R, ANON) == want
        # A hint that reaches into the guard gap is not taken; MAP_FIXED is.
        assert p.page(OP_MMAP, at(700), PAGE, R, ANON, -1, 0) != 700
        assert p.mmap(700, 1, R) == 700


@pytest.mark.parametrize("release", RELEASES)
def test_gaps_in_the_tree(release) -> None:
    """Against a walk along the list."""
    rng = random.Random(release)
    p = Program(release)

    def highest(n: int) -> int:
        end = 63
        for a, b in [*reversed(p.ranges()), (0, 1)]:
            if end - b >= n:
                return end - n
            end = a
        return -ENOMEM

    for _ in range(150):
        n = rng.randint(1, 7)
        if rng.random() < 0.5:
            want = highest(n)
            assert p.mmap(0, n, rng.choice((R, RW)), ANON) == want
        else:
            p.munmap(rng.randint(1, 56), n)
        with p.machine:
            validate_mm(pool_object(mm_struct, 0))


# -- merging
def test_both_sides_of_a_hole_by_release() -> None:
    """prev untouched, next touched: 6.1 only lets next grow.  Both touched apart: 4.12 and 6.18 let prev grow."""
    for release, one, two in (
        (412, [(10, 16)], [(10, 14), (14, 16)]),
        (601, [(10, 12), (12, 16)], [(10, 12), (12, 16)]),
        (618, [(10, 16)], [(10, 14), (14, 16)]),
    ):
        p = Program(release)
        for touched, want in (((14,), one), ((10, 14), two)):
            p.munmap(1, 62)
            p.mmap(10, 2)
            p.mmap(14, 2)
            for page in touched:
                p.write(page, 1)
            p.mmap(12, 2)
            assert p.ranges() == want
        assert counters(p)["refuse/prev_next_anon_vma"] == 1


def test_an_untouched_neighbour_of_a_touched_range() -> None:
    """They merge since commit 879bca0a2c4f (6.16)."""
    for release, want in ((412, [(10, 12), (12, 14)]), (601, [(10, 12), (12, 14)]), (618, [(10, 14)])):
        p = Program(release)
        p.mmap(10, 2, RW, ANON | UAPI_MAP_NORESERVE)
        p.mmap(12, 2, R, ANON | UAPI_MAP_NORESERVE)
        p.write(10, 1)
        assert p.mprotect(10, 2, R) == 0 and p.ranges() == want
        p.write(10, 1)


def test_ranges_of_two_anon_vmas_stay_apart(each) -> None:
    each.mmap(10, 2)
    each.mmap(14, 2)
    each.write(10, 1)
    each.write(14, 1)
    each.mmap(12, 2)
    ranges = each.ranges()
    assert len(ranges) == 2
    assert [each.mprotect(a, b - a, R) for a, b in ranges] == [0, 0]
    assert each.ranges() == ranges and counters(each)["refuse/anon_vma"] == 1


def test_the_charge_keeps_neighbours_apart(each) -> None:
    each.mmap(10, 2)
    each.mmap(12, 2, R)
    assert each.mprotect(12, 2, RW) == 0 and each.ranges() == [(10, 14)]
    each.mmap(20, 2)
    each.mmap(22, 2, RW, ANON | UAPI_MAP_NORESERVE)
    assert each.ranges() == [(10, 14), (20, 22), (22, 24)]


def test_an_untouched_charge_is_dropped_since_6_7() -> None:
    for release, want in ((412, VM_ACCOUNT), (601, VM_ACCOUNT), (618, 0)):
        p = Program(release)
        p.mmap(10, 1)
        p.mprotect(10, 1, R)
        assert p.vmas()[0][2] & VM_ACCOUNT == want
        p.mprotect(10, 1, RW)
        p.write(10, 1)
        p.mprotect(10, 1, R)
        assert p.vmas()[0][2] & VM_ACCOUNT


def test_children_of_a_fork_stay_apart(each) -> None:
    each.mmap(10, 2)
    each.write(10, 1)
    each.call(OP_FORK)
    assert each.mmap(12, 2, who=1) == 12
    assert each.ranges(1) == [(10, 12), (12, 14)] and counters(each)["refuse/fork_child"] == 1
    assert each.mmap(12, 2) == 12 and each.ranges() == [(10, 14)]


def test_guards_are_sticky(p) -> None:
    """6.18's stable releases ignore VM_MAYBE_GUARD when merging, and the result has it."""
    p.mmap(10, 2)
    p.mmap(12, 2, R)
    assert p.madvise(10, 1, MADV_GUARD_INSTALL) == 0
    plain = p.vmas()[1][2]
    assert p.mprotect(12, 2, RW) == 0 and p.ranges() == [(10, 14)]
    assert p.vmas()[0][2] == plain | W | VM_ACCOUNT | 1 << 24
    p.mprotect(13, 1, R)
    p.mprotect(13, 1, RW)
    assert p.ranges() == [(10, 14)]


def test_every_case(each) -> None:
    no = ANON | UAPI_MAP_NORESERVE  # no charge keeps anything apart

    def begin(*vmas: tuple[int, int, int]) -> None:
        each.munmap(1, 62)
        for a, b, prot in vmas:
            each.mmap(a, b - a, prot, no)

    begin((10, 12, RW), (14, 16, RW))
    assert each.mmap(12, 2, RW, no) == 12 and each.ranges() == [(10, 16)]
    begin((10, 12, RW))
    assert each.mmap(12, 2, RW, no) == 12 and each.ranges() == [(10, 14)]
    begin((12, 14, RW))
    assert each.mmap(10, 2, RW, no) == 10 and each.ranges() == [(10, 14)]
    begin((10, 14, RW), (14, 16, R))
    assert each.mprotect(12, 2, R) == 0 and each.ranges() == [(10, 12), (12, 16)]
    begin((10, 12, RW), (12, 16, R))
    assert each.mprotect(12, 2, RW) == 0 and each.ranges() == [(10, 14), (14, 16)]
    begin((10, 12, RW), (12, 14, R), (14, 16, RW))
    assert each.mprotect(12, 2, RW) == 0 and each.ranges() == [(10, 16)]
    begin((10, 12, RW), (12, 14, R), (14, 16, X))
    assert each.mprotect(12, 2, RW) == 0 and each.ranges() == [(10, 14), (14, 16)]
    begin((10, 12, X), (12, 14, R), (14, 16, RW))
    assert each.mprotect(12, 2, RW) == 0 and each.ranges() == [(10, 12), (12, 16)]
    assert {k: n for k, n in counters(each).items() if "case" in k} == {f"vma_merge/case{i}": 1 for i in range(1, 9)}


def test_files_and_offsets_keep_neighbours_apart(each) -> None:
    each.mmap(10, 2, R, PRIVATE, 0, 0)
    each.mmap(12, 2, R, PRIVATE, 1, 2)
    assert counters(each)["refuse/file"] == 1
    each.mmap(14, 2, R, PRIVATE, 1, 5)
    assert counters(each)["refuse/pgoff"] == 1
    each.mmap(12, 2, R, PRIVATE, 0, 2)
    assert each.ranges() == [(10, 14), (14, 16)]
    each.mmap(20, 1, R, PRIVATE, DISK, 0)
    each.mmap(21, 1, R, PRIVATE, READ_ONLY, 1)  # the same inode, another open file
    assert (20, 21) in each.ranges()


@pytest.mark.parametrize("release", RELEASES)
def test_totals(release) -> None:
    """Random operations on two processes: list, tree and counts agree, totals are right."""
    rng = random.Random(release)
    p = Program(release)
    for _ in range(200):
        who = int(alive(p) and rng.random() < 0.5)
        a = rng.randint(10, 40)
        n = rng.randint(1, 4)
        kind = rng.random()
        if kind < 0.4:
            fd = rng.choice((-1, -1, -1, 0, 2))
            flags = PRIVATE | UAPI_MAP_FIXED | rng.choice((0, 0, UAPI_MAP_LOCKED))
            flags |= UAPI_MAP_ANONYMOUS | rng.choice((0, 0, UAPI_MAP_GROWSDOWN)) if fd < 0 else 0
            p.call(OP_MMAP, at(a), n * PAGE, rng.choice((RW, RW, R, X)), flags, fd, a * PAGE, who=who)
        elif kind < 0.5:
            p.call(OP_MUNMAP, at(a), n * PAGE, who=who)
        elif kind < 0.75:
            p.call(OP_MPROTECT, at(a), n * PAGE, rng.choice((RW, RW, R, R, X)), who=who)
        elif kind < 0.85:
            p.write(a, 1, who=who)
        elif kind < 0.95:
            p.call(OP_BRK, at(HEAP + rng.randint(0, 6)), who=who)
        else:
            p.call(rng.choice((OP_FORK, OP_EXIT)), who=who)
        check_totals(p, 0)
        if alive(p):
            check_totals(p, 1)


def check_totals(p: Program, who: int) -> None:
    with p.machine:
        mm = pool_object(mm_struct, who)
        validate_mm(mm)
        total = data = stack = execs = locked = 0
        vma = mm.mmap
        while vma:
            n, flags = int(vma.vm_end - vma.vm_start), int(vma.vm_flags)
            total += n
            if is_exec_mapping(flags):
                execs += n
            elif is_stack_mapping(flags):
                stack += n
            elif is_data_mapping(flags):
                data += n
            locked += n if flags & VM_LOCKED else 0
            vma = vma.vm_next
        got = tuple(int(x) for x in (mm.total_vm, mm.data_vm, mm.stack_vm, mm.exec_vm, mm.locked_vm))
    assert got == (total, data, stack, execs, locked)


# -- limits
def test_too_many_vmas(each) -> None:
    each.mmap(10, 9)
    each.call(OP_MAP_COUNT, 1)
    assert each.munmap(12, 1) == 0
    assert each.munmap(14, 1) == -ENOMEM  # would leave one more
    assert each.munmap(13, 1) == 0  # at the edge
    assert each.mprotect(15, 1, R) == -ENOMEM
    assert each.mmap(20, 1, R) == 20  # one more than there may be is still allowed
    assert each.mmap(22, 1, R) == -ENOMEM


def test_half_a_change_stays(each) -> None:
    """mprotect splits at its start, and then there are too many VMAs to split at its end."""
    each.mmap(10, 9)
    each.call(OP_MAP_COUNT, 1)
    assert each.mprotect(12, 2, R) == -ENOMEM
    assert [f & 7 for _, _, f in each.vmas()] == [RW, RW] and each.ranges() == [(10, 12), (12, 19)]


def test_rlimit_as() -> None:
    for release, want in ((412, [(10, 14)]), (601, [(10, 14)]), (618, [(10, 12), (12, 14)])):
        p = Program(release)
        p.mmap(10, 4)
        p.call(OP_RLIMIT_AS, 2)
        assert p.mmap(20, 3) == -ENOMEM
        assert p.mmap(12, 4) == 12 and p.ranges() == [(10, 16)]  # only two pages are new
        p.munmap(14, 2)
        # Before 6.12 the limit was looked at before anything was split for MAP_FIXED.
        assert p.mmap(12, 5) == -ENOMEM and p.ranges() == want
        p.call(OP_RLIMIT_AS, -1)
        assert p.mmap(20, 3) == 20


def test_a_seal_leaves_what_was_split_before_it(p) -> None:
    p.mmap(10, 4)
    p.mmap(14, 2, R)
    assert p.call(OP_MSEAL, at(14), 2 * PAGE, 0) == 0
    assert p.munmap(12, 3) == -EPERM
    assert p.ranges() == [(10, 12), (12, 14), (14, 16)]
    assert p.mmap(15, 1) == -EPERM and p.mprotect(14, 1, RW) == -EPERM
    assert p.mprotect(12, 4, R) == -EPERM  # the part before the seal is done
    assert [f & 7 for _, _, f in p.vmas()] == [RW, R, R]
    assert p.munmap(11, 2) == 0


# -- mprotect
def test_mprotect_arguments(each) -> None:
    each.mmap(10, 4)
    each.mmap(20, 4, RW, STACK)
    each.mmap(30, 2, R, SHARED, READ_ONLY)
    down, up = UAPI_PROT_GROWSDOWN, UAPI_PROT_GROWSUP
    assert each.mprotect(10, 0, 1 << 8) == 0
    assert each.mprotect(10, 1, 1 << 8) == -EINVAL
    assert each.mprotect(10, 1, RW | 8) == 0  # PROT_SEM is nothing
    assert each.mprotect(10, 1, down | up) == -EINVAL
    assert each.mprotect(10, 1, R | up) == -EINVAL and each.mprotect(10, 1, R | down) == -EINVAL
    assert each.mprotect(22, 1, R | down) == 0
    assert [v for v in each.vmas() if v[0] in (20, 23)] and (20, 23) in each.ranges()
    assert each.mprotect(30, 1, RW) == -EACCES and each.mprotect(30, 1, R | X) == 0
    assert each.mprotect(40, 1, R) == -ENOMEM


def test_mprotect_stops_at_a_hole(each) -> None:
    each.mmap(10, 2)
    each.mmap(13, 2)
    assert each.mprotect(10, 5, R) == -ENOMEM
    assert [(a, b, f & 7) for a, b, f in each.vmas()] == [(10, 12, R), (13, 15, RW)]


# -- brk
def test_the_heap_grows_and_shrinks(each) -> None:
    brk = lambda n, odd=0: (each.call(OP_BRK, at(HEAP + n) + odd) - at(HEAP)) / PAGE  # noqa: E731
    assert brk(0) == 0 and each.ranges() == []
    assert brk(2, 5) == 2 + 5 / PAGE and each.ranges() == [(HEAP, HEAP + 3)]
    assert brk(3) == 3 and brk(4) == 4 and each.ranges() == [(HEAP, HEAP + 4)]
    assert each.vmas()[0][2] == RW | 7 << 6 | VM_ACCOUNT
    assert brk(1) == 1 and each.ranges() == [(HEAP, HEAP + 1)]
    assert brk(-3) == 1  # below its start
    each.mmap(HEAP + 6, 1, R)
    assert brk(6) == 1  # a page must stay free
    assert brk(5) == 5 and each.mm("total_vm") == 5 + 1 + 2
    each.mmap(HEAP + 20, 1, RW, STACK)
    each.munmap(HEAP + 6, 1)
    assert brk(6) == 5  # the stack's guard gap


def test_the_heap_and_its_neighbours() -> None:
    for release, merged, shrunk in ((412, True, True), (601, False, False), (618, False, False)):
        p = Program(release)
        p.mmap(HEAP - 2, 2)
        assert p.call(OP_BRK, at(HEAP + 2)) == at(HEAP + 2)
        assert (p.ranges() == [(HEAP - 2, HEAP + 2)]) == merged
        p.munmap(HEAP, 2)
        # Nothing of the heap is left.
        assert p.call(OP_BRK, at(HEAP)) == (at(HEAP) if shrunk else at(HEAP + 2))


def test_heaps_of_different_rights_stay_apart(each) -> None:
    each.call(OP_BRK, at(HEAP + 2))
    each.mprotect(HEAP, 2, R)
    each.call(OP_BRK, at(HEAP + 3))
    assert each.ranges() == [(HEAP, HEAP + 2), (HEAP + 2, HEAP + 3)]


def test_sizes_without_files() -> None:
    """The window of the fuzzer can be laid out for every release."""
    for release in RELEASES:
        with Machine(Layout(sizes=full_sizes(release))):
            assert pool_object(mm_struct, 0).mmap == NULL


def test_memory_is_aligned_for_huge_pages_where_no_place_was_asked_for() -> None:
    """Not even one that is of no use."""
    size = 512 * PAGE
    for hint, want in ((0, 1024), (at(2000), 2047 - 512)):
        p = Program(618, NR_PAGES=2048)
        assert p.page(OP_MMAP, hint, size, RW, ANON, -1, 0) == want
