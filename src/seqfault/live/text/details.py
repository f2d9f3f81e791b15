"""What /proc/PID/smaps says of each observed VMA: seven words, as docs/fuzz.md describes."""

from __future__ import annotations

from seqfault.compile.raw import load8, load16, load64, store64, syscall6, text
from seqfault.kernel import ptr
from seqfault.live.abi import B_TEXT, EXIT_SETUP, FD_SMAPS, TEXT_BYTES
from seqfault.live.text.calls import (
    NR_PREAD64,
    O_RDONLY,
    exit_group,
    hex_digit,
    next_line,
    open_at,
    read_decimal,
    read_hex,
)
from seqfault.live.text.observe import in_spans, window_end
from seqfault.live.text.state import runner, scratch
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
FLAGS, RSS, DIRTY, PRIVATE_DIRTY, ANONYMOUS, LAZYFREE, LOCKED_PAGES = 0, 8, 16, 24, 32, 40, 48
CAPITAL_A, CAPITAL_D, CAPITAL_L, CAPITAL_P, CAPITAL_R, CAPITAL_S, CAPITAL_V = 65, 68, 76, 80, 82, 83, 86
SMALL_A, SMALL_H, SMALL_O, SMALL_S, SMALL_Y = 97, 104, 111, 115, 121
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
    kb, at = read_decimal(at + 1)
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


def details(s: ptr[runner], out: int) -> int:
    """Seven words for each VMA that overlaps a span; returns the address after them."""
    if s.smaps == 0:
        if open_at(text("/proc/self/smaps"), O_RDONLY, FD_SMAPS) < 0:
            exit_group(EXIT_SETUP)
        s.smaps = 1
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
