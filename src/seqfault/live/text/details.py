"""What /proc/PID/status says of a process, nine words, and /proc/PID/smaps of each observed VMA, seven words: as
docs/fuzz.md describes."""

from __future__ import annotations

from seqfault.compile.raw import load8, load16, load64, probe_read8, store64, syscall6, text
from seqfault.kernel import ptr
from seqfault.live.abi import (
    B_PAGEMAP,
    B_TEXT,
    CACHE_BASE,
    CACHE_FILES,
    CACHE_PAGES,
    COMM_BASE,
    EXIT_SETUP,
    FD_MARKS,
    FD_PAGEMAP,
    FD_SMAPS,
    FD_STATUS,
    H_STREAM,
    H_STREAM_WORDS,
    SHARED_BASE,
    TEXT_BYTES,
    WINDOW_PAGE,
)
from seqfault.live.text.calls import (
    NR_MINCORE,
    NR_PREAD64,
    O_RDONLY,
    call3,
    exit_group,
    header,
    hex_digit,
    next_line,
    open_at,
    read_decimal,
    read_hex,
)
from seqfault.live.text.observe import PFN, in_spans, window_end
from seqfault.live.text.perform import lru_add_drain
from seqfault.live.text.state import runner, scratch
from seqfault.mm.opcodes import PAGE_SIZE
from seqfault.mm.types import (
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_DROPPABLE,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYBE_GUARD,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_RAND_READ,
    VM_READ,
    VM_SEALED,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
)

DETAIL_WORDS = 7
TOTAL_WORDS = 6
CACHE_BYTES = CACHE_PAGES * PAGE_SIZE
SIZE, LOCKED, DATA, STACK, CODE, TABLES = 0, 1, 2, 3, 4, 5
KPF_UNEVICTABLE, KPF_MLOCKED = 18, 33  # include/uapi/linux/kernel-page-flags.h and fs/proc/page.c
TABLE_BYTES = 1 << 21  # what a page table of the last level reaches over
UPPER = 2  # page tables of other levels that the window has, if any: it is below one entry of the first
FLAGS, RSS, DIRTY, PRIVATE_DIRTY, ANONYMOUS, LAZYFREE, LOCKED_PAGES = 0, 8, 16, 24, 32, 40, 48
CAPITAL_A, CAPITAL_D, CAPITAL_E, CAPITAL_L, CAPITAL_P = 65, 68, 69, 76, 80
CAPITAL_R, CAPITAL_S, CAPITAL_T, CAPITAL_V = 82, 83, 84, 86
SMALL_A, SMALL_C, SMALL_H, SMALL_I, SMALL_M, SMALL_O = 97, 99, 104, 105, 109, 111
SMALL_S, SMALL_T, SMALL_Y = 115, 116, 121
# two letters of VmFlags, the first in the low byte
RD, WR, EX, SH = 0x6472, 0x7277, 0x7865, 0x6873
MR, MW, ME, MS = 0x726D, 0x776D, 0x656D, 0x736D
GD, LO, LF, AC, NR = 0x6467, 0x6F6C, 0x666C, 0x6361, 0x726E
DC, DE, DD, WF, SR, RR = 0x6364, 0x6564, 0x6464, 0x6677, 0x7273, 0x7272
HG, NH, MG, SL, DP, GU = 0x6768, 0x686E, 0x676D, 0x6C73, 0x7064, 0x7567


def flag_bit(code: int) -> int:
    """VM_* of two letters; 0 of those that are not compared."""
    if code == RD:
        return VM_READ
    if code == WR:
        return VM_WRITE
    if code == EX:
        return VM_EXEC
    if code == SH:
        return VM_SHARED
    if code == MR:
        return VM_MAYREAD
    if code == MW:
        return VM_MAYWRITE
    if code == ME:
        return VM_MAYEXEC
    if code == MS:
        return VM_MAYSHARE
    if code == GD:
        return VM_GROWSDOWN
    if code == LO:
        return VM_LOCKED
    if code == LF:
        return VM_LOCKONFAULT
    if code == AC:
        return VM_ACCOUNT
    if code == NR:
        return VM_NORESERVE
    if code == DC:
        return VM_DONTCOPY
    if code == DE:
        return VM_DONTEXPAND
    if code == DD:
        return VM_DONTDUMP
    if code == WF:
        return VM_WIPEONFORK
    if code == SR:
        return VM_SEQ_READ
    if code == RR:
        return VM_RAND_READ
    if code == HG:
        return VM_HUGEPAGE
    if code == NH:
        return VM_NOHUGEPAGE
    if code == MG:
        return VM_MERGEABLE
    if code == SL:
        return VM_SEALED
    if code == DP:
        return VM_DROPPABLE
    if code == GU:
        return VM_MAYBE_GUARD
    return 0


