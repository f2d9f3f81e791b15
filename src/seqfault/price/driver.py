"""What each task does: steps of a workload, or of a recording, over and over.  Kernel Python.

A step is an operation of the mm text with numbers; its arguments may be registers, which hold pages.
"""

from __future__ import annotations

from typing import Any

from seqfault.kernel import NULL, array, integer, pool_object, ptr, struct, the
from seqfault.kernel.task import NR_TASKS, rcu_callback
from seqfault.kernel.types import Size
from seqfault.mm import types, x86_fault
from seqfault.mm.advice import do_madvise
from seqfault.mm.cpu import user_access
from seqfault.mm.filemap import mm_init
from seqfault.mm.madvise import sys_madvise
from seqfault.mm.mlock import do_mlock, do_mlockall, do_munlock, do_munlockall
from seqfault.mm.mremap import do_mremap
from seqfault.mm.mseal import do_mseal
from seqfault.mm.msync import do_msync
from seqfault.mm.opcodes import MADV_DONTNEED, MREMAP_FIXED, PAGE_SIZE
from seqfault.mm.populate import mm_populate
from seqfault.mm.syscalls import sys_brk, sys_mmap, sys_mprotect, sys_munmap
from seqfault.mm.types import (
    ENOMEM,
    NR_FILES,
    NR_MMS,
    NR_PAGES,
    VM_LOCKED,
    VM_LOCKONFAULT,
    brk_t,
    current_mm,
    file,
    mm_struct,
    s64,
    signal_t,
    vpn_t,
)
from seqfault.mm.x86_fault import do_page_fault as do_page_fault_of_text
from seqfault.price.clock import (
    TICKS,
    task_t,
    ticks_t,
    vclock,
    vt_migrate,
    vt_preempt,
    vt_sleep,
    vt_sync,
    vtask,
)
from seqfault.price.locks import callback_due
from seqfault.price.mapping import mapping_costs, more_than_usual, prefetch_mmap_sem, user_access_of
from seqfault.price.memory import my_batches
from seqfault.price.waits import it_is_so, wait_for

NR_STEPS = Size("NR_STEPS", 16)
NR_DRAWS = Size("NR_DRAWS", 16)
NR_MAPS = Size("NR_MAPS", 16)
NR_PLACES = Size("NR_PLACES", 1)
NR_RECENT = 1024  # operations that are remembered; who began before is too long ago to be the one that a fault met
NR_REGS = 64
DO_END, DO_THINK, DO_MMAP, DO_MUNMAP, DO_TOUCH, DO_PROTECT, DO_ADVISE, DO_REMAP, DO_UNIT, DO_SLEEP = range(10)
DO_RANDOM, DO_AT, DO_UNTIL, DO_STOP, DO_POST, DO_WAIT, DO_CPU, DO_LOCKALL, DO_BRK, DO_WHERE = range(10, 20)
DO_LOCK, DO_SYNC, DO_SEAL, DO_POPULATE, DO_MARK, DO_MEET, DO_WOKEN = range(20, 27)
UNLOCK, LOCK, LOCK_ON_FAULT = 0, 1, 2  # of DO_LOCK, in d
# what threads wait for: a mapping's place, a mark, and a thread that was made or is over
BASE, MARK, POSTED = 1, 1 + NR_MAPS, 1 + 2 * NR_MAPS
LATE = 20_000 * TICKS  # a thread that was made begins so much later at most, by its seed
# of DO_TOUCH, in d; from bit MORE on what the fault takes beyond the usual
WRITE, COUNTED, BY_KERNEL, MORE = 1, 2, 4, 8
NR_KINDS, NR_BUCKETS = 16, 512  # kinds of operation; durations, eight to an octave
FAULT, MMAP, MUNMAP, MPROTECT, MADVISE, MREMAP, BRK, MLOCK, MSYNC, MSEAL = range(10)
big_t = integer(0, (1 << 62) - 1)
step_t = integer(0, NR_STEPS)
kind_t = integer(0, NR_KINDS - 1)


@struct(pool=NR_STEPS, private=True)
class step:
    """`op`: DO_...; a: a register mostly, from NR_REGS on a mapping that all threads know; `place`: of the program."""

    op: integer(0, 31)
    a: s64
    b: s64
    c: s64
    d: s64
    place: integer(0, NR_PLACES - 1)


