"""What shares a line, what is asked for ahead, pages of other sizes, counts of many readers, sleep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seqfault.price import machines, workloads
from seqfault.price.clock import TICKS
from seqfault.price.curves import measure
from seqfault.protocols import load

SKYLAKE = machines.read("skylake-4s")
FAULTS = workloads.make("faults", {"loop": ["keep r1 512 shared", "count r1 0 512", "advise r1 0 512"]}, "test")


def transfers(protocol: str, cpus: int = 64, **costs: float) -> float:
    """Lines that change hands for one fault."""
    mach = replace(SKYLAKE, costs={**SKYLAKE.costs, **costs})
    (o,) = measure(FAULTS, load(protocol), cpus, mach, ms=1).outcomes
    assert o.failed == 0
    return o.transfers / o.faults


def test_a_fault_meets_others_at_three_fields_of_mmap_sems_line():
    """down_read, which takes what was asked for ahead, mm->pgd, up_read.  Nobody may have come between the first two."""
    without, ahead = (transfers("mmap-sem-4.17", nr_prefetch=n) for n in (0, 1))
    assert 2.2 < without < ahead < 4


def test_a_lookup_under_a_rwlock_costs_a_fault_that_gives_up_lines():
    """Taking it and giving it back, and mmap_sem's line, which is lost meanwhile."""
    assert transfers("spf-v11") > transfers("mmap-sem-4.17") + 2.5


def test_readers_of_a_rwlock_wait_for_writers():
    """mmap and munmap of others beside faults: all come to an end, and the tree stays whole."""
    loop = ["map r1 16 anon", "write r1 0 16", "unmap r1 0 16", "unit 1"]
    w = workloads.make("w", {"loop": loop}, "test")
    (o,) = measure(w, load("spf-v11"), 16, SKYLAKE, ms=3).outcomes
    assert o.units > 100 and o.failed == 0 and not o.violations
    assert o.speculative and "vma_changed" in o.reasons


def test_steps_on_larger_pages():
    loop = ["keep r1 2048 anon", "count r1 0 512", "advise r1 16 512", "random r2 128", "map r3 r2 anon", "think 70", "unit 16"]
    w = workloads.make("w", {"loop": loop}, "test")
    small, large = (w.programs(1, k)[0] for k in (4, 64))
    assert [r[2] for r in small] == [2048, 512, 512, 128, -2, 70 * TICKS, 16]
    assert [r[2] for r in large] == [128, 32, 32, 8, -2, 70 * TICKS, 16]
    assert large[2][3] == 1 and large[0][3] == small[0][3]
    assert w.programs(1) == [small] and machines.read("power8-80").page == 64


@pytest.mark.parametrize("cpus", [12, 48])
def test_a_reference_count_has_room_for_all_readers(cpus):
    """All faults are in one VMA: in the checker's text of 16 they would take each other for a writer."""
    (w,) = workloads.read("multi-fault")
    (o,) = measure(w, load("vm-refcnt"), cpus, SKYLAKE, ms=2).outcomes
    assert "vma_locked" not in o.reasons and o.share == pytest.approx(1, abs=0.01)


def test_who_slept_for_long_is_woken_later():
    loop = ["map r1 64 anon", "write r1 0 1", "unmap r1 0 64", "unit 1"]
    w = workloads.make("w", {"loop": loop}, "test")
    rate = {}
    for idle_after in (1e3, 1e9):
        mach = replace(SKYLAKE, costs={**SKYLAKE.costs, "idle": 30_000.0, "idle_after": idle_after})
        rate[idle_after] = measure(w, load("mmap-sem"), 32, mach, ms=10).rate
    assert rate[1e3] < 0.6 * rate[1e9]
