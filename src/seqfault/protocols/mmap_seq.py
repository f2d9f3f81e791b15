"""mmap-seq: speculative page faults, one sequence count for the whole address space.

Michel Lespinasse, "[PATCH v2 00/35] Speculative page faults", 28 January 2022, on v5.17-rc1 (RFC v1: April 2021, on
v5.12).  Of its patches: 09 the count (mm->mmap_seq), 10 VMAs freed by RCU, 11 to 13 the x86 handler and the walk, 14
and 15 pte_map_lock, 17 to 19 anonymous pages and copy-on-write.  The diffs of 09, 11 to 15 and the
counters are at hand; the rest is reconstructed from their messages.

mmap_write_lock makes the count odd; mmap_write_unlock, and mmap_write_downgrade, make it even again.  A fault reads the
count, looks its VMA up and copies it, in RCU; then it works with the copy, and looks at the count again after
copying, and twice around the lock of the entry.  So nothing is to be marked at the places where VMAs change: all that
holds mmap_lock for writing makes every speculation of the process fail, whatever it changes.

Faults fall back (the names are those of the counters SPF_ABORT_...): odd; unmapped; no_speculate (not anonymous);
vma_copy; access_error; pmd (no table: none is made here); anon_vma (unset); seq1, pmd_changed, ptl, seq2 (at the lock).

Differences from the series: the copy of the VMA, on the stack in Linux, is an object of the VMAs' pool, which is two
larger therefore, with the fields that faults use; mm->mmap_seq is a seqcount_t, with the same stores and barriers; the
check of the count says whether it changed, not whether it did not (mmap_seq_read_check); single-threaded processes
speculate too; userfaultfd, swap, NUMA hinting and mmu notifiers are not modelled.

Places:
    mmap_write_lock/end                     __mmap_seq_write_lock
    mmap_write_unlock/begin, mmap_write_downgrade/begin    __mmap_seq_write_unlock
    __vma_adjust/next.free, remove_vma/free, rcu_callback/call    vm_area_free: call_rcu
    pte_map_lock, pte_spinlock              __pte_map_lock
    handle_pte_fault/walked, /pmd           __handle_mm_fault has walked
    anon_vma_prepare/notsup                 anon_vma
    do_page_fault/try                       the handler
"""

from __future__ import annotations

from seqfault.kernel import (
    NULL,
    READ_ONCE,
    Protocol,
    count,
    index_of,
    kmem_cache_alloc,
    kmem_cache_free,
    pool_object,
    ptr,
    smp_processor_id,
    smp_rmb,
)
from seqfault.kernel.rcu import call_rcu, rcu_read_lock, rcu_read_unlock
from seqfault.kernel.seqlock import raw_write_seqcount_begin, raw_write_seqcount_end, seq_t, seqcount_t
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
    anon_vma_notsup,
    do_page_fault_try,
    fault_walked,
    mmap_write_downgrade_begin,
    mmap_write_lock_end,
    mmap_write_unlock_begin,
    pgd_offset,
    pte_map_lock,
    pte_spinlock,
    skip_pmd_checks,
    vm_area_free,
    vma_adjust_next_free,
)
from seqfault.mm.types import (
    NR_MMS,
    current_mm,
    fault_flags_t,
    fault_t,
    mm_struct,
    pmd_t,
    pte_table,
    vm_area_struct,
    vm_fault,
    vma_mm,
    vpn_t,
)
from seqfault.mm.vma import find_vma
from seqfault.mm.x86_fault import access_error

PROTOCOL = Protocol(
    "mmap-seq",
    "speculative page faults, one count for the mm (Lespinasse v2, 2022)",
    release="5.17",
    doc=__doc__ or "",
    speculative="speculative_success",
    sizes={"LINUX": 517, "NR_VMAS": 10},
)
PROTOCOL.add_field(mm_struct, "mmap_seq", seqcount_t)
PROTOCOL.add_field(vm_fault, "seq", seq_t)
PROTOCOL.add_field(vm_fault, "orig_pmd", ptr[pte_table])


