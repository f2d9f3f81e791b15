"""Mapping and unmapping.  mm/mmap.c, 4.12; mm/mmap.c, 6.1; mm/mmap.c and mm/vma.c, 6.18."""

from __future__ import annotations

from seqfault.kernel import NULL, kmem_cache_zalloc, pool_object, ptr, seq_point
from seqfault.kernel.rwsem import downgrade_write
from seqfault.kernel.task import might_sleep
from seqfault.mm.file import get_file
from seqfault.mm.limits import (
    accountable_mapping,
    map_count_full,
    may_expand_vm,
    security_vm_enough_memory,
    sysctl_max_map_count,
    vm_stat_account,
    vma_is_sealed,
)
from seqfault.mm.memory import free_pgtables, unmap_vmas
from seqfault.mm.modify import __split_vma, vma_merge_new
from seqfault.mm.modify import split_vma as split_vma
from seqfault.mm.opcodes import (
    UAPI_MAP_ANONYMOUS,
    UAPI_MAP_DENYWRITE,
    UAPI_MAP_DROPPABLE,
    UAPI_MAP_EXECUTABLE,
    UAPI_MAP_FIXED,
    UAPI_MAP_FIXED_NOREPLACE,
    UAPI_MAP_GROWSDOWN,
    UAPI_MAP_LOCKED,
    UAPI_MAP_NONBLOCK,
    UAPI_MAP_NORESERVE,
    UAPI_MAP_POPULATE,
    UAPI_MAP_PRIVATE,
    UAPI_MAP_SHARED,
    UAPI_MAP_SHARED_VALIDATE,
    UAPI_MAP_STACK,
)
from seqfault.mm.places import (
    detach_begin,
    detach_end,
    mmap_region_flags_begin,
    mmap_region_flags_end,
    mmap_region_link,
    mmap_write_downgrade_begin,
    vm_area_alloc_end,
    vm_area_free,
)
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.stack import expand_downwards as expand_downwards
from seqfault.mm.tlb import tlb_finish_mmu, tlb_gather_mmu
from seqfault.mm.types import (
    EACCES,
    EEXIST,
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    FULL,
    IS_ERR_VALUE,
    LINUX,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    MAP_SHARED,
    NR_FILES,
    NR_MMS,
    NR_PAGES,
    NR_TEST_FILES,
    VM_ACCOUNT,
    VM_DONTDUMP,
    VM_DROPPABLE,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WIPEONFORK,
    VM_WRITE,
    addr_or_errno_t,
    errno_t,
    file,
    flags_t,
    mm_struct,
    mmap_flags_t,
    pgoff_t,
    prot_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.unmapped_area import get_unmapped_area as get_unmapped_area_full
from seqfault.mm.vma import (
    find_vma,
    find_vma_links,
    validate_mm,
    vm_get_page_prot,
    vma_gap_update,
    vma_link,
    vma_rb_erase,
    vma_set_page_prot,
)

TASK_SIZE = NR_PAGES
FMODE_READ, FMODE_WRITE = 1, 2
MAP_TYPE = 0xF
LEGACY_MAP_MASK = (
    UAPI_MAP_SHARED
    | UAPI_MAP_PRIVATE
    | UAPI_MAP_FIXED
    | UAPI_MAP_ANONYMOUS
    | UAPI_MAP_DENYWRITE
    | UAPI_MAP_EXECUTABLE
    | UAPI_MAP_GROWSDOWN
    | UAPI_MAP_LOCKED
    | UAPI_MAP_NORESERVE
    | UAPI_MAP_POPULATE
    | UAPI_MAP_NONBLOCK
    | UAPI_MAP_STACK
    | 0x40  # MAP_32BIT
    | 0x80  # MAP_ABOVE4G, from 6.6
    | 0x4000000  # MAP_UNINITIALIZED
    | 0x40000  # MAP_HUGETLB
    | 21 << 26  # MAP_HUGE_2MB
    | 30 << 26  # MAP_HUGE_1GB
)


# -- mapping
def get_unmapped_area(mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, flags: mmap_flags_t) -> addr_or_errno_t:
    """Where a mapping goes: at `addr` if fixed, or free; else into the highest gap that is large enough.

    Linux finds the gap with the tree's augmentation; here by walking the list.  Address 0 is no hint.
    """
    if FULL:
        return get_unmapped_area_full(mm, addr, len, flags, NULL, 0)
    if len > TASK_SIZE:
        return -ENOMEM
    if flags & MAP_FIXED:
        if addr > TASK_SIZE - len:
            return -ENOMEM
        return addr
    if addr != 0 and addr <= TASK_SIZE - len:
        vma = find_vma(mm, addr)
        if not vma or addr + len <= vma.vm_start:
            return addr
    found: addr_or_errno_t = -ENOMEM
    low: vpn_t = 0
    vma = mm.mmap
    while vma:
        gap_end: vpn_t = vma.vm_start
        if gap_end - low >= len:
            found = gap_end - len
        low = vma.vm_end
        vma = vma.vm_next
    if TASK_SIZE - low >= len:
        found = TASK_SIZE - len
    return found


def do_mmap(
    mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, prot: prot_t, flags: mmap_flags_t, f: ptr[file], pgoff: pgoff_t
) -> addr_or_errno_t:
    """The arguments' checks.  Here without FULL: shared anonymous memory (a file of its own in Linux) is refused,
    files are open for reading and writing, and there are no limits.
    """
    if FULL:
        return do_mmap_full(mm, addr, len, prot, flags, f, pgoff)
    if len == 0:
        return -EINVAL
    at: addr_or_errno_t = get_unmapped_area(mm, addr, len, flags)
    if at < 0:
        return at
    if flags & MAP_SHARED and flags & MAP_PRIVATE:
        return -EINVAL
    vm_flags: flags_t = prot
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if f:
        if flags & MAP_SHARED:
            vm_flags |= VM_SHARED
        elif not flags & MAP_PRIVATE:
            return -EINVAL
        if vm_flags & VM_GROWSDOWN:
            return -EINVAL
    else:
        if not flags & MAP_ANONYMOUS or not flags & MAP_PRIVATE:
            return -EINVAL
        pgoff = at
    return mmap_region(mm, f, at, len, vm_flags, pgoff)


def file_mmap_flags(
    f: ptr[file], pgoff: pgoff_t, len: vpn_t, prot: prot_t, flags: mmap_flags_t
) -> tuple[errno_t, flags_t]:
    """What do_mmap asks of a file: an error, or the flags to set and those that the file does not allow."""
    if LINUX >= 417 and pgoff > (1 << 51) - 1 - len:  # file_mmap_ok
        return -EOVERFLOW, 0
    may: flags_t = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    type: mmap_flags_t = flags & MAP_TYPE
    mode = f.f_mode
    if mode == 0:
        mode = FMODE_READ | FMODE_WRITE
    if type == UAPI_MAP_SHARED or (LINUX >= 415 and type == UAPI_MAP_SHARED_VALIDATE):
        if type == UAPI_MAP_SHARED_VALIDATE and flags & ~LEGACY_MAP_MASK:
            return -EOPNOTSUPP, 0
        if prot & VM_WRITE and not mode & FMODE_WRITE:
            return -EACCES, 0
        may |= VM_SHARED | VM_MAYSHARE
        if not mode & FMODE_WRITE:
            may &= ~(VM_MAYWRITE | VM_SHARED)
    elif type != UAPI_MAP_PRIVATE:
        return -EINVAL, 0
    if not mode & FMODE_READ:
        return -EACCES, 0
    if flags & UAPI_MAP_GROWSDOWN:
        return -EINVAL, 0
    return 0, may


def anon_mmap_flags(flags: mmap_flags_t) -> tuple[errno_t, flags_t]:
    """What do_mmap asks of a mapping without a file: an error, or the flags to set."""
    may: flags_t = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    type: mmap_flags_t = flags & MAP_TYPE
    if type == UAPI_MAP_SHARED:
        if flags & UAPI_MAP_GROWSDOWN:
            return -EINVAL, 0
        return 0, may | VM_SHARED | VM_MAYSHARE
    if LINUX >= 611 and type == UAPI_MAP_DROPPABLE:
        if flags & (UAPI_MAP_LOCKED | UAPI_MAP_GROWSDOWN):
            return -EINVAL, 0
        return 0, may | VM_DROPPABLE | VM_NORESERVE | VM_WIPEONFORK | VM_DONTDUMP
    if type == UAPI_MAP_PRIVATE:
        return 0, may
    return -EINVAL, 0


def do_mmap_full(
    mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, prot: prot_t, flags: mmap_flags_t, f: ptr[file], pgoff: pgoff_t
) -> addr_or_errno_t:
    """All checks, in Linux's order; `flags` as the system call has them.  RLIMIT_MEMLOCK does not bind here."""
    if len == 0:
        return -EINVAL
    noreplace = LINUX >= 417 and flags & UAPI_MAP_FIXED_NOREPLACE != 0
    if noreplace:
        flags |= UAPI_MAP_FIXED
    if mm.map_count > sysctl_max_map_count(mm):
        return -ENOMEM
    at: addr_or_errno_t = get_unmapped_area_full(mm, addr, len, flags, f, pgoff)
    if IS_ERR_VALUE(at):
        return at
    if noreplace:
        vma = find_vma(mm, at)
        if vma and vma.vm_start < at + len:
            return -EEXIST
    if f:
        err, may = file_mmap_flags(f, pgoff, len, prot, flags)
    else:
        err, may = anon_mmap_flags(flags)
    if err != 0:
        return err
    vm_flags: flags_t = prot | mm.def_flags | may
    if flags & UAPI_MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & UAPI_MAP_LOCKED:
        vm_flags |= VM_LOCKED
    if LINUX >= 607 and flags & UAPI_MAP_STACK:
        vm_flags |= VM_NOHUGEPAGE
    if flags & UAPI_MAP_NORESERVE:
        vm_flags |= VM_NORESERVE
    if not f:
        pgoff = 0 if vm_flags & VM_SHARED else at
    return mmap_region(mm, f, at, len, vm_flags, pgoff)


def count_vma_pages_range(mm: ptr[mm_struct], addr: vpn_t, end: vpn_t) -> vpn_t:
    """How many pages of [addr, end) are mapped."""
    nr: vpn_t = 0
    vma = find_vma(mm, addr)
    while vma and vma.vm_start < end:
        nr += min(end, vma.vm_end) - max(addr, vma.vm_start)
        vma = vma.vm_next
    return nr


def shmem_zero_setup(len: vpn_t) -> ptr[file]:
    """A file of `len` pages for shared anonymous memory: an unused one of the pool, held by its VMA."""
    for i in range(NR_TEST_FILES, NR_FILES):
        f = pool_object(file, i)
        if f.f_count == 0:
            f.f_count = 1
            f.i_size = len
            f.shmem = True
            return f
    return NULL


def mmap_region(
    mm: ptr[mm_struct], f: ptr[file], addr: vpn_t, len: vpn_t, vm_flags: flags_t, pgoff: pgoff_t
) -> addr_or_errno_t:
    """4.12 and 6.1 clear the place first; 6.18 looks at limits with the old mappings still there."""
    end: vpn_t = addr + len
    doomed: ptr[vm_area_struct] = NULL
    if LINUX >= 618:
        err: errno_t = mmap_setup(mm, addr, len, vm_flags)
        if err != 0:
            return err
        if FULL and accountable_mapping(vm_flags):
            vm_flags |= VM_ACCOUNT
        doomed = vms_clean_up_area(mm, addr, end, False)
        err, prev, rb_parent, rb_left = find_vma_links(mm, addr, end)
    else:
        if FULL and not may_expand_vm(mm, vm_flags, len - count_vma_pages_range(mm, addr, end)):
            return -ENOMEM
        err, prev, rb_parent, rb_left = find_vma_links(mm, addr, end)
        while err != 0:
            if do_munmap(mm, addr, len, False) != 0:
                return -ENOMEM
            err, prev, rb_parent, rb_left = find_vma_links(mm, addr, end)
        if FULL and accountable_mapping(vm_flags):
            if security_vm_enough_memory(mm, len) != 0:
                return -ENOMEM
            vm_flags |= VM_ACCOUNT

    vma = vma_merge_new(mm, prev, addr, end, vm_flags, f, pgoff)
    if not vma:
        if mm_alloc_fails():
            if LINUX >= 618:
                vms_complete_munmap_vmas(mm, doomed)
            return -ENOMEM
        vma = kmem_cache_zalloc(vm_area_struct)
        vma.vm_start = addr
        vma.vm_end = end
        if NR_MMS > 1:
            vma.vm_mm = mm
        vma.vm_flags = vm_flags
        vma.vm_page_prot = vm_get_page_prot(vm_flags)
        vma.vm_pgoff = pgoff
        if f:
            get_file(f)
            vma.vm_file = f
        elif FULL and vm_flags & VM_SHARED:
            vma.vm_file = shmem_zero_setup(len)
        vm_area_alloc_end(mm, vma)
        mmap_region_link(vma)
        vma_link(mm, vma, prev, rb_parent, rb_left)

    if LINUX >= 618:
        vms_complete_munmap_vmas(mm, doomed)
    if FULL:
        vm_stat_account(mm, vm_flags, len)
        if vm_flags & VM_LOCKED:
            if LINUX >= 611 and vm_flags & VM_DROPPABLE:
                vma.vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
            else:
                mm.locked_vm += len
    # New and expanded VMAs alike are soft-dirty.
    mmap_region_flags_begin(vma)
    vma.vm_flags |= VM_SOFTDIRTY
    vma_set_page_prot(vma)
    mmap_region_flags_end(vma)
    return addr


def mmap_setup(mm: ptr[mm_struct], addr: vpn_t, len: vpn_t, vm_flags: flags_t) -> errno_t:
    """__mmap_setup of 6.18, up to where nothing is lost yet; but VMAs at the edges are split already."""
    end: vpn_t = addr + len
    nr_pages: vpn_t = 0
    vma = find_vma(mm, addr)
    if vma and vma.vm_start < end:
        err: errno_t = vms_gather_munmap_vmas(mm, vma, addr, end)
        if err != 0:
            return err
        nr_pages = count_vma_pages_range(mm, addr, end)
    if FULL and not may_expand_vm(mm, vm_flags, len - nr_pages):
        return -ENOMEM
    if FULL and accountable_mapping(vm_flags):
        return security_vm_enough_memory(mm, len)
    return 0


# -- unmapping
def remove_vma(vma: ptr[vm_area_struct]) -> ptr[vm_area_struct]:
    """Free one VMA that is out of list and tree.  Returns the next one of the chain that it was in."""
    next = vma.vm_next
    might_sleep()
    vm_area_free(vma)
    return next


def remove_vma_list(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    while vma:
        if FULL:
            vm_stat_account(mm, vma.vm_flags, vma.vm_start - vma.vm_end)
        vma = remove_vma(vma)
    validate_mm(mm)


def unmap_region(mm: ptr[mm_struct], vma: ptr[vm_area_struct], prev: ptr[vm_area_struct], start: vpn_t, end: vpn_t):
    """Unmap the pages of a chain of detached VMAs, and free the page tables that nobody else needs."""
    next = prev.vm_next if prev else mm.mmap
    tlb = tlb_gather_mmu(mm, start, end)
    unmap_vmas(tlb, vma, start, end)
    free_pgtables(tlb, vma, prev.vm_end if prev else 0, next.vm_start if next else TASK_SIZE)
    if LINUX >= 420:
        seq_point()  # a fault gets its signal already, while TLBs may still have the page
    tlb_finish_mmu(tlb, start, end)


def detach_vmas_to_be_unmapped(mm: ptr[mm_struct], vma: ptr[vm_area_struct], prev: ptr[vm_area_struct], end: vpn_t):
    """Take the VMAs from `vma` to `end` out of tree and list; they stay chained by vm_next."""
    vma.vm_prev = NULL
    tail_vma = vma
    while True:
        vma_rb_erase(vma, mm)
        mm.map_count -= 1
        tail_vma = vma
        vma = vma.vm_next
        if not vma or vma.vm_start >= end:
            break
    if prev:
        prev.vm_next = vma
    else:
        mm.mmap = vma
    if vma:
        vma.vm_prev = prev
        vma_gap_update(vma)
    tail_vma.vm_next = NULL


def vms_gather_munmap_vmas(mm: ptr[mm_struct], vma: ptr[vm_area_struct], start: vpn_t, end: vpn_t) -> errno_t:
    """6.18: split off what reaches out of [start, end), of which `vma` is the first VMA, and look for seals.

    What was split before a seal is met stays split.
    """
    if start > vma.vm_start:
        if FULL and end < vma.vm_end and map_count_full(mm):
            return -ENOMEM
        if FULL and vma_is_sealed(vma):
            return -EPERM
        error: errno_t = __split_vma(mm, vma, start, True)
        if error != 0:
            return error
    while vma and vma.vm_start < end:
        if FULL and vma_is_sealed(vma):
            return -EPERM
        if vma.vm_end > end:
            error = __split_vma(mm, vma, end, False)
            if error != 0:
                return error
        vma = vma.vm_next
    return 0


def unaccount_locked(mm: ptr[mm_struct], vma: ptr[vm_area_struct], end: vpn_t):
    """The locked pages of VMAs about to be unmapped no longer count."""
    while vma and vma.vm_start < end:
        if vma.vm_flags & VM_LOCKED:
            mm.locked_vm -= vma.vm_end - vma.vm_start
        vma = vma.vm_next


def vms_clean_up_area(mm: ptr[mm_struct], start: vpn_t, end: vpn_t, downgrade: bool) -> ptr[vm_area_struct]:
    """Unmap the pages of the VMAs that make up [start, end), if any, and detach them.  Returns their chain.

    In Linux the VMAs stay in the tree until the new mapping is stored over them; with mmap_sem held for writing
    nobody can tell.
    """
    vma = find_vma(mm, start)
    if not vma or vma.vm_start >= end:
        return NULL
    prev = vma.vm_prev
    if FULL:
        unaccount_locked(mm, vma, end)
    detach_begin(mm, vma, end)
    detach_vmas_to_be_unmapped(mm, vma, prev, end)
    detach_end(mm, start, end)
    if downgrade:
        mmap_write_downgrade(mm)
    unmap_region(mm, vma, prev, start, end)
    return vma


def vms_complete_munmap_vmas(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    remove_vma_list(mm, vma)


def mmap_write_downgrade(mm: ptr[mm_struct]):
    """From here on others find no VMA where the pages are still mapped."""
    mmap_write_downgrade_begin(mm)
    downgrade_write(mm.mmap_sem)
    seq_point()


def may_downgrade(mm: ptr[mm_struct], prev: ptr[vm_area_struct]) -> bool:
    """A stack grows with mmap_sem for reading only, up to 6.4, into what is being unmapped (246c320a8cfe, 5.8)."""
    if LINUX < 508 or LINUX >= 605:
        return True
    next = prev.vm_next if prev else mm.mmap
    return not next or not next.vm_flags & VM_GROWSDOWN


def do_munmap(mm: ptr[mm_struct], start: vpn_t, len: vpn_t, downgrade: bool) -> errno_t:
    """__do_munmap from 4.20 on, do_mas_munmap in 6.1, do_vmi_munmap in 6.18.

    `downgrade`: once the VMAs are out, mmap_sem is kept for reading only (commit dd2283f2605e, 4.20), unless a stack
    that might grow is next to them; 1 if that was done.
    """
    if start > TASK_SIZE or len > TASK_SIZE - start:
        return -EINVAL
    if len == 0:
        return -EINVAL

    vma = find_vma(mm, start)
    if not vma:
        return 0
    prev = vma.vm_prev
    end: vpn_t = start + len
    if vma.vm_start >= end:
        return 0
    if LINUX >= 618:
        error: errno_t = vms_gather_munmap_vmas(mm, vma, start, end)
        if error == 0:
            vms_complete_munmap_vmas(mm, vms_clean_up_area(mm, start, end, downgrade))
            if downgrade:
                return 1
        return error

    # What reaches out of the range on either side is split off first.
    if start > vma.vm_start:
        if FULL and end < vma.vm_end and map_count_full(mm):
            return -ENOMEM
        error = __split_vma(mm, vma, start, False)
        if error != 0:
            return error
        prev = vma
    last = find_vma(mm, end)
    if last and end > last.vm_start:
        error = __split_vma(mm, last, end, True)
        if error != 0:
            return error
    vma = prev.vm_next if prev else mm.mmap
    if FULL:
        unaccount_locked(mm, vma, end)

    detach_begin(mm, vma, end)
    detach_vmas_to_be_unmapped(mm, vma, prev, end)
    detach_end(mm, start, end)
    if LINUX >= 420 and downgrade:
        if may_downgrade(mm, prev):
            mmap_write_downgrade(mm)
        else:
            downgrade = False
    unmap_region(mm, vma, prev, start, end)
    remove_vma_list(mm, vma)
    if LINUX >= 420 and downgrade:
        return 1
    return 0
