"""Numbers of the operations that `AddressSpace`, `fuzz` and the runner on the live kernel share, and Linux's own
numbers for their arguments (include/uapi/asm-generic/mman-common.h, include/uapi/linux/mman.h).

An operation is eight integers: its number, the process (0 or 1), six arguments as the system call takes them
(bytes, absolute addresses).
"""

from __future__ import annotations

OP_START, OP_MMAP, OP_MUNMAP, OP_MPROTECT, OP_MREMAP, OP_MADVISE = 0, 1, 2, 3, 4, 5
OP_MLOCK, OP_MLOCK2, OP_MUNLOCK, OP_BRK, OP_FORK, OP_EXIT = 6, 7, 8, 9, 10, 11
OP_READ, OP_WRITE, OP_FTRUNCATE, OP_RLIMIT_AS, OP_MSEAL, OP_MINCORE = 12, 13, 14, 15, 16, 17
OP_MSYNC, OP_MLOCKALL, OP_MUNLOCKALL, OP_PWRITE, OP_MAP_COUNT = 18, 19, 20, 22, 23
NAMES = {
    OP_START: "start",
    OP_MMAP: "mmap",
    OP_MUNMAP: "munmap",
    OP_MPROTECT: "mprotect",
    OP_MREMAP: "mremap",
    OP_MADVISE: "madvise",
    OP_MLOCK: "mlock",
    OP_MLOCK2: "mlock2",
    OP_MUNLOCK: "munlock",
    OP_BRK: "brk",
    OP_FORK: "fork",
    OP_EXIT: "exit",
    OP_READ: "read",
    OP_WRITE: "write",
    OP_FTRUNCATE: "ftruncate",
    OP_RLIMIT_AS: "rlimit_as",
    OP_MSEAL: "mseal",
    OP_MINCORE: "mincore",
    OP_MSYNC: "msync",
    OP_MLOCKALL: "mlockall",
    OP_MUNLOCKALL: "munlockall",
    OP_PWRITE: "pwrite",
    OP_MAP_COUNT: "map_count",
}
NR_ARGS = {
    OP_START: 0,
    OP_MMAP: 6,
    OP_MUNMAP: 2,
    OP_MPROTECT: 3,
    OP_MREMAP: 5,
    OP_MADVISE: 3,
    OP_MLOCK: 2,
    OP_MLOCK2: 3,
    OP_MUNLOCK: 2,
    OP_BRK: 1,
    OP_FORK: 0,
    OP_EXIT: 0,
    OP_READ: 1,
    OP_WRITE: 2,
    OP_FTRUNCATE: 2,
    OP_RLIMIT_AS: 1,
    OP_MSEAL: 3,
    OP_MINCORE: 2,
    OP_MSYNC: 3,
    OP_MLOCKALL: 1,
    OP_MUNLOCKALL: 0,
    OP_PWRITE: 3,
    OP_MAP_COUNT: 1,
}
ABSENT = -2000  # the result of an operation of a process that does not exist; nothing happens

PAGE_SIZE = 4096
WINDOW_BASE = 0x1000_0000_0000
TASK_SIZE_BYTES = 0x7FFF_FFFF_F000

UAPI_MAP_SHARED, UAPI_MAP_PRIVATE, UAPI_MAP_SHARED_VALIDATE, UAPI_MAP_DROPPABLE = 1, 2, 3, 8
UAPI_MAP_FIXED, UAPI_MAP_ANONYMOUS, UAPI_MAP_GROWSDOWN = 0x10, 0x20, 0x100
UAPI_MAP_DENYWRITE, UAPI_MAP_EXECUTABLE, UAPI_MAP_LOCKED, UAPI_MAP_NORESERVE = 0x800, 0x1000, 0x2000, 0x4000
UAPI_MAP_POPULATE, UAPI_MAP_NONBLOCK, UAPI_MAP_STACK = 0x8000, 0x10000, 0x20000
UAPI_MAP_SYNC, UAPI_MAP_FIXED_NOREPLACE = 0x80000, 0x100000
UAPI_PROT_GROWSDOWN, UAPI_PROT_GROWSUP = 0x01000000, 0x02000000
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
MLOCK_ONFAULT = 1
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4

MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED = 0, 1, 2, 3, 4
MADV_FREE, MADV_REMOVE, MADV_DONTFORK, MADV_DOFORK = 8, 9, 10, 11
MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 12, 13, 14, 15
MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK = 16, 17, 18, 19
MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE = 20, 21, 22, 23
MADV_DONTNEED_LOCKED, MADV_COLLAPSE = 24, 25
MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 102, 103
ADVICE = {
    "normal": MADV_NORMAL,
    "random": MADV_RANDOM,
    "sequential": MADV_SEQUENTIAL,
    "willneed": MADV_WILLNEED,
    "dontneed": MADV_DONTNEED,
    "free": MADV_FREE,
    "remove": MADV_REMOVE,
    "dontfork": MADV_DONTFORK,
    "dofork": MADV_DOFORK,
    "mergeable": MADV_MERGEABLE,
    "unmergeable": MADV_UNMERGEABLE,
    "hugepage": MADV_HUGEPAGE,
    "nohugepage": MADV_NOHUGEPAGE,
    "dontdump": MADV_DONTDUMP,
    "dodump": MADV_DODUMP,
    "wipeonfork": MADV_WIPEONFORK,
    "keeponfork": MADV_KEEPONFORK,
    "cold": MADV_COLD,
    "pageout": MADV_PAGEOUT,
    "populate_read": MADV_POPULATE_READ,
    "populate_write": MADV_POPULATE_WRITE,
    "dontneed_locked": MADV_DONTNEED_LOCKED,
    "collapse": MADV_COLLAPSE,
    "guard_install": MADV_GUARD_INSTALL,
    "guard_remove": MADV_GUARD_REMOVE,
}
