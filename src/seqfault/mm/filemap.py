"""The page cache of a file.  mm/filemap.c, 4.12, as shmem and ext4 use it for faults.

All pages of a file are in its cache from the start: none is read in, written back or truncated, so the page
lock that filemap_fault returns with would have nobody to keep out, and is left out.

With FULL the cache is filled by faults and writes (as of shmem, and of a file on disk whose holes read as zeros),
and truncated.
"""

from __future__ import annotations

from seqfault.kernel import index_of, integer, kmem_cache_zalloc, pool_object, ptr
from seqfault.mm.file import file_mapping, truncate_inode_pages_range
from seqfault.mm.frames import get_page
from seqfault.mm.places import VM_FAULT_OOM, VM_FAULT_RETRY, VM_FAULT_SIGBUS
from seqfault.mm.readahead import find_get_page, mmap_readahead, page_cache_alloc
from seqfault.mm.types import FILE_PAGES, FULL, LINUX, data_t, fault_t, file, page, pgoff_t, vm_fault

FILE_DATA = 8  # what page i of a file holds at first: FILE_DATA + i (up to 15)
file_number_t = integer(0, 255)


def filemap_fault_full(vmf: ptr[vm_fault]) -> fault_t:
    """filemap_fault and shmem_fault: a hole gets a page, whoever asks, private readers too."""
    vma = vmf.vma
    mapping = file_mapping(vma.vm_file)
    if vmf.pgoff >= mapping.i_size:
        return VM_FAULT_SIGBUS
    if not mapping.shmem and mmap_readahead(vma, vmf.pgoff):
        return VM_FAULT_RETRY
    p = find_get_page(mapping, vmf.pgoff)
    if not p:
        p = page_cache_alloc(mapping, vmf.pgoff)
        if p and not mapping.shmem and LINUX >= 501:
            return VM_FAULT_RETRY  # it was read without mmap_sem
    if not p:
        return VM_FAULT_OOM
    get_page(p)
    vmf.page = p
    return 0


def filemap_fault(vmf: ptr[vm_fault]) -> fault_t:
    """Find the page of a fault, with a reference; SIGBUS behind the end of the file."""
    if FULL:
        return filemap_fault_full(vmf)
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


# -- before a program begins, with FULL
def memfd_init(number: file_number_t, nr_pages: pgoff_t):
    """An empty memfd: holes."""
    f = pool_object(file, number)
    truncate_inode_pages_range(f, 0, f.i_size)
    f.f_count = max(f.f_count, 1)
    f.f_mode = 3
    f.shmem = True
    f.i_size = nr_pages
    f.i_tail = 0


def disk_file_init(number: file_number_t, nr_pages: pgoff_t, data: data_t):
    """A file on disk, whose page i was written and holds `data` + i."""
    memfd_init(number, nr_pages)
    f = pool_object(file, number)
    f.shmem = False
    for i in range(nr_pages):
        p = page_cache_alloc(f, i)
        p.data = data + i
        p.dirty = True


def file_reopen(number: file_number_t, of: file_number_t, mode: integer(0, 3)):
    """One more struct file of an inode: FMODE_READ 1, FMODE_WRITE 2."""
    f = pool_object(file, number)
    f.f_count = max(f.f_count, 1)
    f.f_mode = mode
    f.f_mapping = pool_object(file, of)
