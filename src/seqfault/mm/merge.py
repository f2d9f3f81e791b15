"""Merging VMAs, and moving their boundaries.  mm/mmap.c, 4.12; 6.1 where it says so.

The cases of vma_merge, where AAAA is the range with its new properties, P the VMA before it, N the one after,
X one that lies in it exactly:

    hole      1  PPPPAAAANNNN -> one      2  PPPPAAAA -> P      3      AAAANNNN -> N
    mprotect  4  PPAA NNNN: P gives its tail to N             5  PPPP AANN: P takes the head of N
              6  P X N -> one             7  P X -> P           8      X N -> N (X is removed, N grows down)
"""

from __future__ import annotations

from seqfault.kernel import NULL, count, integer, ptr
from seqfault.mm.anon_vma import (
    anon_vma_clone,
    anon_vma_lock_write,
    anon_vma_merge,
    anon_vma_unlock_write,
    list_is_singular,
)
from seqfault.mm.file import i_mmap_lock_write, i_mmap_unlock_write, vma_interval_tree_remove
from seqfault.mm.places import (
    vma_adjust_again,
    vma_adjust_begin,
    vma_adjust_end,
    vma_adjust_error,
    vma_adjust_locked,
    vma_adjust_next_again,
    vma_adjust_next_fput,
    vma_adjust_next_free,
    vma_adjust_next_free_after,
    vma_adjust_next_free_before,
    vma_adjust_next_last,
)
from seqfault.mm.types import (
    FULL,
    NR_PAGES,
    VM_SOFTDIRTY,
    VM_SPECIAL,
    anon_vma,
    current_mm,
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
    __vma_unlink_prev,
    validate_mm,
    vma_gap_update,
    vma_gap_update_next,
)

delta_t = integer(0 - NR_PAGES, NR_PAGES, "delta_t")


def is_mergeable_vma(vma: ptr[vm_area_struct], f: ptr[file], vm_flags: flags_t) -> bool:
    """Policies and userfaultfd contexts, and files with a close method, are not modelled."""
    if (vma.vm_flags ^ vm_flags) & ~VM_SOFTDIRTY:
        return False
    return vma.vm_file == f


def is_mergeable_anon_vma(av1: ptr[anon_vma], av2: ptr[anon_vma], vma: ptr[vm_area_struct]) -> bool:
    """Equal, or one unset; in the latter case `vma`, if given, must have exactly one chain entry.

    So a VMA that was never touched does not merge with a touched range; a range that was not does with a
    touched VMA.
    """
    if (not av1 or not av2) and (not vma or list_is_singular(vma)):
        return True
    return av1 == av2


def can_vma_merge_before(
    vma: ptr[vm_area_struct], vm_flags: flags_t, av: ptr[anon_vma], f: ptr[file], vm_pgoff: pgoff_t
) -> bool:
    """Whether a range that ends at `vma`, whose file page `vm_pgoff` would be vma's first, merges with it."""
    if is_mergeable_vma(vma, f, vm_flags) and is_mergeable_anon_vma(av, vma.anon_vma, vma):
        return vma.vm_pgoff == vm_pgoff
    return False


def can_vma_merge_after(
    vma: ptr[vm_area_struct], vm_flags: flags_t, av: ptr[anon_vma], f: ptr[file], vm_pgoff: pgoff_t
) -> bool:
    """Whether a range that starts at the end of `vma` with file page `vm_pgoff` merges with it."""
    if is_mergeable_vma(vma, f, vm_flags) and is_mergeable_anon_vma(av, vma.anon_vma, vma):
        return vma.vm_pgoff + (vma.vm_end - vma.vm_start) == vm_pgoff
    return False


def count_refusal(vma: ptr[vm_area_struct], vm_flags: flags_t, av: ptr[anon_vma], f: ptr[file], same_pgoff: bool):
    """Why an adjacent VMA does not merge with a range."""
    if (vma.vm_flags ^ vm_flags) & ~VM_SOFTDIRTY:
        count("refuse/flags")
    elif vma.vm_file != f:
        count("refuse/file")
    elif not is_mergeable_anon_vma(av, vma.anon_vma, vma):
        avc = vma.anon_vma_chain
        if (not av or not vma.anon_vma) and avc and avc.next_same_vma:
            count("refuse/fork_child")
        else:
            count("refuse/anon_vma")
    elif not same_pgoff:
        count("refuse/pgoff")


