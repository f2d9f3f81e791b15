"""Random concurrent programs explored by the interpreter and by generated steps: everything is equal.

More programs: SEQFAULT_TIER1_PROGRAMS=10000.
"""

from __future__ import annotations

import os

import pytest
from programs import program, show, texts

from seqfault.explore import engine, frontier, many, tiers
from seqfault.explore.engine import Exploration, Found
from seqfault.explore.tables import DISABLED

PROGRAMS = int(os.environ.get("SEQFAULT_TIER1_PROGRAMS", "250"))
MANY = 20_000  # states; larger programs are left out
ENDLESS = {texts().automaton.kinds.index(x) for x in ("endless-step", "too-many-choices")}
MODES = [
    {"mode": "merged"}, {"mode": "merged", "dead": False}, {"mode": "seq"}, {"mode": "seq", "exclusive": True},
    {"mode": "seq", "exclusive": True, "dead": False}, {"mode": "full", "dead": False}, {"mode": "full", "exclusive": True},
]  # fmt: skip


def place(v: Found) -> tuple[int, ...]:
    """What makes violations the same."""
    return v.kind, v.pc, v.pool, v.cell


def endless(x: Exploration) -> bool:
    """A step without end is given up by tier 0 after so many instructions, by tier 1 after so many rounds of a loop: that
    it has none is all that is equal."""
    return any(v.kind in ENDLESS for v in x.violations)


def sets(x: Exploration, y: Exploration) -> None:
    """What does not depend on the order in which states are found."""
    for f in ("states", "transitions", "finals", "depth", "complete"):
        assert getattr(x, f) == getattr(y, f), f
    assert set(x.outcomes) == set(y.outcomes)
    assert (x.counters == y.counters).all()
    assert {(*place(v), v.count) for v in x.violations} == {(*place(v), v.count) for v in y.violations}
    assert {e[:2] for e in x.edges} == {e[:2] for e in y.edges}


def everything(x: Exploration, y: Exploration) -> None:
    """The order as well: first states of violations and outcomes, parents, actions."""
    sets(x, y)
    assert x.outcomes == y.outcomes
    rows = [{(*place(v), v.index, v.state, v.process, v.choice, v.count) for v in e.violations} for e in (x, y)]
    assert rows[0] == rows[1]
    assert sorted(x.edges) == sorted(y.edges)
    assert (x.parent == y.parent).all() and (x.action == y.action).all()


def runs(a, init, rom, x: Exploration, y: Exploration, **options) -> int:
    """Each violation of `y` by its path, which is as long as the one of `x`, run by the interpreter; how many."""
    first = {(v.kind, v.pc, v.pool, v.cell): v for v in x.violations}
    for v in y.violations:
        path = y.path_of(v)
        assert len(path) == len(x.path_of(first[v.kind, v.pc, v.pool, v.cell]))
        e = engine.Executor(a, rom, **options)
        words = e.start(init)
        met: list[tuple[int, int, int, int]] = []
        for n, (p, choice) in enumerate(path):
            status = e.run(words, p, choice)
            assert status != DISABLED or n == len(path) - 1  # who takes a lock twice waits for ever
            met = e.violations()
        if a.kinds[v.kind] == "deadlock":
            for p, info in enumerate(a.processes):
                assert info.role > 1 or e.pc(words, p) == a.halt_pc or e.run(words.copy(), p) == DISABLED
            continue
        if v.process < 0:
            e.rest(words)
            met = e.violations()
        assert (v.kind, v.pc if v.cell < 0 else -2 - v.cell, v.pool) in {m[:3] for m in met}
    return len(y.violations)


@pytest.mark.parametrize("options", MODES, ids=lambda o: "-".join(f"{v}" for v in o.values()))
def test_everything_is_equal(options):
    compared = 0
    for role in (0, 1, 2):
        t = texts(role, "full" if options["mode"] == "full" else "merged")
        a = t.automaton
        for seed in range(role, PROGRAMS, 3):
            p = program(50_000 + seed)
            init, rom = t.start(p)
            x = engine.explore(a, init, rom, max_states=MANY, **options)
            if not x.complete:
                continue
            y = tiers.explore(a, init, rom, **options)
            assert endless(x) == endless(y)
            if endless(x):
                continue
            try:
                everything(x, y)
            except AssertionError as e:
                raise AssertionError(f"program {seed}, role {role}\n{show(p)}") from e
            compared += 1
    assert compared > PROGRAMS * 0.3


SHAPES = [{"threads": 2}, {"exact": True}, {"threads": 2, "exact": True}, {"traced": False}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_other_shapes_find_the_same(shape, monkeypatch):
    monkeypatch.setattr(frontier, "FEW", 2)  # threads share small frontiers too
    t = texts(0)
    a = t.automaton
    shown = compared = 0
    for seed in range(PROGRAMS):
        p = program(60_000 + seed)
        init, rom = t.start(p)
        x = engine.explore(a, init, rom, max_states=MANY)
        if not x.complete:
            continue
        y = tiers.explore(a, init, rom, **shape)
        try:
            sets(x, y)
            if seed % 4 == 0:
                shown += runs(a, init, rom, x, y)
        except AssertionError as e:
            raise AssertionError(f"program {seed}\n{show(p)}") from e
        compared += 1
    assert shown > PROGRAMS / 40 and compared > PROGRAMS * 0.8


def test_parents_that_are_thrown_away(monkeypatch):
    """Paths are found again, where an exploration had kept parents only up to some number of states."""
    monkeypatch.setattr(frontier, "TRACED", 64)
    t = texts(0)
    a = t.automaton
    shown = 0
    for seed in range(400):
        p = program(70_000 + seed)
        init, rom = t.start(p)
        x = engine.explore(a, init, rom, max_states=100_000)
        if x.complete and x.states > 500 and x.violations:
            shown += runs(a, init, rom, x, tiers.explore(a, init, rom))
    assert shown


@pytest.mark.parametrize("slots", [1 << 15, 1 << 18], ids=["too-small", "large"])
@pytest.mark.parametrize("options", [{}, {"mode": "seq", "exclusive": True}, {"dead": False}], ids=str)
def test_batches_are_their_programs(options, slots: int, monkeypatch):
    """What there is not room enough for is explored by itself."""
    monkeypatch.setattr(many, "SLOTS", slots)
    t = texts(0)
    a = t.automaton
    programs = [program(80_000 + seed) for seed in range(PROGRAMS)]
    starts = [t.start(p) for p in programs]
    for y, (init, rom) in zip(many.explore_batch(a, starts, threads=2, **options), starts, strict=True):
        x = tiers.explore(a, init, rom, **options)
        sets(x, y)
        assert x.outcomes == y.outcomes
        assert set(x.violations) == set(y.violations)
