"""The break.  mm/mmap.c, 4.12, 6.1, 6.18.  Used with FULL only."""

from __future__ import annotations

from seqfault.kernel import NULL, kmem_cache_zalloc, ptr
from seqfault.mm.limits import may_expand_vm, security_vm_enough_memory, sysctl_max_map_count
from seqfault.mm.merge import can_vma_merge_after, vma_expand_end
from seqfault.mm.merge_6 import vma_merge_new_range, vmg_init
from seqfault.mm.mmap import do_munmap
from seqfault.mm.modify import vma_merge_new
from seqfault.mm.places import mmap_region_link, vm_area_alloc_end
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.types import (
    ENOMEM,
    LINUX,
    NR_MMS,
    NR_PAGES,
    VM_ACCOUNT,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_SOFTDIRTY,
    VM_WRITE,
    brk_t,
    errno_t,
    flags_t,
    mm_struct,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.unmapped_area import vm_start_gap
from seqfault.mm.vma import find_vma, find_vma_links, find_vma_prev, vm_get_page_prot, vma_link

PAGE = 4096
VM_DATA_DEFAULT_FLAGS = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC


def brk_merge(
    mm: ptr[mm_struct], brkvma: ptr[vm_area_struct], addr: vpn_t, len: vpn_t, vm_flags: flags_t
) -> ptr[vm_area_struct]:
    """The VMA of the heap that grew over [addr, addr + len), or NULL.

    6.x lets only the VMA before grow, if it ends in the heap; 4.12 merges on either side as mmap does.
    """
    if LINUX < 600:
        _, prev = find_vma_prev(mm, addr)
        return vma_merge_new(mm, prev, addr, addr + len, vm_flags, NULL, addr)
    if not brkvma or brkvma.vm_end != addr:
        return NULL
    if LINUX >= 618:
        vmg = vmg_init(mm, brkvma, addr, addr + len, vm_flags, NULL, addr)
        vmg.just_expand = True
        return vma_merge_new_range(vmg)
    if can_vma_merge_after(brkvma, vm_flags, NULL, NULL, addr):
        return vma_expand_end(brkvma, addr + len)
    return NULL


def do_brk_flags(mm: ptr[mm_struct], brkvma: ptr[vm_area_struct], addr: vpn_t, len: vpn_t) -> errno_t:
    """Make [addr, addr + len), where nothing is, part of the heap."""
    vm_flags: flags_t = VM_DATA_DEFAULT_FLAGS | VM_ACCOUNT | mm.def_flags
    if not may_expand_vm(mm, vm_flags, len):
        return -ENOMEM
    if mm.map_count > sysctl_max_map_count(mm):
        return -ENOMEM
    if security_vm_enough_memory(mm, len) != 0:
        return -ENOMEM
    vma = brk_merge(mm, brkvma, addr, len, vm_flags)
    if not vma:
        if mm_alloc_fails():
            return -ENOMEM
        vma = kmem_cache_zalloc(vm_area_struct)
        if NR_MMS > 1:
            vma.vm_mm = mm
        vma.vm_start = addr
        vma.vm_end = addr + len
        vma.vm_pgoff = addr
        vma.vm_flags = vm_flags
        vma.vm_page_prot = vm_get_page_prot(vm_flags)
        vm_area_alloc_end(mm, vma)
        mmap_region_link(vma)
        _, prev, rb_parent, rb_left = find_vma_links(mm, addr, addr + len)
        vma_link(mm, vma, prev, rb_parent, rb_left)
    mm.total_vm += len
    mm.data_vm += len
    if vm_flags & VM_LOCKED:
        mm.locked_vm += len
    vma.vm_flags |= VM_SOFTDIRTY
    return 0


def brk_shrink(mm: ptr[mm_struct], newbrk: vpn_t, oldbrk: vpn_t) -> errno_t:
    """6.x refuses if nothing of the heap is there any more (commit 2e7ce7d354f2).  1: mmap_sem is held for reading
    only by now (commit 9bc8039e715d, 4.20)."""
    if LINUX >= 600:
        brkvma = find_vma(mm, newbrk)
        if not brkvma or brkvma.vm_start >= oldbrk:
            return -ENOMEM
    return do_munmap(mm, newbrk, oldbrk - newbrk, LINUX >= 420)


def brk_grow(mm: ptr[mm_struct], oldbrk: vpn_t, newbrk: vpn_t) -> bool:
    if newbrk > NR_PAGES:
        return False
    next = find_vma(mm, oldbrk)
    if next and newbrk + 1 > vm_start_gap(next):
        return False
    brkvma: ptr[vm_area_struct] = NULL
    if LINUX >= 600:
        _, brkvma = find_vma_prev(mm, oldbrk)
        if brkvma and brkvma.vm_end * PAGE <= mm.start_brk:
            brkvma = NULL  # before the heap
    return do_brk_flags(mm, brkvma, oldbrk, newbrk - oldbrk) == 0


def do_brk(mm: ptr[mm_struct], brk: brk_t) -> tuple[brk_t, bool]:
    """brk(2) with mmap_sem held, in bytes from page 0: the break then, which on any error is as before; and whether
    mmap_sem is held for reading only by now.

    RLIMIT_DATA is left at infinity.  What grew with VM_LOCKED in def_flags the caller populates.
    """
    origbrk: brk_t = mm.brk
    if brk < mm.start_brk:
        return origbrk, False
    newbrk: vpn_t = (brk + PAGE - 1) // PAGE
    oldbrk: vpn_t = (origbrk + PAGE - 1) // PAGE
    if newbrk < oldbrk:
        mm.brk = brk  # while nobody else can move it
        error: errno_t = brk_shrink(mm, newbrk, oldbrk)
        if error < 0:
            mm.brk = origbrk
            return origbrk, False
        return brk, error == 1
    if newbrk > oldbrk and not brk_grow(mm, oldbrk, newbrk):
        return origbrk, False
    mm.brk = brk
    return brk, False
