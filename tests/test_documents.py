"""Documents agree with the code."""

from __future__ import annotations

from pathlib import Path

from seqfault.explore.model import automaton_for
from seqfault.protocols import builtin_names, load
from seqfault.scenarios import find

DOCS = Path(__file__).parents[1] / "docs"


def test_every_kind_of_violation_is_listed():
    listed = (DOCS / "violations.md").read_text()
    kinds = {"new-outcome", "lock-order-inversion"}
    for name in builtin_names():
        kinds |= set(automaton_for(load(name), find(["argued/case1-alone"])[0]).kinds)
    assert {k for k in kinds if f"`{k}`" not in listed} == set()


def test_every_protocol_is_in_the_readme():
    readme = (DOCS.parent / "README.md").read_text()
    assert all(f"`{n}`" in readme for n in builtin_names())
