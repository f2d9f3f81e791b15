"""Taking page tables and pages away.  mm/memory.c, and change_protection of mm/mprotect.c, 4.12.

Huge pages, swap, special mappings and mmu notifiers are not modelled.
"""

from __future__ import annotations

from seqfault.kernel import BUG_ON, NULL, ptr, seq_point, xchg
from seqfault.mm.anon_vma import unlink_anon_vmas
from seqfault.mm.file import unlink_file_vma
from seqfault.mm.frames import PageAnon, page_remove_rmap, set_page_dirty
from seqfault.mm.lru import lru_add_drain, munlock_folio
from seqfault.mm.pgtable import (
    PMDS_PER_GROUP,
    pmd_addr_end,
    pmd_index,
    pmd_next_used,
    pmd_none,
    pte_dirty,
    pte_index,
    pte_is_guard,
    pte_mkclean,
    pte_mkwrite,
    pte_modify,
    pte_offset_map_lock,
    pte_present,
    pte_unmap_unlock,
    pte_write,
    vm_normal_page,
)
from seqfault.mm.places import (
    free_pgtables_begin,
    free_pgtables_end,
    free_pgtables_unlinked,
    unmap_page_range_begin,
    unmap_page_range_end,
)
from seqfault.mm.tlb import (
    __tlb_remove_page,
    flush_check,
    flush_tlb_range,
    mmu_gather,
    pte_free_tlb,
    tlb_end_vma,
    tlb_finish_mmu,
    tlb_flush_mmu_free,
    tlb_flush_mmu_tlbonly,
    tlb_gather_mmu,
    tlb_mm,
    tlb_remove_tlb_entry,
    tlb_start_vma,
)
from seqfault.mm.types import (
    EINVAL,
    FULL,
    LINUX,
    NR_PAGES,
    PTRS_PER_PTE,
    VM_LOCKED,
    VM_SHARED,
    VM_WRITE,
    current_mm,
    errno_t,
    pgprot_t,
    pmd_t,
    pte_t,
    pte_table,
    vm_area_struct,
    vma_mm,
    vpn_t,
)


# -- unmapping pages
def zap_kept(tlb: ptr[mmu_gather], table: ptr[pte_table], addr: vpn_t, ptent: pte_t) -> bool:
    """Whether an entry is none of zap's business: private copies when a file's hole is punched, and markers of guard
    regions, which go only with their VMA (and are cleared here).  Only with FULL."""
    if pte_is_guard(ptent):
        if tlb.drop_markers:
            table.pte[pte_index(addr)] = 0
        return True
    if tlb.even_cows or not pte_present(ptent):
        return False
    p = vm_normal_page(ptent)
    return p != NULL and PageAnon(p)


def zap_pte_range(tlb: ptr[mmu_gather], pmd: pmd_t, addr: vpn_t, end: vpn_t) -> vpn_t:
    """Clear the entries of [addr, end), which lie in one table, and gather their pages."""
    mm = tlb_mm(tlb)
    while True:  # again:
        force_flush = False
        table = pte_offset_map_lock(mm, pmd)
        while addr < end:
            ptent: pte_t = table.pte[pte_index(addr)]
            if FULL and zap_kept(tlb, table, addr, ptent):
                pass
            elif pte_present(ptent):
                p = vm_normal_page(ptent)
                ptent = xchg(table.pte[pte_index(addr)], 0)  # the hardware may have set bits meanwhile
                tlb_remove_tlb_entry(tlb, addr)
                if p:
                    if FULL and not PageAnon(p) and pte_dirty(ptent):
                        set_page_dirty(p)
                    if not FULL and not PageAnon(p) and pte_write(ptent):
                        # For pte_dirty: who cleans the page must not miss writes through old TLB entries.
                        force_flush = True
                    page_remove_rmap(p)
                    if FULL and LINUX >= 518 and tlb.locked:
                        munlock_folio(p)
                    if __tlb_remove_page(tlb, p):
                        force_flush = True
                        addr += 1
                        break
            addr += 1
        if force_flush:
            tlb_flush_mmu_tlbonly(tlb)
        pte_unmap_unlock(table)
        if not force_flush:
            return addr
        tlb_flush_mmu_free(tlb)
        if addr == end:
            return addr


def zap_pmd_range(tlb: ptr[mmu_gather], vma: ptr[vm_area_struct], addr: vpn_t, end: vpn_t) -> vpn_t:
    """The part of [addr, end) under one page of upper entries, which is all of it.  Returns where it ends."""
    mm = tlb_mm(tlb)
    while addr < end:
        if FULL:
            addr = pmd_next_used(mm, addr, end)
        next: vpn_t = pmd_addr_end(addr, end)
        if addr < end and not pmd_none(mm, pmd_index(addr)):
            next = zap_pte_range(tlb, pmd_index(addr), addr, next)
        addr = next
        seq_point()  # cond_resched
    return addr


