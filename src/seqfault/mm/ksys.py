"""System calls as a program makes them: bytes in, errno out.  mm/mmap.c, mm/mprotect.c, mm/mremap.c, mm/madvise.c,
mm/mlock.c, mm/mseal.c, mm/msync.c, mm/mincore.c, fs/open.c, fs/read_write.c; 4.12, 6.1, 6.18.

Here are the checks that Linux makes before it takes mmap_sem, in its order, on 64-bit unsigned numbers; what comes
behind them has pages.  The model has the window [UAPI_BASE, UAPI_BASE + NR_PAGES pages) of the address space, and
everything else is occupied by what it does not know: of addresses outside only those of page 0 and those from
TASK_SIZE on have defined answers; for the rest the result is OUTSIDE.
"""

from __future__ import annotations

from seqfault.kernel import NULL, Size, index_of, pool_object, ptr, wrap_s64
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.mm.advice import do_madvise, madvise_behavior_valid
from seqfault.mm.cpu import user_access
from seqfault.mm.limits import sysctl_max_map_count
from seqfault.mm.mlock import do_mlock, do_mlockall, do_munlock, do_munlockall
from seqfault.mm.mmap import do_mmap, do_munmap
from seqfault.mm.mprotect import do_mprotect
from seqfault.mm.mremap import do_mremap, too_many_to_move, vma_lookup
from seqfault.mm.mseal import do_mseal
from seqfault.mm.msync import MINCORE_PAGES, do_mincore, do_msync
from seqfault.mm.opcodes import (
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MLOCK_ONFAULT,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    MS_ASYNC,
    MS_INVALIDATE,
    MS_SYNC,
    PAGE_SIZE,
    TASK_SIZE_BYTES,
    UAPI_MAP_ANONYMOUS,
    UAPI_MAP_FIXED,
    UAPI_MAP_FIXED_NOREPLACE,
    UAPI_MAP_LOCKED,
    UAPI_MAP_NONBLOCK,
    UAPI_MAP_POPULATE,
    UAPI_PROT_GROWSDOWN,
    UAPI_PROT_GROWSUP,
    WINDOW_BASE,
)
from seqfault.mm.places import mmap_write_lock_end, mmap_write_unlock_begin
from seqfault.mm.populate import mm_populate
from seqfault.mm.syscalls import sys_brk
from seqfault.mm.truncate import file_write, vfs_truncate
from seqfault.mm.types import (
    EBADF,
    EFAULT,
    EINVAL,
    ENOMEM,
    FILE_PAGES,
    IS_ERR_VALUE,
    LINUX,
    NR_FILES,
    NR_PAGES,
    NR_TEST_FILES,
    SIGSEGV,
    VM_LOCKED,
    VM_LOCKONFAULT,
    current_mm,
    errno_t,
    file,
    s64,
)

UAPI_BASE = Size("UAPI_BASE", WINDOW_BASE)

OUTSIDE = -2001  # the result of an operation of which the model cannot say anything
ENOSYS = 38
SIGNALLED = -1000  # READ, WRITE: this minus the signal
PROT_RIGHTS, PROT_ALL = 7, 15  # reading, writing, executing; and PROT_SEM
FMODE_READ, FMODE_WRITE = 1, 2
MMAP_MIN_ADDR = 1 << 16  # CONFIG_LSM_MMAP_MIN_ADDR; the sysctl can only raise it


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


def pages_of(len: s64) -> s64:
    """An aligned length as pages."""
    if len < 0:
        return len // PAGE_SIZE + (1 << 52)
    return len // PAGE_SIZE


# -- the window
def in_window(start: s64, len: s64) -> bool:
    """Whether [start, start + len), which does not wrap, lies in the window."""
    if below(start, UAPI_BASE) or below(UAPI_BASE + NR_PAGES * PAGE_SIZE, start):
        return False
    return not below(UAPI_BASE + NR_PAGES * PAGE_SIZE - start, len)


def page_of(addr: s64) -> s64:
    return (addr - UAPI_BASE) // PAGE_SIZE


def end_page(page: s64, len: s64) -> s64:
    """The page behind so many bytes from `page` on; what reaches out of the window is cut off."""
    return min(page + pages_of(len), NR_PAGES)


def address_of(page_or_errno: s64) -> s64:
    """The result of what returns an address."""
    if IS_ERR_VALUE(page_or_errno):
        return page_or_errno
    return UAPI_BASE + page_or_errno * PAGE_SIZE


