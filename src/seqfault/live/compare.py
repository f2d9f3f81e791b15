"""Two streams of observations, the model's and the kernel's, held against each other.

The format of a record is described in docs/fuzz.md.  Frames and files without a name are compared by classes: in one
record, equal frames on one side must be equal on the other; and an access must keep or change a page's frame on
both sides alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.jit import make_jit
from seqfault.mm.opcodes import (
    MREMAP_FIXED,
    OP_BRK,
    OP_EXIT,
    OP_FORK,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MAP_COUNT,
    OP_MLOCK,
    OP_MLOCK2,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MSYNC,
    OP_MUNLOCK,
    OP_MUNLOCKALL,
    OP_PWRITE,
    OP_READ,
    OP_RLIMIT_AS,
    OP_START,
    OP_WRITE,
    PAGE_SIZE,
    TASK_SIZE_BYTES,
    UAPI_MAP_FIXED,
    UAPI_MAP_FIXED_NOREPLACE,
    WINDOW_BASE,
)

Int64 = NDArray[np.int64]
jit = make_jit("compare", [Path(__file__), Path(__file__).parents[1] / "mm" / "opcodes.py"])

ALIVE0, ALIVE1, DETAIL, MINCORE = 1, 2, 4, 8
VMA_WORDS, TOTAL_WORDS, DETAIL_WORDS = 5, 9, 7
PRESENT, EXCLUSIVE, FILE, GUARD, ZERO, CONTENT = 1, 2, 4, 8, 16, 32
OUTSIDE = -2001  # the model's result where it cannot say anything (mm/uapi.py)
# Operations that leave each present page its frame, or copy it: a copy is made before the old frame is free.
KEEP = (OP_READ, OP_WRITE, OP_MLOCK, OP_MLOCK2, OP_MUNLOCK, OP_MADVISE, OP_MPROTECT, OP_FORK, OP_EXIT, OP_MSYNC)
FILE_PAGES = 64  # and of longer files it says nothing
LOW = 0xFFFF  # the bits of a page word that are compared as they are; above them stands the frame
# why two records differ
SAME, RESULT, ALIVE, VMAS, VMA, FILES, PAGE, FRAMES, KEPT, MINCORES, DETAILS, SHAPE, TOTALS, MARKS = range(14)
WHAT = {
    RESULT: "result",
    ALIVE: "which processes live",
    VMAS: "number of VMAs",
    VMA: "a VMA",
    FILES: "which files VMAs share",
    PAGE: "a page",
    FRAMES: "which pages share a frame",
    KEPT: "whether the access kept the page's frame",
    MINCORES: "mincore's vector",
    DETAILS: "flags or page counts of a VMA (smaps)",
    SHAPE: "the length of the record",
    TOTALS: "totals of the process (status), or what is cached of a file",
    MARKS: "whether a page is unevictable, or locked (kpageflags)",
}


@dataclass(frozen=True)
class Mask:
    """What is not compared: `page`: bits of a page word that are (LOW but for those masked); `frames`: whether frames
    are; `detail`: which of the seven words of a VMA's details are (a bit each)."""

    page: int = LOW
    frames: bool = True
    detail: int = (1 << DETAIL_WORDS) - 1


@dataclass(frozen=True)
class Mismatch:
    """Where two streams differ first.  `row`: of the batch; `why`: one of the codes above; `model`, `kernel`: the
    words that differ; `process`; `index`: which VMA or page of the observed."""

    row: int
    why: int
    process: int
    index: int
    model: int
    kernel: int

    @property
    def what(self) -> str:
        return WHAT[self.why]


@jit
def same_class(a, b, ma, mb, n):  # type: ignore[no-untyped-def]
    """Hold the pair a, b against the n pairs of a bijection: n if it is one of them, n + 1 if it is new, -1 if one of
    the two has another partner."""
    for i in range(n):
        if ma[i] == a or mb[i] == b:
            if ma[i] == a and mb[i] == b:
                return n
            return np.int64(-1)
    ma[n] = a
    mb[n] = b
    return n + 1


