"""The protocols after RFC v5: spf-v11, spf-v12, mmap-seq, per-vma-lock, vm-refcnt."""

from __future__ import annotations

import re

import pytest

from seqfault.explore.check import HOLDS, Limits, baseline_of, check_scenario
from seqfault.explore.model import mm_program, program_for
from seqfault.kernel import KernelBug, is_live, kmem_cache_alloc, kmem_cache_free, pool_object, the
from seqfault.kernel.layout import Layout
from seqfault.kernel.machine import Machine
from seqfault.kernel.rcu import rcu_read_lock, rcu_read_unlock
from seqfault.kernel.rwsem import down_read, down_write, downgrade_write, rw_semaphore, up_read
from seqfault.kernel.task import might_sleep
from seqfault.kernel.types import struct
from seqfault.mm.places import unmap_page_range_end
from seqfault.mm.types import mm_struct, vm_area_struct
from seqfault.protocols import load
from seqfault.scenarios import everything, find, parse
from seqfault.scenarios.model import execute, make_machine, parse_line, parse_operation

LATER = ["spf-v11", "spf-v12", "mmap-seq", "per-vma-lock", "vm-refcnt"]
HOLD = ["mmap-seq", "per-vma-lock", "vm-refcnt"]
EXPECTED_ELSEWHERE = [s for s in everything() if s.expect and not s.name.startswith(("argued/", "forever/", "large/"))]


def machine(name: str) -> Machine:
    p = load(name)
    return make_machine(mm_program(p, 2).layout(), p)


def run(m: Machine, *lines: str) -> list[int]:
    out = []
    for line in lines:
        out.append(execute(m, *parse_line(line)))
        m.settle()
    return out


def fallbacks(m: Machine) -> dict[str, int]:
    return {k.split("/")[1]: n for k, n in m.counters.items() if k.startswith("speculative_fallback/")}


# -- what is bound
@pytest.mark.parametrize("name", LATER)
def test_the_document_lists_what_is_bound(name: str) -> None:
    p = load(name)
    listed: set[str] = set()
    for line in p.doc[p.doc.index("\nPlaces:") :].splitlines():
        if "nothing: " in line:
            continue  # a place that is left empty on purpose
        line = re.sub(r"^\d\d: ", "    ", line)
        line = re.split(r"   +(?=\S)", line.strip(), maxsplit=1)[0]  # behind it: what is done there
        function = ""
        for word in re.findall(r"[\w.]*/[\w.]+|pte_\w+", line):
            function = word.split("/")[0] or function
            listed.add(function + "/" + word.split("/")[1] if "/" in word else word)
    assert listed == {place.name for place in p.binds}


# -- what runs
PROGRAM = [
    "mmap 0-4 rw",
    "write 1 5",
    "read 1",
    "read 0",
    "write 2 3",
    "write 0 7",
    "read 0",
    "mprotect 1-2 r",
    "read 1",
    "write 1 4",
    "mprotect 1-2 rw",
    "write 1 4",
    "madvise 0-1 dontneed",
    "read 0",
    "munmap 2-4",
    "read 2",
    "read 1",
]
# The first fault finds no anon_vma (vm-refcnt gets one under mmap_lock) and, of spf-v11, spf-v12 and mmap-seq, no page table;
# the write to page 1 while it is read-only is an error, which only spf-v11 and spf-v12 answer by themselves; page 2 is gone in the end.
SPECULATED = {
    "spf-v11": (6, {"vma_noanon": 1, "vma_access": 1, "vma_none": 1}),
    "spf-v12": (6, {"vma_noanon": 1, "vma_access": 1, "vma_none": 1}),
    "mmap-seq": (5, {"pmd": 1, "access_error": 1, "unmapped": 1}),
    "per-vma-lock": (5, {"vma_noanon": 1, "vma_access": 1, "vma_none": 1}),
    "vm-refcnt": (6, {"vma_access": 1, "vma_none": 1}),
}


@pytest.mark.parametrize("name", LATER)
def test_a_small_program(name: str) -> None:
    m = machine(name)
    with m:
        assert run(m, *PROGRAM) == [0, 0, 5, 0, 0, 0, 7, 0, 5, -111, 0, 0, 0, 0, 0, -111, 4]
        assert not m.violations
    assert (m.counters[load(name).speculative], fallbacks(m)) == SPECULATED[name]


@pytest.mark.parametrize("name", ["mmap-sem-5.1", *LATER[1:]])
def test_munmap_keeps_mmap_sem_for_reading(name: str) -> None:
    """... while it unmaps pages; mmap over others does not."""
    held = []
    p = load(name)
    do = p.binds.get(unmap_page_range_end, unmap_page_range_end.default)

    def end(vma: object) -> None:
        sem = the(mm_struct).mmap_sem
        held.append((int(sem.writer), int(sem.readers)))
        do(vma)

    m = machine(name)
    m.binds = {**m.binds, unmap_page_range_end: end}
    with m:
        run(m, "mmap 1-3 rw", "write 1 1", "munmap 1-3", "mmap 1-3 rw", "write 1 1", "mmap 1-3 r")
        assert held == [(0, 1), (1, 0)]


