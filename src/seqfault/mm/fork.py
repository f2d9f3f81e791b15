"""Duplicating an address space.  dup_mmap of kernel/fork.c (mm/mmap.c since 6.16), copy_page_range of mm/memory.c;
4.12, 6.1, 6.18.

Pages that others hold references on (pinned by get_user_pages) are not modelled, so none is copied early.
"""

from __future__ import annotations

from seqfault.kernel import NULL, kmem_cache_alloc, kmem_cache_free, pool_object, ptr
from seqfault.kernel.rwsem import down_write, down_write_nested, up_write
from seqfault.mm.anon_vma import anon_vma_fork
from seqfault.mm.exit import exit_mmap
from seqfault.mm.file import get_file
from seqfault.mm.frames import get_page, page_dup_rmap
from seqfault.mm.limits import vm_stat_account
from seqfault.mm.pgtable import (
    pmd_addr_end,
    pmd_index,
    pmd_next_used,
    pte_alloc_map,
    pte_index,
    pte_is_guard,
    pte_mkclean,
    pte_offset_map_lock,
    pte_present,
    pte_unmap_unlock,
    pte_wrprotect,
    vm_normal_page,
)
from seqfault.mm.places import dup_mmap_vma, mmap_write_lock_end, mmap_write_unlock_begin, vm_area_dup_end
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.tlb import flush_tlb_range
from seqfault.mm.types import (
    ENOMEM,
    LINUX,
    NR_PAGES,
    VM_DONTCOPY,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYBE_GUARD,
    VM_MAYWRITE,
    VM_SHARED,
    VM_WIPEONFORK,
    errno_t,
    mm_struct,
    pte_t,
    pte_table,
    vm_area_struct,
    vma_mm,
    vpn_t,
)
from seqfault.mm.vma import find_vma_links, vma_link


# -- mm/memory.c
def is_cow_mapping(vma: ptr[vm_area_struct]) -> bool:
    """Private, and not read-only for good."""
    return vma.vm_flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE


def copy_one_pte(dst: ptr[pte_table], src: ptr[pte_table], addr: vpn_t, vma: ptr[vm_area_struct]):
    """What `src` maps at `addr` is mapped by `dst` too; private pages are write-protected in both."""
    pte: pte_t = src.pte[pte_index(addr)]
    if pte_present(pte):
        if is_cow_mapping(vma):
            pte = pte_wrprotect(pte)
            src.pte[pte_index(addr)] = pte
        if vma.vm_flags & VM_SHARED:
            pte = pte_mkclean(pte)
        p = vm_normal_page(pte)
        if p:
            get_page(p)
            page_dup_rmap(p)
        dst.pte[pte_index(addr)] = pte
    elif pte_is_guard(pte):
        dst.pte[pte_index(addr)] = pte


def vma_needs_copy(vma: ptr[vm_area_struct]) -> bool:
    """Without an anon_vma every page can be found again by a fault; but not guards (VM_COPY_ON_FORK)."""
    return vma.anon_vma != NULL or vma.vm_flags & VM_MAYBE_GUARD != 0


def copy_page_range(dst_vma: ptr[vm_area_struct], src_vma: ptr[vm_area_struct]) -> errno_t:
    """Copy the page tables of a VMA to its child's."""
    if not vma_needs_copy(src_vma):
        return 0
    mm = vma_mm(src_vma)
    end: vpn_t = src_vma.vm_end
    addr: vpn_t = pmd_next_used(mm, src_vma.vm_start, end)
    while addr < end:
        next: vpn_t = pmd_addr_end(addr, end)
        dst = pte_alloc_map(vma_mm(dst_vma), addr)
        if not dst:
            return -ENOMEM
        src = pte_offset_map_lock(mm, pmd_index(addr))
        while addr < next:
            if src.pte[pte_index(addr)] != 0:
                copy_one_pte(dst, src, addr, src_vma)
            addr += 1
        pte_unmap_unlock(src)
        addr = pmd_next_used(mm, addr, end)
    return 0


