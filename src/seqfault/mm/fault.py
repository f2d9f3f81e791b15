"""Handling a page fault.  mm/memory.c, 4.12, with patches 01 to 03 of RFC v5 "Speculative page faults".

01: no pointer to an entry is used after its lock was dropped.  02, 03: the lock of an entry is taken by
pte_map_lock and pte_spinlock, which may fail; the fault then ends in VM_FAULT_RETRY.  Both are places.

Swap, NUMA hinting (pte_protnone is never true), huge pages and userfaultfd are not modelled; fault-around, dirty bits
and guard regions only with FULL.
"""

from __future__ import annotations

from seqfault.kernel import NULL, pool_object, ptr, seq_point, smp_processor_id
from seqfault.mm.anon_vma import anon_vma_prepare
from seqfault.mm.fault_around import FAULT_AROUND_PAGES, do_fault_around
from seqfault.mm.filemap import filemap_fault
from seqfault.mm.frames import (
    PageAnon,
    __SetPageUptodate,
    alloc_page,
    get_page,
    linear_page_index,
    page_add_file_rmap,
    page_add_new_anon_rmap,
    page_move_anon_rmap,
    page_remove_rmap,
    put_page,
    set_page_dirty,
)
from seqfault.mm.lru import folio_add_lru_vma, lru_add_drain, mlock_vma_folio, munlock_vma_folio
from seqfault.mm.pgtable import (
    maybe_mkwrite,
    maybe_mkwrite_flags,
    mk_pte,
    pfn_pte,
    pmd_index,
    pmd_none,
    pte_alloc,
    pte_index,
    pte_mkdirty,
    pte_mkwrite,
    pte_none,
    pte_offset_map,
    pte_present,
    pte_unmap_unlock,
    pte_write,
    vm_normal_page,
)
from seqfault.mm.places import (
    FAULT_FLAG_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    VM_FAULT_WRITE,
    anon_vma_notsup,
    anon_vma_prepare_end,
    do_fault_notsup,
    fault_walked,
    pgd_offset,
    pte_map_lock,
    pte_spinlock,
    skip_pmd_checks,
)
from seqfault.mm.tlb import flush_tlb_page
from seqfault.mm.types import (
    FULL,
    LINUX,
    VM_SHARED,
    VM_WRITE,
    VMF_CACHES_VMA,
    ZERO_PFN,
    current_mm,
    errno_t,
    fault_flags_t,
    fault_t,
    page,
    pte_t,
    vm_area_struct,
    vm_fault,
    vpn_t,
)


# -- small change
def fault_pte(vmf: ptr[vm_fault]) -> pte_t:
    """*vmf->pte"""
    return vmf.pte.pte[pte_index(vmf.address)]


def set_pte_at(vmf: ptr[vm_fault], entry: pte_t):
    vmf.pte.pte[pte_index(vmf.address)] = entry


def ptep_clear_flush(vmf: ptr[vm_fault]):
    """No CPU may use the old page once the new one is there."""
    vmf.pte.pte[pte_index(vmf.address)] = 0
    if LINUX >= 420:
        seq_point()  # a walk may find none (mm/cpu.py)
    flush_tlb_page(vmf.address)


def vma_is_anonymous(vma: ptr[vm_area_struct]) -> bool:
    return vma.vm_file == NULL


def vm_fault_clear(vmf: ptr[vm_fault]):
    """The end of a fault's stack frame: nothing of it is left over in the checker's state."""
    vmf.vma = NULL
    vmf.flags = 0
    vmf.pgoff = 0
    vmf.address = 0
    vmf.pmd = 0
    vmf.orig_pte = 0
    vmf.cow_page = NULL
    vmf.page = NULL
    vmf.pte = NULL
    vmf.ptl = NULL
    if VMF_CACHES_VMA:
        vmf.vma_flags = 0
        vmf.vma_page_prot = 0


