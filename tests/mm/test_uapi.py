"""The operations of a program: arguments in bytes, errors in Linux's order, records."""

from __future__ import annotations

import pytest
from program import ANON, HEAP, PAGE, PAGES, RW, SIZES, Program, R, at

from seqfault.compile.native import NativeProgram
from seqfault.mm.fullsize import full_sizes
from seqfault.mm.ksys import OUTSIDE
from seqfault.mm.opcodes import *
from seqfault.mm.types import EBADF, EEXIST, EINVAL, ENOMEM, SIGBUS, SIGSEGV, VM_READ, VM_SHARED, VM_WRITE
from seqfault.mm.uapi import DISK_DATA, uapi_init, uapi_step

RELEASES = (412, 601, 618)
HUGE = -PAGE  # as an unsigned number, the last page of 64 bits
TOP = TASK_SIZE_BYTES
RANGES = {
    OP_MUNMAP: (),
    OP_MPROTECT: (R,),
    OP_MADVISE: (MADV_DONTNEED,),
    OP_MLOCK: (),
    OP_MUNLOCK: (),
    OP_MSYNC: (MS_SYNC,),
    OP_MINCORE: (),
    OP_MSEAL: (0,),
}


@pytest.fixture
def p() -> Program:
    return Program(618)


@pytest.fixture(params=RELEASES)
def each(request) -> Program:
    return Program(request.param)


# -- arguments
def test_ranges(p) -> None:
    """Unaligned, wrapping, empty, at page 0, behind the end of user space.  The live kernel says the same."""
    want = {
        #           unaligned  len -1     len HUGE  len 0     page 0   TOP
        OP_MUNMAP: (-EINVAL, -EINVAL, -EINVAL, -EINVAL, 0, -EINVAL),
        OP_MPROTECT: (-EINVAL, -ENOMEM, -ENOMEM, 0, -ENOMEM, -ENOMEM),
        OP_MADVISE: (-EINVAL, -EINVAL, -EINVAL, 0, -ENOMEM, -ENOMEM),
        OP_MLOCK: (0, 0, -EINVAL, 0, -ENOMEM, -ENOMEM),
        OP_MUNLOCK: (0, 0, -EINVAL, 0, -ENOMEM, -ENOMEM),
        OP_MSYNC: (-EINVAL, 0, -ENOMEM, 0, -ENOMEM, -ENOMEM),
        OP_MINCORE: (-EINVAL, -ENOMEM, -ENOMEM, 0, -ENOMEM, -ENOMEM),
        OP_MSEAL: (-EINVAL, -EINVAL, -EINVAL, 0, -ENOMEM, -ENOMEM),
    }
    p.mmap(10, 2)
    for op, more in RANGES.items():
        ranges = ((at(10) + 1, PAGE), (at(10), -1), (at(10), HUGE), (at(10), 0), (0, PAGE), (TOP, PAGE))
        got = tuple(p.call(op, a, n, *more) for a, n in ranges)
        assert got == want[op], NAMES[op]


def test_what_the_model_does_not_know(each) -> None:
    """Of what is outside of the window nothing is said, unless a hole before it decides."""
    assert each.call(OP_MUNMAP, 1 << 40, PAGE) == OUTSIDE
    assert each.call(OP_MPROTECT, 1 << 40, PAGE, R) == OUTSIDE
    assert each.call(OP_READ, 1 << 40) == OUTSIDE
    assert each.call(OP_MPROTECT, at(10), PAGES * PAGE, R) == -ENOMEM
    assert each.call(OP_MPROTECT, at(PAGES - 1), 2 * PAGE, 0) == OUTSIDE


def test_mmap_arguments(each) -> None:
    fixed = ANON | UAPI_MAP_FIXED
    assert each.call(OP_MMAP, at(10), PAGE, RW, fixed, -1, 1) == -EINVAL
    assert each.call(OP_MMAP, at(10), PAGE, RW, UAPI_MAP_PRIVATE | UAPI_MAP_FIXED, 99, 0) == -EBADF
    assert each.call(OP_MMAP, at(10), 0, RW, fixed, -1, 0) == -EINVAL
    assert each.call(OP_MMAP, at(10), -1, RW, fixed, -1, 0) == -ENOMEM
    assert each.call(OP_MMAP, at(10), 1 << 50, RW, fixed, -1, 0) == -ENOMEM
    assert each.call(OP_MMAP, at(10) + 1, PAGE, RW, fixed, -1, 0) == -EINVAL
    assert each.call(OP_MMAP, TOP, PAGE, RW, fixed, -1, 0) == -ENOMEM
    assert each.call(OP_MMAP, at(10), PAGE, RW, UAPI_MAP_ANONYMOUS | UAPI_MAP_FIXED, -1, 0) == -EINVAL
    assert each.call(OP_MMAP, at(10) + 5, 1, RW, ANON, -1, 0) == at(10)  # a hint is rounded
    assert each.call(OP_MMAP, TOP, PAGE, RW, ANON, -1, 0) == at(PAGES - 2)  # no hint at all


