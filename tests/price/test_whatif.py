"""A recording replayed: made here, so that what must come out is known."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("pyarrow")

from seqfault.cli import main  # noqa: E402
from seqfault.price import driver as d  # noqa: E402
from seqfault.price.converter import ReplayError  # noqa: E402
from seqfault.price.live import Live  # noqa: E402
from seqfault.price.replay import convert  # noqa: E402
from seqfault.trace import schema  # noqa: E402
from seqfault.trace.schema import Meta  # noqa: E402
from seqfault.trace.store import Writer, open_trace, row  # noqa: E402

BASE = 0x7F0000000000
T0 = 1_000_000


def write(path, rows, **meta):
    kinds = [schema.FAULT, schema.CALL, schema.OFF, schema.AREA, schema.LOCK_WAIT]
    m = Meta(kernel="6.18.1", cpus=2, recorded=kinds, start_ns=T0, end_ns=rows[-1][0] + 1, **meta)
    w = Writer(path, m)
    for r in rows:
        w.add(r, r[0])
    w.close()
    return path


def loop(tid, base, rounds, pages=8, gap=2000):
    """mmap, touch, munmap, again and again, of one thread."""
    out, t = [], T0 + 100 * tid
    for _ in range(rounds):
        call = {"site": "f+0x1 (prog)", "duration_ns": 3000}
        out.append(row(t, 1, tid, schema.CALL, name="mmap", address=0, length=pages * 4096, a2=3, a3=0x22, result=base, **call))
        t += 3000 + gap
        for i in range(pages):
            out.append(row(t, 1, tid, schema.FAULT, name="user", duration_ns=1500, address=base + 4096 * i, flags=6, a2=0))
            t += 1500 + gap
        out.append(row(t, 1, tid, schema.CALL, name="munmap", address=base, length=pages * 4096, result=0, **call))
        t += 3000 + gap
    return out


def two_threads(rounds=200):
    rows = loop(2, BASE, rounds) + loop(3, BASE + (1 << 20), rounds)
    return sorted(rows, key=lambda r: r[0])


def cli(capsys, *args):
    with pytest.raises(SystemExit) as e:
        main(list(args))
    out = capsys.readouterr()
    return e.value.code, out.out, out.err


def test_mappings_are_followed():
    live = Live()
    live.insert(10, 10, 0)
    assert live.find(15) == (0, 5) and live.find(20) is None
    assert live.remove(12, 4) == [(0, 2, 4)]
    assert live.find(11) == (0, 1) and live.find(13) is None and live.find(16) == (0, 6)
    assert live.insert(8, 4, 1) == [(0, 0, 2)]
    assert live.find(8) == (1, 0) and live.find(11) == (1, 3)
    assert live.free_block(13) == (12, 4)


def test_conversion(tmp_path):
    with open_trace(write(tmp_path / "t.parquet", two_threads(3))) as t:
        r = convert(t)
    assert len(r.programs) == 2 and r.recorded.faults == 48 and not r.left_out and not r.setup
    ops = [x[0] for x in r.programs[0] if x[0] not in (d.DO_THINK, d.DO_SLEEP)]
    assert ops == [d.DO_MMAP, *[d.DO_TOUCH] * 8, d.DO_MUNMAP] * 3 + [d.DO_STOP]
    assert r.places[1] == "mmap at f+0x1 (prog)"
    with open_trace(tmp_path / "t.parquet") as t:
        keep = convert(t, rewrite="keep")
    # each takes what the other one has let go of, and not before
    ops = [x[0] for x in keep.programs[0] if x[0] not in (d.DO_THINK, d.DO_SLEEP)]
    touch, mark, meet = d.DO_TOUCH, d.DO_MARK, d.DO_MEET
    assert ops == [d.DO_MMAP, *[touch] * 8, mark, meet, *[touch] * 8, mark, meet, *[touch] * 8, d.DO_STOP]


def test_batches(tmp_path):
    """16 rounds of each thread are one mapping, and one munmap; what is left over stays mapped."""
    with open_trace(write(tmp_path / "t.parquet", two_threads(40))) as t:
        r = convert(t, rewrite="batch")
    for steps in r.programs:
        ops = [x for x in steps if x[0] not in (d.DO_THINK, d.DO_SLEEP)]
        kinds = [x[0] for x in ops]
        assert (kinds.count(d.DO_MMAP), kinds.count(d.DO_MUNMAP), kinds.count(d.DO_TOUCH)) == (3, 2, 320)
        assert [x[2] for x in ops if x[0] != d.DO_TOUCH and x[0] != d.DO_STOP] == [128] * 5
        assert sorted(x[3] for x in ops if x[0] == d.DO_TOUCH)[:3] == [0, 0, 0]
        assert max(x[3] for x in ops if x[0] == d.DO_TOUCH) == 127
        assert kinds.index(d.DO_MUNMAP) == 1 + 128  # after the last page of the 16th


def test_what_was_there_before_is_mapped_before(tmp_path):
    rows = [row(T0, 1, 2, schema.FAULT, name="user", duration_ns=1000, address=BASE + 5, flags=6, a2=0)]
    with open_trace(write(tmp_path / "t.parquet", rows)) as t:
        r = convert(t)
    assert len(r.setup) == 1 and r.setup[0][2] == 64


def test_whatif(capsys, tmp_path):
    f = str(write(tmp_path / "t.parquet", two_threads()))
    args = ("whatif", f, "-m", "x86-small", "-p", "mmap-sem", "--rewrite", "keep", "--rewrite", "batch", "--seeds", "2", "--json")
    code, out, _ = cli(capsys, *args)
    data = json.loads(out)
    assert code == 0 and data["threads"] == 2 and data["recorded"]["without_mmap_lock"] == 1
    own, sem, keep, batch = data["designs"]
    assert (own["protocol"], sem["protocol"], keep["name"]) == ("vm-refcnt", "mmap-sem", "vm-refcnt, keep")
    assert all(x["finished"] and x["failed"] == 0 for x in data["designs"])
    assert own["faults"] == sem["faults"] == 3200 and keep["faults"] == 16
    assert own["without_mmap_lock"] > 0.9 and sem["without_mmap_lock"] == 0
    assert abs(data["error"]["seconds"]) < 0.25
    assert keep["seconds"] < batch["seconds"] < own["seconds"]
    assert batch["operations"]["munmap"]["n"] == 24 and batch["faults"] == 3200
    code, out, _ = cli(capsys, *args[:-1])
    assert code == 0 and "the recording itself, under vm-refcnt: time" in out


def test_bad_input(capsys, tmp_path):
    f = str(write(tmp_path / "t.parquet", two_threads(1)))
    (tmp_path / "x").write_text("no trace")
    for args, why in (
        ((str(tmp_path / "none")), "none"),
        ((str(tmp_path / "x")), "no Parquet"),
        ((f, "--rewrite", "faster"), "none of dontneed, batch, keep, guard, processes"),
        ((f, "--policy", "q"), "none of fifo"),
        ((f, "--pid", "77"), "process 77"),
    ):
        code, out, err = cli(capsys, "whatif", *((args,) if isinstance(args, str) else args))
        assert code == 2 and not out and why in err and err.count("\n") == 1, err
    empty = write(tmp_path / "e.parquet", [row(T0, 1, 2, schema.EXIT)])
    with open_trace(empty) as t, pytest.raises(ReplayError, match="no faults and no calls"):
        convert(t)
