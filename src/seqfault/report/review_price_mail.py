"""The prices of a review, in a mail: tables of at most 72 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seqfault.report import review_price as words
from seqfault.report.price import si
from seqfault.report.review_data import Comparison, Prices
from seqfault.report.review_mail import WIDTH, command, wrapped


def prices(p: Prices) -> list[str]:
    """The section."""
    out = ["## What it buys", ""]
    out += wrapped(
        "A prediction, not a measurement: the text that was explored ran again with one clock a CPU. Where such "
        f'predictions missed what was published: docs/validation.md, "{words.MISSES}". '
        "No lock: faults that took no mmap_sem, of those that tried."
    )
    out.append("")
    for c in p.compared:
        out += workload(c, words.machine_words(p))
    for t in p.traces:
        out += trace(t)
    for x in p.commands:
        out += command(x)
    return [*out, ""]


def workload(c: Comparison, machine: str) -> list[str]:
    alone = c.own is c.base
    out = [*wrapped(f"### {c.name}: {c.title}", rest="    "), "", *wrapped(f"{c.unit} a second on {machine}."), ""]
    head = ["CPUs", c.own["protocol"], "no lock"]
    if not alone:
        head = ["CPUs", c.base["protocol"], c.own["protocol"], "ratio", "no lock"]
    rows = []
    for own, base in c.rows:
        left = [str(own["cpus"]), *([] if alone else [si(base["rate"])]), si(own["rate"])]
        rows.append([*left, *([] if alone else [words.ratio(own["ratio"])]), words.share(own["speculative"])])
    out += [*grid(head, rows), ""]
    last = c.own["points"][-1]
    why = words.reasons(last)
    if why:
        out += [*wrapped(f"Back to mmap_sem on {last['cpus']} CPUs because of {why}."), ""]
    for x in c.notes:
        out += [*wrapped(x), ""]
    for m in c.misses:
        out += wrapped(f"- missed: {m.replace('**', '')}", rest="  ")
    return [*out, ""] if c.misses else out


def trace(t: dict[str, Any]) -> list[str]:
    out = [*wrapped(f"### {t['trace']}", rest="    "), "", *wrapped(words.about_trace(t))]
    out += [*wrapped(words.about_error(t)), ""]
    rows = [[r[0], r[1].replace(" s", ""), *r[2:5], r[6], r[9]] for r in words.designs(t)]
    out += [*grid(["design", "s", "speed", "no lock", "fault", "p99", "error"], rows), ""]
    for x in t["designs"]:
        if x["reasons"]:
            out += wrapped(f"- {x['name']}: back to mmap_lock because of {words.fell_back(x)}", rest="  ")
    out += [y for x in t["designs"] for said in words.told(x) for y in wrapped(f"- {x['name']}: {said}", rest="  ")]
    out += [y for k, v in t["left_out"].items() for y in wrapped(f"- left out: {v} {k}", rest="  ")]
    if t["lost"]:
        out += wrapped(f"- the recorder lost {t['lost']} records", rest="  ")
    return [*out, ""]


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; the first column is cut if all of them do not fit."""
    wide = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    wide[0] = max(4, min(wide[0], WIDTH - 4 - sum(wide[1:]) - 2 * (len(wide) - 1)))
    out = []
    for r in [head, *rows]:
        first = r[0] if len(r[0]) <= wide[0] else r[0][: wide[0] - 1] + "…"
        cells = "".join("  " + x.rjust(n) for x, n in zip(r[1:], wide[1:], strict=True))
        out.append(f"    {first.ljust(wide[0])}{cells}".rstrip())
    return out
