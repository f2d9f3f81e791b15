"""The test files, as every program finds them."""

from __future__ import annotations

from seqfault.compile.raw import load64, probe_read8, store8, store64, syscall6, text
from seqfault.kernel import ptr
from seqfault.live.abi import (
    B_BYTE,
    B_PAGEMAP,
    C_TOUCHED,
    DISK_BYTE,
    EXIT_SETUP,
    FD_DISK,
    FD_PAGEMAP,
    FD_PROBE,
    FD_TEST,
    PROBE_PAGES,
    WINDOW_PAGE,
)
from seqfault.live.text.calls import (
    NR_CLOSE,
    NR_FADVISE64,
    NR_FTRUNCATE,
    NR_MEMFD_CREATE,
    NR_MUNMAP,
    NR_PREAD64,
    NR_PWRITE64,
    NR_SYNC_FILE_RANGE,
    O_CREAT,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    POSIX_FADV_DONTNEED,
    PROT_READ,
    SHARED,
    SYNC_FILE_RANGE_WRITE_AND_WAIT,
    call1,
    call2,
    exit_group,
    map_fixed,
    move_fd,
    open_at,
)
from seqfault.live.text.place import note_file
from seqfault.live.text.state import runner, scratch
from seqfault.mm.opcodes import PAGE_SIZE, WINDOW_BASE


def make_memfd(name: int, to: int):
    if move_fd(call2(NR_MEMFD_CREATE, name, 0), to) < 0:
        exit_group(EXIT_SETUP)


def open_files(s: ptr[runner]):
    """Memory files 0, 1 and 3; file 2 on disk, which 4 and 5 are too."""
    make_memfd(text("seqfault-0"), FD_TEST)
    make_memfd(text("seqfault-1"), FD_TEST + 1)
    make_memfd(text("seqfault-fence"), FD_TEST + 3)
    call2(NR_FTRUNCATE, FD_TEST + 3, PAGE_SIZE)
    if s.guest:
        path = text("/seqfault-file")
        open_at(path, O_RDWR | O_CREAT, FD_DISK)
        open_at(path, O_RDONLY, FD_DISK + 1)
        open_at(path, O_WRONLY, FD_DISK + 2)
    move_fd(FD_DISK, FD_TEST + 2)
    move_fd(FD_DISK + 1, FD_TEST + 4)
    if move_fd(FD_DISK + 2, FD_TEST + 5) < 0:
        exit_group(EXIT_SETUP)
    note_file(s, 0, FD_TEST)
    note_file(s, 1, FD_TEST + 1)
    note_file(s, 2, FD_TEST + 2)
    note_file(s, 3, FD_TEST + 3)
    store64(C_TOUCHED, 7)


def put_back(which: int, pages: int):
    """A memory file of holes."""
    call2(NR_FTRUNCATE, FD_TEST + which, 0)
    call2(NR_FTRUNCATE, FD_TEST + which, pages * PAGE_SIZE)


def write_byte(s: ptr[runner], fd: int, page: int, value: int) -> int:
    """One byte at the start of a page of a file."""
    at = scratch(s) + B_BYTE
    store8(at, value)
    return syscall6(NR_PWRITE64, fd, at, 1, page * PAGE_SIZE, 0, 0)


def reset_files(s: ptr[runner]):
    """What a program may have done to the files is undone, where it had the file in hand."""
    touched = load64(C_TOUCHED)
    if touched & 1:
        put_back(0, 8)
    if touched & 2:
        put_back(1, 4)
    if touched & 4:
        # a struct file remembers how often its pages were missed (struct file_ra_state)
        open_at(text("/proc/self/fd/22"), O_RDWR, FD_TEST + 2)
        open_at(text("/proc/self/fd/24"), O_RDONLY, FD_TEST + 4)
        open_at(text("/proc/self/fd/25"), O_WRONLY, FD_TEST + 5)
        # not to 0: ext4 writes a file that was cut to nothing when it is closed (auto_da_alloc)
        call2(NR_FTRUNCATE, FD_TEST + 2, 1)
        call2(NR_FTRUNCATE, FD_TEST + 2, 6 * PAGE_SIZE)
        # what is being written back is not paged out: let it end
        syscall6(NR_SYNC_FILE_RANGE, FD_TEST + 2, 0, 0, SYNC_FILE_RANGE_WRITE_AND_WAIT, 0, 0)
        # nor does page 0 stay, with the marks that a lock may have left on it
        syscall6(NR_FADVISE64, FD_TEST + 2, 0, 0, POSIX_FADV_DONTNEED, 0, 0)
    # dirty, even where they were written back since
    for i in range(6):
        write_byte(s, FD_TEST + 2, i, DISK_BYTE + i)
    store64(C_TOUCHED, 0)


def measure_fault_around(s: ptr[runner]) -> int:
    """How many pages of the page cache a read fault maps: fault_around_bytes of debugfs, which may not be readable."""
    at = WINDOW_BASE + PROBE_PAGES * PAGE_SIZE
    make_memfd(text("seqfault-probe"), FD_PROBE)
    call2(NR_FTRUNCATE, FD_PROBE, PROBE_PAGES * PAGE_SIZE)
    for i in range(PROBE_PAGES):
        write_byte(s, FD_PROBE, i, 1)
    if map_fixed(at, PROBE_PAGES * PAGE_SIZE, PROT_READ, SHARED, FD_PROBE) != at or probe_read8(at) != 1:
        exit_group(EXIT_SETUP)
    buf = scratch(s) + B_PAGEMAP
    fd = open_at(text("/proc/self/pagemap"), O_RDONLY, FD_PAGEMAP)
    n = 0
    if syscall6(NR_PREAD64, fd, buf, 8 * PROBE_PAGES, (WINDOW_PAGE + PROBE_PAGES) * 8, 0, 0) == 8 * PROBE_PAGES:
        for i in range(PROBE_PAGES):
            if load64(buf + 8 * i) < 0:
                n += 1
    call1(NR_CLOSE, fd)
    call1(NR_CLOSE, FD_PROBE)
    call2(NR_MUNMAP, at, PROBE_PAGES * PAGE_SIZE)
    return n
