"""The places of mm/mmap.c, mm/mprotect.c: which are passed, in which order, with which VMAs."""

from __future__ import annotations

from maps import RW, RX, R, check_all, machine, mmap, mprotect, munmap, the_file, touch, vmas

from seqfault.kernel import NULL, Machine, Protocol, kmem_cache_free, the
from seqfault.kernel.places import Place
from seqfault.mm import merge, stack
from seqfault.mm import mmap as mmap_c
from seqfault.mm import mprotect as mprotect_c
from seqfault.mm import vma as vma_c
from seqfault.mm.places import vm_area_free, vma_adjust_next_fput, vma_adjust_next_free
from seqfault.mm.stack import expand_downwards
from seqfault.mm.types import MAP_FIXED, MAP_GROWSDOWN, MAP_PRIVATE, faults_left


def places_of(*modules) -> set[Place]:
    return {p for m in modules for p in vars(m).values() if isinstance(p, Place)}


def watch(m: Machine) -> list[str]:
    """Record the places that are passed, with the first pages of their VMAs; what they do stays the same."""
    log: list[str] = []

    def recorder(p: Place):
        def record(*args):
            names = []
            for a in args:
                if isinstance(a, int):
                    continue
                if a and a.k_s.name == "vm_area_struct":
                    names.append(str(int(a.vm_start)) if m.state_of(a) == 1 else "freed")
                elif not a:
                    names.append("-")
            log.append(" ".join([p.name, *names]))
            return p.default(*args)

        return record

    for p in places_of(merge, mprotect_c, mmap_c, stack, vma_c):
        if p.name != "validate_mm/check":
            m.binds[p] = recorder(p)
    return log


def test_case1() -> None:
    with machine() as m:
        mmap(2, 4)
        mmap(6, 8)
        log = watch(m)
        mmap(4, 6)
        assert log == [
            "__vma_adjust/begin 2 6",
            "__vma_adjust/locked 2 6",
            "vma_rb_erase/begin",
            "vma_rb_erase/end 6",
            "__vma_adjust/next.free.before 6",
            "__vma_adjust/next.free 6",
            "__vma_adjust/next.free.after freed",
            "__vma_adjust/next.again -",
            "__vma_adjust/next.last 2 -",
            "__vma_adjust/end 2 -",
            "mmap_region/flags.begin 2",
            "mmap_region/flags.end 2",
        ]


def test_case6_goes_round_twice() -> None:
    with machine() as m:
        mmap(2, 4)
        mmap(4, 6, R)
        mmap(6, 8)
        mmap(8, 9, RX)
        log = watch(m)
        mprotect(4, 6, RW)
        removed = [
            "vma_rb_erase/begin",
            "vma_rb_erase/end {0}",
            "__vma_adjust/next.free.before {0}",
            "__vma_adjust/next.free {0}",
            "__vma_adjust/next.free.after freed",
        ]
        assert log == [
            "__vma_adjust/begin 2 4",
            "__vma_adjust/locked 2 4",
            *[x.format(4) for x in removed],
            "__vma_adjust/next.again 6",
            "__vma_adjust/again 2 6",
            "__vma_adjust/locked 2 6",
            *[x.format(6) for x in removed],
            "__vma_adjust/next.again 8",
            "__vma_adjust/next.last 2 8",
            "__vma_adjust/end 2 8",
            "mprotect_fixup/begin 2",
            "mprotect_fixup/end 2",
        ]


def test_case8_of_a_file_ends_with_the_same_vma_twice() -> None:
    from seqfault.mm.syscalls import sys_mmap

    with machine() as m:
        for start, prot in ((4, R), (6, RW)):
            sys_mmap(start, 2, prot, MAP_FIXED | MAP_PRIVATE, the_file(), start)
        log = watch(m)
        mprotect(4, 6, RW)
        # Exchanged on entry to the locks; `next` is the VMA that goes, and then the one that stays.
        assert log == [
            "__vma_adjust/begin 4 6",
            "__vma_adjust/locked 6 4",
            "vma_rb_erase/begin",
            "vma_rb_erase/end 4",
            "__vma_adjust/next.fput 4",
            "__vma_adjust/next.free.before 4",
            "__vma_adjust/next.free 4",
            "__vma_adjust/next.free.after freed",
            "__vma_adjust/next.last 4 4",
            "__vma_adjust/end 4 4",
            "mprotect_fixup/begin 4",
            "mprotect_fixup/end 4",
        ]
        check_all(m)


def test_a_failing_clone() -> None:
    with machine() as m:
        mmap(2, 4)
        mmap(6, 8)
        touch(6)
        the(faults_left).n = 1
        m.choices = [1]
        log = watch(m)
        mmap(4, 6)
        assert log[:2] == ["__vma_adjust/begin 2 6", "__vma_adjust/error 2 6"]
        assert log[2:5] == ["vm_area_alloc/end 4", "mmap_region/link 4", "__vma_link_rb/init 4"]


def test_split_unmap_and_grow() -> None:
    with machine() as m:
        mmap(2, 6)
        log = watch(m)
        munmap(4, 6)
        assert log == [
            "__vma_adjust/begin 2 -",
            "__vma_adjust/locked 2 -",
            "__vma_link_rb/init 4",
            "__vma_link_rb/begin",
            "__vma_link_rb/end",
            "__vma_link_rb/store 4",
            "__vma_adjust/end 2 -",
            "do_munmap/detach.begin 4",
            "vma_rb_erase/begin",
            "vma_rb_erase/end 4",
            "do_munmap/detach.end",
            "remove_vma/free 4",
        ]
        mmap(8, 9, RW, MAP_GROWSDOWN)
        log.clear()
        assert expand_downwards(vmas()[1], 7) == 0
        names = ("lock 8", "begin 8", "end 7", "store 7")
        assert log == [f"expand_downwards/{n}" for n in names]


def test_frees_can_be_deferred() -> None:
    """What a protocol with RCU does: nothing is dropped or freed until it says so."""
    later = []
    proto = Protocol("deferred")

    @proto.at(vma_adjust_next_fput)
    def keep_file(next):
        pass

    @proto.at(vma_adjust_next_free, vm_area_free)
    def defer(vma):
        later.append(vma)

    from seqfault.mm.syscalls import sys_mmap

    with machine() as m:
        m.binds.update(proto.binds)
        for start in (2, 6, 4):
            sys_mmap(start, 2, RW, MAP_FIXED | MAP_PRIVATE, the_file(), start)
        munmap(2, 8)
        assert vmas() == [] and len(later) == 2
        assert the_file().f_count == 2 and the_file().i_mmap_vmas == 0
        for v in later:
            assert v.vm_file != NULL
            the_file().f_count -= 1
            kmem_cache_free(v)
        check_all(m)
