"""False invalidations: faults that gave up because a count had moved, though nothing that it guards concerned them.

A speculative fault gives up where it finds a VMA's count odd, or another than the one that it read.  The section that
moved that count last is the *cause*.  A give-up is *for nothing* in a scenario in which that section can be left out
(its begin and its ends do nothing) and nothing shows that does not show with it: whatever the section guards, no fault
of that scenario needed to know of it.  In a scenario that needs the section, every give-up is counted as right.
Counted are steps of the exploration, each once, in how many executions it may lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from seqfault.compile.site_causes import DEAD, GAVE_UP
from seqfault.explore.memory import SC
from seqfault.why.classify import Study


@dataclass
class Cause:
    """Give-ups because of one section: `right` in scenarios that need it, `vain` in those that do not, `open` where it
    was not looked at.  `labels`: operation and merge case -> (right, vain)."""

    site: str
    right: int = 0
    vain: int = 0
    open: int = 0
    labels: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.right + self.vain + self.open


def causes_of(study: Study) -> list[Cause]:
    """Whose sections made faults give up, in all scenarios that were explored whole under sc, the most frequent
    first; `dead`: the VMA had left the tree."""
    out: dict[str, Cause] = {}
    table = study.findings.get(SC, {})
    for s in study.usable(SC):
        for name, n in study.whole[SC][s.name].counters.items():
            if not name.startswith(GAVE_UP):
                continue
            site = name.removeprefix(GAVE_UP)
            c = out.setdefault(site, Cause(site))
            f = table.get((site,)) or next((x for k, x in table.items() if site in k), None)
            needed = f.scenarios.get(s.name) if f is not None else None
            label = study.label(s)
            right, vain = c.labels.get(label, (0, 0))
            if site == DEAD or needed:
                c.right += n
                c.labels[label] = right + n, vain
            elif needed is None:
                c.open += n
            else:
                c.vain += n
                c.labels[label] = right, vain + n
    return sorted(out.values(), key=lambda c: (c.site == DEAD, -c.total))
