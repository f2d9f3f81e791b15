"""In place of what only the checker looks at: no CPU does it, so it costs nothing.  Kernel Python."""

from __future__ import annotations

from seqfault.kernel import ptr
from seqfault.mm.types import mm_struct, page, vpn_t


def no_validate_mm(mm: ptr[mm_struct]):
    """CONFIG_DEBUG_VM_RB is off."""


def no_free_page_check(p: ptr[page]):
    """No oracle."""


def no_flush_check(start: vpn_t, end: vpn_t):
    """No oracle."""
