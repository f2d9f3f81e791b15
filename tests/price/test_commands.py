"""price, calibrate and whatif as commands."""

from __future__ import annotations

import json
import re

import pytest

from seqfault.cli import main


def cli(capsys, *args):
    with pytest.raises(SystemExit) as e:
        main(list(args))
    out = capsys.readouterr()
    return e.value.code, out.out, out.err


def test_price_table_plot_page_and_json(capsys, tmp_path):
    page = tmp_path / "p.html"
    args = ("price", "-w", "page_fault1", "-p", "mmap-sem", "-p", "vm-refcnt", "--cpus", "1,2,...,8", "--ms", "3")
    code, out, _ = cli(capsys, *args, "-o", str(page))
    assert code == 0
    assert re.search(r"CPUs +mmap-sem +vm-refcnt", out) and "of faults without mmap_sem" in out
    assert "o mmap-sem  x vm-refcnt" in out
    html = page.read_text()
    assert "<svg" not in html and "application/json" in html and "https://" not in html.replace("http://www.w3", "")
    code, out, _ = cli(capsys, *args, "--json", "--seeds", "2")
    data = json.loads(out)
    assert code == 0
    (w,) = data["workloads"]
    assert [s["protocol"] for s in w["series"]] == ["mmap-sem", "vm-refcnt", "mmap-sem-6.18"]
    assert [p["cpus"] for p in w["series"][0]["points"]] == [1, 2, 4, 8]
    assert all(p["low"] <= p["rate"] <= p["high"] for s in w["series"] for p in s["points"])
    assert w["series"][0]["points"][0]["ratio"] == 1 and w["series"][0]["points"][0]["speculative"] is None
    assert data["machine"]["sources"]["near"]


@pytest.mark.parametrize(
    "args,why",
    [
        (("--cpus", "1,x"), "'x' is no number of CPUs"),
        (("--cpus", "0"), "names no CPUs"),
        (("--cpus", "4096"), "has 192"),
        (("-w", "ebizy"), "did you mean ebizzy"),
        (("-m", "nope"), "no machine named"),
        (("-m", "here.toml"), "No such file"),
        (("--policy", "fast"), "none of fifo"),
        (("-p", "nope"), "no protocol named"),
    ],
)
def test_bad_input_is_one_line(capsys, args, why):
    code, out, err = cli(capsys, "price", *args)
    assert code == 2 and not out and why in err and err.count("\n") == 1


def test_list(capsys):
    code, out, _ = cli(capsys, "price", "--list")
    assert code == 0 and "page_fault3" in out and "skylake-4s" in out and "handoff" in out
    assert {w["name"] for w in json.loads(cli(capsys, "price", "--list", "--json")[1])["workloads"]} > {"ebizzy"}


def test_a_workload_of_ones_own(capsys, tmp_path):
    f = tmp_path / "w.toml"
    f.write_text('[mine]\nloop = ["keep r1 8 anon", "write r1 0 8", "advise r1 0 8", "unit 1"]\n')
    args = ("price", "-w", str(f), "-p", "mmap-sem", "--cpus", "2", "--ms", "1")
    assert cli(capsys, *args)[0] == 0
    f.write_text('[mine]\nloop = ["wrte r1 0 8", "unit 1"]\n')
    code, _, err = cli(capsys, *args)
    assert code == 2 and "[mine]" in err and "did you mean write" in err


def test_calibrate_keeps_what_it_measured(capsys, tmp_path):
    f = tmp_path / "here.toml"
    code, out, _ = cli(capsys, "calibrate", "-o", str(f), "--json")
    d = json.loads(out)
    assert code == 0 and d["seconds"] > 0
    assert 0.2 < d["measured"]["hit"] < 20 and 10 < d["measured"]["syscall"] < 20_000
    assert d["modelled_fault_ns"] == pytest.approx(d["fault_ns"], rel=0.05) or d["measured"]["fault"] == 0
    assert cli(capsys, "price", "-m", str(f), "-p", "mmap-sem", "--cpus", "1", "--ms", "1")[0] == 0
    assert cli(capsys, "calibrate", "-o", "/proc/none/here.toml", "--json")[0] == 2
