"""What each command does, between the command line and the library."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer
from rich.progress import (
    Progress,
)

from seqfault.cli import BAD_INPUT, EXIT, BadInput, dump
from seqfault.explore import ahead
from seqfault.explore.check import Limits, Report, ScenarioResult, worst
from seqfault.explore.checkpoint import CheckpointError
from seqfault.explore.engine import Exploration
from seqfault.explore.forecast import Forecast
from seqfault.explore.frontier import Seen
from seqfault.explore.memory import SC, canonical
from seqfault.explore.model import automaton_for, program_for, small_scenario
from seqfault.explore.pool import check_many
from seqfault.explore.racecheck import MODES, grouped
from seqfault.kernel.places import Protocol
from seqfault.protocols import builtin_names, load
from seqfault.report import terminal
from seqfault.report.bars import WITH_WHAT
from seqfault.report.consoles import console, stderr_console
from seqfault.report.counterexample import Counterexample, encode_schedule, from_schedule, from_violation
from seqfault.report.late import passed_over, under
from seqfault.scenarios import APART, builtin, find
from seqfault.scenarios import load as load_file
from seqfault.scenarios.model import Scenario


def select(names: list[str], protocol: Protocol | None = None) -> list[Scenario]:
    """Scenarios by name, pattern or file; all when none is named.  Of a small model: the one that it is."""
    if protocol is not None and protocol.processes:
        if names and names != ["all"]:
            raise BadInput(f"{protocol.name} is a small model, whose only scenario is `all`; leave --scenario out")
        return [small_scenario(protocol)]
    if not names:
        return builtin()
    out: dict[str, Scenario] = {}
    for n in names:
        found = load_file(n) if n.endswith(".toml") or Path(n).is_file() else find([n])
        for s in found:
            out[s.name] = s
    return list(out.values())


COMPARED = ("sc", "tso", "lkmm")  # what --memory all is
# what --reduce means for `Limits.movers`, `own` and `symmetric`
REDUCE: dict[str, tuple[bool | None, bool, bool]] = {
    "auto": (None, True, False),
    "own": (False, True, False),
    "all": (True, False, False),
    "none": (False, False, False),
    "symmetry": (False, False, True),
}


def run_check(
    protocol: str,
    names: list[str],
    json: bool,
    max_states: int | None,
    max_memory: int,
    timeout: float | None,
    jobs: int,
    resume: Path | None,
    verbose: bool,
    examples: int,
    locks: bool = False,
    memory: str = "sc",
    lock_waits: bool = False,
    reduce: str = "auto",
    every: float = 60.0,
    threads: int = 1,
    races: str = "off",
    late: bool = False,
) -> None:
    """`seqfault check`."""
    if threads > (os.cpu_count() or 1):
        raise BadInput(f"--threads {threads}: this machine has {os.cpu_count()} processors")
    if reduce not in REDUCE:
        raise BadInput(f"--reduce {reduce!r}: auto, own, all, none or symmetry")
    p = load(protocol)
    models = models_named(memory)
    if late and not any(under(m) for m in models):
        raise BadInput("--load-buffering lists what only lkmm passes over: add --memory lkmm")
    if locks and p.processes:
        raise BadInput(f"--locks: {protocol} is a small model, of which there is no table of locks")
    if reduce in ("own", "symmetry") and models != [SC]:
        raise BadInput(f"--reduce {reduce} is for --memory sc; with another model it is auto, all or none")
    if locks and models != ["sc"]:
        raise BadInput("--locks looks at who holds a lock in memory, so it is for --memory sc")
    if races not in MODES:
        raise BadInput(f"--races {races!r}: {', '.join(MODES[:-1])} or {MODES[-1]}")
    if races != "off" and locks:
        raise BadInput("--races and --locks each watch an exploration by themselves: run check once for each")
    if reduce == "symmetry":
        can_be_exchanged(p, races)
    scenarios = select(names, p)
    movers, own, symmetric = REDUCE[reduce]
    begun = ahead.begin(models if movers is not False else [m for m in models if m == SC])
    err = stderr_console()
    if verbose and not json:
        terminal.automata(console(), p, scenarios)
    else:
        automaton_for(p, scenarios[0])  # errors in the text come before any worker starts
    if begun and SC in models:
        ahead.meanwhile(p, scenarios[0])
    limits = Limits(
        max_states or 0, max_memory, movers=movers, own=own, symmetric=symmetric, checkpoint_every=every,
        threads=threads,
    )  # fmt: skip
    with Progress(*WITH_WHAT, console=err, transient=True, disable=not err.is_terminal) as bar:
        reports = [
            checked(
                protocol, p.name + ("" if m == SC else f" {m}"), scenarios, m, limits, timeout, jobs, resume, bar,
                locks, lock_waits, races,
            )
            for m in models
        ]  # fmt: skip
    if json and len(models) == 1:
        dump(report_json(reports[0], p, scenarios, races != "off"))
    elif json:
        dump({r.memory: report_json(r, p, scenarios, races != "off") for r in reports})
    else:
        for r in reports:
            terminal.report(console(), r, p, scenarios, verbose, examples, races != "off", late)
        if len(models) > 1:
            terminal.show_matrix(console(), reports)
    raise typer.Exit(EXIT[worst(r.verdict for r in reports)])


def can_be_exchanged(p: Protocol, races: str) -> None:
    """Raises `BadInput` if no two processes can (compile/symmetry.py)."""
    from seqfault.compile.symmetry import alike  # what others have no need of

    if not p.processes:
        what = "CPUs of the mm text are told apart, by their operations and TLBs"
        raise BadInput(f"--reduce symmetry is for small models: {what}; it is auto, own, all or none")
    if races != "off":
        raise BadInput("--races compares the steps of processes by name; leave --reduce symmetry out")
    if not alike(automaton_for(p, small_scenario(p))):
        what = "no two run the same function, or it asks who runs it (smp_processor_id(), rwlock_t)"
        raise BadInput(f"--reduce symmetry: no processes of {p.name} can be exchanged: {what}; leave it out")


MANY = 100  # scenarios
STATES, WEAK_STATES = 40_000_000, 1_000_000
MANY_STATES = {"tso": 30_000, "lkmm": 10_000}  # a suite in minutes; what comes to it is incomplete, by name


def usual_states(memory: str, scenarios: int, movers: bool | None = None) -> int:
    """The limit of states for each of so many scenarios, where none is given.  Reduced states of tso and lkmm take ten
    to a hundred times as long as states of sc; `movers` False: they are not reduced."""
    model = memory.split(":")[0]
    if model not in MANY_STATES or movers is False:
        return STATES
    return WEAK_STATES if scenarios <= MANY else MANY_STATES[model]


def models_named(*given: str) -> list[str]:
    """The memory models of --memory, each once: names with commas between; all.  Raises `BadInput`."""
    names = [n.strip() for g in given for n in g.split(",")]
    try:
        return list(dict.fromkeys(canonical(m) for n in names for m in (COMPARED if n == "all" else [n])))
    except ValueError as e:
        raise BadInput(f"--memory: {e}, or all") from None


def checked(
    protocol: str,
    label: str,
    scenarios: list[Scenario],
    memory: str,
    limits: Limits,
    timeout: float | None,
    jobs: int,
    resume: Path | None,
    bar: Progress | None,
    locks: bool = False,
    lock_waits: bool = False,
    races: str = "off",
) -> Report:
    """`check_many` under one memory model, with its progress as `label` on `bar`; `limits.states` 0: the usual ones.
    Raises `BadInput` for a file of results that cannot be used."""
    task = bar.add_task(label, total=len(scenarios), what="") if bar else None
    limits = replace(limits, states=limits.states or usual_states(memory, len(scenarios), limits.movers))
    states = 0
    begun = time.perf_counter()
    forecast = Forecast()

    def done(r: ScenarioResult, n: int) -> None:
        nonlocal states
        states += r.states
        rate = states / max(0.1, time.perf_counter() - begun)
        if bar and task is not None:
            bar.update(task, completed=n, what=f"{states:,} states {rate / 1e3:,.0f} k/s")

    def live(ex: Exploration, frontier: int) -> None:
        if bar and task is not None:
            bar.update(task, what=progress_line(ex, frontier, forecast))

    try:
        return check_many(
            protocol, scenarios, limits, jobs, timeout, done, None, resume, live, locks, memory, lock_waits,
            races,
        )  # fmt: skip
    except CheckpointError as e:
        raise BadInput(f"--resume: {e}") from None
    except OSError as e:
        raise BadInput(f"--resume {resume}: {e.strerror}; name a file that can be written") from None


def amount(n: float) -> str:
    """A number of bytes, for a progress line."""
    return f"{n / (1 << 30):.1f}G" if n >= 1 << 30 else f"{n / (1 << 20):.0f}M"


def progress_line(ex: Exploration, frontier: int, forecast: Forecast) -> str:
    """States, rate, frontier, memory; and where it can be told, how many states and how much memory there will be, and
    how long that takes."""
    rate = ex.states / max(0.1, ex.seconds)
    line = f"{ex.states:,} states {rate / 1e3:,.0f} k/s frontier {frontier:,} memory {amount(ex.bytes)}"
    if not isinstance(ex, Seen):
        return line
    total = forecast.see(ex.depth, ex.width, ex.counted)
    if total is None or total < ex.states:
        return line
    most = " (more than --max-memory)" if ex.bytes / ex.states * total > ex.max_memory else ""
    done = max(1, ex.states - frontier)
    left = (total - done) * ex.seconds / done
    clock = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
    return f"{line} of ~{amount(ex.bytes / ex.states * total)}{most}, ~{total / 1e6:.2g} M states, ~{clock} left"


def report_json(
    report: Report, protocol: Protocol, scenarios: list[Scenario], races: bool = False
) -> dict[str, Any]:
    """The JSON of check; documented in docs/json.md.  `races`: they were looked for."""
    by_name = {s.name: s for s in scenarios}
    first: set[tuple[str, str, str]] = set()
    rows = []
    for r in report.scenarios:
        vs = []
        for v in r.violations:
            cx = None
            if v.key() not in first and v.schedule:
                first.add(v.key())
                cx = from_violation(protocol, by_name[r.name], v)
            vs.append(
                {
                    "kind": v.kind,
                    "object": v.object,
                    "function": v.function,
                    "file": v.file,
                    "line": v.line,
                    "site": v.site,
                    "count": v.count,
                    "baseline": v.baseline,
                    "detail": v.detail,
                    "loop_from": v.loop_from if v.loop_from >= 0 else None,
                    "schedule": cx.schedule_string if cx else terminal.schedule_of(protocol, by_name[r.name], v),
                    "steps": [asdict(e) for e in cx.events] if cx else [],
                }
            )
        rows.append(
            {
                "name": r.name,
                "verdict": r.verdict,
                "reason": r.reason,
                "states": r.states,
                "transitions": r.transitions,
                "depth": r.depth,
                "outcomes": r.outcomes,
                "seconds": round(r.seconds, 3),
                "speculative_successes": r.speculative_successes,
                "counters": r.counters,
                "late_stores": None if r.late_stores is None else len(r.late_stores),
                "violations": vs,
            }
        )
    over = passed_over(report, protocol, scenarios)
    return {
        "protocol": report.protocol,
        "memory": report.memory,
        "verdict": report.verdict,
        "load_buffering": over.data() if over else None,
        "scenarios": rows,
        "speculative_successes": report.speculative_successes,
    } | ({"races": races_json(report, protocol, by_name)} if races else {})


def races_json(report: Report, protocol: Protocol, by_name: dict[str, Scenario]) -> list[dict[str, Any]]:
    return [
        {
            "field": g.example.field,
            "accesses": [
                {
                    "function": x.function,
                    "file": x.file,
                    "line": x.line,
                    "access": "write" if x.write else "read",
                    "how": x.how,
                    "caller": x.caller,
                }
                for x in g.example.points
            ],
            "scenarios": g.scenarios,
            "example": g.scenario,
            "cell": g.example.cell,
            "count": g.example.count,
            "made_before": g.example.made,
            "schedule": encode_schedule(protocol, by_name[g.scenario], g.example.schedule, g.example.memory),
        }
        for g in grouped(report.scenarios)
    ]


def run_replay(schedule: str, json: bool, full: bool) -> None:
    """`seqfault replay`."""
    cx = from_schedule(schedule)
    if json:
        dump(
            {
                "protocol": cx.protocol.name,
                "scenario": cx.scenario.name,
                "schedule": cx.schedule_string,
                "violations": [asdict(v) for v in cx.violations],
                "steps": [asdict(e) for e in cx.events],
            }
        )
    else:
        show(cx, full)
    raise typer.Exit(1 if cx.violations else 0)


def show(cx: Counterexample, full: bool) -> None:
    c = console()
    for line in cx.lines(width=max(60, min(c.width, 160)), full=full):
        c.print(line, markup=False)


def run_list(patterns: list[str], json: bool) -> None:
    """`seqfault list`."""
    scenarios = find(patterns) if patterns else builtin()
    protocols = [load(n) for n in builtin_names()]
    if json:
        dump(
            {
                "protocols": [{"name": p.name, "title": p.title, "release": p.release} for p in protocols],
                "scenarios": [terminal.scenario_dict(s) for s in scenarios],
            }
        )
        return
    terminal.listing(console(), protocols, scenarios, bool(patterns), APART)


def run_text(protocol: str, function: str) -> None:
    """`seqfault text`."""
    from seqfault.report.text import all_functions, function_text

    p = load(protocol)
    fns = all_functions(p)
    if function not in fns:
        import difflib

        near = difflib.get_close_matches(function, fns, 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise BadInput(f"no function {function!r} in the text{hint}")
    c = console()
    lines = function_text(fns[function], p)
    for n, t, site in lines:
        mark = "+" if site else " "
        c.print(f"{mark} {n or '':>5}  {t}" + (f"    # {site}" if site else ""), markup=False)


def run_script(script: str, protocol: str, json: bool, release: str | None = None, live: bool = False) -> None:
    """`seqfault run`: operations of a protocol's model, or system calls (live/script.py) of a release."""
    from seqfault.live.script import is_script
    from seqfault.report.sequential import read_text, run_file
    from seqfault.report.syscalls import run_syscalls

    text = read_text(script)
    if is_script(text):
        ok = run_syscalls(script, text, release, live, json, console())
    elif live or release:
        raise BadInput(f"{script}: --release and --live are for scripts of system calls, such as munmap(W+520p, 3p)")
    else:
        p = load(protocol)
        if p.processes:
            raise BadInput(f"{protocol} is a small model, which has no operations; seqfault check explores it")
        ok = run_file(script, text, p, json, console())
    raise typer.Exit(0 if ok else 1)


__all__ = ["BAD_INPUT", "program_for"]
