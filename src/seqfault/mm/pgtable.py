"""Page tables of two levels.  asm-generic/pgtable.h, arch/x86/include/asm/pgtable.h, mm/memory.c, 4.12.

An entry is frame * 4 + rights (1: the user may read, 2: write); 0 is pte_none.  An entry without rights is
PROT_NONE's: present to the kernel, not to the hardware.  Dirty and accessed bits are not kept.  `mm.pmd[i]`
always exists; what it points to comes and goes.

With FULL an entry is frame * 64 + bits: rights, dirty, present, and the marker of a guard region, which is not
present.  `mm.pmd_group[i]` counts the tables under 512 upper entries, so that empty space costs nothing.
"""

from __future__ import annotations

from seqfault.kernel import (
    NULL,
    check,
    index_of,
    kmem_cache_free,
    kmem_cache_zalloc,
    pool_object,
    ptr,
    smp_wmb,
)
from seqfault.kernel.spinlock import spin_lock, spin_unlock
from seqfault.kernel.task import might_sleep
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.types import (
    ENOMEM,
    FULL,
    PTRS_PER_PTE,
    VM_WRITE,
    ZERO_PFN,
    current_mm,
    errno_t,
    flags_t,
    mm_struct,
    page,
    pfn_t,
    pgprot_t,
    pmd_t,
    pte_t,
    pte_table,
    vm_area_struct,
    vpn_t,
)

PTE_READ, PTE_WRITE, PTE_RIGHTS = 1, 2, 3
PTE_DIRTY, PTE_PRESENT, PTE_GUARD = 4, 8, 16  # only with FULL
PMDS_PER_GROUP = 512


# -- entries
def pte_none(pte: pte_t) -> bool:
    return pte == 0


def pte_present(pte: pte_t) -> bool:
    """Nothing is swapped or migrated here, so an entry is present, a guard's marker, or none."""
    if FULL:
        return pte & PTE_PRESENT != 0
    return pte != 0


def pte_is_guard(pte: pte_t) -> bool:
    """is_guard_swp_entry: PTE_MARKER_GUARD, since 6.13."""
    return pte & PTE_GUARD != 0


def pte_dirty(pte: pte_t) -> bool:
    return pte & PTE_DIRTY != 0


def pte_write(pte: pte_t) -> bool:
    return pte & PTE_WRITE != 0


def pte_mkdirty(pte: pte_t) -> pte_t:
    """A write is noted in the entry.  Only with FULL."""
    if FULL:
        return pte | PTE_DIRTY
    return pte


def pte_mkclean(pte: pte_t) -> pte_t:
    return pte & ~PTE_DIRTY


def pte_pfn(pte: pte_t) -> pfn_t:
    if FULL:
        return pte >> 6
    return pte >> 2


def pfn_pte(pfn: pfn_t, prot: pgprot_t) -> pte_t:
    """Of the zero page without rights nothing is left: the entry is none, and a later fault makes it anew.

    (With FULL it is there, as in Linux.)
    """
    if FULL:
        return pfn << 6 | PTE_PRESENT | prot
    return pfn << 2 | prot


def mk_pte(p: ptr[page], prot: pgprot_t) -> pte_t:
    if FULL:
        return index_of(p) << 6 | PTE_PRESENT | prot
    return index_of(p) << 2 | prot


def pte_wrprotect(pte: pte_t) -> pte_t:
    return pte & ~PTE_WRITE


def pte_mkwrite(pte: pte_t) -> pte_t:
    return pte | PTE_WRITE


def maybe_mkwrite(pte: pte_t, vma: ptr[vm_area_struct]) -> pte_t:
    """Writable, if the VMA is."""
    if vma.vm_flags & VM_WRITE:
        return pte_mkwrite(pte)
    return pte


def maybe_mkwrite_flags(pte: pte_t, vma_flags: flags_t) -> pte_t:
    """maybe_mkwrite as v12 of the speculative page faults has it (13)."""
    if vma_flags & VM_WRITE:
        return pte_mkwrite(pte)
    return pte


def pte_modify(pte: pte_t, prot: pgprot_t) -> pte_t:
    return pte & ~PTE_RIGHTS | prot


def is_zero_pfn(pfn: pfn_t) -> bool:
    return pfn == ZERO_PFN


