"""What the protocols of one series share: speculative page faults, RFC v5 (16 June 2017, on v4.12-rc5).

As posted: 04 outside __vma_adjust, 06 "Protect VMA modifications", 08 "Provide speculative fault
infrastructure", 09 "Try spin lock in speculative path".  Reconstructed, as v5's own mails are not at hand:
07 "RCU free VMAs" is RFC v4's (05/20); 10 "x86/mm" is PATCH 09/16's (August 2017), which has as many lines as
v5 counts.

What v5 does not do, and later versions do: ask whether anon_vma is set or a file is mapped; keep the VMA's
flags and rights in vm_fault; read the entry with interrupts off; look whether the upper entry is still the
same; wrap expand_downwards and free_pgtables.

Left out, as the mm text has no such thing: huge pages, protection keys, userfaultfd, upper levels of page
tables; of 06: clear_refs, madvise's flags, MADV_FREE, memory policies, NUMA, mlock, mremap, and in
mprotect_fixup the populate call before the end.  The reasons in the counters' names are the tracepoints of
later versions, except vma_none and error.
"""

from __future__ import annotations

from seqfault.kernel import (
    READ_ONCE,
    Protocol,
    count,
    index_of,
    kmem_cache_free,
    pool_object,
    ptr,
    smp_processor_id,
    smp_rmb,
    the,
)
from seqfault.kernel.rcu import call_srcu, srcu_read_lock, srcu_read_unlock, srcu_struct
from seqfault.kernel.seqlock import (
    raw_read_seqcount,
    read_seqbegin,
    read_seqcount_retry,
    read_seqretry,
    seq_t,
    seqcount_init,
    seqcount_t,
    seqlock_t,
    write_seqcount_begin,
    write_seqcount_end,
    write_seqlock,
    write_sequnlock,
)
from seqfault.kernel.spinlock import spin_lock, spin_trylock, spin_unlock
from seqfault.kernel.task import local_irq_disable, local_irq_enable, rcu_arg_t, rcu_callback
from seqfault.mm.fault import handle_pte_fault, vm_fault_clear
from seqfault.mm.file import fput
from seqfault.mm.frames import linear_page_index
from seqfault.mm.pgtable import pmd_index, pmd_none, pte_lockptr, pte_offset_map, pte_offset_map_lock
from seqfault.mm.places import (
    FAULT_FLAG_SPECULATIVE,
    FAULT_FLAG_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_RETRY,
    do_page_fault_try,
    mmap_region_flags_begin,
    mmap_region_flags_end,
    mprotect_fixup_begin,
    mprotect_fixup_end,
    pgd_offset,
    pte_map_lock,
    pte_spinlock,
    unmap_page_range_begin,
    unmap_page_range_end,
    vm_area_free,
    vma_adjust_next_fput,
    vma_adjust_next_free,
    vma_link_rb_begin,
    vma_link_rb_end,
    vma_link_rb_init,
    vma_rb_erase_begin,
    vma_rb_erase_end,
)
from seqfault.mm.rbtree import RB_CLEAR_NODE, RB_EMPTY_NODE
from seqfault.mm.types import (
    VM_EXEC,
    VM_READ,
    VM_WRITE,
    fault_flags_t,
    fault_t,
    mm_struct,
    pmd_t,
    vm_area_struct,
    vm_fault,
    vpn_t,
)
from seqfault.mm.vma import find_vma

SUCCESS = "speculative_success"


# -- 04: VMA sequence count (the places in __vma_adjust are in the protocols' own files)
def vma_link_rb_init_04(vma: ptr[vm_area_struct]):
    seqcount_init(vma.vm_sequence)


def vm_sequence_begin(vma: ptr[vm_area_struct]):
    write_seqcount_begin(vma.vm_sequence)


def vm_sequence_end(vma: ptr[vm_area_struct]):
    write_seqcount_end(vma.vm_sequence)


def bind_04_outside_vma_adjust(proto: Protocol) -> None:
    proto.add_field(vm_area_struct, "vm_sequence", seqcount_t)
    proto.at(vma_link_rb_init)(vma_link_rb_init_04)
    proto.at(unmap_page_range_begin)(vm_sequence_begin)
    proto.at(unmap_page_range_end)(vm_sequence_end)


# -- 06: Protect VMA modifications using VMA sequence count
PLACES_06 = (mmap_region_flags_begin, mmap_region_flags_end, mprotect_fixup_begin, mprotect_fixup_end)


def bind_06(proto: Protocol) -> None:
    proto.at(mmap_region_flags_begin, mprotect_fixup_begin)(vm_sequence_begin)
    proto.at(mmap_region_flags_end, mprotect_fixup_end)(vm_sequence_end)


# -- 07: RCU free VMAs
def mm_seq_begin(mm: ptr[mm_struct]):
    write_seqlock(mm.mm_seq)


