"""What each process of the runner keeps for itself."""

from __future__ import annotations

from seqfault.kernel import array, ptr, struct
from seqfault.live.abi import MAX_SPANS, SCRATCH, SCRATCH_0

NO_VMA, SOME, ALL = 0, 1, 2


@struct(pool=1)
class runner:
    who: int  # 0 or 1; the master is 0 as well
    guest: int  # whether there is nobody but us
    query: int  # whether PROCMAP_QUERY is used
    frames: int  # whether pagemap shows frames
    content: int
    heap: int
    zero_pfn: int
    nr_pages: int
    nr_spans: int
    span_start: array[int, MAX_SPANS]
    span_end: array[int, MAX_SPANS]
    detail_every: int
    inode: array[int, 4]  # of the memfds, the file on disk, the fence
    device: array[int, 4]
    child: int  # process 1, or 0
    seq: int
    smaps: int  # whether this process has /proc/self/smaps and status open
    totals: array[int, 6]  # what status said when the program began
    count_ticks: int
    ticked: int
    cpu: int
    all_vmas_every: int
    crowded: int  # whether MAP_COUNT made VMAs scarce: no details then, smaps would be megabytes
    ask: int  # which VMAs have to be looked at anew: NO_VMA, SOME, ALL
    ask_low: int  # SOME: those that touch [ask_low, ask_high]
    ask_high: int
    kept_words: int  # of the VMAs that are known, in the buffer B_VMAS


def scratch(s: ptr[runner]) -> int:
    """The buffers of the process that asks."""
    return SCRATCH_0 + s.who * SCRATCH
