"""`seqfault summary`: a trace on 80 columns, or as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from seqfault.cli import BadInput, dump
from seqfault.trace.assemble import CALLS
from seqfault.trace.histogram import Histogram
from seqfault.trace.schema import Meta
from seqfault.trace.store import Trace, TraceError, open_trace
from seqfault.trace.summary import Summary, fallback_stacks, summarise

WIDTH = 80
TOP = 6
EXIT_INCOMPLETE = 3


def run_summary(name: str, json: bool, top: int = TOP, verbose: bool = False) -> None:
    """Read, print.  Exit code 0; 3 where the recording is not whole."""
    try:
        with open_trace(name) as trace:
            summary = read(trace, quiet=json)
            if json:
                dump(as_json(trace, summary, top))
            else:
                show(trace, summary, top, verbose)
            raise typer.Exit(EXIT_INCOMPLETE if gaps(trace.meta) else 0)
    except TraceError as e:
        raise BadInput(str(e)) from None


def read(trace: Trace, quiet: bool) -> Summary:
    err = Console(stderr=True, highlight=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("reading", total=trace.rows)
        return summarise(trace, lambda n: progress.update(task, completed=n))


def gaps(meta: Meta) -> list[str]:
    """Why the trace is not whole."""
    out = []
    if meta.lost:
        out.append(f"perf lost {meta.lost:,} records: counts are too low, some durations are missing")
    if meta.truncated:
        out.append("the recording was cut off")
    if meta.unordered:
        out.append(f"{meta.unordered:,} events stand behind a later one: overlap may be understated")
    for why, n in sorted(meta.skipped.items(), key=lambda kv: -kv[1]):
        if not harmless(why):
            out.append(f"skipped: {n:,} {why}")
    return out


def harmless(why: str) -> bool:
    """Events that a trace has no use for; what was under way when the recording began."""
    return why.startswith(("event ", "returns without", "releases of mmap_lock"))


# -- words
def ns(value: float) -> str:
    """``2.61 us``, ``1.20 ms``: three digits."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= size:
            return f"{three(value / size)} {unit}"
    return f"{value:.0f} ns"


def three(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:,.0f}"


def rate(n: float, seconds: float) -> str:
    if seconds <= 0:
        return "-"
    x = n / seconds
    return f"{three(x / 1e6)} M/s" if x >= 1e6 else f"{three(x / 1e3)} k/s" if x >= 1e3 else f"{three(x)} /s"


def percent(n: float, of: float) -> str:
    if not of:
        return "-"
    x = 100 * n / of
    return f"{x:.0f}%" if x >= 99.95 else f"{x:.1f}%" if x >= 1 else f"{x:.3f}%" if x else "0%"


def size(n: float) -> str:
    for unit, k in (("T", 40), ("G", 30), ("M", 20), ("k", 10)):
        if n >= 1 << k:
            return f"{three(n / (1 << k))} {unit}B"
    return f"{n:.0f} B"


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


