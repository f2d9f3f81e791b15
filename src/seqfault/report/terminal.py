"""Results as text for a terminal of 80 columns."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from seqfault.explore.check import HOLDS, INCOMPLETE, VIOLATED, Report, Violation
from seqfault.explore.model import automaton_for
from seqfault.explore.racecheck import by_field, grouped
from seqfault.explore.racewatch import Point
from seqfault.kernel.places import Protocol
from seqfault.report.counterexample import encode_schedule, from_violation
from seqfault.report.late import LEGEND, MARK, but_for, passed_over
from seqfault.report.matrix import family, matrix
from seqfault.scenarios.model import Scenario

LOCATIONS_SHOWN = 8
WIDTH = 80


def automata(c: Console, p: Protocol, scenarios: list[Scenario]) -> None:
    """`check -v`: what was compiled."""
    seen: set[int] = set()
    for s in scenarios:
        a = automaton_for(p, s)
        if id(a) in seen:
            continue
        seen.add(id(a))
        how = "from the cache" if a.cached else f"compiled in {a.compile_s:.2f} s"
        mem = min((x.base for x in a.processes), default=a.nw)
        c.print(
            f"{p.name}, {sum(x.role == 0 for x in a.processes)} CPUs: {a.locations:,} locations, "
            f"{a.nw * 64:,} state bits ({mem * 64:,} memory, {(a.nw - mem) * 64:,} processes), {how}",
            markup=False,
        )
        for name, bits in list(a.wide_registers)[:LOCATIONS_SHOWN]:
            c.print(f"  {bits} bits for {name}: annotate it with its range", markup=False)


def headline(v: Violation) -> str:
    where = f" in {v.function}" if v.function else ""
    line = f" ({v.file}:{v.line})" if v.file else ""
    obj = f" of {v.object}" if v.object else ""
    return f"{v.kind}{obj}{where}{line}"


def report(
    c: Console,
    r: Report,
    p: Protocol,
    scenarios: list[Scenario],
    verbose: bool,
    examples: int,
    races: bool = False,
    every: bool = False,
) -> None:
    """The result of `seqfault check`; with `races`, the data races too; `every`: each place where load buffering was
    passed over."""
    by_name = {s.name: s for s in scenarios}
    if verbose:
        for s in r.scenarios:
            c.print(f"  {s.name:<44} {s.verdict:<10} {s.states:>9,} states {s.seconds:6.2f} s", markup=False)
    distinct = r.distinct()
    own = [(v, ss) for v, ss in distinct if not v.baseline]
    shared = [(v, ss) for v, ss in distinct if v.baseline]
    for v, ss in own[:examples]:
        if v.schedule:
            cx = from_violation(p, by_name[ss[0].name], v, shrink=True)
            for line in cx.lines(width=max(60, min(c.width, 120))):
                c.print(line, markup=False)
            c.print()
    if own:
        c.print(f"{len(own)} distinct violation{'s' * (len(own) > 1)}:")
        for v, ss in own:
            c.print(f"  {len(ss):>4} scenario{'s' if len(ss) > 1 else ' '}  {headline(v)}", markup=False)
            if v.detail:
                c.print(f"                  {v.detail}", markup=False)
            c.print(f"                  e.g. {ss[0].name}", markup=False)
    if shared:
        c.print("Shown by mmap-sem as well:")
        for v, ss in shared:
            c.print(f"  {len(ss):>4} scenarios  {headline(v)}", markup=False)
    if races:
        for line in race_lines(r, p, by_name):
            c.print(line, markup=False)
    counts = Counter(s.verdict for s in r.scenarios)
    families = len({family(s.name) for s in r.scenarios})
    states = sum(s.states for s in r.scenarios)
    transitions = sum(s.transitions for s in r.scenarios)
    c.print(
        f"{p.name} under {r.memory}: {r.verdict}{but_for(r.scenarios) if r.verdict == HOLDS else ''} "
        f"({len(r.scenarios)} scenario{'s' if len(r.scenarios) != 1 else ''} "
        f"of {families} famil{'ies' if families > 1 else 'y'}: "
        + ", ".join(f"{n} {k}" for k, n in ((k, counts.get(k, 0)) for k in (HOLDS, VIOLATED, INCOMPLETE)) if n)
        + ")",
        markup=False,
    )
    c.print(f"  {states:,} states, {transitions:,} transitions, {r.seconds:.1f} s", markup=False)
    for reason, n in Counter(s.reason for s in r.scenarios if s.reason).items():
        c.print(f"  {n} scenario{'s' if n > 1 else ''} incomplete: {reason}", markup=False)
    over = passed_over(r, p, scenarios)
    for line in over.lines(every or verbose) if over else ():
        c.print(line, markup=False)
    if p.speculative:
        n = r.speculative_successes
        if n:
            vain = sum(1 for s in r.scenarios if not s.speculative_successes)
            c.print(
                f"  speculation succeeded in {len(r.scenarios) - vain} of {len(r.scenarios)} scenarios", markup=False
            )
        else:
            c.print("  vacuous: speculation never succeeded, so this says nothing about it")
    if verbose:
        total: Counter[str] = Counter()
        for s in r.scenarios:
            total.update(s.counters)
        for k, n in sorted(total.items()):
            c.print(f"  {n:>12,}  {k}", markup=False)


def race_lines(r: Report, p: Protocol, by_name: dict[str, Scenario]) -> list[str]:
    """The data races, by field: the statements, and a schedule that ends with the two accesses."""
    groups = grouped(r.scenarios)
    if not groups:
        unseen = any(s.reason for s in r.scenarios)
        return ["No data race in what was explored." if unseen else "No data race."]
    at_once = all(not g.example.made for g in groups)
    what = "data-race: a plain access, and a store, at once"
    if not at_once:
        what = "a plain access and a store, at once or unordered"
    some = f"{len(groups)} data race{'s' * (len(groups) > 1)} of {len(by_field(groups))} field"
    out = [f"{some}{'s' * (len(by_field(groups)) > 1)} ({what}):"]
    for name, rows in by_field(groups).items():
        out.append(f"  {name}")
        last = None
        for g in rows:
            one, two = g.example.points
            if one != last:
                out += access_lines(4, one)
            last = one
            n = len(g.scenarios)
            out += access_lines(6, two, f", {n} scenario{'s' * (n > 1)}")
            x = g.example
            if x.made:
                before = "one store was made before the other" if one.write else "the store was made before"
                out.append(f"        {before}: nothing orders them")
            out.append(f"        {encode_schedule(p, by_name[g.scenario], x.schedule, x.memory)}")
    return out


def access_lines(indent: int, x: Point, more: str = "") -> list[str]:
    """One of two accesses that race: how, the statement, who called its function."""
    line = f"{' ' * indent}{x.how} {'store' if x.write else 'load'} in {x.function} ({x.file}:{x.line})"
    caller = f" < {x.caller}" if x.caller else ""
    if not caller or len(line + caller + more) <= WIDTH:
        return [line + caller + more]
    return [line, f"{' ' * (indent + 2)}{caller}{more}"]


def show_matrix(c: Console, reports: list[Report]) -> None:
    """Families x memory models: the worst verdict of each, and how many scenarios have it."""
    t = Table(box=None, pad_edge=False)
    t.add_column("")
    for r in reports:
        t.add_column(r.memory)
    m = matrix(reports)
    for name, cells in [*((f["family"], f["cells"]) for f in m["families"]), ("all", m["total"])]:
        row = (cells[r.memory] for r in reports)
        t.add_row(
            name,
            *((v if (v := x["verdict"]) == HOLDS else f"{v} {x[v]}/{x['scenarios']}") + MARK * x["but"] for x in row),
        )
    c.print(t)
    if any(x["but"] for x in m["total"].values()):
        c.print(LEGEND, markup=False)


def schedule_of(p: Protocol, s: Scenario, v: Violation) -> str:
    return encode_schedule(p, s, v.schedule, v.memory, v.loop_from) if v.schedule else ""


def scenario_dict(s: Scenario) -> dict[str, Any]:
    return {
        "name": s.name,
        "prose": s.prose,
        "setup": [f"cpu{c}: {o.text()}" for c, o in s.setup],
        "cpus": [[o.text() for o in ops] for ops in s.cpus],
        "fail_allocations": s.fail_allocations,
        "fills": [f"cpu{c} {page}" for c, page in s.fills],
        "forever": list(s.forever),
        "expect": {k: list(v) for k, v in s.expect.items()},
    }


def listing(
    c: Console, protocols: list[Protocol], scenarios: list[Scenario], each: bool, apart: tuple[str, ...] = ()
) -> None:
    """`seqfault list`."""
    if not each:
        c.print("Protocols:")
        for p in protocols:
            c.print(f"  {p.name:<18} {p.title}", markup=False)
        c.print()
        c.print(f"Scenarios ({len(scenarios)}), by family:")
        count = Counter(family(s.name) for s in scenarios)
        expect = Counter(family(s.name) for s in scenarios if s.expect)
        for f, n in count.items():
            note = f", {expect[f]} with an expected verdict" if expect[f] else ""
            c.print(f"  {f:<18} {n:>4}{note}", markup=False)
        c.print()
        if apart:
            c.print(
                f"Run only when named: {', '.join(apart)} (what mmap-sem itself violates; what goes on for ever)",
                markup=False,
            )
        c.print("seqfault list 'case8/*' shows each scenario of a family.", markup=False)
        return
    for s in scenarios:
        c.print(s.name, markup=False)
        if s.prose:
            c.print(f"    {' '.join(s.prose.split())}", markup=False)
        if s.setup:
            c.print("    before: " + "; ".join(o.text() for _, o in s.setup), markup=False)
        for i, ops in enumerate(s.cpus):
            c.print(f"    CPU {i}: " + "; ".join(o.text() for o in ops), markup=False)
        if s.forever:
            c.print("    for ever: " + ", ".join(f"CPU {i}" for i in s.forever), markup=False)
        if s.fail_allocations:
            c.print(f"    allocations that may fail: {s.fail_allocations}")
        for name, kinds in s.expect.items():
            c.print(f"    expected of {name}: " + (", ".join(kinds) or "holds"), markup=False)
