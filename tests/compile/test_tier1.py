"""Generated programs run equal in plain Python, tier 0 and tier 1, wherever steps begin: the whole state after each
operation, and all that a step leaves.  More of them, in the mode that is used: test_generated.py, equal.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from equal import compare


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("mode", "dead"), [("merged", False), ("full", False), ("seq", True), ("seq", False)])
def test_steps_are_equal(seed: int, mode: str, dead: bool, tmp_path: Path):
    assert compare(tmp_path, 20_000 + seed, 25, 2, mode, dead)
