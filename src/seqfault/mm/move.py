"""Moving page-table entries from one VMA to another.  mm/mremap.c, 4.12, 6.1, 6.18.

That whole tables are moved where both addresses allow it (HAVE_MOVE_PMD) cannot be told from this.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.mm.pgtable import (
    pmd_addr_end,
    pmd_index,
    pmd_next_used,
    pte_alloc_map,
    pte_index,
    pte_offset_map_lock,
    pte_unmap_unlock,
)
from seqfault.mm.tlb import flush_tlb_range
from seqfault.mm.types import current_mm, pte_table, vm_area_struct, vpn_t


def move_ptes(new_table: ptr[pte_table], old_addr: vpn_t, old_end: vpn_t, new_addr: vpn_t):
    """[old_addr, old_end) lies in one table, and so does where it goes.  What is there moves as it is: rights, dirty
    bits, markers of guard regions."""
    table = pte_offset_map_lock(current_mm(), pmd_index(old_addr))
    while old_addr < old_end:
        if table.pte[pte_index(old_addr)] != 0:
            new_table.pte[pte_index(new_addr)] = table.pte[pte_index(old_addr)]
            table.pte[pte_index(old_addr)] = 0
        old_addr += 1
        new_addr += 1
    pte_unmap_unlock(table)


def move_page_tables(
    vma: ptr[vm_area_struct], old_addr: vpn_t, new_vma: ptr[vm_area_struct], new_addr: vpn_t, len: vpn_t
) -> vpn_t:
    """Move the pages of [old_addr, old_addr + len) to new_addr.  How much was moved: less than `len` when there is no
    memory for a table."""
    mm = current_mm()
    done: vpn_t = 0
    while done < len:
        at: vpn_t = pmd_next_used(mm, old_addr + done, old_addr + len)
        done = at - old_addr
        if done < len:
            extent: vpn_t = pmd_addr_end(at, old_addr + len) - at
            extent = pmd_addr_end(new_addr + done, new_addr + done + extent) - (new_addr + done)
            table = pte_alloc_map(mm, new_addr + done)
            if not table:
                return done
            move_ptes(table, at, at + extent, new_addr + done)
            done += extent
    flush_tlb_range(old_addr, old_addr + len)
    return len