def test_write_locks_end_all_at_once() -> None:
    m = machine("per-vma-lock")
    with m:
        run(m, "mmap 0-2 rw", "mmap 3-5 rw")
        mm = the(mm_struct)
        before = int(mm.mm_lock_seq.sequence)
        run(m, "mprotect 0-5 r")
        assert mm.mm_lock_seq.sequence == before + 1
        locked = [int(pool_object(vm_area_struct, i).vm_lock_seq) for i in range(2)]
        assert locked[0] == before  # was locked, and is no more


def test_references() -> None:
    """vm_refcnt: 1 while attached, 0 before it is freed; the freed object may still be looked at."""
    m = machine("vm-refcnt")
    with m:
        run(m, "mmap 1-3 rw")
        vma = pool_object(vm_area_struct, 0)
        assert vma.vm_refcnt == 1
        run(m, "munmap 1-3")
        assert not is_live(vma) and vma.vm_refcnt == 0 and not m.violations
        run(m, "mmap 5-6 rw")
        assert pool_object(vm_area_struct, 1).vm_refcnt == 1


def test_a_pool_is_typesafe_by_protocol() -> None:
    safe, not_safe = (Layout([vm_area_struct], {"NR_CPUS": 1, "NR_TASKS": 1}, typesafe=t) for t in (("vm_area_struct",), ()))
    for layout, violations in ((safe, 0), (not_safe, 1)):
        m = Machine(layout, strict=False)
        with m:
            vma = kmem_cache_alloc(vm_area_struct)
            vma.vm_start = 3
            kmem_cache_free(vma)
            assert vma.vm_start == 3
            assert len(m.violations) == violations


# -- the kernel's words
@struct(pool=1)
class later_test_sem:
    sem: rw_semaphore


def test_downgrade_and_rcu() -> None:
    m = Machine(Layout(sizes={"NR_CPUS": 2, "NR_TASKS": 2}), strict=False)
    with m:
        sem = the(later_test_sem).sem
        down_write(sem)
        downgrade_write(sem)
        m.process = 1
        down_read(sem)
        up_read(sem)
        m.process = 0
        up_read(sem)
        assert not m.violations
        downgrade_write(sem)
        assert [k for k, _ in m.violations] == ["release-not-held"]
    m = Machine(Layout(sizes={"NR_CPUS": 2, "NR_TASKS": 2}), strict=False)
    with m:
        rcu_read_lock()
        might_sleep()
        rcu_read_unlock()
        assert [k for k, _ in m.violations] == ["sleep-in-atomic"]


# -- every interleaving
@pytest.mark.parametrize("name", HOLD)
def test_the_argued_scenarios_hold(name: str) -> None:
    """... and in more than half of them a fault succeeded without mmap_sem."""
    results = [check_scenario(load(name), s, Limits(states=2_000_000)) for s in find(["argued"])]
    assert {r.name: r.verdict for r in results if r.verdict != HOLDS} == {}
    assert sum(r.speculative_successes > 0 for r in results) > len(results) / 2


@pytest.mark.parametrize("s", EXPECTED_ELSEWHERE, ids=[s.name for s in EXPECTED_ELSEWHERE])
def test_verdicts_outside_of_the_suite(s) -> None:  # type: ignore[no-untyped-def]
    for protocol, kinds in s.expect.items():
        r = check_scenario(load(protocol), s, Limits(states=2_000_000))
        assert set(kinds) <= {v.kind for v in r.violations} and bool(kinds) == (r.verdict != HOLDS), protocol


def test_without_type_safety() -> None:
    """reuse/elsewhere: a fault looks at the VMA after it is freed, which is right only as its memory keeps its type."""
    p = load("vm-refcnt").derive("vm-refcnt-unsafe", "frees at once, memory of any type")
    p.typesafe = ()
    r = check_scenario(p, find(["reuse/elsewhere"])[0], Limits(states=2_000_000))
    assert "use-after-free" in {v.kind for v in r.violations}


WITHOUT = [
    # commit 657b5146955e and its kin: what each line of 6.4 is for
    ("per-vma-lock", "vma_prepare/vma/vma_start_write", "case3/apart-next-warm-write", "wrong-reverse-map"),
    ("per-vma-lock", "vma_prepare/adj_next/vma_start_write", "case5/taken-warm-write", "entry-exceeds-vma"),
    ("per-vma-lock", "vma_start_read/check.3", "munmap/both-two-page1-warm-read", "stale-tlb"),
    ("per-vma-lock", "__lock_vma_under_rcu/vma_bounds", "case5/taken-warm-write", "entry-exceeds-vma"),
    ("per-vma-lock", "lock_vma_under_rcu/rcu_read_lock", "munmap/all-one-page2-cold-read", "use-after-free"),
    # commit c137381f71ae: a stack that grows is locked
    ("per-vma-lock", "expand_downwards/lock/vma_start_write", "linux-4.12/fault-above-write", "wrong-reverse-map"),
    ("vm-refcnt", "expand_downwards/lock/vma_start_write", "linux-4.12/fault-above-write", "wrong-reverse-map"),
]


