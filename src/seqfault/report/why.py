"""`seqfault why`: which site is needed, for what; as text and as JSON."""

from __future__ import annotations

import fnmatch
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from seqfault.cli import BadInput, dump
from seqfault.compile.site_causes import DEAD as LEFT
from seqfault.compile.sites import INSTEAD, Site
from seqfault.explore import ahead, interrupt
from seqfault.explore.memory import SC
from seqfault.protocols import WITHOUT, load, with_sites
from seqfault.report.commands import models_named, select
from seqfault.report.consoles import console, stderr_console
from seqfault.report.counterexample import encode_schedule, from_violation
from seqfault.report.variant import comparison_json, headline, show_comparison, show_writers, writers_json
from seqfault.scenarios.model import Scenario
from seqfault.why.classify import DEAD, NECESSARY, REDUNDANT, UNDETERMINED, Finding, Study, question_of
from seqfault.why.compare import compare
from seqfault.why.invalid import causes_of
from seqfault.why.lab import Lab
from seqfault.why.witness import strongest, witness
from seqfault.why.work import Budget, Crew, Results
from seqfault.why.writers import OBSERVED_STATES, merged, observe

SHORT = {NECESSARY: "needed", REDUNDANT: "redundant", DEAD: "no effect", UNDETERMINED: "?"}
LABELS = 8  # operations and merge cases on a line, unless sites are named


