"""Many explorations on several processors, with limits, interruption and resumption."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import seqfault
from seqfault.compile.digest import files_digest
from seqfault.explore import interrupt
from seqfault.explore.interrupt import INTERRUPTED
from seqfault.explore.memory import SC
from seqfault.explore.model import program_for
from seqfault.explore.results import open_results
from seqfault.scenarios.model import Scenario
from seqfault.why.lab import Job, Lab, Seen, whole

CHUNK = {True: 600_000, False: 40_000}  # states that a worker is given at a time: under sc, under another model
OVERHEAD = 1500  # states in whose time a scenario is set up
# times the states that a scenario has, it may have without some sites (under sc, another model); or so many:
MORE = {True: 16, False: 64}
LEAST = 200_000
MEMORY = 2 << 30  # bytes of one exploration
_labs: dict[tuple[str, str], Lab] = {}
_scenarios: list[Scenario] = []  # what a worker is told by number


def lab_of(protocol: str, memory: str) -> Lab:
    return _labs.setdefault((protocol, memory), Lab(protocol, memory))


def _look(
    protocol: str, memory: str, jobs: list[tuple[int, tuple[str, ...]]], expect: list[int], states: int,
    seconds: float | None,
) -> list[Seen]:  # fmt: skip
    try:
        lab = lab_of(protocol, memory)
        return lab.look([(_scenarios[i], off) for i, off in jobs], expect, states, seconds, MEMORY)
    except KeyboardInterrupt:
        return [Seen(0, 0, 0, 0, frozenset(), frozenset(), reason=INTERRUPTED) for _ in jobs]


@cache
def _engine() -> str:
    return files_digest(sorted((Path(seqfault.__file__).parent / "explore").glob("*.py")))


class Results:
    """What is known, in memory and, if there is a file, in it: one JSON object a line.

    Raises `OSError` if the file cannot be written, or another process has it.
    """

    def __init__(self, path: Path | None, protocol: str):
        self.known: dict[str, Seen] = {}
        self.protocol, self.path = protocol, path
        self.file: BinaryIO | None = None
        if path is None:
            return
        self.file = open_results(path, self.take)

    def take(self, d: dict[str, Any]) -> None:
        """Know what was seen again."""
        self.known[d["why"]] = Seen.from_json(d["seen"])

    def key(self, memory: str, job: Job, protocol: str = "") -> str:
        """What an exploration depends on, if no limit ends it."""
        scenario, off = job
        p = whole(protocol or self.protocol)
        text = program_for(p, scenario).key("merged"), _engine()
        return hashlib.sha256(repr((text, memory, repr(scenario), p.without, off)).encode()).hexdigest()[:24]

    def put(self, key: str, seen: Seen) -> None:
        if seen.reason.startswith((INTERRUPTED, "time limit")):
            return
        self.known[key] = seen
        if self.file is not None and not seen.reason:
            self.file.write((json.dumps({"why": key, "seen": seen.to_json()}) + "\n").encode())

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


@dataclass
class Budget:
    """Limits of one exploration, and of everything: `end`, by time.perf_counter(), or None."""

    states: int
    end: float | None = None

    def left(self) -> float | None:
        return None if self.end is None else max(0.1, self.end - time.perf_counter())

    def over(self) -> bool:
        return interrupt.asked() or (self.end is not None and time.perf_counter() > self.end)


class Crew:
    """Worker processes, each with its share of the scenarios, which it sets up once."""

    def __init__(
        self, protocol: str, scenarios: Sequence[Scenario], jobs: int, results: Results, budget: Budget,
        tick: Callable[[int], None] | None = None,
    ):  # fmt: skip
        _scenarios[:] = scenarios
        self.protocol, self.results, self.budget, self.tick = protocol, results, budget, tick
        self.number = {s.name: i for i, s in enumerate(scenarios)}
        n = min(jobs or os.cpu_count() or 1, max(1, len(scenarios)))
        ctx = multiprocessing.get_context("fork")
        n = n if n > 1 else 0
        self.pools = [ProcessPoolExecutor(1, mp_context=ctx, initializer=interrupt.worker) for _ in range(n)]
        self.states = 0
        self.explorations = 0

    def look(self, memory: str, jobs: Sequence[Job], expect: Sequence[int], protocol: str = "") -> list[Seen]:
        """Explore each job, of the protocol at hand or another; what was not done in time has a reason."""
        out: list[Seen | None] = [None] * len(jobs)
        keys = [self.results.key(memory, j, protocol) for j in jobs]
        todo = []
        for i, k in enumerate(keys):
            out[i] = self.results.known.get(k)
            if out[i] is None:
                todo.append(i)
        shares: list[list[int]] = [[] for _ in range(max(1, len(self.pools)))]
        for i in todo:
            shares[self.number[jobs[i][0].name] % len(shares)].append(i)
        chunks = [[c for c in self._chunks(share, expect, memory)] for share in shares]
        running: dict[Future[list[Seen]], list[int]] = {}

        def took(chunk: list[int], seen: list[Seen]) -> None:
            for i, s in zip(chunk, seen, strict=True):
                out[i] = s
                self.results.put(keys[i], s)
                self.states += s.states
                self.explorations += not s.reason
            if self.tick:
                self.tick(self.states)

        def args(chunk: list[int]) -> tuple[Any, ...]:
            work = [(self.number[jobs[i][0].name], jobs[i][1]) for i in chunk]
            most = self.budget.states
            if protocol or any(off for _, off in work):
                most = max(LEAST, MORE[memory == SC] * max(expect[i] for i in chunk))
            return protocol or self.protocol, memory, work, [expect[i] for i in chunk], most, self.budget.left()

        if not self.pools:
            for chunk in chunks[0]:
                if self.budget.over():
                    break
                took(chunk, _look(*args(chunk)))
        else:
            while any(chunks) or running:
                for pool, mine in zip(self.pools, chunks, strict=True):
                    ahead = sum(1 for f in running if getattr(f, "pool", None) is pool)
                    while mine and ahead < 2 and not self.budget.over():
                        chunk = mine.pop(0)
                        f = pool.submit(_look, *args(chunk))
                        f.pool = pool  # type: ignore[attr-defined]
                        running[f] = chunk
                        ahead += 1
                if self.budget.over():
                    for mine in chunks:
                        mine.clear()
                    for f in running:
                        f.cancel()
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for f in done:
                    chunk = running.pop(f)
                    if not f.cancelled():
                        took(chunk, f.result())
                if self.tick:
                    self.tick(self.states)
                if interrupt.asked():
                    self.stop()
                    break
        late = INTERRUPTED if interrupt.asked() else "time limit"
        return [s or Seen(0, 0, 0, 0, frozenset(), frozenset(), reason=late) for s in out]

    def each(self, fn: Callable[..., Any], args: tuple[Any, ...], scenarios: Sequence[Scenario]) -> list[Any]:
        """`fn(*args, scenarios, states)` of a share of the scenarios in each worker."""
        most = self.budget.states
        shares: list[list[Scenario]] = [[] for _ in range(max(1, len(self.pools)))]
        for s in scenarios:
            shares[self.number[s.name] % len(shares)].append(s)
        if not self.pools:
            return [fn(*args, shares[0], most)]
        running = [p.submit(fn, *args, share, most) for p, share in zip(self.pools, shares, strict=True)]
        while not all(f.done() for f in running):
            wait(running, timeout=0.2)
            if self.tick:
                self.tick(self.states)
            if interrupt.asked():
                self.stop()
                raise KeyboardInterrupt
        return [f.result() for f in running]

    @staticmethod
    def _chunks(share: list[int], expect: Sequence[int], memory: str) -> list[list[int]]:
        most = CHUNK[memory == SC]
        out: list[list[int]] = []
        size = most
        for i in share:
            n = expect[i] + OVERHEAD
            if size + n > most or not out:
                out.append([])
                size = 0
            out[-1].append(i)
            size += n
        return out

    def stop(self) -> None:
        for pool in self.pools:
            for p in (pool._processes or {}).values():
                p.terminate()

    def close(self) -> None:
        self.results.close()
        for pool in self.pools:
            if interrupt.asked():
                for p in (pool._processes or {}).values():
                    p.kill()
            pool.shutdown(wait=not interrupt.asked(), cancel_futures=True)
