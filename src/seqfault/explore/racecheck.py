"""Data races of a scenario, by the statements that race: `check --races`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from seqfault.compile.ir import Where
from seqfault.explore.check import ScenarioResult, statement_of
from seqfault.explore.engine import Exploration
from seqfault.explore.memory import SC
from seqfault.explore.model import automaton_for
from seqfault.explore.racewatch import Pair, Point, Race, Races, Side
from seqfault.kernel.places import Protocol
from seqfault.mm.locks import field_of
from seqfault.scenarios.model import Scenario

MODES = ("off", "report", "error")
_watches: dict[int, Races] = {}


def races_for(protocol: Protocol, scenario: Scenario, memory: str = SC) -> Races:
    """The watcher of the automaton that runs `scenario` under a memory model, empty.  It is the same for all of them:
    one at a time."""
    a = automaton_for(protocol, scenario, memory)
    if id(a) not in _watches:
        _watches[id(a)] = Races(a)
    _watches[id(a)].clear()
    return _watches[id(a)]


def point_of(x: Side) -> Point:
    fn, file, line = statement_of(x.where)
    return Point(fn, file, line, x.write, x.how, caller_of(x.where, fn))


def caller_of(w: Where, function: str) -> str:
    """Who called the function of a statement, where it is inlined, or ""."""
    names = [fn for fn, file, _ in (*w.chain, (w.function, w.file, w.line)) if not file.startswith("kernel/")]
    i = len(names) - 1 - names[::-1].index(function) if function in names else 0
    return names[i - 1] if i else ""


def races_of(w: Races, ex: Exploration) -> list[Race]:
    """What raced in an exploration, once for each field and two statements (with their callers), and a shortest way
    to it."""
    found: dict[tuple[Any, ...], tuple[Race, Pair]] = {}
    for x in w.pairs():
        at = sorted(
            zip(map(point_of, x.sides), x.steps, strict=True),
            key=lambda t: (t[0].write, t[0].file, t[0].line, t[0].how),
        )
        acc = x.sides[0].access
        new = Race(field_of(acc.pool, acc.path), (at[0][0], at[1][0]), w.a.cells[x.cell].name, x.count)
        new.memory, new.made = ex.automaton.memory, x.made
        new.schedule = [step for _, step in at if step[1] >= 0]
        old = found.get(new.key())
        if old is None:
            found[new.key()] = new, x
            continue
        best = min(old, (new, x), key=lambda t: t[1].state)  # states are numbered by their depth
        best[0].count = old[0].count + new.count
        found[new.key()] = best
    for race, pair in found.values():
        race.schedule = [*ex.path_to(pair.state), *race.schedule]
    return sorted((r for r, _ in found.values()), key=Race.key)


@dataclass
class RaceGroup:
    """One race in all scenarios that show it; `example`: as the first, with the shortest schedule, shows it."""

    example: Race
    scenario: str
    scenarios: list[str] = field(default_factory=list)


def grouped(results: Sequence[ScenarioResult]) -> list[RaceGroup]:
    """The races of a check, each once."""
    out: dict[tuple[Any, ...], RaceGroup] = {}
    for r in results:
        for x in r.races:
            g = out.setdefault(x.key(), RaceGroup(x, r.name))
            g.scenarios.append(r.name)
            if len(x.schedule) < len(g.example.schedule):
                g.example, g.scenario = x, r.name
    return [out[k] for k in sorted(out)]


def by_field(groups: Iterable[RaceGroup]) -> dict[str, list[RaceGroup]]:
    out: dict[str, list[RaceGroup]] = {}
    for g in groups:
        out.setdefault(g.example.field, []).append(g)
    return out


__all__ = ["MODES", "RaceGroup", "by_field", "grouped", "races_for", "races_of"]
