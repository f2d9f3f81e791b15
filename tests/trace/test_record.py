"""Recording real programs: needs perf and root, or strace; elsewhere these tests are skipped by name."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqfault.trace import schema as s
from seqfault.trace.capture import TRACEFS, capture, make_plan
from seqfault.trace.store import TraceError, open_trace
from seqfault.trace.summary import summarise
from seqfault.trace.vmas import follow


def perf_traces() -> bool:
    if shutil.which("perf") is None or os.geteuid() != 0:
        return False
    return subprocess.run(["perf", "record", "-q", "-o", "/dev/null", "-e", "syscalls:sys_enter_mmap", "--", "true"],
                          capture_output=True).returncode == 0


needs_perf = pytest.mark.skipif(not perf_traces(), reason="perf with tracepoints: root, linux-perf")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
TOOLS = [pytest.param("perf", marks=needs_perf), pytest.param("strace", marks=needs_strace)]

# 100 VMAs from one: every fourth page loses its protection, every fourth is unmapped; then it counts
PROGRAM = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
a = libc.mmap(None, 4096 * 100, 3, 0x22, -1, 0)
for i in range(0, 100, 4):
    libc.mprotect(a + 4096 * i, 4096, 0)
    libc.munmap(a + 4096 * (i + 2), 4096)
print(sum("[vsyscall]" not in line for line in open("/proc/self/maps")), hex(a))
"""
LOOP = """
import mmap, threading, time
def work():
    while True:
        m = mmap.mmap(-1, 1 << 16)
        for i in range(0, 1 << 16, 4096):
            m[i] = 1
        m.close()
        time.sleep(0.001)
threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
[t.start() for t in threads]
print("ready", flush=True)
time.sleep(60)
"""


