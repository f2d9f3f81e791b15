"""What later releases of the kernel's memory model say otherwise, and that they say the same of everything else."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from mixed import mixed
from test_kernel import texts

from seqfault.litmus.judge import as_expected, judge
from seqfault.litmus.machine import final_states
from seqfault.litmus.models import V6_1, V6_12
from seqfault.litmus.parse import parse
from seqfault.litmus.paths import Refused
from seqfault.litmus.threads import Incomplete, Limits
from seqfault.litmus.tree import LitmusError

HERE = Path(__file__).parent
LATER = sorted((HERE / "shapes-6.12").glob("*.litmus"))
SHAPES = sorted((HERE / "shapes").glob("*.litmus"))


def flags(text: str, word: str) -> set[str]:
    m = re.search(rf"{word}: (.*)", text)
    return set(m[1].split()) if m else set()


@pytest.mark.parametrize("path", LATER, ids=lambda p: p.stem)
def test_shape(path):
    text = path.read_text()
    test = parse(text, str(path), V6_12)
    verdict = judge(test)
    assert test.name == path.stem
    assert as_expected(test, verdict) is True, f"{verdict.observation}, not {test.result}"
    assert verdict.flags == flags(text, "Flags")
    slow = judge(test, Limits(candidates=300_000), pruned=False)
    assert (slow.states, slow.flags) == (verdict.states, verdict.flags)
    before = re.search(r"Linux-6.1: (\w+)", text)[1]
    if before == "refused":
        with pytest.raises(LitmusError, match="srcu_down_read.* --linux 6.12"):
            parse(text, str(path))
    else:
        verdict = judge(parse(text, str(path), V6_1))
        assert (verdict.observation, verdict.flags) == (before, flags(text, "Flags-6.1"))


RENAMED = {
    "unbalanced-rcu-locking": {"unmatched-rcu-lock", "unmatched-rcu-unlock"},
    "unbalanced-srcu-locking": {"unmatched-srcu-lock", "unmatched-srcu-unlock"},
    "srcu-bad-nesting": {"unmatched-srcu-lock", "unmatched-srcu-unlock", "srcu-bad-value-match"},
}


def same(text: str, name: str) -> None:
    """By both models the same states, and flags of the same kind."""
    old, new = judge(parse(text, name)), judge(parse(text, name, V6_12))
    assert old.states == new.states, name
    may = set().union(*(RENAMED.get(f, {f}) for f in old.flags))
    assert new.flags <= may and bool(new.flags) == bool(old.flags), (name, old.flags, new.flags)


DIFFER = {"LB+plain-rfi-ctrl", "MP+release-sequence"}  # as they say themselves


def test_other_shapes_are_the_same():
    assert {p.stem for p in SHAPES} >= DIFFER
    for path in SHAPES:
        if path.stem in DIFFER:
            assert [judge(parse(path.read_text(), path.name, m)).observation for m in (V6_1, V6_12)] == ["Sometimes", "Never"]
        else:
            same(path.read_text(), path.name)


def test_the_kernels_files_are_the_same():
    files = texts()
    if not files:
        pytest.skip("no litmus tests of Linux 6.1: set SEQFAULT_LITMUS_TESTS, or unpack Debian's linux-source-6.1")
    for name, text in files.items():
        same(text, name)


@pytest.mark.parametrize("mode", ["atomic", "lock"])
def test_machine(mode):
    """The machine of the later model reaches what its axioms allow, on random programs."""
    ran: Counter[str] = Counter()
    for seed in range(60):
        test = parse(mixed(seed, mode), f"{mode} {seed}", V6_12)
        try:
            allowed, states = set(judge(test, Limits(300_000)).states), final_states(test, Limits(60_000))
        except (Refused, Incomplete) as e:
            ran[type(e).__name__] += 1
            continue
        assert states == allowed, test.source
        ran["equal"] += 1
    assert ran["equal"] >= 45, ran


def test_machine_of_shapes():
    for path in [p for p in LATER if "rel+" in p.stem]:
        test = parse(path.read_text(), path.name, V6_12)
        assert final_states(test) == set(judge(test).states)
    with pytest.raises(Refused, match="by their index"):
        final_states(parse((HERE / "shapes/SRCU-MP.litmus").read_text(), "t", V6_12))
