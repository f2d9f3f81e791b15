"""`check --memory`: what it says, what it refuses, and that its counterexamples replay."""

from __future__ import annotations

import json

import pytest

from command import run
from seqfault.cli import BadInput
from seqfault.explore.check import HOLDS, INCOMPLETE, Limits, check_scenario
from seqfault.explore.pool import Record
from seqfault.protocols import load
from seqfault.report.commands import models_named, usual_states
from seqfault.report.counterexample import from_schedule
from seqfault.scenarios import find

ALONE = "same-page/file-warm-read-write~0.1,0.0"  # one CPU writes and reads a page


def test_report_and_json_name_the_model(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "check", "mmap-sem", "-s", ALONE, "-j", "1", "--memory", "pso:15", "--json")
    d = json.loads(out)
    assert (code, d["memory"], d["verdict"]) == (0, "pso:15", "holds")
    code, out, _ = run(capsys, monkeypatch, "check", "mmap-sem", "-s", ALONE, "-j", "1", "--memory", "pso:1")
    assert code == 3 and "mmap-sem under pso:1: incomplete" in out
    assert "a store buffer was full (room for 1)" in out


@pytest.mark.parametrize(
    "args,says",
    [
        (("--memory", "rc11"), "no memory model 'rc11'; there are sc, tso, pso, lkmm"),
        (("--memory", "pso:99"), "1 to 63"),
        (("--memory", "pso", "--locks"), "--locks"),
    ],
)
def test_refused(args, says, capsys, monkeypatch):
    code, out, err = run(capsys, monkeypatch, "check", "mmap-sem", "-s", ALONE, *args)
    assert code == 2 and not out and says in err.replace("\n", " ") and err.count("seqfault:") == 1


def test_counterexample_replays(capsys, monkeypatch):
    code, out, _ = run(
        capsys, monkeypatch, "check", "spf-seed", "-s", "argued/case1-alone", "-j", "1", "--memory", "pso", "--json"
    )
    assert code == 1
    v = json.loads(out)["scenarios"][0]["violations"][0]
    assert v["schedule"].startswith("spf-seed@pso:argued/case1-alone:")
    assert any(e["kind"] == "flush" for e in v["steps"])
    cx = from_schedule(v["schedule"])
    assert v["kind"] in {x.kind for x in cx.violations}
    assert cx.schedule_string == v["schedule"]


def test_refinement_is_under_the_same_model():
    """Results of mmap-sem under one model are not taken for those of another."""
    s = find([ALONE])[0]
    for memory in ("pso:15", "sc", "pso:1", "pso:15"):
        r = check_scenario(load("spf-v5"), s, Limits(), memory=memory)
        assert r.verdict == (INCOMPLETE if memory == "pso:1" else HOLDS), (memory, r.violations)


def test_kept_results_have_the_model_in_their_key():
    s = find([ALONE])[0]
    keys = {Record(None, "mmap-sem", memory=m).key(s, Limits()) for m in ("sc", "pso", "pso:8")}
    assert len(keys) == 3


def test_all_models_and_a_table(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "check", "mmap-sem", "-s", ALONE, "-j", "1", "--memory", "all")
    assert code == 0
    assert [line.split() for line in out.splitlines()[-3:]] == [
        ["sc", "tso", "lkmm"], ["same-page", "holds", "holds", "holds"], ["all", "holds", "holds", "holds"],
    ]  # fmt: skip
    code, out, _ = run(capsys, monkeypatch, "check", "mmap-sem", "-s", ALONE, "-j", "1", "--memory", "all", "--json")
    assert code == 0 and {m: r["verdict"] for m, r in json.loads(out).items()} == dict.fromkeys(("sc", "tso", "lkmm"), "holds")


def test_all_means_the_same_to_every_command():
    assert models_named("all") == ["sc", "tso", "lkmm"] and models_named("pso", "all,tso:08") == ["pso", "sc", "tso", "lkmm", "tso:8"]
    for what in ("", "sc,", "tso:0", "any"):
        with pytest.raises(BadInput):
            models_named(what)


def test_the_usual_limit_of_states_is_the_models():
    assert usual_states("sc", 1) == usual_states("sc", 1000) == usual_states("lkmm", 1000, False) == 40_000_000
    assert usual_states("lkmm:24", 1) == usual_states("tso", 100) > usual_states("tso", 101) > usual_states("lkmm", 101)
