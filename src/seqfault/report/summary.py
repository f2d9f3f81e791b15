"""`seqfault summary`: a trace on 80 columns, or as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from rich.progress import Progress

from seqfault.cli import BadInput, dump
from seqfault.mm.fullsize import release_number
from seqfault.report.bars import OF_HOW_MANY
from seqfault.report.consoles import console, stderr_console
from seqfault.trace.assemble import CALLS
from seqfault.trace.histogram import Histogram
from seqfault.trace.schema import Meta
from seqfault.trace.store import Trace, TraceError, open_trace
from seqfault.trace.summary import Summary, fallback_stacks, summarise
from seqfault.trace.vmas import Life, Vmas, follow

WIDTH = 80
TOP = 6
EXIT_INCOMPLETE = 3
NEWEST = 618
BARS = " ▁▂▃▄▅▆▇█"


def run_summary(name: str, json: bool, top: int = TOP, verbose: bool = False) -> None:
    """Read, print.  Exit code 0; 3 where the recording is not whole."""
    try:
        with open_trace(name) as trace:
            summary, vmas = read(trace, quiet=json)
            if json:
                dump(as_json(trace, summary, vmas, top))
            else:
                show(trace, summary, vmas, top, verbose)
            raise typer.Exit(EXIT_INCOMPLETE if gaps(trace.meta) else 0)
    except TraceError as e:
        raise BadInput(str(e)) from None


def read(trace: Trace, quiet: bool) -> tuple[Summary, Vmas | None]:
    """The summary; and the VMAs, where the calls were recorded all the time."""
    err = stderr_console()
    with Progress(*OF_HOW_MANY, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("reading", total=trace.rows)
        summary = summarise(trace, lambda n: progress.update(task, completed=n))
        if not summary.calls or trace.meta.windows:
            return summary, None
        progress.reset(task, description="doing the calls again", total=trace.rows)
        return summary, follow(trace, text_of(trace.meta), tell=lambda n: progress.update(task, completed=n))


def text_of(meta: Meta) -> int:
    """The release whose text does a trace's calls again: its own, or the nearest."""
    try:
        return release_number(meta.kernel)
    except ValueError:
        return NEWEST


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
        self.console = console()

    def say(self, text: str = "") -> None:
        self.console.print(text, markup=False)

    def wrapped(self, head: str, text: str, indent: int = 11) -> None:
        """`text` in words behind `head`, with the following lines indented."""
        line = head.ljust(indent - 1) + " "
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


def show(trace: Trace, summary: Summary, vmas: Vmas | None, top: int, verbose: bool) -> None:
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
    if m.has("off") and summary.off_ns:
        p.say()
        share = summary.off_ns / max(1, (m.seconds * 1e9) * len(summary.tids))
        p.wrapped("off CPU", f"{ns(summary.off_ns)} of all threads together, {percent(share, 1)} of their time; "
                  f"{summary.preempted:,} times preempted")  # fmt: skip
    show_overlap(p, m, summary)
    if vmas is not None and vmas.largest is not None:
        show_vmas(p, m, vmas, vmas.largest, top)
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
    if 0 < s.unfinished < s.faults:
        p.wrapped(
            "  open", f"{s.unfinished:,} never accounted: ended in a signal, tried again, or spurious", 11
        )


def show_overlap(p: Page, m: Meta, s: Summary) -> None:
    if not (s.faults and s.calls):
        return
    p.say()
    names = {i: name for i, name in enumerate(CALLS)}
    parts = [f"{names[i]} {percent(n, s.overlap.faults)}" for i, n in s.overlap.by_name.most_common() if n]
    share = percent(s.overlap.overlapped, s.overlap.faults)
    text = f"{share} of faults ran while another thread of the process was in a call"
    p.wrapped("overlap", text + (f": {', '.join(parts)}" if parts else ""))


def show_vmas(p: Page, m: Meta, v: Vmas, life: Life, top: int) -> None:
    p.say()
    others = f" (the largest of {len(v.lives)} address spaces)" if len(v.lives) > 1 else ""
    limit = v.max_map_count
    p.wrapped(
        "VMAs",
        f"process {life.pid}{f', {life.program}' if life.program else ''}{others}: at most {life.most:,}, at the end "
        f"{life.at_end:,}; max_map_count is {limit:,}, {limit - life.most:,} away ({percent(life.most, limit)} used)",
    )
    if len(life.points) > 1 and life.most:
        p.wrapped("  over time", f"{curve(life.points, 56)} {life.points[-1][1]:,}")
    if life.made:
        p.wrapped("  mmap, brk", ", ".join(f"{n:,} {what}" for what, n in life.made.most_common()))
    for (what, site), n in life.splits.most_common(top):
        p.say(cut(f"  split     {n:>7,} by {what}{f' from {site}' if site else ''}", WIDTH))
    if life.apart:
        p.say(f"  neighbours that are not one VMA, when there were {life.apart_at:,}:")
        for why, n in life.apart.most_common(top):
            p.wrapped(f"    {n:>7,}", why, 13)
    notes = []
    if not life.known:
        notes.append("its layout at the beginning was not recorded, so counts are too low")
    if v.limited:
        notes.append(f"only the first {v.calls:,} calls were done again")
    if v.stopped:
        notes.append(f"not all calls were done again: {v.stopped}")
    if v.refused:
        notes.append("refused by the text: " + ", ".join(f"{n:,} {k}" for k, n in v.refused.items()))
    if v.guessed_writes:
        notes.append("which faults wrote was not recorded; all are taken to have")
    for note in notes:
        p.wrapped("  note", note)


def curve(points: list[tuple[int, int]], width: int) -> str:
    """The largest count in each of `width` equal times, as bars."""
    t0, t1 = points[0][0], points[-1][0]
    most = max(n for _, n in points)
    out = [0] * width
    for t, n in points:
        i = min(width - 1, (t - t0) * width // max(1, t1 - t0))
        out[i] = max(out[i], n)
    for i in range(1, width):  # no call in that time: as before
        out[i] = out[i] or out[i - 1]
    return "".join(BARS[max(1, n * 8 // most)] if n else BARS[0] for n in out)


def vmas_json(v: Vmas, top: int) -> dict[str, Any]:
    return {
        "calls": v.calls,
        "limited": v.limited,
        "stopped": v.stopped or None,
        "refused": dict(v.refused),
        "max_map_count": v.max_map_count,
        "address_spaces": [
            {
                "pid": x.pid,
                "program": x.program,
                "layout_known": x.known,
                "most": x.most,
                "at_end": x.at_end,
                "calls": x.calls,
                "made": dict(x.made),
                "splits": [{"by": k[0], "site": k[1] or None, "count": n} for k, n in x.splits.most_common(top)],
                "apart": dict(x.apart),
                "apart_at": x.apart_at,
                "over_time": [{"time_ns": t, "vmas": n} for t, n in x.points],
            }
            for x in sorted(v.lives, key=lambda x: -x.most)[:top]
        ],
    }


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
def as_json(trace: Trace, s: Summary, vmas: Vmas | None, top: int) -> dict[str, Any]:
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
        "vmas": vmas_json(vmas, top) if vmas is not None else None,
        "off_cpu": {"ns": s.off_ns, "preempted": s.preempted} if m.has("off") else None,
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
