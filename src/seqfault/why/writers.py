"""Who writes page-table entries and frees page tables, with which locks, and what stops a late fault there.

Facts from explorations (explore/watch.py): every store to an entry or to the upper level, and every free of a table,
with the locks that its process holds, and whether a VMA's count is odd at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from seqfault.explore.check import Limits, run_one
from seqfault.explore.lockcheck import said
from seqfault.explore.model import automaton_for
from seqfault.explore.watch import Watch
from seqfault.protocols import load
from seqfault.scenarios.model import Scenario

OBSERVED_STATES = 4_000  # of the scenarios that are watched: by the interpreter, step for step
ENTRY, LEVEL, LOCK = "pte_table.pte", "mm_struct.pmd", "pte_table.ptl"
FREES = "pte_free"
COUNT = "vm_sequence"


@dataclass
class Writer:
    """One function that writes.  `what`: which field, or that a table is freed.

    `odd`, `even`: accesses with some VMA's count odd, and with none; `always`: what held at each of those with none;
    `scenarios`: that show one with none.
    """

    what: str
    function: str
    file: str
    line: int
    speculative: bool
    odd: int = 0
    even: int = 0
    always: frozenset[str] | None = None
    scenarios: list[str] = field(default_factory=list)

    def key(self) -> tuple[str, str, bool]:
        return self.what, self.function, self.speculative

    def add(self, words: frozenset[str], count: int, scenario: str) -> None:
        if COUNT in words:
            self.odd += count
            return
        self.even += count
        self.always = words if self.always is None else self.always & words
        if scenario not in self.scenarios:
            self.scenarios.append(scenario)

    def held(self) -> tuple[str, ...]:
        return said(self.always or frozenset())


def observe(protocol: str, scenarios: Sequence[Scenario], max_states: int) -> tuple[list[Writer], int]:
    """The writers of these scenarios, and how many of them were explored whole."""
    p = load(protocol)
    watches: dict[int, Watch] = {}
    found: dict[tuple[str, str, bool], Writer] = {}
    done = 0
    for s in scenarios:
        a = automaton_for(p, s)
        w = watches.setdefault(id(a), Watch(a, (ENTRY, LEVEL, LOCK)))
        w.clear()
        w.begin()
        _, ex, _ = run_one(p, s, Limits(max_states), watcher=w)
        done += ex.complete and not w.full
        for x in w.accesses():
            frees = x.field == LOCK and x.where.function == FREES and not x.write
            if not frees and not (x.write and x.field in (ENTRY, LEVEL)):
                continue
            what = "frees a table" if frees else "writes an entry" if x.field == ENTRY else "writes the upper level"
            at = x.where
            # the function of the text that a reader would name, with the line in it
            fn, file, line = at.chain[0] if at.chain else (at.function, at.file, at.line)
            speculative = "srcu" in x.words
            new = Writer(what, fn, file, line, speculative)
            found.setdefault(new.key(), new).add(x.words, x.count, s.name)
    return list(found.values()), done


def merged(parts: Iterable[list[Writer]]) -> list[Writer]:
    """The same writers once."""
    out: dict[tuple[str, str, bool], Writer] = {}
    for w in (w for part in parts for w in part):
        old = out.setdefault(w.key(), Writer(w.what, w.function, w.file, w.line, w.speculative))
        old.odd += w.odd
        old.even += w.even
        if w.always is not None:
            old.always = w.always if old.always is None else old.always & w.always
        old.scenarios += [n for n in w.scenarios if n not in old.scenarios]
    order = ("writes an entry", "writes the upper level", "frees a table")
    return sorted(out.values(), key=lambda w: (order.index(w.what), w.speculative, w.function))