@struct(pool=1, private=True)
class recorded:
    """`base`: where the mappings are that all threads know, plus one; 0: not there yet.  `mark`: when one was made or,
    by brk, about to be made; or when a thread had let another one go on.  `writer`: which place of the program changed
    each address space last; `blame`: how many faults took mmap_sem after it.  `moved`: how many of them had speculated
    and gave up because something had changed, by the place that was at it, and `moved_for`: how long they took; `vain`,
    `vain_for`: of these, those whose page nobody was at.  `kept`, `kept_for`: how many waited, and how long."""

    base: array[s64, NR_MAPS]
    mark: array[ticks_t, NR_MAPS]
    writer: array[integer(0, NR_PLACES - 1), NR_MMS]
    blame: array[integer(0, 1 << 60), NR_PLACES]
    locked: integer(0, 1 << 60)
    moved: array[big_t, NR_PLACES]
    moved_for: array[big_t, NR_PLACES]
    vain: array[big_t, NR_PLACES]
    vain_for: array[big_t, NR_PLACES]
    kept: array[big_t, NR_PLACES]
    kept_for: array[big_t, NR_PLACES]


@struct(pool=NR_RECENT, private=True)
class recent:
    """An operation: its pages, when it began and when it was over (0: not yet), by whom, from which place."""

    start: s64
    end: s64
    began: ticks_t
    over: ticks_t
    task: integer(0, NR_TASKS)
    place: integer(0, NR_PLACES - 1)


@struct(pool=1, private=True)
class posted:
    """Which tasks have been made by another one, and from NR_TASKS on which have come to their end."""

    it: array[bool, 2 * NR_TASKS]


@struct(pool=1, private=True)
class undivided:
    """Until when the task might run, which is in a step that nobody comes into."""

    limit: ticks_t
    horizon: ticks_t


@struct(pool=1, private=True)
class remembered:
    next: integer(0, NR_RECENT - 1)


@struct(pool=NR_TASKS + 1, private=True)
class program:
    """`first`: its steps until DO_END; `units`: what it got done; a seed of its own."""

    first: step_t
    units: big_t
    seed: integer(0, (1 << 31) - 1)
    failed: big_t
    kept: integer(0, (1 << 32) - 1)  # registers whose mappings are made once
    reg: array[s64, NR_REGS]


@struct(pool=NR_KINDS, private=True)
class op_stats:
    n: big_t
    ns: big_t
    waited: big_t
    failed: big_t
    bucket: array[big_t, NR_BUCKETS]


@struct(pool=1, private=True)
class driver_costs:
    """`began`: what is counted begins then."""

    fault: ticks_t
    syscall: ticks_t
    began: ticks_t
    error: s64


def my_space() -> integer(0, NR_MMS - 1):
    return min(pool_object(vtask, the(vclock).me).space, NR_MMS - 1)


def current_mm_timed() -> ptr[mm_struct]:
    """current->mm of the task whose turn it is."""
    return pool_object(mm_struct, my_space())


def bucket_of(v: ticks_t) -> integer(0, NR_BUCKETS - 1):
    if v < 8:
        return v
    b: integer(0, 63) = 0
    x: ticks_t = v
    while x >= 16:
        x = x >> 1
        b += 1
    return b * 8 + x


def note(kind: kind_t, began: ticks_t, waited: ticks_t):
    m = the(vclock)
    if began < the(driver_costs).began:
        return
    s = pool_object(op_stats, kind)
    s.n += 1
    took: ticks_t = m.now - began
    s.ns += took
    s.waited += pool_object(vtask, m.me).waited - waited
    i = bucket_of(took)
    s.bucket[i] += 1


def run_callbacks():
    """What RCU's softirq does at the end of an interrupt or a system call; then back to user mode."""
    arg: integer(0, 1 << 33) = callback_due()
    while arg != 0:
        rcu_callback(arg - 1)
        arg = callback_due()
    vt_preempt()


def met(address: vpn_t, began: ticks_t, until: ticks_t) -> integer(-1, NR_RECENT * 2):
    """Which operation a fault met: one that is about its page, else the latest; twice its number, and 1 in the first
    case; -1: none.  Processes meet nobody in their address spaces."""
    if NR_MMS > 1:
        return -1
    me: s64 = the(vclock).me
    best: s64 = -1
    hit: bool = False
    latest: ticks_t = 0
    i: s64 = 0
    while i < NR_RECENT:
        r = pool_object(recent, i)
        if r.began != 0 and r.task != me and r.began <= until and (r.over == 0 or r.over >= began):
            at_it: bool = r.start <= address and address < r.end
            if (at_it and not hit) or (at_it == hit and r.began >= latest):
                best = i
                latest = r.began
                hit = at_it
        i += 1
    if best < 0:
        return -1
    return best * 2 + (1 if hit else 0)


