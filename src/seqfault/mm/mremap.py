"""Moving and resizing a mapping.  mm/mremap.c, copy_vma of mm/mmap.c; 4.12, 6.1, 6.18.

6.18 (rewritten in 6.16, several VMAs at once since 6.17) asks the same questions in another order, and asks before it
unmaps.  Both texts are here.  Lengths may be larger than the model's space; pages otherwise.
"""

from __future__ import annotations

from seqfault.kernel import NULL, integer, kmem_cache_alloc, kmem_cache_free, pool_object, ptr, smp_processor_id, struct
from seqfault.kernel.rwsem import down_write, up_write
from seqfault.mm.anon_vma import anon_vma_clone, unlink_anon_vmas
from seqfault.mm.file import get_file
from seqfault.mm.limits import may_expand_vm, sysctl_max_map_count, vm_stat_account, vma_is_sealed
from seqfault.mm.mmap import do_munmap
from seqfault.mm.modify import split_vma, vma_merge_copied, vma_merge_extend
from seqfault.mm.move import move_page_tables
from seqfault.mm.opcodes import (
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    UAPI_MAP_FIXED,
    UAPI_MAP_SHARED,
)
from seqfault.mm.places import (
    mmap_region_link,
    mmap_write_lock_end,
    mmap_write_unlock_begin,
    move_vma_begin,
    vm_area_dup_end,
)
from seqfault.mm.populate import mm_populate
from seqfault.mm.slab import mm_alloc_fails
from seqfault.mm.types import (
    EFAULT,
    EINVAL,
    ENOMEM,
    EPERM,
    IS_ERR_VALUE,
    LINUX,
    NR_CPUS,
    NR_PAGES,
    VM_ACCOUNT,
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYSHARE,
    VM_SHARED,
    addr_or_errno_t,
    current_mm,
    errno_t,
    mm_struct,
    pgoff_t,
    vm_area_struct,
    vpn_t,
)
from seqfault.mm.unmapped_area import get_unmapped_area
from seqfault.mm.vma import find_vma, find_vma_links, vma_link

MREMAP_NO_RESIZE, MREMAP_SHRINK, MREMAP_EXPAND = 0, 1, 2

len_t = integer(0, 1 << 52, "len_t")


@struct(pool=NR_CPUS, private=True)
class vma_remap_struct:
    """One call of mremap, in its CPU's stack frame.  `vma`: the VMA at `addr`, while it is known; `populate`: the
    grown part is locked, and to be faulted in."""

    addr: vpn_t
    old_len: len_t
    new_len: len_t
    new_addr: vpn_t
    flags: integer(0, 7)
    vma: ptr[vm_area_struct]
    remap_type: integer(0, 2)
    populate: bool


def vma_lookup(mm: ptr[mm_struct], addr: vpn_t) -> ptr[vm_area_struct]:
    vma = find_vma(mm, addr)
    if vma and vma.vm_start > addr:
        return NULL
    return vma


def vrm_clear(vrm: ptr[vma_remap_struct]):
    """The end of the call's stack frame."""
    vrm.addr = 0
    vrm.old_len = 0
    vrm.new_len = 0
    vrm.new_addr = 0
    vrm.flags = 0
    vrm.vma = NULL
    vrm.remap_type = 0
    vrm.populate = False


def too_many_to_move(mm: ptr[mm_struct]) -> bool:
    """Whether a move to a given address is refused at once, since 5.2 (commit ea2c3f6f5545): it may split both places
    in three before it fails for want of VMAs."""
    return LINUX >= 502 and mm.map_count + 2 >= sysctl_max_map_count(mm) - 3


# -- the copy
def vm_area_dup(vma: ptr[vm_area_struct]) -> ptr[vm_area_struct]:
    new = kmem_cache_alloc(vm_area_struct)
    new.vm_start = vma.vm_start
    new.vm_end = vma.vm_end
    new.vm_mm = vma.vm_mm
    new.vm_flags = vma.vm_flags
    new.vm_page_prot = vma.vm_page_prot
    new.vm_pgoff = vma.vm_pgoff
    new.vm_file = vma.vm_file
    new.anon_vma = vma.anon_vma
    new.anon_vma_chain = NULL
    new.rb_subtree_gap = 0
    vm_area_dup_end(new)
    return new


def may_merge_with_copy(vma: ptr[vm_area_struct], addr: vpn_t, len: vpn_t) -> bool:
    return not vma.vm_file and not vma.anon_vma and (addr == vma.vm_end or vma.vm_start == addr + len)


