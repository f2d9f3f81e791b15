"""Traces of a process that ran already, replayed in the model: it is stopped for a moment at the attach and at the end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_record import needs_perf
from test_trace_retrace import ANON, BASE, END, START, P, call, layout, retrace

from seqfault.trace import schema as s
from seqfault.trace.capture import capture
from seqfault.trace.hold import stopped, threads_of
from seqfault.trace.schema import Meta
from seqfault.trace.store import Writer, row

HEAP = "10000000-10003000 rw-p 00000000 00:00 0 [heap]\tanon=4 rss=4 flags=" + ANON + "\n"


def attached(at, when, text):
    return layout(at, when, text).replace(" rlimit_as", " attached=1 rlimit_as", 1)


def of(row_, tid):
    return (*row_[:2], row_[2], tid, *row_[4:])


def trace(path, end=END, rows=(), layouts=None):
    """Two threads that were there before; what they did before the first layout and after the last is not replayed."""
    placed = BASE - 3 * P
    heap = START.replace("7fff", HEAP + "7fff", 1)
    layouts = layouts or [attached(5000, "start", heap), attached(90_000, "end", end.replace("7fff", HEAP + "7fff", 1))]
    meta = Meta(source="perf", kernel="6.18.44-x", recorded=list(s.KINDS), layouts=layouts,
                settings={"max_map_count": "65530", "mounts": "/:ext4"})  # fmt: skip
    own = [
        call(1000, "munmap", 0, BASE - P, P),
        row(1400, 1, 1, s.LOCK_HOLD, flags=1, duration_ns=100),
        call(10_000, "brk", 0x10002234, 0),
        of(call(20_000, "mmap", placed, 0, 2 * P, 3, 0x22, -1, 0), 7),
        row(20_400, 1, 7, s.LOCK_HOLD, flags=1, duration_ns=100),
        row(30_000, 1, 7, s.FAULT, name="user", address=placed + P, flags=6, duration_ns=500),
        call(40_000, "mprotect", 0, placed, P, 0),
        row(40_400, 1, 1, s.LOCK_HOLD, flags=1, duration_ns=100),
        call(95_000, "munmap", 0, placed, 2 * P),
        row(95_400, 1, 1, s.LOCK_HOLD, flags=1, duration_ns=100),
    ]
    with Writer(path, meta) as w:
        for r in sorted([*own, *rows], key=lambda r: r[0]):
            w.add(r, r[0])
        w.close()
    return str(path)


def test_what_lies_between_the_layouts_is_replayed(tmp_path, capsys):
    code, out, err = retrace(capsys, trace(tmp_path / "t.parquet"), "--json")
    data = json.loads(out)
    assert (code, data["verdict"], data["processes"]) == (0, "same", 1) and not err, out
    # the break is known to the byte: the first brk tells it
    assert data["calls"] == {"mmap": 1, "mprotect": 1, "brk": 1} and not data["differences"]
    assert [(x["when"], x["equal"], x["merged"]) for x in data["layouts"]] == [("end", True, False)]


def test_neighbours_that_only_anon_vmas_from_before_decide_about(tmp_path, capsys):
    """Two VMAs of the first layout that nothing visible keeps apart were joined, or were not: that decides nothing."""
    two = f"{BASE - 40 * P:x}-{BASE - 38 * P:x} rw-p 00000000 00:00 0\tanon=4 rss=4 flags={ANON}\n"
    parts = two.replace(f"-{BASE - 38 * P:x}", f"-{BASE - 39 * P:x}") + two.replace(f"{BASE - 40 * P:x}-", f"{BASE - 39 * P:x}-")
    first = START.replace("7fff", two + "7fff", 1)
    last = END.replace("7fff", parts + "7fff", 1)
    f = trace(tmp_path / "t.parquet", layouts=[attached(5000, "start", first), attached(90_000, "end", last)])
    code, out, _ = retrace(capsys, f)
    assert code == 3 and "incomplete" in out and "only anon_vmas from before decide about" in out


def test_without_its_end_there_is_nothing_to_compare(tmp_path, capsys):
    code, out, _ = retrace(capsys, trace(tmp_path / "t.parquet", layouts=[attached(5000, "start", START)]))
    assert code == 3 and "it ended before the recording did" in out and "no layout to compare" in out


def test_a_process_that_could_not_be_stopped_says_why(tmp_path, capsys):
    f = tmp_path / "t.parquet"
    why = s.Missing("layout at the start", "the process could not be stopped: Operation not permitted", "x", "y")
    with Writer(f, Meta(source="perf", kernel="6.18", recorded=list(s.KINDS), missing=[why])) as w:
        w.add(row(1, 1, 1, s.EXIT), 1)
        w.close()
    code, _, err = retrace(capsys, str(f))
    assert code == 2 and "could not be stopped: Operation not permitted" in err and err.count("\n") == 1


# -- the process stopped
WORK = """
import signal, threading, time
got = []
signal.signal(signal.SIGUSR1, lambda n, f: got.append(n))
def work():
    while True:
        time.sleep(0.001)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
