"""perf script text put together to faults, calls, waits and holds; what is truncated, foreign, lossy, out of order."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from seqfault.trace import schema as s
from seqfault.trace.importing import import_file, recognise
from seqfault.trace.store import TraceError, open_trace

# One thread maps, faults under the VMA's lock; the other falls back while the first unmaps, which downgrades.
TEXT = """\
 10/10 [000] 1.000001000: syscalls:sys_enter_mmap: addr: 0x00000000, len: 0x00002000, prot: 0x00000003, flags: 0x00000022, fd: 0xffffffff, off: 0x00000000
 10/10 [000] 1.000001100: mmap_lock:mmap_lock_start_locking: mm=0xffff1 memcg_id=1 write=true
 10/10 [000] 1.000001200: mmap_lock:mmap_lock_acquire_returned: mm=0xffff1 memcg_id=1 write=true success=true
 10/10 [000] 1.000001800: mmap_lock:mmap_lock_released: mm=0xffff1 memcg_id=1 write=true
 10/10 [000] 1.000002000: syscalls:sys_exit_mmap: 0x7f0000000000
 10/10 [000] 1.000003000: exceptions:page_fault_user: address=0x7f0000000008 ip=0x401000 error_code=0x6
 10/10 [000] 1.000004500:          1  minor-faults:     7f0000000008           401000 f+0x10 (/bin/x)
 10/10 [000] 1.000005000: task:task_newtask: pid=11 comm=x clone_flags=3d0f00 oom_score_adj=0
 10/10 [000] 1.000006000: syscalls:sys_enter_munmap: addr: 0x7f0000000000, len: 0x00001000
 10/10 [000] 1.000006100: mmap_lock:mmap_lock_start_locking: mm=0xffff1 memcg_id=1 write=true
 10/10 [000] 1.000006200: mmap_lock:mmap_lock_acquire_returned: mm=0xffff1 memcg_id=1 write=true success=true
 10/11 [001] 1.000006300: exceptions:page_fault_user: address=0x7f0000001000 ip=0x401000 error_code=0x4
 10/11 [001] 1.000006400: mmap_lock:mmap_lock_start_locking: mm=0xffff1 memcg_id=1 write=false
\tffffffff815de08b __mmap_lock_do_trace_start_locking+0x4b ([kernel.kallsyms])
\tffffffff815df0d4 lock_mm_and_find_vma+0x144 ([kernel.kallsyms])
\tffffffff821f5228 exc_page_fault+0x1d8 ([kernel.kallsyms])

 10/10 [000] 1.000006700: mmap_lock:mmap_lock_acquire_returned: mm=0xffff1 memcg_id=1 write=false success=true
 10/10 [000] 1.000007000: mmap_lock:mmap_lock_released: mm=0xffff1 memcg_id=1 write=false
 10/10 [000] 1.000007500: syscalls:sys_exit_munmap: 0x0
 10/11 [001] 1.000007600: mmap_lock:mmap_lock_acquire_returned: mm=0xffff1 memcg_id=1 write=false success=true
 10/11 [001] 1.000007700: mmap_lock:mmap_lock_released: mm=0xffff1 memcg_id=1 write=false
 10/11 [001] 1.000008000:          1  minor-faults:     7f0000001000           401000 f+0x10 (/bin/x)
 10/11 [001] 1.000009000: exceptions:page_fault_user: address=0x10 ip=0x401000 error_code=0x4
 10/11 [001] 1.000009500: sched:sched_process_exit: comm=x pid=11 prio=120 group_dead=false
