"""The mm text of a protocol in virtual time: one program a protocol, a machine for each run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqfault.kernel.machine import KernelBug
from seqfault.kernel.places import Protocol
from seqfault.mm.frames import free_page_check
from seqfault.mm.fullsize import full_sizes
from seqfault.mm.opcodes import PAGE_SIZE
from seqfault.mm.tlb import flush_check
from seqfault.mm.vma import validate_mm
from seqfault.price import driver, nothing
from seqfault.price.clock import TICKS
from seqfault.price.machine import TimedMachine
from seqfault.price.machines import Machine
from seqfault.price.mapping import BINDS, at_places
from seqfault.price.timed import FALLBACK, TimedProgram

LARGEST = 1024
PAGES = 1 << 20  # of an address space
HEAP = 16  # the page where heaps begin: mappings are placed from the top down
KINDS = ("fault", "mmap", "munmap", "mprotect", "madvise", "mremap", "brk", "mlock", "msync", "mseal")


CHECKED: dict[Any, Any] = {
    validate_mm: nothing.no_validate_mm,
    free_page_check: nothing.no_free_page_check,
    flush_check: nothing.no_flush_check,
}


def sizes_of(protocol: Protocol, tasks: int, processes: bool = False) -> dict[str, int]:
    """Sizes for up to `tasks` threads, or processes of one thread each: 4 GB of addresses, a million frames."""
    own = dict(protocol.sizes)
    linux = own.pop("LINUX", 412)
    own.pop("NR_VMAS", None)
    if 603 <= linux < 618:
        linux = 618  # with FULL the text has vma_prepare and vma_complete only as of 6.18
    small = tasks <= 256
    return full_sizes(
        linux,
        **own
        | {
            "NR_CPUS": tasks,
            "NR_TASKS": tasks,
            "NR_MMS": tasks if processes else 1,
            "NR_PAGES": PAGES,
            "PTRS_PER_PTE": 512,
            "NR_PTE_TABLES": 1 << (13 if processes else 12),
            "NR_VMAS": 1 << 15,
            "NR_FRAMES": 1 << (20 if small else 21),
            "NR_ANON_VMAS": 1 << 15,
            "NR_AVCS": 1 << 16,
            "NR_FILES": tasks + 2,
            "NR_TEST_FILES": tasks + 1,
            "FILE_PAGES": 1 << 13,
            "GATHER_BATCH": 506,
            "SEQ_MAX": 1 << 40,
            "RCU_ARGS": 1 << 20,
            "NR_CALLBACKS": 1 << 15,
            "NR_RCU": 1,
            "NR_STEPS": 1 << 20,
            "NR_DRAWS": 16,
            "NR_MAPS": 1 << 18,
            "NR_PLACES": 1 << 12,
            "VMA_LOCK_OFFSET": 1 << 30,
        },
    )


_programs: dict[tuple[int, int, bool], TimedProgram] = {}


def program(protocol: Protocol, tasks: int, processes: bool = False) -> TimedProgram:
    """The machine code of a protocol for so many threads and more (256 or `LARGEST`), or as many processes."""
    tasks = 256 if tasks <= 256 else LARGEST
    key = id(protocol), tasks, processes  # protocols live as long as the process
    if key not in _programs:
        _programs[key] = _program(protocol, tasks, processes)
    return _programs[key]


def _program(protocol: Protocol, tasks: int, processes: bool) -> TimedProgram:
    binds: dict[Any, Any] = {**protocol.binds, **BINDS, **CHECKED}
    return TimedProgram(
        driver.price_main,
        {"price_init": driver.price_init, "price_setup": driver.price_setup},
        binds,
        sizes_of(protocol, tasks, processes),
        protocol.fields,
        instead=at_places(protocol),
        level=1,
        typesafe=protocol.typesafe,
    )


@dataclass
class Stats:
    """Of one kind of operation: how many, ns all in all, ns waited for locks, and the 50th and 99th percentile."""

    n: int = 0
    ns: float = 0.0
    waited: float = 0.0
    failed: int = 0
    p50: float = 0.0
    p99: float = 0.0

    @property
    def mean(self) -> float:
        return self.ns / self.n if self.n else 0.0

    @property
    def mean_wait(self) -> float:
        return self.waited / self.n if self.n else 0.0


@dataclass
class Outcome:
    """What a run measured, warm-up left out.  `seconds` of virtual time; `units`: the workload's own, all threads;
    `reasons`: why faults fell back; `violations`: what the text did that it must not, by kind;
    `locked`: faults that took mmap_sem; `invalidated`: those of them that had speculated and gave up because something
    changed, and `invalidated_ns` that they took; `vain`, `vain_ns`: those whose page no operation of that time was
    about.  `finished`: every thread came to its end.  `stopped`: what of the text's own errors ended the run before its
    time, and where; `seconds` and all else are until then (0: it was not being measured yet)."""

    protocol: str
    tasks: int
    seconds: float
    units: int
    faults: int
    speculative: int
    reasons: dict[str, int] = field(default_factory=dict)
    stats: dict[str, Stats] = field(default_factory=dict)
    accesses: int = 0
    transfers: int = 0
    ipis: int = 0
    failed: int = 0
    wall: float = 0.0
    violations: dict[str, int] = field(default_factory=dict)
    locked: int = 0
    invalidated: int = 0
    invalidated_ns: int = 0
    vain: int = 0
    vain_ns: int = 0
    finished: bool = True
    stopped: str = ""

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds if self.seconds else 0.0

    @property
    def tried(self) -> int:
        """Faults that tried without mmap_sem and came to an end, one way or the other."""
        return self.speculative + sum(self.reasons.values())

    @property
    def share(self) -> float | None:
        """Of faults that took no address-space lock; None where none tried."""
        return self.speculative / self.tried if self.tried else None


class World:
    """Threads with steps of their own on one address space, or processes with one each.

    `programs`: for each task its steps, rows of (op, a, b, c, d) (price/driver.py); `setup`: rows that are performed
    before, by nobody (with `owners`: in the address space of which process, a number for each); `cpus`: how many the
    threads share (0: one for each), and `placed`: as DO_CPU says; `costs` override the machine's constants.
    """

    def __init__(
        self,
        protocol: Protocol,
        machine: Machine,
        programs: Sequence[Sequence[tuple[int, ...]]],
        setup: Sequence[tuple[int, ...]] = (),
        seed: int = 1,
        costs: Mapping[str, float] | None = None,
        lookahead: float | None = None,
        stagger: float = 1000.0,
        cpus: int = 0,
        owners: Sequence[int] | None = None,
        placed: bool = False,
    ):
        tasks = len(programs)
        if not 1 <= tasks <= LARGEST:
            raise ValueError(f"{tasks} threads; there may be 1 to {LARGEST}")
        self.protocol, self.tasks = protocol, tasks
        prog = program(protocol, tasks, owners is not None)
        nodes, cores = machine.topology(tasks, cpus or tasks)
        look = machine.lookahead if lookahead is None else lookahead
        self.m = m = TimedMachine(prog, tasks, {**machine.costs, **(costs or {})}, nodes, cores, cpus, look)
        self.layout = prog.layout
        if owners is not None:
            m.task_cells[:tasks, m.task_field["space"]] = np.arange(tasks)
        m.put("vclock", "placed", cpus if placed and cpus < tasks else 0)
        m.call("price_init", prog.sizes["NR_FILES"], 1 << 13)
        for i in range(prog.sizes["NR_MMS"]):
            for name in ("start_brk", "brk"):
                m.cells[self.layout.address("mm_struct", i, name)] = HEAP * PAGE_SIZE
        rows: list[tuple[int, ...]] = []
        first: list[int] = []
        for row in setup:
            rows.append(row)
        for p in programs:
            first.append(len(rows))
            rows += [*p, (driver.DO_END, 0, 0, 0, 0)]
        if len(rows) > prog.sizes["NR_STEPS"]:
            raise ValueError(f"{len(rows)} steps; there is room for {prog.sizes['NR_STEPS']}")
        pool = self.layout.pools["step"]
        table = np.zeros((len(rows), pool.stride), np.int64)
        for width in {len(r) for r in rows}:
            which = [i for i, r in enumerate(rows) if len(r) == width]
            table[which, :width] = [rows[i] for i in which]
        m.cells[pool.base : pool.base + table.size] = table.ravel()
        for k in range(len(setup)):
            m.call("price_setup", k, owners[k] if owners is not None else 0)
        for name in ("op_stats", "recent"):  # what is done before is no part of what is measured
            self.clear(name)
        shared = self.program_cells(prog.sizes["NR_TASKS"])
        if shared[self.offset("failed")]:
            error = m.get("driver_costs", "error")
            raise ValueError(f"the workload's preparation fails with errno {-error}")
        random = np.random.default_rng(seed)
        regs = self.offset("reg")
        for i in range(tasks):
            c = self.program_cells(i)
            c[self.offset("first")] = first[i]
            c[self.offset("seed")] = random.integers(0, 1 << 31)
            c[regs:] = shared[regs:]
        at = random.uniform(0, stagger, tasks)
        m.start(lambda i: float(at[i]))
        self.wall = 0.0

    def offset(self, name: str) -> int:
        return self.layout.members(self.layout.pools["program"].struct)[name].offset

    def program_cells(self, task: int) -> Any:
        p = self.layout.pools["program"]
        at = p.base + task * p.stride
        return self.m.cells[at : at + p.stride]

    def clear(self, pool: str, keep: int = 0) -> None:
        """Set a pool's cells to 0, but for the first so many."""
        p = self.layout.pools[pool]
        self.m.cells[p.base + keep : p.base + p.n * p.stride] = 0

    def units(self) -> int:
        p = self.layout.pools["program"]
        return int(self.m.cells[p.base + self.offset("units") : p.base + self.tasks * p.stride : p.stride].sum())

    def failures(self) -> int:
        p = self.layout.pools["program"]
        return int(self.m.cells[p.base + self.offset("failed") : p.base + self.tasks * p.stride : p.stride].sum())

    def finish(self, most: float, progress: Any = None) -> Outcome:
        """Run until every thread is done, or `most` ns are over."""
        t0 = time.perf_counter()
        stopped = self.advance(most, progress)
        n = self.tasks
        clocks = self.m.task_cells[:n, self.m.task_field["clock"]]
        ns = float(clocks.max()) / TICKS if stopped or self.m.done() else most
        out = self.outcome({}, {}, 0, 0, ns, t0)
        out.finished = self.m.done()
        return stop(out, stopped)

    def advance(self, until: float, progress: Any) -> str:
        """Go on; which of the text's own errors ended it, and where: what was measured until then stands."""
        try:
            self.m.run(until, progress)
        except KernelBug as e:
            return f"{e.kind} in {e.message}"
        return ""

    def run(self, warm_up: float, ns: float, progress: Any = None) -> Outcome:
        """Run for `warm_up` ns that are not counted, and `ns` that are."""
        t0 = time.perf_counter()
        m = self.m
        stopped = self.advance(warm_up, progress)
        m.put("driver_costs", "began", round(warm_up * TICKS))
        self.clear("op_stats")
        self.clear("recorded", self.layout.members(self.layout.pools["recorded"].struct)["blame"].offset)
        if not stopped:
            m.violations.clear()
        before = self.units(), m.counters, self._totals(), self.failures()
        stopped = stopped or self.advance(warm_up + ns, progress)
        if stopped:
            ns = max(m.get("vclock", "now") / TICKS - warm_up, 0.0)
        return stop(self.outcome(before[1], before[2], before[0], before[3], ns, t0), stopped)

    def outcome(
        self, counters: dict[str, int], before: dict[str, int], units: int, failed: int, ns: float, t0: float
    ) -> Outcome:
        """What happened since counters and totals were as given."""
        m = self.m
        count = {k: v - counters.get(k, 0) for k, v in m.counters.items()}
        totals = {k: v - before.get(k, 0) for k, v in self._totals().items()}
        stats = self.stats()
        faults = stats["fault"].n
        reasons = {k.removeprefix(FALLBACK): v for k, v in count.items() if k.startswith(FALLBACK) and v}
        moved, moved_ns, vain, vain_ns = (sum(c[k] for c in self.causes()) for k in range(1, 5))
        good = count.get(self.protocol.speculative, 0) if self.protocol.speculative else 0
        return Outcome(
            self.protocol.name, self.tasks, ns / 1e9, self.units() - units, faults, good,
            dict(sorted(reasons.items(), key=lambda x: -x[1])), stats, totals["accesses"], totals["transfers"],
            totals["ipis"], self.failures() - failed, time.perf_counter() - t0,
            dict(Counter(k for k, _ in m.violations)), m.get("recorded", "locked"),
            moved, moved_ns, vain, vain_ns,
        )  # fmt: skip

    def causes(self) -> list[tuple[int, ...]]:
        """Places of the program that faults met: place; how many gave up because of it, their ns; how many of those in
        vain, their ns; how many waited, and how long."""
        pool = self.layout.pools["recorded"]
        fields = self.layout.members(pool.struct)
        names = ("moved", "moved_for", "vain", "vain_for", "kept", "kept_for")
        n = fields["moved_for"].offset - fields["moved"].offset
        at = [pool.base + fields[name].offset for name in names]
        table = np.array([self.m.cells[a : a + n] for a in at])
        table[1::2] //= TICKS
        return [(int(i), *(int(x) for x in table[:, i])) for i in np.flatnonzero(table.any(axis=0))]

    def _totals(self) -> dict[str, int]:
        m = self.m
        return {
            "accesses": m.get("vclock", "accesses"),
            "transfers": m.get("vclock", "transfers"),
            "ipis": m.get("lock_costs", "ipis"),
        }

    def stats(self) -> dict[str, Stats]:
        pool = self.layout.pools["op_stats"]
        at = self.layout.members(pool.struct)["bucket"].offset
        out = {}
        for i, kind in enumerate(KINDS):
            c = self.m.cells[pool.base + i * pool.stride : pool.base + (i + 1) * pool.stride]
            n, ns, waited, failed = (int(v) for v in c[:4])
            b = c[at:]
            out[kind] = Stats(n, ns / TICKS, waited / TICKS, failed, quantile(b, 0.5), quantile(b, 0.99))
        return out


def stop(out: Outcome, what: str) -> Outcome:
    """The outcome of a run that the text's own error ended, if one did."""
    out.stopped = what
    out.finished = out.finished and not what
    return out


def bucket_start(i: int) -> float:
    """The least duration in bucket `i`, ns."""
    return (i if i < 16 else (8 + i % 8) << (i // 8 - 1)) / TICKS


def quantile(buckets: Any, q: float) -> float:
    n = int(buckets.sum())
    if not n:
        return 0.0
    i = int(np.searchsorted(np.cumsum(buckets), q * n))
    return (bucket_start(i) + bucket_start(i + 1)) / 2
