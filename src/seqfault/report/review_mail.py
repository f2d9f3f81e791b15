"""A review as text for a mail to a list: Markdown, at most 72 columns, counterexamples as the terminal draws them."""

from __future__ import annotations

import re
import textwrap

from seqfault.explore.check import HOLDS, INCOMPLETE, VIOLATED
from seqfault.report.late import LEGEND, MARK
from seqfault.report.matrix import matrix
from seqfault.report.review_data import LIMITS, MEANING, Review, Table, facts, ordered, questions, shown
from seqfault.report.review_words import Section, document

WIDTH = 72
CELL = 20  # columns of a verdict in the matrix
MEMBERS_SHOWN = 6


def wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """Lines of at most WIDTH columns."""
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest,
        break_on_hyphens=False, break_long_words=True,
    )  # fmt: skip


def command(text: str) -> list[str]:
    """A command, indented; one that is too long goes on in the next line, as a shell reads it."""
    out: list[str] = []
    line = "   "
    for word in re.findall(r"'[^']*'|\S+", text):
        if len(line) + 1 + len(word) > WIDTH - 2 and line.strip():
            out.append(line + " \\")
            line = "       "
        line += " " + word
    out.append(line)
    return [piece for x in out for piece in cut(x)]


def cut(line: str) -> list[str]:
    """A line that is too long: pieces that a shell joins again, as a schedule has no place to break at."""
    out = []
    while len(line) > WIDTH:
        out.append(line[: WIDTH - 1] + "\\")
        line = line[WIDTH - 1 :]
    return [*out, line]


def mail(review: Review) -> str:
    """The whole text."""
    p, f = review.protocol, facts(review)
    out = [f"# {p.name}: {review.verdict}", ""]
    out += wrapped(f"{p.title}. Text of Linux {p.release}.")
    plural = "families" if f["families"] != 1 else "family"
    some = "scenario" if f["scenarios"] == 1 else "scenarios"
    counted = f"{f['scenarios']:,} {some} of {f['families']} {plural}, every interleaving under"
    out += wrapped(f"{counted} {', '.join(review.memories)}: {f['states']:,} states.")
    if f["speculative"]:
        said = ", ".join(f"{n:,} scenarios under {m}" for m, n in f["speculated"].items())
        if not any(f["speculated"].values()):
            said += ": vacuous, this says nothing about it"
        out += wrapped(f"Speculation succeeded in {said}.")
    out += ["", "## Verdicts", "", *verdicts(review), ""]
    for v in (VIOLATED, HOLDS, INCOMPLETE):
        out += wrapped(f"- {v}: {MEANING[v]}", rest="  ")
    for r in review.reports:
        for reason in sorted({s.reason for s in r.scenarios if s.reason}):
            out += wrapped(f"- incomplete under {r.memory}: {reason}", rest="  ")
    for m, over in review.over.items():
        out += ["", f"Under {m}:", "", *(y for x in over.lines() for y in wrapped(x, *indents(x)))]
    out += ["", "## Violations by root cause", ""]
    if not review.groups:
        out += ["None, in these scenarios and within these bounds."]
    for n in range(len(review.groups)):
        out += cause(review, n)
    out += table(review.sites, f"seqfault why {p.name}")
    if review.prices is not None:
        from seqfault.report.review_price_mail import prices  # which wraps its words as this file does

        out += prices(review.prices)
    answered = questions(p)
    if answered:
        out += ["## Questions of the review", ""]
        for q in answered:
            out += [*section(q), ""]
    out += ["## Bounds", ""]
    for s in document("fidelity"):
        if s.title == LIMITS[-1]:
            out += [*quoted(s.text), ""]
    out += wrapped("What is stubbed, different or not modelled: docs/fidelity.md, and the page of -o review.html.")
    out += ["", "## Reproduce", "", *command(review.command)]
    return "\n".join(out).rstrip() + "\n"


