"""The runner's address space: everything but the window is taken, so that the kernel finds room there only."""

from __future__ import annotations

from seqfault.compile.raw import (
    load64,
    probe_read8,
    signal_handler,
    signal_restorer,
    signal_stack,
    store64,
    syscall6,
    text,
)
from seqfault.kernel import ptr
from seqfault.live.abi import (
    B_PAGEMAP,
    B_TEXT,
    CACHE_BASE,
    CACHE_FILES,
    CACHE_PAGES,
    COMM_BASE,
    COMM_SIZE,
    EXIT_SETUP,
    FD_MAPS,
    FD_PAGEMAP,
    FD_TEST,
    LOWEST,
    ROOTLESS_LOWEST,
    TASK_END,
    TEXT_BYTES,
    WINDOW_PAGE,
)
from seqfault.live.text.calls import (
    ANONYMOUS,
    NOREPLACE,
    NORESERVE,
    NR_BRK,
    NR_CLOSE,
    NR_FSTAT,
    NR_MMAP,
    NR_MUNMAP,
    NR_PKEY_ALLOC,
    NR_PRCTL,
    NR_PREAD64,
    NR_RT_SIGACTION,
    NR_SIGALTSTACK,
    O_RDONLY,
    PR_SET_MM,
    PR_SET_MM_MAP,
    PR_SET_THP_DISABLE,
    PRIVATE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    SHARED,
    SIGBUS,
    SIGSEGV,
    call1,
    call2,
    exit_group,
    map_fixed,
    next_line,
    open_at,
    read_all,
    read_hex,
    zero_words,
)
from seqfault.live.text.state import runner, scratch
from seqfault.mm.opcodes import PAGE_SIZE, WINDOW_BASE

SA_SIGINFO, SA_RESTORER, SA_ONSTACK, SA_NODEFER = 4, 0x04000000, 0x08000000, 0x40000000
STACK_BYTES = 64 * 1024
SYSTEM_MAPPINGS = 1 << 46  # the initial stack, vdso and vvar lie above


def map_communication():
    """Memory that the processes of the runner share."""
    if map_fixed(COMM_BASE, COMM_SIZE, PROT_READ | PROT_WRITE, SHARED | ANONYMOUS, -1) < 0:
        exit_group(EXIT_SETUP)


def map_files():
    """The test files, which nobody touches there."""
    size = CACHE_PAGES * PAGE_SIZE
    for i in range(CACHE_FILES):
        if map_fixed(CACHE_BASE + i * size, size, PROT_NONE, SHARED, FD_TEST + i) < 0:
            exit_group(EXIT_SETUP)


def catch_signals(s: ptr[runner]):
    """SIGSEGV and SIGBUS go to the handler of compile/raw.py, on a stack of its own."""
    at = scratch(s)
    store64(at, signal_stack())
    store64(at + 8, 0)
    store64(at + 16, STACK_BYTES)
    if call2(NR_SIGALTSTACK, at, 0) < 0:
        exit_group(EXIT_SETUP)
    store64(at, signal_handler())
    store64(at + 8, SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_NODEFER)
    store64(at + 16, signal_restorer())
    store64(at + 24, 0)
    sigaction(SIGSEGV, at)
    sigaction(SIGBUS, at)


def sigaction(signal: int, at: int):
    if syscall4(NR_RT_SIGACTION, signal, at, 0, 8) < 0:
        exit_group(EXIT_SETUP)


def syscall4(nr: int, a: int, b: int, c: int, d: int) -> int:
    return syscall6(nr, a, b, c, d, 0, 0)


def own_maps(s: ptr[runner]) -> tuple[int, int]:
    """The text of /proc/self/maps: where it begins and ends."""
    at = scratch(s) + B_TEXT
    fd = open_at(text("/proc/self/maps"), O_RDONLY, FD_MAPS)
    if fd < 0:
        exit_group(EXIT_SETUP)
    n = read_all(fd, at, TEXT_BYTES)
    call1(NR_CLOSE, fd)
    return at, at + n


def drop_system_mappings(s: ptr[runner]):
    """Unmap the initial stack, vvar and vdso; what the kernel does not let go stays."""
    at, end = own_maps(s)
    while at < end:
        start, at = read_hex(at)
        stop, at = read_hex(at + 1)
        at = next_line(at, end)
        if start >= SYSTEM_MAPPINGS and start < TASK_END:
            call2(NR_MUNMAP, start, stop - start)


def fill(start: int, stop: int) -> int:
    """Take [start, stop) but for the window; an error number if that failed."""
    if start >= stop:
        return 0
    flags = PRIVATE | ANONYMOUS | NORESERVE | NOREPLACE
    r = syscall6(NR_MMAP, start, stop - start, PROT_NONE, flags, -1, 0)
    return r if r < 0 else 0


