"""Generated steps (tier 1) explore what the interpreter (tier 0) explores: states, transitions, violations, outcomes, paths."""

from __future__ import annotations

import random

import pytest

from seqfault.compile import step_code, step_native
from seqfault.compile.program import compile_program
from seqfault.explore import engine, frontier, steps, tiers
from seqfault.explore.many import explore_batch
from seqfault.explore.model import automaton_for, program_for
from seqfault.explore.tables import OK
from seqfault.models import record, seq
from seqfault.protocols import load
from seqfault.scenarios import builtin, find
from seqfault.scenarios.model import initial_cells

SMALL = [s for s in builtin() if len(s.cpus) == 2]


def sample(seed: int, count: int):
    return random.Random(seed).sample(SMALL, count)


def begin(protocol, scenario):
    a = automaton_for(protocol, scenario)
    cells = initial_cells(program_for(protocol, scenario).layout(), protocol, scenario)
    running = [p.role != 0 or (p.cpu < len(scenario.cpus) and bool(scenario.cpus[p.cpu])) for p in a.processes]
    return a, a.pack(cells, running), a.rom(cells)


def equal(x, y) -> None:
    for f in ("states", "transitions", "finals", "depth", "outcomes"):
        assert getattr(x, f) == getattr(y, f), f
    assert (x.counters == y.counters).all()
    assert sorted(map(repr, x.violations)) == sorted(map(repr, y.violations))
    assert sorted(x.edges) == sorted(y.edges)
    assert (x.parent == y.parent).all() and (x.action == y.action).all()


@pytest.mark.parametrize("name", ["mmap-sem", "spf-seed", "spf-v5"])
@pytest.mark.parametrize("options", [{}, {"mode": "seq", "exclusive": True}, {"dead": False}], ids=["merged", "seq", "dead"])
def test_scenarios_are_explored_alike(name: str, options):
    for s in sample(11, 8):
        a, init, rom = begin(load(name), s)
        equal(engine.explore(a, init, rom, **options), tiers.explore(a, init, rom, **options))


@pytest.mark.parametrize("mode", ["full", "merged"])
@pytest.mark.parametrize(("module", "size"), [(seq, (1, 2, 1, 1)), (record, (1, 2, 2, 2))], ids=["seq", "record"])
def test_small_models_are_explored_alike(module, size, mode: str):
    p = module.program(*size)
    a = compile_program(p, mode)
    init, rom = a.pack(p.layout().start), a.rom(p.layout().start)
    equal(engine.explore(a, init, rom, mode=mode, dead=False), tiers.explore(a, init, rom, mode=mode, dead=False))


@pytest.mark.parametrize("options", [{"threads": 2}, {"threads": 2, "exact": True}, {"exact": True}, {"traced": False}], ids=str)
def test_counts_of_seq_are_exact(options):
    p = seq.program(1, 2, 2, 2)
    a = compile_program(p, "full")
    ex = tiers.explore(a, a.pack(p.layout().start), a.rom(p.layout().start), mode="full", dead=False, **options)
    assert ex.states == seq.STATES[1, 2, 2, 2]


@pytest.mark.parametrize("options", [{"threads": 2}, {"threads": 2, "exact": True}, {"traced": False}], ids=str)
def test_paths_are_found_again(options, monkeypatch):
    monkeypatch.setattr(frontier, "FEW", 64)  # threads share small frontiers too
    protocol = load("spf-seed")
    shown = 0
    for s in sample(4, 12):
        a, init, rom = begin(protocol, s)
        x, y = engine.explore(a, init, rom), tiers.explore(a, init, rom, **options)
        key = lambda v: (v.kind, v.pc, v.pool, v.cell)  # noqa: E731
        assert sorted((*key(v), v.count) for v in x.violations) == sorted((*key(v), v.count) for v in y.violations)
        assert set(x.outcomes) == set(y.outcomes)
        first = {key(v): v for v in x.violations}
        for v in y.violations:
            path = y.path_of(v)
            assert len(path) == len(x.path_of(first[key(v)]))
            e = engine.Executor(a, rom)
            words = e.start(init)
            kinds = []
            for p, choice in path:
                assert e.run(words, p, choice) == OK or (p, choice) == path[-1]
                kinds = [k[0] for k in e.violations()]
            if v.process < 0:
                e.rest(words)
                kinds = [k[0] for k in e.violations()]
            assert v.kind in kinds or a.kinds[v.kind] == "deadlock"
            shown += 1
    assert shown


