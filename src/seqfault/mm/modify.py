"""Splitting VMAs, and what a change of flags does to a range: merge or split.  mm/mmap.c, mm/vma.c, 4.12 to 6.18.

Each function names the release's own functions that it stands for.
"""

from __future__ import annotations

from seqfault.kernel import NULL, kmem_cache_alloc, kmem_cache_free, ptr
from seqfault.mm.anon_vma import anon_vma_clone
from seqfault.mm.file import get_file
from seqfault.mm.limits import map_count_full
from seqfault.mm.merge import vma_adjust, vma_expand, vma_merge
from seqfault.mm.merge_6 import (
    vma_expand_mapping,
    vma_insert_split,
    vma_merge_existing_range,
    vma_merge_new_range,
    vmg_init,
)
from seqfault.mm.places import split_vma_new, split_vma_vma, vm_area_dup_end
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.types import (
    ENOMEM,
    FULL,
    LINUX,
    NR_MMS,
    VM_STICKY,
    errno_t,
    file,
    flags_t,
    mm_struct,
    pgoff_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import validate_mm


# -- splitting
def __split_vma(mm: ptr[mm_struct], vma: ptr[vm_area_struct], addr: vpn_t, new_below: bool) -> errno_t:
    """Split `vma` at `addr`; the new VMA is the part below or above it."""
    if mm_alloc_fails():
        return -ENOMEM
    new = kmem_cache_alloc(vm_area_struct)
    # Linux copies the whole struct; its links are set when it is linked in, its bounds below.
    new.vm_start = vma.vm_start
    new.vm_end = vma.vm_end
    if NR_MMS > 1:
        new.vm_mm = mm
    new.vm_flags = vma.vm_flags
    new.vm_page_prot = vma.vm_page_prot
    new.vm_pgoff = vma.vm_pgoff
    new.vm_file = vma.vm_file
    new.anon_vma = vma.anon_vma
    new.anon_vma_chain = NULL
    vm_area_dup_end(new)
    if new_below:
        new.vm_end = addr
    else:
        new.vm_start = addr
        new.vm_pgoff += addr - vma.vm_start

    err: errno_t = anon_vma_clone(new, vma)
    if err != 0:
        kmem_cache_free(new)  # nobody has seen it
        return err
    if LINUX >= 618 or (not FULL and LINUX >= 603):
        split_vma_vma(vma)
        split_vma_new(new)
        vma_insert_split(mm, vma, new, addr, new_below)
        validate_mm(mm)
        return 0
    if new.vm_file:
        get_file(new.vm_file)

    # With a VMA to insert, nothing is imported, so this cannot fail.
    if new_below:
        return vma_adjust(vma, addr, vma.vm_end, vma.vm_pgoff + (addr - new.vm_start), new)
    return vma_adjust(vma, vma.vm_start, addr, vma.vm_pgoff, new)


def split_vma(mm: ptr[mm_struct], vma: ptr[vm_area_struct], addr: vpn_t, new_below: bool) -> errno_t:
    if FULL and map_count_full(mm):
        return -ENOMEM
    return __split_vma(mm, vma, addr, new_below)


# -- changing
def vm_flags_reset(vma: ptr[vm_area_struct], newflags: flags_t):
    """After vma_modify_flags: what is sticky of the VMAs that merged stays."""
    if FULL and LINUX >= 618:
        newflags |= vma.vm_flags & VM_STICKY
    vma.vm_flags = newflags


def vma_modify_flags(
    mm: ptr[mm_struct],
    prev: ptr[vm_area_struct],
    vma: ptr[vm_area_struct],
    start: vpn_t,
    end: vpn_t,
    newflags: flags_t,
) -> tuple[errno_t, ptr[vm_area_struct]]:
    """Make a VMA of [start, end) of `vma`, which is about to get `newflags` by vm_flags_reset; returns it.

    `prev`: the VMA before, or `vma` if the range begins inside it.  On an error a split may have happened.  Up to
    6.2 the callers of vma_merge and split_vma had these lines each; where memory for a merge is short they go on
    without it, from 6.12 on they fail.
    """
    pgoff: pgoff_t = vma.vm_pgoff + (start - vma.vm_start)
    if LINUX >= 618 or (not FULL and LINUX >= 603):
        vmg = vmg_init(mm, prev, start, end, newflags, vma.vm_file, pgoff)
        vmg.middle = vma
        vmg.anon_vma = vma.anon_vma
        merged = vma_merge_existing_range(vmg)
        if LINUX >= 612 and not merged and vmg.nomem:
            return -ENOMEM, vma
    else:
        merged = vma_merge(mm, prev, start, end, newflags, vma.anon_vma, vma.vm_file, pgoff)
    if merged:
        return 0, merged
    if start != vma.vm_start:
        error: errno_t = split_vma(mm, vma, start, True)
        if error != 0:
            return error, vma
    if end != vma.vm_end:
        error = split_vma(mm, vma, end, False)
        if error != 0:
            return error, vma
    return 0, vma


# -- new ranges
def vma_merge_new(
    mm: ptr[mm_struct],
    prev: ptr[vm_area_struct],
    addr: vpn_t,
    end: vpn_t,
    vm_flags: flags_t,
    f: ptr[file],
    pgoff: pgoff_t,
) -> ptr[vm_area_struct]:
    """mmap: [addr, end) is empty, `prev` the VMA before it.  The VMA that covers it, or NULL."""
    if LINUX >= 618 or (not FULL and LINUX >= 603):
        vmg = vmg_init(mm, prev, addr, end, vm_flags, f, pgoff)
        vmg.next = prev.vm_next if prev else mm.mmap
        if LINUX < 612:
            return vma_expand_mapping(vmg)
        return vma_merge_new_range(vmg)
    if LINUX >= 600:
        return vma_expand(mm, prev, addr, end, vm_flags, f, pgoff)
    return vma_merge(mm, prev, addr, end, vm_flags, NULL, f, pgoff)


def vma_merge_copied(
    mm: ptr[mm_struct],
    prev: ptr[vm_area_struct],
    addr: vpn_t,
    end: vpn_t,
    pgoff: pgoff_t,
    src: ptr[vm_area_struct],
) -> ptr[vm_area_struct]:
    """copy_vma: [addr, end) is empty, and pages of `src` come to lie there.  The VMA that covers it, or NULL."""
    if LINUX >= 618:
        vmg = vmg_init(mm, prev, addr, end, src.vm_flags, src.vm_file, pgoff)
        vmg.next = prev.vm_next if prev else mm.mmap
        vmg.anon_vma = src.anon_vma
        vmg.copied_from = src
        return vma_merge_new_range(vmg)
    return vma_merge(mm, prev, addr, end, src.vm_flags, src.anon_vma, src.vm_file, pgoff)


def vma_merge_extend(mm: ptr[mm_struct], vma: ptr[vm_area_struct], delta: vpn_t) -> ptr[vm_area_struct]:
    """mremap: `delta` more pages behind `vma`, where nothing is.  The VMA that covers them, or NULL: no memory.

    4.12 only moves the end (vma_adjust); from 5.19 on (commit ca3d76b0aa80) a neighbour behind may merge.
    """
    end: vpn_t = vma.vm_end + delta
    pgoff: pgoff_t = vma.vm_pgoff + (vma.vm_end - vma.vm_start)
    if LINUX >= 618:
        vmg = vmg_init(mm, vma, vma.vm_end, end, vma.vm_flags, vma.vm_file, pgoff)
        vmg.next = vma.vm_next
        vmg.anon_vma = vma.anon_vma
        return vma_merge_new_range(vmg)
    if LINUX >= 600:
        return vma_merge(mm, vma, vma.vm_end, end, vma.vm_flags, vma.anon_vma, vma.vm_file, pgoff)
    if vma_adjust(vma, vma.vm_start, end, vma.vm_pgoff, NULL) != 0:
        return NULL
    return vma
