"""Stacks that grow.  expand_downwards and acct_stack_growth of mm/mmap.c, 4.12, 6.1, 6.18 (mm/vma.c).

Apart from mm/mmap.py because faults call it, and unmapping calls what faults use.
"""

from __future__ import annotations

from seqfault.kernel import Size, ptr
from seqfault.kernel.spinlock import spin_lock, spin_unlock
from seqfault.mm.anon_vma import anon_vma_lock_write, anon_vma_prepare, anon_vma_unlock_write
from seqfault.mm.limits import may_expand_vm, security_vm_enough_memory, vm_stat_account
from seqfault.mm.places import (
    expand_downwards_begin,
    expand_downwards_end,
    expand_downwards_lock,
    expand_downwards_store,
)
from seqfault.mm.types import (
    ENOMEM,
    FULL,
    LINUX,
    VM_ACCESS_FLAGS,
    VM_GROWSDOWN,
    VM_LOCKED,
    current_mm,
    errno_t,
    mm_struct,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import validate_mm, vma_gap_update

# Linux has 256 pages, from 4.12-rc7 (commit 1be7107fbe18) on: the series is on rc5, and a model's space is small.
STACK_GUARD_GAP = Size("STACK_GUARD_GAP", 0)
RLIMIT_STACK = Size("RLIMIT_STACK", 2048)


def stack_guard_gap_hit(prev: ptr[vm_area_struct], address: vpn_t) -> bool:
    """Whether a stack would come too near to what lies below it.  Another stack is let off; so is, since commit
    32e4e6d5cbb0 (4.13), what nobody can access."""
    if prev.vm_flags & VM_GROWSDOWN or (LINUX >= 413 and not prev.vm_flags & VM_ACCESS_FLAGS):
        return False
    return address - prev.vm_end < STACK_GUARD_GAP


def acct_stack_growth(mm: ptr[mm_struct], vma: ptr[vm_area_struct], size: vpn_t, grow: vpn_t) -> errno_t:
    """The limits of a stack of `size` pages, `grow` of them new."""
    if not may_expand_vm(mm, vma.vm_flags, grow) or size > RLIMIT_STACK:
        return -ENOMEM
    return security_vm_enough_memory(mm, grow)


def expand_stack_account(mm: ptr[mm_struct], vma: ptr[vm_area_struct], grow: vpn_t):
    if vma.vm_flags & VM_LOCKED:
        mm.locked_vm += grow
    vm_stat_account(mm, vma.vm_flags, grow)


def expand_downwards(vma: ptr[vm_area_struct], address: vpn_t) -> errno_t:
    """Let a stack reach down to `address`.  Only mmap_sem for reading is held, so others may do so too."""
    mm = current_mm()
    prev = vma.vm_prev
    if FULL and prev and stack_guard_gap_hit(prev, address):
        return -ENOMEM
    if not FULL and prev and prev.vm_end > address and not prev.vm_flags & VM_GROWSDOWN:
        return -ENOMEM

    # Without an anon_vma its lock below would protect nothing.
    if anon_vma_prepare(vma) != 0:
        return -ENOMEM
    error: errno_t = 0
    expand_downwards_lock(vma)
    anon_vma_lock_write(vma.anon_vma)
    if address < vma.vm_start:  # or somebody was faster
        grow: vpn_t = vma.vm_start - address
        error = -ENOMEM
        if grow <= vma.vm_pgoff:
            error = 0
            if FULL:
                error = acct_stack_growth(mm, vma, vma.vm_end - address, grow)
        if error == 0:
            spin_lock(mm.page_table_lock)  # other stacks of the mm need not share the anon_vma
            if FULL:
                expand_stack_account(mm, vma, grow)
            expand_downwards_begin(vma)
            vma.vm_start = address
            vma.vm_pgoff -= grow
            expand_downwards_end(vma)
            expand_downwards_store(vma)
            vma_gap_update(vma)
            spin_unlock(mm.page_table_lock)
    anon_vma_unlock_write(vma.anon_vma)
    validate_mm(mm)
    return error


def expand_stack(vma: ptr[vm_area_struct], address: vpn_t) -> errno_t:
    return expand_downwards(vma, address)
