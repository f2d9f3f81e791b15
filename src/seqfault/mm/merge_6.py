"""Merging VMAs in Linux 6.x: the vma_merge_struct of mm/vma.c, 6.18, and the vma_expand of mm/mmap.c, 6.1.

From 6.12 on, a new range and a range whose flags change are merged by different functions (commits cacded5e42b9,
"mm: avoid using vma_merge() for new VMAs", and 65e0aa64df91, "mm: introduce commit_merge()"), and what is compared
is the anon_vma of the range with that of its neighbour, with the rule for children of a fork in one place
(commit 879bca0a2c4f, "mm/vma: fix incorrectly disallowed anonymous VMA merges").  The cases are counted by the
numbers of 4.12's vma_merge (mm/merge.py).

Only the last steps differ from Linux in kind: instead of one store into the maple tree, bounds change and VMAs leave
list and tree one by one, with mmap_sem held for writing.
"""

from __future__ import annotations

from seqfault.kernel import NULL, count, pool_object, ptr, smp_processor_id, struct
from seqfault.mm.anon_vma import (
    anon_vma_clone,
    anon_vma_lock_write,
    anon_vma_unlock_write,
    list_is_singular,
    unlink_anon_vmas,
)
from seqfault.mm.file import (
    fput,
    get_file,
    i_mmap_lock_write,
    i_mmap_unlock_write,
    vma_interval_tree_remove,
)
from seqfault.mm.places import (
    commit_merge_store,
    dup_anon_vma_dst,
    vma_complete_free,
    vma_complete_remove,
    vma_expand_next,
    vma_expand_target,
    vma_merge_middle,
    vma_merge_next,
    vma_merge_prev,
    vma_prepare_adj_next,
    vma_prepare_remove,
    vma_prepare_remove2,
    vma_prepare_vma,
)
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.types import (
    ENOMEM,
    FULL,
    LINUX,
    NR_CPUS,
    VM_SOFTDIRTY,
    VM_SPECIAL,
    VM_STICKY,
    anon_vma,
    errno_t,
    file,
    flags_t,
    mm_struct,
    pgoff_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import (
    __insert_vm_struct,
    __vma_link_file,
    __vma_unlink_common,
    validate_mm,
    vma_gap_update,
    vma_gap_update_next,
)

VM_IGNORE_MERGE = VM_SOFTDIRTY | VM_STICKY


@struct(pool=NR_CPUS, private=True)
class vma_merge_struct:
    """A merge in progress (mm/vma.h), on the stack of the task that does it.

    [start, end) with `pgoff`, `vm_flags`, `vm_file`, `anon_vma` is what merges; in the end, what it became.
    `middle`: the VMA whose flags change (NULL: a new range); `copied_from`: the one that mremap moves;
    `just_expand`: only prev may grow; `nomem`: it failed for want of memory.
    """

    mm: ptr[mm_struct]
    prev: ptr[vm_area_struct]
    middle: ptr[vm_area_struct]
    next: ptr[vm_area_struct]
    target: ptr[vm_area_struct]
    copied_from: ptr[vm_area_struct]
    start: vpn_t
    end: vpn_t
    vm_flags: flags_t
    pgoff: pgoff_t
    vm_file: ptr[file]
    anon_vma: ptr[anon_vma]
    just_expand: bool
    adjust_middle_start: bool
    adjust_next_start: bool
    remove_middle: bool
    remove_next: bool
    nomem: bool


@struct(pool=NR_CPUS, private=True)
class vma_prepare_struct:
    """What changes under the locks of the reverse maps (struct vma_prepare)."""

    vma: ptr[vm_area_struct]
    adj_next: ptr[vm_area_struct]
    insert: ptr[vm_area_struct]
    remove: ptr[vm_area_struct]
    remove2: ptr[vm_area_struct]
    vm_file: ptr[file]
    anon_vma: ptr[anon_vma]


def the_vmg() -> ptr[vma_merge_struct]:
    return pool_object(vma_merge_struct, smp_processor_id())


def vmg_init(
    mm: ptr[mm_struct],
    prev: ptr[vm_area_struct],
    start: vpn_t,
    end: vpn_t,
    vm_flags: flags_t,
    f: ptr[file],
    pgoff: pgoff_t,
) -> ptr[vma_merge_struct]:
    """VMG_STATE"""
    vmg = the_vmg()
    vmg.mm = mm
    vmg.prev = prev
    vmg.middle = NULL
    vmg.next = NULL
    vmg.target = NULL
    vmg.copied_from = NULL
    vmg.start = start
    vmg.end = end
    vmg.vm_flags = vm_flags
    vmg.pgoff = pgoff
    vmg.vm_file = f
    vmg.anon_vma = NULL
    vmg.just_expand = False
    vmg.adjust_middle_start = False
    vmg.adjust_next_start = False
    vmg.remove_middle = False
    vmg.remove_next = False
    vmg.nomem = False
    return vmg


# -- whether
def vma_is_fork_child(vma: ptr[vm_area_struct]) -> bool:
    """Whether its pages may be shared with the parent of a fork: such VMAs are kept apart from others."""
    return vma != NULL and vma.anon_vma != NULL and not list_is_singular(vma)


def is_mergeable_vma(vmg: ptr[vma_merge_struct], vma: ptr[vm_area_struct]) -> bool:
    """Policies, names and userfaultfd contexts are not modelled."""
    if (vma.vm_flags ^ vmg.vm_flags) & ~VM_IGNORE_MERGE:
        count("refuse/flags")
        return False
    if vma.vm_file != vmg.vm_file:
        count("refuse/file")
        return False
    return True


def is_mergeable_anon_vma(vmg: ptr[vma_merge_struct], tgt: ptr[vm_area_struct]) -> bool:
    src_anon = vmg.anon_vma
    if LINUX < 616:  # as in 4.12
        if (not src_anon or not tgt.anon_vma) and list_is_singular(tgt):
            return True
        return src_anon == tgt.anon_vma
    if not tgt.anon_vma and src_anon:  # dup_anon_vma will copy them
        if vma_is_fork_child(vmg.middle) or vma_is_fork_child(vmg.copied_from):
            count("refuse/fork_child")
            return False
        return True
    if tgt.anon_vma and not src_anon:
        if vma_is_fork_child(tgt):
            count("refuse/fork_child")
            return False
        return True
    if src_anon != tgt.anon_vma:
        count("refuse/anon_vma")
        return False
    return True


def can_vma_merge_left(vmg: ptr[vma_merge_struct]) -> bool:
    """can_vma_merge_after(prev)"""
    prev = vmg.prev
    if not prev or prev.vm_end != vmg.start:
        return False
    if not is_mergeable_vma(vmg, prev) or not is_mergeable_anon_vma(vmg, prev):
        return False
    if prev.vm_pgoff + (prev.vm_end - prev.vm_start) != vmg.pgoff:
        count("refuse/pgoff")
        return False
    return True


def can_vma_merge_right(vmg: ptr[vma_merge_struct], can_merge_left: bool) -> bool:
    """can_vma_merge_before(next); if prev merges too, its anon_vma and that of next must agree."""
    next = vmg.next
    if not next or vmg.end != next.vm_start:
        return False
    if not is_mergeable_vma(vmg, next) or not is_mergeable_anon_vma(vmg, next):
        return False
    if next.vm_pgoff != vmg.pgoff + (vmg.end - vmg.start):
        count("refuse/pgoff")
        return False
    if not can_merge_left:
        return True
    av = vmg.prev.anon_vma
    if av and next.anon_vma and av != next.anon_vma:
        count("refuse/prev_next_anon_vma")
        return False
    return True


# -- how
def init_vma_prep(vma: ptr[vm_area_struct]) -> ptr[vma_prepare_struct]:
    vp = pool_object(vma_prepare_struct, smp_processor_id())
    vp.vma = vma
    vp.adj_next = NULL
    vp.insert = NULL
    vp.remove = NULL
    vp.remove2 = NULL
    vp.vm_file = vma.vm_file
    vp.anon_vma = vma.anon_vma
    return vp


def init_multi_vma_prep(vma: ptr[vm_area_struct], vmg: ptr[vma_merge_struct]) -> ptr[vma_prepare_struct]:
    vp = init_vma_prep(vma)
    if vmg.remove_middle:
        vp.remove = vmg.middle
        if vmg.remove_next:
            vp.remove2 = vmg.next
    elif vmg.remove_next:
        vp.remove = vmg.next
    if vmg.adjust_middle_start:
        vp.adj_next = vmg.middle
    elif vmg.adjust_next_start:
        vp.adj_next = vmg.next
    if vp.adj_next and not vp.anon_vma:
        vp.anon_vma = vp.adj_next.anon_vma
    return vp


def vma_prepare(vp: ptr[vma_prepare_struct]):
    """Lock the reverse maps.  That VMAs leave the interval trees while they change, nobody could tell."""
    vma_prepare_vma(vp.vma)
    if vp.adj_next:
        vma_prepare_adj_next(vp.adj_next)
    if vp.remove:
        vma_prepare_remove(vp.remove)
    if vp.remove2:
        vma_prepare_remove2(vp.remove2)
    if vp.vm_file:
        i_mmap_lock_write(vp.vm_file)
        if vp.insert:
            __vma_link_file(vp.insert)
    if vp.anon_vma:
        anon_vma_lock_write(vp.anon_vma)


def vma_complete(vp: ptr[vma_prepare_struct], mm: ptr[mm_struct]):
    """Unlock them, and drop what the change removed."""
    if vp.remove:
        # Here they leave the address space, which in Linux the store into the maple tree has done.
        __vma_unlink_common(mm, vp.remove, NULL, False)
        if vp.remove2:
            __vma_unlink_common(mm, vp.remove2, NULL, False)
        if vp.vm_file:
            vma_interval_tree_remove(vp.vm_file)
            if vp.remove2:
                vma_interval_tree_remove(vp.vm_file)
    elif vp.insert:
        __insert_vm_struct(mm, vp.insert)
    else:
        vma_gap_update(vp.vma)
        vma_gap_update_next(vp.vma)
    if vp.anon_vma:
        anon_vma_unlock_write(vp.anon_vma)
    if vp.vm_file:
        i_mmap_unlock_write(vp.vm_file)
    while vp.remove:
        gone = vp.remove
        vma_complete_remove(gone)
        if vp.vm_file:
            fput(vp.vm_file)
        if gone.anon_vma:
            unlink_anon_vmas(gone)
        mm.map_count -= 1
        vma_complete_free(gone)
        vp.remove = vp.remove2
        vp.remove2 = NULL


def dup_anon_vma(dst: ptr[vm_area_struct], src: ptr[vm_area_struct]) -> tuple[errno_t, bool]:
    """Before pages of `src` lie in `dst` it must have its anon_vma.  Also tells whether it was given one now."""
    if src.anon_vma and not dst.anon_vma:
        dup_anon_vma_dst(dst)
        dst.anon_vma = src.anon_vma
        err: errno_t = anon_vma_clone(dst, src)
        return err, err == 0
    return 0, False


def vma_set_range(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, pgoff: pgoff_t):
    vma.vm_start = start
    vma.vm_end = end
    vma.vm_pgoff = pgoff


def commit_merge(vmg: ptr[vma_merge_struct]) -> errno_t:
    """Do it.  vmg.start, end and pgoff are now those of the VMA that grows (or of middle, if next grows down)."""
    vma = vmg.target
    if vmg.adjust_next_start:
        vma = vmg.middle
    vp = init_multi_vma_prep(vma, vmg)
    if mm_alloc_fails():  # nodes of the maple tree
        return -ENOMEM
    vma_prepare(vp)
    vma_set_range(vma, vmg.start, vmg.end, vmg.pgoff)
    adjust = vp.adj_next
    if adjust:
        pgoff: pgoff_t = 0
        if vmg.adjust_middle_start:
            pgoff = adjust.vm_pgoff + (vmg.end - adjust.vm_start)
        else:
            pgoff = adjust.vm_pgoff - (adjust.vm_start - vmg.end)
        vma_set_range(adjust, vmg.end, adjust.vm_end, pgoff)
    commit_merge_store(vmg.mm, vmg.target)
    vma_complete(vp, vmg.mm)
    return 0


def vma_merge_existing_range(vmg: ptr[vma_merge_struct]) -> ptr[vm_area_struct]:
    """[start, end) of `middle` gets new flags.  The VMA that covers it then, or NULL: not merged (or `nomem`).

    `prev` is the VMA before, or `middle` itself if the range begins inside it.
    """
    middle = vmg.middle
    prev = vmg.prev
    start: vpn_t = vmg.start
    end: vpn_t = vmg.end
    left_side = start == middle.vm_start
    right_side = end == middle.vm_end
    if vmg.vm_flags & VM_SPECIAL or (not left_side and not right_side):
        return NULL

    merge_left = left_side and can_vma_merge_left(vmg)
    merge_right: bool = False
    next: ptr[vm_area_struct] = NULL
    err: errno_t = 0
    if right_side:
        next = middle.vm_next
        vmg.next = next
        merge_right = can_vma_merge_right(vmg, merge_left)
    if not merge_left and not merge_right:
        return NULL

    vma_merge_middle(middle)
    if merge_right:
        vma_merge_next(next)
    if merge_left:
        vma_merge_prev(prev)
    vmg.remove_middle = left_side and right_side
    vmg.remove_next = merge_left and merge_right
    vmg.target = prev if merge_left else next
    if merge_left and merge_right:
        vmg.start = prev.vm_start
        vmg.end = next.vm_end
        vmg.pgoff = prev.vm_pgoff
        err, duped = dup_anon_vma(prev, next if next.anon_vma else middle)
    elif merge_left:
        vmg.start = prev.vm_start
        vmg.pgoff = prev.vm_pgoff
        vmg.adjust_middle_start = not vmg.remove_middle
        err, duped = dup_anon_vma(prev, middle)
    else:
        if vmg.remove_middle:
            vmg.end = next.vm_end
            vmg.pgoff = next.vm_pgoff - (end - start)
        else:
            vmg.adjust_next_start = True
            vmg.start = middle.vm_start
            vmg.end = start
            vmg.pgoff = middle.vm_pgoff
        err, duped = dup_anon_vma(next, middle)

    if FULL:
        sticky: flags_t = vmg.vm_flags & VM_STICKY
        if merge_left:
            sticky |= prev.vm_flags & VM_STICKY
        if merge_right:
            sticky |= next.vm_flags & VM_STICKY
    if err == 0:
        err = commit_merge(vmg)
        if LINUX >= 606 and err != 0 and duped:  # commit 824135c46b00
            unlink_anon_vmas(vmg.target)
    if err != 0:
        vmg.nomem = True
        return NULL
    if FULL:
        vmg.target.vm_flags |= sticky
    if merge_left and merge_right:
        count("vma_merge/case6")
    elif merge_left:
        if vmg.remove_middle:
            count("vma_merge/case7")
        else:
            count("vma_merge/case5")
    elif vmg.remove_middle:
        count("vma_merge/case8")
    else:
        count("vma_merge/case4")
    validate_mm(vmg.mm)
    return vmg.target


def vma_expand(vmg: ptr[vma_merge_struct]) -> errno_t:
    """Let `target` grow to [start, end), over `next` if that ends there too."""
    target = vmg.target
    next = vmg.next
    vma_expand_target(target)
    vmg.remove_next = next != NULL and target != next and vmg.end == next.vm_end
    ret: errno_t = 0
    duped = False
    if FULL:
        sticky: flags_t = vmg.vm_flags & VM_STICKY
        if vmg.remove_next:
            sticky |= next.vm_flags & VM_STICKY
    if vmg.remove_next:
        vma_expand_next(next)
        ret, duped = dup_anon_vma(target, next)
    if ret == 0 and vmg.copied_from:
        ret, again = dup_anon_vma(target, vmg.copied_from)
        duped = duped or again
    if ret != 0:
        return ret
    if commit_merge(vmg) != 0:
        if LINUX >= 606 and duped:
            unlink_anon_vmas(target)
        vmg.nomem = True
        return -ENOMEM
    if FULL:
        target.vm_flags |= sticky
    return 0


def vma_merge_new_range(vmg: ptr[vma_merge_struct]) -> ptr[vm_area_struct]:
    """[start, end), in which there is nothing, between `prev` and `next`: the VMA that covers it then, or NULL."""
    prev = vmg.prev
    next = vmg.next
    if vmg.vm_flags & VM_SPECIAL or (not prev and not next):
        return NULL
    can_merge_left: bool = can_vma_merge_left(vmg)
    can_merge_right = not vmg.just_expand and can_vma_merge_right(vmg, can_merge_left)
    if can_merge_right:
        vmg.end = next.vm_end
        vmg.target = next
    if can_merge_left:
        vmg.start = prev.vm_start
        vmg.target = prev
        vmg.pgoff = prev.vm_pgoff
    if not vmg.target or vma_expand(vmg) != 0:
        return NULL
    if can_merge_left and can_merge_right:
        count("vma_merge/case1")
    elif can_merge_left:
        count("vma_merge/case2")
    else:
        count("vma_merge/case3")
    validate_mm(vmg.mm)
    return vmg.target


def vma_expand_mapping(vmg: ptr[vma_merge_struct]) -> ptr[vm_area_struct]:
    """vma_merge_new_range up to 6.11, where mmap_region does it: the VMA behind is asked first, and if the one before
    does not go with its anon_vma, the one behind grows alone."""
    prev = vmg.prev
    next = vmg.next
    if vmg.vm_flags & VM_SPECIAL:
        return NULL
    can_merge_right: bool = can_vma_merge_right(vmg, False)
    if can_merge_right:
        vmg.end = next.vm_end
        vmg.target = next
        vmg.anon_vma = next.anon_vma
    can_merge_left: bool = can_vma_merge_left(vmg)
    if can_merge_left:
        vmg.start = prev.vm_start
        vmg.target = prev
        vmg.pgoff = prev.vm_pgoff
    if not vmg.target or vma_expand(vmg) != 0:
        return NULL
    if can_merge_left and can_merge_right:
        count("vma_merge/case1")
    elif can_merge_left:
        count("vma_merge/case2")
    else:
        count("vma_merge/case3")
    validate_mm(vmg.mm)
    return vmg.target


# -- 6.18's __split_vma, its middle part
def vma_insert_split(
    mm: ptr[mm_struct], vma: ptr[vm_area_struct], new: ptr[vm_area_struct], addr: vpn_t, new_below: bool
):
    """Insert `new`, which has the bounds of its part of `vma`, and cut `vma`."""
    if new.vm_file:
        get_file(new.vm_file)
    vp = init_vma_prep(vma)
    vp.insert = new
    vma_prepare(vp)
    if new_below:
        vma.vm_pgoff += addr - new.vm_start
        vma.vm_start = addr
    else:
        vma.vm_end = addr
    vma_complete(vp, mm)
