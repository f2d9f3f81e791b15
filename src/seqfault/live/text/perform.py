"""Operations of a program, performed by the process that runs them."""

from __future__ import annotations

from seqfault.compile.raw import load8, load64, probe_read8, probe_write8, store64, syscall6, text
from seqfault.kernel import ptr
from seqfault.live.abi import (
    B_BYTE,
    B_TEXT,
    C_STACKS,
    C_TOUCHED,
    C_VECTOR,
    COMM_BASE,
    FD_NONE,
    FD_TEST,
    NR_TEST_FILES,
    STACK_PAGES,
    TASK_END,
    TEXT_BYTES,
    VECTOR,
)
from seqfault.live.text.calls import (
    NR_BRK,
    NR_CLOSE,
    NR_FTRUNCATE,
    NR_MADVISE,
    NR_MINCORE,
    NR_MLOCK,
    NR_MLOCK2,
    NR_MLOCKALL,
    NR_MMAP,
    NR_MPROTECT,
    NR_MREMAP,
    NR_MSEAL,
    NR_MSYNC,
    NR_MUNLOCK,
    NR_MUNLOCKALL,
    NR_MUNMAP,
    NR_OPEN,
    NR_PREAD64,
    NR_SETRLIMIT,
    O_RDONLY,
    PROT_READ,
    RLIMIT_AS,
    RLIMIT_STACK,
    call1,
    call2,
    call3,
    next_line,
    read_all,
    read_decimal,
    read_hex,
)
from seqfault.live.text.files import write_byte
from seqfault.live.text.state import runner, scratch
from seqfault.mm.opcodes import (
    MADV_COLD,
    MADV_FREE,
    OP_BRK,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MAP_COUNT,
    OP_MINCORE,
    OP_MLOCK,
    OP_MLOCK2,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MSEAL,
    OP_MSYNC,
    OP_MUNLOCK,
    OP_MUNLOCKALL,
    OP_MUNMAP,
    OP_PWRITE,
    OP_READ,
    OP_RLIMIT_AS,
    OP_WRITE,
    PAGE_SIZE,
    UAPI_MAP_GROWSDOWN,
    WINDOW_BASE,
)

UNLIMITED = -1
MAX_MAP_COUNT, GUEST_MAX_MAP_COUNT = 65530, 2000  # vm.max_map_count, of a guest set by guest.py
NOT_HERE = -38


def file_descriptor(fd: int) -> int:
    """The descriptor of a test file; another number stands for one that is not open."""
    if fd == -1:
        return -1
    if fd < 0 or fd >= NR_TEST_FILES:
        return FD_NONE
    # files 2, 4 and 5 are one
    which = 2 if fd > 3 else fd
    store64(C_TOUCHED, load64(C_TOUCHED) | 1 << which)
    return FD_TEST + fd


