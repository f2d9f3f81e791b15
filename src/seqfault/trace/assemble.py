"""Single events of perf put together to what a trace has: faults with durations, calls, waits for mmap_lock, holds.

There is no event at the end of a fault; the software events minor-faults and major-faults come when it is accounted,
which is its end but for the way back.  A fault without one ended in a signal, was tried again, or was spurious.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from seqfault.trace import schema as s
from seqfault.trace.perf_script import Sample, Source
from seqfault.trace.store import Writer, row

OFTEN = ("mmap", "munmap", "mprotect", "pkey_mprotect", "mremap", "madvise", "process_madvise", "brk")
# what else a layout shows, or takes mmap_lock; not with --sample
RARE = ("mlock", "mlock2", "munlock", "mlockall", "munlockall", "mseal", "msync", "remap_file_pages")
CALLS = (*OFTEN, *RARE)
# arguments: address, length, ...
ADDRESSED = {
    *("mmap", "munmap", "mprotect", "pkey_mprotect", "mremap", "madvise", "mlock", "mlock2", "munlock", "mseal"),
    *("msync", "remap_file_pages"),
}
NUMBER = re.compile(r"0x[0-9a-f]+")
FAULT = re.compile(r": address=(0x[0-9a-f]+|\(nil\)) ip=(\S+) error_code=(0x[0-9a-f]+)")
LOCK = re.compile(r": mm=(\S+) .*?write=(\w+)(?: success=(\w+))?")
TASK = re.compile(r": pid=(\d+) comm=.*? clone_flags=(?:0x)?([0-9a-f]+)")
EXECUTED = re.compile(r": filename=(.*) pid=\d+ old_pid=(\d+)")
BORN = re.compile(r"\((-?\d+):(-?\d+)\):\((-?\d+):(-?\d+)\)")
MAPPED = re.compile(r" (-?\d+)/(-?\d+): \[(0x[0-9a-f]+)\((0x[0-9a-f]+)\) @ (\S+)[^\]]*\]: (....) (.*)")
LOST = re.compile(r"lost (\d+)")
HEX = re.compile(r"[0-9a-f]+$")
FALLBACK = ("lock_mm_and_find_vma",)
ANON_VMA = ("__vmf_anon_prepare", "vmf_anon_prepare")
WRAPPERS = ("/libc.so", "/libc-2", "/ld-linux", "/ld-2", "/libpthread", "/ld-musl")
MOST_STACKS = 1 << 16
EVERY = 512  # samples between looks at what is still open
PIECE = 50_000_000  # ns; longer times off the CPU are cut in pieces, so that they hold nothing up
PROT = {"r": 1, "w": 2, "x": 4}
LOCK_ADDRESSES = ("(nil)", "0x0")
SOFTWARE = {"minor-faults": s.MINOR, "major-faults": s.MAJOR}


@dataclass(slots=True)
class Open:
    """Something that has begun: a fault, a call, a wait, a hold."""

    time: int
    cpu: int
    values: dict[str, Any]


@dataclass(slots=True)
class Thread:
    """What a thread is in."""

    pid: int
    fault: Open | None = None
    call: Open | None = None
    wait: Open | None = None
    off: Open | None = None
    holds: dict[str, Open] = field(default_factory=dict)
    loading: bool = False  # in execve, behind the point of no return


class Assembler:
    """Takes samples (`take`) and puts rows into a `Writer`; `finish` at the end.

    `only`: the pids whose events are kept; None: all.
    """

    def __init__(self, writer: Writer, source: Source, only: set[int] | None = None):
        self.out, self.source, self.meta = writer, source, writer.meta
        self.only = only
        self.threads: dict[int, Thread] = {}
        self.mms: dict[str, int] = {}
        self.owner: dict[str, int] = {}  # where no pids are printed: the first tid seen with this mm
        self.stacks: dict[tuple[str, ...], int] = {}
        self.settled = -(1 << 63)
        self.seen = 0
        self.latest = -(1 << 63)
        self.events: Counter[str] = Counter()
        self.guessed = False
        # with --sample: nothing that begins in one window ends in the next
        self.windows = [b for _, b in sorted(self.meta.windows, reverse=True)]
        self.also: Callable[[], int] | None = None  # how far another source of the same trace is
        # what a record of perf said and a tracepoint may say better: forks by the child's tid, programs by tid
        self.born: dict[int, tuple[int, Thread, Open]] = {}
        self.programs: dict[int, tuple[int, Thread, Open]] = {}
        self.handlers = {
            "exceptions:page_fault_user": self.fault,
            "exceptions:page_fault_kernel": self.fault,
            "page-faults": self.software_fault,
            "faults": self.software_fault,
            "minor-faults": self.accounted,
            "major-faults": self.accounted,
            "mmap_lock:mmap_lock_start_locking": self.locking,
            "mmap_lock:mmap_lock_acquire_returned": self.acquired,
            "mmap_lock:mmap_lock_released": self.released,
            "task:task_newtask": self.newtask,
            "sched:sched_process_exit": self.exited,
            "sched:sched_process_exec": self.executed,
            "PERF_RECORD_FORK": self.forked,
            "PERF_RECORD_EXIT": self.exit_record,
            "PERF_RECORD_COMM": self.comm,
            "PERF_RECORD_MMAP": self.mapped,
            "PERF_RECORD_MMAP2": self.mapped,
            "PERF_RECORD_SWITCH": self.switched,
            "PERF_RECORD_LOST": self.lost,
            "PERF_RECORD_LOST_SAMPLES": self.lost,
        }
        for name in CALLS:
            self.handlers[f"syscalls:sys_enter_{name}"] = self.entered
            self.handlers[f"syscalls:sys_exit_{name}"] = self.left

    # -- what all handlers use
    def take(self, e: Sample) -> None:
        name = e.event
        if name.endswith((":u", ":k", ":uk")) and name.partition(":")[0] in self.handlers:
            name = e.event = name.partition(":")[0]
        handler = self.handlers.get(name)
        if handler is None:
            self.events["PERF_RECORD" if name.startswith("PERF_") else name] -= 1
            return
        if self.only is not None and e.pid not in self.only and e.pid >= 0:
            return
        if not e.time:
            # of what was there before the recording; the layout has been read
            if name == "PERF_RECORD_COMM" and e.tid > 0 and e.pid > 0:
                self.threads.setdefault(e.tid, Thread(e.pid))
            return
        while self.windows and e.time > self.windows[-1]:
            self.windows.pop()
            self.close_all()
        self.events[name] += 1
        thread = self.threads.get(e.tid)
        if thread is None:
            if e.pid < 0:
                self.guessed = True
            thread = self.threads[e.tid] = Thread(e.pid if e.pid >= 0 else e.tid)
        elif e.pid >= 0 and thread.pid != e.pid:
            thread.pid = e.pid
        handler(e, thread)
        self.latest = max(self.latest, e.time)
        self.seen += 1
        if self.seen % EVERY == 0:
            self.settle()

    def settle(self) -> None:
        """Nothing will follow that begins before the oldest thing that is open."""
        self.put_records()
        oldest = self.latest - 2_000_000  # samples of two CPUs may be a little out of order
        for tid, t in self.threads.items():
            if t.off is not None and self.latest - t.off.time > PIECE:
                self.put(tid, t, s.OFF, t.off, self.latest, flags=t.off.values["flags"] | s.CONTINUED)
                t.off.time = self.latest
            for o in (t.fault, t.call, t.wait, t.off, *t.holds.values()):
                if o is not None and o.time < oldest:
                    oldest = o.time
        self.settled = oldest if self.also is None else min(oldest, self.also())

    def put_records(self) -> None:
        """What no tracepoint has said after all."""
        for records, kind in ((self.born, s.FORK), (self.programs, s.EXEC)):
            for tid, t, o in records.values():
                self.put(tid, t, kind, o, None)
            records.clear()

    def put(self, tid: int, t: Thread, kind: str, o: Open, end: int | None, **more: Any) -> None:
        duration = None if end is None else max(0, end - o.time)
        cpu = o.cpu if o.cpu >= 0 else None
        self.out.add(row(o.time, t.pid, tid, kind, cpu=cpu, duration_ns=duration, **(o.values | more)), self.settled)

    def stack(self, e: Sample) -> int | None:
        if not e.stack:
            return None
        key = tuple(e.stack[1:] if e.stack[0].startswith(("__mmap_lock_do_trace", "__traceiter")) else e.stack)
        number = self.stacks.get(key)
        if number is None:
            if len(self.stacks) == MOST_STACKS:
                self.source.skipped["stacks beyond 65536"] += 1
                return None
            number = self.stacks[key] = len(self.stacks)
            self.meta.stacks.append(list(key))
        return number

    def mm(self, pointer: str, e: Sample, t: Thread) -> int:
        number = self.mms.get(pointer)
        if number is None:
            number = self.mms[pointer] = len(self.mms) + 1
            self.owner[pointer] = t.pid
        if e.pid < 0:
            t.pid = self.owner[pointer]
        return number

    def close_fault(self, tid: int, t: Thread) -> None:
        """One that was never accounted."""
        if t.fault is not None:
            self.put(tid, t, s.FAULT, t.fault, None)
            t.fault = None

    # -- faults
    def fault(self, e: Sample, t: Thread) -> None:
        m = FAULT.match(e.rest)
        if not m:
            self.source.bad("page fault without its fields", e.rest)
            return
        self.close_fault(e.tid, t)
        address = 0 if m[1] == "(nil)" else int(m[1], 16)
        ip = int(m[2], 16) if m[2].startswith("0x") else None
        values: dict[str, Any] = {
            "name": "user" if e.event.endswith("user") else "kernel",
            "address": address,
            "flags": int(m[3], 16),
            "a2": 0 if self.meta.has(s.LOCK_WAIT) else None,
            "a3": ip if ip is None or ip < 1 << 63 else ip - (1 << 64),
            "stack": self.stack(e),
        }
        if not m[2].startswith("0x"):
            values["site"] = f"{m[2]} ([kernel])"
        t.fault = Open(e.time, e.cpu, values)

    def software_fault(self, e: Sample, t: Thread) -> None:
        """page-faults comes when a fault begins."""
        self.sampled(e)
        if t.fault is not None and e.time - t.fault.time < 10_000_000 and t.fault.values.get("flags") is not None:
            return  # the tracepoint has it
        self.close_fault(e.tid, t)
        address, site = where(e)
        user = "[k" not in (site or "")
        t.loading = t.loading and not user  # execve is over
        values = {"name": "user" if user else "kernel", "address": address, "site": site, "stack": self.stack(e)}
        t.fault = Open(e.time, e.cpu, values)

    def sampled(self, e: Sample) -> None:
        """perf record without -c 1 takes some faults for many."""
        if e.period > 1:
            self.source.skipped["faults between those that were sampled (perf record -c 1 has all)"] += e.period - 1

    def accounted(self, e: Sample, t: Thread) -> None:
        self.sampled(e)
        result = SOFTWARE[e.event]
        address, site = where(e)
        o = t.fault
        if o is None:
            values = {"address": address, "site": site, "stack": self.stack(e), "result": result}
            values["name"] = "kernel" if "[k" in (site or "") else "user"
            self.put(e.tid, t, s.FAULT, Open(e.time, e.cpu, values), None)
            return
        o.values["result"] = result
        if site:
            o.values["site"] = site
        if o.values.get("stack") is None:
            o.values["stack"] = self.stack(e)
        self.put(e.tid, t, s.FAULT, o, e.time)
        t.fault = None

    # -- calls
    def entered(self, e: Sample, t: Thread) -> None:
        self.close_fault(e.tid, t)
        name = e.event.rpartition("sys_enter_")[2]
        t.loading = False
        if t.call is not None:
            self.source.skipped["calls without their return"] += 1
            self.put(e.tid, t, s.CALL, t.call, None)
        args = [int(n, 16) for n in NUMBER.findall(e.rest)]
        t.call = Open(e.time, e.cpu, call_values(name, args) | {"stack": self.stack(e), "site": caller(e)})

    def left(self, e: Sample, t: Thread) -> None:
        name = e.event.rpartition("sys_exit_")[2]
        self.close_fault(e.tid, t)
        m = NUMBER.search(e.rest)
        if t.call is None or t.call.values["name"] != name or not m:
            self.source.skipped["returns without their call"] += 1
            return
        self.put(e.tid, t, s.CALL, t.call, e.time, result=signed(int(m[0], 16)))
        t.call = None

    # -- mmap_lock
    def context(self, t: Thread) -> str | None:
        if t.fault is not None:
            return "fault"
        return t.call.values["name"] if t.call is not None else None

    def locking(self, e: Sample, t: Thread) -> None:
        m = LOCK.match(e.rest)
        if not m:
            self.source.bad("mmap_lock event without its fields", e.rest)
            return
        write = m[2] in ("true", "1")
        where_from = s.LOCKED_OTHER
        if t.fault is not None and not write:
            if any(f.startswith(FALLBACK) for f in e.stack):
                where_from = s.LOCKED_FALLBACK
            elif any(f.startswith(ANON_VMA) for f in e.stack):
                where_from = s.LOCKED_ANON_VMA
            t.fault.values["a2"] = (t.fault.values.get("a2") or 0) | where_from
        values = {"name": self.context(t), "flags": int(write), "mm": self.mm(m[1], e, t), "stack": self.stack(e)}
        if t.fault is not None:
            values["a2"] = where_from
        t.wait = Open(e.time, e.cpu, values)

    def acquired(self, e: Sample, t: Thread) -> None:
        m = LOCK.match(e.rest)
        if not m:
            self.source.bad("mmap_lock event without its fields", e.rest)
            return
        write, got = m[2] in ("true", "1"), m[3] in ("true", "1")
        held = t.holds.get(m[1])
        if t.wait is None and held is not None and held.values["flags"] and not write:
            # mmap_write_downgrade
            self.put(e.tid, t, s.LOCK_HOLD, held, e.time)
            t.holds[m[1]] = Open(e.time, e.cpu, held.values | {"flags": 0})
            return
        values = {"name": self.context(t), "flags": int(write), "mm": self.mm(m[1], e, t)}
        o, end = (t.wait, e.time) if t.wait is not None else (Open(e.time, e.cpu, values), None)
        self.put(e.tid, t, s.LOCK_WAIT, o, end, result=int(got))
        t.wait = None
        if got:
            t.holds[m[1]] = Open(e.time, e.cpu, values | {"stack": o.values.get("stack")})

    def released(self, e: Sample, t: Thread) -> None:
        m = LOCK.match(e.rest)
        held = t.holds.pop(m[1], None) if m else None
        if held is None:
            self.source.skipped["releases of mmap_lock that was taken before"] += 1
            return
        self.put(e.tid, t, s.LOCK_HOLD, held, e.time)

    # -- tasks
    def newtask(self, e: Sample, t: Thread) -> None:
        m = TASK.match(e.rest)
        if not m:
            self.source.bad("task_newtask without its fields", e.rest)
            return
        child, flags = int(m[1]), int(m[2], 16)
        pid = t.pid if flags & 0x10000 else child  # CLONE_THREAD
        self.threads[child] = Thread(pid)
        self.born.pop(child, None)
        if self.only is not None:
            self.only.add(pid)
        self.put(e.tid, t, s.FORK, Open(e.time, e.cpu, {"result": child, "a2": flags, "a3": pid}), None)

    def forked(self, e: Sample, t: Thread) -> None:
        """PERF_RECORD_FORK(child's pid:tid):(parent's pid:tid), for those without the tracepoint."""
        m = BORN.match(e.rest)
        if not m:
            return
        pid, tid, ppid, ptid = (int(x) for x in m.groups())
        if self.only is not None and ppid in self.only:
            self.only.add(pid)
        if tid in self.threads:
            return
        self.threads[tid] = Thread(pid)
        flags = 0x10100 if pid == ppid else 0
        parent = self.threads.setdefault(ptid, Thread(ppid))
        if self.events["task:task_newtask"] < 2:
            self.born[tid] = (ptid, parent, Open(e.time, e.cpu, {"result": tid, "a2": flags, "a3": pid}))

    def end_thread(self, e: Sample, t: Thread) -> None:
        self.close_fault(e.tid, t)
        if t.call is not None:
            self.put(e.tid, t, s.CALL, t.call, None)
        self.put(e.tid, t, s.EXIT, Open(e.time, e.cpu, {}), None)
        t.call = t.wait = t.off = None

    def exited(self, e: Sample, t: Thread) -> None:
        self.end_thread(e, t)
        # the address space is torn down after this event
        self.threads[e.tid] = Thread(t.pid)

    def exit_record(self, e: Sample, t: Thread) -> None:
        m = BORN.match(e.rest)
        if m and self.events.get("sched:sched_process_exit", 0) <= 0:
            e.tid = int(m[2])
            self.end_thread(e, self.threads.get(e.tid, t))
        if m:
            self.threads.pop(int(m[2]), None)

    def executed(self, e: Sample, t: Thread) -> None:
        m = EXECUTED.match(e.rest)
        self.programs.pop(e.tid, None)
        t.loading = False
        self.put(e.tid, t, s.EXEC, Open(e.time, e.cpu, {"name": m[1] if m else None}), None)

    def comm(self, e: Sample, t: Thread) -> None:
        """PERF_RECORD_COMM; with exec: execve has begun to map the new program."""
        if not e.rest.startswith(" exec:"):
            return
        t.loading = True
        if self.events["sched:sched_process_exec"] < 2:
            name = e.rest[6:].rpartition(":")[0].strip()
            self.programs[e.tid] = (e.tid, t, Open(e.time, e.cpu, {"name": name}))

    def mapped(self, e: Sample, t: Thread) -> None:
        """PERF_RECORD_MMAP2: inside of a call it tells the file; outside, execve mapped something."""
        m = MAPPED.match(e.rest)
        if not m or int(m[1]) < 0:
            return
        if t.call is not None and m[7] != "//anon":
            t.call.values["file"] = m[7]
        if not t.loading:
            return
        values = {
            "address": int(m[3], 16),
            "length": int(m[4], 16),
            "a2": sum(bit for c, bit in PROT.items() if c in m[6]),
            "a3": 1 if m[6][3] == "s" else 2,
            "a5": int(m[5], 0),
            "file": None if m[7] == "//anon" else m[7],
        }
        self.put(int(m[2]), t, s.AREA, Open(e.time, e.cpu, values), None)

    def switched(self, e: Sample, t: Thread) -> None:
        if "OUT" in e.rest:
            t.off = Open(e.time, e.cpu, {"flags": s.PREEMPTED if "preempt" in e.rest else 0})
        elif t.off is not None:
            self.put(e.tid, t, s.OFF, t.off, e.time)
            t.off = None

    def lost(self, e: Sample, t: Thread) -> None:
        m = LOST.search(e.rest)
        self.meta.lost += int(m[1]) if m else 1

    def close_all(self) -> None:
        """What is open has no duration, but for times off the CPU, which had one so far."""
        for tid, t in self.threads.items():
            self.close_fault(tid, t)
            if t.call is not None:
                self.put(tid, t, s.CALL, t.call, None)
            if t.wait is not None:
                self.put(tid, t, s.LOCK_WAIT, t.wait, None)
            if t.off is not None:
                self.put(tid, t, s.OFF, t.off, self.latest, flags=t.off.values["flags"] | s.CONTINUED)
            for o in t.holds.values():
                self.put(tid, t, s.LOCK_HOLD, o, None)
            t.call = t.wait = t.off = None
            t.holds.clear()

    def finish(self) -> None:
        """The recording is over."""
        self.close_all()
        self.put_records()
        self.threads.clear()
        for name, n in self.events.items():
            if n < 0 and name != "PERF_RECORD":
                self.source.skipped[f"event {name}"] += -n


def signed(n: int) -> int:
    return n - (1 << 64) if n >> 63 else n


def call_values(name: str, args: list[int]) -> dict[str, Any]:
    """The columns of a call's arguments."""
    out: dict[str, Any] = {"name": name}
    if name == "process_madvise":  # pidfd, vec, vlen, advice, flags: the ranges are in the other process
        args = [0, 0, *args[3:4]]
    if name == "brk":
        args = args[:1]
    if args:
        out["address"] = args[0] % (1 << 64)
    if len(args) > 1 and name in ADDRESSED:
        out["length"] = args[1] % (1 << 64)
    for column, value in zip(("a2", "a3", "a4", "a5"), args[2:], strict=False):
        # perf prints an int as 32 bits: -1 as 0xffffffff
        out[column] = -1 if name == "mmap" and column == "a4" and value == 0xFFFFFFFF else signed(value)
    return out


def where(e: Sample) -> tuple[int | None, str | None]:
    """Address and place of a software event: ``: [ADDRESS] IP SYMBOL (OBJECT)``; with a call chain, its first line."""
    words = e.rest.lstrip(":").split(None, 2)
    numbers: list[str] = []
    while words and len(numbers) < 2 and HEX.match(words[0]) and (len(words[0]) > 4 or not numbers):
        numbers.append(words.pop(0))
    if e.stack:
        return (int(numbers[0], 16) if numbers else None), e.stack[0]
    if len(numbers) == 2:
        return int(numbers[0], 16), " ".join(words) or None
    return None, " ".join(words) or None


def caller(e: Sample) -> str | None:
    """The innermost frame in user space behind those of the C library, if there is one."""
    frames = [f for f in e.stack if "([k" not in f and not f.endswith(".ko)")]
    own = (f for f in frames if not f.startswith("[unknown]") and not any(lib in f for lib in WRAPPERS))
    return next(own, frames[0] if frames else None)
