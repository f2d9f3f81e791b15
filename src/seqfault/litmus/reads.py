"""Which values reads may return, and so the executions of each thread.

Which values a read could return is found as a fixpoint: at first those of the initial state, then also what the
threads write when their reads return those, and so on. Both ways of a branch are taken then, because in a cycle of
reads and writes each may be what makes the other happen, and it is for the model to forbid that. A value that an
execution computes has passed through each of its writes at most once, so as many rounds as there are writes are enough,
also for a counter that grows in each.
Where a cell has many, those that no order of its accesses leads to are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from seqfault.litmus.fit import alone, reachable
from seqfault.litmus.relations import bits
from seqfault.litmus.threads import INITIAL, How, Limits, Ranks, Trace, Writers, traces
from seqfault.litmus.tree import (
    Address,
    And,
    Litmus,
    LitmusError,
    Place,
    Prop,
    RegisterOf,
    Stmt,
    Thread,
    Value,
    holds,
    places_of,
)

MANY = 6  # values written to one cell, from which on it is worth to look which of them it can have


def executions(test: Litmus, limits: Limits, pruned: bool = True) -> list[list[Trace]]:
    """The executions of each thread of `test`; `pruned`: without those that coherence of the thread alone forbids.

    Raises:
        Incomplete: `limits` are passed.
        LitmusError: a spinlock or an srcu_struct is read or written as a variable.
    """
    writers: Writers = {at: {v: INITIAL} for at, v in test.init.items()}
    # how many writes of the same cell a value has passed through at least; more than there are is impossible
    depth: dict[tuple[Address, Value], int] = {(at, v): 0 for at, v in test.init.items()}
    rounds, writes, grown = 0, 0, True
    most: Counter[Address] = Counter()  # writes of each cell in one execution, at most
    storing = [t for t in test.threads if _stores(t.body)]
    seen: dict[int, list[Trace]] = {}
    while grown and rounds <= writes:
        grown = False
        rounds += 1
        found: dict[tuple[Address, Value, int], int] = {}
        most = Counter()
        for t in storing:
            here: Counter[Address] = Counter()
            seen[t.number] = list(traces(test, t, writers, limits, How(pruned, guess=True)))
            for trace in seen[t.number]:
                count: Counter[Address] = Counter()
                for at, v, d in _depths(trace, depth):
                    count[at] += 1
                    found[at, v, t.number] = min(found.get((at, v, t.number), d), d)
                here |= count
            most += here
        writes = most.total()
        can = _reachable(test, found, seen, limits) if pruned else {}
        for (at, v, thread), d in found.items():
            if d <= most[at] and (at not in can or v in can[at] or v in writers.get(at, {})):
                known = writers.setdefault(at, {0: INITIAL})
                who = known.get(v, 0) | 1 << thread
                grown |= who != known.get(v) or d < depth.get((at, v), 1 << 30)
                known[v] = who
                depth[at, v] = min(d, depth.get((at, v), d))
    asked = _of_one_thread(test)
    ranks = _ranks(test, seen) if pruned else [{} for _ in test.threads]
    out = [
        [
            trace
            for trace in traces(test, t, writers, limits, How(pruned, ranks=ranks[t.number]))
            if all(d <= most[at] for at, _, d in _depths(trace, depth))
            and all(holds(part, _registers(t, trace)) for part in asked[t.number])
        ]
        for t in test.threads
    ]
    _one_use(test, out)
    return out


def _reachable(
    test: Litmus, found: dict[tuple[Address, Value, int], int], seen: dict[int, list[Trace]], limits: Limits
) -> dict[Address, set[Value]]:
    """Of the cells with many values, those that some order of their accesses leads to."""
    many = Counter(at for at, _, _ in found)
    return {
        at: reachable([alone(of, at) for of in seen.values()], test.init.get(at, 0), limits)
        for at, n in many.items()
        if n > MANY
    }


def _stores(body: tuple[Stmt, ...]) -> bool:
    """Whether these statements may store something; the text of the tree names every node."""
    return any(word in str(body) for word in ("Store(", "Rmw("))


def _ranks(test: Litmus, seen: dict[int, list[Trace]]) -> list[Ranks]:
    """For each thread: of the cells that one other thread alone stores to, always alike, the order of their values."""
    longest: dict[Address, list[Value]] = {}
    by: dict[Address, set[int]] = {}
    unsure: set[Address] = set()
    for number, of in seen.items():
        for trace in of:
            here: dict[Address, list[Value]] = {}
            for e in trace.events:
                if e.kind == "W" and e.address is not None:
                    here.setdefault(e.address, []).append(e.value)
            for at, values in here.items():
                by.setdefault(at, set()).add(number)
                old = longest.setdefault(at, values)
                if values[: len(old)] != old[: len(values)]:
                    unsure.add(at)
                if len(values) > len(old):
                    longest[at] = values
    out: list[Ranks] = [{} for _ in test.threads]
    for at, values in longest.items():
        order = [test.init.get(at, 0), *values]
        if len(by[at]) == 1 and at not in unsure and len(set(order)) == len(order):
            for t in test.threads:
                if t.number not in by[at]:
                    out[t.number][at] = {v: k for k, v in enumerate(order)}
    return out


def _of_one_thread(test: Litmus) -> list[list[Prop]]:
    """For each thread the parts of the filter that speak of its registers alone."""
    out: list[list[Prop]] = [[] for _ in test.threads]
    parts = [test.filter] if test.filter is not None else []
    while parts:
        part = parts.pop()
        if isinstance(part, And):
            parts += part.parts
            continue
        threads = {p.thread if isinstance(p, RegisterOf) else -1 for p in places_of(part)}
        if len(threads) == 1 and -1 not in threads:
            out[threads.pop()].append(part)
    return out


def _registers(t: Thread, trace: Trace) -> dict[Place, Value]:
    return {RegisterOf(t.number, name): v for name, v in trace.registers.items()}


def _depths(trace: Trace, depth: dict[tuple[Address, Value], int]) -> Iterator[tuple[Address, Value, int]]:
    """The writes of an execution; each with one more than the values of its cell that it is computed from passed."""
    own: dict[Address, tuple[Value, int]] = {}
    read: dict[int, tuple[Address, int]] = {}
    for i, e in enumerate(trace.events):
        if e.address is None or e.kind not in "RW":
            continue
        if e.kind == "R":
            mine = own.get(e.address)
            d = depth.get((e.address, e.value), 1 << 30)
            if mine and mine[0] == e.value:
                d = min(d, mine[1])
            read[i] = e.address, d if d < 1 << 30 else 0
        else:
            passed = [read[j][1] for j in bits(e.data) if j in read and read[j][0] == e.address]
            d = 1 + max(passed, default=0)
            own[e.address] = e.value, d
            yield e.address, e.value, d


def _one_use(test: Litmus, out: list[list[Trace]]) -> None:
    """lock.cat's flag mixed-lock-accesses, as an error."""
    uses: dict[str, tuple[str, int]] = {}
    words = {"lock": "a spinlock", "srcu": "an srcu_struct", "variable": "a variable"}
    for of in out:
        for trace in of:
            for e in trace.events:
                if e.address is None:
                    continue
                use = "variable" if e.kind in "RW" else "srcu" if e.kind == "SRCU" else "lock"
                first = uses.setdefault(e.address.name, (use, e.line))
                if first[0] != use:
                    raise LitmusError(
                        test.file,
                        e.line,
                        f"{e.address.name} is used as {words[use]} here and as {words[first[0]]} in line {first[1]}; "
                        "use two names",
                    )
