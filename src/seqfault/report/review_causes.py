"""Root causes: what made a violation possible, read out of the execution that shows it.

Two violations have one cause if the same kind of thing befalls the same kind of object, because of the same site,
within the same part of the protocol.  A use after free is laid to the site that freed; a NULL pointer to the store of
NULL; what is wrong at rest to the store that left it so; a call of the protocol's own to itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from seqfault.compile.automaton import Automaton
from seqfault.explore.check import SEVERITY, Report, Violation, place_of
from seqfault.explore.model import start_of
from seqfault.explore.replay import Access, ScheduleError, Step, replay
from seqfault.kernel.places import Place, Protocol
from seqfault.report.counterexample import is_hidden
from seqfault.report.stacks import Frame, stacks_of
from seqfault.scenarios.model import Scenario

SETTERS = ("set_pte_at",)
FREES = ("use-after-free", "double-free")
LEFT_BY = {  # kind -> fields whose last store left an object wrong, and what that is called
    "wrong-reverse-map": ((".index", ".mapping"), "left by"),
    "entry-exceeds-vma": ((".pte[",), "entry stored by"),
    "entry-outside-vma": ((".pte[",), "entry stored by"),
    "entry-to-freed-frame": ((".pte[",), "entry stored by"),
}


@dataclass(frozen=True)
class Cause:
    """`site`: the place, or the function, that a violation is laid to; `how` it did that; `inside`: the outermost place
    of the protocol that the violation happens in ("": none); `baseline`: mmap-sem shows it as well."""

    kind: str
    object: str
    site: str
    how: str
    inside: str
    baseline: bool = False

    def text(self) -> str:
        of = f" of {self.object}" if self.object else ""
        if self.how in ("at", "in"):
            return f"{self.kind}{of} {self.how} {self.site}" if self.site else f"{self.kind}{of}"
        at = f" in {self.inside}" if self.inside and self.inside != self.site else ""
        return f"{self.kind}{of}{at}: {self.how} {self.site}"


def place_names(p: Protocol) -> dict[str, str]:
    """Function -> the name of the place that it is."""
    import seqfault.mm.places as places

    out = {v.default.__name__: v.name for v in vars(places).values() if isinstance(v, Place)}
    return out | bound_names(p)


def bound_names(p: Protocol) -> dict[str, str]:
    """Function of a protocol -> the one place that it is bound to."""
    often = Counter(f.__name__ for f in p.binds.values())
    return {f.__name__: place.name for place, f in p.binds.items() if often[f.__name__] == 1}


class Finder:
    """Finds causes under one protocol."""

    def __init__(self, p: Protocol):
        self.p, self.names = p, place_names(p)
        self.bound = bound_names(p)

    def site(self, a: Automaton, pc: int) -> str:
        fn = place_of(a.where[pc])[0]
        return a.where[pc].site or self.names.get(fn, fn)

    def inside(self, frames: Iterable[Frame]) -> str:
        """The outermost place of the protocol among these functions."""
        return next((self.bound[fn] for fn, _, _ in frames if fn in self.bound), "")

    def cause(self, s: Scenario, v: Violation) -> Cause:
        """The cause of a violation.  One without a schedule, or known from a whole exploration only, is laid to where
        it shows."""
        shows = self.names.get(v.function, v.function)
        plain = Cause(v.kind, v.object, v.site or shows, "in", "", v.baseline)
        if not v.schedule or v.loop_from >= 0:
            return plain
        a, words, rom = start_of(self.p, s, v.memory)
        try:
            steps = replay(a, words, rom, v.schedule)
        except ScheduleError:
            return plain
        hit = self._hit(a, steps, v)
        if hit is None:
            return plain
        step, pc, index = hit
        if v.site:  # what the protocol itself does, at a place
            return Cause(v.kind, v.object, v.site, "at", v.site, v.baseline)
        if v.kind == "sequence-left-odd" and pc < -1:
            unpaired = self._unpaired(a, steps, -2 - pc)
            if unpaired:
                return Cause(v.kind, v.object, unpaired, "counted an odd number of times in", "", v.baseline)
        done = [(x, acc) for x in steps[: step.number + 1] for acc in x.accesses if not self._private(a, acc)]
        wanted, how = self._blame(a, step, v, pc, index, done)
        culprit = next(((x, acc.pc) for x, acc in reversed(done) if wanted(x, acc)), None) if how else None
        at = (step, pc) if pc >= 0 and step.process >= 0 else culprit
        inside = self.inside(self._frames(a, words.view("int64"), steps, *at)) if at is not None else ""
        if culprit is None:
            return Cause(v.kind, v.object, inside or shows, "in", inside, v.baseline)
        site = self.site(a, culprit[1])
        if site in SETTERS:  # who called it tells more
            frames = self._frames(a, words.view("int64"), steps, *culprit)
            site = frames[-2][0] if len(frames) > 1 else site
        return Cause(v.kind, v.object, site, how, inside, v.baseline)

    def _private(self, a: Automaton, acc: Access) -> bool:
        return a.access[acc.pc] is not None and is_hidden(a, acc.cell)

    def _frames(self, a: Automaton, first: Any, steps: list[Step], step: Step, pc: int) -> list[Frame]:
        stacks = stacks_of(a)
        before = steps[step.number - 1].words if step.number else first
        calls = stacks.callers(before, step.process)
        return stacks.stack(stacks.within(calls, step.pc, pc), pc)

    def _unpaired(self, a: Automaton, steps: list[Step], cell: int) -> str:
        """The function whose places moved a count an odd number of times."""
        n: Counter[str] = Counter()
        for step in steps:
            n.update(
                self.site(a, acc.pc).split("/")[0] for acc in step.accesses if acc.kind == "store" and acc.cell == cell
            )
        odd = [f for f, k in n.items() if k % 2]
        return odd[-1] if odd else ""

    def _hit(self, a: Automaton, steps: list[Step], v: Violation) -> tuple[Step, int, int] | None:
        """The step that shows a violation, the instruction and the object's number."""
        for step in reversed(steps):
            for kind, pc, pool, index in step.violations:
                name = a.pools[pool].name if pool >= 0 else ""
                if a.kinds[kind] == v.kind and (name == v.object or not v.object):
                    return step, pc, index
        return None

    def _blame(
        self, a: Automaton, step: Step, v: Violation, pc: int, index: int, done: list[tuple[Step, Access]]
    ) -> tuple[Callable[[Step, Access], bool], str]:
        """Which access a violation is laid to (the last such), and in which words ("": none)."""
        pool = next((x for x in a.pools if x.name == v.object), None)
        lives = pool.base + index * pool.stride + pool.state if pool is not None and pool.state >= 0 else -1
        if v.kind in FREES and lives >= 0:
            return lambda x, acc: acc.kind == "free" and acc.cell == lives, "freed at"
        if v.kind == "null-dereference":
            got = next(
                (acc.cell for x, acc in reversed(done)
                 if x.process == step.process and acc.kind == "load" and acc.value == 0
                 and a.cells[acc.cell].type == f"ptr {v.object}"), -1,
            )  # fmt: skip
            return lambda x, acc: acc.kind == "store" and acc.cell == got and acc.value == 0, "set to NULL at"
        if v.kind == "leak" and lives >= 0:
            return lambda x, acc: acc.kind == "alloc" and acc.cell == lives, "allocated at"
        if pc < -1:
            return lambda x, acc: acc.kind == "store" and acc.cell == -2 - pc, "left by"
        fields, how = LEFT_BY.get(v.kind, ((), ""))
        own = f"{v.object}[{index}]." if v.object == "page" else "pte_table"
        cells = {c.addr for c in a.cells if c.name.startswith(own) and any(f in c.name for f in fields)}
        return lambda x, acc: acc.kind == "store" and acc.cell in cells, how


