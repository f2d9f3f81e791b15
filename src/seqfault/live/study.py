"""How much `fuzz` sees: the mm text with one small change each, and how soon a difference from the kernel shows.

The kernel's answers to the programs of one seed are recorded once; each mutant answers the same programs.
"""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import seqfault.live
import seqfault.mm
from seqfault.compile.covered import CoveredProgram, reached_lines
from seqfault.compile.digest import files_digest
from seqfault.compile.ir import CompileError
from seqfault.compile.source import instead, source_of
from seqfault.kernel.layout import LIVE
from seqfault.kernel.machine import KernelBug
from seqfault.live.campaign import Options, open_kernel
from seqfault.live.compare import compare
from seqfault.live.fuzz import Found, Pair, examine
from seqfault.live.generate import Plan, programs
from seqfault.live.model import ENTRIES, ModelRun, ModelSide, program_for, window_sizes
from seqfault.live.mutants import Mutant, Site, compiled_lines, draws
from seqfault.live.script import row_text
from seqfault.mm.opcodes import (
    OP_MMAP,
    OP_MPROTECT,
    OP_MUNMAP,
    OP_START,
    PAGE_SIZE,
    UAPI_MAP_ANONYMOUS,
    UAPI_MAP_FIXED,
    UAPI_MAP_PRIVATE,
    WINDOW_BASE,
)

Int64 = NDArray[np.int64]
SMALL = 8  # operations: what is found should show in so many
MUTANT_LEVEL = 0  # of optimisation: sooner made, and most run for a short while


@dataclass
class Outcome:
    """What became of a mutant.  `operations`: how many had been compared when it showed, or all of them; `by`: what
    differed, or the oracle that spoke; `shrunk`: operations that show it; `trace`: of a survivor, the first cell of
    memory that differed, if any did."""

    mutant: Mutant
    found: bool
    operations: int
    by: str = ""
    shrunk: int = 0
    example: Found | None = None
    trace: str = ""


class SameCode(Exception):
    """A change that the compiler makes the same machine code of: it is none."""


class MutantModel(ModelSide):
    """The model with one function changed."""

    def __init__(self, m: Mutant, o: Options, sizes: dict[str, int], unchanged: bytes = b""):
        """`unchanged`: the machine code of the text as it is; raises `SameCode` for the same."""
        with instead(m.fn, m.tree):
            self.geometry, self.release, self.detail_every = o.geometry, o.release, o.detail_every
            self.program = program_for(o.release, o.geometry, **sizes)
            self.program.level = MUTANT_LEVEL
            self.program._code = self.program.compile()
        if self.program._code.object == unchanged:
            raise SameCode
        self.machine: Any = self.program.machine()
        self.machine.limit_loops(1 << 18)
        self.at_start: dict[str, int] = {}
        self.out = np.zeros(1 << 20, np.int64)
        self.start()

    def run(self, rows: Int64) -> ModelRun:
        """As the model's own, but each program begins with memory as at the start: what a wrong text leaves behind
        must not show in the next one."""
        starts = [*np.flatnonzero(rows[:, 0] == OP_START).tolist(), len(rows)]
        streams, offsets, total, done = [], [np.zeros(1, np.int64)], 0, 0
        bug = None
        for a, b in pairwise(starts):
            self.machine.reset()
            self.start()
            r = super().run(rows[a:b])
            streams.append(r.stream[: r.offsets[r.done]].copy())
            offsets.append(r.offsets[1 : r.done + 1] + total)
            total += int(r.offsets[r.done])
            done += r.done
            bug = r.bug
            if bug is None and r.done == b - a:
                bug = self.leak()
                done -= bug is not None  # it is the last operation's, so that all of the program is looked at
            if bug is not None or r.done < b - a:
                break
        return ModelRun(np.concatenate(streams), np.concatenate(offsets), done, bug)

    def live(self) -> dict[str, int]:
        """How many objects of each kind there are when everybody has left."""
        rows = np.zeros((2, 8), np.int64)  # twice: what leaves may stay in a batch of pages until the next step
        rows[:, 0] = OP_START
        self.machine.batch("step", rows, "uapi_request", self.out)
        out = {}
        for name, p in self.program.layout.pools.items():
            if p.state == 0:
                states = self.machine.cells[p.base : p.base + p.n * p.stride : p.stride]
                out[name] = int((states == LIVE).sum())
        return out

    def leak(self) -> KernelBug | None:
        """What a program left behind."""
        now = self.live()
        if not self.at_start:
            self.machine.reset()
            self.start()
            self.at_start = self.live()
        for name, n in now.items():
            if n != self.at_start[name]:
                return KernelBug("leak", f"{name}: {n} objects after a program, {self.at_start[name]} before it")
        return None


