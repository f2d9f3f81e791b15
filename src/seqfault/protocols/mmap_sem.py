"""mmap-sem: every fault takes mmap_sem for reading.  Linux 4.12 as released, the yardstick of all others.

Binds no place.
"""

from __future__ import annotations

from seqfault.kernel import Protocol

PROTOCOL = Protocol("mmap-sem", "every fault under mmap_sem (Linux 4.12)")
