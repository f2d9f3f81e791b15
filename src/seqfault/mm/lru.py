"""Pages on their way to and from the LRU lists: batches of a CPU, each entry of which holds a reference.  mm/swap.c,
mm/mlock.c (commit 2fbb0c10d1e8, 5.18); 6.1, 6.18.

Whether a write copies an anonymous page depends on its references, so on when these batches are emptied: when one is
full, and wherever Linux calls lru_add_drain.  The lists themselves are not modelled, nor what other tasks do on the
CPU.  Only with FULL; 4.12 asks for map counts, which no batch changes.
"""

from __future__ import annotations

from seqfault.kernel import NULL, array, integer, ptr, struct, the
from seqfault.mm.frames import get_page, put_page
from seqfault.mm.pgtable import pmd_next_used, pte_at, pte_present, vm_normal_page
from seqfault.mm.types import FULL, LINUX, RA_PAGES, VM_LOCKED, page, pte_t, vm_area_struct, vma_mm, vpn_t

PAGEVEC_SIZE = 31  # commit 9cecde80aae0 (6.9); 15 before
MOST = 31
MUNLOCK, MLOCK, MLOCK_NEW = 0, 1, 2  # what an entry of the second batch asks for


@struct(pool=1, private=True)
class cpu_fbatches:
    """`lru_add`: new pages; `mlock`: pages that were mapped into, or unmapped from, locked VMAs."""

    nr_add: integer(0, MOST)
    lru_add: array[ptr[page], MOST]
    nr_mlock: integer(0, MOST)
    mlock: array[ptr[page], MOST]
    what: array[integer(0, 2), MOST]


def folio_batch_size() -> integer(0, MOST):
    if LINUX >= 609:
        return MOST
    return 15


def folio_evictable(p: ptr[page]) -> bool:
    """mm/internal.h.  Nothing takes the pages of a file on ramfs away: its mapping is AS_UNEVICTABLE."""
    mapping = p.mapping_file
    if RA_PAGES == 0 and mapping and not mapping.shmem:
        return False
    return not p.mlocked


def lru_add_move():
    """Put the new pages on the LRU lists (lru_add): who locks one is not counted yet."""
    b = the(cpu_fbatches)
    for i in range(b.nr_add):
        p = b.lru_add[i]
        b.lru_add[i] = NULL
        p.unevictable = not folio_evictable(p)
        if p.unevictable:
            p.mlock_count = 0
        p.lru = True
        put_page(p)
    b.nr_add = 0


def mlock_page(p: ptr[page]):
    """__mlock_folio.  A page that is on no list yet is left alone."""
    if not p.lru:
        return
    if folio_evictable(p):  # unlocked in the same batch, before: it is not locked then, though a locked VMA maps it
        p.unevictable = False
    elif p.unevictable:
        if p.mlocked:
            p.mlock_count += 1
    else:
        p.unevictable = True
        p.mlock_count = 1 if p.mlocked else 0


def mlock_new_page(p: ptr[page]):
    """__mlock_new_folio: a new page that is locked goes to its list here."""
    if p.mlocked:
        p.unevictable = True
        p.mlock_count = 1
    p.lru = True


def munlock_page(p: ptr[page]):
    """__munlock_folio.  The count may be too low, never too high."""
    if p.lru and p.unevictable:
        if p.mlock_count != 0:
            p.mlock_count -= 1
        if p.mlock_count != 0:
            return
    p.mlocked = False
    if p.lru and folio_evictable(p):
        p.unevictable = False


def mlock_drain_local():
    b = the(cpu_fbatches)
    for i in range(b.nr_mlock):
        p = b.mlock[i]
        b.mlock[i] = NULL
        if b.what[i] == MLOCK:
            mlock_page(p)
        elif b.what[i] == MLOCK_NEW:
            mlock_new_page(p)
        else:
            munlock_page(p)
        put_page(p)
    b.nr_mlock = 0


def lru_add_drain():
    if FULL and LINUX >= 518:
        lru_add_move()
        mlock_drain_local()


def in_batch(p: ptr[page]) -> bool:
    b = the(cpu_fbatches)
    found = False
    for i in range(b.nr_add):
        if b.lru_add[i] == p:
            found = True
    for i in range(b.nr_mlock):
        if b.mlock[i] == p:
            found = True
    return found


def folio_add_lru(p: ptr[page]):
    if LINUX >= 518:
        b = the(cpu_fbatches)
        get_page(p)
        b.lru_add[b.nr_add] = p
        b.nr_add += 1
        if b.nr_add == folio_batch_size():
            lru_add_move()


def folio_putback_lru(p: ptr[page]):
    """A page that was taken from its list goes back by way of the batch: who has it locked is not counted any more."""
    p.lru = False
    folio_add_lru(p)


def mlock_folio_add(p: ptr[page], what: integer(0, 2)):
    b = the(cpu_fbatches)
    get_page(p)
    b.mlock[b.nr_mlock] = p
    b.what[b.nr_mlock] = what
    b.nr_mlock += 1
    if b.nr_mlock == folio_batch_size():
        mlock_drain_local()


def mlock_folio(p: ptr[page]):
    """One more VMA has the page locked."""
    p.mlocked = True
    mlock_folio_add(p, MLOCK)


def mlock_new_folio(p: ptr[page]):
    p.mlocked = True
    mlock_folio_add(p, MLOCK_NEW)


def munlock_folio(p: ptr[page]):
    mlock_folio_add(p, MUNLOCK)


def mlock_vma_folio(p: ptr[page], vma: ptr[vm_area_struct]):
    """A page was mapped into the VMA."""
    if LINUX >= 518 and vma.vm_flags & VM_LOCKED:
        mlock_folio(p)


def munlock_vma_folio(p: ptr[page], vma: ptr[vm_area_struct]):
    """A page was unmapped from the VMA."""
    if LINUX >= 518 and vma.vm_flags & VM_LOCKED:
        munlock_folio(p)


def folio_add_lru_vma(p: ptr[page], vma: ptr[vm_area_struct]):
    """A new anonymous page."""
    if LINUX >= 518 and vma.vm_flags & VM_LOCKED:
        mlock_new_folio(p)
    else:
        folio_add_lru(p)


def mlock_vma_pages_range(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, lock: bool):
    """The pages that are there when a VMA is locked or unlocked."""
    if LINUX < 518:
        return
    lru_add_drain()
    mm = vma_mm(vma)
    addr: vpn_t = pmd_next_used(mm, start, end)
    while addr < end:
        pte: pte_t = pte_at(mm, addr)
        if pte_present(pte):
            p = vm_normal_page(pte)
            if p:
                if lock:
                    mlock_folio(p)
                else:
                    munlock_folio(p)
        addr = pmd_next_used(mm, addr + 1, end)
    lru_add_drain()
