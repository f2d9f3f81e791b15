"""What a trace says, in one pass over its batches: counts, rates, durations, overlap, call sites."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from seqfault.trace import schema as s
from seqfault.trace.assemble import CALLS
from seqfault.trace.histogram import Histogram
from seqfault.trace.overlap import Overlap
from seqfault.trace.store import Trace

Ints = NDArray[np.int64]
# a call that changes mappings, as far as its name tells; brk without an effect is rare
NUMBERS = {name: i for i, name in enumerate(CALLS)}
COLUMNS = (
    *("time_ns", "duration_ns", "pid", "tid", "kind", "name", "a2", "result", "flags", "stack", "site"),
    *("address", "length"),
)
SITES = 1 << 16  # different ones that are counted


@dataclass
class Summary:
    """Histograms have nanoseconds.  `faults` are by who took them; `accesses` by what they wanted."""

    faults: int = 0
    faults_by: Counter[str] = field(default_factory=Counter)
    accesses: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0  # faults that were never accounted
    locked: Counter[str] = field(default_factory=Counter)  # fallback, anon_vma, other; only where that is known
    locked_known: int = 0
    fault_ns: dict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    call_ns: dict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    calls: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    wait_ns: dict[tuple[str, str], Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    hold_ns: dict[tuple[str, str], Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    off_ns: int = 0
    preempted: int = 0
    pids: set[int] = field(default_factory=set)
    tids: set[int] = field(default_factory=set)
    busy: Counter[int] = field(default_factory=Counter)  # events of a thread
    overlap: Overlap = field(default_factory=Overlap)
    fault_sites: Counter[str] = field(default_factory=Counter)
    call_sites: Counter[tuple[str, str]] = field(default_factory=Counter)
    fallback_stacks: Counter[int] = field(default_factory=Counter)
    call_stacks: Counter[int] = field(default_factory=Counter)
    sites_full: bool = False

    @property
    def overlap_share(self) -> float:
        return self.overlap.overlapped / self.overlap.faults if self.overlap.faults else 0.0


def summarise(trace: Trace, tell: Callable[[int], None] | None = None) -> Summary:
    """Read a trace once.  `tell`: told how many events have been read."""
    out = Summary()
    n = 0
    for batch in trace.batches(COLUMNS):
        take(out, batch)
        n += batch.num_rows
        if tell is not None:
            tell(n)
    out.overlap.finish()
    return out


def take(out: Summary, batch: pa.RecordBatch) -> None:
    df = pl.from_arrow(batch)
    assert isinstance(df, pl.DataFrame)
    df = df.with_columns(pl.col("kind", "name", "site").cast(pl.String))
    for pid, tid, count in df.group_by("pid", "tid").len().iter_rows():
        out.pids.add(pid)
        out.tids.add(tid)
        out.busy[tid] += count
    parts = {str(k[0]): v for k, v in df.partition_by("kind", as_dict=True).items()}
    empty = df.clear()
    faults, calls = parts.get(s.FAULT, empty), parts.get(s.CALL, empty)
    take_faults(out, faults)
    take_calls(out, calls)
    for kind, into in ((s.LOCK_WAIT, out.wait_ns), (s.LOCK_HOLD, out.hold_ns)):
        take_locks(parts.get(kind, empty), into)
    off = parts.get(s.OFF, empty)
    out.off_ns += int(off["duration_ns"].sum() or 0)
    out.preempted += int(((off["flags"] & s.PREEMPTED) > 0).sum())
    out.overlap.feed(intervals(faults), intervals(calls.filter(pl.col("duration_ns").is_not_null())), df["time_ns"][-1])


def intervals(df: pl.DataFrame) -> Ints:
    start = df["time_ns"]
    end = start + df["duration_ns"].fill_null(0)
    name = df["name"].replace_strict(NUMBERS, default=-1, return_dtype=pl.Int64) if len(df) else start
    return np.stack([c.cast(pl.Int64).to_numpy() for c in (start, end, df["pid"], df["tid"], name)], axis=1)


def durations(df: pl.DataFrame) -> Ints:
    return np.asarray(df["duration_ns"].drop_nulls().to_numpy(), np.int64)


def take_faults(out: Summary, df: pl.DataFrame) -> None:
    if not len(df):
        return
    out.faults += len(df)
    result = df["result"]
    out.unfinished += int(result.is_null().sum())
    for name, count in df.group_by("name").len().iter_rows():
        out.faults_by[name or "user"] += count
    out.faults_by["major"] += int((result == s.MAJOR).sum())
    code = df["flags"].drop_nulls()
    fetch, write = (code & s.FETCH) > 0, (code & s.WRITING) > 0
    out.accesses["instruction"] += int(fetch.sum())
    out.accesses["write"] += int((write & ~fetch).sum())
    out.accesses["read"] += len(code) - int((fetch | write).sum())
    out.fault_ns["all"].add(durations(df))
    out.fault_ns["major"].add(durations(df.filter(pl.col("result") == s.MAJOR)))
    known = df.filter(pl.col("a2").is_not_null())
    out.locked_known += len(known)
    if len(known):
        bits = known["a2"]
        for name, bit in (("fallback", s.LOCKED_FALLBACK), ("anon_vma", s.LOCKED_ANON_VMA), ("other", s.LOCKED_OTHER)):
            these = known.filter((bits & bit) > 0)
            out.locked[name] += len(these)
            out.fault_ns[name].add(durations(these))
        out.fault_ns["per_vma"].add(durations(known.filter((bits & (s.LOCKED_FALLBACK | s.LOCKED_OTHER)) == 0)))
    count_sites(out, out.fault_sites, df.filter(pl.col("site").is_not_null()).group_by("site").len())


def count_sites(out: Summary, into: Counter[str], counted: pl.DataFrame) -> None:
    for site, count in counted.iter_rows():
        if site in into or len(into) < SITES:
            into[site] += count
        else:
            out.sites_full = True


def take_calls(out: Summary, df: pl.DataFrame) -> None:
    for (name,), part in df.partition_by("name", as_dict=True).items():
        label = str(name)
        out.calls[label] += len(part)
        out.failed[label] += int(((part["result"] < 0) & (part["result"] > -4096)).sum())
        out.bytes[label] += int(part["length"].sum() or 0)
        out.call_ns[label].add(durations(part))
        for site, count in part.filter(pl.col("site").is_not_null()).group_by("site").len().iter_rows():
            if (label, site) in out.call_sites or len(out.call_sites) < SITES:
                out.call_sites[label, site] += count
    for stack, count in df.filter(pl.col("stack").is_not_null()).group_by("stack").len().iter_rows():
        out.call_stacks[stack] += count


def take_locks(df: pl.DataFrame, into: dict[tuple[str, str], Histogram]) -> None:
    df = df.filter(pl.col("result").is_null() | (pl.col("result") != 0))  # a try that failed waits for nothing
    groups = df.with_columns(
        pl.when((pl.col("flags") & s.WRITE) > 0).then(pl.lit("write")).otherwise(pl.lit("read")).alias("mode"),
        pl.col("name").fill_null("elsewhere"),
    )
    for (mode, name), part in groups.partition_by("mode", "name", as_dict=True).items():
        into[str(mode), str(name)].add(durations(part))


def fallback_stacks(trace: Trace) -> Counter[int]:
    """Stacks of the waits for mmap_lock in faults that fell back, by their index."""
    out: Counter[int] = Counter()
    for batch in trace.batches(["a2", "stack", "result"], [s.LOCK_WAIT]):
        df = pl.from_arrow(batch)
        assert isinstance(df, pl.DataFrame)
        # one that tries first and then waits asks twice
        got = (pl.col("a2") == s.LOCKED_FALLBACK) & (pl.col("result") == 1)
        chosen = df.filter(got & pl.col("stack").is_not_null())
        out.update(dict(chosen.group_by("stack").len().iter_rows()))
    return out
