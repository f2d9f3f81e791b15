"""What stands in for functions of the text under virtual time: waiting, and memory's cost."""

from __future__ import annotations

from seqfault.compile.source import Func
from seqfault.price import driver, locks, mapping, memory, rwlocks

TEXTS: dict[Func, Func] = {**locks.INSTEAD, **rwlocks.INSTEAD, **memory.INSTEAD, **mapping.INSTEAD, **driver.INSTEAD}
