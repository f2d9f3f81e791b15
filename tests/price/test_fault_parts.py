"""What of a fault is done while the VMA, or mmap_lock, is held: from what recordings show, and what it changes."""

from __future__ import annotations

import pytest
from test_world import run

from seqfault.price import machines, recorder
from seqfault.trace.schema import LOCK_WAIT, Meta

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


def test_writers_wait_longer_for_who_is_inside():
    loop = ["map r1 8 anon", "write r1 0 8", "protect r1 0 8 r", "unmap r1 0 8", "unit 1"]
    before = run("mmap-sem", 4, loop, ms=8, costs={"fault": 2000.0})
    inside = run("mmap-sem", 4, loop, ms=8, costs={"fault": 0.0, "fault_inside": 2000.0})
    assert inside.stats["mprotect"].mean_wait > 1.1 * before.stats["mprotect"].mean_wait
