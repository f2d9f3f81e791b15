"""spf-v11: "[PATCH v11 00/26] Speculative page faults", Laurent Dufour, 17 May 2018, on v4.17-rc4.

As posted: 09 (VMA sequence count), 24 (x86); 18 (the rwlock) as it is in v10 (17/25), which v11 leaves as it was.
Reconstructed from v12, which repeats them: 10, 12, 13, and 19 (the infrastructure; "provide speculative page fault
infrastructure").

What differs from v12: VMAs are looked up under a rwlock, mm_rb_lock, which each fault takes for reading, and whoever
links or erases for writing; the tree holds no reference, and there is no RCU: a VMA that is found is one that is still
there, and who gives back the last reference frees it, and drops its file.  The count of a VMA that goes in
__vma_adjust is ended before that.  fork does not make counts odd (v12's 18).

Left out: as in spf-v12, with v11's numbers.

Places:
    vm_area_alloc/end, vm_area_dup/end      INIT_VMA (09, 18)
    __vma_adjust/begin                      begin(vma), begin(next)
    __vma_adjust/error                      nothing: the posted error return has no end
    __vma_adjust/next.free.before           end(next)
    __vma_adjust/next.again                 begin of the next next
    __vma_adjust/end                        end(next) unless it is vma, end(vma)
    unmap_page_range/begin, /end
10: mmap_region/flags.begin, /flags.end; mprotect_fixup/begin, /end; expand_downwards/begin, /end
12: free_pgtables/begin, /unlinked
18: __vma_link_rb/begin, /end; vma_rb_erase/begin, /end
18: __vma_adjust/next.fput, /next.free; remove_vma/free
19: pte_map_lock, pte_spinlock; handle_pte_fault/walked, /pmd; do_fault/notsup
24: do_page_fault/try
"""

from __future__ import annotations

from seqfault.kernel import count, fetch_add, kmem_cache_free, ptr
from seqfault.kernel.rwlock import read_lock, read_unlock, rwlock_t, write_lock, write_unlock
from seqfault.kernel.seqlock import raw_write_seqcount_end
from seqfault.kernel.task import rcu_callback
from seqfault.mm.file import fput
from seqfault.mm.places import (
    FAULT_FLAG_SPECULATIVE,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    do_page_fault_try,
    dup_mmap_copy,
    dup_mmap_flushed,
    vm_area_free,
    vma_adjust_next_fput,
    vma_adjust_next_free,
    vma_adjust_next_free_before,
    vma_link_rb_begin,
    vma_link_rb_end,
    vma_link_rb_init,
    vma_rb_erase_begin,
    vma_rb_erase_end,
)
from seqfault.mm.rbtree import RB_CLEAR_NODE
from seqfault.mm.types import fault_flags_t, fault_t, mm_struct, vm_area_struct, vpn_t
from seqfault.mm.vma import find_vma
from seqfault.protocols import spf_v12
from seqfault.protocols.spf_common import no_fput
from seqfault.protocols.spf_v12 import get_vma, speculative_fault

PROTOCOL = spf_v12.PROTOCOL.derive(
    "spf-v11",
    "speculative page faults, v11 (Dufour, 2018)",
    doc=__doc__ or "",
    without=(
        do_page_fault_try,
        dup_mmap_copy,
        dup_mmap_flushed,
        rcu_callback,
        vm_area_free,
        vma_adjust_next_free,
        vma_link_rb_begin,
        vma_link_rb_end,
        vma_link_rb_init,
        vma_rb_erase_begin,
        vma_rb_erase_end,
    ),
)
PROTOCOL.release, PROTOCOL.sizes["LINUX"] = "4.17", 417
del PROTOCOL.fields["mm_struct"]["mm_seq"]
PROTOCOL.add_field(mm_struct, "mm_rb_lock", rwlock_t)


# -- 09: VMA sequence count
@PROTOCOL.at(vma_adjust_next_free_before)
def vma_adjust_next_free_before_09(next: ptr[vm_area_struct]):
    raw_write_seqcount_end(next.vm_sequence)


# -- 18: protect mm_rb tree with a rwlock
@PROTOCOL.at(vma_link_rb_begin, vma_rb_erase_begin)
def mm_rb_write_lock(mm: ptr[mm_struct]):
    write_lock(mm.mm_rb_lock)


@PROTOCOL.at(vma_link_rb_end)
def mm_rb_write_unlock(mm: ptr[mm_struct]):
    write_unlock(mm.mm_rb_lock)


@PROTOCOL.at(vma_rb_erase_end)
def __vma_rb_erase(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    write_unlock(mm.mm_rb_lock)
    RB_CLEAR_NODE(vma)


PROTOCOL.at(vma_adjust_next_fput)(no_fput)


@PROTOCOL.at(vma_adjust_next_free, vm_area_free)
def put_vma(vma: ptr[vm_area_struct]):
    if fetch_add(vma.vm_ref_count, -1) == 1:
        if vma.vm_file:
            fput(vma.vm_file)
        kmem_cache_free(vma)


def find_get_vma(mm: ptr[mm_struct], addr: vpn_t) -> ptr[vm_area_struct]:
    """get_vma(mm, addr) of the patch, whose name is v12's for taking a reference only."""
    read_lock(mm.mm_rb_lock)
    vma = find_vma(mm, addr)
    if vma:
        get_vma(vma)
    read_unlock(mm.mm_rb_lock)
    return vma


# -- 19: provide speculative page fault infrastructure; 24: x86/mm: add speculative pagefault handling
@PROTOCOL.at(do_page_fault_try)
def handle_speculative_fault(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    vma = find_get_vma(mm, address)
    if not vma:
        count("speculative_fallback/vma_none")
        return VM_FAULT_RETRY
    flags: fault_flags_t = FAULT_FLAG_WRITE if write else 0
    ret: fault_t = speculative_fault(mm, vma, address, flags | FAULT_FLAG_SPECULATIVE)
    put_vma(vma)
    if not ret & VM_FAULT_RETRY:
        count("speculative_success")
    return ret
