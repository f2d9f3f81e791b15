"""Mutants are tried one at a time: what comes next, and what one that fails costs."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run
from types import SimpleNamespace

import pytest

from seqfault.live.campaign import Options
from seqfault.live.mutants import draws
from seqfault.live.study import FOUND, LOST, SAME, STILLBORN, SURVIVES, Bench, Queue, Row, tree_program
from seqfault.mm.opcodes import OP_MMAP, OP_START

BENCH = Path(__file__).parents[2] / "bench" / "mutants.py"


def drawn(queue: Queue, results: dict[tuple[str, int], str]) -> list[tuple[str, int]]:
    """The order in which one worker is given changes, each of which ends as `results` say, or is found."""
    out = []
    while (task := queue.next()) is not None:
        out.append(task)
        queue.rows[task] = Row(*task, results.get(task, FOUND))
    return out


def test_as_many_of_each_kind_and_one_more_for_each_that_is_none():
    q = Queue(5, {})
    q.sizes = {"a": 9, "b": 9}
    given = drawn(q, {("a", 0): STILLBORN, ("a", 2): SAME, ("b", 1): SURVIVES, ("b", 0): LOST})
    assert sorted(given) == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 0), ("b", 1)]
    assert [r.number for r in q.counted("a")] == [1, 3, 4]
    assert [r.result for r in q.counted("b")] == [LOST, SURVIVES]


def test_what_is_known_is_not_tried_again():
    whole = Queue(6, {})
    whole.sizes = {"a": 9, "b": 9}
    all_of_it = drawn(whole, {("a", 1): STILLBORN})
    part = {k: whole.rows[k] for k in all_of_it[:3]}
    rest = Queue(6, part)
    rest.sizes = whole.sizes
    assert set(drawn(rest, {("a", 1): STILLBORN})) == set(all_of_it[3:])
    assert [rest.counted(k) for k in "ab"] == [whole.counted(k) for k in "ab"]


def test_two_workers_get_no_change_twice():
    q = Queue(4, {})
    q.sizes = {"a": 3, "b": 3}
    assert sorted(filter(None, (q.next() for _ in range(9)))) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_a_change_that_cannot_be_tried_is_lost_and_named():
    site = draws(Options(), 1)["operator"][0]
    bench = SimpleNamespace(sites={"operator": [site]}, o=Options(), known=[], kernel=SimpleNamespace(), unchanged=None)
    row = Bench.row(bench, "operator", 0)  # type: ignore[arg-type]
    assert row.result == LOST and "AttributeError" in row.by and row.function and row.before


def test_the_order_depends_on_the_seed_and_little_on_what_is_covered():
    one, other = (draws(Options(), s)["comparison"] for s in (1, 2))
    names = [s.make().name for s in one[:40]]
    assert names != [s.make().name for s in other[:40]]
    lines = {s.make().file: set(range(1000)) for s in one}
    fewer = [s.make().name for s in draws(Options(), 1, lines | {"mm/brk.py": set()})["comparison"][:40]]
    assert [n for n in names if not n.startswith("mm/brk.py")][:35] == fewer[:35]


def test_tree_programs_are_short():
    import random

    rows = tree_program(random.Random(3))
    assert rows.shape == (9, 8) and list(rows[:2, 0]) == [OP_START, OP_MMAP]


@pytest.mark.parametrize("args, says", [(["--resume"], "--json"), (["--resume", "--json", "F"], "another text")])
def test_bad_resumption(tmp_path, args, says):
    (tmp_path / "F").write_text('{"digest": "of something else"}\n')
    r = run([sys.executable, BENCH, *args], cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode != 0 and says in r.stderr
