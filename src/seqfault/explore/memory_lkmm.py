"""What the interpreter calls under the kernel's memory model.

By address: so that it is compiled only where that model is asked for.  Each function takes the addresses of `B`, `P`
and `X` and five numbers, and returns 0, or why the access cannot be made now (WAIT, FULL, MANY).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqfault.explore.jit import jit_views as jit
from seqfault.explore.memory_accesses import (
    behind_read,
    everything,
    load,
    places,
    readable,
    skipped,
    store,
    taken,
)
from seqfault.explore.memory_barriers import barrier, due, effective, fence
from seqfault.explore.memory_races import apart_from_load, apart_from_store
from seqfault.explore.memory_sc import load as sc_load
from seqfault.explore.memory_sc import store as sc_store
from seqfault.explore.memory_settle import drop_dead, settle, wake
from seqfault.explore.memory_spared import begun, lock_loaded, lock_stored
from seqfault.explore.memory_views import (
    U_BY,
    U_LOOKED,
    U_TAGS,
    U_UNITS,
    U_WATCHED,
    branched,
    drop_tag,
    end_of,
    first_of,
    key_of,
    racy,
    record,
    remove,
    set_tag,
    tag,
    tag_at,
    tagged,
    unit_of,
)
from seqfault.explore.memory_words import U_KEPT, U_SHOWN, U_UPPER, hand, handed
from seqfault.explore.orders import ATOMIC, FULL_RMW, is_rmw
from seqfault.explore.raw import nothing, numbers_at, some
from seqfault.explore.slots import alternative, get
from seqfault.explore.tables import (
    FULL,
    MANY,
    MAX_CHOICES,
    O_MEMORY,
    V_CALLS,
    V_FENCE,
    WAIT,
    X_AGED,
    X_BEHIND,
    X_USED,
    X_VALUE,
    X_WITHIN,
)

WORDS = 8  # arguments of each that is called by address


@jit
def address_tag(B, P, q, p):  # type: ignore[no-untyped-def]
    """What the address of the access that is instruction `q` depends on."""
    dep = nothing(P)
    if tagged(B, P, p) and P[q + 4] != 0:
        dep |= tag(B, P, P[q + 3], p)
        if P[q + 6] != 0:
            dep |= tag(B, P, P[q + 5], p)
    return dep


@jit
def any_tag(B, P):  # type: ignore[no-untyped-def]
    for v in range(P[P[O_MEMORY] + U_UNITS]):  # noqa: SIM110
        if B[tag_at(P, v, 0)]:
            return True
    return False


@jit
def compute_tag(B, P, op, a, b, c, p):  # type: ignore[no-untyped-def]
    """The tag of a register that is computed."""
    if tagged(B, P, p):
        t = tag(B, P, b, p)
        if (op > 1 and op <= 11) or (op > 14 and op < 26):
            t |= tag(B, P, c, p)
        set_tag(B, P, a, p, t)


@jit
def state_of_object(B, P, cell, raw, p):  # type: ignore[no-untyped-def]
    """An object is allocated, or freed: a slab's free list orders a free before the next allocation.  False: there is
    no room."""
    n = readable(B, P, cell, ATOMIC, p, nothing(P))
    if n:
        load(B, P, cell, ATOMIC, p, nothing(P), np.int64(0), n)
    n = places(B, P, cell, ATOMIC, p, nothing(P))
    if n < 0:
        return False
    store(B, P, cell, raw, ATOMIC, p, nothing(P), np.int64(0), n)
    return True


@jit
def put_in_cell(B, P, cell, p, v):  # type: ignore[no-untyped-def]
    key = key_of(P, cell, p)
    for unit in range(P[P[O_MEMORY] + U_UNITS]):
        for i in range(P[P[O_MEMORY] + U_TAGS]):
            k = B[tag_at(P, unit, i)]
            if k == 0 or k > key:
                break
            if k == key:
                drop_tag(B, P, unit, i)
                break
    return set_tag(B, P, cell, p, v)


@jit
def begin_object(B, P, cell, raw, zeroed, p):  # type: ignore[no-untyped-def]
    """A cell of an object that is allocated: what it held is a store that others may see still if it is `zeroed`; else
    what it holds now, being undefined, is nobody's.  False: there is no room."""
    begun(P, cell)
    if not racy(P, cell):
        sc_store(B, P, cell, raw, p)
        return put_in_cell(B, P, cell, p, nothing(P))
    first = first_of(B, P, cell)
    end = end_of(B, P, cell, first)
    if zeroed and (first != end or sc_load(B, P, cell, p) != raw):
        record(B, P, cell, p, True)
        n = places(B, P, cell, ATOMIC, p, nothing(P))  # it is the last
        if n < 0:
            return False
        store(B, P, cell, raw, np.int64(1), p, nothing(P), np.int64(0), np.int64(1))
        return True
    for i in range(end - 1, first - 1, -1):
        remove(B, P, i)
    sc_store(B, P, cell, raw, p)
    return True


