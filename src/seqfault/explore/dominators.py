"""Where all ways from an instruction come together again: immediate post-dominators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

EXIT = -1  # the function's end, wherever that is


def post_dominators(
    pcs: Iterable[int], successors: Callable[[int], Sequence[int]], ends: set[int]
) -> dict[int, int]:
    """Of instructions, where all ways from each to one of `ends` first meet; EXIT: behind the end; none: it has no such
    way.

    Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm", on the reversed graph.
    """
    succ = {pc: successors(pc) for pc in pcs}
    pred: dict[int, list[int]] = {pc: [] for pc in pcs}
    for pc, to in succ.items():
        for s in to:
            pred[s].append(pc)
    order: list[int] = []  # from the ends on, each behind all of those that it leads to as far as there is no loop
    seen = set(ends)
    for e in sorted(ends):
        stack = [(e, iter(pred[e]))]
        while stack:
            pc, more = stack[-1]
            for p in more:
                if p not in seen:
                    seen.add(p)
                    stack.append((p, iter(pred[p])))
                    break
            else:
                order.append(pc)
                stack.pop()
    order.reverse()
    number = {pc: i for i, pc in enumerate(order)} | {EXIT: -1}
    out: dict[int, int] = dict.fromkeys(ends, EXIT)
    changed = True
    while changed:
        changed = False
        for pc in order:
            if pc in ends:
                continue
            best: int | None = None
            for s in succ[pc]:
                if s not in out:
                    continue
                if best is None:
                    best = s
                    continue
                x, y = best, s
                while x != y:
                    while number[x] > number[y]:
                        x = out[x]
                    while number[y] > number[x]:
                        y = out[y]
                best = x
            if best is not None and out.get(pc) != best:
                out[pc] = best
                changed = True
    return out
