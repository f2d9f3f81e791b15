"""The shortest counterexample to a protocol without some of its sites."""

from __future__ import annotations

from collections.abc import Sequence

from seqfault.explore.check import Violation, violations_of
from seqfault.explore.tiers import explore
from seqfault.scenarios.model import Scenario
from seqfault.why.classify import NEW_OUTCOME, Finding, Study
from seqfault.why.lab import Lab, Shown

TRIED = 3  # scenarios, the smallest, of which the shortest path is taken


def strongest(f: Finding) -> Shown | None:
    """What to show of a finding: what the most scenarios show; of those alike, not the outcome alone."""
    if not f.new:
        return None
    return min(f.new, key=lambda w: (w[0] == NEW_OUTCOME, -len(f.new[w]), w))


def witness(study: Study, f: Finding, what: Shown | None = None) -> tuple[Scenario, Violation] | None:
    """A scenario and a violation with a shortest path to it, among the smallest scenarios that show it."""
    what = what or strongest(f)
    if what is None:
        return None
    by_name = {s.name: s for s in study.scenarios}
    sizes = study.whole[f.memory]
    names = sorted(f.new[what], key=lambda n: sizes[n].states)[:TRIED]
    best: tuple[Scenario, Violation] | None = None
    for n in names:
        v = _shortest(study, f.sites, f.memory, by_name[n], what)
        if v is not None and (best is None or len(v.schedule) < len(best[1].schedule)):
            best = by_name[n], v
    return best


def _shortest(study: Study, off: Sequence[str], memory: str, s: Scenario, what: Shown) -> Violation | None:
    a, words, rom = Lab(study.protocol, memory).start(s, off)
    ex = explore(a, words, rom, max_states=4 * study.max_states)
    if what[0] != NEW_OUTCOME:
        return next((v for v in violations_of(a, ex) if v.key() == what), None)
    known = study.whole[memory][s.name].outcomes | (study.allowed_in(s, memory) or set())
    new = [state for h, state in ex.outcomes.items() if h not in known]
    if not new:
        return None
    return Violation(NEW_OUTCOME, "", "", "", 0, ex.path_to(min(new)), len(new), memory=memory)
