"""`seqfault fuzz`: what was compared, how often everything was hit, and each difference as programs."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from seqfault.cli import BadInput, dump
from seqfault.live.campaign import Campaign, Options, run_campaign
from seqfault.live.errors import KernelError
from seqfault.live.export import export_c, export_python, export_script
from seqfault.live.fuzz import (
    NOT_PROVOKED,
    Found,
    Tally,
    by_operation,
    errno_counts,
    explain,
    merge_counts,
    refusal_counts,
)
from seqfault.live.script import row_text
from seqfault.mm.fullsize import release_number
from seqfault.report.bars import WITH_WHAT
from seqfault.report.consoles import console, stderr_console

FOUND = Path("seqfault-found")
EXIT = {"same": 0, "different": 1, "incomplete": 3}
WHY_ENDED = {"time": "ended: its time is up", "interrupted": "interrupted"}  # and could go on


def options(
    ops: int,
    seed: int,
    seconds: float,
    jobs: int,
    release: str | None,
    kernel: str,
    first: int,
    sample: float,
    keep_going: int,
    program_ops: int,
    image: Path | None,
) -> Options:
    """The command's arguments as options.  Raises `BadInput`."""
    if kernel not in ("host", "debian-6.1"):
        raise BadInput(f"--kernel {kernel!r} is unknown; it is host (the running kernel) or debian-6.1")
    if not 0 <= sample <= 1:
        raise BadInput(f"--sample {sample} is no share; from 0 to 1")
    if image is not None and kernel == "host":
        raise BadInput("--image is for --kernel debian-6.1")
    name = release or ("6.1" if kernel == "debian-6.1" else platform.release())
    try:
        number = release_number(name)
    except ValueError as e:
        raise BadInput(f"--release: {e}") from None
    return Options(
        ops=ops, seed=seed, seconds=seconds, jobs=jobs, release=number, kernel=kernel, first=first, sample=sample,
        most=keep_going, program_ops=program_ops, image=str(image or ""),
    )  # fmt: skip


def verdict(c: Campaign) -> str:
    if not c.ok:
        return "different"
    return "incomplete" if c.ended in ("time", "interrupted") else "same"