# -- 09: add per-mm mmap sequence counter for speculative page fault handling
@PROTOCOL.at(mmap_write_lock_end)
def __mmap_seq_write_lock(mm: ptr[mm_struct]):
    raw_write_seqcount_begin(mm.mmap_seq)


@PROTOCOL.at(mmap_write_unlock_begin, mmap_write_downgrade_begin)
def __mmap_seq_write_unlock(mm: ptr[mm_struct]):
    raw_write_seqcount_end(mm.mmap_seq)


def mmap_seq_read_start(mm: ptr[mm_struct]) -> seq_t:
    seq = READ_ONCE(mm.mmap_seq.sequence)
    smp_rmb()
    return seq


def mmap_seq_read_retry(mm: ptr[mm_struct], seq: seq_t) -> bool:
    """Whether somebody held mmap_lock for writing since the count was `seq`: not mmap_seq_read_check."""
    smp_rmb()
    return READ_ONCE(mm.mmap_seq.sequence) != seq


# -- 10: rcu safe vma freeing
@PROTOCOL.at(vma_adjust_next_free)
def free_next(next: ptr[vm_area_struct]):
    call_rcu(index_of(next))


@PROTOCOL.at(vm_area_free)
def remove_vma(vma: ptr[vm_area_struct]):
    if vma.vm_file:
        fput(vma.vm_file)
    call_rcu(index_of(vma))


@PROTOCOL.at(rcu_callback)
def ____vm_area_free(arg: rcu_arg_t):
    kmem_cache_free(pool_object(vm_area_struct, arg))


# -- 14, 15: pte_map_lock and pte_spinlock
def speculative_page_walk_begin():
    """A table is freed only after every CPU has taken an interrupt."""
    local_irq_disable()


def speculative_page_walk_end():
    local_irq_enable()


@PROTOCOL.at(pte_map_lock, pte_spinlock)
def __pte_map_lock(vmf: ptr[vm_fault]) -> bool:
    mm = current_mm()
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        vmf.ptl = pte_lockptr(mm, vmf.pmd)
        if not vmf.pte:
            vmf.pte = pte_offset_map(mm, vmf.pmd)
        spin_lock(vmf.ptl.ptl)
        return True
    speculative_page_walk_begin()
    ret: bool = __pte_map_trylock(vmf, mm)
    speculative_page_walk_end()
    return ret


def __pte_map_trylock(vmf: ptr[vm_fault], mm: ptr[mm_struct]) -> bool:
    """The part with interrupts off; Linux has jumps."""
    if mmap_seq_read_retry(mm, vmf.seq):
        count("speculative_fallback/seq1")
        return False
    if pte_offset_map(mm, vmf.pmd) != vmf.orig_pmd:  # a huge page may take the place of the table (khugepaged)
        count("speculative_fallback/pmd_changed")
        return False
    ptl = vmf.orig_pmd
    if not spin_trylock(ptl.ptl):  # who holds it may be waiting for this CPU to take an interrupt
        count("speculative_fallback/ptl")
        return False
    if mmap_seq_read_retry(mm, vmf.seq):
        spin_unlock(ptl.ptl)
        count("speculative_fallback/seq2")
        return False
    vmf.pte = ptl
    vmf.ptl = ptl
    return True