def write(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return [os.path.realpath(sys.executable), "-I", "-S", str(path)]


@pytest.mark.parametrize("use", TOOLS)
def test_what_a_program_did_is_in_the_trace(tmp_path, capfd, use):
    done = capture(tmp_path / "t.parquet", write(tmp_path / "x.py", PROGRAM), None, use)
    count, base = capfd.readouterr().out.split()
    assert not done.interrupted and done.meta.exit_code == 0 and not done.meta.lost and not done.meta.unordered
    with open_trace(tmp_path / "t.parquet") as t:
        rows = [r for b in t.batches(kinds=[s.CALL]) for r in b.to_pylist()]
        at = int(base, 16)
        inside = [r for r in rows if r["address"] and at <= r["address"] < at + 409600]
        assert [r["name"] for r in inside] == ["mprotect", "munmap"] * 25
        assert all(r["length"] == 4096 and r["result"] == 0 and r["duration_ns"] > 0 for r in inside)
        if use == "perf":
            summary = summarise(t)
            assert summary.faults > 100 and summary.unfinished < summary.faults / 10
            assert summary.locked_known == summary.faults
            # [stack], [vvar] and the like are mapped without an event
            largest = follow(t, 618).largest
            assert largest is not None and 0 <= int(count) - largest.most <= 4
            # an arena's ends, which the loader gives back, may have been merged with a neighbour
            others = sum(r["name"] == "munmap" for r in rows) - 25
            assert 0 <= sum(n for (what, _), n in largest.splits.items() if what == "munmap") - 25 <= others
    assert not [p for p in tmp_path.iterdir() if p.name not in ("t.parquet", "x.py")]


def recorder(tmp_path: Path, *args: str) -> subprocess.Popen[str]:
    code = "from seqfault.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "record", "-o", str(tmp_path / "t.parquet"), *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )


def tracing_mounts() -> list[str]:
    return [m for m in Path("/proc/mounts").read_text().splitlines() if str(TRACEFS) in m]


def children_of(pid: int) -> set[int]:
    out: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            out |= {int(child)} | children_of(int(child))
    return out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("use", TOOLS)
def test_interrupted(tmp_path, use, number):
    """The program ends, the tools end, the trace has what there was, nothing else is left."""
    mounts = tracing_mounts()
    p = recorder(tmp_path, "--with", use, "--", *write(tmp_path / "x.py", LOOP))
    assert p.stdout and p.stdout.readline() == "ready\n"
    time.sleep(0.3)
    started = children_of(p.pid)
    assert len(started) >= 2
    p.send_signal(number)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 3 and "interrupted" in err
    assert not [c for c in started if Path(f"/proc/{c}").exists()]
    assert tracing_mounts() == mounts
    assert sorted(f.name for f in tmp_path.iterdir()) == ["t.parquet", "x.py"]
    with open_trace(tmp_path / "t.parquet") as t:
        assert t.meta.truncated and t.meta.counts[s.CALL] > 10 and t.meta.exit_code == -number


@pytest.mark.parametrize("use", TOOLS)
def test_a_process_that_is_watched_runs_on(tmp_path, use):
    program = subprocess.Popen(write(tmp_path / "x.py", LOOP), stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout and program.stdout.readline() == "ready\n"
        p = recorder(tmp_path, "--with", use, "--pid", str(program.pid))
        assert p.stderr
        while "recording process" not in (line := p.stderr.readline()):
            assert line
        time.sleep(0.5)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
        assert p.returncode == 0, err
        assert program.poll() is None
        status = Path(f"/proc/{program.pid}/status").read_text()
        assert "TracerPid:\t0" in status
        with open_trace(tmp_path / "t.parquet") as t:
            assert t.meta.counts[s.AREA] > 5 and t.meta.counts[s.CALL] > 10
            assert {x for b in t.batches(["pid"]) for x in b["pid"].to_pylist()} == {program.pid}
    finally:
        program.kill()
        program.wait()


@needs_perf
def test_sample_records_in_bursts(tmp_path, monkeypatch):
    monkeypatch.setattr("seqfault.trace.capture.EVERY", 1.0)
    program = subprocess.Popen(write(tmp_path / "x.py", LOOP), stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout and program.stdout.readline()
        meta = capture(tmp_path / "t.parquet", [], program.pid, None, sample=True, seconds=8).meta
    finally:
        program.kill()
        program.wait()
    # one a second at most; where perf takes longer than that to begin, fewer
    assert 2 <= len(meta.windows) <= 10 and meta.seconds < 0.5 and not meta.lost
    with open_trace(tmp_path / "t.parquet") as t:
        times = [at for b in t.batches(["time_ns"], [s.FAULT]) for at in b["time_ns"].to_pylist()]
        assert len(times) > 50 and all(any(a <= at <= b for a, b in meta.windows) for at in times)


@needs_perf
def test_sample_of_a_program_that_is_interrupted(tmp_path):
    p = recorder(tmp_path, "--sample", "--", *write(tmp_path / "x.py", LOOP))
    assert p.stdout and p.stdout.readline() == "ready\n"
    time.sleep(2)
    started = children_of(p.pid)
    p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 3 and "interrupted" in err and started
    assert not [c for c in started if Path(f"/proc/{c}").exists()]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["t.parquet", "x.py"]


@needs_perf
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_tracefs_is_mounted_and_unmounted(tmp_path):
    """In a mount namespace of its own, where tracefs is not mounted."""
    code = "import sys; from seqfault.cli import main; main()"
    script = (
        f"umount {TRACEFS} 2>/dev/null; test -e {TRACEFS}/events && exit 9; "
        f"{sys.executable} -c '{code}' record -o {tmp_path}/t.parquet -- true; echo $?; ls {TRACEFS} | wc -l"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode == 9:
        pytest.skip("tracefs cannot be unmounted here")
    assert done.stdout.split() == ["0", "0"], done.stderr
    with open_trace(tmp_path / "t.parquet") as t:
        assert t.meta.counts[s.CALL] > 5


def test_without_tools(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    for use in (None, "perf", "strace"):
        with pytest.raises(TraceError, match="apt-get install"):
            make_plan(use, False, False)


def test_without_privileges(monkeypatch):
    """perf's software events and strace: what is missing is named, with what it costs and what would help."""
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("seqfault.trace.capture.paranoid", lambda: 2)
    plan = make_plan(None, False, False)
    assert plan.source == "perf+strace" and "minor-faults" in plan.perf
    assert {s.LOCK_WAIT, s.LOCK_HOLD, "fault kinds"} <= {m.what for m in plan.missing}
    assert all(m.costs and m.remedy for m in plan.missing)
    monkeypatch.setattr("seqfault.trace.capture.paranoid", lambda: 3)
    plan = make_plan(None, False, False)
    assert plan.source == "strace" and s.FAULT in {m.what for m in plan.missing}
    for use, sample in (("perf", False), (None, True)):
        with pytest.raises(TraceError, match="root"):
            make_plan(use, False, sample)


@pytest.mark.parametrize(
    ("command", "pid", "said"),
    [(["no-such-program-here"], None, "no such program"), ([], (1 << 22) + 1, "no such process")],
)
def test_bad_targets(tmp_path, command, pid, said):
    with pytest.raises(TraceError, match=said):
        capture(tmp_path / "t.parquet", command, pid, "strace")
    assert not list(tmp_path.iterdir())