class CoveredModel(ModelSide):
    """The model, noting which lines of its text it comes to."""

    def __init__(self, o: Options, sizes: dict[str, int]):
        self.geometry, self.release, self.detail_every = o.geometry, o.release, o.detail_every
        self.program = CoveredProgram(ENTRIES, sizes=window_sizes(o.release, o.geometry, **sizes))
        self.machine: Any = self.program.machine()
        self.out = np.zeros(1 << 20, np.int64)
        self.start()


def covered_lines(o: Options, known: Sequence[Recorded], sizes: dict[str, int]) -> dict[str, set[int]]:
    """The lines of mm/ that the programs reach, by file."""
    model = CoveredModel(o, sizes)
    for r in known:
        model.run(r.rows)
    return reached_lines(model.machine)


def unreached(o: Options, covered: dict[str, set[int]]) -> dict[str, list[int]]:
    """The lines of the release's text that may be changed and were not reached, by file."""
    out: dict[str, set[int]] = {}
    for f, lines in compiled_lines(o).items():
        file = source_of(f).file
        out.setdefault(file, set()).update(lines - covered.get(file, set()))
    return {file: sorted(lines) for file, lines in sorted(out.items()) if lines}


@dataclass
class Recorded:
    """Programs and the kernel's answers."""

    rows: Int64
    stream: Int64
    offsets: Int64


def record(kernel: Any, o: Options, tries: int = 8) -> list[Recorded]:
    """The kernel's answers to the first `o.ops` operations of the seed, taken again where something disturbed them.

    Raises `KernelBug` where the unchanged text does not agree with any of `tries`.
    """
    out = []
    done = 0
    pair = Pair(ModelSide(o.release, o.geometry, o.detail_every, **kernel.sizes), kernel)
    while done * o.program_ops < o.ops:
        rows = programs(o.plan, done, 40, o.seal)
        for _ in range(tries):
            both = pair.run(rows)
            if both.at < 0:
                break
        else:
            raise KernelBug("kernel-side", both.message or f"the unchanged text differs: {both.mismatch}")
        out.append(Recorded(rows, both.kernel_stream.copy(), both.kernel_offsets.copy()))
        done += 40
    pair.pool.shutdown()
    return out


class Unchanged:
    """The unchanged model in the kernel's place: fast, and after no mismatch of the two as good for making small."""

    quiet = True  # nobody disturbs it

    def __init__(self, o: Options, kernel: Any):
        self.model = ModelSide(o.release, o.geometry, 1, **kernel.sizes)
        self.mask, self.sizes = kernel.mask, kernel.sizes
        program = program_for(o.release, o.geometry, **kernel.sizes)
        program.level = MUTANT_LEVEL
        self.code = program.compile().object

    def run(self, rows: Int64) -> tuple[Int64, Int64, str]:
        r = self.model.run(rows)
        n = int(r.offsets[r.done])
        return r.stream[:n].copy(), r.offsets[: r.done + 1].copy(), str(r.bug) if r.bug is not None else ""

    def details(self, every: int) -> None:
        pass

    def close(self) -> None:
        pass


# operations of a program, every so many with VMAs scarce, how many
TREES = 20_000
SHORT_PROGRAMS = ((12, 0, 6000), (12, 1, 6000), (SMALL, 0, 12_000))


