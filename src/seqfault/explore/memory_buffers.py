"""TSO and PSO: each CPU has a buffer of stores, which reach memory later.  TSO: in their order.  PSO: those of one
address in order, others in any order.

x86-TSO is that of Sewell, Sarkar, Owens, Zappa Nardelli and Myreen (CACM 53(7), 2010), with the kernel's barriers as
arch/x86/include/asm/barrier.h makes them; PSO is SPARC V9's (The SPARC Architecture Manual, version 9, chapter 8 and
appendix D), with the kernel's barriers for its STBAR and MEMBAR.  docs/memory-models.md has the rules.

A buffer is part of the state: a header word (how many stores; two flags), then an entry for each store, the
eldest epoch first and by address within one.  A barrier raises the epoch of the stores after it; only stores of
the eldest epoch may leave.  Barriers that separate nothing are not kept, so two states that behave alike are one.
Under TSO each store has an epoch of its own.
"""

from __future__ import annotations

import numpy as np

from seqfault.compile.automaton import Automaton, ProcessInfo
from seqfault.compile.ir import Where
from seqfault.compile.ops import BRANCHES, ROW, Op, Ordering
from seqfault.explore.jit import jit
from seqfault.explore.layers import units_of, widened
from seqfault.explore.memory_sc import load as sc_load
from seqfault.explore.memory_sc import store as sc_store
from seqfault.explore.orders import RELAXED, RMW_ACQUIRE, is_rmw
from seqfault.explore.tables import FULL, M_PROCESSES, O_MEMORY, O_PROCS, PROCESS_ROW, WAIT

MOST = 63  # stores in a buffer
DONE = 0
# the header of a buffer, above the bits that say where its process stands
COUNT_AT = 40
WMB = 1 << 60  # a barrier stands after the last entry
MB = 1 << 61  # the CPU does nothing more before its buffer is empty
# P[O_MEMORY:]: what is fixed, then the word of the buffer of each process (-1: it has none), then for each
# cell the cell that tells whether its object lives (-1: always), the struct and the object
U_CAPACITY, U_STRIDE, U_ADDR_BITS, U_TAG_BITS, U_FLUSH_PC, U_FIFO, U_BUFFERS = range(7)
EPOCH_BITS = 6
FULL_BARRIERS = (1, 5)  # Op.FENCE: smp_mb, smp_mb__after_spinlock
WMB_FENCE = 3


@jit
def buffer_of(P, p):  # type: ignore[no-untyped-def]
    return P[P[O_MEMORY] + U_BUFFERS + p]


@jit
def count(B, m):  # type: ignore[no-untyped-def]
    return (B[m] >> COUNT_AT) & MOST


@jit
def address(B, P, m, i):  # type: ignore[no-untyped-def]
    u = P[O_MEMORY]
    return B[m + 1 + i * P[u + U_STRIDE]] & ((np.int64(1) << P[u + U_ADDR_BITS]) - 1)


@jit
def epoch(B, P, m, i):  # type: ignore[no-untyped-def]
    u = P[O_MEMORY]
    return (B[m + 1 + i * P[u + U_STRIDE]] >> P[u + U_ADDR_BITS]) & MOST


@jit
def value(B, P, m, i):  # type: ignore[no-untyped-def]
    u = P[O_MEMORY]
    w = m + 1 + i * P[u + U_STRIDE]
    if P[u + U_STRIDE] == 2:
        return B[w + 1]
    return B[w] >> P[u + U_TAG_BITS]


@jit
def blocked(B, P, p, pc):  # type: ignore[no-untyped-def]
    """Whether process `p` has to wait for its buffer before it does anything."""
    m = buffer_of(P, p)
    return m >= 0 and B[m] & MB != 0 and pc != P[P[O_MEMORY] + U_FLUSH_PC]


@jit
def may_load(B, P, addr, order, p):  # type: ignore[no-untyped-def]
    """A read-modify-write looks at memory itself, and so waits for an own store of that address; under TSO, where it is
    locked, for the whole buffer."""
    m = buffer_of(P, p)
    if m >= 0 and is_rmw(order):
        if P[P[O_MEMORY] + U_FIFO]:
            return count(B, m) == 0
        for i in range(count(B, m)):
            if address(B, P, m, i) == addr:
                return False
    return True


@jit
def own(B, P, addr, p):  # type: ignore[no-untyped-def]
    """Whether process `p` has a store of `addr` in its buffer, which a load of it takes."""
    m = buffer_of(P, p)
    if m >= 0:
        for i in range(count(B, m)):
            if address(B, P, m, i) == addr:
                return True
    return False


