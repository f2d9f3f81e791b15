"""What an exploration held is free when it is: rings would keep gigabytes until Python looks for them."""

from __future__ import annotations

import gc
import weakref

import pytest

from seqfault.explore.check import Limits, run_one
from seqfault.protocols import load
from seqfault.scenarios import find


@pytest.mark.parametrize("memory", ["sc", "tso", "lkmm"])
def test_an_exploration_is_in_no_ring(memory):
    scenario = find(["argued/case1-alone"])[0]
    gc.collect()
    gc.disable()
    try:
        _, ex, violations = run_one(load("spf-v5"), scenario, Limits(), None, memory)
        assert violations
        gone = weakref.ref(ex)
        del ex, violations
        assert gone() is None
    finally:
        gc.enable()
