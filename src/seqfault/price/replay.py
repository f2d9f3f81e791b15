"""A recording as steps of the driver: each thread's operations, pages and pauses.

A mapping is known by who made it, not by its address: in the replay mappings come to lie where the text puts them, as
in the kernel, and a thread that is ahead of the one that maps what it touches waits.  What lay there before the
recording began is mapped before the replay does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from seqfault.mm.fullsize import RELEASES, release_number
from seqfault.price import driver as d
from seqfault.price.converter import PAGE, Converter, Heap, ReplayError
from seqfault.price.rewrites import REWRITES, Processes, notes
from seqfault.price.together import Together
from seqfault.trace import schema
from seqfault.trace.calls import CLONE
from seqfault.trace.store import Trace

BRK, TASKS = pa.array(["brk"]), pa.array([schema.FORK, schema.EXEC])
MOST_ROWS = (1 << 20) - 4096
MOST_PAGES = 900_000  # of the 4 GB that the model has
ABOUT_PAGES = (d.DO_TOUCH, d.DO_MUNMAP, d.DO_PROTECT, d.DO_ADVISE, d.DO_REMAP, d.DO_LOCK, d.DO_SYNC, d.DO_SEAL)
COLUMNS = ("time_ns", "duration_ns", "pid", "tid", "cpu", "kind", "name", "address", "length", "a2", "a3", "result", "flags", "site", "file")  # noqa: E501


@dataclass
class Recorded:
    """What the recording itself says of the process: `seconds`, `faults`, mean ns of each kind of operation.

    `fallback`: the share of faults that took mmap_lock because the VMA's lock would not do (None: not recorded)."""

    seconds: float = 0.0
    faults: int = 0
    mean: dict[str, float] = field(default_factory=dict)
    fallback: float | None = None
    kernel: str = ""
    cpus: int = 1


@dataclass
class Replay:
    """Steps of each thread, what is mapped before, what was left out and why, and for what something else was done
    (`replaced`).  `calls`: of each place how many, and in how many threads.  `owners`: in whose address space each step
    of `setup` is done (None: there is but one).  `notes`: what the rewrite did, in numbers."""

    programs: list[list[tuple[int, ...]]]
    setup: list[tuple[int, ...]]
    places: list[str]
    recorded: Recorded
    left_out: Counter[str]
    pid: int
    events: int
    calls: dict[str, tuple[int, int]] = field(default_factory=dict)
    replaced: Counter[str] = field(default_factory=Counter)
    owners: list[int] | None = None
    notes: dict[str, int] = field(default_factory=dict)


def known_release(kernel: str) -> int:
    """The release that was recorded, as a number; where the trace does not tell, the latest that the text has."""
    try:
        return release_number(kernel)
    except ValueError:
        return max(RELEASES.values())


def recorded_design(kernel: str) -> str:
    """The protocol of the kernel that was recorded."""
    linux = known_release(kernel)
    if linux >= 615:
        return "vm-refcnt"
    if linux >= 604:
        return "per-vma-lock"
    return "mmap-sem"


def busiest(trace: Trace) -> int:
    """The process with the most faults and calls."""
    n: Counter[int] = Counter()
    for b in trace.batches(["pid", "kind"], kinds=[schema.FAULT, schema.CALL]):
        for v in pc.value_counts(b.column("pid")).to_pylist():
            n[v["values"]] += v["counts"]
    if not n:
        raise ReplayError("no faults and no calls in it; record again with more rights, or for longer")
    return n.most_common(1)[0][0]


