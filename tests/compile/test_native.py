"""Machine code does what plain Python does: generated programs, allocation, batches, the cache, memory of any size."""

from __future__ import annotations

import os
import stat
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from test_generated import generated, plain

from seqfault.compile import native as native_module
from seqfault.compile.native import UNDEFINED, NativeProgram
from seqfault.kernel import *
from seqfault.kernel.layout import Layout

PROGRAMS, OPERATIONS = 100, 2
NR_THINGS = Size("NR_THINGS", 5)
NR_SLOTS = Size("NR_SLOTS", 4)


@struct(pool=NR_THINGS)
class nthing:
    a: integer(-5, 5) = 2
    b: integer(0, 9)
    next: ptr[nthing]


@struct(pool=4, typesafe=True)
class nsafe:
    a: integer(0, 9) = 3


@struct(pool=1, private=True)
class nrequest:
    op: integer(0, 9)
    value: integer(-100, 100)


@struct(pool=1)
class nworld:
    total: integer(-10000, 10000)
    head: ptr[nthing]
    flag: bool
    slots: array[ptr[nthing], NR_SLOTS]


def take() -> integer(0, 1000):
    p = kmem_cache_alloc(nthing)
    return index_of(p)


def take_zeroed() -> ptr[nthing]:
    return kmem_cache_zalloc(nthing)


def give(p: ptr[nthing]):
    kmem_cache_free(p)


def read_b(p: ptr[nthing]) -> integer(0, 9):
    return p.b


def read_a(p: ptr[nthing]) -> integer(-5, 5):
    return p.a


def safe_twice() -> integer(0, 9):
    p = kmem_cache_alloc(nsafe)
    p.a = 7
    kmem_cache_free(p)
    q = kmem_cache_alloc(nsafe)
    kmem_cache_alloc(nsafe)
    kmem_cache_free(q)
    r = kmem_cache_alloc(nsafe)
    return r.a + p.a % 2


def divide(a: integer(-100, 100), b: integer(-100, 100)) -> tuple[integer(-100, 100), integer(-100, 100)]:
    return a // b, a % b


def step():
    r = the(nrequest)
    w = the(nworld)
    if r.op == 9:
        assert r.value < 50
    count("steps")
    w.total += r.value
    emit(w.total)
    for i in range(r.op):
        emit(i)


def spin():
    w = the(nworld)
    while not w.flag:
        cpu_relax()


def endless():
    w = the(nworld)
    while w.head == NULL:
        w.total = choose(3)


def of_two() -> integer(0, 10):
    return choose(3) * 3 + choose(4)


def slot(i: integer(-9, 99)) -> bool:
    return the(nworld).slots[i] != NULL


def careless() -> bool:
    return helper(the(nworld))


def helper(w: ptr[nworld]) -> bool:
    return w.head.next != NULL


ENTRIES = {
    f.__name__: f
    for f in (take, take_zeroed, give, read_a, read_b, safe_twice, divide, step, spin, endless, of_two, slot, careless)
}


@pytest.fixture(scope="module")
def program() -> NativeProgram:
    return NativeProgram(ENTRIES)


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_generated_programs_run_equal(seed: int, tmp_path: Path):
    mod = generated(tmp_path, seed, PROGRAMS, OPERATIONS)
    fns = {f"op_{p}_{i}": getattr(mod, f"op_{p}_{i}") for p in range(PROGRAMS) for i in range(OPERATIONS)}
    prog = NativeProgram(fns, level=1 + seed % 2)
    prog._code = prog.compile()
    m = prog.machine(strict=False)
    reported = set()
    for p in range(PROGRAMS):
        judge = Machine(prog.layout, strict=False)
        m.reset()
        for i in range(OPERATIONS):
            name = f"op_{p}_{i}"
            want = plain(judge, fns[name])
            m.violations.clear()
            try:
                m.call(name)
                ended = False
            except KernelBug:
                ended = True
            got = [k for k, _ in m.violations]
            assert got == want, name
            reported.update(got)
            if ended:
                break
            assert not m.differences(judge), name
    assert reported