def read_flags(at: int, end: int) -> int:
    """The line after ``VmFlags:``."""
    bits = 0
    while at + 2 < end and load8(at) == 32 and load8(at + 1) > 32:
        bits |= flag_bit(load16(at + 1))
        at += 3
    return bits


def pages_of_line(at: int, end: int) -> int:
    """The number of kB behind the colon, in pages."""
    while at < end and load8(at) != 58:
        at += 1
    at += 1
    while at < end and load8(at) == 9:  # status has a tab there
        at += 1
    kb, at = read_decimal(at)
    return kb // 4


def field(at: int) -> int:
    """Which of our words a line of smaps belongs to, or -1."""
    a = load8(at)
    b = load8(at + 1)
    if a == CAPITAL_R and b == SMALL_S:
        return RSS
    if a == CAPITAL_S and b == SMALL_H and load8(at + 2) == SMALL_A and load8(at + 7) == CAPITAL_D:
        return DIRTY
    if a == CAPITAL_P and load8(at + 7) == 95 and load8(at + 8) == CAPITAL_D:
        return PRIVATE_DIRTY
    if a == CAPITAL_A and load8(at + 4) == SMALL_Y:
        return ANONYMOUS
    if a == CAPITAL_L and b == SMALL_A:
        return LAZYFREE
    if a == CAPITAL_L and b == SMALL_O:
        return LOCKED_PAGES
    if a == CAPITAL_V:
        return FLAGS
    return -1


def detail_line(at: int, end: int, out: int):
    f = field(at)
    if f == FLAGS:
        store64(out, read_flags(at + 8, end))
    elif f >= 0:
        n = pages_of_line(at, end)
        store64(out + f, n)
        if f == DIRTY or f == PRIVATE_DIRTY:
            store64(out + DIRTY, n + (load64(out + DIRTY) if f == PRIVATE_DIRTY else 0))


# -- status
def total(at: int) -> int:
    """Which of the totals a line of status that begins with Vm adds to, or -1."""
    a = load8(at + 2)
    b = load8(at + 3)
    if a == CAPITAL_S and b == SMALL_I:
        return SIZE
    if a == CAPITAL_L and b == SMALL_C:
        return LOCKED
    if a == CAPITAL_D:
        return DATA
    if a == CAPITAL_S and b == SMALL_T:
        return STACK
    if a == CAPITAL_P and b == CAPITAL_T:
        return TABLES
    if a == CAPITAL_E or (a == CAPITAL_L and b == SMALL_I):
        return CODE
    return -1


