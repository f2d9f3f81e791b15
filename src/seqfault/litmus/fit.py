"""Which executions of the threads fit together.

Coherence and atomicity are sequential consistency of one cell by itself: its accesses have an order, with program order
in it, in which each read sees the last write. And what stands in critical sections of one lock is ordered as these are:
a section's accesses happen before those of a later one (hb, and `prop` back into the thread, forbid any rf, co or fr
against it). So what the threads' executions do to a cell, or to all cells that one lock protects, is played against
each other first; only executions that fit everywhere are put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from seqfault.litmus.threads import Limits, Trace
from seqfault.litmus.tree import Address, Value


class Op(NamedTuple):
    """An access: the cell's number in its group, what is read (None: nothing), what is written (None: nothing)."""

    cell: int
    reads: Value | None
    writes: Value | None


Block = tuple[Op, ...]  # what nothing comes between: one access, a read-modify-write, a critical section
Doings = tuple[Block, ...]  # of one execution of a thread, in one group
VARIABLE = ("R", "W")


class Trie:
    """The doings of one thread in one group: `next[node]` leads by a block to a node; `ends` numbers the doings."""

    def __init__(self) -> None:
        self.next: list[dict[Block, int]] = [{}]
        self.ends: dict[int, int] = {}

    def add(self, doings: Doings) -> int:
        """The number of these doings."""
        node = 0
        for b in doings:
            if b not in self.next[node]:
                self.next[node][b] = len(self.next)
                self.next.append({})
            node = self.next[node][b]
        return self.ends.setdefault(node, len(self.ends))


def fitting(traces: list[list[Trace]], init: dict[Address, Value], limits: Limits) -> Iterator[list[Trace]]:
    """One execution of each thread, such that they fit in every group.

    Raises:
        Incomplete: `limits` are passed.
    """
    groups = _groups(traces)
    numbers: list[list[list[int]]] = [[[] for _ in of] for of in traces]  # thread, execution, group: its doings
    steps: list[list[dict[tuple[int, int], int]]] = []  # group, thread: (prefix, doings) to the longer prefix
    for lock, cells in groups:
        index = {c: k for k, c in enumerate(cells)}
        tries = [Trie() for _ in traces]
        for t, of in enumerate(traces):
            for k, trace in enumerate(of):
                numbers[t][k].append(tries[t].add(_doings(trace, lock, index)))
        prefixes: dict[tuple[int, ...], int] = {(): 0}
        step: list[dict[tuple[int, int], int]] = [{} for _ in traces]
        for fits in _feasible(tries, tuple(init.get(c, 0) for c in cells), limits):
            at = 0
            for t, number in enumerate(fits):
                to = prefixes.setdefault(fits[: t + 1], len(prefixes))
                step[t][at, number] = to
                at = to
        steps.append(step)
    # executions of a thread by what they do in the group that tells the most of them apart
    index_of: list[tuple[int, dict[int, list[int]]]] = []
    for t, of in enumerate(traces):
        best, by = -1, {0: list(range(len(of)))}
        for g in range(len(groups)):
            kinds: dict[int, list[int]] = {}
            for k in range(len(of)):
                kinds.setdefault(numbers[t][k][g], []).append(k)
            if len(kinds) > len(by):
                best, by = g, kinds
        index_of.append((best, by))

    def go(t: int, at: list[int], chosen: list[Trace]) -> Iterator[list[Trace]]:
        if t == len(traces):
            yield chosen
            return
        best, by = index_of[t]
        for number, some in by.items():
            if best >= 0 and (at[best], number) not in steps[best][t]:
                continue
            for k in some:
                limits.count()
                to = [steps[g][t].get((at[g], n), -1) for g, n in enumerate(numbers[t][k])]
                if -1 not in to:
                    yield from go(t + 1, to, [*chosen, traces[t][k]])

    yield from go(0, [0] * len(groups), [])


