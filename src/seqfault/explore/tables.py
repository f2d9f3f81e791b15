"""An automaton as the two arrays that compiled code works on: `P`, what does not change; `X`, what a step leaves.

`P` begins with a header of numbers and offsets; tables follow at the offsets.  One array for each table
would cost more time in numba's reference counts than the steps take.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import REPORTED
from seqfault.compile.work import (
    MAX_ACCESSED,
    MAX_CHOICES,
    MAX_COUNTED,
    MAX_INSTRUCTIONS,
    MAX_VIOLATIONS,
    X_ACCESSED,
    X_AGED,
    X_BEHIND,
    X_COUNTED,
    X_COUNTS,
    X_DEPTH,
    X_DIGITS,
    X_EDGES,
    X_FUEL,
    X_HASH,
    X_MET,
    X_NEWS,
    X_OWN,
    X_OWN_ROOM,
    X_RADIX,
    X_SEQ,
    X_STAND,
    X_TABLE,
    X_TRACE,
    X_TRACE_ROOM,
    X_USED,
    X_VALUE,
    X_VIOL,
    X_VIOLATIONS,
    X_WAITED,
    X_WITHIN,
)

__all__ = [
    "MAX_ACCESSED", "MAX_CHOICES", "MAX_COUNTED", "MAX_INSTRUCTIONS", "MAX_VIOLATIONS", "X_ACCESSED", "X_AGED",
    "X_BEHIND", "X_COUNTED", "X_COUNTS", "X_DEPTH", "X_DIGITS", "X_EDGES", "X_FUEL", "X_HASH", "X_MET", "X_NEWS",
    "X_OWN", "X_OWN_ROOM", "X_RADIX", "X_SEQ", "X_STAND", "X_TABLE", "X_TRACE", "X_TRACE_ROOM", "X_USED",
    "X_VALUE", "X_VIOL", "X_VIOLATIONS", "X_WAITED", "X_WITHIN",
]  # fmt: skip

OK, DISABLED, ENDS = 0, 1, 2
# why a memory model cannot take an access now: it waits; it has no room; there are too many choices in the step
WAIT, FULL, MANY = 1, 2, 3
# addresses of what a memory model with views does, at P[O_MEMORY] + V_CALLS
V_CALLS = 32
V_BEGIN, V_END, V_LOAD, V_STORE, V_COMPUTE, V_BRANCH, V_FORGET, V_OBJECT, V_FENCE = range(9)

MEMORY_MODELS = ("sc", "tso", "pso", "lkmm")  # M_MEMORY is the number of one
ROW = 9
SLOT = 6

# P: numbers that the interpreter needs, kinds that it reports, then offsets of tables
(
    M_PC,
    M_HELD,
    M_CPU,
    M_PROCESS,
    M_NW,
    M_HALT,
    K_RANGE,
    K_UNINIT,
    K_OVERFLOW,
    K_DIV,
    K_SHIFT,
    K_NULL,
    K_UAF,
    K_INDEX,
    K_POOL,
    K_DOUBLE_FREE,
    K_ENDLESS,
    K_DEADLOCK,
    K_BUFFER,
    K_CHOICES,
    M_OBS_BASE,
    M_OBSERVERS,
    M_CLASSES,
    M_PROCESSES,
    M_RULES,
    M_REGION,
    M_USE_MASKS,
    O_CODE,
    O_TAB,
    O_STOP,
    O_NOSTOP,
    O_SEQPC,
    O_MASKS,
    O_RETTAB,
    O_POOLS,
    O_START,
    O_PROCS,
    O_OBSERVERS,
    O_RULES,
    M_MEMORY,
    O_MEMORY,
    M_COUNTS,
    O_COUNTS,
    M_CELLS,
) = range(44)
HEADER = 48
COUNTS = 512  # sequence counts of one state, at most
COUNTS_AT = 4 * COUNTS + 2  # words at the end of `P`, where counts are renamed
# a process in P[O_PROCS:]
P_ENTRY, P_BASE, P_WORDS, P_ROLE, P_CPU = range(5)
PROCESS_ROW = 5
# after the lock edges: the trace
T_LOAD, T_STORE, T_ALLOC, T_FREE, T_EMIT, T_CHECK, T_FLUSH = range(7)
TRACE_ROW = 4


def program_array(a: Automaton, mode: str, use_masks: bool) -> NDArray[np.int64]:
    """`P` for an automaton whose steps begin where `mode` says."""
    kind = {k: i for i, k in enumerate(a.kinds)}
    head = np.zeros(HEADER, np.int64)
    head[M_PC : M_HALT + 1] = a.pc_slot, a.held_slot, a.cpu_slot, a.process_slot, a.nw, a.halt_pc
    for i, k in enumerate(REPORTED):
        head[K_RANGE + i] = kind[k]
    head[M_OBS_BASE] = a.observer_base
    head[M_OBSERVERS] = len(a.observers)
    head[M_CLASSES] = len(a.lock_classes)
    head[M_PROCESSES] = len(a.processes)
    head[M_RULES] = len(a.rest_rules)
    head[M_CELLS] = a.ncell
    head[M_REGION] = a.masks.shape[1]
    head[M_USE_MASKS] = use_masks
    head[M_MEMORY] = MEMORY_MODELS.index(a.memory.partition(":")[0])
    head[M_COUNTS] = a.renames and len(a.count_table) > 1
    tab = a.tab.copy()
    tab[:, 5] *= -1  # all ones where relative: a mask is cheaper than a product
    start = np.array([c.start - int(a.tab[i, 3]) for i, c in enumerate(a.cells)], np.int64)
    pool_number = {p.name: i for i, p in enumerate(a.pools)}
    tables: list[tuple[int, object]] = [
        (O_CODE, a.code),
        (O_TAB, tab),
        (O_STOP, a.stop[mode]),
        (O_NOSTOP, np.zeros(len(a.code))),
        (O_SEQPC, a.seqpc),
        (O_MASKS, a.masks),
        (O_RETTAB, a.rettab),
        (O_POOLS, [[p.base, p.stride, p.n, p.state, int(p.typesafe)] for p in a.pools]),
        (O_START, start),
        (O_PROCS, [[p.entry, p.base, p.words, p.role, p.cpu] for p in a.processes]),
        (O_OBSERVERS, [[pc, a.observer_words] for pc in a.observers]),
        (
            O_RULES,
            [
                [r.cell, r.rule, r.state, r.kind, pool_number[a.cells[r.cell].pool], a.cells[r.cell].index]
                for r in a.rest_rules
            ],
        ),
        (O_MEMORY, a.memory_table),
        (O_COUNTS, a.count_table),
    ]
    parts = [head]
    at = HEADER
    for slot, table in tables:
        flat = np.asarray(table, np.int64).reshape(-1)
        head[slot] = at
        parts.append(flat)
        at += len(flat)
    return np.concatenate([*parts, np.zeros(COUNTS_AT if head[M_COUNTS] else 8, np.int64)])


def work_array(a: Automaton, trace_room: int = 0) -> NDArray[np.int64]:
    """`X`: room for what a step leaves, the order of locks, and `trace_room` events."""
    x = np.zeros(X_EDGES + len(a.lock_classes) ** 2 + TRACE_ROW * trace_room, np.int64)
    x[X_TRACE_ROOM] = trace_room
    x[X_RADIX : X_RADIX + MAX_CHOICES] = 1
    return x


def buffer(a: Automaton, rom: NDArray[np.int64]) -> NDArray[np.int64]:
    """`B`: room for a state, with the words around it that are no part of it: constants and a scenario's data."""
    b = np.zeros(a.nw + a.nx + 1, np.int64)
    for w, v in a.const_words:
        b[w] = v
    if a.rom_cells:
        at = int(a.tab[a.rom_cells[0], 0])
        b[at : at + len(rom)] = rom
    return b
