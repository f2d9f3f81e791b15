"""Changing the rights of a range.  mm/mprotect.c, 4.12."""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.mm.memory import change_protection
from seqfault.mm.merge import vma_merge
from seqfault.mm.mmap import split_vma
from seqfault.mm.places import mprotect_fixup_begin, mprotect_fixup_end
from seqfault.mm.types import (
    ENOMEM,
    VM_ACCESS_FLAGS,
    errno_t,
    flags_t,
    mm_struct,
    pgoff_t,
    prot_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma, vma_set_page_prot


def mprotect_fixup(
    mm: ptr[mm_struct],
    vma: ptr[vm_area_struct],
    prev: ptr[vm_area_struct],
    start: vpn_t,
    end: vpn_t,
    newflags: flags_t,
) -> tuple[errno_t, ptr[vm_area_struct]]:
    """Give [start, end) of `vma` new flags.  Also returns the VMA that ends it then (Linux's `pprev`)."""
    if newflags == vma.vm_flags:
        return 0, vma
    pgoff: pgoff_t = vma.vm_pgoff + (start - vma.vm_start)
    merged = vma_merge(mm, prev, start, end, newflags, vma.anon_vma, vma.vm_file, pgoff)
    if merged:
        vma = merged
    else:
        if start != vma.vm_start:
            error: errno_t = split_vma(mm, vma, start, True)
            if error != 0:
                return error, vma
        if end != vma.vm_end:
            error = split_vma(mm, vma, end, False)
            if error != 0:
                return error, vma

    mprotect_fixup_begin(vma)
    vma.vm_flags = newflags
    vma_set_page_prot(vma)
    change_protection(vma, start, end, vma.vm_page_prot)
    mprotect_fixup_end(vma)
    return 0, vma


def do_mprotect(mm: ptr[mm_struct], start: vpn_t, len: vpn_t, prot: prot_t) -> errno_t:
    """do_mprotect_pkey with mmap_sem held.  Stops at the first hole or error; what is done by then stays."""
    if len == 0:
        return 0
    end: vpn_t = start + len
    vma = find_vma(mm, start)
    if not vma:
        return -ENOMEM
    prev = vma.vm_prev
    if vma.vm_start > start:
        return -ENOMEM
    if start > vma.vm_start:
        prev = vma

    nstart: vpn_t = start
    while True:  # vma.vm_start <= nstart < vma.vm_end
        newflags: flags_t = prot | (vma.vm_flags & ~VM_ACCESS_FLAGS)
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