# -- 13: implement speculative handling in __handle_mm_fault
def __handle_mm_fault(vma: ptr[vm_area_struct], address: vpn_t, flags: fault_flags_t, seq: seq_t) -> fault_t:
    """Walk without making a table: that could be after free_pgtables, and nobody would free it."""
    mm = vma_mm(vma)
    pgd_offset()
    pmd: pmd_t = pmd_index(address)
    vmf = pool_object(vm_fault, smp_processor_id())
    speculative_page_walk_begin()
    table = pte_offset_map(mm, pmd)
    if not table:
        speculative_page_walk_end()
        count("speculative_fallback/pmd")
        return VM_FAULT_RETRY
    vmf.vma = vma
    vmf.address = address
    vmf.flags = flags
    vmf.pgoff = linear_page_index(vma, address)
    vmf.pmd = pmd
    vmf.seq = seq
    vmf.orig_pmd = table
    vmf.pte = table
    vmf.orig_pte = fault_pte(vmf)
    if pte_none(vmf.orig_pte):
        vmf.pte = NULL
    speculative_page_walk_end()
    ret: fault_t = handle_pte_fault(vmf)
    vm_fault_clear(vmf)
    vmf.seq = 0
    vmf.orig_pmd = NULL
    return ret


@PROTOCOL.at(fault_walked, skip_pmd_checks)
def is_speculative(vmf: ptr[vm_fault]) -> bool:
    return vmf.flags & FAULT_FLAG_SPECULATIVE != 0


# -- 17: anonymous pages
@PROTOCOL.at(anon_vma_notsup)
def anon_vma_unset(vmf: ptr[vm_fault]) -> bool:
    """__anon_vma_prepare looks at the neighbours."""
    vma = vmf.vma
    if vma.anon_vma or not vmf.flags & FAULT_FLAG_SPECULATIVE:
        return False
    count("speculative_fallback/anon_vma")
    return True


# -- 11: x86/mm
def copy_vma(pvma: ptr[vm_area_struct], vma: ptr[vm_area_struct]):
    """pvma = *vma: the fields that faults use, one after the other."""
    pvma.vm_start = vma.vm_start
    pvma.vm_end = vma.vm_end
    if NR_MMS > 1:
        pvma.vm_mm = vma.vm_mm
    pvma.vm_flags = vma.vm_flags
    pvma.vm_page_prot = vma.vm_page_prot
    pvma.vm_pgoff = vma.vm_pgoff
    pvma.vm_file = vma.vm_file
    pvma.anon_vma = vma.anon_vma


def copy_vma_under_rcu(mm: ptr[mm_struct], address: vpn_t, pvma: ptr[vm_area_struct]) -> bool:
    """Look the VMA up and copy it.  The tree may be changing: what is found, or not, is worth nothing before the count
    is looked at; a walk does not go round in circles (lib/rbtree.c, notes on lockless lookups)."""
    vma = find_vma(mm, address)
    if not vma or vma.vm_start > address:
        count("speculative_fallback/unmapped")
        return False
    if not vma_is_anonymous(vma):
        count("speculative_fallback/no_speculate")
        return False
    copy_vma(pvma, vma)
    return True


def speculative_fault(mm: ptr[mm_struct], address: vpn_t, write: bool, pvma: ptr[vm_area_struct]) -> fault_t:
    seq = mmap_seq_read_start(mm)
    if seq & 1:
        count("speculative_fallback/odd")
        return VM_FAULT_RETRY
    rcu_read_lock()
    found: bool = copy_vma_under_rcu(mm, address, pvma)
    rcu_read_unlock()
    if not found:
        return VM_FAULT_RETRY
    if mmap_seq_read_retry(mm, seq):
        count("speculative_fallback/vma_copy")
        return VM_FAULT_RETRY
    if access_error(write, pvma):
        count("speculative_fallback/access_error")
        return VM_FAULT_RETRY
    return __handle_mm_fault(pvma, address, FAULT_FLAG_SPECULATIVE | (FAULT_FLAG_WRITE if write else 0), seq)


@PROTOCOL.at(do_page_fault_try)
def do_user_addr_fault(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    pvma = kmem_cache_alloc(vm_area_struct)
    fault: fault_t = speculative_fault(mm, address, write, pvma)
    kmem_cache_free(pvma)
    if not fault & VM_FAULT_RETRY:
        count("speculative_success")
    return fault
