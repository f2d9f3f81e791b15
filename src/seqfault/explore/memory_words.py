"""Views of the kernel's memory model as values: of one word, or of two where one has no room.

A view is a number where `P` is an ordinary array.  Where it is the array of an automaton whose views have two words,
its type says so (`numbers_at` of an unsigned address), and the same text is compiled for these once more; so one word
costs what it did.  The second word is P[U_UPPER] words behind the first, where everything stands once more.  Bits of
the second word are there only where P is of that type.
"""

from __future__ import annotations

from seqfault.explore.jit import jit_views as jit
from seqfault.explore.raw import put_view_in, view_in
from seqfault.explore.tables import O_MEMORY

ONE, TWO = 60, 120  # bits of a view of one word, of two
# at P[O_MEMORY:], with those of memory_views.py
U_UPPER, U_KEPT, U_SHOWN, U_KNEW, U_STRONG, U_END = 49, 50, 52, 54, 56, 58


@jit
def upper(P):  # type: ignore[no-untyped-def]
    return P[P[O_MEMORY] + U_UPPER]


@jit
def view(B, P, w):  # type: ignore[no-untyped-def]
    """The view at word `w` of a state."""
    return view_in(P, B, w, upper(P))


@jit
def put_view(B, P, w, v):  # type: ignore[no-untyped-def]
    put_view_in(B, w, upper(P), v)


@jit
def add_view(B, P, w, v):  # type: ignore[no-untyped-def]
    """The view at word `w` has what `v` has, too."""
    put_view(B, P, w, view(B, P, w) | v)


@jit
def slide(B, P, first, end, by):  # type: ignore[no-untyped-def]
    """Words first to end - 1 of a state, and those of the upper halves, go `by` words up (or down, if it is less than
    zero)."""
    n = end - first
    for i in range(n):
        w = end - 1 - i if by > 0 else first + i
        B[w + by] = B[w]
    if upper(P):
        for i in range(n):
            w = (end - 1 - i if by > 0 else first + i) + upper(P)
            B[w + by] = B[w]


@jit
def blank(B, P, first, end):  # type: ignore[no-untyped-def]
    """Words first to end - 1 of a state, and those of the upper halves, are zero."""
    for w in range(first, end):
        B[w] = 0
    if upper(P):
        for w in range(first + upper(P), end + upper(P)):
            B[w] = 0


@jit
def noted(P, table, k):  # type: ignore[no-untyped-def]
    """View number `k` of a table of P (two words each)."""
    return view_in(P, P, P[O_MEMORY] + P[P[O_MEMORY] + table] + 2 * k, 1)


@jit
def note(P, table, k, v):  # type: ignore[no-untyped-def]
    put_view_in(P, P[O_MEMORY] + P[P[O_MEMORY] + table] + 2 * k, 1, v)


@jit
def handed(P, which):  # type: ignore[no-untyped-def]
    """A view that is left for later in a step: U_KEPT, U_SHOWN by an access, U_KNEW, U_STRONG by its beginning."""
    return view_in(P, P, P[O_MEMORY] + which, 1)


@jit
def hand(P, which, v):  # type: ignore[no-untyped-def]
    put_view_in(P, P[O_MEMORY] + which, 1, v)
