"""The two processes of a program: process 0 runs it, process 1 is its child and takes commands."""

from __future__ import annotations

from seqfault.compile.raw import load8, load32, load64, store32, store64, syscall6
from seqfault.kernel import ptr
from seqfault.live.abi import (
    B_TIME,
    BLOCK_1,
    C_ARG,
    C_ASK_VMAS,
    C_DETAIL,
    C_DETAIL_WORDS,
    C_DONE,
    C_KIND,
    C_LOST,
    C_RESULT,
    C_ROW,
    C_SEQ,
    C_VECTOR,
    C_WORDS,
    DETAIL_1,
    EXIT_FULL,
    EXIT_LOST,
    H_OFFSETS,
    H_ROWS,
    H_STREAM,
    H_STREAM_USED,
    H_STREAM_WORDS,
    H_TICKS,
    H_TIMEOUT_MS,
    HAS_DETAIL,
    HAS_VECTOR,
    K_EXIT,
    K_OBSERVE,
    K_PERFORM,
    ROW_WORDS,
    SCRATCH_0,
    SHARED_BASE,
    VECTOR,
)
from seqfault.live.text.calls import (
    EAGAIN,
    EINTR,
    NR_FORK,
    NR_GETCPU,
    NR_KILL,
    NR_PRCTL,
    PR_SET_PDEATHSIG,
    SIGKILL,
    STAY,
    WNOHANG,
    call1,
    call2,
    call3,
    copy_words,
    exit_group,
    futex_wait,
    futex_wake,
    header,
    reap,
    set_affinity,
    set_header,
    set_time,
)
from seqfault.live.text.details import details, note_totals
from seqfault.live.text.observe import observe, open_own
from seqfault.live.text.perform import perform
from seqfault.live.text.reach import ask_for, reach
from seqfault.live.text.state import ALL, runner, scratch
from seqfault.live.text.ticking import tick, tick_to
from seqfault.mm.opcodes import ABSENT, OP_EXIT, OP_FORK, OP_MAP_COUNT, OP_START

SHORT = 32  # rows: in so short a program all VMAs are looked at after each
PATIENCE_MS = 100  # between two looks at whether process 1 is still there


# -- process 1
def act(s: ptr[runner], row: int):
    """Perform an operation of this process, and note which of its VMAs that may have changed."""
    result = perform(s, row)
    store64(C_RESULT, result)
    what, low, high = reach(row, result)
    ask_for(s, what, low, high)


