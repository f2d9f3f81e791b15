"""The page cache of a file, and reading it ahead of use.  mm/readahead.c, and the fault's part of mm/filemap.c; 4.12,
6.1, 6.18.  Only with FULL.

What is read shows in what fault-around maps later.  Of large folios, which ext4 has since 6.16, only their mark is
modelled: PG_readahead, which lies on all of their pages.  That reading ahead is given up after many misses (mmap_miss)
is not.
"""

from __future__ import annotations

from seqfault.kernel import NULL, index_of, integer, pool_object, ptr
from seqfault.mm.file import file_mapping
from seqfault.mm.frames import alloc_page
from seqfault.mm.lru import folio_add_lru
from seqfault.mm.types import (
    LINUX,
    RA_PAGES,
    VM_EXEC,
    VM_HUGEPAGE,
    VM_RAND_READ,
    VM_SEQ_READ,
    file,
    flags_t,
    page,
    pgoff_t,
    vm_area_struct,
)

NO_MARK = (1 << 52) - 1
MAX_ORDER = 9

order_t = integer(0, 63, "order_t")


# -- the cache
def find_get_page(f: ptr[file], index: pgoff_t) -> ptr[page]:
    """The cached page, or NULL, also where it was not read yet.  Unlike Linux's, without a reference."""
    mapping = file_mapping(f)
    if index >= mapping.i_size or mapping.pages[index] == 0:
        return NULL
    p = pool_object(page, mapping.pages[index])
    if p.not_uptodate:
        return NULL
    return p


def page_cache_alloc(mapping: ptr[file], index: pgoff_t) -> ptr[page]:
    """A page in the cache at `index`, where none was, as it is on disk; NULL when memory is short."""
    p = alloc_page()
    if p:
        if mapping.blocks[index] != 0:
            p.data = mapping.blocks[index] - 1
        p.index = index
        p.mapping_file = mapping
        mapping.pages[index] = index_of(p)
        mapping.nrpages += 1
        folio_add_lru(p)
    return p


# -- mm/readahead.c
def ra_alloc_folio(mapping: ptr[file], start: pgoff_t, nr: pgoff_t, marked: bool) -> bool:
    """A folio of `nr` pages; False if one of them is cached already, or memory is short."""
    for i in range(start, start + nr):
        if mapping.pages[i] != 0:
            return False
    for i in range(start, start + nr):
        p = page_cache_alloc(mapping, i)
        if not p:
            return False
        p.readahead = marked
        p.folio_start = start
        p.folio_pages = nr
    return True


def folio_pages_at(index: pgoff_t, order: order_t, limit: pgoff_t) -> pgoff_t:
    """The pages of a folio of at most `order` at `index`: aligned, and not beyond `limit`."""
    nr: pgoff_t = 1 << order
    while nr > 1 and (index % nr != 0 or index + nr - 1 > limit):
        nr = nr // 2
    return nr


def do_page_cache_ra(mapping: ptr[file], start: pgoff_t, nr_to_read: pgoff_t, lookahead_size: pgoff_t):
    """Read single pages of [start, start + nr_to_read) that the file has and the cache has not.

    The mark is counted from the end of the file since 5.7.
    """
    if start >= mapping.i_size:
        return
    end: pgoff_t = min(start + nr_to_read, mapping.i_size)
    if LINUX >= 507:
        nr_to_read = end - start
    mark: pgoff_t = NO_MARK
    if nr_to_read >= lookahead_size:
        mark = start + nr_to_read - lookahead_size
    for i in range(start, end):
        if mapping.pages[i] == 0:
            p = page_cache_alloc(mapping, i)
            if not p:
                return
            p.readahead = i == mark


def page_cache_ra_order(f: ptr[file], order: order_t):
    """Read the window ra_start, ra_size, and mark the folio that ra_async pages follow.

    Folios of growing order until one meets what is cached, then single pages.
    """
    mapping = file_mapping(f)
    index: pgoff_t = f.ra_start
    mark: pgoff_t = f.ra_start + f.ra_size - f.ra_async
    if LINUX >= 616 and f.ra_size >= 4:
        limit: pgoff_t = min(mapping.i_size - 1, index + f.ra_size - 1) if mapping.i_size != 0 else 0
        while index <= limit and index < mapping.i_size:
            nr: pgoff_t = folio_pages_at(index, order, limit)
            if not ra_alloc_folio(mapping, index, nr, mark - mark % nr == index):
                break
            index += nr
        if index > limit:
            return
    do_page_cache_ra(mapping, index, f.ra_size - (index - f.ra_start), f.ra_async)


def get_next_ra_size(size: pgoff_t, most: pgoff_t) -> pgoff_t:
    """The next window.  After none there is none: a mark that nobody set (PG_reclaim) reads nothing."""
    if size < most // 16:
        return 4 * size
    return min(2 * size, most)


