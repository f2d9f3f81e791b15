"""What `AddressSpace` asks of the text: operations by number, the VMAs of a process, why two of them stay apart.

Kernel Python.  Operations are those of mm/opcodes.py, and from SPACE_FILE on what a program does with other calls.
"""

from __future__ import annotations

from seqfault.kernel import NULL, emit, index_of, integer, pool_object, ptr, struct, the
from seqfault.mm.exit import exit_mmap
from seqfault.mm.filemap import file_reopen, memfd_init, mm_init
from seqfault.mm.fork import dup_mm
from seqfault.mm.merge import can_vma_merge_after, can_vma_merge_before
from seqfault.mm.merge import is_mergeable_anon_vma as is_mergeable_anon_vma_4
from seqfault.mm.merge import is_mergeable_vma as is_mergeable_vma_4
from seqfault.mm.merge_6 import VM_IGNORE_MERGE, can_vma_merge_left, can_vma_merge_right, vmg_init
from seqfault.mm.merge_6 import is_mergeable_anon_vma as is_mergeable_anon_vma_6
from seqfault.mm.merge_6 import is_mergeable_vma as is_mergeable_vma_6
from seqfault.mm.observe import emit_page
from seqfault.mm.opcodes import ABSENT
from seqfault.mm.pgtable import pte_at, pte_dirty
from seqfault.mm.types import (
    LINUX,
    NR_MMS,
    VM_SOFTDIRTY,
    file,
    flags_t,
    mm_struct,
    pte_t,
    s64,
    vm_area_struct,
    vm_count_t,
    vpn_t,
)
from seqfault.mm.uapi import uapi_op, uapi_process, uapi_request, uapi_world
from seqfault.mm.vma import find_vma

# make file a0 of a1 pages (a2: 1 readable, 2 writable; a3: shmem; a4: another struct file of file a4 - 1)
SPACE_FILE = 1000
SPACE_FORK = 1001  # `who` forks process a0
SPACE_EXIT = 1002  # `who` exits
SPACE_LIMITS = 1003  # of `who`: max_map_count a0, RLIMIT_AS a1 - 1 pages (0: none), mmap_base a2 (0: as it is)

# Why two neighbours do not merge; MERGEABLE: nothing is in the way.
MERGEABLE, FLAGS_DIFFER, FILES_DIFFER, FORK_CHILD, ANON_VMAS_DIFFER, OFFSETS_DIFFER = 0, 1, 2, 3, 4, 5
refusal_t = integer(0, 5)
# the bits of a word about the boundary at a page
LEFT_ENDS, RIGHT_STARTS, INSIDE, LEFT_ANON, RIGHT_ANON, ALIVE = 1, 2, 4, 8, 16, 32
REFUSAL_SHIFT = 8
watch_t = integer(0, 4095)
who_t = integer(0, NR_MMS - 1)


@struct(pool=1, private=True)
class space_watch:
    """Which boundary is watched: the first page behind it, of which process."""

    who: who_t
    page: vpn_t


def no_validate_mm(mm: ptr[mm_struct]):
    """In place of validate_mm, which walks over all VMAs after each change."""


# -- operations
def space_init():
    """Once: the zero page, and process 0 with nothing in its address space."""
    mm_init()
    the(uapi_world).alive[0] = True
    uapi_process(0)


def space_file(number: s64, pages: s64, mode: s64, shmem: bool, of: s64) -> s64:
    if of != 0:
        file_reopen(number, of - 1, mode)
    else:
        memfd_init(number, pages)
        f = pool_object(file, number)
        f.f_mode = mode
        f.shmem = shmem
    return number


def space_fork(parent: s64, child: s64) -> s64:
    world = the(uapi_world)
    assert not world.alive[child]
    uapi_process(parent)
    ret: s64 = dup_mm(pool_object(mm_struct, child), pool_object(mm_struct, parent))
    if ret == 0:
        world.alive[child] = True
    return ret


def space_exit(who: s64) -> s64:
    uapi_process(who)
    exit_mmap(pool_object(mm_struct, who))
    the(uapi_world).alive[who] = False
    return 0


def space_limits(who: s64, max_map_count: s64, rlimit_as: s64, mmap_base: s64) -> s64:
    mm = pool_object(mm_struct, who)
    mm.max_map_count = max_map_count
    mm.rlimit_as = rlimit_as
    if mmap_base != 0:
        mm.mmap_base = mmap_base
    return 0


def space_op():
    """Perform the request."""
    r = the(uapi_request)
    if r.op < SPACE_FILE:
        uapi_op()
    elif r.who < 0 or r.who >= NR_MMS or not the(uapi_world).alive[r.who]:
        r.result = ABSENT
    elif r.op == SPACE_FILE:
        r.result = space_file(r.a0, r.a1, r.a2, r.a3 != 0, r.a4)
    elif r.op == SPACE_FORK:
        r.result = space_fork(r.who, r.a0)
    elif r.op == SPACE_EXIT:
        r.result = space_exit(r.who)
    else:
        r.result = space_limits(r.who, r.a0, r.a1, r.a2)


def space_call(op: s64, who: s64, a0: s64, a1: s64, a2: s64, a3: s64, a4: s64, a5: s64) -> s64:
    r = the(uapi_request)
    r.op = op
    r.who = who
    r.a0 = a0
    r.a1 = a1
    r.a2 = a2
    r.a3 = a3
    r.a4 = a4
    r.a5 = a5
    space_op()
    return r.result


