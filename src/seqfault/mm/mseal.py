"""Sealing mappings.  mm/mseal.c, 6.18 (since 6.10).

What a seal forbids is asked where it is forbidden: in munmap, mremap, mprotect and madvise.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.mm.modify import vm_flags_reset, vma_modify_flags
from seqfault.mm.places import mmap_write_lock_end, mmap_write_unlock_begin
from seqfault.mm.types import (
    ENOMEM,
    VM_SEALED,
    current_mm,
    errno_t,
    flags_t,
    mm_struct,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma


def range_contains_unmapped(mm: ptr[mm_struct], start: vpn_t, end: vpn_t) -> bool:
    at: vpn_t = start
    vma = find_vma(mm, start)
    while vma and at < end:
        if vma.vm_start > at:
            return True
        at = vma.vm_end
        vma = vma.vm_next
    return at < end


def mseal_apply(mm: ptr[mm_struct], start: vpn_t, end: vpn_t) -> errno_t:
    vma = find_vma(mm, start)
    prev: ptr[vm_area_struct] = vma.vm_prev
    if start > vma.vm_start:
        prev = vma
    at: vpn_t = start
    while at < end:
        tmp: vpn_t = min(vma.vm_end, end)
        if not vma.vm_flags & VM_SEALED:
            newflags: flags_t = vma.vm_flags | VM_SEALED
            error, changed = vma_modify_flags(mm, prev, vma, at, tmp, newflags)
            if error != 0:
                return error
            vm_flags_reset(changed, newflags)
            vma = changed
        prev = vma
        at = vma.vm_end
        vma = vma.vm_next
    return 0


def do_mseal(start: vpn_t, end: vpn_t) -> errno_t:
    """All of the range must be mapped, or nothing is sealed."""
    mm = current_mm()
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    error: errno_t = -ENOMEM
    if not range_contains_unmapped(mm, start, end):
        error = mseal_apply(mm, start, end)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return error