@pytest.mark.parametrize("name", ["mmap-sem", "spf-seed", "spf-v5"])
def test_movers_change_no_verdict(name: str):
    """Nor outcomes, nor which counters are not zero, nor the order of locks; and paths with movers can be run."""
    less = 0
    for s in sample(23, 25):
        a, init, rom = begin(load(name), s)
        x = tiers.explore(a, init, rom, graph=True)
        y = tiers.explore(a, init, rom, movers=True, graph=True)
        assert {(v.kind, v.pool) for v in x.violations} == {(v.kind, v.pool) for v in y.violations}, s.name
        assert set(x.outcomes) == set(y.outcomes), s.name
        assert ((x.counters > 0) == (y.counters > 0)).all(), s.name
        assert {(i, j) for i, j, _ in x.edges} == {(i, j) for i, j, _ in y.edges}, s.name
        assert x.cyclic == y.cyclic
        less += y.states * 3 < x.states
        for v in y.violations[:3]:
            e = engine.Executor(a, rom)
            words = e.start(init)
            for p, choice in y.path_of(v):
                e.run(words, p, choice)
                kinds = [k[0] for k in e.violations()]
            if v.process < 0:
                e.rest(words)
                kinds = [k[0] for k in e.violations()]
            assert v.kind in kinds
    assert less > 15  # it is a reduction


def test_a_small_memory_limit_is_incomplete():
    p = seq.program(1, 2, 2, 2)
    a = compile_program(p, "full")
    ex = tiers.explore(
        a, a.pack(p.layout().start), a.rom(p.layout().start), mode="full", dead=False, max_memory=8 << 20
    )
    assert not ex.complete and "memory limit" in ex.reason


def test_parents_make_room_before_a_memory_limit_counts():
    a, init, rom = begin(load("spf-seed"), find(["two-faults/case8"])[0])
    x = tiers.explore(a, init, rom)
    without = tiers.explore(a, init, rom, traced=False).bytes
    y = tiers.explore(a, init, rom, max_memory=(without + x.bytes) // 2)
    assert len(x.parent) == x.states and len(y.parent) <= 1
    assert y.complete and y.states == x.states
    assert [len(y.path_of(v)) for v in y.violations] == [len(x.path_of(v)) for v in x.violations]


def test_code_that_is_much_used_is_compiled_well(tmp_path, monkeypatch):
    """By whichever process comes to `WORTH_S` seconds, and all have it from then on."""
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path))
    monkeypatch.setattr(step_code, "SMALL", 0)
    p = seq.program(1, 2, 2, 2)
    a = compile_program(p, "full")
    init, rom = a.pack(p.layout().start), a.rom(p.layout().start)
    code = steps.Steps(a, "full", False)
    other = steps.Steps(a, "full", False)
    monkeypatch.setitem(steps._made, (id(a), "full", False, False), code)
    before = code.addresses.tolist()
    assert not code.best and not code.explored(0.5 * step_native.WORTH_S)
    assert not other.explored(0.4 * step_native.WORTH_S)
    x = tiers.explore(a, init, rom, mode="full", dead=False)
    assert x.states == seq.STATES[1, 2, 2, 2] and code.addresses.tolist() == before
    assert code.explored(0.2 * step_native.WORTH_S) and code.best and code.addresses.tolist() != before
    assert other.explored(2.0) and other.best  # somebody has compiled it
    assert not code.explored(1000.0)
    equal(x, tiers.explore(a, init, rom, mode="full", dead=False))
    assert steps.Steps(a, "full", False).best


def test_without_a_cache(tmp_path, monkeypatch):
    """Code is made in memory where nothing can be written."""
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    monkeypatch.setenv("SEQFAULT_CACHE", str(nowhere))
    p = seq.program(1, 1, 1, 1)
    a = compile_program(p, "full")
    ex = tiers.explore(a, a.pack(p.layout().start), a.rom(p.layout().start), mode="full", dead=False)
    assert ex.states == 409


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_is_its_scenarios(threads: int):
    protocol = load("spf-seed")
    begun = [begin(protocol, s) for s in sample(31, 40)]
    a = begun[0][0]
    got = explore_batch(a, [(init, rom) for _, init, rom in begun], threads=threads)
    for (_, init, rom), y in zip(begun, got, strict=True):
        x = tiers.explore(a, init, rom)
        for f in ("states", "transitions", "finals", "depth", "outcomes"):
            assert getattr(x, f) == getattr(y, f), f
        assert (x.counters == y.counters).all()
        assert sorted(map(repr, x.violations)) == sorted(map(repr, y.violations))
        assert sorted(x.edges) == sorted(y.edges)
