"""`seqfault litmus`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from seqfault import cli

SHAPES = Path(__file__).parent / "shapes"
SB = "C SB\n(* Result: {} *)\n{{}}\nP0(int *x, int *y) {{ WRITE_ONCE(*x, 1); int r0 = READ_ONCE(*y); }}\n" \
     "P1(int *x, int *y) {{ WRITE_ONCE(*y, 1); int r0 = READ_ONCE(*x); }}\nexists (0:r0=0 /\\ 1:r0=0)\n"  # fmt: skip


@pytest.fixture
def run(capsys):
    def go(*args):
        with pytest.raises(SystemExit) as e:
            cli.main(["litmus", *map(str, args)])
        captured = capsys.readouterr()
        return e.value.code, captured.out, captured.err

    return go


def test_one_file_has_the_shape_of_herd7(run, tmp_path):
    (tmp_path / "sb.litmus").write_text(SB.format("Sometimes"))
    code, out, err = run(tmp_path / "sb.litmus")
    assert code == 0 and not err
    assert re.sub(r"Time SB .*", "Time SB t", out) == (
        "Test SB Allowed\nStates 4\n0:r0=0; 1:r0=0;\n0:r0=0; 1:r0=1;\n0:r0=1; 1:r0=0;\n0:r0=1; 1:r0=1;\nOk\nWitnesses\n"
        "Positive: 1 Negative: 3\nCondition exists (0:r0=0 /\\ 1:r0=0)\nObservation SB Sometimes 1 3\nTime SB t\n\n"
    )


def test_the_other_quantifiers(run, tmp_path):
    text = SB.format("Sometimes")
    (tmp_path / "a.litmus").write_text(text.replace("exists", "~exists"))
    _, out, _ = run(tmp_path / "a.litmus")
    assert "Test SB Forbidden" in out and "\nNo\n" in out and "Positive: 3 Negative: 1" in out
    assert "Observation SB Sometimes 1 3" in out
    (tmp_path / "a.litmus").write_text(text.replace("exists (", "forall (true \\/ "))
    _, out, _ = run(tmp_path / "a.litmus")
    assert "Test SB Required" in out and "\nOk\n" in out and "Observation SB Always 4 0" in out


def test_verbose_names_the_cycle(run):
    code, out, _ = run("-v", SHAPES / "MP+wmb+rmb.litmus")
    assert code == 0
    assert "Forbidden by happens-before: acyclic hb" in out
    for line in ("fence (rmb), line ", "fre ->", "cumul-fence (wmb), line ", "rfe ->"):
        assert line in out
    assert re.search(r"P1 R y=1 \(line \d+: r0 = READ_ONCE\(\*y\);\)", out)


@pytest.mark.parametrize(
    ("shape", "axiom", "edge"),
    [
        ("CoRR", "coherence", "po-loc"), ("xchg-both", "atomic", "rmw^-1"), ("SB+mbs", "propagation", "strong-fence (mb)"),
        ("RCU-MP", "rcu", "rcu-fence"), ("SRCU-MP", "rcu", "rcu-fence"), ("LB+ctrls", "happens-before", "ppo (ctrl)"),
        ("no-race-MP", "plain-coherence", "fr ->"), ("lock-exclusion", "happens-before", "rfe"),
        ("lock-handover", "happens-before", "cumul-fence (po-unlock-lock-po)"),
    ],
)  # fmt: skip
def test_every_axiom_has_its_cycle(run, shape, axiom, edge):
    _, out, _ = run("-v", SHAPES / f"{shape}.litmus")
    assert f"Forbidden by {axiom}:" in out and edge in out


def test_races_are_named(run):
    _, out, _ = run("-v", SHAPES / "race-MP.litmus")
    assert "Flag data-race" in out
    assert "of line 12: *x = 1;" in out and re.search(r"with line \d+: r1 = \*x;", out)


def test_directory(run, tmp_path):
    for name, result in (("a", "Sometimes"), ("b", "Never"), ("c", "Sometimes")):
        (tmp_path / f"{name}.litmus").write_text(SB.format(result))
    (tmp_path / "c.litmus").write_text(SB.format("Sometimes").replace("Result:", ""))
    code, out, err = run(tmp_path)
    assert code == 1 and not err
    assert out.splitlines() == [
        "SB Sometimes 1 3",
        "SB Sometimes 1 3 DIFFERENT: Result: Never",
        "SB Sometimes 1 3 (no Result:)",
        "3 files: 1 as their Result: says, 1 different, 1 without Result:",
    ]


def test_bad_files_do_not_stop_the_others(run, tmp_path):
    (tmp_path / "a.litmus").write_text("C a\n{}\nP0(int *x)\n{\n  foo();\n}\n")
    (tmp_path / "b.litmus").write_bytes(b"C \xff\n")
    (tmp_path / "c.litmus").write_text(SB.format("Sometimes"))
    code, out, err = run(tmp_path)
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"seqfault: {tmp_path}/a.litmus:5: foo()") and "b.litmus" in lines[1]
    assert out.splitlines() == ["SB Sometimes 1 3", "3 files: 1 as their Result: says, 2 not read"]


def test_limits_are_incomplete(run, tmp_path):
    (tmp_path / "a.litmus").write_text(SB.format("Sometimes"))
    code, out, err = run("--max-candidates", 5, tmp_path / "a.litmus")
    assert code == 3 and not out and err.count("\n") == 1 and "incomplete: the limit of 5 candidate executions" in err
    adds = "".join(f"P{i}(int *x) {{ {'int r = xchg(x, 1); *x = r + 2; ' * 6} }}\n" for i in range(6))
    (tmp_path / "b.litmus").write_text(f"C b\n{{}}\n{adds}exists (x=1)")
    code, _, err = run("--timeout", 0.2, tmp_path)
    assert code == 3 and "the time limit" in err


def test_json(run, tmp_path):
    (tmp_path / "a.litmus").write_text(SB.format("Never").replace("WRITE_ONCE(*x, 1)", "*x = 1"))
    (tmp_path / "b.litmus").write_text("C")
    code, out, err = run("--json", tmp_path, SHAPES / "SB+mbs.litmus")
    data = json.loads(out)
    assert code == 2 and not err
    assert data["totals"] == {"expected": 1, "different": 1, "unsaid": 0, "incomplete": 0, "bad": 1}
    a, b, c = data["tests"]
    assert a["outcome"] == "different" and a["observation"] == "Sometimes" and a["expected"] == "Never"
    assert a["flags"] == ["data-race"] and a["races"] and a["states"][0] == {"0:r0": "0", "1:r0": "0", "executions": 1}
    assert b["outcome"] == "bad" and "b.litmus:1:" in b["message"]
    assert c["forbidden_by"]["axiom"] == "propagation"
    assert {e["relation"] for e in c["forbidden_by"]["cycle"]} == {"fre", "mb"}


@pytest.mark.parametrize("what", ["nowhere.litmus", "empty"])
def test_paths(run, tmp_path, what):
    (tmp_path / "empty").mkdir()
    code, out, err = run(tmp_path / what)
    assert code == 2 and not out and err.count("\n") == 1
