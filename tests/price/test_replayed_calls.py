"""Calls beside mmap, munmap and mprotect that a replay makes by the mm text, and what is named when it does not."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow")

from recordings import PRIVATE_ANON, A, B, P, Program, number, steps, whatif  # noqa: E402

from seqfault.price import driver as d  # noqa: E402
from seqfault.price.clock import TICKS  # noqa: E402
from seqfault.trace import schema  # noqa: E402
from seqfault.trace.store import row  # noqa: E402

LOCKED, POPULATE = 0x2000, 0x8000


def designs(capsys, f, *more):
    out = whatif(capsys, f, *more)["designs"]
    assert all((x["failed"], x["violations"], x["finished"]) == (0, {}, True) for x in out)
    return out


def test_mlock_faults_pages_in_and_munlock_lets_neighbours_merge(tmp_path, capsys):
    p = Program().map(A, 16)
    for _ in range(10):
        p.call("mlock", A + 2 * P + 5, 2).call("munlock", A + 2 * P, 3)
    p.touch(A, n=2).call("mlock2", A, 16, a2=1)  # what comes later is locked when it is touched
    p.touch(A, 5, 11).call("munmap", A, 16)
    f = p.write(tmp_path / "t.parquet")
    (s,), r = steps(f)
    assert not r.left_out and not r.replaced
    assert s[1] == (d.DO_LOCK, number(0), 3, 2, d.LOCK) and s[2] == (d.DO_LOCK, number(0), 3, 2, d.UNLOCK)
    assert (d.DO_LOCK, number(0), 16, 0, d.LOCK_ON_FAULT) in s
    # old releases do not count who has a page locked: nothing to be wrong there, either
    for x in designs(capsys, f, "-p", "spf-v12", "-p", "per-vma-lock"):
        assert (x["operations"]["mlock"]["n"], x["faults"]) == (21, 13)


def test_all_that_is_and_all_that_comes_is_locked(tmp_path, capsys):
    p = Program().map(A, 8).call("mlockall", 3).map(B, 8).call("munlockall", None).map(B + 16 * P, 8).touch(B + 16 * P, n=8)
    f = p.write(tmp_path / "t.parquet")
    (s,), r = steps(f)
    assert [x for x in s if x[0] == d.DO_LOCKALL] == [(d.DO_LOCKALL, 0, 0, 0, 3), (d.DO_LOCKALL, 0, 0, 0, 0)]
    assert not r.left_out
    own = designs(capsys, f)[0]
    assert own["operations"]["mlock"]["n"] == 2
    # eight pages are faulted in by mlockall, eight by the mmap behind it
    assert own["operations"]["mlock"]["mean_ns"] > 8 * 100 and own["operations"]["mmap"]["n"] == 3
    assert own["faults"] == 8


def test_mappings_that_are_made_with_their_pages(tmp_path, capsys):
    p = Program()
    for _ in range(5):
        p.map(A, 8, flags=PRIVATE_ANON | POPULATE).touch(A, n=8).call("munmap", A, 8)
        p.map(A, 4, flags=PRIVATE_ANON | LOCKED).touch(A, n=4).call("munmap", A, 4)
    f = p.write(tmp_path / "t.parquet")
    own, sem, dontneed, keep, batch, guard = designs(
        capsys, f, "--rewrite", "dontneed", "--rewrite", "keep", "--rewrite", "batch", "--rewrite", "guard"
    )
    assert [x["faults"] for x in (own, sem, dontneed, keep, batch, guard)] == [0] * 6
    # what was locked is unmapped after all: MADV_DONTNEED is refused there
    assert (dontneed["operations"]["madvise"]["n"], dontneed["operations"]["munmap"]["n"]) == (5, 5)
    assert keep["operations"]["mmap"]["n"] == 1 + 5


def test_msync_waits_for_the_disk_without_mmap_lock(tmp_path, capsys):
    p = Program().map(A, 8, flags=1, a4=3, file="/tmp/x").touch(A, n=8)
    p.call("msync", A, 8, a2=4, duration_ns=900_000)
    p.rows.append(row(p.t + 1000, 1, 2, schema.OFF, duration_ns=700_000))
    p.t += 1_000_000
    q = p.touch(A, 3).call("munmap", A, 8)
    f = q.write(tmp_path / "t.parquet")
    (s,), r = steps(f)
    assert not r.left_out and (d.DO_SYNC, number(0), 8, 0, 4) in s
    (program,) = r.programs
    k = next(i for i, x in enumerate(program) if x[0] == d.DO_SYNC)
    assert program[k + 1][:3] == (d.DO_SLEEP, 0, 700_000 * TICKS)
    own = designs(capsys, f)[0]
    assert own["operations"]["msync"]["n"] == 1 and own["operations"]["msync"]["mean_ns"] < 100_000
    assert 700e-6 < own["seconds"] < 1.1e-3


def test_seals_split_and_hold(tmp_path, capsys):
    p = Program().map(A, 8).touch(A, n=8).call("mseal", A + 2 * P, 2, a2=0).call("madvise", A + 4 * P, 4, a2=4).touch(A, 4, 4)
    f = p.write(tmp_path / "t.parquet")
    (s,), r = steps(f)
    assert (d.DO_SEAL, number(0), 2, 2, 0) in s and not r.left_out
    assert designs(capsys, f)[0]["operations"]["mseal"]["n"] == 1


def test_what_is_not_replayed_is_named(tmp_path):
    p = Program().map(A, 8)
    p.call("pkey_mprotect", A, 4, a2=1, a3=2).call("pkey_mprotect", A, 8, a2=3, a3=0xFFFFFFFF)
    p.call("remap_file_pages", A, 4, a2=0, a3=2, a4=0)
    p.call("process_madvise", 0, a2=21).call("mlock", B, 2).call("mincore", A, 8).call("mlock", A, 9, result=-12)
    (s,), r = steps(p.write(tmp_path / "t.parquet"))
    assert dict(r.replaced) == {"pkey_mprotect with a key: mprotect": 1, "remap_file_pages: mmap of a file over it": 1}
    assert dict(r.left_out) == {
        "process_madvise, whose ranges are in the caller's memory": 1, "mlock of what is not known to be mapped": 1,
        "mincore": 1, "calls that failed": 1,
    }  # fmt: skip
    assert [x[0] for x in s] == [d.DO_MMAP, d.DO_PROTECT, d.DO_PROTECT, d.DO_MUNMAP, d.DO_MMAP]
