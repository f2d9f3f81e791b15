"""The built-in protocols, run sequentially: what they bind, what they count, what they leave behind."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator

import pytest

import seqfault.kernel
import seqfault.mm
from seqfault.kernel import NULL, KernelBug, Machine, Place, WouldBlock, is_live, the
from seqfault.kernel.layout import Layout
from seqfault.kernel.machine import Ptr
from seqfault.kernel.rcu import rcu_agent, srcu_read_lock, srcu_read_unlock, srcu_struct
from seqfault.kernel.spinlock import spin_lock
from seqfault.mm.cpu import touch_read, touch_write
from seqfault.mm.filemap import mm_init
from seqfault.mm.madvise import sys_madvise
from seqfault.mm.syscalls import sys_mmap, sys_mprotect, sys_munmap
from seqfault.mm.tlb import ipi_agent
from seqfault.mm.types import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    SIGSEGV,
    faults_left,
    mm_struct,
)
from seqfault.mm.vma import find_vma, validate_mm
from seqfault.protocols import builtin_names, load
from seqfault.protocols.spf_common import find_vma_srcu, vma_has_changed

R, RW, RX = 1, 3, 5
SEGV = -100 - SIGSEGV
SPECULATIVE = ["spf-seed", "spf-v5", "spf-04-alone", "spf-seed-no-next"]  # RFC v5; the later ones: test_later.py


def machine(name: str, strict: bool = True) -> Machine:
    p = load(name)
    m = Machine(Layout(sizes={"NR_PAGES": 16}, extra=p.fields), binds=p.binds, strict=strict)
    m.agents = [(2, 0, rcu_agent), (3, 0, ipi_agent), (4, 1, ipi_agent)]
    with m:
        mm_init()
    return m


def mmap(start: int, end: int, prot: int = RW) -> int:
    return sys_mmap(start, end - start, prot, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, NULL, 0)


def mprotect(start: int, end: int, prot: int) -> int:
    return sys_mprotect(start, end - start, prot)


def vmas() -> Iterator[Ptr]:
    vma = the(mm_struct).mmap
    while vma:
        yield vma
        vma = vma.vm_next


def odd() -> list[int]:
    """First pages of the VMAs whose count says that a writer is inside."""
    return [int(v.vm_start) for v in vmas() if v.vm_sequence.sequence & 1]


def fallbacks(m: Machine) -> dict[str, int]:
    return {k.split("/")[1]: n for k, n in m.counters.items() if k.startswith("speculative_fallback/")}


# -- what is bound
def text_calls() -> set[str]:
    """Names of the places that some function of the text calls."""
    out = set()
    for pkg in (seqfault.mm, seqfault.kernel):
        for info in pkgutil.iter_modules(pkg.__path__):
            module = importlib.import_module(f"{pkg.__name__}.{info.name}")
            for f in vars(module).values():
                if inspect.isfunction(f) and f.__module__ == module.__name__:
                    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(f)))):
                        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                            p = f.__globals__.get(node.func.id)
                            if isinstance(p, Place):
                                out.add(p.name)
    return out


@pytest.mark.parametrize("name", builtin_names())
def test_bound_places_are_in_the_text(name: str) -> None:
    bound = {p.name for p in load(name).binds}
    assert bound <= text_calls()
    assert bool(bound) == (name != "mmap-sem")


@pytest.mark.parametrize("name", ["spf-seed", "spf-v5"])
def test_the_document_lists_what_is_bound(name: str) -> None:
    p = load(name)
    listed = set()
    for line in p.doc[p.doc.index("\nPlaces") :].splitlines():
        if "nothing: " in line:
            continue  # a place that is left empty on purpose
        function = ""
        line = re.sub(r"^ *\d\d(, \d\d)*: ", "    ", line)
        for word in re.findall(r"[\w.]*/[\w.]+|pte_\w+", line.split("  begin")[0].split("  end")[0]):
            function = word.split("/")[0] or function
            listed.add(function + "/" + word.split("/")[1] if "/" in word else word)
    assert listed == {place.name for place in p.binds}


def test_what_the_variants_differ_in() -> None:
    seed, alone, no_next, v5 = (load(n) for n in ("spf-seed", "spf-04-alone", "spf-seed-no-next", "spf-v5"))
    names = {n: {p.name for p in x.binds} for n, x in zip("sanv", (seed, alone, no_next, v5), strict=True)}
    assert names["s"] - names["a"] == {
        "mmap_region/flags.begin",
        "mmap_region/flags.end",
        "mprotect_fixup/begin",
        "mprotect_fixup/end",
    }
    assert not names["a"] - names["s"]
    assert names["s"] - names["n"] == {"__vma_adjust/next.free.after", "__vma_adjust/next.again"}
    assert names["v"] - names["s"] == {
        "__vma_adjust/locked",
        "__vma_adjust/again",
        "__vma_adjust/next.last",
        "__vma_adjust/next.fput",
        "__vma_adjust/next.free",
        "remove_vma/free",
        "rcu_callback/call",
    }
    assert "expand_downwards/begin" not in names["v"] and "free_pgtables/begin" not in names["v"]  # later
    same = {p.name for p in seed.binds if alone.binds.get(p) is seed.binds[p]}
    assert not {"pte_map_lock", "pte_spinlock"} & same


# -- what runs
def program() -> list[int]:
    """Some of everything; what each operation returns."""
    return [
        mmap(0, 4),
        touch_write(1, 5),  # the first fault of a table is classic
        touch_read(1),
        touch_read(0),  # speculative: zero page
        touch_write(2, 3),  # speculative: a page of its own
        touch_write(0, 7),  # speculative: copies the zero page
        touch_read(0),
        mprotect(1, 2, R),
        touch_read(1),
        touch_write(1, 4),
        mprotect(1, 2, RW),  # case 6
        touch_write(1, 4),  # speculative: the entry is there, read-only
        sys_madvise(0, 1),
        touch_read(0),  # speculative
        sys_munmap(2, 2),
        touch_read(2),
        touch_read(1),
    ]


EXPECTED = [0, 0, 5, 0, 0, 0, 7, 0, 5, SEGV, 0, 0, 0, 0, 0, SEGV, 4]


@pytest.mark.parametrize("name", ["mmap-sem", *SPECULATIVE])
def test_a_small_program(name: str) -> None:
    m = machine(name, strict=False)
    with m:
        assert program() == EXPECTED
        m.settle()
        validate_mm(the(mm_struct))
        assert [(int(v.vm_start), int(v.vm_end)) for v in vmas()] == [(0, 2)]
        if name == "mmap-sem":
            assert not m.violations and not any(k.startswith("speculative") for k in m.counters)
            return
        assert not odd()
    p = load(name)
    assert m.counters[p.speculative] == 5
    assert fallbacks(m) == {"pmd_changed": 1, "vma_access": 1, "vma_none": 1}
    kinds = {k for k, _ in m.violations}
    assert kinds == ({"use-after-free"} if name in ("spf-seed", "spf-04-alone") else set())


CASES = {
    1: [(2, 4, RW), (6, 8, RW), (4, 6, RW)],
    2: [(2, 4, RW), (4, 6, RW)],
    3: [(6, 8, RW), (4, 6, RW)],
    4: [(2, 6, RW), (6, 8, R), (4, 6, R)],
    5: [(2, 4, RW), (4, 8, R), (4, 6, RW)],
    6: [(2, 4, RW), (4, 6, R), (6, 8, RW), (4, 6, RW)],
    7: [(2, 4, RW), (4, 6, R), (6, 8, RX), (4, 6, RW)],
    8: [(2, 4, RX), (4, 6, R), (6, 8, RW), (4, 6, RW)],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SPECULATIVE)
def test_counts_and_frees_of_each_merge_case(name: str, case: int) -> None:
    m = machine(name, strict=False)
    with m:
        *maps, last = CASES[case]
        for start, end, prot in maps:
            mmap(start, end, prot)
        if case in (1, 2, 3):
            mmap(*last)
        else:
            assert mprotect(*last) == 0
        m.settle()
        assert m.counters[f"vma_merge/case{case}"] == 1
        posted = name in ("spf-seed", "spf-04-alone")
        # 04 ends the count of the VMA that survives case 8 twice.
        assert odd() == ([4] if posted and case == 8 else [])
        freed = {1: 1, 6: 2, 7: 1, 8: 1}.get(case, 0)
        assert m.violations == m.violations[:freed] if posted else not m.violations
        assert len(m.violations) == (freed if posted else 0)


@pytest.mark.parametrize("name", SPECULATIVE)
def test_the_error_return_of_vma_adjust(name: str) -> None:
    """Case 1 with an anon_vma only in `next`: cloning it fails.  04 has begun by then, 05 has not."""
    m = machine(name)
    with m:
        mmap(2, 4)
        mmap(6, 8)
        assert touch_write(7, 1) == 0
        the(faults_left).n = 1
        m.choices = [1]
        assert mmap(4, 6) == 4
        assert the(faults_left).n == 0 and not m.counters["vma_merge/case1"]
        assert [int(v.vm_start) for v in vmas()] == [2, 4, 6]
        assert odd() == {"spf-v5": [], "spf-seed-no-next": [2]}.get(name, [2, 6])


# -- 07
def test_deferred_frees_wait_for_readers() -> None:
    m = machine("spf-v5")
    with m:
        mmap(2, 4)
        vma = find_vma_srcu(the(mm_struct), 3)
        seq = int(vma.vm_sequence.sequence)
        assert not vma_has_changed(vma, seq) and vma_has_changed(vma, seq + 2)
        srcu_read_lock(the(srcu_struct))
        assert sys_munmap(2, 2) == 0
        m.settle()
        assert is_live(vma) and not find_vma(the(mm_struct), 3)
        assert vma_has_changed(vma, int(vma.vm_sequence.sequence))  # dead
        srcu_read_unlock(the(srcu_struct))
        m.settle()
        assert not is_live(vma)


def test_the_seed_frees_at_once() -> None:
    m = machine("spf-seed")
    with m:
        mmap(2, 4)
        vma = find_vma(the(mm_struct), 3)
        srcu_read_lock(the(srcu_struct))
        assert sys_munmap(2, 2) == 0 and not is_live(vma)


def test_the_lookup_waits_while_the_tree_changes() -> None:
    m = machine("spf-v5")
    with m:
        mmap(2, 4)
        the(mm_struct).mm_seq.seqcount.sequence += 1
        with pytest.raises(WouldBlock):
            find_vma_srcu(the(mm_struct), 3)


# -- 08, 09
def test_a_count_that_is_odd_is_not_waited_for() -> None:
    m = machine("spf-v5")
    with m:
        mmap(0, 4)
        touch_write(1, 1)
        find_vma(the(mm_struct), 1).vm_sequence.sequence += 1
        assert touch_write(2, 1) == 0
        assert fallbacks(m) == {"pmd_changed": 1, "vma_changed": 1}


@pytest.mark.parametrize("name", SPECULATIVE)
@pytest.mark.parametrize("page", [1, 2], ids=["pte_spinlock", "pte_map_lock"])
def test_a_held_page_table_lock(name: str, page: int) -> None:
    """09 gives up; 08 spins.  (Sequentially nobody ever gives the lock back.)"""
    m = machine(name)
    with m:
        mmap(0, 4)
        assert touch_read(1) == 0
        table = the(mm_struct).pmd[0]
        m.process = 1
        spin_lock(table.ptl)
        m.process = 0
        with pytest.raises(WouldBlock):  # 09: in the classic fault that follows
            touch_write(page, 1)
        expected = {"pmd_changed": 1} | ({} if name == "spf-04-alone" else {"pte_lock": 1})
        assert fallbacks(m) == expected


def test_no_interrupt_stays_off() -> None:
    m = machine("spf-v5")
    with m:
        program()
        assert not any(m.cells[c.addr] for c in m.layout.cells if c.path in ("irqs_disabled", "disabled"))
        assert all(m.cells[c.addr] == 0 for c in m.layout.cells if c.pool == "vm_fault")


def test_strict_runs_of_the_seed_stop_at_the_use_after_free() -> None:
    m = machine("spf-seed")
    with m:
        mmap(2, 4)
        mmap(6, 8)
        with pytest.raises(KernelBug, match=r"use-after-free: vm_area_struct\[1\] is freed"):
            mmap(4, 6)


def test_no_lock_is_thought_to_be_held() -> None:
    m = machine("spf-v5")
    with m:
        program()
        assert not m.held