def place_of(found: integer(-1, NR_RECENT * 2)) -> integer(0, NR_PLACES - 1):
    if found < 0:
        return 0
    return pool_object(recent, found >> 1).place


def blame(address: vpn_t, began: ticks_t, waited: ticks_t):
    """Lay to the program's places what a fault that took mmap_sem met."""
    m = the(vclock)
    task = pool_object(vtask, m.me)
    rec = the(recorded)
    rec.locked += 1
    w = rec.writer[my_space()]
    rec.blame[w] += 1
    if task.gave == 2:
        found: integer(-1, NR_RECENT * 2) = met(address, began, task.gave_at)
        p = place_of(found)
        rec.moved[p] += 1
        rec.moved_for[p] += m.now - began
        if found >= 0 and found & 1 == 0:
            rec.vain[p] += 1
            rec.vain_for[p] += m.now - began
    if task.waited > waited and w != 0:  # a workload has no places that one could name
        q = place_of(met(address, began, m.now))
        rec.kept[q] += 1
        rec.kept_for[q] += task.waited - waited


def begin_instruction():
    """What a CPU does for one access of user code, it does at once: it sets the dirty bit only if the entry still is
    what it saw."""
    m = the(vclock)
    vt_sync()
    u = the(undivided)
    u.limit = m.limit
    u.horizon = m.horizon
    m.limit = 1 << 50
    m.horizon = 1 << 50


def end_instruction():
    m = the(vclock)
    m.limit = the(undivided).limit
    m.horizon = the(undivided).horizon


def do_page_fault(mm: ptr[mm_struct], address: vpn_t, write: bool) -> signal_t:
    """An exception ends the instruction, which is begun again afterwards."""
    end_instruction()
    m = the(vclock)
    began: ticks_t = m.now
    waited: ticks_t = pool_object(vtask, m.me).waited
    task = pool_object(vtask, m.me)
    task.took = 0
    task.gave = 0
    task.owes = True
    m.now += the(driver_costs).fault + the(mapping_costs).traced_fault
    prefetch_mmap_sem()
    signal: signal_t = do_page_fault_of_text(mm, address, write)
    if task.owes:  # no handle_mm_fault
        task.owes = False
        m.now += the(mapping_costs).fault_inside + the(mapping_costs).traced_account + more_than_usual()
    io: ticks_t = my_batches().io
    if io != 0:
        my_batches().io = 0
        vt_sleep(io)
    if task.took != 0:
        m.now += 3 * the(mapping_costs).traced_lock
        if began >= the(driver_costs).began:
            blame(address, began, waited)
    note(FAULT, began, waited)
    run_callbacks()
    begin_instruction()
    return signal


def random(p: ptr[program], most: s64) -> s64:
    """1 .. most"""
    p.seed = (p.seed * 1103515245 + 12345) & ((1 << 31) - 1)
    return (p.seed >> 8) * most // (1 << 23) + 1


def map_file(c: s64, task: s64) -> ptr[file]:
    """0: none; 1: the task's own, shared memory; 2: file 0, for all; 3: the one on disk."""
    if c == 0:
        return NULL
    if c == 1:
        return pool_object(file, (task + 1) % (NR_FILES - 1))
    if c == 3:
        return pool_object(file, NR_FILES - 1)
    return pool_object(file, 0)


def base_of(p: ptr[program], a: s64) -> s64:
    """Where a mapping is; waits a while for one that another thread is to make."""
    if a < NR_REGS:
        return p.reg[a & (NR_REGS - 1)]
    rec = the(recorded)
    if rec.base[a - NR_REGS] == 0:
        vt_sync()  # who is behind may make it
        if rec.base[a - NR_REGS] == 0:
            wait_for(BASE + a - NR_REGS)
    return rec.base[a - NR_REGS] - 1


def note_base(number: s64, at: s64):
    """Where mapping `number` is; nobody waits for one that could not be made."""
    rec = the(recorded)
    rec.base[number] = at + 1 if at >= 0 else NR_PAGES + 2
    it_is_so(BASE + number)
    if rec.mark[number] == 0:
        rec.mark[number] = the(vclock).now
        it_is_so(MARK + number)


def touch_pages(p: ptr[program], start: s64, n: s64, write: bool, counted: bool) -> s64:
    mm = current_mm()
    i: s64 = start
    while i < start + n and i < NR_PAGES:
        begin_instruction()
        done: bool = user_access(mm, i, write, 0) > -1000
        end_instruction()
        if not done:
            return -1
        if counted:
            p.units += 1
        i += 1
    return 0


