"""Machine code that notes the lines it comes to."""

from __future__ import annotations

from pathlib import Path

from seqfault.compile.covered import CoveredProgram, reached_lines
from seqfault.kernel import *

number = integer(0, 1000)


@struct(pool=1, private=True)
class cworld:
    sum: number


def leaf(x: number) -> number:
    if x > 5:
        return 5
    return x


def loop(n: number) -> number:
    w = the(cworld)
    for i in range(n):
        w.sum += leaf(i)
    if w.sum == 0:
        return 1
    return 0


TEXT = Path(__file__).read_text().splitlines()


def line(text: str) -> int:
    return next(i for i, t in enumerate(TEXT, 1) if t.strip() == text)


def test_lines_are_noted_when_they_are_reached() -> None:
    m = CoveredProgram({"loop": loop}).machine()

    def reached() -> set[int]:
        return set().union(*reached_lines(m).values())

    assert not reached()
    assert m.call("loop", 0) == 1
    assert line("return 1") in reached() and line("w.sum += leaf(i)") not in reached()
    assert m.call("loop", 4) == 0
    assert {line("w.sum += leaf(i)"), line("return x"), line("return 0")} <= reached()
    assert line("return 5") not in reached()
    m.call("loop", 8)
    assert line("return 5") in reached()


def test_what_is_noted_changes_no_result() -> None:
    from seqfault.compile.native import NativeProgram

    a, b = NativeProgram({"loop": loop}).machine(), CoveredProgram({"loop": loop}).machine()
    assert a.program.key() not in (b.program.key(), "")
    for n in (0, 3, 9):
        assert a.call("loop", n) == b.call("loop", n) and list(a.cells) == list(b.cells)
    assert all(not k.startswith("line ") for k in a.counters)