def second_process(s: ptr[runner]):
    """Serve commands until the one to exit."""
    s.who = 1
    syscall6(NR_PRCTL, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0)
    open_own(s)
    set_time(scratch(s) + B_TIME, 1000)
    while True:
        while load32(C_SEQ) == s.seq:
            futex_wait(C_SEQ, s.seq, scratch(s) + B_TIME)
        s.seq = load32(C_SEQ)
        kind = load64(C_KIND)
        if kind == K_EXIT:
            exit_group(0)
        if kind == K_PERFORM:
            act(s, load64(C_ARG))
        if load64(C_ASK_VMAS):
            ask_for(s, ALL, 0, 0)
        end = observe(s, BLOCK_1)
        store64(C_WORDS, (end - BLOCK_1) // 8)
        if load64(C_DETAIL):
            store64(C_DETAIL_WORDS, (details(s, DETAIL_1) - DETAIL_1) // 8)
        store32(C_DONE, s.seq)
        futex_wake(C_DONE)


# -- process 0 and its child
def lost(s: ptr[runner], status: int):
    """Process 1 died, or does not answer: the program ends here, and the master says so."""
    store64(C_LOST, 1 << 32 | status)
    if s.child > 0:
        call2(NR_KILL, s.child, SIGKILL)
    exit_group(EXIT_LOST)


def send(s: ptr[runner], kind: int, arg: int):
    """A command to process 1."""
    store64(C_KIND, kind)
    store64(C_ARG, arg)
    s.seq = (s.seq + 1) & 0x7FFFFFFF
    store32(C_SEQ, s.seq)
    futex_wake(C_SEQ)


def wait_done(s: ptr[runner]):
    """Until process 1 has done what it was told."""
    at = scratch(s) + B_TIME
    waited = 0
    done = load32(C_DONE)
    while done != s.seq:
        set_time(at, PATIENCE_MS)
        r = futex_wait(C_DONE, done, at)
        if r < 0 and load32(C_DONE) == done:
            status = scratch(s)
            if r != EAGAIN and r != EINTR:
                waited += PATIENCE_MS
            if reap(s.child, status, WNOHANG) != 0:
                lost(s, load32(status))
            if waited > header(H_TIMEOUT_MS):
                lost(s, EXIT_LOST << 8)
        done = load32(C_DONE)


def do_fork(s: ptr[runner]) -> int:
    if s.child:
        return ABSENT
    pid = call1(NR_FORK, 0)
    if pid == 0:
        second_process(s)
    if pid < 0:
        return pid
    s.child = pid
    return 0


def do_exit(s: ptr[runner]) -> int:
    """Process 1 exits; when this returns, nothing of it is left."""
    if s.child == 0:
        return ABSENT
    send(s, K_EXIT, 0)
    reap(s.child, scratch(s), 0)
    s.child = 0
    return 0


def step(s: ptr[runner], row: int, number: int, everything: bool, out: int) -> int:
    """Perform row `number` of a program and write its record at `out`; returns the address after it.  `everything`:
    whether all VMAs are looked at, or those that the operation can have changed."""
    op = load64(row)
    who = load64(row + 8)
    detail = s.detail_every != 0 and number % s.detail_every == 0 and not s.crowded
    if op == OP_MAP_COUNT and who == 0:
        detail = False
    result = ABSENT
    answered = False
    store64(C_VECTOR, -1)
    store64(C_DETAIL, 1 if detail else 0)
    store64(C_ASK_VMAS, 1 if everything else 0)
    if everything:
        ask_for(s, ALL, 0, 0)
    tick(s)
    if op == OP_START:
        result = 0
    elif op == OP_FORK:
        if who == 0:
            result = do_fork(s)
    elif op == OP_EXIT:
        if who == 1:
            result = do_exit(s)
    elif who == 0:
        act(s, row)
        result = load64(C_RESULT)
    elif who == 1 and s.child:
        send(s, K_PERFORM, row)
        wait_done(s)
        result = load64(C_RESULT)
        answered = True
    tick_to(s, H_TICKS)
    mask = 1
    store64(out, result)
    end = observe(s, out + 16)
    if s.child:
        mask |= 2
        if not answered:
            tick(s)
            send(s, K_OBSERVE, 0)
            wait_done(s)
            tick_to(s, H_TICKS + 3)
        copy_words(end, BLOCK_1, load64(C_WORDS))
        end += 8 * load64(C_WORDS)
    n = load64(C_VECTOR)
    if n >= 0:
        mask |= HAS_VECTOR
        store64(end, n)
        end += 8
        for i in range(n):
            store64(end + 8 * i, load8(VECTOR + i) & 1)
        end += 8 * n
    if detail:
        mask |= HAS_DETAIL
        end = details(s, end)
        if s.child:
            copy_words(end, DETAIL_1, load64(C_DETAIL_WORDS))
            end += 8 * load64(C_DETAIL_WORDS)
    store64(out + 8, mask)
    return end


def longest_record(s: ptr[runner]) -> int:
    """How many words a record may take at most."""
    pages = 0
    for i in range(s.nr_spans):
        pages += s.span_end[i] - s.span_start[i]
    return 2 * (76 + pages * 14) + s.nr_pages + 64


def stay():
    """Both processes of the program run on the processor that it began on."""
    at = SCRATCH_0
    if call3(NR_GETCPU, at, 0, 0) == 0:
        set_affinity(at, load32(at))


def first_process(s: ptr[runner], first: int, last: int):
    """Run the rows [first, last), a program, and exit."""
    if s.cpu == STAY:
        stay()
    open_own(s)
    if s.detail_every:
        note_totals(s)
    base = SHARED_BASE + header(H_STREAM)
    rows = SHARED_BASE + header(H_ROWS)
    offsets = SHARED_BASE + header(H_OFFSETS)
    out = base + 8 * header(H_STREAM_USED)
    limit = base + 8 * (header(H_STREAM_WORDS) - longest_record(s))
    short = s.all_vmas_every <= 1 or last - first <= SHORT
    for i in range(first, last):
        if out > limit:
            exit_group(EXIT_FULL)
        store64(C_ROW, i)
        everything = short or i == last - 1 or (i - first) % s.all_vmas_every == 0
        out = step(s, rows + 8 * ROW_WORDS * i, i - first, everything, out)
        store64(offsets + 8 * (i + 1), (out - base) // 8)
        set_header(H_STREAM_USED, (out - base) // 8)
    do_exit(s)
    exit_group(0)
