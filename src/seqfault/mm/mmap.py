"""Mapping, unmapping, splitting.  mm/mmap.c, 4.12."""

from __future__ import annotations

from seqfault.kernel import NULL, kmem_cache_alloc, kmem_cache_free, kmem_cache_zalloc, ptr
from seqfault.kernel.task import might_sleep
from seqfault.mm.anon_vma import anon_vma_clone
from seqfault.mm.file import get_file
from seqfault.mm.memory import free_pgtables, unmap_vmas
from seqfault.mm.merge import vma_adjust, vma_merge
from seqfault.mm.places import mmap_region_flags_begin, mmap_region_flags_end, vm_area_free
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.stack import expand_downwards as expand_downwards
from seqfault.mm.tlb import tlb_finish_mmu, tlb_gather_mmu
from seqfault.mm.types import (
    EINVAL,
    ENOMEM,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    MAP_SHARED,
    NR_PAGES,
    VM_GROWSDOWN,
    VM_SHARED,
    VM_SOFTDIRTY,
    addr_or_errno_t,
    errno_t,
    file,
    flags_t,
    mm_struct,
    pgoff_t,
    prot_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import (
    find_vma,
    find_vma_links,
    validate_mm,
    vm_get_page_prot,
    vma_link,
    vma_rb_erase,
    vma_set_page_prot,
)

TASK_SIZE = NR_PAGES


# -- mapping
def get_unmapped_area(mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, flags: flags_t) -> addr_or_errno_t:
    """Where a mapping goes: at `addr` if fixed, or free; else into the highest gap that is large enough.

    Linux finds the gap with the tree's augmentation; here by walking the list.  Address 0 is no hint.
    """
    if len > TASK_SIZE:
        return -ENOMEM
    if flags & MAP_FIXED:
        if addr > TASK_SIZE - len:
            return -ENOMEM
        return addr
    if addr != 0 and addr <= TASK_SIZE - len:
        vma = find_vma(mm, addr)
        if not vma or addr + len <= vma.vm_start:
            return addr
    found: addr_or_errno_t = -ENOMEM
    low: vpn_t = 0
    vma = mm.mmap
    while vma:
        gap_end: vpn_t = vma.vm_start
        if gap_end - low >= len:
            found = gap_end - len
        low = vma.vm_end
        vma = vma.vm_next
    if TASK_SIZE - low >= len:
        found = TASK_SIZE - len
    return found


def do_mmap(
    mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, prot: prot_t, flags: flags_t, f: ptr[file], pgoff: pgoff_t
) -> addr_or_errno_t:
    """The arguments' checks.  Shared anonymous memory (a file of its own in Linux) is refused.

    Files are open for reading and writing; limits on the number of VMAs and on memory are not modelled.
    """
    if len == 0:
        return -EINVAL
    at: addr_or_errno_t = get_unmapped_area(mm, addr, len, flags)
    if at < 0:
        return at
    if flags & MAP_SHARED and flags & MAP_PRIVATE:
        return -EINVAL
    vm_flags: flags_t = prot
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if f:
        if flags & MAP_SHARED:
            vm_flags |= VM_SHARED
        elif not flags & MAP_PRIVATE:
            return -EINVAL
        if vm_flags & VM_GROWSDOWN:
            return -EINVAL
    else:
        if not flags & MAP_ANONYMOUS or not flags & MAP_PRIVATE:
            return -EINVAL
        pgoff = at
    return mmap_region(mm, f, at, len, vm_flags, pgoff)


def mmap_region(
    mm: ptr[mm_struct], f: ptr[file], addr: vpn_t, len: vpn_t, vm_flags: flags_t, pgoff: pgoff_t
) -> addr_or_errno_t:
    end: vpn_t = addr + len
    err, prev, rb_parent, rb_left = find_vma_links(mm, addr, end)
    while err != 0:
        if do_munmap(mm, addr, len) != 0:
            return -ENOMEM
        err, prev, rb_parent, rb_left = find_vma_links(mm, addr, end)

    vma = vma_merge(mm, prev, addr, end, vm_flags, NULL, f, pgoff)
    if not vma:
        if mm_alloc_fails():
            return -ENOMEM
        vma = kmem_cache_zalloc(vm_area_struct)
        vma.vm_start = addr
        vma.vm_end = end
        vma.vm_flags = vm_flags
        vma.vm_page_prot = vm_get_page_prot(vm_flags)
        vma.vm_pgoff = pgoff
        if f:
            get_file(f)
            vma.vm_file = f
        vma_link(mm, vma, prev, rb_parent, rb_left)

    # New and expanded VMAs alike are soft-dirty.
    mmap_region_flags_begin(vma)
    vma.vm_flags |= VM_SOFTDIRTY
    vma_set_page_prot(vma)
    mmap_region_flags_end(vma)
    return addr


# -- splitting
def __split_vma(mm: ptr[mm_struct], vma: ptr[vm_area_struct], addr: vpn_t, new_below: bool) -> errno_t:
    """Split `vma` at `addr`; the new VMA is the part below or above it."""
    if mm_alloc_fails():
        return -ENOMEM
    new = kmem_cache_alloc(vm_area_struct)
    # Linux copies the whole struct; its links are set when it is linked in, its bounds below.
    new.vm_start = vma.vm_start
    new.vm_end = vma.vm_end
    new.vm_flags = vma.vm_flags
    new.vm_page_prot = vma.vm_page_prot
    new.vm_pgoff = vma.vm_pgoff
    new.vm_file = vma.vm_file
    new.anon_vma = vma.anon_vma
    new.anon_vma_chain = NULL
    if new_below:
        new.vm_end = addr
    else:
        new.vm_start = addr
        new.vm_pgoff += addr - vma.vm_start

    err: errno_t = anon_vma_clone(new, vma)
    if err != 0:
        kmem_cache_free(new)  # nobody has seen it
        return err
    if new.vm_file:
        get_file(new.vm_file)

    # With a VMA to insert, nothing is imported, so this cannot fail.
    if new_below:
        return vma_adjust(vma, addr, vma.vm_end, vma.vm_pgoff + (addr - new.vm_start), new)
    return vma_adjust(vma, vma.vm_start, addr, vma.vm_pgoff, new)


def split_vma(mm: ptr[mm_struct], vma: ptr[vm_area_struct], addr: vpn_t, new_below: bool) -> errno_t:
    """Linux asks here whether there would be too many VMAs."""
    return __split_vma(mm, vma, addr, new_below)


# -- unmapping
def remove_vma(vma: ptr[vm_area_struct]) -> ptr[vm_area_struct]:
    """Free one VMA that is out of list and tree.  Returns the next one of the chain that it was in."""
    next = vma.vm_next
    might_sleep()
    vm_area_free(vma)
    return next


def remove_vma_list(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    while vma:
        vma = remove_vma(vma)
    validate_mm(mm)


def unmap_region(
    mm: ptr[mm_struct], vma: ptr[vm_area_struct], prev: ptr[vm_area_struct], start: vpn_t, end: vpn_t
):
    """Unmap the pages of a chain of detached VMAs, and free the page tables that nobody else needs."""
    next = prev.vm_next if prev else mm.mmap
    tlb = tlb_gather_mmu(mm, start, end)
    unmap_vmas(tlb, vma, start, end)
    free_pgtables(tlb, vma, prev.vm_end if prev else 0, next.vm_start if next else TASK_SIZE)
    tlb_finish_mmu(tlb, start, end)


def detach_vmas_to_be_unmapped(
    mm: ptr[mm_struct], vma: ptr[vm_area_struct], prev: ptr[vm_area_struct], end: vpn_t
):
    """Take the VMAs from `vma` to `end` out of tree and list; they stay chained by vm_next."""
    vma.vm_prev = NULL
    tail_vma = vma
    while True:
        vma_rb_erase(vma, mm)
        mm.map_count -= 1
        tail_vma = vma
        vma = vma.vm_next
        if not vma or vma.vm_start >= end:
            break
    if prev:
        prev.vm_next = vma
    else:
        mm.mmap = vma
    if vma:
        vma.vm_prev = prev
    tail_vma.vm_next = NULL


def do_munmap(mm: ptr[mm_struct], start: vpn_t, len: vpn_t) -> errno_t:
    if start > TASK_SIZE or len > TASK_SIZE - start:
        return -EINVAL
    if len == 0:
        return -EINVAL

    vma = find_vma(mm, start)
    if not vma:
        return 0
    prev = vma.vm_prev
    end: vpn_t = start + len
    if vma.vm_start >= end:
        return 0

    # What reaches out of the range on either side is split off first.
    if start > vma.vm_start:
        error: errno_t = __split_vma(mm, vma, start, False)
        if error != 0:
            return error
        prev = vma
    last = find_vma(mm, end)
    if last and end > last.vm_start:
        error = __split_vma(mm, last, end, True)
        if error != 0:
            return error
    vma = prev.vm_next if prev else mm.mmap

    detach_vmas_to_be_unmapped(mm, vma, prev, end)
    unmap_region(mm, vma, prev, start, end)
    remove_vma_list(mm, vma)
    return 0
