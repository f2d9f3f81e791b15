"""Open files and the VMAs that map them.  include/linux/fs.h, fs/file_table.c, mm/interval_tree.c, 4.12.

The interval tree `i_mmap` is reduced to how many VMAs it holds: what walks it (truncation, mm/truncate.py)
walks the lists of the address spaces.  Its lock is taken where Linux takes it.
"""

from __future__ import annotations

from seqfault.kernel import fetch_add, pool_object, ptr
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.mm.frames import put_page
from seqfault.mm.lru import lru_add_drain
from seqfault.mm.types import FULL, file, page, pgoff_t, vm_area_struct


def file_mapping(f: ptr[file]) -> ptr[file]:
    """file->f_mapping.  The address_space lies in the file that the inode was first opened by."""
    if FULL and f.f_mapping:
        return f.f_mapping
    return f


# -- mm/truncate.c
def truncate_inode_pages_range(mapping: ptr[file], start: pgoff_t, end: pgoff_t):
    """Drop the cached pages of [start, end), which nobody maps any more."""
    i: pgoff_t = start
    if start < end and mapping.nrpages != 0:
        lru_add_drain()  # __folio_batch_release
    while i < end and mapping.nrpages != 0:
        if mapping.pages[i] != 0:
            p = pool_object(page, mapping.pages[i])
            mapping.pages[i] = 0
            mapping.nrpages -= 1
            put_page(p)
        i += 1


# -- fs/file_table.c
def __fput(f: ptr[file]):
    """The last reference is gone: of a file that nobody else has, its pages are too."""
    if not f.f_mapping:
        truncate_inode_pages_range(f, 0, f.i_size)


def get_file(f: ptr[file]):
    fetch_add(f.f_count, 1)


def fput(f: ptr[file]):
    """Give a reference back.  Files of a scenario are held open by it, so the last one is not here.

    With FULL whoever opens a file counts; of shared anonymous memory only VMAs do.
    """
    if FULL:
        if fetch_add(f.f_count, -1) == 1:
            __fput(f)
    else:
        fetch_add(f.f_count, -1)


def i_mmap_lock_write(f: ptr[file]):
    mapping = file_mapping(f)
    down_write(mapping.i_mmap_rwsem)


def i_mmap_unlock_write(f: ptr[file]):
    mapping = file_mapping(f)
    up_write(mapping.i_mmap_rwsem)


def vma_interval_tree_insert(f: ptr[file]):
    f.i_mmap_vmas += 1


def vma_interval_tree_remove(f: ptr[file]):
    f.i_mmap_vmas -= 1


def unlink_file_vma(vma: ptr[vm_area_struct]):
    """Take an unmapped VMA out of its file's interval tree (mm/mmap.c; called by free_pgtables)."""
    f = vma.vm_file
    if f:
        i_mmap_lock_write(f)
        vma_interval_tree_remove(f)
        i_mmap_unlock_write(f)