def tree_program(rng: random.Random) -> Int64:
    """A mapping that is cut into many VMAs by few operations, some of which go again: trees of many shapes."""
    rows = np.zeros((SMALL + 1, 8), np.int64)
    flags = UAPI_MAP_PRIVATE | UAPI_MAP_FIXED | UAPI_MAP_ANONYMOUS
    first, pages = 513, 36
    rows[1, [0, 2, 3, 4, 5, 6]] = OP_MMAP, WINDOW_BASE + first * PAGE_SIZE, pages * PAGE_SIZE, 3, flags, -1
    for k in range(2, SMALL + 1):
        at = WINDOW_BASE + (first + rng.randrange(pages)) * PAGE_SIZE
        if k < SMALL - 2 or rng.random() < 0.4:
            rows[k, [0, 2, 3, 4]] = OP_MPROTECT, at, PAGE_SIZE, rng.choice((0, 1))
        else:
            rows[k, [0, 2, 3]] = OP_MUNMAP, at, rng.choice((1, 1, 2, 4, 8)) * PAGE_SIZE
    return rows


def shorter(pair: Pair, found: Found) -> Found:
    """The same difference may show sooner in a program of its own: some short ones are tried."""
    rng = random.Random(1)
    for _ in range(TREES // 400):
        batch = [tree_program(rng) for _ in range(400)]
        for rows, at in zip(batch, pair.differing(batch), strict=True):
            got = examine(pair, rows[: at + 1], 0) if at >= 0 else None
            if got is not None:
                return got
    for ops, every, tried in SHORT_PROGRAMS:
        plan = Plan(seed=1, program_ops=ops, geometry=pair.model.geometry, map_count_every=every)
        for first in range(0, tried, 400):
            batch = np.split(programs(plan, first, 400), 400)
            for part, at in zip(batch, pair.differing(batch), strict=True):
                got = examine(pair, part[: at + 1], first) if at >= 0 else None
                if got is not None and len(got.rows) < len(found.rows):
                    found = got
                if len(found.rows) - 1 <= SMALL:
                    return found
    return found


def make_small(model: ModelSide, kernel: Any, unchanged: Unchanged, rows: Int64, program: int) -> Found | None:
    """A short program in which the kernel differs from a changed model; None if `rows` differs not each time."""
    quick, real = Pair(model, unchanged), Pair(model, kernel)
    try:
        got = examine(quick, rows, program)
        if got is not None and len(got.rows) - 1 > SMALL:
            got = shorter(quick, got)
        if got is not None and real.differing([got.rows] * 3) == [len(got.rows) - 1] * 3:
            return got
        return examine(real, rows, program)
    finally:
        quick.pool.shutdown()
        real.pool.shutdown()


def first_trace(model: MutantModel, unchanged: ModelSide, known: Sequence[Recorded]) -> str:
    """The first cell of memory in which a mutant that nothing told of differs after an operation, or "": none does."""
    n = 0
    names = model.program.layout.cells
    request = np.zeros(len(model.machine.cells), bool)
    for pool in ("uapi_request", "uapi_observed"):
        p = model.program.layout.pools[pool]
        request[p.base : p.base + p.n * p.stride] = True
    for r in known:
        for row in r.rows:
            for side in (model, unchanged):
                if row[0] == OP_START:
                    side.begin()
                side.machine.batch("step", row.reshape(1, -1), "uapi_request", side.out)
            n += 1
            if not np.array_equal(model.machine.cells, unchanged.machine.cells):
                wrong = np.flatnonzero((model.machine.cells != unchanged.machine.cells) & ~request)
                if len(wrong):
                    return f"{names[wrong[0]].name} after operation {n}"
    return ""


def try_mutant(
    m: Mutant, o: Options, known: Sequence[Recorded], kernel: Any, unchanged: Unchanged | None = None
) -> Outcome:
    """`unchanged`: if what is found is to be made small.  Raises `CompileError` if the change is no text of the
    language, and `SameCode` if it is none."""
    try:
        model = MutantModel(m, o, kernel.sizes, unchanged.code if unchanged is not None else b"")
    except KernelBug as e:  # it cannot even begin
        return Outcome(m, True, 0, f"before the first operation: {e}")
    done = 0
    for r in known:
        run = model.run(r.rows)
        n = min(run.done, len(r.rows))
        g = o.geometry
        got = compare(r.rows, run.stream, run.offsets, r.stream, r.offsets, g.observed, kernel.mask, n, g.nr_pages)
        at = got.row if got is not None else n if run.bug is not None else -1
        if at < 0:
            done += len(r.rows)
            continue
        by = got.what if got is not None else str(run.bug)
        out = Outcome(m, True, done + at, by)
        if unchanged is not None:
            start = int(np.flatnonzero(r.rows[: at + 1, 0] == 0)[-1])
            out.example = make_small(model, kernel, unchanged, r.rows[start : at + 1], start // (o.program_ops + 1))
            out.shrunk = len(out.example.rows) - 1 if out.example is not None else at - start
        return out
    out = Outcome(m, False, done)
    if unchanged is not None:
        out.trace = first_trace(model, unchanged.model, known)
    return out


FOUND, SURVIVES, STILLBORN, SAME, LOST = "found", "survives", "stillborn", "same", "lost"
COUNTED = (FOUND, SURVIVES, LOST)


@dataclass
class Row:
    """What became of the change number `number` of its kind, in words.  `result`: found, survives; stillborn (it does
    not compile) or same (its machine code is the unchanged text's): another is drawn instead; lost: trying it failed,
    `by` says how.  `program`: what shows it; `trace`: see `Outcome`."""

    kind: str
    number: int
    result: str
    file: str = ""
    line: int = 0
    function: str = ""
    before: str = ""
    after: str = ""
    operations: int = 0
    by: str = ""
    shrunk: int = 0
    program: str = ""
    trace: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line} {self.function}: {self.before} -> {self.after}"


def digest(o: Options, seed: int) -> str:
    """Of all that outcomes depend on, but for the kernel: the text, the programs, and what is compared."""
    folders = [Path(package.__path__[0]) for package in (seqfault.mm, seqfault.live)]
    return files_digest([f for d in folders for f in sorted(d.rglob("*.py"))], repr((o, seed)))[:16]


class Bench:
    """What is needed to try mutants: the kernel, its answers, and the changes in their order."""

    def __init__(self, o: Options, seed: int):
        self.o = o
        self.kernel = open_kernel(o)
        try:
            self.known = record(self.kernel, o)
            self.unchanged = Unchanged(o, self.kernel)
            covered = covered_lines(o, self.known, self.kernel.sizes)
            self.unreached = unreached(o, covered)
            self.sites: dict[str, list[Site]] = draws(o, seed, covered)
        except BaseException:
            self.kernel.close()
            raise

    def row(self, kind: str, number: int) -> Row:
        t = time.perf_counter()
        row = Row(kind, number, LOST)
        try:
            m = self.sites[kind][number].make()
            row.file, row.line, row.function, row.before, row.after = m.file, m.line, m.function, m.before, m.after
            out = try_mutant(m, self.o, self.known, self.kernel, self.unchanged)
            row.result = FOUND if out.found else SURVIVES
            row.trace = out.trace
            row.operations, row.by, row.shrunk = out.operations, out.by, out.shrunk
            if out.example is not None:
                row.program = "; ".join(row_text(r) for r in out.example.rows[1:])
        except CompileError as e:
            row.result, row.by = STILLBORN, str(e)
        except SameCode:
            row.result = SAME
        except Exception:
            row.by = traceback.format_exc(limit=-4)
        row.seconds = round(time.perf_counter() - t, 1)
        return row

    def close(self) -> None:
        self.kernel.close()


def serve(pipe: Connection, o: Options, seed: int) -> None:
    """A worker: says what there is to change, then tries what it is told to."""
    bench = Bench(o, seed)
    try:
        pipe.send(({k: len(v) for k, v in bench.sites.items()}, bench.unreached))
        with suppress(EOFError):
            while True:
                pipe.send(bench.row(*pipe.recv()))
    finally:
        bench.close()


class Worker:
    def __init__(self, o: Options, seed: int):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, o, seed), daemon=True)
        self.process.start()
        theirs.close()
        self.busy: tuple[str, int] | None = None
        self.ready = False

    def give(self, kind: str, number: int) -> None:
        self.busy = kind, number
        self.pipe.send(self.busy)

    def close(self) -> None:
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


