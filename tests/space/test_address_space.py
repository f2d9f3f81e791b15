"""AddressSpace: results like system calls, maps as /proc/PID/maps writes them, why VMAs are one or two."""

from __future__ import annotations

import errno
import mmap
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from seqfault.kernel import KernelBug
from seqfault.mm.opcodes import (
    MADV_DONTNEED,
    MADV_GUARD_INSTALL,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    OP_MADVISE,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNMAP,
    OP_READ,
    OP_WRITE,
)
from seqfault.space import AddressSpace, MemoryFault, OutsideModel, Vma

PAGE = 4096
RW = mmap.PROT_READ | mmap.PROT_WRITE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
FIXED = ANON | 0x10
A = 0x10000000
RELEASES = ["6.18", "6.1", "4.12"]


@pytest.fixture(params=RELEASES)
def space(request: pytest.FixtureRequest) -> AddressSpace:
    return AddressSpace(request.param, validate=True)


def put(space: AddressSpace, page: int, pages: int = 1, prot: int = RW) -> int:
    return space.mmap(A + page * PAGE, pages * PAGE, prot, FIXED)


def spans(space: AddressSpace) -> list[tuple[int, int]]:
    return [((v.start - A) // PAGE, (v.end - A) // PAGE) for v in space.vmas()]


# -- calls
def test_results_and_errors(space: AddressSpace):
    a = space.mmap(0, 2 * PAGE, RW, ANON)
    assert a == 0x7FFFF7FFD000
    assert space.mmap(0, PAGE, RW, ANON) == a - PAGE
    space.munmap(a + PAGE, PAGE)
    for call, code in [
        (lambda: space.munmap(a + 1, PAGE), errno.EINVAL),
        (lambda: space.mmap(0, 0, RW, ANON), errno.EINVAL),
        (lambda: space.mmap(0, PAGE, RW, mmap.MAP_PRIVATE, 63), errno.EBADF),
        (lambda: space.mmap(0, 1 << 47, RW, ANON), errno.ENOMEM),
        (lambda: space.mprotect(a, 2 * PAGE, RW), errno.ENOMEM),
        (lambda: space.madvise(a, PAGE, 77), errno.EINVAL),
        (lambda: space.munmap(0xFFFF_FFFF_FFFF_F000, PAGE), errno.EINVAL),
    ]:
        with pytest.raises(OSError) as e:
            call()
        assert e.value.errno == code, e.value


def test_memory_and_signals(space: AddressSpace):
    a = space.mmap(0, 3 * PAGE, RW, ANON)
    assert space.read(a) == 0
    space.write(a + 7, 5)
    assert space.read(a) == 5
    space.mprotect(a, PAGE, mmap.PROT_READ)
    with pytest.raises(MemoryFault) as e:
        space.write(a, 1)
    assert (e.value.signal, e.value.address) == (signal.SIGSEGV, a)
    fd = space.memfd_create("f", PAGE)
    m = space.mmap(0, 2 * PAGE, RW, mmap.MAP_SHARED, fd)
    with pytest.raises(MemoryFault, match="SIGBUS"):
        space.read(m + PAGE)
    space.ftruncate(fd, 2 * PAGE)
    assert space.read(m + PAGE) == 0
    space.madvise(a + PAGE, PAGE, MADV_DONTNEED)


def test_files(space: AddressSpace):
    fd = space.open("/data", 4 * PAGE, "r")
    with pytest.raises(OSError, match="denied"):
        space.mmap(0, PAGE, RW, mmap.MAP_SHARED, fd)
    both = space.memfd_create("m", 2 * PAGE)
    a = space.mmap(0, PAGE, RW, mmap.MAP_SHARED, both, PAGE)
    b = space.mmap(0, PAGE, RW, mmap.MAP_PRIVATE, both, PAGE)
    space.write(a, 9)
    assert space.read(b) == 9
    space.write(b, 3)
    assert space.read(a) == 9
    space.pwrite(both, 1, 4)
    assert (space.read(a), space.read(b)) == (4, 3)
    with pytest.raises(ValueError, match="mode"):
        space.open("/x", mode="a")
    small = AddressSpace(pages=1024, files=1, file_pages=4, frames=64, vmas=64)
    with pytest.raises(ValueError, match="file_pages"):
        small.memfd_create("large", 5 * PAGE)


def test_fork(space: AddressSpace):
    a = put(space, 0, 2)
    space.write(a, 1)
    child = space.fork()
    assert child.read(a) == 1
    child.write(a, 2)
    space.write(a, 3)
    assert (space.read(a), child.read(a)) == (3, 2)
    put(child, 5)
    assert spans(space) == [(0, 2)] and spans(child) == [(0, 2), (5, 6)]
    grandchild = child.fork()
    child.exit()
    assert grandchild.read(a) == 2
    with pytest.raises(ProcessLookupError):
        child.read(a)
    assert child.explain_merge(a + PAGE) == "the process has exited"
    again = grandchild.fork()
    assert again.read(a) == 2
    assert space.split_by(A + 5 * PAGE) is None


def test_break_and_limits(space: AddressSpace):
    start = space.brk()
    assert space.brk(start + 3 * PAGE) == start + 3 * PAGE
    assert space.maps().splitlines()[0].endswith(" [heap]")
    assert space.brk(start - PAGE) == start + 3 * PAGE
    space.setrlimit_as(5 * PAGE)
    with pytest.raises(OSError) as e:
        space.mmap(0, 3 * PAGE, RW, ANON)
    assert e.value.errno == errno.ENOMEM
    space.setrlimit_as(None)
    space.mmap(0, 3 * PAGE, RW, ANON)


def test_map_count():
    space = AddressSpace("6.18", max_map_count=3)
    for i in range(4):  # Linux asks whether there are more than that already
        put(space, 2 * i)
    with pytest.raises(OSError) as e:
        put(space, 10)
    assert e.value.errno == errno.ENOMEM


def test_pools_that_run_out_are_no_errno():
    space = AddressSpace(pages=1024, vmas=4, frames=64, files=1, file_pages=4)
    with pytest.raises(KernelBug, match="pool-exhausted: vm_area_struct"):
        for i in range(0, 20, 2):
            space.mmap(space.window_start + (i + 1) * PAGE, PAGE, RW, FIXED)
    with pytest.raises(RuntimeError, match="stopped at an earlier call"):
        space.brk()


def test_a_window():
    space = AddressSpace(pages=1024, vmas=64, frames=64, files=1, file_pages=4)
    top = space.mmap(0, PAGE, RW, ANON)
    assert top == space.window_start + 1023 * PAGE
    with pytest.raises(OutsideModel):
        space.mmap(0x2000_0000_0000, PAGE, RW, FIXED)
    with pytest.raises(ValueError, match="release"):
        AddressSpace("six")


# -- what there is
def test_maps_are_written_as_linux_writes_them():
    """Every line of this process's own maps, taken apart and written again, is the same line."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    for line in lines:
        m = re.match(r"(\w+)-(\w+) (\S+) (\w+) (\S+) (\d+) +(.*)", line)
        assert m
        flags = sum(b for c, b in zip(m[3], (1, 2, 4), strict=False) if c != "-") | (8 if m[3][3] == "s" else 0)
        v = Vma(int(m[1], 16), int(m[2], 16), flags, int(m[4], 16), 0, 0, m[7], m[5], int(m[6]))
        assert str(v) == line


def test_maps(space: AddressSpace):
    fd = space.memfd_create("f", 4 * PAGE)
    put(space, 0)
    space.mmap(A + PAGE, PAGE, mmap.PROT_READ, mmap.MAP_PRIVATE | 0x10, fd, 2 * PAGE)
    space.mmap(A + 2 * PAGE, PAGE, RW, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x10)
    put(space, 3, prot=mmap.PROT_EXEC | mmap.PROT_READ)
    lines = space.maps().splitlines()
    assert [line[:44].rstrip() for line in lines] == [
        "10000000-10001000 rw-p 00000000 00:00 0",
        "10001000-10002000 r--p 00002000 00:01 1024",
        "10002000-10003000 rw-s 00000000 00:01 1088",
        "10003000-10004000 r-xp 00000000 00:00 0",
    ]
    assert [line[73:] for line in lines] == ["", "/memfd:f (deleted)", "/dev/zero (deleted)", ""]


def test_pagemap(space: AddressSpace):
    a = put(space, 0, 4)
    space.read(a)
    space.write(a + PAGE, 1)
    child = space.fork()
    child.write(a + PAGE, 2)
    pages = space.pagemap(a, 4 * PAGE)
    assert [p.present for p in pages] == [True, True, False, False]
    assert (pages[0].frame, pages[0].exclusive) == (0, False)  # the zero page
    assert pages[1].exclusive and pages[1].dirty and pages[1].frame != child.pagemap(a + PAGE, PAGE)[0].frame
    fd = space.memfd_create("f", PAGE)
    m = space.mmap(0, PAGE, RW, mmap.MAP_SHARED, fd)
    space.write(m, 1)
    assert space.pagemap(m, PAGE)[0].file
    assert space.mincore(m, PAGE) == [True]


def test_guard_pages():
    space = AddressSpace("6.18")
    a = put(space, 0, 2)
    space.madvise(a, PAGE, MADV_GUARD_INSTALL)
    assert [p.guard for p in space.pagemap(a, 2 * PAGE)] == [True, False]
    with pytest.raises(MemoryFault):
        space.read(a)
    with pytest.raises(OSError):
        AddressSpace("6.1").madvise(a, PAGE, MADV_GUARD_INSTALL)


# -- why
def test_split_and_merge(space: AddressSpace):
    a = put(space, 0, 3)
    assert "mapped as one by call 1, mmap(" in space.explain_merge(a + PAGE)
    assert space.split_by(a + PAGE) is None
    space.mprotect(a + PAGE, PAGE, mmap.PROT_READ)
    call = space.split_by(a + PAGE)
    assert call is not None and str(call) == f"mprotect({a + PAGE:#x}, 4096, PROT_READ) = 0"
    assert call == space.split_by(a + 2 * PAGE) == space.calls[-1]
    assert "flags differ: the left one has VM_WRITE" in space.explain_merge(a + PAGE)
    assert "flags differ: the right one has VM_WRITE" in space.explain_merge(a + 2 * PAGE)
    space.mprotect(a, PAGE, mmap.PROT_READ)
    assert spans(space) == [(0, 2), (2, 3)]
    assert "two were merged by call 3, mprotect(" in space.explain_merge(a + PAGE)
    assert space.split_by(a + PAGE) is None and space.split_by(a) is None
    space.munmap(a + PAGE, PAGE)
    assert "not adjacent: a mapping begins" in space.explain_merge(a + 2 * PAGE)
    assert "not adjacent: a mapping ends" in space.explain_merge(a + PAGE)
    assert "nothing is mapped on either side" in space.explain_merge(a + 8 * PAGE)
    assert space.split_by(a + PAGE).name == "munmap"
    assert "inside a page" in space.explain_merge(a + 1)


def test_anon_vmas_that_met_too_late(space: AddressSpace):
    a, c = put(space, 0), put(space, 2)
    space.write(a, 1)
    space.write(c, 2)
    b = put(space, 1)
    apart, one = c, b
    if spans(space)[0] == (0, 1):  # 6.1 looks at the VMA behind first
        apart, one = b, c
    why = space.explain_merge(apart)
    assert "different anon_vma: both were written before they became adjacent (call 5, mmap(" in why
    assert "was merged with the VMA" in space.explain_merge(one)
    child = space.fork()
    why = child.explain_merge(apart)
    assert "so they were when the process was forked (call 6): both were written before" in why
    assert child.split_by(apart) is None


def test_an_anon_vma_that_could_not_be_reused(space: AddressSpace):
    a = put(space, 0)
    b = space.mmap(A + PAGE, PAGE, RW, mmap.MAP_PRIVATE | 0x10, space.memfd_create("f", PAGE))
    space.write(a, 1)
    space.write(b, 1)
    assert "different files: anonymous memory and /memfd:f (deleted)" in space.explain_merge(b)
    c = put(space, 2, 2)
    space.madvise(c, PAGE, 10)  # MADV_DONTFORK
    space.write(c, 1)
    space.write(c + PAGE, 1)
    assert "flags differ: the left one has VM_DONTCOPY" in space.explain_merge(c + PAGE)
    space.madvise(c, PAGE, 11)
    why = space.explain_merge(c + PAGE)
    # 4.12 and later look for a neighbour's anon_vma without regard to such flags
    assert "one VMA" in why or "when the right one was first written" in why


def test_offsets(space: AddressSpace):
    fd = space.memfd_create("f", 8 * PAGE)
    space.mmap(A, PAGE, RW, mmap.MAP_SHARED | 0x10, fd, 0)
    space.mmap(A + PAGE, PAGE, RW, mmap.MAP_SHARED | 0x10, fd, 2 * PAGE)
    assert "offset not contiguous: the left one ends at 0x1000 of /memfd:f" in space.explain_merge(A + PAGE)
    a, b = put(space, 10), put(space, 20)
    space.write(b, 1)
    space.mremap(b, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, a + PAGE)
    why = space.explain_merge(a + PAGE)
    assert "offset not contiguous" in why and "mremap(0x10014000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED" in why


def test_forked_anon_vma(space: AddressSpace):
    a = put(space, 0)
    space.write(a, 1)
    child = space.fork()
    put(child, 1)
    assert "forked anon_vma: the left one was written" in child.explain_merge(a + PAGE)
    put(space, 1)
    assert spans(space) == [(0, 2)]


def test_nothing_is_in_the_way(space: AddressSpace):
    """Linux does not look again when what kept two VMAs apart is gone."""
    a, b = put(space, 0), put(space, 1, prot=mmap.PROT_READ)
    space.mlock2(a, PAGE, 1)  # MLOCK_ONFAULT
    space.mprotect(b, PAGE, RW)
    assert "VM_LOCKED" in space.explain_merge(b)
    child = space.fork()  # locks are not inherited
    assert spans(child) == [(0, 1), (1, 2)]
    why = child.explain_merge(b)
    assert "nothing is in the way since the fork" in why
    assert child.split_by(b) is None


def test_split_before_the_fork(space: AddressSpace):
    a = put(space, 0, 2)
    space.mprotect(a, PAGE, 0)
    child = space.fork()
    assert child.split_by(a + PAGE) == space.split_by(a + PAGE) == space.calls[2]


# -- many
def random_rows(seed: int, n: int, base: int) -> np.ndarray:
    r = np.random.default_rng(seed)
    rows = np.zeros((n, 8), np.int64)
    rows[:, 0] = r.choice(
        [OP_MMAP, OP_MMAP, OP_MMAP, OP_MUNMAP, OP_MPROTECT, OP_MADVISE, OP_MREMAP, OP_READ, OP_WRITE], n
    )
    rows[:, 2] = base + r.integers(0, 40, n) * PAGE
    rows[:, 3] = r.integers(1, 5, n) * PAGE
    for op, col, values in [
        (OP_MMAP, 4, [RW, RW, mmap.PROT_READ]),
        (OP_MMAP, 5, [FIXED, ANON]),
        (OP_MMAP, 6, [-1]),
        (OP_MPROTECT, 4, [0, mmap.PROT_READ, RW]),
        (OP_MADVISE, 4, [MADV_DONTNEED, 10, 11]),
        (OP_MREMAP, 4, [PAGE, 3 * PAGE]),
        (OP_MREMAP, 5, [MREMAP_MAYMOVE]),
        (OP_WRITE, 3, [1, 200]),
    ]:
        mine = rows[:, 0] == op
        rows[mine, col] = r.choice(values, mine.sum())
    return rows


@pytest.mark.parametrize("release", RELEASES)
def test_plain_python_agrees(release: str):
    space = AddressSpace(release, pages=1024, vmas=128, frames=256, files=2, file_pages=16, processes=2)
    rows = random_rows(1, 300, space.window_start + 100 * PAGE)
    space.run(rows[:200])
    assert not space.plain_python_differs(rows[200:])
    assert len(space.calls) == 301


def test_rows_and_methods_are_the_same():
    one, two = AddressSpace("6.18"), AddressSpace("6.18")
    rows = random_rows(2, 400, A)
    results = one.run(rows)
    for row, result in zip(rows.tolist(), results.tolist(), strict=True):
        assert two._world.call(0, row[0], *row[2:]) == result
    assert one.maps() == two.maps() and one.counters == two.counters
    for v in one.vmas():
        assert one.explain_merge(v.start) == two.explain_merge(v.start)
