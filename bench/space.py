"""AddressSpace: 10^6 calls over 10^5 VMAs, and plain Python repeating a sample of them.

    python bench/space.py [--calls N] [--vmas N] [--sample N] [--release X.Y]

Each VMA stands alone at first (every other page is free); then calls at random places map into the gaps at fixed
addresses, at hints and where the kernel chooses, unmap, protect, advise, move, read and write.  The sample is done again
by plain Python from the memory that the machine code had then, and all cells of memory must be equal after each piece.
"""

from __future__ import annotations

import argparse
import mmap
import resource
import time

import numpy as np

from seqfault.mm.opcodes import (
    MADV_DONTNEED,
    MREMAP_MAYMOVE,
    OP_MADVISE,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNMAP,
    OP_READ,
    OP_WRITE,
    PAGE_SIZE,
)
from seqfault.space import AddressSpace

RW = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
FIXED = PRIVATE | 0x10


def fill(space: AddressSpace, base: int, vmas: int) -> float:
    """`vmas` VMAs of two pages with two free pages behind each; the time that it took."""
    rows = np.zeros((vmas, 8), np.int64)
    rows[:, 0] = OP_MMAP
    rows[:, 2] = base + np.arange(vmas) * 4 * PAGE_SIZE
    rows[:, 3] = 2 * PAGE_SIZE
    rows[:, 4] = RW
    rows[:, 5] = FIXED
    rows[:, 6] = -1
    t = time.process_time()
    assert (space.run(rows) >= 0).all()
    return time.process_time() - t


def calls(r: np.random.Generator, base: int, vmas: int, n: int) -> np.ndarray:
    """`n` calls at random places; about as many map as unmap."""
    rows = np.zeros((n, 8), np.int64)
    kind = r.integers(0, 16, n)
    rows[:, 2] = base + r.integers(0, 4 * vmas, n) * PAGE_SIZE
    rows[:, 3] = r.integers(1, 4, n) * PAGE_SIZE
    for k, op in enumerate(
        [OP_MMAP] * 6 + [OP_MUNMAP] * 3 + [OP_MPROTECT] * 2 + [OP_MADVISE, OP_MREMAP, OP_READ] + [OP_WRITE] * 2
    ):
        rows[kind == k, 0] = op
    maps = rows[:, 0] == OP_MMAP
    rows[maps, 4] = RW
    rows[maps, 5] = np.where(kind[maps] < 3, FIXED, PRIVATE)  # three fixed, two hints, one without
    rows[kind == 5, 2] = 0
    rows[maps, 6] = -1
    rows[rows[:, 0] == OP_MPROTECT, 4] = r.choice([0, mmap.PROT_READ, RW], (rows[:, 0] == OP_MPROTECT).sum())
    rows[rows[:, 0] == OP_MADVISE, 4] = MADV_DONTNEED
    moves = rows[:, 0] == OP_MREMAP
    rows[moves, 3], rows[moves, 4], rows[moves, 5] = PAGE_SIZE, 2 * PAGE_SIZE, MREMAP_MAYMOVE
    rows[rows[:, 0] == OP_WRITE, 3] = 1 + r.integers(0, 255, (rows[:, 0] == OP_WRITE).sum())
    return rows


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--calls", type=int, default=1_000_000)
    p.add_argument("--vmas", type=int, default=100_000)
    p.add_argument("--sample", type=int, default=10_000, help="calls that plain Python repeats")
    p.add_argument("--release", default="6.18")
    a = p.parse_args()
    r = np.random.default_rng(1)

    t = time.perf_counter()
    space = AddressSpace(a.release, vmas=4 * a.vmas, frames=1 << 21, max_map_count=1 << 30)
    print(f"compiled or loaded, and memory reserved: {time.perf_counter() - t:.1f} s")
    base = 0x10_0000_0000
    s = fill(space, base, a.vmas)
    print(f"{a.vmas} VMAs mapped: {a.vmas / s:,.0f} a second")
    rows = calls(r, base, a.vmas, a.calls)
    t = time.process_time()
    results = space.run(rows)
    s = time.process_time() - t
    print(f"{len(rows)} calls: {len(rows) / s:,.0f} a second, {s:.2f} s; {len(space.vmas())} VMAs at the end")
    failed = {int(v): int(n) for v, n in zip(*np.unique(results[results < 0], return_counts=True), strict=True)}
    print(f"  results below zero: {failed}")
    n = min(a.calls, 100_000)
    t = time.process_time()
    for _ in range(n):
        space.mprotect(base, PAGE_SIZE, RW) if results[0] == base else space.brk()
    print(f"{n} calls by methods of AddressSpace: {n / (time.process_time() - t):,.0f} a second")
    t = time.process_time()
    where = space.vmas()[len(space.vmas()) // 2].start
    why = space.explain_merge(where)
    print(f"explain_merge, which does all {space.call_count} calls again: {time.process_time() - t:.2f} s")
    print(f"  {why}")
    sample(a.release, a.sample, r)
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


def sample(release: str, n: int, r: np.random.Generator) -> None:
    """Plain Python on smaller pools, whose every cell it compares: 2,000 VMAs, a window of 16,384 pages."""
    space = AddressSpace(release, pages=1 << 14, vmas=8192, frames=1 << 14, files=2, file_pages=16, processes=2)
    base = space.window_start + PAGE_SIZE
    fill(space, base, 2000)
    pieces = 10
    spent = 0.0
    for _ in range(pieces):
        rows = calls(r, base, 2000, 50 * n // pieces)
        space.run(rows[: -n // pieces])
        t = time.process_time()
        differ = space.plain_python_differs(rows[-n // pieces :])
        spent += time.process_time() - t
        assert not differ, differ
    print(
        f"plain Python repeated {n} calls: {n / spent:,.0f} a second; every cell of memory equal after each {n // pieces}"
    )


if __name__ == "__main__":
    main()
