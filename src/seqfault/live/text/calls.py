"""System calls that the runner makes for itself, and reading of /proc's text."""

from __future__ import annotations

from seqfault.compile.raw import load8, load64, store32, store64, syscall6
from seqfault.kernel import wrap_s64
from seqfault.live.abi import SHARED_BASE

NR_READ, NR_WRITE, NR_OPEN, NR_CLOSE, NR_FSTAT = 0, 1, 2, 3, 5
NR_MMAP, NR_MPROTECT, NR_MUNMAP, NR_BRK, NR_RT_SIGACTION, NR_IOCTL = 9, 10, 11, 12, 13, 16
NR_PREAD64, NR_PWRITE64, NR_MREMAP, NR_MSYNC, NR_MINCORE, NR_MADVISE = 17, 18, 25, 26, 27, 28
NR_DUP2, NR_NANOSLEEP, NR_GETPID, NR_FORK, NR_EXIT_GROUP, NR_WAIT4, NR_KILL = 33, 35, 39, 57, 231, 61, 62
NR_SYNC_FILE_RANGE, SYNC_FILE_RANGE_WRITE_AND_WAIT = 277, 7
NR_FADVISE64, POSIX_FADV_DONTNEED = 221, 4
NR_FTRUNCATE, NR_SIGALTSTACK, NR_MLOCK, NR_MUNLOCK, NR_MLOCKALL, NR_MUNLOCKALL = 77, 131, 149, 150, 151, 152
NR_PRCTL, NR_SETRLIMIT, NR_FUTEX, NR_SCHED_SETAFFINITY, NR_MEMFD_CREATE = 157, 160, 202, 203, 319
NR_MLOCK2, NR_PKEY_ALLOC, NR_MSEAL, NR_GETCPU = 325, 330, 462, 309

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_MM, PR_SET_CHILD_SUBREAPER, PR_SET_THP_DISABLE = 1, 15, 35, 36, 41
PR_SET_MM_MAP = 14
SIGKILL, SIGBUS, SIGSEGV = 9, 7, 11
INT_MIN = -1 << 63
STAY = -2  # for a processor: the one that a program begins on
RLIMIT_STACK, RLIMIT_AS = 3, 9
WNOHANG = 1
FUTEX_WAIT, FUTEX_WAKE = 0, 1
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
SHARED, PRIVATE, FIXED, ANONYMOUS, NORESERVE, NOREPLACE = 1, 2, 0x10, 0x20, 0x4000, 0x100000
O_RDONLY, O_WRONLY, O_RDWR, O_CREAT = 0, 1, 2, 0o100
EINTR, EAGAIN = -4, -11


def call1(nr: int, a: int) -> int:
    return syscall6(nr, a, 0, 0, 0, 0, 0)


def call2(nr: int, a: int, b: int) -> int:
    return syscall6(nr, a, b, 0, 0, 0, 0)


def call3(nr: int, a: int, b: int, c: int) -> int:
    return syscall6(nr, a, b, c, 0, 0, 0)


def exit_group(status: int):
    call1(NR_EXIT_GROUP, status)


def header(word: int) -> int:
    """A word of the header that is shared with the host."""
    return load64(SHARED_BASE + 8 * word)


def set_header(word: int, value: int):
    store64(SHARED_BASE + 8 * word, value)


def move_fd(fd: int, to: int) -> int:
    """Give an open file a number of our choice."""
    if fd < 0:
        return fd
    if fd == to:
        return to
    r = call2(NR_DUP2, fd, to)
    call1(NR_CLOSE, fd)
    return r


def open_at(path: int, flags: int, to: int) -> int:
    return move_fd(call3(NR_OPEN, path, flags, 0o600), to)


def map_fixed(at: int, size: int, prot: int, flags: int, fd: int) -> int:
    return syscall6(NR_MMAP, at, size, prot, flags | FIXED, fd, 0)


def zero_words(at: int, n: int):
    for i in range(n):
        store64(at + 8 * i, 0)


def copy_words(to: int, at: int, n: int):
    for i in range(n):
        store64(to + 8 * i, load64(at + 8 * i))


def set_time(at: int, ms: int):
    """struct timespec."""
    store64(at, ms // 1000)
    store64(at + 8, ms % 1000 * 1000000)


def futex_wake(at: int):
    call3(NR_FUTEX, at, FUTEX_WAKE, 1)


def futex_wait(at: int, value: int, timeout: int) -> int:
    """Sleep while the 32-bit word at `at` is `value`, at most as long as the timespec at `timeout` says."""
    return syscall6(NR_FUTEX, at, FUTEX_WAIT, value, timeout, 0, 0)


def reap(pid: int, status: int, flags: int) -> int:
    """wait4; the wait status goes to the address `status`."""
    store32(status, 0)
    r = syscall6(NR_WAIT4, pid, status, flags, 0, 0, 0)
    while r == EINTR:
        r = syscall6(NR_WAIT4, pid, status, flags, 0, 0, 0)
    return r


def read_all(fd: int, at: int, size: int) -> int:
    """What a file of /proc holds, from its beginning, as far as it fits; the number of bytes."""
    got = 0
    while got < size:
        r = syscall6(NR_PREAD64, fd, at + got, size - got, got, 0, 0)
        if r <= 0:
            break
        got += r
    return got


def set_affinity(at: int, cpu: int) -> int:
    """This process stays on a processor; 0 or an error number.  `at`: room for a mask."""
    zero_words(at, 16)
    store64(at + cpu // 64 * 8, 1 << cpu % 64 if cpu % 64 < 63 else INT_MIN)
    r = call3(NR_SCHED_SETAFFINITY, 0, 128, at)
    return r if r < 0 else 0


# -- text of /proc
def hex_digit(c: int) -> int:
    """The value of a hexadecimal digit, or -1."""
    if c >= 48 and c <= 57:
        return c - 48
    if c >= 97 and c <= 102:
        return c - 87
    return -1


def read_hex(at: int) -> tuple[int, int]:
    """The hexadecimal number at `at`, and the address after it."""
    v = 0
    d = hex_digit(load8(at))
    while d >= 0:
        v = wrap_s64(v << 4) | d
        at += 1
        d = hex_digit(load8(at))
    return v, at


def read_decimal(at: int) -> tuple[int, int]:
    """The decimal number at `at`, after spaces, and the address after it."""
    while load8(at) == 32:
        at += 1
    v = 0
    c = load8(at)
    while c >= 48 and c <= 57:
        v = v * 10 + c - 48
        at += 1
        c = load8(at)
    return v, at


def next_line(at: int, end: int) -> int:
    """The address after the end of the line, at most `end`."""
    while at < end and load8(at) != 10:
        at += 1
    return at + 1 if at < end else end
