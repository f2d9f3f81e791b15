"""vm-refcnt: page faults under a reference to the VMA.  Linux 6.18 (6.15 and later).

Suren Baghdasaryan's series "reimplement per-vma lock as a refcount" (v10, 13 February 2025; f35ab95ca0af "mm: replace
vm_lock and detached flag with a reference count", 3104138517fc "mm: make vma cache SLAB_TYPESAFE_BY_RCU"), with
9bbffee67ffd (6.17: whose VMA it is is asked before it is let go), and madvise(MADV_DONTNEED) under the VMA's lock
(6.17, a6fde7add78d).

vm_refcnt: 0 detached, 1 attached, one more for each reader.  A writer adds VMA_LOCK_OFFSET, which keeps further readers
out, waits until nobody else is left, writes the mm's number into the VMA and takes VMA_LOCK_OFFSET away again: from
then on the equal numbers keep readers out, until mmap_lock is dropped.  mm_lock_seq is a sequence count that is odd
while mmap_lock is held for writing.

VMAs are freed at once; their memory keeps its type for as long as an RCU section lasts, but may be another VMA by
then.  So a reader takes its reference, unless the count is 0, and then looks whether the VMA is of its mm and covers
its address.

Faults fall back to mmap_lock (6.18): no VMA; write-locked; bounds; no rights; no anon_vma and mmap_lock taken.  Pages
of files are handled too.  A VMA that was taken out meanwhile is looked for again.

Differences from 6.18: the maple tree (protocols/maple.py); numbers begin with 2 in the mm, and a VMA that was never
locked has 0 (UINT_MAX); VMA_LOCK_OFFSET is 16; the writer looks at the count instead of being woken; with one
address space vm_mm is always the right one; userfaultfd is not modelled.

Places:
    mmap_write_lock/end                     mm_lock_seqcount_begin
    mmap_write_unlock/begin, mmap_write_downgrade/begin    vma_end_write_all
    vm_area_dup/end                         vma_lock_init
    mmap_region/link                        vma_start_write
    mmap_region/flags.begin                 vma_start_write (vm_flags_set)
    move_vma/begin                          vma_start_write
    mprotect_fixup/begin                    vma_start_write
    vma_merge_existing_range/middle, /next, /prev    vma_start_write
    vma_expand/target, /next                vma_start_write
    __split_vma/vma, /new                   vma_start_write
    expand_downwards/lock                   vma_start_write
    dup_mmap/vma                            vma_start_write
    do_munmap/detach.begin                  vms_gather_munmap_vmas: vma_start_write, vma_mark_detached
    vma_complete/remove                     vma_mark_detached
    __vma_link_rb/store                     vma_iter_store_new: vma_mark_attached
    commit_merge/store, expand_downwards/store, do_munmap/detach.end    the tree
    anon_vma_prepare/notsup, /end           __vmf_anon_prepare
    do_page_fault/try                       lock_vma_under_rcu
    sys_madvise/lock, /unlock               try_vma_read_lock
    tlb_flush/check                         who says what of a flush
"""

from __future__ import annotations

