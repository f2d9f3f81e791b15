"""`seqfault export promela`: Spin counts as many states of what is exported as we do, and fails where we report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modules import load as load_module
from seqfault import cli
from seqfault.compile.program import Process, Program, compile_program
from seqfault.explore.check import Limits, run_one
from seqfault.explore.engine import explore
from seqfault.kernel import atomic, choose, integer, kmem_cache_alloc, kmem_cache_free, ptr, struct, the, wait_for
from seqfault.models import record, seq
from seqfault.protocols import load
from seqfault.report.export import export_model, export_scenario
from seqfault.report.promela import ExportError, export_promela
from seqfault.scenarios import find

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "promela"


spin = load_module(ROOT / "bench" / "spin.py", "bench_spin")
needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="spin and gcc (Debian packages) are not installed"
)
QUICK = (*spin.FULL, "-DVECTORSZ=4096", "-O0")
GO_ON = ("-m100000", "-w20", "-c0")


def spins(folder: Path, text: str, defines: tuple[str, ...] = (), args=GO_ON):
    return spin.run_pan(spin.build_pan(folder, text, (*defines, *spin.EXACT), QUICK), args)


def hand(folder: Path, name: str, size: tuple[int, ...]):
    keys = ("W", "R", "N", "K") if name == "seq" else ("NW", "NR", "KW", "KR")
    return spins(folder, (DATA / f"{name}.pml").read_text(), tuple(f"-D{k}={v}" for k, v in zip(keys, size, strict=True)))


@needs_spin
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1)])
def test_seq_is_the_model_written_by_hand(size, tmp_path):
    p = seq.program(*size)
    a = compile_program(p, "full")
    ex = explore(a, a.pack(p.layout().start), a.rom(p.layout().start), mode="full", dead=False)
    exported = spins(tmp_path, export_model("seq", ",".join(map(str, size))).text)
    by_hand = hand(tmp_path, "seq", size)
    assert exported.states == by_hand.states == ex.states
    assert exported.transitions == by_hand.transitions
    assert exported.errors == by_hand.errors == 0


@needs_spin
def test_record_is_the_model_written_by_hand(tmp_path):
    size = (1, 2, 2, 2)
    exported = spins(tmp_path, export_model("record", "1,2,2,2").text)
    assert exported.states == hand(tmp_path, "record", size).states == record.STATES[size] == 9877
    assert exported.errors == 0


@needs_spin
def test_merged_steps_and_dead_registers(tmp_path):
    p = seq.program(1, 1, 2, 1)
    a = compile_program(p, "merged")
    ex = explore(a, a.pack(p.layout().start), a.rom(p.layout().start))
    assert spins(tmp_path, export_model("seq", "1,1,2,1", "merged").text).states == ex.states


@needs_spin
def test_default_reduction_verifies_too(tmp_path):
    pan = spin.build_pan(tmp_path, export_model("seq", "1,1,2,1").text, (), ("-DSAFETY",))
    r = spin.run_pan(pan, GO_ON)
    assert r.complete and not r.errors and r.states < 18441


@struct(pool=2)
class promela_node:
    v: integer(0, 5)


@struct(pool=1)
class promela_head:
    first: ptr[promela_node]
    n: integer(0, 3)


def walk():
    h = the(promela_head)
    n = kmem_cache_alloc(promela_node)
    n.v = choose(3)
    with atomic():
        if not h.first:
            h.first = n
    x = h.first
    kmem_cache_free(n)
    if x:
        h.n = x.v  # of a freed object, perhaps; or of one that was never stored
    i: integer(0, 4) = 0
    with atomic():  # a loop inside a step
        while i < h.n:
            i += 1
        h.n = i // 2
    assert i < 2


@needs_spin
@pytest.mark.parametrize("granularity", ["merged"])
def test_objects_choices_and_loops(granularity, tmp_path):
    p = Program("walk", [Process(walk, 0), Process(walk, 1)])
    a = compile_program(p, granularity)
    start = p.layout().start
    ex = explore(a, a.pack(start), a.rom(start), mode=granularity)
    r = spins(tmp_path, export_promela(a, a.pack(start), a.rom(start), mode=granularity).text)
    ours = {a.kinds[v.kind] for v in ex.violations} - {"deadlock"}
    assert r.states == ex.states
    assert {"use-after-free", "assertion"} <= ours
    assert kinds_of(r) == ours


@struct(pool=1)
class promela_locks:
    a: bool
    b: bool


def a_then_b():
    s = the(promela_locks)
    with atomic():
        wait_for(not s.a)
        s.a = True
    with atomic():
        wait_for(not s.b)
        s.b = True


def b_then_a():
    s = the(promela_locks)
    with atomic():
        wait_for(not s.b)
        s.b = True
    with atomic():
        wait_for(not s.a)
        s.a = True


@needs_spin
@pytest.mark.parametrize("other,error", [(b_then_a, "invalid end state"), (None, "")])
def test_deadlock_is_an_invalid_end_state(other, error, tmp_path):
    p = Program("locks", [Process(a_then_b, 0), *([Process(other, 1)] if other else [])])
    a = compile_program(p)
    start = p.layout().start
    ex = explore(a, a.pack(start), a.rom(start))
    r = spins(tmp_path, export_promela(a, a.pack(start), a.rom(start)).text)
    assert r.states == ex.states
    assert bool(r.errors) == bool(ex.violations) == bool(error)
    assert error in r.output


def kinds_of(r) -> set[str]:
    """Kinds of violation among the assertions that failed."""
    from seqfault.compile.ops import REPORTED

    known = (*REPORTED, "assertion", "kernel-bug", "double-acquire", "release-not-held", "stale-tlb")
    text = "\n".join(r.kinds)
    return {k for k in known if k.replace("-", "_") in text.replace("assertion violated", "")}


@needs_spin
@pytest.mark.parametrize(
    "protocol,scenario",
    [
        ("mmap-sem", "argued/munmap-lookup-neighbour"),
        ("mmap-sem", "argued/file-private-read"),
        ("spf-seed", "argued/case1-alone"),
        ("spf-seed", "argued/file-private-read"),
    ],
)
def test_scenarios(protocol, scenario, tmp_path):
    """As many states as `check`, and an assertion fails each time that we report something inside a step."""
    s = find([scenario])[0]
    a, ex, _ = run_one(load(protocol), s, Limits())
    r = spins(tmp_path, export_scenario(protocol, s).text, args=(*GO_ON, "-E"))
    inside = [v for v in ex.violations if v.process >= 0]
    assert r.states == ex.states
    assert r.errors == sum(v.count for v in inside)
    assert kinds_of(r) == {a.kinds[v.kind] for v in inside}


def test_the_text_is_to_be_read():
    text = export_model("seq", "1,2,2,2").text
    assert "active [2] proctype reader()" in text and "active proctype writer()" in text
    assert "/* writer, models/seq.py:" in text and "   seq = t;" in text
    assert text == export_model("seq", "1,2,2,2").text


def test_wide_values_are_refused():
    def wide():
        h = the(promela_head)
        i = 1
        while i < 1 << 40:
            i = i * 2
        h.n = 1

    p = Program("wide", [Process(wide, 0)])
    a = compile_program(p, "full")
    with pytest.raises(ExportError, match="32 bits|30 bits"):
        export_promela(a, a.pack(p.layout().start), a.rom(p.layout().start), mode="full", dead=False)


def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        cli.main(["export", "promela", *args])
    out, err = capsys.readouterr()
    return int(e.value.code or 0), out, err


def test_command(capsys, tmp_path):
    code, out, _ = run(capsys, "record")
    assert code == 0 and "active proctype writer()" in out
    file = tmp_path / "record.pml"
    code, out2, _ = run(capsys, "record", "-o", str(file), "--json")
    d = json.loads(out2)
    assert code == 0 and file.read_text() == out
    assert d["format"] == "promela" and d["processes"] == 3 and d["file"] == str(file) and "text" not in d


@pytest.mark.parametrize(
    "args,words",
    [
        (("spf-sed",), ("spf-sed", "spf-seed")),
        (("spf-seed",), ("-s",)),
        (("spf-seed", "-s", "argued/no-such"), ("argued/no-such",)),
        (("spf-seed", "-s", "argued/*"), ("argued/*", "one of them")),
        (("seq", "--size", "1,2"), ("1,2", "four numbers")),
        (("seq", "-s", "case8"), ("case8", "leave")),
        (("seq", "--mode", "half"), ("half", "merged, full")),
        (("seq", "-o", "/nonexistent/x.pml"), ("/nonexistent/x.pml", "can be written")),
    ],
)
def test_errors_are_one_line(args, words, capsys):
    code, out, err = run(capsys, *args)
    assert code == 2 and not out and err.count("\n") == 1
    assert all(w in err for w in words)
