"""Page frames: allocation, counts, the reverse map's idea of a page.  mm/page_alloc.c, mm/rmap.c, 4.12.

Page locks, LRU lists, memory control groups and the counters of an mm are not modelled.
"""

from __future__ import annotations

from seqfault.kernel import (
    BUG_ON,
    NULL,
    WRITE_ONCE,
    atomic,
    check,
    fetch_add,
    index_of,
    kmem_cache_free,
    kmem_cache_zalloc,
    place,
    pool_object,
    ptr,
    smp_wmb,
)
from seqfault.kernel.task import NR_CPUS, might_sleep
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.types import (
    FULL,
    LINUX,
    NR_PAGES,
    PGOFF_MAX,
    cpu_tlb,
    page,
    pgoff_t,
    vm_area_struct,
    vpn_t,
)


def linear_page_index(vma: ptr[vm_area_struct], address: vpn_t) -> pgoff_t:
    """Page of the file, or of the anonymous mapping, that `address` shows.

    Wraps as Linux's unsigned arithmetic does: who reads without a lock may see fields of different times.
    """
    return (address - vma.vm_start + vma.vm_pgoff) % (PGOFF_MAX + 1)


# -- mm/page_alloc.c
def alloc_page() -> ptr[page]:
    """A frame that nobody else knows, with one reference; NULL when memory is short.  Its content is zero:
    alloc_page_vma does not promise that, but its callers overwrite the page before they map it."""
    might_sleep()
    if mm_alloc_fails():
        return NULL
    return kmem_cache_zalloc(page)


@place("free_page/check")
def free_page_check(p: ptr[page]):
    """No TLB may translate to a frame that is given back, and no page table map it (bad_page)."""
    with atomic():
        check(p.mapcount == 0, "wrong-mapcount", p)
        if not FULL:
            for cpu in range(NR_CPUS):
                tlb = pool_object(cpu_tlb, cpu)
                for i in range(NR_PAGES):
                    e = tlb.entry[i].pte
                    check(e == 0 or e >> 2 != index_of(p), "stale-tlb", p)


def free_page(p: ptr[page]):
    free_page_check(p)
    kmem_cache_free(p)


def get_page(p: ptr[page]):
    fetch_add(p.refcount, 1)


def put_page(p: ptr[page]):
    if fetch_add(p.refcount, -1) == 1:
        free_page(p)


def __SetPageUptodate(p: ptr[page]):
    """What the page holds is seen before the page is (the flag itself nobody asks for)."""
    smp_wmb()


def set_page_dirty(p: ptr[page]):
    """folio_mark_dirty.  PG_reclaim and PG_readahead are one bit, and a write clears it.  Only with FULL."""
    p.dirty = True
    p.readahead = False


# -- mm/rmap.c
def PageAnon(p: ptr[page]) -> bool:
    return p.mapping != NULL


def page_add_new_anon_rmap(p: ptr[page], vma: ptr[vm_area_struct], address: vpn_t):
    """The first mapping of a new anonymous page: nobody else sees it yet, so plain stores do."""
    p.mapcount = 1
    av = vma.anon_vma
    BUG_ON(av == NULL)
    p.mapping = av
    p.index = linear_page_index(vma, address)
    if FULL and LINUX >= 519:
        p.exclusive = True


def page_move_anon_rmap(p: ptr[page], vma: ptr[vm_area_struct]):
    """The page is all ours: the reverse map need not look at relatives any more."""
    av = vma.anon_vma
    BUG_ON(av == NULL)
    WRITE_ONCE(p.mapping, av)
    if FULL and LINUX >= 519:
        p.exclusive = True


def page_add_file_rmap(p: ptr[page]):
    fetch_add(p.mapcount, 1)


def page_dup_rmap(p: ptr[page]):
    """Fork maps the page once more.  An anonymous one is exclusive to nobody any more: folio_try_dup_anon_rmap, since
    commit 6c287605fd56 (5.19)."""
    if PageAnon(p):
        p.exclusive = False
    fetch_add(p.mapcount, 1)


def page_remove_rmap(p: ptr[page]):
    fetch_add(p.mapcount, -1)