from seqfault.kernel import (
    NULL,
    READ_ONCE,
    WRITE_ONCE,
    Protocol,
    atomic,
    check,
    cmpxchg_acquire,
    cmpxchg_relaxed,
    count,
    cpu_relax,
    fetch_add_release,
    integer,
    is_live,
    pool_object,
    process_id,
    ptr,
    smp_load_acquire,
    smp_mb,
    smp_store_release,
    smp_wmb,
    struct,
)
from seqfault.kernel.rcu import rcu_read_lock, rcu_read_unlock
from seqfault.kernel.rwsem import down_read_trylock, up_read
from seqfault.kernel.seqlock import seq_t
from seqfault.kernel.types import Size
from seqfault.mm.fault import handle_mm_fault
from seqfault.mm.places import (
    FAULT_FLAG_VMA_LOCK,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    anon_vma_notsup,
    anon_vma_prepare_end,
    detach_begin,
    do_page_fault_try,
    dup_mmap_vma,
    expand_downwards_lock,
    madvise_lock,
    madvise_unlock,
    mmap_region_flags_begin,
    mmap_region_link,
    mmap_write_downgrade_begin,
    mmap_write_lock_end,
    mmap_write_unlock_begin,
    move_vma_begin,
    mprotect_fixup_begin,
    split_vma_new,
    split_vma_vma,
    vm_area_dup_end,
    vma_complete_remove,
    vma_expand_next,
    vma_expand_target,
    vma_link_rb_store,
    vma_merge_middle,
    vma_merge_next,
    vma_merge_prev,
)
from seqfault.mm.tlb import check_no_stale_tlb
from seqfault.mm.tlb import flush_check as flush_check_place
from seqfault.mm.types import (
    NR_VMAS,
    current_mm,
    fault_t,
    mm_struct,
    vm_area_struct,
    vm_fault,
    vma_mm,
    vpn_t,
)
from seqfault.mm.x86_fault import access_error
from seqfault.protocols.maple import bind_tree, mas_walk, vma_iter_store

VMA_LOCK_OFFSET = Size("VMA_LOCK_OFFSET", 16)  # 0x40000000, which `price` has
VMA_REF_LIMIT = VMA_LOCK_OFFSET - 1
refcnt_t = integer(0, 2 * VMA_LOCK_OFFSET - 1, "refcnt_t")


@struct(at_rest="even")
class mm_lock_seqcount_t:
    """mm->mm_lock_seq"""

    sequence: seq_t = 2


PROTOCOL = Protocol(
    "vm-refcnt",
    "faults under a reference to the VMA (Linux 6.18)",
    release="6.18",
    doc=__doc__ or "",
    speculative="speculative_success",
    sizes={"LINUX": 618},
    typesafe=("vm_area_struct",),
)
PROTOCOL.add_field(vm_area_struct, "vm_refcnt", refcnt_t)
PROTOCOL.add_field(vm_area_struct, "vm_lock_seq", seq_t)
PROTOCOL.add_field(mm_struct, "mm_lock_seq", mm_lock_seqcount_t)
PROTOCOL.add_field(vm_fault, "mmap_locked", bool)
bind_tree(PROTOCOL)


# -- include/linux/mmap_lock.h
@PROTOCOL.at(mmap_write_lock_end)
def mm_lock_seqcount_begin(mm: ptr[mm_struct]):
    mm.mm_lock_seq.sequence += 1
    smp_wmb()


def vma_end_write_all(mm: ptr[mm_struct]):
    """mm_lock_seqcount_end: all VMAs that are write-locked are no longer."""
    smp_wmb()
    mm.mm_lock_seq.sequence += 1


@PROTOCOL.at(mmap_write_unlock_begin, mmap_write_downgrade_begin)
def before_mmap_lock_goes(mm: ptr[mm_struct]):
    vma_end_write_all(mm)


def refcount_inc_not_zero_limited_acquire(vma: ptr[vm_area_struct]) -> refcnt_t:
    """Take a reference unless there is none, or a writer.  What the count was."""
    while True:
        old: refcnt_t = READ_ONCE(vma.vm_refcnt)
        if old == 0 or old >= VMA_REF_LIMIT:
            return old
        if cmpxchg_acquire(vma.vm_refcnt, old, old + 1) == old:
            return old


def vma_refcount_put(vma: ptr[vm_area_struct]):
    """refcount_dec_and_test.  Linux wakes the writer if he is the only one left."""
    fetch_add_release(vma.vm_refcnt, -1)


def vma_end_read(vma: ptr[vm_area_struct]):
    vma_refcount_put(vma)


# -- mm/mmap_lock.c
def __vma_enter_locked(vma: ptr[vm_area_struct], target: refcnt_t) -> bool:
    """Keep readers out, and wait until `target` is left.  False: the VMA is detached, there are none."""
    while True:  # refcount_add_not_zero; only who holds mmap_lock can raise it from 0
        old: refcnt_t = READ_ONCE(vma.vm_refcnt)
        if old == 0:
            return False
        if cmpxchg_relaxed(vma.vm_refcnt, old, old + VMA_LOCK_OFFSET) == old:
            break
    smp_mb()  # set_current_state
    while READ_ONCE(vma.vm_refcnt) != target:
        cpu_relax()
    return True