# -- anonymous pages
def do_anonymous_page(vmf: ptr[vm_fault]) -> fault_t:
    """The first touch of an anonymous page: the zero page for a read, a page of one's own for a write."""
    vma = vmf.vma
    if (vmf.vma_flags if VMF_CACHES_VMA else vma.vm_flags) & VM_SHARED:  # a shared mapping of no file
        return VM_FAULT_SIGBUS
    if not skip_pmd_checks(vmf) and pte_alloc(vmf.pmd) != 0:
        return VM_FAULT_OOM

    if not vmf.flags & FAULT_FLAG_WRITE:
        entry: pte_t = pfn_pte(ZERO_PFN, vmf.vma_page_prot if VMF_CACHES_VMA else vma.vm_page_prot)
        if not pte_map_lock(vmf):
            return VM_FAULT_RETRY
        if pte_none(fault_pte(vmf)):
            set_pte_at(vmf, entry)
        pte_unmap_unlock(vmf.ptl)
        return 0

    if anon_vma_notsup(vmf):
        return VM_FAULT_RETRY
    err: errno_t = anon_vma_prepare(vma)
    anon_vma_prepare_end(vmf)
    if err != 0:
        return VM_FAULT_OOM
    p = alloc_page()
    if not p:
        return VM_FAULT_OOM
    __SetPageUptodate(p)
    entry = mk_pte(p, vmf.vma_page_prot if VMF_CACHES_VMA else vma.vm_page_prot)
    if (vmf.vma_flags if VMF_CACHES_VMA else vma.vm_flags) & VM_WRITE:
        entry = pte_mkwrite(pte_mkdirty(entry))

    if not pte_map_lock(vmf):
        put_page(p)
        return VM_FAULT_RETRY
    if pte_none(fault_pte(vmf)):
        page_add_new_anon_rmap(p, vma, vmf.address)
        if FULL:
            folio_add_lru_vma(p, vma)
        set_pte_at(vmf, entry)  # nothing to flush: it was not present before
    else:
        put_page(p)  # another thread was faster
    pte_unmap_unlock(vmf.ptl)
    return 0


# -- copy on write
def wp_page_copy(vmf: ptr[vm_fault]) -> fault_t:
    """Give the task a page of its own with the old one's content.

    The caller took a reference on the old one (vmf.page; NULL for the zero page), which is given back here.
    """
    vma = vmf.vma
    old_page = vmf.page
    if anon_vma_notsup(vmf):
        if old_page:
            put_page(old_page)
        return VM_FAULT_RETRY
    ret: fault_t = VM_FAULT_OOM
    new_page: ptr[page] = NULL
    err: errno_t = anon_vma_prepare(vma)
    anon_vma_prepare_end(vmf)
    if err == 0:
        new_page = alloc_page()
    if new_page:
        if old_page:
            new_page.data = old_page.data  # cow_user_page; without old_page it is the zero page's copy
        __SetPageUptodate(new_page)
        if pte_map_lock(vmf):
            ret = 0
            if fault_pte(vmf) == vmf.orig_pte:
                entry: pte_t = pte_mkdirty(mk_pte(new_page, vmf.vma_page_prot if VMF_CACHES_VMA else vma.vm_page_prot))
                if VMF_CACHES_VMA:
                    entry = maybe_mkwrite_flags(entry, vmf.vma_flags)
                else:
                    entry = maybe_mkwrite(entry, vma)
                # Two steps, so that no CPU has the old page writable, or reads it, next to the new one.
                ptep_clear_flush(vmf)
                page_add_new_anon_rmap(new_page, vma, vmf.address)
                if FULL:
                    folio_add_lru_vma(new_page, vma)
                set_pte_at(vmf, entry)
                if old_page:
                    page_remove_rmap(old_page)  # only now: whoever sees it unmapped may reuse it
                    if FULL:
                        munlock_vma_folio(old_page, vma)
                new_page = old_page  # the mapping's reference, given back below
                ret = VM_FAULT_WRITE
            if new_page:
                put_page(new_page)
            pte_unmap_unlock(vmf.ptl)
        else:
            ret = VM_FAULT_RETRY
            put_page(new_page)
    if old_page:
        put_page(old_page)
    return ret


def wp_page_reuse(vmf: ptr[vm_fault]):
    """Write to the page in place.  Other TLBs may keep the old rights: those CPUs fault, and find the new."""
    if VMF_CACHES_VMA:
        set_pte_at(vmf, maybe_mkwrite_flags(pte_mkdirty(vmf.orig_pte), vmf.vma_flags))
    else:
        set_pte_at(vmf, maybe_mkwrite(pte_mkdirty(vmf.orig_pte), vmf.vma))
    pte_unmap_unlock(vmf.ptl)


