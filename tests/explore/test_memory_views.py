"""The kernel's memory model in the checker: equal to the litmus machine in program order, on litmus tests and random
programs; a sequence count with each barrier taken out; what a cut-off model says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import from_litmus as fl
import pytest
import test_memory_buffers as tb
from full_barriers import full_barriers

from modules import load as load_module
from seqfault.explore.memory import canonical
from seqfault.litmus.generate import from_cycle, generate
from seqfault.litmus.judge import judge
from seqfault.litmus.threads import Limits


def mixed(seed: int, mode: str) -> str:
    """Of tests/litmus/mixed.py."""
    file = Path(__file__).parents[1] / "litmus" / "mixed.py"
    return str(load_module(file, "mixed_of_litmus").mixed(seed, mode))


def same(text: str, folder: Path) -> str:
    """ "equal", or why the test cannot be run; what the checker reaches is what the machine in program order does, and
    never more than the axioms allow."""
    test = fl.read(text)
    try:
        _, got = fl.checker_states(test, folder)
        want = fl.in_order(test)
    except fl.Refused as e:
        return str(e)
    except AssertionError as e:  # an address that is none
        assert "index-out-of-range" in str(e)
        return "index"
    assert got == want, f"{text}\nmore: {got - want}\nless: {want - got}"
    assert got <= set(judge(test, Limits(candidates=300_000)).states), text
    return "equal"


@pytest.mark.parametrize("mode", ["marked", "atomic", "lock"])
def test_random_programs(mode: str, tmp_path: Path):
    ran = Counter(same(mixed(s, mode), tmp_path) for s in range(60))
    assert ran["equal"] >= 40


def test_cycles_of_relations(tmp_path: Path):
    ran = Counter(same(generate(s), tmp_path) for s in range(60))
    assert ran["equal"] >= 10


def test_programs_full_of_full_barriers(tmp_path: Path):
    assert {same(full_barriers(s), tmp_path) for s in range(120)} == {"equal"}


CYCLES = {
    "MP+mb+po": "MbdWW Rfe PodRR Fre", "MP+mb+addr": "MbdWW Rfe DpAddrdR Fre", "MP+mbs": "MbdWW Rfe MbdRR Fre",
    "SB+mbs": "MbdWR Fre MbdWR Fre", "SB+mb+po": "MbdWR Fre PodWR Fre", "R+mbs": "MbdWW Coe MbdWR Fre",
    "S+mb+data": "MbdWW Rfe DpDatadW Coe", "2+2W+mbs": "MbdWW Coe MbdWW Coe", "RWC+mbs": "Rfe MbdRR Fre MbdWR Fre",
    "WRC+mb+addr": "Rfe MbdRW Rfe DpAddrdR Fre", "WRC+mb+po": "Rfe MbdRW Rfe PodRR Fre",
    "WRC+data+addr": "Rfe DpDatadW Rfe DpAddrdR Fre", "ISA2+mb+data+addr": "MbdWW Rfe DpDatadW Rfe DpAddrdR Fre",
    "ISA2+mb+data+po": "MbdWW Rfe DpDatadW Rfe PodRR Fre", "Z6.0+mb+data+mb": "MbdWW Rfe DpDatadW Coe MbdWR Fre",
    "Z6.0+mb+data+po": "MbdWW Rfe DpDatadW Coe PodWR Fre", "IRIW+mbs": "Rfe MbdRR Fre Rfe MbdRR Fre",
    "IRIW+mb+po": "Rfe MbdRR Fre Rfe PodRR Fre", "W+RWC+mb+addr+mb": "MbdWW Rfe DpAddrdR Fre MbdWR Fre",
    "3.SB+mbs": "MbdWR Fre MbdWR Fre MbdWR Fre",
}  # fmt: skip


@pytest.mark.parametrize("name", CYCLES)
def test_full_barriers_by_name(name: str, tmp_path: Path):
    """None of these has a load and a later store that nothing orders: what the axioms allow is what is reached."""
    test = fl.read(from_cycle(name, CYCLES[name].split()))
    assert fl.checker_states(test, tmp_path)[1] == set(judge(test).states)


# by what a load orders a later store, or load, behind it
ORDERED = {
    "addr; rmb": "r1 = READ_ONCE(*(z + (r0 & 128))); smp_rmb(); r2 = READ_ONCE(*y);",
    "rmb; addr": "smp_rmb(); r1 = READ_ONCE(*z); r2 = READ_ONCE(*(y + (r1 & 128)));",
    "rmb; data": "smp_rmb(); r1 = READ_ONCE(*z); WRITE_ONCE(*y, (r1 ^ r1) + 1);",
    "rmb; ctrl": "smp_rmb(); r1 = READ_ONCE(*z); if (r1 == 0) { WRITE_ONCE(*y, 1); }",
    "rmb; acquire": "smp_rmb(); r1 = smp_load_acquire(z); WRITE_ONCE(*y, 1);",
    "rmb; acquire of an atomic": "smp_rmb(); r1 = xchg_acquire(z, 7); WRITE_ONCE(*y, 1);",
    "rmb; atomic; wmb": "smp_rmb(); r1 = xchg_relaxed(z, 7); smp_wmb(); WRITE_ONCE(*y, 1);",
    "data; wmb": "WRITE_ONCE(*z, (r0 ^ r0) + 1); smp_wmb(); WRITE_ONCE(*y, 1);",
    "fri; wmb": "WRITE_ONCE(*x, 2); smp_wmb(); WRITE_ONCE(*y, 1);",
    "data; rfi; addr": "WRITE_ONCE(*z, (r0 ^ r0) + 1); r1 = READ_ONCE(*z); r2 = READ_ONCE(*(y + (r1 & 128)));",
    "release": "smp_store_release(y, 1);",
    "unlock; lock": "spin_lock(s); spin_unlock(s); spin_lock(s); WRITE_ONCE(*y, 1); spin_unlock(s);",
    "unlock; lock; a load": "spin_lock(s); spin_unlock(s); spin_lock(s); r1 = READ_ONCE(*y); spin_unlock(s);",
    "nothing": "WRITE_ONCE(*y, 1);",
}


@pytest.mark.parametrize("fence", ["smp_wmb()", "smp_mb()"])
@pytest.mark.parametrize("how", ORDERED)
def test_what_orders_behind_a_load(how: str, fence: str, tmp_path: Path):
    text = f"""C t
{{}}
P0(int *x, int *y) {{ WRITE_ONCE(*y, 5); {fence}; WRITE_ONCE(*x, 1); }}
P1(int *x, int *y, int *z, spinlock_t *s) {{ int r0; int r1; int r2; r0 = READ_ONCE(*x); {ORDERED[how]} }}
locations [1:r0; 1:r1; 1:r2; x; y; z;]
exists (x=99)
"""
    test = fl.read(text)
    assert fl.checker_states(test, tmp_path)[1] == set(judge(test).states)


@pytest.mark.parametrize("second", ["s", "u"])
@pytest.mark.parametrize("load", ["smp_rmb();", ""])
def test_locks_one_after_another_order_stores(second: str, load: str, tmp_path: Path):
    """po-unlock-lock-po is a cumulative fence, of one lock and of two; what stands between them is not in it."""
    text = f"""C t
{{}}
P0(int *x, int *y, int *z, spinlock_t *s, spinlock_t *u) {{
    spin_lock(s); WRITE_ONCE(*x, 1); spin_unlock(s); WRITE_ONCE(*z, 1); spin_lock({second}); WRITE_ONCE(*y, 1); spin_unlock({second}); }}
