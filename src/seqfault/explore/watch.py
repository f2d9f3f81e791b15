"""Which locks a process holds when it touches a field: facts, collected while exploring; mm/locks.py judges them.

The interpreter leaves a trace of what each step loaded and stored.  No step both takes a lock and touches data, so
what is held is read from the state before the step: from the lock's own cells, of the object that the table means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton, PoolInfo
from seqfault.compile.ir import Where
from seqfault.explore.interp import get
from seqfault.explore.jit import jit
from seqfault.explore.slots import row_of
from seqfault.explore.tables import M_CLASSES, O_POOLS, T_LOAD, T_STORE, TRACE_ROW, X_EDGES, X_TRACE
from seqfault.mm.frames import free_page_check
from seqfault.mm.locks import LOCKS, TABLE, Lock, field_of
from seqfault.mm.tlb import flush_check
from seqfault.mm.vma import validate_mm

WATCHED_EVENTS = 2048  # of one step
SEEN_BITS = 15
# W: header, then tables at the offsets that it names
W_ON, W_LOCKS, W_FIELD, W_POOL, W_LOOKS, W_LOCK, W_WHICH, W_POINTERS, W_RUN, W_DISTINCT, W_FULL = range(11)
W_HEADER = 12
LOCK_ROW = 5  # mode, cell, second cell, stride, objects (0: this program has no such lock)
# columns of what was seen: key (instruction, store or load, locks; plus one), how often; where first: run, state, step
S_KEY, S_COUNT, S_RUN, S_STATE, S_STEP = range(5)
OWNER, READER, BIT, FLAG, ODD = range(5)
ANY, SELF, VIA = range(3)
MASK_BITS = 24  # a lock each; whether the object is shared; a lock each that there is none of
LOOKS = frozenset(p.__name__ for p in (validate_mm, free_page_check, flush_check))


@jit
def holds(S, P, W, k, i, p):  # type: ignore[no-untyped-def]
    """Whether process `p` holds lock `k` of object `i`."""
    r = W[W_LOCK] + LOCK_ROW * k
    mode = W[r]
    v = get(S, P, W[r + 1] + i * W[r + 3], 0)
    if mode == OWNER:
        return v == p + 1
    if mode == READER:
        return (v >> p) & 1 == 1 or get(S, P, W[r + 2] + i * W[r + 3], 0) == p + 1
    if mode == BIT:
        return (v >> p) & 1 == 1
    if mode == ODD:
        return v & 1 == 1
    return v != 0


@jit
def held(S, P, W, addr, p):  # type: ignore[no-untyped-def]
    """The locks that `p` holds, as far as they concern the object that has cell `addr`."""
    n = W[W_LOCKS]
    pool = W[W[W_POOL] + addr]
    base = P[P[O_POOLS] + 5 * pool]
    stride = P[P[O_POOLS] + 5 * pool + 1]
    me = (addr - base) // stride
    mask = np.int64(0)
    for k in range(n):
        r = W[W_LOCK] + LOCK_ROW * k
        if W[r + 4] == 0:
            continue
        w = W[W_WHICH] + 2 * (pool * n + k)
        if W[r] == FLAG:
            if holds(S, P, W, k, p, p):
                mask |= np.int64(1) << k
        elif W[w] == SELF:
            if holds(S, P, W, k, me, p):
                mask |= np.int64(1) << k
        elif W[w] == VIA:
            x = get(S, P, base + me * stride + W[w + 1], 0)
            if x <= 0 or x > W[r + 4]:  # no such object, no such lock to take
                mask |= (np.int64(1) << k) | (np.int64(1) << (n + 1 + k))
            elif holds(S, P, W, k, x - 1, p):
                mask |= np.int64(1) << k
        else:
            for i in range(W[r + 4]):
                if holds(S, P, W, k, i, p):
                    mask |= np.int64(1) << k
    # whether anything in shared memory points to the object
    at = W[W[W_POINTERS] + 2 * pool]
    many = W[W[W_POINTERS] + 2 * pool + 1]
    if many < 0:
        mask |= np.int64(1) << n
    for j in range(many):
        cell = W[at + 3 * j]
        if base + me * stride <= cell < base + (me + 1) * stride:
            continue
        x = get(S, P, cell, 0)
        if W[at + 3 * j + 2] == 1:  # a page-table entry: the frame in it, and no frame is 0
            x = (x >> 2) + 1 if x >> 2 != 0 else np.int64(0)
        elif W[at + 3 * j + 2] == 2:  # a frame's number
            x = x + 1 if x != 0 else np.int64(0)
        if x == me + 1 and (W[at + 3 * j + 1] < 0 or get(S, P, W[at + 3 * j + 1], 0) == 1):
            mask |= np.int64(1) << n
            break
    return mask


@jit
def watch(S, P, X, W, seen, pc, p, choice, state):  # type: ignore[no-untyped-def]
    """Enter what the step of `p` from `pc`, taken in state S, touched."""
    if W[W[W_LOOKS] + pc]:
        return
    at = X_EDGES + P[M_CLASSES] * P[M_CLASSES]
    size = seen.shape[0] - 1
    for j in range(X[X_TRACE]):
        e = at + TRACE_ROW * j
        kind = X[e]
        if kind != T_LOAD and kind != T_STORE:
            continue
        addr = X[e + 2]
        if W[W[W_FIELD] + addr] == 0:
            continue
        write = np.int64(1) if kind == T_STORE else np.int64(0)
        key = (((X[e + 1] * 2 + write) << MASK_BITS) | held(S, P, W, addr, p)) + 1
        s = row_of(seen, key, SEEN_BITS)
        if seen[s, S_KEY] == 0:
            if W[W_DISTINCT] * 10 > size * 9:
                W[W_FULL] = 1
                continue
            W[W_DISTINCT] += 1
            seen[s, S_KEY] = key
            seen[s, S_RUN] = W[W_RUN]
            seen[s, S_STATE] = state
            seen[s, S_STEP] = p + 256 * choice
        seen[s, S_COUNT] += 1


OFF = np.zeros(W_HEADER, np.int64)
NOTHING = np.zeros((1, 5), np.int64)


@dataclass(frozen=True)
class Access:
    """Accesses to a field from one place that were alike.

    `words`: what held meanwhile, in the words of mm/locks.py; `absent`: those among them that only hold because the
    object has no such lock.  `run`, `state`, `process`, `choice`: where it was first
    seen: the number of the exploration (from 1), and the step from which state.
    """

    field: str
    write: bool
    words: frozenset[str]
    absent: frozenset[str]
    where: Where
    count: int
    run: int
    state: int
    process: int
    choice: int

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions through which it came, the outermost first, as far as they are inlined."""
        return (*(fn for fn, _, _ in self.where.chain), self.where.function)


