"""The kernel's memory model in the checker: equal to the litmus machine in program order, on litmus tests and random
programs; a sequence count with each barrier taken out; what a cut-off model says."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import from_litmus as fl
import pytest
import test_memory_buffers as tb

from seqfault.explore.memory import canonical
from seqfault.litmus.generate import generate
from seqfault.litmus.judge import judge
from seqfault.litmus.threads import Limits


def mixed(seed: int, mode: str) -> str:
    """Of tests/litmus/mixed.py."""
    file = Path(__file__).parents[1] / "litmus" / "mixed.py"
    spec = importlib.util.spec_from_file_location("mixed_of_litmus", file)
    assert spec is not None and spec.loader is not None
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return str(m.mixed(seed, mode))


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
    if want == fl.in_order(test, True):
        assert got <= set(judge(test, Limits(candidates=300_000)).states), text
    return "equal"


@pytest.mark.parametrize("mode", ["marked", "atomic", "lock"])
def test_random_programs(mode: str, tmp_path: Path):
    ran = Counter(same(mixed(s, mode), tmp_path) for s in range(60))
    assert ran["equal"] >= 40


def test_cycles_of_relations(tmp_path: Path):
    ran = Counter(same(generate(s), tmp_path) for s in range(60))
    assert ran["equal"] >= 10


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


@pytest.mark.parametrize("name,bad", [("lkmm:1", True), ("lkmm:61", True), ("lkmm:2", False), ("lkmm", False)])
def test_names(name: str, bad: bool):
    if bad:
        with pytest.raises(ValueError, match="lkmm:N with 2 to 60"):
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
