"""A litmus test, judged: every candidate execution, those that the model allows, what they end with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from seqfault.litmus.candidates import Choice, choices, combinations, split_locks
from seqfault.litmus.fit import fitting
from seqfault.litmus.lkmm import Broken, Execution, Outcome, Skeleton
from seqfault.litmus.reads import executions
from seqfault.litmus.threads import Limits, Trace
from seqfault.litmus.tree import Address, Litmus, LitmusError, Not, Place, RegisterOf, Value, holds, places_of


@dataclass(slots=True)
class Verdict:
    """What the model says of a litmus test.

    Attributes:
        places: what the states show, in order: registers of the condition and of ``locations``, then shared cells.
        states: final states, each a tuple of the values of `places`, with the number of allowed executions that end so.
        positive, negative: allowed executions whose final state satisfies the condition's proposition, and the others.
        flags: of linux-kernel.cat (``data-race``, ``mixed-accesses``, ``unbalanced-rcu-locking`` ...), and of what C
            leaves undefined (``null-dereference``, ``out-of-bounds``, ``division-by-zero`` ...).
        races: pairs of source lines of accesses that race, with ww-race, wr-race or rw-race.
        candidates: how many executions were looked at.
    """

    places: tuple[Place, ...]
    states: dict[tuple[Value, ...], int] = field(default_factory=dict)
    positive: int = 0
    negative: int = 0
    flags: set[str] = field(default_factory=set)
    races: set[tuple[int, int, str]] = field(default_factory=set)
    candidates: int = 0

    @property
    def observation(self) -> str:
        """``Never``, ``Sometimes`` or ``Always``, as herd7's Observation line."""
        return "Never" if not self.positive else "Sometimes" if self.negative else "Always"


def as_expected(test: Litmus, verdict: Verdict) -> bool | None:
    """Whether the file's ``Result:`` is what the model says; None if the file does not say."""
    if test.result == "DEADLOCK":
        return not verdict.states
    if test.result == "DATARACE":
        return "data-race" in verdict.flags
    return None if test.result is None else test.result == verdict.observation


def holds_for(test: Litmus, verdict: Verdict) -> bool:
    """herd7's ``Ok``: the condition with its quantifier."""
    kind = test.condition.kind if test.condition else "forall"
    if kind == "exists":
        return verdict.positive > 0
    return verdict.positive == 0 if kind == "~exists" else verdict.negative == 0


def places_shown(test: Litmus) -> tuple[Place, ...]:
    """The places of the condition and of ``locations``; registers first, by thread."""
    asked = set(test.locations) | (places_of(test.condition.prop) if test.condition else set())
    registers = sorted((p for p in asked if isinstance(p, RegisterOf)), key=lambda p: (p.thread, _natural(p.name)))
    return (*registers, *sorted(p for p in asked if isinstance(p, Address)))


def _natural(name: str) -> tuple[str, int, str]:
    digits = name[len(name.rstrip("0123456789")) :]
    return name.rstrip("0123456789"), int(digits or 0), name


@dataclass(slots=True)
class Candidate:
    """A candidate execution: its skeleton, the combination of threads, one choice for each cell."""

    skeleton: Skeleton
    traces: list[Trace]
    chosen: list[Choice]

    def execution(self) -> Execution:
        """With rf and co filled in."""
        rf: dict[int, int] = {}
        co = [0] * self.skeleton.n
        for choice in self.chosen:
            rf |= dict(choice.rf)
            later = 0
            for w in reversed(choice.order):
                co[w] = later
                later |= 1 << w
        return Execution(self.skeleton, rf, co)

    def final(self, test: Litmus) -> dict[Place, Value]:
        """Registers and shared cells at the end."""
        state: dict[Place, Value] = {a: v for a, v in test.init.items()}
        for choice in self.chosen:
            e = self.skeleton.events[choice.order[-1]]
            assert e.address is not None
            state[e.address] = e.value
        for number, t in enumerate(self.traces):
            for name, v in t.registers.items():
                state[RegisterOf(number, name)] = v
        return state


def candidates(test: Litmus, limits: Limits, pruned: bool = True) -> Iterator[Candidate]:
    """Candidate executions of `test`; `pruned`: only coherent and atomic ones.

    Raises:
        Incomplete: `limits` are passed.
        LitmusError: a cell is used both as a lock and as a variable.
    """
    known: dict[tuple[object, ...], Skeleton] = {}
    combine = fitting if pruned else combinations
    for combination in combine(executions(test, limits, pruned), test.init, limits):
        key = tuple(_shape(t) for t in combination)
        s = Skeleton.like(known[key], combination) if key in known else Skeleton(combination, test.init, test.model)
        known.setdefault(key, s)
        of_locks, others = split_locks(s)
        locked = [list(choices(s, cell, limits, pruned)) for cell in of_locks]
        if not all(locked):
            continue
        for held in product(*locked):  # the order of the critical sections first: much follows from it
            must = s.after_locks([c.order for c in held]) if pruned else None
            cells = [[c] for c in held]
            for cell in others:
                cells.append(list(choices(s, cell, limits, pruned, must)))
                if not cells[-1]:
                    break
            else:
                yield from _multiply(s, combination, cells, limits, pruned)