class Page:
    """Lines of at most 80 columns."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True, emoji=False)

    def say(self, text: str = "") -> None:
        self.console.print(text, markup=False)

    def wrapped(self, head: str, text: str, indent: int = 11) -> None:
        """`text` in words behind `head`, with the following lines indented."""
        line = head.ljust(indent)
        for word in text.split():
            if len(line) + len(word) + 1 > WIDTH and line.strip():
                self.say(line.rstrip())
                line = " " * indent
            line += word + " "
        self.say(line.rstrip())

    def row(self, label: str, n: int, seconds: float, h: Histogram | None, extra: str = "") -> None:
        head = f"  {label:20.20}{n:>12,}{rate(n, seconds):>11}"
        if h is not None and h.count:
            head += f"{ns(h.mean):>9}{ns(h.quantile(0.5)):>9}{ns(h.quantile(0.99)):>9}"
        self.say((head + extra).rstrip())


HEAD = f"  {'':20}{'count':>12}{'rate':>11}{'mean':>9}{'p50':>9}{'p99':>9}"


def show(trace: Trace, summary: Summary, top: int, verbose: bool) -> None:
    p, m, sec = Page(), trace.meta, trace.meta.seconds
    show_head(p, trace, summary)
    if summary.faults or m.has("fault"):
        p.say()
        p.say(f"faults{HEAD[6:]}")
        show_faults(p, summary, sec)
    if summary.calls or m.has("call"):
        p.say()
        p.say(f"calls{HEAD[5:]}")
        for name in sorted(summary.calls, key=lambda c: -summary.calls[c]):
            p.row(name, summary.calls[name], sec, summary.call_ns[name])
        failed = {k: v for k, v in summary.failed.items() if v}
        if failed:
            p.wrapped("  failed", ", ".join(f"{k} {v:,}" for k, v in failed.items()), 11)
    for title, what in (("waits for mmap_lock", summary.wait_ns), ("mmap_lock held", summary.hold_ns)):
        if what:
            p.say()
            p.say(title + HEAD[len(title) :])
            for (mode, name), h in sorted(what.items(), key=lambda kv: -kv[1].total):
                p.row(f"{mode}, {name}", h.count, sec, h)
    show_overlap(p, m, summary)
    show_sites(p, trace, summary, top)
    for gap in gaps(m):
        p.wrapped("gap", gap)
    for x in m.missing:
        p.wrapped("missing", f"{x.what} ({x.why}): {x.costs}" + (f"; to have it: {x.remedy}" if x.remedy else ""))
    if verbose:
        for why, n in m.skipped.items():
            if harmless(why):
                p.wrapped("not used", f"{n:,} {why}")


def show_head(p: Page, trace: Trace, summary: Summary) -> None:
    m = trace.meta
    p.say(cut(f"{trace.name}: {' '.join(m.command) or m.source}", WIDTH))
    where = f"Linux {m.kernel}, {m.cpus} CPUs; " if m.kernel else ""
    n, k = len(summary.tids), len(summary.pids)
    time = f"{ns(max(0, m.end_ns - m.start_ns))}"
    if m.windows:
        time += f", of it {ns(m.seconds * 1e9)} recorded in {len(m.windows)} bursts (--sample)"
    tasks = f"{n} thread{'s' * (n != 1)} in {k} process{'es' * (k != 1)}"
    p.wrapped("", f"{where}{m.source}; {time}; {tasks}; {trace.rows:,} events", 2)


def show_faults(p: Page, s: Summary, sec: float) -> None:
    p.row("all", s.faults, sec, s.fault_ns["all"])
    if s.faults_by["major"]:
        p.row("major", s.faults_by["major"], sec, s.fault_ns["major"])
    if s.locked_known:
        speculative = s.locked_known - s.locked["fallback"] - s.locked["other"]
        p.row("under a VMA's lock", speculative, sec, s.fault_ns["per_vma"])
        p.row("  took anon_vma lock", s.locked["anon_vma"], sec, s.fault_ns["anon_vma"])
        p.row("fell back", s.locked["fallback"], sec, s.fault_ns["fallback"])
        if s.locked["other"]:
            p.row("mmap_lock, no stack", s.locked["other"], sec, s.fault_ns["other"])
        p.wrapped(
            "  fallback",
            f"{percent(s.locked['fallback'], s.locked_known)} of faults took mmap_lock in lock_mm_and_find_vma; "
            f"{percent(s.locked['anon_vma'], s.locked_known)} took it for a VMA's first anonymous page "
            "(__vmf_anon_prepare), which is no fallback",
            11,
        )
    known = sum(s.accesses.values())
    if known:
        what = ", ".join(f"{k} {percent(s.accesses[k], known)}" for k in ("write", "read", "instruction"))
        p.wrapped("  kinds", f"{what}; by the kernel {percent(s.faults_by['kernel'], s.faults)}", 11)
    if s.unfinished:
        p.wrapped(
            "  open", f"{s.unfinished:,} never accounted: ended in a signal, tried again, or spurious", 11
        )


def show_overlap(p: Page, m: Meta, s: Summary) -> None:
    if not (s.faults and s.calls):
        return
    p.say()
    names = {i: name for i, name in enumerate(CALLS)}
    parts = [f"{names[i]} {percent(n, s.overlap.faults)}" for i, n in s.overlap.by_name.most_common() if n]
    text = f"{percent(s.overlap.overlapped, s.overlap.faults)} of faults ran while another thread of the process was in a call"
    p.wrapped("overlap", text + (f": {', '.join(parts)}" if parts else ""))


def show_sites(p: Page, trace: Trace, s: Summary, top: int) -> None:
    if s.fault_sites:
        p.say()
        p.say("where faults come from")
        total = sum(s.fault_sites.values())
        for site, n in s.fault_sites.most_common(top):
            p.say(f"  {percent(n, total):>7}  {cut(site, WIDTH - 11)}")
    if s.call_sites:
        p.say()
        p.say("where calls come from")
        for (name, site), n in s.call_sites.most_common(top):
            p.say(f"  {n:>9,}  {name:9} {cut(site, WIDTH - 24)}")
    stacks = fallback_stacks(trace)
    if stacks:
        p.say()
        p.say("stacks of the faults that fell back")
        for i, n in by_callers(trace, stacks).most_common(top):
            p.wrapped(f"  {n:>9,}", " < ".join(i), 13)


def by_callers(trace: Trace, stacks: Counter[int], depth: int = 5) -> Counter[tuple[str, ...]]:
    """Stacks by the names of their innermost functions."""
    out: Counter[tuple[str, ...]] = Counter()
    for i, n in stacks.items():
        frames = trace.stacks[i] if i < len(trace.stacks) else []
        out[tuple(f.partition("+")[0].partition(" (")[0] for f in frames[:depth])] += n
    return out


# -- JSON
def as_json(trace: Trace, s: Summary, top: int) -> dict[str, Any]:
    m, sec = trace.meta, trace.meta.seconds
    names = {i: name for i, name in enumerate(CALLS)}
    stacks = fallback_stacks(trace)
    return {
        "trace": trace.name,
        "source": m.source,
        "command": m.command,
        "kernel": m.kernel,
        "cpus": m.cpus,
        "seconds": round((m.end_ns - m.start_ns) / 1e9, 6),
        "seconds_recorded": round(sec, 6),
        "events": trace.rows,
        "threads": len(s.tids),
        "processes": len(s.pids),
        "faults": {
            "count": s.faults,
            "per_second": per(s.faults, sec),
            "major": s.faults_by["major"],
            "by_kernel": s.faults_by["kernel"],
            "unfinished": s.unfinished,
            "accesses": dict(s.accesses),
            "duration": {k: durations(h) for k, h in s.fault_ns.items() if h.count},
            "locked": {"known": s.locked_known, **s.locked} if s.locked_known else None,
        },
        "calls": {
            name: {
                "count": n,
                "per_second": per(n, sec),
                "failed": s.failed[name],
                "bytes": s.bytes[name],
                "duration": durations(s.call_ns[name]),
            }
            for name, n in s.calls.items()
        },
        "lock_waits": [{"mode": k[0], "in": k[1], **(durations(h) or {"count": 0})} for k, h in s.wait_ns.items()],
        "lock_holds": [{"mode": k[0], "in": k[1], **(durations(h) or {"count": 0})} for k, h in s.hold_ns.items()],
        "overlap": {
            "faults": s.overlap.faults,
            "overlapped": s.overlap.overlapped,
            "by_call": {names[i]: n for i, n in s.overlap.by_name.items()},
        },
        "fault_sites": [{"site": k, "count": n} for k, n in s.fault_sites.most_common(top)],
        "call_sites": [{"call": k[0], "site": k[1], "count": n} for k, n in s.call_sites.most_common(top)],
        "fallback_stacks": [{"stack": list(k), "count": n} for k, n in by_callers(trace, stacks, 16).most_common(top)],
        "lost": m.lost,
        "skipped": m.skipped,
        "missing": [vars(x) for x in m.missing],
        "gaps": gaps(m),
    }


def per(n: int, seconds: float) -> float | None:
    return round(n / seconds, 3) if seconds > 0 else None


def durations(h: Histogram) -> dict[str, float] | None:
    if not h.count:
        return None
    return {
        "count": h.count,
        "mean_ns": round(h.mean, 1),
        "p50_ns": round(h.quantile(0.5), 1),
        "p99_ns": round(h.quantile(0.99), 1),
        "max_ns": h.most,
    }
