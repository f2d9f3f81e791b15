"""The master: it prepares an address space, and forks a process of it for each program."""

from __future__ import annotations

from seqfault.compile.raw import load64, signal_stack, store64, syscall6, text
from seqfault.kernel import ptr, the
from seqfault.live.abi import (
    B_BYTE,
    B_QUERY,
    B_TIME,
    C_DONE,
    C_LOST,
    C_ROW,
    C_SEQ,
    C_STACKS,
    CRASH,
    DIED,
    EXIT_FULL,
    EXIT_SETUP,
    F_MAPS_TEXT,
    F_NO_CONTENT,
    F_TICKS,
    FD_IN,
    FD_MAPS,
    FD_OUT,
    FD_SHARED,
    GUEST_SHARED_AT,
    GUEST_SHARED_BYTES,
    H_ALL_VMAS_EVERY,
    H_COMMAND,
    H_CPU,
    H_CRASH,
    H_DEAD_ROW,
    H_DEAD_STATUS,
    H_DEAD_WHO,
    H_DEATHS,
    H_DETAIL_EVERY,
    H_FAULT_AROUND,
    H_FLAGS,
    H_HEAP_PAGE,
    H_NR_PAGES,
    H_NR_ROWS,
    H_NR_SPANS,
    H_OFFSETS,
    H_READY,
    H_REPLY,
    H_ROWS,
    H_ROWS_DONE,
    H_SPANS,
    H_STATUS,
    H_STREAM,
    H_STREAM_USED,
    H_TICKS,
    H_ZERO_PFN,
    PROCMAP_QUERY,
    R_FRAMES,
    R_HEAP,
    R_PINNED,
    R_QUERY,
    R_READY,
    ROW_WORDS,
    S_DONE,
    S_FULL,
    SHARED_BASE,
)
from seqfault.live.text.calls import (
    FIXED,
    NR_FORK,
    NR_FSTAT,
    NR_IOCTL,
    NR_MMAP,
    NR_NANOSLEEP,
    NR_PRCTL,
    NR_READ,
    NR_WRITE,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    PROT_READ,
    PROT_WRITE,
    SHARED,
    STAY,
    call1,
    call2,
    call3,
    exit_group,
    header,
    reap,
    set_affinity,
    set_header,
    zero_words,
)
from seqfault.live.text.files import measure_fault_around, open_files, reset_files
from seqfault.live.text.guest import run_as_first_process
from seqfault.live.text.observe import open_own
from seqfault.live.text.perform import limit_stack, lru_add_drain
from seqfault.live.text.place import (
    catch_signals,
    drop_system_mappings,
    fences,
    fill_gaps,
    find_zero_page,
    map_communication,
    map_files,
    move_heap,
    no_huge_pages,
    take_protection_keys,
)
from seqfault.live.text.processes import first_process
from seqfault.live.text.state import runner, scratch
from seqfault.live.text.ticking import tick, tick_to
from seqfault.mm.opcodes import OP_START, WINDOW_BASE


def map_shared(s: ptr[runner], size: int):
    """The memory that host and runner share."""
    at = GUEST_SHARED_AT if s.guest else 0
    if syscall6(NR_MMAP, SHARED_BASE, size, PROT_READ | PROT_WRITE, SHARED | FIXED, FD_SHARED, at) < 0:
        exit_group(EXIT_SETUP)


def shared_size(s: ptr[runner]) -> int:
    """st_size of the shared file."""
    if s.guest:
        return GUEST_SHARED_BYTES
    at = scratch(s)
    if call2(NR_FSTAT, FD_SHARED, at) < 0:
        exit_group(EXIT_SETUP)
    return load64(at + 48)


def can_query(s: ptr[runner]) -> int:
    """Whether the kernel has PROCMAP_QUERY (6.11)."""
    open_own(s)
    at = scratch(s) + B_QUERY
    store64(at + 16, WINDOW_BASE)
    return 1 if call3(NR_IOCTL, FD_MAPS, PROCMAP_QUERY, at) >= 0 else 0


def read_options(s: ptr[runner]):
    flags = header(H_FLAGS)
    s.content = 0 if flags & F_NO_CONTENT else 1
    s.count_ticks = 1 if flags & F_TICKS else 0
    s.detail_every = header(H_DETAIL_EVERY)
    s.all_vmas_every = header(H_ALL_VMAS_EVERY)
    s.nr_spans = header(H_NR_SPANS)
    for i in range(s.nr_spans):
        s.span_start[i] = header(H_SPANS + 2 * i)
        s.span_end[i] = s.span_start[i] + header(H_SPANS + 2 * i + 1)


def pin(s: ptr[runner]) -> int:
    """Stay on one processor; 1 if that worked."""
    s.cpu = header(H_CPU)
    if s.cpu == STAY:
        return 1
    if s.cpu < 0 or s.cpu > 1000:
        return 0
    return 1 if set_affinity(scratch(s), s.cpu) == 0 else 0


