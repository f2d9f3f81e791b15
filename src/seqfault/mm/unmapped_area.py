"""Where a new mapping goes.  mm/mmap.c, mm/vma.c, arch/x86/kernel/sys_x86_64.c, 4.12, 6.1, 6.18.

Top-down below mm.mmap_base.  Not modelled: MAP_32BIT, whose search begins at a random page; colouring by AMD's
family 15h.
"""

from __future__ import annotations

from seqfault.kernel import NULL, ptr
from seqfault.mm.opcodes import UAPI_MAP_FIXED, UAPI_MAP_SHARED
from seqfault.mm.rbtree import gap_before, gap_in_subtree, rb_last
from seqfault.mm.stack import STACK_GUARD_GAP
from seqfault.mm.types import (
    ENOMEM,
    IS_ERR_VALUE,
    LINUX,
    NR_PAGES,
    RA_PAGES,
    VM_GROWSDOWN,
    addr_or_errno_t,
    file,
    mm_struct,
    mmap_flags_t,
    pgoff_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma

TASK_SIZE = NR_PAGES
HPAGE_PMD_NR = 512
UAPI_MAP_32BIT = 0x40


def vm_start_gap(vma: ptr[vm_area_struct]) -> vpn_t:
    """Where a VMA begins, with the guard gap of a stack."""
    if vma.vm_flags & VM_GROWSDOWN:
        if vma.vm_start <= STACK_GUARD_GAP:
            return 0
        return vma.vm_start - STACK_GUARD_GAP
    return vma.vm_start


def mmap_base(mm: ptr[mm_struct]) -> vpn_t:
    base: vpn_t = mm.mmap_base
    if base == 0:
        return TASK_SIZE
    return base


def highest_area(
    mm: ptr[mm_struct], low: vpn_t, high: vpn_t, len: vpn_t
) -> tuple[addr_or_errno_t, ptr[vm_area_struct]]:
    """The end of the highest free range of `len` pages in [low, high), and the VMA behind it (NULL: none).

    mas_empty_area_rev; 4.12 goes the same way through the gaps of its tree.
    """
    if high < len or high - len < low:
        return -ENOMEM, NULL
    # The gap that `high` cuts, or that ends below it.
    vma = find_vma(mm, high - 1)
    prev = vma.vm_prev if vma else rb_last(mm)
    end: vpn_t = min(vma.vm_start, high) if vma else high
    start: vpn_t = max(prev.vm_end, low) if prev else low
    if end >= start and end - start >= len:
        return end, vma
    if not prev:
        return -ENOMEM, NULL
    if vma:
        vma = gap_before(vma, len)
    elif mm.mm_rb.rb_subtree_gap >= len:
        vma = gap_in_subtree(mm.mm_rb, len)
    if not vma or vma.vm_start < low + len:
        return -ENOMEM, NULL
    return vma.vm_start, vma


def unmapped_area_topdown(mm: ptr[mm_struct], len: vpn_t, low_limit: vpn_t, high_limit: vpn_t) -> addr_or_errno_t:
    """The highest place for `len` pages.

    6.x takes the highest gap between VMAs that is long enough, and only then sees whether a stack's guard gap
    reaches into it; if so it starts again below that guard gap, though it may reach over VMAs below.  4.12 counts
    the guard gap as occupied when it looks for gaps, and not beyond the next VMA.
    """
    while True:
        end, next = highest_area(mm, low_limit, high_limit, len)
        if end < 0:
            return -ENOMEM
        if not next or not next.vm_flags & VM_GROWSDOWN or vm_start_gap(next) >= end:
            return end - len
        high_limit = vm_start_gap(next)
        if LINUX < 600:
            prev = next.vm_prev
            start: vpn_t = max(prev.vm_end, low_limit) if prev else low_limit
            if high_limit >= start and high_limit - start >= len:
                return high_limit - len
            high_limit = start


def get_unmapped_area(
    mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, flags: mmap_flags_t, f: ptr[file], pgoff: pgoff_t
) -> addr_or_errno_t:
    """Address 0 is no hint; `flags` as the system call has them.

    Large mappings are aligned for huge pages: those of files on ext4, xfs or btrfs from 5.18 (1854bc6e2420; here: of
    what is neither shmem nor ramfs), private anonymous ones from 6.7 (efa7df3e3bb5), if they are whole huge pages
    (d4148aeab412).
    """
    if len > TASK_SIZE:
        return -ENOMEM
    at: addr_or_errno_t = 0
    if f:
        if LINUX >= 518 and not f.shmem and RA_PAGES != 0:
            at = thp_get_unmapped_area(mm, addr, len, flags, pgoff)
    elif LINUX >= 607 and addr == 0 and not flags & UAPI_MAP_SHARED and len % HPAGE_PMD_NR == 0:
        at = thp_get_unmapped_area(mm, addr, len, flags, 0)
    if at > 0:
        return at
    return arch_get_unmapped_area_topdown(mm, addr, len, flags)


def thp_get_unmapped_area(
    mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, flags: mmap_flags_t, pgoff: pgoff_t
) -> addr_or_errno_t:
    """A place where huge pages of the file are huge pages of memory; 0: there is none.  mm/huge_memory.c"""
    aligned: pgoff_t = (pgoff + HPAGE_PMD_NR - 1) & ~(HPAGE_PMD_NR - 1)
    if pgoff + len <= aligned or pgoff + len - aligned < HPAGE_PMD_NR:
        return 0
    at: addr_or_errno_t = arch_get_unmapped_area_topdown(mm, addr, len + HPAGE_PMD_NR, flags)
    if IS_ERR_VALUE(at):
        return 0
    if at == addr:
        return addr
    off_sub: vpn_t = (pgoff - at) & (HPAGE_PMD_NR - 1)
    if off_sub == 0:
        return at + HPAGE_PMD_NR
    return at + off_sub


def arch_get_unmapped_area_topdown(mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, flags: mmap_flags_t) -> addr_or_errno_t:
    if len > TASK_SIZE:
        return -ENOMEM
    if flags & UAPI_MAP_FIXED:
        if addr > TASK_SIZE - len:
            return -ENOMEM
        return addr
    if flags & UAPI_MAP_32BIT:
        return -ENOMEM  # below 2 GB, where the model has nothing
    if addr != 0 and addr <= TASK_SIZE - len:
        vma = find_vma(mm, addr)
        if not vma or addr + len <= vm_start_gap(vma):
            return addr
    at: addr_or_errno_t = unmapped_area_topdown(mm, len, 0, mmap_base(mm))
    if IS_ERR_VALUE(at) and mm.mmap_base != 0:
        # Bottom-up above the base, when everything below is full.
        return unmapped_area(mm, len, mm.mmap_base, TASK_SIZE)
    return at


def unmapped_area(mm: ptr[mm_struct], len: vpn_t, low_limit: vpn_t, high_limit: vpn_t) -> addr_or_errno_t:
    """The lowest place for `len` pages."""
    low: vpn_t = low_limit
    vma = find_vma(mm, low)
    while vma:
        end: vpn_t = min(vm_start_gap(vma), high_limit)
        if end >= low and end - low >= len:
            return low
        low = max(low, vma.vm_end)
        vma = vma.vm_next
    if high_limit >= low and high_limit - low >= len:
        return low
    return -ENOMEM
