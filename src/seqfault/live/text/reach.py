"""Which VMAs an operation can have changed: those that touch its range.

All others are taken from the observation before, until `all_vmas_every` rows later everything is looked at again.
"""

from __future__ import annotations

from seqfault.compile.raw import load64
from seqfault.kernel import ptr
from seqfault.live.abi import C_STACKS
from seqfault.live.text.state import ALL, NO_VMA, SOME, runner
from seqfault.mm.opcodes import (
    MREMAP_FIXED,
    OP_FTRUNCATE,
    OP_MADVISE,
    OP_MAP_COUNT,
    OP_MINCORE,
    OP_MLOCK,
    OP_MLOCK2,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MSEAL,
    OP_MUNLOCK,
    OP_MUNMAP,
    OP_PWRITE,
    OP_READ,
    OP_RLIMIT_AS,
    OP_WRITE,
    PAGE_SIZE,
    TASK_SIZE_BYTES,
)

FAR = 1 << 40  # bytes: a range longer than this is no range


def reach_of_move(row: int, result: int) -> tuple[int, int, int]:
    """Of mremap: from the lower of old and new place to the end of the higher."""
    old = load64(row + 16)
    new = load64(row + 48) if load64(row + 40) & MREMAP_FIXED else old
    if result >= 0:
        new = result
    size = max(load64(row + 24), load64(row + 32))
    if min(load64(row + 24), load64(row + 32)) < 0 or size > FAR:
        return ALL, 0, 0
    if min(old, new) < 0 or max(old, new) > TASK_SIZE_BYTES:
        return ALL, 0, 0
    return SOME, min(old, new) & -PAGE_SIZE, (max(old, new) + size + PAGE_SIZE - 1) & -PAGE_SIZE


def reach(row: int, result: int) -> tuple[int, int, int]:
    """NO_VMA, SOME or ALL, and the range."""
    op = load64(row)
    if load64(C_STACKS):
        return ALL, 0, 0  # a VMA that grows down is changed by a fault, and by PROT_GROWSDOWN elsewhere
    if op == OP_READ or op == OP_WRITE or op == OP_FTRUNCATE or op == OP_PWRITE or op == OP_MINCORE:
        return NO_VMA, 0, 0  # nothing of this takes mmap_lock for writing
    if op == OP_RLIMIT_AS or op == OP_MAP_COUNT:
        return NO_VMA, 0, 0
    start = load64(row + 16)
    size = load64(row + 24)
    some = op == OP_MUNMAP or op == OP_MPROTECT or op == OP_MADVISE or op == OP_MSEAL
    if op == OP_MMAP:
        some = True
        if result >= 0:
            start = result
    if op == OP_MREMAP:
        return reach_of_move(row, result)
    if op == OP_MLOCK or op == OP_MLOCK2 or op == OP_MUNLOCK:
        some = True
    if not some or size < 0 or size > FAR or start < 0 or start > TASK_SIZE_BYTES:
        return ALL, 0, 0
    low = start & -PAGE_SIZE
    return SOME, low, (start + size + PAGE_SIZE - 1) & -PAGE_SIZE


def ask_for(s: ptr[runner], what: int, low: int, high: int):
    """The next observation of this process looks at these VMAs at least."""
    if what == ALL or (what == SOME and s.ask != NO_VMA):
        s.ask = ALL
    elif what == SOME:
        s.ask = SOME
        s.ask_low = low
        s.ask_high = high