def unmapped(start: s64) -> bool:
    """Whether `start` lies where Linux surely has nothing: in page 0, or behind the end of user space."""
    if in_window(start, 1):
        return False
    return (start >= 0 and start < PAGE_SIZE) or not below(start, TASK_SIZE_BYTES)


def hole_or_outside(start: s64, len: s64, ret: s64) -> s64:
    """The result of what stops at holes, where the range was cut off: the model knows only what is in the window."""
    if not in_window(start, len) and ret == 0:
        return OUTSIDE
    return ret


def fget(fd: s64) -> ptr[file]:
    """The file of a descriptor, NULL if none is open there."""
    if fd < 0 or fd >= min(NR_TEST_FILES, NR_FILES):
        return NULL
    return pool_object(file, fd)


# -- mapping
def round_hint_to_min(hint: s64) -> s64:
    """A hint in the lowest pages, which nobody may map, means the first page behind them."""
    page: s64 = hint & ~(PAGE_SIZE - 1)
    if page != 0 and below(page, MMAP_MIN_ADDR):
        return MMAP_MIN_ADDR
    return page


def mmap_unaligned() -> errno_t:
    """do_mmap counts the VMAs before get_unmapped_area looks at the address."""
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    too_many = mm.map_count > sysctl_max_map_count(mm)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return -ENOMEM if too_many else -EINVAL


def ksys_mmap(addr: s64, len: s64, prot: s64, flags: s64, fd: s64, off: s64) -> s64:
    if unaligned(off):
        return -EINVAL
    f: ptr[file] = NULL
    if not flags & UAPI_MAP_ANONYMOUS:
        f = fget(fd)
        if not f:
            return -EBADF
    if len == 0:
        return -EINVAL
    pages: s64 = pages_of(page_align(len))
    if pages == 0 or pages > NR_PAGES:
        return -ENOMEM
    at: s64 = 0
    if flags & UAPI_MAP_FIXED or (LINUX >= 417 and flags & UAPI_MAP_FIXED_NOREPLACE):
        if below(TASK_SIZE_BYTES - pages * PAGE_SIZE, addr):
            return -ENOMEM
        if unaligned(addr):
            return mmap_unaligned()
        if not in_window(addr, pages * PAGE_SIZE):
            return OUTSIDE
        at = page_of(addr)
    elif in_window(round_hint_to_min(addr), 1):
        at = page_of(round_hint_to_min(addr))
    elif round_hint_to_min(addr) != 0:
        at = NR_PAGES  # a hint to where there is no room
    return address_of(vm_mmap_pgoff(at, pages, prot, flags, f, pages_of(off)))


def vm_mmap_pgoff(at: s64, pages: s64, prot: s64, flags: s64, f: ptr[file], pgoff: s64) -> s64:
    """mmap, and what it faults in at once."""
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    ret: s64 = do_mmap(mm, at, pages, prot & PROT_RIGHTS, flags, f, pgoff)
    populate = False
    if not IS_ERR_VALUE(ret):
        populate = flags & (UAPI_MAP_POPULATE | UAPI_MAP_NONBLOCK) == UAPI_MAP_POPULATE
        # Asked of the flags as they were asked for: droppable memory is populated too, though it is not locked then.
        if flags & UAPI_MAP_LOCKED or mm.def_flags & VM_LOCKED:
            populate = True
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    if populate:
        mm_populate(mm, ret, pages)
    return ret


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
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    ret: s64 = do_munmap(mm, page_of(start), pages_of(len), False)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return ret


def ksys_mprotect(start: s64, len: s64, prot: s64) -> s64:
    grows: s64 = prot & (UAPI_PROT_GROWSDOWN | UAPI_PROT_GROWSUP)
    if grows == UAPI_PROT_GROWSDOWN | UAPI_PROT_GROWSUP:
        return -EINVAL
    if unaligned(start):
        return -EINVAL
    if len == 0:
        return 0
    len = page_align(len)
    if not below(start, wrap_s64(start + len)):
        return -ENOMEM
    if prot & ~(PROT_ALL | UAPI_PROT_GROWSDOWN | UAPI_PROT_GROWSUP):
        return -EINVAL
    if unmapped(start):
        return -ENOMEM
    if not in_window(start, 1):
        return OUTSIDE
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    ret: s64 = do_mprotect(mm, page_of(start), end_page(page_of(start), len) - page_of(start), prot)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return hole_or_outside(start, len, ret)