def prepare(s: ptr[runner]):
    """Everything that is done once."""
    map_communication()
    size = shared_size(s)
    map_shared(s, size)
    s.nr_pages = header(H_NR_PAGES)
    call2(NR_PRCTL, PR_SET_NAME, text("seqfault-run"))
    syscall6(NR_PRCTL, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0, 0)
    no_huge_pages()
    take_protection_keys()
    catch_signals(s)
    if limit_stack(s) < 0:
        exit_group(EXIT_SETUP)
    open_files(s)
    map_files()
    drop_system_mappings(s)
    fill_gaps(s)
    find_zero_page(s)
    set_header(H_FAULT_AROUND, measure_fault_around(s))
    fences(s)
    move_heap(s, header(H_HEAP_PAGE))
    s.query = can_query(s)
    ready = R_READY
    if s.query:
        ready |= R_QUERY
    if s.frames:
        ready |= R_FRAMES
    if s.heap:
        ready |= R_HEAP
    if pin(s):
        ready |= R_PINNED
    if header(H_FLAGS) & F_MAPS_TEXT:
        s.query = 0
    set_header(H_ZERO_PFN, s.zero_pfn)
    set_header(H_READY, ready)


# -- batches
def died(s: ptr[runner], last: int, status: int):
    """A process of the program died: the row, and records without processes for the rest of the program."""
    row = load64(C_ROW)
    if header(H_DEATHS) == 0:
        set_header(H_DEAD_ROW, row)
        lost = load64(C_LOST)
        set_header(H_DEAD_WHO, 1 if lost else 0)
        set_header(H_DEAD_STATUS, lost & 0xFFFFFFFF if lost else status)
        for i in range(4):
            set_header(H_CRASH + i, load64(CRASH + 8 * i))
    set_header(H_DEATHS, header(H_DEATHS) + 1)
    offsets = SHARED_BASE + header(H_OFFSETS)
    base = SHARED_BASE + header(H_STREAM)
    used = load64(offsets + 8 * row)
    for i in range(row, last):
        store64(base + 8 * used, DIED)
        store64(base + 8 * used + 8, 0)
        used += 2
        store64(offsets + 8 * (i + 1), used)
    set_header(H_STREAM_USED, used)


def reap_orphans(s: ptr[runner]):
    """What a process 0 that died has left."""
    while reap(-1, scratch(s), 0) > 0:
        pass


def run_program(s: ptr[runner], first: int, last: int) -> bool:
    """Rows [first, last) in a process of their own; whether there was room for the records."""
    tick(s)
    reset_files(s)
    lru_add_drain()  # the program may run on another processor, and stay there
    tick_to(s, H_TICKS + 6)
    store64(C_ROW, first)
    store64(C_LOST, 0)
    store64(C_SEQ, 0)
    store64(C_DONE, 0)
    store64(C_STACKS, 0)
    zero_words(CRASH, 4)
    before = header(H_STREAM_USED)
    pid = call1(NR_FORK, 0)
    if pid == 0:
        first_process(s, first, last)
    at = scratch(s)
    if pid < 0:
        exit_group(EXIT_SETUP)
    reap(pid, at, 0)
    tick_to(s, H_TICKS + 4)
    status = load64(at) & 0xFFFFFFFF
    if status == EXIT_FULL << 8:
        set_header(H_STREAM_USED, before)
        return False
    if status != 0:
        reap_orphans(s)
        died(s, last, status)
    return True


def run_batch(s: ptr[runner]):
    """Every program of the rows, as far as there is room for the records."""
    read_options(s)
    n = header(H_NR_ROWS)
    rows = SHARED_BASE + header(H_ROWS)
    store64(SHARED_BASE + header(H_OFFSETS), 0)
    set_header(H_STREAM_USED, 0)
    set_header(H_DEATHS, 0)
    zero_words(SHARED_BASE + 8 * H_TICKS, 8)
    first = 0
    room = True
    while first < n and room:
        last = first + 1
        while last < n and load64(rows + 8 * ROW_WORDS * last) != OP_START:
            last += 1
        room = run_program(s, first, last)
        if room:
            first = last
    set_header(H_ROWS_DONE, first)
    set_header(H_STATUS, S_DONE if room else S_FULL)


# -- waiting for the host
def ring(s: ptr[runner]):
    """Tell the host that the runner is ready, or that a batch is done."""
    set_header(H_REPLY, header(H_COMMAND))
    if s.guest == 0:
        store64(scratch(s), 1)
        call3(NR_WRITE, FD_OUT, scratch(s), 1)


def wait_for_batch(s: ptr[runner]):
    """Until the host has a batch.  In a guest there is no bell: look every 100 us."""
    if s.guest:
        at = scratch(s) + B_TIME
        while header(H_COMMAND) == header(H_REPLY):
            store64(at, 0)
            store64(at + 8, 100000)
            call2(NR_NANOSLEEP, at, 0)
    elif call3(NR_READ, FD_IN, scratch(s) + B_BYTE, 1) <= 0:
        exit_group(0)


def main(sp: int):
    s = the(runner)
    s.guest = run_as_first_process(signal_stack())
    prepare(s)
    ring(s)
    while True:
        wait_for_batch(s)
        run_batch(s)
        ring(s)
