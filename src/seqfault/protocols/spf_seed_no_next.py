"""spf-seed-no-next: spf-seed without the calls on `next` in __vma_adjust.

Answers "why change the sequence of `next` as well?", the question of the seed that nobody answered on the
list.  Not a posted patch.  The four calls go together, so that every count that is begun is ended: what is
left is the VMA that __vma_adjust was called for.  In case 8 that one is removed (the text exchanges the two):
its count is ended before it is freed, and the survivor has none to end.

Places: those of spf-seed without __vma_adjust/next.free.after and /next.again; __vma_adjust/begin and /end
have only the call on vma, /next.free.before has case 8's.
"""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.kernel.seqlock import write_seqcount_begin, write_seqcount_end
from seqfault.mm.places import (
    vma_adjust_begin,
    vma_adjust_end,
    vma_adjust_next_again,
    vma_adjust_next_free_after,
    vma_adjust_next_free_before,
)
from seqfault.mm.types import vm_area_struct
from seqfault.protocols import spf_seed

PROTOCOL = spf_seed.PROTOCOL.derive(
    "spf-seed-no-next",
    "spf-seed without the calls on `next` in __vma_adjust",
    doc=__doc__ or "",
    without=(vma_adjust_begin, vma_adjust_end, vma_adjust_next_again, vma_adjust_next_free_after),
)


@PROTOCOL.at(vma_adjust_begin)
def vma_adjust_begin_vma(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    write_seqcount_begin(vma.vm_sequence)


@PROTOCOL.at(vma_adjust_next_free_before)
def vma_adjust_next_free_before_case8(next: ptr[vm_area_struct]):
    if next.vm_sequence.sequence & 1:  # begun, so it is the VMA that we were called for
        write_seqcount_end(next.vm_sequence)


@PROTOCOL.at(vma_adjust_end)
def vma_adjust_end_vma(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    if next != vma:  # else case 8
        write_seqcount_end(vma.vm_sequence)