@jit
def within(addr, size, window):  # type: ignore[no-untyped-def]
    """Whether [addr, addr + size) lies in the window of so many pages, or where nobody can map anything."""
    end = WINDOW_BASE + window * PAGE_SIZE
    if addr < 0 or addr > TASK_SIZE_BYTES - max(size, 1):
        return True
    return WINDOW_BASE <= addr < end and 0 <= size <= end - addr


@jit
def owed(row, window):  # type: ignore[no-untyped-def]
    """Whether the model has to know the result of an operation: it does not reach out of the window."""
    op, a, b, c, d, e = row[0], row[2], row[3], row[4], row[5], row[6]
    if op in (OP_READ, OP_WRITE):
        return within(a, 1, window)
    if op == OP_MMAP:
        fixed = d & (UAPI_MAP_FIXED | UAPI_MAP_FIXED_NOREPLACE)
        return fixed == 0 or within(a, b, window)
    if op == OP_MREMAP:
        return within(a, b, window) and 0 <= c <= window * PAGE_SIZE and (d & MREMAP_FIXED == 0 or within(e, c, window))
    if op == OP_FTRUNCATE:
        return b <= FILE_PAGES * PAGE_SIZE
    if op == OP_PWRITE:
        return b < FILE_PAGES
    if op in (OP_BRK, OP_MLOCKALL, OP_MUNLOCKALL, OP_RLIMIT_AS, OP_MAP_COUNT, OP_FORK, OP_EXIT, OP_START):
        return True
    return within(a, b, window)


