"""Which sites are needed: each is taken out, and what then shows that does not show with it in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from seqfault.compile.sites import Site
from seqfault.explore.check import Limits, baseline_of
from seqfault.explore.interrupt import INTERRUPTED
from seqfault.explore.memory import SC
from seqfault.mm.cpu import OP_READ, OP_WRITE
from seqfault.protocols import is_baseline, load
from seqfault.scenarios.model import KINDS, Scenario
from seqfault.why.lab import Job, Seen, Shown
from seqfault.why.work import Crew

NECESSARY, REDUNDANT, DEAD, UNDETERMINED = "necessary", "redundant", "changes nothing", "undetermined"
SMALL = 20_000  # states up to which every scenario that meets a site is explored without it, for where it is needed
PAIRED = 4_000  # the same, for pairs of sites
WEAK_STATES = 4_000  # states under sc of the scenarios that other memory models are asked about
WEAK_OWN = 60_000  # and under the model itself
WEAK_EACH = 24  # how many of them a site, about, of every operation
NEW_OUTCOME = "new-outcome"
FALLBACK, SUCCESS = "speculative_fallback/", "speculative_success"
# kinds of sites of which sc keeps no trace: it orders everything
ORDERING = ("barrier", "order")
QUESTIONS = {
    "memory": ("use-after-free", "double-free", "null-dereference", "uninitialised-read", "leak", "index-out-of-range"),
    "locks": (
        "deadlock", "double-acquire", "release-not-held", "sleep-in-atomic", "sleep-with-irqs-off", "unbalanced-irq",
        "unbalanced-preempt", "ipi-wait-with-irqs-off", "lock-left-held", "sequence-left-odd", "lock-order-inversion",
    ),
    "page tables": (
        "entry-exceeds-vma", "entry-outside-vma", "entry-to-freed-frame", "stale-tlb", "wrong-reverse-map",
        "wrong-mapcount", "wrong-refcount", "free-of-held-lock",
    ),
    "address space": ("validate-mm",),
    "what the text asserts": ("assertion", "kernel-bug"),
    "meaning": (NEW_OUTCOME,),
    "progress": ("livelock", "starvation"),
}  # fmt: skip


def counted(sums: tuple[int, int], prefix: str, a: Seen, b: Seen) -> tuple[int, int]:
    """`sums` with the counters of two explorations that begin with `prefix`."""
    of_a, of_b = (sum(v for k, v in x.counters.items() if k.startswith(prefix)) for x in (a, b))
    return sums[0] + of_a, sums[1] + of_b


def question_of(kind: str) -> str:
    """Which question a kind of violation answers (docs/violations.md); the rest are values out of range."""
    return next((q for q, kinds in QUESTIONS.items() if kind in kinds), "values")


@dataclass
class Finding:
    """What taking `sites` out showed under one memory model.

    `some`: a scenario concerns it that comes to any of them, else to all.  `exercised`: how many such scenarios there
    are; `explored`: how many of them were explored without them; `new`: what shows without and not with them -> the
    scenarios; `scenarios`: those that were explored without them -> whether anything did.  `labels`: operation and
    merge case -> (scenarios, in how many something new shows).  `retries`, `successes`: operation and merge case -> how
    many steps of the scenarios in which nothing new shows gave a speculative fault up, or made it succeed: with,
    without.
    """

    sites: tuple[str, ...]
    memory: str
    some: bool = False
    only: set[str] | None = field(default=None, repr=False)
    verdict: str = UNDETERMINED
    reason: str = ""
    exercised: int = 0
    explored: int = 0
    states: int = 0
    changed: int = 0
    new: dict[Shown, list[str]] = field(default_factory=dict)
    scenarios: dict[str, bool] = field(default_factory=dict)
    labels: dict[str, tuple[int, int]] = field(default_factory=dict)
    retries: dict[str, tuple[int, int]] = field(default_factory=dict)
    successes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, what: Shown, scenario: str) -> None:
        self.new.setdefault(what, []).append(scenario)

    def needed(self) -> list[str]:
        """The operations and merge cases that need it."""
        return [k for k, (_, n) in self.labels.items() if n]

    def spared(self) -> list[str]:
        """Those that do not, though they come to it."""
        return [k for k, (_, n) in self.labels.items() if not n]


@dataclass
class Study:
    """A protocol with its sites taken out, one at a time.

    `sites`: all that it has; `asked`: names of those that are to be taken out, one by one.
    `small`: states of the scenarios that are all explored without a site, also after something new has shown.
    `together`: more sets of sites, to be taken out together.  `findings`: memory model -> sites -> what was found.
    """

    protocol: str
    scenarios: Sequence[Scenario]
    sites: list[Site]
    asked: Sequence[str]
    memories: Sequence[str]
    crew: Crew
    max_states: int
    small: int = SMALL
    together: Sequence[tuple[str, ...]] = ()
    findings: dict[str, dict[tuple[str, ...], Finding]] = field(default_factory=dict)
    whole: dict[str, dict[str, Seen]] = field(default_factory=dict)
    pairs: list[Finding] = field(default_factory=list)
    minimal: list[str] | None = None
    minimal_reason: str = ""
    skipped: list[str] = field(default_factory=list)
    say: Callable[[str], None] = lambda text: None
    _allowed: dict[tuple[str, str], set[int] | None] = field(default_factory=dict)

    # -- the protocol as it is
    def look_whole(self, memory: str, scenarios: Sequence[Scenario], expect: Sequence[int]) -> None:
        known = self.whole.setdefault(memory, {})
        todo = [(s, n) for s, n in zip(scenarios, expect, strict=True) if s.name not in known]
        seen = self.crew.look(memory, [(s, ()) for s, _ in todo], [n for _, n in todo])
        known.update({s.name: x for (s, _), x in zip(todo, seen, strict=True)})

    def usable(self, memory: str) -> list[Scenario]:
        """Scenarios that were explored whole, the smallest first."""
        known = self.whole.get(memory, {})
        mine = [s for s in self.scenarios if s.name in known and not known[s.name].reason]
        return sorted(mine, key=lambda s: known[s.name].states)

    def concerns(self, f: Finding, s: Scenario) -> bool:
        """Whether control comes to the sites of `f` in a scenario."""
        seen = self.whole[f.memory].get(s.name)
        if f.only is not None and s.name not in f.only:
            return False
        return seen is not None and (any if f.some else all)(n in seen.sites for n in f.sites)

    def label(self, s: Scenario) -> str:
        """The operations of a scenario that are no accesses, and the merge cases that occur in it."""
        seen = self.whole[SC][s.name] if SC in self.whole else next(iter(self.whole.values()))[s.name]
        ops = {KINDS[o.kind] for cpu in s.cpus for o in cpu if o.kind not in (OP_READ, OP_WRITE)}
        cases = sorted(k.rpartition("case")[2] for k in seen.counters if k.startswith("vma_merge/case"))
        what = "+".join(sorted(ops)) or ("faults only" if any(s.cpus) else "all")
        return what + (f", case {'+'.join(cases)}" if cases else "")

    # -- comparing
    def new_of(self, s: Scenario, memory: str, base: Seen, seen: Seen) -> list[Shown]:
        """What shows without sites and not with them, outcomes included that mmap-sem does not have either."""
        out: list[Shown] = sorted(seen.violations - base.violations)
        more = seen.outcomes - base.outcomes
        if more and not load(self.protocol).processes and not is_baseline(load(self.protocol)):
            allowed = self.allowed_in(s, memory)
            if allowed is None or more - allowed:
                out.append((NEW_OUTCOME, "", ""))
        elif more and not load(self.protocol).processes:
            out.append((NEW_OUTCOME, "", ""))
        return out

    def allowed_in(self, s: Scenario, memory: str) -> set[int] | None:
        key = s.name, memory
        if key not in self._allowed:
            outcomes, _, whole = baseline_of(
                s, Limits(states=4 * self.max_states), memory, release=load(self.protocol).release
            )
            self._allowed[key] = outcomes if whole else None
        return self._allowed[key]

    def weigh(self, f: Finding, jobs: Sequence[Job], seen: Sequence[Seen]) -> None:
        """Enter what explorations without the sites of `f` showed."""
        for (s, _), x in zip(jobs, seen, strict=True):
            base = self.whole[f.memory][s.name]
            new = self.new_of(s, f.memory, base, x)
            f.states += x.states
            if x.reason and not new:
                f.reason = f.reason or f"{s.name}: {x.reason}"
                continue
            f.explored += 1
            f.scenarios[s.name] = bool(new)
            f.changed += not x.same(base)
            for what in new:
                f.add(what, s.name)
            label = self.label(s)
            n, bad = f.labels.get(label, (0, 0))
            f.labels[label] = n + 1, bad + bool(new)
            if not new:
                for table, prefix in ((f.retries, FALLBACK), (f.successes, SUCCESS)):
                    table[label] = counted(table.get(label, (0, 0)), prefix, base, x)

    def settle(self, f: Finding) -> None:
        """The verdict, when all has been explored."""
        if f.new:
            f.verdict = NECESSARY
        elif not f.exercised:
            f.verdict, f.reason = UNDETERMINED, "no scenario comes to it"
        elif f.reason or f.explored < f.exercised:
            f.verdict, f.reason = UNDETERMINED, f.reason or INTERRUPTED
        else:
            f.verdict = REDUNDANT if f.changed else DEAD
            f.reason = "" if f.changed else "as many states and steps, the same outcomes and events"

    # -- all sites under one memory model
    def run(
        self, memory: str, sets: Sequence[tuple[str, ...]], only: dict[tuple[str, ...], set[str]] | None = None
    ) -> None:
        """Take out each of `sets`: in small scenarios everywhere, in larger ones until something new shows.  `only`:
        of each set, the scenarios to look at."""
        table = self.findings.setdefault(memory, {})
        usable = self.usable(memory)
        kinds = {s.name: s.kind for s in self.sites}
        numbers = {s.name: s.number for s in self.sites}
        open_: list[Finding] = []
        for names in sets:
            f = table[names] = Finding(names, memory, names in self.together)
            if any(not numbers[n] for n in names):
                f.verdict, f.reason = DEAD, "a plain access is as good to every memory model here; only data races tell"
                continue
            f.only = None if only is None else only[names]
            mine = [s for s in usable if self.concerns(f, s)]
            f.exercised = len(mine)
            if memory == SC and mine and all(kinds[n] in ORDERING for n in names):
                f.verdict, f.reason = DEAD, "sc orders everything"
                continue
            open_.append(f)
        size = {s.name: self.whole[memory][s.name].states for s in usable}
        small = [s for s in usable if size[s.name] <= self.small or memory != SC]
        self._each(open_, memory, small, size)
        for at in range(0, 64):
            left = [f for f in open_ if not f.new and not f.reason]
            large = [s for s in usable if s.name not in {x.name for x in small}][at * 8 : at * 8 + 8]
            if not left or not large:
                break
            self._each(left, memory, large, size)
        for f in open_:
            self.settle(f)

    def _each(self, fs: Sequence[Finding], memory: str, scenarios: Sequence[Scenario], size: dict[str, int]) -> None:
        jobs = [[(s, f.sites) for s in scenarios if self.concerns(f, s)] for f in fs]
        flat = [j for js in jobs for j in js]
        self.say(f"{memory}: {len(fs)} sites out, {len(flat)} explorations")
        seen = iter(self.crew.look(memory, flat, [size[s.name] for s, _ in flat]))
        for f, js in zip(fs, jobs, strict=True):
            self.weigh(f, js, list(itertools.islice(seen, len(js))))

    def for_weak(self, sets: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], set[str]]:
        """A few small scenarios for each site, of every operation that comes to it."""
        out: dict[tuple[str, ...], set[str]] = {}
        sc = self.whole[SC]
        for names in sets:
            here = [
                s for s in self.usable(SC)
                if self.concerns(Finding(names, SC, names in self.together), s)
                and self.whole[SC][s.name].states <= WEAK_STATES
            ]  # fmt: skip
            labels: dict[str, list[Scenario]] = {}
            for s in here:
                labels.setdefault(self.label(s), []).append(s)
            mine = out[names] = set()
            most = max(2, WEAK_EACH // max(1, len(labels)))
            for group in labels.values():  # the smallest; then those where speculation succeeds, and much can happen
                mine.update(s.name for s in group[: most // 2])
                rest = sorted(group, key=lambda s: (not sc[s.name].counters.get(SUCCESS), -sc[s.name].states))
                mine.update(s.name for s in rest[: most - most // 2])
        return out

    def everything(self) -> None:
        """All sites and sets under all memory models, pairs, and one minimal set."""
        self.say("the protocol as it is")
        small_model = bool(load(self.protocol).processes)
        self.look_whole(SC, self.scenarios, [1000] * len(self.scenarios))
        self.skipped = [f"{n}: {x.reason}" for n, x in self.whole[SC].items() if x.reason]
        sets = [(n,) for n in self.asked] + list(self.together)
        if SC in self.memories:
            self.run(SC, sets)
        for m in self.memories:
            if m == SC:
                continue
            done = self.findings.get(SC, {})
            here = [x for x in sets if x not in done or done[x].verdict != NECESSARY]
            every = {s.name for s in self.scenarios}
            only = dict.fromkeys(here, every) if small_model else self.for_weak(here)
            names = {n for ns in only.values() for n in ns}
            some = [s for s in self.scenarios if s.name in names]
            self.look_whole(m, some, [8 * self.whole[SC][s.name].states for s in some])
            if not small_model:
                large = {s.name for s in some if self.whole[m][s.name].states > WEAK_OWN}
                only = {k: ns - large for k, ns in only.items()}
            self.run(m, here, only)

    # -- what is left out together
    def loose(self, memory: str) -> list[str]:
        """Sites that no memory model needs, and without which something changes under this one."""
        out = []
        for s in self.sites:
            fs = [t[(s.name,)] for t in self.findings.values() if (s.name,) in t]
            if not s.number or any(f.verdict not in (REDUNDANT, DEAD) for f in fs):
                continue
            if any(f.changed for f in fs if f.memory == memory):
                out.append(s.name)
        return out

    def run_pairs(self, memory: str = SC) -> None:
        """Pairs of sites of which none is needed by itself: do they mask each other?"""
        pairs = list(itertools.combinations(self.loose(memory), 2))
        usable = [s for s in self.usable(memory) if self.whole[memory][s.name].states <= PAIRED]
        size = {s.name: self.whole[memory][s.name].states for s in usable}
        fs = [Finding(p, memory) for p in pairs]
        for f in fs:
            f.exercised = sum(self.concerns(f, s) for s in usable)
        self._each([f for f in fs if f.exercised], memory, usable, size)
        for f in fs:
            self.settle(f)
        self.pairs = fs

    def run_minimal(self, memory: str = SC) -> None:
        """Take out as many as can be, one after the other, in the order of the text."""
        out: list[str] = []
        masked = {frozenset(f.sites) for f in self.pairs if f.verdict == NECESSARY}
        usable = self.usable(memory)
        size = {s.name: self.whole[memory][s.name].states for s in usable}
        small = [s for s in usable if size[s.name] <= PAIRED]
        for name in self.loose(memory):
            if any(frozenset((name, o)) in masked for o in out):
                continue
            f = Finding((*out, name), memory)
            if not self._clean(f, [s for s in small if self.concerns(Finding((name,), memory), s)], size):
                continue
            out.append(name)
        while out:
            f = Finding(tuple(out), memory)
            known = self.whole[memory]
            some = [s for s in usable if size[s.name] <= self.small]
            whole = [s for s in some if any(n in known[s.name].sites for n in out)]
            if self._clean(f, whole, size):
                break
            out.pop()
        self.minimal = out

    def _clean(self, f: Finding, scenarios: Sequence[Scenario], size: dict[str, int]) -> bool:
        jobs = [(s, f.sites) for s in scenarios]
        self.say(f"{f.memory}: {len(f.sites)} sites out together, {len(jobs)} explorations")
        self.weigh(f, jobs, self.crew.look(f.memory, jobs, [size[s.name] for s, _ in jobs]))
        return not f.new and not f.reason
