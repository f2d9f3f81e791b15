"""What the mm text leaves out of a page's cost: free lists, LRU lists, memory control groups, counters.  Kernel Python.

Without them a curve would rise for ever: CPUs meet at the zone's lock for each batch of pages, at the LRU lock for each
pagevec, at the memory control group's counter, at the mm's own counters of pages.  Each function here calls the one of
the text that it stands in for (`INSTEAD`).  mm/page_alloc.c, mm/swap.c, mm/memcontrol.c, mm/memory.c.
"""

from __future__ import annotations

from typing import Any

from seqfault.kernel import integer, pool_object, ptr, struct, the
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t
from seqfault.kernel.task import NR_TASKS
from seqfault.mm import filemap, frames, lru, pgtable, readahead, tlb
from seqfault.mm.filemap import filemap_fault_full as filemap_fault_full_of_text
from seqfault.mm.frames import alloc_page as alloc_page_of_text
from seqfault.mm.frames import free_page as free_page_of_text
from seqfault.mm.frames import page_add_file_rmap as page_add_file_rmap_of_text
from seqfault.mm.frames import page_add_new_anon_rmap as page_add_new_anon_rmap_of_text
from seqfault.mm.lru import MLOCK, MLOCK_NEW, mlock_new_page, mlock_page, munlock_page
from seqfault.mm.pgtable import pte_alloc_one as pte_alloc_one_of_text
from seqfault.mm.readahead import page_cache_alloc as page_cache_alloc_of_text
from seqfault.mm.types import (
    LINUX,
    NR_FRAMES,
    NR_MMS,
    fault_t,
    file,
    page,
    pgoff_t,
    pte_table,
    vm_area_struct,
    vm_fault,
    vpn_t,
)
from seqfault.price import locks
from seqfault.price.clock import ticks_t, vclock, vt_rmw, vt_sleep, vtask
from seqfault.price.words import line_of

NODES = 16
few_t = integer(0, 1 << 20)


@struct(pool=NODES, static=True)
class pglist_data:
    """A node's locks.  Up to 4.19 the LRU lock is the node's, and it still is where there are no control groups."""

    zone_lock: spinlock_t
    free: integer(0, NR_FRAMES)
    lru_lock: spinlock_t


@struct(pool=1, static=True)
class mem_cgroup:
    memory: integer(0, 1)


@struct(pool=NR_MMS, static=True)
class mm_rss:
    anon: integer(0, 1)


@struct(pool=NR_TASKS, private=True)
class page_batches:
    """A CPU's: free pages, pages on their way to and from the LRU lists, charges in stock, pages not counted yet; how
    many of the free pages its caches still have, those that were freed last."""

    pcp: few_t
    add: few_t
    remove: few_t
    stock: few_t
    rss: few_t
    io: ticks_t
    warm: few_t


@struct(pool=1, private=True)
class memory_costs:
    zero: ticks_t
    cold: ticks_t
    page_alloc: ticks_t
    page_free: ticks_t
    zone_page: ticks_t
    lru_page: ticks_t
    charge: ticks_t
    io: ticks_t
    nr_pcp: few_t
    nr_pcp_high: few_t
    nr_lru: few_t
    nr_release: few_t
    nr_stock: few_t
    nr_rss: few_t
    nr_warm: few_t


def my_batches() -> ptr[page_batches]:
    return pool_object(page_batches, the(vclock).me)


def my_node() -> ptr[pglist_data]:
    return pool_object(pglist_data, pool_object(vtask, the(vclock).me).node & (NODES - 1))


def zone_batch(n: few_t):
    """Pages between the CPU's list and the zone's."""
    node = my_node()
    spin_lock(node.zone_lock)
    the(vclock).now += n * the(memory_costs).zone_page
    spin_unlock(node.zone_lock)


def lru_batch(n: few_t):
    node = my_node()
    spin_lock(node.lru_lock)
    the(vclock).now += n * the(memory_costs).lru_page
    spin_unlock(node.lru_lock)


