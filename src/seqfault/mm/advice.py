"""Advice on memory, all of it.  mm/madvise.c, 4.12, 6.1, 6.18; what sealed mappings refuse: mm/mseal.c, since 6.10.

(The scenarios of `check` have MADV_DONTNEED only, in mm/madvise.py.)  Advice that changes vm_flags splits and merges
VMAs as mprotect does.
"""

from __future__ import annotations

from seqfault.kernel import NULL, integer, ptr
from seqfault.kernel.rwsem import down_read, down_write, up_read, up_write
from seqfault.mm.guard import madvise_guard_install, madvise_guard_remove
from seqfault.mm.limits import map_count_full, vma_is_sealed
from seqfault.mm.lru import lru_add_drain
from seqfault.mm.memory import madvise_free_single_vma, zap_page_range_single
from seqfault.mm.modify import vm_flags_reset, vma_modify_flags
from seqfault.mm.opcodes import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
)
from seqfault.mm.places import (
    mmap_region_flags_begin,
    mmap_region_flags_end,
    mmap_write_lock_end,
    mmap_write_unlock_begin,
)
from seqfault.mm.populate import madvise_populate, madvise_populate_locked
from seqfault.mm.readahead import force_page_cache_readahead
from seqfault.mm.reclaim import madvise_pageout
from seqfault.mm.truncate import vfs_punch_hole
from seqfault.mm.types import (
    EACCES,
    EAGAIN,
    EINVAL,
    ENOMEM,
    EPERM,
    LINUX,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_DROPPABLE,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    current_mm,
    errno_t,
    flags_t,
    mm_struct,
    pgoff_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma_prev

advice_t = integer(-(1 << 31), (1 << 31) - 1, "advice_t")


# -- what advice there is
def madvise_behavior_valid(behavior: advice_t) -> bool:
    """4.14: WIPEONFORK; 5.4: COLD, PAGEOUT; 5.14: POPULATE_*; 5.18: DONTNEED_LOCKED; 6.13: GUARD_*."""
    if behavior >= MADV_NORMAL and behavior <= MADV_DONTNEED:
        return True
    if behavior >= MADV_FREE and behavior <= MADV_DODUMP:
        return True
    if LINUX >= 414 and (behavior == MADV_WIPEONFORK or behavior == MADV_KEEPONFORK):
        return True
    if LINUX >= 504 and (behavior == MADV_COLD or behavior == MADV_PAGEOUT):
        return True
    if LINUX >= 514 and (behavior == MADV_POPULATE_READ or behavior == MADV_POPULATE_WRITE):
        return True
    if LINUX >= 518 and behavior == MADV_DONTNEED_LOCKED:
        return True
    if LINUX >= 601 and behavior == MADV_COLLAPSE:
        return True
    return LINUX >= 613 and (behavior == MADV_GUARD_INSTALL or behavior == MADV_GUARD_REMOVE)


def madvise_need_mmap_write(behavior: advice_t) -> bool:
    """Whether vm_flags change."""
    if behavior == MADV_REMOVE or behavior == MADV_WILLNEED or behavior == MADV_DONTNEED:
        return False
    return not (behavior == MADV_DONTNEED_LOCKED or behavior == MADV_FREE or behavior >= MADV_COLD)


def is_discard(behavior: advice_t) -> bool:
    """is_madv_discard until 6.16."""
    if behavior == MADV_FREE or behavior == MADV_DONTNEED or behavior == MADV_DONTNEED_LOCKED:
        return True
    if behavior == MADV_REMOVE or behavior == MADV_DONTFORK or behavior == MADV_WIPEONFORK:
        return True
    return behavior == MADV_GUARD_INSTALL


def can_madvise_modify(vma: ptr[vm_area_struct], behavior: advice_t) -> bool:
    """A seal keeps the data of anonymous memory that the program cannot write.

    Until 6.16 shared mappings of no file were told apart by VM_SHARED (can_modify_vma_madv); all of them have a file.
    """
    if not vma_is_sealed(vma) or not is_discard(behavior):
        return True
    return vma.vm_file != NULL or vma.vm_flags & VM_WRITE != 0


# -- flags
def ksm_madvise(vma: ptr[vm_area_struct], behavior: advice_t, flags: flags_t) -> flags_t:
    """The flags with VM_MERGEABLE set or cleared; advice on what KSM cannot merge is ignored."""
    if behavior == MADV_UNMERGEABLE:
        return flags & ~VM_MERGEABLE
    if flags & (VM_SHARED | VM_MAYSHARE | VM_DONTEXPAND | VM_DROPPABLE):
        return flags
    return flags | VM_MERGEABLE


def madvise_new_flags(vma: ptr[vm_area_struct], behavior: advice_t) -> tuple[errno_t, flags_t]:
    """What vm_flags become."""
    flags: flags_t = vma.vm_flags
    if behavior == MADV_NORMAL:
        return 0, flags & ~(VM_RAND_READ | VM_SEQ_READ)
    if behavior == MADV_SEQUENTIAL:
        return 0, flags & ~VM_RAND_READ | VM_SEQ_READ
    if behavior == MADV_RANDOM:
        return 0, flags & ~VM_SEQ_READ | VM_RAND_READ
    if behavior == MADV_DONTFORK:
        return 0, flags | VM_DONTCOPY
    if behavior == MADV_DOFORK:
        return 0, flags & ~VM_DONTCOPY
    if behavior == MADV_WIPEONFORK:
        if vma.vm_file or flags & VM_SHARED:
            return -EINVAL, flags
        return 0, flags | VM_WIPEONFORK
    if behavior == MADV_KEEPONFORK:
        if flags & VM_DROPPABLE:
            return -EINVAL, flags
        return 0, flags & ~VM_WIPEONFORK
    if behavior == MADV_DONTDUMP:
        return 0, flags | VM_DONTDUMP
    if behavior == MADV_DODUMP:
        if flags & (VM_DONTEXPAND | VM_DROPPABLE):
            return -EINVAL, flags
        return 0, flags & ~VM_DONTDUMP
    if behavior == MADV_HUGEPAGE:
        return 0, flags & ~VM_NOHUGEPAGE | VM_HUGEPAGE
    if behavior == MADV_NOHUGEPAGE:
        return 0, flags & ~VM_HUGEPAGE | VM_NOHUGEPAGE
    return 0, ksm_madvise(vma, behavior, flags)


def madvise_update_vma(
    vma: ptr[vm_area_struct], prev: ptr[vm_area_struct], start: vpn_t, end: vpn_t, behavior: advice_t
) -> tuple[errno_t, ptr[vm_area_struct]]:
    """Also returns the VMA that ends the range then.

    Short of memory is EAGAIN; so is too many VMAs, since 5.17 (4.12: ENOMEM).
    """
    error, newflags = madvise_new_flags(vma, behavior)
    if error != 0 or newflags == vma.vm_flags:
        return error, vma
    mm = current_mm()
    full = map_count_full(mm)
    error, changed = vma_modify_flags(mm, prev, vma, start, end, newflags)
    if error != 0:
        if error == -ENOMEM and (LINUX >= 517 or not full):
            error = -EAGAIN
        return error, vma
    mmap_region_flags_begin(changed)
    vm_flags_reset(changed, newflags)
    mmap_region_flags_end(changed)
    return 0, changed


# -- data
def madvise_dontneed_free(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, behavior: advice_t) -> errno_t:
    if vma.vm_flags & VM_LOCKED and behavior != MADV_DONTNEED_LOCKED:
        return -EINVAL
    if behavior == MADV_FREE:
        return madvise_free_single_vma(vma, start, end)
    zap_page_range_single(vma, start, end)
    return 0


def madvise_remove(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t) -> errno_t:
    """Punch a hole into the file.  A mapping that may be made writable is enough since 6.7 (e8e17ee90eaf; in
    6.1.192 too)."""
    if vma.vm_flags & VM_LOCKED or not vma.vm_file:
        return -EINVAL
    need: flags_t = VM_SHARED | VM_WRITE
    if LINUX >= 601:
        need = VM_SHARED | VM_MAYWRITE
    if vma.vm_flags & need != need:
        return -EACCES
    pgoff: pgoff_t = vma.vm_pgoff + (start - vma.vm_start)
    return vfs_punch_hole(vma.vm_file, pgoff, pgoff + (end - start))


def madvise_data(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t, behavior: advice_t) -> errno_t:
    """Advice that acts on pages.  Nothing is swapped, and nothing reclaimed that PAGEOUT does not name."""
    if behavior == MADV_REMOVE:
        return madvise_remove(vma, start, end)
    if behavior == MADV_GUARD_INSTALL:
        return madvise_guard_install(vma, start, end)
    if behavior == MADV_GUARD_REMOVE:
        return madvise_guard_remove(vma, start, end)
    if behavior == MADV_WILLNEED:
        if vma.vm_file:
            force_page_cache_readahead(vma.vm_file, vma.vm_pgoff + (start - vma.vm_start), end - start)
        return 0
    if behavior == MADV_COLD or behavior == MADV_PAGEOUT:
        if vma.vm_flags & VM_LOCKED:
            return -EINVAL
        if behavior == MADV_COLD:
            lru_add_drain()
            return 0
        return madvise_pageout(vma, start, end)
    if behavior == MADV_COLLAPSE:
        return -EINVAL
    if LINUX < 609 and (behavior == MADV_POPULATE_READ or behavior == MADV_POPULATE_WRITE):
        return madvise_populate_locked(current_mm(), start, end, behavior == MADV_POPULATE_WRITE)
    return madvise_dontneed_free(vma, start, end, behavior)


# -- the walk
def madvise_walk_vmas(mm: ptr[mm_struct], start: vpn_t, end: vpn_t, behavior: advice_t) -> errno_t:
    """Each VMA of [start, end).  Holes are skipped, and told of at the end; an error stops it."""
    unmapped_error: errno_t = 0
    change = madvise_need_mmap_write(behavior)
    vma, prev = find_vma_prev(mm, start)
    if vma and start > vma.vm_start:
        prev = vma
    while True:
        if not vma:
            return -ENOMEM
        if start < vma.vm_start:
            unmapped_error = -ENOMEM
            start = vma.vm_start
            if start >= end:
                return unmapped_error
        tmp: vpn_t = min(vma.vm_end, end)
        if not can_madvise_modify(vma, behavior):
            return -EPERM
        error: errno_t = 0
        if change:
            error, vma = madvise_update_vma(vma, prev, start, tmp, behavior)
        else:
            error = madvise_data(vma, start, tmp, behavior)
        if error != 0:
            return error
        prev = vma
        start = max(tmp, vma.vm_end)
        if start >= end:
            return unmapped_error
        vma = vma.vm_next


def do_madvise(start: vpn_t, end: vpn_t, behavior: advice_t) -> errno_t:
    """madvise after the checks of its arguments."""
    mm = current_mm()
    # until 6.9 (631426ba1d45) part of the walk, which skips holes
    if LINUX >= 609 and behavior == MADV_POPULATE_READ:
        return madvise_populate(mm, start, end, False)
    if LINUX >= 609 and behavior == MADV_POPULATE_WRITE:
        return madvise_populate(mm, start, end, True)
    if madvise_need_mmap_write(behavior):
        down_write(mm.mmap_sem)
        mmap_write_lock_end(mm)
        error: errno_t = madvise_walk_vmas(mm, start, end, behavior)
        mmap_write_unlock_begin(mm)
        up_write(mm.mmap_sem)
        return error
    down_read(mm.mmap_sem)
    error = madvise_walk_vmas(mm, start, end, behavior)
    up_read(mm.mmap_sem)
    return error