def _shape(trace: Trace) -> tuple[object, ...]:
    """All of an execution of a thread that the static relations depend on; of values, only SRCU's."""
    return tuple(
        (e.kind, e.tag, e.address, e.addr, e.data, e.ctrl, e.flow, e.pair, e.atomic, e.value if e.kind == "SRCU" else 0)
        for e in trace.events
    )


def _multiply(
    s: Skeleton, combination: list[Trace], cells: list[list[Choice]], limits: Limits, pruned: bool
) -> Iterator[Candidate]:
    """The product of the cells' choices; a partial one that breaks happens-before already ends its branch."""
    single = [c[0] for c in cells if len(c) == 1]
    many = sorted((c for c in cells if len(c) > 1), key=len)

    def go(chosen: list[Choice], k: int) -> Iterator[Candidate]:
        limits.count()
        here = Candidate(s, combination, chosen)
        if pruned and len(many) > 1 and 0 < k < len(many) and not here.execution().early():
            return
        if k == len(many):
            yield here
            return
        for choice in many[k]:
            yield from go([*chosen, choice], k + 1)

    return go(single, 0)


def judge(test: Litmus, limits: Limits | None = None, pruned: bool = True) -> Verdict:
    """What LKMM says of a litmus test, as `test.model` has it.

    Args:
        test: what `parse` gives.
        limits: where to give up; none by default.
        pruned: False looks at every rf and co, also at those that coherence forbids; slow, the result is the same.

    Raises:
        Incomplete: `limits` are passed.
        LitmusError: the test uses a cell both as a lock and as a variable, or tests a lock's final value.
    """
    limits = limits or Limits()
    verdict = Verdict(places_shown(test))
    locks = _locks(test)
    for p in verdict.places:
        if isinstance(p, Address) and p.name in locks:
            raise LitmusError(test.file, 1, f"the final value of {p.name}, a lock, cannot be asked for (lock-final)")
    for c in candidates(test, limits, pruned):
        outcome = examine(c, pruned)
        verdict.candidates += 1
        if outcome.broken:
            continue
        state = c.final(test)
        if test.filter and not holds(test.filter, state):
            continue
        shown = tuple(state.get(p, 0) for p in verdict.places)
        verdict.states[shown] = verdict.states.get(shown, 0) + 1
        if test.condition is None or holds(test.condition.prop, state):
            verdict.positive += 1
        else:
            verdict.negative += 1
        verdict.flags |= outcome.flags
        for t in c.traces:
            verdict.flags |= t.flags
        for a, b, kind in outcome.races:
            verdict.races.add((c.skeleton.events[a].line, c.skeleton.events[b].line, kind))
    return verdict


def _locks(test: Litmus) -> set[str]:
    return {name for name, kind in test.kinds.items() if kind in ("spinlock_t", "struct srcu_struct")}


def examine(c: Candidate, pruned: bool = True) -> Outcome:
    """The model's word on one candidate; coherence is looked at if it is not `pruned` already."""
    x = c.execution()
    if not pruned and (broken := x.coherence()):
        return Outcome(broken)
    out = x.judge()
    if c.skeleton.Plain and not out.broken and (broken := x.thin_air()):  # of marked accesses, happens-before says so
        return Outcome(broken)
    return out


def forbidden(test: Litmus, limits: Limits) -> tuple[Candidate, Broken] | None:
    """Why the state that is asked about is not reached: the shortest cycle of a candidate that would reach it.

    Coherent candidates come first; only if there is none, coherence or atomicity itself is the reason. None: no
    candidate ends so, because no thread writes such values.

    Raises:
        Incomplete: `limits` are passed.
    """
    if test.condition is None:
        return None
    prop = Not(test.condition.prop) if test.condition.kind == "forall" else test.condition.prop
    for pruned in (True, False):
        best: tuple[Candidate, Broken] | None = None
        for c in candidates(test, limits, pruned):
            state = c.final(test)
            if not holds(prop, state) or (test.filter and not holds(test.filter, state)):
                continue
            broken = examine(c, pruned).broken
            if broken and (best is None or len(broken.edges) < len(best[1].edges)):
                best = c, broken
        if best:
            return best
    return None