@jit
def compare_rows(ms, mo, ks, ko, rows, n, pages, window, page_mask, frames, detail_mask, out):  # type: ignore[no-untyped-def]
    """The first of n records in which the streams differ, or n.  `out`: why, process, index, model, kernel."""
    ma = np.zeros(4 * pages + 64, np.int64)
    mb = np.zeros(4 * pages + 64, np.int64)
    fa = np.zeros(256, np.int64)
    fb = np.zeros(256, np.int64)
    before_m = np.zeros((2, pages), np.int64)
    before_k = np.zeros((2, pages), np.int64)
    counts = np.zeros(2, np.int64)
    for r in range(n):
        i, iend = mo[r], mo[r + 1]
        j, jend = ko[r], ko[r + 1]
        out[1] = 0
        out[2] = 0
        if iend - i < 2 or jend - j < 2:
            out[0], out[3], out[4] = SHAPE, iend - i, jend - j
            return r
        if ms[i] != ks[j] and (ms[i] != OUTSIDE or owed(rows[r], window)):
            out[0], out[3], out[4] = RESULT, ms[i], ks[j]
            return r
        if ms[i + 1] != ks[j + 1]:
            out[0], out[3], out[4] = ALIVE, ms[i + 1], ks[j + 1]
            return r
        mask = ms[i + 1]
        i += 2
        j += 2
        known = np.int64(0)
        files = np.int64(0)
        for p in range(2):
            counts[p] = 0
            if not (mask >> p) & 1:
                before_m[p, :] = 0
                before_k[p, :] = 0
                continue
            out[1] = p
            nv = ms[i]
            if nv != ks[j]:
                # say which VMA differs first rather than how many there are
                least = min(nv, ks[j])
                for v in range(least):
                    for w in range(VMA_WORDS):
                        x, y = ms[i + 1 + v * VMA_WORDS + w], ks[j + 1 + v * VMA_WORDS + w]
                        if x != y and not (w == 4 and x >= 100 and y >= 100):
                            out[0], out[2], out[3], out[4] = VMA, v * VMA_WORDS + w, x, y
                            return r
                out[0], out[3], out[4] = VMAS, nv, ks[j]
                return r
            counts[p] = nv
            i += 1
            j += 1
            for v in range(nv):
                for w in range(VMA_WORDS):
                    x, y = ms[i + w], ks[j + w]
                    if w == 4 and x >= 100 and y >= 100:
                        got = same_class(x, y, fa, fb, files)
                        if got < 0:
                            out[0], out[2], out[3], out[4] = FILES, v * VMA_WORDS + w, x, y
                            return r
                        files = got
                    elif x != y:
                        out[0], out[2], out[3], out[4] = VMA, v * VMA_WORDS + w, x, y
                        return r
                i += VMA_WORDS
                j += VMA_WORDS
            for q in range(pages):
                x, y = ms[i + q], ks[j + q]
                if (x ^ y) & page_mask:
                    out[0], out[2], out[3], out[4] = PAGE, q, x, y
                    return r
                if frames and x & PRESENT:
                    if not x & ZERO:
                        got = same_class(x >> 16, y >> 16, ma, mb, known)
                        if got < 0:
                            out[0], out[2], out[3], out[4] = FRAMES, q, x, y
                            return r
                        known = got
                    if rows[r, 0] in KEEP:
                        u, v = before_m[p, q], before_k[p, q]
                        if u & PRESENT and ((u >> 16 == x >> 16) != (v >> 16 == y >> 16)):
                            out[0], out[2], out[3], out[4] = KEPT, q, x, y
                            return r
                before_m[p, q] = x
                before_k[p, q] = y
            i += pages
            j += pages
        if mask & MINCORE:
            nm = ms[i]
            if nm != ks[j]:
                out[0], out[3], out[4] = MINCORES, nm, ks[j]
                return r
            for q in range(1, nm + 1):
                if ms[i + q] != ks[j + q]:
                    out[0], out[2], out[3], out[4] = MINCORES, q - 1, ms[i + q], ks[j + q]
                    return r
            i += nm + 1
            j += nm + 1
        if mask & DETAIL:
            for p in range(2):
                if not (mask >> p) & 1:
                    continue
                for w in range(TOTAL_WORDS):
                    if ms[i + w] != ks[j + w]:
                        out[0], out[1], out[2] = TOTALS, p, w
                        out[3], out[4] = ms[i + w], ks[j + w]
                        return r
                i += TOTAL_WORDS
                j += TOTAL_WORDS
                for q in range(pages):
                    if frames and ms[i + q] != ks[j + q]:
                        out[0], out[1], out[2] = MARKS, p, q
                        out[3], out[4] = ms[i + q], ks[j + q]
                        return r
                i += pages
                j += pages
                for v in range(counts[p]):
                    for w in range(DETAIL_WORDS):
                        if (detail_mask >> w) & 1 and ms[i + w] != ks[j + w]:
                            out[0], out[1], out[2] = DETAILS, p, v * DETAIL_WORDS + w
                            out[3], out[4] = ms[i + w], ks[j + w]
                            return r
                    i += DETAIL_WORDS
                    j += DETAIL_WORDS
        if i != iend or j != jend:
            out[0], out[3], out[4] = SHAPE, iend - i, jend - j
            return r
    return n


def compare(
    rows: Int64,
    model: Int64,
    model_at: Int64,
    kernel: Int64,
    kernel_at: Int64,
    pages: int,
    mask: Mask,
    n: int,
    window: int,
) -> Mismatch | None:
    """The first difference in the records of the first `n` rows, or None.

    `model`, `kernel`: streams of int64; `model_at`, `kernel_at`: where each row's record begins (n + 1 positions);
    `pages`: how many pages are observed; `window`: how many there are.
    """
    out = np.zeros(5, np.int64)
    at = compare_rows(
        model, model_at, kernel, kernel_at, rows, n, pages, window, mask.page, mask.frames, mask.detail, out
    )
    if at == n:
        return None
    return Mismatch(int(at), *(int(x) for x in out))
