"""The mm text in virtual time: what it does, not how fast a machine is."""

from __future__ import annotations

import pytest

from seqfault.price import machines, workloads
from seqfault.price.curves import measure, policy_of
from seqfault.price.machines import POLICIES
from seqfault.price.world import World
from seqfault.protocols import load

SMALL = machines.read("x86-small")
LOOP = ["map r1 64 anon", "write r1 0 64", "unmap r1 0 64", "unit 1"]


def workload(loop, **more):
    return workloads.make("w", {"loop": loop, **more}, "w")


def run(protocol, n, loop=LOOP, ms=4.0, lookahead=None, costs=None, **more):
    w = workload(loop, **more)
    world = World(
        load(protocol), SMALL, w.programs(n), w.setup_rows(),
        costs={**POLICIES[policy_of(load(protocol))], **(costs or {})}, lookahead=lookahead, cpus=n,
    )  # fmt: skip
    return world.run(1e6, ms * 1e6)


def test_one_thread_faults_once_a_page_and_nothing_is_waited_for():
    o = run("mmap-sem", 1)
    assert o.faults / o.units == pytest.approx(64, rel=0.05)
    assert o.failed == 0 and not o.violations and o.speculative == 0
    assert sum(s.waited for s in o.stats.values()) == 0
    assert o.locked == o.faults  # each takes mmap_sem


@pytest.mark.parametrize("protocol", ["spf-v5", "spf-v12", "mmap-seq", "per-vma-lock", "vm-refcnt"])
def test_speculation_helps_writers_wait_less(protocol):
    base, o = run("mmap-sem", 8), run(protocol, 8)
    assert o.failed == 0 and not o.violations
    assert o.share is not None and o.share > 0.5
    assert o.rate > base.rate
    assert o.stats["fault"].mean < base.stats["fault"].mean


def test_reasons_come_from_the_text_and_add_up():
    o = run("vm-refcnt", 8)
    # what is counted by the text agrees with who took mmap_sem, but for faults cut in two by the beginning
    assert abs(sum(o.reasons.values()) - o.locked) <= 0.02 * o.faults + 8


def test_one_thread_gains_nothing_and_loses_little():
    """Speculation has a cost of its own where nobody is in the way."""
    base, o = run("mmap-sem", 1), run("spf-v5", 1)
    assert 0.9 < o.rate / base.rate <= 1.001


def test_a_hot_line_on_files_makes_no_gain():
    """page_fault3: a file's pages go the classic way, after they were tried for nothing."""
    loop = ["map r1 256 shared", "count r1 0 256", "unmap r1 0 256"]
    base, o = run("mmap-sem-5.1", 8, loop), run("spf-v12", 8, loop)
    assert set(o.reasons) == {"vma_notsup"} and o.speculative == 0
    assert o.rate < 1.05 * base.rate
    base, o = run("mmap-sem-5.1", 1, loop), run("spf-v12", 1, loop)
    assert o.rate < base.rate


def test_a_seed_decides_everything_and_lookahead_little():
    a, b = run("spf-v5", 8), run("spf-v5", 8)
    assert (a.units, a.reasons, a.stats) == (b.units, b.reasons, b.stats)
    loop = ["map r1 256 anon", "count r1 0 256", "unmap r1 0 256"]
    exact, ahead = (run("mmap-sem", 8, loop, 20.0, look) for look in (0, 20))
    assert ahead.rate == pytest.approx(exact.rate, rel=0.02)
    assert ahead.faults == pytest.approx(exact.faults, rel=0.02)


def test_reading_from_a_disk_holds_the_lock_only_before_5_1():
    (w,) = workloads.read("fault-vs-mmap")
    old, new = (measure(w, load(p), 2, SMALL, ms=200).rate for p in ("mmap-sem", "mmap-sem-5.1"))
    assert old < 120 < 5000 < new


def test_policies_matter_and_none_gets_stuck():
    rates = {k: measure(workload(LOOP), load("mmap-sem"), 16, SMALL, k, ms=20).rate for k in POLICIES}
    assert min(rates.values()) > 0
    assert rates["fifo"] < rates["stealing"]


def test_more_threads_than_cpus_share_them():
    o = run("mmap-sem", 2, threads="4*cpus", ms=30)
    assert o.tasks == 8 and o.units > 0 and o.failed == 0
    alone = run("mmap-sem", 2, ms=30)
    assert o.rate < 1.3 * alone.rate


def test_what_a_protocol_must_not_do_is_told():
    """spf-seed frees VMAs at once: sooner or later its fault looks at one."""
    assert "use-after-free" in run("spf-seed", 16, ms=15).violations


def test_interrupts_cost_those_who_get_them():
    """A shootdown reaches the threads that run, not those that sleep."""
    loop = ["keep r1 16 anon", "write r1 0 16", "advise r1 0 16", "unit 1"]
    assert run("mmap-sem", 1, loop).ipis == 0
    many = run("mmap-sem", 4, loop)
    assert many.ipis > 0
    cheap = run("mmap-sem", 4, loop, costs={"ipi_send": 0, "ipi_each": 0, "ipi_handler": 0})
    assert cheap.rate > many.rate


@pytest.mark.parametrize(
    "line,why",
    [
        ("mapp r1 4 anon", "did you mean map"),
        ("map r1 4", "takes 3 arguments"),
        ("map x 4 anon", "no number and no register"),
        ("map r1 4 heap", "none of anon"),
        ("protect r1 0 4 q", "none of none"),
        ("think r1", "takes a number"),
    ],
)
def test_bad_lines_are_told(line, why):
    with pytest.raises(workloads.WorkloadError, match=why):
        workload([line, "unit 1"])


def test_bad_workloads_and_machines_are_told(tmp_path):
    with pytest.raises(workloads.WorkloadError, match="counts nothing"):
        workload(["think 5"])
    with pytest.raises(workloads.WorkloadError, match="threads"):
        workload(LOOP, threads="many")
    f = tmp_path / "m.toml"
    for text, why in (
        ("[x]\nlike = 'x86-small'\nhit = -1", "no time in ns"),
        ("[x]\nhit = 1", "is missing"),
        ("[x]\nlike = 'x86-small'\nhurry = 1", "no constant"),
        ("[x]\nlike = 'y'", "no other machine"),
        ("a = ", "no TOML"),
        ("", "one table"),
    ):
        f.write_text(text)
        with pytest.raises(machines.MachineError, match=why):
            machines.read(str(f))
    f.write_text("[x]\nlike = 'x86-small'\nhit = [1.5, 'measured']\ncores = 4")
    m = machines.read(str(f))
    assert (m.costs["hit"], m.sources["hit"], m.cpus) == (1.5, "measured", 4)


def test_every_preset_says_where_each_constant_is_from():
    for name in machines.builtin():
        m = machines.read(name)
        assert all(m.sources[k] for k in m.costs if k != "handoff"), name


def test_builtin_workloads_can_be_read_and_have_a_source():
    for name in workloads.builtin():
        (w,) = workloads.read(name)
        assert w.source and w.programs(2)
