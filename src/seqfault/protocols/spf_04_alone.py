"""spf-04-alone: spf-seed without patches 06 and 09 of RFC v5.

Only __vma_adjust and unmap_page_range move the count (04), and the page-table lock is taken by spinning with
interrupts off, as 08 has it before 09.

Places: those of spf-seed without mmap_region/flags.begin, /flags.end and mprotect_fixup/begin, /end;
pte_map_lock and pte_spinlock are 08's.
"""

from __future__ import annotations

from seqfault.protocols import spf_seed
from seqfault.protocols.spf_common import PLACES_06, PLACES_08_09, bind_08

PROTOCOL = spf_seed.PROTOCOL.derive(
    "spf-04-alone",
    "spf-seed without 06 (other writers) and 09 (trylock)",
    doc=__doc__ or "",
    without=(*PLACES_06, *PLACES_08_09),
)
bind_08(PROTOCOL)