def test_allocation_takes_what_plain_python_takes(program: NativeProgram):
    n = 300
    prog = NativeProgram(ENTRIES, sizes={"NR_THINGS": n})
    m = prog.machine()
    judge = Machine(prog.layout)
    r = np.random.default_rng(7)
    live: list[int] = []
    for _ in range(4000):
        if live and r.random() < (0.2 if len(live) < n else 0.9):
            i = live.pop(int(r.integers(len(live))))
            m.call("give", i + 1)
            with judge:
                give(judge.object(nthing, i))
        elif len(live) < n:
            got = m.call("take")
            with judge:
                assert got == take()
            live.append(got)
    assert not m.differences(judge)
    again = prog.machine()
    again.load_plain(judge)  # finds the free objects by itself
    assert not again.differences(judge)
    for _ in range(n - len(live)):
        with judge:
            assert again.call("take") == take()
    with pytest.raises(KernelBug, match="pool-exhausted.*nthing.*take"):
        again.call("take")


def test_allocation_does_not_slow_down():
    prog = NativeProgram({"give": give, "take": take}, sizes={"NR_THINGS": 1000})
    big = NativeProgram({"give": give, "take_zeroed": take_zeroed}, sizes={"NR_THINGS": 1 << 17})
    assert prog.key() != big.key()
    m = big.machine()
    for _ in range(1 << 17):
        m.call("take_zeroed")
    t = time.process_time()
    for i in range(3000):  # the lowest and the highest freed, in turn
        m.call("give", 1 + i % 7)
        m.call("give", (1 << 17) - i % 7)
        assert m.call("take_zeroed") == 1 + i % 7
        assert m.call("take_zeroed") == (1 << 17) - i % 7
    assert time.process_time() - t < 1  # looking at each object would take more than ten times that


def test_undefined_and_freed_objects(program: NativeProgram):
    m = program.machine()
    p = m.call("take") + 1
    assert m.cells[program.layout.address("nthing", p - 1, "b")] == UNDEFINED
    with pytest.raises(KernelBug, match=r"uninitialised-read: nthing\.b, read_b .*test_native\.py:\d+"):
        m.call("read_b", p)
    q = m.call("take_zeroed")
    assert m.call("read_a", q) == 2 and m.call("read_b", q) == 0
    m.call("give", q)
    with pytest.raises(KernelBug, match="use-after-free"):
        m.call("read_a", q)
    with pytest.raises(KernelBug, match="double-free"):
        m.call("give", q)
    with pytest.raises(KernelBug, match="null-dereference"):
        m.call("read_a", 0)
    lax = program.machine(strict=False)
    p = lax.call("take") + 1
    assert lax.call("read_a", p) == -5  # as the interpreter goes on: the least value
    assert [k for k, _ in lax.violations] == ["uninitialised-read"]


def test_type_safe_memory_keeps_its_values(program: NativeProgram):
    m = program.machine()
    judge = Machine(program.layout)
    with judge:
        assert m.call("safe_twice") == safe_twice() == 4
    assert not m.differences(judge)


@pytest.mark.parametrize("a", [-7, 7, 0, 100])
@pytest.mark.parametrize("b", [-3, 3, -1, 1])
def test_division_is_pythons(program: NativeProgram, a: int, b: int):
    assert program.machine().call("divide", a, b) == (a // b, a % b)


def test_what_stops_a_run(program: NativeProgram):
    m = program.machine()
    for kind, name, args in [
        ("division-by-zero", "divide", (1, 0)),
        ("would-block", "spin", ()),
        ("index-out-of-range", "slot", (4,)),
        ("index-out-of-range", "slot", (-1,)),
        ("null-dereference: .*helper .*in careless", "careless", ()),
    ]:
        with pytest.raises(KernelBug, match=kind):
            m.call(name, *args)
    with pytest.raises(ValueError, match="takes 2 arguments"):
        m.call("divide", 1)


def test_an_endless_loop_ends(program: NativeProgram, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native_module, "LOOPS", 1000)
    with pytest.raises(KernelBug, match="endless-step"):
        program.machine().call("endless")


def test_choices(program: NativeProgram):
    m = program.machine(choices=[2, 1])
    assert m.call("of_two") == 7
    assert m.call("of_two") == 0
    m.choose([1, 4])
    with pytest.raises(KernelBug, match="index-out-of-range"):
        m.call("of_two")


def test_batch(program: NativeProgram):
    m = program.machine()
    rows = np.array([[2, 5], [0, -7], [1, 50]], np.int64)
    out = np.zeros(64, np.int64)
    b = m.batch("step", rows, "nrequest", out, margin=10)
    assert (b.done, b.bug) == (3, None)
    assert [out[x:y].tolist() for x, y in pairwise(b.offsets)] == [[5, 0, 1], [-2], [48, 0]]
    assert m.counters == {"steps": 3}
    offsets, done, bug = m.batch("step", np.array([[1, 0], [9, 51], [1, 1]]), "nrequest", out, margin=10)
    assert done == 1 and bug.kind == "assertion" and "row 1: step" in str(bug) and offsets[1] == 2
    done, bug = m.batch("step", np.array([[1, 0], [0, 101]]), "nrequest", out, margin=10)[1:]
    assert done == 1 and bug.kind == "range-overflow" and "word 1" in str(bug)
    b = m.batch("step", np.full((40, 2), 3), "nrequest", out, margin=10)
    assert b.bug is None and b.done == 14  # 4 words each: 13 of them leave 12, 14 leave 8
    assert m.batch("step", rows[:0], "nrequest", out).done == 0
    with pytest.raises(ValueError, match="no 3 cells"):
        m.batch("step", np.zeros((1, 3), np.int64), "nrequest", out)
    with pytest.raises(ValueError, match="takes arguments"):
        m.batch("divide", rows, "nrequest", out)


def test_plain_python_goes_on_from_machine_code(program: NativeProgram):
    m = program.machine()
    p = m.call("take_zeroed")
    m.call("take")
    judge = m.to_plain()
    with judge:
        q = take_zeroed()
        q.next = judge.object(nthing, p - 1)
        assert read_a(q.next) == 2
    differ = m.differences(judge)
    assert differ and all(d.startswith("nthing[2]") for d in differ)
    m.load_plain(judge)
    assert not m.differences(judge)


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path / "cache"))
    first = NativeProgram({"divide": divide})
    assert first.machine().call("divide", 7, 2) == (3, 1)
    second = NativeProgram({"divide": divide})
    assert second.machine().call("divide", 7, 2) == (3, 1)
    assert second.cached and not first.cached
    (kept,) = (tmp_path / "cache").glob("*.native")
    kept.write_bytes(kept.read_bytes()[:100])
    third = NativeProgram({"divide": divide})
    assert third.machine().call("divide", -7, 2) == (-4, 1)
    assert not third.cached


