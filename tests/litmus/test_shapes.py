"""The project's own litmus files.  Each says its result and its flags.

Verdicts: the ASPLOS 2018 paper, and explanation.txt, recipes.txt, control-dependencies.txt of
tools/memory-model/Documentation.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seqfault.litmus.judge import as_expected, judge
from seqfault.litmus.parse import parse

SHAPES = sorted((Path(__file__).parent / "shapes").glob("*.litmus"))


@pytest.mark.parametrize("path", SHAPES, ids=lambda p: p.stem)
def test_shape(path):
    text = path.read_text()
    test = parse(text, str(path))
    verdict = judge(test)
    assert test.name == path.stem
    assert as_expected(test, verdict) is True, f"{verdict.observation}, not {test.result}"
    flags = re.search(r"Flags: (.*)", text)
    assert verdict.flags == set(flags[1].split() if flags else ())


def test_families_are_there():
    names = {p.stem.split("+")[0] for p in SHAPES}
    assert names >= {"SB", "MP", "LB", "IRIW", "WRC", "ISA2", "R", "S", "2", "Z6.0", "RWC", "RCU-MP", "SRCU-MP", "CoRR"}
    assert len(SHAPES) > 130
