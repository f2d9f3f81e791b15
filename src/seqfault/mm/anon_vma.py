"""anon_vma and its chains.  mm/rmap.c and find_mergeable_anon_vma of mm/mmap.c, 4.12, without fork.

Without fork every anon_vma is its own root, a VMA has at most one chain entry, and `degree` (which decides
whether fork may reuse an anon_vma) is not kept.
"""

from __future__ import annotations

from seqfault.kernel import (
    BUG_ON,
    NULL,
    READ_ONCE,
    fetch_add,
    kmem_cache_alloc,
    kmem_cache_free,
    ptr,
)
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.kernel.spinlock import spin_lock, spin_unlock
from seqfault.kernel.task import might_sleep
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.types import (
    ENOMEM,
    VM_ACCESS_FLAGS,
    VM_SOFTDIRTY,
    anon_vma,
    anon_vma_chain,
    current_mm,
    errno_t,
    vm_area_struct,
)


def anon_vma_chain_alloc() -> ptr[anon_vma_chain]:
    if mm_alloc_fails():
        return NULL
    return kmem_cache_alloc(anon_vma_chain)


def anon_vma_chain_free(avc: ptr[anon_vma_chain]):
    kmem_cache_free(avc)


def anon_vma_alloc() -> ptr[anon_vma]:
    """A new anon_vma that holds one reference on itself, dropped when its last VMA leaves."""
    if mm_alloc_fails():
        return NULL
    av = kmem_cache_alloc(anon_vma)
    av.rwsem.writer = 0
    av.rwsem.readers = 0
    av.refcount = 1
    av.rb_root = 0
    return av


def put_anon_vma(av: ptr[anon_vma]):
    if fetch_add(av.refcount, -1) == 1:
        kmem_cache_free(av)


def anon_vma_lock_write(av: ptr[anon_vma]):
    down_write(av.rwsem)


def anon_vma_unlock_write(av: ptr[anon_vma]):
    up_write(av.rwsem)


def list_is_singular(vma: ptr[vm_area_struct]) -> bool:
    """Whether the VMA has exactly one chain entry."""
    avc = vma.anon_vma_chain
    return avc != NULL and avc.next_same_vma == NULL


def anon_vma_chain_link(vma: ptr[vm_area_struct], avc: ptr[anon_vma_chain], av: ptr[anon_vma]):
    avc.vma = vma
    avc.anon_vma = av
    avc.next_same_vma = vma.anon_vma_chain
    vma.anon_vma_chain = avc
    av.rb_root += 1


def anon_vma_compatible(a: ptr[vm_area_struct], b: ptr[vm_area_struct]) -> bool:
    """Whether `a` and `b`, which follows it, might merge one day: alike but for the rights."""
    if a.vm_end != b.vm_start:
        return False
    if a.vm_file != b.vm_file:
        return False
    if (a.vm_flags ^ b.vm_flags) & ~(VM_ACCESS_FLAGS | VM_SOFTDIRTY):
        return False
    return b.vm_pgoff == a.vm_pgoff + (b.vm_start - a.vm_start)


def reusable_anon_vma(
    old: ptr[vm_area_struct], a: ptr[vm_area_struct], b: ptr[vm_area_struct]
) -> ptr[anon_vma]:
    """The anon_vma of `old`, one of the neighbours `a` and `b`, if both may use it.

    Only mmap_sem for reading is held: `old` may be getting its anon_vma just now.
    """
    if anon_vma_compatible(a, b):
        av = READ_ONCE(old.anon_vma)
        if av and list_is_singular(old):
            return av
    return NULL


def find_mergeable_anon_vma(vma: ptr[vm_area_struct]) -> ptr[anon_vma]:
    """A neighbour's anon_vma, for a VMA about to get its first page, so that they can merge later."""
    near = vma.vm_next
    if near:
        av = reusable_anon_vma(near, vma, near)
        if av:
            return av
    near = vma.vm_prev
    if near:
        return reusable_anon_vma(near, near, vma)
    return NULL


def anon_vma_prepare(vma: ptr[vm_area_struct]) -> errno_t:
    """Make sure that `vma` has an anon_vma before its first anonymous page.  Needs mmap_sem, for reading."""
    if vma.anon_vma:
        return 0
    return __anon_vma_prepare(vma)


def __anon_vma_prepare(vma: ptr[vm_area_struct]) -> errno_t:
    mm = current_mm()
    might_sleep()
    avc = anon_vma_chain_alloc()
    if not avc:
        return -ENOMEM
    av = find_mergeable_anon_vma(vma)
    allocated: ptr[anon_vma] = NULL
    if not av:
        av = anon_vma_alloc()
        if not av:
            anon_vma_chain_free(avc)
            return -ENOMEM
        allocated = av
    anon_vma_lock_write(av)
    spin_lock(mm.page_table_lock)  # other threads may be here for the same VMA
    if not vma.anon_vma:
        vma.anon_vma = av
        anon_vma_chain_link(vma, avc, av)
        allocated = NULL
        avc = NULL
    spin_unlock(mm.page_table_lock)
    anon_vma_unlock_write(av)
    if allocated:
        put_anon_vma(allocated)
    if avc:
        anon_vma_chain_free(avc)
    return 0


def anon_vma_clone(dst: ptr[vm_area_struct], src: ptr[vm_area_struct]) -> errno_t:
    """Give `dst` a chain entry for each of `src`'s.  On failure `dst` has none, and no anon_vma.

    Linux holds the root's lock over the loop; here every entry's anon_vma is its own root.
    """
    pavc = src.anon_vma_chain
    while pavc:
        avc = anon_vma_chain_alloc()
        if not avc:
            # Callers do not look at dst.anon_vma after a failure, and unlinking must not count it.
            dst.anon_vma = NULL
            unlink_anon_vmas(dst)
            return -ENOMEM
        av = pavc.anon_vma
        anon_vma_lock_write(av)
        anon_vma_chain_link(dst, avc, av)
        anon_vma_unlock_write(av)
        pavc = pavc.next_same_vma
    return 0


def unlink_anon_vmas(vma: ptr[vm_area_struct]):
    """Take `vma` out of the trees of its anon_vmas, and free those that it was the last of.

    Linux goes round twice, because an anon_vma cannot be freed with its root's lock held.
    """
    avc = vma.anon_vma_chain
    while avc:
        next = avc.next_same_vma
        av = avc.anon_vma
        anon_vma_lock_write(av)
        av.rb_root -= 1
        last = av.rb_root == 0
        anon_vma_unlock_write(av)
        if last:
            put_anon_vma(av)
        vma.anon_vma_chain = next
        anon_vma_chain_free(avc)
        avc = next


def anon_vma_merge(vma: ptr[vm_area_struct], next: ptr[vm_area_struct]):
    """`next` was merged into `vma`, which has the same anon_vma."""
    BUG_ON(vma.anon_vma != next.anon_vma)
    unlink_anon_vmas(next)
