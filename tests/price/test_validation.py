"""What docs/validation.md says of published measurements, where it is cheap to hold."""

from __future__ import annotations

import pytest

from seqfault.price import machines, workloads
from seqfault.price.curves import measure
from seqfault.protocols import load

SMALL = machines.read("x86-small")


@pytest.mark.parametrize("protocol", ["spf-v12", "vm-refcnt"])
def test_the_null_control(protocol):
    (w,) = workloads.read("compute")
    base, p = load(f"mmap-sem-{load(protocol).release}"), load(protocol)
    one, other = (measure(w, x, 8, SMALL, ms=60).rate for x in (base, p))
    assert other == pytest.approx(one, rel=0.01)


def test_ebizzy_gains_and_falls_back_because_vmas_changed():
    (w,) = workloads.read("ebizzy")
    base = measure(w, load("mmap-sem-5.1"), 24, machines.read("x86-24"), ms=30)
    spf = measure(w, load("spf-v12"), 24, machines.read("x86-24"), ms=30)
    assert 1.28 < spf.rate / base.rate < 2.14  # published 1.71
    assert spf.share == pytest.approx(0.919, abs=0.03)
    assert next(iter(spf.reasons)) == "vma_changed"
