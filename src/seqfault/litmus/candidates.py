"""Candidate executions: which write each read reads from, and in which order the writes of a cell are.

Coherence and atomicity look at one cell at a time (every edge of ``po-loc | com`` stays in its cell), so the choices of
each cell are found alone, already coherent, and multiplied; `pruned=False` gives every choice, for comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product
from typing import NamedTuple

from seqfault.litmus.lkmm import Skeleton
from seqfault.litmus.relations import Rows, acyclic, bits
from seqfault.litmus.threads import Limits, Trace
from seqfault.litmus.tree import Address, Value


class Choice(NamedTuple):
    """What is chosen for one cell: sources of its reads; its writes in coherence order, the initial one first."""

    rf: tuple[tuple[int, int], ...]
    order: tuple[int, ...]


def combinations(traces: list[list[Trace]], init: dict[Address, Value], limits: Limits) -> Iterator[list[Trace]]:
    """One execution of each thread, such that every value that is read is written by one of them or initial."""
    keys: dict[tuple[Address, Value], int] = {}

    def mask(t: Trace, kind: str) -> int:
        out = 0
        for e in t.events:
            if e.kind == kind and e.address is not None:
                out |= 1 << keys.setdefault((e.address, e.value), len(keys))
        return out

    needs = [[mask(t, "R") for t in of] for of in traces]
    gives = [[mask(t, "W") for t in of] for of in traces]
    initial = sum(1 << i for (a, v), i in keys.items() if init.get(a, 0) == v)
    givers: list[dict[int, list[int]]] = []  # of each thread: which executions write a value
    for of in gives:
        index: dict[int, list[int]] = {}
        for i, given in enumerate(of):
            for b in bits(given):
                index.setdefault(1 << b, []).append(i)
        givers.append(index)
    every = [0] * len(traces)
    for t, of in enumerate(gives):
        for given in of:
            every[t] |= given

    def pick(chosen: dict[int, int], need: int, given: int, avoid: tuple[int, ...]) -> Iterator[dict[int, int]]:
        """`avoid`: values that a thread must not write, because the executions that write them had their turn."""
        limits.count()
        left = [t for t in range(len(traces)) if t not in chosen]
        if not left:
            if not need & ~given:
                yield chosen
            return
        missing = need & ~given
        for t in left:
            missing &= ~every[t]
        if missing:
            return
        missing = need & ~given
        wanted = min(
            (1 << b for b in bits(missing)), key=lambda b: sum(len(givers[t].get(b, ())) for t in left), default=0
        )
        # a value that is read and not yet written says whose turn it is
        turns = left if wanted else [min(left, key=lambda t: len(traces[t]))]
        for t in turns:
            for i in givers[t].get(wanted, []) if wanted else range(len(traces[t])):
                last = len(left) == 1 and missing & ~gives[t][i]
                if not last and not gives[t][i] & avoid[t]:
                    yield from pick(chosen | {t: i}, need | needs[t][i], given | gives[t][i], avoid)
            avoid = (*avoid[:t], avoid[t] | wanted, *avoid[t + 1 :])

    for chosen in pick({}, 0, initial, (0,) * len(traces)):
        yield [of[chosen[t]] for t, of in enumerate(traces)]


def by_cell(s: Skeleton) -> dict[Address, list[int]]:
    """The accesses of each cell, in the order of their numbers."""
    out: dict[Address, list[int]] = {}
    for i, e in enumerate(s.events):
        if s.M >> i & 1 and e.address is not None and e.kind != "SRCU":
            out.setdefault(e.address, []).append(i)
    return out


def _is_lock(s: Skeleton, cell: list[int]) -> bool:
    return s.locks and any(s.events[i].kind in ("LKR", "LKW", "UL", "LF", "RU") for i in cell)


def split_locks(s: Skeleton) -> tuple[list[list[int]], list[list[int]]]:
    """The accesses of each lock, and of each variable."""
    cells = list(by_cell(s).values())
    return [c for c in cells if _is_lock(s, c)], [c for c in cells if not _is_lock(s, c)]


def choices(
    s: Skeleton, cell: list[int], limits: Limits, pruned: bool = True, must: Rows | None = None
) -> Iterator[Choice]:
    """The choices of one cell; `pruned` leaves out those that coherence or atomicity forbids.

    `must`: which events come later (`Skeleton.after_locks`); no rf, co or fr goes against it.
    """
    if _is_lock(s, cell):
        return _lock_choices(s, cell, limits, pruned)
    return _variable_choices(s, cell, limits, must) if pruned else _every_choice(s, cell, limits)


def _variable_choices(s: Skeleton, cell: list[int], limits: Limits, must: Rows | None) -> Iterator[Choice]:
    """Coherence of a variable.

    Along each thread, the place in coherence order that an access sees never falls, and rises at a write; the write of
    an RMW comes right after what its read reads from.
    """
    inside = sum(1 << i for i in cell)
    later = {i: must[i] & inside for i in cell} if must else {}
    early = {i: [j for j in cell if later[j] >> i & 1] for i in cell} if any(later.values()) else {}
    first = cell[0]
    threads: dict[int, list[int]] = {}
    for i in cell[1:]:
        threads.setdefault(s.thread[i], []).append(i)
    writes = {t: [i for i in of if s.W >> i & 1] for t, of in threads.items()}
    partner = {b: a for a, b in s.rmw.pairs()}
    value = [e.value for e in s.events]

    def orders(order: list[int], at: dict[int, int]) -> Iterator[list[int]]:
        limits.count()
        done = True
        for t, of in writes.items():
            if at[t] < len(of):
                done = False
                w = of[at[t]]
                if w in partner and value[partner[w]] != value[order[-1]]:
                    continue
                if early and any(s.W >> j & 1 and j not in order for j in early[w]):
                    continue
                yield from orders([*order, w], at | {t: at[t] + 1})
        if done:
            yield order

    for order in orders([first], dict.fromkeys(writes, 0)):
        place = {w: k for k, w in enumerate(order)}
        sources: list[list[tuple[tuple[int, int], ...]]] = []
        for of in threads.values():
            found: list[tuple[tuple[int, int], ...]] = []
            _along(s, of, 0, 0, order, place, partner, (), found, (later, early))
            sources.append(found)
        for chosen in product(*sources):
            limits.count()
            yield Choice(tuple(pair for part in chosen for pair in part), tuple(order))


def _along(
    s: Skeleton,
    of: list[int],
    k: int,
    low: int,
    order: list[int],
    place: dict[int, int],
    partner: dict[int, int],
    rf: tuple[tuple[int, int], ...],
    found: list[tuple[tuple[int, int], ...]],
    must: tuple[dict[int, int], dict[int, list[int]]],
) -> None:
    """Sources for the reads of one thread from its `k`th access on, none before place `low`."""
    if k == len(of):
        found.append(rf)
        return
    i = of[k]
    if s.W >> i & 1:
        if place[i] > low:
            if i in partner and dict(rf)[partner[i]] != order[place[i] - 1]:
                return
            _along(s, of, k + 1, place[i], order, place, partner, rf, found, must)
        return
    v, end = s.events[i].value, len(order)
    later, early = must
    if early:
        low = max(low, *(place[w] for w in early[i] if w in place), 0)
        end = min([end, *(place[w] for w in bits(later[i]) if w in place)])
    for p in range(low, end):
        if s.events[order[p]].value == v:
            _along(s, of, k + 1, p, order, place, partner, (*rf, (i, order[p])), found, must)


def _every_choice(s: Skeleton, cell: list[int], limits: Limits) -> Iterator[Choice]:
    writes = [i for i in cell[1:] if s.W >> i & 1]
    reads = [i for i in cell if s.R >> i & 1]
    sources = [[w for w in [cell[0], *writes] if s.events[w].value == s.events[r].value] for r in reads]
    for order in permutations(writes):
        for chosen in product(*sources):
            limits.count()
            yield Choice(tuple(zip(reads, chosen, strict=True)), (cell[0], *order))


def _lock_choices(s: Skeleton, cell: list[int], limits: Limits, pruned: bool) -> Iterator[Choice]:
    """lock.cat: the order of the critical sections, and what spin_trylock and spin_is_locked see."""
    kind = {i: s.events[i].kind for i in cell}
    sections: list[tuple[int, int, int | None]] = []  # LKR, LKW, UL
    held: dict[int, int] = {}
    unheld: list[int] = []
    for i in cell[1:]:
        t = s.thread[i]
        if kind[i] == "LKR":
            if t in held:
                return  # lock-nest: a lock that the thread holds is never had
            held[t] = len(sections)
            sections.append((i, i + 1, None))
        elif kind[i] == "UL":
            if t in held:
                n = held.pop(t)
                sections[n] = (*sections[n][:2], i)
            else:
                unheld.append(i)
    if unheld:
        s.flags.add("unmatched-unlock")
    if len(held) > 1:
        return  # unmatched-locks: all but one wait for ever
    last = sections.pop(next(iter(held.values()))) if held else None
    seers = [i for i in cell if kind[i] in ("LF", "RU")]
    sources = [_seen_by(s, i, cell, kind) for i in seers]
    for perm in permutations(sections):
        limits.count()
        order, rf = [cell[0]], []
        for lkr, lkw, ul in [*perm, *([last] if last else [])]:
            rf.append((lkr, order[-1]))
            order.append(lkw)
            if ul is not None:
                order.append(ul)
        for chosen in product(*sources):
            limits.count()
            choice = Choice((*rf, *zip(seers, chosen, strict=True)), tuple(order))
            if not pruned or _coherent(s, cell, choice):
                yield choice


def _seen_by(s: Skeleton, r: int, cell: list[int], kind: dict[int, str]) -> list[int]:
    """lock.cat's rfi-lf, rfe-lf and rf-ru: where a failed trylock or a spin_is_locked may read from."""
    mine = [i for i in cell if s.thread[i] == s.thread[r] and i < r and kind[i] in ("LKW", "UL")]
    held = bool(mine) and kind[mine[-1]] == "LKW"
    others = [i for i in cell[1:] if s.thread[i] != s.thread[r]]
    if kind[r] == "LF":
        return [mine[-1]] if held else [i for i in others if kind[i] == "LKW"]
    own = [i for i in mine if kind[i] == "UL"]
    # an UL with a later lock of the same thread before the read is not seen
    own = [i for i in own if not any(i < k and kind[k] == "LKW" for k in mine)]
    return [cell[0], *[i for i in others if kind[i] == "UL"], *own]


def _coherent(s: Skeleton, cell: list[int], choice: Choice) -> bool:
    """``acyclic po-loc | com`` within one cell."""
    rows = [0] * s.n
    inside = sum(1 << i for i in cell)
    for i in cell:
        rows[i] = s.po_loc.rows[i] & inside
    later = 0
    after = {}
    for w in reversed(choice.order):
        after[w] = later
        rows[w] |= later
        later |= 1 << w
    for r, w in choice.rf:
        rows[w] |= 1 << r
        rows[r] |= after.get(w, 0)
    return acyclic(rows)