@jit
def load(B, P, addr, p):  # type: ignore[no-untyped-def]
    """Raw value of cell `addr` as `p` sees it: its own youngest store, or memory."""
    m = buffer_of(P, p)
    if m >= 0:
        for i in range(count(B, m) - 1, -1, -1):
            if address(B, P, m, i) == addr:
                return value(B, P, m, i)
    return sc_load(B, P, addr, p)


@jit
def store(B, P, addr, raw, order, p):  # type: ignore[no-untyped-def]
    """DONE, or WAIT (not before some of the buffer has left), or FULL (there is no room)."""
    m = buffer_of(P, p)
    n = count(B, m) if m >= 0 else np.int64(0)
    if order == 0 or m < 0:
        sc_store(B, P, addr, raw, p)
        return DONE
    if order >= 4:
        if n:
            if order not in (RELAXED, RMW_ACQUIRE) or P[P[O_MEMORY] + U_FIFO]:  # a full barrier
                return WAIT
            # it must not pass a barrier, nor a store of its own address
            if B[m] & WMB or epoch(B, P, m, n - 1) > 0:
                return WAIT
            for i in range(n):
                if address(B, P, m, i) == addr:
                    return WAIT
        sc_store(B, P, addr, raw, p)
        return DONE
    u = P[O_MEMORY]
    if n >= P[u + U_CAPACITY]:
        return FULL
    mine = np.int64(0)
    if n:
        mine = epoch(B, P, m, n - 1)
        if order == 3 or B[m] & WMB or P[u + U_FIFO]:
            mine += 1
    at = n
    while at > 0 and epoch(B, P, m, at - 1) == mine and address(B, P, m, at - 1) > addr:
        at -= 1
    stride = P[u + U_STRIDE]
    for w in range(m + (n + 1) * stride, m + (at + 1) * stride, -1):
        B[w] = B[w - stride]
    w = m + 1 + at * stride
    tag = addr | (mine << P[u + U_ADDR_BITS])
    if stride == 2:
        B[w] = tag
        B[w + 1] = raw
    else:
        B[w] = tag | (raw << P[u + U_TAG_BITS])
    B[m] = (B[m] & ~np.int64(WMB)) + (np.int64(1) << COUNT_AT)
    return DONE


@jit
def fence(B, P, kind, p):  # type: ignore[no-untyped-def]
    """A barrier: smp_wmb stands between stores, smp_mb lets nothing pass before the buffer is empty."""
    m = buffer_of(P, p)
    if m >= 0 and count(B, m):
        if kind == 3:
            if not P[P[O_MEMORY] + U_FIFO]:
                B[m] |= WMB
        elif kind == 1 or kind == 5:
            B[m] |= MB


@jit
def leavers(B, P, m):  # type: ignore[no-untyped-def]
    """How many stores may leave the buffer now."""
    k = np.int64(0)
    for i in range(count(B, m)):
        if epoch(B, P, m, i) > 0:
            break
        if i == 0 or address(B, P, m, i - 1) != address(B, P, m, i):
            k += 1
    return k


@jit
def flush(B, P, m, which):  # type: ignore[no-untyped-def]
    """The store number `which` of those that may leave goes to memory; returns its cell."""
    i = np.int64(0)
    k = np.int64(-1)
    while True:
        if i == 0 or address(B, P, m, i - 1) != address(B, P, m, i):
            k += 1
            if k == which:
                break
        i += 1
    addr = address(B, P, m, i)
    sc_store(B, P, addr, value(B, P, m, i), 0)
    u = P[O_MEMORY]
    stride = P[u + U_STRIDE]
    n = count(B, m) - 1
    for w in range(m + 1 + i * stride, m + 1 + n * stride):
        B[w] = B[w + stride]
    for w in range(m + 1 + n * stride, m + 1 + (n + 1) * stride):
        B[w] = 0
    B[m] -= np.int64(1) << COUNT_AT
    if n == 0:
        B[m] &= ~np.int64(WMB | MB)
    elif epoch(B, P, m, 0) > 0:
        for j in range(n):
            B[m + 1 + j * stride] -= np.int64(1) << P[u + U_ADDR_BITS]
    return addr


@jit
def object_of(P, addr):  # type: ignore[no-untyped-def]
    """Where in P to find the cell that tells whether the object of a cell lives, its struct and its number."""
    u = P[O_MEMORY]
    return u + U_BUFFERS + P[M_PROCESSES] + 3 * addr


@jit
def pending(B, P, first, last, p):  # type: ignore[no-untyped-def]
    """Whether process `p` (any, if -1) has a store of one of these cells in its buffer."""
    for q in range(P[M_PROCESSES]):
        m = buffer_of(P, q)
        if m >= 0 and (p < 0 or q == p):
            for i in range(count(B, m)):
                if first <= address(B, P, m, i) < last:
                    return True
    return False