def __vma_exit_locked(vma: ptr[vm_area_struct]) -> bool:
    """Whether it is detached now."""
    return fetch_add_release(vma.vm_refcnt, -VMA_LOCK_OFFSET) == VMA_LOCK_OFFSET


def __vma_start_write(vma: ptr[vm_area_struct], mm_lock_seq: seq_t):
    locked: bool = __vma_enter_locked(vma, VMA_LOCK_OFFSET + 1)
    WRITE_ONCE(vma.vm_lock_seq, mm_lock_seq)
    if locked:
        detached = __vma_exit_locked(vma)
        check(not detached, "wrong-refcount", vma)


def vma_start_write(vma: ptr[vm_area_struct]):
    """Write-lock a VMA until mmap_lock is dropped.  Waits for its readers."""
    mm_lock_seq = vma_mm(vma).mm_lock_seq.sequence
    if vma.vm_lock_seq != mm_lock_seq:
        __vma_start_write(vma, mm_lock_seq)


def vma_mark_attached(vma: ptr[vm_area_struct]):
    smp_store_release(vma.vm_refcnt, 1)


def vma_mark_detached(vma: ptr[vm_area_struct]):
    """The VMA is write-locked: readers come only to look at the numbers, and go again."""
    if fetch_add_release(vma.vm_refcnt, -1) != 1 and __vma_enter_locked(vma, VMA_LOCK_OFFSET):
        detached = __vma_exit_locked(vma)
        check(detached, "wrong-refcount", vma)


def vma_start_read(mm: ptr[mm_struct], vma: ptr[vm_area_struct]) -> integer(0, 2):
    """Try to read-lock a VMA, which may be another by now.  0: locked by a writer, 1: done, 2: -EAGAIN, detached."""
    if READ_ONCE(vma.vm_lock_seq) == READ_ONCE(mm.mm_lock_seq.sequence):
        return 0
    oldcnt = refcount_inc_not_zero_limited_acquire(vma)
    if oldcnt == 0:
        return 2
    if oldcnt >= VMA_REF_LIMIT:
        return 0
    if vma_mm(vma) != mm:
        vma_refcount_put(vma)
        return 0
    # Nobody can write-lock the VMA any more; if somebody has, and is not done, the numbers are equal.
    if vma.vm_lock_seq == smp_load_acquire(mm.mm_lock_seq.sequence):
        vma_refcount_put(vma)
        return 0
    return 1


def lock_vma_under_rcu(mm: ptr[mm_struct], address: vpn_t) -> ptr[vm_area_struct]:
    """The VMA of an address, read-locked; NULL: fall back to mmap_lock."""
    while True:
        rcu_read_lock()
        vma = mas_walk(mm, address)
        if not vma:
            rcu_read_unlock()
            count("speculative_fallback/vma_none")
            return NULL
        got: integer(0, 2) = vma_start_read(mm, vma)
        rcu_read_unlock()
        if got == 0:
            count("speculative_fallback/vma_locked")
            return NULL
        if got == 1:
            break
        count("vma_lock_miss")  # another has taken its place: walk again
    if address < vma.vm_start or vma.vm_end <= address:
        vma_end_read(vma)
        count("speculative_fallback/vma_bounds")
        return NULL
    return vma


# -- who calls
@PROTOCOL.at(
    mmap_region_link,
    mmap_region_flags_begin,
    move_vma_begin,
    mprotect_fixup_begin,
    vma_merge_middle,
    vma_merge_next,
    vma_merge_prev,
    vma_expand_target,
    vma_expand_next,
    split_vma_vma,
    split_vma_new,
    expand_downwards_lock,
    dup_mmap_vma,
)
def before_change(vma: ptr[vm_area_struct]):
    vma_start_write(vma)