def copy_vma(
    vma: ptr[vm_area_struct], addr: vpn_t, len: vpn_t, pgoff: pgoff_t, keep_source: bool
) -> tuple[ptr[vm_area_struct], ptr[vm_area_struct]]:
    """The VMA that holds [addr, addr + len) as `vma` held its range, merged or new (NULL: no memory); and `vma`,
    which may itself have become part of it.

    An anonymous VMA without pages takes the offset of its new place, which lets it merge there; but not with itself
    where it is kept (stable updates of 6.1 and 6.12, as in 6.1.192; not in 6.18.44).
    """
    mm = current_mm()
    vma_start: vpn_t = vma.vm_start
    if not vma.vm_file and not vma.anon_vma:
        pgoff = addr
    error, prev, rb_parent, rb_left = find_vma_links(mm, addr, addr + len)
    if error != 0:
        return NULL, vma
    new_vma: ptr[vm_area_struct] = NULL
    if LINUX >= 618 or not keep_source or not may_merge_with_copy(vma, addr, len):
        new_vma = vma_merge_copied(mm, prev, addr, addr + len, pgoff, vma)
    if new_vma:
        if vma_start >= new_vma.vm_start and vma_start < new_vma.vm_end:
            vma = new_vma
        return new_vma, vma
    if mm_alloc_fails():
        return NULL, vma
    new_vma = vm_area_dup(vma)
    new_vma.vm_start = addr
    new_vma.vm_end = addr + len
    new_vma.vm_pgoff = pgoff
    if anon_vma_clone(new_vma, vma) != 0:
        kmem_cache_free(new_vma)
        return NULL, vma
    if new_vma.vm_file:
        get_file(new_vma.vm_file)
    mmap_region_link(new_vma)
    vma_link(mm, new_vma, prev, rb_parent, rb_left)
    return new_vma, vma


def unmap_source_vma(vrm: ptr[vma_remap_struct]):
    """Unmap what was moved.  VM_ACCOUNT is concealed meanwhile, since the charge goes with the move; the pieces
    that are left over get it back, unless nothing could be unmapped."""
    mm = current_mm()
    vma = vrm.vma
    addr: vpn_t = vrm.addr
    end: vpn_t = addr + vrm.old_len
    accounted = vma.vm_flags & VM_ACCOUNT != 0 and not vrm.flags & MREMAP_DONTUNMAP
    before = vma.vm_start < addr
    behind = vma.vm_end > end
    if accounted:
        vma.vm_flags &= ~VM_ACCOUNT
    error: errno_t = do_munmap(mm, addr, vrm.old_len, False)
    vrm.vma = NULL
    if error != 0 or not accounted:
        return
    next = find_vma(mm, end)
    if behind:
        next.vm_flags |= VM_ACCOUNT
    if before:
        prev = find_vma(mm, addr - 1)
        prev.vm_flags |= VM_ACCOUNT


def dontunmap_complete(vrm: ptr[vma_remap_struct], new_vma: ptr[vm_area_struct]):
    """What stays behind of MREMAP_DONTUNMAP has no pages, so it is not locked any more, and needs no anon_vma if
    nothing of it stays in use."""
    vma = vrm.vma
    vma.vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
    if new_vma != vma and vma.vm_start == vrm.addr and vma.vm_end == vrm.addr + vrm.old_len:
        unlink_anon_vmas(vma)
        if LINUX < 618 and not vma.vm_file:
            vma.vm_pgoff = vma.vm_start  # as in 6.1.192


def split_for_dontunmap(vrm: ptr[vma_remap_struct]) -> errno_t:
    """A locked VMA is split before it is moved from, for the sake of mm.locked_vm.  Stable updates of 6.1 and 6.12, as
    in 6.1.192; not in 6.18.44."""
    mm = current_mm()
    vma = vrm.vma
    end: vpn_t = vrm.addr + vrm.old_len
    behind = vma.vm_end != end
    error: errno_t = 0
    if vma.vm_start != vrm.addr:
        error = split_vma(mm, vma, vrm.addr, True)
    if error == 0 and behind:
        error = split_vma(mm, vma, end, False)
    return error


