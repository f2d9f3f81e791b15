"""Calls and checks that the tests of the mm model share."""

from __future__ import annotations

from collections import Counter

from seqfault.kernel import NULL, Machine, pool_object, the
from seqfault.kernel.layout import LIVE, Layout
from seqfault.kernel.machine import Ptr
from seqfault.mm.anon_vma import anon_vma_prepare
from seqfault.mm.syscalls import sys_mmap, sys_mprotect, sys_munmap
from seqfault.mm.types import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    anon_vma,
    anon_vma_chain,
    file,
    mm_struct,
    vm_area_struct,
)
from seqfault.mm.vma import find_vma, validate_mm, vm_get_page_prot

NONE, R, W, RW, RX = 0, 1, 2, 3, 5
PAGES = 16
SIZES = {
    "NR_PAGES": PAGES,
    "PTRS_PER_PTE": 4,
    "NR_VMAS": 24,
    "NR_ANON_VMAS": 20,
    "NR_AVCS": 32,
    "NR_FILES": 2,
    "PGOFF_MAX": 63,
    "NR_CPUS": 1,
    "NR_TASKS": 4,
}


def the_file(i: int = 0) -> Ptr:
    return pool_object(file, i)


def mmap(start: int, end: int, prot: int = RW, flags: int = 0) -> int:
    return sys_mmap(start, end - start, prot, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | flags, NULL, 0)


def mmap_file(start: int, end: int, prot: int, pgoff: int, shared: bool = False, i: int = 0) -> int:
    how = MAP_SHARED if shared else MAP_PRIVATE
    return sys_mmap(start, end - start, prot, MAP_FIXED | how, the_file(i), pgoff)


def munmap(start: int, end: int) -> int:
    return sys_munmap(start, end - start)


def mprotect(start: int, end: int, prot: int) -> int:
    return sys_mprotect(start, end - start, prot)


def touch(page: int) -> None:
    """What the first fault on an anonymous page does to its VMA."""
    vma = find_vma(the(mm_struct), page)
    assert vma and vma.vm_start <= page
    assert anon_vma_prepare(vma) == 0


def vmas() -> list[Ptr]:
    out, vma = [], the(mm_struct).mmap
    while vma:
        out.append(vma)
        vma = vma.vm_next
    return out


def layout() -> list[tuple[int, int, int]]:
    return [(int(v.vm_start), int(v.vm_end), int(v.vm_flags)) for v in vmas()]


def live(m: Machine, s) -> int:
    pool = m.pool(s)
    return sum(m.cells[pool.base + i * pool.stride] == LIVE for i in range(pool.n))


def subtree(node: Ptr, parent: Ptr) -> tuple[int, list[Ptr]]:
    if not node:
        return 1, []
    rb = node.vm_rb
    assert rb.rb_parent == parent
    assert rb.rb_black or (parent and parent.vm_rb.rb_black)
    a, left = subtree(rb.rb_left, node)
    b, right = subtree(rb.rb_right, node)
    assert a == b
    return a + int(rb.rb_black), [*left, node, *right]


def check_all(m: Machine) -> None:
    """Everything that holds between operations."""
    mm = the(mm_struct)
    validate_mm(mm)
    here = vmas()
    _, tree = subtree(mm.mm_rb, NULL)
    assert tree == here
    assert live(m, vm_area_struct) == len(here) == mm.map_count
    prev = NULL
    entries: Counter[Ptr] = Counter()
    files: Counter[int] = Counter()
    for v in here:
        assert v.vm_prev == prev
        prev = v
        assert v.vm_page_prot == vm_get_page_prot(v.vm_flags)
        assert bool(v.anon_vma) == bool(v.anon_vma_chain)
        if v.anon_vma:
            avc = v.anon_vma_chain
            assert avc.vma == v and avc.anon_vma == v.anon_vma and not avc.next_same_vma
            entries[v.anon_vma] += 1
        if v.vm_file:
            files[v.vm_file.k_v] += 1
        else:
            assert v.vm_pgoff == v.vm_start
    for av, n in entries.items():
        assert av.rb_root == n and av.refcount == 1
        assert av.rwsem.writer == 0 and av.rwsem.readers == 0
    assert live(m, anon_vma) == len(entries)
    assert live(m, anon_vma_chain) == sum(entries.values())
    for i in range(SIZES["NR_FILES"]):
        f = the_file(i)
        assert f.f_count == f.i_mmap_vmas == files[f.k_v]
        assert f.i_mmap_rwsem.writer == 0
    assert mm.mmap_sem.writer == 0 and mm.mmap_sem.readers == 0 and mm.page_table_lock.owner == 0
    assert not m.held


def machine() -> Machine:
    return Machine(Layout(sizes=SIZES))
