"""Page faults of user code.  arch/x86/mm/fault.c, 4.12, with patch 10 of RFC v5 "Speculative page faults".

Faults that drop mmap_sem to wait (FAULT_FLAG_ALLOW_RETRY), the stack pointer's part in growing a stack,
protection keys, and faults of the kernel itself are not modelled.
"""

from __future__ import annotations

from seqfault.kernel import NULL, ptr
from seqfault.kernel.rwsem import down_read, down_write, downgrade_write, up_read, up_write
from seqfault.mm.fault import handle_mm_fault
from seqfault.mm.places import (
    FAULT_FLAG_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    do_page_fault_try,
    mmap_write_downgrade_begin,
    mmap_write_lock_end,
    mmap_write_unlock_begin,
)
from seqfault.mm.stack import expand_stack
from seqfault.mm.types import (
    LINUX,
    SIGBUS,
    SIGSEGV,
    VM_ACCESS_FLAGS,
    VM_GROWSDOWN,
    VM_WRITE,
    fault_t,
    mm_struct,
    signal_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma


def access_error(write: bool, vma: ptr[vm_area_struct]) -> bool:
    if write:
        return not vma.vm_flags & VM_WRITE
    return not vma.vm_flags & VM_ACCESS_FLAGS


def bad_area(mm: ptr[mm_struct]) -> signal_t:
    up_read(mm.mmap_sem)
    return SIGSEGV


def expand_stack_write_locked(mm: ptr[mm_struct], address: vpn_t) -> ptr[vm_area_struct]:
    """The end of lock_mm_and_find_vma: mmap_sem is given back, taken for writing, and all is looked at again (commit
    8d7071af8907, 6.5 and 6.4.1).  The VMA of `address`, with mmap_sem for reading; NULL without it."""
    up_read(mm.mmap_sem)
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    vma = find_vma(mm, address)
    found = vma != NULL and vma.vm_start <= address
    if vma and not found and vma.vm_flags & VM_GROWSDOWN:
        found = expand_stack(vma, address) == 0
    if not found:
        mmap_write_unlock_begin(mm)
        up_write(mm.mmap_sem)
        return NULL
    mmap_write_downgrade_begin(mm)
    downgrade_write(mm.mmap_sem)
    return vma


def fault_signal(fault: fault_t) -> signal_t:
    if fault & VM_FAULT_SIGBUS:
        return SIGBUS
    if fault & VM_FAULT_SIGSEGV:
        return SIGSEGV
    return 0


def do_page_fault(mm: ptr[mm_struct], address: vpn_t, write: bool) -> signal_t:
    """0: the instruction is to be repeated; else the signal that it gets.  An error that is met without
    mmap_sem is met once more the classic way up to v10 of the series (4.16).

    When memory is short the OOM killer makes room, and the instruction is repeated as well.
    """
    fault: fault_t = do_page_fault_try(mm, address, write)
    if LINUX >= 417:
        if not fault & VM_FAULT_RETRY:
            return fault_signal(fault)
    elif not fault & (VM_FAULT_RETRY | VM_FAULT_ERROR):
        return 0

    down_read(mm.mmap_sem)
    vma = find_vma(mm, address)
    if not vma:
        return bad_area(mm)
    if vma.vm_start > address:
        if not vma.vm_flags & VM_GROWSDOWN:
            return bad_area(mm)
        if LINUX >= 604:
            vma = expand_stack_write_locked(mm, address)
            if not vma:
                return SIGSEGV
        elif expand_stack(vma, address) != 0:
            return bad_area(mm)
    if access_error(write, vma):
        return bad_area(mm)
    fault = handle_mm_fault(vma, address, FAULT_FLAG_WRITE if write else 0)
    up_read(mm.mmap_sem)
    return fault_signal(fault)
