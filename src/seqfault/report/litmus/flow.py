"""Where the two ways of a branch meet again, so that a control dependency ends where the text ends it."""

from __future__ import annotations

from seqfault.compile.automaton import Automaton
from seqfault.compile.ops import Op

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
    """For each instruction its immediate postdominator; none if the function is left first.

    Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm", on the reversed graph.
    """
    n = len(a.code)
    out = n  # where every function is left
    after = [successors(a, pc) or [out] for pc in range(n)]
    before: list[list[int]] = [[] for _ in range(n + 1)]
    for pc, ss in enumerate(after):
        for s in ss:
            before[s].append(pc)
    order: list[int] = []
    seen = {out}
    stack = [(out, iter(before[out]))]
    while stack:
        node, rest = stack[-1]
        for m in rest:
            if m not in seen:
                seen.add(m)
                stack.append((m, iter(before[m])))
                break
        else:
            order.append(node)
            stack.pop()
    number = {node: i for i, node in enumerate(order)}
    idom = {out: out}

    def meet(x: int, y: int) -> int:
        while x != y:
            while number[x] < number[y]:
                x = idom[x]
            while number[y] < number[x]:
                y = idom[y]
        return x

    changed = True
    while changed:
        changed = False
        for node in reversed(order[:-1]):
            known = [s for s in after[node] if s in idom]
            new = known[0]
            for s in known[1:]:
                new = meet(new, s)
            if idom.get(node) != new:
                idom[node] = new
                changed = True
    return {pc: d for pc, d in idom.items() if d != out and pc != out}
