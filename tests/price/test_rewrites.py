"""mremap, brk and advice replayed, and what rewrites make of a program: recordings made here, whose answers are known."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow")

import recordings  # noqa: E402
from recordings import HEAP, NORESERVE_STACK, PRIVATE_ANON, A, B, P, Program, number, steps, whatif  # noqa: E402

from seqfault.cli import main  # noqa: E402
from seqfault.mm.opcodes import MADV_DONTNEED, MADV_FREE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE  # noqa: E402
from seqfault.price import driver as d  # noqa: E402
from seqfault.price.clock import TICKS  # noqa: E402
from seqfault.price.converter import Heap  # noqa: E402
from seqfault.price.replay import convert, heap_of  # noqa: E402
from seqfault.trace import schema  # noqa: E402
from seqfault.trace.store import open_trace, row  # noqa: E402


# -- mremap
def test_a_mapping_that_moves_is_another_one(tmp_path, capsys):
    p = Program()
    for _ in range(20):
        p.map(A, 8).touch(A, n=8).call("mremap", A, 8, B, a2=16 * P, a3=1).touch(B, 8, 8).call("munmap", B, 16)
    f = p.write(tmp_path / "t.parquet")
    (s,), r = steps(f)
    assert s[:9:8] == [(d.DO_MMAP, number(0), 8, 0, 3 | 0x22 << 8), (d.DO_TOUCH, number(0), 1, 7, 1)]
    assert s[9] == (d.DO_REMAP, number(0), 8, 0, 16 | 1 << 32 | 1 << 40)
    assert s[10] == (d.DO_TOUCH, number(1), 1, 8, 1) and s[18] == (d.DO_MUNMAP, number(1), 16, 0, 0)
    assert not r.left_out and not r.replaced
    data = whatif(capsys, f)
    for x in data["designs"]:
        ops = x["operations"]
        # the first eight pages move with the mapping: 16 faults a round
        assert (x["failed"], x["faults"], ops["mremap"]["n"], ops["munmap"]["n"]) == (0, 320, 20, 20)


def test_a_part_shrinks_and_a_part_moves_to_a_place_that_is_named(tmp_path, capsys):
    p = Program().map(A, 16).touch(A, n=16).map(B, 8)
    p.call("mremap", A, 8, A, a2=4 * P, a3=1)  # the rest stays
    p.call("mremap", A + 8 * P, 4, B + 2 * P, a2=4 * P, a3=3, a4=B + 2 * P)  # over the other one's middle
    p.call("mremap", A + 12 * P, 4, A + 64 * P, a2=4 * P, a3=3, a4=A + 64 * P)  # where nothing is
    p.touch(B, 0).touch(B, 7).call("munmap", B, 8).call("munmap", A, 4).call("munmap", A + 64 * P, 4)
    f = p.write(tmp_path / "t.parquet")
    (s,), r = steps(f)
    remaps = [x for x in s if x[0] == d.DO_REMAP]
    assert [x[1:4] for x in remaps] == [(number(0), 8, 0), (number(0), 4, 8), (number(0), 4, 12)]
    assert [x for x in s if x[0] == d.DO_WHERE] == [(d.DO_WHERE, number(1), 0, 2, 0), (d.DO_WHERE, number(5), 0, 0, 0)]
    assert [x[1:4] for x in s if x[0] == d.DO_MUNMAP] == [
        (number(1), 2, 0), (number(3), 4, 0), (number(1), 2, 6), (number(2), 4, 0), (number(4), 4, 0),
    ]  # fmt: skip
    assert dict(r.replaced) == {"mremap to a place where there was no one mapping: an mmap before it": 1}
    assert all(x["failed"] == 0 and x["operations"]["mremap"]["n"] == 3 for x in whatif(capsys, f)["designs"])


def test_mremap_over_two_mappings_and_of_nothing_is_named(tmp_path):
    p = Program().map(A, 4).map(A + 4 * P, 4).call("mremap", A, 8, B, a2=16 * P, a3=1).touch(B, 12)
    p.call("mremap", B, 0, A, a2=16 * P, a3=1).call("madvise", B, 4, a2=99).call("process_madvise", 0, a2=4)
    p.call("munmap", 0x1000, 1)
    f = p.write(tmp_path / "t.parquet")
    p.rows[-4] = row(p.t - 6000, 1, 2, schema.CALL, name="mremap", address=B, length=0, result=A, a2=P, a3=1)
    f = p.write(tmp_path / "t.parquet")
    (s,), r = steps(f)
    assert [x[0] for x in s] == [d.DO_MMAP] * 2 + [d.DO_MUNMAP] * 2 + [d.DO_MMAP, d.DO_TOUCH]
    assert dict(r.replaced) == {"mremap over several mappings: munmap and mmap": 1}
    assert dict(r.left_out) == {
        "mremap of length 0 (a second mapping of shared memory)": 1, "process_madvise, whose ranges are in the caller's memory": 1,
        "madvise with advice that the model has not": 1, "munmaps of what is not known to be mapped": 1,
    }  # fmt: skip


def test_what_is_left_out_takes_its_time(tmp_path):
    """The pause before a call that is left out, and the call, are the thread's own time."""
    p = Program().map(A, 4).call("madvise", A, 4, a2=99).touch(A)
    with open_trace(p.write(tmp_path / "t.parquet")) as t:
        (s,) = convert(t).programs
    assert [x[2] / TICKS for x in s if x[0] == d.DO_THINK] == [3000]


