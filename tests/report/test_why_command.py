"""`seqfault why` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqfault.cli import main

ROOT = Path(__file__).parents[2]
SEQCOUNT = str(ROOT / "examples/seqcount/seqcount.py")


def run(capsys, *argv):
    with pytest.raises(SystemExit) as e:
        main(["why", *argv])
    out = capsys.readouterr()
    return e.value.code, out.out, out.err


def test_text_says_what_is_needed(capsys):
    code, out, _ = run(capsys, SEQCOUNT, "--memory", "sc,pso", "-j", "1")
    assert code == 0
    necessary, rest = out.split("Changes nothing", 1)
    assert "raw_write_seqcount_begin/smp_wmb@seq" in necessary and "sc no effect, pso needed (1)" in necessary
    assert "raw_read_seqcount/smp_rmb@seq" in rest


def test_a_named_site_is_drawn_and_replayed(capsys):
    code, out, _ = run(capsys, SEQCOUNT, "reader/recheck", "-j", "1")
    assert code == 0
    schedule = next(x for x in out.splitlines() if x.startswith("replay: ")).split("'")[1]
    with pytest.raises(SystemExit) as e:
        main(["replay", schedule])
    assert e.value.code == 1 and "assertion" in capsys.readouterr().out


def test_json(capsys):
    code, out, _ = run(capsys, SEQCOUNT, "--json", "-j", "1")
    d = json.loads(out)
    assert code == 0 and d["complete"]
    by_name = {x["sites"][0]["name"]: x for x in d["sites"]}
    assert by_name["reader/recheck"]["verdict"] == "necessary"
    f = by_name["reader/recheck"]["models"][0]
    assert f["violations"][0]["kind"] == "assertion" and f["counterexample"].startswith(SEQCOUNT + "-without=")


def test_lists_sites(capsys):
    code, out, _ = run(capsys, "spf-v5", "*vma_adjust*", "--sites")
    assert code == 0 and "__vma_adjust/next.begin\n" in out and "its begin and its end do nothing" in out


@pytest.mark.parametrize(
    "argv, says",
    [
        (["spf-v5", "nonsense"], "is no site of spf-v5"),
        (["spf-v5", "--memory", "arm"], "no memory model"),
        (["spf-v5", "--writers", "tlb"], "only page-table"),
        ([SEQCOUNT, "--writers", "page-table"], "small model"),
        (["spf-v5-without=unmap_page_range/begin"], "why takes sites out by itself"),
        (["spf-v5", "--variant", "none.toml"], "No such file"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, says):
    code, _, err = run(capsys, *argv)
    assert code == 2 and says in err and err.count("\n") == 1


def test_a_variant_and_the_writers(capsys):
    code, out, _ = run(
        capsys, "spf-seed", "--variant", str(ROOT / "examples/variants/no-next.toml"), "-s", "argued/third-question", "-j", "1"
    )
    assert code == 0 and "entry-exceeds-vma" in out and "shows now, and did not" in out
    code, out, _ = run(capsys, "spf-v5", "--writers", "page-table", "-s", "munmap/all-one-page2-cold-read", "-j", "1", "--json")
    rows = {(w["what"], w["function"]): w for w in json.loads(out)["writers"]}
    assert code == 0 and rows["writes the upper level", "free_pte_range"]["odd"] == 0
    assert rows["frees a table", "tlb_flush_mmu_free"]["held"] == ["mmap_sem:w", "unshared"]
