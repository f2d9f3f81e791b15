"""Clocks and cache lines.  Kernel Python; what a real CPU does between two instructions, so no access here costs.

A task (a thread on a CPU of its own) runs until its clock has passed the smallest of the others', then gives way to
that one.  Times are ticks, `TICKS` of them a nanosecond.  A tournament tree over ``clock << KEY | task`` of all but the
running task says who is next; ties go to the lower number, so that a run is the same each time.

A line is owned by one CPU (exclusive or modified: MESI's E and M) or shared by those in its mask.  Transfers of one
line come one after the other; a plain store waits in the store buffer, which atomic operations and full barriers
drain.
"""

from __future__ import annotations

from seqfault.kernel import array, integer, pool_object, struct, the
from seqfault.kernel.task import NR_TASKS
from seqfault.kernel.types import Size
from seqfault.price.words import ahead, cell_of, set_current, stack_ahead, swap_stack

TICKS = 16
KEY = 12
NEVER = 1 << 62
NR_TREE = Size("NR_TREE", 2)  # twice the power of two that is not below NR_TASKS
NR_LINES = Size("NR_LINES", 64)
NR_MASKS = Size("NR_MASKS", 1)  # words of 32 tasks each

ticks_t = integer(0, 1 << 50)
key_t = integer(0, 1 << 62)
task_t = integer(0, NR_TASKS)
line_t = integer(0, NR_LINES - 1)
tree_t = integer(0, NR_TREE - 1)
mask_t = integer(0, (1 << 32) - 1)
cell_t = integer(0, (1 << 62) - 1)

READY, BLOCKED, SLEEPING, DONE = 0, 1, 2, 3


@struct(pool=1, private=True)
class vclock:
    """The running task and the machine: costs in ticks."""

    now: ticks_t  # of the running task
    limit: ticks_t  # the smallest clock of the others
    horizon: ticks_t  # limit + lookahead: how far hits in its own lines may run on
    lookahead: ticks_t
    me: task_t
    owner: integer(0, NR_TASKS + 1)  # me + 1
    until: key_t
    failed: integer(0, 1)
    crowded: bool  # fewer CPUs than tasks
    placed: task_t  # so many CPUs, on which threads are where they were recorded, or where none is; 0: each has its own
    tasks: task_t
    leaf: tree_t  # the tree's first leaf: a power of two, not below tasks
    masks: integer(0, NR_MASKS)
    switches: cell_t
    accesses: cell_t
    transfers: cell_t
    # -- costs
    hit: ticks_t
    store: ticks_t
    atomic: ticks_t
    fence: ticks_t
    memory: ticks_t
    near: ticks_t  # a line that another CPU of the node has modified
    far: ticks_t
    near_clean: ticks_t  # one that it has clean
    far_clean: ticks_t
    occupancy: ticks_t  # how long a clean line is busy with one reader
    smt: ticks_t  # a line of the other thread of one's core
    relax: ticks_t
    schedule: ticks_t  # a context switch
    slice: ticks_t  # how long a thread keeps a CPU that others want


@struct(pool=NR_TASKS, private=True)
class vcpu:
    """`running`: the thread that has it, plus one; `first`, `last`: of those that want it, linked by vtask.after."""

    running: task_t
    first: task_t
    last: task_t
    since: ticks_t


