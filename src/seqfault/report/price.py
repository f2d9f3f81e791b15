"""`seqfault price`: curves as a table, a plot, JSON, and a page."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import seqfault
from seqfault.cli import BadInput, can_be_written, dump, write
from seqfault.kernel.places import Protocol
from seqfault.price import machines, workloads
from seqfault.price.curves import Point, grid, measure, policy_of
from seqfault.price.machines import POLICIES, Machine
from seqfault.price.timed import UnsupportedMachine
from seqfault.price.workloads import Workload
from seqfault.price.world import Outcome
from seqfault.protocols import baseline_name, load
from seqfault.report.consoles import console, stderr_console
from seqfault.report.review_page import embedded, environment, template

DEFAULT = ("mmap-sem", "spf-v5", "spf-v12", "mmap-seq", "per-vma-lock", "vm-refcnt")
MARKS = "oxs+*dvnw#"


def cpu_list(text: str, machine: Machine) -> list[int]:
    """``1,2,4``, ``1-8`` (all), ``1,2,...,64`` (doubling)."""
    out: list[int] = []
    for part in text.replace(" ", "").split(","):
        m = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if part in ("...", "…") and out:
            out.append(-1)
        elif not m:
            raise BadInput(f"--cpus {text!r}: {part!r} is no number of CPUs; write for example 1,2,4,...,64")
        elif out and out[-1] == -1:
            out.pop()
            while out and 2 * out[-1] < int(m[1]):
                out.append(2 * out[-1])
            out.append(int(m[1]))
        else:
            out += range(int(m[1]), int(m[2] or m[1]) + 1)
    if not out or -1 in out or min(out) < 1:
        raise BadInput(f"--cpus {text!r} names no CPUs; write for example 1,2,4,...,64")
    if max(out) > machine.cpus:
        raise BadInput(f"--cpus {max(out)}: {machine.name} has {machine.cpus}; take fewer, or another --machine")
    return sorted(set(out))


def protocols_of(names: Sequence[str]) -> list[Protocol]:
    out = []
    for name in dict.fromkeys(names or DEFAULT):
        p = load(name)
        if p.processes:
            raise BadInput(f"{name} is a small model and has no faults to price; take a protocol of `seqfault list`")
        out.append(p)
    return out


def inputs(
    names: Sequence[str], protocol: Sequence[str], cpus: str, machine: str, policy: str
) -> tuple[list[Workload], list[Protocol], list[int], Machine]:
    """What the options name.  Raises `BadInput`."""
    try:
        mach = machines.read(machine)
        loads = [w for n in names or ["ebizzy"] for w in workloads.read(n)]
    except (machines.MachineError, workloads.WorkloadError) as e:
        raise BadInput(str(e)) from None
    if policy and policy not in POLICIES:
        raise BadInput(f"--policy {policy!r} is none of {', '.join(POLICIES)}")
    count = cpu_list(cpus, mach)
    for w in loads:
        if w.thread_count(max(count)) > 1024:
            raise BadInput(f"{w.name} has {w.thread_count(max(count))} threads on {max(count)} CPUs; 1024 are the most")
    return loads, protocols_of(protocol), count, mach


def with_baselines(protocols: Sequence[Protocol]) -> list[Protocol]:
    """And mmap-sem on the text of each one's release, which its gain is measured against."""
    out = list(protocols)
    for p in protocols:
        base = load(baseline_name(p.release))
        if base not in out:
            out.append(base)
    return out


def run_price(
    names: Sequence[str],
    protocol: Sequence[str],
    cpus: str,
    machine: str,
    policy: str,
    seeds: int,
    ms: float | None,
    json: bool,
    out: Path | None,
) -> None:
    """The command."""
    can_be_written(out)
    loads, protocols, count, mach = inputs(names, protocol, cpus, machine, policy)
    with progress_bar() as bar:
        data = curves(loads, protocols, count, mach, policy, range(1, seeds + 1), ms, bar)
    if out is not None:
        write(page(data), out)
    if json:
        dump(data)
        return
    c = console()
    for w in data["workloads"]:
        show(c, w, data)
    if out is not None:
        c.print(f"{out}: the curves, as a page that opens offline")


