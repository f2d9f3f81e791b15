"""A trace of `seqfault record` as a recording that `retrace` replays: its calls, faults, lives of tasks and layouts."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from seqfault.trace import schema as s
from seqfault.trace.assemble import ADDRESSED
from seqfault.trace.calls import CLONE, MAP, PROT
from seqfault.trace.files import READ, WRITE
from seqfault.trace.layout import layouts_of
from seqfault.trace.store import Trace
from seqfault.trace.strace import Call, Ended, Strace
from seqfault.trace.timeline import Events, Fault, Recording, RecordingError, order

COLUMNS = (
    *("time_ns", "duration_ns", "pid", "tid", "kind", "name", "address", "length", "a2", "a3", "a4", "a5"),
    *("result", "flags", "file"),
)
KINDS = (s.CALL, s.FAULT, s.FORK, s.EXEC, s.EXIT, s.LOCK_HOLD)
ARGUMENTS = {
    **{"mmap": 6, "munmap": 2, "mprotect": 3, "pkey_mprotect": 4, "mremap": 5, "madvise": 3, "brk": 1},
    **{"mlock": 2, "mlock2": 3, "munlock": 2, "mlockall": 1, "munlockall": 0, "mseal": 3},
    **{"msync": 3, "remap_file_pages": 5},
}
FROM_ITS_START = "seqfault record -o t.parquet -- PROGRAM, as root with perf"
BEFORE = (
    "of what was there before the recording a layout does not show which VMAs share an anon_vma, or have one and no "
    "pages, nor the offsets of memory that was moved"
)
UNSEEN = "a trace has no shmat, io_setup, setrlimit: of a program that calls them maps differ"


def from_trace(trace: Trace) -> Recording:
    """The recording in a trace.  Raises `RecordingError` for what it lacks, with what to do."""
    meta = trace.meta
    if not meta.layouts:
        raise RecordingError(f"{trace.name}: {why_no_layouts(trace)}; {FROM_ITS_START}, keeps them")
    for kind, what in ((s.CALL, "calls"), (s.FAULT, "faults"), (s.LOCK_HOLD, "times at which mmap_lock was had")):
        if not meta.has(kind):
            raise RecordingError(f"{trace.name}: it has no {what}; {FROM_ITS_START}")
    layouts = layouts_of(trace.name, (line for text in meta.layouts for line in text.splitlines()))
    layouts.machine = {**meta.settings, "kernel": meta.kernel.partition("-")[0]}
    out = Recording(trace.name, Strace(trace.name), layouts, Events(trace.name, lost=meta.lost))
    events = out.events
    assert events is not None
    out.modes = modes(trace)
    begin, end = -(1 << 63), 1 << 63
    attached = bool(layouts.layouts) and "attached" in layouts.layouts[0].about
    if attached:
        begin, end = attach(out, trace)
    for line, e in enumerate(rows(trace), 1):
        if not begin <= e["time_ns"] < end:
            continue
        kind, tid, time = e["kind"], e["tid"], e["time_ns"]
        if kind == s.FAULT:
            if e["address"] is not None:
                kernel = e["name"] == "kernel"
                events.faults.append(Fault(line, tid, time, access(e["flags"] or 0), e["address"], kernel))
        elif kind == s.LOCK_HOLD:
            if e["flags"]:
                events.locks[tid].append(time)
        elif kind == s.EXIT:
            out.strace.ended.append(Ended(line, tid, time, "exited"))
        else:
            out.strace.calls.append(call_of(line, e))
    for times in events.locks.values():
        times.sort()
    out.strace.calls.sort(key=lambda c: (c.end, c.line))
    if meta.truncated:
        out.gaps.append("the recording was cut off")
    out.unseen = f"{UNSEEN}; {BEFORE}" if attached else UNSEEN
    order(out)
    return out


def attach(out: Recording, trace: Trace) -> tuple[int, int]:
    """Of a process that ran before: its threads, and its break.  From when until when its calls and faults count: the
    layouts were read while it was stopped."""
    first, last = out.layouts.layouts[0], out.layouts.layouts[-1]
    heap = [a.end for a in first.areas if a.path == "[heap]"]
    brk = max(heap, default=0)
    out.threads[first.pid] = first.pid
    born: set[int] = set()
    asked = False
    for e in rows(trace):
        if e["kind"] == s.FORK:
            born.add(e["result"])
        elif e["pid"] == first.pid and e["tid"] not in born:
            out.threads[e["tid"]] = first.pid
        if e["name"] == "brk" and e["pid"] == first.pid and e["time_ns"] >= first.end and e["result"] and not asked:
            asked = True  # to the byte, where the first call does not move it
            brk = e["result"] if e["address"] != e["result"] else brk
    first.about["brk"] = str(brk)
    if last.when != "end":
        out.gaps.append("it ended before the recording did: no layout of its end")
    return first.end, last.start if last.when == "end" else 1 << 63


def why_no_layouts(trace: Trace) -> str:
    meta = trace.meta
    for m in meta.missing:
        if m.what.startswith("layout"):
            return m.why
    if meta.windows:
        return "it is of --sample, which does not see every call, and has no layouts"
    if meta.source.startswith("import"):
        return "an import has no layouts (a text of strace: retrace FILE --maps FILE)"
    if "strace" in meta.source:
        return "strace's calls come without layouts (python -m seqfault.trace.record makes them)"
    return "it has no layouts of the program's start and end (an earlier seqfault)"


def rows(trace: Trace) -> Iterator[dict[str, Any]]:
    for batch in trace.batches(COLUMNS, KINDS):
        yield from batch.to_pylist()


def modes(trace: Trace) -> dict[str, int]:
    """How files are open: to be written where a shared mapping of them is, else to be read."""
    out: dict[str, int] = {}
    for e in rows(trace):
        if e["kind"] == s.CALL and e["name"] == "mmap" and e["file"] is not None:
            writes = (e["a3"] or 0) & MAP["MAP_SHARED"] and (e["a2"] or 0) & PROT["PROT_WRITE"]
            out[e["file"]] = out.get(e["file"], READ) | (WRITE if writes else 0)
    return out


def access(code: int) -> str:
    return "x" if code & s.FETCH else "w" if code & s.WRITING else "r"


def call_of(line: int, e: dict[str, Any]) -> Call:
    """A row as a call with its arguments as text, which is what strace gives."""
    start, end = e["time_ns"], e["time_ns"] + (e["duration_ns"] or 0)
    if e["kind"] == s.FORK:
        flags = "|".join(n for n, bit in CLONE.items() if (e["a2"] or 0) & bit)
        return Call(line, e["tid"], start, end, "clone", (f"flags={flags}",), e["result"])
    if e["kind"] == s.EXEC:
        return Call(line, e["tid"], start, end, "execve", (str(e["name"]),), 0)
    name, result = str(e["name"]), e["result"]
    values = [e["address"], e["length"] if name in ADDRESSED else None, e["a2"], e["a3"], e["a4"], e["a5"]]
    args = [hex(v or 0) if i < 2 else str(v or 0) for i, v in enumerate(values[: ARGUMENTS.get(name, 0)])]
    if name == "mmap" and not (e["a3"] or 0) & MAP["MAP_ANONYMOUS"]:
        # an error says that it is not open; where the file is not known it is one of its own
        path = e["file"] or ("" if result == -errno.EBADF else f"fd:{e['a4']}")
        args[4] = f"{e['a4']}<{path}>" if path else str(e["a4"])
    elif name == "mmap":
        args[4] = "-1"
    elif name == "pkey_mprotect" and e["a3"] == 0xFFFFFFFF:
        args[3] = "-1"
    if result is None:
        return Call(line, e["tid"], start, end, name, tuple(args))
    if -4096 < result < 0:
        return Call(line, e["tid"], start, end, name, tuple(args), -1, errno.errorcode.get(-result, str(result)))
    return Call(line, e["tid"], start, end, name, tuple(args), result)
