"""The orders of accesses (compile/ops.py, `Ordering`) as numbers for compiled code."""

from __future__ import annotations

from seqfault.compile.ops import Ordering
from seqfault.explore.jit import jit

ACQUIRE, RELEASE = int(Ordering.ACQUIRE), int(Ordering.RELEASE)
RELAXED, FULL_RMW, ATOMIC = int(Ordering.RMW), int(Ordering.RMW_FULL), int(Ordering.ATOMIC)
RMW_ACQUIRE, RMW_RELEASE = int(Ordering.RMW_ACQUIRE), int(Ordering.RMW_RELEASE)


@jit
def is_rmw(order):  # type: ignore[no-untyped-def]
    return order in (RELAXED, FULL_RMW, RMW_ACQUIRE, RMW_RELEASE)
