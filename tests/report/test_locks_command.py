"""`seqfault locks`: what it prints, its exit codes, the document that is made of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import command
from seqfault import cli
from seqfault.mm.locks import LINUX_4_12, ORDER
from seqfault.mm.locks_full import WHOLE_TEXT
from seqfault.report.locks import markdown

DOCS = Path(__file__).parents[2] / "docs"
SMALL = ("-s", "argued/case1-alone", "-s", "argued/same-page-writes", "-j", "1")


def run(capsys, monkeypatch, *args: str) -> tuple[int, str, str]:
    return command.run(capsys, monkeypatch, "locks", *args)


def test_the_document_is_the_table(capsys, monkeypatch):
    """docs/locks.md is what `seqfault locks --markdown` prints; to mend it: seqfault locks --markdown > docs/locks.md"""
    text = (DOCS / "locks.md").read_text()
    assert text == markdown(LINUX_4_12, WHOLE_TEXT)
    code, out, _ = run(capsys, monkeypatch, "--markdown")
    assert code == 0 and out == text


def test_the_document_is_linked():
    assert "(locks.md)" in (DOCS / "fidelity.md").read_text()
    assert "(docs/locks.md)" in (DOCS.parent / "README.md").read_text()


def test_all(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, *SMALL)
    lines = out.splitlines()
    assert code == 0 and all(len(x) <= 80 for x in lines)
    assert "mmap-sem and the table of locks: holds" in out
    assert {r.field for r in LINUX_4_12.rows} <= set(lines)
    assert [x.strip() for x in ORDER.tree()] == [x.strip() for x in lines if x.strip() in {o.name for o in ORDER}]
    assert "exceptions that nothing needed" in out and "by neither" in out


def test_one_field(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, *SMALL, "--field", "vm_area_struct.vm_end")
    assert code == 0 and out.startswith("vm_area_struct.vm_end\n") and all(len(x) <= 80 for x in out.splitlines())
    assert re.search(r"^  read with mmap_sem:r\n      .*find_vma \d", out, re.M)
    assert re.search(r"^  written with mmap_sem:w\n      __vma_adjust \d", out, re.M)
    assert "vm_next" not in out


def test_json(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, *SMALL, "--json", "-f", "pte_table.pte")
    d = json.loads(out)
    assert code == 0 and d["verdict"] == "holds" and [f["field"] for f in d["fields"]] == ["pte_table.pte"]
    o = d["fields"][0]["observed"]
    assert {x["exception"] for x in o} >= {"", "hardware-walk", "entry-peeked"} and all(x["right"] for x in o)
    assert all("ptl" in x["held"] for x in o if x["access"] == "write")
    assert d["order"]["lock"] == "mm_struct.mmap_sem" and d["order"]["inner"][0]["lock"] == "file.i_mmap_rwsem"
    assert all(n["right"] for n in d["nestings"])


def test_what_is_wrong_can_be_replayed(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "-p", "spf-v5", "-s", "argued/madvise-madvise", "-j", "1")
    assert code == 1 and "write vm_area_struct.vm_sequence in vm_sequence_begin" in out
    schedule = re.search(r"seqfault replay '(.*)'", out)
    assert schedule
    with pytest.raises(SystemExit) as e:
        cli.main(["replay", schedule[1]])
    picture, _ = capsys.readouterr()
    assert e.value.code in (0, None, 1) and "vm_sequence" in picture


def check(capsys, *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as e:
        cli.main(["check", *args, "-j", "1"])
    return int(e.value.code or 0), capsys.readouterr().out


def test_check_with_locks(capsys):
    assert check(capsys, "mmap-sem", "-s", "same-page", "--locks")[0] == 0
    code, out = check(capsys, "spf-v5", "-s", "argued/stack-grows", "--locks")
    assert code == 1 and out.startswith("lock-not-held of vm_area_struct.vm_start in expand_downwards")
    assert "written with anon_vma.rwsem + mmap_sem:r + page_table_lock" in out
    assert check(capsys, "spf-v5", "-s", "argued/stack-grows")[0] == 0


def test_incomplete(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "-s", "two-faults", "-j", "1", "--timeout", "0.01")
    assert code == 3 and "incomplete: time limit" in out
    code, out, _ = run(capsys, monkeypatch, "-s", "argued/same-page-writes", "-j", "1", "--max-states", "50")
    assert code == 3 and "incomplete: limit of 50 states" in out


def test_parallel_is_the_same(capsys, monkeypatch):
    one = run(capsys, monkeypatch, "-s", "argued", "-j", "1")[1]
    two = run(capsys, monkeypatch, "-s", "argued", "-j", "2")[1]
    assert re.sub(r", [\d.]+ s", "", one) == re.sub(r", [\d.]+ s", "", two)


def test_whole_text(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "--release", "6.18", "--ops", "40", "-f", "mm_struct.total_vm")
    assert code == 0 and out.startswith("mm_struct.total_vm\n")


@pytest.mark.parametrize(
    "args,message",
    [
        (("-f", "vm_area_struct.vm_strat"), "did you mean vm_area_struct.vm_start"),
        (("-p", "spf-sed"), "did you mean spf-seed"),
        (("-s", "case99"), "no scenario"),
        (("--release", "six"), "is no release"),
    ],
)
def test_bad_input(args, message, capsys, monkeypatch):
    code, out, err = run(capsys, monkeypatch, *args)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1 and not out
