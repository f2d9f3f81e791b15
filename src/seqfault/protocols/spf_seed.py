"""spf-seed: the speculative page faults of RFC v5 around patch 04 as it was posted.

RFC v5, 16 June 2017, on v4.12-rc5.  Of the series this takes

- 04 "VMA sequence count" at its posted places, not at those that 05 moves them to;
- kmem_cache_free at once, where 07 has call_srcu (the rest of 07, mm_seq and the cleared node, stays);
- 06, 08, 09 and 10 as they are.

As posted: 04, 06, 08, 09.  Reconstructed: 07 and 10, from the mails of the versions next to v5 (see
spf_common.py).  The seed is a reply that quotes 04 and lost a semicolon in the quote; the posting has it.

Places, patch 04:
    __vma_link_rb/init              seqcount_init
    __vma_adjust/begin              begin(vma), begin(next)
    __vma_adjust/error              nothing: the posted error return has no end
    __vma_adjust/next.free.after    end(next), after the free
    __vma_adjust/next.again         begin of the next next
    __vma_adjust/end                end(next), end(vma)
    unmap_page_range/begin, /end
06: mmap_region/flags.begin, /flags.end; mprotect_fixup/begin, /end
07: __vma_link_rb/begin, /end; vma_rb_erase/begin, /end
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
    vma_adjust_begin,
    vma_adjust_end,
    vma_adjust_next_again,
    vma_adjust_next_free_after,
)
from seqfault.mm.types import vm_area_struct
from seqfault.protocols.spf_common import (
    SUCCESS,
    bind_04_outside_vma_adjust,
    bind_06,
    bind_07_lookup,
    bind_08_09,
    bind_10,
)
from seqfault.protocols.spf_locks import SPF_04

PROTOCOL = Protocol(
    "spf-seed",
    "RFC v5, patch 04 at its posted places, VMAs freed at once",
    doc=__doc__ or "",
    speculative=SUCCESS,
    locks=SPF_04,
)


@PROTOCOL.at(vma_adjust_begin)
def vma_adjust_begin_04(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    write_seqcount_begin(vma.vm_sequence)
    if next:
        write_seqcount_begin_nested(next.vm_sequence, SINGLE_DEPTH_NESTING)


@PROTOCOL.at(vma_adjust_next_free_after)
def vma_adjust_next_free_after_04(next: ptr[vm_area_struct]):
    write_seqcount_end(next.vm_sequence)


@PROTOCOL.at(vma_adjust_next_again)
def vma_adjust_next_again_04(next: ptr[vm_area_struct]):
    if next:
        write_seqcount_begin_nested(next.vm_sequence, SINGLE_DEPTH_NESTING)


@PROTOCOL.at(vma_adjust_end)
def vma_adjust_end_04(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    if next:
        write_seqcount_end(next.vm_sequence)
    write_seqcount_end(vma.vm_sequence)


bind_04_outside_vma_adjust(PROTOCOL)
bind_06(PROTOCOL)
bind_07_lookup(PROTOCOL)
bind_08_09(PROTOCOL)
bind_10(PROTOCOL)