def vm_normal_page(pte: pte_t) -> ptr[page]:
    """The page that an entry maps; NULL for the zero page, which is not counted, nor in the reverse map."""
    if is_zero_pfn(pte_pfn(pte)):
        return NULL
    return pool_object(page, pte_pfn(pte))


# -- levels
def pmd_index(address: vpn_t) -> pmd_t:
    return address // PTRS_PER_PTE


def pte_index(address: vpn_t) -> vpn_t:
    return address % PTRS_PER_PTE


def pmd_addr_end(address: vpn_t, end: vpn_t) -> vpn_t:
    """Where the part of [address, end) under one upper entry ends."""
    return min((address // PTRS_PER_PTE + 1) * PTRS_PER_PTE, end)


def pmd_none(mm: ptr[mm_struct], pmd: pmd_t) -> bool:
    return mm.pmd[pmd] == NULL


def pte_offset_map(mm: ptr[mm_struct], pmd: pmd_t) -> ptr[pte_table]:
    """The table under an upper entry.  Linux points to the entry in it; here the address says which it is."""
    return mm.pmd[pmd]


def pte_lockptr(mm: ptr[mm_struct], pmd: pmd_t) -> ptr[pte_table]:
    """The table whose lock protects the entries under `pmd` (split locks, in the table's struct page)."""
    return mm.pmd[pmd]


def pte_offset_map_lock(mm: ptr[mm_struct], pmd: pmd_t) -> ptr[pte_table]:
    """The table under an upper entry, locked.  Linux writes two reads, which compilers make one."""
    table = pte_offset_map(mm, pmd)
    spin_lock(table.ptl)
    return table


def pte_unmap_unlock(table: ptr[pte_table]):
    spin_unlock(table.ptl)


def pte_alloc_one() -> ptr[pte_table]:
    might_sleep()
    if mm_alloc_fails():
        return NULL
    return kmem_cache_zalloc(pte_table)


def pte_free(table: ptr[pte_table]):
    """Give a table's page back.  What still spins on its lock, or holds it, uses freed memory."""
    check(table.ptl.owner == 0, "free-of-held-lock", table)
    kmem_cache_free(table)


def __pte_alloc(mm: ptr[mm_struct], pmd: pmd_t) -> errno_t:
    new = pte_alloc_one()
    if not new:
        return -ENOMEM
    smp_wmb()  # a table is seen empty before it is seen
    spin_lock(mm.page_table_lock)  # pmd_lock
    if pmd_none(mm, pmd):  # or another fault was faster
        mm.pmd[pmd] = new
        if FULL:
            mm.pmd_group[pmd // PMDS_PER_GROUP] += 1
        new = NULL
    spin_unlock(mm.page_table_lock)
    if new:
        pte_free(new)
    return 0


def pte_alloc(pmd: pmd_t) -> errno_t:
    """Make sure that there is a table under an upper entry."""
    mm = current_mm()
    if pmd_none(mm, pmd):
        return __pte_alloc(mm, pmd)
    return 0


def pte_alloc_map(mm: ptr[mm_struct], address: vpn_t) -> ptr[pte_table]:
    """The table of `address` in any address space, made if need be; NULL when memory is short."""
    if pmd_none(mm, pmd_index(address)) and __pte_alloc(mm, pmd_index(address)) != 0:
        return NULL
    return mm.pmd[pmd_index(address)]


def pmd_next_used(mm: ptr[mm_struct], address: vpn_t, end: vpn_t) -> vpn_t:
    """The first address of [address, end) that has a table; `end` if there is none.  Only with FULL."""
    while address < end:
        group: pmd_t = pmd_index(address) // PMDS_PER_GROUP
        if mm.pmd_group[group] == 0:
            address = min((group + 1) * PMDS_PER_GROUP * PTRS_PER_PTE, end)
        elif pmd_none(mm, pmd_index(address)):
            address = pmd_addr_end(address, end)
        else:
            return address
    return end


def pte_at(mm: ptr[mm_struct], address: vpn_t) -> pte_t:
    """The entry of `address`, as who walks the tables without a lock finds it; none where there is no table."""
    if pmd_none(mm, pmd_index(address)):
        return 0
    return mm.pmd[pmd_index(address)].pte[pte_index(address)]
