"""Writing a file's dirty pages back.  mm/page-writeback.c, mm/filemap.c, page_mkclean of mm/rmap.c; 4.12, 6.1, 6.18.

Only fsync does that here; what the kernel's own threads write back, whenever they like, is not modelled.
"""

from __future__ import annotations

from seqfault.kernel import pool_object, ptr
from seqfault.mm.file import file_mapping, i_mmap_lock_write, i_mmap_unlock_write
from seqfault.mm.pgtable import (
    pmd_index,
    pmd_none,
    pte_dirty,
    pte_index,
    pte_mkclean,
    pte_offset_map_lock,
    pte_pfn,
    pte_present,
    pte_unmap_unlock,
)
from seqfault.mm.types import (
    NR_MMS,
    RA_PAGES,
    VM_SHARED,
    file,
    mm_struct,
    page,
    pgoff_t,
    vm_area_struct,
    vma_mm,
    vpn_t,
)


def page_vma_mkclean_one(vma: ptr[vm_area_struct], address: vpn_t, p: ptr[page]):
    """Linux takes the right to write away too, so that the next write tells the file system."""
    mm = vma_mm(vma)
    if pmd_none(mm, pmd_index(address)):
        return
    table = pte_offset_map_lock(mm, pmd_index(address))
    entry = table.pte[pte_index(address)]
    if pte_present(entry) and pte_dirty(entry) and pool_object(page, pte_pfn(entry)) == p:
        table.pte[pte_index(address)] = pte_mkclean(entry)
    pte_unmap_unlock(table)


def covers(vma: ptr[vm_area_struct], index: pgoff_t) -> bool:
    return index >= vma.vm_pgoff and index - vma.vm_pgoff < vma.vm_end - vma.vm_start


def page_mkclean(mapping: ptr[file], p: ptr[page], index: pgoff_t):
    """Clean the entries of a page in every shared mapping."""
    i_mmap_lock_write(mapping)
    for i in range(NR_MMS):
        vma = pool_object(mm_struct, i).mmap
        while vma:
            shared = vma.vm_flags & VM_SHARED != 0
            if shared and vma.vm_file and file_mapping(vma.vm_file) == mapping and covers(vma, index):
                page_vma_mkclean_one(vma, vma.vm_start + (index - vma.vm_pgoff), p)
            vma = vma.vm_next
    i_mmap_unlock_write(mapping)


def vfs_fsync_range(f: ptr[file], start: pgoff_t, end: pgoff_t):
    """Write the dirty pages of [start, end) back.  Files in memory have nowhere to write to (noop_fsync)."""
    mapping = file_mapping(f)
    if mapping.shmem or RA_PAGES == 0:
        return
    index: pgoff_t = start
    while index < end and index < mapping.i_size:
        if mapping.pages[index] != 0:
            p = pool_object(page, mapping.pages[index])
            page_mkclean(mapping, p, index)
            if p.dirty:
                mapping.blocks[index] = p.data + 1
                p.dirty = False
                p.readahead = False  # PG_reclaim
        index += 1