class Queue:
    """Which change comes next: of each kind as many as its share of `count`, one more for each that is none."""

    def __init__(self, count: int, known: Mapping[tuple[str, int], Row]):
        self.count, self.rows = count, dict(known)
        self.sizes: dict[str, int] = {}
        self.given: set[tuple[str, int]] = set()

    def share(self, kind: str) -> int:
        kinds = sorted(self.sizes)
        return self.count // len(kinds) + (kinds.index(kind) < self.count % len(kinds))

    def counted(self, kind: str) -> list[Row]:
        """The outcomes that count, in the order of drawing."""
        rows = [r for (k, _), r in sorted(self.rows.items()) if k == kind and r.result in COUNTED]
        return rows[: self.share(kind)]

    def next(self) -> tuple[str, int] | None:
        short = sorted(self.sizes, key=lambda k: len(self.counted(k)) - self.share(k))
        for kind in short:
            need, number = self.share(kind), 0
            while need > 0 and number < self.sizes[kind]:
                row = self.rows.get((kind, number))
                if row is None and (kind, number) not in self.given:
                    self.given.add((kind, number))
                    return kind, number
                need -= row is None or row.result in COUNTED
                number += 1
        return None


@dataclass
class Study:
    """`rows`: those that count; `unreached`: lines that no program came to, by file."""

    rows: list[Row]
    stillborn: int
    same: int
    unreached: dict[str, list[int]]


