"""What `check` and `review` say of load buffering under lkmm."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from command import run
from seqfault.explore.check import Limits, check_scenario
from seqfault.explore.pool import Record
from seqfault.protocols import load
from seqfault.scenarios import find

PROTOCOL = """
from seqfault.kernel import *

@struct(pool=1)
class pair:
    x: integer(0, 1)
    y: integer(0, 1)

def one():
    p = the(pair)
    r: integer(0, 1) = READ_ONCE(p.x)
    {between}
    WRITE_ONCE(p.y, 1)

def two():
    p = the(pair)
    r: integer(0, 1) = READ_ONCE(p.y)
    smp_mb()
    WRITE_ONCE(p.x, 1)

PROTOCOL = Protocol("lb", "load buffering", doc="", processes=(one, two))
"""
COW = "same-page/file-warm-write-write"  # two faults copy a page: pairs that plain dependencies order


def lb(folder: Path, between: str = "pass") -> str:
    file = folder / f"lb_{between.strip('()')}.py"
    file.write_text(PROTOCOL.format(between=between))
    return str(file)


def test_a_verdict_says_what_it_passes_over(tmp_path, capsys, monkeypatch):
    file = lb(tmp_path)
    code, out, _ = run(capsys, monkeypatch, "check", file, "-j", "1", "--memory", "all")
    assert code == 0 and all(len(line) <= 80 or file in line for line in out.splitlines())
    assert "lb under sc: holds (" in out and "lb under lkmm: holds but for load buffering (" in out
    assert "load buffering not explored: 1 pair of places, in 1 scenario" in out and "1 ordered by nothing" in out
    assert [line.split() for line in out.splitlines()[-3:-1]] == [
        ["all", "holds", "holds", "holds*"], ["all", "holds", "holds", "holds*"],
    ]  # fmt: skip
    assert out.splitlines()[-1].startswith("* load buffering")


def test_one_without_says_so(tmp_path, capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "check", lb(tmp_path, "smp_mb()"), "-j", "1", "--memory", "lkmm")
    assert code == 0 and "lb under lkmm: holds (" in out and "no load buffering possible" in out


def test_every_pair_and_json(tmp_path, capsys, monkeypatch):
    file = lb(tmp_path)
    _, out, _ = run(capsys, monkeypatch, "check", file, "-j", "1", "--memory", "lkmm", "--load-buffering")
    assert "load of pair.x in one (" in out and "store to pair.y in one (" in out and "smp_load_acquire()" in out
    _, out, _ = run(capsys, monkeypatch, "check", file, "-j", "1", "--memory", "lkmm", "--json")
    d = json.loads(out)
    (x,) = d["load_buffering"]["pairs"]
    assert d["load_buffering"]["possible"] and d["scenarios"][0]["late_stores"] == 1
    assert (x["load"]["field"], x["load"]["line"], x["store"]["line"]) == ("pair.x", 11, 13)
    assert x["ordered"] == "by nothing"
    _, out, _ = run(capsys, monkeypatch, "check", file, "-j", "1", "--json")
    assert json.loads(out)["load_buffering"] is None


def test_other_models_have_no_list(tmp_path, capsys, monkeypatch):
    code, out, err = run(capsys, monkeypatch, "check", lb(tmp_path), "--memory", "tso", "--load-buffering")
    assert code == 2 and not out and "--memory lkmm" in err.replace("\n", " ")


def test_results_that_were_kept_know_it_again():
    s = find([COW])[0]
    r = check_scenario(load("mmap-sem"), s, Limits(), memory="lkmm")
    assert r.late_stores and all(weak for _, _, weak in r.late_stores)
    record = Record(None, "mmap-sem", memory="lkmm")
    record.take(json.loads(json.dumps({"key": "k", "result": asdict(r)})))
    again = record.known["k"]
    assert again.late_stores == r.late_stores


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_review(suffix, tmp_path, capsys, monkeypatch):
    out = tmp_path / f"r.{suffix}"
    code, _, _ = run(
        capsys, monkeypatch, "review", "mmap-sem", "-s", COW, "--memory", "sc,lkmm", "-j", "1", "-o", str(out)
    )
    text = out.read_text()
    assert code == 0
    if suffix == "html":
        assert "What <code>lkmm</code> passes over" in text and "<abbr" in text and "page.data in wp_page_copy (mm/fault.py:" in text
    else:
        assert "that LKMM does not count" in text and "holds 1*" in text and max(map(len, text.splitlines())) <= 72
