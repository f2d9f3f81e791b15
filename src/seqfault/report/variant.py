"""`seqfault why --variant` and `--writers`, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from seqfault.protocols import load
from seqfault.why.classify import NECESSARY, Study
from seqfault.why.compare import Comparison
from seqfault.why.lab import Shown
from seqfault.why.writers import OBSERVED_STATES, Writer

SHOWN = 12  # rows of a kind
TABLES = ("pte_table", "page", "mm_struct", "cpu_tlb")  # what a late fault would harm, with entries
STOPPED = 6  # sites that stop a late fault, the most frequent


def headline(w: Shown) -> str:
    kind, obj, fn = w
    return kind + (f" of {obj}" if obj else "") + (f" in {fn}" if fn else "")


def show_comparison(c: Console, study: Study, x: Comparison) -> None:
    """What a variant changes."""
    title = load(x.variant).title
    c.print(f"{x.variant}: {title}", markup=False)
    of = f"{x.scenarios} scenarios, of which {x.changed} differ"
    c.print(f"  against {study.protocol} under {x.memory}, {of}", markup=False)
    for what, table in (("shows now, and did not:", x.new), ("no longer shows:", x.gone)):
        if table:
            c.print(f"  {what}")
            for w, names in sorted(table.items(), key=lambda kv: -len(kv[1]))[:SHOWN]:
                c.print(f"    {len(names):>4} scenario{'s' if len(names) > 1 else ' '} {headline(w)}", markup=False)
                c.print(f"                   e.g. {names[0]}", markup=False)
    if not x.new and not x.gone:
        c.print("  shows the same violations, and no new outcome")
    rows = {k: r for k, r in x.rows.items() if r.new or r.gone or r.give_ups[0] != r.give_ups[1]}
    if rows:
        c.print(f"    {'':<28} {'scenarios':>9} {'new':>5} {'gone':>5}  {'faults give up':>21}  {'succeed':>19}")
        for k, r in sorted(rows.items(), key=lambda kv: (-kv[1].new, -kv[1].gone, kv[0])):
            ups, ok = (f"{a:,} -> {b:,}" for a, b in (r.give_ups, r.successes))
            c.print(f"    {k:<28} {r.scenarios:>9} {r.new:>5} {r.gone:>5}  {ups:>21}  {ok:>19}", markup=False)
    for reason in x.reasons[:3]:
        c.print(f"  incomplete: {reason}", markup=False)


def comparison_json(study: Study, x: Comparison) -> dict[str, Any]:
    def told(table: dict[Shown, list[str]]) -> list[dict[str, Any]]:
        return [{"kind": k, "object": o, "function": f, "scenarios": n} for (k, o, f), n in table.items()]

    return {
        "variant": x.variant, "protocol": study.protocol, "memory": x.memory, "scenarios": x.scenarios,
        "changed": x.changed, "new": told(x.new), "gone": told(x.gone), "incomplete": x.reasons,
        "operations": {k: asdict(r) for k, r in x.rows.items()},
    }  # fmt: skip


def guards_of(study: Study, w: Writer) -> list[tuple[str, int, str]]:
    """Sites that scenarios need in which a writer acts with no count odd: the site, in how many, what shows without."""
    mine = set(w.scenarios)
    out = []
    for f in next(iter(study.findings.values()), {}).values():
        hits: dict[str, int] = {}
        where = set()
        for (kind, obj, _), names in f.new.items():
            here = mine.intersection(names)
            if here and (obj in TABLES or kind.startswith("entry-")):
                where |= here
                hits[f"{kind} of {obj}" if obj else kind] = len(here)
        if where and f.verdict == NECESSARY:
            out.append((" + ".join(f.sites), len(where), max(hits, key=lambda k: (hits[k], k))))
    return sorted(out, key=lambda x: (-x[1], x[0]))


def show_writers(c: Console, study: Study, writers: Sequence[Writer], watched: int) -> None:
    """Every function that writes an entry or frees a table."""
    c.print(f"Who writes page tables in {study.protocol}: {watched} scenarios of at most {OBSERVED_STATES:,} states")
    what = ""
    for w in writers:
        if w.what != what:
            what = w.what
            c.print(f"{what}:{'':<{32 - len(what)}} {'a count odd':>12} {'none odd':>10}")
        name = w.function + (" (speculative)" if w.speculative else "")
        c.print(f"  {name:<31} {w.odd:>12,} {w.even:>10,}  {w.file}:{w.line}", markup=False)
        if not w.even:
            continue
        c.print(f"      then held each time: {' + '.join(w.held()) or 'nothing'}", markup=False)
        guards = guards_of(study, w)
        for site, n, shows in guards[:STOPPED]:
            c.print(f"      {n:>4} of {len(w.scenarios)} need {site}: else {shows}", markup=False)
        if not guards:
            c.print(f"      none of {len(w.scenarios)} scenarios needs any one site for its page tables")


def writers_json(study: Study, writers: Sequence[Writer], watched: int) -> dict[str, Any]:
    return {
        "protocol": study.protocol,
        "scenarios": watched,
        "writers": [
            {
                "what": w.what, "function": w.function, "file": w.file, "line": w.line, "speculative": w.speculative,
                "odd": w.odd, "even": w.even, "held": list(w.held()), "scenarios": w.scenarios,
                "needs": [{"site": s, "scenarios": n, "else": x} for s, n, x in guards_of(study, w)],
            }
            for w in writers
        ],
    }  # fmt: skip