def move_vma(vrm: ptr[vma_remap_struct]) -> addr_or_errno_t:
    """Move [addr, addr + old_len) to new_addr, where it gets new_len pages."""
    mm = current_mm()
    vma = vrm.vma
    if mm.map_count >= sysctl_max_map_count(mm) - 3:  # it may be split in three before it is unmapped
        return -ENOMEM
    locked = vma.vm_flags & VM_LOCKED != 0
    keep_source = vrm.flags & MREMAP_DONTUNMAP != 0
    error: errno_t = 0
    if LINUX < 618 and keep_source and locked:
        error = split_for_dontunmap(vrm)
        if error != 0:
            return error
    move_vma_begin(vma)
    pgoff: pgoff_t = vma.vm_pgoff + (vrm.addr - vma.vm_start)
    new_vma, vma = copy_vma(vma, vrm.new_addr, vrm.new_len, pgoff, keep_source)
    vrm.vma = vma
    if not new_vma:
        return -ENOMEM
    moved: vpn_t = move_page_tables(vma, vrm.addr, new_vma, vrm.new_addr, vrm.old_len)
    if moved < vrm.old_len:
        # Back again, which cannot fail, and it is the copy that is unmapped.
        error = -ENOMEM
        move_page_tables(new_vma, vrm.new_addr, vma, vrm.addr, moved)
        vrm.vma = new_vma
        vrm.old_len = vrm.new_len
        vrm.addr = vrm.new_addr
    vm_stat_account(mm, vrm.vma.vm_flags, vrm.new_len)
    if error == 0 and vrm.flags & MREMAP_DONTUNMAP:
        if LINUX >= 616 and locked:
            mm.locked_vm += vrm.new_len
        dontunmap_complete(vrm, new_vma)
    else:
        if locked:
            mm.locked_vm += vrm.new_len
        unmap_source_vma(vrm)
    if error != 0:
        return error
    return vrm.new_addr


# -- the checks
def vrm_set_new_addr(vrm: ptr[vma_remap_struct]) -> errno_t:
    """Where it goes: as mmap with MAP_FIXED, with a hint, or with neither."""
    mm = current_mm()
    if vrm.new_len > NR_PAGES:
        return -ENOMEM
    map_flags: integer(0, 32) = 0
    hint: vpn_t = 0
    if vrm.flags & MREMAP_FIXED:
        map_flags |= UAPI_MAP_FIXED
    if vrm.vma.vm_flags & VM_MAYSHARE:
        map_flags |= UAPI_MAP_SHARED
    if vrm.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        hint = vrm.new_addr
    pgoff: pgoff_t = vrm.vma.vm_pgoff + vrm.addr - vrm.vma.vm_start
    at: addr_or_errno_t = get_unmapped_area(mm, hint, vrm.new_len, map_flags, vrm.vma.vm_file, pgoff)
    if IS_ERR_VALUE(at):
        return at
    vrm.new_addr = at
    return 0


def vma_to_resize(vrm: ptr[vma_remap_struct]) -> errno_t:
    """Whether the VMA at `addr` may be moved, or grow.  vma_to_resize until 6.15, then in check_prep_vma."""
    vma = vrm.vma
    old_len: len_t = vrm.old_len
    new_len: len_t = vrm.new_len
    if LINUX >= 414 and old_len == 0 and not vma.vm_flags & (VM_SHARED | VM_MAYSHARE):
        return -EINVAL  # dba58d3b8c50: a private mapping cannot be duplicated
    if vrm.flags & MREMAP_DONTUNMAP:
        if LINUX < 513 and (vma.vm_file or vma.vm_flags & VM_SHARED):
            return -EINVAL
        if vma.vm_flags & VM_DONTEXPAND:
            return -EINVAL
    if LINUX >= 617 and vrm.remap_type == MREMAP_SHRINK:
        old_len = new_len  # what is cut off may reach over the VMA's end
    if old_len > vma.vm_end - vrm.addr:
        return -EFAULT
    if new_len == old_len:
        return 0
    if vma.vm_flags & VM_LOCKED:
        vrm.populate = True
    if vma.vm_flags & VM_DONTEXPAND:
        return -EFAULT
    if not may_expand_vm(current_mm(), vma.vm_flags, min(new_len - old_len, NR_PAGES + 1)):
        return -ENOMEM
    return 0


def vma_expandable(vma: ptr[vm_area_struct], delta: len_t) -> bool:
    if delta > NR_PAGES - vma.vm_end:
        return False
    next = vma.vm_next
    return not next or next.vm_start >= vma.vm_end + delta