def chosen(sites: Sequence[Site], patterns: Sequence[str], protocol: str) -> tuple[list[Site], list[tuple[str, ...]]]:
    """The sites that patterns name, and the sets that ``A+B`` names.  Raises `BadInput`."""
    names = [s.name for s in sites]

    def match(p: str) -> list[str]:
        hits = [n for n in names if n == p or fnmatch.fnmatchcase(n, p)]
        if not hits:
            import difflib

            near = difflib.get_close_matches(p, names, 3, 0.3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise BadInput(f"{p!r} is no site of {protocol}{hint} (seqfault why {protocol} --sites lists them)")
        return hits

    single: dict[str, None] = {}
    together = []
    for p in patterns:
        parts = [n for x in p.split("+") for n in match(x)]
        if "+" in p:
            together.append(tuple(dict.fromkeys(parts)))
        else:
            single.update(dict.fromkeys(parts))
    return [s for s in sites if s.name in single], together


def run_why(
    protocol: str,
    patterns: list[str],
    names: list[str],
    memory: str,
    json: bool,
    only_sites: bool,
    together: bool,
    pairs: bool,
    max_states: int,
    timeout: float | None,
    jobs: int,
    resume: Path | None,
    examples: int | None,
    variants: list[str],
    writers: str | None,
) -> None:
    """`seqfault why`."""
    p = load(protocol)
    if writers not in (None, "page-table"):
        raise BadInput(f"--writers {writers!r}: only page-table is known")
    if writers and p.processes:
        raise BadInput(f"--writers: {p.name} is a small model, which has no page tables")
    for v in variants:
        q = load(v)
        if not v.endswith(".toml") and q.processes != p.processes:
            raise BadInput(f"--variant {v}: no variant of {protocol}")
    if WITHOUT in protocol:
        raise BadInput(f"{protocol}: why takes sites out by itself; name the whole protocol")
    given = models_named(memory)
    models = sorted(given, key=lambda m: m != SC)
    scenarios = select(names, p)
    sites = Lab(protocol).sites(scenarios[0])
    mine, sets = chosen(sites, patterns, protocol) if patterns else (sites, [])
    if together and mine:
        sets = [*sets, tuple(s.name for s in mine if s.number)]
        mine = [] if patterns else mine
    if only_sites:
        list_sites(protocol, sites if not patterns else mine, json)
        return
    ahead.begin(models)
    t0 = time.perf_counter()
    err = stderr_console()
    told = TextColumn("{task.description}"), TextColumn("{task.fields[what]}")
    columns = (SpinnerColumn(), *told, TimeElapsedColumn())
    budget = Budget(max_states, None if timeout is None else t0 + timeout)
    try:
        results = Results(resume, protocol)
    except OSError as e:
        raise BadInput(f"--resume {resume}: {e.strerror}; name a file that can be written") from None
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar, interrupt.handled():
        task = bar.add_task(p.name, what="")

        def tick(states: int) -> None:
            bar.update(task, what=f"{states:,} states")

        crew = Crew(protocol, scenarios, jobs, results, budget, tick)
        study = Study(protocol, scenarios, sites, [s.name for s in mine], models, crew, max_states, together=sets)
        study.say = lambda text: bar.update(task, description=text)
        if patterns:
            study.small = max_states
        more: list[Any] = []
        try:
            if variants or writers:
                study.look_whole(SC, scenarios, [1000] * len(scenarios))
            if variants:
                for m in models:
                    few = {n for ns in study.for_weak([(s.name,) for s in sites]).values() for n in ns}
                    some = [s for s in scenarios if m == SC or s.name in few or p.processes]
                    study.look_whole(m, some, [8 * study.whole[SC][s.name].states for s in some])
                    more += [compare(study, v, m) for v in variants]
            elif writers:
                watched = [s for s in study.usable(SC) if study.whole[SC][s.name].states <= OBSERVED_STATES]
                parts = crew.each(observe, (protocol,), watched)
                more = [merged(w for w, _ in parts), sum(n for _, n in parts)]
                even = {n for w in more[0] for n in w.scenarios}
                study.scenarios = [s for s in watched if s.name in even]
                study.run(SC, [(n,) for n in study.asked])
            else:
                study.everything()
            if pairs and not patterns and not variants and not writers:
                study.run_pairs()
                study.run_minimal()
        except KeyboardInterrupt:
            pass
        finally:
            stopped = interrupt.asked()
            crew.close()
    if (variants or writers) and stopped:
        raise typer.Exit(3)
    if variants:
        if json:
            dump([comparison_json(study, x) for x in more])
        else:
            for x in more:
                show_comparison(console(), study, x)
        raise typer.Exit(3 if any(x.reasons for x in more) else 0)
    if writers:
        if json:
            dump(writers_json(study, *more))
        else:
            show_writers(console(), study, *more)
        raise typer.Exit(0)
    report = Answer(study, sites, time.perf_counter() - t0, stopped, resume)
    if json:
        dump(report.as_json())
    else:
        report.show(console(), len(patterns), 1 if examples is None and patterns else examples or 0)
    raise typer.Exit(3 if report.open() else 0)


def list_sites(protocol: str, sites: Sequence[Site], json: bool) -> None:
    """`seqfault why --sites`."""
    if json:
        dump([site_json(s) for s in sites])
        return
    c = console()
    for s in sites:
        if s.number:
            c.print(f"{s.name}\n    {s.file}:{s.line}  {s.text}", markup=False)
            c.print(f"    {s.kind}; without it: {INSTEAD[s.kind]}", markup=False)
    once = [s for s in sites if not s.number]
    if once:
        c.print(f"and {len(once)} READ_ONCE and WRITE_ONCE, which only data races could tell from plain accesses")


def site_json(s: Site) -> dict[str, Any]:
    return {
        "name": s.name, "kind": s.kind, "place": s.place, "function": s.function, "file": s.file, "line": s.line,
        "text": s.text, "object": s.object, "without": INSTEAD[s.kind],
    }  # fmt: skip


def causes(f: Finding) -> list[tuple[str, str, list[str], list[str]]]:
    """What shows without the sites, grouped by kind and object: the functions where, and the scenarios; the most
    frequent first."""
    groups: dict[tuple[str, str], tuple[list[str], dict[str, None]]] = {}
    for (kind, obj, fn), names in f.new.items():
        fns, where = groups.setdefault((kind, obj), ([], {}))
        fns += [fn] if fn else []
        where.update(dict.fromkeys(names))
    return sorted(
        ((k, o, fns, list(where)) for (k, o), (fns, where) in groups.items()), key=lambda x: (-len(x[3]), x[0], x[1])
    )


class Answer:
    """A finished `Study`, to be shown."""

    def __init__(self, study: Study, sites: Sequence[Site], seconds: float, stopped: bool, resume: Path | None):
        self.study, self.sites, self.seconds, self.stopped, self.resume = study, sites, seconds, stopped, resume
        self.kinds = {s.name: s.kind for s in sites}

    def findings(self, sites: tuple[str, ...]) -> list[Finding]:
        return [t[sites] for t in self.study.findings.values() if sites in t]

    def sets(self) -> list[tuple[str, ...]]:
        """What was taken out, in the order of the text."""
        return list(dict.fromkeys(k for t in self.study.findings.values() for k in t))

    def verdict(self, sites: tuple[str, ...]) -> str:
        """Over all memory models: necessary under any; else undetermined under any; else redundant if anything
        changes."""
        vs = [f.verdict for f in self.findings(sites)]
        return next((v for v in (NECESSARY, UNDETERMINED, REDUNDANT) if v in vs), DEAD)

    def open(self) -> bool:
        """Whether a site that some scenario comes to is undetermined."""
        fs = [f for s in self.sets() for f in self.findings(s) if self.verdict(s) == UNDETERMINED]
        return self.stopped or any(f.exercised for f in fs) or not self.sets()

    def schedule(self, f: Finding, found: tuple[Scenario, Any] | None) -> str:
        if found is None:
            return ""
        s, v = found
        return encode_schedule(with_sites(self.study.protocol, f.sites), s, v.schedule, v.memory)

    # -- text
    def show(self, c: Console, named: int, examples: int) -> None:
        st = self.study
        for sites in self.sets():
            if examples and self.verdict(sites) == NECESSARY:
                f = next(f for f in self.findings(sites) if f.verdict == NECESSARY)
                found = witness(st, f)
                if found is not None:
                    examples -= 1
                    cx = from_violation(with_sites(st.protocol, sites), *found, shrink=True)
                    for line in cx.lines(width=max(60, min(c.width, 120))):
                        c.print(line, markup=False)
                    c.print()
        for want in (NECESSARY, REDUNDANT, DEAD, UNDETERMINED):
            self.section(c, want, bool(named))
        self.show_pairs(c)
        self.show_causes(c, bool(named))
        n = len(st.usable(SC))
        models = ", ".join(st.memories)
        c.print(f"{st.protocol} under {models}: {len(self.sets())} sites, {n} scenarios", markup=False)
        if st.skipped:
            c.print(
                f"  {len(st.skipped)} scenarios left out, which have more than {st.max_states:,} states (--max-states)",
                markup=False,
            )
        for m in st.memories:
            if m != SC and m in st.whole and n > len(st.whole[m]):
                c.print(f"  {m}: {len(st.whole[m])} of these, of every operation that comes to a site", markup=False)
                c.print("     (what sc needs is not asked again: its executions are executions here too)")
        done = f"{st.crew.explorations:,} explorations, {st.crew.states:,} states"
        c.print(f"  {done}, {self.seconds:.1f} s", markup=False)
        if self.stopped:
            c.print("  interrupted" + (f"; go on with --resume {self.resume}" if self.resume else ""), markup=False)

    def section(self, c: Console, want: str, all_labels: bool) -> None:
        sets = [s for s in self.sets() if self.verdict(s) == want]
        once = [s for s in sets if all(self.kinds[n] == "once" for n in s)]
        sets = [s for s in sets if s not in once]
        if not sets and not once:
            return
        title = {
            NECESSARY: "Necessary: without it something shows that does not show with it",
            REDUNDANT: "Redundant within this bound: scenarios come to it, and nothing new shows without it",
            DEAD: "Changes nothing: without it as many states and steps, the same outcomes and events",
            UNDETERMINED: "Undetermined",
        }[want]
        c.print(f"{title} ({len(sets)}):")
        for s in sets:
            self.one(c, s, all_labels)
        if once:
            c.print(f"  {len(once)} READ_ONCE and WRITE_ONCE, which only data races could tell from plain accesses")
        c.print()

    def one(self, c: Console, sites: tuple[str, ...], all_labels: bool) -> None:
        fs = self.findings(sites)
        told = [f"{f.memory} {SHORT[f.verdict]}" + (f" ({f.explored})" if f.memory != SC else "") for f in fs]
        under = ", ".join(told) if len(self.study.memories) > 1 else ""
        kind = self.kinds[sites[0]] if len(sites) == 1 else f"{len(sites)} together"
        c.print(f"  {' + '.join(sites)}  [{kind}]" + (f"  {under}" if under else ""), markup=False)
        for f in fs:
            if len(fs) > 1 and f.new:
                c.print(f"      under {f.memory}:", markup=False)
            for k, o, fns, names in causes(f)[:3]:
                where = ", ".join(fns[:3]) + (", ..." if len(fns) > 3 else "")
                c.print(
                    f"      {len(names):>4} scenario{'s' if len(names) > 1 else ' '} {k}"
                    + (f" of {o}" if o else "") + (f" in {where}" if where else "") + f" ({question_of(k)})",
                    markup=False,
                )  # fmt: skip
            if f.new and not self.stopped:
                c.print(f"      seqfault replay '{self.schedule(f, witness(self.study, f))}'", markup=False)
            if f.verdict == UNDETERMINED or (f.verdict == DEAD and len(fs) == 1):
                c.print(f"      {f.reason}", markup=False)
        f = next((f for f in fs if f.verdict == NECESSARY), fs[0])
        if f.explored:
            for text in self.explain(f, all_labels):
                lines = textwrap.wrap(text, max(60, min(c.width, 120)) - 6, subsequent_indent="    ")
                for line in lines:
                    c.print(f"      {line}", markup=False)

    def explain(self, f: Finding, all_labels: bool) -> list[str]:
        """Which operations and merge cases need it, and what it costs the others."""
        most = 1000 if all_labels else LABELS

        def some(labels: list[str], text: dict[str, str]) -> str:
            shown = [text[x] for x in labels[:most]]
            return "; ".join(shown) + (f"; and {len(labels) - most} more" if len(labels) > most else "")

        out = []
        needed, spared = f.needed(), f.spared()
        if needed:
            text = {k: f"{k} ({n} of {total})" for k, (total, n) in f.labels.items()}
            out.append("needed in: " + some(sorted(needed, key=lambda k: -f.labels[k][1]), text))
        if spared:
            n = sum(f.labels[k][0] for k in spared)
            text = {k: f"{k} ({f.labels[k][0]})" for k in spared}
            where = some(sorted(spared, key=lambda k: -f.labels[k][0]), text)
            out.append(f"{'elsewhere' if needed else 'in'} {n} scenarios nothing goes wrong without it: {where}")
            more = [k for k in spared if f.retries[k][0] > f.retries[k][1]]
            if more:
                a, b = (sum(f.retries[k][i] for k in more) for i in (0, 1))
                out.append(f"there more faults give up: {a:,} steps with it, {b:,} without")
        return out

    def show_pairs(self, c: Console) -> None:
        st = self.study
        masked = [f for f in st.pairs if f.verdict == NECESSARY]
        if masked:
            c.print(f"Pairs of which neither is needed, but one of the two ({len(masked)} of {len(st.pairs)} pairs):")
            for f in masked:
                w = strongest(f)
                c.print(f"  {f.sites[0]} | {f.sites[1]}", markup=False)
                if w is not None:
                    c.print(f"      {headline(w)}, e.g. {f.new[w][0]}", markup=False)
            c.print()
        if st.minimal:
            c.print(f"One minimal set under {SC}: all but these {len(st.minimal)}, taken out together:")
            for n in st.minimal:
                c.print(f"  {n}", markup=False)
            c.print()

    def show_causes(self, c: Console, all_labels: bool) -> None:
        asked = {n for s in self.sets() for n in s}
        rows = [x for x in causes_of(self.study) if x.site == LEFT or x.site in asked]
        if not rows:
            return
        c.print("Faults that gave up because of a count, by the section that had moved it (steps of all scenarios):")
        c.print(f"  {'':<44} {'needed to':>10} {'for nothing':>12}")
        for x in rows:
            name = "(the VMA had left the tree)" if x.site == LEFT else x.site
            note = f"  not looked at: {x.open:,}" if x.open else ""
            c.print(f"  {name:<44} {x.right:>10,} {x.vain:>12,}{note}", markup=False)
            if all_labels:
                for label, (right, vain) in sorted(x.labels.items(), key=lambda kv: -sum(kv[1])):
                    c.print(f"      {label:<40} {right:>10,} {vain:>12,}", markup=False)
        c.print()

    # -- JSON
    def as_json(self) -> dict[str, Any]:
        """Documented in docs/json.md."""
        st = self.study
        known = {s.name: s for s in self.sites}
        return {
            "protocol": st.protocol,
            "memory": list(st.memories),
            "scenarios": len(st.usable(SC)),
            "left_out": st.skipped,
            "complete": not self.open(),
            "sites": [
                {
                    "sites": [site_json(known[n]) for n in sites],
                    "verdict": self.verdict(sites),
                    "models": [self.finding_json(f) for f in self.findings(sites)],
                }
                for sites in self.sets()
            ],
            "pairs": [self.finding_json(f) for f in st.pairs],
            "minimal_without": st.minimal,
            "gave_up": [
                {
                    "section": x.site, "needed": x.right, "for_nothing": x.vain, "not_looked_at": x.open,
                    "operations": {k: list(v) for k, v in x.labels.items()},
                }
                for x in causes_of(st)
            ],
            "explorations": st.crew.explorations,
            "states": st.crew.states,
        }  # fmt: skip

    def finding_json(self, f: Finding) -> dict[str, Any]:
        found = witness(self.study, f) if f.new and not self.stopped else None
        return {
            "without": list(f.sites),
            "memory": f.memory,
            "verdict": f.verdict,
            "reason": f.reason,
            "exercised": f.exercised,
            "explored": f.explored,
            "changed": f.changed,
            "violations": [
                {"kind": k, "object": o, "functions": fns, "question": question_of(k), "scenarios": names}
                for k, o, fns, names in causes(f)
            ],
            "operations": {
                k: {
                    "scenarios": n, "needed": bad,
                    "give_ups": list(f.retries.get(k, (0, 0))), "successes": list(f.successes.get(k, (0, 0))),
                }
                for k, (n, bad) in f.labels.items()
            },
            "counterexample": self.schedule(f, found),
        }  # fmt: skip
