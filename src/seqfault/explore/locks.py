"""Order inversions between classes of locks, over everything that was explored: what lockdep would say."""

from __future__ import annotations


def cycles(edges: list[tuple[str, str]]) -> list[list[str]]:
    """Shortest cycle through each edge that lies on one, each cycle once (rotated to begin with its least name)."""
    graph: dict[str, set[str]] = {}
    for a, b in edges:
        graph.setdefault(a, set()).add(b)
    out: dict[tuple[str, ...], list[str]] = {}
    for a, b in sorted(set(edges)):
        path = _path(graph, b, a)
        if path is None:
            continue
        ring = [a, *path[:-1]] if path[-1] == a and len(path) > 1 else [a]
        i = ring.index(min(ring))
        ring = ring[i:] + ring[:i]
        out.setdefault(tuple(ring), ring)
    return list(out.values())


def _path(graph: dict[str, set[str]], start: str, goal: str) -> list[str] | None:
    seen = {start: ""}
    work = [start]
    while work:
        x = work.pop(0)
        if x == goal:
            out = [x]
            while seen[out[-1]]:
                out.append(seen[out[-1]])
            return out[::-1]
        for y in sorted(graph.get(x, ())):
            if y not in seen:
                seen[y] = x
                work.append(y)
    return None
