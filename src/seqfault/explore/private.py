"""Objects that only the process that allocated them can reach yet: from the allocation until a pointer to one is stored
elsewhere.

What a store of a number (a page's number in a page-table entry, an object's in a callback) says of an object nobody
knows, so this is a claim that is checked: who else touches such an object ends the claim for its struct, and
exploration is repeated without (docs/engine.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.compile.work import CELL, OBJECT, READ, WRITE
from seqfault.explore.jit import jit_moving as jit
from seqfault.explore.memory_buffers import load
from seqfault.explore.slots import get
from seqfault.explore.tables import M_MEMORY, M_NW, MAX_ACCESSED, O_TAB, SLOT, X_ACCESSED

# Y: numbers; of each cell its object (plus one; 0: none that is allocated), whether it tells if that lives, the struct
# that it points to (plus one; 0: it is a number, -1: a number that may stand for an object); of each object its struct,
# and what a pointer to it is; of each struct how far it is believed
Y_OBJECTS, Y_CELLS, Y_OF, Y_STATE, Y_TARGET, Y_STRUCT, Y_POINTER, Y_BELIEF = range(8)
BITS, A_WORD = 5, 12  # an owner is a process plus one
TYPED, WIDE, NONE = 2, 1, 0  # a pointer is stored; or a number that may stand for an object, too; no claim


def owner_tables(a: Automaton) -> tuple[NDArray[np.int64], int]:
    """`Y` for an automaton, and how many words owners take."""
    of, state, target = ([0] * (a.ncell + 2) for _ in range(3))  # the last two: what memory models say (moving.py)
    struct: list[int] = []
    pointer: list[int] = []
    number = {p.name: i for i, p in enumerate(a.pools)}
    for k, p in enumerate(a.pools):
        if p.state < 0:
            continue
        for i in range(p.n):
            struct.append(k)
            pointer.append(i + 1)
            for c in range(p.base + i * p.stride, p.base + (i + 1) * p.stride):
                of[c] = len(struct)
            state[p.base + i * p.stride] = 1
    most = max([p.n for p in a.pools if p.state >= 0], default=0)
    for c in range(a.ncell):
        cell = a.cells[c]
        kind = str(cell.type)
        if kind.startswith("ptr "):
            target[c] = number.get(kind[4:], -2) + 1
        elif cell.hi > 2 * most:
            target[c] = -1
    few = len(a.processes) < (1 << BITS) - 1
    belief = [TYPED if p.state >= 0 and not p.typesafe and few else NONE for p in a.pools]
    parts = [of, state, target, struct, pointer, belief]
    head = [len(struct), a.ncell]
    at = 8
    for part in parts:
        head.append(at)
        at += len(part)
    return np.array([*head, *(x for part in parts for x in part)], np.int64), (len(struct) + A_WORD - 1) // A_WORD


@jit
def owner(S, P, Y, o):  # type: ignore[no-untyped-def]
    """The process, plus one, that object `o` belongs to alone; 0: nobody."""
    return (S[P[M_NW] + o // A_WORD] >> (BITS * (o % A_WORD))) & ((1 << BITS) - 1)


@jit
def give(S, P, Y, o, who):  # type: ignore[no-untyped-def]
    w = P[M_NW] + o // A_WORD
    s = BITS * (o % A_WORD)
    S[w] = (S[w] & ~(np.int64((1 << BITS) - 1) << s)) | np.int64(who) << s


@jit
def private(S, P, Y, cell, p):  # type: ignore[no-untyped-def]
    """Whether a cell is of an object that only `p` can reach."""
    o = Y[Y[Y_OF] + cell]
    return o > 0 and owner(S, P, Y, o - 1) == p + 1


@jit
def believed(Y, cell):  # type: ignore[no-untyped-def]
    """Whether an object that is allocated is taken to be reached by nobody else at first."""
    o = Y[Y[Y_OF] + cell]
    return o > 0 and Y[Y[Y_BELIEF] + Y[Y[Y_STRUCT] + o - 1]] > NONE


@jit
def disowned(S, P, Y, X, p):  # type: ignore[no-untyped-def]
    """Whether a step of `p` from S touched an object that was taken to be another's alone; it is believed less then."""
    bad = False
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        code = X[X_ACCESSED + 1 + j]
        cell = (code >> 2) & CELL
        o = Y[Y[Y_OF] + cell]
        if o == 0 or code & 3 == OBJECT or (code & 3 == READ and Y[Y[Y_STATE] + cell]):
            continue
        who = owner(S, P, Y, o - 1)
        if who != 0 and who != p + 1:
            k = Y[Y_BELIEF] + Y[Y[Y_STRUCT] + o - 1]
            if Y[k] > NONE:
                Y[k] -= 1
            bad = True
    return bad


@jit
def publish(S, P, Y, p):  # type: ignore[no-untyped-def]
    for o in range(Y[Y_OBJECTS]):
        if owner(S, P, Y, o) == p + 1:
            give(S, P, Y, o, 0)


@jit
def own(S, B, P, Y, X, p):  # type: ignore[no-untyped-def]
    """Who owns what, in S, after the step of `p` that led to the words in B."""
    for j in range(min(X[X_ACCESSED], np.int64(MAX_ACCESSED))):
        code = X[X_ACCESSED + 1 + j]
        cell = (code >> 2) & CELL
        o = Y[Y[Y_OF] + cell]
        if code & 3 == OBJECT:
            if believed(Y, cell):
                give(S, P, Y, o - 1, p + 1)
        elif code & 3 == WRITE:
            if o > 0 and Y[Y[Y_STATE] + cell]:
                give(S, P, Y, o - 1, 0)  # freed
                continue
            if o > 0 and owner(S, P, Y, o - 1) == p + 1:
                continue
            target = Y[Y[Y_TARGET] + cell]
            v = get(B, P, cell, 0)
            if P[M_MEMORY] == 1:  # it may be in a buffer
                t = P[O_TAB] + cell * SLOT
                v = P[t + 3] + load(B, P, cell, p)
            for k in range(Y[Y_OBJECTS]):
                if owner(S, P, Y, k) == p + 1:
                    struct = Y[Y[Y_STRUCT] + k]
                    same = target == struct + 1 and v == Y[Y[Y_POINTER] + k]
                    wide = target == -1 and v != 0 and Y[Y[Y_BELIEF] + struct] == WIDE
                    if same or wide:
                        publish(S, P, Y, p)
                        break
