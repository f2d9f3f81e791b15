"""System calls as a program makes them: bytes in, errno out.  mm/mmap.c, mm/mprotect.c, mm/mremap.c, mm/madvise.c,
mm/mlock.c, mm/mseal.c, mm/msync.c, mm/mincore.c, arch/x86/kernel/sys_x86_64.c; 4.12, 6.1, 6.18.

Here are the checks that Linux makes before it takes mmap_sem, in its order, on 64-bit unsigned numbers; what comes
behind them has pages.  The model has the window [UAPI_BASE, UAPI_BASE + NR_PAGES pages) of the address space, and
everything else is occupied: of addresses outside only 0 and those from TASK_SIZE on have defined answers; for the
rest the result is OUTSIDE.
"""

from __future__ import annotations

from seqfault.kernel import NULL, Size, array, emit, integer, pool_object, ptr, struct, the, wrap_s64
from seqfault.mm.cpu import touch
from seqfault.mm.filemap import file_init, mm_init
from seqfault.mm.madvise import sys_madvise
from seqfault.mm.mmap import TASK_SIZE
from seqfault.mm.observe import observe_mm, uapi_observed, uapi_vmflags
from seqfault.mm.opcodes import (
    ABSENT,
    MADV_DONTNEED,
    OP_MADVISE,
    OP_MMAP,
    OP_MPROTECT,
    OP_MUNMAP,
    OP_READ,
    OP_START,
    OP_WRITE,
    PAGE_SIZE,
    TASK_SIZE_BYTES,
    UAPI_MAP_ANONYMOUS,
    UAPI_MAP_FIXED,
    UAPI_MAP_FIXED_NOREPLACE,
    UAPI_MAP_GROWSDOWN,
    WINDOW_BASE,
)
from seqfault.mm.syscalls import sys_mmap, sys_mprotect, sys_munmap
from seqfault.mm.types import (
    EBADF,
    EINVAL,
    ENOMEM,
    EOVERFLOW,
    LINUX,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    MAP_SHARED,
    NR_FILES,
    NR_MMS,
    NR_PAGES,
    NR_TEST_FILES,
    PGOFF_MAX,
    PROT_NONE,
    SIGSEGV,
    file,
    mm_struct,
    task_mm,
)

UAPI_BASE = Size("UAPI_BASE", WINDOW_BASE)
HEAP_PAGE = Size("HEAP_PAGE", 0)
FENCE = Size("FENCE", 1)  # whether the first and the last page of the window are occupied
FENCE_FILE, DISK_FILE = 3, 2

OUTSIDE = -2001  # the result of an operation of which the model cannot say anything
NOSYS = -38
SIGNALLED = -1000  # READ, WRITE: this minus the signal

s64 = integer(-(1 << 63), (1 << 63) - 1, "s64")


@struct(pool=1, private=True)
class uapi_request:
    """One operation as in mm/opcodes.py, and its result."""

    op: s64
    who: s64
    a0: s64
    a1: s64
    a2: s64
    a3: s64
    a4: s64
    a5: s64
    result: s64


@struct(pool=1, private=True)
class uapi_world:
    """What is not the address space's: which processes live; mincore's vector."""

    alive: array[bool, NR_MMS]
    vec_pages: integer(0, NR_PAGES)
    vec: array[bool, NR_PAGES]


# -- unsigned numbers
def below(a: s64, b: s64) -> bool:
    """a < b as unsigned numbers."""
    if (a < 0) != (b < 0):
        return b < 0
    return a < b


def page_align(len: s64) -> s64:
    """PAGE_ALIGN: up to whole pages; wraps to 0."""
    return wrap_s64(len + (PAGE_SIZE - 1)) & ~(PAGE_SIZE - 1)


def unaligned(addr: s64) -> bool:
    return addr & (PAGE_SIZE - 1) != 0


def in_window(start: s64, len: s64) -> bool:
    """Whether [start, start + len), aligned and not wrapping, lies in the window."""
    if below(start, UAPI_BASE) or below(UAPI_BASE + NR_PAGES * PAGE_SIZE, start):
        return False
    return not below(UAPI_BASE + NR_PAGES * PAGE_SIZE - start, len)


