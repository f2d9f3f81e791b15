"""Guard regions: pages that must not be touched, noted in the page tables only.  mm/madvise.c, since 6.13."""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.mm.anon_vma import anon_vma_prepare
from seqfault.mm.memory import zap_page_range_single
from seqfault.mm.pgtable import (
    PTE_GUARD,
    pmd_addr_end,
    pmd_index,
    pmd_next_used,
    pte_alloc_map,
    pte_index,
    pte_is_guard,
    pte_offset_map_lock,
    pte_unmap_unlock,
)
from seqfault.mm.types import (
    EINVAL,
    ENOMEM,
    LINUX,
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_MAYBE_GUARD,
    VM_MAYWRITE,
    errno_t,
    vm_area_struct,
    vma_mm,
    vpn_t,
)


def is_valid_guard_vma(vma: ptr[vm_area_struct], allow_locked: bool) -> bool:
    """Anonymous VMAs that may become writable; since commit f807123d578d (6.15) those of files too.

    VM_SPECIAL is VM_DONTEXPAND, and what is not modelled.
    """
    if vma.vm_flags & VM_DONTEXPAND or (vma.vm_flags & VM_LOCKED and not allow_locked):
        return False
    if LINUX >= 615:
        return True
    return not vma.vm_file and vma.vm_flags & VM_MAYWRITE != 0


def install_guard_ptes(vma: ptr[vm_area_struct], addr: vpn_t, end: vpn_t) -> errno_t:
    while addr < end:
        next: vpn_t = pmd_addr_end(addr, end)
        if not pte_alloc_map(vma_mm(vma), addr):
            return -ENOMEM
        table = pte_offset_map_lock(vma_mm(vma), pmd_index(addr))
        while addr < next:
            table.pte[pte_index(addr)] = PTE_GUARD
            addr += 1
        pte_unmap_unlock(table)
    return 0


def madvise_guard_install(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t) -> errno_t:
    """Mark the pages of [start, end), and drop what was there.

    By its anon_vma fork sees that a VMA has page tables worth copying; in 6.19 and 6.18's stable releases by
    VM_MAYBE_GUARD, and only anonymous VMAs get an anon_vma here.  (Linux tries to install, and zaps the range whenever
    it meets a page, until it meets none.)
    """
    if not is_valid_guard_vma(vma, False):
        return -EINVAL
    if LINUX >= 618:
        vma.vm_flags |= VM_MAYBE_GUARD
    if LINUX < 618 or not vma.vm_file:
        error: errno_t = anon_vma_prepare(vma)
        if error != 0:
            return error
    zap_page_range_single(vma, start, end)
    return install_guard_ptes(vma, start, end)


def madvise_guard_remove(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t) -> errno_t:
    """Markers go, pages stay."""
    if not is_valid_guard_vma(vma, True):
        return -EINVAL
    mm = vma_mm(vma)
    addr: vpn_t = pmd_next_used(mm, start, end)
    while addr < end:
        next: vpn_t = pmd_addr_end(addr, end)
        table = pte_offset_map_lock(mm, pmd_index(addr))
        while addr < next:
            if pte_is_guard(table.pte[pte_index(addr)]):
                table.pte[pte_index(addr)] = 0
            addr += 1
        pte_unmap_unlock(table)
        addr = pmd_next_used(mm, addr, end)
    return 0
