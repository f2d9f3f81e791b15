"""What of a fault is done while the VMA, or mmap_lock, is held: from what recordings show, and what it changes."""

from __future__ import annotations

import pytest
from test_world import run

from seqfault.price import driver, machines, recorder
from seqfault.price.clock import TICKS
from seqfault.price.replay import convert
from seqfault.price.world import World
from seqfault.protocols import load
from seqfault.trace.schema import FAULT, LOCK_WAIT, OFF, Meta
from seqfault.trace.store import Writer, open_trace, row

PLAIN = {"gap_fault": 1100.0, "traced_fault": 1600.0, "traced_call": 1.0, "traced_lock": 2.0}
WITH_STACKS = {"gap_fault": 1200.0, "traced_fault": 3900.0, "traced_call": 3.0, "traced_lock": 4.0}


def machine(**more):
    return machines.make("here", {**machines.builtin(), "here": {"like": "x86-small", "fault": 1000.0, **more}}, "here")


def test_a_recording_tells_what_is_outside():
    m = machine(recorder=PLAIN)
    # 1100 between two faults, of which 800 are the event at the end of the first one
    assert (m.costs["fault"], m.costs["fault_inside"]) == (300.0, 700.0)
    assert machine(recorder={**PLAIN, "gap_fault": 5000.0}).costs["fault_inside"] == 0
    assert machine(recorder={**PLAIN, "gap_fault": 500.0}).costs["fault_inside"] == 1000
    assert "fault_inside" not in machine().costs and "fault_inside" not in machine(recorder={"gap_fault": 1.0}).costs


def test_the_event_at_a_faults_end_is_half_of_both_without_stacks():
    costs = {"": PLAIN, "stacks": WITH_STACKS}

    def of(stacks):
        meta = Meta(host="h", kernel="6.18.1", recorded=[LOCK_WAIT], settings={"stacks": stacks})
        return recorder.of(costs, "h 6.18.1", meta)

    assert of("no") == {**PLAIN, "traced_fault": 800.0, "traced_account": 800.0}
    assert of("yes") == {**WITH_STACKS, "traced_fault": 3100.0, "traced_account": 800.0}
    assert set(of("yes")) - {"gap_fault", "gap_call"} == set(recorder.TRACED)


@pytest.mark.parametrize("protocol", ["vm-refcnt", "spf-v5"])
def test_it_is_paid_once_a_fault(protocol):
    """Also where handle_mm_fault is not come to (spf-v5 handles the entry itself)."""
    plain = run(protocol, 1).stats["fault"].mean
    more = run(protocol, 1, costs={"fault_inside": 500.0, "traced_account": 200.0}).stats["fault"].mean
    assert more - plain == pytest.approx(700, abs=8)


def recorded(path, slow):
    """513 faults of 1 us, in the second half of which every n-th takes 9."""
    rows = []
    for k in range(513):
        took = 9000 if k >= 256 and k % slow == 0 else 1000
        rows.append(row(1_000_000 + 12_000 * k, 1, 2, FAULT, name="user", duration_ns=took, address=(1 << 40) + 4096 * k, flags=6, a2=0, cpu=0))
    w = Writer(path, Meta(kernel="6.18.1", cpus=1, recorded=[FAULT, LOCK_WAIT], start_ns=1, end_ns=1 << 40))
    rows += [row(1_000_000 + 12_000 * 300 + 50, 1, 2, OFF, duration_ns=500, flags=0, cpu=0)]  # asleep in one of them
    for r in sorted(rows, key=lambda r: r[0]):
        w.add(r, r[0])
    w.close()
    return path


def test_what_many_faults_take_beyond_the_usual_they_take_in_a_replay(tmp_path):
    with open_trace(recorded(tmp_path / "t.parquet", 3)) as t:
        r = convert(t)
    more = [s[4] >> driver.MORE for s in r.programs[0] if s[0] == driver.DO_TOUCH]
    assert more == [8000 * TICKS if k >= 256 and k % 3 == 0 and k != 300 else 0 for k in range(513)]
    plain = World(load("vm-refcnt"), machines.read("x86-small"), [[(*s[:4], s[4] & 7) if s[0] == driver.DO_TOUCH else s for s in r.programs[0]]], r.setup)
    slow = World(load("vm-refcnt"), machines.read("x86-small"), r.programs, r.setup)
    added = slow.finish(1e9).stats["fault"].ns - plain.finish(1e9).stats["fault"].ns
    assert added == pytest.approx(8000 * sum(x > 0 for x in more), rel=0.01)


def test_a_long_fault_now_and_then_is_an_interrupt(tmp_path):
    with open_trace(recorded(tmp_path / "t.parquet", 10)) as t:
        assert not any(s[4] >> driver.MORE for s in convert(t).programs[0] if s[0] == driver.DO_TOUCH)


def test_writers_wait_longer_for_who_is_inside():
    loop = ["map r1 8 anon", "write r1 0 8", "protect r1 0 8 r", "unmap r1 0 8", "unit 1"]
    before = run("mmap-sem", 4, loop, ms=8, costs={"fault": 2000.0})
    inside = run("mmap-sem", 4, loop, ms=8, costs={"fault": 0.0, "fault_inside": 2000.0})
    assert inside.stats["mprotect"].mean_wait > 1.1 * before.stats["mprotect"].mean_wait