def page_of(addr: s64) -> s64:
    return (addr - UAPI_BASE) // PAGE_SIZE


def address_of(page_or_errno: s64) -> s64:
    """The result of what returns an address."""
    if page_or_errno < 0:
        return page_or_errno
    return UAPI_BASE + page_or_errno * PAGE_SIZE


def unmapped(start: s64) -> bool:
    """Whether `start` lies where Linux surely has nothing: in page 0, or behind the end of user space."""
    return (start >= 0 and start < PAGE_SIZE) or not below(start, TASK_SIZE_BYTES)


# -- system calls
def ksys_mmap(addr: s64, len: s64, prot: s64, flags: s64, fd: s64, off: s64) -> s64:
    if unaligned(off):
        return -EINVAL
    f: ptr[file] = NULL
    if not flags & UAPI_MAP_ANONYMOUS:
        if fd < 0 or fd >= NR_TEST_FILES or fd >= NR_FILES:
            return -EBADF
        f = pool_object(file, fd)
    if len == 0:
        return -EINVAL
    len = page_align(len)
    if len == 0:
        return -ENOMEM
    pages: s64 = len // PAGE_SIZE
    pgoff: s64 = off // PAGE_SIZE
    if off < 0:
        pgoff += 1 << 52
    if len < 0:
        pages += 1 << 52
    if pages > TASK_SIZE:
        return -ENOMEM
    if pgoff + pages > PGOFF_MAX:
        return -EOVERFLOW
    at: s64 = 0
    fixed = flags & UAPI_MAP_FIXED != 0 or (LINUX >= 417 and flags & UAPI_MAP_FIXED_NOREPLACE != 0)
    if fixed:
        if below(TASK_SIZE_BYTES - len, addr):
            return -ENOMEM
        if unaligned(addr):
            return -EINVAL
        if not in_window(addr, len):
            return OUTSIDE
        at = page_of(addr)
    elif in_window(addr & ~(PAGE_SIZE - 1), len):
        at = page_of(addr & ~(PAGE_SIZE - 1))
    how: s64 = flags & (MAP_SHARED | MAP_PRIVATE)
    if flags & UAPI_MAP_ANONYMOUS:
        how |= MAP_ANONYMOUS
    if fixed:
        how |= MAP_FIXED
    if flags & UAPI_MAP_GROWSDOWN:
        how |= MAP_GROWSDOWN
    return address_of(sys_mmap(at, pages, prot & 7, how, f, pgoff))


