"""Holding what the explored text does against the table of locks: `seqfault locks`."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace

from seqfault.explore.check import (
    HOLDS,
    INCOMPLETE,
    LOCK_NOT_HELD,
    VIOLATED,
    Limits,
    Violation,
    place_of,
    run_one,
    statement_of,
)
from seqfault.explore.engine import Exploration
from seqfault.explore.model import automaton_for
from seqfault.explore.watch import Access, Watch
from seqfault.kernel.places import Protocol
from seqfault.mm.locks import LINUX_4_12, Discipline, Judgement
from seqfault.protocols import load
from seqfault.scenarios.model import Scenario

CHUNK = 16  # scenarios that a worker gets at a time


@dataclass(frozen=True)
class Observed:
    """Accesses of one kind: from the same line, with the same locks.

    `words`: what held, in the words of mm/locks.py, without locks that the object does not have; `function`, `file`,
    `line`: of the text; `scenario`: one that shows it, with its `schedule` if it is not right.
    """

    field: str
    write: bool
    words: tuple[str, ...]
    function: str
    file: str
    line: int
    judgement: Judgement
    count: int
    scenario: str
    schedule: tuple[tuple[int, int], ...] = ()

    def key(self) -> tuple[object, ...]:
        return self.field, self.write, self.words, self.function, self.file, self.line, self.judgement


@dataclass(frozen=True)
class Nesting:
    """`taken` was taken while `held` was held; `right`: the tree of locks has it so."""

    held: str
    taken: str
    where: str
    scenario: str
    right: bool


@dataclass
class LockReport:
    """What `check_locks` found.  `reason`: why it is incomplete, or ""."""

    protocol: str
    discipline: Discipline
    observed: list[Observed] = field(default_factory=list)
    nesting: list[Nesting] = field(default_factory=list)
    scenarios: int = 0
    transitions: int = 0
    reason: str = ""
    seconds: float = 0.0

    @property
    def wrong(self) -> list[Observed]:
        """Accesses without the locks that the table asks for."""
        return [o for o in self.observed if not o.judgement.right]

    @property
    def inversions(self) -> list[Nesting]:
        return [n for n in self.nesting if not n.right]

    @property
    def verdict(self) -> str:
        return VIOLATED if self.wrong or self.inversions else INCOMPLETE if self.reason else HOLDS

    def count(self, name: str, write: bool, rule: str = "", exception: str = "") -> int:
        """How many accesses to a field were right by that alternative, or that exception."""
        want = Judgement(rule, exception)
        return sum(o.count for o in self.observed if (o.field, o.write, o.judgement) == (name, write, want))

    def used(self) -> dict[str, int]:
        """How often each exception was needed."""
        out = {e.name: 0 for e in self.discipline.exceptions}
        for o in self.observed:
            if o.judgement.exception:
                out[o.judgement.exception] += o.count
        return out

    def untouched(self) -> list[str]:
        """Fields that nothing touched."""
        seen = {o.field for o in self.observed}
        return [r.field for r in self.discipline.rows if r.field not in seen]


def discipline_of(protocol: Protocol) -> Discipline:
    """Linux's table with what the protocol adds to it."""
    more = protocol.locks
    assert more is None or isinstance(more, Discipline)
    return LINUX_4_12.extended(more)