P1(int *x, int *y, int *z) {{ int r0; int r1; int r2; r0 = READ_ONCE(*y); {load} r1 = READ_ONCE(*x); r2 = READ_ONCE(*z); }}
locations [1:r0; 1:r1; 1:r2; x; y; z;]
exists (x=99)
"""
    test = fl.read(text)
    shown = fl.checker_states(test, tmp_path)[1]
    assert shown == set(judge(test).states)
    assert any(x[:3] == (1, 1, 0) for x in shown) and any(x[:2] == (1, 0) for x in shown) == (not load)


def test_what_comes_after_two_loads_in_the_wrong_order(tmp_path: Path):
    """(prop \\ id) & int: the load of z takes what was overwritten before a was stored, so it comes before that of a, and
    what depends on a knows what the full barrier did."""
    text = """C t
{}
P0(int *y, int *z) { WRITE_ONCE(*y, 1); smp_mb(); WRITE_ONCE(*z, 1); }
P1(int *a, int *y, int *z) { int r0; int r1; int r2; r0 = READ_ONCE(*a); r2 = READ_ONCE(*z); r1 = READ_ONCE(*(y + (r0 & 128))); }
P2(int *a, int *z) { WRITE_ONCE(*z, 2); smp_wmb(); WRITE_ONCE(*a, 1); }
locations [1:r0; 1:r1; 1:r2; z;]
exists (z=99)
"""
    test = fl.read(text)
    got = fl.checker_states(test, tmp_path)[1]
    assert got == set(judge(test).states) and (1, 0, 1, 2) not in got and (1, 1, 1, 2) in got


@pytest.mark.parametrize(
    "name,outcome",
    [("SB", True), ("SB+fencembs", False), ("MP", True), ("MP+wmb+rmb", False), ("2+2W", True), ("LB", False)],
)
def test_shapes_by_name(name: str, outcome: bool, tmp_path: Path):
    """Load buffering is what is not explored: the axioms allow LB."""
    lines = {
        "SB": (["W x 1", "R y"], ["W y 1", "R x"], {(0, 0)}),
        "SB+fencembs": (["W x 1", "F mb", "R y"], ["W y 1", "F mb", "R x"], {(0, 0)}),
        "MP": (["W x 1", "W y 1"], ["R y", "R x"], {(1, 0)}),
        "MP+wmb+rmb": (["W x 1", "F wmb", "W y 1"], ["R y", "F rmb", "R x"], {(1, 0)}),
        "2+2W": (["W x 1", "W y 2"], ["W y 1", "W x 2"], set()),
        "LB": (["R x", "W y 1"], ["R y", "W x 1"], {(1, 1)}),
    }[name]
    text, places = f"C {name}\n\n{{}}\n\n", []
    for t, body in enumerate(lines[:2]):
        text += f"P{t}(int *x, int *y)\n{{\n"
        out, n = "", 0
        for line in body:
            k, *a = line.split()
            if k == "W":
                out += f"\tWRITE_ONCE(*{a[0]}, {a[1]});\n"
            elif k == "F":
                out += f"\tsmp_{a[0]}();\n"
            else:
                text += f"\tint r{n};\n"
                out += f"\tr{n} = READ_ONCE(*{a[0]});\n"
                places.append(f"{t}:r{n}")
                n += 1
        text += out + "}\n\n"
    test = fl.read(text + f"locations [{' '.join(p + ';' for p in [*places, 'x', 'y'])}]\nexists (x=99)\n")
    _, got = fl.checker_states(test, tmp_path)
    if name == "2+2W":
        assert any(s[-2:] == (1, 1) for s in got) is outcome
        return
    reads = {s[: len(places)] for s in got}
    assert (lines[2] <= reads) is outcome
    if name == "LB":
        assert (1, 1) in {s[: len(places)] for s in judge(test).states}


@pytest.mark.parametrize("name,bad", [("lkmm:1", True), ("lkmm:121", True), ("lkmm:2", False), ("lkmm", False)])
def test_names(name: str, bad: bool):
    if bad:
        with pytest.raises(ValueError, match="lkmm:N with 2 to 120"):
            canonical(name)
    else:
        assert canonical(name) == name


@pytest.mark.parametrize(
    "writer,reader,caught",
    [
        (tb.writer_whole, tb.reader_whole, False),
        (tb.writer_no_first, tb.reader_whole, True),
        (tb.writer_no_second, tb.reader_whole, True),
        (tb.writer_whole, tb.reader_no_first, True),
        (tb.writer_whole, tb.reader_no_second, True),
    ],
)
def test_each_barrier_of_a_sequence_count(writer: Callable[..., None], reader: Callable[..., None], caught: bool):
    """All four are needed; the states at rest have nothing of the model in them."""
    for w, r in ((writer, reader), (reader, writer)):
        assert tb.kinds(tb.run(w, r, memory="lkmm")[0]) == ({"assertion"} if caught else set())


def test_no_room_is_no_verdict():
    """Two stores that nobody has seen yet do not fit in room for two entries."""
    p = tb.Program("t", [tb.Process(tb.writer_whole, 0), tb.Process(tb.reader_whole, 1)])
    a = tb.with_memory(tb.compile_program(p), "lkmm:2")
    cells = p.layout().start
    ex = tb.explore(a, a.pack(cells), a.rom(cells))
    assert "store-buffer-full" in {a.kinds[v.kind] for v in ex.violations}
