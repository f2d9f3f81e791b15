"""Verdicts of scenario families under memory models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seqfault.cli import EXIT
from seqfault.explore.check import HOLDS, INCOMPLETE, VIOLATED, Report, ScenarioResult, worst
from seqfault.report.late import passes_over

if TYPE_CHECKING:
    from seqfault.report.review_causes import Group


def family(name: str) -> str:
    return name.split("/")[0]


def cell(scenarios: list[ScenarioResult]) -> dict[str, Any]:
    """One of the matrix: how many scenarios with which verdict; `own`: how many show what mmap-sem does not;
    `but`: whether it passes over load buffering."""
    n = Counter(s.verdict for s in scenarios)
    verdict = worst(n)
    return {
        "verdict": verdict,
        "exit": EXIT[verdict],
        "scenarios": len(scenarios),
        HOLDS: n[HOLDS],
        VIOLATED: n[VIOLATED],
        INCOMPLETE: n[INCOMPLETE],
        "own": sum(any(not v.baseline for v in s.violations) for s in scenarios),
        "but": any(passes_over(s) for s in scenarios),
        "speculated": sum(bool(s.speculative_successes) for s in scenarios),
        "states": sum(s.states for s in scenarios),
        "reasons": sorted({s.reason for s in scenarios if s.reason}),
    }


def matrix(reports: list[Report], groups: Sequence[Group] = ()) -> dict[str, Any]:
    """Families x memory models, and all together; `causes` of a family: the numbers of its groups, from 1."""
    families = list(dict.fromkeys(family(s.name) for r in reports for s in r.scenarios))
    rows = []
    for f in families:
        cells = {r.memory: cell([s for s in r.scenarios if family(s.name) == f]) for r in reports}
        for m, c in cells.items():
            c["causes"] = [n for n, g in enumerate(groups, 1) if any(family(s) == f for s in g.shown.get(m, ()))]
        seen: dict[str, dict[str, str]] = {}
        for r in reports:
            for s in r.scenarios:
                if family(s.name) == f and s.verdict != HOLDS:
                    seen.setdefault(s.name, {})[r.memory] = s.verdict
        rows.append({"family": f, "cells": cells, "not_holding": seen})
    return {"families": rows, "total": {r.memory: cell(r.scenarios) for r in reports}}