def mincore(s: ptr[runner], addr: int, size: int) -> int:
    r = call3(NR_MINCORE, addr, size, VECTOR)
    if r == 0:
        store64(C_VECTOR, (size + PAGE_SIZE - 1) // PAGE_SIZE)
    return r


def set_limit(s: ptr[runner], which: int, limit: int) -> int:
    at = scratch(s) + B_BYTE
    store64(at, limit)
    store64(at + 8, UNLIMITED)
    return call2(NR_SETRLIMIT, which, at)


def limit_stack(s: ptr[runner]) -> int:
    """How long a VMA may be that grows down."""
    at = scratch(s) + B_BYTE
    store64(at, STACK_PAGES * PAGE_SIZE)
    store64(at + 8, STACK_PAGES * PAGE_SIZE)  # nobody raises it again
    return call2(NR_SETRLIMIT, RLIMIT_STACK, at)


def total_vm(s: ptr[runner]) -> int:
    """Pages of this address space: the first number of /proc/self/statm."""
    at = scratch(s) + B_TEXT
    fd = call2(NR_OPEN, text("/proc/self/statm"), O_RDONLY)
    read_all(fd, at, 256)
    call1(NR_CLOSE, fd)
    n, at = read_decimal(at)
    return n


def rlimit_as(s: ptr[runner], pages: int) -> int:
    """At most so many pages more."""
    if pages < 0:
        return set_limit(s, RLIMIT_AS, UNLIMITED)
    return set_limit(s, RLIMIT_AS, (total_vm(s) + pages) * PAGE_SIZE)


def map_count(s: ptr[runner]) -> int:
    """How many VMAs this address space has: the lines of /proc/self/maps, without the one of vsyscall."""
    buf = scratch(s) + B_TEXT
    fd = call2(NR_OPEN, text("/proc/self/maps"), O_RDONLY)
    n = 0
    got = 0
    while True:
        r = syscall6(NR_PREAD64, fd, buf, TEXT_BYTES // 2, got, 0, 0)
        if r <= 0:
            break
        at = buf
        while at < buf + r:
            start, at = read_hex(at)
            if start >= 0 and start < TASK_END and load8(at) == 45:
                n += 1
            at = next_line(at, buf + r)
        got += r
    call1(NR_CLOSE, fd)
    return n


def limit_map_count(s: ptr[runner], more: int) -> int:
    """At most `more` VMAs from now on: what fills the address space above the window is split into so many."""
    limit = GUEST_MAX_MAP_COUNT if s.guest else MAX_MAP_COUNT
    s.crowded = 1
    n = map_count(s)
    at = WINDOW_BASE + (s.nr_pages + 16) * PAGE_SIZE
    while n + 2 <= limit - more:
        if call3(NR_MPROTECT, at, PAGE_SIZE, PROT_READ) < 0:
            break
        at += 2 * PAGE_SIZE
        n += 2
    if n < limit - more:
        # one VMA more: the first page of the last piece, whose neighbour below is what it was made like
        call3(NR_MPROTECT, at - PAGE_SIZE, PAGE_SIZE, 2)
    return 0


def lru_add_drain():
    """Empty this processor's batches of pages, which hold references and may be emptied by others at any time.
    MADV_COLD begins with that."""
    call3(NR_MADVISE, COMM_BASE, PAGE_SIZE, MADV_COLD)


def madvise(addr: int, size: int, advice: int) -> int:
    """MADV_FREE marks its pages when the batch that they are in is emptied."""
    r = call3(NR_MADVISE, addr, size, advice)
    if advice == MADV_FREE:
        lru_add_drain()
    return r


def perform(s: ptr[runner], row: int) -> int:
    """One operation; `row`: the address of its eight words.  Its result as the system call gives it."""
    lru_add_drain()
    op = load64(row)
    a = load64(row + 16)
    b = load64(row + 24)
    c = load64(row + 32)
    d = load64(row + 40)
    e = load64(row + 48)
    f = load64(row + 56)
    if op == OP_READ:
        return probe_read8(a)
    if op == OP_WRITE:
        return probe_write8(a, b)
    if op == OP_MMAP:
        if d & UAPI_MAP_GROWSDOWN:
            store64(C_STACKS, 1)
        return syscall6(NR_MMAP, a, b, c, d, file_descriptor(e), f)
    if op == OP_MUNMAP:
        return call2(NR_MUNMAP, a, b)
    if op == OP_MPROTECT:
        return call3(NR_MPROTECT, a, b, c)
    if op == OP_MREMAP:
        return syscall6(NR_MREMAP, a, b, c, d, e, 0)
    if op == OP_MADVISE:
        return madvise(a, b, c)
    if op == OP_MLOCK:
        return call2(NR_MLOCK, a, b)
    if op == OP_MLOCK2:
        return call3(NR_MLOCK2, a, b, c)
    if op == OP_MUNLOCK:
        return call2(NR_MUNLOCK, a, b)
    if op == OP_BRK:
        return call1(NR_BRK, a)
    if op == OP_FTRUNCATE:
        return call2(NR_FTRUNCATE, file_descriptor(a), b)
    if op == OP_RLIMIT_AS:
        return rlimit_as(s, a)
    if op == OP_MSEAL:
        return call3(NR_MSEAL, a, b, c)
    if op == OP_MINCORE:
        return mincore(s, a, b)
    if op == OP_MSYNC:
        return call3(NR_MSYNC, a, b, c)
    if op == OP_MLOCKALL:
        return call1(NR_MLOCKALL, a)
    if op == OP_MUNLOCKALL:
        return call1(NR_MUNLOCKALL, 0)
    if op == OP_PWRITE:
        return write_byte(s, file_descriptor(a), b, c)
    if op == OP_MAP_COUNT:
        return limit_map_count(s, a)
    return NOT_HERE