def unmap_page_range(tlb: ptr[mmu_gather], vma: ptr[vm_area_struct], addr: vpn_t, end: vpn_t):
    """Unmap the pages of [addr, end) of `vma`."""
    BUG_ON(addr >= end)
    unmap_page_range_begin(vma)
    if FULL:
        tlb.locked = vma.vm_flags & VM_LOCKED != 0
    tlb_start_vma(tlb)
    while addr < end:
        addr = zap_pmd_range(tlb, vma, addr, end)
    tlb_end_vma(tlb)
    unmap_page_range_end(vma)


def unmap_single_vma(tlb: ptr[mmu_gather], vma: ptr[vm_area_struct], start_addr: vpn_t, end_addr: vpn_t):
    start: vpn_t = max(vma.vm_start, start_addr)
    if start >= vma.vm_end:
        return
    end: vpn_t = min(vma.vm_end, end_addr)
    if end <= vma.vm_start:
        return
    if start != end:
        unmap_page_range(tlb, vma, start, end)


def unmap_vmas(tlb: ptr[mmu_gather], vma: ptr[vm_area_struct], start_addr: vpn_t, end_addr: vpn_t):
    """Unmap [start_addr, end_addr) of a chain of VMAs, which go as well."""
    if FULL:
        tlb.drop_markers = True
    while vma and vma.vm_start < end_addr:
        unmap_single_vma(tlb, vma, start_addr, end_addr)
        vma = vma.vm_next


def zap_page_range(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t):
    """Unmap the pages of [start, end), and keep the VMA and the page tables.  For madvise.

    The entries are gone and stay in the TLBs for a while: each page has a moment of its own at which a
    program sees it go, hence the sequential point.
    """
    mm = current_mm()
    tlb = tlb_gather_mmu(mm, start, end)
    while vma and vma.vm_start < end:
        unmap_single_vma(tlb, vma, start, end)
        vma = vma.vm_next
    seq_point()
    tlb_finish_mmu(tlb, start, end)


def zap_page_range_single(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t):
    """Unmap the pages of [start, end), which lies in `vma`, of any address space.  Markers stay."""
    tlb = tlb_gather_mmu(vma_mm(vma), start, end)
    unmap_single_vma(tlb, vma, start, end)
    tlb_finish_mmu(tlb, start, end)


def madvise_free_single_vma(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t) -> errno_t:
    """MADV_FREE: pages become clean, and might be dropped; nothing is reclaimed here, so none is.

    What several map and is dirty itself stays as it is (madvise_free_pte_range).  That Linux marks pages in batches
    is not modelled.
    """
    if vma.vm_file:
        return -EINVAL
    lru_add_drain()
    mm = vma_mm(vma)
    addr: vpn_t = pmd_next_used(mm, start, end)
    while addr < end:
        table = pte_offset_map_lock(mm, pmd_index(addr))
        pte: pte_t = table.pte[pte_index(addr)]
        if pte_present(pte):
            p = vm_normal_page(pte)
            if p and not (p.dirty and p.mapcount != 1):
                p.dirty = False
                p.lazyfree = not p.unevictable  # folio_mark_lazyfree leaves unevictable pages alone
                table.pte[pte_index(addr)] = pte_mkclean(pte)
        pte_unmap_unlock(table)
        addr = pmd_next_used(mm, addr + 1, end)
    return 0