"""


def imported(tmp_path: Path, text: str, name: str = "x.txt"):
    (tmp_path / name).write_text(text)
    meta, source = import_file(tmp_path / name, tmp_path / "t.parquet")
    with open_trace(tmp_path / "t.parquet") as t:
        return meta, source, [r for b in t.batches() for r in b.to_pylist()], t.stacks


def of(rows, kind):
    return [r for r in rows if r["kind"] == kind]


def test_put_together(tmp_path):
    meta, source, rows, stacks = imported(tmp_path, TEXT)
    assert not source.skipped and not meta.unordered
    mmap, munmap = of(rows, s.CALL)
    assert (mmap["name"], mmap["length"], mmap["a2"], mmap["a3"], mmap["a4"]) == ("mmap", 8192, 3, 0x22, -1)
    assert (mmap["duration_ns"], mmap["result"], munmap["duration_ns"]) == (1000, 0x7F0000000000, 1500)
    first, second, third = of(rows, s.FAULT)
    assert (first["duration_ns"], first["flags"], first["a2"], first["result"]) == (1500, 6, 0, s.MINOR)
    assert first["site"] == "f+0x10 (/bin/x)"
    assert (second["duration_ns"], second["tid"], second["a2"]) == (1700, 11, s.LOCKED_FALLBACK)
    assert third["duration_ns"] is None and third["result"] is None  # it was never accounted
    waits = [(r["name"], r["flags"], r["duration_ns"]) for r in of(rows, s.LOCK_WAIT)]
    assert waits == [("mmap", 1, 100), ("munmap", 1, 100), ("fault", 0, 1200)]
    holds = [(r["name"], r["flags"], r["duration_ns"]) for r in of(rows, s.LOCK_HOLD)]
    assert holds == [("mmap", 1, 600), ("munmap", 1, 500), ("munmap", 0, 300), ("fault", 0, 100)]
    (fork,) = of(rows, s.FORK)
    assert (fork["result"], fork["a3"]) == (11, 10)
    assert stacks == [["lock_mm_and_find_vma+0x144 ([kernel.kallsyms])", "exc_page_fault+0x1d8 ([kernel.kallsyms])"]]


def test_first_anonymous_page_is_no_fallback(tmp_path):
    _, _, rows, _ = imported(tmp_path, TEXT.replace("lock_mm_and_find_vma+0x144", "__vmf_anon_prepare+0xb2"))
    assert [r["a2"] for r in of(rows, s.FAULT)] == [0, s.LOCKED_ANON_VMA, 0]


def test_without_stacks_it_is_not_told(tmp_path):
    text = "".join(line + "\n" for line in TEXT.splitlines() if line and not line.startswith("\t"))
    _, _, rows, _ = imported(tmp_path, text)
    assert [r["a2"] for r in of(rows, s.FAULT)] == [0, s.LOCKED_OTHER, 0]


def test_perfs_own_fields(tmp_path):
    """comm and tid, microseconds: the process is known by its mm."""
    text = "".join(
        line.replace("10/", "x prog ", 1).replace("000:", ":", 1) + "\n" if line.startswith(" ") else line + "\n"
        for line in TEXT.splitlines()
    )
    meta, _, rows, _ = imported(tmp_path, text)
    assert {r["pid"] for r in of(rows, s.LOCK_WAIT)} == {10}
    assert any(m.what == "process ids" for m in meta.missing)


def test_lost_records_are_counted(tmp_path):
    text = TEXT + " 10/10 [000] 1.000009600: PERF_RECORD_LOST lost 41\n"
    assert imported(tmp_path, text)[0].lost == 41


def test_truncated(tmp_path):
    meta, source, rows, _ = imported(tmp_path, TEXT[:-40])
    assert meta.truncated and source.skipped["cut off"] == 1 and not of(rows, s.EXIT) and len(of(rows, s.FAULT)) == 3


def test_lines_that_are_none_are_counted(tmp_path):
    meta, source, rows, _ = imported(tmp_path, TEXT + "what is this?\nand this\n")
    assert source.skipped["not a line of perf script"] == 2 and source.first_bad[1] == "what is this?"
    assert len(of(rows, s.FAULT)) == 3


def test_out_of_order(tmp_path):
    """Neighbouring lines swapped: put right.  A line a second late: counted."""
    lines = TEXT.splitlines(keepends=True)
    swapped = "".join([lines[1], lines[0], *lines[2:]])
    assert imported(tmp_path, swapped)[0].unordered == 0
    late = TEXT + "".join(f" 10/10 [000] 3.{i:09}: minor-faults:  401000 f (/bin/x)\n" for i in range(600)) + lines[6]
    assert imported(tmp_path, late)[0].unordered == 1


def test_a_call_that_was_begun_before(tmp_path):
    text = "\n".join(TEXT.splitlines()[4:]) + "\n"
    meta, source, rows, _ = imported(tmp_path, text)
    assert source.skipped == {"returns without their call": 1} and len(of(rows, s.CALL)) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("a\nb\nc\n", "neither perf.data nor"),
        (" 10/10 [000] 1.000000001: sched:sched_switch: prev_comm=x\n" * 3, "only sched:sched_switch"),
        ("PAR1xxxx", "Parquet"),
        ("PERFILE2" + "x" * 100, "perf"),
    ],
)
def test_refused(tmp_path, text, said):
    (tmp_path / "x").write_text(text)
    with pytest.raises(TraceError) as e:
        import_file(tmp_path / "x", tmp_path / "t.parquet")
    assert said in str(e.value) and "\n" not in str(e.value) and not (tmp_path / "t.parquet").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


STRACE = """\
7 100.000100 execve("/bin/x", ["x"], 0x7ffc /* 3 vars */) = 0 <0.000300>
7 100.001000 mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000 <0.000010>
7 100.002000 clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD|CLONE_SIGHAND}, 88) = 8 <0.000050>
7 100.003000 munmap(0x7f0000000000, 4096 <unfinished ...>
8 100.003100 mprotect(0x7f0000001000, 4096, PROT_READ) = 0 <0.000020>
7 100.003400 <... munmap resumed>)         = 0 <0.000400>
8 100.004000 madvise(0x7f0000001000, 4096, MADV_DONTNEED) = -1 EINVAL (Invalid argument) <0.000005>
8 100.005000 +++ exited with 0 +++
"""


def test_strace(tmp_path):
    meta, source, rows, _ = imported(tmp_path, STRACE)
    assert recognise(tmp_path / "x.txt") == "strace" and not source.skipped and not meta.unordered
    calls = [(r["tid"], r["pid"], r["name"], r["duration_ns"], r["result"]) for r in of(rows, s.CALL)]
    assert calls == [
        (7, 7, "mmap", 10_000, 0x7F0000000000),
        (7, 7, "munmap", 400_000, 0),
        (8, 7, "mprotect", 20_000, 0),
        (8, 7, "madvise", 5_000, -22),
    ]
    assert [r["name"] for r in of(rows, s.EXEC)] == ["/bin/x"] and len(of(rows, s.EXIT)) == 1
    assert {m.what for m in meta.missing} == {s.FAULT, s.LOCK_WAIT, s.LOCK_HOLD}


def test_strace_half_a_call(tmp_path):
    meta, source, rows, _ = imported(tmp_path, "\n".join(STRACE.splitlines()[:5]) + "\n")
    assert sum(source.skipped.values()) == 1 and len(of(rows, s.CALL)) == 3


@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed (linux-perf)")
def test_perf_data_that_is_damaged(tmp_path):
    data = tmp_path / "perf.data"
    made = subprocess.run(
        ["perf", "record", "-q", "-c", "1", "-e", "minor-faults:u", "-o", str(data), "--", "true"], capture_output=True
    )
    if made.returncode or not data.exists():
        pytest.skip("perf may not record here (kernel.perf_event_paranoid)")
    meta, _ = import_file(data, tmp_path / "t.parquet")
    assert meta.counts[s.FAULT] > 10
    data.write_bytes(data.read_bytes()[:200])
    with pytest.raises(TraceError, match="perf script"):
        import_file(data, tmp_path / "u.parquet")
