"""The table of locks as text, JSON and Markdown, with what exploration saw."""

from __future__ import annotations

import difflib
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from seqfault.cli import EXIT, BadInput, dump
from seqfault.explore.check import Limits
from seqfault.explore.lockcheck import LockReport, Nesting, Observed, check_locks, discipline_of, said
from seqfault.explore.model import automaton_for
from seqfault.kernel.places import Protocol
from seqfault.mm.fullsize import release_number
from seqfault.mm.locks import LOCKS, NOT_SHARED, WORDS, Discipline, Exemption, Order, Row, parse
from seqfault.mm.locks_full import WHOLE_TEXT
from seqfault.protocols import load
from seqfault.report.commands import select
from seqfault.report.consoles import console, stderr_console
from seqfault.report.counterexample import encode_schedule
from seqfault.scenarios.model import Scenario

WIDTH = 80
SHOWN = 12  # of what is wrong, unless asked for more


def run_locks(
    protocol: str,
    fields: list[str],
    names: list[str],
    json: bool,
    make_markdown: bool,
    max_states: int,
    timeout: float | None,
    jobs: int,
) -> None:
    """`seqfault locks`."""
    p = load(protocol)
    if p.processes:
        raise BadInput(f"{protocol} is a small model, of which there is no table of locks")
    d = discipline_of(p)
    known(d, fields)
    if make_markdown:
        print(markdown(d, WHOLE_TEXT), end="")
        return
    scenarios = select(names)
    automaton_for(p, scenarios[0])  # errors in the text come before any worker starts
    err = stderr_console()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(p.name, total=len(scenarios))
        r = check_locks(
            protocol, scenarios, Limits(max_states), jobs, timeout, lambda done: bar.update(task, completed=done)
        )
    show(r, json, fields, p, scenarios)


def show(r: LockReport, json: bool, fields: list[str], p: Protocol, scenarios: Sequence[Scenario]) -> None:
    if json:
        dump(as_json(r, p, scenarios, fields))
    else:
        c = console()
        for line in lines(r, p, scenarios, fields):
            c.print(line, markup=False)
    raise typer.Exit(EXIT[r.verdict])


def known(d: Discipline, fields: list[str]) -> None:
    """Raise `BadInput` for a field that has no row."""
    names = [row.field for row in d.rows]
    for f in fields:
        if f not in names:
            near = difflib.get_close_matches(f, names, 1) or [names[0]]
            raise BadInput(f"no field {f!r} in the table of locks; did you mean {near[0]}?")


def run_full(release: str, ops: int, seed: int, fields: list[str], json: bool) -> None:
    """`seqfault locks --release`."""
    from seqfault.live.locks import check_full

    try:
        number = release_number(release)
    except ValueError as e:
        raise BadInput(str(e)) from None
    t0 = time.perf_counter()
    f = check_full(number, ops, seed)
    known(f.discipline, fields)
    r = LockReport(f"Linux {release}", f.discipline, scenarios=0, transitions=f.operations)
    r.observed = [
        Observed(k.field, k.write, said(frozenset(k.words)), k.function, k.file, k.line, k.judgement, n, "")
        for k, n in f.seen.items()
    ]
    r.nesting = [Nesting(h, t, "", "", f.discipline.order.allows(h, t)) for h, t in sorted(f.nesting)]
    r.seconds = time.perf_counter() - t0
    show(r, json, fields, load("mmap-sem"), [])


def alternatives(rule: str) -> list[str]:
    return [" + ".join(part) for part in parse(rule)]


def count_line(label: str, what: str, n: int) -> str:
    """A label, what it says, and a number at the right edge."""
    left = f"  {label:<6} {what}"
    number = f"{n:,}" if n else "-"
    return f"{left} {number:>{WIDTH - 1 - len(left)}}" if len(left) + len(number) < WIDTH else f"{left} {number}"


def words(o: Observed) -> str:
    return " + ".join(o.words) or "none"


def exceptions_of(d: Discipline, name: str, write: bool) -> list[Exemption]:
    return [e for e in d.exceptions if name in e.fields and ("write" if write else "read") in e.access]


def row_lines(r: LockReport, row: Row) -> list[str]:
    """A field's rules, and how often each was what made an access right."""
    out = [row.field]
    for write, rule in ((False, row.read), (True, row.write)):
        label = "write" if write else "read"
        for alternative in alternatives(rule):
            out.append(count_line(label, alternative, r.count(row.field, write, rule=alternative)))
            label = ""
        for e in exceptions_of(r.discipline, row.field, write):
            n = r.count(row.field, write, exception=e.name)
            if n:
                out.append(count_line("", f"{e.name}, an exception", n))
        wrong = sum(o.count for o in r.wrong if (o.field, o.write) == (row.field, write))
        if wrong:
            out.append(count_line("", "*** without these locks ***", wrong))
    return out


def wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def field_lines(r: LockReport, row: Row) -> list[str]:
    """A field with every kind of access to it: which locks were held, where, how often."""
    out = row_lines(r, row)
    out += wrapped(f"Source: {row.source}.", "  ")
    if row.note:
        out += wrapped(row.note, "  ")
    for write in (False, True):
        groups: dict[tuple[str, bool], dict[str, int]] = {}
        for o in r.observed:
            if (o.field, o.write) == (row.field, write):
                by = groups.setdefault((words(o), o.judgement.right), {})
                by[o.function] = by.get(o.function, 0) + o.count
        for (what, right), by in sorted(groups.items(), key=lambda g: -sum(g[1].values())):
            out += wrapped(
                f"{'written' if write else 'read'} with {what}" + ("" if right else " *** against the table"), "  "
            )
            out += wrapped(", ".join(f"{fn} {n:,}" for fn, n in sorted(by.items(), key=lambda x: -x[1])), "      ")
    return out


def wrong_lines(r: LockReport, p: Protocol, scenarios: dict[str, Scenario], shown: int) -> list[str]:
    """What is not as the table says, by field and function: writes first, then the most frequent."""
    if not r.wrong:
        return []
    groups: dict[tuple[str, bool, str], list[Observed]] = {}
    for o in r.wrong:
        groups.setdefault((o.field, o.write, o.function), []).append(o)
    ranked = sorted(groups.values(), key=lambda g: (not g[0].write, -sum(o.count for o in g)))
    out = ["Not as the table says:"]
    for g in ranked[:shown]:
        o = min(g, key=lambda x: (len(x.schedule), -x.count))
        n = sum(x.count for x in g)
        out += wrapped(f"{'write' if o.write else 'read'} {o.field} in {o.function} ({o.file}:{o.line})", "  ")
        out += wrapped(f"{n:,} time{'s' * (n > 1)}, e.g. with {words(o)}", "      ")
        if o.scenario in scenarios and o.schedule:
            out.append(f"      seqfault replay '{encode_schedule(p, scenarios[o.scenario], o.schedule)}'")
    if len(ranked) > shown:
        out.append(f"  and {len(ranked) - shown} more; --json has them all")
    return [*out, ""]


def lines(r: LockReport, p: Protocol, scenarios: Sequence[Scenario], fields: Sequence[str]) -> Iterable[str]:
    """`seqfault locks`.  `fields`: only these, with every kind of access (none: all, summed up)."""
    by_name = {s.name: s for s in scenarios}
    if fields:
        for name in fields:
            yield from field_lines(r, r.discipline.row(name))
        return
    for row in r.discipline.rows:
        yield from row_lines(r, row)
    used = r.used()
    yield ""
    yield "Exceptions:"
    for e in r.discipline.exceptions:
        yield from wrapped(f"{e.name} ({used[e.name]:,}): {e.why}", "  ")
    yield ""
    yield "Locks, in the order in which they are taken:"
    for line in r.discipline.order.tree():
        yield f"  {line}"
    for n in r.inversions:
        where = f" in {n.where}, {n.scenario}" if n.where else ""
        yield from wrapped(f"not in this order: {n.taken} under {n.held}{where}", "  ")
    yield ""
    yield from wrong_lines(r, p, by_name, SHOWN)
    yield f"{r.protocol} and the table of locks: {r.verdict}"
    if r.scenarios:
        yield f"  {r.scenarios:,} scenario{'s' * (r.scenarios != 1)}, {r.transitions:,} transitions, {r.seconds:.1f} s"
    else:
        yield f"  {r.transitions:,} operations, {r.seconds:.1f} s"
    if r.reason:
        yield f"  incomplete: {r.reason}"
    total = sum(o.count for o in r.observed)
    excepted = sum(used.values())
    wrong = sum(o.count for o in r.wrong)
    yield f"  {total:,} accesses: {total - excepted - wrong:,} by rule, {excepted:,} by exception, {wrong:,} by neither"
    yield f"  {len(r.nesting)} nestings of locks, {len(r.inversions)} against the order"
    unused = [e.name for e in r.discipline.exceptions if not used[e.name]]
    if unused:
        yield from wrapped(f"exceptions that nothing needed: {', '.join(unused)}", "  ")
    if r.untouched():
        yield from wrapped(f"fields that nothing touched: {', '.join(r.untouched())}", "  ")


def order_json(o: Order) -> dict[str, Any]:
    return {"lock": o.name, "inner": [order_json(x) for x in o.inner]}