@struct(pool=NR_TASKS + 1, private=True)
class vtask:
    """A task; the last one is the caller of them all."""

    clock: ticks_t  # when it gave way
    drain: ticks_t  # when its store buffer is empty
    stolen: ticks_t  # by interrupts, not yet on its clock
    state: integer(0, 3)
    next: integer(0, NR_TASKS)  # behind it in a queue, plus one
    kind: integer(0, 3)
    granted: integer(0, 2)
    since: ticks_t
    waited: ticks_t  # for locks, all in all
    inside: ticks_t  # since when it is in an RCU section; 0: it is not
    node: integer(0, 4095)
    core: integer(0, 65535)
    cpu: task_t
    space: task_t  # its address space, where there are several
    after: integer(0, NR_TASKS)
    took: integer(0, 1)  # a semaphore for reading, since it was looked at last
    gave: integer(0, 2)  # 1: a fault gave speculation up since it was looked at last; 2: because something had changed
    gave_at: ticks_t
    owes: bool  # in a fault that has not come to handle_mm_fault yet
    asked: integer(0, NR_LINES)  # a line that it has asked for ahead, plus one
    asked_at: ticks_t  # when that one is there


@struct(pool=NR_TASKS + 1, private=True)
class vstack:
    """Each task's stack pointer: close to each other, so that finding the next task's stack takes no time."""

    sp: integer(-(1 << 63), (1 << 63) - 1)


@struct(pool=1, private=True)
class vtree:
    node: array[key_t, NR_TREE]


@struct(pool=NR_LINES, private=True)
class cache_line:
    """`owner`: who has it for himself, plus one.  `mask`: who has it too."""

    owner: integer(0, NR_TASKS + 1)
    busy: ticks_t
    shared: integer(0, NR_TASKS + 1)  # whose it was before it was shared, plus one; 0: untouched
    mask: array[mask_t, NR_MASKS]


# -- who runs
def tree_set(task: task_t, key: key_t) -> key_t:
    """Enter a task, or with NEVER take it out; the smallest of all.  All the way up: where to end early could not be
    foreseen by a processor, which costs it more."""
    t = the(vtree)
    j: tree_t = the(vclock).leaf + task
    t.node[j] = key
    while j > 1:
        key = min(key, t.node[j ^ 1])
        j = j >> 1
        t.node[j] = key
    return key


def go(mine: key_t):
    """Let the task run whose clock is smallest, the caller of `vt_resume` if that is too late.  `mine`: of the one that
    stops, which is not the smallest; NEVER: somebody will wake it."""
    m = the(vclock)
    key: key_t = the(vtree).node[1]
    was: task_t = m.me
    to: task_t = NR_TASKS
    if key < m.until and m.failed == 0:
        to = key & ((1 << KEY) - 1)
        m.now = key >> KEY
        next = pool_object(vtask, to)
        if next.stolen != 0:
            m.now += next.stolen
            next.stolen = 0
        limit: key_t = min(min(tree_set(to, NEVER), m.until), mine)
        if limit < m.until:
            then: task_t = min(limit & ((1 << KEY) - 1), NR_TASKS)  # probably the next one
            ahead(cell_of(pool_object(vtask, then).clock))
            stack_ahead(cell_of(pool_object(vstack, then).sp))
        m.limit = limit >> KEY
        m.horizon = m.limit + m.lookahead
        m.owner = to + 1
        set_current(to)
    if mine != NEVER:
        tree_set(was, mine)
    m.me = to
    if to != was:
        m.switches += 1
        swap_stack(cell_of(pool_object(vstack, was).sp), cell_of(pool_object(vstack, to).sp))


def vt_sync():
    """Nobody else is behind in time after this."""
    m = the(vclock)
    if m.now > m.limit:
        wait_turn()


def wait_turn():
    m = the(vclock)
    while m.now > m.limit:
        go(m.now << KEY | m.me)


def vt_delay(ticks: ticks_t):
    m = the(vclock)
    m.now += ticks


def vt_relax():
    """A turn of a loop that waits for another CPU."""
    m = the(vclock)
    m.now += m.relax
    vt_sync()


def vt_gave_up(why: integer(0, 2)):
    """A fault counts why it gives speculation up."""
    m = the(vclock)
    me = pool_object(vtask, m.me)
    me.gave = why
    me.gave_at = m.now


