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
LKMM = "lkmm"
# what the interpreter calls when M_MEMORY is not sc; a model without buffers makes each of these a choice by M_MEMORY
blocked, may_load, load, store, fence = buffers.blocked, buffers.may_load, buffers.load, buffers.store, buffers.fence
leavers, flush, pending, object_of = buffers.leavers, buffers.flush, buffers.pending, buffers.object_of


def canonical(name: str) -> str:
    """The name of a memory model: ``sc``, ``tso``, ``pso``, ``lkmm``; ``tso:N``, ``pso:N`` with buffers of N stores (63
    otherwise), ``lkmm:N`` with N stores that somebody may not have seen (60 otherwise, and where that is not enough
    120: `wider`).  Raises `ValueError`."""
    model, colon, number = name.partition(":")
    if model not in MEMORY_MODELS:
        raise ValueError(f"no memory model {model!r}; there are {', '.join(MEMORY_MODELS)}")
    if not colon:
        return model
    low, high = 2 if model == LKMM else 1, most(model)
    if model == SC or not number.isdigit() or not low <= int(number) <= high:
        known = f"sc, tso, pso, lkmm, or tso:N, pso:N with 1 to {buffers.MOST}, lkmm:N with 2 to {most(LKMM)} stores"
        raise ValueError(f"memory model {name!r}: write {known}")
    return f"{model}:{int(number)}"


def capacity(name: str) -> int:
    """Stores that there is room for in a buffer, or in the memory, of that model."""
    model, _, number = name.partition(":")
    if model == LKMM and not number:
        from seqfault.explore.memory_words import ONE  # what other models have no need of

        return ONE
    return int(number or most(model))


def wider(name: str) -> str:
    """The model that has more room, to explore with where `name` has none; "": there is none, or a number was asked
    for."""
    return f"{LKMM}:{most(LKMM)}" if name == LKMM else ""


def most(model: str) -> int:
    """The largest `capacity` of a model."""
    if model != LKMM:
        return buffers.MOST
    from seqfault.explore.memory_words import TWO  # what other models have no need of

    return TWO


def bound(name: str) -> str:
    """What a limit of that model is called."""
    model = name.partition(":")[0]
    room = capacity(wider(name) or name)
    more = f"; --memory {model} has more" if room < most(model) else ""
    if model == LKMM:
        return f"no room for more than {room} stores that somebody may not have seen{more}"
    return f"a store buffer was full (room for {room}){more}"


def with_memory(a: Automaton, name: str) -> Automaton:
    """The automaton `a` (of `sc`) under the memory model `name`.  Raises `ValueError` for a name that is none."""
    name = canonical(name)
    if name == SC:
        return a
    if name.startswith(LKMM):
        from seqfault.explore.memory_settle import viewed

        return viewed(a, capacity(name))
    return buffers.layered(a, capacity(name), name.startswith("tso"))


__all__ = ["LKMM", "SC", "bound", "canonical", "capacity", "wider", "with_memory"]