# -- brk
def test_the_heap_grows_and_shrinks(tmp_path, capsys):
    p = Program().call("brk", 0, result=HEAP)
    for _ in range(10):
        p.call("brk", HEAP + 33 * P, result=HEAP + 33 * P).touch(HEAP, n=33)
        p.call("brk", HEAP + P, result=HEAP + P).call("brk", HEAP, result=HEAP)
    p.call("brk", HEAP + (1 << 40), result=HEAP)  # refused
    f = p.write(tmp_path / "t.parquet")
    with open_trace(f) as t:
        assert heap_of(t, 1) == Heap(HEAP // P, HEAP)
    (s,), r = steps(f)
    assert r.setup == [(d.DO_BRK, 0, 0, 0, 0)] and dict(r.left_out) == {"calls that failed": 1}
    assert s[:3] == [(d.DO_BRK, 0, 0, 0, -1), (d.DO_BRK, number(0), 33 * P, 1, 0), (d.DO_TOUCH, number(1), 1, 0, 1)]
    assert [x[1:] for x in s if x[0] == d.DO_BRK][2:4] == [(number(1), P, 2, 33), (number(2), 0, 3, 1)]
    # VMAs that brk makes are counted by spf-v12, too
    for x in whatif(capsys, f, "-p", "spf-v12")["designs"]:
        # each time all pages are new
        assert (x["failed"], x["faults"], x["operations"]["brk"]["n"], x["violations"]) == (0, 330, 31, {})


def test_who_is_ahead_of_a_brk_waits_before_it_and_not_in_his_own_next_one(tmp_path):
    """Thread 2 fills what it grew the heap by while thread 3 is about to move the break."""
    p = Program().call("brk", 0, result=HEAP).call("brk", HEAP + 4 * P, result=HEAP + 4 * P).touch(HEAP)
    p.touch(B, tid=3).touch(HEAP, 1)  # thread 3 does something last here, then nothing until its brk
    p.touch(HEAP, 2).call("brk", HEAP + 3 * P, result=HEAP + 3 * P, tid=3).touch(HEAP, 2)
    programs, r = steps(p.write(tmp_path / "t.parquet"))
    two, three = programs
    marks = [x for x in three if x[0] == d.DO_MARK]
    # behind its touch, which came when thread 2 had grown the heap
    assert len(marks) == 1 and [x[0] for x in three[:3]] == [d.DO_MEET, d.DO_TOUCH, d.DO_MARK]
    (meet,) = [x for x in two if x[0] == d.DO_MEET]
    assert meet[2] == marks[0][2] and 0 < meet[3] <= 2000 * TICKS
    # at the first page that was touched after that
    assert two[two.index(meet) + 1] == (d.DO_TOUCH, two[two.index(meet) - 1][1], 1, 1, 1)


def test_who_waits_goes_on_at_once(tmp_path, capsys):
    """Two threads move the break in turn, 2 us after one another: no wait is longer than the other's step."""
    p = Program().call("brk", 0, result=HEAP)
    for k in range(1000):
        p.call("brk", HEAP + (k + 1) * P, result=HEAP + (k + 1) * P, tid=2 + k % 2)
    data = whatif(capsys, p.write(tmp_path / "t.parquet"))
    assert data["designs"][0]["failed"] == 0
    assert data["designs"][0]["seconds"] == pytest.approx(data["recorded"]["seconds"], rel=0.3)


def test_a_heap_from_before_and_one_from_a_parent(tmp_path, capsys):
    p = Program()
    p.rows.append(row(999_000, 1, 1, schema.AREA, address=HEAP, length=16 * P, a2=3, a3=2, file="[heap]"))
    p.touch(HEAP, 3).call("brk", HEAP + 20 * P, result=HEAP + 20 * P).touch(HEAP, 17)
    f = p.write(tmp_path / "t.parquet")
    with open_trace(f) as t:
        assert heap_of(t, 1) == Heap(HEAP // P, HEAP + 16 * P) and heap_of(t, 7) is None
    (s,), r = steps(f)
    assert r.setup == [(d.DO_BRK, 0, 16 * P, 0, 0)]
    assert s == [(d.DO_TOUCH, number(0), 1, 3, 1), (d.DO_BRK, number(0), 20 * P, 1, 16), (d.DO_TOUCH, number(1), 1, 1, 1)]
    assert all((x["failed"], x["faults"]) == (0, 2) for x in whatif(capsys, f)["designs"])
    q = Program().call("brk", 0, result=HEAP).call("brk", HEAP + 8 * P, result=HEAP + 8 * P)
    q.rows.append(row(q.t + 1000, 1, 2, schema.FORK, result=9, a2=0, a3=9))
    q.rows.append(row(q.t + 2000, 9, 9, schema.CALL, name="brk", address=HEAP + 9 * P, result=HEAP + 9 * P))
    with open_trace(q.write(tmp_path / "q.parquet")) as t:
        assert heap_of(t, 9) == Heap(HEAP // P + 8, HEAP + 8 * P)


def test_a_thread_waits_for_the_break_before_its_own(tmp_path, capsys):
    """The second thread is ahead: it has no pauses.  Were its break moved first, the first one's would cut it off."""
    p = Program().call("brk", 0, result=HEAP)
    for k in range(1, 40):
        tid = 2 + k % 2
        p.call("brk", HEAP + k * P, result=HEAP + k * P, tid=tid).touch(HEAP, k - 1, tid=tid)
        p.t += 50_000 * (k % 3)
    for x in whatif(capsys, p.write(tmp_path / "t.parquet"))["designs"]:
        assert (x["failed"], x["faults"], x["operations"]["brk"]["n"]) == (0, 39, 40)


def test_other_advice_is_given(tmp_path, capsys):
    p = Program().map(A, 8)
    for advice in (MADV_FREE, MADV_DONTNEED, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, 15, 0):
        p.touch(A, n=4).call("madvise", A, 4, a2=advice)
    f = p.write(tmp_path / "t.parquet")
    (s,), r = steps(f)
    assert [x[4] for x in s if x[0] == d.DO_ADVISE] == [MADV_FREE, MADV_DONTNEED, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, 15, 0]
    assert not r.left_out
    own, sem = whatif(capsys, f)["designs"]
    # pages that were freed are still there, those without guards are not; the touch of guards fails
    assert own["operations"]["madvise"]["n"] == 6 and own["failed"] == 4


# -- guards
def stacks(rounds=20):
    """Stacks as glibc makes them, and a page in the middle of a mapping that is closed and opened."""
    p = Program()
    for _ in range(rounds):
        p.map(A, 17, 0, NORESERVE_STACK).call("mprotect", A + P, 16, a2=3).touch(A, 1, 8).call("munmap", A, 17)
    p.map(B, 64).call("mprotect", B + 8 * P, 1, a2=0).touch(B, n=4).call("mprotect", B + 8 * P, 1, a2=3)
    p.touch(B, 8).call("mprotect", B + 8 * P, 1, a2=0)  # which drops what is in it
    return p


def test_guards_are_markers(tmp_path, capsys):
    f = stacks().write(tmp_path / "t.parquet")
    (s,), r = steps(f, "guard")
    assert s[:2] == [(d.DO_MMAP, number(0), 17, 0, 3 | 0x22 << 8), (d.DO_ADVISE, number(0), 1, 0, MADV_GUARD_INSTALL)]
    assert [x[2:] for x in s if x[0] == d.DO_ADVISE][20:] == [
        (1, 8, MADV_GUARD_INSTALL), (1, 8, MADV_GUARD_REMOVE), (1, 8, MADV_GUARD_INSTALL),
    ]  # fmt: skip
    assert not any(x[0] == d.DO_PROTECT for x in s)
    assert r.notes == {
        "installed": 22, "removed": 1, "dropped": 1, "as_recorded": 0,
    }  # fmt: skip
    own, _, guard = whatif(capsys, f, "--rewrite", "guard")["designs"]
    assert guard["name"] == "vm-refcnt, guard" and guard["rewrite"]["installed"] == 22
    n = [(x["operations"]["mprotect"]["n"], x["operations"]["madvise"]["n"], x["failed"]) for x in (own, guard)]
    assert n == [(23, 0, 0), (0, 23, 0)]
    assert own["faults"] == guard["faults"] == 20 * 8 + 5


def test_a_mapping_put_over_another_one_and_reservations(tmp_path):
    p = Program().map(A, 64).map(A + 8 * P, 2, 0, PRIVATE_ANON | 0x10).touch(A)
    p.map(B, 1000, 0).call("mprotect", B, 16, a2=3).touch(B).call("mprotect", B + 16 * P, 16, a2=3)
    p.call("mprotect", A, 64, a2=0).call("munmap", A, 64)
    f = p.write(tmp_path / "t.parquet")
    (s,), r = steps(f, "guard")
    assert [x[:4] for x in s if x[0] == d.DO_ADVISE] == [(d.DO_ADVISE, number(0), 2, 8)]
    assert [x[:3] for x in s if x[0] == d.DO_PROTECT] == [
        (d.DO_PROTECT, number(1), 16), (d.DO_PROTECT, number(1), 16), (d.DO_PROTECT, number(0), 64),
    ]  # fmt: skip
    assert r.notes == {"installed": 1, "removed": 0, "dropped": 0, "as_recorded": 2}
    (s,), _ = steps(f)
    assert [x[:4] for x in s if x[0] == d.DO_MUNMAP] == [
        (d.DO_MUNMAP, number(0), 2, 8), (d.DO_MUNMAP, number(0), 8, 0), (d.DO_MUNMAP, number(1), 2, 0),
        (d.DO_MUNMAP, number(0), 54, 10),
    ]  # fmt: skip


def test_guards_need_a_kernel_that_has_them(tmp_path, capsys):
    f = stacks(1).write(tmp_path / "t.parquet", kernel="6.12.4")
    with pytest.raises(SystemExit) as e:
        main(["whatif", f, "--rewrite", "guard"])
    err = capsys.readouterr().err
    assert e.value.code == 2 and "MADV_GUARD_INSTALL is of Linux 6.13" in err and err.count("\n") == 1


def test_a_rewrite_needs_calls(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recordings, "KINDS", [schema.FAULT])
    f = Program().touch(A, n=4).write(tmp_path / "t.parquet")
    with pytest.raises(SystemExit) as e:
        main(["whatif", f, "--rewrite", "keep"])
    err = capsys.readouterr().err
    assert e.value.code == 2 and "has no calls that it could change" in err and err.count("\n") == 1
    apart = whatif(capsys, f, "--rewrite", "processes")["designs"][-1]
    assert apart["faults"] == 4 and apart["rewrite"]["processes"] == 1


# -- processes
def two(rounds=100):
    """Two threads that map, touch and unmap, each its own; then one touches and unmaps what the other one made."""
    p = Program()
    for k in range(rounds):
        for tid, at in ((2, A), (3, B)):
            p.t = 1_000_000 + 40_000 * k
            p.map(at, 8, tid=tid).touch(at, n=8, tid=tid).call("munmap", at, 8, tid=tid)
    p.map(A, 32).touch(A, n=4).touch(A, 4, 4, tid=3).call("munmap", A, 32, tid=3)
    p.map(A, 16).touch(A).call("munmap", A, 16, tid=3)  # never used by who unmaps it
    return p.touch(HEAP).touch(HEAP, 1, tid=3)


def test_processes_share_no_lock(tmp_path, capsys):
    f = two().write(tmp_path / "t.parquet", kernel="4.12.0")
    (first, second), r = steps(f, "processes")
    made = [x for x in second if x[0] == d.DO_WHERE]
    assert len(made) == 1 and second[second.index(made[0]) + 1][:3] == (d.DO_MMAP, second[-2][1], 32)
    # both unmap what both have; who never used it leaves it to the other one
    assert [x[2] for x in first if x[0] == d.DO_MUNMAP][-2:] == [32, 16]
    assert [x[2] for x in second if x[0] == d.DO_MUNMAP][-2:] == [8, 32]
    assert len(r.setup) == 2 and r.owners == [0, 1]
    assert r.notes == {
        "processes": 2, "inherited": 1, "inherited_pages": 64, "shared": 1, "shared_pages": 32,
    }  # fmt: skip
    data = whatif(capsys, f, "--rewrite", "processes")
    own, apart = data["designs"]
    assert (own["protocol"], apart["name"]) == ("mmap-sem", "mmap-sem, processes")
    assert own["failed"] == apart["failed"] == 0
    assert own["faults"] == apart["faults"] == 1611
    assert apart["operations"]["munmap"]["n"] == own["operations"]["munmap"]["n"] + 1
    waits = [sum(o["n"] * o["mean_wait_ns"] for o in x["operations"].values()) for x in (own, apart)]
    assert waits[0] > 10_000 and waits[1] < waits[0] / 20  # the zone's lock is still everybody's
    assert all(apart["operations"][k]["mean_wait_ns"] == 0 for k in ("fault", "mmap"))
    assert apart["seconds"] < own["seconds"]


def test_processes_have_heaps_of_their_own(tmp_path, capsys):
    p = Program().call("brk", 0, result=HEAP)
    for k in range(1, 21):
        p.call("brk", HEAP + k * P, result=HEAP + k * P, tid=2 + k % 2).touch(HEAP, k - 1, tid=2 + k % 2)
    f = p.write(tmp_path / "t.parquet")
    programs, r = steps(f, "processes")
    for s in programs:
        assert [x[2] for x in s if x[0] == d.DO_BRK and x[4] >= 0] == [k * P for k in range(1, 11)]
    assert r.owners is not None and sorted(r.owners) == [0, 1]
    apart = whatif(capsys, f, "--rewrite", "processes")["designs"][-1]
    assert (apart["failed"], apart["faults"], apart["operations"]["brk"]["n"]) == (0, 20, 21)


def test_a_sample_as_processes_and_with_guards(capsys):
    data = whatif(capsys, "sample:stress-ng-malloc", "--rewrite", "guard", "--rewrite", "processes")
    own, sem, guard, apart = data["designs"]
    assert not data["left_out"] and not data["replaced"] and own["operations"]["brk"]["n"] == 651
    assert all(x["failed"] == 0 and x["finished"] for x in data["designs"])
    assert guard["rewrite"]["installed"] == 2 and apart["rewrite"]["processes"] == data["threads"] == 3
    # two stacks' mprotect are guards, one page each; a process maps what it shares itself
    assert own["operations"]["mprotect"]["n"] - guard["operations"]["mprotect"]["n"] == 2
    assert apart["operations"]["mmap"]["n"] - own["operations"]["mmap"]["n"] == apart["rewrite"]["shared"]
    assert apart["operations"]["mprotect"]["mean_wait_ns"] == 0


def test_the_text_tells_what_is_not_modelled(capsys, tmp_path):
    f = two(3).write(tmp_path / "t.parquet")
    with pytest.raises(SystemExit) as e:
        main(["whatif", f, "-m", "x86-small", "-p", "mmap-sem", "--rewrite", "processes", "--rewrite", "guard", "--seeds", "2"])
    out = " ".join(capsys.readouterr().out.split())
    assert e.value.code == 0
    assert "1 mappings (32 pages) that one makes and others use would have to be shared memory" in out
    assert "not modelled: faults of a process on shared pages" in out and "the program has no guard pages" in out
    assert "means of 2 replays" in out and "times the recorded run" in out
