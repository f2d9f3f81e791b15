"""Programs that nobody here wrote, replayed: the model's results and layouts are the recorded ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqfault.cli import main
from seqfault.mm.fullsize import release_number
from seqfault.trace.layout import parse_area, read_layouts
from seqfault.trace.record import RecordError, record
from seqfault.trace.replay import Replay, replay
from seqfault.trace.spaces import Spaces
from seqfault.trace.strace import Call
from seqfault.trace.timeline import Fault, RecordingError, read_recording

DATA = Path(__file__).parent.parent / "data" / "retrace"
# folder -> calls that must be there, fewest layouts, what may be replaced
PROGRAMS = {
    "mappings": ({"mmap": 250, "munmap": 200, "mremap": 200, "madvise": 400}, 30, {"MAP_32BIT, placed at random"}),
    "heaps": ({"brk": 40, "mremap": 30, "clone": 10}, 20, set()),
    "files": ({"mmap": 100, "msync": 30, "mlock": 5}, 10, {"shmat", "shmdt"}),
    "locks": ({"mprotect": 200, "mlock": 5, "mlock2": 5, "mlockall": 5}, 20, set()),
    "malloc": ({"madvise": 400, "mmap": 100, "mprotect": 100, "brk": 30}, 15, set()),
    "threads": ({"mmap": 30, "mprotect": 40}, 10, set()),
}


def code(argv):
    with pytest.raises(SystemExit) as e:
        main(argv)
    return e.value.code


@pytest.mark.parametrize("name", PROGRAMS)
def test_recorded_programs_are_equal(name):
    calls, layouts, replaced = PROGRAMS[name]
    recording = read_recording(DATA / name)
    assert not recording.problems and recording.events and recording.events.lost == 0
    r = replay(recording, release_number(recording.layouts.machine["kernel"]))
    assert not r.differences and not r.undecoded and not r.orphans
    assert [c.diff for c in r.comparisons if not c.equal] == []
    assert all(r.calls[c] >= n for c, n in calls.items()), r.calls
    assert len(r.comparisons) >= layouts and set(r.substituted) <= replaced
    assert r.faults > 300


def dropped(recording, which):
    """The recording without the items for which `which` holds, replayed."""
    recording.items = [i for i in recording.items if not which(i)]
    return replay(recording, 618)


def test_a_call_that_is_missing_is_seen():
    recording = read_recording(DATA / "malloc")
    last = [c for c in recording.items if isinstance(c, Call) and c.name == "mprotect"][-1]
    assert not dropped(recording, lambda i: i is last).equal


def test_merges_depend_on_the_faults():
    """Without the faults no VMA has an anon_vma, and neighbours merge that Linux kept apart."""
    r = dropped(read_recording(DATA / "malloc"), lambda i: isinstance(i, Fault))
    assert any(not c.equal for c in r.comparisons)


def test_without_events_neighbours_are_taken_as_one():
    at = DATA / "mappings"
    r = replay(read_recording(at / "strace.xz", at / "maps.xz"), 618)
    assert r.comparisons and all(c.merged for c in r.comparisons)
    assert [c.diff for c in r.comparisons if not c.equal] == []


def test_a_wrong_placement_is_reported_and_forced():
    recording = read_recording(DATA / "threads")
    call = next(
        c
        for c in recording.items
        if isinstance(c, Call)
        and c.name == "mmap"
        and c.args[0] == "NULL"
        and c.tid != c.line
        and "MAP_STACK" in c.args[3]
    )
    call.ret -= 0x10000
    run = Replay(recording, Spaces(618))
    for item in recording.items:
        run.step(item)
        if item is call:
            break
    (d,) = run.result.differences
    assert d.forced and d.recorded == call.ret and d.model == call.ret + 0x10000
    assert "the recorded address is forced" in str(d)


def test_the_command():
    assert code(["retrace", str(DATA / "threads")]) == 0


def test_json(capsys):
    assert code(["retrace", str(DATA / "threads"), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["verdict"] == "same" and out["release"] == "6.18" and not out["differences"]
    assert all(x["equal"] for x in out["layouts"]) and out["faults"]["replayed"] > 300


def test_a_layout_that_differs_is_shown(tmp_path, capsys):
    import lzma

    text = lzma.open(DATA / "threads" / "maps.xz", "rt").read()
    head, _, tail = text.rpartition(" rw-p ")
    (tmp_path / "maps").write_text(f"{head} r--p {tail}")
    argv = ["retrace", str(DATA / "threads" / "strace.xz"), "--maps", str(tmp_path / "maps")]
    assert code([*argv, "--events", str(DATA / "threads" / "events.xz")]) == 1
    out = capsys.readouterr().out
    assert "different" in out and "- recorded, + model" in out


def test_bad_input(tmp_path, capsys):
    assert code(["retrace", str(tmp_path)]) == 2
    (tmp_path / "strace").write_text("")
    assert code(["retrace", str(tmp_path)]) == 2
    assert "no layouts" in capsys.readouterr().err
    (tmp_path / "maps").write_text("not a map\n")
    assert code(["retrace", str(tmp_path)]) == 2
    with pytest.raises(RecordingError, match="no such file"):
        read_recording(tmp_path, events=tmp_path / "none")
    assert str(read_layouts(tmp_path / "maps").problems[0]).endswith("maps:1: no line of maps: not a map")


def test_unreadable_lines_make_it_incomplete(tmp_path, capsys):
    import lzma

    at = DATA / "threads"
    text = lzma.open(at / "strace.xz", "rt").read()
    (tmp_path / "strace").write_text(text + "what is this\n")
    argv = ["retrace", str(tmp_path / "strace"), "--maps", str(at / "maps.xz"), "--events", str(at / "events.xz")]
    assert code(argv) == 3
    out = capsys.readouterr().out
    assert "incomplete" in out and f"strace:{text.count(chr(10)) + 1}: no time stamp" in out


def test_areas_of_maps():
    a = parse_area("7f00-8f00 r-xp 00001000 fe:00 17 /lib/x")
    assert a and a.line() == "00007f00-00008f00 r-xp 00001000 fe:00 17 /lib/x" and a.anon == -1
    assert parse_area("Size: 4 kB") is None


def strace_here():
    import shutil

    return shutil.which("strace") is not None


@pytest.mark.skipif(not strace_here(), reason="strace is not installed")
def test_a_program_recorded_now(tmp_path):
    """strace alone, as any user; the layouts at the start and at the end."""
    assert record(tmp_path, ["/bin/sh", "-c", "exit 3"], perf=False, delay=0.3, quiet=True) == 3
    recording = read_recording(tmp_path)
    assert not recording.problems and {x.when for x in recording.layouts.layouts} == {"start", "end"}
    r = replay(recording, release_number(recording.layouts.machine["kernel"]))
    assert r.equal and r.calls["mmap"] > 3 and len(r.comparisons) == 1


def test_record_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecordError, match="strace is not installed"):
        record(tmp_path, ["true"])


def test_another_release_differs_as_it_should():
    """6.1 neither aligns glibc's 128 MB arenas to 2 MB (from 6.7) nor marks thread stacks VM_NOHUGEPAGE (from 6.7)."""
    r = replay(read_recording(DATA / "malloc"), 601)
    assert [d.call.args[1] for d in r.differences] == ["134217728"]
    different = [c.diff for c in r.comparisons if not c.equal]
    assert different
    for diff in different:
        assert [x[1:].replace(",nh", "") for x in diff if x[0] == "-"] == [x[1:] for x in diff if x[0] == "+"]
