"""Every rf and co, with nothing pruned, says what the pruned judge says."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from seqfault.litmus.candidates import combinations
from seqfault.litmus.judge import judge
from seqfault.litmus.parse import parse
from seqfault.litmus.reads import executions
from seqfault.litmus.threads import Incomplete, Limits

SHAPES = sorted((Path(__file__).parent / "shapes").glob("*.litmus"))


def same(test) -> bool:
    """False if brute force takes too long."""
    fast = judge(test)
    try:
        slow = judge(test, Limits(candidates=3000), pruned=False)
    except Incomplete:
        return False
    assert fast.states == slow.states
    assert (fast.positive, fast.negative, fast.flags, fast.races) == (slow.positive, slow.negative, slow.flags, slow.races)
    assert fast.candidates <= slow.candidates
    return True


def test_shapes():
    done = [p.stem for p in SHAPES if same(parse(p.read_text(), p.name))]
    assert len(done) > len(SHAPES) * 0.8


@pytest.mark.parametrize(
    "body",
    [
        "P0(int *x) { int r0 = READ_ONCE(*x); WRITE_ONCE(*x, r0 + 1); } P1(int *x) { int r0 = xchg(x, 5); int r1 = *x; }",
        "P0(atomic_t *v) { atomic_inc(v); int r0 = atomic_read(v); } P1(atomic_t *v) { int r0 = atomic_fetch_inc(v); }",
        "P0(int *x) { *x = 1; *x = 2; int r0 = *x; } P1(int *x) { int r0 = *x; *x = r0 + 3; }",
        "P0(spinlock_t *s) { int r0 = spin_trylock(s); if (r0) spin_unlock(s); int r1 = spin_is_locked(s); } "
        "P1(spinlock_t *s) { spin_lock(s); int r0 = spin_is_locked(s); spin_unlock(s); int r1 = spin_is_locked(s); }",
        "P0(int **p, int *x) { WRITE_ONCE(*p, x); int r0 = cmpxchg(x, 0, 1); } "
        "P1(int **p) { int *r1 = READ_ONCE(*p); *r1 = 2; } P2(int *x) { int r2 = READ_ONCE(*x); }",
    ],
)
def test_hand_made(body):
    init = "{ p=&y; }" if "**p" in body else "{}"
    atoms = "locations [0:r0; 0:r1; 1:r0; 1:r1; 2:r2]\n" if "P2" in body else "locations [0:r0; 0:r1; 1:r0; 1:r1]\n"
    assert same(parse(f"C t\n{init}\n{body}\n{atoms}exists (0:r0=1)", "t"))


def test_combinations_are_those_whose_reads_are_all_written():
    """The order in which threads are chosen loses none and gives none twice."""
    seen = 0
    for path in SHAPES:
        test = parse(path.read_text(), path.name)
        traces = executions(test, Limits())
        want = []
        for combination in product(*traces):
            written = {(a, v) for a, v in test.init.items()} | {(e.address, 0) for t in combination for e in t.events}
            written = {(a, v) for a, v in written if v == test.init.get(a, 0)}
            written |= {(e.address, e.value) for t in combination for e in t.events if e.kind == "W"}
            if all((e.address, e.value) in written for t in combination for e in t.events if e.kind == "R"):
                want.append(tuple(map(id, combination)))
        got = [tuple(map(id, c)) for c in combinations(traces, test.init, Limits())]
        assert sorted(got) == sorted(want), path
        seen += len(got)
    assert seen > 500