def study(
    o: Options,
    count: int,
    seed: int,
    jobs: int = 1,
    note: Callable[[Row], None] | None = None,
    known: Sequence[Row] = (),
) -> Study:
    """Try `count` mutants, as many of each kind.  `note`: called with each outcome as it comes, those that do not count
    too; `known`: outcomes of an earlier run, which are not tried again.

    A worker that dies loses the mutant that it was at.
    """
    queue = Queue(count, {(r.kind, r.number): r for r in known})
    never: dict[str, list[int]] = {}
    workers = [Worker(o, seed) for _ in range(jobs)]

    def put(row: Row) -> None:
        queue.rows[row.kind, row.number] = row
        if note is not None:
            note(row)

    def feed(w: Worker) -> None:
        w.busy = None
        task = queue.next()
        if task is not None:
            w.give(*task)

    try:
        while True:
            open_ends: list[Any] = [w.pipe for w in workers if w.busy is not None or not w.ready]
            if not open_ends:
                break
            for end in wait(open_ends):
                w = next(x for x in workers if x.pipe is end)
                try:
                    got = w.pipe.recv()
                except EOFError:
                    w.close()
                    if w.busy is None:
                        raise RuntimeError(f"a worker ended before it began (exit code {w.process.exitcode})") from None
                    put(Row(*w.busy, LOST, by=f"the worker died (exit code {w.process.exitcode})"))
                    workers[workers.index(w)] = Worker(o, seed)
                    continue
                if isinstance(got, Row):
                    put(got)
                else:
                    w.ready = True
                    queue.sizes, never = got
                feed(w)
    finally:
        for w in workers:
            w.close()
    rows = [r for kind in sorted(queue.sizes) for r in queue.counted(kind)]
    results = Counter(r.result for r in queue.rows.values())
    return Study(rows, results[STILLBORN], results[SAME], never)
