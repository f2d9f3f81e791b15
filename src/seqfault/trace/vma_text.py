"""What `vmas` asks of the mm text: how many VMAs there are, which have been written, why neighbours stay apart.

Kernel Python, beside mm/exec.py.
"""

from __future__ import annotations

from seqfault.kernel import emit, pool_object
from seqfault.mm.anon_vma import anon_vma_prepare
from seqfault.mm.exec import who_t
from seqfault.mm.types import mm_struct, vm_count_t, vpn_t
from seqfault.mm.uapi import uapi_process
from seqfault.mm.vma import find_vma
from seqfault.space.text import boundary


def vma_count(who: who_t) -> vm_count_t:
    return pool_object(mm_struct, who).map_count


def vma_touched(who: who_t, addr: vpn_t):
    """A write fault in anonymous memory at `addr`, as far as VMAs depend on it; emits the VMA's bounds, or nothing."""
    uapi_process(who)
    vma = find_vma(pool_object(mm_struct, who), addr)
    if vma and vma.vm_start <= addr:
        if not vma.anon_vma:
            anon_vma_prepare(vma)
        emit(vma.vm_start)
        emit(vma.vm_end)


def vma_boundary(who: who_t, page: vpn_t):
    """Emits the word of space/text.py about the boundary before `page`."""
    emit(boundary(pool_object(mm_struct, who), page))