def progress_bar() -> Progress:
    err = stderr_console()
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal,
    )  # fmt: skip


def curves(
    loads: Sequence[Workload],
    protocols: Sequence[Protocol],
    cpus: Sequence[int],
    mach: Machine,
    policy: str,
    seeds: Sequence[int],
    ms: float | None,
    bar: Progress,
) -> dict[str, Any]:
    """Measure every point, baselines as well: what --json prints.  Raises `BadInput`."""
    todo = list(grid(loads, with_baselines(protocols), cpus))
    points: dict[tuple[str, str, int], Point] = {}
    task = bar.add_task("", total=len(todo), what="")
    try:
        for k, (w, p, n) in enumerate(todo):
            bar.update(task, description=f"{w.name}, {p.name}, {n} CPU{'s' if n > 1 else ''}")
            points[w.name, p.name, n] = measure(
                w, p, n, mach, policy, seeds, ms, lambda done, k=k: bar.update(task, completed=k + done)  # type: ignore[misc]
            )
            bar.update(task, completed=k + 1)
    except (UnsupportedMachine, ValueError) as e:
        raise BadInput(str(e)) from None
    return as_data(loads, protocols, cpus, mach, policy, points)


def as_data(
    loads: Sequence[Workload],
    protocols: Sequence[Protocol],
    cpus: Sequence[int],
    mach: Machine,
    policy: str,
    points: dict[tuple[str, str, int], Point],
) -> dict[str, Any]:
    """Everything that was measured, as JSON has it (docs/json.md)."""
    out = []
    for w in loads:
        series = []
        for p in with_baselines(protocols):
            rows = []
            for n in cpus:
                x = points[w.name, p.name, n]
                base = points[w.name, baseline_name(p.release), n].rate
                low, high = x.spread
                fault = [o.stats["fault"] for o in x.outcomes]
                rows.append({
                    "cpus": n, "threads": x.threads, "rate": x.rate, "low": low, "high": high,
                    "ratio": x.rate / base if base else None, "faults": sum(o.faults for o in x.outcomes),
                    "tried": sum(o.tried for o in x.outcomes),
                    "speculative": x.share if p.speculative else None, "reasons": x.reasons,
                    "fault_ns": sum(s.ns for s in fault) / max(1, sum(s.n for s in fault)),
                    "fault_wait_ns": sum(s.waited for s in fault) / max(1, sum(s.n for s in fault)),
                    "fault_p99_ns": max(s.p99 for s in fault), "accesses": int(x.mean("accesses")),
                    "transfers": int(x.mean("transfers")), "ipis": int(x.mean("ipis")),
                    "failed": sum(o.failed for o in x.outcomes), "violations": merged(x.outcomes),
                    "runs": len(x.outcomes), "stopped": stopped(x.outcomes),
                })  # fmt: skip
            series.append({
                "protocol": p.name, "title": p.title, "release": p.release, "baseline": baseline_name(p.release),
                "asked": p in protocols, "policy": policy or policy_of(p), "points": rows,
            })  # fmt: skip
        out.append({"name": w.name, "title": w.title, "unit": w.unit, "source": w.source, "series": series})
    return {
        "version": seqfault.__version__,
        "machine": {
            "name": mach.name, "title": mach.title, "cpus": mach.cpus, "date": mach.date,
            "constants": dict(mach.costs), "sources": dict(mach.sources),
        },
        "workloads": out,
    }  # fmt: skip


