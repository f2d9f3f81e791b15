"""Whether an allocation fails: a scenario says how often it may.  Stands for mm/slab.c without memory."""

from __future__ import annotations

from seqfault.kernel import atomic, choose, the
from seqfault.mm.types import faults_left


def mm_alloc_fails() -> bool:
    """Asked before each allocation that may return NULL.  One step: the choice is the checker's."""
    left = the(faults_left)
    with atomic():
        if left.n > 0 and choose(2) == 1:
            left.n -= 1
            return True
        return False
