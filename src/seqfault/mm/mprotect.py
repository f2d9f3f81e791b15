"""Changing the rights of a range.  mm/mprotect.c, 4.12, 6.1, 6.18."""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.mm.limits import may_expand_vm, security_vm_enough_memory, vm_stat_account, vma_is_sealed
from seqfault.mm.memory import change_protection
from seqfault.mm.modify import vm_flags_reset, vma_modify_flags
from seqfault.mm.opcodes import UAPI_PROT_GROWSDOWN, UAPI_PROT_GROWSUP
from seqfault.mm.places import mprotect_fixup_begin, mprotect_fixup_end
from seqfault.mm.populate import populate_vma_page_range
from seqfault.mm.types import (
    EACCES,
    EINVAL,
    ENOMEM,
    EPERM,
    FULL,
    LINUX,
    VM_ACCESS_FLAGS,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
    errno_t,
    flags_t,
    mm_struct,
    prot_arg_t,
    vm_area_struct,
    vma_mm,
    vpn_t,
)
from seqfault.mm.vma import find_vma, vma_set_page_prot

PROT_SEM = 8


def account_flags(vma: ptr[vm_area_struct], pages: vpn_t, newflags: flags_t) -> tuple[errno_t, flags_t]:
    """A private mapping that becomes writable is charged.  From 6.7 on, one that was never touched is let off when
    it becomes unwritable again."""
    mm = vma_mm(vma)
    oldflags: flags_t = vma.vm_flags
    if newflags & VM_WRITE:
        if not may_expand_vm(mm, newflags, pages) and may_expand_vm(mm, oldflags, pages):
            return -ENOMEM, newflags
        if not oldflags & (VM_ACCOUNT | VM_WRITE | VM_SHARED | VM_NORESERVE):
            if security_vm_enough_memory(mm, pages) != 0:
                return -ENOMEM, newflags
            newflags |= VM_ACCOUNT
    elif LINUX >= 607 and oldflags & VM_ACCOUNT and not vma.vm_file and not vma.anon_vma:
        newflags &= ~VM_ACCOUNT
    return 0, newflags


def mprotect_fixup(
    mm: ptr[mm_struct],
    vma: ptr[vm_area_struct],
    prev: ptr[vm_area_struct],
    start: vpn_t,
    end: vpn_t,
    newflags: flags_t,
) -> tuple[errno_t, ptr[vm_area_struct]]:
    """Give [start, end) of `vma` new flags.  Also returns the VMA that ends it then (Linux's `pprev`)."""
    if FULL and vma_is_sealed(vma):
        return -EPERM, vma
    if newflags == vma.vm_flags:
        return 0, vma
    if FULL:
        oldflags: flags_t = vma.vm_flags
        error, newflags = account_flags(vma, end - start, newflags)
        if error != 0:
            return error, vma
    error, vma = vma_modify_flags(mm, prev, vma, start, end, newflags)
    if error != 0:
        return error, vma

    mprotect_fixup_begin(vma)
    vm_flags_reset(vma, newflags)
    vma_set_page_prot(vma)
    change_protection(vma, start, end, vma.vm_page_prot)
    mprotect_fixup_end(vma)
    if FULL:
        # Locked pages that become writable are copied now, not by a fault (commit 36f881883c57, 4.2).
        if oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and newflags & VM_WRITE:
            populate_vma_page_range(vma, start, end, mm)
        vm_stat_account(mm, oldflags, start - end)
        vm_stat_account(mm, newflags, end - start)
    return 0, vma


def do_mprotect(mm: ptr[mm_struct], start: vpn_t, len: vpn_t, prot: prot_arg_t) -> errno_t:
    """do_mprotect_pkey with mmap_sem held.  Stops at the first hole or error; what is done by then stays."""
    if len == 0:
        return 0
    end: vpn_t = start + len
    if FULL:
        grows_down = prot & UAPI_PROT_GROWSDOWN != 0
        grows_up = prot & UAPI_PROT_GROWSUP != 0
        if grows_down and grows_up:
            return -EINVAL
        prot &= ~(UAPI_PROT_GROWSDOWN | UAPI_PROT_GROWSUP)
        if prot & ~(VM_ACCESS_FLAGS | PROT_SEM):
            return -EINVAL
        prot &= VM_ACCESS_FLAGS
    vma = find_vma(mm, start)
    if not vma:
        return -ENOMEM
    prev = vma.vm_prev
    if FULL and grows_down:
        if vma.vm_start >= end:
            return -ENOMEM
        start = vma.vm_start
        if not vma.vm_flags & VM_GROWSDOWN:
            return -EINVAL
    elif vma.vm_start > start:
        return -ENOMEM
    elif FULL and grows_up:
        return -EINVAL  # nothing grows up on x86
    if start > vma.vm_start:
        prev = vma

    nstart: vpn_t = start
    while True:  # vma.vm_start <= nstart < vma.vm_end
        newflags: flags_t = prot | (vma.vm_flags & ~VM_ACCESS_FLAGS)
        if FULL and newflags & ~(newflags >> 6) & VM_ACCESS_FLAGS:  # VM_MAYREAD and so on lie 6 bits higher
            return -EACCES
        tmp: vpn_t = min(vma.vm_end, end)
        error, prev = mprotect_fixup(mm, vma, prev, nstart, tmp, newflags)
        if error != 0:
            return error
        nstart = max(tmp, prev.vm_end)
        if nstart >= end:
            return 0
        vma = prev.vm_next
        if not vma or vma.vm_start != nstart:
            return -ENOMEM