def take_free_page():
    m = the(vclock)
    k = the(memory_costs)
    c = my_batches()
    if c.pcp == 0:
        zone_batch(k.nr_pcp)
        c.pcp = k.nr_pcp
    c.pcp -= 1
    if c.stock == 0:
        vt_rmw(line_of(the(mem_cgroup).memory))
        c.stock = k.nr_stock
    c.stock -= 1
    m.now += k.page_alloc + k.charge + k.zero
    if c.warm == 0:
        m.now += k.cold
    else:
        c.warm -= 1


def alloc_page() -> ptr[page]:
    take_free_page()
    return alloc_page_of_text()


def free_page(p: ptr[page]):
    m = the(vclock)
    k = the(memory_costs)
    c = my_batches()
    if p.lru:
        c.remove += 1
        if c.remove >= k.nr_release:
            lru_batch(c.remove)
            c.remove = 0
    c.pcp += 1
    if c.pcp >= k.nr_pcp_high:
        zone_batch(k.nr_pcp)
        c.pcp -= k.nr_pcp
    c.stock += 1
    if c.stock >= 2 * k.nr_stock:
        vt_rmw(line_of(the(mem_cgroup).memory))
        c.stock -= k.nr_stock
    m.now += k.page_free
    c.warm = min(c.warm + 1, k.nr_warm)
    free_page_of_text(p)


def folio_add_lru(p: ptr[page]):
    """Batches hold no references here, so a page that others unmap is freed at once."""
    c = my_batches()
    p.lru = True
    c.add += 1
    if c.add >= the(memory_costs).nr_lru:
        lru_batch(c.add)
        c.add = 0


def lru_add_drain():
    c = my_batches()
    if c.add != 0:
        lru_batch(c.add)
        c.add = 0


def mlock_folio_add(p: ptr[page], what: integer(0, 2)):
    """As folio_add_lru: each page at once, the lock of the lists for a batch."""
    if what == MLOCK:
        mlock_page(p)
    elif what == MLOCK_NEW:
        mlock_new_page(p)
    else:
        munlock_page(p)
    c = my_batches()
    c.add += 1
    if c.add >= the(memory_costs).nr_lru:
        lru_batch(c.add)
        c.add = 0


def page_add_new_anon_rmap(p: ptr[page], vma: ptr[vm_area_struct], address: vpn_t):
    page_add_new_anon_rmap_of_text(p, vma, address)
    count_page()


def page_add_file_rmap(p: ptr[page]):
    page_add_file_rmap_of_text(p)
    count_page()


def count_page():
    """inc_mm_counter: a task counts up to 64 pages before it tells the mm (up to 6.1); then each CPU has a count."""
    c = my_batches()
    c.rss += 1
    if c.rss >= the(memory_costs).nr_rss:
        rss = pool_object(mm_rss, min(pool_object(vtask, the(vclock).me).space, NR_MMS - 1))
        vt_rmw(line_of(rss.anon))
        c.rss = 0


def pte_alloc_one() -> ptr[pte_table]:
    take_free_page()
    return pte_alloc_one_of_text()


def page_cache_alloc(mapping: ptr[file], index: pgoff_t) -> ptr[page]:
    """Up to 5.0 a page is read with mmap_sem held; from 5.1 on the fault drops it, waits, and begins again."""
    p = page_cache_alloc_of_text(mapping, index)
    if not mapping.shmem:
        my_batches().io = the(memory_costs).io
    return p


def filemap_fault_full(vmf: ptr[vm_fault]) -> fault_t:
    ret: fault_t = filemap_fault_full_of_text(vmf)
    io: ticks_t = my_batches().io
    if LINUX < 501 and io != 0:
        my_batches().io = 0
        vt_sleep(io)
    return ret


INSTEAD: dict[Any, Any] = {
    frames.alloc_page: alloc_page,
    frames.free_page: free_page,
    lru.folio_add_lru: folio_add_lru,
    lru.lru_add_drain: lru_add_drain,
    lru.mlock_folio_add: mlock_folio_add,
    frames.page_add_new_anon_rmap: page_add_new_anon_rmap,
    frames.page_add_file_rmap: page_add_file_rmap,
    pgtable.pte_alloc_one: pte_alloc_one,
    readahead.page_cache_alloc: page_cache_alloc,
    filemap.filemap_fault_full: filemap_fault_full,
    tlb.flush_tlb_mm_range: locks.flush_tlb_mm_range,
}
