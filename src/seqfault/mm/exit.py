"""The end of an address space.  exit_mmap of mm/mmap.c, 4.12, 6.1, 6.18.

The oom reaper is not modelled.
"""

from __future__ import annotations

from seqfault.kernel import NULL, pool_object, ptr
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.mm.memory import free_pgtables, unmap_vmas
from seqfault.mm.places import mmap_write_lock_end, mmap_write_unlock_begin, vm_area_free
from seqfault.mm.tlb import tlb_finish_mmu, tlb_gather_mmu
from seqfault.mm.types import NR_PAGES, mm_struct


def exit_mmap(mm: ptr[mm_struct]):
    """Unmap everything, free page tables and VMAs, drop files.  The mm may be used anew."""
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    vma = mm.mmap
    if vma:
        tlb = tlb_gather_mmu(mm, 0, NR_PAGES)
        unmap_vmas(tlb, vma, 0, NR_PAGES)
        free_pgtables(tlb, vma, 0, NR_PAGES)
        tlb_finish_mmu(tlb, 0, NR_PAGES)
    while vma:
        next = vma.vm_next
        vm_area_free(vma)
        vma = next
    mm.mmap = NULL
    mm.mm_rb = NULL
    mm.map_count = 0
    mm.total_vm = 0
    mm.data_vm = 0
    mm.exec_vm = 0
    mm.stack_vm = 0
    mm.locked_vm = 0
    mm.def_flags = 0
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)


def do_exit():
    """Process 1 ends."""
    exit_mmap(pool_object(mm_struct, 1))
