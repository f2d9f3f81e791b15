"""`seqfault review`: check under some memory models, and write what a reviewer would send (docs/review.md)."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress

from seqfault.cli import EXIT, BadInput, can_be_written, dump, write
from seqfault.explore import ahead, interrupt
from seqfault.explore.check import PATH_ONLY, Limits, Violation
from seqfault.explore.memory import SC
from seqfault.explore.model import automaton_for
from seqfault.protocols import load
from seqfault.report.bars import WITH_WHAT
from seqfault.report.commands import checked, models_named, select
from seqfault.report.consoles import console, stderr_console
from seqfault.report.counterexample import from_violation
from seqfault.report.review_causes import Cause, Finder, Group, group
from seqfault.report.review_data import Review, Table, Trace, ordered, review_data
from seqfault.report.review_sites import read_sites
from seqfault.report.review_trace import Texts, trace_data
from seqfault.scenarios.model import Scenario

MAIL, TERMINAL = 72, 80
AT_ONCE = 32  # violations that a worker explains before it reports
FORMATS = (".html", ".htm", ".md")

Task = tuple[str, Scenario, Violation]


def run_review(
    protocol: str,
    names: list[str],
    memory: list[str],
    out: Path,
    json: bool,
    max_states: int | None,
    max_memory: int,
    timeout: float | None,
    jobs: int,
    resume: Path | None,
    sites: Path | None,
    price: list[str],
    traces: list[str],
    cpus: str | None,
    machine: str | None,
    options: list[str],
) -> None:
    """`seqfault review`.  `options`: the further options as given, for the command that the report names."""
    if out.suffix not in FORMATS:
        raise BadInput(f"-o {out}: what it is to be is told by its name; write for example review.html or review.md")
    can_be_written(out)
    models = models_named(*memory or [SC])
    p = load(protocol)
    table = read_sites(sites, p.name) if sites is not None else None
    scenarios = select(names, p)
    if ahead.begin(models) and SC in models:
        ahead.meanwhile(p, scenarios[0])
    asked = None
    if price or traces or cpus is not None or machine is not None:
        from seqfault.report.review_price import ask_prices  # polars and LLVM: only who asks waits for them

        asked = ask_prices(protocol, price, traces, cpus, machine)
    command = ["seqfault", "review", protocol, *(w for n in names for w in ("-s", n))]
    command += [] if models == ["sc"] else ["--memory", ",".join(models)]
    command += [*options, "-o", out.name]
    err = stderr_console()
    with Progress(*WITH_WHAT, console=err, transient=True, disable=not err.is_terminal) as bar:
        limits = Limits(max_states or 0, max_memory)
        review = make_review(
            protocol, scenarios, models, shlex.join(command), limits, timeout, jobs, resume, bar, sites=table
        )
        if asked is not None:
            from seqfault.report.review_price import answer_prices

            review.prices = answer_prices(asked, bar)
        text = render(review, out.suffix)
    write(text, out)
    if json:
        dump(review_data(review))
    else:
        causes, different = len(review.groups), sum(len(g.members) for g in review.groups)
        console().print(
            f"{out}: {review.protocol.name} under {', '.join(models)}: {review.verdict}; "
            f"{causes} root cause{'s' * (causes != 1)}, {different} distinct violation{'s' * (different != 1)}, "
            f"{len(text.encode()) / 1e6:.2f} MB",
            markup=False,
        )
    raise typer.Exit(EXIT[review.verdict])


def render(review: Review, suffix: str) -> str:
    """The report as a page, or as a mail."""
    if suffix == ".md":
        from seqfault.report.review_mail import mail

        return mail(review)
    from seqfault.report.review_page import page

    return page(review)


def make_review(
    protocol: str,
    scenarios: list[Scenario],
    models: list[str],
    command: str,
    limits: Limits,
    timeout: float | None = None,
    jobs: int = 0,
    resume: Path | None = None,
    bar: Progress | None = None,
    sites: Table | None = None,
) -> Review:
    """Check, group what was found, and replay one counterexample of each distinct violation.

    `sites`: the table of `why`, if it was made.  Raises `BadInput` as `check` does.
    """
    p = load(protocol)
    end = None if timeout is None else time.perf_counter() + timeout
    reports = []
    for model in models:
        automaton_for(p, scenarios[0], model)  # errors in the text come before any worker starts
        left = None if end is None else max(0.1, end - time.perf_counter())
        label = f"{protocol} under {model}"
        reports.append(checked(protocol, label, scenarios, model, limits, left, jobs, resume, bar))
    by_name = {s.name: s for s in scenarios}
    found = [(r.memory, s.name, i, v) for r in reports for s in r.scenarios for i, v in enumerate(s.violations)]
    for m, _, _, v in found:
        v.memory = m
    tasks = [(protocol, by_name[name], v) for _, name, _, v in found]
    causes = [c for some in spread(explain, chunks(tasks), jobs, bar, "root causes") for c in some]
    groups = group(reports, {key[:3]: c for key, c in zip(found, causes, strict=True)})
    chosen = [(n, k, m) for n, g in enumerate(groups) for k, m in enumerate(ordered(g))]
    review = Review(p, command, reports, groups, sites=sites, scenarios=scenarios)
    jobs_of = [(protocol, by_name[m.scenario], m.violation, k == 0) for _, k, m in chosen]
    texts = Merged()
    for (n, k, _), (trace, rows) in zip(chosen, spread(show, jobs_of, jobs, bar, "counterexamples"), strict=True):
        review.traces[n, k] = texts.take(trace, rows)
    review.texts = texts.rows
    return review


# -- work that is done for each violation, in worker processes
def chunks(tasks: list[Task]) -> list[list[Task]]:
    return [tasks[i : i + AT_ONCE] for i in range(0, len(tasks), AT_ONCE)]


def spread(work: Callable[[Any], Any], tasks: list[Any], jobs: int, bar: Progress | None, what: str) -> Iterator[Any]:
    """The results of some tasks, in their order."""
    task = bar.add_task(what, total=len(tasks), what="") if bar else None
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))

    def each(results: Iterable[Any]) -> Iterator[Any]:
        for n, r in enumerate(results, 1):
            if bar and task is not None:
                bar.update(task, completed=n)
            yield r

    if jobs <= 1:
        yield from each(map(work, tasks))
        return
    ctx = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=ctx, initializer=interrupt.worker) as pool:
        try:
            yield from each(pool.map(partial(interrupt.at_once, work), tasks))
        except BaseException:
            for p in (pool._processes or {}).values():  # what they are at is not waited for
                p.terminate()
            raise


_finders: dict[str, Finder] = {}


def explain(tasks: list[Task]) -> list[Cause]:
    """The root causes of some violations."""
    out = []
    for name, s, v in tasks:
        if name not in _finders:
            _finders[name] = Finder(load(name))
        out.append(_finders[name].cause(s, v))
    return out


def show(task: tuple[str, Scenario, Violation, bool]) -> tuple[Trace, list[dict[str, Any]]]:
    """The counterexample of a violation, and the texts that it shows.  The first of a group is made small."""
    name, s, v, first = task
    if not v.schedule:
        return Trace(), []
    p = load(name)
    cx = from_violation(p, s, v, shrink=first and v.kind not in PATH_ONLY)
    texts = Texts(p)
    drawn = cx.lines(width=TERMINAL) if first else []
    return Trace(trace_data(cx, texts), drawn, cx.lines(width=MAIL) if first else []), texts.rows


class Merged:
    """Texts of several counterexamples, each once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.at: dict[str, int] = {}

    def take(self, trace: Trace, rows: list[dict[str, Any]]) -> Trace:
        """A counterexample whose texts are those of `rows`, with the numbers that they have here."""
        to = []
        for r in rows:
            if r["name"] not in self.at:
                self.at[r["name"]] = len(self.rows)
                self.rows.append(r)
            to.append(self.at[r["name"]])
        for step in trace.data["steps"] if trace.data else []:
            for event in step:
                event[3] = to[event[3]] if event[3] >= 0 else -1
        return trace


__all__ = ["Group", "make_review", "run_review"]