# -- CPUs, where there are fewer than threads.  In the kernel nobody is preempted, as without CONFIG_PREEMPT
def want_cpu(task: task_t, at: ticks_t) -> bool:
    """The CPU for a thread that becomes ready; False: it is queued for it."""
    if not the(vclock).crowded:
        return True
    t = pool_object(vtask, task)
    c = pool_object(vcpu, t.cpu)
    i: task_t = 0
    while c.running != 0 and i < the(vclock).placed:  # select_idle_sibling
        if pool_object(vcpu, i).running == 0:
            t.cpu = i
            c = pool_object(vcpu, i)
        i += 1
    if c.running == 0:
        c.running = task + 1
        c.since = at
        return True
    t.clock = max(t.clock, at)
    t.after = 0
    if c.first == 0:
        c.first = task + 1
    else:
        pool_object(vtask, c.last - 1).after = task + 1
    c.last = task + 1
    return False


def leave_cpu():
    """The next that wants it has it."""
    m = the(vclock)
    if not m.crowded:
        return
    c = pool_object(vcpu, pool_object(vtask, m.me).cpu)
    c.running = c.first
    if c.first != 0:
        next: task_t = c.first - 1
        t = pool_object(vtask, next)
        c.first = t.after
        at: ticks_t = max(m.now + m.schedule, t.clock)
        c.since = at
        tree_set(next, at << KEY | next)
        if at < m.limit:
            m.limit = at
            m.horizon = at + m.lookahead


def vt_preempt():
    """Back in user mode: is the slice over, and does anybody else want the CPU?"""
    m = the(vclock)
    if not m.crowded:
        return
    c = pool_object(vcpu, pool_object(vtask, m.me).cpu)
    if c.first != 0 and m.now >= c.since + m.slice:
        vt_sync()
        leave_cpu()
        if not want_cpu(m.me, m.now):
            go(NEVER)


def vt_migrate(cpu: task_t):
    """To another CPU, where that matters."""
    m = the(vclock)
    me = pool_object(vtask, m.me)
    if cpu >= m.placed or cpu == me.cpu:
        return
    vt_sync()
    leave_cpu()
    me.cpu = cpu
    if not want_cpu(m.me, m.now):
        go(NEVER)


def vt_block(state: integer(0, 3)):
    """Leave the run queue until `vt_wake`."""
    m = the(vclock)
    me = pool_object(vtask, m.me)
    me.clock = m.now
    me.since = m.now
    me.state = state
    if state == SLEEPING:
        leave_cpu()
    go(NEVER)
    me.waited += m.now - me.since


def vt_wake(task: task_t, at: ticks_t):
    m = the(vclock)
    t = pool_object(vtask, task)
    at = max(at, t.clock)
    slept = t.state == SLEEPING
    t.state = READY
    if slept and not want_cpu(task, at):
        return
    tree_set(task, at << KEY | task)
    if at < m.limit:
        m.limit = at
        m.horizon = at + m.lookahead


def vt_sleep(ticks: ticks_t):
    """Off the CPU for so long."""
    m = the(vclock)
    vt_sync()
    me = pool_object(vtask, m.me)
    me.state = SLEEPING
    leave_cpu()
    m.now += ticks
    vt_sync()
    me.state = READY
    if not want_cpu(m.me, m.now):
        go(NEVER)


def vt_rouse(task: task_t):
    """One that sleeps (`vt_sleep`) goes on now."""
    m = the(vclock)
    if pool_object(vtask, task).state == SLEEPING:
        tree_set(task, m.now << KEY | task)
        if m.now < m.limit:
            m.limit = m.now
            m.horizon = m.now + m.lookahead


# -- entries
def vt_resume(until: ticks_t):
    """Run all tasks until nobody's clock is below `until`."""
    m = the(vclock)
    m.until = until << KEY
    m.me = NR_TASKS
    go(NEVER)