def expand_vma(vrm: ptr[vma_remap_struct]) -> addr_or_errno_t:
    """Grow where it is, if it ends there and there is room; else move, if it may."""
    mm = current_mm()
    vma = vrm.vma
    delta: len_t = vrm.new_len - vrm.old_len
    if vrm.old_len == vma.vm_end - vrm.addr and vma_expandable(vma, delta):
        vma = vma_merge_extend(mm, vma, delta)
        if not vma:
            return -ENOMEM
        vm_stat_account(mm, vma.vm_flags, delta)
        if vma.vm_flags & VM_LOCKED:
            mm.locked_vm += delta
        vrm.new_addr = vrm.addr
        return vrm.addr
    if not vrm.flags & MREMAP_MAYMOVE:
        return -ENOMEM
    error: errno_t = vrm_set_new_addr(vrm)
    if error != 0:
        return error
    return move_vma(vrm)


# -- 4.12 to 6.15
def can_modify_mm(mm: ptr[mm_struct], start: vpn_t, len: len_t) -> bool:
    """Whether nothing in the range is sealed (6.10)."""
    vma = find_vma(mm, start)
    while vma and vma.vm_start < start + len:
        if vma_is_sealed(vma):
            return False
        vma = vma.vm_next
    return True


def old_mremap_to(vrm: ptr[vma_remap_struct]) -> addr_or_errno_t:
    """mremap_to: what is at the new place goes first; that the source cannot be moved is found out later."""
    mm = current_mm()
    if too_many_to_move(mm):
        return -ENOMEM  # ea2c3f6f5545
    if LINUX >= 610 and not can_modify_mm(mm, vrm.addr, vrm.old_len):
        return -EPERM
    if vrm.flags & MREMAP_FIXED:
        error: errno_t = do_munmap(mm, vrm.new_addr, vrm.new_len, False)
        if error != 0:
            return error
    if vrm.old_len > vrm.new_len:
        if vrm.old_len > NR_PAGES - vrm.addr:
            return -EINVAL
        error = do_munmap(mm, vrm.addr + vrm.new_len, vrm.old_len - vrm.new_len, False)
        if error != 0:
            return error
        vrm.old_len = vrm.new_len
    vrm.vma = vma_lookup(mm, vrm.addr)
    if not vrm.vma:
        return -EFAULT
    error = vma_to_resize(vrm)
    if error != 0:
        return error
    if vrm.flags & MREMAP_DONTUNMAP and not may_expand_vm(mm, vrm.vma.vm_flags, vrm.old_len):
        return -ENOMEM
    error = vrm_set_new_addr(vrm)
    if error != 0:
        return error
    return move_vma(vrm)


def old_mremap(vrm: ptr[vma_remap_struct]) -> addr_or_errno_t:
    mm = current_mm()
    if LINUX >= 516 and not vma_lookup(mm, vrm.addr):
        return -EFAULT  # 550a7d60bd5e
    if vrm.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return old_mremap_to(vrm)
    if LINUX >= 610 and not can_modify_mm(mm, vrm.addr, vrm.old_len):
        return -EPERM
    if vrm.old_len >= vrm.new_len:
        if vrm.old_len != vrm.new_len:
            if vrm.old_len > NR_PAGES - vrm.addr:
                return -EINVAL
            error: errno_t = do_munmap(mm, vrm.addr + vrm.new_len, vrm.old_len - vrm.new_len, False)
            if error != 0:
                return error
        return vrm.addr
    vrm.vma = vma_lookup(mm, vrm.addr)
    if not vrm.vma:
        return -EFAULT
    error = vma_to_resize(vrm)
    if error != 0:
        return error
    return expand_vma(vrm)


# -- 6.18
def vrm_implies_new_addr(vrm: ptr[vma_remap_struct]) -> bool:
    return vrm.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) != 0


def check_prep_vma(vrm: ptr[vma_remap_struct]) -> errno_t:
    """Whether what is asked may be done with vrm.vma."""
    if not vrm.vma:
        return -EFAULT
    if vma_is_sealed(vrm.vma):
        return -EPERM
    vrm.remap_type = MREMAP_NO_RESIZE
    if vrm.old_len > vrm.new_len:
        vrm.remap_type = MREMAP_SHRINK
    elif vrm.old_len < vrm.new_len:
        vrm.remap_type = MREMAP_EXPAND
    if not vrm_implies_new_addr(vrm):
        vrm.new_addr = vrm.addr
        if vrm.remap_type != MREMAP_EXPAND:
            return 0
    return vma_to_resize(vrm)


