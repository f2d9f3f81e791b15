"""Advice on memory: MADV_DONTNEED.  mm/madvise.c, 4.12."""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.kernel.rwsem import down_read, up_read
from seqfault.mm.memory import zap_page_range
from seqfault.mm.mmap import TASK_SIZE
from seqfault.mm.places import madvise_lock, madvise_unlock
from seqfault.mm.types import (
    EINVAL,
    ENOMEM,
    LINUX,
    VM_LOCKED,
    current_mm,
    errno_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.vma import find_vma


def madvise_dontneed(vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t) -> errno_t:
    if vma.vm_flags & VM_LOCKED:
        return -EINVAL
    zap_page_range(vma, start, end)
    return 0


def sys_madvise(start: vpn_t, len: vpn_t) -> errno_t:
    """madvise(MADV_DONTNEED), with mmap_sem held for reading only.

    Holes are skipped, and told of at the end.
    """
    mm = current_mm()
    if len > TASK_SIZE - start:
        return -ENOMEM
    if len == 0:
        return 0
    end: vpn_t = start + len
    unmapped_error: errno_t = 0
    if LINUX >= 617:
        locked = madvise_lock(mm, start, end)
        if locked:
            ret: errno_t = madvise_dontneed(locked, start, end)
            madvise_unlock(locked)
            return ret
    down_read(mm.mmap_sem)
    vma = find_vma(mm, start)
    while True:
        error: errno_t = -ENOMEM
        if not vma:
            break
        if start < vma.vm_start:
            unmapped_error = -ENOMEM
            start = vma.vm_start
            if start >= end:
                break
        tmp: vpn_t = min(vma.vm_end, end)
        error = madvise_dontneed(vma, start, tmp)
        if error != 0:
            break
        start = max(tmp, vma.vm_end)
        error = unmapped_error
        if start >= end:
            break
        vma = vma.vm_next
    up_read(mm.mmap_sem)
    return error
