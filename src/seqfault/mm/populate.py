"""Faulting pages in ahead of use: MAP_POPULATE, MAP_LOCKED, mlock, MADV_POPULATE_READ and _WRITE.

__get_user_pages as these use it, __mm_populate of mm/gup.c, madvise_populate of mm/madvise.c; 4.12, 6.1, 6.18.  That
the lock is dropped while a fault waits is not modelled.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.kernel.rwsem import down_read, up_read
from seqfault.mm.fault import handle_mm_fault
from seqfault.mm.frames import set_page_dirty
from seqfault.mm.lru import lru_add_drain
from seqfault.mm.pgtable import pte_at, pte_dirty, pte_present, pte_write, vm_normal_page
from seqfault.mm.places import FAULT_FLAG_WRITE, VM_FAULT_ERROR, VM_FAULT_OOM
from seqfault.mm.types import (
    EFAULT,
    EINVAL,
    ENOMEM,
    LINUX,
    NR_PAGES,
    VM_ACCESS_FLAGS,
    VM_LOCKONFAULT,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    errno_t,
    fault_t,
    mm_struct,
    pte_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma


def follow_page_pte(mm: ptr[mm_struct], address: vpn_t, write: bool) -> bool:
    """Whether the page is there, and may be written if that is asked.  FOLL_TOUCH: a write makes it dirty."""
    pte: pte_t = pte_at(mm, address)
    if not pte_present(pte) or (write and not pte_write(pte)):
        return False
    if write and not pte_dirty(pte):
        p = vm_normal_page(pte)
        set_page_dirty(p)
    return True


def faultin_page(vma: ptr[vm_area_struct], address: vpn_t, write: bool) -> errno_t:
    fault: fault_t = handle_mm_fault(vma, address, FAULT_FLAG_WRITE if write else 0)
    if not fault & VM_FAULT_ERROR:
        return 0
    if fault & VM_FAULT_OOM:
        return -ENOMEM
    return -EFAULT


def __get_user_pages(
    mm: ptr[mm_struct], vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, write: bool
) -> tuple[vpn_t, errno_t]:
    """Fault in [start, end) of `vma`, which allows it.  Where it stopped, and why."""
    addr: vpn_t = start
    while addr < end:
        if follow_page_pte(mm, addr, write):
            addr += 1
        else:
            error: errno_t = faultin_page(vma, addr, write)
            if error != 0:
                return addr, error
    return addr, 0


def populate_vma_page_range(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, mm: ptr[mm_struct]) -> errno_t:
    """Fault in a VMA's pages: private writable ones by a write, which breaks copy-on-write; others by a read, even if
    only executable (FOLL_FORCE).  Until 4.13 VM_LOCKONFAULT skipped each page, later the VMA: the same.

    The pages before one that fails stay.
    """
    if vma.vm_flags & VM_LOCKONFAULT:
        return 0
    if not vma.vm_flags & VM_ACCESS_FLAGS:
        return -EFAULT
    write = vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE
    _, error = __get_user_pages(mm, vma, start, end, write)
    lru_add_drain()
    return error


def __mm_populate(mm: ptr[mm_struct], start: vpn_t, len: vpn_t, ignore_errors: bool) -> errno_t:
    """Populate what is mapped of the range.  An error stops it, or, ignored, ends its VMA; holes are passed over."""
    end: vpn_t = min(start + len, NR_PAGES)
    error: errno_t = 0
    down_read(mm.mmap_sem)
    vma = find_vma(mm, start)
    while vma and vma.vm_start < end:
        error = populate_vma_page_range(vma, max(start, vma.vm_start), min(end, vma.vm_end), mm)
        if error != 0 and not ignore_errors:
            break
        error = 0
        vma = vma.vm_next
    up_read(mm.mmap_sem)
    return error


def mm_populate(mm: ptr[mm_struct], start: vpn_t, len: vpn_t):
    error: errno_t = __mm_populate(mm, start, len, True)
    assert error == 0


def check_vma_flags(vma: ptr[vm_area_struct], write: bool) -> bool:
    """Whether get_user_pages without FOLL_FORCE may use the VMA."""
    if write:
        return vma.vm_flags & VM_WRITE != 0
    return vma.vm_flags & VM_READ != 0


def madvise_populate_locked(mm: ptr[mm_struct], start: vpn_t, end: vpn_t, write: bool) -> errno_t:
    addr: vpn_t = start
    while addr < end:
        vma = find_vma(mm, addr)
        if not vma or vma.vm_start > addr:
            return -ENOMEM
        if not check_vma_flags(vma, write):
            return -EINVAL
        addr, error = __get_user_pages(mm, vma, addr, min(end, vma.vm_end), write)
        lru_add_drain()
        if error != 0:
            return error
    return 0


def madvise_populate(mm: ptr[mm_struct], start: vpn_t, end: vpn_t, write: bool) -> errno_t:
    """MADV_POPULATE_READ and _WRITE, since 5.14.  Unlike mlock they ask for the right that they use, also of shared
    mappings, and a hole stops them."""
    down_read(mm.mmap_sem)
    error: errno_t = madvise_populate_locked(mm, start, end, write)
    if LINUX >= 609:
        lru_add_drain()  # the range is one call since then, and drains even where there is no VMA
    up_read(mm.mmap_sem)
    return error