def page_cache_async_ra(f: ptr[file], p: ptr[page]):
    """A page was marked, to have what follows read: the next window if it is this one's mark, else from the first hole
    on."""
    mapping = file_mapping(f)
    nr: pgoff_t = max(p.folio_pages, 1)
    start: pgoff_t = p.folio_start if nr > 1 else p.index
    for i in range(start, start + nr):
        if i < mapping.i_size and mapping.pages[i] != 0:
            q = pool_object(page, mapping.pages[i])
            q.readahead = False
    index: pgoff_t = p.index
    if index == f.ra_start + f.ra_size - f.ra_async:
        f.ra_start += f.ra_size
        f.ra_size = get_next_ra_size(f.ra_size, RA_PAGES)
    else:
        hole: pgoff_t = index + 1
        while hole < mapping.i_size and mapping.pages[hole] != 0:
            hole += 1
        if hole - index > RA_PAGES:
            return
        f.ra_start = hole
        f.ra_size = get_next_ra_size(hole - index + RA_PAGES, RA_PAGES)
    f.ra_async = f.ra_size
    f.ra_order = min(f.ra_order + 2, MAX_ORDER)
    page_cache_ra_order(f, f.ra_order)


def block_truncate_page(mapping: ptr[file], index: pgoff_t):
    """ext4 zeroes what is behind the end in the last page, and brings it into the cache for that, without saying that
    it was read.  Where it has a block it is dirty then; a hole is zero as it is."""
    if RA_PAGES == 0 or mapping.shmem:
        return
    p: ptr[page] = NULL
    if mapping.pages[index] != 0:
        p = pool_object(page, mapping.pages[index])
    else:
        p = page_cache_alloc(mapping, index)
        if p:
            p.not_uptodate = True
    if p and mapping.blocks[index] != 0:
        p.dirty = True


def force_page_cache_readahead(f: ptr[file], start: pgoff_t, nr_to_read: pgoff_t):
    """MADV_WILLNEED of a file on disk (of shmem it only swaps in)."""
    mapping = file_mapping(f)
    if not mapping.shmem and RA_PAGES != 0:
        do_page_cache_ra(mapping, start, nr_to_read, 0)


# -- mm/filemap.c
def do_sync_mmap_readahead(f: ptr[file], vma: ptr[vm_area_struct], index: pgoff_t):
    """A fault missed the cache: what is around it is read as well; of executable VMAs what follows it, since 6.17."""
    vm_flags: flags_t = vma.vm_flags
    f.ra_order = 0
    f.ra_start = index
    f.ra_size = RA_PAGES
    if LINUX >= 518 and vm_flags & VM_HUGEPAGE:
        f.ra_start = 0
        f.ra_size = 1024
        f.ra_async = 512
        f.ra_order = MAX_ORDER
    elif vm_flags & VM_SEQ_READ:
        f.ra_async = RA_PAGES // 2
    elif LINUX >= 617 and vm_flags & VM_EXEC:
        f.ra_size = min(RA_PAGES, vma.vm_pgoff + (vma.vm_end - vma.vm_start) - index)
        f.ra_async = 0
    else:
        f.ra_start = index - min(index, RA_PAGES // 2)
        f.ra_async = RA_PAGES // 4
    page_cache_ra_order(f, f.ra_order)


def reads_ahead_at_random(vm_flags: flags_t) -> bool:
    """Where the advice that access is random does not count: for huge pages, and since 6.17 for execution."""
    return vm_flags & VM_HUGEPAGE != 0 or (LINUX >= 617 and vm_flags & VM_EXEC != 0)


def mmap_readahead(vma: ptr[vm_area_struct], index: pgoff_t) -> bool:
    """Read ahead for a fault: of what was missed, unless the VMA is advised that it is random, or as a mark asks for.

    Whether mmap_sem was dropped for it, and the fault begins anew (commit 6b4c9f446981, 5.1).
    """
    f = vma.vm_file
    vm_flags: flags_t = vma.vm_flags
    p = find_get_page(f, index)
    if RA_PAGES == 0:
        return False
    if p:
        if not p.readahead or vm_flags & VM_RAND_READ:
            return False
        page_cache_async_ra(f, p)
    else:
        mapping = file_mapping(f)
        if mapping.pages[index] != 0:
            p = pool_object(page, mapping.pages[index])
            p.not_uptodate = False  # filemap_read_folio
        elif vm_flags & VM_RAND_READ and not reads_ahead_at_random(vm_flags):
            return False
        else:
            do_sync_mmap_readahead(f, vma, index)
            p = find_get_page(f, index)
    return LINUX >= 501 and p != NULL