@dataclass
class Member:
    """A distinct violation (kind, object, function) of a group: the scenarios that show it, by memory model."""

    violation: Violation
    scenario: str
    shown: dict[str, set[str]] = field(default_factory=dict)


@dataclass
class Group:
    """Distinct violations of one cause.  `shown`: memory model -> scenarios; `best`: the shortest to show."""

    cause: Cause
    members: dict[tuple[str, int], Member] = field(default_factory=dict)
    shown: dict[str, set[str]] = field(default_factory=dict)

    @property
    def best(self) -> Member:
        return min(self.members.values(), key=lambda m: (not m.violation.schedule, *_size(m)))

    @property
    def scenarios(self) -> int:
        return len(set().union(*self.shown.values()))

    def add(self, s: str, v: Violation) -> None:
        self.shown.setdefault(v.memory, set()).add(s)
        m = self.members.setdefault((v.function, v.line), Member(v, s))
        m.shown.setdefault(v.memory, set()).add(s)
        if _size(Member(v, s)) < _size(m):
            m.violation, m.scenario = v, s


def _size(m: Member) -> tuple[bool, bool, int, str]:
    return m.violation.memory != "sc", not m.violation.schedule, len(m.violation.schedule), m.scenario


def group(reports: list[Report], causes: dict[tuple[str, str, int], Cause]) -> list[Group]:
    """The violations of some reports (one a memory model) by cause: what a protocol's own call does first, then what is
    worst, then what is most frequent; those that mmap-sem shows as well come last."""
    out: dict[Cause, Group] = {}
    for r in reports:
        for s in r.scenarios:
            for i, v in enumerate(s.violations):
                v.memory = r.memory
                c = causes[r.memory, s.name, i]
                out.setdefault(c, Group(c)).add(s.name, v)
    rank = {k: i for i, k in enumerate(SEVERITY)}

    def order(g: Group) -> tuple[Any, ...]:
        own = g.cause.how == "at"
        return g.cause.baseline, not own, rank.get(g.cause.kind, 99), -g.scenarios, g.cause.text()

    return sorted(out.values(), key=order)