def read_totals(s: ptr[runner], out: int):
    """VmSize, VmLck, VmData, VmStk, VmExe + VmLib, VmPTE, in pages."""
    buf = scratch(s) + B_TEXT
    n = syscall6(NR_PREAD64, FD_STATUS, buf, TEXT_BYTES // 2, 0, 0, 0)
    for i in range(TOTAL_WORDS):
        store64(out + 8 * i, 0)
    at = buf
    while at < buf + n:
        if load8(at) == CAPITAL_V and load8(at + 1) == SMALL_M:
            which = total(at)
            if which >= 0:
                store64(out + 8 * which, load64(out + 8 * which) + pages_of_line(at, buf + n))
        at = next_line(at, buf + n)


def open_details(s: ptr[runner]):
    """Open this process's files; from now on all page tables of the runner's own memory are there."""
    for i in range((header(H_STREAM) + 8 * header(H_STREAM_WORDS)) // TABLE_BYTES + 1):
        probe_read8(SHARED_BASE + i * TABLE_BYTES)
    probe_read8(COMM_BASE)
    if open_at(text("/proc/self/smaps"), O_RDONLY, FD_SMAPS) < 0:
        exit_group(EXIT_SETUP)
    if open_at(text("/proc/self/status"), O_RDONLY, FD_STATUS) < 0:
        exit_group(EXIT_SETUP)
    if s.frames and open_at(text("/proc/kpageflags"), O_RDONLY, FD_MARKS) < 0:
        exit_group(EXIT_SETUP)
    s.smaps = 1


def note_totals(s: ptr[runner]):
    """What a program finds mapped when it begins counts as nothing."""
    open_details(s)
    at = scratch(s)
    read_totals(s, at)
    for i in range(TOTAL_WORDS):
        s.totals[i] = load64(at + 8 * i)


def cached_pages(s: ptr[runner], which: int) -> int:
    """A bit for each of a test file's first pages: whether it is in the page cache."""
    at = scratch(s) + B_TEXT
    if call3(NR_MINCORE, CACHE_BASE + which * CACHE_BYTES, CACHE_BYTES, at) < 0:
        exit_group(EXIT_SETUP)
    bits = 0
    for i in range(CACHE_PAGES):
        bits |= (load8(at + i) & 1) << i
    return bits


def put_totals(s: ptr[runner], out: int) -> int:
    read_totals(s, out)
    for i in range(TOTAL_WORDS):
        store64(out + 8 * i, load64(out + 8 * i) - s.totals[i])
    tables = load64(out + 8 * TABLES)
    if tables > 0:
        store64(out + 8 * TABLES, max(tables - UPPER, 0))
    out += 8 * TOTAL_WORDS
    for i in range(CACHE_FILES):
        store64(out, cached_pages(s, i))
        out += 8
    return out


# -- kpageflags
def put_marks(s: ptr[runner], out: int) -> int:
    """A word for each observed page: unevictable 1, locked 2; nothing where frames cannot be seen."""
    buf = scratch(s) + B_PAGEMAP
    for i in range(s.nr_spans):
        n = s.span_end[i] - s.span_start[i]
        if syscall6(NR_PREAD64, FD_PAGEMAP, buf, 8 * n, (WINDOW_PAGE + s.span_start[i]) * 8, 0, 0) != 8 * n:
            exit_group(EXIT_SETUP)
        for k in range(n):
            e = load64(buf + 8 * k)
            word = 0
            frame = e & PFN
            if e < 0 and frame != 0 and frame != s.zero_pfn:
                at = buf + 8 * n
                if syscall6(NR_PREAD64, FD_MARKS, at, 8, frame * 8, 0, 0) != 8:
                    exit_group(EXIT_SETUP)
                flags = load64(at)
                word = flags >> KPF_UNEVICTABLE & 1 | (flags >> KPF_MLOCKED & 1) << 1
            store64(out, word)
            out += 8
    return out


def details(s: ptr[runner], out: int) -> int:
    """Nine words of the process, one for each observed page and seven for each VMA that overlaps a span; returns the
    address after them."""
    if s.smaps == 0:
        open_details(s)
    lru_add_drain()
    out = put_totals(s, out)
    out = put_marks(s, out)
    buf = scratch(s) + B_TEXT
    got = 0
    start = 0
    inside = False
    top = window_end(s)
    while start < top:
        n = syscall6(NR_PREAD64, FD_SMAPS, buf, TEXT_BYTES // 2, got, 0, 0)
        if n <= 0:
            break
        at = buf
        while at < buf + n and start < top:
            if hex_digit(load8(at)) >= 0:
                start, at = read_hex(at)
                end, at = read_hex(at + 1)
                if inside:
                    out += 8 * DETAIL_WORDS
                inside = start < top and in_spans(s, start, end)
                if inside:
                    for i in range(DETAIL_WORDS):
                        store64(out + 8 * i, 0)
            elif inside:
                detail_line(at, buf + n, out)
            at = next_line(at, buf + n)
        got += n
    if inside:
        out += 8 * DETAIL_WORDS
    return out