def reuse_swap_page(p: ptr[page]) -> bool:
    """Whether nobody else maps the page.  Swap counts are none."""
    return p.mapcount == 1


def wp_can_reuse_anon_folio(p: ptr[page]) -> bool:
    """Whether a write may go to an anonymous page in place.

    4.12 asks who maps it.  Since commit 09854ba94c6a (5.9) any reference counts, and since 6c287605fd56 (5.19) a page
    that is known to be exclusive needs no question.  Page tables hold references, and the batches of mm/lru.py.
    """
    if LINUX >= 519 and p.exclusive:
        return True
    if LINUX >= 518 and p.refcount > 3:
        return False
    if LINUX >= 518 and not p.lru:
        lru_add_drain()  # which may hold references (commit d4c470970d45)
    if LINUX >= 509:
        return p.refcount == 1
    return reuse_swap_page(p)


def do_wp_page(vmf: ptr[vm_fault]) -> fault_t:
    """A write to a present entry that does not allow it.  Called with the entry's lock, returns without."""
    vma = vmf.vma
    vmf.page = vm_normal_page(vmf.orig_pte)
    if not vmf.page:
        pte_unmap_unlock(vmf.ptl)
        return wp_page_copy(vmf)
    if PageAnon(vmf.page):
        # Linux takes the page lock here, for the sake of swap.
        if (FULL and wp_can_reuse_anon_folio(vmf.page)) or (not FULL and reuse_swap_page(vmf.page)):
            page_move_anon_rmap(vmf.page, vma)
            wp_page_reuse(vmf)
            return VM_FAULT_WRITE
    elif (vmf.vma_flags if VMF_CACHES_VMA else vma.vm_flags) & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED:
        if FULL:
            set_page_dirty(vmf.page)  # fault_dirty_shared_page
        wp_page_reuse(vmf)  # wp_page_shared, for files that need no notice
        return VM_FAULT_WRITE
    get_page(vmf.page)
    pte_unmap_unlock(vmf.ptl)
    return wp_page_copy(vmf)


# -- pages of files
def __do_fault(vmf: ptr[vm_fault]) -> fault_t:
    return filemap_fault(vmf)


def pte_alloc_one_map(vmf: ptr[vm_fault]) -> fault_t:
    """Make sure of a table, map and lock it."""
    if not skip_pmd_checks(vmf) and pte_alloc(vmf.pmd) != 0:
        return VM_FAULT_OOM
    if not pte_map_lock(vmf):
        return VM_FAULT_RETRY
    return 0


def alloc_set_pte(vmf: ptr[vm_fault], p: ptr[page]) -> fault_t:
    """Map `p` where the fault was.  If vmf.ptl is set then, its lock is held."""
    vma = vmf.vma
    write = vmf.flags & FAULT_FLAG_WRITE != 0
    ret: fault_t = pte_alloc_one_map(vmf)
    if ret != 0:
        return ret
    if not pte_none(fault_pte(vmf)):
        return VM_FAULT_NOPAGE
    entry: pte_t = mk_pte(p, vmf.vma_page_prot if VMF_CACHES_VMA else vma.vm_page_prot)
    if write:
        if VMF_CACHES_VMA:
            entry = maybe_mkwrite_flags(pte_mkdirty(entry), vmf.vma_flags)
        else:
            entry = maybe_mkwrite(pte_mkdirty(entry), vma)
    if write and not (vmf.vma_flags if VMF_CACHES_VMA else vma.vm_flags) & VM_SHARED:
        page_add_new_anon_rmap(p, vma, vmf.address)
        if FULL:
            folio_add_lru_vma(p, vma)
    else:
        page_add_file_rmap(p)
        if FULL:
            mlock_vma_folio(p, vma)
    set_pte_at(vmf, entry)
    return 0


def finish_fault(vmf: ptr[vm_fault]) -> fault_t:
    p = vmf.page
    if vmf.flags & FAULT_FLAG_WRITE and not (vmf.vma_flags if VMF_CACHES_VMA else vmf.vma.vm_flags) & VM_SHARED:
        p = vmf.cow_page
    vmf.ptl = NULL
    ret: fault_t = alloc_set_pte(vmf, p)
    if vmf.ptl:
        pte_unmap_unlock(vmf.ptl)
    return ret