def mm_seq_end(mm: ptr[mm_struct]):
    write_sequnlock(mm.mm_seq)


def vma_rb_erase_end_07(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    write_sequnlock(mm.mm_seq)
    RB_CLEAR_NODE(vma)  # "dead", and only once the tree is whole again: the unlock has the write barrier


def find_vma_srcu(mm: ptr[mm_struct], addr: vpn_t) -> ptr[vm_area_struct]:
    """find_vma without mmap_sem: walk until the tree did not change meanwhile.  Waits while it changes."""
    while True:
        seq = read_seqbegin(mm.mm_seq)
        vma = find_vma(mm, addr)
        if not read_seqretry(mm.mm_seq, seq):
            return vma


def vma_has_changed(vma: ptr[vm_area_struct], sequence: seq_t) -> bool:
    """Whether `vma` left the tree, or a writer came since its count was `sequence`."""
    dead = RB_EMPTY_NODE(vma)
    seq = READ_ONCE(vma.vm_sequence.sequence)
    smp_rmb()  # what follows was true while the VMA had not changed
    return dead or seq != sequence


def free_vma(vma: ptr[vm_area_struct]):
    call_srcu(the(srcu_struct), index_of(vma))


def __free_vma(arg: rcu_arg_t):
    """After a grace period.  Files are dropped only here, so that a fault finds them valid."""
    vma = pool_object(vm_area_struct, arg)
    if vma.vm_file:
        fput(vma.vm_file)
    kmem_cache_free(vma)


def no_fput(next: ptr[vm_area_struct]):
    """The file is dropped with the VMA."""


def bind_07_lookup(proto: Protocol) -> None:
    proto.add_field(mm_struct, "mm_seq", seqlock_t)
    proto.at(vma_link_rb_begin, vma_rb_erase_begin)(mm_seq_begin)
    proto.at(vma_link_rb_end)(mm_seq_end)
    proto.at(vma_rb_erase_end)(vma_rb_erase_end_07)


def bind_07_free(proto: Protocol) -> None:
    proto.at(vma_adjust_next_fput)(no_fput)
    proto.at(vma_adjust_next_free, vm_area_free)(free_vma)
    proto.at(rcu_callback)(__free_vma)


# -- 08: Provide speculative fault infrastructure
def vma_access_error(vma: ptr[vm_area_struct], flags: fault_flags_t) -> bool:
    if flags & FAULT_FLAG_WRITE:
        return not vma.vm_flags & VM_WRITE
    return not vma.vm_flags & (VM_READ | VM_EXEC | VM_WRITE)


def handle_speculative_fault(mm: ptr[mm_struct], address: vpn_t, flags: fault_flags_t) -> fault_t:
    """A fault without mmap_sem.  VM_FAULT_RETRY as soon as anything is changing; no writer is waited for."""
    srcu_read_lock(the(srcu_struct))
    ret: fault_t = __handle_speculative_fault(mm, address, flags | FAULT_FLAG_SPECULATIVE)
    srcu_read_unlock(the(srcu_struct))
    return ret


def __handle_speculative_fault(mm: ptr[mm_struct], address: vpn_t, flags: fault_flags_t) -> fault_t:
    """The part inside the SRCU section; a function of its own only in later versions, v5 has jumps."""
    vma = find_vma_srcu(mm, address)
    if not vma:
        count("speculative_fallback/vma_none")
        return VM_FAULT_RETRY
    dead = RB_EMPTY_NODE(vma)
    # Its read barrier pairs with the writer's count, and with the unlock of mm_seq before RB_CLEAR_NODE.
    seq = raw_read_seqcount(vma.vm_sequence)
    if seq & 1 or dead:
        count("speculative_fallback/vma_changed")
        return VM_FAULT_RETRY
    if address < vma.vm_start or vma.vm_end <= address:
        count("speculative_fallback/vma_changed")
        return VM_FAULT_RETRY
    if vma_access_error(vma, flags):
        count("speculative_fallback/vma_access")
        return VM_FAULT_RETRY
    # Only now are the bounds and rights that we looked at known to be of one moment.
    if read_seqcount_retry(vma.vm_sequence, seq):
        count("speculative_fallback/vma_changed")
        return VM_FAULT_RETRY

    # A table is never made here: that could be after free_pgtables, and nobody would free it.
    local_irq_disable()
    pgd_offset()
    pmd: pmd_t = pmd_index(address)
    if pmd_none(mm, pmd):
        local_irq_enable()
        count("speculative_fallback/pmd_changed")
        return VM_FAULT_RETRY
    vmf = pool_object(vm_fault, smp_processor_id())
    vmf.vma = vma
    vmf.address = address
    vmf.pmd = pmd
    vmf.pgoff = linear_page_index(vma, address)
    vmf.sequence = seq
    vmf.flags = flags
    local_irq_enable()

    ret: fault_t = handle_pte_fault(vmf)
    vm_fault_clear(vmf)
    vmf.sequence = 0
    return ret


def pte_spinlock_08(vmf: ptr[vm_fault]) -> bool:
    """As 08 has it: a speculative fault spins with interrupts off."""
    mm = the(mm_struct)
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        vmf.ptl = pte_lockptr(mm, vmf.pmd)
        spin_lock(vmf.ptl.ptl)
        return True
    ret = False
    local_irq_disable()
    if not vma_has_changed(vmf.vma, vmf.sequence):
        vmf.ptl = pte_lockptr(mm, vmf.pmd)
        spin_lock(vmf.ptl.ptl)
        ret = not vma_has_changed(vmf.vma, vmf.sequence)
        if not ret:
            spin_unlock(vmf.ptl.ptl)
    local_irq_enable()
    if not ret:
        count("speculative_fallback/vma_changed")
    return ret


def pte_map_lock_08(vmf: ptr[vm_fault]) -> bool:
    """As 08 has it.

    The idea: with interrupts off, the table that was there at the first check cannot be freed; the second
    says that it is still the VMA's; after that whoever zaps waits for the lock.
    """
    mm = the(mm_struct)
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        vmf.pte = pte_offset_map_lock(mm, vmf.pmd)
        vmf.ptl = vmf.pte
        return True
    ret = False
    local_irq_disable()
    if not vma_has_changed(vmf.vma, vmf.sequence):
        pte = pte_offset_map_lock(mm, vmf.pmd)
        if vma_has_changed(vmf.vma, vmf.sequence):
            spin_unlock(pte.ptl)
        else:
            vmf.pte = pte
            vmf.ptl = pte
            ret = True
    local_irq_enable()
    if not ret:
        count("speculative_fallback/vma_changed")
    return ret


# -- 09: Try spin lock in speculative path
def pte_spinlock_09(vmf: ptr[vm_fault]) -> bool:
    mm = the(mm_struct)
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        vmf.ptl = pte_lockptr(mm, vmf.pmd)
        spin_lock(vmf.ptl.ptl)
        return True
    ret = False
    local_irq_disable()
    if vma_has_changed(vmf.vma, vmf.sequence):
        count("speculative_fallback/vma_changed")
    else:
        vmf.ptl = pte_lockptr(mm, vmf.pmd)
        if not spin_trylock(vmf.ptl.ptl):
            count("speculative_fallback/pte_lock")
        elif vma_has_changed(vmf.vma, vmf.sequence):
            spin_unlock(vmf.ptl.ptl)
            count("speculative_fallback/vma_changed")
        else:
            ret = True
    local_irq_enable()
    return ret


def pte_map_lock_09(vmf: ptr[vm_fault]) -> bool:
    """Who holds the lock may be waiting for this CPU to take an interrupt: do not wait for him."""
    mm = the(mm_struct)
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        vmf.pte = pte_offset_map_lock(mm, vmf.pmd)
        vmf.ptl = vmf.pte
        return True
    ret = False
    local_irq_disable()
    if vma_has_changed(vmf.vma, vmf.sequence):
        count("speculative_fallback/vma_changed")
    else:
        ptl = pte_lockptr(mm, vmf.pmd)
        pte = pte_offset_map(mm, vmf.pmd)
        if not spin_trylock(ptl.ptl):
            count("speculative_fallback/pte_lock")
        elif vma_has_changed(vmf.vma, vmf.sequence):
            spin_unlock(ptl.ptl)
            count("speculative_fallback/vma_changed")
        else:
            vmf.pte = pte
            vmf.ptl = ptl
            ret = True
    local_irq_enable()
    return ret


PLACES_08_09 = (pte_map_lock, pte_spinlock)


def bind_08(proto: Protocol) -> None:
    proto.add_field(vm_fault, "sequence", seq_t)
    proto.at(pte_map_lock)(pte_map_lock_08)
    proto.at(pte_spinlock)(pte_spinlock_08)


def bind_08_09(proto: Protocol) -> None:
    proto.add_field(vm_fault, "sequence", seq_t)
    proto.at(pte_map_lock)(pte_map_lock_09)
    proto.at(pte_spinlock)(pte_spinlock_09)


# -- 10: x86/mm: Add speculative pagefault handling
def do_page_fault_try_10(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    """An error is met once more the classic way, which can raise the signal."""
    fault: fault_t = handle_speculative_fault(mm, address, FAULT_FLAG_WRITE if write else 0)
    if fault & VM_FAULT_ERROR:
        count("speculative_fallback/error")
    elif not fault & VM_FAULT_RETRY:
        count("speculative_success")
    return fault


def bind_10(proto: Protocol) -> None:
    proto.at(do_page_fault_try)(do_page_fault_try_10)