def test_fixed_noreplace() -> None:
    """A hint to kernels before 4.17."""
    for release, want in ((412, PAGES - 2), (618, -EEXIST)):
        p = Program(release)
        p.mmap(10, 1)
        assert p.mmap(10, 1, RW, ANON | UAPI_MAP_FIXED_NOREPLACE) == want


def test_mprotect_arguments(each) -> None:
    each.mmap(10, 1)
    both = UAPI_PROT_GROWSDOWN | UAPI_PROT_GROWSUP
    assert each.call(OP_MPROTECT, at(10), PAGE, both) == -EINVAL
    assert each.call(OP_MPROTECT, at(10), PAGE, 16) == -EINVAL
    assert each.call(OP_MPROTECT, at(10), PAGE, 8 | R) == 0
    assert each.call(OP_MPROTECT, at(10), PAGE, R | UAPI_PROT_GROWSDOWN) == -EINVAL
    assert each.call(OP_MPROTECT, at(10), 1, RW) == 0 and each.vmas()[0][2] & VM_WRITE


def test_files(each) -> None:
    assert each.call(OP_FTRUNCATE, 4, 0) == -EINVAL and each.call(OP_FTRUNCATE, 9, 0) == -EBADF
    assert each.call(OP_FTRUNCATE, 0, -1) == -EINVAL
    assert each.call(OP_PWRITE, 4, 0, 1) == each.call(OP_PWRITE, 9, 0, 1) == -EBADF
    assert each.call(OP_PWRITE, 5, 1, 77) == 1
    each.mmap(10, 8, R, UAPI_MAP_SHARED, 2)
    assert [each.read(10 + i) for i in (0, 1, 5, 6)] == [DISK_DATA, 77, DISK_DATA + 5, -1000 - SIGBUS]
    assert each.call(OP_FTRUNCATE, 2, PAGE + 1) == 0
    assert [each.read(10 + i) for i in (0, 1, 2)] == [DISK_DATA, 77, -1000 - SIGBUS]


def test_faults(each) -> None:
    assert each.read(10) == each.call(OP_READ, 0) == each.call(OP_WRITE, HUGE, 1) == -1000 - SIGSEGV
    each.mmap(10, 1, R)
    assert each.read(10) == 0 and each.write(10, 1) == -1000 - SIGSEGV


def test_brk(each) -> None:
    assert each.call(OP_BRK, 0) == at(HEAP)
    assert each.call(OP_BRK, at(HEAP) + 5) == at(HEAP) + 5 and each.ranges() == [(HEAP, HEAP + 1)]
    assert each.call(OP_BRK, at(HEAP - 1)) == at(HEAP) + 5
    assert each.call(OP_BRK, TOP) == at(HEAP) + 5
    assert each.call(OP_BRK, at(HEAP)) == at(HEAP) and each.ranges() == []


def test_limits(p) -> None:
    p.mmap(10, 2)
    assert p.call(OP_RLIMIT_AS, 1) == 0
    assert p.mmap(20, 2) == p.mremap(10, 2, 4) == -ENOMEM and p.mmap(20, 1) == 20
    assert p.call(OP_RLIMIT_AS, -1) == 0 and p.mmap(30, 9) == 30


# -- processes
def test_fork_and_exit(each) -> None:
    each.mmap(10, 1)
    each.write(10, 1)
    assert each.call(OP_READ, at(10), who=1) == ABSENT == each.call(OP_EXIT, who=1)
    assert each.call(OP_FORK) == 0 and each.call(OP_FORK) == ABSENT
    each.write(10, 2)
    assert (each.read(10), each.read(10, who=1)) == (2, 1)
    assert each.record()[1] == 3
    assert each.call(OP_EXIT, who=1) == 0 and each.read(10, who=1) == ABSENT
    assert each.record()[1] == 1


def test_a_program_leaves_nothing(each) -> None:
    """After OP_START everything is as at the beginning: address spaces, files, limits, frames in use."""

    def state() -> list[object]:
        m, out = each.machine, []
        pools = ("vm_area_struct", "anon_vma", "anon_vma_chain", "page", "pte_table")
        for name in pools:
            pool = m.layout.pools[name]
            out.append(sum(m.cells[pool.base + i * pool.stride] == 1 for i in range(pool.n)))
        fields = ("total_vm", "locked_vm", "def_flags", "map_count", "rlimit_as", "max_map_count", "brk")
        return [*out, *(each.mm(f) for f in fields), *(each.file_users(i) for i in range(12))]

    each.call(OP_START)
    before = state()
    each.mmap(10, 4)
    each.mmap(20, 4, RW, UAPI_MAP_SHARED, 2)
    each.mmap(30, 2, RW, UAPI_MAP_SHARED | UAPI_MAP_ANONYMOUS)
    for page in (10, 20, 21, 30):
        each.write(page, 9)
    each.call(OP_FORK)
    each.write(10, 8, who=1)
    each.call(OP_FTRUNCATE, 2, PAGE)
    each.call(OP_BRK, at(HEAP + 2))
    each.call(OP_RLIMIT_AS, 3)
    each.call(OP_MAP_COUNT, 3)
    each.call(OP_MLOCKALL, MCL_FUTURE)
    assert state() != before
    assert each.call(OP_START) == 0 and state() == before
    each.mmap(20, 1, R, UAPI_MAP_SHARED, 2, 3)
    assert each.read(20) == DISK_DATA + 3