# -- freeing page tables
def free_pte_range(tlb: ptr[mmu_gather], pmd: pmd_t, addr: vpn_t):
    """Take a table out of the upper level.  It is freed after the flush, when no walk can be in it."""
    mm = tlb_mm(tlb)
    token = mm.pmd[pmd]
    mm.pmd[pmd] = NULL
    if FULL:
        mm.pmd_group[pmd // PMDS_PER_GROUP] -= 1
    pte_free_tlb(tlb, token, addr)


def free_pgd_range(tlb: ptr[mmu_gather], addr: vpn_t, end: vpn_t, floor: vpn_t, ceiling: vpn_t):
    """Free the tables of [addr, end) that nothing in [.., floor) or [ceiling, ..) shares.

    Upper levels are not freed: their pages always exist here.
    """
    mm = tlb_mm(tlb)
    addr -= addr % PTRS_PER_PTE
    if addr < floor:
        addr = min(addr + PTRS_PER_PTE, NR_PAGES)
    ceiling -= ceiling % PTRS_PER_PTE
    if end > ceiling:
        end = end - min(end, PTRS_PER_PTE)
    while addr < end:
        if FULL:
            addr = pmd_next_used(mm, addr, end)
        if addr < end and not pmd_none(mm, pmd_index(addr)):
            free_pte_range(tlb, pmd_index(addr), addr)
        addr = min(addr + PTRS_PER_PTE, NR_PAGES)


def free_pgtables(tlb: ptr[mmu_gather], vma: ptr[vm_area_struct], floor: vpn_t, ceiling: vpn_t):
    """Free what a chain of unmapped VMAs had for page tables, and take them out of the reverse maps first."""
    while vma:
        next = vma.vm_next
        addr: vpn_t = vma.vm_start
        free_pgtables_begin(vma)
        unlink_anon_vmas(vma)
        free_pgtables_unlinked(vma)
        unlink_file_vma(vma)
        free_pgtables_end(vma)
        # VMAs that are near go in one call.
        while next and next.vm_start <= vma.vm_end + PTRS_PER_PTE:
            vma = next
            next = vma.vm_next
            free_pgtables_begin(vma)
            unlink_anon_vmas(vma)
            free_pgtables_unlinked(vma)
            unlink_file_vma(vma)
            free_pgtables_end(vma)
        free_pgd_range(tlb, addr, vma.vm_end, floor, next.vm_start if next else ceiling)
        vma = next


# -- mm/mprotect.c
def can_change_pte_writable(pte: pte_t) -> bool:
    """Whether mprotect saves the write fault: an anonymous page that is exclusive may be written at once.

    Since commit 64fe24a3e05e (6.1); private mappings only, of shared ones the entry's own rights say it.
    """
    p = vm_normal_page(pte)
    return p != NULL and PageAnon(p) and p.exclusive


def change_pte_full(vma: ptr[vm_area_struct], oldpte: pte_t, newprot: pgprot_t) -> pte_t:
    """The new entry, with FULL: upgrades, and markers that stay as they are."""
    if not pte_present(oldpte):
        return oldpte
    pte: pte_t = pte_modify(oldpte, newprot)
    if LINUX >= 601 and vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE and can_change_pte_writable(pte):
        pte = pte_mkwrite(pte)
    return pte


def change_pte_range_full(vma: ptr[vm_area_struct], addr: vpn_t, end: vpn_t, newprot: pgprot_t):
    """change_pte_range where nobody looks on."""
    table = pte_offset_map_lock(vma_mm(vma), pmd_index(addr))
    while addr < end:
        if table.pte[pte_index(addr)] != 0:
            table.pte[pte_index(addr)] = change_pte_full(vma, table.pte[pte_index(addr)], newprot)
        addr += 1
    pte_unmap_unlock(table)


def change_protection_full(vma: ptr[vm_area_struct], addr: vpn_t, end: vpn_t, newprot: pgprot_t):
    while addr < end:
        addr = pmd_next_used(vma_mm(vma), addr, end)
        if addr < end:
            next: vpn_t = pmd_addr_end(addr, end)
            change_pte_range_full(vma, addr, next, newprot)
            addr = next


def change_pte_range(pmd: pmd_t, addr: vpn_t, end: vpn_t, newprot: pgprot_t) -> vpn_t:
    """Give the entries of [addr, end), which lie in one table, new rights.  Returns how many there were.

    `dirty_accountable`, which spares known dirty pages of some files a write fault, is not modelled.
    """
    mm = current_mm()
    pages: vpn_t = 0
    table = pte_offset_map_lock(mm, pmd)
    while addr < end:
        oldpte: pte_t = table.pte[pte_index(addr)]
        if pte_present(oldpte):
            ptent: pte_t = xchg(table.pte[pte_index(addr)], 0)  # ptep_modify_prot_start
            if LINUX >= 420:
                seq_point()  # a walk may find none (mm/cpu.py)
            table.pte[pte_index(addr)] = pte_modify(ptent, newprot)
            pages += 1
        addr += 1
    pte_unmap_unlock(table)
    return pages


def change_protection(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, newprot: pgprot_t):
    mm = current_mm()
    BUG_ON(start >= end)
    if FULL:
        change_protection_full(vma, start, end, newprot)
        return
    addr: vpn_t = start
    pages: vpn_t = 0
    while addr < end:
        next: vpn_t = pmd_addr_end(addr, end)
        if not pmd_none(mm, pmd_index(addr)):
            pages += change_pte_range(pmd_index(addr), addr, next, newprot)
        addr = next
    if pages != 0:  # otherwise no TLB has anything
        flush_tlb_range(start, end)
    flush_check(start, end)
