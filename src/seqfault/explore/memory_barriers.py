"""Barriers of the kernel's memory model: what a full one makes known, to whom, and when it takes effect.

docs/memory-models.md, "Full barriers", has the argument.
"""

from __future__ import annotations

import numpy as np

from seqfault.explore.jit import jit_views as jit
from seqfault.explore.memory_accesses import everything, loaded
from seqfault.explore.memory_views import (
    BARRIER_AT,
    U_BASE,
    U_CHANGED,
    U_FENCED,
    U_MET,
    U_PENDED,
    U_UNITS,
    V_CARRIED,
    V_LOADS,
    V_OWN,
    V_READ,
    V_STORES,
    V_STRONG,
    told_at,
    unit_of,
    view_at,
)
from seqfault.explore.memory_words import add_view, put_view, view
from seqfault.explore.raw import some
from seqfault.explore.slots import alternative
from seqfault.explore.tables import MAX_CHOICES, O_MEMORY

AT_ONCE = 0


@jit
def meet(B, P, unit, know):  # type: ignore[no-untyped-def]
    """A full barrier of a unit, which knew `know`, takes effect: it tells later ones, and knows what earlier ones
    did."""
    know |= view(B, P, told_at(P))
    put_view(B, P, told_at(P), know)
    add_view(B, P, view_at(P, unit, V_LOADS), know)
    add_view(B, P, view_at(P, unit, V_STORES), know)
    add_view(B, P, view_at(P, unit, V_STRONG), know)


@jit
def barrier(B, P, unit):  # type: ignore[no-untyped-def]
    """A full barrier takes effect somewhere before the unit's next access."""
    B[P[P[O_MEMORY] + U_BASE]] |= np.int64(1) << (BARRIER_AT + unit)
    P[P[O_MEMORY] + U_CHANGED] = 1
    P[P[O_MEMORY] + U_PENDED] = 1


@jit
def pending(B, P):  # type: ignore[no-untyped-def]
    """A bit for each unit: whether it has a full barrier that has not taken effect."""
    return B[P[P[O_MEMORY] + U_BASE]] >> BARRIER_AT


@jit
def took_effect(B, P, unit):  # type: ignore[no-untyped-def]
    """The full barrier of a unit takes effect."""
    B[P[P[O_MEMORY] + U_BASE]] &= ~(np.int64(1) << (BARRIER_AT + unit))
    meet(B, P, unit, everything(B, P, unit))


@jit
def learns(B, P, unit, know):  # type: ignore[no-untyped-def]
    """Whether the full barrier of a unit would learn something if one that knows `know`, and all others that have not
    taken effect, did so first."""
    for v in range(P[P[O_MEMORY] + U_UNITS]):
        if v != unit and (pending(B, P) >> v) & 1:
            know |= everything(B, P, v)
    a = view_at(P, unit, 0)
    known = view(B, P, a + V_LOADS) & view(B, P, a + V_STORES) & view(B, P, a + V_STRONG)
    return some(know & ~(view(B, P, told_at(P)) | known))


@jit
def effective(B, P, X, unit, know, used, depth):  # type: ignore[no-untyped-def]
    """A full barrier of a unit, which knew `know`, takes effect now.  Those of others may do so first, or later: a
    choice, if they would learn something then.  How many choices there have been in the step; -1: too many."""
    P[P[O_MEMORY] + U_CHANGED] = 1
    P[P[O_MEMORY] + U_MET] = 1
    while True:
        n = np.int64(0)
        for v in range(P[P[O_MEMORY] + U_UNITS]):
            n += v != unit and (pending(B, P) >> v) & 1 and learns(B, P, v, know)
        if n == 0:
            break
        if used >= MAX_CHOICES:
            return np.int64(-1)
        n = alternative(X, used, depth, n + 1)
        used += 1
        if n == 0:
            break
        for v in range(P[P[O_MEMORY] + U_UNITS]):
            if v != unit and (pending(B, P) >> v) & 1 and learns(B, P, v, know):
                n -= 1
                if n == 0:
                    took_effect(B, P, v)
                    break
    meet(B, P, unit, know)
    return used


@jit
def due(B, P, X, p, used, depth):  # type: ignore[no-untyped-def]
    """A full barrier of the unit of `p` that has not taken effect does: as `effective`."""
    unit = unit_of(P, p)
    if (pending(B, P) >> unit) & 1:
        B[P[P[O_MEMORY] + U_BASE]] &= ~(np.int64(1) << (BARRIER_AT + unit))
        return effective(B, P, X, unit, everything(B, P, unit), used, depth)
    return used


@jit
def fence(B, P, kind, p):  # type: ignore[no-untyped-def]
    """The barrier that is Op.FENCE with number `kind`; AT_ONCE: a full one that takes effect now."""
    unit = unit_of(P, p)
    P[P[O_MEMORY] + U_FENCED] = 1
    if kind == AT_ONCE:
        took_effect(B, P, unit)
    elif kind == 1 or kind == 5:
        barrier(B, P, unit)
    elif kind == 2:
        P[P[O_MEMORY] + U_CHANGED] = 1
        add_view(B, P, view_at(P, unit, V_LOADS), view(B, P, view_at(P, unit, V_READ)))
    elif kind == 3:
        P[P[O_MEMORY] + U_CHANGED] = 1
        add_view(B, P, view_at(P, unit, V_CARRIED), view(B, P, view_at(P, unit, V_OWN)))
        # its earlier stores come after what their values, addresses and cells do: taken to be all earlier loads
        add_view(B, P, view_at(P, unit, V_STORES), loaded(B, P, unit))
