"""The page cache of a file.  mm/filemap.c, 4.12, as shmem and ext4 use it for faults.

All pages of a file are in its cache from the start: none is read in, written back or truncated, so the page
lock that filemap_fault returns with would have nobody to keep out, and is left out.

With FULL the cache is filled by faults and writes (as of shmem, and of a file on disk whose holes read as zeros),
and truncated.
"""

from __future__ import annotations

from seqfault.kernel import NULL, Size, index_of, integer, kmem_cache_zalloc, pool_object, ptr
from seqfault.mm.file import file_mapping, truncate_inode_pages_range
from seqfault.mm.frames import alloc_page, get_page
from seqfault.mm.places import VM_FAULT_OOM, VM_FAULT_RETRY, VM_FAULT_SIGBUS
from seqfault.mm.types import (
    FILE_PAGES,
    FULL,
    LINUX,
    VM_EXEC,
    VM_HUGEPAGE,
    VM_RAND_READ,
    VM_SEQ_READ,
    data_t,
    fault_t,
    file,
    flags_t,
    page,
    pgoff_t,
    vm_area_struct,
    vm_fault,
)

NO_MARK = (1 << 52) - 1
RA_PAGES = Size("RA_PAGES", 32)  # read_ahead_kb of the disk; 0: it has none (ramfs)

FILE_DATA = 8  # what page i of a file holds at first: FILE_DATA + i (up to 15)
file_number_t = integer(0, 255)


# -- the cache
def find_get_page(f: ptr[file], index: pgoff_t) -> ptr[page]:
    """The cached page, or NULL.  Only with FULL; unlike Linux's, without a reference."""
    mapping = file_mapping(f)
    if index >= mapping.i_size or mapping.pages[index] == 0:
        return NULL
    return pool_object(page, mapping.pages[index])


def page_cache_alloc(mapping: ptr[file], index: pgoff_t) -> ptr[page]:
    """A page of zeros in the cache at `index`, where none was; NULL when memory is short."""
    p = alloc_page()
    if p:
        p.index = index
        p.mapping_file = mapping
        mapping.pages[index] = index_of(p)
        mapping.nrpages += 1
    return p


def page_cache_ra(mapping: ptr[file], start: pgoff_t, nr_to_read: pgoff_t, mark: pgoff_t, contiguous: bool) -> pgoff_t:
    """Read the pages of [start, start + nr_to_read) that the file has and the cache has not; with `contiguous` up to
    the first one that it has.  Where it stopped.  A new page at `mark` tells fault-around to leave it alone.
    """
    end: pgoff_t = min(start + nr_to_read, mapping.i_size)
    i: pgoff_t = start
    while i < end:
        if mapping.pages[i] == 0:
            p = page_cache_alloc(mapping, i)
            if not p:
                return end
            p.readahead = i == mark
        elif contiguous:
            return i
        i += 1
    return end


def page_cache_ra_order(mapping: ptr[file], start: pgoff_t, size: pgoff_t, async_size: pgoff_t):
    """Read ahead `size` pages, and mark the one that `async_size` pages follow, counted from the end of the file since
    5.7.  ext4 has large folios since 6.16; single pages of them are read until one is met that was there.
    """
    if LINUX >= 616:
        at: pgoff_t = page_cache_ra(mapping, start, size, start + size - async_size, True)
        size -= at - start
        start = at
    nr_to_read: pgoff_t = size
    if LINUX >= 507:
        nr_to_read = min(size, mapping.i_size - start)
    mark: pgoff_t = NO_MARK
    if nr_to_read >= async_size:
        mark = start + nr_to_read - async_size
    page_cache_ra(mapping, start, nr_to_read, mark, False)


def do_sync_mmap_readahead(mapping: ptr[file], vma: ptr[vm_area_struct], index: pgoff_t):
    """A fault missed the cache: what is around it is read as well, unless the VMA is advised that it is random; of
    executable VMAs what follows it, since 6.17.

    That it is given up after many misses (mmap_miss) is not modelled.
    """
    vm_flags: flags_t = vma.vm_flags
    if LINUX >= 518 and vm_flags & VM_HUGEPAGE:
        page_cache_ra_order(mapping, 0, 1024, 512)
    elif vm_flags & VM_SEQ_READ:
        page_cache_ra_order(mapping, index, RA_PAGES, RA_PAGES // 2)
    elif LINUX >= 617 and vm_flags & VM_EXEC:
        end: pgoff_t = vma.vm_pgoff + (vma.vm_end - vma.vm_start)
        page_cache_ra_order(mapping, index, min(RA_PAGES, end - index), 0)
    else:
        page_cache_ra_order(mapping, index - min(index, RA_PAGES // 2), RA_PAGES, RA_PAGES // 4)


def force_page_cache_readahead(f: ptr[file], start: pgoff_t, nr_to_read: pgoff_t):
    """MADV_WILLNEED of a file on disk (of shmem it only swaps in)."""
    mapping = file_mapping(f)
    if not mapping.shmem and RA_PAGES != 0:
        page_cache_ra(mapping, start, nr_to_read, NO_MARK, False)


def mmap_readahead(mapping: ptr[file], vma: ptr[vm_area_struct], index: pgoff_t) -> bool:
    """Read ahead for a fault: of what was missed, or as a mark asks for.  Whether mmap_sem was dropped for it, and the
    fault begins anew (commit 6b4c9f446981, 5.1)."""
    vm_flags: flags_t = vma.vm_flags
    p = find_get_page(mapping, index)
    if p and (not p.readahead or vm_flags & VM_RAND_READ):
        return False
    if p:
        p.readahead = False  # behind a mark no file is long enough
    elif RA_PAGES == 0 or (vm_flags & VM_RAND_READ and not vm_flags & VM_HUGEPAGE):
        return False
    else:
        do_sync_mmap_readahead(mapping, vma, index)
        p = find_get_page(mapping, index)
    return LINUX >= 501 and p != NULL


def filemap_fault_full(vmf: ptr[vm_fault]) -> fault_t:
    """filemap_fault and shmem_fault: a hole gets a page, whoever asks, private readers too."""
    vma = vmf.vma
    mapping = file_mapping(vma.vm_file)
    if vmf.pgoff >= mapping.i_size:
        return VM_FAULT_SIGBUS
    if not mapping.shmem and mmap_readahead(mapping, vma, vmf.pgoff):
        return VM_FAULT_RETRY
    p = find_get_page(mapping, vmf.pgoff)
    if not p:
        p = page_cache_alloc(mapping, vmf.pgoff)
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