# -- kernel/fork.c
def vm_area_dup(mm: ptr[mm_struct], mpnt: ptr[vm_area_struct]) -> ptr[vm_area_struct]:
    """A copy for the child, not linked, which is not locked; NULL when memory is short."""
    if mm_alloc_fails():
        return NULL
    tmp = kmem_cache_alloc(vm_area_struct)
    tmp.vm_start = mpnt.vm_start
    tmp.vm_end = mpnt.vm_end
    tmp.vm_mm = mm
    tmp.vm_flags = mpnt.vm_flags & ~(VM_LOCKED | VM_LOCKONFAULT)
    tmp.vm_page_prot = mpnt.vm_page_prot
    tmp.vm_pgoff = mpnt.vm_pgoff
    tmp.vm_file = mpnt.vm_file
    tmp.anon_vma = mpnt.anon_vma
    tmp.anon_vma_chain = NULL
    tmp.rb_subtree_gap = 0
    vm_area_dup_end(tmp)
    return tmp


def wipe_on_fork(vma: ptr[vm_area_struct]) -> bool:
    """The child begins with empty pages (MADV_WIPEONFORK, since 4.14)."""
    return LINUX >= 414 and vma.vm_flags & VM_WIPEONFORK != 0


def dup_vma(mm: ptr[mm_struct], mpnt: ptr[vm_area_struct]) -> errno_t:
    tmp = vm_area_dup(mm, mpnt)
    if not tmp:
        return -ENOMEM
    if wipe_on_fork(mpnt):
        tmp.anon_vma = NULL
    elif anon_vma_fork(tmp, mpnt) != 0:
        kmem_cache_free(tmp)
        return -ENOMEM
    if tmp.vm_file:
        get_file(tmp.vm_file)
    error, prev, rb_parent, rb_left = find_vma_links(mm, tmp.vm_start, tmp.vm_end)
    assert error == 0
    vma_link(mm, tmp, prev, rb_parent, rb_left)
    if wipe_on_fork(mpnt):
        return 0
    return copy_page_range(tmp, mpnt)


def mm_init(mm: ptr[mm_struct], oldmm: ptr[mm_struct]):
    """The fields of a new address space: mm_init of kernel/fork.c, and what dup_mm copies before it.

    Nothing is locked in the child, nor will be: VM_LOCKED of def_flags is not inherited.
    """
    mm.total_vm = oldmm.total_vm
    mm.data_vm = oldmm.data_vm
    mm.exec_vm = oldmm.exec_vm
    mm.stack_vm = oldmm.stack_vm
    mm.locked_vm = 0
    mm.def_flags = 0
    mm.start_brk = oldmm.start_brk
    mm.brk = oldmm.brk
    mm.mmap_base = oldmm.mmap_base
    mm.rlimit_as = oldmm.rlimit_as
    mm.max_map_count = oldmm.max_map_count


def dup_mmap(mm: ptr[mm_struct], oldmm: ptr[mm_struct]) -> errno_t:
    error: errno_t = 0
    down_write(oldmm.mmap_sem)
    mmap_write_lock_end(oldmm)
    down_write_nested(mm.mmap_sem, 1)
    mmap_write_lock_end(mm)
    mpnt = oldmm.mmap
    while mpnt and error == 0:
        dup_mmap_vma(mpnt)
        if mpnt.vm_flags & VM_DONTCOPY:
            vm_stat_account(mm, mpnt.vm_flags, mpnt.vm_start - mpnt.vm_end)
        else:
            error = dup_vma(mm, mpnt)
        mpnt = mpnt.vm_next
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    flush_tlb_range(0, NR_PAGES)
    mmap_write_unlock_begin(oldmm)
    up_write(oldmm.mmap_sem)
    return error


def dup_mm(mm: ptr[mm_struct], oldmm: ptr[mm_struct]) -> errno_t:
    """Make `mm`, which has nothing, a copy of `oldmm`."""
    mm_init(mm, oldmm)
    error: errno_t = dup_mmap(mm, oldmm)
    if error != 0:
        exit_mmap(mm)
    return error


def do_fork() -> errno_t:
    """Process 0 forks process 1."""
    return dup_mm(pool_object(mm_struct, 1), pool_object(mm_struct, 0))
