"""What `record` costs the program that it records, measured here: loops that do nothing else, with and without it.

A recording has a program's pauses and what the recorder took in each of them; its faults and calls are longer by what
the recorder does inside.  `gap_fault`, `gap_call`: the pause that a recording shows between two faults, or two calls,
with nothing in between.  `traced_fault`, `traced_call`: what it adds to each, all in all; `traced_lock`: each of the
three events of mmap_lock.  ns.

Of what it adds to a fault, its end is inside of handle_mm_fault (`traced_account`), while the VMA, or mmap_lock, is
held for reading.  Without stacks the two events of a fault are taken to cost the same.
"""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqfault.trace import schema
from seqfault.trace.capture import capture
from seqfault.trace.store import Trace, TraceError, open_trace

TRACED = ("traced_fault", "traced_account", "traced_call", "traced_lock")
PAGES, ROUNDS = 256, 40
CALLS = 4000
MAPPED = 3 * 4096  # bytes that the loop of mappings maps
CODE = "from seqfault.price.recorder import run; run()"


def area(pages: int = PAGES) -> tuple[mmap.mmap, int]:
    """Anonymous memory of small pages that the host has backed: it was touched."""
    a = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        a.madvise(mmap.MADV_NOHUGEPAGE)
    at = np.frombuffer(a, np.int8)
    at[::4096] = 1
    return a, at.ctypes.data


def run() -> None:
    """What is recorded."""
    from seqfault.price.loops import Loops

    loops = Loops()
    a, at = area()
    for _ in range(ROUNDS):
        a.madvise(mmap.MADV_DONTNEED)
        loops.touch(at, PAGES)
    loops.map(0, CALLS)
    loops.advise(0, CALLS)


def typical(values: list[int]) -> float:
    return statistics.median(values) if len(values) > 100 else float("nan")


def read(trace: Trace, untraced: Mapping[str, float]) -> dict[str, float]:
    """The constants, from a recording of `run` and what its loops take unrecorded: `fault`, `map` (the mean of mmap and
    munmap), `advise`; ns.  Raises `TraceError` if the recording does not have the loops."""
    gaps: dict[str, list[int]] = {"fault": [], "map": [], "advise": []}
    times: dict[str, list[int]] = {"fault": [], "map": [], "advise": []}
    before: dict[int, tuple[str, int, int]] = {}
    columns = ["time_ns", "duration_ns", "tid", "kind", "name", "address", "length", "result"]
    for batch in trace.batches(columns, kinds=[schema.FAULT, schema.CALL]):
        for e in batch.to_pylist():
            if e["duration_ns"] is None:
                continue
            what, page = "", (e["address"] or 0) // 4096
            if e["kind"] == schema.FAULT:
                what = "fault"
            elif e["name"] == "madvise" and e["length"] == 0:
                what = "advise"
            elif e["name"] in ("mmap", "munmap") and e["length"] == MAPPED:
                what = "map"
            had = before.get(e["tid"])
            if had is not None and had[0] == what and what and (what != "fault" or page == had[2] + 1):
                gaps[what].append(e["time_ns"] - had[1])
                times[what].append(e["time_ns"] + e["duration_ns"] - had[1])
            before[e["tid"]] = what, e["time_ns"] + e["duration_ns"], page
    took = {k: typical(v) for k, v in times.items()}
    if any(np.isnan(v) for v in took.values()):
        raise TraceError("the recorder's own cost could not be measured: the loops are not in what it recorded")
    call = took["advise"] - untraced["advise"]
    got = {
        "gap_fault": typical(gaps["fault"]),
        "gap_call": typical(gaps["advise"]),
        "traced_fault": took["fault"] - untraced["fault"],
        "traced_call": call,
        "traced_lock": (took["map"] - untraced["map"] - call) / 3,
    }
    return {k: max(v, 0.0) for k, v in got.items()}


def measure(
    untraced: Mapping[str, float], say: Callable[[str], None] = lambda what: None
) -> dict[str, dict[str, float]]:
    """The constants of recordings without stacks ("") and with ("stacks"); {} where perf may not trace."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("", "stacks"):
            say("what a recorder costs" + (", with stacks" if name else ""))
            path = Path(folder) / "t.parquet"
            try:
                done = capture(path, [sys.executable, "-c", CODE], None, "perf", stacks=bool(name))
                if not done.meta.has(schema.LOCK_WAIT) or done.interrupted:
                    return {}
                with open_trace(path) as t:
                    out[name] = read(t, untraced)
            except TraceError:
                return {}
    return out


def of(recorder: Mapping[str, Mapping[str, float]], where: str, meta: Any) -> Mapping[str, float]:
    """The constants that are in a recording; {} for one of another machine or kernel, or by another recorder."""
    if where != f"{meta.host} {meta.kernel}" or not meta.has(schema.LOCK_WAIT):
        return {}
    got = recorder.get("stacks" if meta.settings.get("stacks") == "yes" else "", {})
    account = accounting(recorder)
    if account is None or not got:
        return got
    account = min(account, got.get("traced_fault", 0.0))
    return {**got, "traced_fault": got.get("traced_fault", 0.0) - account, "traced_account": account}


def accounting(recorder: Mapping[str, Mapping[str, float]]) -> float | None:
    """What the event at a fault's end costs; None where that is not known."""
    both = recorder.get("", {}).get("traced_fault")
    return None if both is None else both / 2


def here() -> str:
    about = os.uname()
    return f"{about.nodename} {about.release}"
