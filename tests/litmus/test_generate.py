"""Generated tests: deterministic, read back, with the verdicts of their cycles, and the same by brute force."""

from __future__ import annotations

import pytest

from seqfault.litmus.generate import EDGES, from_cycle, generate, generated
from seqfault.litmus.judge import judge
from seqfault.litmus.parse import parse
from seqfault.litmus.threads import Incomplete, Limits


def test_a_seed_gives_one_test():
    assert list(generated(20, 3)) == [generate(s) for s in range(3, 23)]
    assert len(set(generated(200))) > 190


@pytest.mark.parametrize(
    ("cycle", "observation"),
    [
        ("Rfe RmbdRR Fre WmbdWW", "Never"), ("Rfe PodRR Fre WmbdWW", "Sometimes"), ("Fre PodWR Fre PodWR", "Sometimes"),
        ("Fre MbdWR Fre MbdWR", "Never"), ("Rfe DpDatadW Rfe DpCtrldW", "Never"), ("Rfe PodRW Rfe DpCtrldW", "Sometimes"),
        ("Coe MbdWW Coe MbdWW", "Never"), ("Coe MbdWR Fre WmbdWW", "Sometimes"), ("Rfe PodRelRW Rfe AcqPodRR Fre", "Never"),
        ("Rfe MbdRR Fre Rfe MbdRR Fre", "Never"), ("Rfe SyncdRW Rfe RcudRW", "Never"),
        ("Rfe SyncdRW Rfe RcudRW Rfe RcudRW", "Sometimes"), ("Rfe SyncdRW Rfe SyncdRW Rfe RcudRW Rfe RcudRW", "Never"),
        ("Rfe DpAddrdR Fre PodRelWW", "Never"), ("Rfe DpCtrldR Fre PodRelWW", "Sometimes"),
    ],
)  # fmt: skip
def test_known_cycles(cycle, observation):
    assert judge(parse(from_cycle("t", cycle.split()), "t")).observation == observation


def test_cycles_that_are_none():
    with pytest.raises(ValueError, match="Foo is no edge"):
        from_cycle("t", ["Foo"])
    with pytest.raises(ValueError, match="do not fit"):
        from_cycle("t", ["Rfe", "Rfe"])
    with pytest.raises(ValueError, match="at least 4"):
        generate(1, 3)


def test_every_edge_is_generated():
    text = "\n".join(generated(400))
    assert all(e in text for e in EDGES)


def test_brute_force_says_the_same():
    done = 0
    for s in range(150):
        test = parse(generate(s, 4 + s % 2), f"gen{s}")
        try:
            slow = judge(test, Limits(candidates=2000), pruned=False)
        except Incomplete:
            continue
        fast = judge(test)
        assert (fast.states, fast.positive, fast.negative, fast.flags) == (slow.states, slow.positive, slow.negative, slow.flags)
        done += 1
    assert done > 100
