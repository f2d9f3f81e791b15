"""What a memory model adds to an automaton: words of the state, for each CPU or for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from seqfault.compile.automaton import Automaton


def units_of(a: Automaton) -> dict[tuple[str, int], list[int]]:
    """The processes of each CPU, and each process that is bound to none."""
    out: dict[tuple[str, int], list[int]] = {}
    for i, p in enumerate(a.processes):
        out.setdefault(("cpu", p.cpu) if p.bound else ("process", i), []).append(i)
    return out


def widened(a: Automaton, more: int, **changes: Any) -> Automaton:
    """`a` with `more` words behind those of its state; `changes`: of other fields."""
    tab = a.tab.copy()
    tab[(tab[:, 5] == 0) & (tab[:, 0] >= a.nw) & (tab[:, 2] != 0), 0] += more
    return replace(
        a,
        tab=tab,
        const_words=[(w + more, v) for w, v in a.const_words],
        nw=a.nw + more,
        observer_base=a.observer_base + more,
        state_bits=a.state_bits + 64 * more,
        **changes,
    )
