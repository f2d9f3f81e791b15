"""The page cache of a file.  mm/filemap.c, 4.12, as shmem and ext4 use it for faults.

All pages of a file are in its cache from the start: none is read in, written back or truncated, so the page
lock that filemap_fault returns with would have nobody to keep out, and is left out.
"""

from __future__ import annotations

from seqfault.kernel import index_of, integer, kmem_cache_zalloc, pool_object, ptr
from seqfault.mm.frames import get_page
from seqfault.mm.places import VM_FAULT_SIGBUS
from seqfault.mm.types import FILE_PAGES, fault_t, file, page, pgoff_t, vm_fault

FILE_DATA = 8  # what page i of a file holds at first: FILE_DATA + i (up to 15)
file_number_t = integer(0, 255)


def filemap_fault(vmf: ptr[vm_fault]) -> fault_t:
    """Find the page of a fault, with a reference; SIGBUS behind the end of the file."""
    mapping = vmf.vma.vm_file
    if vmf.pgoff >= mapping.i_size:
        return VM_FAULT_SIGBUS
    vmf.page = pool_object(page, mapping.pages[vmf.pgoff])
    get_page(vmf.page)
    return 0


# -- before a scenario begins
def mm_init():
    """Make the zero page.  Must come before any other frame is allocated, since it is frame 0."""
    zero = kmem_cache_zalloc(page)
    assert index_of(zero) == 0


def file_init(number: file_number_t, nr_pages: pgoff_t):
    """Give a file its pages, and fill them."""
    assert nr_pages <= FILE_PAGES
    f = pool_object(file, number)
    f.i_size = nr_pages
    for i in range(nr_pages):
        p = kmem_cache_zalloc(page)
        p.data = FILE_DATA + (number * FILE_PAGES + i) % 8
        p.index = i
        p.mapping_file = f
        f.pages[i] = index_of(p)
