"""Fault-around: a read fault on a file also maps cached pages near it.  do_fault_around of mm/memory.c, and
filemap_map_pages of mm/filemap.c; 4.12, 6.1, 6.18.  Only with FULL.
"""

from __future__ import annotations

from seqfault.kernel import Size, ptr
from seqfault.mm.file import file_mapping
from seqfault.mm.frames import get_page, page_add_file_rmap
from seqfault.mm.lru import mlock_vma_folio
from seqfault.mm.pgtable import (
    mk_pte,
    pmd_index,
    pte_alloc_map,
    pte_index,
    pte_none,
    pte_offset_map_lock,
    pte_unmap_unlock,
)
from seqfault.mm.readahead import find_get_page
from seqfault.mm.types import LINUX, PTRS_PER_PTE, current_mm, pgoff_t, pte_table, vm_fault, vpn_t

FAULT_AROUND_PAGES = Size("FAULT_AROUND_PAGES", 16)  # fault_around_bytes of debugfs, in pages


def filemap_map_pages(vmf: ptr[vm_fault], start: vpn_t, end: vpn_t):
    """Map what is cached of the pages that [start, end), in one table, shows, and is not mapped yet.

    Pages behind the end of the file are left out, and one that marks where to read ahead.
    """
    mm = current_mm()
    vma = vmf.vma
    mapping = file_mapping(vma.vm_file)
    table = pte_offset_map_lock(mm, pmd_index(start))
    addr: vpn_t = start
    while addr < end:
        pgoff: pgoff_t = vma.vm_pgoff + (addr - vma.vm_start)
        if pgoff >= mapping.i_size:
            break
        p = find_get_page(mapping, pgoff)
        if p and not p.readahead and pte_none(table.pte[pte_index(addr)]):
            get_page(p)
            page_add_file_rmap(p)
            mlock_vma_folio(p, vma)
            table.pte[pte_index(addr)] = mk_pte(p, vma.vm_page_prot)
        addr += 1
    pte_unmap_unlock(table)


def next_uptodate_folio(vmf: ptr[vm_fault], start: vpn_t, end: vpn_t) -> vpn_t:
    """The first of [start, end) that shows a cached page; `end` if none does."""
    vma = vmf.vma
    addr: vpn_t = start
    while addr < end:
        p = find_get_page(vma.vm_file, vma.vm_pgoff + (addr - vma.vm_start))
        if p and not p.readahead:
            return addr
        addr += 1
    return end


def filemap_map_pmd(vmf: ptr[vm_fault], first: vpn_t) -> ptr[pte_table]:
    """The page table for the pages from `first` on, NULL if there is none.

    Since commit 74207de2ba10 (6.18) none is made if the first page is the file's last (of shmem it still is): the check
    was meant for huge pages, but returns before the table is put in place.
    """
    vma = vmf.vma
    mapping = file_mapping(vma.vm_file)
    mm = current_mm()
    last: pgoff_t = mapping.i_size - 1
    if LINUX >= 618 and not mapping.shmem and vma.vm_pgoff + (first - vma.vm_start) == last:
        return mm.pmd[pmd_index(first)]
    return pte_alloc_map(mm, first)


def do_fault_around(vmf: ptr[vm_fault]) -> bool:
    """Whether the page of the fault itself is mapped now.

    The window is aligned, and moves up where the VMA begins inside of it; it ends with the VMA or the page table.
    """
    vma = vmf.vma
    address: vpn_t = vmf.address
    start: vpn_t = max(address - address % FAULT_AROUND_PAGES, vma.vm_start)
    end: vpn_t = min(start + FAULT_AROUND_PAGES, vma.vm_end)
    if start // PTRS_PER_PTE != address // PTRS_PER_PTE:
        start = address - address % PTRS_PER_PTE
    end = min(end, (address // PTRS_PER_PTE + 1) * PTRS_PER_PTE)
    first: vpn_t = next_uptodate_folio(vmf, start, end)
    if first == end:
        return False
    table = filemap_map_pmd(vmf, first)
    if not table:
        return False
    filemap_map_pages(vmf, first, end)
    return not pte_none(table.pte[pte_index(address)])