def move_break(s: ptr[step]) -> s64:
    """b: the break, in bytes from the heap's start (-1: ask for it); c: the mapping that the part becomes which it
    grew by, and d: its first page there."""
    start: brk_t = current_mm().start_brk
    want: s64 = s.d
    if want < 0:
        sys_brk(0)
        return 0
    brk: brk_t = start + s.b
    r: s64 = start // PAGE_SIZE + want
    if sys_brk(brk) != brk:
        r = -ENOMEM
    note_base(s.c, r)
    return r


def lock_pages(start: vpn_t, end: vpn_t, how: s64) -> s64:
    if how == UNLOCK:
        return do_munlock(start, end)
    return do_mlock(start, end, VM_LOCKED if how == LOCK else VM_LOCKED | VM_LOCKONFAULT)


def run_step(p: ptr[program], s: ptr[step], task: s64):
    m = the(vclock)
    k = the(driver_costs)
    began: ticks_t = m.now
    waited: ticks_t = pool_object(vtask, task).waited
    op = s.op
    kind: kind_t = MMAP
    r: s64 = 0
    at: s64 = 0
    if (op <= DO_REMAP and op >= DO_MMAP) or op >= DO_BRK:
        if op != DO_MMAP or s.d >> 40 & 1 != 0:
            at = base_of(p, s.a)
            began = m.now
        if at < 0 or at > NR_PAGES:
            p.failed += 1
            return
    n: s64 = s.b
    if n < 0:
        n = max(p.reg[-n & (NR_REGS - 1)], 0)
    if op == DO_TOUCH:
        the(user_access_of).kernel[task] = s.d & BY_KERNEL != 0
        the(user_access_of).more[task] = s.d >> MORE
        if touch_pages(p, min(at + s.c, NR_PAGES), n, s.d & WRITE != 0, s.d & COUNTED != 0) != 0:
            p.failed += 1
        return
    if op == DO_THINK:
        m.now += n
        return
    if op == DO_UNIT:
        p.units += n
        return
    if op == DO_RANDOM:
        p.reg[s.a & (NR_REGS - 1)] = random(p, n)
        return
    if op == DO_SLEEP:
        vt_sleep(n)
        return
    if op == DO_AT:
        p.reg[s.a & (NR_REGS - 1)] = n
        return
    if op == DO_WHERE:
        p.reg[0] = at + s.c
        return
    if op == DO_POPULATE:  # a part of a call that is no step of its own
        m.now += k.syscall
        mm_populate(current_mm(), min(at + s.c, NR_PAGES), n)
        run_callbacks()
        return
    if op == DO_MMAP and s.d >> 48 != 0 and p.kept & 1 << (s.a & 31) != 0:
        return
    m.now += k.syscall + the(mapping_costs).traced_call
    if op != DO_ADVISE and op != DO_SYNC:
        m.now += the(mapping_costs).traced_lock  # mmap_lock_start_locking
    rec = the(recorded)
    if op != DO_SYNC:
        rec.writer[my_space()] = s.place
    mind = pool_object(recent, the(remembered).next)
    the(remembered).next = (the(remembered).next + 1) & (NR_RECENT - 1)
    mind.start = at
    if op != DO_MMAP and op != DO_BRK:
        mind.start = at + s.c
    mind.end = mind.start + n
    if op == DO_BRK:
        mind.end = at
    if op == DO_LOCKALL:
        mind.end = NR_PAGES
    if op == DO_MMAP and s.d >> 40 & 1 == 0:
        mind.end = 0  # nobody can be waiting for the pages of a mapping to come
    mind.began = began
    mind.over = 0
    mind.task = task
    mind.place = s.place
    if op == DO_MMAP:
        # c: file, d: protection | flags << 8 | address given << 40 | only once << 48
        f = map_file(s.c, task)
        p.kept = p.kept | 1 << (s.a & 31)
        hint: vpn_t = at if s.d >> 40 & 1 != 0 else 0
        r = sys_mmap(hint, n, s.d & 7, s.d >> 8 & 0xFFFFFF, f, 0)
        if s.a < NR_REGS:
            p.reg[s.a & (NR_REGS - 1)] = r
        else:
            note_base(s.a - NR_REGS, r)
    elif op == DO_MUNMAP:
        kind = MUNMAP
        r = sys_munmap(min(at + s.c, NR_PAGES), n)
    elif op == DO_PROTECT:
        kind = MPROTECT
        r = sys_mprotect(min(at + s.c, NR_PAGES), n, s.d)
    elif op == DO_ADVISE:
        kind = MADVISE
        if s.d == MADV_DONTNEED:
            r = sys_madvise(min(at + s.c, NR_PAGES), n)
        else:
            r = do_madvise(min(at + s.c, NR_PAGES), min(at + s.c + n, NR_PAGES), s.d)
    elif op == DO_REMAP:
        # d: new length | flags << 32 | the mapping that it becomes << 40; register 0 has the new address
        kind = MREMAP
        to: vpn_t = p.reg[0] if s.d >> 32 & MREMAP_FIXED != 0 else 0
        r = do_mremap(min(at + s.c, NR_PAGES), n, s.d & (1 << 32) - 1, s.d >> 32 & 7, to)
        note_base(s.d >> 40, r)
    elif op == DO_BRK:
        kind = BRK
        r = move_break(s)
    elif op == DO_LOCK:
        kind = MLOCK
        r = lock_pages(min(at + s.c, NR_PAGES), min(at + s.c + n, NR_PAGES), s.d)
    elif op == DO_LOCKALL:
        kind = MLOCK  # d: MCL_...; 0: munlockall
        r = do_mlockall(s.d) if s.d != 0 else do_munlockall()
    elif op == DO_SYNC:
        kind = MSYNC
        r = do_msync(min(at + s.c, NR_PAGES), min(at + s.c + n, NR_PAGES), s.d)
    elif op == DO_SEAL:
        kind = MSEAL
        r = do_mseal(min(at + s.c, NR_PAGES), min(at + s.c + n, NR_PAGES))
    if r < 0:
        p.failed += 1
        pool_object(op_stats, kind).failed += 1
        k.error = r
    if mind.began == began and mind.task == task:  # else its place was taken by a later one
        mind.over = m.now
    note(kind, began, waited)
    run_callbacks()