def test_without_a_writable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path / "file" / "below"))
    assert NativeProgram({"divide": divide}).machine().call("divide", 7, 2) == (3, 1)
    if os.geteuid():
        shut = tmp_path / "shut"
        shut.mkdir()
        shut.chmod(stat.S_IRUSR | stat.S_IXUSR)
        monkeypatch.setenv("SEQFAULT_CACHE", str(shut))
        assert NativeProgram({"divide": divide}).machine().call("divide", 7, 2) == (3, 1)


def test_memory_of_any_size():
    t = time.process_time()
    layout = Layout([nworld], {"NR_THINGS": 2_000_000, "NR_SLOTS": 1 << 35})
    assert layout.size == 4 * 2_000_000 + 3 + (1 << 35)
    assert len(layout.cells) == len(layout.start) == layout.size
    assert layout.cells[4 * 1_999_999 + 1].name == "nthing[1999999].a"
    assert layout.start[4 * 1_999_999 + 1] == 2
    last = layout.cells[-1]
    assert (last.name, last.hi) == (f"nworld[0].slots[{(1 << 35) - 1}]", 2_000_000)
    assert layout.address("nworld", 0, f"slots[{(1 << 35) - 1}]") == layout.size - 1
    assert layout.address("nthing", 7, "next") == 4 * 7 + 3
    with pytest.raises(KeyError):
        layout.address("nthing", 2_000_000, "a")
    with pytest.raises(IndexError):
        layout.cells[layout.size]
    assert time.process_time() - t < 0.5
    prog = NativeProgram({"take_zeroed": take_zeroed, "give": give}, structs=[nworld], sizes=layout.sizes)
    m = prog.machine()
    assert m.call("take_zeroed") == 1
    m.cells[layout.size - 1] = 1
    m.reset()
    assert m.cells[layout.size - 1] == 0 and m.call("take_zeroed") == 1


def test_a_lazy_layout_is_the_same_layout(monkeypatch: pytest.MonkeyPatch):
    listed = Layout([nworld, nsafe, nrequest])
    monkeypatch.setattr("seqfault.kernel.layout.LISTED", 0)
    assert list(Layout([nworld, nsafe, nrequest]).start) == [c.start for c in listed.cells]
    monkeypatch.setattr("seqfault.kernel.layout.FILLED", 0)
    lazy = Layout([nworld, nsafe, nrequest])
    assert list(lazy.cells) == list(listed.cells)
    assert lazy.cells[3:9] == listed.cells[3:9]
    assert list(lazy.start) == list(listed.start) and lazy.start[3:9] == listed.start[3:9]
    for c in listed.cells:
        if not c.is_state:
            assert lazy.address(c.pool, c.index, c.path) == c.addr