def vt_finish(status: integer(0, 1)):
    """The end of a task."""
    m = the(vclock)
    if status != 0:
        m.failed = 1
    me = pool_object(vtask, m.me)
    me.clock = m.now
    me.state = DONE
    leave_cpu()
    go(NEVER)


def vt_init(tasks: task_t, leaf: tree_t):
    """Nobody runs: `vt_start` each."""
    m = the(vclock)
    m.tasks = tasks
    m.leaf = leaf
    m.masks = (tasks + 31) >> 5
    m.me = NR_TASKS
    for i in range(2 * leaf):
        the(vtree).node[i] = NEVER


def vt_start(task: task_t, at: ticks_t):
    pool_object(vtask, task).state = READY
    if want_cpu(task, at):
        tree_set(task, at << KEY | task)


# -- lines
def between(a: task_t, b: task_t, clean: bool) -> ticks_t:
    """What a line costs that `a` has and `b` wants."""
    m = the(vclock)
    x = pool_object(vtask, a)
    y = pool_object(vtask, b)
    if x.core == y.core:
        return m.smt
    if x.node == y.node:
        return m.near_clean if clean else m.near
    return m.far_clean if clean else m.far


def vt_read(line: line_t):
    m = the(vclock)
    ln = pool_object(cache_line, line)
    m.accesses += 1
    if ln.owner == m.owner and m.now <= m.horizon:
        m.now += m.hit
        return
    read_slow(line)


def read_slow(line: line_t):
    m = the(vclock)
    ln = pool_object(cache_line, line)
    me: task_t = m.me
    mine: mask_t = 1 << (me & 31)
    if ln.owner == 0 and ln.mask[me >> 5] & mine != 0 and m.now <= m.horizon:
        m.now += m.hit
        return
    vt_sync()
    was: integer(0, NR_TASKS + 1) = ln.owner
    m.now += m.hit
    if was == me + 1:
        return
    if was != 0:
        ln.busy = max(m.now, ln.busy) + between(was - 1, me, False)
        m.now = ln.busy
        m.transfers += 1
        vt_sync()  # it is read when it comes
        share(line, me)
        return
    if ln.shared == 0:
        m.now += m.memory
        ln.owner = me + 1
        return
    if ln.mask[me >> 5] & mine != 0:
        return
    start: ticks_t = max(m.now, ln.busy)
    ln.busy = start + m.occupancy
    m.now = start + between(ln.shared - 1, me, True)
    m.transfers += 1
    ln.mask[me >> 5] = ln.mask[me >> 5] | mine


def share(line: line_t, me: task_t):
    """One more has it, and whoever had it for himself keeps it."""
    ln = pool_object(cache_line, line)
    was: integer(0, NR_TASKS + 1) = ln.owner
    if was != 0:
        ln.owner = 0
        ln.shared = was
        ln.mask[(was - 1) >> 5] = 1 << ((was - 1) & 31)
    ln.mask[me >> 5] = ln.mask[me >> 5] | 1 << (me & 31)


def claim(line: line_t) -> ticks_t:
    """When a line that one wants for oneself is there.  Those who came before are served before."""
    m = the(vclock)
    ln = pool_object(cache_line, line)
    was: integer(0, NR_TASKS + 1) = ln.owner
    me: task_t = m.me
    if was == me + 1:
        return m.now
    at: ticks_t = max(m.now, ln.busy)
    if was != 0:
        at += between(was - 1, me, False)
        m.transfers += 1
    elif ln.shared == 0:
        at += m.memory
    else:
        far: integer(0, 2) = who_shares(line, me)
        if far != 0:
            at += m.far_clean if far == 2 else m.near_clean
            m.transfers += 1
    ln.busy = at
    return at