class Watch:
    """Collects the accesses of explorations of one automaton: `begin` each, and pass it to `explore`."""

    def __init__(self, a: Automaton, fields: Iterable[str] | None = None):
        self.a = a
        self.seen = np.zeros((1 << SEEN_BITS, 5), np.int64)
        self.W = tables(a, frozenset(r.field for r in TABLE) if fields is None else frozenset(fields))

    def begin(self) -> int:
        """Number of the exploration that comes now, from 1."""
        self.W[W_RUN] += 1
        return int(self.W[W_RUN])

    def clear(self) -> None:
        """Forget everything."""
        self.seen.fill(0)
        self.W[W_RUN] = self.W[W_DISTINCT] = self.W[W_FULL] = 0

    @property
    def full(self) -> bool:
        """Whether there was no room for everything."""
        return bool(self.W[W_FULL])

    def accesses(self, run: int | None = None) -> list[Access]:
        """What was seen (first in exploration `run`), in the order of the program."""
        rows = self.seen[self.seen[:, S_KEY] > 0]
        if run is not None:
            rows = rows[rows[:, S_RUN] == run]
        out = []
        for row in rows[np.argsort(rows[:, S_KEY])]:
            key, count, first, state, step = (int(x) for x in row)
            mask = (key - 1) & ((1 << MASK_BITS) - 1)
            pc, write = (key - 1) >> (MASK_BITS + 1), bool((key - 1) >> MASK_BITS & 1)
            acc = self.a.access[pc]
            assert acc is not None
            words = {x.name for i, x in enumerate(LOCKS) if mask >> i & 1}
            if not mask >> len(LOCKS) & 1:
                words.add("unshared")
            if acc.order.startswith("rmw"):
                words.add("atomic")
            absent = {x.name for i, x in enumerate(LOCKS) if mask >> len(LOCKS) + 1 + i & 1}
            out.append(
                Access(
                    field_of(acc.pool, acc.path), write, frozenset(words), frozenset(absent), self.a.where[pc], count,
                    first, state, step & 255, step >> 8,
                )
            )  # fmt: skip
        return out


