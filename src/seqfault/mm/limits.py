"""Limits and accounting of an address space: RLIMIT_AS, sysctl_max_map_count, total_vm, VM_ACCOUNT, seals.

mm/mmap.c, mm/util.c, include/linux/mm.h, 4.12 to 6.18.  Used with FULL only.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.mm.types import (
    LINUX,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_NORESERVE,
    VM_SEALED,
    VM_SHARED,
    VM_WRITE,
    errno_t,
    flags_t,
    mm_struct,
    vm_area_struct,
    vm_count_t,
    vm_delta_t,
    vpn_t,
)

DEFAULT_MAX_MAP_COUNT = 65530
VM_STACK = VM_GROWSDOWN


def is_exec_mapping(vm_flags: flags_t) -> bool:
    return vm_flags & (VM_EXEC | VM_WRITE | VM_STACK) == VM_EXEC


def is_stack_mapping(vm_flags: flags_t) -> bool:
    return vm_flags & VM_STACK == VM_STACK


def is_data_mapping(vm_flags: flags_t) -> bool:
    return vm_flags & (VM_WRITE | VM_SHARED | VM_STACK) == VM_WRITE


def vm_stat_account(mm: ptr[mm_struct], vm_flags: flags_t, npages: vm_delta_t):
    """`npages` more (or fewer) pages are mapped with these flags."""
    mm.total_vm += npages
    if is_exec_mapping(vm_flags):
        mm.exec_vm += npages
    elif is_stack_mapping(vm_flags):
        mm.stack_vm += npages
    elif is_data_mapping(vm_flags):
        mm.data_vm += npages


def may_expand_vm(mm: ptr[mm_struct], vm_flags: flags_t, npages: vm_delta_t) -> bool:
    """Whether RLIMIT_AS allows `npages` more.  RLIMIT_DATA is left at infinity."""
    limit: vm_count_t = mm.rlimit_as
    return limit == 0 or mm.total_vm + npages <= limit - 1


def sysctl_max_map_count(mm: ptr[mm_struct]) -> vm_count_t:
    """One for all in Linux; here each address space may be given its own."""
    limit: vm_count_t = mm.max_map_count
    if limit == 0:
        return DEFAULT_MAX_MAP_COUNT
    return limit


def map_count_full(mm: ptr[mm_struct]) -> bool:
    """Whether one more VMA would be too many."""
    return mm.map_count >= sysctl_max_map_count(mm)


def accountable_mapping(vm_flags: flags_t) -> bool:
    """Whether memory is charged for a mapping when it is made: private and writable."""
    return vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE


def security_vm_enough_memory(mm: ptr[mm_struct], pages: vpn_t) -> errno_t:
    """overcommit_memory 0 refuses only what is larger than all of memory and swap, which no model's space is."""
    return 0


def vma_is_sealed(vma: ptr[vm_area_struct]) -> bool:
    """mseal: from 6.10."""
    return LINUX >= 610 and vma.vm_flags & VM_SEALED != 0
