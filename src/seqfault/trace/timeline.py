"""Everything of a recording on one time line: calls, faults, layouts, the lives of tasks.

A call took effect between the two times that strace saw.  Where the events of perf are there, the moment is known:
when the thread got mmap_lock for writing.  Otherwise it is taken to be the call's return.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from seqfault.trace.calls import CLONE, clone_flags
from seqfault.trace.layout import Layout, Layouts, read_layouts
from seqfault.trace.strace import Call, Ended, Problem, Strace, nanoseconds, open_text, read_strace

EXEC = ("execve", "execveat")
BIRTH = ("clone", "clone3", "fork", "vfork")
CHANGES = ("mmap", "munmap", "mremap", "mprotect", "pkey_mprotect", "brk", "madvise", "mlock", "mlock2", "munlock")
# A thread's fault comes before strace sees its next call, and after strace let it go; the two clocks are compared
# to within this much.
SLACK = 2_000


class RecordingError(Exception):
    """One line for the user."""


@dataclass(slots=True)
class Fault:
    """A page fault that perf saw: kind r, w or x; `kernel`: taken by the kernel on the thread's behalf."""

    line: int
    tid: int
    effect: int
    kind: str
    address: int
    kernel: bool

    def __str__(self) -> str:
        what = {"r": "read", "w": "write", "x": "instruction fetch"}[self.kind]
        return f"fault: {what} at {self.address:#x}{' by the kernel' if self.kernel else ''}"


@dataclass(slots=True)
class Seen:
    """A layout that was read."""

    layout: Layout
    effect: int
    number: int = 0

    @property
    def tid(self) -> int:
        return self.layout.pid

    @property
    def line(self) -> int:
        return 0


Item = Call | Ended | Fault | Seen


@dataclass
class Events:
    path: str
    faults: list[Fault] = field(default_factory=list)
    locks: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    problems: list[Problem] = field(default_factory=list)
    lost: int = 0


@dataclass
class Recording:
    """A recording as read, and its time line."""

    name: str
    strace: Strace
    layouts: Layouts
    events: Events | None
    items: list[Item] = field(default_factory=list)
    moving: set[int] = field(default_factory=set)
    unordered: set[int] = field(
        default_factory=set
    )  # lines of calls that overlap one of another thread, without events
    modes: dict[str, int] = field(default_factory=dict)  # how files are open, where opens are not recorded
    gaps: list[str] = field(default_factory=list)  # why it is not whole
    unseen: str = ""  # what a recording of its kind has not
    threads: dict[int, int] = field(default_factory=dict)  # those that there were before, and their processes

    @property
    def problems(self) -> list[Problem]:
        return [*self.strace.problems, *self.layouts.problems, *(self.events.problems if self.events else [])]


def read_events(path: Path) -> Events:
    """The file `events` of a recording."""
    out = Events(str(path))
    for number, line in enumerate(open_text(path), 1):
        words = line.split()
        if len(words) == 3 and words[2] == "L" and words[1].isdigit():
            out.locks[int(words[1])].append(nanoseconds(words[0]))
        elif len(words) == 4 and words[2].lower() in ("r", "w", "x") and words[1].isdigit():
            kind = words[2].lower()
            at = nanoseconds(words[0])
            out.faults.append(Fault(number, int(words[1]), at, kind, int(words[3], 16), kind != words[2]))
        elif line.startswith("# lost ") and words[-1].isdigit():
            out.lost += int(words[-1])
        elif words and not line.startswith("#"):
            out.problems.append(Problem(str(path), number, "no event", line))
    for times in out.locks.values():
        times.sort()
    return out


def sibling(path: Path, name: str) -> Path | None:
    """The file `name` of a recording, compressed or not."""
    for p in (path / name, path / f"{name}.xz", path / f"{name}.gz"):
        if p.is_file():
            return p
    return None


