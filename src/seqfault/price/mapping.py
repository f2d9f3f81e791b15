"""What the mm text leaves out of a change of mappings and of faults, of those by kernel code, and what a recorder adds.
Kernel Python.

As in price/memory.py each function calls what it stands in for: functions of the text (`INSTEAD`), or what a protocol
does at a place (`at_places`).
"""

from __future__ import annotations

from typing import Any

from seqfault.kernel import array, count, integer, pool_object, ptr, struct, the
from seqfault.kernel.places import Protocol
from seqfault.kernel.task import NR_TASKS
from seqfault.mm import fault, merge_6, mmap, vma
from seqfault.mm.fault import handle_mm_fault as handle_mm_fault_of_text
from seqfault.mm.fullsize import release_number
from seqfault.mm.merge_6 import commit_merge as commit_merge_of_text
from seqfault.mm.merge_6 import vma_merge_struct
from seqfault.mm.mmap import detach_vmas_to_be_unmapped as detach_vmas_to_be_unmapped_of_text
from seqfault.mm.places import (
    VM_FAULT_RETRY,
    do_page_fault_try,
    mmap_write_lock_end,
    mmap_write_unlock_begin,
    pgd_offset,
)
from seqfault.mm.types import LINUX, current_mm, errno_t, fault_flags_t, fault_t, mm_struct, vm_area_struct, vpn_t
from seqfault.mm.vma import __vma_link_rb as __vma_link_rb_of_text
from seqfault.price.clock import task_t, ticks_t, vclock, vt_prefetch, vt_read, vt_read_ahead, vtask
from seqfault.price.locks import lock_costs
from seqfault.price.words import line_of
from seqfault.protocols import spf_v11, spf_v12, vm_refcnt
from seqfault.protocols.vm_refcnt import VMA_LOCK_OFFSET, refcnt_t
from seqfault.protocols.vm_refcnt import __vma_enter_locked as __vma_enter_locked_of_text

NOT_USER = "not_user"  # the reason that `user_faults_only` gives


@struct(pool=1, private=True)
class mapping_costs:
    """`tree`: a change of the maple tree; `nr_prefetch`: whether a fault asks for mmap_sem's line before all else;
    `fault_inside`: what the text leaves out of handle_mm_fault, where that is known apart; the others are a recorder's
    (price/recorder.py), 0 when nobody records."""

    tree: ticks_t
    nr_prefetch: integer(0, 1)
    fault_inside: ticks_t
    traced_fault: ticks_t
    traced_account: ticks_t
    traced_call: ticks_t
    traced_lock: ticks_t


@struct(pool=1, private=True)
class user_access_of:
    """Which tasks' accesses are made by kernel code; what their next fault takes beyond the usual."""

    kernel: array[bool, NR_TASKS + 1]
    more: array[ticks_t, NR_TASKS + 1]


def tree_changes():
    """6.1 and later; before that the text has the tree as Linux has it."""
    if LINUX >= 601:
        the(vclock).now += the(mapping_costs).tree


def __vma_link_rb(mm: ptr[mm_struct], vma: ptr[vm_area_struct], rb_parent: ptr[vm_area_struct], rb_left: bool):
    tree_changes()
    __vma_link_rb_of_text(mm, vma, rb_parent, rb_left)


def commit_merge(vmg: ptr[vma_merge_struct]) -> errno_t:
    tree_changes()
    return commit_merge_of_text(vmg)


def detach_vmas_to_be_unmapped(mm: ptr[mm_struct], vma: ptr[vm_area_struct], prev: ptr[vm_area_struct], end: vpn_t):
    tree_changes()
    detach_vmas_to_be_unmapped_of_text(mm, vma, prev, end)


def more_than_usual() -> ticks_t:
    """Of a recorded fault: a page that the host has not backed, a large one, a copy.  Once for each access."""
    u = the(user_access_of)
    me: task_t = the(vclock).me
    more: ticks_t = u.more[me]
    u.more[me] = 0
    return more