def alone(traces: list[Trace], cell: Address) -> Trie:
    """What a thread does to one cell, in all of its executions."""
    out = Trie()
    for t in traces:
        out.add(_doings(t, None, {cell: 0}))
    return out


def reachable(tries: list[Trie], initial: Value, limits: Limits) -> set[Value]:
    """The values that a cell can have, if each thread does one of its doings there, or begins it."""
    return {memory[0] for _, memory in _states(tries, (initial,), limits)}


def _groups(traces: list[list[Trace]]) -> list[tuple[Address | None, list[Address]]]:
    """Each cell alone, or with the others that are only accessed with the same lock held."""
    held_at: dict[Address, set[Address]] = {}
    for of in traces:
        for trace in of:
            held: set[Address] = set()
            for e in trace.events:
                if e.address is None:
                    continue
                if e.kind == "LKW":
                    held.add(e.address)
                elif e.kind == "UL":
                    held.discard(e.address)
                elif e.kind in VARIABLE:
                    held_at[e.address] = held_at.get(e.address, held) & held
    alone: list[tuple[Address | None, list[Address]]] = []
    under: dict[Address, list[Address]] = {}
    for cell, locks in held_at.items():
        if locks:
            under.setdefault(min(locks), []).append(cell)
        else:
            alone.append((None, [cell]))
    return [*alone, *under.items()]


def _doings(trace: Trace, lock: Address | None, index: dict[Address, int]) -> Doings:
    out: list[Block] = []
    open_: list[Op] = []
    for i, e in enumerate(trace.events):
        if lock is not None and e.address == lock and e.kind in ("LKW", "UL"):
            if open_:
                out.append(tuple(open_))
                open_ = []
        elif e.kind in VARIABLE and e.address in index:
            cell = index[e.address]
            op = Op(cell, e.value, None) if e.kind == "R" else Op(cell, None, e.value)
            if lock is not None:
                open_.append(op)
            elif e.pair >= 0:  # the write of a read-modify-write
                out[-1] = (*out[-1], op)
            else:
                out.append((op,))
                assert e.pair < i
    return (*out, tuple(open_)) if open_ else tuple(out)


def _feasible(tries: list[Trie], memory: tuple[Value, ...], limits: Limits) -> list[tuple[int, ...]]:
    """Which doings, one of each thread, have an order in which each read sees the last write."""
    out: dict[tuple[int, ...], None] = {}
    for nodes, _ in _states(tries, memory, limits):
        if all(n in t.ends for n, t in zip(nodes, tries, strict=True)):
            out[tuple(t.ends[n] for n, t in zip(nodes, tries, strict=True))] = None
    return list(out)


State = tuple[tuple[int, ...], tuple[Value, ...]]  # of each thread how far it is, and the memory


def _states(tries: list[Trie], memory: tuple[Value, ...], limits: Limits) -> Iterator[State]:
    """Every state that the threads can come to from this memory."""
    start: State = (tuple(0 for _ in tries), memory)
    seen = {start}
    todo = [start]
    while todo:
        state = todo.pop()
        limits.count()
        yield state
        for after in _next(state, tries):
            if after not in seen:
                seen.add(after)
                todo.append(after)


def _next(state: State, tries: list[Trie]) -> Iterator[State]:
    """The states after one block of one thread."""
    nodes, memory = state
    for i, t in enumerate(tries):
        for block, n in t.next[nodes[i]].items():
            after = _played(block, memory)
            if after is not None:
                yield (*nodes[:i], n, *nodes[i + 1 :]), after


def _played(block: Block, memory: tuple[Value, ...]) -> tuple[Value, ...] | None:
    """The memory after a block, or None if a read does not see what it reads."""
    for cell, reads, writes in block:
        if reads is not None and memory[cell] != reads:
            return None
        if writes is not None:
            memory = (*memory[:cell], writes, *memory[cell + 1 :])
    return memory
