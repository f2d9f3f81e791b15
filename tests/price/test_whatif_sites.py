"""False invalidations and the calls that cause them: recordings made here, so that what must come out is known."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("pyarrow")

from seqfault.cli import main  # noqa: E402
from seqfault.report.whatif_sites import cost, sentences  # noqa: E402
from seqfault.trace import schema  # noqa: E402
from seqfault.trace.schema import Meta  # noqa: E402
from seqfault.trace.store import Writer, row  # noqa: E402

BASE, PAGES, ROUNDS = 0x7F0000000000, 512, 400


def call(t, tid, name, page, n, **more):
    site = {"site": f"{name}_loop+0x1 (prog)", "duration_ns": 2000}
    return row(t, 1, tid, schema.CALL, name=name, address=BASE + 4096 * page, length=4096 * n, result=0, **site, **more)


def recording(path, writer):
    """Thread 2 maps an area, writes to its lower half and gives it back, again and again; thread 3 changes its rights, of
    the pages that `writer(round)` says."""
    rows = [row(1_000_000, 1, 2, schema.CALL, name="mmap", address=0, length=PAGES * 4096, a2=3, a3=0x22, result=BASE,
                duration_ns=2000, site="start (prog)")]  # fmt: skip
    t = 1_010_000
    for k in range(ROUNDS):
        for i in range(8):
            t += 1200
            at = BASE + 4096 * (i * 8 + k % 8)
            rows.append(row(t, 1, 2, schema.FAULT, name="user", duration_ns=700, address=at, flags=6, a2=0))
        t += 1200
        rows.append(call(t, 2, "madvise", 0, 64, a2=4))
        first, n = writer(k)
        rows.append(call(1_010_000 + 7_000 * k, 3, "mprotect", first, n, a2=3 if k % 2 else 7))
    rows.sort(key=lambda r: r[0])
    kinds = [schema.FAULT, schema.CALL, schema.OFF, schema.AREA, schema.LOCK_WAIT]
    w = Writer(path, Meta(kernel="6.18.1", cpus=2, recorded=kinds, start_ns=1_000_000, end_ns=rows[-1][0] + 1))
    for r in rows:
        w.add(r, r[0])
    w.close()
    return str(path)


def whatif(capsys, *args, seeds=2):
    with pytest.raises(SystemExit) as e:
        main(["whatif", *args, "-m", "x86-small", "--seeds", str(seeds)])
    out = capsys.readouterr()
    assert e.value.code == 0, out.err
    return out.out


def design(capsys, f, name, seeds=2):
    data = json.loads(whatif(capsys, f, "-p", name, "--json", seeds=seeds))
    return next(x for x in data["designs"] if x["protocol"] == name)


def test_a_change_of_other_pages_is_for_nothing(capsys, tmp_path):
    f = recording(tmp_path / "t.parquet", lambda k: (256, 256))
    # mmap-seq is odd for as long as the call has mmap_sem: three of four calls meet a fault, whatever the seed.  spf-v5
    # looks at the VMA's own count twice within some 20 ns of each 1,200, so a call meets a fault in one of 80: 5 of 400
    # in the mean of 100 seeds, 1 to 11 in a single one (by how the two loops, both regular, lie to each other), and two
    # of them say little: 6.2 and 5.0 in the mean of 100 came out as 5 and as 4, when a thread that waits for a mapping
    # began to go on at once and the loops lay otherwise.  The mean of 16 has a standard error of 0.6
    for name, least, most in (("mmap-seq", 290, 310), ("spf-v5", 3.5, 7.5)):
        x = design(capsys, f, name, seeds=16)
        v = x["invalidations"]
        assert least <= v["n"] <= most and v["for_nothing"] == v["n"] and 0 < v["cost"] < 1, (name, v)
        assert v["n"] <= sum(x["reasons"].values()) + 0.01  # all of one replay in the mean
        first = max(x["sites"], key=lambda s: s["invalidates"])
        assert first["place"] == "mprotect at mprotect_loop+0x1 (prog)" and first["calls"] == ROUNDS
        assert sum(s["share"] for s in x["sites"]) == pytest.approx(1)


def test_a_change_of_the_page_itself_is_not(capsys, tmp_path):
    x = design(capsys, recording(tmp_path / "t.parquet", lambda k: (0, 512)), "mmap-seq")
    assert x["invalidations"]["n"] >= 5 and x["invalidations"]["for_nothing"] == 0
    assert x["invalidations"]["cost_ns"] == 0


def test_without_speculation_there_is_waiting_only(capsys, tmp_path):
    f = recording(tmp_path / "t.parquet", lambda k: (256, 256))
    x = design(capsys, f, "mmap-sem")
    assert x["invalidations"] == {"n": 0, "for_nothing": 0, "cost_ns": 0, "cost": 0}
    assert sum(s["waits"] for s in x["sites"]) > 5 and all(s["loss_ns"] >= s["waits_ns"] for s in x["sites"])
    text = whatif(capsys, f, "-p", "mmap-sem", "-p", "mmap-seq")
    assert "the mprotect loop at mprotect_loop+0x1 (prog) (400 calls)" in text
    assert "though nobody was at their page" in text and "MADV_GUARD_INSTALL" in text


def test_sentences():
    x = {"place": "munmap at f+0x1 (prog)", "calls": 40, "threads": 2, "invalidates": 61.0, "for_nothing": 60.0,
         "share": 0.61, "waits": 0, "waits_ns": 0, "loss_ns": 2e6, "loss": 0.1}  # fmt: skip
    (one,) = sentences([x, x | {"loss_ns": 1.0}, x | {"invalidates": 1.0, "loss_ns": 1e6}, x | {"calls": 0}])
    assert one == (
        "the munmap loop at f+0x1 (prog) (40 calls of 2 threads) invalidates 61% of those speculations; without it faults "
        "take at most 2.00 ms less (10.0%): batch it (--rewrite batch), or keep the mapping and MADV_DONTNEED its "
        "pages (--rewrite dontneed)"
    )
    assert cost({"n": 0, "for_nothing": 0, "cost_ns": 0, "cost": 0}) == "" and sentences([]) == []