def fill_gap(s: ptr[runner], start: int, stop: int) -> int:
    window_end = WINDOW_BASE + s.nr_pages * PAGE_SIZE
    if start <= WINDOW_BASE and stop >= window_end:
        r = fill(start, WINDOW_BASE)
        return r if r < 0 else fill(window_end, stop)
    return fill(start, stop)


def fill_gaps(s: ptr[runner]):
    """Take every gap of the address space.  Below vm.mmap_min_addr only root may."""
    at, end = own_maps(s)
    low = LOWEST
    while at < end and low < TASK_END:
        start, at = read_hex(at)
        stop, at = read_hex(at + 1)
        at = next_line(at, end)
        if start < 0 or start > TASK_END:
            start = TASK_END  # vsyscall
            stop = TASK_END
        if (low == LOWEST and fill(LOWEST, ROOTLESS_LOWEST) < 0) or low == LOWEST:
            low = ROOTLESS_LOWEST
        if fill_gap(s, low, start) < 0:
            exit_group(EXIT_SETUP)
        low = stop
    if low < TASK_END and fill_gap(s, low, TASK_END) < 0:
        exit_group(EXIT_SETUP)


def fence(at: int):
    if map_fixed(at, PAGE_SIZE, PROT_NONE, SHARED, FD_TEST + 3) != at:
        exit_group(EXIT_SETUP)


def fences(s: ptr[runner]):
    """The first and the last page of the window, so that nothing in it merges with what lies outside."""
    fence(WINDOW_BASE)
    fence(WINDOW_BASE + (s.nr_pages - 1) * PAGE_SIZE)


def move_heap(s: ptr[runner], heap_page: int):
    """brk works from `heap_page` of the window on: prctl(PR_SET_MM, PR_SET_MM_MAP), struct prctl_mm_map."""
    at = scratch(s)
    heap = WINDOW_BASE + heap_page * PAGE_SIZE
    code = COMM_BASE
    zero_words(at, 13)
    store64(at, code)
    store64(at + 8, code + PAGE_SIZE)
    # where brk is not randomised, it may go down to the end of the data
    store64(at + 16, heap - 1)
    store64(at + 24, heap - 1)
    store64(at + 32, heap)
    store64(at + 40, heap)
    for i in range(6, 11):
        store64(at + 8 * i, code)
    store64(at + 96, -1 << 32)  # no auxv; exe_fd -1
    r = syscall6(NR_PRCTL, PR_SET_MM, PR_SET_MM_MAP, at, 104, 0, 0)
    s.heap = 1 if r == 0 and call1(NR_BRK, 0) == heap else 0


def no_huge_pages():
    syscall6(NR_PRCTL, PR_SET_THP_DISABLE, 1, 0, 0, 0, 0)


def take_protection_keys():
    """With no key left, PROT_EXEC alone maps what can be read, as on processors without keys."""
    while call2(NR_PKEY_ALLOC, 0, 0) >= 0:
        pass


def find_zero_page(s: ptr[runner]):
    """Which frame the zero page is, and whether frames can be seen."""
    at = WINDOW_BASE + PAGE_SIZE
    s.zero_pfn = 0
    s.frames = 0
    if map_fixed(at, PAGE_SIZE, PROT_READ, PRIVATE | ANONYMOUS, -1) != at:
        exit_group(EXIT_SETUP)
    if probe_read8(at) != 0:
        exit_group(EXIT_SETUP)
    fd = open_at(text("/proc/self/pagemap"), O_RDONLY, FD_PAGEMAP)
    buf = scratch(s) + B_PAGEMAP
    if fd >= 0 and syscall4(NR_PREAD64, fd, buf, 8, (WINDOW_PAGE + 1) * 8) == 8:
        s.zero_pfn = load64(buf) & ((1 << 55) - 1)
        s.frames = 1 if s.zero_pfn != 0 else 0
    call1(NR_CLOSE, fd)
    call2(NR_MUNMAP, at, PAGE_SIZE)


def note_file(s: ptr[runner], which: int, fd: int):
    """struct stat: the device and inode by which a VMA's file is known."""
    at = scratch(s)
    if call2(NR_FSTAT, fd, at) < 0:
        exit_group(EXIT_SETUP)
    s.device[which] = device_key(load64(at))
    s.inode[which] = load64(at + 8)


def device_key(dev: int) -> int:
    """st_dev (new_encode_dev of a 64-bit user space) as major << 32 | minor."""
    major = dev >> 8 & 0xFFF | dev >> 32 & 0xFFFFF000
    minor = dev & 0xFF | dev >> 12 & 0xFFFFFF00
    return major << 32 | minor
