"""VMAs over the time of a trace: its map calls done again by the mm text (trace/spaces.py), process by process.

Addresses are the recorded ones; what a call does to VMAs, and why neighbours stay apart, the text says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

from seqfault.compile.native import NativeProgram
from seqfault.kernel.machine import KernelBug
from seqfault.mm import opcodes as op
from seqfault.mm.fullsize import full_sizes
from seqfault.space.text import (
    ANON_VMAS_DIFFER,
    FILES_DIFFER,
    FLAGS_DIFFER,
    FORK_CHILD,
    MERGEABLE,
    OFFSETS_DIFFER,
    REFUSAL_SHIFT,
)
from seqfault.trace import schema as s
from seqfault.trace import vma_text as text
from seqfault.trace.calls import CLONE, MADV, MAP, MREMAP
from seqfault.trace.spaces import ENTRIES, SIZES, Spaces, SpacesFull
from seqfault.trace.store import Trace

COLUMNS = (
    *("time_ns", "duration_ns", "pid", "tid", "kind", "name", "address", "length", "a2", "a3", "a4", "a5"),
    *("result", "flags", "site", "file"),
)
KINDS = (s.AREA, s.CALL, s.FORK, s.EXEC, s.EXIT, s.FAULT, s.LOCK_HOLD)
MOST_CALLS = 200_000  # that are done again
MOST_FAULTS = 1_000_000  # for which the text was asked
POINTS = 400  # of the count over time
PAGE = op.PAGE_SIZE
TOP = op.TASK_SIZE_BYTES
CHANGE = {"munmap", "mprotect", "pkey_mprotect", "madvise", "mremap", "brk", "mmap"}
ADVICE = {value: name for name, value in MADV.items()}
FIXED, ANONYMOUS, POPULATE = MAP["MAP_FIXED"], MAP["MAP_ANONYMOUS"], MAP["MAP_POPULATE"]
UNPLACED = MAP["MAP_FIXED_NOREPLACE"] | POPULATE | MAP["MAP_HUGETLB"] | MAP["MAP_32BIT"]
PROT_WORDS = {0: "PROT_NONE", 1: "PROT_READ", 3: "PROT_READ|PROT_WRITE", 5: "PROT_READ|PROT_EXEC", 7: "all"}
REASONS = {
    FLAGS_DIFFER: "flags differ",
    FILES_DIFFER: "different files, or a file beside anonymous memory",
    FORK_CHILD: "written before a fork, the other never",
    ANON_VMAS_DIFFER: "both were written before they could merge (different anon_vma)",
    OFFSETS_DIFFER: "offsets not contiguous",
    MERGEABLE: "nothing in the way, but no call has tried since",
}


@cache
def watched_program(linux: int) -> NativeProgram:
    entries: dict[str, Any] = {"count": text.vma_count, "touched": text.vma_touched, "boundary": text.vma_boundary}
    return NativeProgram(ENTRIES | entries, sizes=full_sizes(linux, **SIZES))


@dataclass
class Life:
    """The VMAs of one address space, from its beginning in the trace to its end."""

    pid: int
    program: str = ""
    points: list[tuple[int, int]] = field(default_factory=list)  # time, VMAs; thinned out
    most: int = 0
    at_end: int = 0
    calls: int = 0
    made: Counter[str] = field(default_factory=Counter)  # mmap and brk: new, merged with a neighbour, bridged a gap
    splits: Counter[tuple[str, str]] = field(default_factory=Counter)  # VMAs added by what, from where
    apart: Counter[str] = field(default_factory=Counter)  # neighbours when there were most, by why they stay apart
    apart_at: int = 0  # how many VMAs there were then
    known: bool = True  # the layout at its beginning was recorded


@dataclass
class Vmas:
    lives: list[Life] = field(default_factory=list)
    calls: int = 0
    looked_up: int = 0
    limited: bool = False  # there is more than `MOST_CALLS` and `MOST_FAULTS`
    refused: Counter[str] = field(default_factory=Counter)  # calls that the text refused
    stopped: str = ""  # why the rest was left out
    guessed_writes: bool = False
    max_map_count: int = 65530

    @property
    def largest(self) -> Life | None:
        return max(self.lives, key=lambda v: (v.most, v.calls), default=None)


@dataclass(eq=False, slots=True)
class Process:
    who: int
    life: Life
    users: int = 1
    brk: int = 0
    # by thread: the VMA of its last fault, which is known to be written; until the next call
    touched: dict[int, tuple[int, int]] = field(default_factory=dict)


class Walk:
    """One pass over a trace's events."""

    def __init__(self, spaces: Spaces, out: Vmas):
        self.spaces, self.out = spaces, out
        self.by_pid: dict[int, Process] = {}
        self.files: dict[str, int] = {}
        self.pending: dict[int, dict[str, Any]] = {}  # by tid: calls whose moment has not come
        self.ends: list[tuple[int, int]] = []

    # -- processes
    def process(self, pid: int) -> Process:
        p = self.by_pid.get(pid)
        if p is None:
            p = self.by_pid[pid] = self.begin(pid, "")
            p.life.known = False
        return p

    def begin(self, pid: int, program: str) -> Process:
        life = Life(pid, program)
        self.out.lives.append(life)
        return Process(self.spaces.start(TOP - PAGE, 0, -1, self.out.max_map_count), life)

    def end(self, p: Process) -> None:
        p.users -= 1
        if p.users == 0:
            p.life.at_end = self.count(p)
            self.look(p)
            self.spaces.exit(p.who)

    def count(self, p: Process) -> int:
        return int(self.spaces.machine.call("count", p.who))

    def file(self, name: str | None) -> int:
        key = name or "?"
        if key not in self.files:
            self.files[key] = self.spaces.new_file()
        return self.files[key]

    # -- events
    def step(self, e: dict[str, Any]) -> None:
        now, tid, kind = e["time_ns"], e["tid"], e["kind"]
        while self.ends and self.ends[0][0] <= now:
            _, other = heappop(self.ends)
            call = self.pending.get(other)
            if call is not None and call["time_ns"] + (call["duration_ns"] or 0) <= now:
                self.apply(self.pending.pop(other))
        if kind == s.CALL:
            if e["name"] in CHANGE and e["result"] is not None and not -4096 < e["result"] < 0:
                self.pending[tid] = e
                heappush(self.ends, (now + (e["duration_ns"] or 0), tid))
        elif kind == s.LOCK_HOLD:
            if e["flags"] and tid in self.pending:
                self.apply(self.pending.pop(tid))
        elif kind == s.FAULT:
            self.fault(e)
        elif kind == s.AREA:
            self.area(e)
        elif kind == s.FORK:
            self.fork(e)
        elif kind == s.EXEC:
            self.executed(e)
        elif kind == s.EXIT and tid == e["pid"] and tid in self.by_pid:
            self.end(self.by_pid.pop(tid))

    def executed(self, e: dict[str, Any]) -> None:
        pid, name = e["pid"], e["name"] or ""
        old = self.by_pid.get(pid)
        if old is not None and not old.life.calls and not old.life.program:
            old.life.program, old.life.known = name, True  # what it mapped came before the event
            return
        if old is not None:
            self.end(old)
        self.by_pid[pid] = self.begin(pid, name)

    def fork(self, e: dict[str, Any]) -> None:
        flags, child = e["a2"] or 0, e["a3"] or e["result"]
        if flags & CLONE["CLONE_THREAD"] or child in self.by_pid:
            return
        parent = self.process(e["pid"])
        if flags & CLONE["CLONE_VM"]:
            parent.users += 1
            self.by_pid[child] = parent
            return
        err, who = self.spaces.fork(parent.who)
        if err:
            self.out.refused["fork"] += 1
            return
        life = Life(child, parent.life.program, known=parent.life.known)
        self.out.lives.append(life)
        self.by_pid[child] = Process(who, life, brk=parent.brk)

    def area(self, e: dict[str, Any]) -> None:
        """execve maps the program before it says which it is."""
        pid = e["pid"]
        p = self.by_pid.get(pid)
        if p is None:
            p = self.by_pid[pid] = self.begin(pid, "")
        elif p.life.calls and e["file"] not in ("[vdso]", "[vvar]") and p.users and not self.between(p):
            self.end(p)
            p = self.by_pid[pid] = self.begin(pid, "")
        named = (e["file"] or "").startswith("/")
        fd = self.file(e["file"]) if named else -1
        flags = FIXED | (e["a3"] or 2) | (0 if named else ANONYMOUS)
        offset = e["a5"] or 0 if named else 0
        self.spaces.op(p.who, op.OP_MMAP, (e["address"], e["length"], e["a2"] or 0, flags, fd, offset))
        if e["file"] == "[heap]":
            p.brk = e["address"] + e["length"]
        self.note(p, e["time_ns"])

    def between(self, p: Process) -> bool:
        """Areas follow each other in an execve; the first one begins a new address space."""
        return p.life.calls == 0

    def fault(self, e: dict[str, Any]) -> None:
        code = e["flags"]
        if code is not None and not code & s.WRITING:
            return
        p = self.process(e["pid"])
        address = e["address"]
        if address is None or address >= TOP:
            return
        if code is None:
            self.out.guessed_writes = True
        self.out.looked_up += 1
        machine = self.spaces.machine
        machine.call("touched", p.who, address // PAGE)
        if len(machine.emitted) == 2:
            p.touched[e["tid"]] = (int(machine.emitted[0]) * PAGE, int(machine.emitted[1]) * PAGE)

    # -- calls
    def apply(self, e: dict[str, Any]) -> None:
        p = self.process(e["pid"])
        self.out.calls += 1
        p.life.calls += 1
        p.touched.clear()
        before = self.count(p)
        name, result, length = e["name"], e["result"], e["length"] or 0
        if name == "brk":
            self.move_brk(p, e)
        elif name == "mmap":
            fd = -1 if (e["a3"] or 0) & ANONYMOUS else self.file(e["file"])
            flags = (e["a3"] or 0) & ~UNPLACED | FIXED
            self.do(p, name, op.OP_MMAP, (result, length, e["a2"] or 0, flags, fd, e["a5"] or 0))
        elif name == "munmap":
            self.do(p, name, op.OP_MUNMAP, (e["address"], length))
        elif name in ("mprotect", "pkey_mprotect"):
            self.do(p, name, op.OP_MPROTECT, (e["address"], length, e["a2"] or 0))
        elif name == "madvise":
            self.do(p, name, op.OP_MADVISE, (e["address"], length, e["a2"] or 0))
        elif name == "mremap":
            flags, new = e["a3"] or 0, e["a2"] or 0
            if result != e["address"]:
                flags |= MREMAP["MREMAP_FIXED"] | MREMAP["MREMAP_MAYMOVE"]
            self.do(p, name, op.OP_MREMAP, (e["address"], length, new, flags, result))
        after = self.count(p)
        self.tell(p, e, after - before)
        self.note(p, e["time_ns"])

    def do(self, p: Process, name: str, what: int, args: tuple[int, ...]) -> None:
        if args[0] >= TOP:
            self.out.refused[name] += 1
            return
        if self.spaces.op(p.who, what, args) < 0:
            self.out.refused[name] += 1

    def move_brk(self, p: Process, e: dict[str, Any]) -> None:
        new = (e["result"] + PAGE - 1) // PAGE * PAGE
        old, p.brk = p.brk, new
        if not old or old == new or e["address"] != e["result"]:
            return
        if new > old:
            flags = FIXED | ANONYMOUS | MAP["MAP_PRIVATE"]
            self.do(p, "brk", op.OP_MMAP, (old, new - old, 3, flags, -1, 0))
        else:
            self.do(p, "brk", op.OP_MUNMAP, (new, old - new))

    def tell(self, p: Process, e: dict[str, Any], more: int) -> None:
        """What a call did to the number of VMAs."""
        name = e["name"]
        if name in ("mmap", "brk"):
            if e["length"] or name == "brk":
                what = "a new VMA" if more > 0 else "grew a neighbour" if more == 0 else "joined two"
                p.life.made[what] += name == "mmap" or more != 0
            return
        if more > 0:
            label = name
            if name.endswith("mprotect"):
                label = f"{name} {PROT_WORDS.get(e['a2'] or 0, hex(e['a2'] or 0))}"
            elif name == "madvise":
                label = ADVICE.get(e["a2"] or 0, f"madvise {e['a2']}")
            p.life.splits[label, e["site"] or ""] += more

    def note(self, p: Process, now: int) -> None:
        n, life = self.count(p), p.life
        life.points.append((now, n))
        if len(life.points) >= 2 * POINTS:
            # of two neighbours the larger one stays: peaks are what one looks for
            pairs = zip(life.points[::2], life.points[1::2], strict=False)
            life.points = [max(pair, key=lambda q: q[1]) for pair in pairs]
        if n > life.most:
            life.most = n
            if n > 1.25 * life.apart_at + 8:
                self.look(p)

    def look(self, p: Process) -> None:
        """Why neighbours are not one."""
        n = self.count(p)
        if n < 0.75 * p.life.apart_at:
            return
        p.life.apart.clear()
        p.life.apart_at = n
        vmas = self.spaces.maps(p.who)
        for left, right in pairwise(vmas):
            if left.end != right.start:
                continue
            self.spaces.machine.call("boundary", p.who, right.start // PAGE)
            why = (int(self.spaces.machine.emitted[0]) >> REFUSAL_SHIFT) & 7
            words = REASONS[why]
            if why == FLAGS_DIFFER:
                words += f" ({', '.join(sorted((left.flags ^ right.flags) - {'me', 'mr', 'mw'}))})"
            p.life.apart[words] += 1

    def finish(self) -> None:
        for call in sorted(self.pending.values(), key=lambda c: c["time_ns"] + (c["duration_ns"] or 0)):
            self.apply(call)
        for p in set(self.by_pid.values()):
            p.life.at_end = self.count(p)
            self.look(p)


def follow(trace: Trace, linux: int, most: int = MOST_CALLS, tell: Callable[[int], None] | None = None) -> Vmas:
    """Do the calls of a trace again.  `linux`: whose text, as mm/fullsize.py numbers releases."""
    out = Vmas(max_map_count=int(trace.meta.settings.get("max_map_count", "65530")))
    walk = Walk(Spaces(linux, watched_program), out)
    n = 0
    try:
        for batch in trace.batches(COLUMNS, KINDS, 1 << 14):
            columns = {c: batch[c].to_pylist() for c in COLUMNS}
            for i in range(batch.num_rows):
                kind = columns["kind"][i]
                if kind == s.FAULT:
                    # most are in a VMA that has been written before
                    p = walk.by_pid.get(columns["pid"][i])
                    address = columns["address"][i]
                    if p is not None and address is not None:
                        lo, hi = p.touched.get(columns["tid"][i], (0, 0))
                        if lo <= address < hi:
                            continue
                walk.step({c: v[i] for c, v in columns.items()})
            n += batch.num_rows
            if tell is not None:
                tell(n)
            if out.calls >= most or out.looked_up >= MOST_FAULTS:
                out.limited = True
                break
        walk.finish()
    except SpacesFull as e:
        out.stopped = str(e)
    except KernelBug as e:
        out.stopped = f"the text stopped: {str(e).splitlines()[0]}"
    return out