while len(got) < 1:
    sum(range(1000))
print("got", got, flush=True)
time.sleep(60)
"""


@pytest.fixture
def worker():
    p = subprocess.Popen([sys.executable, "-I", "-S", "-c", WORK], stdout=subprocess.PIPE, text=True)
    assert p.stdout and p.stdout.readline() == "ready\n"
    yield p
    p.kill()
    p.wait()
    p.stdout.close()


def states(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {(t / "status").read_text().partition("State:\t")[2][0] for t in tasks}


def cpu_time(pid):
    return sum(int(x) for x in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])


def test_all_threads_stand_still_and_then_go_on(worker):
    try:
        with stopped(worker.pid):
            assert states(worker.pid) == {"t"} and len(threads_of(worker.pid)) == 4
            os.kill(worker.pid, signal.SIGUSR1)  # is delivered afterwards
    except PermissionError as e:
        pytest.skip(f"ptrace is not allowed here: {e}")
    assert worker.stdout.readline() == "got [10]\n"
    assert "t" not in states(worker.pid) and "TracerPid:\t0" in Path(f"/proc/{worker.pid}/status").read_text()


def test_a_signal_that_comes_with_the_stop_is_not_lost(worker):
    try:
        os.kill(worker.pid, signal.SIGUSR1)
        with stopped(worker.pid):
            assert states(worker.pid) == {"t"}
    except PermissionError as e:
        pytest.skip(f"ptrace is not allowed here: {e}")
    assert worker.stdout.readline() == "got [10]\n"


def test_what_cannot_be_stopped():
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(OSError), stopped(gone.pid):
        pass
    with pytest.raises(OSError) as e, stopped(os.getpid()):
        pass
    assert e.value.errno == errno.EPERM


PROGRAM = """
import mmap, threading, time
def work():
    while True:
        for n in (16, 3, 64):
            m = mmap.mmap(-1, n << 12)
            for k in range(0, n << 12, 4096):
                m[k] = 1
            x = bytearray(300000 + 5000 * n)
            time.sleep(0.002)
            m.close()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""


@needs_perf
def test_a_process_that_runs(tmp_path, capsys):
    p = subprocess.Popen([sys.executable, "-I", "-S", "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout and p.stdout.readline()
        time.sleep(0.3)
        meta = capture(tmp_path / "t.parquet", [], p.pid, "perf", seconds=1).meta
        assert len(meta.layouts) == 2 and not meta.missing and not meta.truncated
        assert p.poll() is None and "TracerPid:\t0" in Path(f"/proc/{p.pid}/status").read_text()
    finally:
        p.kill()
        p.wait()
    code, out, _ = retrace(capsys, str(tmp_path / "t.parquet"), "--json")
    data = json.loads(out)
    assert not data["differences"] and data["verdict"] in ("same", "incomplete"), out
    assert data["calls"]["mmap"] > 20 and [x["equal"] for x in data["layouts"]] == [True]