@PROTOCOL.at(detach_begin)
def vms_gather(mm: ptr[mm_struct], vma: ptr[vm_area_struct], end: vpn_t):
    """Linux does so VMA by VMA, before it looks whether the next one reaches out of the range and must be split."""
    while vma and vma.vm_start < end:
        vma_start_write(vma)
        vma_mark_detached(vma)
        vma = vma.vm_next


@PROTOCOL.at(vma_complete_remove)
def merged_away(vma: ptr[vm_area_struct]):
    vma_mark_detached(vma)


@PROTOCOL.at(vma_link_rb_store)
def vma_iter_store_new(mm: ptr[mm_struct], vma: ptr[vm_area_struct]):
    vma_mark_attached(vma)
    vma_iter_store(mm, vma)


@PROTOCOL.at(vm_area_dup_end)
def vma_lock_init(vma: ptr[vm_area_struct]):
    vma.vm_refcnt = 0
    vma.vm_lock_seq = 0


# -- mm/memory.c
@PROTOCOL.at(anon_vma_notsup)
def __vmf_anon_prepare(vmf: ptr[vm_fault]) -> bool:
    """find_mergeable_anon_vma looks at the neighbours, which are not locked: with mmap_lock, or not at all."""
    vma = vmf.vma
    if vma.anon_vma or not vmf.flags & FAULT_FLAG_VMA_LOCK:
        return False
    mm = current_mm()
    if not down_read_trylock(mm.mmap_sem):
        vma_end_read(vma)
        count("speculative_fallback/mmap_locked")
        return True
    vmf.mmap_locked = True
    return False


@PROTOCOL.at(anon_vma_prepare_end)
def vmf_anon_prepared(vmf: ptr[vm_fault]):
    if vmf.mmap_locked:
        vmf.mmap_locked = False
        up_read(current_mm().mmap_sem)


# -- arch/x86/mm/fault.c
@PROTOCOL.at(do_page_fault_try)
def do_user_addr_fault(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    """Who asks for the fault to be repeated has given the VMA back."""
    vma = lock_vma_under_rcu(mm, address)
    if not vma:
        return VM_FAULT_RETRY
    if access_error(write, vma):
        vma_end_read(vma)
        count("speculative_fallback/vma_access")
        return VM_FAULT_RETRY
    fault: fault_t = handle_mm_fault(vma, address, FAULT_FLAG_VMA_LOCK | (FAULT_FLAG_WRITE if write else 0))
    if not fault & VM_FAULT_RETRY:
        vma_end_read(vma)
        count("speculative_success")
    return fault


# -- mm/madvise.c
@PROTOCOL.at(madvise_lock)
def try_vma_read_lock(mm: ptr[mm_struct], start: vpn_t, end: vpn_t) -> ptr[vm_area_struct]:
    """Only advice that lies in one VMA can do without mmap_lock."""
    vma = lock_vma_under_rcu(mm, start)
    if vma and end > vma.vm_end:
        vma_end_read(vma)
        vma = NULL
    return vma


@PROTOCOL.at(madvise_unlock)
def advised(vma: ptr[vm_area_struct]):
    vma_end_read(vma)


# -- the checker
def readers() -> integer(0, 64):
    """How many references readers hold, of all VMAs."""
    n: integer(0, 64) = 0
    for i in range(NR_VMAS):
        vma = pool_object(vm_area_struct, i)
        if is_live(vma) and vma.vm_refcnt % VMA_LOCK_OFFSET > 1:
            n += vma.vm_refcnt % VMA_LOCK_OFFSET - 1
    return n


@PROTOCOL.at(flush_check_place)
def flush_check(start: vpn_t, end: vpn_t):
    """As in the mm text; who holds a VMA may be between his own change and his own flush, too."""
    mm = current_mm()
    with atomic():
        me = 1 << process_id()
        own = 0 if mm.mmap_sem.writer == process_id() + 1 or mm.mmap_sem.readers & me else 1
        if not mm.mmap_sem.readers & ~me and readers() <= own:
            check_no_stale_tlb(mm, start, end)
