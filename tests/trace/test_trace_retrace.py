"""Traces of `record` replayed in the model: one made here whose maps are known, real ones where they can be recorded."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest
from test_record import needs_perf

from seqfault.cli import main
from seqfault.trace import schema as s
from seqfault.trace.capture import capture
from seqfault.trace.hold import Held
from seqfault.trace.record import snapshot
from seqfault.trace.schema import Meta
from seqfault.trace.store import Writer, open_trace, row

P = 4096
BASE = 0x7FFFF7FFF000  # where the mappings that the kernel places end
ANON = "rd,wr,mr,mw,me,ac"
START = f"""400000-401000 r-xp 00000000 fe:00 1 /bin/x\tanon=0 rss=4 flags=rd,ex,mr,mw,me
{BASE - P:x}-{BASE:x} rw-p 00000000 00:00 0\tanon=4 rss=4 flags={ANON}
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]\tanon=8 rss=8 flags={ANON},gd
"""
# two pages below merged; then one of them without rights
END = START.replace(f"{BASE - P:x}-{BASE:x} rw-p 00000000 00:00 0\tanon=4 rss=4 flags={ANON}\n", (
    f"{BASE - 3 * P:x}-{BASE - 2 * P:x} ---p 00000000 00:00 0\tanon=0 rss=0 flags=mr,mw,me,ac\n"
    f"{BASE - 2 * P:x}-{BASE:x} rw-p 00000000 00:00 0\tanon=8 rss=8 flags={ANON}\n"))  # fmt: skip


def layout(at, when, text):
    return f"= 0.{at:09d} 0.{at + 10:09d} 1 {when} start_brk=0x10000000 rlimit_as=-1\n{text}"


def call(at, name, result, *args):
    values = dict(zip(("address", "length", "a2", "a3", "a4", "a5"), args, strict=False))
    return row(at, 1, 1, s.CALL, name=name, result=result, duration_ns=1000, **values)


def trace(path, end=END, placed=BASE - 3 * P, also=(), **more):
    kinds = more.pop("recorded", list(s.KINDS))
    layouts = more.pop("layouts", [layout(2000, "start", START), layout(90_000, "end", end)])
    meta = Meta(source="perf", kernel="6.18.44-x", recorded=kinds, layouts=layouts,
                settings={"max_map_count": "65530", "mounts": "/:ext4"}, **more)  # fmt: skip
    with Writer(path, meta) as w:
        for r in (
            row(1000, 1, 1, s.EXEC, name="/bin/x"),
            call(10_000, "mmap", placed, 0, 2 * P, 3, 0x22, -1, 0),
            row(10_400, 1, 1, s.LOCK_HOLD, flags=1, duration_ns=100),
            row(20_000, 1, 1, s.FAULT, name="user", address=placed + P, flags=6, duration_ns=500),
            call(30_000, "mprotect", 0, placed, P, 0),
            row(30_400, 1, 1, s.LOCK_HOLD, flags=1, duration_ns=100),
            call(40_000, "mmap", -22, 0, 0, 3, 0x22, -1, 0),
            call(50_000, "mmap", -9, 0, P, 1, 2, 77, 0),
            *also,
            row(95_000, 1, 1, s.EXIT),
        ):
            w.add(r, r[0])
        w.close()
    return str(path)


def retrace(capsys, *args):
    with pytest.raises(SystemExit) as e:
        main(["retrace", *args])
    out = capsys.readouterr()
    return e.value.code, out.out, out.err


def test_results_and_maps_are_the_recorded_ones(tmp_path, capsys):
    code, out, err = retrace(capsys, trace(tmp_path / "t.parquet"), "--json")
    data = json.loads(out)
    assert (code, data["verdict"], data["release"]) == (0, "same", "6.18") and not err
    assert data["calls"] == {"mmap": 3, "mprotect": 1} and not data["differences"] and data["faults"]["replayed"] == 1
    assert [(x["when"], x["vmas"], x["equal"]) for x in data["layouts"]] == [("end", 4, True)]


def test_map_32bit_has_a_place_before_the_kind_of_mapping_is_looked_at(tmp_path, capsys):
    """do_mmap asks for a place first: neither MAP_SHARED nor MAP_PRIVATE is EINVAL, unless no place is large enough."""
    bit32, anon = 0x40, 0x20
    also = [
        call(60_000, "mmap", -22, 0, P, 1, bit32 | anon, -1, 0),
        call(61_000, "mmap", -22, 0, P, 1, bit32, -1, 0),
        call(62_000, "mmap", -12, 0, 1 << 31, 1, bit32 | anon, -1, 0),
    ]
    code, out, _ = retrace(capsys, trace(tmp_path / "t.parquet", also=also), "--json")
    data = json.loads(out)
    assert (code, data["verdict"], data["calls"]["mmap"]) == (0, "same", 6) and not data["differences"]
    wrong = [call(60_000, "mmap", -13, 0, P, 1, bit32 | anon, -1, 0)]
    code, out, _ = retrace(capsys, trace(tmp_path / "t.parquet", also=wrong), "--json")
    assert (code, [x["model"] for x in json.loads(out)["differences"]]) == (1, [-22])


def test_what_differs_is_told(tmp_path, capsys):
    f = trace(tmp_path / "t.parquet", end=START, placed=BASE - 9 * P)
    code, out, _ = retrace(capsys, f)
    assert code == 1 and "the recorded address is forced" in out and "- recorded, + model" in out
    assert "a trace has no shmat" in out


@pytest.mark.parametrize(
    "more,why",
    [
        ({"layouts": []}, "it has no layouts of the program's start and end (an earlier seqfault)"),
        ({"layouts": [], "windows": [[1, 2]]}, "--sample, which does not see every call"),
        ({"recorded": [s.CALL]}, "it has no faults"),
        ({"recorded": [s.CALL, s.FAULT]}, "it has no times at which mmap_lock was had"),
    ],
)
def test_what_a_trace_lacks_and_the_remedy(tmp_path, capsys, more, why):
    code, out, err = retrace(capsys, trace(tmp_path / "t.parquet", **more))
    assert code == 2 and not out and why in err and "seqfault record -o t.parquet -- PROGRAM" in err
    assert err.count("\n") == 1


def test_other_bad_input(tmp_path, capsys):
    f = trace(tmp_path / "t.parquet")
    for args, why in (
        (("sample:nope",), "no such sample"),
        (("sample:java",), "it has no layouts"),
        ((f, "--maps", f), "a trace has its own layouts"),
        ((str(tmp_path / "none.parquet"),), "no file of strace"),
    ):
        code, out, err = retrace(capsys, *args)
        assert code == 2 and not out and why in err and err.count("\n") == 1, err


def test_a_recording_that_was_cut_off_is_incomplete(tmp_path, capsys):
    code, out, _ = retrace(capsys, trace(tmp_path / "t.parquet", truncated=True))
    assert code == 3 and "gap       the recording was cut off" in out


# -- the program held
def held(command):
    return Held(command, lambda pid, when: snapshot(pid, when, time.monotonic_ns), lambda: None)


def test_a_program_is_held_at_its_start_and_its_end():
    h = held(["sh", "-c", f"exec {sys.executable} -I -S -c 'import sys; sys.exit(7)'"])
    if not h.pid:
        pytest.skip(f"ptrace is not allowed here: {h.error}")
    assert len(h.layouts) == 1 and h.layouts[0].when == "start"
    assert {"[stack]", "[vdso]"} <= {a.path for a in h.layouts[0].areas}
    h.go()
    assert h.ended(20) and h.code == 7
    assert [x.when for x in h.layouts] == ["start", "start", "end"]  # sh, Python, its end
    assert len(h.layouts[2].areas) > len(h.layouts[1].areas)


def test_signals_are_passed_on():
    h = held([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
    if not h.pid:
        pytest.skip(f"ptrace is not allowed here: {h.error}")
    h.go()
    time.sleep(0.3)
    os.kill(h.pid, signal.SIGTERM)
    assert h.ended(20) and h.code == -signal.SIGTERM
    assert held([sys.executable + "-not"]).error


PROGRAM = """
import mmap, threading
def work():
    for i in range(20):
        m = mmap.mmap(-1, 1 << 16)
        for k in range(0, 1 << 16, 4096):
            m[k] = 1
        x = bytearray(300000 + 1000 * i)
        m.close()
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


@needs_perf
def test_one_recording_for_both(tmp_path, capsys):
    """Recorded once: results and maps are the model's, and whatif replays it."""
    (tmp_path / "x.py").write_text(PROGRAM)
    f = str(tmp_path / "t.parquet")
    done = capture(tmp_path / "t.parquet", [os.path.realpath(sys.executable), "-I", "-S", str(tmp_path / "x.py")], None, "perf")
    assert done.meta.exit_code == 0 and not done.meta.lost and len(done.meta.layouts) == 2
    with open_trace(f) as t:
        areas = [r["file"] for b in t.batches(kinds=[s.AREA]) for r in b.to_pylist()]
    assert "[stack]" in areas
    code, out, _ = retrace(capsys, f)
    assert code == 0, out
    assert "1 compared, 1 equal" in out
    with pytest.raises(SystemExit) as e:
        main(["whatif", f, "-m", "x86-small", "-p", "mmap-sem", "--seeds", "1", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert e.value.code == 0 and data["threads"] == 4 and not any(x["failed"] for x in data["designs"])
    assert data["designs"][0]["operations"]["brk"]["n"] >= 2
