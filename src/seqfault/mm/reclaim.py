"""Reclaim on demand: MADV_PAGEOUT, since 5.4.  madvise_cold_or_pageout_pte_range of mm/madvise.c, shrink_folio_list of
mm/vmscan.c, try_to_unmap_one of mm/rmap.c; 6.1, 6.18.

There is no swap, so anonymous pages stay, except those that MADV_FREE gave up and nobody has written to since.  Files
may be paged out by their owner, who runs here.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.mm.frames import PageAnon, page_remove_rmap, put_page
from seqfault.mm.lru import folio_putback_lru, lru_add_drain
from seqfault.mm.pgtable import pmd_index, pmd_next_used, pte_at, pte_dirty, pte_index, pte_present, vm_normal_page
from seqfault.mm.types import RA_PAGES, VM_DROPPABLE, errno_t, page, pte_t, vm_area_struct, vma_mm, vpn_t


def try_to_unmap(vma: ptr[vm_area_struct], addr: vpn_t, p: ptr[page]):
    mm = vma_mm(vma)
    table = mm.pmd[pmd_index(addr)]
    if pte_dirty(table.pte[pte_index(addr)]):
        p.dirty = True
    table.pte[pte_index(addr)] = 0
    page_remove_rmap(p)
    put_page(p)


def remove_mapping(p: ptr[page]):
    """Drop a clean page of a file from its cache, where nobody else has it."""
    mapping = p.mapping_file
    mapping.pages[p.index] = 0
    mapping.nrpages -= 1
    put_page(p)


def reclaim_file_page(vma: ptr[vm_area_struct], addr: vpn_t, p: ptr[page]):
    """Unmapped, dirty or not.  What is dirty stays in the cache: of a file on disk marked for when it is written."""
    mapping = p.mapping_file
    if RA_PAGES == 0 and not mapping.shmem:
        return  # ramfs: nothing of it is evictable
    try_to_unmap(vma, addr, p)
    if not p.dirty:
        remove_mapping(p)
    elif not mapping.shmem:
        p.readahead = True  # PG_reclaim, which is the same bit


def reclaim_anon_page(vma: ptr[vm_area_struct], addr: vpn_t, pte: pte_t, p: ptr[page]):
    """A page that MADV_FREE made clean is dropped; one that was written to is like any other again.  Droppable memory
    is dropped as it is (6.11, 9651fcedf7b9)."""
    if vma.vm_flags & VM_DROPPABLE:
        try_to_unmap(vma, addr, p)
        return
    if not p.lazyfree:
        return
    if pte_dirty(pte) or p.dirty:
        p.lazyfree = False
    else:
        try_to_unmap(vma, addr, p)


def madvise_pageout(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t) -> errno_t:
    """Reclaim the pages of [start, end) that only this VMA maps."""
    lru_add_drain()
    mm = vma_mm(vma)
    addr: vpn_t = pmd_next_used(mm, start, end)
    while addr < end:
        pte: pte_t = pte_at(mm, addr)
        if pte_present(pte):
            p = vm_normal_page(pte)
            if p and p.mapcount == 1:
                # A page may be unevictable though its VMA is not locked any more (MREMAP_DONTUNMAP).
                if p.unevictable:
                    folio_putback_lru(p)
                elif PageAnon(p):
                    reclaim_anon_page(vma, addr, pte, p)
                else:
                    reclaim_file_page(vma, addr, p)
        addr = pmd_next_used(mm, addr + 1, end)
    return 0
