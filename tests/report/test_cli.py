"""The command line: what it prints, its exit codes, its errors; counterexamples and schedules."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command import run
from seqfault import cli
from seqfault.explore.check import VIOLATED, Limits, check_scenario
from seqfault.protocols import load
from seqfault.scenarios import find

EXAMPLES = Path(__file__).parents[2] / "examples/seqcount"


def test_version(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "--version")
    assert code == 0 and re.fullmatch(r"seqfault \d+\.\d+\.\d+\n", out)


def test_one_command_is_made_as_all_are(capsys, monkeypatch):
    names = [str(c.name or getattr(c.callback, "__name__", "")) for c in cli.app.registered_commands] + ["export"]
    alone = {n: run(capsys, monkeypatch, n, "--help") for n in names}
    monkeypatch.setattr(cli, "asked_for", lambda argv: cli.app)
    assert alone == {n: run(capsys, monkeypatch, n, "--help") for n in names}
    assert all(code == 0 and f" {n} " in out.splitlines()[0] for n, (code, out, _) in alone.items())


@pytest.mark.parametrize("scenario", ["argued/case1-alone", "argued/third-question", "argued/munmap-table-goes", "argued/index-torn"])
def test_counterexample_fits_and_replays(scenario, capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "check", "spf-seed", "-s", scenario, "-j", "1")
    assert code == 1
    picture = out.split("\n\n")[0].splitlines()
    assert len(picture) <= 25
    assert all(len(x) <= 80 for x in picture[:-1])
    schedule = re.search(r"replay '(.*)'", out)
    assert schedule
    kind = picture[0].split()[0]
    for _ in range(2):  # the same each time
        code, again, _ = run(capsys, monkeypatch, "replay", schedule[1])
        assert code == 1 and kind in again.split("\n")[0] + again


def test_seed_finds_the_free_of_next(capsys, monkeypatch):
    _, out, _ = run(capsys, monkeypatch, "check", "spf-seed", "-s", "case7", "-j", "1")
    assert out.startswith("use-after-free of vm_area_struct in __vma_adjust")
    assert "write_seqcount_end(next.vm_sequence)" in out


def test_json(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "check", "spf-v5", "-s", "argued/madvise-madvise", "--json", "-j", "1")
    d = json.loads(out)
    assert code == 1 and d["protocol"] == "spf-v5" and d["memory"] == "sc" and d["verdict"] == "violated"
    v = d["scenarios"][0]["violations"][0]
    assert v["kind"] == "sequence-left-odd" and v["schedule"].startswith("spf-v5:argued/") and v["steps"]
    assert {"kind", "object", "function", "line", "schedule", "steps"} <= set(v)


def test_holds_and_incomplete(capsys, monkeypatch):
    assert run(capsys, monkeypatch, "check", "mmap-sem", "-s", "same-page", "-j", "1")[0] == 0
    code, out, _ = run(capsys, monkeypatch, "check", "spf-v5", "-s", "argued/same-page-writes", "--max-states", "50", "-j", "1")
    assert code == 3 and "limit of 50 states" in out
    code, out, _ = run(capsys, monkeypatch, "check", "spf-v5", "-s", "two-faults", "--timeout", "0.01", "-j", "1")
    assert code == 3 and "time limit" in out
    code, out, _ = run(capsys, monkeypatch, "check", "spf-v5", "-s", "two-faults/munmap-same-page", "--max-memory", "3M", "-j", "1")
    assert code == 3 and "memory limit" in out


def test_vacuous(capsys, monkeypatch):
    _, out, _ = run(capsys, monkeypatch, "check", "spf-v5", "-s", "munmap/all-one-page1-cold-read", "-j", "1")
    assert "vacuous" in out


def test_parallel_is_the_same(capsys, monkeypatch):
    args = ("check", "spf-seed", "-s", "case6", "--examples", "0")
    _, one, _ = run(capsys, monkeypatch, *args, "-j", "1")
    _, two, _ = run(capsys, monkeypatch, *args, "-j", "2")
    assert re.sub(r", [\d.]+ s", "", one) == re.sub(r", [\d.]+ s", "", two)


def test_resume(capsys, monkeypatch, tmp_path: Path):
    f = tmp_path / "r.jsonl"
    args = ("check", "spf-seed", "-s", "argued/case*", "--resume", str(f), "-j", "1", "--examples", "0")
    _, first, _ = run(capsys, monkeypatch, *args)
    lines = f.read_text().splitlines()
    f.write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])  # killed in the middle of a line
    _, again, _ = run(capsys, monkeypatch, *args)
    assert re.sub(r", [\d.]+ s", "", first) == re.sub(r", [\d.]+ s", "", again)


PROTOCOL = '''"""A protocol that breaks the layout."""
from seqfault.kernel import *
from seqfault.mm.places import mmap_region_flags_end
from seqfault.mm.types import VM_READ, vm_area_struct

PROTOCOL = Protocol("mine", "breaks flags")

@PROTOCOL.at(mmap_region_flags_end)
def break_it(vma: ptr[vm_area_struct]):
    vma.vm_flags = VM_READ
'''
SCENARIO = '[[scenario]]\nname = "my/own"\nsetup = ["mmap 0-1 r"]\ncpus = [["mmap 2-3 rw"], ["read 0"]]\n'


def test_own_protocol_and_scenario(capsys, monkeypatch, tmp_path: Path):
    """The outcome (a VMA with other flags) is one that mmap-sem never has: refinement fires."""
    p, s = tmp_path / "mine.py", tmp_path / "my.toml"
    p.write_text(PROTOCOL)
    s.write_text(SCENARIO)
    code, out, _ = run(capsys, monkeypatch, "check", str(p), "--scenario", str(s), "-j", "1")
    assert code == 1 and "new-outcome" in out and "outcomes are not among" in out


def test_refinement_of_the_seed_variant():
    r = check_scenario(load("spf-04-alone"), find(["mprotect/across-two-page1-warm-write"])[0], Limits())
    assert r.verdict == VIOLATED and "new-outcome" in {v.kind for v in r.violations}


def test_list_text_run(capsys, monkeypatch, tmp_path: Path):
    code, out, _ = run(capsys, monkeypatch, "list")
    assert code == 0 and "spf-seed" in out and "case8" in out
    code, out, _ = run(capsys, monkeypatch, "list", "argued/case8*")
    assert code == 0 and "expected of spf-seed: use-after-free, sequence-left-odd" in out
    code, out, _ = run(capsys, monkeypatch, "text", "spf-seed", "__vma_adjust")
    assert code == 0 and "write_seqcount_begin_nested(next.vm_sequence, SINGLE_DEPTH_NESTING)" in out
    code, out, _ = run(capsys, monkeypatch, "text", "mmap-sem", "unmap_page_range")
    assert code == 0 and "seqcount" not in out
    script = tmp_path / "s.txt"
    script.write_text("mmap 1-3 rw  # two pages\nwrite 1 5\nread 1\nread 7\n")
    code, out, _ = run(capsys, monkeypatch, "run", str(script))
    assert code == 0 and "read 1  =>  5" in out and "SIGSEGV" in out and "1-3 rw-p" in out


@pytest.mark.parametrize(
    "args,message",
    [
        (("check", "spf-sed"), "did you mean spf-seed"),
        (("check", "/no/such.py"), "no such file"),
        (("check", "spf-seed", "-s", "case99"), "no scenario"),
        (("check", "spf-seed", "-s", "/no/such.toml"), "No such file"),
        (("check", "spf-seed", "--max-memory", "lots"), "is no size"),
        (("check", "spf-seed", "--max-states", "0"), "--max-states"),
        (("check", "spf-seed", "--frobnicate"), "--frobnicate"),
        (("check",), "PROTOCOL"),
        (("chekc", "spf-seed"), "chekc"),
        (("replay", "nonsense"), "no schedule"),
        (("replay", "spf-seed:argued/case1-alone:0y3:abcdef"), "no run of steps"),
        (("replay", "spf-seed:argued/case1-alone:1x3:abcdef"), "cannot be followed"),
        (("text", "spf-seed", "__vma_adjst"), "did you mean __vma_adjust"),
        (("run", "/no/such/script"), "No such file"),
        (("check", "spf-seed", "--max-states", "99999999999999999999"), "--max-states"),
        (("check", "spf-seed", "--max-memory", "1"), "less than 1M"),
        (("check", "spf-seed", "--timeout", "nan"), "nan is no number"),
        (("check", "spf-seed-without="), "name a site"),
        (("check", "spf-seed", "--memory", "sc,xyz"), "no memory model 'xyz'"),
        (("check", "spf-seed", "-s", "same-page", "--resume", "/dev/null"), "no regular file"),
        (("replay", "a:b:c"), "'a:b:c' is no schedule"),
        (("replay", "spf-seed:argued/case1-alone:0x99999999999999999999:abcdef"), "no run of steps"),
        (("replay", "spf-seed@foo:argued/case1-alone:0x3:abcdef"), "the schedule: no memory model"),
        (("review", "spf-seed", "--memory", ","), "no memory model ''"),
        (("review", "spf-seed", "-o", "/tmp.html/r.html"), "there is no directory"),
        (("price", "-o", "/tmp"), "a directory"),
        (("price", "--ms", "1e30"), "--ms"),
        (("export", "promela", "seq", "--size", "99999999999,1,1,1"), "above 99"),
        (("fuzz", "--seed", "99999999999999999999"), "--seed"),
        (("fuzz", "--out", "/dev/null/found"), "is no directory"),
        (("fuzz", "--image", "bzImage"), "--kernel debian-6.1"),
    ],
)
def test_bad_input(args, message, capsys, monkeypatch):
    code, out, err = run(capsys, monkeypatch, *args)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1 and not out


def test_a_file_of_something_else_is_no_file_of_results(capsys, monkeypatch, tmp_path: Path):
    """What a user names by mistake is not added to; what a kill has left of the first line is."""
    f = tmp_path / "p.py"
    for text in ("PROTOCOL = 3\n", '{\n  "protocol": "spf-v5"\n}\n', "\0\1"):
        f.write_text(text)
        for command in (("check", "mmap-sem"), ("why", "spf-v5", "unmap_page_range/begin")):
            code, _, err = run(capsys, monkeypatch, *command, "-s", "argued/case1-alone", "-j", "1", "--resume", str(f))
            assert code == 2 and "no results in it" in err and f.read_text() == text
    for begun in ("", '{"ke', '{"key": "12'):
        f.write_text(begun)
        assert run(capsys, monkeypatch, "check", "mmap-sem", "-s", "argued/case1-alone", "-j", "1", "--resume", str(f))[0] == 0
        assert len(f.read_text().splitlines()) == (2 if begun else 1)


def piped(redirection: str, unbuffered: str, *args: str) -> tuple[int, str]:
    line = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-m", "seqfault", *args],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [("list",), ("list", "--json")])
def test_output_that_is_not_taken(args, unbuffered):
    """Neither is a verdict: 1 would be `violated`, 0 `holds`."""
    assert piped("| true", unbuffered, *args) == (141, "")
    code, err = piped(">/dev/full", unbuffered, *args)
    assert (code, err) == (2, "seqfault: the output is not whole: No space left on device\n")


def test_ctrl_c_is_told(capsys, monkeypatch):
    monkeypatch.setattr("seqfault.report.commands.run_list", lambda *_: signal.raise_signal(signal.SIGINT))
    code, out, err = run(capsys, monkeypatch, "list")
    assert code == 130 and err.strip() == "seqfault: interrupted" and not out


def test_bad_protocol_files(capsys, monkeypatch, tmp_path: Path):
    p = tmp_path / "p.py"
    for text, message in (
        ("PROTOCOL = 3\n", "PROTOCOL"),
        ("def broken(:\n", "p.py"),
        ("\0", "p.py: source code"),
        (PROTOCOL.replace("vma.vm_flags = VM_READ", "vma.vm_flgs = VM_READ"), "no field 'vm_flgs'"),
        (PROTOCOL.replace("vma.vm_flags = VM_READ", "print(vma)"), "p.py:"),
        (PROTOCOL.replace("def break_it(vma: ptr[vm_area_struct])", "def break_it()"), "takes 0 arguments"),
    ):
        q = tmp_path / f"p{abs(hash(text)) % 10_000}.py"
        q.write_text(text)
        code, _, err = run(capsys, monkeypatch, "check", str(q), "-s", "argued/case1-alone", "-j", "1")
        assert code == 2 and len(err.strip().splitlines()) == 1, err
        assert message.replace("p.py", q.name) in err, err
    assert not p.exists()


def test_bad_script(capsys, monkeypatch, tmp_path: Path):
    f = tmp_path / "s.txt"
    f.write_text("mmap 1-3 rw\nfrob 3\n")
    code, _, err = run(capsys, monkeypatch, "run", str(f))
    assert code == 2 and "s.txt:2" in err


@pytest.mark.parametrize("module", ["seqfault", "seqfault.cli"])
def test_python_m(module):
    out = subprocess.run([sys.executable, "-m", module, "check", "nosuch"], capture_output=True, text=True, check=False)
    assert out.returncode == 2 and "nosuch" in out.stderr and "Traceback" not in out.stderr


def test_reductions_by_name(capsys, monkeypatch):
    """The same verdict by each; own accesses are what is taken where nothing is said."""
    found = {}
    for how in ("none", "own", "auto", "all"):
        given = ("--reduce", how) if how != "auto" else ()
        code, out, _ = run(capsys, monkeypatch, "check", "spf-v5", "-s", "two-writers/merge-munmap", "--json", *given)
        [s] = json.loads(out)["scenarios"]
        found[how] = s["states"], code, {(v["kind"], v["object"]) for v in s["violations"]}, s["outcomes"]
    states = {how: x[0] for how, x in found.items()}
    assert states["none"] > 2 * states["own"] == 2 * states["auto"]
    assert states["none"] > states["all"] > 0
    assert found["none"][1:] == found["own"][1:] == found["auto"][1:] == found["all"][1:]


@pytest.mark.parametrize("given", [("some",), ("own", "--memory", "tso"), ("own", "--memory", "all")])
def test_reductions_that_there_are_not(given, capsys, monkeypatch):
    code, _, err = run(capsys, monkeypatch, "check", "spf-v5", "-s", "argued/case1-alone", "--reduce", *given)
    assert code == 2 and err.startswith("seqfault: --reduce") and err.count("\n") == 1


def test_symmetry_of_a_small_model(capsys, monkeypatch, tmp_path):
    """Two writers and three readers: up to twelve times fewer states; the same violations where the lock is missing,
    each told by the processes that take the steps."""
    text = (EXAMPLES / "locked.py").read_text()
    wrong = tmp_path / "wrong.py"
    wrong.write_text(text.replace("    spin_lock(r.lock)\n", "").replace("    spin_unlock(r.lock)\n", ""))
    for file, expected in ((EXAMPLES / "locked.py", 0), (wrong, 1)):
        found = {}
        for how in ("none", "symmetry"):
            code, out, _ = run(capsys, monkeypatch, "check", str(file), "--json", "--reduce", how)
            assert code == expected
            [s] = json.loads(out)["scenarios"]
            found[how] = s["states"], [(v["kind"], v["line"]) for v in s["violations"]]
            for v in s["violations"]:
                assert run(capsys, monkeypatch, "replay", v["schedule"])[0] == 1
        assert 8 * found["symmetry"][0] < found["none"][0] and found["symmetry"][1] == found["none"][1]
    for given in (["spf-seed"], [str(EXAMPLES / "seqcount.py")], [str(wrong), "--memory", "tso"], [str(wrong), "--races", "report"]):
        code, _, err = run(capsys, monkeypatch, "check", *given, "--reduce", "symmetry")
        assert code == 2 and "symmetry" in err and err.count("\n") == 1


def test_ctrl_c_at_the_very_start():
    """While the command line is imported, too, there is no traceback."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "sys.meta_path.insert(0, type('Finder', (), {'find_spec': staticmethod("
        "lambda name, *_: signal.raise_signal(signal.SIGINT) if name == 'typer' else None)}));"
        "from seqfault.__main__ import main; sys.argv[1:] = ['--version']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT and not done.stdout and not done.stderr
    kept = code.replace("default_int_handler", "SIG_IGN")
    done = subprocess.run([sys.executable, "-c", kept], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("seqfault ")
