"""Changing a file under its mappings.  mm/truncate.c, unmap_mapping_range of mm/memory.c, mm/shmem.c, 4.12 to 6.18.

Sizes are pages, rounded up, and the bytes of the last one.  Of a page only the first byte is kept, so what a partial
last page loses behind the new end cannot be seen.
"""

from __future__ import annotations

from seqfault.kernel import NULL, integer, pool_object, ptr
from seqfault.mm.file import file_mapping, i_mmap_lock_write, i_mmap_unlock_write, truncate_inode_pages_range
from seqfault.mm.frames import set_page_dirty
from seqfault.mm.memory import unmap_single_vma
from seqfault.mm.readahead import block_truncate_page, find_get_page, page_cache_alloc
from seqfault.mm.tlb import tlb_finish_mmu, tlb_gather_mmu
from seqfault.mm.types import (
    ENOMEM,
    EOPNOTSUPP,
    FILE_PAGES,
    NR_MMS,
    RA_PAGES,
    data_t,
    errno_t,
    file,
    mm_struct,
    page,
    pgoff_t,
    vm_area_struct,
    vma_mm,
    vpn_t,
)

EFBIG = 27
EXT4_PAGES = (1 << 32) - 1  # of the largest file (ext4_max_size)
PAGE_BYTES = 4096
page_offset_t = integer(0, 4095, "page_offset_t")
file_size_t = integer(0, 1 << 62, "file_size_t")


def unmap_mapping_range_vma(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, even_cows: bool):
    tlb = tlb_gather_mmu(vma_mm(vma), start, end)
    tlb.even_cows = even_cows
    unmap_single_vma(tlb, vma, start, end)
    tlb_finish_mmu(tlb, start, end)


def unmap_mapping_range(mapping: ptr[file], start: pgoff_t, end: pgoff_t, even_cows: bool):
    """Unmap the pages [start, end) of a file wherever they are mapped; with `even_cows` private copies too."""
    i_mmap_lock_write(mapping)
    for i in range(NR_MMS):
        mm = pool_object(mm_struct, i)
        vma = mm.mmap
        while vma:
            if vma.vm_file and file_mapping(vma.vm_file) == mapping:
                zba: pgoff_t = max(start, vma.vm_pgoff)
                zea: pgoff_t = min(end, vma.vm_pgoff + (vma.vm_end - vma.vm_start))
                if zba < zea:
                    at: vpn_t = vma.vm_start + (zba - vma.vm_pgoff)
                    unmap_mapping_range_vma(vma, at, at + (zea - zba), even_cows)
            vma = vma.vm_next
    i_mmap_unlock_write(mapping)


def truncate_partial_page(mapping: ptr[file], index: pgoff_t, shrunk: bool):
    """The end of the file lies in its last page: what is behind it becomes zero.  shmem does that to cached pages only,
    which are dirty then (truncate_inode_partial_folio)."""
    p = find_get_page(mapping, index)
    if not mapping.shmem:
        block_truncate_page(mapping, index)
    elif p and shrunk:
        set_page_dirty(p)


def free_blocks(mapping: ptr[file], start: pgoff_t, end: pgoff_t):
    for i in range(start, end):
        mapping.blocks[i] = 0


def do_ftruncate(f: ptr[file], pages: pgoff_t, tail: page_offset_t) -> errno_t:
    """Set the size to `pages` whole pages and `tail` bytes.  Private copies behind the end go too."""
    mapping = file_mapping(f)
    size: pgoff_t = pages
    if tail != 0:
        size += 1
    if size > FILE_PAGES:
        return -EFBIG  # the model's, not Linux's
    old: pgoff_t = mapping.i_size
    old_tail: page_offset_t = mapping.i_tail
    mapping.i_size = size
    mapping.i_tail = tail
    if old > size:
        unmap_mapping_range(mapping, size, old, True)
        truncate_inode_pages_range(mapping, size, old)
        free_blocks(mapping, size, old)
    if old > size or (old == size and (old_tail == 0 or (tail != 0 and old_tail >= tail))):
        if tail != 0:
            truncate_partial_page(mapping, size - 1, old > size or old_tail != tail)
    elif old_tail != 0:
        block_truncate_page(mapping, old - 1)
    return 0


def vfs_truncate(f: ptr[file], size: file_size_t) -> errno_t:
    if size // PAGE_BYTES >= FILE_PAGES + 1:
        return -EFBIG
    return do_ftruncate(f, size // PAGE_BYTES, size % PAGE_BYTES)


def vfs_punch_hole(f: ptr[file], start: pgoff_t, end: pgoff_t) -> errno_t:
    """fallocate(FALLOC_FL_PUNCH_HOLE), MADV_REMOVE: the pages [start, end) of the file are holes again."""
    mapping = file_mapping(f)
    if not mapping.shmem:
        if RA_PAGES == 0:
            return -EOPNOTSUPP  # ramfs
        if end > EXT4_PAGES:
            return -EFBIG  # s_maxbytes
    if start < end:
        unmap_mapping_range(mapping, start, end, False)
        truncate_inode_pages_range(mapping, start, min(end, mapping.i_size))
        free_blocks(mapping, start, min(end, mapping.i_size))
    return 0


def file_write(f: ptr[file], index: pgoff_t, value: data_t) -> errno_t:
    """Write the first byte of a page (generic_perform_write).  The file grows to hold it."""
    mapping = file_mapping(f)
    if index >= FILE_PAGES:
        return -EFBIG
    if index >= mapping.i_size:
        if mapping.i_tail != 0:
            block_truncate_page(mapping, mapping.i_size - 1)
        mapping.i_size = index + 1
        mapping.i_tail = 1
    p: ptr[page] = NULL
    if mapping.pages[index] != 0:
        p = pool_object(page, mapping.pages[index])
        p.not_uptodate = False
    else:
        p = page_cache_alloc(mapping, index)
    if not p:
        return -ENOMEM
    p.data = value
    p.dirty = True
    return 0
