"""anon_vma and its chains.  mm/rmap.c and find_mergeable_anon_vma of mm/mmap.c, 4.12, 6.1, 6.18.

With one address space there is no fork: every anon_vma is its own root, a VMA has at most one chain entry, and what
decides whether fork may reuse an anon_vma is not kept: `degree`, children and VMAs in one; since commit 2555283eb40d
(6.0) `num_children` and `num_active_vmas`.
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
    LINUX,
    NR_MMS,
    VM_ACCESS_FLAGS,
    VM_SOFTDIRTY,
    VM_STICKY,
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
    if NR_MMS > 1:
        av.root = av  # fork may change both
        av.parent = av
        av.degree = 1  # for the first VMA
        av.num_children = 0
        av.num_active_vmas = 0
    return av


def __put_anon_vma(av: ptr[anon_vma]):
    """The root's lock serves the whole family, so each member holds a reference on it."""
    root = av.root
    kmem_cache_free(av)
    if root != av and fetch_add(root.refcount, -1) == 1:
        kmem_cache_free(root)


def put_anon_vma(av: ptr[anon_vma]):
    if fetch_add(av.refcount, -1) == 1:
        if NR_MMS > 1:
            __put_anon_vma(av)
        else:
            kmem_cache_free(av)


def anon_vma_lock_write(av: ptr[anon_vma]):
    if NR_MMS > 1:
        root = av.root
        down_write(root.rwsem)
    else:
        down_write(av.rwsem)


def anon_vma_unlock_write(av: ptr[anon_vma]):
    if NR_MMS > 1:
        root = av.root
        up_write(root.rwsem)
    else:
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
    if (a.vm_flags ^ b.vm_flags) & ~(VM_ACCESS_FLAGS | VM_SOFTDIRTY | VM_STICKY):
        return False
    return b.vm_pgoff == a.vm_pgoff + (b.vm_start - a.vm_start)


def reusable_anon_vma(old: ptr[vm_area_struct], a: ptr[vm_area_struct], b: ptr[vm_area_struct]) -> ptr[anon_vma]:
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


def anon_vma_used(av: ptr[anon_vma]):
    """One more VMA has `av` as the one for its new pages."""
    av.degree += 1
    av.num_active_vmas += 1


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
        if NR_MMS > 1:
            av.num_children += 1  # a root is its own child
        allocated = av
    anon_vma_lock_write(av)
    spin_lock(mm.page_table_lock)  # other threads may be here for the same VMA
    if not vma.anon_vma:
        vma.anon_vma = av
        anon_vma_chain_link(vma, avc, av)
        if NR_MMS > 1:
            anon_vma_used(av)
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
    if NR_MMS > 1:
        return anon_vma_clone_chain(dst, src)
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


def anon_vma_reusable(av: ptr[anon_vma], src: ptr[vm_area_struct]) -> bool:
    """Whether a forked VMA may put its new pages into an ancestor's anon_vma: no VMA uses it for that any more, and
    it has one child at most, so a process that forks on and on does not lengthen the chain for ever.

    A root, being its own child, is never reused.
    """
    if LINUX >= 600:
        return av.num_children < 2 and av.num_active_vmas == 0
    return av != src.anon_vma and av.degree < 2


def anon_vma_clone_chain(dst: ptr[vm_area_struct], src: ptr[vm_area_struct]) -> errno_t:
    """anon_vma_clone where chains have several entries, newest first: `dst` gets them in the same order.

    From fork, which has set dst.anon_vma to NULL, the oldest anon_vma that can be reused is (Linux walks the list
    backwards and takes the first).
    """
    fork = not dst.anon_vma and src.anon_vma != NULL
    old = dst.anon_vma_chain
    tail: ptr[anon_vma_chain] = NULL
    pavc = src.anon_vma_chain
    while pavc:
        avc = anon_vma_chain_alloc()
        if not avc:
            dst.anon_vma = NULL  # as in anon_vma_clone
            unlink_anon_vmas(dst)
            return -ENOMEM
        av = pavc.anon_vma
        anon_vma_lock_write(av)
        avc.vma = dst
        avc.anon_vma = av
        avc.next_same_vma = old
        if tail:
            tail.next_same_vma = avc
        else:
            dst.anon_vma_chain = avc
        tail = avc
        av.rb_root += 1
        if fork and anon_vma_reusable(av, src):
            dst.anon_vma = av
        anon_vma_unlock_write(av)
        pavc = pavc.next_same_vma
    if dst.anon_vma:
        anon_vma_used(dst.anon_vma)
    return 0


def anon_vma_fork(vma: ptr[vm_area_struct], pvma: ptr[vm_area_struct]) -> errno_t:
    """Attach a child's VMA to the anon_vmas of its parent's, whose pages it shares, and to one for its own pages.

    -ENOMEM when memory is short.
    """
    if not pvma.anon_vma:
        return 0
    vma.anon_vma = NULL  # inherited: not the child's
    error: errno_t = anon_vma_clone(vma, pvma)
    if error != 0 or vma.anon_vma:
        return error
    av = anon_vma_alloc()
    if not av:
        unlink_anon_vmas(vma)
        return -ENOMEM
    avc = anon_vma_chain_alloc()
    if not avc:
        put_anon_vma(av)
        unlink_anon_vmas(vma)
        return -ENOMEM
    av.num_active_vmas += 1
    parent = pvma.anon_vma
    root = parent.root
    av.root = root
    av.parent = parent
    fetch_add(root.refcount, 1)
    vma.anon_vma = av
    anon_vma_lock_write(av)
    anon_vma_chain_link(vma, avc, av)
    parent.degree += 1
    parent.num_children += 1
    anon_vma_unlock_write(av)
    return 0


def unlink_anon_vmas(vma: ptr[vm_area_struct]):
    """Take `vma` out of the trees of its anon_vmas, and free those that it was the last of.

    Linux goes round twice, because an anon_vma cannot be freed with its root's lock held.
    """
    if NR_MMS > 1:
        av = vma.anon_vma
        if av:
            av.degree -= 1
            av.num_active_vmas -= 1
            if LINUX >= 513:
                vma.anon_vma = NULL  # commit ee8ab1903e3d
    elif LINUX >= 513:
        vma.anon_vma = NULL
    avc = vma.anon_vma_chain
    while avc:
        next = avc.next_same_vma
        av = avc.anon_vma
        anon_vma_lock_write(av)
        av.rb_root -= 1
        last = av.rb_root == 0
        if NR_MMS > 1 and last:
            parent = av.parent
            parent.degree -= 1
            parent.num_children -= 1
            BUG_ON(av.degree != 0)  # of each release what it counts
            BUG_ON(av.num_children != 0)
            BUG_ON(av.num_active_vmas != 0)
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
