"""Open files and the VMAs that map them.  include/linux/fs.h, fs/file_table.c, mm/interval_tree.c, 4.12.

The interval tree `i_mmap` is reduced to how many VMAs it holds: what walks it (truncation, the reverse map)
is not modelled.  Its lock is taken where Linux takes it.
"""

from __future__ import annotations

from seqfault.kernel import fetch_add, ptr
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.mm.types import file, vm_area_struct


def get_file(f: ptr[file]):
    fetch_add(f.f_count, 1)


def fput(f: ptr[file]):
    """Give a reference back.  Files of a scenario are held open by it, so the last one is not here."""
    fetch_add(f.f_count, -1)


def i_mmap_lock_write(f: ptr[file]):
    down_write(f.i_mmap_rwsem)


def i_mmap_unlock_write(f: ptr[file]):
    up_write(f.i_mmap_rwsem)


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
