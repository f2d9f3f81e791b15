"""Checking a protocol: exploration, refinement of mmap-sem, verdicts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqfault.compile.automaton import Automaton
from seqfault.compile.ir import Where
from seqfault.explore.baselines import stored
from seqfault.explore.checkpoint import remove
from seqfault.explore.engine import Exploration
from seqfault.explore.interrupt import INTERRUPTED, asked
from seqfault.explore.lasso import judge
from seqfault.explore.locks import cycles
from seqfault.explore.memory import LKMM, SC, bound, canonical, wider
from seqfault.explore.model import program_for, start_of
from seqfault.explore.progress import LIVELOCK, STARVATION, find_lassos
from seqfault.explore.racewatch import Race
from seqfault.explore.tiers import explore
from seqfault.kernel.places import Protocol
from seqfault.protocols import FIRST_RELEASE, baseline_name, is_baseline, load
from seqfault.scenarios.model import Scenario

HOLDS, VIOLATED, INCOMPLETE = "holds", "violated", "incomplete"
LOCK_NOT_HELD = "lock-not-held"
PATH_ONLY = (
    "new-outcome",
    LOCK_NOT_HELD,
    LIVELOCK,
    STARVATION,
)  # told by a whole exploration: a replay does not show them by itself
NO_ROOM = "store-buffer-full"
LIMIT_KINDS = frozenset(
    {"pool-exhausted", "endless-step", NO_ROOM, "too-many-choices"}
)  # these say that the model was too small, not that the text is wrong


def worst(verdicts: Iterable[str]) -> str:
    """violated if any is, else incomplete if any is, or there are none; else holds."""
    v = set(verdicts)
    return VIOLATED if VIOLATED in v else INCOMPLETE if INCOMPLETE in v or not v else HOLDS


@dataclass(frozen=True)
class Limits:
    """How far one scenario is explored: `states`, `memory` in bytes, `seconds` (None: no limit); and how: `movers`,
    `own` and `symmetric`, as for `tiers.explore`; `checkpoint_every` seconds; `threads` that share one scenario.
    """

    states: int = 40_000_000
    memory: int = 8 << 30
    seconds: float | None = None
    movers: bool | None = None
    own: bool = True
    symmetric: bool = False
    checkpoint_every: float = 60.0
    threads: int = 1

    @property
    def how(self) -> tuple[bool | None, bool, bool, int]:
        """What an exploration that has not finished depends on."""
        return self.movers, self.own, self.symmetric, self.threads


@dataclass
class Violation:
    """One distinct violation in one scenario.

    `kind`: see docs/violations.md.  `object`: the struct concerned, or "".  `function`, `line`, `file`:
    where it shows.  `schedule`: the shortest path, process and choice of each step.  `count`: how many steps of
    the exploration
    show it.  `baseline`: mmap-sem shows it as well.  `memory`: the memory model.
    `loop_from`: the steps of the schedule from this one on are repeated for ever (-1: it ends).
    """

    kind: str
    object: str
    function: str
    file: str
    line: int
    schedule: list[tuple[int, int]] = field(default_factory=list)
    count: int = 1
    baseline: bool = False
    pc: int = -1
    index: int = -1
    site: str = ""
    detail: str = ""
    memory: str = SC
    loop_from: int = -1
    raw_pc: int = -1  # below -1: a rule about cell -2 - raw_pc

    def key(self) -> tuple[str, str, str]:
        """What makes two violations the same across scenarios: kind, object, function."""
        return self.kind, self.object, self.function


@dataclass
class ScenarioResult:
    """What exploring one scenario gave.  Under lkmm, what it passed over (buffering.py): `late_stores` (a load, a later
    store, whether by LKMM's letter only); None: it was not looked for."""

    name: str
    verdict: str
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    speculative_successes: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    outcomes: int = 0
    reason: str = ""
    lock_edges: list[tuple[str, str, str, str]] = field(default_factory=list)
    races: list[Race] = field(default_factory=list)
    late_stores: list[tuple[int, int, bool]] | None = None


def place_of(w: Where) -> tuple[str, str, int]:
    """Function, file and line to name for an instruction: where a reader of the mm text should look.

    Inside the language's own library (spin_lock, write_seqcount_end, ...) that is its caller; inside what a
    protocol does at a
    place, the function that has the place.
    """
    chain = [*w.chain, (w.function, w.file, w.line)]
    if w.site:
        for outer, inner in itertools.pairwise(chain):
            if outer[1].startswith("mm/") and not inner[1].startswith(("mm/", "kernel/")):
                return outer
    return statement_of(w)


def statement_of(w: Where) -> tuple[str, str, int]:
    """Function, file and line of the statement as somebody wrote it, outside the language's own library."""
    chain = [*w.chain, (w.function, w.file, w.line)]
    for fn, file, line in reversed(chain):
        if not file.startswith("kernel/"):
            return fn, file, line
    return chain[0]


SEVERITY = ("use-after-free", "double-free", "null-dereference", "uninitialised-read", "leak", "deadlock")


def violations_of(a: Automaton, ex: Exploration) -> list[Violation]:
    """The distinct violations of an exploration, with a shortest path to each."""
    out: dict[tuple[str, str, str], Violation] = {}
    for v in ex.violations:
        fn, file, line = place_of(a.where[v.pc]) if v.pc >= 0 else ("", "", 0)
        pool = a.pools[v.pool].name if v.pool >= 0 else ""
        new = Violation(a.kinds[v.kind], pool, fn, file, line, ex.path_of(v), v.count, pc=v.pc, index=v.index)
        new.memory = a.memory
        new.raw_pc = v.pc if v.cell < 0 else -2 - v.cell
        if v.cell >= 0:
            new.detail = a.cells[v.cell].name
        new.site = a.where[v.pc].site if v.pc >= 0 else ""
        old = out.get(new.key())
        if old is None:
            out[new.key()] = new
        else:
            old.count += new.count
            if len(new.schedule) < len(old.schedule):
                new.count = old.count
                out[new.key()] = new
    return list(out.values())


def progress_of(a: Automaton, ex: Exploration, init: Any, rom: Any, lock_waits: bool) -> list[Violation]:
    """Livelocks and starvations in the graph of an exploration, each judged by running it again."""
    out: list[Violation] = []
    if ex.graph is None:
        return out
    graph = ex.graph.seen_in_time() if a.memory.startswith(LKMM) else ex.graph
    for lasso in find_lassos(a, graph, ex.path_to, lock_waits):
        path = [*lasso.stem, *lasso.loop]
        at = [
            pc for kind, p, pc in judge(a, init, rom, path, len(lasso.stem)) if (kind, p) == (lasso.kind, lasso.process)
        ]
        if not at:
            raise AssertionError(f"{lasso.kind} that is none when it is run again: {lasso}")
        fn, file, line = place_of(a.where[at[0]])
        v = Violation(lasso.kind, a.processes[lasso.process].name, fn, file, line, path, memory=a.memory)
        v.loop_from = len(lasso.stem)
        v.site = a.where[at[0]].site
        what = "nobody completes an operation" if lasso.kind == LIVELOCK else "others complete their operations"
        v.detail = f"after {len(lasso.stem)} steps a loop of {len(lasso.loop)}, in which {what}"
        out.append(v)
    return out


def run_one(
    protocol: Protocol,
    scenario: Scenario,
    limits: Limits,
    progress: Callable[..., None] | None = None,
    memory: str = SC,
    lock_waits: bool | None = None,
    checkpoint: Path | None = None,
    **options: Any,
) -> tuple[Automaton, Exploration, list[Violation]]:
    """Explore one scenario under one protocol and memory model, without comparing it to anything.

    `lock_waits`: look for executions that never end, too (None: do not); True: a CPU that waits for a lock which others
    take again and again is starved.  Where `lkmm` has no room it is explored once more, with more.
    """
    a, words, rom = start_of(protocol, scenario, memory)
    ex = explore(
        a,
        words,
        rom,
        graph=lock_waits is not None,
        movers=limits.movers,
        own=limits.own and not protocol.processes and "mode" not in options,
        symmetric=limits.symmetric,
        checkpoint=checkpoint,
        every=limits.checkpoint_every,
        keep=True,
        threads=limits.threads,
        max_states=limits.states,
        max_memory=limits.memory,
        timeout=limits.seconds,
        progress=progress,
        **options,
    )
    vs = violations_of(a, ex)
    if wider(memory) and any(v.kind == NO_ROOM for v in vs) and not asked():
        return run_one(protocol, scenario, limits, progress, wider(memory), lock_waits, checkpoint, **options)
    if lock_waits is not None:
        if ex.cyclic:  # who waits for whom in a loop is told by every edge, of every state
            rest = {"max_states": limits.states, "max_memory": limits.memory, "timeout": limits.seconds}
            whole = explore(a, words, rom, tier=0, graph=True, **rest)  # type: ignore[arg-type]
            ex.graph = whole.graph
            vs += progress_of(a, whole, words, rom, lock_waits)
        else:
            vs += progress_of(a, ex, words, rom, lock_waits)
    return a, ex, vs


_baselines: dict[tuple[str, Limits, str, bool, str], tuple[set[int], set[tuple[str, str]], bool]] = {}


def baseline_of(
    scenario: Scenario,
    limits: Limits,
    memory: str = SC,
    lock_waits: bool = False,
    checkpoint: Path | None = None,
    release: str = FIRST_RELEASE,
) -> tuple[set[int], set[tuple[str, str]], bool]:
    """mmap-sem's outcomes and violations in a scenario under a memory model, and whether they are all; `release`: with
    which Linux's text."""
    key = (scenario.name, limits, memory, lock_waits, release)
    if key not in _baselines:
        protocol = load(baseline_name(release))
        text = program_for(protocol, scenario).key("merged")
        file = stored(f"{text} {canonical(memory)} {lock_waits}")
        known = file.get(scenario)
        if known is not None:
            return *known, True
        _, ex, vs = run_one(protocol, scenario, limits, None, memory, lock_waits, checkpoint)
        whole = ex.complete and not any(v.kind in LIMIT_KINDS for v in vs)
        if ex.reason == INTERRUPTED:
            return set(), set(), False
        shown = set(ex.outcomes), {(v.kind, v.object) for v in vs}
        if whole:
            file.put(scenario, shown)
        _baselines[key] = *shown, whole
    return _baselines[key]


def sequential_outcomes(
    protocol: Protocol, scenario: Scenario, limits: Limits, checkpoint: Path | None = None
) -> tuple[set[int], bool]:
    """Outcomes of the sequential orders of a scenario's operations (switches only at `seq_point`; memory is `sc`)."""
    _, ex, _ = run_one(protocol, scenario, limits, checkpoint=checkpoint, mode="seq", exclusive=True)
    return set(ex.outcomes), ex.complete


def check_scenario(
    protocol: Protocol,
    scenario: Scenario,
    limits: Limits | None = None,
    progress: Callable[..., None] | None = None,
    locks: bool = False,
    memory: str = SC,
    lock_waits: bool = False,
    checkpoint: Path | None = None,
    races: str = "off",
) -> ScenarioResult:
    """Explore `scenario` under `protocol` and a memory model, apply every oracle, compare its outcomes with
    mmap-sem's under the same model (mmap-sem's with the sequential orders); with `locks`, which is for `sc` only, each
    access with the table of locks; with `races` ("report", or "error": they make it violated; without `locks`), the
    accesses of any two CPUs with each other.  `lock_waits`: as for `run_one`; `checkpoint`: as for
    `tiers.explore`; what it is compared with has one more.  They stay: whoever keeps the result removes them
    (`forget`)."""
    from seqfault.explore.lockcheck import lock_violations, watch_for
    from seqfault.explore.racecheck import races_for, races_of

    limits = limits or Limits()
    t0 = time.perf_counter()
    watcher = watch_for(protocol, scenario) if locks else None
    racing = races_for(protocol, scenario, memory) if races != "off" else None
    a, ex, vs = run_one(
        protocol, scenario, limits, progress, memory, lock_waits, checkpoint, watcher=watcher or racing
    )
    if watcher is not None:
        vs += lock_violations(protocol, watcher, ex)
    r = ScenarioResult(scenario.name, HOLDS, ex.states, ex.transitions, ex.depth)
    r.counters = {a.counters[i]: int(n) for i, n in enumerate(ex.counters) if n}
    r.speculative_successes = r.counters.get(protocol.speculative, 0) if protocol.speculative else 0
    r.outcomes = len(ex.outcomes)
    r.races = races_of(racing, ex) if racing is not None else []
    if memory.startswith(LKMM):
        from seqfault.explore.buffering import passed_over  # what other models have no need of

        r.late_stores = passed_over(ex, scenario)
    for held, taken, pc in ex.edges:
        fn, _, line = place_of(a.where[pc])
        r.lock_edges.append((a.lock_classes[held], a.lock_classes[taken], f"{fn}:{line}", scenario.name))
    incomplete = "" if ex.complete else ex.reason
    if ex.complete and ex.graph is None and ex.cyclic is not False:
        room = "no room for the graph of states, --max-memory"
        incomplete = "progress: not looked at with --threads" if limits.threads > 1 else f"progress: {room}"
    if (watcher is not None and watcher.full) or (racing is not None and racing.full):
        incomplete = incomplete or "too many different accesses"
    limited = [v for v in vs if v.kind in LIMIT_KINDS]
    if limited and not incomplete:
        k = limited[0]
        incomplete = bound(memory) if k.kind == NO_ROOM else f"{k.kind} of {k.object or 'the model'}"
    vs = [v for v in vs if v.kind not in LIMIT_KINDS]
    base_vs: set[tuple[str, str]] = set()
    other = None if checkpoint is None else _other(checkpoint)
    against = "the sequential orders" if is_baseline(protocol) else baseline_name(protocol.release)
    if asked():
        allowed, whole = set[int](), False
    elif protocol.processes:  # a small model is held against no other text
        allowed, whole = set(ex.outcomes), True
    elif is_baseline(protocol):
        allowed, whole = sequential_outcomes(protocol, scenario, limits, other)
    else:
        allowed, base_vs, whole = baseline_of(scenario, limits, memory, lock_waits, other, protocol.release)
    if whole:
        new = [(ex.outcomes[h], h) for h in ex.outcomes if h not in allowed]
        if new:
            state, _ = min(new)
            v = Violation("new-outcome", "", "", "", 0, ex.path_to(state), len(new), memory=memory)
            v.detail = f"{len(new)} of {len(ex.outcomes)} outcomes are not among the {len(allowed)} of {against}"
            vs.append(v)
    elif not incomplete:
        incomplete = INTERRUPTED if asked() else f"the exploration of {against} did not finish"
    for v in vs:
        v.baseline = (v.kind, v.object) in base_vs
    r.violations = sorted(vs, key=lambda v: (v.baseline, len(v.schedule), v.kind, v.object))
    wrong = bool(vs) or (races == "error" and bool(r.races))
    r.verdict = VIOLATED if wrong else INCOMPLETE if incomplete else HOLDS
    r.reason = incomplete
    r.seconds = time.perf_counter() - t0
    return r


def _other(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.other")


def forget(checkpoint: Path) -> None:
    """Remove what `check_scenario` saved."""
    remove(checkpoint)
    remove(_other(checkpoint))


def saved(checkpoint: Path | None) -> bool:
    """Whether `check_scenario` saved anything."""
    if checkpoint is None:
        return False
    return any(f.name.startswith(checkpoint.name) and f.suffix != ".new" for f in checkpoint.parent.iterdir())


@dataclass
class Report:
    """A protocol checked over scenarios.  `memory`: the memory model."""

    protocol: str
    memory: str
    scenarios: list[ScenarioResult]
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """violated if any scenario is, else incomplete if any is, else holds."""
        return worst(s.verdict for s in self.scenarios)

    @property
    def speculative_successes(self) -> int:
        return sum(s.speculative_successes for s in self.scenarios)

    def distinct(self) -> list[tuple[Violation, list[ScenarioResult]]]:
        """Each distinct violation once, with the scenarios that show it, the smallest first."""
        groups: dict[tuple[str, str, str], list[tuple[Violation, ScenarioResult]]] = {}
        for s in self.scenarios:
            for v in s.violations:
                groups.setdefault(v.key(), []).append((v, s))
        out = []
        for vs in groups.values():
            vs.sort(key=lambda x: (len(x[0].schedule), x[1].states, x[1].name))
            out.append((vs[0][0], [s for _, s in vs]))
        rank = {k: i for i, k in enumerate(SEVERITY)}
        # what a protocol's own call does comes first, then what is worst, then what is most frequent
        return sorted(
            out,
            key=lambda x: (x[0].baseline, not x[0].site, rank.get(x[0].kind, 99), -len(x[1]), x[0].kind, x[0].function),
        )


def check(
    protocol: Protocol,
    scenarios: Sequence[Scenario],
    limits: Limits | None = None,
    progress: Callable[[ScenarioResult], None] | None = None,
    memory: str = SC,
) -> Report:
    """Check every scenario in this process, under a memory model; `progress` is called after each."""
    t0 = time.perf_counter()
    out = []
    for s in scenarios:
        r = check_scenario(protocol, s, limits, memory=memory)
        out.append(r)
        if progress:
            progress(r)
    report = Report(protocol.name, memory, out, time.perf_counter() - t0)
    add_lock_cycles(report)
    return report


def add_lock_cycles(report: Report) -> None:
    """Add a `lock-order-inversion` for each cycle of lock classes, over everything that was explored, as
    lockdep would; to the
    first scenario that completes it."""
    edges: dict[tuple[str, str], tuple[str, int]] = {}
    for i, s in enumerate(report.scenarios):
        for a, b, at, _ in s.lock_edges:
            edges.setdefault((a, b), (at, i))
    for ring in cycles(list(edges)):
        pairs = [(ring[i], ring[(i + 1) % len(ring)]) for i in range(len(ring))]
        where = [edges[p] for p in pairs]
        s = report.scenarios[max(i for _, i in where)]
        fn, _, line = where[-1][0].rpartition(":")
        v = Violation("lock-order-inversion", " -> ".join([*ring, ring[0]]), fn, "", int(line or 0))
        v.detail = "; ".join(f"{b} taken under {a} in {w}" for (a, b), (w, _) in zip(pairs, where, strict=True))
        s.violations.append(v)
        s.verdict = VIOLATED