def ksys_munmap(start: s64, len: s64) -> s64:
    if unaligned(start) or below(TASK_SIZE_BYTES, start) or below(TASK_SIZE_BYTES - start, len):
        return -EINVAL
    len = page_align(len)
    if len == 0:
        return -EINVAL
    if unmapped(start) and len <= PAGE_SIZE:
        return 0
    if not in_window(start, len):
        return OUTSIDE
    return sys_munmap(page_of(start), len // PAGE_SIZE)


def ksys_mprotect(start: s64, len: s64, prot: s64) -> s64:
    if unaligned(start):
        return -EINVAL
    if len == 0:
        return 0
    len = page_align(len)
    end: s64 = wrap_s64(start + len)
    if not below(start, end):
        return -ENOMEM
    if prot & ~15 != 0:
        return -EINVAL
    if unmapped(start):
        return -ENOMEM
    if not in_window(start, len):
        return OUTSIDE
    return sys_mprotect(page_of(start), len // PAGE_SIZE, prot & 7)


def ksys_madvise(start: s64, len_in: s64, advice: s64) -> s64:
    if advice != MADV_DONTNEED:
        return -EINVAL
    if unaligned(start):
        return -EINVAL
    len: s64 = page_align(len_in)
    if len_in != 0 and len == 0:
        return -EINVAL
    end: s64 = wrap_s64(start + len)
    if below(end, start):
        return -EINVAL
    if end == start:
        return 0
    if unmapped(start):
        return -ENOMEM
    if not in_window(start, len):
        return OUTSIDE
    return sys_madvise(page_of(start), len // PAGE_SIZE)


def user_byte(addr: s64, write: bool, value: s64) -> s64:
    """A load or a store of one byte.  Of a page's bytes the model has the first one."""
    page_addr: s64 = addr & ~(PAGE_SIZE - 1)
    if unmapped(addr):
        return SIGNALLED - SIGSEGV
    if not in_window(page_addr, PAGE_SIZE):
        return OUTSIDE
    ret: s64 = touch(page_of(page_addr), write, value)
    if ret < 0:
        return SIGNALLED + ret + 100
    return ret


# -- processes
def uapi_process(who: s64):
    """`who` runs from now on."""
    if NR_MMS > 1:
        the(task_mm).mm = pool_object(mm_struct, who)


def fence(addr: s64):
    ret: s64 = sys_mmap(addr, 1, PROT_NONE, MAP_SHARED | MAP_FIXED, pool_object(file, FENCE_FILE), 0)
    assert ret >= 0


def uapi_start():
    """The window of a fresh process."""
    world = the(uapi_world)
    world.alive[0] = True
    uapi_process(0)
    if FENCE:
        fence(0)
        fence(NR_PAGES - 1)


def uapi_init():
    """Once, before everything: the zero page and the files."""
    seen = the(uapi_observed)
    mm_init()
    file_init(0, 8)
    file_init(1, 4)
    file_init(DISK_FILE, 6)
    seen.pages = True
    seen.nr_spans = 1
    seen.start[0] = 0
    seen.end[0] = NR_PAGES
    uapi_start()


def uapi_exit(who: s64) -> s64:
    the(uapi_world).alive[who] = False
    uapi_process(who)
    return sys_munmap(0, NR_PAGES)


def uapi_restart() -> s64:
    world = the(uapi_world)
    for i in range(NR_MMS):
        if world.alive[i]:
            uapi_exit(i)
    uapi_start()
    return 0


# -- operations
def uapi_do(r: ptr[uapi_request]) -> s64:
    op: s64 = r.op
    if op == OP_READ:
        return user_byte(r.a0, False, 0)
    if op == OP_WRITE:
        return user_byte(r.a0, True, r.a1)
    if op == OP_MMAP:
        return ksys_mmap(r.a0, r.a1, r.a2, r.a3, r.a4, r.a5)
    if op == OP_MUNMAP:
        return ksys_munmap(r.a0, r.a1)
    if op == OP_MPROTECT:
        return ksys_mprotect(r.a0, r.a1, r.a2)
    if op == OP_MADVISE:
        return ksys_madvise(r.a0, r.a1, r.a2)
    return NOSYS


def uapi_op():
    """Perform the request."""
    r = the(uapi_request)
    world = the(uapi_world)
    world.vec_pages = 0
    if r.op == OP_START:
        r.result = uapi_restart()
    elif r.who < 0 or r.who >= NR_MMS or not world.alive[r.who]:
        r.result = ABSENT
    else:
        uapi_process(r.who)
        r.result = uapi_do(r)


def uapi_observe():
    """The record of what the request did."""
    r = the(uapi_request)
    world = the(uapi_world)
    seen = the(uapi_observed)
    mask: s64 = 0
    for i in range(NR_MMS):
        if i < 2 and world.alive[i]:
            mask |= 1 << i
    detail = seen.detail_every != 0 and seen.row % max(seen.detail_every, 1) == 0
    seen.row += 1
    if detail:
        mask |= 4
    if world.vec_pages != 0:
        mask |= 8
    emit(r.result)
    emit(mask)
    for i in range(NR_MMS):
        if world.alive[i]:
            observe_mm(pool_object(mm_struct, i))
    if world.vec_pages != 0:
        emit(world.vec_pages)
        for i in range(world.vec_pages):
            emit(world.vec[i])
    if detail:
        for i in range(NR_MMS):
            if world.alive[i]:
                uapi_vmflags(pool_object(mm_struct, i))


def uapi_step():
    """The entry of a batch: one operation and its record."""
    uapi_op()
    uapi_observe()