def read_recording(path: Path, maps: Path | None = None, events: Path | None = None) -> Recording:
    """A directory that `record` wrote, or a file of strace with a file of layouts beside it."""
    trace: Path | None = path
    if path.is_dir():
        trace = sibling(path, "strace")
        maps = maps or sibling(path, "maps")
        events = events or sibling(path, "events")
    if trace is None or not trace.is_file():
        raise RecordingError(f"{path}: no file of strace there")
    if maps is None:
        raise RecordingError(f"{path}: no layouts (--maps FILE); python -m seqfault.trace.record makes them")
    for p in (maps, events):
        if p is not None and not p.is_file():
            raise RecordingError(f"{p}: no such file")
    out = Recording(path.name, read_strace(trace), read_layouts(maps), read_events(events) if events else None)
    if not out.layouts.layouts:
        raise RecordingError(f"{maps}: no layouts in it")
    order(out)
    return out


def set_effects(recording: Recording) -> None:
    """When each call took effect."""
    locks = recording.events.locks if recording.events else {}
    for call in recording.strace.calls:
        call.effect = call.end
        if call.name in EXEC or call.name.startswith("exit"):
            continue
        times = locks.get(call.tid, [])
        i = bisect_left(times, call.start - SLACK)
        if i < len(times) and times[i] <= call.end + SLACK:
            call.effect = times[i]


def children_before_parents(recording: Recording) -> None:
    """A child may be seen before the call that made it returns; the call took effect before that."""
    first: dict[int, int] = {}
    for call in recording.strace.calls:
        first[call.tid] = min(first.get(call.tid, call.start), call.start)
    if recording.events:
        for fault in recording.events.faults:
            if fault.tid in first:
                first[fault.tid] = min(first[fault.tid], fault.effect)
    for call in recording.strace.calls:
        if call.name in BIRTH and call.ret and not call.errno and call.start <= first.get(call.ret, 0) < call.effect:
            call.effect = first[call.ret] - 1


def order(recording: Recording) -> None:
    """Build the time line."""
    set_effects(recording)
    children_before_parents(recording)
    items: list[Item] = [*recording.strace.calls]
    for ended in recording.strace.ended:
        ended.effect = ended.end
        items.append(ended)
    execs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for call in recording.strace.calls:
        if call.name in EXEC and not call.errno:
            execs[call.tid].append((call.start, call.end))
    if recording.events:
        # what execve itself touches is in the layout that follows it
        items += [f for f in recording.events.faults if not any(a <= f.effect <= b for a, b in execs.get(f.tid, []))]
    items += [Seen(layout, layout.start, i) for i, layout in enumerate(recording.layouts.layouts)]
    recording.moving = moving(recording)
    items.sort(key=lambda i: (i.effect, i.line))
    recording.items = items
    recording.unordered = unordered(recording)


def moving(recording: Recording) -> set[int]:
    """Layouts (their places in the list) that were read while another thread was in a call that changes layouts."""
    pids = dict(recording.threads)
    out = set()
    for call in recording.strace.calls:
        if call.name in BIRTH and call.ret and not call.errno and is_thread(call):
            pids[call.ret] = pids.get(call.tid, call.tid)
    changes: dict[int, list[Call]] = defaultdict(list)
    for call in recording.strace.calls:
        if call.name in CHANGES and not (recording.events and call.effect == call.end):
            changes[pids.get(call.tid, call.tid)].append(call)
    for i, layout in enumerate(recording.layouts.layouts):
        # the held call itself takes effect after the layout was read
        if any(layout.start <= call.effect <= layout.end for call in changes.get(layout.pid, [])):
            out.add(i)
    return out


def unordered(recording: Recording) -> set[int]:
    """Lines of calls that overlap a call of another thread, with no event to tell which was first.

    Where there are events, a call without one took no lock and changed nothing.
    """
    out: set[int] = set()
    if recording.events:
        return out
    busy: list[Call] = []
    for call in sorted((c for c in recording.strace.calls if c.name in CHANGES), key=lambda c: c.start):
        busy = [b for b in busy if b.end > call.start]
        others = [b.line for b in busy if b.tid != call.tid]
        if others:
            out.update(others, [call.line])
        busy.append(call)
    return out


def shares_memory(call: Call) -> bool:
    """Whether the task that a call makes has its parent's address space."""
    return bool(clone_flags(call) & CLONE["CLONE_VM"])


def is_thread(call: Call) -> bool:
    return bool(clone_flags(call) & CLONE["CLONE_THREAD"])
