"""A recording's events as steps of the driver, one after the other.

What a rewrite of the program does otherwise is in price/rewrites.py, by the methods that emit steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqfault.mm.opcodes import (
    ADVICE,
    MADV_COLLAPSE,
    MCL_CURRENT,
    MCL_FUTURE,
    MLOCK_ONFAULT,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    UAPI_MAP_LOCKED,
    UAPI_MAP_NONBLOCK,
    UAPI_MAP_POPULATE,
)
from seqfault.price import driver as d
from seqfault.price.clock import TICKS
from seqfault.price.live import Live, Part
from seqfault.price.workloads import ANON, PRIVATE
from seqfault.trace import schema
from seqfault.trace.assemble import ADDRESSED

PAGE = 4096
MOST_MAPS = (1 << 18) - 64
MOST_PLACES = 1 << 12
LARGEST_FILE = 8192  # pages; the model's files are no larger, so larger mappings are anonymous there
HEAP_MOST = 1 << 20  # pages from its start to the break
JOIN = 1_000_000  # ns; who wakes that near to a thread's end, or within a twentieth of its sleep, had waited for it
LONG_PAUSE = 2_000_000  # ns; without records of when a thread was off its CPU, a longer pause is sleep
MAP_ANONYMOUS, MAP_SHARED, MAP_FIXED = 0x20, 1, 0x10
NO_KEY = (-1, 0xFFFFFFFF, 0)  # of pkey_mprotect: none, or the one that all pages have
FILLED = UAPI_MAP_LOCKED | UAPI_MAP_POPULATE | UAPI_MAP_NONBLOCK  # flags by which mmap faults pages in, or does not
LOCKS = ("mlock", "mlock2", "munlock")
ADVICES = frozenset(ADVICE.values()) - {MADV_COLLAPSE}  # of which the text has what it does
LACKING = {
    "mremap": "mremap of length 0 (a second mapping of shared memory)",
    "madvise": "madvise with advice that the model has not",
    "brk": "brk of a heap that is not known",
    "process_madvise": "process_madvise, whose ranges are in the caller's memory",
}
Row = tuple[int, ...]


class ReplayError(Exception):
    """A trace cannot be replayed; one line that says why."""


@dataclass(frozen=True)
class Heap:
    """Where the heap begins (a page), and the break when the recording begins, in bytes."""

    start: int
    brk: int


def pages(length: int | None) -> int:
    return max(((length or 0) + PAGE - 1) // PAGE, 1)


def touched_pages(address: int, length: int) -> int:
    """How many pages a range touches, wherever in a page it begins."""
    return (address % PAGE + length + PAGE - 1) // PAGE


class Unusual:
    """Faults that take longer than usual, where many do: in times in which the host has not backed most pages.

    Of `MANY` faults of a CPU, one after the other, what a tenth of them takes at most is usual; CPUs of virtual
    machines change their speed by a third, for seconds.  Where few take longer by far it was an interrupt, which comes
    as often in a run that takes less time.
    """

    MANY, TENTH, FEW = 64, 6, 8
    BEYOND = 1.4

    def __init__(self) -> None:
        self.last: dict[int, list[tuple[int, int, int]]] = {}  # CPU -> duration, thread, its step

    def add(self, cpu: int, took: int, tid: int, step: int) -> list[tuple[int, int, int]]:
        """A fault that did not wait.  Those of the last `MANY` that are meant: thread, step, ns beyond the usual."""
        last = self.last.setdefault(cpu, [])
        last.append((took, tid, step))
        if len(last) < self.MANY:
            return []
        last.sort()
        usual = last[self.TENTH][0]
        out = [(tid, step, took - usual) for took, tid, step in last if took > self.BEYOND * usual]
        last.clear()
        return out if len(out) > self.FEW else []

    def forget(self, tid: int, step: int) -> None:
        """It waited after all."""
        for cpu, last in self.last.items():
            self.last[cpu] = [x for x in last if x[1:] != (tid, step)]


class Converter:
    """One pass over the events of a process.

    `stacks`: the recording has them; `offs`: and when threads were off their CPUs; `heap`: what is known of the heap;
    `recorder`: what recording cost.
    """

    def __init__(
        self,
        stacks: bool = False,
        offs: bool = True,
        heap: Heap | None = None,
        recorder: Mapping[str, float] | None = None,
    ):
        cost = recorder or {}
        self.shown = {schema.FAULT: cost.get("gap_fault", 0.0), schema.CALL: cost.get("gap_call", 0.0)}
        self.kind: dict[int, str] = {}  # of each thread's last event
        # without stacks nothing tells a fallback from the lock that a first anonymous fault takes
        self.fell_back = schema.LOCKED_FALLBACK | (0 if stacks else schema.LOCKED_OTHER)
        self.offs, self.heap = offs, heap
        self.live = Live()
        self.size: list[int] = []  # pages of each mapping
        self.programs: dict[int, list[Row]] = {}
        self.at: dict[int, int] = {}  # when each thread's last event was over
        self.naps: dict[int, list[tuple[int, int, int]]] = {}  # when it was off its CPU since: from, until, flags
        self.cpu: dict[int, int] = {}  # where each thread is
        self.on: int | None = None  # where the event is that is looked at
        self.born: dict[int, int] = {}  # threads that others made, and when
        self.exits: dict[int, int] = {}  # when threads come to their end
        self.away: dict[int, list[tuple[int, int]]] = {}  # of each thread: all times when it was off its CPU
        self.thought: dict[int, list[tuple[int, int, int]]] = {}  # of its steps DO_THINK: from, until, which step
        self.slept: list[tuple[int, int, int, int]] = []  # of steps DO_SLEEP: thread, which, from, until
        self.setup: list[Row] = []
        self.left_out: Counter[str] = Counter()
        self.replaced: Counter[str] = Counter()
        self.places: dict[str, int] = {"(nothing yet)": 0}
        self.alias: dict[int, tuple[int, int]] = {}  # with a rewrite: the mapping that one is a part of, and where
        self.tid = 0  # who does what is converted now, and its program; when, how long, and the pause before
        self.p: list[Row] = []
        self.time = self.took = self.gap = 0
        self.made: dict[int, tuple[int, int]] = {}  # by whom and when mappings were made
        self.used: set[tuple[int, int]] = set()  # mappings that threads used which had not made them
        self.brk = heap.brk if heap else 0
        self.moved = 0  # the step that moved the break last, by the mapping that it made
        self.heap_parts: set[int] = set()
        self.locked: set[int] = set()  # mappings that were ever locked
        self.lock_future = False
        self.marks: list[tuple[int, int, int, int]] = []  # of brks: thread, step and time before its pause, mapping
        self.handed: list[tuple[int, int, int, int]] = []  # from a thread at a step to another one at a step
        # of each thread's events: when, step, the pause before, the first step of that
        self.begun: dict[int, list[tuple[int, int, int, int]]] = {}
        self.syncing: set[int] = set()  # threads whose last event is an msync, which may wait for a disk
        self.unusual = Unusual()
        self.rows = self.events = self.pages = 0
        self.first = self.last = 0
        self.total: dict[str, list[int]] = {}
        self.fallbacks = self.faults = 0

    # -- mappings
    def mapping(self, n: int) -> int:
        if len(self.size) >= MOST_MAPS:
            raise ReplayError(f"more than {MOST_MAPS} mappings; record for a shorter time")
        self.size.append(n)
        return len(self.size) - 1

    def number(self, m: int) -> int:
        """A mapping as a step names it.  Who uses it first, but has not made it, does so as long after as he did, if he
        is ahead of who made it: that one may fill it, and hand it over."""
        whole = self.alias.get(m, (m, 0))[0]
        maker, when = self.made.get(whole, (self.tid, 0))
        if maker != self.tid and m == whole and (whole, self.tid) not in self.used:
            self.used.add((whole, self.tid))
            self.p.append((d.DO_MEET, 0, whole, max(min(self.time - when, self.gap), 0) * TICKS, 0))
        return d.NR_REGS + whole

    def within(self, m: int) -> int:
        """At which page of the mapping that it is a part of one begins."""
        return self.alias.get(m, (m, 0))[1]

    def known(self, n: int, prot: int, file: bool, start: int) -> int:
        """A mapping that was there before."""
        m = self.mapping(n)
        self.pages += n
        flags = PRIVATE if file and n <= LARGEST_FILE else PRIVATE | ANON
        self.before(m, (d.DO_MMAP, d.NR_REGS + m, n, 0 if flags & ANON else 2, (prot or 3) & 7 | flags << 8))
        self.live.insert(start, n, m)
        return m

    def before(self, m: int, row: Row) -> None:
        """What makes a mapping before the replay begins."""
        self.setup.append(row)

    def place(self, name: str, site: str | None) -> int:
        text = f"{name} at {site}" if site else name
        if text not in self.places and len(self.places) >= MOST_PLACES:
            return 0
        return self.places.setdefault(text, len(self.places))

    # -- threads
    def begin(self, tid: int, time: int) -> None:
        p = self.programs[tid] = []
        since = self.first
        if tid in self.born:
            since = self.born[tid]
            p.append((d.DO_WAIT, 0, tid, 0, 0))
        if time > since:
            p.append((d.DO_SLEEP, 0, (time - since) * TICKS, 0, 0))
        self.at[tid] = time

    def joined(self, tid: int, asleep: int, woke: int) -> int | None:
        """The thread that this one slept for until it was over: threads tell it some time before or after their end."""
        own = self.exits.get(tid, 1 << 62)
        near = max(JOIN, asleep // 20)
        over = [x for x, t in self.exits.items() if abs(t - woke) <= near and t < own and x in self.programs]
        return max(over, key=lambda x: self.exits[x]) if over else None

    def pause(self, tid: int, time: int, kind: str = "") -> None:
        """Go on with a thread's program, after what passed since its last event; without what the recorder took of
        it."""
        if tid not in self.programs:
            self.begin(tid, time)
        p = self.programs[tid]
        self.tid, self.p = tid, p
        if self.on is not None and self.on != self.cpu.get(tid):
            self.cpu[tid] = self.on
            p.append((d.DO_CPU, 0, self.on, 0, 0))
        shown = (self.shown.get(kind, 0.0) + self.shown.get(self.kind.get(tid, ""), 0.0)) / 2
        first = len(p)
        self.time, self.gap = time, self.pass_time(tid, self.at[tid], time, round(shown))
        self.begun.setdefault(tid, []).append((time, len(p), self.gap, first))

    def pass_time(self, tid: int, begin: int, end: int, shown: int) -> int:
        """Steps for a pause: work, and sleep where the thread was off its CPU.  How long that is, ns."""
        gap, at, out = shown, begin, 0
        naps = self.naps.pop(tid, [])
        if not self.offs and end - begin - shown > LONG_PAUSE:
            naps, at = [(begin + shown, end, 0)], begin + shown
        last = max((b for _, b, flags in naps if not flags & schema.PREEMPTED), default=0)
        for start, until, flags in [*naps, (end, end, schema.PREEMPTED)]:
            start, until = max(start, at), min(until, end)
            work = max(start - at - gap, 0)
            gap = max(gap - max(start - at, 0), 0)
            if work:
                self.thought.setdefault(tid, []).append((at, start, len(self.p)))
                self.p.append((d.DO_THINK, 0, work * TICKS, 0, 0))
            nap = 0 if flags & schema.PREEMPTED else max(until - start, 0)
            if nap:
                self.sleep(tid, start, until, until == min(last, end))
            out, at = out + work + nap, max(at, until)
        return out

    def sleep(self, tid: int, start: int, until: int, last: bool) -> None:
        other = self.joined(tid, until - start, until) if last or until - start > JOIN else None
        if other is not None:
            self.p.append((d.DO_WAIT, 0, other, 1, 0))
            return
        self.slept.append((tid, len(self.p), start, until))
        self.p.append((d.DO_SLEEP, 0, (until - start) * TICKS, 0, 0))

    # -- events
    def add(self, e: dict[str, Any]) -> None:
        kind, tid, time = e["kind"], e["tid"], e["time_ns"]
        self.on = e["cpu"]
        if self.heap is not None and not self.heap_parts:
            self.begin_heap(self.heap)
        if not self.first and kind != schema.AREA:
            self.first = time  # before that the program was held, until the recorder was ready
        took = self.took = e["duration_ns"] or 0
        if kind == schema.OFF:
            self.away.setdefault(tid, []).append((time, time + took))
            if time < self.at.get(tid, 0):
                # inside a call or a fault, whose own waiting the replay has, but for a disk's
                if tid in self.syncing and not (e["flags"] or 0) & schema.PREEMPTED:
                    self.programs[tid].append((d.DO_SLEEP, 0, took * TICKS, 0, 0))
                self.unusual.forget(tid, len(self.programs[tid]) - 1)
                return
            naps = self.naps.setdefault(tid, [])
            if naps and naps[-1][2] & schema.CONTINUED:
                time = naps.pop()[0]
            naps.append((time, e["time_ns"] + took, e["flags"] or 0))
            return
        if e["address"] is None and kind in (schema.AREA, schema.FAULT):
            self.left_out[f"{kind}s without an address"] += 1
            return
        if kind == schema.AREA:
            if self.heap is None or e["file"] != "[heap]":
                self.known(pages(e["length"]), e["a2"] or 0, e["file"] is not None, e["address"] // PAGE)
            return
        self.last = max(self.last, time + took)
        if kind == schema.FORK:
            self.forked(tid, time, e["result"])
            return
        if kind == schema.EXIT:
            self.pause(tid, time)
            self.exit()
            return
        self.events += 1
        name = "fault" if kind == schema.FAULT else str(e["name"])
        if e["duration_ns"] is not None:
            t = self.total.setdefault(name, [0, 0])
            t[0] += 1
            t[1] += took
        if kind == schema.FAULT:
            self.fault(e, tid, time)
        elif not self.call(e, tid, time, name):
            return  # its time passes as the thread's own
        self.at[tid] = time + took
        self.kind[tid] = kind
        (self.syncing.add if name == "msync" else self.syncing.discard)(tid)
        self.rows = sum(map(len, self.programs.values())) if self.events % 4096 == 0 else self.rows + 2

    def exit(self) -> None:
        """The thread has ended."""

    def forked(self, tid: int, time: int, child: int | None) -> None:
        """The new thread, or process, begins when the old one has come so far."""
        if child is None or tid not in self.programs or child in self.born:
            return
        self.pause(tid, time)
        self.p.append((d.DO_POST, 0, child, 0, 0))
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
        self.pause(tid, time, schema.FAULT)
        how = d.WRITE if (e["flags"] or 0) & schema.WRITING else 0
        self.touch(*found, how | (d.BY_KERNEL if e["name"] == "kernel" else 0))
        if e["a2"] == 0 and self.took:  # one that took mmap_lock may have waited
            p = self.programs[tid]
            for who, k, more in self.unusual.add(e["cpu"] or 0, self.took, tid, len(p) - 1):
                row = self.programs[who][k]
                self.programs[who][k] = (*row[:4], row[4] | more * TICKS << d.MORE)

    def call(self, e: dict[str, Any], tid: int, time: int, name: str) -> bool:
        """False: it is left out."""
        result, n = e["result"], pages(e["length"])
        if e["address"] is None and name != "mmap" and (name in ADDRESSED or name == "brk"):
            self.left_out[f"{name} without its arguments"] += 1
            return False
        failed = result is not None and -4096 < result < 0
        if failed or (result is None and name in ("mmap", "mremap", "brk")):
            self.left_out["calls that failed"] += 1
            return False
        start = e["address"] // PAGE if e["address"] is not None else 0
        place = self.place(name, e["site"])
        if name == "mmap":
            self.pause(tid, time, schema.CALL)
            self.mmap(e, n, place)
        elif name == "munmap":
            self.pause(tid, time, schema.CALL)
            gone = self.live.remove(start, n)
            if not gone:
                self.left_out["munmaps of what is not known to be mapped"] += 1
            for part in gone:
                self.unmap(*part, place)
        elif name in ("mprotect", "pkey_mprotect"):
            if name == "pkey_mprotect" and e["a3"] not in NO_KEY:
                self.replaced["pkey_mprotect with a key: mprotect"] += 1
            self.pause(tid, time, schema.CALL)
            for part in self.known_parts(name, start, n):
                self.act_as(part[0])
                self.protect(*part, (e["a2"] or 0) & 7, place)
        elif name == "madvise" and e["a2"] in ADVICES:
            self.pause(tid, time, schema.CALL)
            for part in self.known_parts(name, start, n):
                self.act_as(part[0])
                self.advise(*part, e["a2"], place)
        elif name in LOCKS or name in ("msync", "mseal"):
            if e["length"]:
                self.pause(tid, time, schema.CALL)
                touched = touched_pages(e["address"], e["length"])
                for part in self.known_parts(name, start, touched):
                    self.act_as(part[0])
                    self.lock_or_sync(name, *part, e["a2"] or 0, place)
        elif name in ("mlockall", "munlockall"):
            self.pause(tid, time, schema.CALL)
            how = (e["address"] or 0) & 7 if name == "mlockall" else 0
            self.lock_all(how, place)
        elif name == "remap_file_pages":
            self.pause(tid, time, schema.CALL)
            self.replaced["remap_file_pages: mmap of a file over it"] += 1
            self.mmap({"result": e["address"], "a3": MAP_SHARED | MAP_FIXED, "a2": 3}, n, place)
        elif name == "mremap" and e["length"]:
            self.pause(tid, time, schema.CALL)
            self.mremap(e, start, n, place)
        elif name == "brk" and self.heap is not None:
            return self.move_break(e, tid, time, place)
        else:
            self.left_out[LACKING.get(name, name)] += 1
            return False
        return True

    def known_parts(self, name: str, start: int, n: int) -> list[Part]:
        """The mappings that a call is about."""
        parts = self.live.parts(start, n)
        if not parts:
            self.left_out[f"{name} of what is not known to be mapped"] += 1
        return parts

    def mmap(self, e: dict[str, Any], n: int, place: int) -> None:
        start, flags, prot = (e["result"] % (1 << 64)) // PAGE, e["a3"] or 0, (e["a2"] or 0) & 7
        anon = bool(flags & MAP_ANONYMOUS) or n > LARGEST_FILE
        if self.instead_of(start, n, prot, flags, anon, place):
            return
        m = self.mapping(n)
        for part in self.live.insert(start, n, m):
            self.unmap(*part, place)
        kind = PRIVATE | ANON if anon else MAP_SHARED if flags & MAP_SHARED else PRIVATE
        if flags & UAPI_MAP_LOCKED or self.lock_future:
            self.locked.add(m)
        self.make(m, n, prot, kind | flags & FILLED, bool(flags & MAP_FIXED), place)

    def mremap(self, e: dict[str, Any], start: int, old: int, place: int) -> None:
        """A mapping, or a part of one, becomes another one."""
        to, new, flags = (e["result"] % (1 << 64)) // PAGE, pages(e["a2"]), (e["a3"] or 0) & 7
        found = self.live.parts(start, old)
        if not found:
            self.known(old, 3, False, start)
            found = self.live.parts(start, old)
        self.act_as(found[0][0])
        m = self.mapping(new)
        stays = flags & MREMAP_DONTUNMAP != 0
        if not stays:
            self.live.remove(start, old)
        gone = self.live.insert(to, new, m)
        if len(found) == 1 and found[0][2] == old:
            if flags & MREMAP_FIXED:
                self.aim(gone, new, place)
            source, off, _ = found[0]
            if source in self.locked:
                self.locked.add(m)
            # one that cannot grow where the replay has it is moved
            self.remap(source, off, old, new, flags | MREMAP_MAYMOVE, m, place)
            return
        self.replaced["mremap over several mappings: munmap and mmap"] += 1
        for part in [*([] if stays else found), *gone]:
            self.unmap(*part, place)
        self.make(m, new, 3, PRIVATE | ANON, False, place)

    def aim(self, gone: list[Part], n: int, place: int) -> None:
        """Where a mapping goes that is moved to a place that the program names."""
        if len(gone) == 1 and gone[0][2] == n:
            m, off, _ = gone[0]
        else:
            for part in gone:
                self.unmap(*part, place)
            self.replaced["mremap to a place where there was no one mapping: an mmap before it"] += 1
            m, off = self.mapping(n), 0
            self.make(m, n, 0, PRIVATE | ANON, False, place)
        self.p.append((d.DO_WHERE, self.number(m), 0, self.within(m) + off, 0))

    # -- the heap.  Each step that moves the break makes a mapping of what it grew by, and waits for the one before
    def begin_heap(self, h: Heap) -> None:
        n = (h.brk + PAGE - 1) // PAGE - h.start
        m = self.moved = self.mapping(n)
        self.heap_parts.add(m)
        self.pages += n
        self.before(m, (d.DO_BRK, 0, h.brk - h.start * PAGE, m, 0))
        if n > 0:
            self.live.insert(h.start, n, m)

    def move_break(self, e: dict[str, Any], tid: int, time: int, place: int) -> bool:
        want, brk = e["address"], e["result"]
        assert self.heap is not None
        if want not in (0, brk):
            self.left_out["calls that failed"] += 1
            return False
        if not 0 <= brk // PAGE - self.heap.start < HEAP_MOST:
            self.left_out["brk of a program before execve"] += 1
            return False
        began = (len(self.programs[tid]), self.at[tid]) if tid in self.programs else None
        self.pause(tid, time, schema.CALL)
        if want == 0:
            self.p.append((d.DO_BRK, 0, 0, 0, -1, place))
            return True
        old, new = (self.brk + PAGE - 1) // PAGE, (brk + PAGE - 1) // PAGE
        m = self.mapping(max(new - old, 0))
        self.heap_parts.add(m)
        if began is not None:
            self.marks.append((tid, *began, m))
        if new > old:
            self.live.insert(old, new - old, m)
        elif new < old:
            self.live.remove(new, old - new)
        self.step_break(m, self.brk, brk, place)
        self.brk = brk
        return True

    def step_break(self, m: int, old: int, brk: int, place: int) -> None:
        assert self.heap is not None
        start = self.heap.start * PAGE
        self.p.append((d.DO_BRK, d.NR_REGS + self.moved, brk - start, m, (old - start + PAGE - 1) // PAGE, place))
        self.moved = m

    # -- steps: what rewrites do otherwise
    def act_as(self, m: int) -> None:
        """Who does what follows to mapping `m`: the thread itself."""

    def instead_of(self, start: int, n: int, prot: int, flags: int, anon: bool, place: int) -> bool:
        """Whether something else was done than to map."""
        return False

    def make(self, m: int, n: int, prot: int, kind: int, fixed: bool, place: int) -> None:
        self.p.append((d.DO_MMAP, self.number(m), n, 0 if kind & ANON else 1, prot | kind << 8, place))
        self.made[m] = self.tid, self.time + self.took

    def unmap(self, m: int, off: int, part: int, place: int) -> None:
        self.p.append((d.DO_MUNMAP, self.number(m), part, self.within(m) + off, 0, place))

    def touch(self, m: int, off: int, how: int) -> None:
        self.p.append((d.DO_TOUCH, self.number(m), 1, self.within(m) + off, how))

    def protect(self, m: int, off: int, part: int, prot: int, place: int) -> None:
        self.p.append((d.DO_PROTECT, self.number(m), part, self.within(m) + off, prot, place))

    def advise(self, m: int, off: int, part: int, advice: int, place: int) -> None:
        self.p.append((d.DO_ADVISE, self.number(m), part, self.within(m) + off, advice, place))

    def lock_or_sync(self, name: str, m: int, off: int, part: int, how: int, place: int) -> None:
        """mlock, mlock2, munlock, msync, mseal."""
        if name in LOCKS:
            on_fault = name == "mlock2" and how & MLOCK_ONFAULT
            how = d.UNLOCK if name == "munlock" else d.LOCK_ON_FAULT if on_fault else d.LOCK
            if how != d.UNLOCK:
                self.locked.add(m)
        op = d.DO_SYNC if name == "msync" else d.DO_SEAL if name == "mseal" else d.DO_LOCK
        self.p.append((op, self.number(m), part, self.within(m) + off, how, place))

    def lock_all(self, how: int, place: int) -> None:
        if how & MCL_CURRENT:
            self.locked.update(range(len(self.size)))
        self.lock_future = how & MCL_FUTURE != 0
        self.p.append((d.DO_LOCKALL, 0, 0, 0, how, place))

    def remap(self, m: int, off: int, old: int, new: int, flags: int, to: int, place: int) -> None:
        self.p.append(
            (d.DO_REMAP, self.number(m), old, self.within(m) + off, new | flags << 32 | to << 40, place)
        )
