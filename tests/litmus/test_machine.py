"""The machine reaches the final states that the axioms allow, no more and no less; what it refuses is named."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from mixed import MODES, mixed
from test_kernel import texts

from seqfault.litmus.generate import generate
from seqfault.litmus.judge import judge
from seqfault.litmus.machine import final_states
from seqfault.litmus.parse import parse
from seqfault.litmus.paths import Refused
from seqfault.litmus.threads import Incomplete, Limits

SHAPES = Path(__file__).parent / "shapes"
PROGRAMS = int(os.environ.get("SEQFAULT_LITMUS_PROGRAMS", "50"))


def both(text: str, file: str) -> str:
    """"equal", or why not both have run; a difference fails."""
    test = parse(text, file)
    try:
        verdict = judge(test, Limits(candidates=300_000))
        states = final_states(test, Limits(candidates=60_000))
    except Refused as e:
        return str(e)
    except Incomplete:
        return "incomplete"
    allowed = set(verdict.states)
    places = [str(p) for p in verdict.places]
    assert states == allowed, f"{text}\n{places}\nmore: {states - allowed}\nless: {allowed - states}"
    return "equal"


def test_shapes():
    ran = Counter(both(f.read_text(), f.name) for f in sorted(SHAPES.glob("*.litmus")))
    refused = {k for k in ran if k != "equal"}
    assert refused == {"plain accesses", "smp_mb__after_unlock_lock"}
    assert ran["equal"] >= 120 and ran["plain accesses"] <= 14


def test_the_kernels_files():
    files = texts()
    if not files:
        pytest.skip("no litmus tests of Linux 6.1: set SEQFAULT_LITMUS_TESTS, or unpack Debian's linux-source-6.1")
    assert Counter(both(text, name) for name, text in files.items()) == {"equal": 34}


def test_cycles_of_relations():
    """At least four of five are run by both."""
    ran = Counter(both(generate(seed, 4 + seed % 3), f"cycle {seed}") for seed in range(2 * PROGRAMS))
    assert ran["equal"] >= 0.8 * 2 * PROGRAMS, ran


@pytest.mark.parametrize("mode", MODES)
def test_mixed_words(mode: str):
    ran = Counter(both(mixed(seed, mode), f"{mode} {seed}") for seed in range(PROGRAMS))
    assert ran["equal"] >= 0.8 * PROGRAMS, ran


LB = """C LB
{}
P0(int *x, int *y) { int r0; r0 = READ_ONCE(*x); WRITE_ONCE(*y, 1); }
P1(int *x, int *y) { int r0; r0 = READ_ONCE(*y); WRITE_ONCE(*x, 1); }
exists (0:r0=1 /\\ 1:r0=1)
"""


def test_stores_pass_loads():
    """Load buffering, which a machine that keeps program order cannot show."""
    assert (1, 1) in final_states(parse(LB, "LB"))
    ordered = LB.replace("r0 = READ_ONCE(*y);", "r0 = smp_load_acquire(y);").replace("(*y, 1);", "(*y, r0 ^ r0 | 1);")
    assert (1, 1) not in final_states(parse(ordered, "LB"))


def test_a_wrong_machine_is_seen(monkeypatch: pytest.MonkeyPatch):
    """Without what fences carry, or without what reads know, some shape differs."""
    from seqfault.litmus.machine import Machine

    monkeypatch.setattr(Machine, "_before", lambda self, s, t, i: self.zero)
    with pytest.raises(AssertionError):
        test_shapes()


def test_limits():
    with pytest.raises(Incomplete):
        final_states(parse(LB, "LB"), Limits(candidates=3))


@pytest.mark.parametrize(
    "line,says",
    [
        ("*x = 1;", "plain accesses"),
        ("smp_mb__after_unlock_lock();", "smp_mb__after_unlock_lock"),
        ("smp_mb__before_atomic(); WRITE_ONCE(*y, 1); atomic_inc(x);", "before_atomic"),
        ("atomic_inc(x); WRITE_ONCE(*y, 1); smp_mb__after_atomic();", "after_atomic"),
    ],
)
def test_refused_by_name(line: str, says: str):
    text = f"C t\n{{}}\nP0(int *x, int *y) {{ {line} }}\nexists (x=1)\n"
    with pytest.raises(Refused, match=says):
        final_states(parse(text, "t"))
