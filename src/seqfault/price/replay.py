"""A recording as steps of the driver: each thread's operations, pages and pauses.

A mapping is known by who made it, not by its address: in the replay mappings come to lie where the text puts them, as
in the kernel, and a thread that is ahead of the one that maps what it touches waits.  What lay there before the
recording began is mapped before the replay does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from seqfault.mm.fullsize import release_number
from seqfault.price import driver as d
from seqfault.price.clock import TICKS
from seqfault.price.workloads import ANON, PRIVATE
from seqfault.trace import schema
from seqfault.trace.store import Trace

PAGE = 4096
MOST_ROWS = (1 << 20) - 4096
MOST_MAPS = (1 << 18) - 64
MOST_PLACES = 1 << 12
MOST_PAGES = 900_000  # of the 4 GB that the model has
BLOCK = 64  # pages around a touched one of which the recording does not tell what they are
JOIN = 1_000_000  # ns; who wakes that near to a thread's end, or within a twentieth of its sleep, had waited for it
LONG_PAUSE = 2_000_000  # ns; without records of when a thread was off its CPU, a longer pause is sleep
BATCH = 16  # mappings that are made, and unmapped, together
MOST_TOGETHER = 8192  # pages
MADV_DONTNEED, MAP_ANONYMOUS, MAP_SHARED, MAP_FIXED = 4, 0x20, 1, 0x10
COLUMNS = ("time_ns", "duration_ns", "pid", "tid", "cpu", "kind", "name", "address", "length", "a2", "a3", "result", "flags", "site", "file")  # noqa: E501
REWRITES = {
    "dontneed": "munmap of a whole mapping -> MADV_DONTNEED; the next mmap of that size takes it",
    "batch": "a thread cuts mappings of one size from one of 16 times that, unmapped when all of them are free",
    "keep": "munmap of a whole mapping -> nothing, and the next mmap of that size takes it with its pages",
}


class ReplayError(Exception):
    """A trace cannot be replayed; one line that says why."""


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
    """Steps of each thread, what is mapped before, what was left out and why.  `calls`: of each place how many, and
    in how many threads."""

    programs: list[list[tuple[int, ...]]]
    setup: list[tuple[int, ...]]
    places: list[str]
    recorded: Recorded
    left_out: Counter[str]
    pid: int
    events: int
    calls: dict[str, tuple[int, int]] = field(default_factory=dict)


class Live:
    """Which mapping each page belongs to, at one time of the recording."""

    def __init__(self) -> None:
        self.start: list[int] = []
        self.item: list[tuple[int, int, int]] = []  # end, mapping, page of its offset 0

    def find(self, page: int) -> tuple[int, int] | None:
        """Mapping and offset of a page."""
        i = bisect_right(self.start, page) - 1
        if i < 0 or self.item[i][0] <= page:
            return None
        return self.item[i][1], page - self.item[i][2]

    def remove(self, start: int, n: int) -> list[tuple[int, int, int]]:
        """Take out [start, start + n): parts of mappings (mapping, offset, pages)."""
        end = start + n
        i = max(bisect_right(self.start, start) - 1, 0)
        j = bisect_left(self.start, end)
        out = []
        keep: list[tuple[int, tuple[int, int, int]]] = []
        for k in range(i, j):
            s, (e, m, base) = self.start[k], self.item[k]
            if e <= start:
                keep.append((s, (e, m, base)))
                continue
            a, b = max(s, start), min(e, end)
            out.append((m, a - base, b - a))
            if s < a:
                keep.append((s, (a, m, base)))
            if b < e:
                keep.append((b, (e, m, base)))
        self.start[i:j] = [s for s, _ in keep]
        self.item[i:j] = [x for _, x in keep]
        return out

    def insert(self, start: int, n: int, mapping: int, base: int | None = None) -> list[tuple[int, int, int]]:
        """Map over whatever was there, which is returned.  `base`: where its offset 0 is, if not at `start`."""
        out = self.remove(start, n)
        i = bisect_left(self.start, start)
        self.start.insert(i, start)
        self.item.insert(i, (start + n, mapping, start if base is None else base))
        return out

    def free_block(self, page: int) -> tuple[int, int]:
        """The free pages around one, within its aligned block."""
        low, high = page - page % BLOCK, page - page % BLOCK + BLOCK
        i = bisect_right(self.start, page) - 1
        if i >= 0:
            low = max(low, self.item[i][0])
        if i + 1 < len(self.start):
            high = min(high, self.start[i + 1])
        return low, high - low


def recorded_design(kernel: str) -> str:
    """The protocol of the kernel that was recorded."""
    try:
        linux = release_number(kernel)
    except ValueError:
        return "vm-refcnt"
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


class Converter:
    """One pass over the events of a process."""

    def __init__(self, rewrite: str = "", stacks: bool = False, recorder: Mapping[str, float] | None = None):
        self.rewrite = rewrite
        cost = recorder or {}
        self.shown = {schema.FAULT: cost.get("gap_fault", 0.0), schema.CALL: cost.get("gap_call", 0.0)}
        self.kind: dict[int, str] = {}  # of each thread's last event
        # without stacks nothing tells a fallback from the lock that a first anonymous fault takes
        self.fell_back = schema.LOCKED_FALLBACK | (0 if stacks else schema.LOCKED_OTHER)
        self.live = Live()
        self.size: list[int] = []  # pages of each mapping
        self.programs: dict[int, list[tuple[int, ...]]] = {}
        self.at: dict[int, int] = {}  # when each thread's last event was over
        self.off: dict[int, int] = {}  # ns that it slept since
        self.cpu: dict[int, int] = {}  # where each thread is
        self.on: int | None = None  # where the event is that is looked at
        self.awake: dict[int, int] = {}  # when it last woke
        self.born: dict[int, int] = {}  # threads that others made, and when
        self.exits: dict[int, int] = {}  # when threads come to their end
        self.lost: dict[int, int] = {}  # ns that it was preempted since: the replay preempts threads by itself
        self.setup: list[tuple[int, ...]] = []
        self.left_out: Counter[str] = Counter()
        self.places: dict[str, int] = {"(nothing yet)": 0}
        self.spare: dict[int, list[int]] = {}  # with a rewrite: mappings to take again, by size
        self.alias: dict[int, tuple[int, int]] = {}  # with a rewrite: the mapping that one is a part of, and where
        self.cut: dict[tuple[int, int, int], list[int]] = {}  # thread, pages, rights -> what is cut, how many were
        self.unused: dict[int, int] = {}  # of a mapping that is cut, how many pages were freed
        self.rows = self.events = self.pages = 0
        self.first = self.last = 0
        self.offs = False
        self.total: dict[str, list[int]] = {}
        self.fallbacks = self.faults = 0
        self.heap = self.heap_base = 0  # its end and where it began, in pages; 0: not known yet
        self.heap_mapping = -1
        self.breaks = 0

    def mapping(self, n: int) -> int:
        if len(self.size) >= MOST_MAPS:
            raise ReplayError(f"more than {MOST_MAPS} mappings; record for a shorter time")
        self.size.append(n)
        return len(self.size) - 1

    def known(self, n: int, prot: int, file: bool, start: int) -> int:
        """A mapping that was there before."""
        m = self.mapping(n)
        self.pages += n
        flags = PRIVATE if file and n <= 8192 else PRIVATE | ANON
        self.setup.append((d.DO_MMAP, d.NR_REGS + m, n, 0 if flags & ANON else 2, (prot or 3) & 7 | flags << 8))
        self.live.insert(start, n, m)
        return m

    def program(self, tid: int, time: int) -> list[tuple[int, ...]]:
        if tid not in self.programs:
            p = self.programs[tid] = []
            since = self.first
            if tid in self.born:
                since = self.born[tid]
                p.append((d.DO_WAIT, 0, tid, 0, 0))
            if time > since:
                p.append((d.DO_SLEEP, 0, (time - since) * TICKS, 0, 0))
            self.at[tid] = time
        return self.programs[tid]

    def joined(self, tid: int, asleep: int) -> int | None:
        """The thread that this one slept for until it was over: threads tell it some time before or after their end."""
        woke, own = self.awake.get(tid, 0), self.exits.get(tid, 1 << 62)
        near = max(JOIN, asleep // 20)
        over = [x for x, t in self.exits.items() if abs(t - woke) <= near and t < own and x in self.programs]
        return max(over, key=lambda x: self.exits[x]) if over else None

    def pause(self, tid: int, time: int, kind: str = "") -> list[tuple[int, ...]]:
        """The thread's program, with what passed since its last event; without what the recorder took of it."""
        p = self.program(tid, time)
        if self.on is not None and self.on != self.cpu.get(tid):
            self.cpu[tid] = self.on
            p.append((d.DO_CPU, 0, self.on, 0, 0))
        shown = (self.shown.get(kind, 0.0) + self.shown.get(self.kind.get(tid, ""), 0.0)) / 2
        gap = max(time - self.at[tid] - self.lost.pop(tid, 0) - round(shown), 0)
        asleep = min(self.off.pop(tid, 0), gap)
        if not self.offs and gap > LONG_PAUSE:
            asleep = gap
        if gap > asleep:
            p.append((d.DO_THINK, 0, (gap - asleep) * TICKS, 0, 0))
        if asleep:
            other = self.joined(tid, asleep)
            if other is None:
                p.append((d.DO_SLEEP, 0, asleep * TICKS, 0, 0))
            else:
                p.append((d.DO_WAIT, 0, other, 1, 0))
        return p

    def place(self, name: str, site: str | None) -> int:
        text = f"{name} at {site}" if site else name
        if text not in self.places and len(self.places) >= MOST_PLACES:
            return 0
        return self.places.setdefault(text, len(self.places))

    def add(self, e: dict[str, Any]) -> None:
        kind, tid, time = e["kind"], e["tid"], e["time_ns"]
        self.on = e["cpu"]
        if not self.first:
            self.first = time
        took = e["duration_ns"] or 0
        if kind == schema.OFF:
            if time < self.at.get(tid, 0):
                return  # inside a call or a fault, whose own waiting the replay has
            which = self.lost if (e["flags"] or 0) & schema.PREEMPTED else self.off
            which[tid] = which.get(tid, 0) + took
            if which is self.off:
                self.awake[tid] = time + took
            return
        if e["address"] is None and kind in (schema.AREA, schema.FAULT):
            self.left_out[f"{kind}s without an address"] += 1
            return
        if kind == schema.AREA:
            self.known(pages(e["length"]), e["a2"] or 0, e["file"] is not None, e["address"] // PAGE)
            return
        self.last = max(self.last, time + took)
        if kind == schema.FORK:
            self.forked(tid, time, e["result"])
            return
        if kind == schema.EXIT:
            self.pause(tid, time)
            return
        self.events += 1
        name = "fault" if kind == schema.FAULT else str(e["name"])
        if e["duration_ns"] is not None:
            t = self.total.setdefault(name, [0, 0])
            t[0] += 1
            t[1] += took
        if kind == schema.FAULT:
            self.fault(e, tid, time)
        else:
            self.call(e, tid, time, name)
        self.at[tid] = time + took
        self.kind[tid] = kind
        self.rows = sum(map(len, self.programs.values())) if self.events % 4096 == 0 else self.rows + 2

    def forked(self, tid: int, time: int, child: int | None) -> None:
        """The new thread, or process, begins when the old one has come so far."""
        if child is None or tid not in self.programs or child in self.born:
            return
        self.pause(tid, time).append((d.DO_POST, 0, child, 0, 0))
        self.at[tid] = time
        self.born[child] = time

    def fault(self, e: dict[str, Any], tid: int, time: int) -> None:
        self.faults += 1
        self.fallbacks += bool((e["a2"] or 0) & self.fell_back)
        page = e["address"] // PAGE
        found = self.live.find(page)
        if found is None:
            start, n = self.live.free_block(page)
            self.known(n, 7, False, start)
            found = self.live.find(page)
            assert found is not None
        m, off = found
        how = d.WRITE if (e["flags"] or 0) & schema.WRITING else 0
        how |= d.BY_KERNEL if e["name"] == "kernel" else 0
        how |= d.IN_HEAP | self.breaks << 4 if m == self.heap_mapping else 0
        row = (d.DO_TOUCH, self.number(m), 1, self.within(m) + off, how)
        self.pause(tid, time, schema.FAULT).append(row)

    def number(self, m: int) -> int:
        return d.NR_REGS + self.alias.get(m, (m, 0))[0]

    def within(self, m: int) -> int:
        """At which page of the mapping that it is a part of one begins."""
        return self.alias.get(m, (m, 0))[1]

    def call(self, e: dict[str, Any], tid: int, time: int, name: str) -> None:
        result, n = e["result"], pages(e["length"])
        if e["address"] is None and name != "mmap":
            self.left_out[f"{name} without its arguments"] += 1
            return
        if result is not None and result < 0 and name != "mmap":
            self.left_out["calls that failed"] += 1
            return
        place = self.place(name, e["site"])
        if name == "mmap":
            if result is None or -4096 < result < 0:
                self.left_out["calls that failed"] += 1
                return
            self.mmap(e, tid, time, n, place)
        elif name == "munmap":
            p = self.pause(tid, time, schema.CALL)
            for m, off, part in self.live.remove(e["address"] // PAGE, n):
                self.unmap(p, m, off, part, place)
        elif name in ("mprotect", "pkey_mprotect"):
            p = self.pause(tid, time, schema.CALL)
            for m, off, part in self.parts(e["address"] // PAGE, n):
                p.append((d.DO_PROTECT, self.number(m), part, self.within(m) + off, (e["a2"] or 0) & 7, place))
        elif name == "madvise" and e["a2"] == MADV_DONTNEED:
            p = self.pause(tid, time, schema.CALL)
            for m, off, part in self.parts(e["address"] // PAGE, n):
                p.append((d.DO_ADVISE, self.number(m), part, self.within(m) + off, 0, place))
        elif name == "brk" and result is not None:
            self.brk(tid, time, result % (1 << 64), place)
        else:
            self.left_out[name] += 1

    def brk(self, tid: int, time: int, end: int, place: int) -> None:
        """The heap is one mapping, from where the break was first to where it is."""
        end = pages(end)
        if not self.heap:
            self.heap, self.heap_base = end, end
            self.heap_mapping = self.mapping(1)
        if end == self.heap or end < self.heap_base:
            return
        m, first = self.heap_mapping, self.heap_base
        p = self.pause(tid, time, schema.CALL)
        if end > self.heap:
            for gone, off, part in self.live.insert(self.heap, end - self.heap, m, first):
                self.unmap(p, gone, off, part, place)
        else:
            self.live.remove(end, self.heap - end)
        p.append((d.DO_BRK, d.NR_REGS + m, end - first, self.breaks, 0, place))
        self.breaks += 1
        self.heap = end

    def mmap(self, e: dict[str, Any], tid: int, time: int, n: int, place: int) -> None:
        start, flags = (e["result"] % (1 << 64)) // PAGE, e["a3"] or 0
        anon = bool(flags & MAP_ANONYMOUS) or n > 8192
        m = self.mapping(n)
        p = self.pause(tid, time, schema.CALL)
        for gone, off, part in self.live.insert(start, n, m):
            self.unmap(p, gone, off, part, place)
        if anon and self.spare.get(n):
            self.alias[m] = self.spare[n].pop(), 0
            return
        prot = (e["a2"] or 0) & 7
        if self.rewrite == "batch" and anon and not flags & MAP_FIXED and n * BATCH <= MOST_TOGETHER:
            self.cut_off(p, m, tid, n, prot, place)
            return
        kind = PRIVATE | ANON if anon else MAP_SHARED if flags & MAP_SHARED else PRIVATE
        p.append((d.DO_MMAP, self.number(m), n, 0 if anon else 1, prot | kind << 8, place))

    def cut_off(self, p: list[tuple[int, ...]], m: int, tid: int, n: int, prot: int, place: int) -> None:
        """A mapping as a part of a larger one, which is made if there is none with room."""
        had = self.cut.get((tid, n, prot))
        if had is None or had[1] == BATCH:
            whole = self.mapping(n * BATCH)
            self.unused[whole] = 0
            had = self.cut[tid, n, prot] = [whole, 0]
            p.append((d.DO_MMAP, d.NR_REGS + whole, n * BATCH, 0, prot | (PRIVATE | ANON) << 8, place))
        self.alias[m] = had[0], n * had[1]
        had[1] += 1

    def unmap(self, p: list[tuple[int, ...]], m: int, off: int, part: int, place: int) -> None:
        if self.rewrite == "batch" and m in self.alias:
            whole = self.alias[m][0]
            self.unused[whole] += part
            if self.unused[whole] == self.size[whole]:
                p.append((d.DO_MUNMAP, d.NR_REGS + whole, self.size[whole], 0, 0, place))
            return
        if self.rewrite in ("dontneed", "keep") and off == 0 and part == self.size[m]:
            real = self.alias.get(m, (m, 0))[0]
            self.spare.setdefault(part, []).append(real)
            if self.rewrite == "dontneed":
                p.append((d.DO_ADVISE, d.NR_REGS + real, part, 0, 0, place))
            return
        p.append((d.DO_MUNMAP, self.number(m), part, self.within(m) + off, 0, place))

    def parts(self, start: int, n: int) -> list[tuple[int, int, int]]:
        """The parts of mappings in [start, start + n), which stay."""
        out = []
        page = start
        while page < start + n:
            i = bisect_right(self.live.start, page) - 1
            if i < 0 or self.live.item[i][0] <= page:
                nxt = self.live.start[i + 1] if i + 1 < len(self.live.start) else start + n
                page = max(nxt, page + 1)
                continue
            end, m, base = self.live.item[i]
            end = min(end, start + n)
            out.append((m, page - base, end - page))
            page = end
        return out


def pages(length: int | None) -> int:
    return max(((length or 0) + PAGE - 1) // PAGE, 1)


def convert(
    trace: Trace, pid: int | None = None, rewrite: str = "", recorder: Mapping[str, float] | None = None
) -> Replay:
    """Steps of the threads of a process (that with the most events, unless it is named).  `recorder`: what recording
    cost (price/recorder.py), which is taken out of the pauses.

    Events behind what there is room for are left out, and counted.  Raises `ReplayError`.
    """
    which = busiest(trace) if pid is None else pid
    c = Converter(rewrite, trace.meta.settings.get("stacks") == "yes", recorder)
    c.offs = trace.meta.has(schema.OFF)
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
            if row[0] in (d.DO_TOUCH, d.DO_MUNMAP, d.DO_PROTECT, d.DO_ADVISE):
                most[row[1]] = max(most.get(row[1], 0), row[3] + (1 if row[0] == d.DO_TOUCH else 0))
    c.setup = [(op, a, min(n, most.get(a, 0) + 1), f, x) for op, a, n, f, x in c.setup]
    if sum(r[2] for r in c.setup) > MOST_PAGES:
        raise ReplayError("it has more than 4 GB mapped and touched; the model has no room for that")


def total(left_out: Counter[str] | Sequence[int]) -> int:
    return sum(left_out.values()) if isinstance(left_out, Counter) else sum(left_out)
