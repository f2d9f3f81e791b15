"""spf-v12: "[PATCH v12 00/31] Speculative page faults", Laurent Dufour, 16 April 2019, on v5.1-rc4.

As posted: 09 (VMA sequence count), 10 (VMA modifications), 12 (anon_vma changes), 13 (fields of the VMA in vm_fault),
18 (dup_mmap), 19 (mm_seq), 20 (reference counts), 21 (find_vma_rcu), 22 (the infrastructure), 28 (x86).

What differs from v5: VMAs are freed by a reference count and RCU, not SRCU; the count is begun at the top of
__vma_adjust again, by forms that lockdep does not see, and not ended for a VMA that goes (10 had
moved that end before the free); no fault without an anon_vma, on a file, or on a stack; the entry is read with
interrupts off, and the upper entry must stay the same; rights and flags are kept in vm_fault; a trylock that
fails is tried again with interrupts on; access errors are answered with a signal, by the speculative fault itself;
stacks that grow and unlink_anon_vmas are counted.

Left out, as the mm text has no such thing: huge pages, swap, NUMA, memory policies, userfaultfd, migration, 11
(mremap), 23 (readahead of swap), 31 (a switch); single-threaded processes speculate too.  remove_vma does not clear
vm_file, which is what says here that a VMA is not anonymous (vm_ops in Linux).  handle_pte_fault does not look at the
upper entry once more before it tries the lock, where it must be the same.

Places:
    vm_area_alloc/end, vm_area_dup/end      INIT_VMA (09, 20)
    __vma_adjust/begin                      begin(vma), begin(next)
    __vma_adjust/error                      nothing: the posted error return has no end
    __vma_adjust/next.free                  put_vma
    __vma_adjust/next.again                 begin of the next next
    __vma_adjust/end                        end(next) unless it is vma, end(vma)
    unmap_page_range/begin, /end
10: mmap_region/flags.begin, /flags.end; mprotect_fixup/begin, /end; expand_downwards/begin, /end
12: free_pgtables/begin, /unlinked
18: dup_mmap/copy, /flushed
19: __vma_link_rb/begin, /end; vma_rb_erase/begin
20: __vma_link_rb/init; remove_vma/free
21: vma_rb_erase/end; rcu_callback/call
22: pte_map_lock, pte_spinlock; handle_pte_fault/walked, /pmd; do_fault/notsup
28: do_page_fault/try
"""

from __future__ import annotations

from seqfault.kernel import (
    NULL,
    READ_ONCE,
    Protocol,
    count,
    fetch_add,
    index_of,
    kmem_cache_free,
    pool_object,
    ptr,
    smp_processor_id,
)
from seqfault.kernel.rcu import call_rcu, rcu_read_lock, rcu_read_unlock
from seqfault.kernel.seqlock import (
    raw_read_seqcount,
    raw_write_seqcount_begin,
    raw_write_seqcount_end,
    read_seqbegin,
    read_seqcount_retry,
    read_seqretry,
    seq_t,
    seqcount_init,
    seqcount_t,
    seqlock_t,
    write_sequnlock,
)
from seqfault.kernel.spinlock import spin_lock, spin_trylock, spin_unlock
from seqfault.kernel.task import local_irq_disable, local_irq_enable, rcu_arg_t, rcu_callback
from seqfault.mm.fault import fault_pte, handle_pte_fault, vm_fault_clear, vma_is_anonymous
from seqfault.mm.file import fput
from seqfault.mm.frames import linear_page_index
from seqfault.mm.pgtable import pmd_index, pte_lockptr, pte_none, pte_offset_map
from seqfault.mm.places import (
    FAULT_FLAG_SPECULATIVE,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGSEGV,
    do_fault_notsup,
    do_page_fault_try,
    dup_mmap_copy,
    dup_mmap_flushed,
    expand_downwards_begin,
    expand_downwards_end,
    fault_walked,
    free_pgtables_begin,
    free_pgtables_unlinked,
    mmap_region_flags_begin,
    mmap_region_flags_end,
    mprotect_fixup_begin,
    mprotect_fixup_end,
    pgd_offset,
    pte_map_lock,
    pte_spinlock,
    skip_pmd_checks,
    unmap_page_range_begin,
    unmap_page_range_end,
    vm_area_alloc_end,
    vm_area_dup_end,
    vm_area_free,
    vma_adjust_begin,
    vma_adjust_end,
    vma_adjust_next_again,
    vma_adjust_next_free,
    vma_link_rb_begin,
    vma_link_rb_end,
    vma_link_rb_init,
    vma_rb_erase_begin,
    vma_rb_erase_end,
)
from seqfault.mm.rbtree import RB_CLEAR_NODE
from seqfault.mm.tlb import take_interrupt
from seqfault.mm.types import (
    VM_EXEC,
    VM_GROWSDOWN,
    VM_READ,
    VM_WRITE,
    count_t,
    current_mm,
    fault_flags_t,
    fault_t,
    flags_t,
    mm_struct,
    pgprot_t,
    pmd_t,
    pte_table,
    vm_area_struct,
    vm_fault,
    vpn_t,
)
from seqfault.mm.vma import find_vma
from seqfault.protocols.spf_common import (
    SUCCESS,
    mm_seq_begin,
    mm_seq_end,
    vm_sequence_begin,
    vm_sequence_end,
    vma_has_changed,
)

