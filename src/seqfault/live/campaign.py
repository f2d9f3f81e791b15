"""A fuzzing campaign: many chunks of programs, in one process or several, with a sample repeated by plain Python."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from multiprocessing.resource_tracker import ensure_running
from typing import Any, ParamSpec, TypeVar

from seqfault.kernel.machine import KernelBug
from seqfault.live.fuzz import CHUNK_ROWS, Pair, Tally, run_chunk
from seqfault.live.generate import Geometry, Plan, programs
from seqfault.live.model import ModelSide, PlainSide, errnos

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What to do.

    `ops`: operations in all; `seed`; `seconds`: an end by time (0: none); `jobs`: processes; `release`: major * 100 +
    minor of the text; `kernel`: "host" or "debian-6.1"; `first`: number of the first program; `sample`: the
    share of operations that plain Python repeats; `detail_every`: how often (rows) smaps is compared; `most`: how many
    differences end it; `image`: path of a kernel image for qemu; `map_count_every`: every so many programs VMAs are
    scarce.
    """

    ops: int = 100_000
    seed: int = 0
    seconds: float = 0.0
    jobs: int = 1
    release: int = 618
    kernel: str = "host"
    first: int = 0
    program_ops: int = 250
    sample: float = 0.01
    detail_every: int = 64
    most: int = 1
    image: str = ""
    map_count_every: int = 500
    geometry: Geometry = field(default_factory=Geometry)

    @property
    def plan(self) -> Plan:
        return Plan(self.seed, self.program_ops, self.geometry, self.map_count_every if self.kernel == "host" else 200)

    @property
    def seal(self) -> bool:
        return self.release >= 610


@dataclass
class Campaign:
    """What a campaign found.  `next`: the number of the first program not done; `sampled`: operations that plain
    Python repeated; `plain`: where it disagreed; `controls`: what is controlled, masked or not, by name; `ended`: ""
    or why before the end ("time", "interrupted", "found")."""

    options: Options
    tally: Tally
    sampled: int = 0
    plain: list[str] = field(default_factory=list)
    controls: list[tuple[str, str, str]] = field(default_factory=list)
    known_counters: list[str] = field(default_factory=list)
    known_errnos: list[str] = field(default_factory=list)
    next: int = 0
    ended: str = ""

    @property
    def ok(self) -> bool:
        return not self.tally.found and not self.plain and not self.tally.unstable


def open_kernel(o: Options) -> Any:
    """The kernel's side.  Raises `KernelError` (live/host.py) where it cannot be had, with the remedy."""
    if o.kernel == "host":
        from seqfault.live.host import open_live

        return open_live(o.geometry, o.detail_every)
    from seqfault.live.qemu import open_qemu

    return open_qemu(o.geometry, o.detail_every, o.image)


def open_pair(o: Options) -> Pair:
    """Both sides; the text with the sizes of the kernel's machine."""
    kernel = open_kernel(o)
    return Pair(ModelSide(o.release, o.geometry, o.detail_every, **kernel.sizes), kernel)


_pair: Pair | None = None
_options: Options | None = None


def _begin(o: Options) -> None:
    global _pair, _options
    _options = o
    _pair = None


def _chunk(first: int, count: int) -> Tally:
    global _pair
    assert _options is not None
    if _pair is None:
        _pair = open_pair(_options)
    return run_chunk(_pair, _options.plan, first, count, _options.seal, most=_options.most)


_plain: PlainSide | None = None


def _plain_check(o: Options, sizes: dict[str, int], program: int) -> tuple[int, str]:
    """One program by plain Python and by machine code; (operations, "" or where they differ)."""
    global _plain
    if _plain is None:
        _plain = PlainSide(o.release, o.geometry, **sizes)
    rows = programs(o.plan, program, 1, o.seal)
    try:
        return _plain.check(rows), ""
    except KernelBug as e:
        return 0, f"program {program}: {e}"


