"""A variant of a protocol held against it: what shows that did not, what no longer does, what faults gain."""

from __future__ import annotations

from dataclasses import dataclass, field

from seqfault.explore.memory import SC
from seqfault.why.classify import FALLBACK, SUCCESS, Study, counted
from seqfault.why.lab import Shown


@dataclass
class Row:
    """Scenarios of one operation and merge case: in how many something new shows, or something no longer does; steps
    at which a speculative fault gave up, or succeeded: of the protocol, of the variant."""

    scenarios: int = 0
    new: int = 0
    gone: int = 0
    give_ups: tuple[int, int] = (0, 0)
    successes: tuple[int, int] = (0, 0)


@dataclass
class Comparison:
    """`new`, `gone`: what shows -> the scenarios.  `reasons`: scenarios of the variant that a limit ended."""

    variant: str
    memory: str
    new: dict[Shown, list[str]] = field(default_factory=dict)
    gone: dict[Shown, list[str]] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    scenarios: int = 0
    changed: int = 0


def compare(study: Study, variant: str, memory: str = SC) -> Comparison:
    """Explore every scenario of a study, whose protocol was explored already, under the variant."""
    out = Comparison(variant, memory)
    usable = study.usable(memory)
    base = study.whole[memory]
    seen = study.crew.look(memory, [(s, ()) for s in usable], [base[s.name].states for s in usable], variant)
    for s, x in zip(usable, seen, strict=True):
        old = base[s.name]
        if x.reason:
            out.reasons.append(f"{s.name}: {x.reason}")
            continue
        new, gone = study.new_of(s, memory, old, x), sorted(old.violations - x.violations)
        for w in new:
            out.new.setdefault(w, []).append(s.name)
        for w in gone:
            out.gone.setdefault(w, []).append(s.name)
        out.scenarios += 1
        out.changed += not x.same(old)
        row = out.rows.setdefault(study.label(s), Row())
        row.scenarios += 1
        row.new += bool(new)
        row.gone += bool(gone)
        row.give_ups = counted(row.give_ups, FALLBACK, old, x)
        row.successes = counted(row.successes, SUCCESS, old, x)
    return out
