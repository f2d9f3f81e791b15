"""per-vma-lock: page faults under a VMA's own lock.  Linux 6.4, as its last stable release (6.4.16) has it.

Suren Baghdasaryan's series (27 February 2023; 5e31275cc997 "mm: add per-VMA lock and helper functions to control it",
and those that follow), with what the stable releases added: expanding stacks under the write lock (8d7071af8907,
c137381f71ae), new VMAs locked before they can be found (33313a747e81, 1c7873e33645), the parent's VMAs locked by fork
(fb49c455323f), anon_vma looked at under the lock (657b5146955e), dup_anon_vma's VMA locked (d8ab9f7b644a), acquire
and release on mm_lock_seq (b1f02b95758d).

A VMA has a lock and a number.  Whoever changes it holds mmap_lock for writing, takes its lock, writes the mm's number
there and gives the lock back (vma_start_write): as long as the two numbers are equal the VMA counts as locked.
Whoever drops mmap_lock for writing, or keeps it for reading only, adds one to the mm's number, which unlocks all VMAs
at once.  A fault tries the VMA's lock for reading, and gives up if the numbers are equal, before or after.

Faults fall back to mmap_lock (6.4): no VMA; not anonymous; write-locked; no anon_vma; bounds; no rights.  A VMA that
was taken out meanwhile is looked for again.

Differences from 6.4: the maple tree is an array of pages, which changes for a range in one step (RCU readers see one
moment of it for an address); numbers begin with 1 in the mm and 0 in a VMA instead of 0 and -1; struct vma_lock is
part of the VMA; userfaultfd and the counters of attempts by the kernel itself are not modelled.

Places:
    vm_area_dup/end                         vma_lock_alloc
    mmap_region/link                        vma_start_write
    mmap_region/flags.begin                 vma_start_write (vm_flags_set)
    move_vma/begin                          vma_start_write
    mprotect_fixup/begin                    vma_start_write (vm_flags_reset)
    vma_prepare/vma, /adj_next, /remove, /remove2    vma_start_write
    dup_anon_vma/dst                        vma_start_write
    expand_downwards/lock                   vma_start_write
    dup_mmap/vma                            vma_start_write
    do_munmap/detach.begin                  munmap_sidetree: vma_start_write, vma_mark_detached
    vma_complete/remove                     vma_mark_detached
    mmap_write_unlock/begin, mmap_write_downgrade/begin    vma_end_write_all
    __vma_link_rb/store, commit_merge/store, expand_downwards/store, do_munmap/detach.end    the tree
    remove_vma/free, vma_complete/free, rcu_callback/call  vm_area_free: call_rcu
    do_page_fault/try                       lock_vma_under_rcu
"""

from __future__ import annotations

from seqfault.kernel import (
    NULL,
    READ_ONCE,
    Protocol,
    count,
    index_of,
    kmem_cache_free,
    pool_object,
    ptr,
    smp_load_acquire,
    smp_store_release,
    struct,
)
from seqfault.kernel.rcu import call_rcu, rcu_read_lock, rcu_read_unlock
from seqfault.kernel.rwsem import down_read_trylock, down_write, rw_semaphore, up_read, up_write
from seqfault.kernel.seqlock import seq_t
from seqfault.kernel.task import rcu_arg_t, rcu_callback
from seqfault.mm.fault import handle_mm_fault, vma_is_anonymous
from seqfault.mm.file import fput
from seqfault.mm.places import (
    FAULT_FLAG_VMA_LOCK,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    detach_begin,
    do_page_fault_try,
    dup_anon_vma_dst,
    dup_mmap_vma,
    expand_downwards_lock,
    mmap_region_flags_begin,
    mmap_region_link,
    mmap_write_downgrade_begin,
    mmap_write_unlock_begin,
    move_vma_begin,
    mprotect_fixup_begin,
    vm_area_dup_end,
    vm_area_free,
    vma_complete_free,
    vma_complete_remove,
    vma_link_rb_store,
    vma_prepare_adj_next,
    vma_prepare_remove,
    vma_prepare_remove2,
    vma_prepare_vma,
)
from seqfault.mm.types import fault_t, mm_struct, vm_area_struct, vma_mm, vpn_t
from seqfault.mm.x86_fault import access_error
from seqfault.protocols.maple import bind_tree, mas_walk, vma_iter_store


@struct
class mm_lock_seq_t:
    """mm->mm_lock_seq"""

    sequence: seq_t = 1


PROTOCOL = Protocol(
    "per-vma-lock",
    "faults under the VMA's own lock (Linux 6.4)",
    release="6.4",
    doc=__doc__ or "",
    speculative="speculative_success",
    sizes={"LINUX": 604},
)
PROTOCOL.add_field(vm_area_struct, "vm_lock", rw_semaphore)
PROTOCOL.add_field(vm_area_struct, "vm_lock_seq", seq_t)
PROTOCOL.add_field(vm_area_struct, "detached", bool)
PROTOCOL.add_field(mm_struct, "mm_lock_seq", mm_lock_seq_t)