def heap_of(trace: Trace, pid: int) -> Heap | None:
    """Where the heap of a process begins, and the break before its first brk; None: it calls none, or the break cannot
    be known."""
    breaks: dict[int, int] = {}
    start: int | None = None
    first: int | None = None
    low = 0
    for batch in trace.batches(list(COLUMNS), kinds=[schema.CALL, schema.AREA, schema.FORK, schema.EXEC]):
        named = pc.is_in(batch["name"].dictionary_decode(), value_set=BRK)
        heap = pc.equal(batch["file"].dictionary_decode(), "[heap]")
        tasks = pc.is_in(batch["kind"].dictionary_decode(), value_set=TASKS)
        for e in batch.filter(pc.or_(pc.or_(named, pc.fill_null(heap, False)), tasks)).to_pylist():
            who, kind = e["pid"], e["kind"]
            if kind == schema.FORK:
                child = e["a3"] or e["result"]
                if child != who and not (e["a2"] or 0) & CLONE["CLONE_VM"] and who in breaks:
                    breaks[child] = breaks[who]
            elif kind == schema.EXEC:
                breaks.pop(who, None)
                if who == pid:
                    start = first = None
            elif kind == schema.AREA:
                breaks[who] = e["address"] + e["length"]
                if who == pid:
                    start = e["address"]
            elif e["result"] is not None and e["result"] > 0 and e["address"] is not None:
                if who == pid and first is None:
                    low = first = breaks.get(who, e["result"])
                if who == pid:
                    low = min(low, e["result"])
                breaks[who] = e["result"]
    if first is None:
        return None
    return Heap((low if start is None else start) // PAGE, first)


def convert(
    trace: Trace,
    pid: int | None = None,
    rewrite: str = "",
    recorder: Mapping[str, float] | None = None,
    latency: float = 0.0,
) -> Replay:
    """Steps of the threads of a process (that with the most events, unless it is named), as a rewrite has them.
    `recorder`: what recording cost (price/recorder.py), which is taken out of the pauses; `latency`: from waking a
    thread until it runs, ns.

    Events behind what there is room for are left out, and counted.  Raises `ReplayError`.
    """
    which = busiest(trace) if pid is None else pid
    stacks = trace.meta.settings.get("stacks") == "yes"
    c = REWRITES.get(rewrite, Converter)(stacks, trace.meta.has(schema.OFF), heap_of(trace, which), recorder)
    for batch in trace.batches(["time_ns", "pid", "tid"], kinds=[schema.EXIT]):
        c.exits |= {e["tid"]: e["time_ns"] for e in batch.to_pylist() if e["pid"] == which}
    kinds = [schema.FAULT, schema.CALL, schema.OFF, schema.AREA, schema.EXIT, schema.FORK]
    for batch in trace.batches(list(COLUMNS), kinds=kinds):
        chosen = batch.filter(pc.equal(batch.column("pid"), which))
        for e in chosen.to_pylist():
            if c.rows >= MOST_ROWS:
                c.left_out["events behind what there is room for"] += 1
            else:
                c.add(e)
    if not c.events:
        raise ReplayError(f"process {which} has no faults and no calls in it")
    if len(c.programs) > 1024:
        raise ReplayError(f"process {which} has {len(c.programs)} threads; 1024 are the most")
    if c.pages > MOST_PAGES:
        shrink(c)
    seconds = (c.last - c.first) / 1e9
    t = Together(c)
    t.wake(round(latency))
    t.hand()
    if not isinstance(c, Processes):
        t.meet()
    t.done()
    number = {tid: i for i, tid in enumerate(c.programs)}
    return Replay(
        numbered(c.programs),
        c.setup,
        list(c.places),
        Recorded(
            seconds, c.faults, {k: ns / n for k, (n, ns) in c.total.items()},
            c.fallbacks / c.faults if c.faults and trace.meta.has(schema.LOCK_WAIT) else None,
            trace.meta.kernel, trace.meta.cpus or 1,
        ),
        c.left_out,
        which,
        c.events,
        calls_of(c),
        c.replaced,
        [number[tid] for tid in c.owners] if isinstance(c, Processes) else None,
        notes(c),
    )  # fmt: skip


def numbered(programs: Mapping[int, Sequence[tuple[int, ...]]]) -> list[list[tuple[int, ...]]]:
    """Programs of tasks, which know each other by their numbers; those of other processes are left out."""
    number = {tid: i for i, tid in enumerate(programs)}
    out = []
    for p in programs.values():
        rows = [
            (row[0], 0, number[row[2]], *row[3:]) if row[0] in (d.DO_POST, d.DO_WAIT) else row
            for row in p
            if row[0] not in (d.DO_POST, d.DO_WAIT) or row[2] in number
        ]
        out.append([*rows, (d.DO_STOP, 0, 0, 0, 0)])
    return out


def calls_of(c: Converter) -> dict[str, tuple[int, int]]:
    n: Counter[int] = Counter()
    threads: Counter[int] = Counter()
    for p in c.programs.values():
        own = Counter(row[5] for row in p if len(row) > 5)
        n.update(own)
        threads.update(own.keys())
    return {name: (n[i], threads[i]) for name, i in c.places.items() if n[i]}


def shrink(c: Converter) -> None:
    """Mappings from before of which little is touched are cut to what is: reserved heaps are larger than the model."""
    most: dict[int, int] = {}
    for p in c.programs.values():
        for row in p:
            if row[0] in ABOUT_PAGES:
                n = row[2] if row[0] in (d.DO_REMAP, d.DO_LOCK) else int(row[0] == d.DO_TOUCH)
                most[row[1]] = max(most.get(row[1], 0), row[3] + n)
    c.setup = [
        row if row[0] != d.DO_MMAP else (*row[:2], min(row[2], most.get(row[1], 0) + 1), *row[3:]) for row in c.setup
    ]
    used: Counter[int] = Counter()
    for row, owner in zip(c.setup, c.owners if isinstance(c, Processes) else [0] * len(c.setup), strict=True):
        used[owner] += row[2] if row[0] == d.DO_MMAP else row[2] // PAGE
    if max(used.values()) > MOST_PAGES:
        raise ReplayError("it has more than 4 GB mapped and touched; the model has no room for that")