def shrink_vma(vrm: ptr[vma_remap_struct]) -> errno_t:
    mm = current_mm()
    if vrm.old_len > NR_PAGES - vrm.addr:
        return -EINVAL
    error: errno_t = do_munmap(mm, vrm.addr + vrm.new_len, vrm.old_len - vrm.new_len, False)
    if error != 0:
        return error
    vrm.vma = vma_lookup(mm, vrm.addr)
    if not vrm.vma:
        return -EFAULT
    return 0


def mremap_to(vrm: ptr[vma_remap_struct]) -> addr_or_errno_t:
    mm = current_mm()
    if vrm.flags & MREMAP_FIXED:
        error: errno_t = do_munmap(mm, vrm.new_addr, vrm.new_len, False)
        if error != 0:
            return error
        vrm.vma = vma_lookup(mm, vrm.addr)
        if not vrm.vma:
            return -EFAULT
    if vrm.remap_type == MREMAP_SHRINK:
        error = shrink_vma(vrm)
        if error != 0:
            return error
        vrm.old_len = vrm.new_len
    if vrm.flags & MREMAP_DONTUNMAP and not may_expand_vm(mm, vrm.vma.vm_flags, vrm.old_len):
        return -ENOMEM
    error = vrm_set_new_addr(vrm)
    if error != 0:
        return error
    return move_vma(vrm)


def mremap_at(vrm: ptr[vma_remap_struct]) -> addr_or_errno_t:
    if vrm.remap_type == MREMAP_EXPAND:
        return expand_vma(vrm)
    if vrm.remap_type == MREMAP_SHRINK:
        error: errno_t = shrink_vma(vrm)
        if error != 0 and error != -EFAULT:
            return error
    return vrm.addr


def remap_move(vrm: ptr[vma_remap_struct]) -> addr_or_errno_t:
    """A move to a fixed place without a change of size, of one VMA after the other with their gaps (6.17).

    What was moved before one of them fails stays moved.
    """
    mm = current_mm()
    start: vpn_t = vrm.addr
    len: len_t = vrm.old_len
    new_addr: vpn_t = vrm.new_addr
    at: vpn_t = start
    res: addr_or_errno_t = -EFAULT
    while len > at - start:
        vma = find_vma(mm, at)
        if not vma or len <= vma.vm_start - min(vma.vm_start, start):
            break
        if res < 0 and vma.vm_start > start:
            return -EFAULT
        addr: vpn_t = max(vma.vm_start, start)
        at = vma.vm_end
        vrm.vma = vma
        vrm.addr = addr
        vrm.new_addr = new_addr + (addr - start)
        vrm.old_len = min(len - (addr - start), vma.vm_end - addr)
        vrm.new_len = vrm.old_len
        moved: addr_or_errno_t = check_prep_vma(vrm)
        if moved == 0:
            moved = mremap_to(vrm)
        if IS_ERR_VALUE(moved):
            return moved
        if IS_ERR_VALUE(res):
            res = moved
    return res


def new_mremap(vrm: ptr[vma_remap_struct]) -> addr_or_errno_t:
    mm = current_mm()
    if vrm_implies_new_addr(vrm) and too_many_to_move(mm):
        return -ENOMEM
    if vrm.flags & MREMAP_FIXED and vrm.old_len == vrm.new_len:
        return remap_move(vrm)
    vrm.vma = vma_lookup(mm, vrm.addr)
    error: errno_t = check_prep_vma(vrm)
    if error != 0:
        return error
    if vrm_implies_new_addr(vrm):
        return mremap_to(vrm)
    return mremap_at(vrm)


# -- both
def do_mremap(addr: vpn_t, old_len: len_t, new_len: len_t, flags: integer(0, 7), new_addr: vpn_t) -> addr_or_errno_t:
    """mremap after the checks of its arguments.  The part that a locked mapping grew by is faulted in at last."""
    mm = current_mm()
    vrm = pool_object(vma_remap_struct, smp_processor_id())
    vrm.addr = addr
    vrm.old_len = old_len
    vrm.new_len = new_len
    vrm.flags = flags
    vrm.new_addr = new_addr
    ret: addr_or_errno_t = 0
    down_write(mm.mmap_sem)
    mmap_write_lock_end(mm)
    if LINUX >= 617:
        ret = new_mremap(vrm)
    else:
        ret = old_mremap(vrm)
    mmap_write_unlock_begin(mm)
    up_write(mm.mmap_sem)
    if not IS_ERR_VALUE(ret) and vrm.populate and new_len > old_len:
        mm_populate(mm, ret + old_len, new_len - old_len)
    vrm_clear(vrm)
    return ret
