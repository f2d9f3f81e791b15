"""The fuzzer as a whole: it agrees with the live kernel, and sees a text that is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seqfault.cli import main
from seqfault.compile.source import source_of
from seqfault.kernel.machine import KernelBug
from seqfault.live.campaign import Options, run_campaign
from seqfault.live.compare import TOTALS, WHAT
from seqfault.live.fuzz import NOT_PROVOKED, Pair, examine, run_chunk
from seqfault.live.generate import Geometry, Plan, programs
from seqfault.live.model import ModelSide, PlainSide, errnos, program_for
from seqfault.live.mutants import Mutant, draw
from seqfault.live.script import parse_script, row_text
from seqfault.live.study import (
    MutantModel,
    Recorded,
    SameCode,
    Unchanged,
    covered_lines,
    record,
    try_mutant,
    unreached,
)
from seqfault.mm.uapi import uapi_step

G = Geometry()


def test_no_difference_from_the_live_kernel(pair):
    plan = Plan(seed=2026)
    t = run_chunk(pair, plan, 0, 80, True)
    assert not t.found, "\n".join([*(row_text(r) for r in t.found[0].rows[1:]), str(t.found[0].mismatch)])
    assert not t.unstable
    assert t.ops == 20_000
    assert all(t.counters[f"vma_merge/case{i}"] for i in range(1, 9))


def test_a_program_that_was_disturbed_is_run_again(pair, monkeypatch):
    """Each operation is counted once, though the first answer to one of them did not come again."""
    ask, asked = pair.kernel.run, []

    def answer(rows):
        stream, offsets, why = ask(rows)
        if not asked:
            stream[offsets[100]] += 1
        asked.append(len(rows))
        return stream, offsets, why

    plan = Plan(seed=2026)
    expected = run_chunk(pair, plan, 0, 2, True)
    monkeypatch.setattr(pair.kernel, "run", answer)
    t = run_chunk(pair, plan, 0, 2, True)
    assert len(t.unstable) == 1 and t.unstable[0].startswith("program 0, operation 100,") and not t.found
    assert (t.ops, t.programs, t.results) == (500, 2, expected.results)


@pytest.mark.parametrize("release", [412, 601, 618])
def test_the_text_of_each_release_runs_without_a_complaint(release):
    m = ModelSide(release, G, detail_every=8)
    r = m.run(programs(Plan(seed=3), 0, 40, release >= 610))
    assert r.bug is None and r.done == 40 * 251


def test_plain_python_and_machine_code_agree_cell_by_cell():
    assert PlainSide(618, G).check(programs(Plan(seed=4, program_ops=60), 2, 1)) == 61


def test_plain_python_notices_machine_code_that_is_wrong():
    side = PlainSide(618, G)
    rows = parse_script(
        "mmap(W+520p, 1p, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)\nwrite(W+520p, 7)\n"
    )
    assert side.check(rows) == 3
    m = next(x for x in draw(Options(), 5) if x.file == "mm/cpu.py" and x.before == "p.data = value")  # a lost store
    side.program = MutantModel(m, Options(), {}).program
    with pytest.raises(KernelBug, match="executors-differ"):
        side.check(rows)


def test_errnos_are_those_of_the_release():
    new, old = errnos(program_for(618, G)), errnos(program_for(412, G))
    assert {"EINVAL", "ENOMEM", "EFAULT", "EACCES", "EBADF", "EPERM"} <= set(old)
    assert {"EEXIST", "EOVERFLOW"} <= set(new) and "EEXIST" not in old
    assert set(NOT_PROVOKED) <= set(new)


@pytest.mark.parametrize("function", ["vma_merge_new_range", "mprotect_fixup"])
def test_a_wrong_text_is_found_and_made_small(pair, function):
    """The first mutant of a function that a short run sees; what is left of the program is a few operations."""
    o = Options(release=pair.model.release)
    mutants = [m for m in draw(o, 11) if m.function == function][:6]
    if not mutants:
        pytest.skip(f"the text has no {function} now")
    for m in mutants:
        try:
            wrong = Pair(MutantModel(m, o, pair.kernel.sizes), pair.kernel)
        except Exception:
            continue
        rows = programs(Plan(seed=8), 0, 40)
        both = wrong.run(rows)
        if both.at < 0:
            continue
        start = both.at - both.at % 251
        found = examine(wrong, rows[start : both.at + 1], 0)
        wrong.pool.shutdown()
        assert found is not None and len(found.rows) - 1 <= 8
        return
    pytest.fail(f"no mutant of {function} was seen")


def test_campaign_in_two_processes(pair):
    c = run_campaign(Options(ops=12_000, seed=5, jobs=2, sample=0.001, release=pair.model.release))
    assert c.ok and c.tally.ops == 12_000 and c.sampled >= 250


def unchanged_text() -> Mutant:
    src = source_of(uapi_step)
    return Mutant(uapi_step, src.node, src.file, src.name, 0, "none", "", "")


def test_the_unchanged_text_leaks_nothing():
    m = MutantModel(unchanged_text(), Options(), {})
    r = m.run(programs(Plan(seed=1, map_count_every=25), 0, 40))
    assert r.bug is None and r.done == 40 * 251


def test_a_change_that_changes_nothing_is_none():
    m = MutantModel(unchanged_text(), Options(), {})
    with pytest.raises(SameCode):
        MutantModel(unchanged_text(), Options(), {}, m.program.code().object)


def test_a_lock_that_is_not_counted_is_told(pair):
    """By /proc/PID/status; and the smaller program is found without the kernel, and confirmed by it."""
    o = Options(ops=5000, seed=1, release=pair.model.release, detail_every=1)
    every = pair.details(1)
    try:
        known = record(pair.kernel, o)
        m = next(x for x in draw(o, 5) if x.before == "mm.locked_vm -= end - start" and x.after == "nothing")
        out = try_mutant(m, o, known, pair.kernel, Unchanged(o, pair.kernel))
    finally:
        pair.details(every)
    assert out.found and out.by == WHAT[TOTALS] and 0 < out.shrunk <= 4, out.by


def test_the_lines_that_programs_reach(pair):
    o = Options(ops=2500, release=618)
    known = [Recorded(programs(o.plan, 0, 10), np.zeros(0), np.zeros(0))]
    lines = covered_lines(o, known, pair.kernel.sizes)
    never = unreached(o, lines)
    assert len(lines["mm/mmap.py"]) > 100 and not set(never["mm/mmap.py"]) & lines["mm/mmap.py"]


# -- the command
def run(*args: str) -> tuple[int, str, str]:
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as e:
        main(list(args))
    return int(e.value.code or 0), out.getvalue(), err.getvalue()


def test_command_reports(pair, tmp_path):
    code, out, _ = run("fuzz", "--ops", "4000", "--sample", "0", "--json", "--out", str(tmp_path))
    d = json.loads(out)
    assert code == 0 and d["verdict"] == "same" and d["operations"] == 4000 and not d["mismatches"]
    assert sum(d["results"]["mmap"].values()) > 500 and set(d["merges"]) == {f"case{i}" for i in range(1, 9)}
    assert "operation map_count" in d["never_hit"]
    code, out, _ = run("fuzz", "--ops", "1000", "--sample", "0")
    assert code == 0 and "0 mismatches" in out and "controlled" in out
    assert max(map(len, out.splitlines())) <= 200


def test_time_ends_it_and_says_how_to_go_on(pair):
    code, out, _ = run("fuzz", "--ops", "5000000", "--time", "1", "--sample", "0")
    assert code == 3 and "go on with --seed 0 --from" in out


@pytest.mark.parametrize("after_s", [0, 1, 4])
def test_ctrl_c_ends_the_workers_without_a_word_of_theirs(pair, after_s):
    code = "from seqfault.cli import main; main(['fuzz', '--ops', '5000000', '--jobs', '2', '--json'])"
    p = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs the tests may ignore it
    )  # fmt: skip
    try:
        while not Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text():
            assert p.poll() is None
            time.sleep(0.01)
        time.sleep(after_s)
        os.killpg(p.pid, signal.SIGINT)
        out, err = p.communicate(timeout=120)
    finally:
        p.kill()
    assert (p.returncode, err) == (3, "") and json.loads(out)["verdict"] == "incomplete"


@pytest.mark.parametrize(
    "args, says",
    [
        (("fuzz", "--kernel", "hurd"), "host (the running kernel) or debian-6.1"),
        (("fuzz", "--sample", "2"), "from 0 to 1"),
        (("fuzz", "--release", "new"), "write for example 6.18"),
        (("fuzz", "--kernel", "debian-6.1", "--image", "/nowhere/bzImage"), "/nowhere/bzImage"),
        (("run", "/dev/null", "--live"), "are for scripts of system calls"),
    ],
)
def test_bad_input(args, says):
    code, out, err = run(*args)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1 and not out


def test_run_a_script(tmp_path, pair):
    f = tmp_path / "s.txt"
    f.write_text("mmap(W+520p, 3p, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)\nwrite(W+521p, 7)\n")
    code, out, _ = run("run", str(f), "--live")
    assert code == 0 and "write(W+521p, 7)  =>  SIGSEGV" in out and "520-523 r--p" in out
    assert "the live kernel did the same" in out
    f.write_text("mmap(W+520p, 3p)\n")
    code, _, err = run("run", str(f))
    assert code == 2 and f"{f}:1: " in err


