"""Many scenarios on several processors, with limits, interruption and resumption."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from seqfault.explore import interrupt
from seqfault.explore.check import (
    INCOMPLETE,
    Limits,
    Report,
    ScenarioResult,
    Violation,
    add_lock_cycles,
    check_scenario,
    forget,
    saved,
)
from seqfault.explore.interrupt import INTERRUPTED
from seqfault.explore.memory import SC
from seqfault.explore.model import program_for
from seqfault.explore.racewatch import race_from
from seqfault.explore.results import open_results
from seqfault.protocols import baseline_name, load
from seqfault.scenarios.model import Scenario


def _work(
    protocol: str,
    scenario: Scenario,
    limits: Limits,
    locks: bool,
    memory: str,
    waits: bool,
    checkpoint: Path | None,
    races: str,
) -> ScenarioResult:
    def check(s: Scenario) -> ScenarioResult:
        return check_scenario(
            load(protocol), s, limits, locks=locks, memory=memory, lock_waits=waits, checkpoint=checkpoint, races=races
        )

    try:
        return interrupt.at_once(check, scenario)
    except KeyboardInterrupt:
        return skipped(scenario, INTERRUPTED)


# reasons after which it can go on
CUT_SHORT = (INTERRUPTED, "time limit", "memory limit", "limit of", "the exploration of")
SAVING_S = 120  # a worker that is told to stop may take so long to save


class Record:
    """Finished results in a file, one JSON object a line, so that an interrupted check goes on.

    Raises `OSError` if the file cannot be written, or another process has it.
    """

    def __init__(
        self,
        path: Path | None,
        protocol: str,
        locks: bool = False,
        memory: str = SC,
        lock_waits: bool = False,
        races: str = "off",
    ):
        self.path, self.protocol, self.locks, self.memory, self.lock_waits = path, protocol, locks, memory, lock_waits
        self.races = races
        self.known: dict[str, ScenarioResult] = {}
        self.failed = False
        if path is None:
            return
        self.file = open_results(path, self.take, buffering=0)

    def take(self, d: dict[str, Any]) -> None:
        """Know a result again."""
        vs = [Violation(**{**v, "schedule": [tuple(x) for x in v["schedule"]]}) for v in d["result"].pop("violations")]
        edges = [tuple(e) for e in d["result"].pop("lock_edges")]
        races = [race_from(x) for x in d["result"].pop("races")]
        r = ScenarioResult(**d["result"], violations=vs, lock_edges=edges, races=races)
        if r.late_stores is not None:
            r.late_stores = [(a, b, c) for a, b, c in r.late_stores]
        self.known[d["key"]] = r

    def key(self, scenario: Scenario, limits: Limits | None = None) -> str:
        """What a result depends on; one that a limit cut short, on the limits too."""
        program = program_for(load(self.protocol), scenario)
        base = program_for(load(baseline_name(load(self.protocol).release)), scenario)
        what = [program.key("merged"), base.key("merged"), repr(scenario)]
        if limits is not None:
            what.append(repr((limits.states, limits.memory, *limits.how)))
        if self.locks:
            what.append(repr(load(self.protocol).locks))
        if self.memory != SC:
            what.append(self.memory)
        what.append(f"progress {self.lock_waits}")
        if self.races != "off":
            what.append(f"races {self.races}")
        if load(self.protocol).without:
            what.append(repr(load(self.protocol).without))
        return hashlib.sha256(repr(tuple(what)).encode()).hexdigest()[:24]

    def find(self, scenario: Scenario, limits: Limits) -> ScenarioResult | None:
        """The result that is known of a scenario."""
        if not self.known:
            return None
        return self.known.get(self.key(scenario)) or self.known.get(self.key(scenario, limits))

    def checkpoint(self, scenario: Scenario, limits: Limits) -> Path | None:
        """Where the exploration of a scenario that has not finished is kept; whatever its limits are."""
        if self.path is None or self.locks or self.races != "off" or self.memory != SC or scenario.forever:
            return None
        p = load(self.protocol)
        what = program_for(p, scenario).key("merged"), repr(scenario), *limits.how, p.without
        name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        return self.path.with_name(f"{self.path.name}.{name}.checkpoint")

    def add(self, scenario: Scenario, limits: Limits, r: ScenarioResult) -> None:
        """Keep a result that is one; and remove the checkpoints that it needs no more."""
        if self.path is None:
            return
        at = self.checkpoint(scenario, limits)
        if r.verdict == INCOMPLETE or r.reason.startswith(("time limit", INTERRUPTED)):
            if r.reason.startswith(CUT_SHORT) and saved(at):
                more = {"memory": " and a larger --max-memory", "limit": " and a larger --max-states"}
                r.reason += f"; go on with --resume {self.path}{more.get(r.reason.split()[0], '')}"
            return
        key = self.key(scenario, limits if r.reason else None)
        line = (json.dumps({"key": key, "result": asdict(r)}) + "\n").encode()
        size = self.file.seek(0, os.SEEK_END)
        try:
            if self.file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self.file.fileno())
        except OSError as e:
            self.file.truncate(size)
            if not self.failed:
                told = f"seqfault: {self.path}: {e.strerror}; the results from now on are not kept, its checkpoints are"
                print(told, file=sys.stderr, flush=True)
            self.failed = True
            return
        if at is not None and not r.reason.startswith(CUT_SHORT):
            forget(at)

    def close(self) -> None:
        """Let others have the file."""
        if self.path is not None:
            self.file.close()


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
    races: str = "off",
) -> Report:
    """Check `scenarios` with `jobs` worker processes (0: one a processor).

    `timeout`: seconds for all of it; what is not done by then is incomplete.  Ctrl-C likewise.
    `progress(result, done)` after each scenario, `tick(done, running)` a few times a second; `live(exploration,
    frontier)` likewise, with one job.  `locks`: hold each access against the table of locks too.  `memory`: the memory
    model.  `lock_waits`: waiting for a lock for ever is starvation too.  `races`: as for `check_scenario`.
    `resume`: file to which results are added and from which they are taken; beside it explorations are saved that do
    not finish.  Raises `OSError` if that file cannot be written, `CheckpointError` for a saved exploration that cannot
    be used.
    """
    t0 = time.perf_counter()
    load(protocol)
    record = Record(resume, protocol, locks, memory, lock_waits, races)
    results: dict[str, ScenarioResult] = {}
    todo: list[Scenario] = []
    for s in scenarios:
        known = record.find(s, limits) if resume is not None else None
        if known is not None:
            results[s.name] = known
            if progress:
                progress(known, len(results))
        else:
            todo.append(s)
    cpus = max(1, (os.cpu_count() or 1) // limits.threads)
    jobs = min(jobs or cpus, cpus if limits.threads > 1 else jobs or cpus, max(1, len(todo)))
    end = None if timeout is None else t0 + timeout
    reason = ""
    with interrupt.handled():
        try:
            if jobs == 1:
                for s in todo:
                    left = None if end is None else end - time.perf_counter()
                    if (left is not None and left <= 0) or interrupt.asked():
                        reason = INTERRUPTED if interrupt.asked() else f"time limit of {timeout:g} s"
                        break
                    mine = replace(limits, seconds=_least(limits.seconds, left))
                    at = record.checkpoint(s, limits)
                    r = check_scenario(load(protocol), s, mine, live, locks, memory, lock_waits, at, races)
                    results[s.name] = r
                    record.add(s, limits, r)
                    if progress:
                        progress(r, len(results))
            else:
                reason = _parallel(
                    protocol, todo, limits, jobs, end, timeout, results, record, progress, tick, locks, memory,
                    lock_waits, races,
                )  # fmt: skip
        except KeyboardInterrupt:
            reason = INTERRUPTED
        finally:
            record.close()
    if reason == INTERRUPTED and resume is not None:
        reason += f"; go on with --resume {resume}"
    ordered = [results.get(s.name) or skipped(s, reason or "not run") for s in scenarios]
    report = Report(protocol, memory, ordered, time.perf_counter() - t0)
    add_lock_cycles(report)
    return report


def _least(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)


def weight(s: Scenario) -> tuple[int, int]:
    """Roughly how large a scenario is: CPUs, operations."""
    return sum(1 for ops in s.cpus if ops), sum(map(len, s.cpus))


def _parallel(
    protocol: str,
    todo: list[Scenario],
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
    races: str,
) -> str:
    # the parent has compiled nothing yet: fork is safe and costs no second import
    ctx = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, mp_context=ctx, initializer=interrupt.worker)
    queue = sorted(reversed(todo), key=weight)  # the largest first, so that nobody waits for one at the end
    running: dict[Future[ScenarioResult], Scenario] = {}

    def collect(seconds: float) -> None:
        done, _ = wait(running, timeout=seconds, return_when=FIRST_COMPLETED)
        for f in done:
            s = running.pop(f)
            if f.cancelled():
                continue
            r = f.result()
            if r.states or r.reason != INTERRUPTED:
                results[s.name] = r
            record.add(s, limits, r)
            if progress:
                progress(r, len(results))

    procs: list[Any] = []

    def stop() -> None:
        """Tell the workers to save, and to give what they have."""
        for f in running:
            f.cancel()
        procs[:] = (pool._processes or {}).values()
        for p in procs:
            p.terminate()

    try:
        try:
            while queue or running:
                while queue and len(running) < 2 * jobs:
                    s = queue.pop()
                    left = None if end is None else max(0.1, end - time.perf_counter())
                    mine = replace(limits, seconds=_least(limits.seconds, left))
                    at = record.checkpoint(s, limits)
                    f = pool.submit(_work, protocol, s, mine, locks, memory, lock_waits, at, races)
                    running[f] = s
                collect(0.2)
                if tick:
                    tick(len(results), len(running))
                if end is not None and time.perf_counter() > end + 5:
                    return f"time limit of {timeout:g} s"
                if end is not None and time.perf_counter() > end and queue:
                    queue.clear()
        except KeyboardInterrupt:
            stop()
            with interrupt.later():  # a second Ctrl-C does not wait
                while running:
                    collect(0.2)
            return INTERRUPTED
        return "" if len(results) >= len(todo) else f"time limit of {timeout:g} s" if timeout else ""
    except BrokenProcessPool:
        if interrupt.asked():  # a worker had only begun
            return INTERRUPTED
        raise
    finally:
        if running:
            stop()
        pool.shutdown(wait=not running, cancel_futures=True)
        for p in procs:
            if running:
                p.join(timeout=0 if interrupt.asked() else SAVING_S)
                p.kill()