def merged(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """What the text did that it must not, by kind."""
    out: dict[str, int] = {}
    for o in outcomes:
        for k, v in o.violations.items():
            out[k] = out.get(k, 0) + v
    return out


def stopped(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Runs that an error of the text ended, by what it was and where."""
    return dict(Counter(o.stopped for o in outcomes if o.stopped))


def wrong(name: str, violations: Mapping[str, int]) -> str:
    return f"{name}: the text does what it must not: {', '.join(violations)}; see `seqfault check`"


def ended(runs: int, stops: Mapping[str, int]) -> list[str]:
    """A line for each error of the text that ended runs."""
    of = f"of {runs} run{'s' if runs > 1 else ''} ended with"
    return [f"{n} {of} {what}: measured until then" for what, n in stops.items()]


def si(x: float) -> str:
    """Three digits and a unit."""
    for unit in ("", "k", "M", "G"):
        if abs(x) < 999.5 or unit == "G":
            return f"{x:.3g}{unit}"
        x /= 1000
    raise AssertionError


def show(c: Any, w: dict[str, Any], data: dict[str, Any]) -> None:
    """Table and plot of one workload."""
    asked = [s for s in w["series"] if s["asked"]]
    c.print(f"{w['name']}: {w['title']}")
    where = data["machine"]["title"]
    c.print(f"{w['unit']} a second of virtual time, {where}; x: against mmap-sem of the same release")
    t = Table(box=None, pad_edge=False)
    t.add_column("CPUs", justify="right")
    for s in asked:
        t.add_column(s["protocol"], justify="right")
    for k, row in enumerate(asked[0]["points"]):
        cells = []
        for s in asked:
            p = s["points"][k]
            ratio = "" if p["ratio"] is None or s["protocol"] == s["baseline"] else f" x{p['ratio']:.2f}"
            cells.append(si(p["rate"]) + ratio)
        t.add_row(str(row["cpus"]), *cells)
    c.print(t)
    last = f"on {asked[0]['points'][-1]['cpus']} CPUs"
    for s in asked:
        p = s["points"][-1]
        if p["speculative"] is None:
            continue
        n = max(p["tried"], 1)
        why = ", ".join(f"{k} {100 * v / n:.2f}%" for k, v in list(p["reasons"].items())[:4])
        share = f"{100 * p['speculative']:.2f}% of faults without mmap_sem"
        c.print(f"{s['protocol']} {last}: {share}{'; ' + why if why else ''}")
    for s in asked:
        bad = {k: v for p in s["points"] for k, v in p["violations"].items()}
        if bad:
            c.print(wrong(s["protocol"], bad))
        stops: Counter[str] = Counter()
        for p in s["points"]:
            stops.update(p["stopped"])
        for line in ended(sum(p["runs"] for p in s["points"]), stops):
            c.print(f"{s['protocol']}: {line}", markup=False)
        failed = sum(p["failed"] for p in s["points"])
        if failed:
            c.print(f"{s['protocol']}: {failed} operations failed (out of addresses or of mappings)")
    if len(asked[0]["points"]) > 1:
        c.print(plot(asked))
    c.print("")


def plot(series: Sequence[dict[str, Any]], width: int = 64, height: int = 14) -> str:
    """Curves of letters, both axes logarithmic."""
    rates = [p["rate"] for s in series for p in s["points"] if p["rate"] > 0]
    if not rates:
        return ""
    low, high = math.log(min(rates)), math.log(max(rates))
    xs = [p["cpus"] for p in series[0]["points"]]
    left, right = math.log(xs[0]), math.log(xs[-1])
    canvas = [[" "] * width for _ in range(height)]
    for i, s in enumerate(series):
        for p in s["points"]:
            if p["rate"] <= 0:
                continue
            x = round((math.log(p["cpus"]) - left) / max(right - left, 1e-9) * (width - 1))
            y = round((math.log(p["rate"]) - low) / max(high - low, 1e-9) * (height - 1))
            canvas[height - 1 - y][x] = MARKS[i % len(MARKS)]
    rows = []
    for k, line in enumerate(canvas):
        label = si(math.exp(high)) if k == 0 else si(math.exp(low)) if k == height - 1 else ""
        rows.append(f"{label:>8} |{''.join(line).rstrip()}")
    rows.append(f"{'':8} +{'-' * width}")
    rows.append(f"{'':8}  {xs[0]:<{width - 8}}{xs[-1]:>8}")
    rows.append("          " + "  ".join(f"{MARKS[i % len(MARKS)]} {s['protocol']}" for i, s in enumerate(series)))
    return "\n".join(rows)


def page(data: dict[str, Any]) -> str:
    """The curves as one HTML file."""
    return environment().from_string(template("price.html.j2")).render(
        d=data, css=Markup(template("price.css")), js=Markup(template("price.js")), data=embedded(data)
    )
