"""Executions that never end: livelock and starvation, each with a lasso.  docs/engine.md ("Progress") has the rules.

An execution that goes on for ever visits some strongly connected set of states again and again.  It is fair if every
CPU and every agent steps in that set or cannot step in some state of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqfault.compile.automaton import Automaton
from seqfault.explore.graph import COMPLETES, RESTARTS, Graph
from seqfault.explore.jit import jit_graph as jit

LIVELOCK, STARVATION = "livelock", "starvation"
ANY = -1


@dataclass(frozen=True)
class Lasso:
    """An execution that goes on for ever.

    `kind`: livelock (no CPU completes an operation) or starvation (`process` does not, others do).  `stem`, `loop`:
    (process, choice) of each step; the loop comes back to the state that the stem ends in.  `waits`: `process` takes
    no step in the loop, it waits for a lock that is free again and again.
    """

    kind: str
    process: int
    stem: list[tuple[int, int]]
    loop: list[tuple[int, int]]
    waits: bool = False


@jit
def has_cycle(begin, edges):  # type: ignore[no-untyped-def]
    """Whether there is any cycle: states without a predecessor are taken away, as long as there are any."""
    n = begin.shape[0] - 1
    inward = np.zeros(n, np.int32)
    for e in range(begin[n]):
        inward[edges[e, 0]] += 1
    work = np.empty(n, np.int32)
    k = 0
    for i in range(n):
        if inward[i] == 0:
            work[k] = i
            k += 1
    at = 0
    while at < k:
        i = work[at]
        at += 1
        for e in range(begin[i], begin[i + 1]):
            d = edges[e, 0]
            inward[d] -= 1
            if inward[d] == 0:
                work[k] = d
                k += 1
    return k < n


@jit
def kept(w, drop, flags):  # type: ignore[no-untyped-def]
    """Whether an edge stays when those are taken away that have one of `flags` (ANY: all) and are of a process in
    `drop`."""
    return (flags > 0 and w & flags == 0) or (drop >> (w & 255)) & 1 == 0


@jit
def components(begin, edges, drop, flags):  # type: ignore[no-untyped-def]
    """Number of the strongly connected component of each state (Tarjan's algorithm, without recursion), and how
    many."""
    n = begin.shape[0] - 1
    comp = np.full(n, -1, np.int32)
    order = np.full(n, -1, np.int32)
    low = np.zeros(n, np.int32)
    at = np.zeros(n, np.int64)
    stack = np.empty(n, np.int32)
    path = np.empty(n, np.int32)
    ns = 0
    count = 0
    ncomp = 0
    for root in range(n):
        if order[root] >= 0:
            continue
        depth = 0
        path[0] = root
        order[root] = low[root] = count
        count += 1
        at[root] = begin[root]
        stack[ns] = root
        ns += 1
        while depth >= 0:
            v = path[depth]
            if at[v] < begin[v + 1]:
                e = at[v]
                at[v] += 1
                if not kept(edges[e, 1], drop, flags):
                    continue
                d = edges[e, 0]
                if order[d] < 0:
                    order[d] = low[d] = count
                    count += 1
                    at[d] = begin[d]
                    stack[ns] = d
                    ns += 1
                    depth += 1
                    path[depth] = d
                elif comp[d] < 0 and order[d] < low[v]:
                    low[v] = order[d]
            else:
                if low[v] == order[v]:
                    while True:
                        ns -= 1
                        d = stack[ns]
                        comp[d] = ncomp
                        if d == v:
                            break
                    ncomp += 1
                depth -= 1
                if depth >= 0 and low[v] < low[path[depth]]:
                    low[path[depth]] = low[v]
    return comp, ncomp


@jit
def describe(begin, edges, able, drop, flags, comp, ncomp):  # type: ignore[no-untyped-def]
    """Of each component: first state, processes that step inside, that complete an operation inside, that can step
    somewhere, that cannot somewhere."""
    out = np.zeros((ncomp, 5), np.int64)
    out[:, 0] = -1
    for i in range(begin.shape[0] - 1):
        c = comp[i]
        if out[c, 0] < 0:
            out[c, 0] = i
        out[c, 3] |= able[i]
        out[c, 4] |= ~able[i]
        for e in range(begin[i], begin[i + 1]):
            w = edges[e, 1]
            if comp[edges[e, 0]] == c and kept(w, drop, flags):
                bit = np.int64(1) << (w & 255)
                out[c, 1] |= bit
                if w & 256:
                    out[c, 2] |= bit
    return out


@jit
def search(begin, edges, able, drop, flags, comp, first, must, either, complete, goal, back):  # type: ignore[no-untyped-def]
    """Breadth first from `first` inside its component: the last edge of a shortest way to `goal` (-1: none such), to a
    step of a process in `must`, to a completed operation of one in `complete`, or to a step, or a state without one,
    of a process in `either`.  -1 if there is none.  `back`: for each state the edge by which it was reached."""
    n = begin.shape[0] - 1
    work = np.empty(n, np.int32)
    work[0] = first
    back[:] = -1
    k = 1
    at = 0
    while at < k:
        i = work[at]
        at += 1
        for e in range(begin[i], begin[i + 1]):
            w = edges[e, 1]
            d = edges[e, 0]
            if comp[d] != comp[first] or not kept(w, drop, flags):
                continue
            p = w & 255
            bit = np.int64(1) << p
            hit = d == goal or bit & (must | either) != 0 or ~able[d] & either != 0
            if hit or (w & 256 and bit & complete != 0):
                return e
            if d != first and back[d] < 0:
                back[d] = e
                work[k] = d
                k += 1
    return -1


def mask(a: Automaton, *roles: int) -> int:
    return sum(1 << p for p, x in enumerate(a.processes) if x.role in roles)


def find_lassos(
    a: Automaton, g: Graph, path_to: Callable[[int], list[tuple[int, int]]], lock_waits: bool = False
) -> list[Lasso]:
    """Livelocks and starvations of each CPU, one of each with a shortest stem.

    `path_to`: a shortest path to a state.  `lock_waits`: a CPU that waits for a lock which is free again and again is
    starved too; without it only one that takes steps and does not come to an end.
    """
    if not has_cycle(g.begin, g.edges):
        return []
    cpus, fair = mask(a, 0), mask(a, 0, 1)
    out: list[Lasso] = []

    def look(drop: int, flags: int, kind: str, victims: int, waits: bool) -> None:
        comp, n = components(g.begin, g.edges, drop, flags)
        facts = describe(g.begin, g.edges, g.able, drop, flags, comp, n)
        first, steps, completes, can, cannot = facts.T
        good = (steps != 0) & ((~(steps | cannot) & fair) == 0)
        if kind == LIVELOCK:
            good &= (steps & victims) != 0
        elif waits:
            good &= ((can & victims) != 0) & ((completes & cpus) != 0)
        else:
            good &= ((steps & victims) != 0) & ((completes & cpus) != 0)
        if not good.any():
            return
        c = min(np.flatnonzero(good), key=lambda k: first[k])
        who = victims
        if kind == LIVELOCK:  # named after the first CPU that goes round
            who = int(steps[c]) & victims
            who &= -who
        loop = walk(g, drop, flags, comp, int(first[c]), 0 if waits else who, fair, kind == STARVATION, cpus)
        out.append(Lasso(kind, who.bit_length() - 1, path_to(int(first[c])), [g.step(e) for e in loop], waits))

    look(cpus, COMPLETES, LIVELOCK, cpus, False)
    for p, x in enumerate(a.processes):
        if x.role == 0:
            look(1 << p, COMPLETES | RESTARTS, STARVATION, 1 << p, False)
            if lock_waits and not any(v.process == p and v.kind == STARVATION for v in out):
                look(1 << p, ANY, STARVATION, 1 << p, True)
    return out


def walk(
    g: Graph, drop: int, flags: int, comp: NDArray[np.int32], first: int, must: int, fair: int, others: bool, cpus: int
) -> list[int]:
    """Edges of a short closed walk from `first` that is fair, has a step of `must`, and with `others` a completed
    operation."""
    back = np.empty(g.states, np.int64)
    either = fair & ~must & ~(~int(g.able[first]))
    complete = cpus if others else 0
    at = first
    out: list[int] = []
    while must or either or complete or at != first or not out:
        goal = first if not (must or either or complete) else -1
        e = int(search(g.begin, g.edges, g.able, drop, flags, comp, at, must, either, complete, goal, back))
        if e < 0:
            raise AssertionError("a component that was fair is not")
        part = [e]
        while g.source(part[-1]) != at:
            part.append(int(back[g.source(part[-1])]))
        for x in reversed(part):
            bit = 1 << (int(g.edges[x, 1]) & 255)
            must &= ~bit
            either &= ~(bit | ~int(g.able[g.edges[x, 0]]))
            if g.edges[x, 1] & COMPLETES:
                complete = 0
        out += part[::-1]
        at = int(g.edges[e, 0])
    return out


__all__ = ["LIVELOCK", "STARVATION", "Lasso", "find_lassos"]