@pytest.mark.parametrize("name,site,scenario,kind", WITHOUT, ids=[f"{n}-{s}" for n, s, _, _ in WITHOUT])
def test_what_a_line_is_for(name: str, site: str, scenario: str, kind: str) -> None:
    s = find([scenario])[0]
    assert check_scenario(load(name), s, Limits(states=1_000_000)).verdict == HOLDS
    assert kind in {v.kind for v in check_scenario(load(f"{name}-without={site}"), s, Limits(states=1_000_000)).violations}


BARRIERS = [
    # commit b1f02b95758d
    ("per-vma-lock", "vma_start_read/smp_load_acquire"),
    ("per-vma-lock", "mmap_write_unlock/begin/smp_store_release"),
    ("vm-refcnt", "vma_start_read/smp_load_acquire"),
    ("vm-refcnt", "refcount_inc_not_zero_limited_acquire/cmpxchg_acquire"),
    ("vm-refcnt", "mmap_write_unlock/begin/smp_wmb"),
]


@pytest.mark.parametrize("name,site", BARRIERS, ids=[f"{n}-{s}" for n, s in BARRIERS])
def test_orderings_of_the_numbers(name: str, site: str) -> None:
    """Under the kernel's memory model; none of them shows under sc."""
    s = find(["case5/taken-warm-write"])[0]
    limits = Limits(states=200_000)
    assert check_scenario(load(name), s, limits, memory="lkmm").verdict == HOLDS
    without = load(f"{name}-without={site}")
    assert check_scenario(without, s, limits).verdict == HOLDS
    kinds = {v.kind for v in check_scenario(without, s, limits, memory="lkmm").violations}
    # vm_pgoff is loaded behind an unlock and a lock of the fault, which order the load of the number before it
    more = set() if site == "vma_start_read/smp_load_acquire" else {"wrong-reverse-map"}
    assert {"entry-exceeds-vma"} | more <= kinds


def test_a_grace_period_orders_under_lkmm() -> None:
    """Who begins an RCU section after it sees the VMA gone."""
    s = find(["munmap/all-one-page2-warm-write"])[0]
    assert check_scenario(load("per-vma-lock"), s, Limits(states=200_000), memory="lkmm").verdict == HOLDS


@pytest.mark.parametrize("name", ["mmap-sem-6.4", "per-vma-lock"])
def test_a_lock_that_is_taken_out_is_not_downgraded_either(name: str) -> None:
    s = parse('name = "t/alone"\nsetup = ["mmap 1-3 rw", "write 1 1"]\ncpus = [["munmap 1-3"]]\n', "t.toml")[0]
    assert check_scenario(load(f"{name}-without=sys_munmap/down_write"), s).verdict == HOLDS


V12 = [
    ("argued/index-torn", "wrong-reverse-map"),
    ("argued/madvise-madvise", "sequence-left-odd"),
    ("argued/clone-fails", "sequence-left-odd"),
    ("mprotect/across-two-page1-read-write", "new-outcome"),
]


@pytest.mark.parametrize("scenario,kind", V12)
def test_what_v12_leaves(scenario: str, kind: str) -> None:
    """docs/findings.md, 12."""
    r = check_scenario(load("spf-v12"), find([scenario])[0], Limits(states=1_000_000))
    assert kind in {v.kind for v in r.violations}


def test_a_protocol_is_held_against_its_release() -> None:
    """munmap ends in other ways since 4.20: a fault may get its signal while the page can still be read."""
    s = find(["munmap/all-one-page2-read-write"])[0]
    older, newer = (baseline_of(s, Limits(), release=r)[0] for r in ("4.12", "6.4"))
    assert len(newer - older) > 0
    assert program_for(load("per-vma-lock"), s).sizes["LINUX"] == 604
    assert check_scenario(load("per-vma-lock"), s).verdict == HOLDS


def test_sizes_of_a_scenario() -> None:
    s = find(["reuse/elsewhere"])[0]
    assert program_for(load("vm-refcnt"), s).layout().pools["vm_area_struct"].n == 1
    m = make_machine(program_for(load("vm-refcnt"), s).layout(), load("vm-refcnt"))
    with m, pytest.raises(KernelBug, match="pool-exhausted"):
        for line in ("mmap 0-1 rw", "mmap 5-6 rw"):
            execute(m, 0, parse_operation(line))
