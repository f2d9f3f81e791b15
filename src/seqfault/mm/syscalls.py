"""The operations of a program on its address space.  mm/mmap.c, mm/util.c, mm/mprotect.c, 4.12.

They sleep for mmap_sem; being killed while waiting for it is not modelled.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.kernel.rwsem import down_write, up_read, up_write
from seqfault.mm.brk import PAGE, do_brk
from seqfault.mm.mmap import TASK_SIZE, do_mmap, do_munmap
from seqfault.mm.mprotect import do_mprotect
from seqfault.mm.opcodes import UAPI_MAP_LOCKED, UAPI_MAP_NONBLOCK, UAPI_MAP_POPULATE
from seqfault.mm.places import mmap_write_lock_end, mmap_write_unlock_begin
from seqfault.mm.populate import mm_populate
from seqfault.mm.types import (
    ENOMEM,
    FULL,
    LINUX,
    VM_LOCKED,
    addr_or_errno_t,
    brk_t,
    current_mm,
    errno_t,
    file,
    mmap_flags_t,
    pgoff_t,
    prot_arg_t,
    prot_t,
    vpn_t,
)


def sys_mmap(
    addr: vpn_t, len: vpn_t, prot: prot_t, flags: mmap_flags_t, f: ptr[file], pgoff: pgoff_t
) -> addr_or_errno_t:
    """The mapping's address, or -errno.  With FULL `flags` are the system call's own."""
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    ret: addr_or_errno_t = do_mmap(mm, addr, len, prot, flags, f, pgoff)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    if FULL and ret >= 0:
        locked = flags & UAPI_MAP_LOCKED != 0 or mm.def_flags & VM_LOCKED != 0
        if locked or flags & (UAPI_MAP_POPULATE | UAPI_MAP_NONBLOCK) == UAPI_MAP_POPULATE:
            mm_populate(mm, ret, len)
    return ret


def sys_munmap(addr: vpn_t, len: vpn_t) -> errno_t:
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    ret: errno_t = do_munmap(mm, addr, len, LINUX >= 420)
    if LINUX >= 420 and ret == 1:  # downgraded
        up_read(mm.mmap_sem)
        return 0
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return ret


def sys_mprotect(start: vpn_t, len: vpn_t, prot: prot_arg_t) -> errno_t:
    mm = current_mm()
    if len == 0:
        return 0
    if len > TASK_SIZE - start:
        return -ENOMEM
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    ret: errno_t = do_mprotect(mm, start, len, prot)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return ret


def sys_brk(brk: brk_t) -> brk_t:
    """The break then, in bytes from page 0: what is impossible leaves it where it is.  The new part is faulted in
    where mlockall told so."""
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    old: vpn_t = (mm.brk + PAGE - 1) // PAGE
    ret, downgraded = do_brk(mm, brk)
    if downgraded:
        up_read(mm.mmap_sem)
        return ret
    new: vpn_t = (ret + PAGE - 1) // PAGE
    populate = mm.def_flags & VM_LOCKED != 0
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    if populate and new > old:
        mm_populate(mm, old, new - old)
    return ret