@jit
def begin(b, pp, xx, p, pc, depth, u4, u5):  # type: ignore[no-untyped-def]
    """A step of process `p`, which stands at `pc`, begins: a full barrier that has not taken effect does."""
    B, P, X = numbers_at(b), numbers_at(pp), numbers_at(xx)
    X[X_AGED] = 0
    X[X_WITHIN] = 0
    P[P[O_MEMORY] + U_LOOKED] = 0
    wake(B, P, p)
    X[X_USED] = due(B, P, X, p, np.int64(0), depth)
    return 0


@jit
def end(b, pp, xx, p, pc, u3, u4, u5):  # type: ignore[no-untyped-def]
    """A step has ended; the process stands at `pc`."""
    settle(numbers_at(b), numbers_at(pp), p, pc)
    return 0


@jit
def do_load(b, pp, xx, q, cell, p, used, depth):  # type: ignore[no-untyped-def]
    """The load that is instruction `q` of P, of `cell`: its raw value is X[X_VALUE]."""
    B, P, X = numbers_at(b), numbers_at(pp), numbers_at(xx)
    order = P[q + 7]
    used = due(B, P, X, p, used, depth)  # in an atomic block
    if used < 0:
        return MANY
    if order == FULL_RMW:
        hand(P, U_KEPT, everything(B, P, unit_of(P, p)))
    know = address_tag(B, P, q, p)
    lock_loaded(P, cell, order)
    many = readable(B, P, cell, order, p, know)
    age = np.int64(0)
    if many > 1:
        if used >= MAX_CHOICES:
            return MANY
        age = alternative(X, used, depth, many)
        used += 1
    elif many == 0 and tagged(B, P, p):
        know |= tag(B, P, cell, p)
    if age:
        X[X_AGED] = 1
    if many > 1 and age == 0:
        apart_from_load(B, P, q, cell, p, many)
    raw, know = load(B, P, cell, order, p, know, age, many)
    X[X_USED], X[X_VALUE], X[X_BEHIND], X[X_WITHIN] = used, raw, age, is_rmw(order)
    hand(P, U_SHOWN, know)
    if (some(know) or tagged(B, P, p)) and not set_tag(B, P, P[q + 1], p, know):
        return FULL
    return 0