def count_refusals(
    prev: ptr[vm_area_struct],
    next: ptr[vm_area_struct],
    addr: vpn_t,
    end: vpn_t,
    vm_flags: flags_t,
    av: ptr[anon_vma],
    f: ptr[file],
    pgoff: pgoff_t,
):
    """For each neighbour of [addr, end) that does not merge with it; and if both would, but not with each other."""
    left = False
    if prev and prev.vm_end == addr:
        left = can_vma_merge_after(prev, vm_flags, av, f, pgoff)
        count_refusal(prev, vm_flags, av, f, prev.vm_pgoff + (prev.vm_end - prev.vm_start) == pgoff)
    if next and end == next.vm_start:
        count_refusal(next, vm_flags, av, f, next.vm_pgoff == pgoff + (end - addr))
        right = can_vma_merge_before(next, vm_flags, av, f, pgoff + (end - addr))
        if left and right and not is_mergeable_anon_vma(prev.anon_vma, next.anon_vma, NULL):
            count("refuse/prev_next_anon_vma")


def vma_merge(
    mm: ptr[mm_struct],
    prev: ptr[vm_area_struct],
    addr: vpn_t,
    end: vpn_t,
    vm_flags: flags_t,
    av: ptr[anon_vma],
    f: ptr[file],
    pgoff: pgoff_t,
) -> ptr[vm_area_struct]:
    """Merge [addr, end) with its new properties into its neighbours.  The VMA that covers it then, or NULL.

    NULL also when an anon_vma could not be cloned: the caller goes on without merging.
    """
    pglen: vpn_t = end - addr
    area = prev.vm_next if prev else mm.mmap
    next = area
    if area and area.vm_end == end:  # 6, 7, 8
        next = area.vm_next
    if FULL:
        if vm_flags & VM_SPECIAL:
            return NULL
        count_refusals(prev, next, addr, end, vm_flags, av, f, pgoff)

    if prev and prev.vm_end == addr and can_vma_merge_after(prev, vm_flags, av, f, pgoff):
        if (
            next
            and end == next.vm_start
            and can_vma_merge_before(next, vm_flags, av, f, pgoff + pglen)
            and is_mergeable_anon_vma(prev.anon_vma, next.anon_vma, NULL)
        ):  # 1, 6
            err: errno_t = __vma_adjust(prev, prev.vm_start, next.vm_end, prev.vm_pgoff, NULL, prev)
            if err == 0:
                if area == next:
                    count("vma_merge/case1")
                else:
                    count("vma_merge/case6")
        else:  # 2, 5, 7
            err = __vma_adjust(prev, prev.vm_start, end, prev.vm_pgoff, NULL, prev)
            if err == 0 and area != next:
                count("vma_merge/case7")
        if err != 0:
            return NULL
        return prev

    if next and end == next.vm_start and can_vma_merge_before(next, vm_flags, av, f, pgoff + pglen):
        if prev and addr < prev.vm_end:  # 4
            err = __vma_adjust(prev, prev.vm_start, addr, prev.vm_pgoff, NULL, next)
        else:  # 3, 8
            err = __vma_adjust(area, addr, next.vm_end, next.vm_pgoff - pglen, NULL, next)
            if err == 0:
                if area == next:
                    count("vma_merge/case3")
                else:
                    count("vma_merge/case8")
        if err != 0:
            return NULL
        return next  # in 8 `area` is freed by now
    return NULL


