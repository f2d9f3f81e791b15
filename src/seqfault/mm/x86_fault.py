"""Page faults of user code.  arch/x86/mm/fault.c, 4.12, with patch 10 of RFC v5 "Speculative page faults".

Faults that drop mmap_sem to wait (FAULT_FLAG_ALLOW_RETRY), the stack pointer's part in growing a stack,
protection keys, and faults of the kernel itself are not modelled.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.kernel.rwsem import down_read, up_read
from seqfault.mm.fault import handle_mm_fault
from seqfault.mm.places import (
    FAULT_FLAG_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    do_page_fault_try,
)
from seqfault.mm.stack import expand_stack
from seqfault.mm.types import (
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


def do_page_fault(mm: ptr[mm_struct], address: vpn_t, write: bool) -> signal_t:
    """0: the instruction is to be repeated; else the signal that it gets.

    When memory is short the OOM killer makes room, and the instruction is repeated as well.
    """
    fault: fault_t = do_page_fault_try(mm, address, write)
    if not fault & (VM_FAULT_RETRY | VM_FAULT_ERROR):
        return 0

    down_read(mm.mmap_sem)
    vma = find_vma(mm, address)
    if not vma:
        return bad_area(mm)
    if vma.vm_start > address:
        if not vma.vm_flags & VM_GROWSDOWN:
            return bad_area(mm)
        if expand_stack(vma, address) != 0:
            return bad_area(mm)
    if access_error(write, vma):
        return bad_area(mm)
    fault = handle_mm_fault(vma, address, FAULT_FLAG_WRITE if write else 0)
    up_read(mm.mmap_sem)
    if fault & VM_FAULT_SIGBUS:
        return SIGBUS
    if fault & VM_FAULT_SIGSEGV:
        return SIGSEGV
    return 0
