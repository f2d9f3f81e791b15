"""Locking pages into memory.  mm/mlock.c, 4.12, 6.1, 6.18.

Root is not subject to RLIMIT_MEMLOCK, and nobody else runs here.  That locked pages are on a list of their own is
not modelled: nothing is reclaimed.
"""

from __future__ import annotations

from seqfault.kernel import NULL, ptr
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.mm.lru import mlock_vma_pages_range
from seqfault.mm.modify import vm_flags_reset, vma_modify_flags
from seqfault.mm.opcodes import MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT
from seqfault.mm.places import mmap_write_lock_end, mmap_write_unlock_begin
from seqfault.mm.populate import __mm_populate, mm_populate
from seqfault.mm.types import (
    EAGAIN,
    EFAULT,
    ENOMEM,
    LINUX,
    NR_PAGES,
    VM_DONTEXPAND,
    VM_DROPPABLE,
    VM_LOCKED,
    VM_LOCKONFAULT,
    current_mm,
    errno_t,
    flags_t,
    mm_struct,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma

VM_LOCKED_MASK = VM_LOCKED | VM_LOCKONFAULT


def vma_supports_mlock(vma: ptr[vm_area_struct]) -> bool:
    """VM_SPECIAL VMAs are skipped; droppable ones as well, since there are any (6.11)."""
    if LINUX >= 611 and vma.vm_flags & VM_DROPPABLE:
        return False
    return not vma.vm_flags & VM_DONTEXPAND


def mlock_fixup(
    mm: ptr[mm_struct],
    vma: ptr[vm_area_struct],
    prev: ptr[vm_area_struct],
    start: vpn_t,
    end: vpn_t,
    newflags: flags_t,
) -> tuple[errno_t, ptr[vm_area_struct]]:
    """Give [start, end) of `vma` new flags.  Also returns the VMA that ends it then (Linux's `prev`)."""
    oldflags: flags_t = vma.vm_flags
    if newflags == oldflags or not vma_supports_mlock(vma):
        return 0, vma
    error, changed = vma_modify_flags(mm, prev, vma, start, end, newflags)
    if error != 0:
        return error, vma
    if not newflags & VM_LOCKED:
        mm.locked_vm -= end - start
    elif not oldflags & VM_LOCKED:
        mm.locked_vm += end - start
    if (newflags ^ oldflags) & VM_LOCKED:
        mlock_vma_pages_range(changed, start, end, newflags & VM_LOCKED != 0)
    vm_flags_reset(changed, newflags)
    return 0, changed


def apply_vma_lock_flags(mm: ptr[mm_struct], start: vpn_t, end: vpn_t, flags: flags_t) -> errno_t:
    """Stops at the first hole; what is done by then stays."""
    vma = find_vma(mm, start)
    if not vma or vma.vm_start > start:
        return -ENOMEM
    prev = vma.vm_prev
    if start > vma.vm_start:
        prev = vma
    nstart: vpn_t = start
    while True:  # vma.vm_start <= nstart < vma.vm_end
        newflags: flags_t = vma.vm_flags & ~VM_LOCKED_MASK | flags
        tmp: vpn_t = min(vma.vm_end, end)
        error, prev = mlock_fixup(mm, vma, prev, nstart, tmp, newflags)
        if error != 0:
            return error
        nstart = max(tmp, prev.vm_end)
        if nstart >= end:
            return 0
        vma = prev.vm_next
        if not vma or vma.vm_start != nstart:
            return -ENOMEM


def __mlock_posix_error_return(error: errno_t) -> errno_t:
    if error == -EFAULT:
        return -ENOMEM
    if error == -ENOMEM:
        return -EAGAIN
    return error


def do_mlock(start: vpn_t, end: vpn_t, flags: flags_t) -> errno_t:
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    error: errno_t = apply_vma_lock_flags(mm, start, end, flags)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    if error != 0:
        return error
    return __mlock_posix_error_return(__mm_populate(mm, start, end - start, False))


def do_munlock(start: vpn_t, end: vpn_t) -> errno_t:
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    error: errno_t = apply_vma_lock_flags(mm, start, end, 0)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return error


def apply_mlockall_flags(mm: ptr[mm_struct], flags: flags_t):
    """What is to come by def_flags; what is there by the walk, which goes on after errors."""
    future: flags_t = 0
    if flags & MCL_FUTURE:
        future = VM_LOCKED
        if flags & MCL_ONFAULT:
            future |= VM_LOCKONFAULT
    mm.def_flags = mm.def_flags & ~VM_LOCKED_MASK | future
    if flags & MCL_FUTURE and not flags & MCL_CURRENT:
        return
    to_add: flags_t = 0
    if flags & MCL_CURRENT:
        to_add = VM_LOCKED
        if flags & MCL_ONFAULT:
            to_add |= VM_LOCKONFAULT
    prev: ptr[vm_area_struct] = NULL
    vma = mm.mmap
    while vma:
        newflags: flags_t = vma.vm_flags & ~VM_LOCKED_MASK | to_add
        _, prev = mlock_fixup(mm, vma, prev, vma.vm_start, vma.vm_end, newflags)
        vma = prev.vm_next


def do_mlockall(flags: flags_t) -> errno_t:
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    apply_mlockall_flags(mm, flags)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    if flags & MCL_CURRENT:
        mm_populate(mm, 0, NR_PAGES)
    return 0


def do_munlockall() -> errno_t:
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    apply_mlockall_flags(mm, 0)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return 0