# -- include/linux/mm.h
def vma_start_read(vma: ptr[vm_area_struct]) -> bool:
    """Try to read-lock a VMA.  It may be said to be locked when it is not, never the other way round."""
    mm = vma_mm(vma)
    if READ_ONCE(vma.vm_lock_seq) == READ_ONCE(mm.mm_lock_seq.sequence):
        return False
    if not down_read_trylock(vma.vm_lock):
        return False
    # Nobody can write-lock the VMA any more; if somebody has, and is not done, the numbers are equal.
    if vma.vm_lock_seq == smp_load_acquire(mm.mm_lock_seq.sequence):
        up_read(vma.vm_lock)
        return False
    return True


def vma_end_read(vma: ptr[vm_area_struct]):
    up_read(vma.vm_lock)


def vma_start_write(vma: ptr[vm_area_struct]):
    """Write-lock a VMA until mmap_lock is dropped.  Waits for its readers."""
    mm_lock_seq = vma_mm(vma).mm_lock_seq.sequence
    if vma.vm_lock_seq != mm_lock_seq:
        down_write(vma.vm_lock)
        vma.vm_lock_seq = mm_lock_seq
        up_write(vma.vm_lock)


def vma_mark_detached(vma: ptr[vm_area_struct]):
    vma.detached = True


def vma_end_write_all(mm: ptr[mm_struct]):
    smp_store_release(mm.mm_lock_seq.sequence, mm.mm_lock_seq.sequence + 1)


@PROTOCOL.at(
    mmap_region_link,
    mmap_region_flags_begin,
    move_vma_begin,
    mprotect_fixup_begin,
    vma_prepare_vma,
    vma_prepare_adj_next,
    vma_prepare_remove,
    vma_prepare_remove2,
    dup_anon_vma_dst,
    expand_downwards_lock,
    dup_mmap_vma,
)
def before_change(vma: ptr[vm_area_struct]):
    vma_start_write(vma)


@PROTOCOL.at(detach_begin)
def munmap_sidetree(mm: ptr[mm_struct], vma: ptr[vm_area_struct], end: vpn_t):
    """Linux does so VMA by VMA, before it looks whether the next one reaches out of the range and must be split."""
    while vma and vma.vm_start < end:
        vma_start_write(vma)
        vma_mark_detached(vma)
        vma = vma.vm_next


@PROTOCOL.at(vma_complete_remove)
def merged_away(vma: ptr[vm_area_struct]):
    vma_mark_detached(vma)


@PROTOCOL.at(mmap_write_unlock_begin, mmap_write_downgrade_begin)
def before_mmap_lock_goes(mm: ptr[mm_struct]):
    vma_end_write_all(mm)


# -- kernel/fork.c
@PROTOCOL.at(vm_area_dup_end)
def vma_lock_alloc(vma: ptr[vm_area_struct]):
    vma.vm_lock.writer = 0
    vma.vm_lock.readers = 0
    vma.vm_lock_seq = 0
    vma.detached = False


@PROTOCOL.at(vma_complete_free)
def free_vma(vma: ptr[vm_area_struct]):
    call_rcu(index_of(vma))


@PROTOCOL.at(vm_area_free)
def remove_vma(vma: ptr[vm_area_struct]):
    if vma.vm_file:
        fput(vma.vm_file)
    call_rcu(index_of(vma))


@PROTOCOL.at(rcu_callback)
def vm_area_free_rcu_cb(arg: rcu_arg_t):
    kmem_cache_free(pool_object(vm_area_struct, arg))


PROTOCOL.at(vma_link_rb_store)(vma_iter_store)
bind_tree(PROTOCOL)


# -- mm/memory.c
def lock_vma_under_rcu(mm: ptr[mm_struct], address: vpn_t) -> ptr[vm_area_struct]:
    """The VMA of an address, read-locked; NULL: fall back to mmap_lock."""
    rcu_read_lock()
    vma = __lock_vma_under_rcu(mm, address)
    rcu_read_unlock()
    return vma


def __lock_vma_under_rcu(mm: ptr[mm_struct], address: vpn_t) -> ptr[vm_area_struct]:
    """The part inside the RCU section; Linux has jumps."""
    while True:
        vma = mas_walk(mm, address)
        if not vma:
            count("speculative_fallback/vma_none")
            return NULL
        if not vma_is_anonymous(vma):
            count("speculative_fallback/vma_notsup")
            return NULL
        if not vma_start_read(vma):
            count("speculative_fallback/vma_locked")
            return NULL
        # find_mergeable_anon_vma looks at the neighbours, which are not locked.
        if not vma.anon_vma:
            vma_end_read(vma)
            count("speculative_fallback/vma_noanon")
            return NULL
        if address < vma.vm_start or vma.vm_end <= address:
            vma_end_read(vma)
            count("speculative_fallback/vma_bounds")
            return NULL
        if not vma.detached:
            return vma
        vma_end_read(vma)
        count("vma_lock_miss")  # another has taken its place: walk again


# -- arch/x86/mm/fault.c
@PROTOCOL.at(do_page_fault_try)
def do_user_addr_fault(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    vma = lock_vma_under_rcu(mm, address)
    if not vma:
        return VM_FAULT_RETRY
    if access_error(write, vma):
        vma_end_read(vma)
        count("speculative_fallback/vma_access")
        return VM_FAULT_RETRY
    fault: fault_t = handle_mm_fault(vma, address, FAULT_FLAG_VMA_LOCK | (FAULT_FLAG_WRITE if write else 0))
    vma_end_read(vma)
    count("speculative_success")
    return fault