def do_read_fault(vmf: ptr[vm_fault]) -> fault_t:
    if FULL and FAULT_AROUND_PAGES > 1 and do_fault_around(vmf):
        return VM_FAULT_NOPAGE
    ret: fault_t = __do_fault(vmf)
    if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        return ret
    ret = finish_fault(vmf)
    if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        put_page(vmf.page)
    return ret


def do_cow_fault(vmf: ptr[vm_fault]) -> fault_t:
    """A write to a private mapping, to a page that is not mapped yet: copied at once."""
    if anon_vma_notsup(vmf):
        return VM_FAULT_RETRY
    err: errno_t = anon_vma_prepare(vmf.vma)
    anon_vma_prepare_end(vmf)
    if err != 0:
        return VM_FAULT_OOM
    vmf.cow_page = alloc_page()
    if not vmf.cow_page:
        return VM_FAULT_OOM
    ret: fault_t = __do_fault(vmf)
    if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        put_page(vmf.cow_page)
        return ret
    vmf.cow_page.data = vmf.page.data
    __SetPageUptodate(vmf.cow_page)
    ret = finish_fault(vmf)
    put_page(vmf.page)
    if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        put_page(vmf.cow_page)
    return ret


def do_shared_fault(vmf: ptr[vm_fault]) -> fault_t:
    """A write to a shared mapping: of the file's own page.  No file asks for a notice (page_mkwrite)."""
    ret: fault_t = __do_fault(vmf)
    if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        return ret
    if FULL:
        set_page_dirty(vmf.page)  # fault_dirty_shared_page
    ret = finish_fault(vmf)
    if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        put_page(vmf.page)
    return ret


def do_fault(vmf: ptr[vm_fault]) -> fault_t:
    """The first touch of a page of a file."""
    if do_fault_notsup(vmf):
        return VM_FAULT_RETRY
    if not vmf.flags & FAULT_FLAG_WRITE:
        return do_read_fault(vmf)
    if not (vmf.vma_flags if VMF_CACHES_VMA else vmf.vma.vm_flags) & VM_SHARED:
        return do_cow_fault(vmf)
    return do_shared_fault(vmf)


# -- all of them
def handle_pte_fault(vmf: ptr[vm_fault]) -> fault_t:
    """Sort a fault by what is there.  The entry is read without its lock, so who acts on it looks again."""
    mm = current_mm()
    if not fault_walked(vmf):
        vmf.pte = NULL
        if not pmd_none(mm, vmf.pmd):
            vmf.pte = pte_offset_map(mm, vmf.pmd)
            vmf.orig_pte = fault_pte(vmf)
            if pte_none(vmf.orig_pte):
                vmf.pte = NULL
    if not vmf.pte:
        if vma_is_anonymous(vmf.vma):
            return do_anonymous_page(vmf)
        return do_fault(vmf)

    if FULL and not pte_present(vmf.orig_pte):
        return VM_FAULT_SIGSEGV  # do_swap_page, handle_pte_marker: a guard region

    if not pte_spinlock(vmf):
        return VM_FAULT_RETRY
    if fault_pte(vmf) == vmf.orig_pte and vmf.flags & FAULT_FLAG_WRITE and not pte_write(vmf.orig_pte):
        return do_wp_page(vmf)
    # Else Linux sets the accessed and dirty bits.  x86 needs no flush for a fault that was spurious.
    pte_unmap_unlock(vmf.ptl)
    return 0


def handle_mm_fault(vma: ptr[vm_area_struct], address: vpn_t, flags: fault_flags_t) -> fault_t:
    """Handle a fault with mmap_sem held for reading.  Upper levels of the page table always exist here."""
    vmf = pool_object(vm_fault, smp_processor_id())
    vmf.vma = vma
    vmf.address = address
    vmf.flags = flags
    vmf.pgoff = linear_page_index(vma, address)
    pgd_offset()
    vmf.pmd = pmd_index(address)
    if VMF_CACHES_VMA:
        vmf.vma_flags = vma.vm_flags
        vmf.vma_page_prot = vma.vm_page_prot
    ret: fault_t = handle_pte_fault(vmf)
    vm_fault_clear(vmf)
    return ret
