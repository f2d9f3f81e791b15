"""Whose memory model: tools/memory-model of one release of Linux differs from that of another.

Sources: linux-kernel.bell, linux-kernel.cat and linux-kernel.def of Linux 6.1 (Debian's linux-source-6.1), and as they
are since Linux 6.4, up to and with the files that want herd7's variant `lkmmv2` (which tag a full atomic operation
instead of putting it between two fences; no execution differs by that).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """What one has and another has not.

    Attributes:
        name: the release of Linux.
        carried: a dependency goes on through stores of the thread that it reads again (``carry-dep``).
        sequences: what is before a store is before the read-modify-writes that follow on it (``rmw-sequence``), and
            ``smp_mb__after_unlock_lock`` is for a section and the next.
        indexed: srcu_read_lock() is a load and srcu_read_unlock() a store; they belong together by the index that the
            one returns and the other is given, also through memory, and not by how they are nested.
    """

    name: str
    carried: bool = False
    sequences: bool = False
    indexed: bool = False


V6_1 = Model("6.1")
V6_12 = Model("6.12", carried=True, sequences=True, indexed=True)
MODELS = {m.name: m for m in (V6_1, V6_12)}