# -- mremap
def overlap(addr: s64, old_len: s64, new_addr: s64, new_len: s64) -> bool:
    return below(new_addr, wrap_s64(addr + old_len)) and below(addr, wrap_s64(new_addr + new_len))


def check_new_addr(addr: s64, old_len: s64, new_addr: s64, new_len: s64) -> bool:
    """Whether a mapping can go to new_addr."""
    if unaligned(new_addr) or below(TASK_SIZE_BYTES, new_len) or below(TASK_SIZE_BYTES - new_len, new_addr):
        return False
    return not overlap(addr, old_len, new_addr, new_len)


def nothing_at(addr: s64) -> bool:
    return unmapped(addr) or (in_window(addr, 1) and not vma_lookup(current_mm(), page_of(addr)))


def check_mremap_params(addr: s64, old_len: s64, new_len: s64, flags: s64, new_addr: s64) -> errno_t:
    """Up to 6.15 the new address is looked at with mmap_sem held, from 5.16 on after the old one."""
    if LINUX < 507 and flags & MREMAP_DONTUNMAP:
        return -EINVAL
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP):
        return -EINVAL
    moves = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) != 0
    if moves and not flags & MREMAP_MAYMOVE:
        return -EINVAL
    if flags & MREMAP_DONTUNMAP and page_align(old_len) != page_align(new_len):
        return -EINVAL
    if LINUX < 616 and flags & MREMAP_DONTUNMAP and old_len != new_len:
        return -EINVAL  # compared before they are rounded
    if unaligned(addr) or page_align(new_len) == 0:
        return -EINVAL
    old_len = page_align(old_len)
    new_len = page_align(new_len)
    if LINUX >= 616:
        if below(TASK_SIZE_BYTES, new_len):
            return -EINVAL
    elif LINUX >= 516 and nothing_at(addr):
        return -EFAULT
    if moves and not check_new_addr(addr, old_len, new_addr, new_len):
        return -EINVAL
    return 0


def ksys_mremap(addr: s64, old_len: s64, new_len: s64, flags: s64, new_addr: s64) -> s64:
    error: errno_t = check_mremap_params(addr, old_len, new_len, flags, new_addr)
    if error != 0:
        return error
    old_pages: s64 = pages_of(page_align(old_len))
    new_pages: s64 = pages_of(page_align(new_len))
    to: s64 = 0
    if in_window(new_addr, min(new_pages, NR_PAGES + 1) * PAGE_SIZE):
        to = page_of(new_addr)
    elif flags & MREMAP_FIXED:
        return OUTSIDE
    if unmapped(addr):
        if LINUX < 516 and not flags & MREMAP_FIXED and old_pages >= new_pages:
            return addr  # nothing there to cut off
        if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and too_many_to_move(current_mm()):
            return -ENOMEM
        return -EFAULT
    if not in_window(addr, 1):
        return OUTSIDE
    return address_of(do_mremap(page_of(addr), old_pages, new_pages, flags, to))


# -- advice, locks, seals
def check_range(start: s64, len_in: s64) -> errno_t:
    """What madvise and mseal ask of a range: aligned, and it does not wrap."""
    len: s64 = page_align(len_in)
    if unaligned(start) or (len_in != 0 and len == 0) or below(wrap_s64(start + len), start):
        return -EINVAL
    return 0


def ksys_madvise(start: s64, len_in: s64, advice: s64) -> s64:
    advice = wrap_s64(advice << 32) >> 32
    if not madvise_behavior_valid(advice):
        return -EINVAL
    error: errno_t = check_range(start, len_in)
    len: s64 = page_align(len_in)
    if error != 0 or len == 0:
        return error
    if unmapped(start):
        return -ENOMEM
    if not in_window(start, 1):
        return OUTSIDE
    return hole_or_outside(start, len, do_madvise(page_of(start), end_page(page_of(start), len), advice))


def ksys_mseal(start: s64, len_in: s64, flags: s64) -> s64:
    if LINUX < 610:
        return -ENOSYS
    if flags != 0:
        return -EINVAL
    error: errno_t = check_range(start, len_in)
    len: s64 = page_align(len_in)
    if error != 0 or len == 0:
        return error
    if unmapped(start):
        return -ENOMEM
    if not in_window(start, 1):
        return OUTSIDE
    return hole_or_outside(start, len, do_mseal(page_of(start), end_page(page_of(start), len)))


