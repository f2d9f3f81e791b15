"""`seqfault export perfetto`: a counterexample as Chrome JSON trace events, for ui.perfetto.dev (docs/export.md).

A track for each process, a slice for each function from where it is entered to where it is left, an instant for each
access, and an arrow from a store to the load of another track that read it.  A step lasts STEP microseconds: the order
is the execution's, the durations mean nothing.

The format: "Trace Event Format", Google, 2016; its events M, X, i, s, t, f.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import seqfault
from seqfault.cli import dump, write
from seqfault.report.columns import phrase, title
from seqfault.report.counterexample import Counterexample, Event, from_schedule
from seqfault.report.stacks import Frame, event_frames

STEP = 1000  # microseconds
PID = 1


@dataclass
class Track:
    """The slices of a process that are open, each with where it began: (function, caller's line), start, arguments."""

    tid: int
    open: list[tuple[tuple[str, int], int, dict[str, Any]]] = field(default_factory=list)
    end: int = 0


def trace_events(cx: Counterexample) -> dict[str, Any]:
    """The trace of a counterexample."""
    names = list(dict.fromkeys(track_of(e) for e in cx.events))
    names.sort(key=lambda n: (not n.startswith("cpu"), n))
    tracks = {n: Track(i + 1) for i, n in enumerate(names)}
    s = cx.scenario
    out: list[dict[str, Any]] = [meta("process_name", 0, name=f"{cx.protocol.name}, {s.name}, {cx.memory}")]
    for name, t in tracks.items():
        ops = s.cpus[int(name[3:])] if name.startswith("cpu") and int(name[3:]) < len(s.cpus) else ()
        words = title(name) + (": " + "; ".join(o.text() for o in ops) if ops else "")
        out += [meta("thread_name", t.tid, name=words), meta("thread_sort_index", t.tid, sort_index=t.tid)]
    times = moments(cx.events)
    for e, frames, at in zip(cx.events, event_frames(cx), times, strict=True):
        t = tracks[track_of(e)]
        slices(out, t, frames, at)
        out.append(instant(e, t.tid, at))
        t.end = at
    for t in tracks.values():
        close(out, t, 0, t.end + STEP // 4)
    out += flows(cx.events, times, tracks)
    return {
        "traceEvents": out,
        "displayTimeUnit": "ns",
        "otherData": {
            "seqfault": seqfault.__version__,
            "protocol": cx.protocol.name,
            "scenario": s.name,
            "memory": cx.memory,
            "schedule": cx.schedule_string,
            "time": f"{STEP} us a step; durations mean nothing",
        },
    }


def track_of(e: Event) -> str:
    """A store that reaches memory stands on a track of its own: its CPU has gone on."""
    return f"buffer of {e.process}" if e.kind == "flush" else e.process


def meta(what: str, tid: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "pid": PID, "tid": tid, "name": what, "args": args}


def moments(events: list[Event]) -> list[int]:
    """When each event is: those of a step one after the other."""
    of_step: dict[int, int] = {}
    for e in events:
        of_step[e.step] = of_step.get(e.step, 0) + 1
    seen: dict[int, int] = {}
    out = []
    for e in events:
        k = seen[e.step] = seen.get(e.step, 0) + 1
        out.append(e.step * STEP + STEP * k // (of_step[e.step] + 1))
    return out


def slices(out: list[dict[str, Any]], t: Track, frames: list[Frame], at: int) -> None:
    """Leave the functions that are not around an event, and enter those that are not open yet."""
    if not frames:
        return
    want = [((fn, frames[i - 1][2] if i else 0), file, line) for i, (fn, file, line) in enumerate(frames)]
    same = 0
    while same < min(len(want), len(t.open)) and want[same][0] == t.open[same][0]:
        same += 1
    close(out, t, same, at)
    for key, file, line in want[same:]:
        t.open.append((key, at, {"file": file, "line": line}))


def close(out: list[dict[str, Any]], t: Track, keep: int, at: int) -> None:
    """End the slices behind the first `keep`, a little before `at`, so that the next begins after them."""
    while len(t.open) > keep:
        (fn, _), start, args = t.open.pop()
        lasts = max(1, at - 1 - start)
        one = {"ph": "X", "pid": PID, "tid": t.tid, "ts": start, "dur": lasts, "name": fn}
        out.append({**one, "cat": "function", "args": args})


def instant(e: Event, tid: int, at: int) -> dict[str, Any]:
    args = {"where": f"{e.function} ({e.file}:{e.line})" if e.file else e.function, "source": e.source, "site": e.site}
    out = {
        "ph": "i", "pid": PID, "tid": tid, "ts": at, "s": "p" if e.kind == "violation" else "t", "name": phrase(e),
        "cat": e.kind, "args": {"step": e.step, **{k: v for k, v in args.items() if v}},
    }  # fmt: skip
    if e.kind == "violation":
        out["cname"] = "terrible"
    return out


def flows(events: list[Event], times: list[int], tracks: dict[str, Track]) -> list[dict[str, Any]]:
    """An arrow from each store to the loads of other tracks that read it, through the buffer that it was in, if any."""
    out: list[dict[str, Any]] = []
    left = flushed(events)
    pending: dict[tuple[str, str], list[int]] = {}  # buffer, cell -> stores that others do not see yet
    memory: dict[str, tuple[int, int]] = {}  # cell -> the store that memory holds, and its flush (-1: none)
    n = 0
    for i, e in enumerate(events):
        if e.kind == "store":
            if i in left:
                pending.setdefault((buffer(e.process), e.cell), []).append(i)
            else:
                memory[e.cell] = i, -1
        elif e.kind == "flush":
            waiting = pending.get((buffer(e.process), e.cell), [])
            if waiting:
                memory[e.cell] = waiting.pop(0), i
        elif e.kind == "load":
            if pending.get((buffer(e.process), e.cell)):
                continue  # its own
            store, through = memory.get(e.cell, (-1, -1))
            if store < 0 or events[store].process == e.process or events[store].value != e.value:
                continue
            n += 1
            for ph, k in (("s", store), ("t", through), ("f", i)):
                if k >= 0:
                    tid = tracks[track_of(events[k])].tid
                    one = {"ph": ph, "pid": PID, "tid": tid, "ts": times[k], "id": n, "name": e.cell}
                    out.append({**one, "cat": "reads-from", **({"bp": "e"} if ph != "s" else {})})
    return out


def buffer(process: str) -> str:
    """A CPU's interrupt handler and its walker share its buffer."""
    for prefix in ("ipi", "walker"):
        if process.startswith(prefix):
            return "cpu" + process[len(prefix) :]
    return process


def flushed(events: list[Event]) -> set[int]:
    """The stores that go through a buffer: those that a later flush is of."""
    out: set[int] = set()
    waiting: dict[tuple[str, str], list[int]] = {}
    for i, e in enumerate(events):
        key = buffer(e.process), e.cell
        if e.kind == "store":
            waiting.setdefault(key, []).append(i)
        elif e.kind == "flush":
            hit = next((k for k in waiting.get(key, []) if events[k].value == e.value), None)
            if hit is not None:
                waiting[key].remove(hit)
                out.add(hit)
    return out


def run_perfetto(schedule: str, out: Path | None, json_: bool) -> None:
    """`seqfault export perfetto`."""
    cx = from_schedule(schedule)
    trace = trace_events(cx)
    text = json.dumps(trace, separators=(",", ":"))
    if out is not None:
        write(text, out)
    count = {k: sum(x["ph"] == k for x in trace["traceEvents"]) for k in ("X", "i", "s")}
    if json_:
        said = {
            "format": "perfetto", "protocol": cx.protocol.name, "scenario": cx.scenario.name, "memory": cx.memory,
            "file": str(out) if out is not None else "", "slices": count["X"], "instants": count["i"],
            "flows": count["s"],
        }  # fmt: skip
        dump(said if out is not None else {**said, "trace": trace})
    elif out is None:
        sys.stdout.write(text + "\n")
    else:
        print(
            f"{out}: {count['X']} slices, {count['i']} accesses, {count['s']} arrows; open it in https://ui.perfetto.dev"
        )