@jit
def do_store(b, pp, xx, q, cell, p, used, depth):  # type: ignore[no-untyped-def]
    """The store that is instruction `q` of P, to `cell`, of the raw value X[X_VALUE]."""
    B, P, X = numbers_at(b), numbers_at(pp), numbers_at(xx)
    order = P[q + 7]
    back = np.int64(0)
    rmw = is_rmw(order)
    X[X_WITHIN] = 0
    used = due(B, P, X, p, used, depth)
    if used >= 0 and order == FULL_RMW:  # the barrier before it
        used = effective(B, P, X, unit_of(P, p), handed(P, U_KEPT), used, depth)
    if used < 0:
        return MANY
    if rmw:
        back = X[X_BEHIND]
        if back and not behind_read(B, P, cell, order, p, back):
            return WAIT
    if rmw:
        taken(B, P, cell, order, p, handed(P, U_SHOWN))
    know = address_tag(B, P, q, p) | tag(B, P, P[q + 1], p)
    many = places(B, P, cell, order, p, know)
    if many < 0:
        return FULL
    if many > 1:
        if used >= MAX_CHOICES:
            return MANY
        back = skipped(B, P, cell, alternative(X, used, depth, many))
        used += 1
    old = get(B, P, cell, 0)
    if P[P[O_MEMORY] + U_WATCHED]:
        apart_from_store(B, P, q, cell, order, p, know, many)
    store(B, P, cell, X[X_VALUE], order, p, know, back, many)
    P[P[O_MEMORY] + U_BY] = 0
    lock_stored(B, P, cell, order, p, old)
    if order == FULL_RMW:
        barrier(B, P, unit_of(P, p))
    X[X_USED], X[X_BEHIND] = used, back
    if many == 0 and (some(know) or any_tag(B, P)) and not put_in_cell(B, P, cell, p, know):
        return FULL
    return 0


@jit
def compute(b, pp, xx, op, a, c, d, p):  # type: ignore[no-untyped-def]
    """Register `a` was computed by `op` from `c` and `d`."""
    compute_tag(numbers_at(b), numbers_at(pp), op, a, c, d, p)
    return 0


@jit
def branch(b, pp, xx, a, c, p, u4, u5):  # type: ignore[no-untyped-def]
    """Process `p` goes one way or the other by register `a` (and `c`, or -1)."""
    B, P, X = numbers_at(b), numbers_at(pp), numbers_at(xx)
    if not X[X_WITHIN]:  # a cmpxchg's comparison is no control dependency
        branched(B, P, a, p)
        if c >= 0:
            branched(B, P, c, p)
    X[X_WITHIN] = 0
    return 0


@jit
def forget(b, pp, xx, a, p, pc, u4, u5):  # type: ignore[no-untyped-def]
    """Register `a` depends on nothing; at the call `pc` (or -1) registers that are not kept have no tags."""
    B, P = numbers_at(b), numbers_at(pp)
    if tagged(B, P, p):
        set_tag(B, P, a, p, nothing(P))
        if pc >= 0:
            drop_dead(B, P, p, pc, False)
    return 0


@jit
def object_cell(b, pp, xx, cell, raw, p, what, zeroed):  # type: ignore[no-untyped-def]
    """An object's state (`what` 0), or another of its cells when it is allocated."""
    B, P = numbers_at(b), numbers_at(pp)
    if what == 0:
        return 0 if state_of_object(B, P, cell, raw, p) else FULL
    return 0 if begin_object(B, P, cell, raw, zeroed != 0, p) else FULL


@jit
def do_fence(b, pp, xx, kind, p, u3, u4, u5):  # type: ignore[no-untyped-def]
    fence(numbers_at(b), numbers_at(pp), kind, p)
    return 0


@cache
def addresses(wide: bool) -> list[int]:
    """In the order of V_BEGIN, V_END, ...; `wide`: with views of two words."""
    every: list[Any] = [begin, end, do_load, do_store, compute, branch, forget, object_cell, do_fence]
    return [f.address(WORDS, unsigned=(1,) if wide else ()) for f in every]


def connect(P: NDArray[np.int64]) -> None:
    """Let the interpreter find these functions."""
    at = int(P[O_MEMORY]) + V_CALLS
    P[at : at + 9] = addresses(bool(P[int(P[O_MEMORY]) + U_UPPER]))


def fence_now(B: NDArray[np.int64], P: NDArray[np.int64], kind: int, p: int) -> None:
    """Process `p` has a barrier in state `B` (memory_barriers.fence)."""
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * WORDS)(int(P[int(P[O_MEMORY]) + V_CALLS + V_FENCE]))
    call(B.ctypes.data, P.ctypes.data, 0, kind, p, 0, 0, 0)