def verdicts(review: Review) -> list[str]:
    """The matrix: a line a family; models that do not fit side by side, one below the other."""
    m = matrix(review.reports, review.groups)
    rows = [(f["family"], f["cells"]) for f in m["families"]] + [("all", m["total"])]
    first = min(22, max(6, *(len(name) for name, _ in rows)))
    room = max(1, (WIDTH - 4 - first) // CELL)
    out: list[str] = []
    for i in range(0, len(review.memories), room):
        some = review.memories[i : i + room]
        out += [""] if out else []
        for name, cells in [("family", dict(zip(some, some, strict=True))), *rows]:
            words = (c if isinstance(c, str) else one(c) for c in (cells[x] for x in some))
            said = "".join("  " + w.ljust(CELL - 2) for w in words)
            out.append(f"    {name[:first].ljust(first)}{said}".rstrip())
    if m["total"] and any(c["but"] for c in m["total"].values()):
        out += ["", *wrapped(LEGEND, "    ")]
    return out


def one(c: dict[str, int | str]) -> str:
    n, mark = c["scenarios"], MARK if c["but"] else ""
    if c[VIOLATED]:
        return f"violated {c[VIOLATED]}/{n}{mark}"
    return (f"incomplete {c[INCOMPLETE]}/{n}" if c[INCOMPLETE] else f"holds {n}") + mark


def indents(line: str) -> tuple[str, str]:
    """Of a line, and of what is wrapped of it."""
    indent = " " * (len(line) - len(line.lstrip()))
    return indent, indent + "  "


def cause(review: Review, n: int) -> list[str]:
    """A root cause with its picture."""
    g = review.groups[n]
    out = wrapped(f"### {n + 1}. {g.cause.text()}", rest="    ")
    out.append("")
    counts = ", ".join(f"{k:,} scenario{'s' if k != 1 else ''} under {m}" for m, k in shown(g.shown).items())
    also = "mmap-sem shows it as well." if g.cause.baseline else "mmap-sem does not show it."
    out += wrapped(f"{counts}. {also}")
    members = ordered(g)
    if len(members) > 1:
        named = [f"{m.violation.function or 'at rest'}" for m in members]
        more = f" and {len(named) - MEMBERS_SHOWN} more" if len(named) > MEMBERS_SHOWN else ""
        out += wrapped(f"Seen in {', '.join(named[:MEMBERS_SHOWN])}{more}.")
    v = members[0].violation
    if v.detail:
        out += wrapped(v.detail)
    out.append("")
    picture = review.traces[n, 0].mail
    if picture:
        schedule = next((x for x in picture if x.startswith("replay: ")), "")
        drawn = [y for x in picture if x is not schedule for y in (wrapped(x) if len(x) > WIDTH else [x])]
        out += ["```", *drawn, "```", "", *command(schedule.removeprefix("replay: ")), ""]
    return out


def table(t: Table | None, usual: str) -> list[str]:
    """A table that another command made, a paragraph a row; without one, the command."""
    if t is None:
        return ["## Sites", "", "Which line is needed:", "", *command(usual), ""]
    out = [f"## {t.title}", ""]
    for row in t.rows:
        said = "; ".join(f"{c}: {x}" for c, x in zip(t.columns[1:], row[1:], strict=False) if x)
        out += wrapped(f"- {row[0]}: {said}" if said else f"- {row[0]}", rest="  ")
    return [*out, "", *command(t.command), ""]


def section(s: Section) -> list[str]:
    return [*wrapped(f"### {s.title}", rest="    "), "", *quoted(s.text)]


def quoted(text: str) -> list[str]:
    """A document's text in 72 columns: paragraphs are wrapped, code is cut."""
    out: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.split("\n")
        if lines[0].startswith("    "):
            for x in lines:
                whole = "seqfault " in x  # a command is not cut
                out += cut(x) if whole else [x if len(x) <= WIDTH else x[: WIDTH - 1] + "…"]
        elif lines[0].startswith("|"):
            rows = [[c.strip() for c in x.strip().strip("|").split("|")] for x in lines]
            for r in rows[2:]:
                out += wrapped("- " + ": ".join(c for c in r if c), rest="  ")
        else:
            out += wrapped(block)
        out.append("")
    return out[:-1]
