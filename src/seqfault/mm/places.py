"""Where a design does something in the mm text.  The text calls these; a protocol says what they do.

Named ``function/what``: the function of the kernel and the point in it.
"""

from __future__ import annotations

from seqfault.kernel import NULL, kmem_cache_free, place, ptr
from seqfault.kernel.spinlock import spin_lock
from seqfault.mm.file import fput
from seqfault.mm.pgtable import pte_lockptr, pte_offset_map_lock
from seqfault.mm.types import (
    current_mm,
    fault_t,
    mm_struct,
    vm_area_struct,
    vm_fault,
    vpn_t,
)

VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV, VM_FAULT_RETRY = 1, 2, 4, 8
VM_FAULT_NOPAGE, VM_FAULT_WRITE = 16, 32
VM_FAULT_ERROR = 7
FAULT_FLAG_WRITE, FAULT_FLAG_SPECULATIVE = 1, 2
FAULT_FLAG_VMA_LOCK = 2  # 6.4; no release has both


# -- include/linux/mmap_lock.h, mm.h, kernel/fork.c of later releases
@place("mmap_write_lock/end")
def mmap_write_lock_end(mm: ptr[mm_struct]):
    """After mmap_sem is taken for writing."""


@place("mmap_write_unlock/begin")
def mmap_write_unlock_begin(mm: ptr[mm_struct]):
    """Before it is given back."""


@place("mmap_write_downgrade/begin")
def mmap_write_downgrade_begin(mm: ptr[mm_struct]):
    """Before it is kept for reading only."""


