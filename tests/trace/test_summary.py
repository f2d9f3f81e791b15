"""What a summary says: percentiles, overlap against a plain loop, VMAs; the command on the samples."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest

from seqfault import cli
from seqfault.trace import schema as s
from seqfault.trace.histogram import Histogram
from seqfault.trace.overlap import Overlap
from seqfault.trace.schema import Meta
from seqfault.trace.store import Writer, open_trace, row, sample_names
from seqfault.trace.summary import summarise
from seqfault.trace.vmas import follow


def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        cli.main(list(args))
    out, err = capsys.readouterr()
    return int(e.value.code or 0), out, err


def test_percentiles():
    """Within the width of a bin of numpy's, over all sizes."""
    values = np.exp(np.random.default_rng(1).uniform(0, 25, 100_000)).astype(np.int64)
    h = Histogram()
    for part in np.array_split(values, 7):
        h.add(part)
    assert h.count == len(values) and h.total == values.sum() and h.most == values.max()
    for q in (0.01, 0.5, 0.9, 0.99, 1.0):
        assert h.quantile(q) == pytest.approx(np.quantile(values, q, method="inverted_cdf"), rel=0.012, abs=1)


@pytest.mark.parametrize("seed", range(20))
def test_overlap_is_that_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    n = 300

    def events(length: int) -> np.ndarray:
        start = np.sort(rng.integers(0, 3000, n))
        return np.stack([start, start + rng.integers(0, length, n), rng.integers(0, 2, n), rng.integers(0, 3, n), rng.integers(0, 2, n)], axis=1)

    faults, calls = events(15), events(60)
    faults[:, 3] += 10 * faults[:, 2]  # a tid belongs to one pid
    calls[:, 3] += 10 * calls[:, 2]
    calls = calls[calls[:, 1] > calls[:, 0]]
    met = [
        any(c[2] == f[2] and c[3] != f[3] and c[0] < f[1] and c[1] > f[0] for c in calls) for f in faults if f[1] > f[0]
    ]
    whole = faults[faults[:, 1] > faults[:, 0]]
    o = Overlap()
    for edge in (700, 1500, 1501, 9000):
        o.feed(whole[whole[:, 0] <= edge], calls[calls[:, 0] <= edge], edge)
        whole, calls = whole[whole[:, 0] > edge], calls[calls[:, 0] > edge]
    o.finish()
    assert (o.faults, o.overlapped) == (len(met), sum(met))


def trace(path, rows):
    with Writer(path, Meta(recorded=list(s.KINDS), kernel="6.18.0", settings={"max_map_count": "1000"})) as w:
        for r in rows:
            w.add(r, r[0])
        w.close()
    return open_trace(path)


RW, ANON = 3, 0x22
A = 0x7F0000000000


def mmap(t, at, pages):
    return row(t, 1, 1, s.CALL, name="mmap", address=0, length=pages << 12, a2=RW, a3=ANON, a4=-1, a5=0, result=at, duration_ns=2)


def call(t, name, at, pages, a2=None, tid=1, duration=2):
    return row(t, 1, tid, s.CALL, name=name, address=at, length=pages << 12, a2=a2, result=0, duration_ns=duration)


def write_fault(t, at):
    return row(t, 1, 1, s.FAULT, name="user", address=at, flags=6, duration_ns=1, result=0)


def test_vmas(tmp_path):
    """mmap of 8 pages; a page protected (3 VMAs); one unmapped (4); two mappings written apart, then joined by none."""
    rows = [
        mmap(10, A, 8),
        call(20, "mprotect", A + 0x2000, 1, a2=0),
        call(30, "munmap", A + 0x5000, 1),
        mmap(40, A + 0x100000, 1),
        mmap(50, A + 0x102000, 1),
        write_fault(60, A + 0x100000),
        write_fault(70, A + 0x102000),
        mmap(80, A + 0x101000, 1),  # between two anon_vmas: merges with one of them
    ]
    with trace(tmp_path / "t.parquet", rows) as t:
        life = follow(t, 618).largest
    assert life is not None
    assert [n for _, n in life.points] == [1, 3, 4, 5, 6, 6]
    assert dict(life.splits) == {("mprotect PROT_NONE", ""): 2, ("munmap", ""): 1}
    assert life.made == {"a new VMA": 3, "grew a neighbour": 1}
    assert (life.most, life.at_end) == (6, 6)
    assert life.apart == {
        "flags differ (ac, rd, wr)": 2,  # the page without rights was accounted, and stays so
        "both were written before they could merge (different anon_vma)": 1,
    } or life.apart == {
        "flags differ (rd, wr)": 2,
        "both were written before they could merge (different anon_vma)": 1,
    }