def ksys_mlock(start: s64, len_in: s64, lock: bool, onfault: bool) -> s64:
    """mlock, mlock2, munlock: of every page that the range touches."""
    len: s64 = page_align(wrap_s64(len_in + (start & (PAGE_SIZE - 1))))
    start = start & ~(PAGE_SIZE - 1)
    end: s64 = wrap_s64(start + len)
    if below(end, start):
        return -EINVAL
    if end == start:
        return 0
    if unmapped(start):
        return -ENOMEM
    if not in_window(start, 1):
        return OUTSIDE
    ret: s64 = 0
    if not lock:
        ret = do_munlock(page_of(start), end_page(page_of(start), len))
    elif onfault:
        ret = do_mlock(page_of(start), end_page(page_of(start), len), VM_LOCKED | VM_LOCKONFAULT)
    else:
        ret = do_mlock(page_of(start), end_page(page_of(start), len), VM_LOCKED)
    return hole_or_outside(start, len, ret)


def ksys_mlock2(start: s64, len: s64, flags: s64) -> s64:
    if flags & ~MLOCK_ONFAULT:
        return -EINVAL
    return ksys_mlock(start, len, True, flags & MLOCK_ONFAULT != 0)


def ksys_mlockall(flags: s64) -> s64:
    if flags == 0 or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        return -EINVAL
    if LINUX >= 503 and flags == MCL_ONFAULT:
        return -EINVAL  # dedca63504a2
    return do_mlockall(flags)


def ksys_munlockall() -> s64:
    return do_munlockall()


# -- msync, mincore
def ksys_msync(start: s64, len: s64, flags: s64) -> s64:
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or unaligned(start):
        return -EINVAL
    if flags & MS_ASYNC and flags & MS_SYNC:
        return -EINVAL
    len = page_align(len)
    end: s64 = wrap_s64(start + len)
    if below(end, start):
        return -ENOMEM
    if end == start:
        return 0
    if unmapped(start):
        return -ENOMEM
    if not in_window(start, 1):
        return OUTSIDE
    return hole_or_outside(start, len, do_msync(page_of(start), end_page(page_of(start), len), flags))


def ksys_mincore(start: s64, len: s64) -> s64:
    if unaligned(start):
        return -EINVAL
    if below(TASK_SIZE_BYTES, start) or below(TASK_SIZE_BYTES - start, len):
        return -ENOMEM
    if len == 0:
        return 0
    if unmapped(start):
        return -ENOMEM
    pages: s64 = pages_of(page_align(len))
    if not in_window(start, 1) or pages > MINCORE_PAGES:
        return OUTSIDE
    return hole_or_outside(start, len, do_mincore(page_of(start), end_page(page_of(start), page_align(len))))


# -- the break
def ksys_brk(brk: s64) -> s64:
    """What is impossible leaves it where it is."""
    if current_mm().start_brk == 0:
        return OUTSIDE
    want: s64 = 0
    if in_window(brk, 0):
        want = brk - UAPI_BASE
    return UAPI_BASE + sys_brk(want)


# -- memory
def user_byte(addr: s64, write: bool, value: s64) -> s64:
    """A load or a store of one byte.  Of a page's bytes the model has the first one."""
    if unmapped(addr):
        return SIGNALLED - SIGSEGV
    if not in_window(addr, 1):
        return OUTSIDE
    return user_access(current_mm(), page_of(addr), write, value)


# -- files
def file_can_write(f: ptr[file]) -> bool:
    return f.f_mode == 0 or f.f_mode & FMODE_WRITE != 0


def ksys_ftruncate(fd: s64, len: s64) -> s64:
    if len < 0:
        return -EINVAL
    f = fget(fd)
    if not f:
        return -EBADF
    if not file_can_write(f):
        return -EINVAL
    if len > FILE_PAGES * PAGE_SIZE:
        return OUTSIDE
    vfs_truncate(f, len)
    return 0


def ksys_pwrite(fd: s64, index: s64, value: s64) -> s64:
    """pwrite64 of one byte to the start of a page of a file.  How many bytes were written: 1."""
    if index < 0:
        return -EINVAL
    f = fget(fd)
    if not f:
        return -EBADF
    if not file_can_write(f):
        return -EBADF
    if index >= FILE_PAGES:
        return OUTSIDE
    file_write(f, index, value)
    return 1


def file_number(f: ptr[file]) -> s64:
    """The number of the file whose page cache `f` shows."""
    if f.f_mapping:
        return index_of(f.f_mapping)
    return index_of(f)
