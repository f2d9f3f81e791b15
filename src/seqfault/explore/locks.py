"""Order inversions between classes of locks, over everything that was explored: what lockdep would say."""

from __future__ import annotations

from seqfault.explore.check import VIOLATED, Report, Violation

Edge = tuple[str, str, str, str]  # held class, taken class, where (function:line), scenario


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


def add_lock_cycles(report: Report) -> None:
    """Add a `lock-order-inversion` to the first scenario that has an edge of each cycle."""
    edges: dict[tuple[str, str], tuple[str, int]] = {}
    for i, s in enumerate(report.scenarios):
        for a, b, where, _ in s.lock_edges:
            edges.setdefault((a, b), (where, i))
    for ring in cycles(list(edges)):
        pairs = [(ring[i], ring[(i + 1) % len(ring)]) for i in range(len(ring))]
        where = [edges[p] for p in pairs]
        s = report.scenarios[max(i for _, i in where)]
        fn, _, line = where[-1][0].rpartition(":")
        v = Violation("lock-order-inversion", " -> ".join([*ring, ring[0]]), fn, "", int(line or 0))
        v.detail = "; ".join(f"{b} taken under {a} in {w}" for (a, b), (w, _) in zip(pairs, where, strict=True))
        s.violations.append(v)
        s.verdict = VIOLATED