def space_step():
    """The entry of a batch: an operation and its result."""
    space_op()
    emit(the(uapi_request).result)


# -- what there is
def space_maps(who: who_t, addr: vpn_t, most: vm_count_t):
    """The VMAs of a process from `addr` on, at most `most`, six words each: bounds, flags, offset, number of the file
    and of the anon_vma, plus one."""
    vma = find_vma(pool_object(mm_struct, who), addr)
    n: vm_count_t = 0
    while vma and n < most:
        emit(vma.vm_start)
        emit(vma.vm_end)
        emit(vma.vm_flags)
        emit(vma.vm_pgoff)
        emit(index_of(vma.vm_file) + 1 if vma.vm_file else 0)
        emit(index_of(vma.anon_vma) + 1 if vma.anon_vma else 0)
        n += 1
        vma = vma.vm_next


def space_pages(who: who_t, start: vpn_t, end: vpn_t):
    """Two words for each page: those of `emit_page`, and whether its entry is dirty."""
    uapi_process(who)
    mm = pool_object(mm_struct, who)
    vma = find_vma(mm, start)
    addr: vpn_t = start
    while addr < end:
        while vma and vma.vm_end <= addr:
            vma = vma.vm_next
        pte: pte_t = 0
        if vma and vma.vm_start <= addr:
            pte = pte_at(mm, addr)
            emit_page(vma, pte)
        else:
            emit(0)
        emit(pte_dirty(pte))
        addr += 1


# -- why two neighbours do not merge
def refusal(left: ptr[vm_area_struct], right: ptr[vm_area_struct], mergeable_vma: bool, anon: bool) -> refusal_t:
    """Which of a predicate's parts said no first."""
    if not mergeable_vma:
        ignored: flags_t = VM_IGNORE_MERGE if LINUX >= 618 else VM_SOFTDIRTY
        if (left.vm_flags ^ right.vm_flags) & ~ignored:
            return FLAGS_DIFFER
        return FILES_DIFFER
    if not anon:
        if not left.anon_vma or not right.anon_vma:
            return FORK_CHILD
        return ANON_VMAS_DIFFER
    return OFFSETS_DIFFER


def refusal_4(left: ptr[vm_area_struct], right: ptr[vm_area_struct]) -> refusal_t:
    """By vma_merge's predicates, 4.12 to 6.1: neither could have taken in the other.

    Of the two ways the one that got further: what it met is in the way of both.
    """
    if can_vma_merge_after(left, right.vm_flags, right.anon_vma, right.vm_file, right.vm_pgoff):
        return MERGEABLE
    pgoff: s64 = left.vm_pgoff + (left.vm_end - left.vm_start)
    if can_vma_merge_before(right, left.vm_flags, left.anon_vma, left.vm_file, pgoff):
        return MERGEABLE
    same = is_mergeable_vma_4(left, right.vm_file, right.vm_flags)
    one: refusal_t = refusal(left, right, same, is_mergeable_anon_vma_4(right.anon_vma, left.anon_vma, left))
    other: refusal_t = refusal(left, right, same, is_mergeable_anon_vma_4(left.anon_vma, right.anon_vma, right))
    return max(one, other)


def refusal_6(mm: ptr[mm_struct], left: ptr[vm_area_struct], right: ptr[vm_area_struct]) -> refusal_t:
    """By vma_merge_existing_range's, 6.18."""
    vmg = vmg_init(mm, NULL, left.vm_start, left.vm_end, left.vm_flags, left.vm_file, left.vm_pgoff)
    vmg.middle = left
    vmg.anon_vma = left.anon_vma
    vmg.next = right
    if can_vma_merge_right(vmg, False):
        return MERGEABLE
    one: refusal_t = refusal(left, right, is_mergeable_vma_6(vmg, right), is_mergeable_anon_vma_6(vmg, right))
    vmg = vmg_init(mm, left, right.vm_start, right.vm_end, right.vm_flags, right.vm_file, right.vm_pgoff)
    vmg.middle = right
    vmg.anon_vma = right.anon_vma
    if can_vma_merge_left(vmg):
        return MERGEABLE
    other: refusal_t = refusal(left, right, is_mergeable_vma_6(vmg, left), is_mergeable_anon_vma_6(vmg, left))
    return max(one, other)


def boundary(mm: ptr[mm_struct], page: vpn_t) -> watch_t:
    """What is on both sides of the boundary before `page`."""
    word: watch_t = ALIVE
    right = find_vma(mm, page)
    if right and right.vm_start <= page:
        if right.anon_vma:
            word |= RIGHT_ANON
        if right.vm_start < page:
            word |= INSIDE
            if right.anon_vma:
                word |= LEFT_ANON
            return word
        word |= RIGHT_STARTS
    if page == 0:
        return word
    left = find_vma(mm, page - 1)
    if left and left.vm_start < page:
        word |= LEFT_ENDS
        if left.anon_vma:
            word |= LEFT_ANON
        if word & RIGHT_STARTS:
            if LINUX >= 618:
                word |= refusal_6(mm, left, right) << REFUSAL_SHIFT
            else:
                word |= refusal_4(left, right) << REFUSAL_SHIFT
    return word


def space_watched():
    """The entry of a batch: an operation, and the boundary after it."""
    space_op()
    w = the(space_watch)
    if the(uapi_world).alive[w.who]:
        emit(boundary(pool_object(mm_struct, w.who), w.page))
    else:
        emit(0)