def check_locks(
    protocol: str,
    scenarios: Sequence[Scenario],
    limits: Limits | None = None,
    jobs: int = 0,
    timeout: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> LockReport:
    """Explore `scenarios` and hold every access against the table.  `jobs`: worker processes, 0: one a processor;
    `timeout`: seconds for all of it; `progress(scenarios done)`."""
    t0 = time.perf_counter()
    limits = limits or Limits()
    report = LockReport(protocol, discipline_of(load(protocol)))
    chunks = [scenarios[i : i + CHUNK] for i in range(0, len(scenarios), CHUNK)]
    jobs = min(jobs or os.cpu_count() or 1, len(chunks))
    end = None if timeout is None else time.time() + timeout
    parts: list[LockReport] = []

    def take(part: LockReport) -> None:
        parts.append(part)
        if progress:
            progress(sum(p.scenarios for p in parts))

    if jobs <= 1:
        for c in chunks:
            take(check_chunk(protocol, c, limits, end))
    else:
        ctx = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(jobs, mp_context=ctx) as pool:
            todo = [pool.submit(check_chunk, protocol, c, limits, end) for c in chunks]
            try:
                for f in as_completed(todo):
                    take(f.result())
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    merge(report, parts)
    report.seconds = time.perf_counter() - t0
    return report


def check_chunk(protocol: str, scenarios: Sequence[Scenario], limits: Limits, end: float | None) -> LockReport:
    """`check_locks` of a few scenarios, in this process."""
    p = load(protocol)
    d = discipline_of(p)
    report = LockReport(protocol, d)
    watches: dict[int, tuple[Watch, dict[int, str], dict[int, tuple[tuple[int, int], ...]]]] = {}
    for s in scenarios:
        if end is not None and time.time() >= end:
            report.reason = "time limit"
            break
        a = automaton_for(p, s)
        if id(a) not in watches:
            watches[id(a)] = Watch(a, (r.field for r in d.rows)), {}, {}
        w, names, paths = watches[id(a)]
        run = w.begin()
        names[run] = s.name
        left = None if end is None else max(0.1, end - time.time())
        _, ex, _ = run_one(p, s, replace(limits, seconds=left), watcher=w)
        report.scenarios += 1
        report.transitions += ex.transitions
        if not ex.complete:
            report.reason = ex.reason
        for x in w.accesses(run):
            if not judge(d, x).right:
                paths[id_of(x)] = (*ex.path_to(x.state), (x.process, x.choice))
        for held, taken, pc in ex.edges:
            fn, file, line = place_of(a.where[pc])
            h, t = a.lock_classes[held], a.lock_classes[taken]
            report.nesting.append(Nesting(h, t, f"{fn} ({file}:{line})", s.name, d.order.allows(h, t)))
    for w, names, paths in watches.values():
        if w.full:
            report.reason = "too many different accesses"
        for x in w.accesses():
            fn, file, line = statement_of(x.where)
            report.observed.append(
                Observed(
                    x.field, x.write, said(x.words - x.absent), fn, file, line, judge(d, x), x.count, names[x.run],
                    paths.get(id_of(x), ()),
                )
            )  # fmt: skip
    return report


def said(words: frozenset[str]) -> tuple[str, ...]:
    """In order, and without what is said by another word."""
    return tuple(sorted(words - {"mmap_sem:r"} if "mmap_sem:w" in words else words))


_watches: dict[int, Watch] = {}


def watch_for(protocol: Protocol, scenario: Scenario) -> Watch:
    """A watch of the automaton that runs `scenario`, empty.  It is the same for all of them: one at a time."""
    a = automaton_for(protocol, scenario)
    if id(a) not in _watches:
        _watches[id(a)] = Watch(a, (r.field for r in discipline_of(protocol).rows))
    _watches[id(a)].clear()
    return _watches[id(a)]


def lock_violations(protocol: Protocol, w: Watch, ex: Exploration) -> list[Violation]:
    """What an exploration did without the locks that the table asks for, once for each field and function."""
    d = discipline_of(protocol)
    found: dict[tuple[str, str, str], Violation] = {}
    for x in w.accesses():
        if judge(d, x).right:
            continue
        fn, file, line = statement_of(x.where)
        path = [*ex.path_to(x.state), (x.process, x.choice)]
        v = Violation(LOCK_NOT_HELD, x.field, fn, file, line, path, x.count, site=x.where.site)
        v.detail = f"{'written' if x.write else 'read'} with {' + '.join(said(x.words - x.absent)) or 'none'}"
        old = found.get(v.key())
        if old is not None:
            v.count += old.count
            if len(old.schedule) <= len(path):
                old.count, v = v.count, old
        found[v.key()] = v
    return list(found.values())


def id_of(x: Access) -> int:
    return hash((x.field, x.write, x.words, x.absent, x.where))


def judge(d: Discipline, x: Access) -> Judgement:
    return d.judge(x.field, x.write, x.words, x.functions)


def merge(report: LockReport, parts: Sequence[LockReport]) -> None:
    """Put the parts' findings together: alike accesses once, with the shortest schedule."""
    seen: dict[tuple[object, ...], Observed] = {}
    edges: dict[tuple[str, str], Nesting] = {}
    for part in parts:
        report.scenarios += part.scenarios
        report.transitions += part.transitions
        report.reason = report.reason or part.reason
        for o in part.observed:
            old = seen.get(o.key())
            if old is None:
                seen[o.key()] = o
            else:
                best = min(old, o, key=lambda x: (len(x.schedule), x.scenario))
                seen[o.key()] = replace(best, count=old.count + o.count)
        for n in part.nesting:
            k = (n.held, n.taken)
            edges[k] = min(edges.get(k, n), n, key=lambda x: x.scenario)
    report.observed = sorted(seen.values(), key=lambda o: (o.field, o.write, o.file, o.line, o.words))
    report.nesting = [edges[k] for k in sorted(edges)]


__all__ = ["LockReport", "Nesting", "Observed", "check_locks", "discipline_of"]
