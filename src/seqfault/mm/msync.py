"""Writing back, and which pages are in memory.  mm/msync.c, mm/mincore.c, 4.12, 6.1, 6.18.

Of what reaches a disk an address space shows only that pages are clean then.
"""

from __future__ import annotations

from seqfault.kernel import NULL, Size, array, integer, ptr, struct, the
from seqfault.kernel.rwsem import down_read, up_read
from seqfault.mm.file import fput, get_file
from seqfault.mm.frames import linear_page_index
from seqfault.mm.opcodes import MS_ASYNC, MS_INVALIDATE, MS_SYNC
from seqfault.mm.pgtable import pte_at, pte_present
from seqfault.mm.readahead import find_get_page
from seqfault.mm.types import (
    ENOMEM,
    VM_LOCKED,
    VM_SHARED,
    current_mm,
    errno_t,
    flags_t,
    mm_struct,
    pgoff_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma
from seqfault.mm.writeback import vfs_fsync_range

EBUSY = 16
MINCORE_PAGES = Size("MINCORE_PAGES", 1024)  # the size of the user's buffer


@struct(pool=1, private=True)
class mincore_vec:
    """The user's buffer of mincore: how many pages it tells of, and each page's byte."""

    nr: integer(0, MINCORE_PAGES)
    vec: array[bool, MINCORE_PAGES]


def do_msync(start: vpn_t, end: vpn_t, flags: flags_t) -> errno_t:
    """Holes are told of at the end; a locked VMA ends it where pages were to be thrown away.  A file is written back
    without mmap_sem, so what is mapped behind may be another thing then."""
    mm = current_mm()
    unmapped_error: errno_t = 0
    down_read(mm.mmap_sem)
    vma = find_vma(mm, start)
    while True:
        error: errno_t = -ENOMEM
        if not vma:
            break
        if start < vma.vm_start:
            if flags == MS_ASYNC:
                break
            start = vma.vm_start
            if start >= end:
                break
            unmapped_error = -ENOMEM
        if flags & MS_INVALIDATE and vma.vm_flags & VM_LOCKED:
            error = -EBUSY
            break
        error = unmapped_error
        f = vma.vm_file
        fstart: pgoff_t = vma.vm_pgoff + (start - vma.vm_start)
        fend: pgoff_t = fstart + (min(end, vma.vm_end) - start)
        start = vma.vm_end
        if flags & MS_SYNC and f and vma.vm_flags & VM_SHARED:
            get_file(f)
            up_read(mm.mmap_sem)
            vfs_fsync_range(f, fstart, fend)
            fput(f)
            if start >= end:
                return error
            down_read(mm.mmap_sem)
            vma = find_vma(mm, start)
        else:
            if start >= end:
                break
            vma = vma.vm_next
    up_read(mm.mmap_sem)
    return error


def mincore_page_of(mm: ptr[mm_struct], vma: ptr[vm_area_struct], addr: vpn_t) -> bool:
    """Present, or where no page table says so, in the file's page cache.  (Root may always ask of files.)"""
    if pte_present(pte_at(mm, addr)):
        return True
    if not vma.vm_file:
        return False
    p = find_get_page(vma.vm_file, linear_page_index(vma, addr))
    return p != NULL


def do_mincore(start: vpn_t, end: vpn_t) -> errno_t:
    mm = current_mm()
    out = the(mincore_vec)
    out.nr = 0
    error: errno_t = 0
    down_read(mm.mmap_sem)
    vma = find_vma(mm, start)
    addr: vpn_t = start
    while addr < end:
        if vma and vma.vm_end <= addr:
            vma = vma.vm_next
        if not vma or vma.vm_start > addr:
            error = -ENOMEM
            break
        out.vec[addr - start] = mincore_page_of(mm, vma, addr)
        addr += 1
    up_read(mm.mmap_sem)
    if error == 0:
        out.nr = end - start
    return error
