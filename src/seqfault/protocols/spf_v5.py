"""spf-v5: the whole series "Speculative page faults", RFC v5, 16 June 2017, on v4.12-rc5.

As posted: 04 outside __vma_adjust, 06, 08, 09.  Reconstructed, as v5's own mails are not at hand: 05, 07, 10.
05's message is quoted in replies to it, its diff is that of RFC v4 (10/20), which the merged form of August
2017 (PATCH 04/16) repeats; 07's is RFC v4 05/20; 10's is PATCH 09/16 (see spf_common.py).

05 takes the counts in __vma_adjust after i_mmap_rwsem, in every round of `again`, and so after the anon_vma
is imported and past the error return; the last end leaves `next` out if it is vma.  07 defers the free; the
end of `next` still comes after it.

Places, patches 04 and 05:
    __vma_link_rb/init              seqcount_init
    __vma_adjust/locked             begin(vma), begin(next)
    __vma_adjust/next.free.after    end(next), after the free
    __vma_adjust/again              end(vma)
    __vma_adjust/next.last          begin(next) unless it is vma
    __vma_adjust/end                end(next) unless it is vma, end(vma)
    unmap_page_range/begin, /end
06: mmap_region/flags.begin, /flags.end; mprotect_fixup/begin, /end
07: __vma_link_rb/begin, /end; vma_rb_erase/begin, /end; __vma_adjust/next.fput, /next.free; remove_vma/free;
    rcu_callback/call
08, 09: pte_map_lock, pte_spinlock
10: do_page_fault/try
"""

from __future__ import annotations

from seqfault.kernel import Protocol, ptr
from seqfault.kernel.seqlock import (
    SINGLE_DEPTH_NESTING,
    write_seqcount_begin,
    write_seqcount_begin_nested,
    write_seqcount_end,
)
from seqfault.mm.places import (
    vma_adjust_again,
    vma_adjust_end,
    vma_adjust_locked,
    vma_adjust_next_free_after,
    vma_adjust_next_last,
)
from seqfault.mm.types import vm_area_struct
from seqfault.protocols.spf_common import (
    SUCCESS,
    bind_04_outside_vma_adjust,
    bind_06,
    bind_07_free,
    bind_07_lookup,
    bind_08_09,
    bind_10,
)
from seqfault.protocols.spf_locks import SPF_V5

PROTOCOL = Protocol(
    "spf-v5",
    "speculative page faults, RFC v5, the whole series",
    doc=__doc__ or "",
    speculative=SUCCESS,
    locks=SPF_V5,
)


@PROTOCOL.at(vma_adjust_locked)
def vma_adjust_locked_05(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    write_seqcount_begin(vma.vm_sequence)
    if next:
        write_seqcount_begin_nested(next.vm_sequence, SINGLE_DEPTH_NESTING)


@PROTOCOL.at(vma_adjust_next_free_after)
def vma_adjust_next_free_after_04(next: ptr[vm_area_struct]):
    write_seqcount_end(next.vm_sequence)


@PROTOCOL.at(vma_adjust_again)
def vma_adjust_again_05(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    write_seqcount_end(vma.vm_sequence)


@PROTOCOL.at(vma_adjust_next_last)
def vma_adjust_next_last_05(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    if next and next != vma:
        write_seqcount_begin_nested(next.vm_sequence, SINGLE_DEPTH_NESTING)


@PROTOCOL.at(vma_adjust_end)
def vma_adjust_end_05(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    if next and next != vma:
        write_seqcount_end(next.vm_sequence)
    write_seqcount_end(vma.vm_sequence)


bind_04_outside_vma_adjust(PROTOCOL)
bind_06(PROTOCOL)
bind_07_lookup(PROTOCOL)
bind_07_free(PROTOCOL)
bind_08_09(PROTOCOL)
bind_10(PROTOCOL)