def __vma_adjust(
    vma: ptr[vm_area_struct],
    start: vpn_t,
    end: vpn_t,
    pgoff: pgoff_t,
    insert: ptr[vm_area_struct],
    expand: ptr[vm_area_struct],
) -> errno_t:
    """Move the bounds of `vma`, and what that means for `next`: shrunk, grown, removed (twice in case 6).

    `insert`: the VMA that a split made; `expand`: the one that a merge makes larger.
    """
    mm = current_mm()
    next = vma.vm_next
    f = vma.vm_file
    adjust_next: delta_t = 0
    remove_next: integer(0, 3) = 0

    vma_adjust_begin(vma, next)
    if next and not insert:
        exporter: ptr[vm_area_struct] = NULL
        importer: ptr[vm_area_struct] = NULL
        if end >= next.vm_end:
            # vma grows over all of next, and in case 6 over the VMA behind it too.
            if next == expand:
                # 8: it is next that grows and vma that goes. Exchanged, this is the same as the others.
                remove_next = 3
                tmp = vma
                vma = next
                next = tmp
            else:
                # 1, 7: 1; 6: 2, and the second one goes in a second round
                remove_next = 2 if end > next.vm_end else 1
                end = next.vm_end
            exporter = next
            importer = vma
            if remove_next == 2 and not next.anon_vma:
                exporter = next.vm_next
        elif end > next.vm_start:
            # 5: the boundary moves up
            adjust_next = end - next.vm_start
            exporter = next
            importer = vma
        elif end < vma.vm_end:
            # 4: no split (nothing to insert), so the boundary moves down
            adjust_next = end - vma.vm_end
            exporter = vma
            importer = next

        # The VMA that grows must have an anon_vma before pages of the other lie in it.
        if exporter and exporter.anon_vma and not importer.anon_vma:
            importer.anon_vma = exporter.anon_vma
            error: errno_t = anon_vma_clone(importer, exporter)
            if error != 0:
                vma_adjust_error(vma, next)
                return error

    while True:  # again:
        if f:
            i_mmap_lock_write(f)
            if insert:
                __vma_link_file(insert)
        vma_adjust_locked(vma, next)
        av = vma.anon_vma
        if not av and adjust_next != 0:
            av = next.anon_vma
        if av:
            anon_vma_lock_write(av)
        # Linux takes vma and next out of the interval trees, which are ordered by what changes now, and puts
        # them back before it drops the locks: nobody could tell.

        if start != vma.vm_start:
            vma.vm_start = start
        if end != vma.vm_end:
            vma.vm_end = end
            if expand and remove_next == 0 and adjust_next == 0:
                count("vma_merge/case2")
        vma.vm_pgoff = pgoff
        if adjust_next != 0:
            if adjust_next > 0:
                count("vma_merge/case5")
            else:
                count("vma_merge/case4")
            next.vm_start += adjust_next
            next.vm_pgoff += adjust_next

        if remove_next != 0:
            if remove_next != 3:
                __vma_unlink_prev(mm, next, vma)
            else:
                __vma_unlink_common(mm, next, NULL, False)  # exchanged: vma is not before next
            if f:
                vma_interval_tree_remove(f)
        elif insert:
            __insert_vm_struct(mm, insert)

        if av:
            anon_vma_unlock_write(av)
        if f:
            i_mmap_unlock_write(f)

        if remove_next != 0:
            if f:
                vma_adjust_next_fput(next)
            if next.anon_vma:
                anon_vma_merge(vma, next)
            mm.map_count -= 1
            vma_adjust_next_free_before(next)
            vma_adjust_next_free(next)
            vma_adjust_next_free_after(next)
            if remove_next != 3:
                next = vma.vm_next
                vma_adjust_next_again(next)
            else:
                next = vma  # what was next before the exchange
            if remove_next == 2:
                remove_next = 1
                end = next.vm_end
                vma_adjust_again(vma, next)
                continue
            vma_adjust_next_last(vma, next)
        break
    vma_gap_update(vma)
    vma_gap_update_next(vma)
    vma_adjust_end(vma, next)
    validate_mm(mm)
    return 0


def vma_adjust(
    vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, pgoff: pgoff_t, insert: ptr[vm_area_struct]
) -> errno_t:
    return __vma_adjust(vma, start, end, pgoff, insert, NULL)


# -- 6.1
def vma_expand(
    mm: ptr[mm_struct],
    prev: ptr[vm_area_struct],
    addr: vpn_t,
    end: vpn_t,
    vm_flags: flags_t,
    f: ptr[file],
    pgoff: pgoff_t,
) -> ptr[vm_area_struct]:
    """The part of mmap_region that expands a neighbour over the new [addr, end), with vma_expand.  Up to 6.11.

    Unlike vma_merge it takes the VMA behind first, and then the one before only if that may take the place of the
    one behind: if their anon_vmas differ, or only the one behind has one, the one behind grows.
    """
    if vm_flags & VM_SPECIAL:
        return NULL
    next = prev.vm_next if prev else mm.mmap
    count_refusals(prev, next, addr, end, vm_flags, NULL, f, pgoff)
    pglen: vpn_t = end - addr
    behind: ptr[vm_area_struct] = NULL
    av: ptr[anon_vma] = NULL
    if next and next.vm_start == end and can_vma_merge_before(next, vm_flags, NULL, f, pgoff + pglen):
        behind = next
        av = next.anon_vma
    if prev and prev.vm_end == addr and can_vma_merge_after(prev, vm_flags, av, f, pgoff):
        if behind:
            err: errno_t = __vma_adjust(prev, prev.vm_start, behind.vm_end, prev.vm_pgoff, NULL, prev)
            if err == 0:
                count("vma_merge/case1")
        else:
            err = __vma_adjust(prev, prev.vm_start, end, prev.vm_pgoff, NULL, prev)
        if err != 0:
            return NULL
        return prev
    if behind:
        err = __vma_adjust(behind, addr, behind.vm_end, behind.vm_pgoff - pglen, NULL, behind)
        if err != 0:
            return NULL
        count("vma_merge/case3")
        return behind
    return NULL


def vma_expand_end(vma: ptr[vm_area_struct], end: vpn_t) -> ptr[vm_area_struct]:
    """The part of 6.1's do_brk_flags that lets the heap grow in place."""
    av = vma.anon_vma
    if av:
        anon_vma_lock_write(av)
    vma.vm_end = end
    vma_gap_update_next(vma)
    if av:
        anon_vma_unlock_write(av)
    count("vma_merge/case2")
    return vma