PROTOCOL = Protocol(
    "spf-v12",
    "speculative page faults, v12 (Dufour, 2019)",
    release="5.1",
    doc=__doc__ or "",
    speculative=SUCCESS,
    sizes={"LINUX": 501, "VMF_CACHES_VMA": 1},  # 13
)
PROTOCOL.add_field(vm_area_struct, "vm_sequence", seqcount_t)
PROTOCOL.add_field(vm_area_struct, "vm_ref_count", count_t)
PROTOCOL.add_field(mm_struct, "mm_seq", seqlock_t)
PROTOCOL.add_field(vm_fault, "sequence", seq_t)
PROTOCOL.add_field(vm_fault, "orig_pmd", ptr[pte_table])
PROTOCOL.add_field(vm_fault, "vma_flags", flags_t)
PROTOCOL.add_field(vm_fault, "vma_page_prot", pgprot_t)


# -- 09: VMA sequence count
def INIT_VMA(vma: ptr[vm_area_struct]):
    seqcount_init(vma.vm_sequence)
    vma.vm_ref_count = 1


@PROTOCOL.at(vm_area_alloc_end)
def vm_area_alloc(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    INIT_VMA(vma)


PROTOCOL.at(vm_area_dup_end)(INIT_VMA)
PROTOCOL.at(unmap_page_range_begin)(vm_sequence_begin)
PROTOCOL.at(unmap_page_range_end)(vm_sequence_end)


@PROTOCOL.at(vma_adjust_begin)
def vma_adjust_begin_09(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    raw_write_seqcount_begin(vma.vm_sequence)
    if next:
        raw_write_seqcount_begin(next.vm_sequence)


@PROTOCOL.at(vma_adjust_next_again)
def vma_adjust_next_again_09(next: ptr[vm_area_struct]):
    if next:
        raw_write_seqcount_begin(next.vm_sequence)


@PROTOCOL.at(vma_adjust_end)
def vma_adjust_end_09(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    if next and next != vma:
        raw_write_seqcount_end(next.vm_sequence)
    raw_write_seqcount_end(vma.vm_sequence)


# -- 10: protect VMA modifications; 12: anon_vma changes
PROTOCOL.at(mmap_region_flags_begin, mprotect_fixup_begin, expand_downwards_begin)(vm_sequence_begin)
PROTOCOL.at(mmap_region_flags_end, mprotect_fixup_end, expand_downwards_end)(vm_sequence_end)
PROTOCOL.at(free_pgtables_begin)(vm_sequence_begin)
PROTOCOL.at(free_pgtables_unlinked)(vm_sequence_end)


# -- 18: protect against PTE changes done by dup_mmap
@PROTOCOL.at(dup_mmap_copy)
def dup_mmap_begin_18(mpnt: ptr[vm_area_struct]):
    """Until the flush no speculative fault may copy a page that others may still write to."""
    raw_write_seqcount_begin(mpnt.vm_sequence)


@PROTOCOL.at(dup_mmap_flushed)
def dup_mmap_end_18(oldmm: ptr[mm_struct]):
    """From the last one back in Linux."""
    vma = oldmm.mmap
    while vma:
        raw_write_seqcount_end(vma.vm_sequence)
        vma = vma.vm_next


# -- 19: protect the RB tree with a sequence lock; 20: vma reference counter; 21: find_vma_rcu
PROTOCOL.at(vma_link_rb_begin, vma_rb_erase_begin)(mm_seq_begin)
PROTOCOL.at(vma_link_rb_end)(mm_seq_end)


def get_vma(vma: ptr[vm_area_struct]):
    fetch_add(vma.vm_ref_count, 1)


def put_vma(vma: ptr[vm_area_struct]):
    if fetch_add(vma.vm_ref_count, -1) == 1:
        kmem_cache_free(vma)


@PROTOCOL.at(vma_link_rb_init)
def vma_rb_insert(vma: ptr[vm_area_struct]):
    """The tree's reference; in Linux under mm_seq."""
    get_vma(vma)


@PROTOCOL.at(vma_rb_erase_end)
def __vma_rb_erase(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    write_sequnlock(mm.mm_seq)
    RB_CLEAR_NODE(vma)
    call_rcu(index_of(vma))


@PROTOCOL.at(rcu_callback)
def __vm_rcu_put(arg: rcu_arg_t):
    put_vma(pool_object(vm_area_struct, arg))


@PROTOCOL.at(vma_adjust_next_free)
def put_next(next: ptr[vm_area_struct]):
    put_vma(next)


@PROTOCOL.at(vm_area_free)
def remove_vma(vma: ptr[vm_area_struct]):
    if vma.vm_file:
        fput(vma.vm_file)
    put_vma(vma)


def find_vma_rcu(mm: ptr[mm_struct], addr: vpn_t) -> ptr[vm_area_struct]:
    """find_vma without mmap_sem, with a reference: walk until the tree did not change meanwhile."""
    while True:
        seq = read_seqbegin(mm.mm_seq)
        rcu_read_lock()
        vma = find_vma(mm, addr)
        if vma:
            get_vma(vma)
        rcu_read_unlock()
        if not read_seqretry(mm.mm_seq, seq):
            return vma
        if vma:
            put_vma(vma)


# -- 22: provide speculative fault infrastructure
@PROTOCOL.at(pte_map_lock, pte_spinlock)
def pte_map_lock_22(vmf: ptr[vm_fault]) -> bool:
    """Both functions of the patch, which differ in what they map."""
    mm = current_mm()
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        vmf.ptl = pte_lockptr(mm, vmf.pmd)
        if not vmf.pte:
            vmf.pte = pte_offset_map(mm, vmf.pmd)
        spin_lock(vmf.ptl.ptl)
        return True
    while True:  # again:
        local_irq_disable()
        if vma_has_changed(vmf.vma, vmf.sequence):
            local_irq_enable()
            count("speculative_fallback/vma_changed")
            return False
        if pte_offset_map(mm, vmf.pmd) != vmf.orig_pmd:  # a huge page may take the place of the table (khugepaged)
            local_irq_enable()
            count("speculative_fallback/pmd_changed")
            return False
        if spin_trylock(vmf.orig_pmd.ptl):
            break
        local_irq_enable()
        take_interrupt()  # which who holds the lock may be waiting for
    if vma_has_changed(vmf.vma, vmf.sequence):
        spin_unlock(vmf.orig_pmd.ptl)
        local_irq_enable()
        count("speculative_fallback/vma_changed")
        return False
    vmf.pte = vmf.orig_pmd
    vmf.ptl = vmf.orig_pmd
    local_irq_enable()
    return True


@PROTOCOL.at(fault_walked, skip_pmd_checks)
def is_speculative(vmf: ptr[vm_fault]) -> bool:
    return vmf.flags & FAULT_FLAG_SPECULATIVE != 0


@PROTOCOL.at(do_fault_notsup)
def file_notsup(vmf: ptr[vm_fault]) -> bool:
    return vmf.flags & FAULT_FLAG_SPECULATIVE != 0


def __handle_speculative_fault(mm: ptr[mm_struct], address: vpn_t, flags: fault_flags_t) -> fault_t:
    """A fault without mmap_sem.  VM_FAULT_RETRY as soon as anything is changing; no writer is waited for."""
    vma = find_vma_rcu(mm, address)
    if not vma:
        count("speculative_fallback/vma_none")
        return VM_FAULT_RETRY
    ret: fault_t = speculative_fault(mm, vma, address, flags | FAULT_FLAG_SPECULATIVE)
    put_vma(vma)
    return ret


def speculative_fault(
    mm: ptr[mm_struct], vma: ptr[vm_area_struct], address: vpn_t, flags: fault_flags_t
) -> fault_t:
    """The part with a reference on the VMA; the patch has jumps."""
    seq = raw_read_seqcount(vma.vm_sequence)
    if seq & 1:
        count("speculative_fallback/vma_changed")
        return VM_FAULT_RETRY
    if not vma_is_anonymous(vma):
        count("speculative_fallback/vma_notsup")
        return VM_FAULT_RETRY
    if not vma.anon_vma:  # __anon_vma_prepare looks at the neighbours
        count("speculative_fallback/vma_noanon")
        return VM_FAULT_RETRY
    own_flags: flags_t = READ_ONCE(vma.vm_flags)
    own_page_prot: pgprot_t = READ_ONCE(vma.vm_page_prot)
    if own_flags & VM_GROWSDOWN:
        count("speculative_fallback/vma_notsup")
        return VM_FAULT_RETRY
    if address < READ_ONCE(vma.vm_start) or READ_ONCE(vma.vm_end) <= address:
        count("speculative_fallback/vma_changed")
        return VM_FAULT_RETRY
    if flags & FAULT_FLAG_WRITE:
        if not own_flags & VM_WRITE:
            count("speculative_fallback/vma_access")
            return VM_FAULT_SIGSEGV
    elif not own_flags & (VM_READ | VM_EXEC | VM_WRITE):
        count("speculative_fallback/vma_access")
        return VM_FAULT_SIGSEGV

    # A table is never made here: that could be after free_pgtables, and nobody would free it.
    pgd_offset()
    pmd: pmd_t = pmd_index(address)
    vmf = pool_object(vm_fault, smp_processor_id())
    local_irq_disable()
    table = pte_offset_map(mm, pmd)
    if not table:
        local_irq_enable()
        count("speculative_fallback/pmd_changed")
        return VM_FAULT_RETRY
    vmf.address = address
    vmf.pmd = pmd
    vmf.orig_pmd = table
    vmf.pte = table
    vmf.orig_pte = fault_pte(vmf)
    if pte_none(vmf.orig_pte):
        vmf.pte = NULL
    vmf.vma = vma
    vmf.pgoff = linear_page_index(vma, address)
    vmf.sequence = seq
    vmf.flags = flags
    vmf.vma_flags = own_flags
    vmf.vma_page_prot = own_page_prot
    local_irq_enable()

    ret: fault_t = VM_FAULT_RETRY
    # Only now are the bounds and rights that we looked at known to be of one moment.
    if read_seqcount_retry(vma.vm_sequence, seq):
        count("speculative_fallback/vma_changed")
    else:
        ret = handle_pte_fault(vmf)
    vm_fault_clear(vmf)
    vmf.sequence = 0
    vmf.orig_pmd = NULL
    return ret


# -- 28: x86/mm: add speculative pagefault handling
@PROTOCOL.at(do_page_fault_try)
def do_user_addr_fault(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    fault: fault_t = __handle_speculative_fault(mm, address, FAULT_FLAG_WRITE if write else 0)
    if not fault & VM_FAULT_RETRY:
        count("speculative_success")
    return fault