def _chunks(o: Options) -> Iterator[tuple[int, int]]:
    total = max(1, (o.ops + o.program_ops - 1) // o.program_ops)
    per = max(1, CHUNK_ROWS // (o.program_ops + 1))
    at = o.first
    while at < o.first + total:
        n = min(per, o.first + total - at)
        yield at, n
        at += n


class Workers(ProcessPoolExecutor):
    """Processes that Ctrl-C does not reach, from their first moment on: it is their parent's."""

    def __init__(self, jobs: int, o: Options):
        super().__init__(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(o,))
        ensure_running()  # its beginning would let the signal through

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As always; a process that is begun for it keeps the mask of now."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Sampler:
    """Which programs plain Python repeats, in a process of its own."""

    def __init__(self, o: Options):
        self.o, self.debt = o, 0.0
        self.pool = Workers(1, o) if o.sample > 0 else None
        self.waiting: list[Future[tuple[int, str]]] = []
        self.sizes: dict[str, int] = {}

    def take(self, first: int, count: int) -> None:
        """Of these programs, some."""
        if self.pool is None:
            return
        for k in range(count):
            self.debt += self.o.sample
            if self.debt >= 1 or (first == self.o.first and k == 0):
                self.debt -= 1
                self.waiting.append(self.pool.submit(_plain_check, self.o, self.sizes, first + k))

    def finish(self, c: Campaign, stop: bool) -> None:
        for f in self.waiting:
            if stop and (f.cancel() or not f.done()):
                continue
            n, wrong = f.result()
            c.sampled += n
            if wrong:
                c.plain.append(wrong)
        if self.pool is not None:
            self.pool.shutdown(wait=not stop, cancel_futures=True)
            for worker in active_children() if stop else ():  # plain Python takes seconds for a program
                worker.terminate()


Note = Callable[[Tally, str], None]


def run_campaign(o: Options, note: Note | None = None) -> Campaign:
    """Run it.  `note(tally, what)` is called as it goes on.  Ctrl-C ends it with what was done."""
    c = Campaign(o, Tally(), next=o.first)
    try:
        sampler = Sampler(o)
    except KeyboardInterrupt:
        c.ended = "interrupted"
        return c
    t0 = time.perf_counter()
    try:
        if o.jobs <= 1:
            _run_here(o, c, sampler, note, t0)
        else:
            _run_many(o, c, sampler, note, t0)
    except KeyboardInterrupt:
        c.ended = "interrupted"
    c.tally.seconds = time.perf_counter() - t0
    if note is not None and sampler.waiting and not c.ended:
        note(c.tally, "plain Python repeats its sample")
    try:
        sampler.finish(c, bool(c.ended))
    except KeyboardInterrupt:
        c.ended = "interrupted"
        sampler.finish(c, True)
    return c


def _known(c: Campaign, pair: Pair) -> None:
    """What could be hit: every counter of the text, every errno that it returns."""
    c.known_counters = sorted(pair.model.machine.counters)
    c.known_errnos = errnos(pair.model.program)


def _late(o: Options, t0: float) -> bool:
    return o.seconds > 0 and time.perf_counter() - t0 >= o.seconds


def _run_here(o: Options, c: Campaign, sampler: Sampler, note: Note | None, t0: float) -> None:
    pair = open_pair(o)
    try:
        c.controls = list(getattr(pair.kernel, "controls", []))
        _known(c, pair)
        sampler.sizes = pair.kernel.sizes
        for first, count in _chunks(o):
            if _late(o, t0):
                c.ended = "time"
                return
            tell = None if note is None else (lambda s: note(c.tally, s))
            sampler.take(first, count)
            c.tally.add(run_chunk(pair, o.plan, first, count, o.seal, tell, o.most - len(c.tally.found)))
            c.next = first + count
            if note is not None:
                note(c.tally, "")
            if len(c.tally.found) >= o.most:
                c.ended = "found"
                return
    finally:
        pair.close()


def _run_many(o: Options, c: Campaign, sampler: Sampler, note: Note | None, t0: float) -> None:
    probe = open_pair(o)  # errors come here, once; and the machine code is in the cache for the others
    c.controls = list(getattr(probe.kernel, "controls", []))
    _known(c, probe)
    sampler.sizes = probe.kernel.sizes
    probe.close()
    with Workers(o.jobs, o) as pool:
        chunks = _chunks(o)
        running: dict[Future[Tally], tuple[int, int]] = {}
        try:
            while True:
                while len(running) < o.jobs * 2 and not c.ended:
                    if _late(o, t0):
                        c.ended = "time"
                        break
                    nxt = next(chunks, None)
                    if nxt is None:
                        break
                    sampler.take(*nxt)
                    running[pool.submit(_chunk, *nxt)] = nxt
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for f in done:
                    first, count = running.pop(f)
                    c.tally.add(f.result())
                    c.next = max(c.next, first + count)
                    if note is not None:
                        note(c.tally, "")
                    if len(c.tally.found) >= o.most:
                        c.ended = "found"
        finally:
            for f in running:
                f.cancel()
