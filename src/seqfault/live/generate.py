"""Random programs of operations, biased to collisions: few pages, adjacent pieces, addresses used before.

The choice of each operation depends on a seed and on what the generator gave out before, never on what the kernel or
the model answered, so that a program is the same on every kernel and release.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.jit import make_jit
from seqfault.live.profiles import (
    ADVICE_TABLE,
    FILE_ADVICE,
    FILES,
    FORKS,
    KINDS,
    LIMITS,
    PROFILE_SHARE,
    PROFILES,
    STACKS,
    UNTOUCHED,
)
from seqfault.mm.opcodes import (
    MADV_COLD,
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_PAGEOUT,
    MADV_REMOVE,
    MS_SYNC,
    OP_BRK,
    OP_EXIT,
    OP_FORK,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MAP_COUNT,
    OP_MLOCK2,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MSEAL,
    OP_MSYNC,
    OP_MUNLOCKALL,
    OP_PWRITE,
    OP_READ,
    OP_RLIMIT_AS,
    OP_START,
    OP_WRITE,
    UAPI_MAP_ANONYMOUS,
    UAPI_MAP_DROPPABLE,
    UAPI_MAP_FIXED,
    UAPI_MAP_FIXED_NOREPLACE,
    UAPI_MAP_GROWSDOWN,
    UAPI_MAP_LOCKED,
    UAPI_MAP_NORESERVE,
    UAPI_MAP_POPULATE,
    UAPI_MAP_PRIVATE,
    UAPI_MAP_SHARED,
    UAPI_MAP_SHARED_VALIDATE,
    UAPI_MAP_STACK,
    WINDOW_BASE,
)

Int64 = NDArray[np.int64]
HERE = Path(__file__).parent
jit = make_jit("generate", [HERE / "generate.py", HERE / "profiles.py", HERE.parent / "mm" / "opcodes.py"])

ROW = 8
PAGE = 4096
HUGE_PAGES = 512  # of a huge page
RECENT = 8  # ranges used before; behind them the latest again


@dataclass(frozen=True)
class Geometry:
    """The window, in pages: where operations go.  `spans`: the observed [start, end)s, the busiest first.

    Between the last two there is room for a huge page, wherever it has to begin.
    """

    nr_pages: int = 2560
    spans: tuple[tuple[int, int], ...] = ((512, 552), (600, 616), (2543, 2559))
    heap_page: int = 600

    @property
    def observed(self) -> int:
        """How many pages are observed after each operation."""
        return sum(b - a for a, b in self.spans)


@dataclass(frozen=True)
class Plan:
    """`seed`; `program_ops`: operations in each program; `map_count_every`: every so many programs VMAs are scarce (0:
    never)."""

    seed: int = 0
    program_ops: int = 250
    geometry: Geometry = field(default_factory=Geometry)
    map_count_every: int = 500


@jit
def rnd(state, n):  # type: ignore[no-untyped-def]
    """splitmix64: a number below n."""
    state[0] = state[0] + np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.int64(z % np.uint64(n))


@jit
def weighted(state, weights):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for w in weights:
        total += w
    k = rnd(state, total)
    for i in range(len(weights)):
        k -= weights[i]
        if k < 0:
            return i
    return 0


@jit
def length(state):  # type: ignore[no-untyped-def]
    """Mostly a page or a few."""
    r = rnd(state, 16)
    if r < 6:
        return np.int64(1)
    if r < 10:
        return np.int64(2)
    if r < 15:
        return 1 + rnd(state, 6)
    return 1 + rnd(state, 16)


@jit
def pick(state, recent, spans, nr_pages):  # type: ignore[no-untyped-def]
    """A range of pages (start, length) inside the window."""
    r = rnd(state, 100)
    k = min(rnd(state, RECENT + 3), RECENT)
    a, n = recent[k, 0], recent[k, 1]
    m = length(state)
    if r < 42 or n == 0:
        which = 0
        if r < 2:
            which = rnd(state, len(spans))
        lo, hi = spans[which, 0], spans[which, 1]
        start = lo + rnd(state, hi - lo)
    elif r < 56:
        start = a + n
    elif r < 68:
        start = a - m
    elif r < 76:
        start, m = a, n
    elif r < 84:
        start = a
    elif r < 92:
        start = a + rnd(state, n)
        m = 1 + rnd(state, n)
    elif r < 96:
        start = max(np.int64(1), a - rnd(state, 3))
        m = n + 2
    else:
        lo, hi = spans[len(spans) - 1, 0], spans[len(spans) - 1, 1]
        start = lo + rnd(state, hi - lo)
    start = max(np.int64(1), min(start, nr_pages - 2))
    m = max(np.int64(1), min(m, nr_pages - 1 - start))
    return start, m


@jit
def rights(state):  # type: ignore[no-untyped-def]
    r = rnd(state, 40)
    if r < 21:
        return np.int64(3)
    if r < 29:
        return np.int64(1)
    if r < 34:
        return np.int64(0)
    if r < 36:
        return np.int64(5)
    if r < 37:
        return np.int64(2)
    if r < 38:
        return np.int64(7)
    if r < 39:
        return np.int64(4)
    return np.int64(6)


@jit
def odd_length(state, n):  # type: ignore[no-untyped-def]
    """A length in bytes that Linux has an opinion about."""
    r = rnd(state, 8)
    if r == 0:
        return np.int64(0)
    if r == 1:
        return n * PAGE - 1 - rnd(state, PAGE - 1)
    if r == 2:
        return np.int64(-1)
    if r == 3:
        return np.int64(-PAGE)
    if r == 4:
        return np.int64(1) << 47
    if r == 5:
        return (np.int64(1) << 62) + rnd(state, 2)
    if r == 6:
        return n * PAGE + 1
    return np.int64(1)


@jit
def odd_address(state, a):  # type: ignore[no-untyped-def]
    r = rnd(state, 6)
    if r < 3:
        return a + 1 + rnd(state, PAGE - 1)
    if r == 3:
        return np.int64(0x7FFFFFFFF000)
    if r == 4:
        return np.int64(-PAGE)
    return np.int64(1) << 50


@jit
def some_file(state):  # type: ignore[no-untyped-def]
    """The number of a test file; now and then one that cannot be written or read, or that is not open."""
    r = rnd(state, 36)
    if r >= 3:
        return r % 3
    r = rnd(state, 6)
    if r < 3:
        return 4 + r  # read-only, write-only, not there
    if r < 4:
        return np.int64(4)
    return np.int64(-1) if r == 4 else np.int64(99)


@jit
def mmap_row(row, state, recent, spans, nr_pages, profile, huge, disk, last):  # type: ignore[no-untyped-def]
    start, n = pick(state, recent, spans, nr_pages)
    flags = np.int64(0)
    fd = np.int64(-1)
    off = np.int64(0)
    file_share = 10
    if profile == FILES:
        file_share = 65
    elif profile in (UNTOUCHED, FORKS):
        file_share = 25
    if rnd(state, 100) < file_share:
        fd = rnd(state, 3)
        if rnd(state, 12) == 0:
            fd = 4 + rnd(state, 2)
        if huge:
            fd &= 1
        shared = rnd(state, 100) < 45
        if rnd(state, 6) == 0:  # as far as reading ahead and around goes
            n = min(n + 8 + rnd(state, 24), max(n, spans[0, 1] - start))
        off = start - spans[0, 0]
        if off < 0 or off > 40 or rnd(state, 100) < 25:
            off = rnd(state, 10)
        elif rnd(state, 2) == 0:
            off = off % 8
        at_end = profile == FILES and last[1] > 0 and rnd(state, 6) == 0
        if at_end and not (huge and last[0] == 2):
            fd, off, n = last[0], max(np.int64(0), (last[1] - 1) // PAGE - rnd(state, 2)), min(n, 1 + rnd(state, 3))
        off *= PAGE
    else:
        flags |= UAPI_MAP_ANONYMOUS
        shared = rnd(state, 100) < 8
    if shared:
        flags |= UAPI_MAP_SHARED
        if rnd(state, 25) == 0:
            flags |= UAPI_MAP_SHARED_VALIDATE
    elif fd < 0 and rnd(state, 40) == 0:
        flags |= UAPI_MAP_DROPPABLE
    else:
        flags |= UAPI_MAP_PRIVATE
    addr = WINDOW_BASE + start * PAGE
    how = rnd(state, 100)
    if how < 72:
        flags |= UAPI_MAP_FIXED
    elif how < 80:
        flags |= UAPI_MAP_FIXED_NOREPLACE
    elif how < 90:
        addr = np.int64(0)
    # else: a hint
    extra = rnd(state, 100)
    if extra < 5:
        flags |= UAPI_MAP_NORESERVE
    elif extra < 10:
        flags |= UAPI_MAP_POPULATE
    elif extra < 12:
        flags |= UAPI_MAP_LOCKED
    elif extra < 14:
        flags |= UAPI_MAP_STACK
    if not shared and (extra == 20 or (profile == STACKS and extra > 70)):
        flags |= UAPI_MAP_GROWSDOWN
    prot = rights(state)
    size = n * PAGE
    bad = rnd(state, 250)
    if bad == 0:
        size = odd_length(state, n)
    elif bad == 1:
        addr = odd_address(state, addr)
    elif bad == 2:
        fd = np.int64(99) if rnd(state, 2) == 0 else np.int64(6)
        flags &= ~np.int64(UAPI_MAP_ANONYMOUS)
    elif bad == 3:
        flags &= ~np.int64(UAPI_MAP_SHARED_VALIDATE)
    elif bad == 4:
        off += 1 + rnd(state, PAGE - 1)
    elif bad == 5:
        off = np.int64(-PAGE) if rnd(state, 2) == 0 else (np.int64(1) << 62)
    elif bad == 6:
        prot |= np.int64(1) << (3 + rnd(state, 8))
    elif bad == 7:
        flags |= UAPI_MAP_SHARED_VALIDATE | (np.int64(1) << (21 + rnd(state, 5)))
    elif bad == 8:
        flags |= UAPI_MAP_GROWSDOWN
    if shared and fd == 2 and flags & UAPI_MAP_FIXED and bad > 8:
        disk[0], disk[1] = start, n
    row[2], row[3], row[4], row[5], row[6], row[7] = addr, size, prot, flags, fd, off
    return start, n


@jit
def whole_huge_pages(state):  # type: ignore[no-untyped-def]
    """A length in bytes: huge pages, or nearly."""
    r = rnd(state, 8)
    pages = HUGE_PAGES * (1 + r // 7)
    if r == 0:
        pages += 1
    return np.int64(pages * PAGE)


@jit
def mremap_row(row, state, recent, spans, nr_pages):  # type: ignore[no-untyped-def]
    start, n = pick(state, recent, spans, nr_pages)
    to, _ = pick(state, recent, spans, nr_pages)
    r = rnd(state, 100)
    new = n
    if r < 40:
        new = n + 1 + rnd(state, 4)
    elif r < 60:
        new = max(np.int64(1), n - 1 - rnd(state, 3))
    flags = np.int64(0)
    r = rnd(state, 100)
    if r < 45:
        flags = np.int64(3)
    elif r < 75:
        flags = np.int64(1)
    elif r < 85:
        flags = np.int64(5)
        new = n
    elif r < 90:
        flags = np.int64(7)
        new = n
    old_bytes, new_bytes = n * PAGE, new * PAGE
    addr, target = WINDOW_BASE + start * PAGE, WINDOW_BASE + to * PAGE
    if flags == 5 and rnd(state, 2) == 0:
        target = np.int64(0)
    if rnd(state, 14) == 0:
        old_bytes = np.int64(0)
    bad = rnd(state, 200)
    if bad == 0:
        new_bytes = odd_length(state, new)
    elif bad == 1:
        old_bytes = odd_length(state, n)
    elif bad == 2:
        addr = odd_address(state, addr)
    elif bad == 3:
        target = odd_address(state, target)
    elif bad == 4:
        flags = rnd(state, 16)
        if flags & 2 and target == 0:  # page 0 is outside of the window, but root may map it
            target = WINDOW_BASE + to * PAGE
    reach = (new_bytes + PAGE - 1) // PAGE if 0 < new_bytes < 1 << 32 else new
    if to + reach > nr_pages - 1 and target == WINDOW_BASE + to * PAGE:  # nothing reaches over the window's fence
        target = WINDOW_BASE + (nr_pages - 1 - reach) * PAGE
    row[2], row[3], row[4], row[5], row[6] = addr, old_bytes, new_bytes, flags, target
    return start, n, to, new


@jit
def range_row(row, state, recent, spans, nr_pages):  # type: ignore[no-untyped-def]
    start, n = pick(state, recent, spans, nr_pages)
    addr, size = WINDOW_BASE + start * PAGE, n * PAGE
    bad = rnd(state, 250)
    if bad == 0:
        size = odd_length(state, n)
        if size >= np.int64(1) << 40:  # it would walk what lies behind the window
            size = np.int64(-1)
    elif bad == 1:
        addr = odd_address(state, addr)
    elif bad == 2:
        size = np.int64(0)
    row[2], row[3] = addr, size
    return start, n


@jit
def fill_program(  # type: ignore[no-untyped-def]
    rows, state, spans, nr_pages, heap, seal, map_count, advice, kinds, profiles, share
):
    """One program into `rows`: its start, then random operations."""
    recent = np.zeros((RECENT + 1, 2), np.int64)
    profile = weighted(state, share)
    # Large folios are not modelled: what MADV_HUGEPAGE makes of a file on disk does not occur.
    huge = state[0] >> np.uint64(62) == 0
    # Nor what reading ahead makes of holes behind a page that was paged out while it was dirty: where pages are paged
    # out the file on disk gets no holes, and nothing of it is written back.
    out = rnd(state, 2) == 0
    rows[0, 0] = OP_START
    begin = 1
    if map_count and len(rows) > 1:
        profile = LIMITS
        rows[1, 0] = OP_MAP_COUNT
        rows[1, 2] = 5 + rnd(state, 14)
        begin = 2
    large = rnd(state, 3) if nr_pages > 4 * HUGE_PAGES else np.int64(0)  # mappings of huge pages' size to come
    ends = np.array([8, 4, 6], np.int64) * PAGE  # of each file, as ftruncate has set it
    last = np.zeros(2, np.int64)  # the file whose size changed last, and its end
    disk = np.zeros(2, np.int64)  # where the file on disk was mapped last, to be written back
    child = False
    head = rnd(state, RECENT)
    if rnd(state, 4) == 0:
        recent[0, 0], recent[0, 1] = heap, 1 + rnd(state, 4)  # what the heap will be
    for i in range(begin, len(rows)):
        row = rows[i]
        op = kinds[weighted(state, profiles[profile])]
        if map_count and op == OP_FORK:
            op = np.int64(OP_MPROTECT)
        if op == OP_MSEAL and not seal:
            op = np.int64(OP_MADVISE)
        if i < 6 and i >= begin and op != OP_MMAP and rnd(state, 3) > 0:
            op = np.int64(OP_MMAP)
        who = np.int64(0)
        if child and rnd(state, 100) < 45:
            who = np.int64(1)
        start, n = np.int64(0), np.int64(0)
        if op == OP_MMAP:
            start, n = mmap_row(row, state, recent, spans, nr_pages, profile, huge, disk, last)
            if large > 0 and rnd(state, 25) == 0:
                large -= 1
                n = np.int64(0)
                row[3] = whole_huge_pages(state)
                row[5] &= ~np.int64(UAPI_MAP_FIXED | UAPI_MAP_FIXED_NOREPLACE | UAPI_MAP_GROWSDOWN)
                row[2] = row[2] if rnd(state, 8) == 0 else 0
                if row[6] == -1:  # the model's files are not so long
                    row[5] = row[5] & ~np.int64(UAPI_MAP_SHARED_VALIDATE) | UAPI_MAP_PRIVATE
        elif op == OP_MREMAP:
            start, n, to, new = mremap_row(row, state, recent, spans, nr_pages)
            if large > 0 and rnd(state, 25) == 0 and row[5] & 6 == 0:
                large -= 1
                row[4] = whole_huge_pages(state)
                row[5] = 1
                new = np.int64(0)
            if rnd(state, 2) == 0:
                start, n = to, new
        elif op in (OP_READ, OP_WRITE):
            start, n = pick(state, recent, spans, nr_pages)
            page = start + rnd(state, n)
            if profile == FILES and disk[1] > 0 and rnd(state, 6) == 0:
                page = disk[0] + rnd(state, disk[1])
            if profile == STACKS and rnd(state, 3) == 0:
                page = max(np.int64(1), start - 1 - rnd(state, 3))
            row[2] = WINDOW_BASE + page * PAGE
            if op == OP_WRITE:
                row[3] = 1 + rnd(state, 255)
            n = np.int64(0)
        elif op == OP_BRK:
            r = rnd(state, 12)
            if r == 0:
                row[2] = 0
            elif r == 1:
                row[2] = WINDOW_BASE + (heap - 1) * PAGE
            elif r < 4:
                row[2] = WINDOW_BASE + heap * PAGE + rnd(state, 16 * PAGE)
            else:
                row[2] = WINDOW_BASE + (heap + rnd(state, 18)) * PAGE
            who = who if rnd(state, 4) == 0 else np.int64(0)
            if r > 1:  # the heap as it may be now, and what lies behind it
                start, n = heap, (row[2] - WINDOW_BASE) // PAGE - heap
        elif op == OP_FORK:
            who = np.int64(0)
            child = True
        elif op == OP_EXIT:
            who = np.int64(1)
            child = False
        elif op == OP_FTRUNCATE:
            row[2] = some_file(state)
            r = rnd(state, 12)
            if r < 4 and 0 <= row[2] < 3:  # as many pages as it has, if nothing else made it longer
                row[3] = (ends[row[2]] + PAGE - 1) // PAGE * PAGE
                if r > 0 and row[3] > 0:
                    row[3] -= rnd(state, PAGE)
            else:
                # where more is read ahead there are large folios, of parts of which the text knows nothing
                row[3] = rnd(state, 7 if r < 7 else 13 if r < 9 or row[2] == 2 else 60) * PAGE
                if rnd(state, 3) == 0:
                    row[3] += 1 + rnd(state, PAGE - 1)
            if out and row[2] == 2:
                row[3] = min(row[3], ends[2])
            if 0 <= row[2] < 3:
                ends[row[2]] = row[3]
                last[0], last[1] = row[2], row[3]
            if rnd(state, 60) == 0:
                row[3] = np.int64(-1)
        elif op == OP_PWRITE:
            row[2] = some_file(state)
            row[3] = rnd(state, 12) if rnd(state, 60) > 0 else np.int64(-1)
            if last[1] > 0 and rnd(state, 3) == 0:
                row[2] = last[0]
            if 0 <= row[2] < 3 and rnd(state, 3) == 0:  # at the end
                row[3] = max(np.int64(0), (ends[row[2]] + PAGE - 1) // PAGE - rnd(state, 3))
                row[3] = min(row[3], np.int64(12 if row[2] == 2 else 59))
            if out and row[2] in (2, 5) and row[3] * PAGE >= ends[2]:
                row[2] = 0
            if 0 <= row[2] < 3 and row[3] >= 0:
                ends[row[2]] = max(ends[row[2]], row[3] * PAGE + 1)
            row[4] = 1 + rnd(state, 255)
        elif op == OP_RLIMIT_AS:
            row[2] = rnd(state, 24) if rnd(state, 3) > 0 else np.int64(-1)
        elif op == OP_MLOCKALL:
            row[2] = 2 + 4 * rnd(state, 2)
            if rnd(state, 8) == 0:
                row[2] = 8 if rnd(state, 2) == 0 else 4
        elif op != OP_MUNLOCKALL:
            start, n = range_row(row, state, recent, spans, nr_pages)
            if op == OP_MPROTECT:
                row[4] = rights(state)
                bad = rnd(state, 300)
                if bad == 0:
                    row[4] |= np.int64(1) << (3 + rnd(state, 5))
                elif bad == 1:
                    row[4] |= np.int64(1) << (24 + rnd(state, 2))
                elif bad == 2:
                    row[4] |= np.int64(3) << 24
            elif op == OP_MADVISE:
                row[4] = advice[rnd(state, len(advice))]
                if profile == FILES and rnd(state, 2) == 0:
                    row[4] = FILE_ADVICE[rnd(state, len(FILE_ADVICE))]
                if row[4] == MADV_HUGEPAGE and not huge:
                    row[4] = MADV_NOHUGEPAGE
                if row[4] == MADV_PAGEOUT and not out:
                    row[4] = MADV_COLD
                if row[4] == MADV_REMOVE and out:
                    row[4] = MADV_DONTNEED
                if rnd(state, 200) == 0:
                    row[4] = 26 + rnd(state, 60)
            elif op == OP_MLOCK2:
                row[4] = rnd(state, 2) if rnd(state, 20) > 0 else 2 + rnd(state, 4)
            elif op == OP_MSYNC:
                row[4] = rnd(state, 4)
                sync = rnd(state, 40)  # MS_SYNC of the file on disk waits for the disk
                if sync < 2:
                    row[4] = 4 + rnd(state, 3)
                elif sync == 2:
                    row[4] = 8
                if profile == FILES and disk[1] > 0 and rnd(state, 4) == 0:
                    start, n = disk[0], disk[1]
                    row[2], row[3], row[4] = WINDOW_BASE + start * PAGE, n * PAGE, MS_SYNC
                if out:
                    row[4] &= ~np.int64(MS_SYNC)
            elif op == OP_MSEAL and rnd(state, 10) == 0:
                row[4] = 1
        row[0], row[1] = op, who
        if n > 0:
            recent[head, 0], recent[head, 1] = start, n
            recent[RECENT, 0], recent[RECENT, 1] = start, n
            head = (head + 1) % RECENT


@jit
def fill(  # type: ignore[no-untyped-def]
    rows, seed, first_program, program_ops, spans, nr_pages, heap, seal, map_count_every, advice, kinds, profiles, share
):
    """Whole programs; each has a state of its own, made of the seed and its number."""
    n = len(rows) // (program_ops + 1)
    state = np.zeros(1, np.uint64)
    for k in range(n):
        number = first_program + k
        state[0] = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(number) * np.uint64(0xA0761D6478BD642F)
        rnd(state, 2)
        few = map_count_every > 0 and number % map_count_every == 150 % map_count_every
        part = rows[k * (program_ops + 1) : (k + 1) * (program_ops + 1)]
        fill_program(part, state, spans, nr_pages, heap, seal, few, advice, kinds, profiles, share)


def programs(plan: Plan, first: int, count: int, seal: bool = True) -> Int64:
    """`count` programs from number `first` on: int64 (count * (program_ops + 1), 8), see mm/opcodes.py.

    The first row of each program is OP_START.  `seal`: whether mseal may be used.
    """
    g = plan.geometry
    rows = np.zeros((count * (plan.program_ops + 1), ROW), np.int64)
    fill(
        rows, plan.seed, first, plan.program_ops, np.array(g.spans, np.int64), g.nr_pages, g.heap_page, seal,
        plan.map_count_every, ADVICE_TABLE, KINDS, PROFILES, PROFILE_SHARE,
    )  # fmt: skip
    return rows