# -- records
def test_record(p) -> None:
    """Result, who lives, VMAs, a word for each page: present, exclusive, of a file, guard, zero page, content."""
    p.mmap(10, 3)
    p.mmap(20, 1, RW, UAPI_MAP_SHARED, 1, 2)
    p.write(10, 5)
    p.read(11)
    p.write(20, 6)
    p.madvise(12, 1, MADV_GUARD_INSTALL)
    result, mask, n, *rest = p.record()
    assert (result, mask, n) == (0, 1, 4)
    words = [rest[5 * i : 5 * i + 5] for i in range(n)]
    rw, shared = VM_READ | VM_WRITE, VM_SHARED
    assert words[0] == [0, 1, shared, 0, 4] and words[3] == [PAGES - 1, PAGES, shared, 0, 4]
    assert words[1:3] == [[10, 13, rw, 0, 0], [20, 21, rw | shared, 2, 2]]
    pages = rest[5 * n :]
    assert len(pages) == PAGES
    assert [w & 0xFFFF for w in (pages[10], pages[11], pages[12], pages[20])] == [0x523, 0x31, 8, 0x627]
    assert pages[10] >> 16 != pages[20] >> 16


def test_a_file_open_for_reading_only_is_shown_as_shared(p) -> None:
    p.mmap(10, 1, R, UAPI_MAP_SHARED, 4)
    record = p.record()
    assert record[3 + 5 : 3 + 10] == [10, 11, VM_READ | VM_SHARED, 0, 3]
    assert not p.vmas()[0][2] & VM_SHARED


def test_details(p) -> None:
    """What smaps says, for the rows that are a multiple of detail_every."""
    from seqfault.kernel import the
    from seqfault.mm.observe import uapi_observed

    p.mmap(10, 4)
    p.write(10, 1)
    p.write(11, 1)
    p.madvise(11, 1, MADV_FREE)
    p.mlock(13, 1)
    with p.machine:
        the(uapi_observed).detail_every = 2
        the(uapi_observed).row = 0
    first, second = p.record(), p.record()
    assert first[1] == 5 and second[1] == 1 and len(first) == len(second) + 9 + PAGES + 7 * first[2]
    smaps = [first[len(second) + 9 + PAGES :][7 * i : 7 * i + 7] for i in range(first[2])]
    assert [s[1:] for s in smaps] == [[0] * 6, [2, 1, 1, 2, 1, 0], [1, 1, 1, 1, 0, 1], [0] * 6]


# -- machine code
def test_compiled(each) -> None:
    """The same text as machine code: a program of every kind of operation."""
    release = each.mm("total_vm") and each.machine.layout.sizes["LINUX"]
    native = NativeProgram({"init": uapi_init, "step": uapi_step}, sizes=full_sizes(release, **SIZES)).machine()
    native.call("init")
    fixed = UAPI_MAP_FIXED
    rows = [
        (OP_MMAP, 0, at(10), 4 * PAGE, RW, ANON | fixed, -1, 0),
        (OP_WRITE, 0, at(11), 5),
        (OP_MREMAP, 0, at(10), 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(20)),
        (OP_MLOCK, 0, at(21), PAGE),
        (OP_MADVISE, 0, at(20), 2 * PAGE, MADV_DONTFORK),
        (OP_MMAP, 0, at(30), 2 * PAGE, RW, UAPI_MAP_SHARED | fixed, 2, 0),
        (OP_FORK, 0),
        (OP_WRITE, 1, at(30), 7),
        (OP_READ, 0, at(30)),
        (OP_MINCORE, 0, at(20), 5 * PAGE),
        (OP_START, 0),
    ]
    import numpy as np

    table = np.zeros((len(rows), 8), np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    out = np.zeros(1 << 16, np.int64)
    offsets, done, bug = native.batch("step", table, "uapi_request", out)
    assert bug is None and done == len(rows)
    for i, (op, who, *args) in enumerate(rows):
        each.call(op, *args, who=who)
        assert each.record() == list(out[offsets[i] : offsets[i + 1]])