def who_shares(line: line_t, me: task_t) -> integer(0, 2):
    """Who is told, and answers: the farthest decides.  0: nobody else has it, 1: of this node, 2: of others."""
    ln = pool_object(cache_line, line)
    node: integer(0, 4095) = pool_object(vtask, me).node
    found: integer(0, 2) = 0
    for w in range(the(vclock).masks):
        rest: mask_t = ln.mask[w]
        if w == me >> 5:
            rest = rest & ~(1 << (me & 31))
        i: task_t = min(w << 5, NR_TASKS)
        while rest != 0:
            if rest & 1:
                found = max(found, 1)
                if pool_object(vtask, i).node != node:
                    return 2
            rest = rest >> 1
            if rest != 0:
                i += 1
    return found


def vt_write(line: line_t):
    m = the(vclock)
    ln = pool_object(cache_line, line)
    m.accesses += 1
    if ln.owner == m.owner and m.now <= m.horizon:
        m.now += m.store
        return
    write_slow(line)


def write_slow(line: line_t):
    m = the(vclock)
    vt_sync()
    at: ticks_t = claim(line)
    own(line, m.owner)
    me = pool_object(vtask, m.me)
    me.drain = max(me.drain, at)
    m.now += m.store


def vt_rmw(line: line_t):
    m = the(vclock)
    vt_sync()
    m.accesses += 1
    m.now = max(m.now, pool_object(vtask, m.me).drain)
    if comes(line):
        m.now += m.atomic
        return
    at: ticks_t = claim(line)
    if at != m.now:
        m.now = at
        vt_sync()  # it is changed when it comes
        own(line, m.owner)
    m.now += m.atomic
    pool_object(cache_line, line).owner = m.owner


def vt_prefetch(line: line_t):
    """prefetchw: the line comes while the CPU goes on, unless it is on its way already."""
    m = the(vclock)
    vt_sync()
    me = pool_object(vtask, m.me)
    if pool_object(cache_line, line).owner == m.owner or (me.asked == line + 1 and m.now < me.asked_at):
        return
    me.asked = line + 1
    me.asked_at = claim(line)
    own(line, m.owner)


def comes(line: line_t) -> bool:
    """Whether a line that was asked for ahead is still on its way.  It is used when it comes, whoever wants it next."""
    m = the(vclock)
    me = pool_object(vtask, m.me)
    if me.asked != line + 1:
        return False
    me.asked = 0
    if m.now > me.asked_at:
        return False
    m.now = me.asked_at
    vt_sync()
    return True


def vt_read_ahead(line: line_t):
    """A read of a line that may have been asked for ahead."""
    if not comes(line):
        vt_read(line)


def vt_fence():
    m = the(vclock)
    m.now = max(m.now, pool_object(vtask, m.me).drain) + m.fence


def vt_touch(line: line_t):
    """An access inside a step that nobody can come into."""
    m = the(vclock)
    m.accesses += 1
    m.now += m.hit


def vt_tree(line: line_t):
    """A store to a node that holds many of the model's cells: only the first costs."""
    m = the(vclock)
    ln = pool_object(cache_line, line)
    if ln.owner != m.owner:
        m.accesses += 1
        m.now = claim(line) + m.store
        own(line, m.owner)


def vt_fresh(line: line_t, n: integer(0, 4096)):
    """An object that the CPU's own free list had: its lines are at hand."""
    for i in range(line, min(line + n, NR_LINES)):
        own(i, the(vclock).owner)
        pool_object(cache_line, i).busy = 0


def own(line: line_t, owner: integer(0, NR_TASKS + 1)):
    ln = pool_object(cache_line, line)
    if ln.owner == 0 and ln.shared != 0:
        for w in range(the(vclock).masks):
            ln.mask[w] = 0
    ln.owner = owner


def hand_over(line: line_t, task: task_t) -> ticks_t:
    """The line goes to a waiter, who has been reading it; when it is there."""
    m = the(vclock)
    ln = pool_object(cache_line, line)
    at: ticks_t = max(m.now, ln.busy) + between(m.me, task, False)
    m.transfers += 1
    own(line, task + 1)
    ln.busy = at
    return at
