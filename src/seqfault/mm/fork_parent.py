"""What fork does to its parent, where states are explored: dup_mmap of kernel/fork.c, copy_page_range of mm/memory.c.

Nobody runs in the child, so of it there is only what it maps: the frames that it shares with the parent.  Its VMAs,
anon_vmas and page tables are not made (mm/fork.py has all of fork, in full).
"""

from __future__ import annotations

from seqfault.kernel import array, ptr, struct, the
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.mm.frames import get_page, page_dup_rmap
from seqfault.mm.pgtable import (
    pmd_addr_end,
    pmd_index,
    pmd_none,
    pte_index,
    pte_offset_map_lock,
    pte_pfn,
    pte_present,
    pte_unmap_unlock,
    pte_wrprotect,
    vm_normal_page,
)
from seqfault.mm.places import (
    dup_mmap_copy,
    dup_mmap_flushed,
    dup_mmap_vma,
    mmap_write_lock_end,
    mmap_write_unlock_begin,
)
from seqfault.mm.tlb import flush_check, flush_tlb_range
from seqfault.mm.types import (
    EAGAIN,
    FORK,
    NR_PAGES,
    VM_SHARED,
    current_mm,
    errno_t,
    mm_struct,
    pfn_t,
    pte_t,
    pte_table,
    vm_area_struct,
    vpn_t,
)


@struct(pool=1, static=True)
class child_mm:
    """The child of a fork.  `pages`: the frame that it maps at each page, or 0 (the zero page is as none)."""

    forked: bool
    pages: array[pfn_t, FORK * (NR_PAGES - 1) + 1]


def copy_present_pte(table: ptr[pte_table], addr: vpn_t, pte: pte_t, shared: bool):
    """Private pages are write-protected; whoever has them in a TLB may write on until the flush."""
    if not shared:
        table.pte[pte_index(addr)] = pte_wrprotect(pte)
    p = vm_normal_page(pte)
    if p:
        get_page(p)
        page_dup_rmap(p)
        child = the(child_mm)
        child.pages[addr] = pte_pfn(pte)


def copy_page_range(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    """Without an anon_vma every page can be found again by a fault."""
    if not vma.anon_vma:
        return
    shared = vma.vm_flags & VM_SHARED != 0
    addr: vpn_t = vma.vm_start
    end: vpn_t = vma.vm_end
    while addr < end:
        next: vpn_t = pmd_addr_end(addr, end)
        if pmd_none(mm, pmd_index(addr)):
            addr = next
        else:
            table = pte_offset_map_lock(mm, pmd_index(addr))
            while addr < next:
                pte: pte_t = table.pte[pte_index(addr)]
                if pte_present(pte):
                    copy_present_pte(table, addr, pte, shared)
                addr += 1
            pte_unmap_unlock(table)


def sys_fork() -> errno_t:
    """-EAGAIN when there is a child already: one is enough here."""
    mm = current_mm()
    child = the(child_mm)
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    error: errno_t = -EAGAIN
    if not child.forked:
        child.forked = True
        error = 0
        mpnt = mm.mmap
        while mpnt:
            dup_mmap_vma(mpnt)
            dup_mmap_copy(mpnt)
            copy_page_range(mm, mpnt)
            mpnt = mpnt.vm_next
        flush_tlb_range(0, NR_PAGES)
        flush_check(0, NR_PAGES)
        dup_mmap_flushed(mm)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    return error
