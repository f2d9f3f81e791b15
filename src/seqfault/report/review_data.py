"""What a review says, as data: the page and the mail are drawn from it, and --json prints it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import seqfault
from seqfault.cli import EXIT
from seqfault.explore.check import HOLDS, INCOMPLETE, VIOLATED, Report, worst
from seqfault.kernel.places import Protocol
from seqfault.report.columns import title
from seqfault.report.late import PassedOver, passed_over
from seqfault.report.matrix import family, matrix
from seqfault.report.review_causes import Group
from seqfault.report.review_words import Section, document
from seqfault.scenarios.model import Scenario

MEANING = {
    HOLDS: "no violation in any interleaving of these scenarios",
    VIOLATED: "at least one interleaving violates an oracle, or shows what mmap-sem never shows",
    INCOMPLETE: "a limit was reached: nothing was found, and not everything was looked at",
}
LIMITS = ("Stubbed: there, but less than Linux's", "Different", "Not modelled, by name", "What a verdict covers")


@dataclass
class Table:
    """A table that another command makes: `columns`, and `rows` of as many words each.  Without rows, `command` says
    how to come by them."""

    title: str
    command: str
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def data(self) -> dict[str, Any]:
        return {
            "title": self.title, "command": self.command, "columns": self.columns, "rows": self.rows, "note": self.note,
        }  # fmt: skip


@dataclass
class Trace:
    """A counterexample: `data` for the page (None: there is no schedule), `drawn` as the terminal draws it in 80
    columns, `mail` in 72."""

    data: dict[str, Any] | None = None
    drawn: list[str] = field(default_factory=list)
    mail: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """A workload: the series of the protocol and of mmap-sem on the text of its release (the same for mmap-sem itself),
    as `price --json` has them; `misses`: what docs/validation.md says of it; `notes`: what bounds the figures."""

    name: str
    title: str
    unit: str
    source: str
    own: dict[str, Any]
    base: dict[str, Any]
    misses: list[str]
    notes: list[str]

    @property
    def rows(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """For each number of CPUs the protocol's point and that of mmap-sem."""
        return list(zip(self.own["points"], self.base["points"], strict=True))


@dataclass
class Prices:
    """What the protocol buys: `workloads` as `price --json` has them (None: none was asked for), `traces` as `whatif
    --json` does, the `commands` that make the figures again."""

    workloads: dict[str, Any] | None
    traces: list[dict[str, Any]]
    commands: list[str]
    compared: list[Comparison] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        return {"workloads": self.workloads, "traces": self.traces, "commands": self.commands}


@dataclass
class Review:
    """All that a report says.  `traces`: (number of the group, of the member in it) -> its counterexample."""

    protocol: Protocol
    command: str
    reports: list[Report]
    groups: list[Group]
    traces: dict[tuple[int, int], Trace] = field(default_factory=dict)
    texts: list[dict[str, Any]] = field(default_factory=list)
    sites: Table | None = None
    prices: Prices | None = None
    selection: str = ""
    scenarios: list[Scenario] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return worst(r.verdict for r in self.reports)

    @cached_property
    def over(self) -> dict[str, PassedOver]:
        """What was passed over, by memory model."""
        each = ((r.memory, passed_over(r, self.protocol, self.scenarios)) for r in self.reports)
        return {m: x for m, x in each if x is not None}

    @property
    def memories(self) -> list[str]:
        return [r.memory for r in self.reports]


def shown(by_memory: dict[str, set[str]]) -> dict[str, int]:
    return {m: len(names) for m, names in by_memory.items()}


def groups_data(review: Review) -> list[dict[str, Any]]:
    """Each group with its members; `trace`: the number of its counterexample among `traces`."""
    out = []
    number = {key: i for i, key in enumerate(sorted(review.traces))}
    for n, g in enumerate(review.groups):
        c = g.cause
        members = []
        for k, m in enumerate(ordered(g)):
            v = m.violation
            trace = review.traces.get((n, k))
            members.append(
                {
                    "kind": v.kind, "object": v.object, "function": v.function, "file": v.file, "line": v.line,
                    "site": v.site, "detail": v.detail, "scenarios": shown(m.shown), "example": m.scenario,
                    "schedule": trace.data["schedule"] if trace and trace.data else "",
                    "trace": number[n, k] if trace and trace.data else None,
                    "steps": len(v.schedule),
                }
            )  # fmt: skip
        out.append(
            {
                "title": c.text(), "kind": c.kind, "object": c.object, "site": c.site, "how": c.how, "inside": c.inside,
                "baseline": c.baseline, "scenarios": shown(g.shown), "in_all": g.scenarios,
                "families": dict(Counter(family(s) for s in set().union(*g.shown.values())).most_common()),
                "members": members, "drawn": review.traces[n, 0].drawn if (n, 0) in review.traces else [],
            }
        )  # fmt: skip
    return out


def ordered(g: Group) -> list[Any]:
    """The members of a group: the one that is shown first, then by how many scenarios show them."""
    best = g.best
    rest = [m for m in g.members.values() if m is not best]
    return [best, *sorted(rest, key=lambda m: (-len(set().union(*m.shown.values())), m.violation.function))]


def questions(p: Protocol) -> list[Section]:
    """The answers of docs/questions.md, if they are about this protocol: one that their commands name."""
    sections = document("questions")
    named = any(re.search(rf"seqfault .* {re.escape(p.name)}( |$)", s.text, re.M) for s in sections)
    return sections if named else []


def limits() -> list[Section]:
    """What of docs/fidelity.md bounds a verdict."""
    by_title = {s.title: s for s in document("fidelity")}
    return [by_title[t] for t in LIMITS if t in by_title]


def facts(review: Review) -> dict[str, Any]:
    """Figures of the whole."""
    first = review.reports[0].scenarios if review.reports else []
    families = len({family(s.name) for s in first})
    return {
        "scenarios": len(first),
        "families": families,
        "states": sum(s.states for r in review.reports for s in r.scenarios),
        "transitions": sum(s.transitions for r in review.reports for s in r.scenarios),
        "seconds": round(sum(r.seconds for r in review.reports), 1),
        "speculated": {r.memory: sum(bool(s.speculative_successes) for s in r.scenarios) for r in review.reports},
        "speculative": bool(review.protocol.speculative),
        "own": sum(not g.cause.baseline for g in review.groups),
        "shared": sum(g.cause.baseline for g in review.groups),
        "distinct": sum(len(g.members) for g in review.groups),
    }


def review_data(review: Review) -> dict[str, Any]:
    """Everything, as --json prints it (docs/json.md)."""
    p = review.protocol
    return {
        "version": seqfault.__version__,
        "protocol": p.name,
        "title": p.title,
        "release": p.release,
        "command": review.command,
        "verdict": review.verdict,
        "exit": EXIT[review.verdict],
        "meaning": MEANING,
        "memories": review.memories,
        "facts": facts(review),
        "matrix": matrix(review.reports, review.groups),
        "groups": groups_data(review),
        "traces": [t.data for _, t in sorted(review.traces.items())],
        "texts": review.texts,
        "load_buffering": {m: x.data() for m, x in review.over.items()},
        "sites": review.sites.data() if review.sites else None,
        "prices": review.prices.data() if review.prices else None,
    }


__all__ = ["Comparison", "Prices", "Review", "Table", "Trace", "limits", "questions", "review_data", "title"]
