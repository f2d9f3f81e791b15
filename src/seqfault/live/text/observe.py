"""What a process of the runner sees of its window: the stream that docs/fuzz.md describes.

PROCMAP_QUERY and pagemap: Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/fs.h.
"""

from __future__ import annotations

from seqfault.compile.raw import load8, load32, load64, probe_read8, store64, syscall6, text
from seqfault.kernel import ptr
from seqfault.live.abi import (
    B_PAGEMAP,
    B_QUERY,
    B_TEXT,
    B_VMAS,
    COVERING_OR_NEXT_VMA,
    EXIT_SETUP,
    FD_MAPS,
    FD_PAGEMAP,
    H_TICKS,
    PROCMAP_QUERY,
    PROCMAP_QUERY_BYTES,
    TEXT_BYTES,
    WINDOW_PAGE,
)
from seqfault.live.text.calls import (
    NR_IOCTL,
    NR_PREAD64,
    O_RDONLY,
    call3,
    copy_words,
    exit_group,
    next_line,
    open_at,
    read_decimal,
    read_hex,
)
from seqfault.live.text.state import ALL, NO_VMA, SOME, runner, scratch
from seqfault.live.text.ticking import tick, tick_to
from seqfault.mm.opcodes import PAGE_SIZE, WINDOW_BASE

PM_PRESENT, PM_FILE, PM_GUARD, PM_EXCLUSIVE = 63, 61, 58, 56
PFN = (1 << 55) - 1
PRESENT, EXCLUSIVE, FILE, GUARD, ZERO, CONTENT = 1, 2, 4, 8, 16, 32
SHARED_ANON = 1000  # file word of a file that has no descriptor: this plus its inode
VMA_WORDS = 5
ENOENT = -2
GAP = 100  # pages: to read so many too many of pagemap costs less than another call
WINDOW_TOP = 1 << 45  # above the window lies only what fills the address space


def open_own(s: ptr[runner]):
    """Open this process's files in /proc; a fork's child has its parent's."""
    maps = open_at(text("/proc/self/maps"), O_RDONLY, FD_MAPS)
    if maps < 0 or open_at(text("/proc/self/pagemap"), O_RDONLY, FD_PAGEMAP) < 0:
        exit_group(EXIT_SETUP)
    s.smaps = 0
    s.ask = ALL
    at = scratch(s) + B_QUERY
    for i in range(2, 13):
        store64(at + 8 * i, 0)
    store64(at, PROCMAP_QUERY_BYTES)
    store64(at + 8, COVERING_OR_NEXT_VMA)


def file_word(s: ptr[runner], inode: int, device: int) -> int:
    """0 none; 1, 2 the memory files, 3 the file on disk, 4 the fence's; else by its inode."""
    if inode == 0:
        return 0
    for i in range(4):
        if s.inode[i] == inode and s.device[i] == device:
            return i + 1
    return SHARED_ANON + inode


