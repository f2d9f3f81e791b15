"""Explorations of a protocol with sites taken out, all on one automaton: which sites is a scenario's data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from seqfault.compile.automaton import Automaton, Int64, Words
from seqfault.compile.site_causes import GAVE_UP
from seqfault.compile.sites import COUNTER, Site
from seqfault.explore import interrupt
from seqfault.explore.check import LIMIT_KINDS, place_of
from seqfault.explore.engine import Exploration
from seqfault.explore.interrupt import INTERRUPTED
from seqfault.explore.many import explore_batch
from seqfault.explore.memory import SC
from seqfault.explore.model import numbers_of, sites_of, start_of, switches
from seqfault.explore.tiers import explore
from seqfault.kernel.places import Protocol
from seqfault.protocols import with_sites
from seqfault.scenarios.model import Scenario

BATCHED = 100_000  # states up to which a scenario shares a batch with others
Shown = tuple[str, str, str]  # kind of a violation, the struct, the function


@dataclass(frozen=True)
class Seen:
    """What one exploration showed: counts, outcomes, violations, how often each counted event was on a transition.

    `reason`: why it is not whole, or "".  `sites`: how often control came to each site, by number.
    """

    states: int
    transitions: int
    finals: int
    depth: int
    outcomes: frozenset[int]
    violations: frozenset[Shown]
    counters: dict[str, int] = field(default_factory=dict, hash=False)
    sites: dict[str, int] = field(default_factory=dict, hash=False)
    reason: str = ""

    def same(self, other: Seen) -> bool:
        """Whether two explorations are alike in everything that was counted (except how often sites were met)."""
        mine = (self.states, self.transitions, self.finals, self.depth, self.outcomes, self.violations, self.counters)
        return mine == (
            other.states, other.transitions, other.finals, other.depth, other.outcomes, other.violations,
            other.counters,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        d = asdict(self)
        d["outcomes"], d["violations"] = sorted(self.outcomes), sorted(self.violations)
        return d

    @staticmethod
    def from_json(d: dict[str, Any]) -> Seen:
        d = dict(d)
        d["outcomes"] = frozenset(d["outcomes"])
        d["violations"] = frozenset((k, o, f) for k, o, f in d["violations"])
        return Seen(**d)


def whole(protocol: str) -> Protocol:
    """A protocol with switches at its sites, and notes of which section moved each count."""
    return with_sites(protocol, causes=True)


Job = tuple[Scenario, tuple[str, ...]]  # and which sites are taken out


@dataclass
class Lab:
    """A protocol that is compiled with sites, under one memory model."""

    protocol: str
    memory: str = SC

    def start(self, scenario: Scenario, off: Iterable[str] = ()) -> tuple[Automaton, Words, Int64]:
        """The automaton, the state to begin in and the data of a scenario with these sites taken out."""
        a, words, rom = start_of(whole(self.protocol), scenario, self.memory)
        off = tuple(off)
        if off:
            at = {c: i for i, c in enumerate(a.rom_cells)}
            for c in switches(a, numbers_of(a, off, self.protocol)):
                rom[at[c]] = 1
        return a, words, rom

    def sites(self, scenario: Scenario) -> list[Site]:
        return sites_of(start_of(whole(self.protocol), scenario, self.memory)[0])

    def look(
        self, jobs: Sequence[Job], expect: Sequence[int], max_states: int, seconds: float | None, memory: int = 4 << 30
    ) -> list[Seen]:
        """Explore each job.  `expect`: how many states it will have, about; `max_states`, `seconds`, `memory` in bytes:
        limits of each."""
        limits: dict[str, Any] = {"max_states": max_states, "timeout": seconds, "max_memory": memory}
        out: list[Seen | None] = [None] * len(jobs)
        batches: dict[int, list[tuple[int, Automaton, Words, Int64]]] = {}
        for i, (s, off) in enumerate(jobs):
            a, words, rom = self.start(s, off)
            small = expect[i] <= BATCHED and not s.forever and self.memory == SC
            batches.setdefault(id(a) if small else -1 - i, []).append((i, a, words, rom))
        for key, group in batches.items():
            if interrupt.asked():
                break
            a = group[0][1]
            starts = [(w, r) for _, _, w, r in group]
            if key >= 0:
                found = explore_batch(a, starts, **limits)
            else:
                more = limits if a.memory != SC or a.renames else {**limits, "traced": False}
                found = [explore(a, *x, **more) for x in starts]
            for (i, *_), ex in zip(group, found, strict=True):
                out[i] = seen_of(a, ex)
        return [x or Seen(0, 0, 0, 0, frozenset(), frozenset(), reason=INTERRUPTED) for x in out]


def seen_of(a: Automaton, ex: Exploration) -> Seen:
    """What an exploration showed, in words that do not depend on the automaton."""
    shown = set()
    reason = "" if ex.complete else ex.reason
    for v in ex.violations:
        kind = a.kinds[v.kind]
        if kind in LIMIT_KINDS:
            reason = reason or kind
            continue
        shown.add((kind, a.pools[v.pool].name if v.pool >= 0 else "", place_of(a.where[v.pc])[0] if v.pc >= 0 else ""))
    numbers = {f"{COUNTER}{s.number}": s.name for s in sites_of(a)}
    causes = {f"{GAVE_UP}{s.number}": GAVE_UP + s.name for s in sites_of(a)}
    counted: dict[str, int] = {}
    sites: dict[str, int] = {}
    for i in np.flatnonzero(ex.counters).tolist():
        name = causes.get(a.counters[i], a.counters[i])
        (sites if name in numbers else counted)[numbers.get(name, name)] = int(ex.counters[i])
    return Seen(
        ex.states, ex.transitions, ex.finals, ex.depth, frozenset(ex.outcomes), frozenset(shown), counted, sites, reason
    )