def as_json(r: LockReport, p: Protocol, scenarios: Sequence[Scenario], fields: Sequence[str]) -> dict[str, Any]:
    """The JSON of `locks`; documented in docs/json.md."""
    by_name = {s.name: s for s in scenarios}
    used = r.used()
    rows = []
    for row in r.discipline.rows:
        if fields and row.field not in fields:
            continue
        seen = [
            {
                "access": "write" if o.write else "read",
                "held": list(o.words),
                "function": o.function,
                "file": o.file,
                "line": o.line,
                "count": o.count,
                "rule": o.judgement.rule,
                "exception": o.judgement.exception,
                "right": o.judgement.right,
                "scenario": o.scenario,
                "schedule": encode_schedule(p, by_name[o.scenario], o.schedule) if o.schedule else "",
            }
            for o in r.observed
            if o.field == row.field
        ]
        rows.append({**asdict(row), "observed": seen})
    return {
        "protocol": r.protocol,
        "verdict": r.verdict,
        "reason": r.reason,
        "scenarios": r.scenarios,
        "transitions": r.transitions,
        "fields": rows,
        "exceptions": [{**asdict(e), "count": used[e.name]} for e in r.discipline.exceptions],
        "order": order_json(r.discipline.order),
        "nestings": [asdict(n) for n in r.nesting],
        "untouched": r.untouched(),
    }


# -- docs/locks.md
HEAD = """\
# Which lock protects which field

<!-- made by `seqfault locks --markdown`; a test holds it equal to mm/locks.py and mm/locks_full.py -->

Linux 4.12. `seqfault locks` explores every interleaving of the scenarios and holds each access to one of these fields
against this table: which locks the process held at that moment, of that very object. An access is right when it has
all that one alternative of its rule asks for, or when an exception below names it. What no access needed is told too.
(`mmap_sem` is `mmap_lock` from 5.8 on.)

    seqfault locks                                     the table, and how often each rule was kept
    seqfault locks --field vm_area_struct.vm_start     who reads and writes it, with which locks
    seqfault locks --protocol spf-v5 -s argued         another protocol; exit code 1 if it does otherwise
    seqfault locks --release 6.18                      random programs on the whole text (fork, mremap, ...)

A protocol may add rows and exceptions (protocols/spf_locks.py: what RFC v5 wants writers to do, and lets a fault do).
What it does beyond those is reported, with a schedule that shows it.
"""
FULL_HEAD = """\
## The rest of the text
What only sequential programs reach (`run` on the whole text, `AddressSpace`, `fuzz`, replay of recordings). There is
one CPU, so the order of accesses proves nothing; the locks that are held at each are those of Linux all the same,
but for the exceptions.
"""


def markdown(d: Discipline, rest: Discipline) -> str:
    """The document: the table, the exceptions, the order; then what `rest` adds."""
    out = [HEAD, *table(d.rows), "", "A lock is an object of its own and has no row."]
    out += [f"`{name}` has none either: {why}." for name, why in NOT_SHARED.items()]
    out += ["", "## Words", "| | |", "|---|---|"]
    out += [f"| `{x.name}` | {x.what} |" for x in LOCKS]
    out += [f"| `{w}` | {what} |" for w, what in WORDS.items()]
    out += ["", "## Exceptions", *exceptions(d.exceptions), ""]
    out += [
        "## Order",
        "A lock is taken only under those that it stands below; every nesting that exploration meets is held against",
        "this. Locks side by side are never held together.",
        "",
        *(f"    {line}" for line in d.order.tree()),
        "",
        FULL_HEAD,
        *table(r for r in rest.rows if r not in d.rows),
        "",
        *exceptions(e for e in rest.exceptions if e not in d.exceptions),
        "",
        "Fork holds mmap_sem of two processes, the child's (`/1`) under the parent's.",
        "",
    ]
    return "\n".join(out)


def table(rows: Iterable[Row]) -> list[str]:
    rows = list(rows)
    out = ["| field | to read | to write | source |", "|---|---|---|---|"]
    out += [f"| `{r.field}` | {rule_text(r.read)} | {rule_text(r.write)} | {r.source} |" for r in rows]
    return [*out, "", *(f"- `{r.field}`: {r.note}" for r in rows if r.note)]


def exceptions(found: Iterable[Exemption]) -> list[str]:
    out = ["| name | what | by | with | why | source |", "|---|---|---|---|---|---|"]
    for e in found:
        what = ", ".join(f"`{f}`" for f in e.fields)
        by = ", ".join(f"`{f}`" for f in e.functions)
        out.append(f"| {e.name} | {e.access} {what} | {by} | {rule_text(e.needs)} | {e.why} | {e.source} |")
    return out


def rule_text(rule: str) -> str:
    return ", or ".join(f"`{x}`" if x != "none" else "nothing" for x in alternatives(rule))


__all__ = ["as_json", "lines", "markdown", "run_locks"]
