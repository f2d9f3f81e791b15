"""What a review says of the price: workloads on more and more CPUs, and recordings replayed (docs/price.md)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from seqfault.cli import BadInput
from seqfault.price.machines import Machine
from seqfault.price.workloads import Workload
from seqfault.protocols import baseline_name, load
from seqfault.report.price import curves, inputs
from seqfault.report.review_data import Comparison, Prices
from seqfault.report.review_words import document
from seqfault.report.whatif import Question, about_recorder, answer, ask, percent
from seqfault.report.whatif_sites import told as told

USUAL = ("ebizzy", "page_fault1", "malloc1")
CPUS, MACHINE = "1,2,...,64", "skylake-4s"
SEEDS = 3  # of a replay, as `whatif` has them
MISSES, RECORDINGS = "What the misses are", "Recordings of this project"
REASONS = 3
DESIGN_COLUMNS = (
    "design", "time", "speed", "no mmap_lock", "fault mean", "wait", "p99", "munmap mean", "wait",
    "error of the replay",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What is to be priced once the exploring is done."""

    protocol: str
    loads: list[Workload]
    cpus: list[int]
    machine: Machine | None
    questions: list[Question]
    commands: list[str]


def ask_prices(
    protocol: str, price: Sequence[str], traces: Sequence[str], cpus: str | None, machine: str | None
) -> Asked | None:
    """Read what the options name; None: nothing is asked for.  Raises `BadInput`."""
    named = [n.strip() for p in price for n in p.split(",") if n.strip()]
    if price and not named:
        raise BadInput("--price names no workload; write usual, or names as of seqfault price --list")
    if cpus is not None and not named:
        raise BadInput("--cpus is of --price; add for example --price usual")
    if not named and not traces:
        if machine is not None:
            raise BadInput("--machine is of --price and --trace; add for example --price usual")
        return None
    names = [x for n in named for x in (USUAL if n == "usual" else (n,))]
    names = list(dict.fromkeys(names))
    p = load(protocol)
    base = baseline_name(p.release)
    designs = [protocol] if p.name == base else [base, protocol]
    also = [w for name in designs for w in ("-p", name)]
    commands = []
    loads: list[Workload] = []
    count: list[int] = []
    mach: Machine | None = None
    if names:
        on = CPUS if cpus is None else cpus
        loads, _, count, mach = inputs(names, [protocol], on, machine or MACHINE, "")
        words = ["seqfault", "price", *(w for n in names for w in ("-w", n)), *also]
        commands.append(shlex.join([*words, "--cpus", on, "-m", machine or MACHINE]))
    questions = []
    for t in traces:
        questions.append(ask(t, designs, machine=machine or ""))
        commands.append(shlex.join(["seqfault", "whatif", t, *also, *(["-m", machine] if machine else [])]))
    return Asked(protocol, loads, count, mach, questions, commands)


def answer_prices(asked: Asked, bar: Progress) -> Prices:
    """Price what was asked for: virtual time, on this machine a few seconds for each workload and each design."""
    p = load(asked.protocol)
    data = None
    if asked.machine is not None:
        data = curves(asked.loads, [p], asked.cpus, asked.machine, "", (1,), None, bar)
    traces = [answer(q, SEEDS, bar) for q in asked.questions]
    compared = [compare(w, p.name) for w in data["workloads"]] if data else []
    return Prices(data, traces, asked.commands, compared)


def compare(w: dict[str, Any], protocol: str) -> Comparison:
    """A workload's figures under a protocol, beside those of mmap-sem on the text of the same release."""
    own = next(s for s in w["series"] if s["protocol"] == protocol)
    base = next(s for s in w["series"] if s["protocol"] == own["baseline"])
    return Comparison(w["name"], w["title"], w["unit"], w["source"], own, base, misses(w["name"]), notes(own))


def notes(series: dict[str, Any]) -> list[str]:
    """What happened in the runs that bounds their figures."""
    out = []
    bad = sorted({k for p in series["points"] for k in p["violations"]})
    if bad:
        out.append(f"While it ran the text did what it must not: {', '.join(bad)}.")
    failed = sum(p["failed"] for p in series["points"])
    if failed:
        out.append(f"{failed} operations failed (out of addresses or of mappings).")
    return out


def section(title: str) -> str:
    """A section of docs/validation.md."""
    return next((s.text for s in document("validation") if s.title == title), "")


def misses(workload: str) -> list[str]:
    """The misses of docs/validation.md that are about a workload."""
    items = [" ".join(x.split()) for x in re.split(r"(?m)^- ", section(MISSES))[1:]]
    return [x for x in items if re.search(rf"(?<![\w-]){re.escape(workload)}(?![\w])", x)]


def reasons(point: dict[str, Any], most: int = REASONS) -> str:
    """Why faults that tried without mmap_sem took it after all, as shares of those that tried."""
    n = max(point["tried"], 1)
    return ", ".join(f"{k} {100 * v / n:.2f}%" for k, v in list(point["reasons"].items())[:most])


def share(x: float | None) -> str:
    return "" if x is None else f"{100 * x:.2f}%"


def ratio(x: float | None) -> str:
    return "" if x is None else f"x{x:.2f}"


def machine_words(prices: Prices) -> str:
    m = prices.workloads["machine"] if prices.workloads else None
    return m["title"] + (f", calibrated {m['date']}" if m["date"] else "") if m else ""


def designs(trace: dict[str, Any]) -> list[list[str]]:
    """The table of `whatif`: a row a design, with the error of replaying the recorded one."""
    out = []
    for x in trace["designs"]:
        f, u = x["operations"]["fault"], x["operations"]["munmap"]
        low, high = x["seconds_range"]
        width = f" ±{(high - low) / 2:.3f}" if high - low >= 0.001 else ""
        out.append([
            x["name"], f"{x['seconds']:.3f} s{width}" + ("" if x["finished"] else " (given up)"), ratio(x["speed"]),
            share(x["without_mmap_lock"]), f"{f['mean_ns']:.0f} ns", f"{f['mean_wait_ns']:.0f} ns",
            f"{f['p99_ns']:.0f} ns",
            f"{u['mean_ns']:.0f} ns" if u["n"] else "", f"{u['mean_wait_ns']:.0f} ns" if u["n"] else "",
            percent(trace["error"]["seconds"]),
        ])  # fmt: skip
    return out


def fell_back(design: dict[str, Any], most: int = REASONS) -> str:
    n = max(design["faults"], 1)
    return ", ".join(f"{k} {v:,.1f} ({100 * v / n:.2f}%)" for k, v in list(design["reasons"].items())[:most])


def about_trace(t: dict[str, Any]) -> str:
    """What was recorded, and on what it was replayed."""
    r = t["recorded"]
    return (
        f"Process {t['pid']}, {t['threads']} threads on {r['cpus']} CPUs, {t['events']:,} events in "
        f"{r['seconds']:.3f} s, Linux {r['kernel'] or '?'}. Replayed on {t['machine']}, {t['cpus']} CPUs."
    )


def about_error(t: dict[str, Any]) -> str:
    """How far the replay under the recorded design is from the recording."""
    e, own = t["error"], t["designs"][0]["protocol"]
    points = "not recorded" if e["without_mmap_lock"] is None else f"{100 * e['without_mmap_lock']:+.2f} points"
    return (
        f"The recording itself, replayed under {own}: time {percent(e['seconds'])}, mean fault "
        f"{percent(e['fault_ns'])} ({about_recorder(t)}), share without mmap_lock {points}. "
        "No prediction is better than that."
    )