def put_vma(out: int, start: int, end: int, bits: int, offset: int, which: int):
    store64(out, (start - WINDOW_BASE) // PAGE_SIZE)
    store64(out + 8, (end - WINDOW_BASE) // PAGE_SIZE)
    store64(out + 16, bits)
    store64(out + 24, offset // PAGE_SIZE if which else 0)
    store64(out + 32, which)


# -- VMAs, by PROCMAP_QUERY (Linux 6.11)
def query_vmas(s: ptr[runner], out: int) -> int:
    """Every VMA that overlaps a span, whole; returns the address after the last."""
    q = scratch(s) + B_QUERY
    start = 0
    end = 0
    listed = 0  # everything up to here is
    for i in range(s.nr_spans):
        stop = WINDOW_BASE + s.span_end[i] * PAGE_SIZE
        at = max(WINDOW_BASE + s.span_start[i] * PAGE_SIZE, listed)
        while at < stop:
            if at >= end:
                store64(q + 16, at)
                r = call3(NR_IOCTL, FD_MAPS, PROCMAP_QUERY, q)
                if r < 0:
                    if r != ENOENT:
                        exit_group(EXIT_SETUP)
                    start = WINDOW_TOP
                    end = WINDOW_TOP
                else:
                    start = load64(q + 24)
                    end = load64(q + 32)
            if start >= stop:
                break
            device = load32(q + 72) << 32 | load32(q + 76)
            which = file_word(s, load64(q + 64), device)
            put_vma(out, start, end, load64(q + 40), load64(q + 56), which)
            out += 8 * VMA_WORDS
            at = end
            listed = end
    return out


def query_some(s: ptr[runner], out: int) -> int:
    """The VMAs that are known, but for those that touch [ask_low, ask_high], which are looked at."""
    q = scratch(s) + B_QUERY
    kept = scratch(s) + B_VMAS
    last = kept + 8 * s.kept_words
    low = (s.ask_low - WINDOW_BASE) // PAGE_SIZE
    high = (s.ask_high - WINDOW_BASE) // PAGE_SIZE
    while kept < last and load64(kept + 8) < low:
        copy_words(out, kept, VMA_WORDS)
        out += 8 * VMA_WORDS
        kept += 8 * VMA_WORDS
    at = max(s.ask_low - PAGE_SIZE, WINDOW_BASE)
    while at <= s.ask_high:
        store64(q + 16, at)
        r = call3(NR_IOCTL, FD_MAPS, PROCMAP_QUERY, q)
        if r < 0:
            if r != ENOENT:
                exit_group(EXIT_SETUP)
            break
        start = load64(q + 24)
        end = load64(q + 32)
        if start > s.ask_high:
            break
        if in_spans(s, start, end):
            device = load32(q + 72) << 32 | load32(q + 76)
            put_vma(out, start, end, load64(q + 40), load64(q + 56), file_word(s, load64(q + 64), device))
            out += 8 * VMA_WORDS
        at = end
    while kept < last and load64(kept) <= high:
        kept += 8 * VMA_WORDS
    while kept < last:
        copy_words(out, kept, VMA_WORDS)
        out += 8 * VMA_WORDS
        kept += 8 * VMA_WORDS
    return out


# -- VMAs, by the text of /proc/PID/maps
def line_bits(at: int) -> int:
    """rwxp or rwxs."""
    bits = 0
    if load8(at) == 114:
        bits |= 1
    if load8(at + 1) == 119:
        bits |= 2
    if load8(at + 2) == 120:
        bits |= 4
    if load8(at + 3) == 115:
        bits |= 8
    return bits


def window_end(s: ptr[runner]) -> int:
    return WINDOW_BASE + s.nr_pages * PAGE_SIZE


def in_spans(s: ptr[runner], start: int, end: int) -> bool:
    inside = False
    for i in range(s.nr_spans):
        at = WINDOW_BASE + s.span_start[i] * PAGE_SIZE
        stop = WINDOW_BASE + s.span_end[i] * PAGE_SIZE
        if start < stop and end > at:
            inside = True
    return inside


def read_vmas(s: ptr[runner], out: int) -> int:
    buf = scratch(s) + B_TEXT
    top = window_end(s)
    got = 0
    start = 0
    while start < top and got < TEXT_BYTES // 2:
        n = syscall6(NR_PREAD64, FD_MAPS, buf, TEXT_BYTES // 2, got, 0, 0)
        if n <= 0:
            break
        at = buf
        while at < buf + n:
            start, at = read_hex(at)
            end, at = read_hex(at + 1)
            if start >= top:
                break
            if in_spans(s, start, end):
                bits = line_bits(at + 1)
                offset, at = read_hex(at + 6)
                major, at = read_hex(at + 1)
                minor, at = read_hex(at + 1)
                inode, at = read_decimal(at)
                put_vma(out, start, end, bits, offset, file_word(s, inode, major << 32 | minor))
                out += 8 * VMA_WORDS
            at = next_line(at, buf + n)
        got += n
    return out


# -- pages
def page_word(s: ptr[runner], e: int, page: int, bits: int) -> int:
    """The word of a page from its pagemap entry and the permissions of its VMA."""
    word = 0
    if e >> PM_GUARD & 1:
        word |= GUARD
    if e >= 0:
        return word
    word |= PRESENT
    if e >> PM_EXCLUSIVE & 1:
        word |= EXCLUSIVE
    if e >> PM_FILE & 1:
        word |= FILE
    if s.frames:
        pfn = e & PFN
        if pfn == s.zero_pfn:
            word |= ZERO
        word |= pfn << 16
    if bits & 1 and s.content:
        byte = probe_read8(WINDOW_BASE + page * PAGE_SIZE)
        if byte >= 0:
            word |= CONTENT | byte << 8
    return word


def put_pages(s: ptr[runner], vmas: int, last: int, out: int) -> int:
    """A word for each page of the spans; `vmas` to `last`: the VMAs as listed."""
    buf = scratch(s) + B_PAGEMAP
    vma = vmas
    first = 0
    read = 0  # what is read reaches to here
    for i in range(s.nr_spans):
        page = s.span_start[i]
        end = s.span_end[i]
        if end > read:
            first = page
            read = end
            for j in range(i + 1, s.nr_spans):
                if s.span_start[j] - read <= GAP:
                    read = s.span_end[j]
            n = 8 * (read - first)
            if syscall6(NR_PREAD64, FD_PAGEMAP, buf, n, (WINDOW_PAGE + first) * 8, 0, 0) != n:
                exit_group(EXIT_SETUP)
        at = buf + 8 * (page - first)
        while page < end:
            e = load64(at)
            word = 0
            if e < 0 or e >> PM_GUARD & 1:
                while vma < last and load64(vma + 8) <= page:
                    vma += 8 * VMA_WORDS
                bits = 0
                if vma < last and load64(vma) <= page:
                    bits = load64(vma + 16)
                word = page_word(s, e, page, bits)
            store64(out, word)
            out += 8
            at += 8
            page += 1
    return out


def observe(s: ptr[runner], out: int) -> int:
    """This process's block of the record; returns the address after it."""
    tick(s)
    vmas = out + 8
    kept = scratch(s) + B_VMAS
    last = vmas
    if s.ask == NO_VMA:
        copy_words(vmas, kept, s.kept_words)
        last = vmas + 8 * s.kept_words
    else:
        if s.query == 0:
            last = read_vmas(s, vmas)
        elif s.ask == SOME:
            last = query_some(s, vmas)
        else:
            last = query_vmas(s, vmas)
        s.kept_words = (last - vmas) // 8
        copy_words(kept, vmas, s.kept_words)
        s.ask = NO_VMA
    store64(out, s.kept_words // VMA_WORDS)
    tick_to(s, H_TICKS + 1)
    out = put_pages(s, vmas, last, last)
    tick_to(s, H_TICKS + 2)
    return out
