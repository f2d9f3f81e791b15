"""Stacks that grow.  expand_downwards of mm/mmap.c, 4.12.

Apart from mm/mmap.py because faults call it, and unmapping calls what faults use.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.kernel.spinlock import spin_lock, spin_unlock
from seqfault.mm.anon_vma import anon_vma_lock_write, anon_vma_prepare, anon_vma_unlock_write
from seqfault.mm.places import expand_downwards_begin, expand_downwards_end
from seqfault.mm.types import (
    ENOMEM,
    VM_GROWSDOWN,
    current_mm,
    errno_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import validate_mm

STACK_GUARD_GAP = 0  # Linux: 256 pages, from 4.12-rc7; the series is on rc5, and a model's space is too small


def expand_downwards(vma: ptr[vm_area_struct], address: vpn_t) -> errno_t:
    """Let a stack reach down to `address`.  Only mmap_sem for reading is held, so others may do so too."""
    mm = current_mm()
    prev = vma.vm_prev
    if prev and prev.vm_end + STACK_GUARD_GAP > address and not prev.vm_flags & VM_GROWSDOWN:
        return -ENOMEM

    # Without an anon_vma its lock below would protect nothing.
    if anon_vma_prepare(vma) != 0:
        return -ENOMEM
    error: errno_t = 0
    anon_vma_lock_write(vma.anon_vma)
    if address < vma.vm_start:  # or somebody was faster
        grow: vpn_t = vma.vm_start - address
        error = -ENOMEM
        if grow <= vma.vm_pgoff:
            error = 0
            spin_lock(mm.page_table_lock)  # other stacks of the mm need not share the anon_vma
            expand_downwards_begin(vma)
            vma.vm_start = address
            vma.vm_pgoff -= grow
            expand_downwards_end(vma)
            spin_unlock(mm.page_table_lock)
    anon_vma_unlock_write(vma.anon_vma)
    validate_mm(mm)
    return error


def expand_stack(vma: ptr[vm_area_struct], address: vpn_t) -> errno_t:
    return expand_downwards(vma, address)