def handle_mm_fault(vma: ptr[vm_area_struct], address: vpn_t, flags: fault_flags_t) -> fault_t:
    """Of an exception's first try also what the text leaves out, and mm_account_fault (5.9), which a recorder sees."""
    m = the(vclock)
    k = the(mapping_costs)
    task = pool_object(vtask, m.me)
    owes: bool = task.owes
    task.owes = False
    if owes:
        m.now += k.fault_inside + more_than_usual()
    ret: fault_t = handle_mm_fault_of_text(vma, address, flags)
    if owes:
        m.now += k.traced_account
    return ret


# -- mm_struct's line with mmap_sem: others of its fields that a fault reads
def prefetch_mmap_sem():
    """prefetchw(&mm->mmap_sem), the first thing that exc_page_fault does on x86 (arch/x86/mm/fault.c)."""
    if the(mapping_costs).nr_prefetch != 0:
        vt_prefetch(line_of(current_mm().mmap_sem.writer))


def read_pgd():
    """mm->pgd is 24 to 32 bytes before mmap_sem, up to 6.9; from 6.10 on (529ce23a764f) in the line of the tree."""
    if LINUX < 610:
        vt_read_ahead(line_of(current_mm().mmap_sem.writer))
    else:
        vt_read(line_of(current_mm().mmap_base))


def multithreaded_only(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    """handle_speculative_fault (include/linux/mm.h, v6 and later of the series) looks at mm_users first, which is
    next to mm->pgd."""
    vt_read_ahead(line_of(mm.mmap_sem.writer))
    return do_page_fault_try(mm, address, write)


# -- at places
def user_faults_only(mm: ptr[mm_struct], address: vpn_t, write: bool) -> fault_t:
    """do_user_addr_fault, 6.4: without FAULT_FLAG_USER it goes to lock_mmap at once."""
    if the(user_access_of).kernel[the(vclock).me]:
        count("speculative_fallback/not_user")
        return VM_FAULT_RETRY
    return do_page_fault_try(mm, address, write)


def traced_lock(mm: ptr[mm_struct]):
    """mmap_lock_acquire_returned; mmap_lock_start_locking comes before (price/driver.py)."""
    mmap_write_lock_end(mm)
    the(vclock).now += the(mapping_costs).traced_lock


def traced_unlock(mm: ptr[mm_struct]):
    """mmap_lock_released comes before the VMAs are unlocked; a downgrade has an event, too."""
    the(vclock).now += the(mapping_costs).traced_lock
    mmap_write_unlock_begin(mm)


# -- of vm-refcnt
def __vma_enter_locked(vma: ptr[vm_area_struct], target: refcnt_t) -> bool:
    """rcuwait_wait_event: a writer that finds readers sleeps, and keeps other readers out until he runs again."""
    m = the(vclock)
    readers: bool = vma.vm_refcnt > target - VMA_LOCK_OFFSET
    locked: bool = __vma_enter_locked_of_text(vma, target)
    if readers and locked:
        m.now += m.schedule + the(lock_costs).latency
    return locked


def at_places(protocol: Protocol) -> dict[Any, Any]:
    """What stands in for what a protocol does."""
    wrap: dict[Any, Any] = {mmap_write_lock_end: traced_lock, mmap_write_unlock_begin: traced_unlock}
    if release_number(protocol.release) >= 604:
        wrap[do_page_fault_try] = user_faults_only
    if protocol.binds.get(do_page_fault_try) in (spf_v11.handle_speculative_fault, spf_v12.do_user_addr_fault):
        wrap[do_page_fault_try] = multithreaded_only
    out = {protocol.binds[place]: f for place, f in wrap.items() if place in protocol.binds}
    if protocol.binds.get(do_page_fault_try) is vm_refcnt.do_user_addr_fault:
        out[vm_refcnt.__vma_enter_locked] = __vma_enter_locked
    return out


BINDS: dict[Any, Any] = {pgd_offset: read_pgd}
INSTEAD: dict[Any, Any] = {
    vma.__vma_link_rb: __vma_link_rb,
    fault.handle_mm_fault: handle_mm_fault,
    merge_6.commit_merge: commit_merge,
    mmap.detach_vmas_to_be_unmapped: detach_vmas_to_be_unmapped,
}
