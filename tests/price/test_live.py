"""bench/live.py: its arithmetic, ground truth on real recordings, and what it needs of replays."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from modules import load

pytest.importorskip("pyarrow")

from seqfault.cli import main  # noqa: E402
from seqfault.price import driver as d  # noqa: E402
from seqfault.price import machines, recorder  # noqa: E402
from seqfault.price.clock import TICKS  # noqa: E402
from seqfault.price.replay import convert  # noqa: E402
from seqfault.trace import schema  # noqa: E402
from seqfault.trace.schema import Meta  # noqa: E402
from seqfault.trace.store import TraceError, Writer, open_trace, row  # noqa: E402

BASE, T0 = 0x7F0000000000, 1_000_000
KINDS = [schema.FAULT, schema.CALL, schema.OFF, schema.AREA, schema.LOCK_WAIT, schema.FORK, schema.EXIT]


@pytest.fixture(scope="module")
def live():
    return load(Path(__file__).parents[2] / "bench" / "live.py", "bench_live")


def write(path, rows, **meta):
    rows = sorted(rows, key=lambda r: r[0])
    w = Writer(path, Meta(kernel="6.18.1", cpus=2, recorded=KINDS, start_ns=T0, end_ns=rows[-1][0] + 1, **meta))
    for r in rows:
        w.add(r, r[0])
    w.close()
    return path


def fault(t, page=0, tid=2, name="user", took=1000, **more):
    return row(t, 1, tid, schema.FAULT, name=name, duration_ns=took, address=BASE + 4096 * page, flags=6, a2=0, **more)


def call(t, name, tid=2, took=1000, **more):
    return row(t, 1, tid, schema.CALL, name=name, duration_ns=took, **({"address": 0} | more))


# -- what the bench says
def test_a_share_is_judged_by_the_range_of_the_takes(live):
    s = live.share_of([0.01, 0.02, 0.03], 1000, [0.028, 0.029])
    assert (s.median, s.fallbacks, s.least, s.most) == (0.02, 1000, 0.028, 0.029)
    assert (s.low, s.high) == pytest.approx((0.011, 0.029))  # a tenth of a step from either end
    assert s.predicted == pytest.approx(0.0285) and s.verdict == "ok"
    assert live.share_of([0.01, 0.02, 0.03], 1000, [0.0295]).verdict == "**miss**"
    assert live.share_of([0.01, 0.02, 0.03], 999, [0.02]).verdict == "fewer than 1000 fallbacks"


def test_a_throughput_is_judged_by_the_mean_of_the_runs(live):
    recordings = [live.Replayed(1000, 9.0, 6.0, 1.5), live.Replayed(2000, 11.0, 10.0, 2.0)]
    s = live.speed_of(100, 2, [1.0, 1.0, 4.0], None, recordings)
    assert (s.measured, s.least, s.most, s.recorded, s.recorded_predicted) == (50, 25, 100, 10, 12.5)
    assert s.error == pytest.approx(100 / 1.75 / 50 - 1) and s.verdict == "ok"
    assert live.speed_of(100, 2, [2.0], None, [live.Replayed(1000, 10.0, 8.0, 1.7)]).verdict == "**miss**"


def test_a_run_is_predicted_by_recordings_that_did_the_same(live):
    recordings = [live.Replayed(1000, 9.0, 6.0, 1.5), live.Replayed(1010, 9.0, 6.0, 1.7), live.Replayed(2000, 11.0, 9.0, 4.0)]
    s = live.speed_of(100, 2, [1.0, 3.0, 9.0], [1005, 1950, 4000], recordings)
    assert s.measured == 50 and s.predicted == pytest.approx(100 / 2.8) and s.left_out == [4000]
    assert s.recorded_predicted == pytest.approx(100 / 7)  # of all
    with pytest.raises(live.LiveError, match=r"1,000, 1,010, 2,000"):
        live.speed_of(100, 2, [9.0], [4000], recordings)
    took, faults = live.run_once([sys.executable, "-c", "pass"])
    assert took > 0 and faults > 100
    with pytest.raises(live.LiveError, match="exit code 3"):
        live.run_once([sys.executable, "-c", "raise SystemExit(3)"])


def test_constants_of_several_calibrations_are_their_means(live):
    def one(hit, lock, **more):
        c = live.Calibrated(machines.read("x86-small"), {"hit": hit, **more}, 1.0, 1.0, 1.0, {"stacks": {"traced_lock": lock}})
        return c

    c = live.means([one(1.0, 5.0), one(1.0, 6.0, near=1.0), one(4.0, 9.0)], [one(7.0, 4.0), one(8.0, 2.0)])
    assert c.measured == {"hit": 2.0} and c.recorder == {"stacks": {"traced_lock": 3.0}}


def test_what_stress_ng_says(live):
    assert live.wall_clock("metrics:\n    - stressor: malloc\n      wall-clock-time: 0.945508\n") == 0.945508
    with pytest.raises(live.LiveError, match="stress-ng"):
        live.wall_clock("metrics:\n")


def test_bad_input(live, capsys, monkeypatch, tmp_path):
    for args, why in ((["--again", str(tmp_path)], "no runs.json"), (["--program", "x"], "there are ebizzy"), (["--takes", "0"], "from 1 on")):
        monkeypatch.setattr(sys, "argv", ["live.py", *args])
        assert live.main() == 2
        assert why in (err := capsys.readouterr().err) and err.count("\n") == 1
    monkeypatch.setattr(live.os, "geteuid", lambda: 1000)
    with pytest.raises(live.LiveError, match="root"):
        live.check_here(sys.executable)


@pytest.mark.parametrize(("sample", "kernel", "user"), [("ebizzy", 55, 27), ("numpy", 665, 2), ("java", 0, 0)])
def test_ground_truth_of_real_recordings(live, sample, kernel, user):
    """By the stacks of the waits; and the recorder, who saw the same stacks while the fault was open, noted no other."""
    t = live.truth(f"sample:{sample}")
    assert (t.kernel, t.user) == (kernel, user)
    with open_trace(f"sample:{sample}") as trace:
        r = convert(trace).recorded
    assert t.faults == r.faults and t.share == pytest.approx(r.fallback)


# -- replays
def test_a_fault_of_the_kernel_never_does_without_mmap_lock(capsys, tmp_path):
    rows = [call(T0, "mmap", length=64 * 4096, a2=3, a3=0x22, result=BASE)]
    rows += [fault(T0 + 3000 * (k + 1), k, name="kernel" if k % 4 == 0 else "user") for k in range(64)]
    f = str(write(tmp_path / "t.parquet", rows))
    with pytest.raises(SystemExit) as e:
        main(["whatif", f, "-m", "x86-small", "-p", "vm-refcnt", "-p", "per-vma-lock", "-p", "mmap-seq", "--seeds", "1", "--json"])
    designs = json.loads(capsys.readouterr().out)["designs"]
    assert e.value.code == 0
    assert [x["reasons"].get("not_user", 0) for x in designs] == [16, 16, 0]  # 5.17 tries all
    assert designs[0]["without_mmap_lock"] == pytest.approx(0.75)


def test_the_recorder_is_taken_out_of_pauses(tmp_path):
    rows = [fault(T0, 0), fault(T0 + 3500, 1), call(T0 + 6000, "madvise", address=BASE, length=4096, a2=4)]
    rows += [fault(T0 + 7100, 2)]
    with open_trace(write(tmp_path / "t.parquet", rows)) as t:
        steps = convert(t, recorder={"gap_fault": 1000, "gap_call": 400}).programs[0]
    # 2500 - 1000 between faults, 1500 - 700 from a fault to a call, 100 is less than 700
    assert [s[2] // TICKS for s in steps if s[0] == d.DO_THINK] == [1500, 800]


def test_threads_begin_when_they_are_made_and_are_waited_for(tmp_path):
    ms = 1_000_000
    rows = [fault(T0, 0), row(T0 + ms, 1, 2, schema.FORK, result=3, a2=0x10000, a3=1)]
    rows += [fault(T0 + 2 * ms, 1, 3), fault(T0 + 40 * ms, 2, 3), row(T0 + 50 * ms, 1, 3, schema.EXIT)]
    rows += [row(T0 + 3 * ms, 1, 2, schema.OFF, duration_ns=47 * ms, flags=0), fault(T0 + 51 * ms, 3)]
    rows += [row(T0 + 52 * ms, 1, 2, schema.EXIT)]
    with open_trace(write(tmp_path / "t.parquet", rows)) as t:
        first, second = convert(t).programs
    assert [s[:4] for s in first if s[0] in (d.DO_POST, d.DO_WAIT)] == [(d.DO_POST, 0, 1, 0), (d.DO_WAIT, 0, 1, 1)]
    assert second[0][:4] == (d.DO_WAIT, 0, 1, 0)
    assert not any(s[0] == d.DO_SLEEP and s[2] > 2 * ms * TICKS for s in first)


def test_what_went_before_a_programs_first_event_is_not_its_own(tmp_path):
    """A program is held, its layout read, until the recorder is ready."""
    ms = 1_000_000
    rows = [row(T0, 1, 2, schema.AREA, address=BASE, length=4096 * 8, a2=3, a3=2)]
    rows += [fault(T0 + 600 * ms, 0), fault(T0 + 601 * ms, 1), fault(T0 + 602 * ms, 2, 3)]
    with open_trace(write(tmp_path / "t.parquet", rows)) as t:
        r = convert(t)
    assert r.recorded.seconds == pytest.approx(0.002, rel=0.01)
    assert [s[2] / TICKS for p in r.programs for s in p if s[0] == d.DO_SLEEP] == [2 * ms]


def test_several_threads_are_waited_for_one_after_the_other(tmp_path):
    """Also where who waited was kept from its CPU when it had woken."""
    ms = 1_000_000
    rows = [fault(T0, 0), *(row(T0 + ms + k, 1, 2, schema.FORK, result=k, a2=0x10000, a3=1) for k in (3, 4))]
    rows += [fault(T0 + 2 * ms, 1, k) for k in (3, 4)]
    rows += [row(T0 + 20 * ms, 1, 3, schema.EXIT), row(T0 + 40 * ms, 1, 4, schema.EXIT)]
    rows += [row(T0 + 2 * ms, 1, 2, schema.OFF, duration_ns=9 * ms, flags=schema.CONTINUED)]
    rows += [row(T0 + 11 * ms, 1, 2, schema.OFF, duration_ns=9 * ms, flags=0)]
    rows += [row(T0 + 21 * ms, 1, 2, schema.OFF, duration_ns=19 * ms, flags=0)]
    rows += [row(T0 + 40 * ms + 9, 1, 2, schema.OFF, duration_ns=ms, flags=schema.PREEMPTED), fault(T0 + 42 * ms, 3)]
    with open_trace(write(tmp_path / "t.parquet", rows)) as t:
        first = convert(t).programs[0]
    assert [s[:4] for s in first if s[0] in (d.DO_WAIT, d.DO_SLEEP)] == [(d.DO_WAIT, 0, k, 1) for k in (1, 2)]
    # 1 ms before they are made, before the first wait, between the two, and when it had its CPU again
    assert sum(s[2] for s in first if s[0] == d.DO_THINK) / TICKS == pytest.approx(4 * ms, rel=0.01)


# -- locks of the program's own
def locked(*more):
    """Thread 3 sleeps for a lock from 20 to 60 us; thread 2 faults at 30 us and lets it go at 50, and faults at 70."""
    us = 1000
    rows = [fault(T0 + k * us, k % 8, 2) for k in (0, 30, 70, 90)] + [fault(T0 + k * us, 8 + k % 8, 3) for k in (10, 80, 95)]
    return [*rows, row(T0 + 20 * us, 1, 3, schema.OFF, duration_ns=40 * us, flags=0, cpu=1), *more]


def test_who_slept_for_a_lock_waits_for_who_held_it(tmp_path):
    with open_trace(write(tmp_path / "t.parquet", locked())) as t:
        two, three = convert(t, latency=10_000).programs
    (woken,) = [s for s in three if s[0] == d.DO_WOKEN]
    assert woken[3] == 10_000 * TICKS and not [s for s in three if s[0] == d.DO_SLEEP and s[2] == 40_000 * TICKS]
    at = next(k for k, s in enumerate(two) if s[0] == d.DO_MARK)
    assert two[at][2] == woken[2]
    # 31 to 70 us is the second pause; the mark is 19 us into it
    assert [s[:3] for s in (two[at - 1], two[at + 1])] == [(d.DO_THINK, 0, t * 1000 * TICKS) for t in (19, 20)]


@pytest.mark.parametrize(
    "more",
    [
        [fault(T0 + 1000 * k, k % 8 + 16, 4) for k in (15, 85)],  # one of two
        [row(T0 + 45_000, 1, 2, schema.OFF, duration_ns=10_000, flags=0)],  # nobody
    ],
)
def test_sleep_stays_sleep_where_nobody_is_known_to_have_ended_it(tmp_path, more):
    with open_trace(write(tmp_path / "t.parquet", locked(*more))) as t:
        programs = convert(t, latency=10_000).programs
    assert not [s for p in programs for s in p if s[0] in (d.DO_WOKEN, d.DO_MARK)]
    assert [s for s in programs[1] if s[0] == d.DO_SLEEP and s[2] == 40_000 * TICKS]


def test_a_lock_is_held_for_less_when_nobody_records(capsys, tmp_path):
    """Thread 2 faults all the time, half of it the recorder's; thread 3 sleeps until it has done so 20 times, again and
    again."""
    rows = [fault(T0 + 2000 * k, k) for k in range(2000)]
    for k in range(100):
        rows += [fault(T0 + 40_000 * k + 500, 4000 + k, 3), row(T0 + 40_000 * k + 2500, 1, 3, schema.OFF, duration_ns=37_000, cpu=1)]
    f = str(write(tmp_path / "t.parquet", rows, host="h"))
    table = "gap_fault = 1000, gap_call = 0, traced_fault = 700, traced_call = 0, traced_lock = 0"
    machine = tmp_path / "m.toml"
    machine.write_text(f'[m]\nlike = "x86-small"\nrecorded = "h 6.18.1"\nrecorder = {{ {table} }}\n')
    with pytest.raises(SystemExit):
        main(["whatif", f, "-m", str(machine), "-p", "vm-refcnt", "--seeds", "1", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert data["recorded"]["seconds"] > 0.0039 and data["designs"][0]["failed"] == 0
    assert data["designs"][0]["seconds"] < 0.0025


def test_threads_are_where_they_were(tmp_path):
    rows = [fault(T0 + 2000 * k, k, cpu=cpu) for k, cpu in enumerate((0, 0, 1, 1, 0))]
    with open_trace(write(tmp_path / "t.parquet", rows)) as t:
        steps = convert(t).programs[0]
    assert [s[2] for s in steps if s[0] == d.DO_CPU] == [0, 1, 0]


# -- what recording costs
def loops(gap=1500, took=2000):
    rows, t = [], T0
    for k in range(200):
        rows.append(fault(t, k, took=took))
        t += took + gap
    for _ in range(200):
        rows.append(call(t, "madvise", length=0, took=700))
        t += 700 + 900
    for k in range(200):
        rows.append(call(t, ("mmap", "munmap")[k % 2], length=recorder.MAPPED, took=9000, result=BASE))
        t += 9000 + 1000
    return rows


def test_what_recording_costs(tmp_path):
    untraced = {"fault": 2100.0, "advise": 100.0, "map": 2000.0}
    with open_trace(write(tmp_path / "t.parquet", loops())) as t:
        got = recorder.read(t, untraced)
    assert got == {
        "gap_fault": 1500, "gap_call": 900, "traced_fault": 3500 - 2100, "traced_call": 1600 - 100,
        "traced_lock": pytest.approx((10000 - 2000 - 1500) / 3),
    }  # fmt: skip
    with open_trace(write(tmp_path / "e.parquet", [fault(T0)])) as t, pytest.raises(TraceError, match="loops"):
        recorder.read(t, untraced)


def test_only_recordings_of_the_same_machine_have_it():
    costs = {"": {"gap_fault": 1.0}, "stacks": {"gap_fault": 2.0}}
    meta = Meta(host="h", kernel="6.18.1", recorded=KINDS, settings={"stacks": "yes"})
    assert recorder.of(costs, "h 6.18.1", meta) == {"gap_fault": 2.0}
    assert recorder.of(costs, "h 6.18.2", meta) == {} and recorder.of({}, "", meta) == {}
    meta.settings = {}
    assert recorder.of(costs, "h 6.18.1", meta) == {"gap_fault": 1.0}


def test_a_recording_is_held_with_what_recording_costs(capsys, tmp_path):
    """Two replays of the recorded design: with the recorder's cost for the error, without for the rest."""
    rows = [r for k in range(4) for r in [fault(T0 + 4000 * (25 * k + i), 25 * k + i, took=2000) for i in range(25)]]
    f = str(write(tmp_path / "t.parquet", rows, host="h"))
    machine = tmp_path / "m.toml"
    table = "gap_fault = 1500, gap_call = 900, traced_fault = 1400, traced_call = 0, traced_lock = 0"
    machine.write_text(f'[m]\nlike = "x86-small"\nrecorded = "h 6.18.1"\nrecorder = {{ {table} }}\n')
    took = []
    for where in (str(machine), "x86-small"):
        with pytest.raises(SystemExit):
            main(["whatif", f, "-m", where, "-p", "vm-refcnt", "--seeds", "1", "--json"])
        took.append(json.loads(capsys.readouterr().out))
    known, unknown = took
    assert known["recorder_known"] and not unknown["recorder_known"] and len(known["designs"]) == 1
    # 99 pauses are shorter by 1500 ns each
    saved = unknown["designs"][0]["seconds"] - known["designs"][0]["seconds"]
    assert saved == pytest.approx(99 * 1500e-9, rel=0.02)
    slowed = (1 + known["error"]["seconds"]) * known["recorded"]["seconds"]
    assert slowed - known["designs"][0]["seconds"] == pytest.approx(100 * 1400e-9, rel=0.02)
    machine.write_text('[m]\nlike = "x86-small"\nrecorder = { gap_fault = "x" }\n')
    with pytest.raises(SystemExit) as e:
        main(["whatif", f, "-m", str(machine)])
    assert e.value.code == 2 and "recorder" in capsys.readouterr().err


def test_programs_name_their_work(live):
    for p in live.programs("python3"):
        words = Counter(p.command(12, 2)) + Counter(p.command(12, 1))
        assert words["6"] or words["12"], p.name


def test_a_sample_is_replayed_on_the_machine_that_it_is_of(tmp_path, monkeypatch):
    from seqfault.report.whatif import machine_of

    monkeypatch.setattr(machines, "kept", lambda: tmp_path / "none.toml")
    for sample in ("ebizzy", "numpy", "stress-ng-malloc"):
        with open_trace(f"sample:{sample}") as trace:
            assert machine_of("", trace.meta).name == "small-vm"
            assert "not calibrated" in machine_of("", replace(trace.meta, host="elsewhere")).title


def test_seeds_differ_in_when_threads_begin(capsys):
    """Also where all are made by one: what they then do depends on each other."""
    with pytest.raises(SystemExit):
        main(["whatif", "sample:ebizzy", "-p", "vm-refcnt", "--seeds", "2", "--json"])
    low, high = json.loads(capsys.readouterr().out)["designs"][0]["seconds_range"]
    assert low < high
