"""Many scenarios on several processors, with limits, interruption and resumption."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path

from seqfault.explore.check import (
    INCOMPLETE,
    Limits,
    Report,
    ScenarioResult,
    Violation,
    add_lock_cycles,
    check_scenario,
)
from seqfault.explore.memory import SC
from seqfault.explore.model import program_for
from seqfault.protocols import load
from seqfault.scenarios.model import Scenario

SAVING_S = 120  # a worker that is told to stop may take so long to save


def _worker_init() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # and sends this: save, then go


def _work(
    protocol: str,
    scenario: Scenario,
    limits: Limits,
    locks: bool,
    memory: str,
    waits: bool,
    checkpoint: Path | None,
) -> ScenarioResult:
    return check_scenario(
        load(protocol), scenario, limits, locks=locks, memory=memory, lock_waits=waits, checkpoint=checkpoint
    )


class Record:
    """Finished results in a file, one JSON object a line, so that an interrupted check goes on."""

    def __init__(
        self, path: Path | None, protocol: str, locks: bool = False, memory: str = SC, lock_waits: bool = False
    ):
        self.path, self.protocol, self.locks, self.memory, self.lock_waits = path, protocol, locks, memory, lock_waits
        self.known: dict[str, ScenarioResult] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                try:
                    d = json.loads(line)
                    vs = [
                        Violation(**{**v, "schedule": [tuple(x) for x in v["schedule"]]})
                        for v in d["result"].pop("violations")
                    ]
                    edges = [tuple(e) for e in d["result"].pop("lock_edges")]
                    self.known[d["key"]] = ScenarioResult(**d["result"], violations=vs, lock_edges=edges)  # type: ignore[arg-type]
                except (ValueError, TypeError, KeyError):
                    continue  # a line that was cut short by a kill is explored again

    def key(self, scenario: Scenario, limits: Limits) -> str:
        program = program_for(load(self.protocol), scenario)
        base = program_for(load("mmap-sem"), scenario)
        what = [program.key("merged"), base.key("merged"), repr(scenario), repr(replace(limits, seconds=None))]
        if self.locks:
            what.append(repr(load(self.protocol).locks))
        if self.memory != SC:
            what.append(self.memory)
        what.append(f"progress {self.lock_waits}")
        return hashlib.sha256(repr(tuple(what)).encode()).hexdigest()[:24]

    def checkpoint(self, scenario: Scenario) -> Path | None:
        """Where the exploration of a scenario that has not finished is kept; whatever the limits are."""
        if self.path is None or self.locks or self.memory != SC:
            return None
        what = program_for(load(self.protocol), scenario).key("merged"), repr(scenario)
        name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        return self.path.with_name(f"{self.path.name}.{name}.checkpoint")

    def add(self, key: str, r: ScenarioResult) -> None:
        if self.path is None or r.verdict == INCOMPLETE:
            return
        with self.path.open("a") as f:
            f.write(json.dumps({"key": key, "result": asdict(r)}) + "\n")


def skipped(s: Scenario, reason: str) -> ScenarioResult:
    return ScenarioResult(s.name, INCOMPLETE, reason=reason)


def check_many(
    protocol: str,
    scenarios: Sequence[Scenario],
    limits: Limits,
    jobs: int = 0,
    timeout: float | None = None,
    progress: Callable[[ScenarioResult, int], None] | None = None,
    tick: Callable[[int, int], None] | None = None,
    resume: Path | None = None,
    live: Callable[..., None] | None = None,
    locks: bool = False,
    memory: str = SC,
    lock_waits: bool = False,
) -> Report:
    """Check `scenarios` with `jobs` worker processes (0: one a processor).

    `timeout`: seconds for all of it; what is not done by then is incomplete.  Ctrl-C likewise.
    `progress(result, done)` after each scenario, `tick(done, running)` a few times a second; `live(exploration,
    frontier)` likewise, with one job.  `locks`: hold each access against the table of locks too.  `memory`: the memory
    model.  `lock_waits`: waiting for a lock for ever is starvation too.  `resume`: file to
    which results are added and from which they are taken.  Raises `OSError` if that file cannot be written.
    """
    t0 = time.perf_counter()
    load(protocol)
    if resume is not None:
        resume.open("a").close()
    record = Record(resume, protocol, locks, memory, lock_waits)
    results: dict[str, ScenarioResult] = {}
    todo: list[tuple[Scenario, str]] = []
    for s in scenarios:
        k = record.key(s, limits) if resume is not None else ""
        if k in record.known:
            results[s.name] = record.known[k]
            if progress:
                progress(results[s.name], len(results))
        else:
            todo.append((s, k))
    jobs = min(jobs or os.cpu_count() or 1, max(1, len(todo)))
    end = None if timeout is None else t0 + timeout
    reason = ""
    try:
        if jobs == 1:
            for s, k in todo:
                left = None if end is None else end - time.perf_counter()
                if left is not None and left <= 0:
                    reason = f"time limit of {timeout:g} s"
                    break
                mine = replace(limits, seconds=_least(limits.seconds, left))
                at = record.checkpoint(s)
                r = check_scenario(load(protocol), s, mine, live, locks, memory, lock_waits, at)
                results[s.name] = r
                record.add(k, r)
                if progress:
                    progress(r, len(results))
        else:
            reason = _parallel(
                protocol, todo, limits, jobs, end, timeout, results, record, progress, tick, locks, memory, lock_waits
            )
    except KeyboardInterrupt:
        reason = "interrupted"
    ordered = [results.get(s.name) or skipped(s, reason or "not run") for s in scenarios]
    report = Report(protocol, memory, ordered, time.perf_counter() - t0)
    add_lock_cycles(report)
    return report


def _least(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)


def _parallel(
    protocol: str,
    todo: list[tuple[Scenario, str]],
    limits: Limits,
    jobs: int,
    end: float | None,
    timeout: float | None,
    results: dict[str, ScenarioResult],
    record: Record,
    progress: Callable[[ScenarioResult, int], None] | None,
    tick: Callable[[int, int], None] | None,
    locks: bool,
    memory: str,
    lock_waits: bool,
) -> str:
    # the parent has compiled nothing yet: fork is safe and costs no second import
    ctx = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, mp_context=ctx, initializer=_worker_init)
    queue = list(reversed(todo))
    running: dict[Future[ScenarioResult], tuple[Scenario, str]] = {}
    try:
        while queue or running:
            while queue and len(running) < 2 * jobs:
                s, k = queue.pop()
                left = None if end is None else max(0.1, end - time.perf_counter())
                mine = replace(limits, seconds=_least(limits.seconds, left))
                f = pool.submit(_work, protocol, s, mine, locks, memory, lock_waits, record.checkpoint(s))
                running[f] = (s, k)
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for f in done:
                s, k = running.pop(f)
                r = f.result()
                results[s.name] = r
                record.add(k, r)
                if progress:
                    progress(r, len(results))
            if tick:
                tick(len(results), len(running))
            if end is not None and time.perf_counter() > end + 5:
                return f"time limit of {timeout:g} s"
            if end is not None and time.perf_counter() > end and queue:
                queue.clear()
        return "" if len(results) >= len(todo) else f"time limit of {timeout:g} s" if timeout else ""
    finally:
        for f in running:
            f.cancel()
        procs = list((pool._processes or {}).values())
        pool.shutdown(wait=not running, cancel_futures=True)
        for p in procs:
            if p.is_alive() and running:
                p.terminate()
        for p in procs:
            if running:
                p.join(timeout=SAVING_S)