def test_a_call_takes_effect_when_it_has_the_lock(tmp_path):
    """Thread 2 unmaps, slowly to return; meanwhile thread 1 is given the same place: it stays mapped."""
    rows = [
        mmap(10, A, 2),
        call(20, "munmap", A, 2, tid=2, duration=100),
        row(25, 1, 2, s.LOCK_HOLD, name="munmap", flags=1, duration_ns=5),
        mmap(40, A, 2),
        row(41, 1, 1, s.LOCK_HOLD, name="mmap", flags=1, duration_ns=1),
    ]
    with trace(tmp_path / "t.parquet", rows) as t:
        assert follow(t, 618).largest.at_end == 1
    rows = [r for r in rows if r[5] != s.LOCK_HOLD]
    with trace(tmp_path / "u.parquet", rows) as t:  # without the locks' events a call counts from its return
        assert follow(t, 618).largest.at_end == 0


def test_fallbacks_and_sites(tmp_path):
    def fault(t, bits, site):
        return row(t, 1, 1, s.FAULT, name="user", address=t, flags=6, duration_ns=1000, result=0, a2=bits, site=site)

    rows = [fault(1, 0, "f"), fault(2, s.LOCKED_FALLBACK, "f"), fault(3, s.LOCKED_ANON_VMA, "g"), fault(4, 0, "f")]
    with trace(tmp_path / "t.parquet", rows) as t:
        got = summarise(t)
    assert got.locked == {"fallback": 1, "anon_vma": 1, "other": 0} and got.locked_known == 4
    assert got.fault_sites == {"f": 3, "g": 1}


@pytest.mark.parametrize("name", ["ebizzy", "java", "numpy", "stress-ng-malloc"])
def test_command_on_samples(name, capsys):
    assert name in sample_names()
    code, out, _ = run(capsys, "summary", f"sample:{name}")
    assert code == 0 and "fell back" in out and "VMAs" in out and "max_map_count" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    code, out, _ = run(capsys, "summary", f"sample:{name}", "--json")
    got = json.loads(out)
    assert code == 0 and got["faults"]["count"] > 5000 and not got["gaps"]
    assert got["faults"]["locked"]["known"] > 0.99 * got["faults"]["count"]
    assert not got["vmas"]["stopped"] and got["vmas"]["address_spaces"][0]["most"] > 20


def test_gaps_are_incomplete(tmp_path, capsys):
    with Writer(tmp_path / "t.parquet", Meta(recorded=[s.FAULT], lost=7)) as w:
        w.add(write_fault(1, 1), 1)
        w.close()
    code, out, _ = run(capsys, "summary", str(tmp_path / "t.parquet"))
    assert code == 3 and "perf lost 7 records" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["summary", "sample:nothing"], "no such sample"),
        (["summary", "/nowhere"], "No such file"),
        (["record"], "nothing to record"),
        (["record", "--pid", "1", "--", "true"], "exclude each other"),
        (["record", "--with", "gdb", "--", "true"], "perf or strace"),
        (["record", "--import", "/nowhere"], "No such file"),
        (["record", "--import", "x", "--stacks"], "--import reads"),
        (["record", "-o", "/nowhere/t", "--", "true"], "no directory"),
        (["record", "-o", "/tmp", "--with", "strace", "--", "true"], "no regular file"),
    ],
)
def test_bad_input(args, said, capsys):
    code, out, err = run(capsys, *args)
    assert code == 2 and said in err and len(err.splitlines()) == 1 and not out


def test_a_device_is_not_replaced(capsys, tmp_path):
    """As root, a rename goes over whatever has the name; a pipe stands here for what /dev has."""
    pipe, text = tmp_path / "pipe", tmp_path / "strace.txt"
    os.mkfifo(pipe)
    text.write_text("12 1700000000.000001 brk(NULL) = 0x1000 <0.000001>\n")
    for args in (["--with", "strace", "--", "true"], ["--import", str(text)]):
        code, out, err = run(capsys, "record", "-o", str(pipe), *args)
        assert code == 2 and "no regular file" in err and len(err.splitlines()) == 1 and not out
        assert stat.S_ISFIFO(pipe.stat().st_mode) and sorted(tmp_path.iterdir()) == [pipe, text]