def looks(w: Where) -> bool:
    """Whether the step is the checker's look, and no CPU's."""
    return not LOOKS.isdisjoint((w.function, *(fn for fn, _, _ in w.chain)))


def tables(a: Automaton, fields: frozenset[str]) -> NDArray[np.int64]:
    """`W` for an automaton."""
    cells = {c.name: c.addr for c in a.cells}
    pools = {p.name: p for p in a.pools}
    number = {p.name: i for i, p in enumerate(a.pools)}
    which = [x for p in a.pools for lock in LOCKS for x in which_object(lock, p, cells, a)]
    head = [0] * W_HEADER
    parts: list[Sequence[int]] = [head]
    head[W_ON], head[W_LOCKS] = 1, len(LOCKS)

    def add(slot: int, table: Sequence[int]) -> None:
        head[slot] = sum(map(len, parts))
        parts.append(table)

    add(W_FIELD, [int(not c.is_state and field_of(c.pool, c.path) in fields) for c in a.cells])
    add(W_POOL, [number[c.pool] for c in a.cells])
    add(W_LOOKS, [int(looks(w)) for w in a.where])
    add(W_LOCK, [x for lock in LOCKS for x in lock_row(lock, cells, pools, a)])
    add(W_WHICH, which)
    index: list[int] = []
    at = sum(map(len, parts)) + 2 * len(a.pools)
    pointers: list[int] = []
    shared = {f.split(".")[0] for f in fields}
    for p in a.pools:
        mine = pointers_to(p.name, a, shared) if p.state >= 0 else []
        index += [at + len(pointers), len(mine) if p.state >= 0 else -1]
        pointers += [x for r in mine for x in r]
    add(W_POINTERS, index)
    parts.append(pointers)
    return np.array([x for part in parts for x in part], np.int64)


def used(a: Automaton, cell: int) -> bool:
    """Whether the cell is part of the state (what no text touches is not)."""
    return bool(a.tab[cell, 2]) and int(a.tab[cell, 0]) < a.nw


def which_object(lock: Lock, p: PoolInfo, cells: Mapping[str, int], a: Automaton) -> tuple[int, int]:
    """Which object's lock is meant for a field of `p`: any's, its own, that of the object that a pointer leads to."""
    if lock.struct == p.name and lock.mode not in ("flag", "bit"):
        return SELF, 0
    pointer = cells.get(f"{p.name}[0].{lock.via[p.name]}") if p.name in lock.via else None
    return (ANY, 0) if pointer is None or not used(a, pointer) else (VIA, pointer - p.base)


def lock_row(lock: Lock, cells: Mapping[str, int], pools: Mapping[str, PoolInfo], a: Automaton) -> list[int]:
    p = pools.get(lock.struct)
    first = cells.get(f"{lock.struct}[0].{lock.cell}", -1)
    if p is None or first < 0 or not used(a, first):
        return [0] * LOCK_ROW
    second = cells[f"{lock.struct}[0].{lock.second}"] if lock.second else 0
    mode = {"spin": OWNER, "write": OWNER, "read": READER, "bit": BIT, "flag": FLAG, "odd": ODD}[lock.mode]
    return [mode, first, second, p.stride, p.n]


def pointers_to(name: str, a: Automaton, shared: Iterable[str]) -> list[list[int]]:
    """Cells through which other processes can reach an object: the cell, the one that tells whether its own object
    lives (or -1), how it names the object (0 a pointer, 1 a page-table entry, 2 a frame's number)."""
    out = []
    among = {p.name: p for p in a.pools if p.name in shared}
    for c in a.cells:
        p = among.get(c.pool)
        if p is None or c.is_state or not used(a, c.addr):
            continue
        state = p.base + c.index * p.stride if p.state >= 0 else -1
        if c.type == f"ptr {name}":
            out.append([c.addr, state, 0])
        elif name == "page" and c.pool == "pte_table" and c.path.startswith("pte["):
            out.append([c.addr, state, 1])
        elif name == "page" and c.pool == "file" and c.path.startswith("pages["):
            out.append([c.addr, state, 2])
    return out