@place("vm_area_alloc/end")
def vm_area_alloc_end(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    """After a VMA is allocated, which nobody can find yet."""


@place("vm_area_dup/end")
def vm_area_dup_end(vma: ptr[vm_area_struct]):
    """After a VMA is allocated as a copy of another."""


@place("dup_mmap/vma")
def dup_mmap_vma(mpnt: ptr[vm_area_struct]):
    """Before fork copies a VMA of the parent."""


@place("dup_mmap/copy")
def dup_mmap_copy(mpnt: ptr[vm_area_struct]):
    """Before fork copies its page tables."""


@place("dup_mmap/flushed")
def dup_mmap_flushed(oldmm: ptr[mm_struct]):
    """After the flush, when no TLB can write any more to what fork has write-protected."""


# -- mm/mmap.c
@place("__vma_link_rb/init")
def vma_link_rb_init(vma: ptr[vm_area_struct]):
    """Before the node is linked into the tree."""


@place("__vma_link_rb/begin")
def vma_link_rb_begin(mm: ptr[mm_struct]):
    """Before the stores that link and rebalance (vma_rb_insert)."""


@place("__vma_link_rb/end")
def vma_link_rb_end(mm: ptr[mm_struct]):
    """After the tree is balanced again."""


@place("__vma_link_rb/store")
def vma_link_rb_store(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    """Where the maple tree of 6.1 and later is told of a new VMA."""


@place("vma_rb_erase/begin")
def vma_rb_erase_begin(mm: ptr[mm_struct]):
    """Before the stores that take a node out of the tree."""


@place("vma_rb_erase/end")
def vma_rb_erase_end(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    """After a node left the tree."""


@place("__vma_adjust/begin")
def vma_adjust_begin(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    """On entry; `next` may be NULL."""


@place("__vma_adjust/error")
def vma_adjust_error(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    """Before the return with the error of anon_vma_clone (vma and next may be exchanged by then: case 8)."""


@place("__vma_adjust/locked")
def vma_adjust_locked(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    """After i_mmap_rwsem is taken (each time around `again`), before any bound changes."""


@place("__vma_adjust/next.fput")
def vma_adjust_next_fput(next: ptr[vm_area_struct]):
    """Drops the file of the removed VMA, if it has one; default: fput now."""
    fput(next.vm_file)


@place("__vma_adjust/next.free.before")
def vma_adjust_next_free_before(next: ptr[vm_area_struct]):
    """Before the removed VMA is freed."""


@place("__vma_adjust/next.free")
def vma_adjust_next_free(next: ptr[vm_area_struct]):
    """Frees the removed VMA, whose file is dropped already; default: now."""
    kmem_cache_free(next)


@place("__vma_adjust/next.free.after")
def vma_adjust_next_free_after(next: ptr[vm_area_struct]):
    """After the removed VMA is freed."""


@place("__vma_adjust/next.again")
def vma_adjust_next_again(next: ptr[vm_area_struct]):
    """`next` is now the VMA behind the removed one (may be NULL)."""


@place("__vma_adjust/again")
def vma_adjust_again(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    """Before `goto again`, which removes `next` too (case 6)."""


@place("__vma_adjust/next.last")
def vma_adjust_next_last(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    """After the last removal: `next` is what stays behind `vma`; NULL, or `vma` itself in case 8."""


@place("__vma_adjust/end")
def vma_adjust_end(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    """Before validate_mm; `next` may be NULL, and equals vma.vm_next or vma as the text left it."""


@place("remove_vma/free")
def vm_area_free(vma: ptr[vm_area_struct]):
    """Drops the file of an unmapped VMA and frees it; default: both now."""
    if vma.vm_file:
        fput(vma.vm_file)
    kmem_cache_free(vma)


@place("mmap_region/flags.begin")
def mmap_region_flags_begin(vma: ptr[vm_area_struct]):
    """Before the tail of mmap_region changes vm_flags and vm_page_prot; with FULL before madvise changes vm_flags."""


@place("mmap_region/flags.end")
def mmap_region_flags_end(vma: ptr[vm_area_struct]):
    """After it."""


@place("mmap_region/link")
def mmap_region_link(vma: ptr[vm_area_struct]):
    """Before a new VMA is linked, and can be found; of mmap, and with FULL of brk and mremap too."""


@place("move_vma/begin")
def move_vma_begin(vma: ptr[vm_area_struct]):
    """Before mremap copies a VMA and moves its entries.  With FULL only."""


@place("do_munmap/detach.begin")
def detach_begin(mm: ptr[mm_struct], vma: ptr[vm_area_struct], end: vpn_t):
    """Before the VMAs from `vma` to `end` leave list and tree (munmap_sidetree in 6.4)."""


@place("do_munmap/detach.end")
def detach_end(mm: ptr[mm_struct], start: vpn_t, end: vpn_t):
    """After [start, end) is empty; its pages are still mapped."""


@place("expand_downwards/lock")
def expand_downwards_lock(vma: ptr[vm_area_struct]):
    """Before the locks under which a stack grows."""


@place("expand_downwards/store")
def expand_downwards_store(vma: ptr[vm_area_struct]):
    """After its bounds changed: where the maple tree is told."""


@place("expand_downwards/begin")
def expand_downwards_begin(vma: ptr[vm_area_struct]):
    """Before vm_start and vm_pgoff move down."""


@place("expand_downwards/end")
def expand_downwards_end(vma: ptr[vm_area_struct]):
    """After it."""


# -- mm/vma.c: merging and splitting from 6.3 on (mm/merge_6.py)
@place("vma_merge_existing_range/middle")
def vma_merge_middle(vma: ptr[vm_area_struct]):
    """Before the VMA whose flags change is merged, or anything is done for it."""


@place("vma_merge_existing_range/next")
def vma_merge_next(vma: ptr[vm_area_struct]):
    """The same of the VMA behind, if it takes part."""


@place("vma_merge_existing_range/prev")
def vma_merge_prev(vma: ptr[vm_area_struct]):
    """The same of the VMA before."""


@place("vma_expand/target")
def vma_expand_target(vma: ptr[vm_area_struct]):
    """Before a VMA grows over a new range."""


@place("vma_expand/next")
def vma_expand_next(vma: ptr[vm_area_struct]):
    """Before the VMA behind goes with it."""


@place("dup_anon_vma/dst")
def dup_anon_vma_dst(vma: ptr[vm_area_struct]):
    """Before a VMA that is about to grow takes over the anon_vma of the one that it grows over."""


@place("vma_prepare/vma")
def vma_prepare_vma(vma: ptr[vm_area_struct]):
    """Before the reverse maps are locked and a VMA's bounds change."""


@place("vma_prepare/adj_next")
def vma_prepare_adj_next(vma: ptr[vm_area_struct]):
    """The same of the neighbour that gives or takes."""


@place("vma_prepare/remove")
def vma_prepare_remove(vma: ptr[vm_area_struct]):
    """The same of a VMA that goes."""


@place("vma_prepare/remove2")
def vma_prepare_remove2(vma: ptr[vm_area_struct]):
    """The same of the second one that goes."""


@place("commit_merge/store")
def commit_merge_store(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    """After the bounds changed: where the maple tree is told of the VMA that grew."""


@place("__split_vma/vma")
def split_vma_vma(vma: ptr[vm_area_struct]):
    """Before a VMA is cut."""


@place("__split_vma/new")
def split_vma_new(vma: ptr[vm_area_struct]):
    """Before its new part is inserted."""


@place("vma_complete/remove")
def vma_complete_remove(vma: ptr[vm_area_struct]):
    """A VMA has left list and tree by a merge, and is about to be freed."""


@place("vma_complete/free")
def vma_complete_free(vma: ptr[vm_area_struct]):
    """Frees it; its file is dropped already; default: now."""
    kmem_cache_free(vma)


# -- mm/mprotect.c, mm/madvise.c
@place("mprotect_fixup/begin")
def mprotect_fixup_begin(vma: ptr[vm_area_struct]):
    """Before vm_flags and vm_page_prot change."""


@place("mprotect_fixup/end")
def mprotect_fixup_end(vma: ptr[vm_area_struct]):
    """After change_protection."""


@place("sys_madvise/lock")
def madvise_lock(mm: ptr[mm_struct], start: vpn_t, end: vpn_t) -> ptr[vm_area_struct]:
    """Before madvise takes mmap_sem (6.17): a VMA that has all of [start, end) and can be advised without; or NULL."""
    return NULL


@place("sys_madvise/unlock")
def madvise_unlock(vma: ptr[vm_area_struct]):
    """After that VMA was advised."""


# -- mm/memory.c
@place("unmap_page_range/begin")
def unmap_page_range_begin(vma: ptr[vm_area_struct]):
    """Before tlb_start_vma."""


@place("unmap_page_range/end")
def unmap_page_range_end(vma: ptr[vm_area_struct]):
    """After tlb_end_vma."""


@place("free_pgtables/begin")
def free_pgtables_begin(vma: ptr[vm_area_struct]):
    """Before unlink_anon_vmas of one VMA."""


@place("free_pgtables/unlinked")
def free_pgtables_unlinked(vma: ptr[vm_area_struct]):
    """After unlink_anon_vmas, before unlink_file_vma."""


@place("free_pgtables/end")
def free_pgtables_end(vma: ptr[vm_area_struct]):
    """After it."""


@place("pte_map_lock")
def pte_map_lock(vmf: ptr[vm_fault]) -> bool:
    """Map and lock the table of a fault (RFC v5 02).  False, with no lock: the VMA changed, retry."""
    vmf.pte = pte_offset_map_lock(current_mm(), vmf.pmd)
    vmf.ptl = vmf.pte
    return True


@place("pte_spinlock")
def pte_spinlock(vmf: ptr[vm_fault]) -> bool:
    """Lock the table of a fault, whose entry is mapped already (RFC v5 03).  False, with no lock: retry."""
    vmf.ptl = pte_lockptr(current_mm(), vmf.pmd)
    spin_lock(vmf.ptl.ptl)
    return True


@place("handle_pte_fault/walked")
def fault_walked(vmf: ptr[vm_fault]) -> bool:
    """On entry: whether vmf.pte (NULL: no entry) and vmf.orig_pte are known already."""
    return False


@place("handle_pte_fault/pmd")
def skip_pmd_checks(vmf: ptr[vm_fault]) -> bool:
    """Whether a fault that finds no page table goes on without making one; taking its lock must fail then."""
    return False


@place("anon_vma_prepare/notsup")
def anon_vma_notsup(vmf: ptr[vm_fault]) -> bool:
    """Before anon_vma_prepare: whether the fault bails out with VM_FAULT_RETRY."""
    return False


@place("anon_vma_prepare/end")
def anon_vma_prepare_end(vmf: ptr[vm_fault]):
    """After anon_vma_prepare, whatever came of it."""


@place("do_fault/notsup")
def do_fault_notsup(vmf: ptr[vm_fault]) -> bool:
    """At the entry of faults on file mappings: whether they bail out with VM_FAULT_RETRY."""
    return False


# -- arch/x86/mm/fault.c
@place("do_page_fault/try")
def do_page_fault_try(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    """Before mmap_sem is taken.  After VM_FAULT_RETRY or an error the fault is handled the classic way."""
    return VM_FAULT_RETRY


@place("pgd_offset")
def pgd_offset():
    """Where a fault begins to walk the page table; the levels above the last two are not modelled."""
