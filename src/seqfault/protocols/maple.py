"""What protocols of 6.4 and later share: the maple tree of VMAs, as readers in an RCU section see it.

For each address there is one VMA or none, and a store changes a range at once (lib/maple_tree.c: a node is replaced by
one store of a pointer).  Here: an array of pages, which changes in one step.  It stands beside the list and the tree of
the mm text, which serve those who hold mmap_lock.
"""

from __future__ import annotations

from seqfault.kernel import NULL, Protocol, array, atomic, ptr, rcu_assign_pointer, rcu_dereference
from seqfault.mm.places import commit_merge_store, detach_end, expand_downwards_store
from seqfault.mm.types import NR_PAGES, mm_struct, vm_area_struct, vma_mm, vpn_t


def mas_walk(mm: ptr[mm_struct], address: vpn_t) -> ptr[vm_area_struct]:
    return rcu_dereference(mm.mm_mt[address])


def vma_iter_store(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    start: vpn_t = vma.vm_start
    end: vpn_t = vma.vm_end
    with atomic():
        for i in range(start, end):
            rcu_assign_pointer(mm.mm_mt[i], vma)


def vma_iter_clear(mm: ptr[mm_struct], start: vpn_t, end: vpn_t):
    with atomic():
        for i in range(start, end):
            rcu_assign_pointer(mm.mm_mt[i], NULL)


def store_grown(vma: ptr[vm_area_struct]):
    vma_iter_store(vma_mm(vma), vma)


def bind_tree(proto: Protocol) -> None:
    """All stores but that of a new VMA (`__vma_link_rb/store`)."""
    proto.add_field(mm_struct, "mm_mt", array[ptr[vm_area_struct], NR_PAGES])
    proto.at(commit_merge_store)(vma_iter_store)
    proto.at(expand_downwards_store)(store_grown)
    proto.at(detach_end)(vma_iter_clear)
