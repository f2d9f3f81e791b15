"""Where the two ways of a branch meet again, so that a control dependency ends where the text ends it."""

from __future__ import annotations

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op
from seqfault.explore.dominators import EXIT, post_dominators

LEAVES = (Op.RET, Op.HALT, Op.RELAX, Op.STOPPATH)


def successors(a: Automaton, pc: int) -> list[int]:
    """Instructions that may follow in the same function; a call is followed by what comes after it."""
    row = a.code[pc]
    op = int(row[0])
    if op in LEAVES:
        return []
    if op == Op.BR:
        return [int(row[8]), int(row[2])]
    if op in (Op.BREQ, Op.BRNE, Op.BRLT, Op.BRLE):
        return [int(row[8]), int(row[3])]
    return [int(row[8])]


def joins(a: Automaton) -> dict[int, int]:
    """For each instruction its immediate postdominator; none if the function is left first."""
    pcs = range(len(a.code))
    after = [successors(a, pc) for pc in pcs]
    meets = post_dominators(pcs, after.__getitem__, {pc for pc in pcs if not after[pc]})
    return {pc: d for pc, d in meets.items() if d != EXIT}