def run_fuzz(o: Options, json: bool, out: Path | None) -> None:
    """`seqfault fuzz`."""
    usable(out or FOUND)
    err = stderr_console()
    try:
        with Progress(*WITH_WHAT, console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("fuzz", total=o.ops, what="")

            def note(t: Tally, what: str) -> None:
                rate = t.ops / max(0.1, bar.tasks[0].elapsed or 0.1)
                bar.update(task, completed=t.ops, what=what or f"{rate / 1e3:,.1f} k/s")

            c = run_campaign(o, note)
    except KernelError as e:
        raise BadInput(str(e)) from None
    files = write_all(c, out)
    if json:
        dump(as_json(c, files))
    else:
        print_report(c, files, console())
    raise typer.Exit(EXIT[verdict(c)])


def head(f: Found, c: Campaign) -> str:
    o = c.options
    about = [
        f"seed {o.seed}, program {f.program}, shrunk from {f.original} operations; release {o.release // 100}."
        f"{o.release % 100} against {o.kernel} {platform.release() if o.kernel == 'host' else ''}".rstrip(),
    ]
    return "\n".join(about + explain(f))


def programs_of(f: Found, c: Campaign) -> dict[str, str]:
    """The difference as programs: suffix of a file -> text."""
    g = c.options.geometry
    return {
        "txt": export_script(f.rows, head(f, c)),
        "c": export_c(f.rows, padded(f), f.process, g, head(f, c)),
        "py": export_python(f.rows, padded(f), f.process, g, head(f, c)),
    }


def padded(f: Found) -> list[Any]:
    """The model's records, one for each row (the last again where an oracle of the text ended it)."""
    records = list(f.model)
    while records and len(records) < len(f.rows):
        records.append(records[-1])
    return records


def usable(folder: Path) -> None:
    """Refuse, before anything is run, a folder that cannot be made.  Raises `BadInput`."""
    above = folder
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise BadInput(f"--out {folder}: {above} is no directory; name a folder that can be written")


def write_all(c: Campaign, out: Path | None) -> list[list[str]]:
    """Write each difference as three programs below `out`; their names.  Raises `BadInput`."""
    names: list[list[str]] = []
    if not c.tally.found:
        return names
    folder = out or FOUND
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for f in c.tally.found:
            mine = []
            for suffix, text in programs_of(f, c).items() if f.model else []:
                path = folder / f"seed{c.options.seed}-program{f.program}.{suffix}"
                path.write_text(text)
                mine.append(str(path))
            names.append(mine)
    except OSError as e:
        raise BadInput(f"--out {folder}: {e.strerror}; name a folder that can be written") from None
    return names


def never(c: Campaign) -> list[str]:
    """What was not hit, by name."""
    t = c.tally
    out = [f"operation {k}" for k, v in by_operation(t).items() if not v]
    out += [f"errno {k}" for k, v in errno_counts(t, c.known_errnos).items() if not v and k not in NOT_PROVOKED]
    out += [f"merge {k}" for k, v in merge_counts(t).items() if not v]
    out += [f"refusal: {k}" for k, v in refusal_counts(t, c.known_counters).items() if not v]
    return out


def as_json(c: Campaign, files: list[list[str]]) -> dict[str, Any]:
    """The JSON of fuzz; documented in docs/json.md."""
    t, o = c.tally, c.options
    return {
        "verdict": verdict(c),
        "ended": c.ended,
        "seed": o.seed,
        "release": f"{o.release // 100}.{o.release % 100}",
        "kernel": o.kernel,
        "operations": t.ops,
        "programs": t.programs,
        "seconds": round(t.seconds, 2),
        "operations_per_second": round(t.ops / t.seconds) if t.seconds else 0,
        "sampled": c.sampled,
        "plain_python": c.plain,
        "next": c.next,
        "results": by_operation(t),
        "errnos": errno_counts(t, c.known_errnos),
        "merges": merge_counts(t),
        "refusals": refusal_counts(t, c.known_counters),
        "never_hit": never(c),
        "unsaid": t.unsaid,
        "unstable": t.unstable,
        "disturbed": dict(t.disturbed),
        "controls": [{"name": a, "state": b, "why": w} for a, b, w in c.controls],
        "mismatches": [
            {"program": f.program, "operations": [row_text(r) for r in f.rows[1:]], "why": explain(f), "files": names}
            for f, names in zip(t.found, files, strict=True)
        ],
    }


def results_table(t: Tally) -> Table:
    table = Table(box=None, pad_edge=False, show_header=True, header_style="")
    table.add_column("operation")
    table.add_column("times", justify="right")
    table.add_column("results", overflow="fold")
    for name, results in by_operation(t).items():
        text = "  ".join(f"{k} {n:,}" for k, n in sorted(results.items(), key=lambda x: -x[1]))
        table.add_row(name, f"{sum(results.values()):,}", text or "never")
    return table


def print_report(c: Campaign, files: list[list[str]], con: Console) -> None:
    t, o = c.tally, c.options
    rate = t.ops / t.seconds if t.seconds else 0
    against = platform.release() if o.kernel == "host" else o.kernel
    text = f"text of {o.release // 100}.{o.release % 100} against {against}"
    con.print(
        f"{t.ops:,} operations of {t.programs:,} programs (seed {o.seed}), {text}: {len(t.found)} mismatches",
        markup=False,
    )
    where = f"model {t.model_seconds:,.1f} s, kernel {t.kernel_seconds:,.1f} s"
    plain = f"{c.sampled:,}: equal, cell by cell" if c.sampled else "none"
    if c.plain:
        plain = f"{c.sampled:,}: DIFFERENT"
    con.print(
        f"  {t.seconds:,.1f} s ({where}), {rate:,.0f} operations/s; plain Python repeated {plain}",
        markup=False,
    )
    for line in c.plain:
        con.print(f"  {line}", markup=False)
    wide = Console(width=min(con.width, 100), highlight=False, emoji=False, file=con.file)
    wide.print(results_table(t))
    errnos = errno_counts(t, c.known_errnos).items()
    con.print("errnos   " + "  ".join(f"{k} {v:,}" for k, v in errnos), markup=False)
    con.print("merges   " + "  ".join(f"{k} {v:,}" for k, v in merge_counts(t).items()), markup=False)
    refused = refusal_counts(t, c.known_counters).items()
    con.print("refused  " + "  ".join(f"{k} {v:,}" for k, v in refused), markup=False)
    if t.unsaid:
        con.print(f"results that the model cannot tell (addresses outside the window): {t.unsaid:,}", markup=False)
    for cause, n in t.disturbed.items():
        con.print(f"disturbed {n} times, and not again: {cause}", markup=False)
    for line in t.unstable:
        con.print(f"a second run did not show it: {line}", markup=False)
    for name, state, why in c.controls:
        con.print(f"{state:15} {name}: {why}", markup=False)
    for k in set(c.known_errnos) & set(NOT_PROVOKED):
        con.print(f"not provoked    {k}: {NOT_PROVOKED[k]}", markup=False)
    missing = never(c)
    for i in range(0, len(missing), 6):
        con.print("never hit: " + ", ".join(missing[i : i + 6]), markup=False)
    for f, names in zip(t.found, files, strict=True):
        con.print(f"\nmismatch in program {f.program}, shrunk from {f.original} operations to {len(f.rows) - 1}:")
        for r in f.rows[1:]:
            con.print(f"  {row_text(r)}", markup=False)
        for line in explain(f):
            con.print(line, markup=False)
        if names:
            con.print(f"run it: seqfault run {names[0]}; or {names[1]}, {names[2]}", markup=False)
    if c.ended in WHY_ENDED:
        con.print(f"{WHY_ENDED[c.ended]}; go on with --seed {o.seed} --from {c.next}", markup=False)