# -- for movers (moving.py)
@jit
def together(P, p, q):  # type: ignore[no-untyped-def]
    """Whether two processes share a buffer."""
    return buffer_of(P, p) >= 0 and buffer_of(P, p) == buffer_of(P, q)


@jit
def is_buffer(P, p):  # type: ignore[no-untyped-def]
    """Whether `p` is the process that lets stores leave a buffer."""
    return P[P[O_PROCS] + p * PROCESS_ROW] == P[P[O_MEMORY] + U_FLUSH_PC]


@jit
def pop(B, P, m, i):  # type: ignore[no-untyped-def]
    """Store number `i` of a buffer in order (TSO) reaches memory before those that stand in front of it."""
    stride = P[P[O_MEMORY] + U_STRIDE]
    n = count(B, m)
    sc_store(B, P, address(B, P, m, i), value(B, P, m, i), 0)
    for w in range(m + 1 + i * stride, m + 1 + (n - 1) * stride):
        B[w] = B[w + stride]
    for w in range(m + 1 + (n - 1) * stride, m + 1 + n * stride):
        B[w] = 0
    for j in range(i, n - 1):
        B[m + 1 + j * stride] -= np.int64(1) << P[P[O_MEMORY] + U_ADDR_BITS]
    B[m] -= np.int64(1) << COUNT_AT
    if n == 1:
        B[m] &= ~np.int64(WMB | MB)


# -- the automaton with buffers
def layered(a: Automaton, capacity: int, fifo: bool = False) -> Automaton:
    """`a` with a buffer of `capacity` stores for each CPU (and each process that is bound to none) that buffers any
    store, as words of the state, and a process for each that lets its stores leave; `fifo`: in their order (TSO).

    Raises `ValueError` for a capacity outside 1 to 63.
    """
    if not 1 <= capacity <= MOST:
        raise ValueError(f"a store buffer of {capacity} stores; from 1 to {MOST}")
    units = {k: ps for k, ps in units_of(a).items() if any(buffers(a, a.processes[p].entry) for p in ps)}
    addr_bits = max(1, a.ncell.bit_length())
    tag = addr_bits + EPOCH_BITS
    bits = max([0, *(mask_bits(int(row[2])) for row in a.tab[: a.ncell])])
    stride = 1 if tag + bits <= 63 else 2
    size = 1 + capacity * stride
    more = size * len(units)
    flush_pc = len(a.code)
    row = np.zeros((1, ROW), np.int64)
    row[0, 0], row[0, ROW - 1] = Op.FLUSH, flush_pc
    one = np.ones(1, np.uint8)
    at = [-1] * (len(a.processes) + len(units))
    extra = []
    for n, ((_, number), ps) in enumerate(units.items()):
        word = a.nw + n * size
        name = a.processes[ps[0]].name
        for k in ps:
            at[k] = word
        at[len(a.processes) + n] = word
        extra.append(ProcessInfo(f"buffer of {name}", flush_pc, word, 1, 1, number))
    pool_number = {p.name: i for i, p in enumerate(a.pools)}
    objects: list[int] = []
    for c in a.cells:
        q = a.pools[pool_number[c.pool]]
        lives = q.base + c.index * q.stride if q.state >= 0 and not c.is_state else -1
        objects += [lives, pool_number[c.pool], c.index]
    return widened(
        a,
        more,
        code=np.concatenate([a.code, row]),
        stop={m: np.concatenate([s, one]) for m, s in a.stop.items()},
        seqpc=np.concatenate([a.seqpc, one]),
        masks=np.concatenate([a.masks, np.full((1, a.masks.shape[1]), -1, np.int64)]),
        processes=[*a.processes, *extra],
        where=[*a.where, Where("a store leaves its buffer", "", 0)],
        access=[*a.access, None],
        memory=("tso" if fifo else "pso") + (f":{capacity}" if capacity != MOST else ""),
        memory_table=[capacity, stride, addr_bits, tag, flush_pc, int(fifo), *at, *objects],
    )


def mask_bits(mask: int) -> int:
    return (mask & (1 << 64) - 1).bit_length()


def buffers(a: Automaton, entry: int) -> bool:
    """Whether the text that begins at `entry` has a store that goes through a buffer."""
    seen: set[int] = set()
    work = [entry]
    while work:
        pc = work.pop()
        if pc in seen:
            continue
        seen.add(pc)
        r = [int(x) for x in a.code[pc]]
        op = Op(r[0])
        if op is Op.STORE and r[7] in (Ordering.PLAIN, Ordering.RELEASE):
            return True
        if op in (Op.HALT, Op.RET, Op.RELAX, Op.STOPPATH):
            continue
        work.append(r[8])
        if op is Op.CALL:
            work.append(r[3])
        elif op in BRANCHES:
            work.append(r[2 if op is Op.BR else 3])
    return False