def price_main():
    m = the(vclock)
    me: s64 = m.me
    p = pool_object(program, m.me)
    i: step_t = p.first
    while True:
        s = pool_object(step, i)
        i += 1
        if s.op == DO_END:
            i = p.first
            vt_sync()
        elif s.op == DO_STOP:
            vt_sync()
            the(posted).it[NR_TASKS + me] = True
            it_is_so(POSTED + NR_TASKS + me)
            return
        elif s.op == DO_CPU:
            vt_migrate(s.b)
        elif s.op == DO_POST:
            vt_sync()
            the(posted).it[s.b] = True
            it_is_so(POSTED + s.b)
        elif s.op == DO_WAIT:
            vt_sync()
            at: s64 = s.b + (NR_TASKS if s.c != 0 else 0)
            if s.c == 0 and not the(posted).it[at]:
                wait_for(POSTED + at)
                vt_sleep(random(p, LATE))
            while not the(posted).it[at]:
                wait_for(POSTED + at)
        elif s.op == DO_MARK:
            vt_sync()
            the(recorded).mark[s.b] = m.now
            it_is_so(MARK + s.b)
        elif s.op == DO_MEET:
            vt_sync()
            if the(recorded).mark[s.b] == 0:
                wait_for(MARK + s.b)
            when: ticks_t = the(recorded).mark[s.b] + s.c
            if m.now < when:
                vt_sleep(when - m.now)
        elif s.op == DO_WOKEN:
            vt_sync()
            if the(recorded).mark[s.b] == 0:
                wait_for(MARK + s.b)
                vt_sleep(s.c)
        elif s.op == DO_UNTIL:
            vt_sync()
            if m.now < s.b:
                vt_sleep(s.b - m.now)
        else:
            run_step(p, s, me)


# -- before the tasks begin: by their caller, whom nobody can disturb
def undisturbed():
    m = the(vclock)
    m.limit = 1 << 50
    m.horizon = 1 << 50
    m.owner = NR_TASKS + 1
    m.me = NR_TASKS


def price_init(files: s64, pages: s64):
    undisturbed()
    mm_init()
    for i in range(min(files, NR_FILES)):
        f = pool_object(file, i)
        f.f_count = 1
        f.f_mode = 3
        f.shmem = i != NR_FILES - 1
        f.i_size = pages


def price_setup(k: s64, space: task_t):
    """Perform step `k` for the last program, in address space `space`."""
    undisturbed()
    pool_object(vtask, NR_TASKS).space = space
    run_step(pool_object(program, NR_TASKS), pool_object(step, k), NR_TASKS)


INSTEAD: dict[Any, Any] = {x86_fault.do_page_fault: do_page_fault, types.current_mm: current_mm_timed}
