"""Random sequences of mmap, munmap and mprotect against a dictionary of pages."""

from __future__ import annotations

import random

import pytest
from maps import (
    NONE,
    PAGES,
    RW,
    R,
    check_all,
    live,
    machine,
    mmap,
    mmap_file,
    mprotect,
    munmap,
    touch,
    vmas,
)

from seqfault.kernel import Machine, the
from seqfault.mm.types import ENOMEM, VM_SHARED, anon_vma, anon_vma_chain, faults_left, vm_area_struct

Page = tuple[int, int, int]  # flags, file (0: none), offset


@pytest.fixture
def m():
    with machine() as it:
        yield it


class Reference:
    """What each page should be, page by page; knows nothing of VMAs."""

    def __init__(self) -> None:
        self.page: dict[int, Page] = {}

    def mmap(self, a: int, b: int, flags: int, f: int, pgoff: int) -> None:
        for p in range(a, b):
            self.page[p] = (flags, f, pgoff + p - a if f else p)

    def munmap(self, a: int, b: int) -> None:
        for p in range(a, b):
            self.page.pop(p, None)

    def mprotect(self, a: int, b: int, prot: int) -> int:
        for p in range(a, b):
            if p not in self.page:
                return -ENOMEM
            flags, f, off = self.page[p]
            self.page[p] = (flags & ~7 | prot, f, off)
        return 0

    def runs(self) -> list[tuple[int, int, Page]]:
        """Maximal runs of pages that one VMA could hold."""
        out: list[tuple[int, int, Page]] = []
        for p in sorted(self.page):
            flags, f, off = self.page[p]
            if out:
                a, b, (fl, ff, o) = out[-1]
                if b == p and (fl, ff, o + b - a) == (flags, f, off):
                    out[-1] = (a, p + 1, (fl, ff, o))
                    continue
            out.append((p, p + 1, (flags, f, off)))
        return out


def pages_of_vmas() -> dict[int, Page]:
    out: dict[int, Page] = {}
    for v in vmas():
        for p in range(int(v.vm_start), int(v.vm_end)):
            assert p not in out
            out[p] = (int(v.vm_flags), v.vm_file.k_v, int(v.vm_pgoff) + p - int(v.vm_start))
    return out


def random_range(rng: random.Random) -> tuple[int, int]:
    a = rng.randrange(PAGES)
    return a, min(PAGES, a + rng.randint(1, 6))


def random_step(m: Machine, rng: random.Random, ref: Reference, failing: bool) -> None:
    a, b = random_range(rng)
    kind = rng.choice(["mmap", "mmap", "file", "munmap", "mprotect", "mprotect", "mprotect"])
    if kind == "mprotect" and ref.page and rng.random() < 0.5:  # exactly one VMA
        v = rng.choice(vmas())
        a, b = int(v.vm_start), int(v.vm_end)
    prot = rng.choice([NONE, R, RW, RW])
    before = dict(ref.page)
    if failing and rng.random() < 0.5:
        the(faults_left).n = 1
        m.choices = [0] * rng.randrange(4) + [1]
    if kind == "mmap":
        got = mmap(a, b, prot)
        ref.mmap(a, b, prot, 0, 0)
        want = a
    elif kind == "file":
        f, shared = rng.randint(1, 2), rng.random() < 0.5
        pgoff = a + rng.choice([0, 0, 0, 2])
        got = mmap_file(a, b, prot, pgoff, shared, f - 1)
        ref.mmap(a, b, prot | (VM_SHARED if shared else 0), f, pgoff)
        want = a
    elif kind == "munmap":
        got, want = munmap(a, b), 0
        ref.munmap(a, b)
    else:
        got, want = mprotect(a, b, prot), ref.mprotect(a, b, prot)
    failed = failing and the(faults_left).n == 0 and not m.choices
    the(faults_left).n, m.choices = 0, []
    now = pages_of_vmas()
    if not failed or got >= 0:
        assert got == want
        assert now == ref.page
        return
    # It ran out of memory: what it had done by then stays.
    assert got == -ENOMEM
    for p in set(before) | set(now):
        old, new = before.get(p), now.get(p)
        if a <= p < b and kind in ("mmap", "file"):
            assert new in (old, None)
        elif a <= p < b and kind == "mprotect":
            assert new in (old, ref.page.get(p))
        else:
            assert new == old
    ref.page = now


def test_random_untouched() -> None:
    """Without anon_vmas all that can be merged is merged, after every operation; and each case occurs."""
    seen: set[str] = set()
    for seed in range(8):
        rng = random.Random(seed)
        ref = Reference()
        with machine() as m:
            for _ in range(200):
                random_step(m, rng, ref, False)
                got = []
                for v in vmas():
                    what = int(v.vm_flags), v.vm_file.k_v, int(v.vm_pgoff)
                    got.append((int(v.vm_start), int(v.vm_end), what))
                assert got == ref.runs()
                check_all(m)
            seen |= set(m.counters)
    assert {f"vma_merge/case{i}" for i in range(1, 9)} <= seen


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_random_touched(m, seed, failing) -> None:
    rng = random.Random(100 + seed)
    ref = Reference()
    for _ in range(250):
        random_step(m, rng, ref, failing)
        check_all(m)
        if ref.page and rng.random() < 0.5:
            touch(rng.choice(list(ref.page)))
            check_all(m)
    munmap(0, PAGES)
    check_all(m)
    assert live(m, anon_vma) == live(m, anon_vma_chain) == live(m, vm_area_struct) == 0
