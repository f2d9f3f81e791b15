"""Memory models: how a step reaches shared memory, what more there is in a state, and which more steps there are.

`sc` is in memory_sc.py, and the interpreter calls it directly.  Another model is a file with `blocked`, `may_load`,
`load`, `store`, `fence`, `flush` (the steps that memory takes by itself) and `layered`, which gives an automaton the
words and the processes that it needs; the names here choose among them.
"""

from __future__ import annotations

from seqfault.compile.automaton import Automaton
from seqfault.explore import memory_buffers as buffers
from seqfault.explore.tables import MEMORY_MODELS

SC = "sc"
WAIT, FULL = buffers.WAIT, buffers.FULL
# what the interpreter calls when M_MEMORY is not sc; a model without buffers makes each of these a choice by M_MEMORY
blocked, may_load, load, store, fence = buffers.blocked, buffers.may_load, buffers.load, buffers.store, buffers.fence
leavers, flush, pending, object_of = buffers.leavers, buffers.flush, buffers.pending, buffers.object_of


def canonical(name: str) -> str:
    """The name of a memory model: ``sc``, ``tso``, ``pso``; ``tso:N``, ``pso:N`` with buffers of N stores (63
    otherwise).  Raises `ValueError`."""
    model, colon, number = name.partition(":")
    if model not in MEMORY_MODELS:
        raise ValueError(f"no memory model {model!r}; there are {', '.join(MEMORY_MODELS)}")
    if not colon:
        return model
    if model == SC or not number.isdigit() or not 1 <= int(number) <= buffers.MOST:
        known = f"sc, tso, pso, or tso:N, pso:N with 1 to {buffers.MOST} stores a buffer"
        raise ValueError(f"memory model {name!r}: write {known}")
    return f"{model}:{int(number)}"


def capacity(name: str) -> int:
    """Stores in a buffer of that model, at most."""
    return int(name.partition(":")[2] or buffers.MOST)


def bound(name: str) -> str:
    """What a limit of that model is called."""
    more = f"; --memory {name.partition(':')[0]} has more" if capacity(name) < buffers.MOST else ""
    return f"a store buffer was full (room for {capacity(name)}){more}"


def with_memory(a: Automaton, name: str) -> Automaton:
    """The automaton `a` (of `sc`) under the memory model `name`.  Raises `ValueError` for a name that is none."""
    name = canonical(name)
    return a if name == SC else buffers.layered(a, capacity(name), name.startswith("tso"))


__all__ = ["FULL", "SC", "WAIT", "bound", "canonical", "capacity", "with_memory"]
